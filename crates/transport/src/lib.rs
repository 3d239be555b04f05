//! Transport of jobs: Coder's wire protocol, and gRPC between our own parts.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod auth;

pub mod coder;
pub mod drpc;
mod file;
pub mod grpc;
pub mod yamux;

pub use self::file::{FileBuilder, pieces};
