//! Provider packages that we present to an engine without a network.

pub mod builtin;
