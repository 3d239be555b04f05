//! Driver of a [`Session`] over a byte stream: it owns the socket and the clock, and decides nothing.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Config, Event, Role, Session, SessionError, StreamError, StreamId};

/// Bytes that are read from the connection at a time, and collected for one write.
const CHUNK_BYTES: usize = 64 * 1024;

/// Time that a peer gets to read the end of a session.
const FAREWELL: Duration = Duration::from_secs(1);

/// Session over a connection. When it is dropped its streams fail, and the connection is shut down.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

/// Queue of streams that the peer opens.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Stream>);

/// A stream of a session. Dropping it ends our half and drops what still arrives.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Notify,
    closed: CancellationToken,
}

#[derive(Debug)]
struct State {
    session: Session,
    over: Option<Over>,
    readers: BTreeMap<StreamId, Waker>,
    writers: BTreeMap<StreamId, Waker>,
}

/// Reason why no stream works any more.
#[derive(Clone, Debug)]
enum Over {
    Session(SessionError),
    Io(io::ErrorKind),
}

impl From<Over> for io::Error {
    fn from(over: Over) -> Self {
        match over {
            Over::Session(error) => io::Error::new(io::ErrorKind::ConnectionAborted, error),
            Over::Io(kind) => kind.into(),
        }
    }
}

impl Connection {
    /// Starts a session over `io`, in a task that ends soon after the returned handle.
    pub fn start<T>(io: T, role: Role, config: Config) -> (Self, Incoming)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (accepted, incoming) = mpsc::channel(config.max_streams);
        let state = State {
            session: Session::new(role, config.clone(), now()),
            over: None,
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Notify::new(),
            closed: CancellationToken::new(),
        });
        let driven = Arc::clone(&shared);
        let driving = async move {
            let over = drive(io, &driven, &accepted, &config).await;
            driven.end(over);
        };
        // Detached: ends with the connection, which it outlives to say goodbye.
        tokio::spawn(driving.in_current_span());
        (Self { shared }, Incoming(incoming))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The reason why the session is over, or [`io::ErrorKind::QuotaExceeded`] if there are too many streams.
    pub fn open(&self) -> io::Result<Stream> {
        let mut state = self.shared.lock();
        if let Some(over) = state.over.clone() {
            return Err(over.into());
        }
        let id = state
            .session
            .open(now())
            .ok_or(io::ErrorKind::QuotaExceeded)?;
        drop(state);
        self.shared.work.notify_one();
        Ok(Stream {
            id,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Returns whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits until the session is over, for whatever reason; the handle may be dropped meanwhile.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.shared.closed.clone().cancelled_owned()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end(Over::Io(io::ErrorKind::ConnectionAborted));
    }
}

impl Incoming {
    /// Returns the next stream that the peer opens; `None` when the session is over.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds the session")
    }

    fn end(&self, over: Over) {
        let mut state = self.lock();
        state.over.get_or_insert(over);
        let waiting = std::mem::take(&mut state.readers).into_values();
        let waiting: Vec<_> = waiting
            .chain(std::mem::take(&mut state.writers).into_values())
            .collect();
        drop(state);
        self.closed.cancel(); // First, so that woken tasks see it.
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Returns the reason why nothing works any more as an error, if there is one.
    fn check(&self) -> io::Result<()> {
        self.over.clone().map_or(Ok(()), |over| Err(over.into()))
    }
}

async fn drive<T>(
    io: T,
    shared: &Arc<Shared>,
    accepted: &mpsc::Sender<Stream>,
    config: &Config,
) -> Over
where
    T: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let (mut input, mut output) = (BytesMut::with_capacity(CHUNK_BYTES), BytesMut::new());
    let mut write_deadline = None;
    let mut is_flushed = true;
    loop {
        let (wake_at, is_congested) = {
            let mut state = shared.lock();
            while output.len() < CHUNK_BYTES
                && let Some(frame) = state.session.poll_transmit()
            {
                output.extend_from_slice(&frame);
            }
            deliver(&mut state, shared, accepted);
            (state.session.poll_timeout(), state.session.is_congested())
        };
        let is_owing = !output.is_empty() || !is_flushed;
        if is_owing && write_deadline.is_none() {
            write_deadline = Some(now() + config.answer_timeout);
        }
        let wake_at = write_deadline.map_or(wake_at, |deadline| wake_at.min(deadline));
        tokio::select! {
            sent = send(&mut writer, &output), if is_owing => {
                match sent {
                    Ok(length) => {
                        is_flushed = output.is_empty();
                        output.advance(length);
                    }
                    Err(error) => return Over::Io(error.kind()),
                }
                write_deadline = None;
            }
            read = reader.read_buf(&mut input), if !is_congested => {
                match read {
                    Ok(0) => return Over::Io(io::ErrorKind::UnexpectedEof),
                    Ok(_) => {}
                    Err(error) => return Over::Io(error.kind()),
                }
                let result = shared.lock().session.handle_bytes(input.split().freeze(), now());
                input.reserve(CHUNK_BYTES);
                if let Err(error) = result {
                    say_goodbye(&mut writer, shared, output).await;
                    return Over::Session(error);
                }
            }
            () = shared.closed.cancelled() => {
                let farewell = shut_down(&mut writer, shared, &mut output);
                let _ = timeout(FAREWELL, farewell).await; // A peer that does not listen is not waited for.
                return Over::Io(io::ErrorKind::ConnectionAborted);
            }
            () = shared.work.notified() => {}
            () = tokio::time::sleep_until(wake_at.into()) => {
                if write_deadline.is_some_and(|deadline| now() >= deadline) {
                    return Over::Io(io::ErrorKind::TimedOut);
                }
                if let Err(error) = shared.lock().session.handle_timeout(now()) {
                    return Over::Session(error);
                }
            }
        }
    }
}

/// Writes a part of `output`, or flushes what was written if nothing is left of it. Either can be given up half-way
/// without a loss: a peer that reads nothing must not keep us from reading, and from noticing that.
async fn send(writer: &mut (impl AsyncWrite + Unpin), output: &[u8]) -> io::Result<usize> {
    if output.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write(output).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        length => Ok(length),
    }
}

/// Sends the rest and ends the connection in an orderly way.
async fn shut_down(
    writer: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    output: &mut BytesMut,
) -> io::Result<()> {
    while let Some(frame) = shared.lock().session.poll_transmit() {
        output.extend_from_slice(&frame);
    }
    writer.write_all(output).await?;
    writer.shutdown().await
}

/// Tells a peer that it violated the protocol, if it reads that at once; a peer that does not is not waited for.
async fn say_goodbye(
    writer: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    mut output: BytesMut,
) {
    while let Some(frame) = shared.lock().session.poll_transmit() {
        output.extend_from_slice(&frame);
    }
    poll_fn(|context| {
        let _ = Pin::new(&mut *writer).poll_write(context, &output);
        let _ = Pin::new(&mut *writer).poll_flush(context);
        Poll::Ready(())
    })
    .await;
}

/// Wakes tasks whose streams have events.
fn deliver(state: &mut State, shared: &Arc<Shared>, accepted: &mpsc::Sender<Stream>) {
    let mut refused = Vec::new();
    while let Some(event) = state.session.poll_event() {
        match event {
            Event::StreamOpened(id) => match accepted.try_reserve() {
                Ok(place) => place.send(Stream {
                    id,
                    shared: Arc::clone(shared),
                }),
                Err(_) => refused.push(id),
            },
            Event::StreamReadable(id) => {
                state.readers.remove(&id).into_iter().for_each(Waker::wake)
            }
            Event::StreamWritable(id) => {
                state.writers.remove(&id).into_iter().for_each(Waker::wake)
            }
        }
    }
    for id in refused {
        state.session.abandon(id, now());
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        match state.session.read(self.id, buffer.remaining()) {
            Ok(Some(bytes)) => {
                buffer.put_slice(&bytes);
                drop(state);
                self.shared.work.notify_one(); // A window update may be due.
                Poll::Ready(Ok(()))
            }
            Ok(None) => {
                state.check()?;
                state.readers.insert(self.id, context.waker().clone());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(broken(&state, error))),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        state.check()?;
        match state.session.write(self.id, data) {
            Ok(0) if !data.is_empty() => {
                state.writers.insert(self.id, context.waker().clone());
                Poll::Pending
            }
            Ok(length) => {
                drop(state);
                self.shared.work.notify_one();
                Poll::Ready(Ok(length))
            }
            Err(error) => Poll::Ready(Err(broken(&state, error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Queued data is written by the driver, so there is nothing to flush here.
        Poll::Ready(self.shared.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        state.check()?;
        state.session.close_write(self.id, now());
        drop(state);
        self.shared.work.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.readers.remove(&self.id);
        state.writers.remove(&self.id);
        state.session.abandon(self.id, now());
        drop(state);
        self.shared.work.notify_one();
    }
}

fn broken(state: &State, error: StreamError) -> io::Error {
    match (state.over.clone(), error) {
        (Some(over), _) => over.into(),
        (None, StreamError::Reset) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        (None, StreamError::Closed) => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
