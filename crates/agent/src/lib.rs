//! Agent: runs in a workspace, reports its status to the server, and lets people in through the overlay.
//!
//! [`run`] keeps a connection to the server and re-establishes it when it breaks; reports wait in an `outbox`
//! meanwhile, and the overlay with its SSH sessions goes on. No port is opened on the machine; a Unix socket serves
//! programs in the workspace.
//!
//! # Source
//! coder `agent/agent.go`: the order of all operations.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

mod alias;
mod api;
pub mod command;
pub mod environment;
pub mod external_auth;
pub mod git;
mod health;
mod host_key;
pub mod identity;
mod metadata;
mod monitor;
mod order;
mod outbox;
mod ports;
mod private_dir;
pub mod reaper;
mod reinit;
mod rest;
mod rpc;
pub mod schedule;
mod scripts;
mod secrets;
mod session;
mod sftp;
pub mod socket;
mod ssh;
mod stats;
mod unit;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use jiff::Timestamp;
use outpost_base::{secret::Secret, stop::Stop};
use outpost_net::{back_off::BackOff, http::Client};
use outpost_tailnet::DerpMap;
use outpost_wire::proto::coder::agent::v2::{
    Connection, Lifecycle, Manifest, Timing, lifecycle::State, startup::Subsystem, timing::Stage,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::{
    environment::{Account, Variables},
    identity::Credential,
    outbox::Outbox,
    reinit::Claims,
    scripts::{Line, Outcome},
    session::Network,
    socket::{Socket, Uplink},
    stats::Usage,
};

/// Bytes of log lines that may wait to be sent.
const LOG_BYTES: usize = 1 << 20;
/// Bytes that a line counts in addition to its text.
const LINE_BYTES: usize = 21;
/// Number of connection reports that may wait.
const CONNECTIONS: usize = 2048;
/// Number of script reports that may wait.
const TIMINGS: usize = 1024;
/// Longest time for the end of the SSH server.
const SSH_END: Duration = Duration::from_secs(5);
/// Time that a script or a command has to end after SIGHUP, before its process group is killed.
const HANG_UP: Duration = Duration::from_secs(10);
/// Longest wait for all of them: a second more, for what a kill takes.
const CHILDREN_END: Duration = Duration::from_secs(11);
/// Longest time for the last reports, and for the coordinator to hear that we leave.
const LAST_REPORTS: Duration = Duration::from_secs(5);

/// Configuration of an agent.
pub struct Config {
    /// HTTP client for the server.
    pub http: Client,
    /// Credential of the agent.
    pub credential: Credential,
    /// Path of this program, which git and people call again.
    pub program: PathBuf,
    /// Directory with the files of scripts.
    pub script_data_dir: PathBuf,
    /// Directory with the logs of scripts.
    pub log_dir: PathBuf,
    /// Features that the SSH server refuses.
    pub blocks: Blocks,
    /// Set if nothing but the server and its relays may be contacted.
    pub is_sealed: bool,
    /// Silence after which a session ends; `None` for never.
    pub ssh_max_timeout: Option<Duration>,
    /// Environments that the agent runs in, such as envbuilder.
    pub subsystems: Vec<Subsystem>,
    /// Path of the socket for programs in the workspace; `None` disables it.
    pub socket: Option<PathBuf>,
}

/// Features that the SSH server refuses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocks {
    /// Set to refuse file transfer in both directions.
    pub file_transfer: bool,
    /// Set to refuse connections from the workspace to addresses that a client names.
    pub local_forwarding: bool,
    /// Set to refuse listening in the workspace for connections that are forwarded to a client.
    pub reverse_forwarding: bool,
}

/// State that outlasts a connection to the server.
struct Shared {
    config: Arc<Config>,
    account: Account,
    token: Arc<Mutex<Secret>>,
    manifest: watch::Sender<Option<Arc<Manifest>>>,
    lifecycle: Outbox<Lifecycle>,
    logs: Outbox<Line>,
    timings: Outbox<Timing>,
    connections: Outbox<Connection>,
    /// Announcements of the server, which are shown at logins.
    banners: Mutex<Vec<String>>,
    usage: Arc<Usage>,
    /// Tasks that wait for processes which end with the agent: start scripts, those at set times, commands of sessions.
    children: TaskTracker,
    /// Set once the start scripts have begun.
    has_begun: AtomicBool,
    /// Signals whether the coordinator is connected.
    coordinates: watch::Sender<bool>,
    /// Directory of the files and programs of scripts, unless none could be made that only this user can write to.
    scripts_dir: Option<PathBuf>,
    /// Path at which the socket listens, if it does.
    socket: Option<PathBuf>,
    /// Connection to the server, for calls through the socket.
    uplink: Arc<Uplink>,
}

impl Shared {
    /// Adapts a map of relays to the way in which we reach the server.
    fn adapt(&self, map: &mut DerpMap) {
        map.rewrite_embedded(self.config.http.url());
        if self.config.is_sealed {
            map.without_stun();
        }
    }

    fn token(&self) -> Secret {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token.clone()
    }

    /// Returns the environment of programs that start now.
    fn variables(&self) -> Variables {
        let manifest = self.manifest.borrow().clone().unwrap_or_default();
        let mut all = environment::variables(
            &manifest,
            &self.account,
            self.config.http.url(),
            &self.token(),
            &self.config.program,
            self.scripts_dir.as_deref(),
        );
        if let Some(socket) = &self.socket {
            all.insert(socket::PATH_VARIABLE.into(), socket.into());
        }
        all
    }

    /// Returns the working directory of programs that start now.
    fn directory(&self) -> PathBuf {
        let manifest = self.manifest.borrow().clone().unwrap_or_default();
        self.account.directory(&manifest)
    }

    fn is_now(&self, state: State) {
        info!(?state, "lifecycle");
        self.lifecycle.push(Lifecycle {
            state: state.into(),
            changed_at: Some(stamp(Timestamp::now())),
        });
    }
}

fn stamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

/// Runs until `stop` drains, and reinitializes once for each owner that the workspace gets.
pub async fn run(config: Config, stop: Stop) {
    let config = Arc::new(config);
    let mut claims = Claims::load(&config.script_data_dir, &config.http, &config.credential);
    let scripts_dir = private_dir::open(&config.script_data_dir, scripts::DIRECTORY);
    let scripts_dir = scripts_dir.inspect_err(|error| {
        let base = config.script_data_dir.display();
        warn!(%base, %error, "cannot create the script directory: scripts will fail");
    });
    let scripts_dir = scripts_dir.ok();
    while !stop.is_draining() {
        let life = stop.child();
        let until_claimed = async {
            tokio::select! {
                () = reinit::wait(&config.http, &config.credential, &mut claims) => life.drain(),
                () = life.draining() => {}
            }
        };
        let living = live(config.clone(), scripts_dir.clone(), life.clone());
        tokio::join!(living, until_claimed);
    }
}

/// Runs until `stop` drains, and then ends in the order that clients and server expect.
async fn live(config: Arc<Config>, scripts_dir: Option<PathBuf>, stop: Stop) {
    let socket = match &config.socket {
        Some(path) => Socket::open(path).await,
        None => None,
    };
    if let Some(scripts) = &scripts_dir {
        alias::provide(&config.program, &scripts.join("bin"));
    }
    let uplink: Arc<Uplink> = Arc::default();
    let shared = Arc::new(Shared {
        config,
        account: Account::own(),
        token: Arc::default(),
        manifest: watch::Sender::new(None),
        lifecycle: Outbox::new(64, |_| 1),
        logs: Outbox::new(LOG_BYTES, |line| line.log.output.len() + LINE_BYTES),
        timings: Outbox::new(TIMINGS, |_| 1),
        connections: Outbox::new(CONNECTIONS, |_| 1),
        banners: Mutex::default(),
        usage: Arc::default(),
        children: TaskTracker::new(),
        has_begun: AtomicBool::new(false),
        coordinates: watch::Sender::new(false),
        scripts_dir,
        socket: socket.as_ref().map(|socket| socket.path().to_owned()),
        uplink: uplink.clone(),
    });
    // Three stages: sessions, which end first; connections that must outlast them; and everything else.
    let (sessions, graceful, hard) = (Stop::new(), Stop::new(), Stop::new());
    let connecting = connect(&shared, &sessions, &graceful, &hard);
    let ending = async {
        stop.draining().await;
        end(&shared, &sessions, &graceful).await;
        hard.cancel();
    };
    let listening = async {
        if let Some(socket) = socket {
            socket.serve(uplink, hard.clone()).await;
        }
    };
    tokio::select! {
        ((), (), ()) = async { tokio::join!(connecting, ending, listening) } => {}
        () = stats::give_back_unused(&shared.usage) => {}
    }
}

/// Connects, and reconnects whenever it must.
async fn connect(shared: &Arc<Shared>, sessions: &Stop, graceful: &Stop, hard: &Stop) {
    let mut network = Network::new(sessions.clone(), hard.clone());
    let mut back_off = BackOff::default();
    // The version of the last connection, which is dialled first: servers refuse versions that they do not know.
    let mut version = None;
    loop {
        tokio::select! {
            () = back_off.wait() => {}
            () = hard.draining() => break,
        }
        let connected = async {
            let token = shared.config.credential.token(&shared.config.http).await?;
            *shared.token.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
            anyhow::Ok(rpc::Rpc::dial(&shared.config.http, &token, version).await?)
        };
        let connected = tokio::select! {
            connected = connected => connected,
            () = hard.draining() => break,
        };
        let rpc = match connected {
            Ok(rpc) => rpc,
            Err(error) => {
                match identity::refuses(&error) {
                    true => back_off.refused(),
                    false => back_off.accepted(),
                }
                warn!(
                    error = format!("{error:#}"),
                    "cannot connect to the server; retrying"
                );
                continue;
            }
        };
        back_off.accepted();
        version = Some(rpc.version);
        info!(server = %shared.config.http.url(), agent_api = %rpc.version, "connected");
        let rpc = Arc::new(rpc);
        shared.uplink.set(&rpc);
        let ended = tokio::select! {
            ended = session::run(&rpc, shared, &mut network, graceful) => ended,
            () = rpc.connection.closed() => Ok(()),
            () = hard.draining() => break,
        };
        shared.coordinates.send_replace(false);
        let why = ended.err().map(|error| error.to_string());
        info!(
            error = why.unwrap_or_default(),
            "disconnected from the server"
        );
    }
    network.end().await;
}

/// Ends the session: SSH first, because clients drop their tunnels once they hear that we leave, and sessions would
/// hang. Whatever the agent started is hung up, and has ended when this returns.
async fn end(shared: &Arc<Shared>, sessions: &Stop, graceful: &Stop) {
    shared.is_now(State::ShuttingDown);
    sessions.drain();
    let ssh_end = Instant::now() + SSH_END;
    // Clients that have received our goodbye hang up.
    while shared.usage.is_connected() && Instant::now() < ssh_end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    graceful.cancel();
    // A new `Stop`, because stop scripts must run although the agent is stopping.
    let outcome = scripts::run_all(shared, Stage::Stop, &Stop::new()).await;
    shared.is_now(match outcome {
        Outcome::Done => State::Off,
        Outcome::Failed => State::ShutdownError,
        Outcome::TimedOut => State::ShutdownTimeout,
    });
    shared.children.close();
    if timeout(CHILDREN_END, shared.children.wait()).await.is_err() {
        let count = shared.children.len();
        warn!(
            count,
            "scripts or commands did not end, although they were killed"
        );
    }
    let deadline = Instant::now() + LAST_REPORTS;
    let mut coordinates = shared.coordinates.subscribe();
    let all = async {
        tokio::join!(
            shared.lifecycle.emptied(),
            shared.logs.emptied(),
            shared.timings.emptied(),
            async { drop(coordinates.wait_for(|it| !it).await) },
        );
    };
    if timeout_at(deadline, all).await.is_err() {
        warn!("the server did not accept the last reports in time");
    }
}
