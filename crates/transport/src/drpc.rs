//! dRPC: remote calls on byte streams, as `storj/drpc` speaks it.
//!
//! [`wire`] is the framing without a socket; [`Call`] is the side that asks, [`Answer`] the side that is asked.
//! There a byte stream carries exactly one call, so the stream id of the frames is always 1. [`Calls`] is asked by a
//! peer that makes one call after another on the same byte stream, each with a higher id.

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

/// The code of an error that says that the peer has no such method: Go's clients stop asking when they see it.
///
/// # Source
/// storj/drpc `drpcerr/err.go`.
pub const UNIMPLEMENTED: u64 = 12;

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer answered with an error. The code is 0 unless the peer set one, such as [`UNIMPLEMENTED`].
    #[error("{message}")]
    Remote {
        /// The peer's number for it.
        code: u64,
        /// The peer's words.
        message: String,
    },
    /// The message would not fit through the peer's limit, so it was not sent.
    #[error("message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// What it has, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// The transport ended before the answer was complete. The call may have been carried out.
    #[error("lost the stream of the call")]
    Lost(#[source] io::Error),
    /// The peer ended the call in an orderly way, without an answer.
    #[error("call ended without an answer")]
    NoAnswer,
    /// The peer does not speak dRPC, or sent more than is allowed.
    #[error("peer broke the protocol")]
    Wire(#[from] wire::WireError),
    /// The answer is not the message that it should be.
    #[error("answer cannot be decoded")]
    Decode(#[from] prost::DecodeError),
}

#[cfg(test)]
mod tests;
