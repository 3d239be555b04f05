//! Atomic writes, locks and archives.

pub mod archive;
pub mod module_archive;
