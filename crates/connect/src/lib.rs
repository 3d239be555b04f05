//! The way to an agent: finds it at its server, ours or a coderd, and reaches it through the overlay.
//!
//! # Source
//! coder `codersdk/workspacesdk/workspacesdk.go`, `cli/ssh.go`.

pub mod ssh;
pub mod ssh_settings;

use std::{
    io,
    net::SocketAddrV6,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ::http::{HeaderValue, StatusCode};
use outpost_base::{secret::Secret, stop::Stop};
use outpost_net::{
    back_off::BackOff,
    headers::HeaderError,
    http::{self, Client, RequestError, read_limited},
};
use outpost_tailnet::{
    self as tailnet, DerpMap, PeerUpdate, Stream, Tailnet, address,
    coordination::{Resumption, Side, coordinate, follow_derp_map, keep_resumption},
    derp::client::Dial,
    dial::{DialError, SESSION_TOKEN, dial, retry_after},
};
use outpost_transport::coder::{ApiVersion, ErrorAnswer};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tracing::debug;
use url::Url;
use uuid::Uuid;

/// How long we wait for the agent to have our last packets.
const FAREWELL: Duration = Duration::from_millis(250);
/// The port of the overlay that leads to an agent's SSH.
pub const SSH_PORT: u16 = 1;

/// A connection whose agent is silent for so long has ended; agents have the same limit for their clients.
const MAX_SILENCE: Duration = Duration::from_secs(72 * 60 * 60);
/// A server that is too busy for us is asked again for so long.
const BUSY: Duration = Duration::from_secs(10 * 60);
/// A server that hangs up on us, as it does while it has all connections of our address that it takes, or that does not
/// answer in time, as it may while hundreds of sessions begin, is asked again for so long.
const CUT_OFF: Duration = Duration::from_secs(60);
/// A server that says for so long that there is no such agent is believed: a proxy may say so while it restarts.
const GONE: Duration = Duration::from_secs(10);
/// Time for one question.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;
/// What we ask for at a coordinator; all that know clients know it.
const VERSION: ApiVersion = ApiVersion { major: 2, minor: 0 };

/// A server, and who asks.
#[derive(Clone)]
pub struct Server {
    http: Client,
    token: Secret,
}

/// Why an agent is not found or reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The operator's headers are not to be had.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// The server refused.
    #[error("{url} answered {status}: {answer}")]
    Refused {
        /// Where.
        url: Url,
        /// The status.
        status: StatusCode,
        /// What it says.
        answer: Box<ErrorAnswer>,
    },
    /// The server is too busy for us.
    #[error("{url} is busy: {answer}")]
    Busy {
        /// Where.
        url: Url,
        /// What it says.
        answer: Box<ErrorAnswer>,
        /// When it wants to be asked again.
        retry_after: Duration,
    },
    /// The server's answer makes no sense.
    #[error("unexpected answer from {url}: {reason}")]
    Foreign {
        /// Where.
        url: Url,
        /// What is wrong.
        reason: String,
    },
    /// The coordinator cannot be reached, and never will.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server did not answer in time.
    #[error("{url} did not answer within {} seconds", TIMEOUT.as_secs())]
    Timeout {
        /// Where.
        url: Url,
    },
    /// There is no agent to go to.
    #[error("{0}")]
    NoAgent(String),
    /// The token cannot be sent.
    #[error("token has characters that a header cannot carry")]
    Token,
}

impl ConnectError {
    /// Whether the server took our connection, and then gave no answer.
    fn is_cut_off(&self) -> bool {
        match self {
            Self::Request(RequestError::Unreachable { source, .. }) => !source.is_connect(),
            Self::Timeout { .. } => true,
            _ => false,
        }
    }
}

/// A workspace, as far as it leads to agents.
#[derive(Clone, Debug, Deserialize)]
pub struct Workspace {
    /// Its name.
    pub name: String,
    /// Whose it is.
    #[serde(default)]
    pub owner_name: String,
    /// What was done with it last.
    pub latest_build: Build,
}

/// What was done with a workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Build {
    /// `start`, `stop` or `delete`.
    pub transition: String,
    /// Such as `running`.
    pub status: String,
    /// What it made.
    #[serde(default)]
    pub resources: Vec<Resource>,
}

/// What a build made.
#[derive(Clone, Debug, Deserialize)]
pub struct Resource {
    /// What runs in it.
    #[serde(default)]
    pub agents: Option<Vec<Agent>>,
}

/// An agent.
#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// `connecting`, `connected`, `disconnected` or `timeout`.
    #[serde(default)]
    pub status: String,
    /// How far it came, such as `ready`.
    #[serde(default)]
    pub lifecycle_state: String,
}

#[derive(Deserialize)]
struct ConnectionInfo {
    derp_map: DerpMap,
    #[serde(default)]
    derp_force_websockets: bool,
}

impl Workspace {
    /// The agent of this name, or the only one.
    ///
    /// # Errors
    /// [`ConnectError::NoAgent`] names those that there are.
    pub fn agent(&self, name: &str) -> Result<Agent, ConnectError> {
        let resources = self.latest_build.resources.iter();
        let all: Vec<&Agent> = resources
            .flat_map(|it| it.agents.iter().flatten())
            .collect();
        let names: Vec<&str> = all.iter().map(|agent| &*agent.name).collect();
        let (workspace, names) = (&self.name, names.join(", "));
        let none = |text: String| ConnectError::NoAgent(text);
        if self.latest_build.transition != "start" {
            let status = &self.latest_build.status;
            return Err(none(format!(
                "workspace `{workspace}` is {status}: start it with `outpost workspace start {workspace}`"
            )));
        }
        match (name, all.as_slice()) {
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
    /// Its address.
    pub fn url(&self) -> &Url {
        self.http.url()
    }

    /// The server that `http` leads to.
    pub fn new(http: Client, token: Secret) -> Self {
        Self { http, token }
    }

    /// The name of the user whose token this is.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn user_name(&self) -> Result<String, ConnectError> {
        #[derive(Deserialize)]
        struct User {
            username: String,
        }
        let user: User = self.get(&["users", "me"]).await?;
        Ok(user.username)
    }

    /// A workspace by `NAME` or `OWNER/NAME`.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn workspace(&self, named: &str) -> Result<Workspace, ConnectError> {
        let (owner, name) = named.split_once('/').unwrap_or(("me", named));
        self.get(&["users", owner, "workspace", name]).await
    }

    /// The caller's workspaces.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn workspaces(&self) -> Result<Vec<Workspace>, ConnectError> {
        #[derive(Deserialize)]
        struct All {
            workspaces: Vec<Workspace>,
        }
        let all: All = self.get(&["workspaces"]).await?;
        Ok(all.workspaces)
    }

    /// An agent as it is now.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn agent(&self, id: Uuid) -> Result<Agent, ConnectError> {
        self.get(&["workspaceagents", &id.to_string()]).await
    }

    /// Asks the server, and again when it is too busy, whether it says so or not.
    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ConnectError> {
        let begun = Instant::now();
        let mut back_off = BackOff::default();
        loop {
            back_off.wait().await;
            match self.get_once(path).await {
                Err(ConnectError::Busy { retry_after, .. }) if begun.elapsed() < BUSY => {
                    back_off.hold(retry_after);
                }
                Err(error) if error.is_cut_off() && begun.elapsed() < CUT_OFF => {
                    debug!(%error, "the server is busy; retrying");
                }
                ended => return ended,
            }
        }
    }

    async fn get_once<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ConnectError> {
        let mut url = self.http.endpoint("api/v2");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        let mut headers = self.http.headers().await?;
        let mut token =
            HeaderValue::from_str(self.token.expose()).map_err(|_| ConnectError::Token)?;
        token.set_sensitive(true);
        headers.insert(SESSION_TOKEN, token);
        let asked = async {
            let answer = self.http.get(&url, &headers).await?;
            let (status, after) = (answer.status(), retry_after(answer.headers()));
            Ok::<_, RequestError>((status, after, read_limited(answer, MAX_ANSWER).await))
        };
        let late = |_| ConnectError::Timeout {
            url: http::bare(&url),
        };
        let (status, after, body) = timeout(TIMEOUT, asked).await.map_err(late)??;
        let url = http::bare(&url);
        let answer = || Box::new(ErrorAnswer::read(&body));
        if let (StatusCode::TOO_MANY_REQUESTS, Some(retry_after)) = (status, after) {
            return Err(ConnectError::Busy {
                url,
                answer: answer(),
                retry_after,
            });
        }
        if !status.is_success() {
            return Err(ConnectError::Refused {
                url,
                status,
                answer: answer(),
            });
        }
        serde_json::from_slice(&body).map_err(|error| ConnectError::Foreign {
            url,
            reason: error.to_string(),
        })
    }

    /// Sets out for an agent. Nothing is waited for but the server's first answer.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn dial_agent(&self, agent: Uuid) -> Result<AgentConn, ConnectError> {
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
        });
        let mut map = info.derp_map;
        map.rewrite_embedded(self.http.url());
        let stop = Stop::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(stop.clone()));
        node.set_derp_map(map).await;
        let (ready, readied) = mpsc::channel(1);
        let (failed, failure) = mpsc::channel(1);
        let (server, on_way, leaving) = (self.clone(), node.clone(), Stop::new());
        let left = leaving.clone();
        tasks.spawn(async move {
            let side = Side::Client(vec![agent], ready);
            let ended = server
                .keep_coordinated(agent, &on_way, &mut events, &side, &left)
                .await;
            if let Err(error) = ended {
                // Who does not wait any more has what they wanted.
                let _ = failed.send(error).await;
            }
        });
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

    /// Coordinates until `stop` drains, and again whenever the server was away. What the server refuses at first, it
    /// will refuse again; an agent that it does not know any more later is gone, and so are the connections to it.
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
                // A map that does not change any more is still a map.
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

/// The way to one agent. Dropped, it is cut off; [`AgentConn::leave`] says goodbye.
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
    /// Waits until the agent answers inside the tunnel; says how long its answer took.
    ///
    /// # Errors
    /// [`ConnectError::Dial`] if the server does not let us through. There is no deadline: the agent may come yet.
    pub async fn arrive(&mut self) -> Result<Duration, ConnectError> {
        let failure = &mut self.failure;
        let readied = &mut self.readied;
        let there = async {
            // Whether it is told or not, it answers or does not.
            let _ = readied.recv().await;
            self.node.reach(self.agent).await
        };
        tokio::select! {
            took = there => Ok(took),
            Some(error) = failure.recv() => Err(error.into()),
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

    /// How long the agent has not answered what it should have; zero if it does.
    pub fn silent_for(&self) -> Duration {
        self.node.silent_for(address::primary(self.agent))
    }

    /// Asks the agent by the way that packets take now: how long it took, and the region of the relay.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn ping(&self, within: Duration) -> io::Result<(Duration, i32)> {
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

    /// Leaves, so that the agent hears of it at once.
    pub async fn leave(mut self) {
        // The coordinator's word that we go must not overtake our last packets: who answers this has them.
        let _ = self.node.ping(self.agent, FAREWELL).await;
        self.leaving.drain();
        // The node goes once nobody coordinates it any more.
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
        let error = |found: Result<Agent, ConnectError>| found.unwrap_err().to_string();
        assert!(error(two.agent("")).contains("use w.AGENT, where AGENT is one of main, gpu"));
        assert!(error(two.agent("x")).contains("no agent `x`; it has main, gpu"));
        assert!(error(workspace("stop", &["main"]).agent("")).contains("is stopped"));
        assert!(error(workspace("start", &[]).agent("")).contains("has no agent"));
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
