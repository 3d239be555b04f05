//! Frames on a stream of bytes.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::Frame;

/// What is read at a time: little from who says little, and the more the more comes.
const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// Reads frames.
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

    /// Bytes that were read since this was last asked.
    pub(super) fn take_count(&mut self) -> usize {
        std::mem::take(&mut self.count)
    }

    /// A frame that has come already.
    pub(super) fn ready(&mut self) -> io::Result<Option<Frame>> {
        Frame::decode(&mut self.buffer).map_err(|error| invalid(error.to_string()))
    }

    /// The next frame; `None` at an end between two. Safe to be dropped and begun again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(self.room);
            let length = self.io.read_buf(&mut self.buffer).await?;
            if length == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.count += length;
            self.room = (2 * length).clamp(READ_BYTES.0, READ_BYTES.1);
        }
    }
}

/// Writes one frame and lets it go.
pub(super) async fn write<W: AsyncWrite + Unpin>(io: &mut W, frame: &Frame) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    io.write_all(&bytes).await?;
    io.flush().await
}

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
