//! WebSocket as a byte stream: binary messages, whose boundaries mean nothing.

mod connect;
mod unfinished;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

pub use self::{
    connect::{ConnectError, Socket, connect},
    unfinished::{Metered, UnfinishedLimit},
};

/// Largest message that we send, in bytes. Peers once had a limit of 256 KiB, and may have it again.
const MAX_SENT_BYTES: usize = 64 * 1024;

/// Largest message that we accept, in bytes; it is in memory until it is complete. Programs in Go write a yamux
/// frame's header and its body separately, and a body is no larger than yamux' window.
const MAX_RECEIVED_BYTES: usize = 256 * 1024 + 64;

/// Bytes that are read at a time. Each connection has a buffer of this size, which is wiped before each read.
const READ_BYTES: usize = 16 * 1024;

/// Returns the limits for a WebSocket that becomes a [`ByteStream`].
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .max_message_size(Some(MAX_RECEIVED_BYTES))
        .max_frame_size(Some(MAX_RECEIVED_BYTES))
        .write_buffer_size(MAX_SENT_BYTES)
        .max_write_buffer_size(4 * MAX_SENT_BYTES)
}

/// WebSocket that is read and written like a socket. A text message is an error; a close message is the end.
#[derive(Debug)]
pub struct ByteStream<S> {
    socket: WebSocketStream<S>,
    rest: Bytes,
    /// Close code for the end; `None` once it was sent.
    farewell: Option<CloseCode>,
    /// Meter of unfinished messages, if they are limited.
    meter: Option<unfinished::Meter>,
}

impl<S> ByteStream<S> {
    /// Wraps a WebSocket after its handshake. It ends with a normal closure, as a client's does.
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            rest: Bytes::new(),
            farewell: Some(CloseCode::Normal),
            meter: None,
        }
    }

    /// Sets the close code for the end, such as [`CloseCode::Away`] of a server that stops.
    #[must_use]
    pub fn ending_with(mut self, farewell: CloseCode) -> Self {
        self.farewell = Some(farewell);
        self
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream<Metered<S>> {
    /// Turns a connection into a WebSocket after its handshake. Messages over 16 KiB need a permit of each of
    /// `places`, in this order, until they are complete.
    pub async fn bounded(
        io: S,
        role: Role,
        places: impl IntoIterator<Item = UnfinishedLimit>,
    ) -> Self {
        let io = Metered::new(io, places);
        let meter = io.meter();
        let socket = WebSocketStream::from_raw_socket(io, role, Some(config())).await;
        Self {
            meter: Some(meter),
            ..Self::new(socket)
        }
    }
}

impl<S> ByteStream<S> {
    fn end_message(&self) {
        if let Some(meter) = &self.meter {
            meter.end_message();
        }
    }

    fn end_control(&self, bytes: usize) {
        if let Some(meter) = &self.meter {
            meter.end_control(bytes);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(data))) => {
                    self.rest = data;
                    self.end_message();
                }
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Ok(Message::Ping(data) | Message::Pong(data))) => {
                    self.end_control(data.len());
                }
                Some(Ok(Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return end_or_error(error),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ByteStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(into_io)?;
        let length = data.len().min(MAX_SENT_BYTES);
        let message = Message::Binary(Bytes::copy_from_slice(&data[..length]));
        Pin::new(&mut self.socket)
            .start_send(message)
            .map_err(into_io)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_flush(context)
            .map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(code) = self.farewell {
            ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(into_io)?;
            self.farewell = None;
            let reason = Utf8Bytes::default();
            let close = Message::Close(Some(CloseFrame { code, reason }));
            Pin::new(&mut self.socket)
                .start_send(close)
                .map_err(into_io)?;
        }
        // The peer's answer is not waited for: it may have none.
        Pin::new(&mut self.socket)
            .poll_flush(context)
            .map_err(into_io)
    }
}

fn end_or_error(error: Error) -> Poll<io::Result<()>> {
    let is_end = matches!(error, Error::ConnectionClosed | Error::AlreadyClosed);
    Poll::Ready(if is_end { Ok(()) } else { Err(into_io(error)) })
}

fn into_io(error: Error) -> io::Error {
    if let Error::Io(error) = error {
        error
    } else {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    async fn pair() -> (
        ByteStream<tokio::io::DuplexStream>,
        WebSocketStream<tokio::io::DuplexStream>,
    ) {
        let (near, far) = tokio::io::duplex(10_000);
        let near = WebSocketStream::from_raw_socket(near, Role::Client, Some(config())).await;
        let far = WebSocketStream::from_raw_socket(far, Role::Server, Some(config())).await;
        (ByteStream::new(near), far)
    }

    #[tokio::test]
    async fn bytes_cross_whatever_the_messages() {
        let (mut near, far) = pair().await;
        let mut far = ByteStream::new(far);
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();

        let writing = async {
            near.write_all(&sent).await.unwrap();
            near.flush().await.unwrap();
        };
        let mut received = vec![0; sent.len()];
        tokio::join!(writing, async {
            far.read_exact(&mut received).await.unwrap()
        });

        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn an_end_is_announced() {
        use futures::StreamExt;
        let (mut near, mut far) = pair().await;

        near.shutdown().await.unwrap();

        let close = far.next().await.unwrap().unwrap();
        let Message::Close(Some(frame)) = close else {
            panic!("{close:?}");
        };
        assert_eq!(frame.code, CloseCode::Normal);
    }

    #[tokio::test]
    async fn a_text_message_is_an_error() {
        use futures::SinkExt;
        let (mut near, mut far) = pair().await;

        far.send(Message::text("hello")).await.unwrap();

        assert_eq!(
            near.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[tokio::test]
    async fn a_close_is_the_end() {
        let (mut near, mut far) = pair().await;

        far.close(None).await.unwrap();

        assert_eq!(
            near.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
