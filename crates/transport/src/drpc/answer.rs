//! Server side of a call.

use std::sync::Arc;

use outpost_net::budget::Account;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    CallError, Limits, UNIMPLEMENTED,
    channel::Channel,
    wire::{self, Kind, WireError},
};

/// Number of fields in one message, with repeated ones counted one by one. Two bytes on the wire become fifty in
/// memory.
const MAX_FIELDS: usize = 1 << 16;

/// An incoming call of a peer.
#[derive(Debug)]
pub struct Answer<S> {
    channel: Channel<S>,
    method: String,
    /// Set once the caller has no more messages.
    has_ended: bool,
    /// Set once the caller has ended the stream.
    has_hung_up: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Answer<S> {
    /// Waits for the name of the method; `None` if the stream ends before that.
    ///
    /// # Errors
    /// [`CallError`] if the stream breaks or does not carry dRPC.
    pub async fn accept(stream: S, limits: Limits) -> Result<Option<Self>, CallError> {
        Self::accept_on(Channel::new(stream, limits)).await
    }

    /// Waits as [`Self::accept`] does; the memory for large messages is reserved from `account` before they are read.
    ///
    /// # Errors
    /// [`CallError`] if the stream breaks, does not carry dRPC, or needs more memory than the account may have.
    pub async fn accept_with_budget(
        stream: S,
        limits: Limits,
        account: Arc<Account>,
    ) -> Result<Option<Self>, CallError> {
        Self::accept_on(Channel::new(stream, limits).with_budget(account)).await
    }

    async fn accept_on(mut channel: Channel<S>) -> Result<Option<Self>, CallError> {
        while let Some(packet) = channel.receive().await? {
            if packet.kind == Kind::Invoke {
                let method = String::from_utf8_lossy(&packet.data).into_owned();
                return Ok(Some(Self {
                    channel,
                    method,
                    has_ended: false,
                    has_hung_up: false,
                }));
            }
        }
        Ok(None)
    }

    /// Name of the method, such as `/provisionerd.ProvisionerDaemon/UpdateJob`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Receives the next message of the caller; `None` if it has no more or has cancelled the call. Cancel-safe.
    ///
    /// # Errors
    /// [`CallError`] if the stream breaks or a message cannot be decoded.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, CallError> {
        while !self.has_ended {
            match self.channel.receive().await? {
                Some(packet) if packet.kind == Kind::Message => {
                    if wire::fields(&packet.data) > MAX_FIELDS {
                        return Err(WireError::TooManyFields { limit: MAX_FIELDS }.into());
                    }
                    return Ok(Some(M::decode(packet.data)?));
                }
                Some(packet) if packet.kind == Kind::Invoke || packet.kind == Kind::Metadata => {}
                Some(_) => self.has_ended = true,
                None => (self.has_ended, self.has_hung_up) = (true, true),
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

    /// Sends the last message of the response, and ends the call once the caller has.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] or [`CallError::Lost`].
    pub async fn reply(self, message: &impl Message) -> Result<(), CallError> {
        let message = message.encode_to_vec();
        self.finish(&[(Kind::Message, &message), (Kind::CloseSend, &[])])
            .await
    }

    /// Ends a response of any number of messages.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn end(self) -> Result<(), CallError> {
        self.finish(&[(Kind::Close, &[])]).await
    }

    /// Ends the call with an error of code 0; the caller sees only `message`.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn fail(self, message: &str) -> Result<(), CallError> {
        self.fail_with(0, message).await
    }

    /// Ends the call with [`UNIMPLEMENTED`] and the reference's text for an unknown method.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn unimplemented(self) -> Result<(), CallError> {
        // Clients without the code look for the words "protocol error" and "unknown rpc".
        let message = format!("protocol error: unknown rpc: {:?}", self.method);
        self.fail_with(UNIMPLEMENTED, &message).await
    }

    /// Ends the call with an error that callers recognize by its `code`.
    ///
    /// # Errors
    /// [`CallError::Lost`] if the stream is broken.
    pub async fn fail_with(self, code: u64, message: &str) -> Result<(), CallError> {
        let data = [&code.to_be_bytes(), message.as_bytes()].concat();
        self.finish(&[(Kind::Error, &data)]).await
    }

    async fn finish(mut self, packets: &[(Kind, &[u8])]) -> Result<(), CallError> {
        self.channel.send(packets).await?;
        if !self.has_hung_up {
            self.channel.await_hang_up().await;
        }
        self.channel.shut_down().await;
        Ok(())
    }
}
