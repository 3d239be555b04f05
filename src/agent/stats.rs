//! How much an agent is used, as it tells its server.
//!
//! # Source
//! coder `agent/stats.go`, `agent/agent.go` `Collect`.

mod app;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    task::spawn_blocking,
    time::sleep,
};

pub(super) use self::app::App;
use self::app::Sessions;
use super::{Shared, rpc::Rpc};
use crate::{
    process::program_text,
    proto::coder::agent::v2::{self as wire, connection::Type},
    transport::drpc::CallError,
};

/// Between two reports, where the server does not say.
const REPORT: Duration = Duration::from_secs(300);
/// So long after its last connection an agent counts as unused: a client that comes again at once needs the same memory.
const QUIET: Duration = Duration::from_secs(10);
/// Bytes that a packet of the overlay carries: its streams are counted, and packets are as many as they need.
const PACKET: i64 = 1220;
/// The minor version from which on a server counts sessions by app.
const SESSION_COUNTS: u16 = 11;
/// What is said where no latency is known: -1 µs.
const NO_LATENCY: f64 = -0.001;

/// Counts from an agent's beginning on.
#[derive(Clone, Copy, Default)]
struct Totals {
    begun: i64,
    ended: i64,
    received: i64,
    sent: i64,
}

/// What is used, and what of that the server knows.
#[derive(Default)]
pub(super) struct Usage {
    begun: AtomicI64,
    ended: AtomicI64,
    received: AtomicI64,
    sent: AtomicI64,
    sessions: Mutex<Sessions>,
    /// Told whenever a connection ends.
    has_ended: Notify,
    told: Mutex<Totals>,
}

impl Usage {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session of this app begins. Returns the app that it counts for.
    pub(super) fn begin(&self, app: App) -> App {
        self.sessions().begin(app)
    }

    /// One has ended.
    pub(super) fn end(&self, app: &App) {
        self.sessions().end(app);
    }

    /// Whether somebody is still connected.
    pub(super) fn is_connected(&self) -> bool {
        let Totals { begun, ended, .. } = self.totals();
        begun > ended
    }

    fn totals(&self) -> Totals {
        // What ended later has begun by then, too.
        let ended = self.ended.load(Ordering::Relaxed);
        Totals {
            begun: self.begun.load(Ordering::Relaxed),
            ended,
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    /// What is new since `told`, and what there is now; sessions by app, where the server has room for those.
    fn since(&self, told: Totals, now: Totals, by_app: bool) -> wire::Stats {
        let packets = |bytes: i64| bytes.saturating_add(PACKET - 1) / PACKET;
        let (received, sent) = (now.received - told.received, now.sent - told.sent);
        let connections = now.begun - told.ended;
        let sessions = self.sessions();
        let by_proto = (connections > 0).then(|| ("TCP".to_owned(), connections));
        wire::Stats {
            connections_by_proto: by_proto.into_iter().collect(),
            connection_count: connections,
            connection_median_latency_ms: NO_LATENCY,
            rx_packets: packets(received),
            rx_bytes: received,
            tx_packets: packets(sent),
            tx_bytes: sent,
            session_count_vscode: sessions.of_kind(Type::Vscode),
            session_count_jetbrains: sessions.of_kind(Type::Jetbrains),
            session_count_ssh: sessions.of_kind(Type::Ssh),
            session_counts: match by_app {
                true => sessions.by_name(),
                false => BTreeMap::new(),
            },
            ..wire::Stats::default()
        }
    }
}

/// Reports at the server's pace, and counts again only from what it took.
pub(super) async fn run(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    let usage = &shared.usage;
    let mut request = wire::UpdateStatsRequest { stats: None };
    loop {
        let answer: wire::UpdateStatsResponse = rpc.call("UpdateStats", &request).await?;
        let pause = answer.report_interval.unwrap_or_default().seconds;
        let pause = u64::try_from(pause).ok().filter(|pause| *pause > 0);
        sleep(pause.map_or(REPORT, Duration::from_secs)).await;
        let told = *usage.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = usage.totals();
        request.stats = Some(usage.since(told, now, rpc.knows(SESSION_COUNTS)));
        let _: wire::UpdateStatsResponse = rpc.call("UpdateStats", &request).await?;
        *usage.told.lock().unwrap_or_else(PoisonError::into_inner) = now;
        request.stats = None;
    }
}

/// Gives back what only connections needed, each time the last one has been gone for a moment.
pub(super) async fn give_back_unused(usage: &Usage) {
    loop {
        usage.has_ended.notified().await;
        sleep(QUIET).await;
        if !usage.is_connected() {
            // A panic there has been printed, and nobody depends on it.
            let _ = spawn_blocking(program_text::give_back).await;
        }
    }
}

/// A connection of the overlay that is counted.
pub(super) struct Counted<S> {
    stream: S,
    usage: Arc<Usage>,
}

impl<S> Counted<S> {
    /// Counts it as begun.
    pub(super) fn new(stream: S, usage: Arc<Usage>) -> Self {
        usage.begun.fetch_add(1, Ordering::Relaxed);
        Self { stream, usage }
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.usage.ended.fetch_add(1, Ordering::Relaxed);
        self.usage.has_ended.notify_one();
    }
}

fn add(total: &AtomicI64, bytes: usize) {
    let bytes = i64::try_from(bytes).unwrap_or_default();
    total.fetch_add(bytes, Ordering::Relaxed);
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        add(&self.usage.received, buffer.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = written {
            add(&self.usage.sent, length);
        }
        written
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_and_connections_are_counted_since_what_the_server_took() {
        let usage = Arc::new(Usage::default());
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Counted::new(near, usage.clone());
        usage.begin(App::named("vscode"));
        usage.begin(App::named("cursor"));
        let ssh = usage.begin(App::ssh());
        usage.end(&ssh);
        far.write_all(b"abc").await.unwrap();
        stream.read_exact(&mut [0; 3]).await.unwrap();
        stream.write_all(b"de").await.unwrap();

        let first = usage.totals();
        let stats = usage.since(Totals::default(), first, false);
        assert_eq!((stats.rx_bytes, stats.tx_bytes), (3, 2));
        assert_eq!((stats.rx_packets, stats.tx_packets), (1, 1));
        assert_eq!(
            (stats.session_count_vscode, stats.session_count_ssh),
            (1, 1)
        );
        assert_eq!(stats.connection_count, 1);
        assert!(stats.session_counts.is_empty());
        let counts = usage.since(Totals::default(), first, true).session_counts;
        let expected = [("cursor".to_owned(), 1), ("vscode".to_owned(), 1)];
        assert_eq!(counts, expected.into());

        // It ends before the next report, which still counts it; the one after does not.
        drop(stream);
        let second = usage.totals();
        assert_eq!(usage.since(first, second, false).connection_count, 1);
        assert_eq!(usage.since(first, second, false).rx_bytes, 0);
        let third = usage.since(second, usage.totals(), false);
        assert_eq!(third.connection_count, 0);
        assert!(third.connections_by_proto.is_empty());
        assert!(!usage.is_connected());
    }
}
