//! Time limit on a client that accepts none of the data sent to it.
//!
//! A timer that moves to an earlier time wakes a thread of the runtime. So this one is left alone whenever the client
//! accepts data, and only moves to a later time when the next wait begins.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Stream whose writes fail if the peer accepts nothing for too long.
pub(super) struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> WriteTimeout<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            timer: Box::pin(sleep(limit)),
            is_waiting: false,
        }
    }

    /// Passes on the result of a write, or the end of the time that it may wait.
    fn limited<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_waiting = false;
            return written;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        let timed_out = self.timer.as_mut().poll(context);
        timed_out.map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limited(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limited(context, shut)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::task::{ArcWake, waker};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::advance,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_once_the_peer_accepts_nothing_for_the_limit() {
        let (ours, mut theirs) = duplex(4);
        let mut ours = WriteTimeout::new(ours, LIMIT);
        let begun = Instant::now();
        let reading = async {
            for _ in 0..3 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0; 4]).await.unwrap();
            }
            Instant::now()
        };

        let (written, last_read) = tokio::join!(ours.write_all(&[7; 64]), reading);

        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(last_read - begun, 3 * (LIMIT - Duration::from_secs(1)));
        assert_eq!(begun.elapsed(), last_read - begun + LIMIT);
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl ArcWake for Wakes {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_succeeds_after_a_wait_wakes_nobody_later() {
        let (ours, mut theirs) = duplex(4);
        let mut ours = WriteTimeout::new(ours, LIMIT);
        let wakes = Arc::new(Wakes::default());
        let waker = waker(wakes.clone());
        let mut write =
            |bytes: &[u8]| Pin::new(&mut ours).poll_write(&mut Context::from_waker(&waker), bytes);
        assert!(matches!(write(&[7; 4]), Poll::Ready(Ok(4))));
        assert!(write(&[7; 4]).is_pending());
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);

        assert!(matches!(write(&[7; 4]), Poll::Ready(Ok(4))));
        advance(LIMIT / 2).await;

        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }
}
