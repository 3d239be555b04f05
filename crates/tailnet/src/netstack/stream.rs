//! Listeners and connections for the rest of the program.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{RecvError, Socket, State},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use super::Stack;

/// Listener for connections to a port.
pub struct Listener {
    pub(super) stack: Stack,
    pub(super) receiver: mpsc::Receiver<(SocketHandle, SocketAddrV6)>,
}

impl Listener {
    /// Returns the next connection and its peer; `None` if another listener has replaced this one.
    pub async fn accept(&mut self) -> Option<(Stream, SocketAddrV6)> {
        let (handle, peer) = self.receiver.recv().await?;
        Some((self.stream(handle, peer), peer))
    }

    fn stream(&self, handle: SocketHandle, peer: SocketAddrV6) -> Stream {
        Stream {
            stack: self.stack.clone(),
            peer: *peer.ip(),
            handle,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        while let Ok((handle, peer)) = self.receiver.try_recv() {
            drop(self.stream(handle, peer));
        }
    }
}

/// A connection in the overlay. Dropping it closes it in an orderly way.
pub struct Stream {
    pub(super) stack: Stack,
    pub(super) peer: Ipv6Addr,
    pub(super) handle: SocketHandle,
}

impl Stream {
    /// Returns a function that tells, even after the connection has ended, for how long the peer has left something
    /// unanswered; zero if it answers.
    pub fn silence(&self) -> impl Fn() -> Duration + Send + Sync + use<> {
        let (stack, peer) = (self.stack.clone(), self.peer);
        move || stack.silent_for(peer, tokio::time::Instant::now().into_std())
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Socket<'static>) -> T) -> T {
        let mut inner = self.stack.lock();
        let peer = inner.peers.get_mut(&self.peer);
        let peer = peer.expect("a peer stays while one of its connections is held");
        peer.is_dirty = true;
        act(peer.sockets.get_mut(self.handle))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let read = self.with(|socket| {
            if !socket.can_recv() && (socket.may_recv() || is_begun(socket)) {
                socket.register_recv_waker(context.waker());
                return Poll::Pending;
            }
            match socket.recv_slice(buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    Poll::Ready(Ok(()))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(())),
                Err(RecvError::InvalidState) => {
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
            }
        });
        if read.is_ready() {
            budget.made_progress();
            // The peer may send more now.
            self.stack.wake();
        }
        read
    }
}

pub(super) fn is_begun(socket: &Socket<'_>) -> bool {
    matches!(socket.state(), State::SynSent | State::SynReceived)
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let written = self.with(|socket| {
            if !socket.can_send() && (socket.may_send() || is_begun(socket)) {
                socket.register_send_waker(context.waker());
                return Poll::Pending;
            }
            let sent = socket.send_slice(data);
            Poll::Ready(sent.map_err(|_| io::ErrorKind::BrokenPipe.into()))
        });
        if written.is_ready() {
            budget.made_progress();
            self.stack.wake();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(Socket::close);
        self.stack.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.stack.lock();
        if let Some(peer) = inner.peers.get_mut(&self.peer) {
            peer.let_go(self.handle, tokio::time::Instant::now().into_std());
        }
        drop(inner);
        self.stack.wake();
    }
}
