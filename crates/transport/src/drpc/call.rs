//! Client side of a call.

use std::{io, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{CallError, Limits, channel::Channel, wire::Kind};

/// Longest time for the end of a call that was answered: more than the peer gets for its part of it.
const END_TIMEOUT: Duration = Duration::from_secs(6);

/// A call in progress. Dropping it cancels it, which closing the stream tells the peer.
#[derive(Debug)]
pub struct Call<S> {
    channel: Channel<S>,
    has_ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Call<S> {
    /// Begins a call of `method`, such as `/provisionerd.ProvisionerDaemon/UpdateJob`.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn begin(stream: S, method: &str, limits: Limits) -> Result<Self, CallError> {
        let mut channel = Channel::new(stream, limits);
        channel.send(&[(Kind::Invoke, method.as_bytes())]).await?;
        Ok(Self {
            channel,
            has_ended: false,
        })
    }

    /// Makes a call with one message each way.
    ///
    /// # Errors
    /// [`CallError`]; nothing was sent after [`CallError::TooLarge`].
    pub async fn unary<Q, A>(
        stream: S,
        method: &str,
        request: &Q,
        limits: Limits,
    ) -> Result<A, CallError>
    where
        Q: Message,
        A: Message + Default,
    {
        let mut channel = Channel::new(stream, limits);
        let request = request.encode_to_vec();
        let packets = [
            (Kind::Invoke, method.as_bytes()),
            (Kind::Message, &request[..]),
            (Kind::CloseSend, &[]),
        ];
        channel.send(&packets).await?;
        let mut call = Self {
            channel,
            has_ended: false,
        };
        let answer = call.receive().await?.ok_or(CallError::NoAnswer)?;
        call.end().await;
        Ok(answer)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] or [`CallError::Lost`].
    pub async fn send(&mut self, message: &impl Message) -> Result<(), CallError> {
        self.channel
            .send(&[(Kind::Message, &message.encode_to_vec())])
            .await
    }

    /// Tells the peer that no more messages follow.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn close_send(&mut self) -> Result<(), CallError> {
        self.channel.send(&[(Kind::CloseSend, &[])]).await
    }

    /// Receives the next message; `None` when the peer has no more. Cancel-safe.
    ///
    /// # Errors
    /// [`CallError`]. The end of the stream before the end of the call counts as [`CallError::Lost`].
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, CallError> {
        if self.has_ended {
            return Ok(None);
        }
        loop {
            let Some(packet) = self.channel.receive().await? else {
                return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into()));
            };
            match packet.kind {
                Kind::Message => return Ok(Some(M::decode(packet.data)?)),
                Kind::Error => return Err(remote_error(&packet.data)),
                Kind::Close | Kind::CloseSend => {
                    self.has_ended = true;
                    return Ok(None);
                }
                Kind::Cancel => {
                    return Err(CallError::Remote {
                        code: 0,
                        message: "cancelled by the server".to_owned(),
                    });
                }
                Kind::Invoke | Kind::Metadata => {}
            }
        }
    }

    /// Ends a call that was answered, once the peer has ended its part: a Go server whose stream ends while its
    /// handler is still returning logs the call as cancelled. Takes a few seconds at most.
    pub async fn end(mut self) {
        let end = async {
            if !self.has_ended {
                self.channel.await_end().await;
            }
            // The answer has arrived, so it does not matter if the peer is gone by now.
            let _ = self.channel.send(&[(Kind::Close, &[])]).await;
            self.channel.shut_down().await;
        };
        let _ = timeout(END_TIMEOUT, end).await;
    }
}

fn remote_error(data: &[u8]) -> CallError {
    let (code, message) = data
        .split_first_chunk()
        .map_or((0, data), |(code, text)| (u64::from_be_bytes(*code), text));
    CallError::Remote {
        code,
        message: String::from_utf8_lossy(message).into_owned(),
    }
}
