//! Atomic writes, locks and archives.
