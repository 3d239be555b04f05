//! dRPC: remote calls on byte streams, compatible with `storj/drpc`.
//!
//! [`wire`] is the framing without a socket; [`Call`] is the client side, [`Answer`] the server side. There a byte
//! stream carries exactly one call, so the stream id of the frames is always 1. [`Calls`] serves a peer that makes
//! one call after another on the same byte stream, each with a higher id.

mod answer;
mod call;
mod calls;
mod channel;
pub mod wire;

use std::io;

pub use self::{
    answer::Answer,
    call::Call,
    calls::{Calls, Request},
    channel::Limits,
};

/// Code of an error which means that the peer has no such method: Go's clients stop asking when they see it.
///
/// # Source
/// storj/drpc `drpcerr/err.go`.
pub const UNIMPLEMENTED: u64 = 12;

/// Reasons why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// An error that the peer returned. The code is 0 unless the peer set one, such as [`UNIMPLEMENTED`].
    #[error("{message}")]
    Remote {
        /// Code of the peer's error.
        code: u64,
        /// Message of the peer.
        message: String,
    },
    /// A message that exceeds the peer's limit, and so was not sent.
    #[error("message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Size of the message in bytes.
        size: usize,
        /// Limit of the peer in bytes.
        limit: usize,
    },
    /// A transport that ended before the response was complete. The call may have been carried out.
    #[error("lost the stream of the call")]
    Lost(#[source] io::Error),
    /// An orderly end of the call by the peer, without a response.
    #[error("call ended without an answer")]
    NoAnswer,
    /// A peer that does not speak dRPC, or sent more than is allowed.
    #[error("peer broke the protocol")]
    Wire(#[from] wire::WireError),
    /// A response that is not the expected message.
    #[error("answer cannot be decoded")]
    Decode(#[from] prost::DecodeError),
}

#[cfg(test)]
mod tests;
