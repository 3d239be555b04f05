//! Frames on a stream of bytes.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::Frame;

/// What is read at a time, at least.
const READ_BYTES: usize = 4 << 10;

/// Reads frames.
pub(super) struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        let buffer = BytesMut::new();
        Self { io, buffer }
    }

    /// The next frame; `None` at an end between two. Safe to be dropped and begun again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let frame = Frame::decode(&mut self.buffer);
            if let Some(frame) = frame.map_err(|error| invalid(error.to_string()))? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
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
