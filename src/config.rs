//! Configuration from file, environment and flags.
