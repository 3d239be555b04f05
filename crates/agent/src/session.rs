//! One connection to the server: everything that is requested and reported on it, concurrently.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use outpost_base::{rules, stop::Stop};
use outpost_process::program_text;
use outpost_tailnet::{
    self as tailnet, DerpMap, Event, Tailnet, address,
    coordination::{Side, coordinate, follow_derp_map},
    derp::client::Dial,
};
use outpost_transport::drpc::CallError;
use outpost_wire::proto::{
    coder::agent::v2::{self as wire, Manifest, lifecycle::State, timing::Stage},
    provisionerd::Empty,
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tracing::{Instrument as _, debug, debug_span, info, info_span};
use uuid::Uuid;

use super::{
    Shared, api, health, host_key, metadata, monitor, rpc::Rpc, scripts, scripts::Outcome, secrets,
    ssh, stats,
};

/// Time for which log lines are collected before they are sent.
const LOG_PAUSE: Duration = Duration::from_millis(250);
/// Size of one batch of log lines, in bytes.
const LOG_BATCH: usize = 1 << 20;
/// Ports in the overlay at which SSH listens.
const SSH_PORTS: [u16; 2] = [1, 22];

/// Interval at which banners are fetched, and the number that is shown.
const BANNERS: Duration = Duration::from_secs(120);
const MAX_BANNERS: usize = 16;
/// Time after the start scripts by which everything that is done once has been done.
const SETTLED: Duration = Duration::from_secs(10);

/// Node of the agent, which outlasts connections.
pub(super) struct Network {
    node: Option<(Tailnet, mpsc::Receiver<Event>)>,
    ssh: Option<(ssh::Server, host_key::Origin)>,
    tasks: JoinSet<()>,
    sessions: Stop,
    hard: Stop,
}

impl Network {
    pub(super) fn new(sessions: Stop, hard: Stop) -> Self {
        Self {
            node: None,
            ssh: None,
            tasks: JoinSet::new(),
            sessions,
            hard,
        }
    }

    /// Updates the node to the manifest.
    async fn update(
        &mut self,
        shared: &Arc<Shared>,
        id: Uuid,
        manifest: &Manifest,
    ) -> (&Tailnet, &mut mpsc::Receiver<Event>) {
        let addresses = address::of_agent(id).to_vec();
        let map = manifest.derp_map.clone().unwrap_or_default();
        let mut map = DerpMap::from_wire(map);
        shared.adapt(&mut map);
        let is_blocked = manifest.disable_direct_connections || shared.config.is_sealed;
        let may_be_direct = !is_blocked;
        let server = self.ssh_server(shared, manifest).await;
        if let Some((node, _)) = &self.node {
            node.set_addresses(address::node_id(id), addresses.clone())
                .await;
        }
        let (tasks, sessions, hard) = (&mut self.tasks, &self.sessions, &self.hard);
        let (node, events) = self.node.get_or_insert_with(|| {
            let dial = Dial {
                http: shared.config.http.clone(),
                by_websocket: Arc::new(manifest.derp_force_websockets.into()),
                token: shared.token.clone(),
            };
            let config = tailnet::Config {
                id: address::node_id(id),
                addresses,
                dial,
                max_silence: shared.config.ssh_max_timeout,
                may_be_direct,
            };
            let (node, driver, events) = tailnet::start(config);
            let span = info_span!("tailnet");
            tasks.spawn(driver.run(hard.clone()).instrument(span));
            for port in SSH_PORTS {
                let listener = node.listen(port);
                let serving = server.clone().serve(listener, sessions.clone());
                tasks.spawn(serving.instrument(debug_span!("listener", port)));
            }
            let serving = api::serve(node.listen(api::PORT), hard.clone());
            tasks.spawn(serving.instrument(debug_span!("listener", port = api::PORT)));
            (node, events)
        });
        node.set_direct(may_be_direct).await;
        node.set_derp_map(map).await;
        (node, events)
    }

    /// Returns the SSH server, with the host key that belongs to the manifest's names.
    async fn ssh_server(&mut self, shared: &Arc<Shared>, manifest: &Manifest) -> ssh::Server {
        let wanted = host_key::Origin::of(manifest);
        if let Some((server, origin)) = &self.ssh
            && *origin == wanted
        {
            return server.clone();
        }
        let origin = wanted.clone();
        let made = spawn_blocking(move || origin.key()).await;
        let key = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let server = match &self.ssh {
            Some((server, _)) => {
                server.set_key(key);
                server.clone()
            }
            None => ssh::Server::new(shared.clone(), key),
        };
        self.ssh = Some((server.clone(), wanted));
        server
    }

    /// Ends the node with everything that runs in it.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Does everything that there is to do on a connection, until it breaks.
pub(super) async fn run(
    rpc: &Rpc,
    shared: &Arc<Shared>,
    network: &mut Network,
    graceful: &Stop,
) -> Result<(), CallError> {
    tokio::try_join!(
        be_there(rpc, shared, network, graceful),
        lifecycle(rpc, shared),
        logs(rpc, shared),
        timings(rpc, shared),
        connections(rpc, shared),
        banners(rpc, shared),
    )
    .map(|_| ())
}

async fn be_there(
    rpc: &Rpc,
    shared: &Arc<Shared>,
    network: &mut Network,
    graceful: &Stop,
) -> Result<(), CallError> {
    let manifest: Manifest = rpc
        .call("GetManifest", &wire::GetManifestRequest {})
        .await?;
    let id = Uuid::from_slice(&manifest.agent_id).unwrap_or_default();
    if id.is_nil() {
        let why = "the server sent a manifest without an agent's id";
        return Err(CallError::Lost(std::io::Error::other(why)));
    }
    let manifest = Arc::new(manifest);
    shared.manifest.send_replace(Some(manifest.clone()));
    let startup = wire::UpdateStartupRequest {
        startup: Some(wire::Startup {
            version: rules::VERSION.to_owned(),
            expanded_directory: shared.directory().display().to_string(),
            subsystems: shared
                .config
                .subsystems
                .iter()
                .map(|it| (*it).into())
                .collect(),
        }),
    };
    // Servers expect this call before anything else but the manifest.
    let _: wire::Startup = rpc.call("UpdateStartup", &startup).await?;
    // Before the start scripts, which may read the files.
    secrets::write(&manifest.secrets, &shared.account.home);
    let (node, events) = network.update(shared, id, &manifest).await;
    // Only on the first connection: a reconnection must not run the start scripts again.
    if !shared.has_begun.swap(true, Ordering::Relaxed) {
        shared.is_now(State::Starting);
        let beginning = begin(shared.clone(), manifest.clone(), graceful.clone());
        // Outlives this connection, and ends with `graceful`.
        let span = info_span!("scripts");
        shared.children.spawn(beginning.instrument(span));
    }
    let coordinating = async {
        shared.coordinates.send_replace(true);
        let ended = coordinate(&rpc.connection, node, events, &Side::Agent, graceful).await;
        shared.coordinates.send_replace(false);
        match graceful.is_draining() {
            // The last reports are still being sent.
            true => std::future::pending().await,
            false => ended.and(Err(CallError::Lost(
                std::io::ErrorKind::UnexpectedEof.into(),
            ))),
        }
    };
    let while_up = async {
        let all = async {
            tokio::try_join!(
                follow_derp_map(&rpc.connection, node, |map| shared.adapt(map)),
                metadata::run(shared, rpc, &manifest),
                stats::run(rpc, shared),
                health::run(rpc, &manifest),
                monitor::run(rpc),
            )
        };
        tokio::select! {
            ended = all => ended.map(|_| ()),
            () = graceful.draining() => std::future::pending().await,
        }
    };
    tokio::try_join!(coordinating, while_up).map(|((), ())| ())
}

/// Runs the start scripts, once in the agent's life, and those with set times.
async fn begin(shared: Arc<Shared>, manifest: Arc<Manifest>, graceful: Stop) {
    let outcome = scripts::run_all(&shared, Stage::Start, &graceful).await;
    if graceful.is_draining() {
        return;
    }
    shared.is_now(match outcome {
        Outcome::Done => State::Ready,
        Outcome::Failed => State::StartError,
        Outcome::TimedOut => State::StartTimeout,
    });
    let giving_back = async {
        sleep(SETTLED).await;
        // A panic there has been printed, and nobody depends on it.
        let _ = spawn_blocking(program_text::give_back).await;
    };
    // Detached: nobody waits for it, and it ends by itself within seconds.
    tokio::spawn(giving_back.in_current_span());
    scripts::run_at_times(shared, manifest, graceful).await;
}

async fn lifecycle(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    loop {
        let state = shared.lifecycle.first(|_| 1).await.pop();
        let request = wire::UpdateLifecycleRequest { lifecycle: state };
        // The state stays in the queue until it is acknowledged, so that the next connection repeats it.
        let _: wire::Lifecycle = rpc.call("UpdateLifecycle", &request).await?;
        shared.lifecycle.sent(1);
    }
}

async fn logs(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    loop {
        // Lines come in bursts, so wait for more of them.
        shared.logs.first(|_| 1).await;
        sleep(LOG_PAUSE).await;
        let mut waiting = shared.logs.count();
        while waiting > 0 {
            let lines = shared.logs.first(batch).await;
            let count = lines.len();
            let request = wire::BatchCreateLogsRequest {
                log_source_id: lines[0].source.clone(),
                logs: lines.into_iter().map(|line| line.log).collect(),
            };
            let answer: wire::BatchCreateLogsResponse =
                rpc.call("BatchCreateLogs", &request).await?;
            if answer.log_limit_exceeded {
                info!("the server accepts no more log lines");
                // The server drops all further lines, so do not queue them.
                shared.logs.close();
                return std::future::pending().await;
            }
            shared.logs.sent(count);
            waiting = waiting.saturating_sub(count);
        }
    }
}

/// Moves the lines of the first line's source to the front, and returns how many of them fit into a batch: concurrent
/// scripts interleave their lines, and a batch has one source.
fn batch(lines: &mut [scripts::Line]) -> usize {
    let Some(source) = lines.first().map(|line| line.source.clone()) else {
        return 0;
    };
    lines.sort_by_key(|line| line.source != source);
    let mut bytes = 0;
    let fits = |line: &&scripts::Line| {
        bytes += line.log.output.len() + super::LINE_BYTES;
        line.source == source && bytes <= LOG_BATCH
    };
    lines.iter().take_while(fits).count()
}

/// Reports the ends of scripts. A refused report is dropped: it would be refused again on the next connection.
async fn timings(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    loop {
        let timing = shared.timings.first(|_| 1).await.pop();
        if rpc.knows(3) {
            let request = wire::WorkspaceAgentScriptCompletedRequest { timing };
            let sent: Result<wire::WorkspaceAgentScriptCompletedResponse, CallError> =
                rpc.call("ScriptCompleted", &request).await;
            match sent {
                Err(error @ CallError::Lost(_)) => return Err(error),
                Err(error) => debug!(%error, "cannot report the end of a script"),
                Ok(wire::WorkspaceAgentScriptCompletedResponse {}) => {}
            }
        }
        shared.timings.sent(1);
    }
}

/// Reports connections. A refused report is dropped: nobody's access depends on it.
async fn connections(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    loop {
        let connection = shared.connections.first(|_| 1).await.pop();
        if rpc.knows(4) {
            let request = wire::ReportConnectionRequest { connection };
            let sent: Result<Empty, CallError> = rpc.call("ReportConnection", &request).await;
            match sent {
                Err(error @ CallError::Lost(_)) => return Err(error),
                Err(error) => debug!(%error, "cannot report a connection"),
                Ok(Empty {}) => {}
            }
        }
        shared.connections.sent(1);
    }
}

/// Fetches the announcements for logins, from servers that have them.
async fn banners(rpc: &Rpc, shared: &Shared) -> Result<(), CallError> {
    while rpc.knows(1) {
        let request = wire::GetAnnouncementBannersRequest {};
        let asked: Result<wire::GetAnnouncementBannersResponse, CallError> =
            rpc.call("GetAnnouncementBanners", &request).await;
        match asked {
            Ok(answer) => {
                let all = answer.announcement_banners.into_iter();
                let shown =
                    all.filter(|banner| banner.enabled && !banner.message.trim().is_empty());
                let shown = shown
                    .take(MAX_BANNERS)
                    .map(|banner| banner.message)
                    .collect();
                *shared
                    .banners
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = shown;
            }
            Err(error @ CallError::Lost(_)) => return Err(error),
            Err(error) => debug!(%error, "cannot get announcement banners from the server"),
        }
        sleep(BANNERS).await;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_scripts_say_by_turns_go_in_one_batch_for_each_script() {
        let line = |source: &'static str, output: &str| scripts::Line {
            source: source.into(),
            log: wire::Log {
                output: output.to_owned(),
                ..wire::Log::default()
            },
        };
        let mut lines = [
            line("a", "1"),
            line("b", "2"),
            line("a", "3"),
            line("c", "4"),
            line("b", "5"),
        ];

        assert_eq!(batch(&mut lines), 2);
        let outputs: Vec<&str> = lines.iter().map(|line| &*line.log.output).collect();
        assert_eq!(outputs, ["1", "3", "2", "4", "5"]);
        assert_eq!(batch(&mut lines[2..]), 2);
    }
}
