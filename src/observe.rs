//! Logging and build information.
