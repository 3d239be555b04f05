//! DERP frames on a stream of bytes.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::{self, Frame};

/// Sizes of a read: small for a peer that sends little, and up to the large one the more it sends.
const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// Longest frame that counts as short, with its header.
const SHORT_BYTES: usize = 64;

/// Reader of frames that survives cancellation.
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    room: usize,
    count: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            room: READ_BYTES.0,
            count: 0,
        }
    }

    /// Returns the number of bytes that were read since the last call.
    pub(super) fn take_count(&mut self) -> usize {
        std::mem::take(&mut self.count)
    }

    /// Returns a frame that has already arrived, if there is one.
    pub(super) fn ready(&mut self) -> io::Result<Option<Frame>> {
        Frame::decode(&mut self.buffer).map_err(|error| invalid(error.to_string()))
    }

    /// Reads the next frame; `None` if the stream ends between two. Can be dropped and called again without losing
    /// data.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// Reads the next frame if it is short and wanted; one that is not stays unread, and this waits forever. Can be
    /// dropped like [`Self::next`].
    pub(super) async fn next_short(
        &mut self,
        is_wanted: fn(&Frame) -> bool,
    ) -> io::Result<Option<Frame>> {
        loop {
            let (length, here) = (frame::length(&self.buffer), self.buffer.len());
            if length > SHORT_BYTES {
                return std::future::pending().await;
            }
            if here >= length {
                let mut copy = BytesMut::from(&self.buffer[..length]);
                let frame = Frame::decode(&mut copy).map_err(|error| invalid(error.to_string()))?;
                match frame.filter(is_wanted) {
                    Some(frame) => {
                        self.buffer.advance(length);
                        return Ok(Some(frame));
                    }
                    None => return std::future::pending().await,
                }
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// Reads some bytes; returns `false` at the end of the stream.
    async fn read(&mut self) -> io::Result<bool> {
        self.buffer.reserve(self.room);
        let length = self.io.read_buf(&mut self.buffer).await?;
        if length == 0 {
            return match self.buffer.is_empty() {
                true => Ok(false),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        self.count += length;
        self.room = (2 * length).clamp(READ_BYTES.0, READ_BYTES.1);
        Ok(true)
    }
}

/// Writes one frame and flushes it.
pub(super) async fn write<W: AsyncWrite + Unpin>(io: &mut W, frame: &Frame) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    io.write_all(&bytes).await?;
    io.flush().await
}

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
