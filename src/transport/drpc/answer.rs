//! The side that is asked.

use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CallError, Limits, channel::Channel, wire::Kind};

/// A call that somebody makes to us.
#[derive(Debug)]
pub struct Answer<S> {
    channel: Channel<S>,
    method: String,
    has_ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Answer<S> {
    /// Waits for the name of the method; `None` if the stream ends before there is one.
    ///
    /// # Errors
    /// [`CallError`] if the stream breaks or does not carry dRPC.
    pub async fn accept(stream: S, limits: Limits) -> Result<Option<Self>, CallError> {
        let mut channel = Channel::new(stream, limits);
        while let Some(packet) = channel.receive().await? {
            if packet.kind == Kind::Invoke {
                let method = String::from_utf8_lossy(&packet.data).into_owned();
                return Ok(Some(Self {
                    channel,
                    method,
                    has_ended: false,
                }));
            }
        }
        Ok(None)
    }

    /// The method's name, such as `/provisionerd.ProvisionerDaemon/UpdateJob`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The next message of the caller, `None` when it has no more or lost interest. Cancel-safe.
    ///
    /// # Errors
    /// [`CallError`] if the stream breaks or a message cannot be decoded.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, CallError> {
        while !self.has_ended {
            match self.channel.receive().await? {
                Some(packet) if packet.kind == Kind::Message => {
                    return Ok(Some(M::decode(packet.data)?));
                }
                Some(packet) if packet.kind == Kind::Invoke || packet.kind == Kind::Metadata => {}
                Some(_) | None => self.has_ended = true,
            }
        }
        Ok(None)
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

    /// Sends the only message of the answer, and ends it.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] or [`CallError::Lost`].
    pub async fn reply(mut self, message: &impl Message) -> Result<(), CallError> {
        let message = message.encode_to_vec();
        self.channel
            .send(&[(Kind::Message, &message), (Kind::CloseSend, &[])])
            .await?;
        self.channel.shut_down().await;
        Ok(())
    }

    /// Ends an answer of any number of messages.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn end(mut self) -> Result<(), CallError> {
        self.channel.send(&[(Kind::Close, &[])]).await?;
        self.channel.shut_down().await;
        Ok(())
    }

    /// Ends the answer with an error; the caller sees `message` and nothing else.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn fail(mut self, message: &str) -> Result<(), CallError> {
        let mut data = vec![0; 8];
        data.extend_from_slice(message.as_bytes());
        self.channel.send(&[(Kind::Error, &data)]).await?;
        self.channel.shut_down().await;
        Ok(())
    }
}
