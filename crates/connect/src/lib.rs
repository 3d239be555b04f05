//! Connection to an agent: finds it at its server, ours or a coderd, and reaches it through the overlay.
//!
//! # Source
//! coder `codersdk/workspacesdk/workspacesdk.go`, `cli/ssh.go`.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod ssh;
pub mod ssh_settings;

use std::{
    io,
    net::SocketAddrV6,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::http::StatusCode;
use outpost_base::{secret::Secret, stop::Stop};
use outpost_net::{
    back_off::BackOff,
    http::{self, Client, RequestError, read_limited},
};
use outpost_tailnet::{
    self as tailnet, DerpMap, PeerUpdate, Stream, Tailnet, Via, address,
    coordination::{Resumption, Side, coordinate, follow_derp_map, keep_resumption},
    derp::client::Dial,
    dial::{SESSION_TOKEN, dial},
};
use outpost_transport::coder::{ApiVersion, DialError, in_time, token_header};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tracing::{Instrument as _, debug, debug_span};
use url::Url;
use uuid::Uuid;

/// Longest wait for the agent to acknowledge our last packets.
const FAREWELL: Duration = Duration::from_millis(250);
/// Port in the overlay at which an agent serves SSH.
pub const SSH_PORT: u16 = 1;

/// Silence of the agent after which a connection ends; agents have the same limit for their clients.
const MAX_SILENCE: Duration = Duration::from_secs(72 * 60 * 60);
/// Time for which a server that is too busy for us is asked again.
const BUSY: Duration = Duration::from_secs(10 * 60);
/// Time for which a server is asked again that hangs up on us, as it does while it has all connections of our address
/// that it accepts, or that does not answer in time, as while hundreds of sessions begin.
const CUT_OFF: Duration = Duration::from_secs(60);
/// Time after which a server is believed when it says that there is no such agent: a proxy may say so while it
/// restarts.
const GONE: Duration = Duration::from_secs(10);
/// Longest response in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Version that we request at a coordinator; all that know clients know it.
const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0 };

/// A server, with the caller's token.
#[derive(Clone)]
pub struct Server {
    http: Client,
    token: Secret,
    may_be_direct: bool,
}

/// A workspace has no agent to connect to, or none of that name.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAgent(String);

/// Returns whether the server says that it is too busy, and for how long.
fn is_busy(error: &DialError) -> bool {
    error.status() == Some(StatusCode::TOO_MANY_REQUESTS) && error.retry_after().is_some()
}

/// Returns whether the server accepted our connection, and then did not answer.
fn is_cut_off(error: &DialError) -> bool {
    match error {
        DialError::Request(RequestError::Unreachable { source, .. }) => !source.is_connect(),
        DialError::Timeout { .. } => true,
        _ => false,
    }
}

/// A workspace, as far as it leads to agents.
#[derive(Clone, Debug, Deserialize)]
pub struct Workspace {
    /// Name of the workspace.
    pub name: String,
    /// Name of the workspace's owner.
    #[serde(default)]
    pub owner_name: String,
    /// Latest build of the workspace.
    pub latest_build: Build,
}

/// A build of a workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Build {
    /// `start`, `stop` or `delete`.
    pub transition: String,
    /// Status of the build, such as `running`.
    pub status: String,
    /// Resources that the build created.
    #[serde(default)]
    pub resources: Vec<Resource>,
}

/// A resource of a build.
#[derive(Clone, Debug, Deserialize)]
pub struct Resource {
    /// Agents that run in it; `None` if there are none.
    #[serde(default)]
    pub agents: Option<Vec<Agent>>,
}

/// An agent of a workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    /// Unique id of the agent.
    pub id: Uuid,
    /// Name of the agent.
    pub name: String,
    /// `connecting`, `connected`, `disconnected` or `timeout`.
    #[serde(default)]
    pub status: String,
    /// Lifecycle state of the agent, such as `ready`.
    #[serde(default)]
    pub lifecycle_state: String,
}

#[derive(Deserialize)]
struct ConnectionInfo {
    derp_map: DerpMap,
    #[serde(default)]
    derp_force_websockets: bool,
    #[serde(default)]
    disable_direct_connections: bool,
}

impl Workspace {
    /// Returns whether a build is queued or runs that starts the workspace, and so may bring agents.
    pub fn is_starting(&self) -> bool {
        let Build {
            transition, status, ..
        } = &self.latest_build;
        transition == "start" && ["pending", "starting"].contains(&status.as_str())
    }

    /// Returns the agent of this name, or the only one.
    ///
    /// # Errors
    /// [`NoAgent`] names those that there are.
    pub fn agent(&self, name: &str) -> Result<Agent, NoAgent> {
        let resources = self.latest_build.resources.iter();
        let all: Vec<&Agent> = resources
            .flat_map(|it| it.agents.iter().flatten())
            .collect();
        let names: Vec<&str> = all.iter().map(|agent| &*agent.name).collect();
        let (workspace, names) = (&self.name, names.join(", "));
        let none = NoAgent;
        let Build {
            transition, status, ..
        } = &self.latest_build;
        if ["failed", "canceled"].contains(&status.as_str())
            && (all.is_empty() || transition != "start")
        {
            return Err(none(format!(
                "the last build of workspace `{workspace}`, a {transition}, is {status}: see `outpost builds {workspace}`, \
                 and start it with `outpost start {workspace}`"
            )));
        }
        match transition.as_str() {
            "start" => {}
            "delete" => return Err(none(format!("workspace `{workspace}` is {status}"))),
            _ => {
                return Err(none(format!(
                    "workspace `{workspace}` is {status}: start it with `outpost workspace start {workspace}`"
                )));
            }
        }
        match (name, all.as_slice()) {
            (_, []) if self.is_starting() => Err(none(format!(
                "workspace `{workspace}` is {status}, and has no agent yet"
            ))),
            (_, []) => Err(none(format!("workspace `{workspace}` has no agent"))),
            ("", [agent]) => Ok((*agent).clone()),
            ("", _) => Err(none(format!(
                "workspace `{workspace}` has several agents: use {workspace}.AGENT, where AGENT is one of {names}"
            ))),
            (name, all) => all
                .iter()
                .find(|agent| agent.name.eq_ignore_ascii_case(name))
                .map(|agent| (*agent).clone())
                .ok_or_else(|| {
                    none(format!(
                        "workspace `{workspace}` has no agent `{name}`; it has {names}"
                    ))
                }),
        }
    }
}

impl Server {
    /// URL of the server.
    pub fn url(&self) -> &Url {
        self.http.url()
    }

    /// Returns the server that `http` leads to.
    pub fn new(http: Client, token: Secret) -> Self {
        Self {
            http,
            token,
            may_be_direct: true,
        }
    }

    /// Reaches agents only through relays.
    pub fn without_direct_paths(self) -> Self {
        Self {
            may_be_direct: false,
            ..self
        }
    }

    /// Returns the name of the user whose token this is.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn user_name(&self) -> Result<String, DialError> {
        #[derive(Deserialize)]
        struct User {
            username: String,
        }
        let user: User = self.get(&["users", "me"]).await?;
        Ok(user.username)
    }

    /// Returns a workspace by `NAME` or `OWNER/NAME`.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn workspace(&self, named: &str) -> Result<Workspace, DialError> {
        let (owner, name) = named.split_once('/').unwrap_or(("me", named));
        self.get(&["users", owner, "workspace", name]).await
    }

    /// Returns the caller's workspaces.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn workspaces(&self) -> Result<Vec<Workspace>, DialError> {
        #[derive(Deserialize)]
        struct All {
            workspaces: Vec<Workspace>,
        }
        let all: All = self.get(&["workspaces"]).await?;
        Ok(all.workspaces)
    }

    /// Returns an agent as it is now.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn agent(&self, id: Uuid) -> Result<Agent, DialError> {
        self.get(&["workspaceagents", &id.to_string()]).await
    }

    /// Sends a request, and repeats it while the server is too busy, whether it says so or not.
    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, DialError> {
        let begun = Instant::now();
        let mut back_off = BackOff::default();
        loop {
            back_off.wait().await;
            match self.get_once(path).await {
                Err(error) if is_busy(&error) && begun.elapsed() < BUSY => {
                    back_off.hold(error.retry_after().unwrap_or_default());
                }
                Err(error) if is_cut_off(&error) && begun.elapsed() < CUT_OFF => {
                    debug!(%error, "the server is busy; retrying");
                }
                ended => return ended,
            }
        }
    }

    async fn get_once<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, DialError> {
        let mut url = self.http.endpoint("api/v2");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        let mut headers = self.http.headers().await?;
        headers.insert(SESSION_TOKEN, token_header(&self.token)?);
        let asked = async {
            let answer = self.http.get(&url, &headers).await?;
            match answer.status().is_success() {
                true => Ok(read_limited(answer, MAX_ANSWER).await),
                false => Err(DialError::refused(answer).await),
            }
        };
        let body = in_time(&url, asked).await?;
        serde_json::from_slice(&body).map_err(|error| DialError::Foreign {
            url: http::shown(&url),
            reason: error.to_string(),
        })
    }

    /// Begins to connect to an agent. Only the server's first response is waited for.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn dial_agent(&self, agent: Uuid) -> Result<AgentConn, DialError> {
        let info: ConnectionInfo = self
            .get(&["workspaceagents", &agent.to_string(), "connection"])
            .await?;
        let id = Uuid::new_v4();
        let dial = Dial {
            http: self.http.clone(),
            by_websocket: Arc::new(info.derp_force_websockets.into()),
            token: Arc::new(Mutex::new(self.token.clone())),
        };
        let (node, driver, mut events) = tailnet::start(tailnet::Config {
            id: address::node_id(id),
            addresses: vec![address::primary(id)],
            dial,
            max_silence: Some(MAX_SILENCE),
            may_be_direct: self.may_be_direct && !info.disable_direct_connections,
        });
        let mut map = info.derp_map;
        map.rewrite_embedded(self.http.url());
        let stop = Stop::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(stop.clone()).instrument(debug_span!("tailnet")));
        node.set_derp_map(map).await;
        let (ready, readied) = mpsc::channel(1);
        let (failed, failure) = mpsc::channel(1);
        let (server, on_way, leaving) = (self.clone(), node.clone(), Stop::new());
        let left = leaving.clone();
        let coordinating = async move {
            let side = Side::Client(vec![agent], ready);
            let ended = server
                .keep_coordinated(agent, &on_way, &mut events, &side, &left)
                .await;
            if let Err(error) = ended {
                // The receiver may be gone: it is then connected already.
                let _ = failed.send(error).await;
            }
        };
        tasks.spawn(coordinating.instrument(debug_span!("coordination", %agent)));
        Ok(AgentConn {
            node,
            agent,
            readied,
            failure,
            tasks,
            stop,
            leaving,
        })
    }

    /// Coordinates until `stop` drains, and reconnects whenever the server was away. A refusal of the first attempt
    /// is final; an agent that the server no longer knows later is gone, and so are the connections to it.
    async fn keep_coordinated(
        &self,
        agent: Uuid,
        node: &Tailnet,
        events: &mut mpsc::Receiver<tailnet::Event>,
        side: &Side,
        stop: &Stop,
    ) -> Result<(), DialError> {
        let path = format!("api/v2/workspaceagents/{agent}/coordinate");
        let mut back_off = BackOff::default();
        let mut has_been_there = false;
        let mut missing_since = None;
        let resumption = Resumption::default();
        loop {
            tokio::select! {
                () = back_off.wait() => {}
                () = stop.draining() => return Ok(()),
            }
            let token = resumption.token();
            let query = token.as_ref().map(|token| ("resume_token", token.expose()));
            let dialled = dial(&self.http, &path, query.as_slice(), &self.token, VERSION).await;
            let connection = match dialled {
                Ok(connection) => connection,
                Err(error) if token.is_some() && error.is_resume_token() => {
                    debug!(
                        "the coordinator no longer knows this client; reconnecting under a new id"
                    );
                    resumption.set(None);
                    continue;
                }
                Err(error) => {
                    if error.is_final() && !has_been_there {
                        return Err(error);
                    }
                    debug!(%error, "cannot connect to the coordinator; retrying");
                    if let Some(pause) = error.retry_after() {
                        back_off.hold(pause);
                    }
                    missing_since = match error.is_not_found() {
                        true => missing_since.or_else(|| Some(Instant::now())),
                        false => None,
                    };
                    if missing_since.is_some_and(|since| since.elapsed() >= GONE) {
                        node.update(agent, PeerUpdate::Disconnected).await;
                        return Err(error);
                    }
                    continue;
                }
            };
            (has_been_there, missing_since) = (true, None);
            let ended = tokio::select! {
                ended = coordinate(&connection, node, events, side, stop) => ended,
                // Without further updates the last map stays in use, so a regular end is ignored.
                Err(error) = follow_derp_map(&connection, node, |map| map.rewrite_embedded(self.http.url())) => Err(error),
                Err(error) = keep_resumption(&connection, &resumption) => Err(error),
                () = connection.closed() => Ok(()),
            };
            if stop.is_draining() {
                return Ok(());
            }
            if let Err(error) = ended {
                debug!(%error, "lost the connection to the coordinator; retrying");
            }
            node.all_lost().await;
        }
    }
}

/// Connection to one agent. Dropping it breaks it off; [`AgentConn::leave`] says goodbye.
pub struct AgentConn {
    node: Tailnet,
    agent: Uuid,
    readied: mpsc::Receiver<Uuid>,
    failure: mpsc::Receiver<DialError>,
    tasks: JoinSet<()>,
    stop: Stop,
    leaving: Stop,
}

impl AgentConn {
    /// Waits until the agent answers inside the tunnel; returns how long its answer took.
    ///
    /// # Errors
    /// [`DialError`] if the server does not let us through. There is no deadline: the agent may come yet.
    pub async fn wait_until_reachable(&mut self) -> Result<Duration, DialError> {
        let failure = &mut self.failure;
        let readied = &mut self.readied;
        let there = async {
            // The result does not matter: the ping below shows whether the agent is reachable.
            let _ = readied.recv().await;
            self.node.reach(self.agent).await
        };
        tokio::select! {
            took = there => Ok(took),
            Some(error) = failure.recv() => Err(error),
        }
    }

    /// Connects to a port of the agent.
    ///
    /// # Errors
    /// If nobody listens there, or the agent is away.
    pub async fn connect(&self, port: u16) -> io::Result<Stream> {
        let target = SocketAddrV6::new(address::primary(self.agent), port, 0, 0);
        self.node.connect(target).await
    }

    /// Returns for how long the agent has left something unanswered; zero if it answers.
    pub fn silent_for(&self) -> Duration {
        self.node.silent_for(address::primary(self.agent))
    }

    /// Pings the agent by the path that packets take now: returns the latency, and the path.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn ping(&self, within: Duration) -> io::Result<(Duration, Via)> {
        let begun = Instant::now();
        loop {
            let left = within.saturating_sub(begun.elapsed());
            if let Some(answered) = self.node.ping(self.agent, left).await? {
                return Ok(answered);
            }
            if begun.elapsed() >= within {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Disconnects, so that the agent hears of it at once.
    pub async fn leave(mut self) {
        // The coordinator's notice of our goodbye must not overtake our last packets: an agent that answers this ping
        // has them.
        let _ = self.node.ping(self.agent, FAREWELL).await;
        self.leaving.drain();
        // The node may end once its coordination has ended.
        tokio::select! {
            _ = self.tasks.join_next() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        self.stop.cancel();
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn an_agent_is_found_by_its_name_or_because_it_is_the_only_one() {
        let workspace = |transition: &str, agents: &[&str]| -> Workspace {
            let agents: Vec<_> = agents
                .iter()
                .map(|name| serde_json::json!({ "id": Uuid::new_v4(), "name": name }))
                .collect();
            let text = serde_json::json!({
                "name": "w",
                "latest_build": {
                    "transition": transition,
                    "status": "stopped",
                    "resources": [{ "agents": agents }, { "agents": null }],
                },
            });
            serde_json::from_value(text).unwrap()
        };

        assert_eq!(
            workspace("start", &["main"]).agent("").unwrap().name,
            "main"
        );
        let two = workspace("start", &["main", "gpu"]);
        assert_eq!(two.agent("GPU").unwrap().name, "gpu");
        let error = |found: Result<Agent, NoAgent>| found.unwrap_err().to_string();
        assert!(error(two.agent("")).contains("use w.AGENT, where AGENT is one of main, gpu"));
        assert!(error(two.agent("x")).contains("no agent `x`; it has main, gpu"));
        assert!(error(workspace("stop", &["main"]).agent("")).contains("is stopped"));
        assert!(error(workspace("start", &[]).agent("")).contains("has no agent"));
        let mut failed = workspace("start", &[]);
        failed.latest_build.status = "failed".to_owned();
        assert!(error(failed.agent("")).contains("is failed: see `outpost builds w`"));
        let mut pending = workspace("start", &[]);
        pending.latest_build.status = "pending".to_owned();
        assert!(pending.is_starting() && error(pending.agent("")).contains("is pending"));
        assert!(!workspace("stop", &[]).is_starting());
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_on_us_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let http = Client::new(http::Config::new(url.parse().unwrap())).unwrap();
        let server = Server::new(http, Secret::new("token"));
        let serving = async {
            for is_busy in [true, true, false] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                if !is_busy {
                    let answer =
                        "HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{\"username\":\"amy\"}";
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        };

        let (name, ()) = tokio::join!(server.user_name(), serving);

        assert_eq!(name.unwrap(), "amy");
    }
}
