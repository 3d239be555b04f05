//! How jobs travel: in memory and over gRPC.

pub mod drpc;
pub mod yamux;
