//! How jobs travel: Coder's wire, and gRPC between our own parts.

pub mod coder;
pub mod drpc;
pub mod messages;
pub mod yamux;
