//! Server of a connection on which a peer makes several calls.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CallError, Limits, channel::Channel, wire::Kind};

/// Unary calls, made one after another on one connection.
#[derive(Debug)]
pub struct Calls<S> {
    channel: Channel<S>,
}

/// A call to be answered by [`Calls::reply`] or [`Calls::fail`].
#[derive(Debug)]
pub struct Request {
    /// Name of the method, such as `/coder.agentsocket.v1.AgentSocket/Ping`.
    pub method: String,
    /// Encoded message of the caller.
    pub message: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Calls<S> {
    /// Takes a connection before its first byte.
    pub fn new(stream: S, limits: Limits) -> Self {
        Self {
            channel: Channel::new(stream, limits),
        }
    }

    /// Waits for the next call, `None` once the peer has hung up. Skips calls that were cancelled before their message.
    ///
    /// # Errors
    /// [`CallError`] if the connection breaks or does not carry dRPC.
    pub async fn next(&mut self) -> Result<Option<Request>, CallError> {
        let mut invoked: Option<(u64, String)> = None;
        while let Some(packet) = self.channel.receive().await? {
            let stream = self.channel.stream();
            match packet.kind {
                Kind::Invoke => {
                    let method = String::from_utf8_lossy(&packet.data).into_owned();
                    invoked = Some((stream, method));
                }
                Kind::Message => {
                    // A message without its call belongs to one that was answered.
                    if let Some((_, method)) = invoked.take_if(|(of, _)| *of == stream) {
                        self.channel.turn_to(stream);
                        let message = packet.data;
                        return Ok(Some(Request { method, message }));
                    }
                }
                Kind::Error | Kind::Cancel | Kind::Close => invoked = None,
                Kind::CloseSend | Kind::Metadata => {}
            }
        }
        Ok(None)
    }

    /// Answers the last call with an encoded message.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] or [`CallError::Lost`].
    pub async fn reply(&mut self, message: &[u8]) -> Result<(), CallError> {
        let packets = [(Kind::Message, message), (Kind::CloseSend, &[])];
        self.channel.send(&packets).await
    }

    /// Answers the last call with an error; `code` is 0 unless callers tell errors apart by it.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the connection is broken.
    pub async fn fail(&mut self, code: u64, words: &str) -> Result<(), CallError> {
        let data = [&code.to_be_bytes(), words.as_bytes()].concat();
        self.channel.send(&[(Kind::Error, &data)]).await
    }
}
