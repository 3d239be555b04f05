//! Limits on unfinished messages: a WebSocket message is in memory until it is complete.
//!
//! Each connection has a small buffer anyway. One whose message outgrows that needs a permit from those of its sender and
//! from those of all; without these it is not read, so that its peer waits. A peer that has them and does not finish the
//! message in time is disconnected. Unlike a connection at a full listener (`listener/places.rs`), a message never
//! displaces another one: it waits.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::PollSemaphore;

use super::READ_BYTES;

/// Longest time for the rest of a message: one of 256 KiB on a link of 128 kbit/s takes half of it.
const TIME: Duration = Duration::from_secs(32);
/// Bytes of a control frame from a client in addition to its payload.
const CONTROL_BYTES: usize = 6;

/// Permits for messages that outgrow the buffers of their connections. Clones share them.
#[derive(Clone, Debug)]
pub struct UnfinishedLimit(Arc<Semaphore>);

impl UnfinishedLimit {
    /// Creates this many permits; each stands for 256 KiB.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }
}

/// Socket below a WebSocket, which records how much of a message it has read.
#[derive(Debug)]
pub struct Metered<S> {
    io: S,
    meter: Meter,
}

/// State of a connection that [`Metered`] shares with the reader of its messages.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Bytes since the last message was complete, accurate to one buffer.
    unfinished: usize,
    /// Permits in the order in which they are taken.
    places: Vec<PollSemaphore>,
    taken: Vec<OwnedSemaphorePermit>,
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Metered<S> {
    /// Takes a permit from each of `places`, in this order: those that many connections share come last.
    pub(super) fn new(io: S, places: impl IntoIterator<Item = UnfinishedLimit>) -> Self {
        let places = places.into_iter();
        let meter = Meter(Arc::new(Mutex::new(State {
            unfinished: 0,
            places: places.map(|places| PollSemaphore::new(places.0)).collect(),
            taken: Vec::new(),
            late: None,
        })));
        Self { io, meter }
    }

    pub(super) fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are consistent even after a panic, so a poisoned lock can be used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a message is complete.
    pub(super) fn end_message(&self) {
        let mut state = self.lock();
        state.unfinished = 0;
        state.taken.clear();
        state.late = None;
    }

    /// Records a control frame of this length, which may be inside of a message.
    pub(super) fn end_control(&self, bytes: usize) {
        let mut state = self.lock();
        state.unfinished = state.unfinished.saturating_sub(bytes + CONTROL_BYTES);
    }
}

impl State {
    /// Waits for permits if the message needs them, and fails once it takes too long.
    fn poll_places(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // This much fits into the connection's own buffer.
        if self.unfinished <= READ_BYTES {
            return Poll::Ready(Ok(()));
        }
        while let Some(next) = self.places.get_mut(self.taken.len()) {
            let Some(permit) = ready!(next.poll_acquire(context)) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            };
            self.taken.push(permit);
        }
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(TIME)));
        match late.as_mut().poll(context) {
            Poll::Ready(()) => {
                let why = format!("WebSocket message was not complete within {TIME:?}");
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
            }
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.meter.lock().poll_places(context))?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.meter.lock().unfinished += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::{
        super::{ByteStream, MAX_RECEIVED_BYTES},
        *,
    };

    const LARGE: usize = 100 << 10;

    /// Creates a server's end, and the byte stream of a peer.
    async fn pair(
        places: &[&UnfinishedLimit],
    ) -> (ByteStream<Metered<DuplexStream>>, DuplexStream) {
        let (near, far) = duplex(1 << 20);
        let places = places.iter().map(|&places| places.clone());
        (ByteStream::bounded(near, Role::Server, places).await, far)
    }

    /// Returns the header of a client's frame; with a mask of zeros the payload is unchanged.
    fn head(first: u8, length: usize) -> Vec<u8> {
        let mut head = vec![first, 0x80 | 127];
        head.extend((length as u64).to_be_bytes());
        head.extend([0; 4]);
        head
    }

    const BINARY: u8 = 0x82;
    const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

    /// Returns whether the peer's message is read to its end.
    fn reads(near: &mut ByteStream<Metered<DuplexStream>>) -> bool {
        let mut message = vec![0; LARGE];
        let read = near.read_exact(&mut message).now_or_never();
        read.is_some_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn large_messages_wait_for_a_place_and_small_ones_do_not() {
        let (own, all) = (UnfinishedLimit::new(2), UnfinishedLimit::new(1));
        let (mut one, mut first) = pair(&[&own, &all]).await;
        let (mut two, mut second) = pair(&[&own, &all]).await;
        let (mut three, mut third) = pair(&[&own, &all]).await;
        for far in [&mut first, &mut second] {
            far.write_all(&head(BINARY, LARGE)).await.unwrap();
            far.write_all(&[7; LARGE / 2]).await.unwrap();
        }

        assert!(!reads(&mut one));
        second.write_all(&[7; LARGE / 2]).await.unwrap();
        assert!(!reads(&mut two), "all places are taken");
        third.write_all(&head(BINARY, 4)).await.unwrap();
        third.write_all(b"well").await.unwrap();
        let mut small = [0; 4];
        three.read_exact(&mut small).await.unwrap();

        first.write_all(&[7; LARGE / 2]).await.unwrap();
        assert!(reads(&mut one));
        assert!(reads(&mut two));
        assert_eq!(
            (own.0.available_permits(), all.0.available_permits()),
            (2, 1)
        );
    }

    #[tokio::test]
    async fn a_peer_that_goes_gives_its_place_back() {
        let places = UnfinishedLimit::new(1);
        let (mut one, mut far) = pair(&[&places]).await;
        far.write_all(&head(BINARY, LARGE)).await.unwrap();
        far.write_all(&[7; LARGE / 2]).await.unwrap();
        assert!(!reads(&mut one));
        assert_eq!(places.0.available_permits(), 0);

        drop(one);

        assert_eq!(places.0.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_message_that_does_not_end_ends_its_connection() {
        let places = UnfinishedLimit::new(1);
        let (mut near, mut far) = pair(&[&places]).await;
        // A message in two fragments, with a control frame between them.
        far.write_all(&head(BINARY & 0x7f, LARGE / 2))
            .await
            .unwrap();
        far.write_all(&[7; LARGE / 2]).await.unwrap();
        far.write_all(&PING).await.unwrap();
        far.write_all(&head(0x80, LARGE)).await.unwrap();

        let ended = near.read_u8().await.unwrap_err();

        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        const { assert!(MAX_RECEIVED_BYTES > LARGE * 2) };
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_are_no_message() {
        let places = UnfinishedLimit::new(1);
        let (mut near, mut far) = pair(&[&places]).await;
        for _ in 0..10_000 {
            far.write_all(&PING).await.unwrap();
        }
        assert!(!reads(&mut near));

        assert_eq!(places.0.available_permits(), 1);
    }
}
