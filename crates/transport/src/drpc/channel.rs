//! Packets over a byte stream, for either side of a call.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use outpost_net::budget::{Account, Reserved};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    CallError,
    wire::{Kind, Packet, Reader, Writer},
};

/// Bytes that are read from the stream at a time.
const READ_BYTES: usize = 8 * 1024;

/// Bytes of an unfinished packet that are not charged to the account.
const FREE_BYTES: usize = 16 * 1024;

/// Time that a peer has to end a call that is over; only a broken one needs more than a round trip.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits of what a side sends and accepts, in bytes of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Limit of sent packets: for longer ones the peer would silently end the stream.
    pub outbound_bytes: usize,
    /// Limit of received packets: a peer that exceeds it is disconnected.
    pub inbound_bytes: usize,
}

impl Limits {
    /// Limits for Coder, which accepts 4 MiB and sends without a limit; we accept 64 MiB.
    pub const CODER: Self = Self {
        outbound_bytes: 4 << 20,
        inbound_bytes: 64 << 20,
    };
}

#[derive(Debug)]
pub(super) struct Channel<S> {
    stream: S,
    limits: Limits,
    reader: Reader,
    writer: Writer,
    input: BytesMut,
    /// Account from which the memory for large packets is reserved.
    account: Option<Arc<Account>>,
    /// Reservation for the packet that is being received, until the next one begins.
    reserved: Option<Reserved>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    pub(super) fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            limits,
            reader: Reader::new(limits.inbound_bytes),
            writer: Writer::default(),
            input: BytesMut::new(),
            account: None,
            reserved: None,
        }
    }

    /// Reserves the memory for each large packet from `account`, before the rest of it is read.
    pub(super) fn with_budget(mut self, account: Arc<Account>) -> Self {
        self.account = Some(account);
        self
    }

    /// Sends packets in one write.
    pub(super) async fn send(&mut self, packets: &[(Kind, &[u8])]) -> Result<(), CallError> {
        let mut out = BytesMut::new();
        for (kind, data) in packets {
            if data.len() > self.limits.outbound_bytes {
                return Err(CallError::TooLarge {
                    size: data.len(),
                    limit: self.limits.outbound_bytes,
                });
            }
            self.writer.write(*kind, data, &mut out);
        }
        self.stream.write_all(&out).await.map_err(CallError::Lost)?;
        self.stream.flush().await.map_err(CallError::Lost)
    }

    /// Receives the next packet; `None` at the end of the stream. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<Option<Packet>, CallError> {
        if !self.reader.is_partial() {
            self.reserved = None;
        }
        loop {
            if let Some(packet) = self.reader.next_packet()? {
                return Ok(Some(packet));
            }
            self.pay().await?;
            self.input.reserve(READ_BYTES);
            let length = self
                .stream
                .read_buf(&mut self.input)
                .await
                .map_err(CallError::Lost)?;
            if length == 0 && self.reader.is_partial() {
                return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            if length == 0 {
                return Ok(None);
            }
            self.reader.push(&self.input.split());
        }
    }

    /// Waits until there is memory for the rest of the arriving packet, however large it becomes.
    async fn pay(&mut self) -> Result<(), CallError> {
        let is_free = self.reader.unfinished_bytes() <= FREE_BYTES;
        let Some(account) = self.account.as_ref() else {
            return Ok(());
        };
        if is_free || self.reserved.is_some() {
            return Ok(());
        }
        // The final size is not known before the last frame, so the whole limit is reserved.
        let reserved = account.reserve(self.limits.inbound_bytes).await;
        let crowded = |error| io::Error::new(io::ErrorKind::QuotaExceeded, error);
        self.reserved = Some(reserved.map_err(|error| CallError::Lost(crowded(error)))?);
        Ok(())
    }

    /// Waits, bounded, until the peer ends its half of the stream.
    ///
    /// Go's manager of a stream takes the end of the transport for a cancel, even while the caller is on its way out:
    /// neither the last message nor the caller's own Close is late enough for us to end the stream behind it.
    pub(super) async fn await_hang_up(&mut self) {
        self.skip_to(&[]).await;
    }

    /// Waits, bounded, until the peer has no more messages.
    pub(super) async fn await_end(&mut self) {
        self.skip_to(&[Kind::CloseSend, Kind::Close, Kind::Cancel, Kind::Error])
            .await;
    }

    async fn skip_to(&mut self, kinds: &[Kind]) {
        let come = async {
            while let Ok(Some(packet)) = self.receive().await
                && !kinds.contains(&packet.kind)
            {}
        };
        // A peer that does not end the call in time is not waited for.
        let _ = timeout(CLOSE_TIMEOUT, come).await;
    }

    /// Id of the stream of the last packet, in the numbering of a peer that makes calls one after another.
    pub(super) fn stream(&self) -> u64 {
        self.reader.stream()
    }

    /// Makes everything that is sent from now on part of the call on that stream.
    pub(super) fn turn_to(&mut self, stream: u64) {
        self.writer.turn_to(stream);
    }

    /// Ends our half of the stream.
    pub(super) async fn shut_down(&mut self) {
        // The peer may be gone already, and then the stream is as closed as it can be.
        let _ = self.stream.shutdown().await;
    }
}
