//! Usage statistics of an agent, as it reports them to its server.
//!
//! # Source
//! coder `agent/stats.go`, `agent/agent.go` `Collect`.

mod app;

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use outpost_process::program_text;
use outpost_transport::drpc::CallError;
use outpost_wire::proto::coder::agent::v2::{self as wire, connection::Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    task::spawn_blocking,
    time::sleep,
};

pub(super) use self::app::App;
use self::app::Sessions;
use super::{Shared, rpc::Rpc};

/// Interval of reports, unless the server names one.
const REPORT: Duration = Duration::from_secs(300);
/// Time after its last connection when an agent counts as unused: a client that returns at once needs the same
/// memory.
const QUIET: Duration = Duration::from_secs(10);
/// Silence after which a client counts as away: four unanswered keep-alives.
const AWAY: Duration = Duration::from_secs(60);
/// Payload of a packet in the overlay, in bytes: its streams are counted, and divided into as many packets as they
/// need.
const PACKET: i64 = 1220;
/// Minor version from which on a server counts sessions by app.
const SESSION_COUNTS: u16 = 11;
/// Latency that is reported if none is known: -1 µs.
const NO_LATENCY: f64 = -0.001;

/// Time for which the client of a connection has left something unanswered; zero if it answers.
pub(super) type Silence = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Totals since the agent's start.
#[derive(Clone, Copy, Default)]
struct Totals {
    /// Number of connections that ended while their client was present.
    ended: i64,
    received: i64,
    sent: i64,
}

/// Open connections and sessions by their numbers.
#[derive(Default)]
struct Open {
    last: u64,
    connections: HashMap<u64, Silence>,
    sessions: HashMap<u64, (App, Silence)>,
    ended: i64,
}

/// Returns whether a client was heard recently. One that vanished without a goodbye keeps its sessions for days, but
/// its workspace counts as unused: a server stops it when its time is over.
fn is_there(silence: &Silence) -> bool {
    silence() < AWAY
}

impl Open {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Number of connections whose clients are present.
    fn connections(&self) -> i64 {
        let there = self.connections.values().filter(|it| is_there(it));
        i64::try_from(there.count()).unwrap_or(i64::MAX)
    }

    /// Sessions whose clients are present.
    fn sessions(&self) -> Sessions {
        let there = self.sessions.values().filter(|(_, it)| is_there(it));
        there.map(|(app, _)| app.clone()).collect()
    }
}

/// Usage of the agent, and the part of it that the server knows.
#[derive(Default)]
pub(super) struct Usage {
    open: Mutex<Open>,
    received: AtomicI64,
    sent: AtomicI64,
    /// Notified whenever a connection ends.
    has_ended: Notify,
    told: Mutex<Totals>,
}

impl Usage {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the beginning of a session of this app; returns its number.
    pub(super) fn begin(&self, app: App, silence: Silence) -> u64 {
        let mut open = self.open();
        let number = open.number();
        open.sessions.insert(number, (app, silence));
        number
    }

    /// Counts the end of a session.
    pub(super) fn end(&self, number: u64) {
        self.open().sessions.remove(&number);
    }

    /// Returns whether any client is still connected, silent or not.
    pub(super) fn is_connected(&self) -> bool {
        !self.open().connections.is_empty()
    }

    /// Returns the news since `told`, and the new totals; with sessions by app if the server has fields for those.
    fn since(&self, told: Totals, by_app: bool) -> (wire::Stats, Totals) {
        let open = self.open();
        let now = Totals {
            ended: open.ended,
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        };
        let (connections, sessions) = (open.connections(), open.sessions());
        drop(open);
        let packets = |bytes: i64| bytes.saturating_add(PACKET - 1) / PACKET;
        let (received, sent) = (now.received - told.received, now.sent - told.sent);
        let connections = connections + now.ended - told.ended;
        let by_proto = (connections > 0).then(|| ("TCP".to_owned(), connections));
        let stats = wire::Stats {
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
        };
        (stats, now)
    }
}

/// Reports at the server's interval, and counts anew only what it has accepted.
pub(super) async fn run(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    let usage = &shared.usage;
    let mut request = wire::UpdateStatsRequest { stats: None };
    loop {
        let answer: wire::UpdateStatsResponse = rpc.call("UpdateStats", &request).await?;
        let pause = answer.report_interval.unwrap_or_default().seconds;
        let pause = u64::try_from(pause).ok().filter(|pause| *pause > 0);
        sleep(pause.map_or(REPORT, Duration::from_secs)).await;
        let told = *usage.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (stats, now) = usage.since(told, rpc.knows(SESSION_COUNTS));
        request.stats = Some(stats);
        let _: wire::UpdateStatsResponse = rpc.call("UpdateStats", &request).await?;
        *usage.told.lock().unwrap_or_else(PoisonError::into_inner) = now;
        request.stats = None;
    }
}

/// Returns memory to the system that only connections needed, each time when the last one has been gone for a moment.
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

/// A connection in the overlay that is counted.
pub(super) struct Counted<S> {
    stream: S,
    usage: Arc<Usage>,
    number: u64,
}

impl<S> Counted<S> {
    /// Counts the beginning of a connection.
    pub(super) fn new(stream: S, usage: Arc<Usage>, silence: Silence) -> Self {
        let mut open = usage.open();
        let number = open.number();
        open.connections.insert(number, silence);
        drop(open);
        Self {
            stream,
            usage,
            number,
        }
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        let mut open = self.usage.open();
        let silence = open.connections.remove(&self.number);
        open.ended += i64::from(silence.is_some_and(|it| is_there(&it)));
        drop(open);
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
    use std::sync::atomic::AtomicU64;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Creates clients that are all silent for so long, in seconds.
    fn clients(silent: &Arc<AtomicU64>) -> Silence {
        let silent = silent.clone();
        Arc::new(move || Duration::from_secs(silent.load(Ordering::Relaxed)))
    }

    #[tokio::test]
    async fn bytes_and_connections_are_counted_since_what_the_server_took() {
        let usage = Arc::new(Usage::default());
        let (near, mut far) = tokio::io::duplex(64);
        let silence = clients(&Arc::default());
        let mut stream = Counted::new(near, usage.clone(), silence.clone());
        usage.begin(App::named("vscode"), silence.clone());
        usage.begin(App::named("cursor"), silence.clone());
        let ssh = usage.begin(App::ssh(), silence);
        usage.end(ssh);
        far.write_all(b"abc").await.unwrap();
        stream.read_exact(&mut [0; 3]).await.unwrap();
        stream.write_all(b"de").await.unwrap();

        let (stats, first) = usage.since(Totals::default(), false);
        assert_eq!((stats.rx_bytes, stats.tx_bytes), (3, 2));
        assert_eq!((stats.rx_packets, stats.tx_packets), (1, 1));
        assert_eq!(
            (stats.session_count_vscode, stats.session_count_ssh),
            (1, 1)
        );
        assert_eq!(stats.connection_count, 1);
        assert!(stats.session_counts.is_empty());
        let counts = usage.since(Totals::default(), true).0.session_counts;
        let expected = [("cursor".to_owned(), 1), ("vscode".to_owned(), 1)];
        assert_eq!(counts, expected.into());

        // It ends before the next report, which still counts it; the one after does not.
        drop(stream);
        let (stats, second) = usage.since(first, false);
        assert_eq!((stats.connection_count, stats.rx_bytes), (1, 0));
        let (stats, _) = usage.since(second, false);
        assert_eq!(stats.connection_count, 0);
        assert!(stats.connections_by_proto.is_empty());
        assert!(!usage.is_connected());
    }

    #[test]
    fn a_client_that_vanished_is_no_use_of_the_workspace_and_counts_again_once_it_is_back() {
        let (usage, silent) = (Arc::new(Usage::default()), Arc::new(AtomicU64::new(59)));
        let stream = Counted::new((), usage.clone(), clients(&silent));
        usage.begin(App::ssh(), clients(&silent));
        let seen = || {
            let (stats, _) = usage.since(Totals::default(), true);
            let by_app = stats.session_counts.get("ssh").copied();
            (stats.connection_count, stats.session_count_ssh, by_app)
        };
        assert_eq!(seen(), (1, 1, Some(1)));

        silent.store(AWAY.as_secs(), Ordering::Relaxed);
        assert_eq!(seen(), (0, 0, None));
        assert!(usage.is_connected(), "its session is kept");

        silent.store(0, Ordering::Relaxed);
        assert_eq!(seen(), (1, 1, Some(1)));

        // The end of a connection whose client was away does not count as use.
        silent.store(AWAY.as_secs(), Ordering::Relaxed);
        drop(stream);
        assert_eq!(seen().0, 0);
    }
}
