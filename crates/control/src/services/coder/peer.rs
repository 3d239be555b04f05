//! Agents and those who go to them: streams on one connection, each of them a call.
//!
//! # Source
//! coder `coderd/workspaceagentsrpc.go`, `tailnet/service.go`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outpost_tailnet::{
    coordinator::{Auth, ELSEWHERE, Refusal},
    derp::Expected,
    key::Key,
    peer_connections::PeerConnection,
};
use outpost_transport::{
    drpc::{self, Answer, CallError, UNIMPLEMENTED},
    yamux::{self, Stream},
};
use outpost_wire::proto::coder::tailnet::v2::{
    CoordinateRequest, CoordinateResponse, RefreshResumeTokenRequest, RefreshResumeTokenResponse,
};
use prost::Message;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, info};
use uuid::Uuid;

use super::{
    agent,
    rate::{PACE, Pace, READY_PACE},
    updates,
    upgrade::Socket,
};
use crate::{
    model::{AgentId, AgentRecord},
    plane::{Caller, Plane, RequestError},
    services::gate::{Sender, Share},
    store::AgentChange,
};

/// What either side takes in one packet.
const LIMITS: drpc::Limits = drpc::Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};
/// Streams of one peer at a time; an agent needs about ten, and a client five.
const STREAMS: usize = 64;
const CLIENT_STREAMS: usize = 16;
/// Time between the opening of a stream and the name of its call, which come together.
const NAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a call that is no stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an agent is written down as there, and looked at whether a newer build took its place.
const BEAT: Duration = Duration::from_secs(15);
/// A peer that takes nothing of a stream for so long is cut off.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

const TAILNET: &str = "/coder.tailnet.v2.Tailnet/";
const AGENT: &str = "/coder.agent.v2.Agent/";

pub(super) type IncomingCall = Answer<Stream>;

/// One connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) plane: Arc<Plane>,
    pub(super) who: Who,
    /// What the peer may have in progress, over all its connections.
    pub(super) share: Arc<Share>,
}

/// Who is at its other end.
#[derive(Clone)]
pub(super) enum Who {
    /// An agent.
    Agent(AgentRecord),
    /// A program with the agent's token, such as one that brings logs from outside; never the agent itself.
    Helper(AgentRecord),
    /// Somebody on the way to agents.
    Client(Client),
}

impl Who {
    /// Whose connections share what they may have in progress.
    pub(super) fn sender(&self) -> Sender {
        match self {
            Self::Agent(agent) | Self::Helper(agent) => Sender::Agent(agent.id),
            Self::Client(client) => Sender::Person(client.caller.user.id),
        }
    }

    fn streams(&self) -> usize {
        match self {
            Self::Agent(_) | Self::Helper(_) => STREAMS,
            Self::Client(_) => CLIENT_STREAMS,
        }
    }
}

/// Which side ends a call first.
enum Ending {
    Ours,
    Theirs,
}

/// A client, which a person has started.
#[derive(Clone)]
pub(super) struct Client {
    /// Its own id.
    pub(super) id: Uuid,
    /// Who started it.
    pub(super) caller: Caller,
    /// Where it goes; `None` for any agent that the person may reach.
    pub(super) agent: Option<AgentId>,
}

impl Peer {
    /// Serves the peer until its connection ends, the server stops, or its agent is not the workspace's any more.
    pub(super) async fn run(self, socket: Socket) {
        let limit = self.plane.limits().header_timeout;
        let socket = match timeout(limit, socket.open(self.share.unfinished())).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return debug!(%error, "a peer disconnected before the upgrade"),
            Err(_) => return debug!("upgrade of a peer's connection timed out"),
        };
        let config = yamux::Config {
            max_streams: self.who.streams(),
            unread: Some(self.share.unread.clone()),
            ..yamux::Config::default()
        };
        let (connection, mut incoming) =
            yamux::Connection::start(socket, yamux::Role::Server, config);
        let mut running = JoinSet::new();
        let mut pace = Pace::default();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Who::Agent(agent) = &self.who {
            info!(agent = agent.name, id = %agent.id, "agent connected");
        }
        loop {
            tokio::select! {
                () = connection.closed() => break,
                () = self.plane.stop().draining() => break,
                Some(_) = running.join_next() => {}
                Some(stream) = incoming.accept() => {
                    running.spawn(self.clone().answer(stream));
                    // Each call may be written down, for all to wait for.
                    sleep_until(pace.count(PACE, Instant::now()).into()).await;
                }
                _ = beat.tick() => if !self.is_current().await {
                    info!("a newer build's agent replaced this agent");
                    if let Who::Agent(agent) = &self.who {
                        self.plane.forget_agent(agent.id);
                    }
                    break;
                },
            }
        }
        if let Who::Agent(agent) = &self.who {
            info!(agent = agent.name, id = %agent.id, "agent disconnected");
        }
    }

    async fn is_current(&self) -> bool {
        let id = match &self.who {
            Who::Agent(agent) | Who::Helper(agent) => agent.id,
            Who::Client(Client {
                agent: Some(agent), ..
            }) => *agent,
            Who::Client(Client { agent: None, .. }) => return true,
        };
        if matches!(self.who, Who::Agent(_))
            && let Err(error) = self.plane.change_agent(id, AgentChange::Seen).await
        {
            debug!(%id, %error, "cannot record that an agent is connected");
        }
        // While we cannot tell, nobody is cut off.
        self.plane.is_current(id).await.unwrap_or(true)
    }

    async fn answer(self, stream: Stream) {
        let account = self.share.packets.clone();
        let accepting = Answer::accept_paying(stream, LIMITS, account);
        let answer = match timeout(NAME_TIMEOUT, accepting).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => return debug!(%error, "a peer opened a stream that is not a call"),
        };
        let method = answer.method().to_owned();
        let answered = match (
            method.strip_prefix(TAILNET),
            method.strip_prefix(AGENT),
            &self.who,
        ) {
            (Some("Coordinate"), _, Who::Agent(agent)) => {
                let id = agent.id.0;
                self.coordinate(id, Auth::Agent(id), answer).await
            }
            (Some("Coordinate"), _, Who::Client(client)) => {
                let auth = Auth::Client(client.agent.map(|agent| agent.0));
                self.coordinate(client.id, auth, answer).await
            }
            (Some("StreamDERPMaps"), ..) => self.derp_maps(answer).await,
            (Some("PostTelemetry"), ..) => {
                // Nobody collects it.
                unary(
                    answer,
                    |_: outpost_wire::proto::provisionerd::Empty| async {
                        Ok(outpost_wire::proto::provisionerd::Empty {})
                    },
                )
                .await
            }
            (Some("RefreshResumeToken"), _, Who::Client(client)) => {
                unary(answer, |_: RefreshResumeTokenRequest| async {
                    Ok(self.resume_token(client))
                })
                .await
            }
            (Some("WorkspaceUpdates"), _, Who::Client(client)) => {
                updates::tell(&self.plane, &client.caller, answer).await
            }
            (_, Some(name), Who::Agent(record) | Who::Helper(record))
                if matches!(self.who, Who::Agent(_)) || !agent::is_of_itself(name) =>
            {
                let answered = agent::answer(&self.plane, record, name, answer);
                let late = |_| Err(CallError::Lost(std::io::ErrorKind::TimedOut.into()));
                timeout(CALL_TIMEOUT, answered).await.unwrap_or_else(late)
            }
            (Some("Coordinate"), _, Who::Helper(_)) | (_, Some(_), Who::Helper(_)) => {
                let why = "only the agent itself may call this, with role=agent";
                answer.fail_with(UNIMPLEMENTED, why).await
            }
            (..) => answer.unimplemented().await,
        };
        if let Err(error) = answered {
            debug!(method, %error, "a peer cancelled its call");
        }
    }

    async fn coordinate(
        &self,
        id: Uuid,
        auth: Auth,
        mut answer: IncomingCall,
    ) -> Result<(), CallError> {
        let (peer, mut told) = self.plane.coordinator().connect(id, auth);
        let peer = match &self.who {
            Who::Client(client) => peer.until(client.caller.access.clone()),
            Who::Agent(_) | Who::Helper(_) => peer,
        };
        let ending = self.exchange(&peer, &mut told, &mut answer).await;
        // The others hear of it now, however long the peer takes to end the call.
        drop(peer);
        match ending? {
            Ending::Ours => answer.end().await,
            Ending::Theirs => Ok(()),
        }
    }

    /// Tells a peer and the others of each other until either side has enough.
    async fn exchange(
        &self,
        peer: &PeerConnection,
        told: &mut mpsc::Receiver<CoordinateResponse>,
        answer: &mut IncomingCall,
    ) -> Result<Ending, CallError> {
        let (mut pace, mut due) = (Pace::default(), Instant::now());
        let mut expected = None;
        loop {
            // A peer that asks too fast still hears of others, so that what waits for it does not pile up.
            let request = async {
                sleep_until(due.into()).await;
                answer.receive::<CoordinateRequest>().await
            };
            tokio::select! {
                request = request => match request? {
                    Some(request) => {
                        // What it says is told to others, who must be able to take it.
                        due = pace.count(cost(&request), Instant::now());
                        let is_last = request.disconnect.is_some();
                        let key = announced(&request);
                        let done = match self.look_up(&request).await {
                            Ok(()) => peer.request(request),
                            Err(refusal) => Err(refusal),
                        };
                        if let Err(refusal) = done {
                            drain(answer, told).await?;
                            let last = CoordinateResponse {
                                error: refusal.to_string(),
                                ..CoordinateResponse::default()
                            };
                            send(answer, &last).await?;
                            return Ok(Ending::Ours);
                        }
                        if is_last {
                            drain(answer, told).await?;
                            return Ok(Ending::Ours);
                        }
                        self.expect_at_relay(&mut expected, key);
                    }
                    None => return Ok(Ending::Theirs),
                },
                response = told.recv() => match response {
                    Some(response) => send(answer, &response).await?,
                    // Another connection took its place, or it did not take what it was told.
                    None => return Ok(Ending::Ours),
                },
                () = self.plane.stop().draining() => {
                    let last = CoordinateResponse {
                        error: "coordinator closed".to_owned(),
                        ..CoordinateResponse::default()
                    };
                    send(answer, &last).await?;
                    return Ok(Ending::Ours);
                }
            }
        }
    }

    /// Lets the relay serve the node that the peer announces, in place of the one before.
    fn expect_at_relay(&self, expected: &mut Option<Expected>, key: Option<Key>) {
        let Some(key) = key else {
            return;
        };
        if expected.as_ref().is_some_and(|it| it.key() == key) {
            return;
        }
        let access = match &self.who {
            Who::Client(client) => Some(client.caller.access.clone()),
            Who::Agent(_) | Who::Helper(_) => None,
        };
        let before = expected.replace(self.plane.relay().expect(key, access));
        before.into_iter().for_each(Expected::replace);
    }

    /// Whether a client that may go to several agents may go to the one that it asks for.
    async fn look_up(&self, request: &CoordinateRequest) -> Result<(), Refusal> {
        let (
            Who::Client(Client {
                caller,
                agent: None,
                ..
            }),
            Some(tunnel),
        ) = (&self.who, &request.add_tunnel)
        else {
            return Ok(());
        };
        // The coordinator itself refuses what is no id.
        let Ok(id) = Uuid::from_slice(&tunnel.id) else {
            return Ok(());
        };
        match self.plane.may_reach(caller, AgentId(id)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Authorization(ELSEWHERE)),
            Err(error) => {
                debug!(%id, %error, "cannot look up an agent's owner");
                let why = "the server cannot look up this agent's owner at the moment";
                Err(Refusal::Authorization(why))
            }
        }
    }

    fn resume_token(&self, client: &Client) -> RefreshResumeTokenResponse {
        let (token, until) = self.plane.resume_token(&client.caller, client.id);
        // A moment has passed since it was made.
        let left = until.duration_since(self.plane.now());
        let left = left.round(jiff::Unit::Second).map_or(0, |it| it.as_secs());
        RefreshResumeTokenResponse {
            token: token.expose().to_owned(),
            refresh_in: Some(prost_types::Duration {
                seconds: left / 2,
                nanos: 0,
            }),
            expires_at: Some(prost_types::Timestamp {
                seconds: until.as_second(),
                nanos: until.subsec_nanosecond(),
            }),
        }
    }

    /// Ours is the only relay, and it stays where it is.
    async fn derp_maps(&self, mut answer: IncomingCall) -> Result<(), CallError> {
        send(&mut answer, &self.plane.derp_map().to_wire()).await?;
        self.plane.stop().draining().await;
        answer.end().await
    }
}

/// The key of the node that a peer announces.
fn announced(request: &CoordinateRequest) -> Option<Key> {
    let node = request.update_self.as_ref()?.node.as_ref()?;
    Key::from_node_bytes(&node.key)
}

/// What a request costs those who are told of it: an answer that its sender is ready for a client goes to that client
/// alone.
fn cost(request: &CoordinateRequest) -> Duration {
    let changes = request.update_self.is_some()
        || request.add_tunnel.is_some()
        || request.remove_tunnel.is_some();
    let clients = u32::try_from(request.ready_for_handshake.len()).unwrap_or(u32::MAX);
    match (changes, clients) {
        (false, 1..) => READY_PACE.saturating_mul(clients),
        (_, _) => PACE,
    }
}

async fn drain(
    answer: &mut IncomingCall,
    told: &mut mpsc::Receiver<CoordinateResponse>,
) -> Result<(), CallError> {
    while let Ok(response) = told.try_recv() {
        send(answer, &response).await?;
    }
    Ok(())
}

pub(super) async fn send(
    answer: &mut IncomingCall,
    message: &impl Message,
) -> Result<(), CallError> {
    let late = |_| Err(CallError::Lost(std::io::ErrorKind::TimedOut.into()));
    timeout(SEND_TIMEOUT, answer.send(message))
        .await
        .unwrap_or_else(late)
}

pub(super) fn bytes(id: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

pub(super) async fn unary<Q, A, F>(
    mut answer: IncomingCall,
    call: impl FnOnce(Q) -> F,
) -> Result<(), CallError>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<A, RequestError>>,
{
    let Some(request) = answer.receive().await? else {
        return Ok(());
    };
    match call(request).await {
        Ok(message) => answer.reply(&message).await,
        Err(error) => answer.fail(&error.to_string()).await,
    }
}
