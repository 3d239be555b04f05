//! Connections of agents and their clients: each yamux stream is one call.
//!
//! # Source
//! coder `coderd/workspaceagentsrpc.go`, `tailnet/service.go`.

use std::{sync::Arc, time::Duration};

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
use tracing::{Instrument as _, debug, info};
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

/// Limits on a packet, for both sides.
const LIMITS: drpc::Limits = drpc::Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};
/// Number of one peer's streams at the same time; an agent needs about ten, and a client five.
const STREAMS: usize = 64;
const CLIENT_STREAMS: usize = 16;
/// Longest time from the opening of a stream to the name of its call; the two arrive together.
const NAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a call that is not a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which an agent is recorded as connected, and checked for replacement by a newer build.
const BEAT: Duration = Duration::from_secs(15);
/// Time after which a peer that reads nothing from a stream is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

const TAILNET: &str = "/coder.tailnet.v2.Tailnet/";
const AGENT: &str = "/coder.agent.v2.Agent/";

pub(super) type IncomingCall = Answer<Stream>;

/// A connection of a peer.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) plane: Arc<Plane>,
    pub(super) who: Who,
    /// Budgets of the peer, over all its connections.
    pub(super) share: Arc<Share>,
}

/// Identity of the peer.
#[derive(Clone)]
pub(super) enum Who {
    /// An agent itself, by its record.
    Agent(AgentRecord),
    /// A program with the agent's token, such as one that sends logs from outside; never the agent itself.
    Helper(AgentRecord),
    /// A client of one or more agents.
    Client(Client),
}

impl Who {
    /// Sender whose connections share a budget.
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

/// Side that ends a call first.
enum Ending {
    Ours,
    Theirs,
}

/// A client, with the person who started it.
#[derive(Clone)]
pub(super) struct Client {
    /// Id of the client as a peer.
    pub(super) id: Uuid,
    /// Person who started the client.
    pub(super) caller: Caller,
    /// Agent that the client may reach; `None` for any agent that the person may reach.
    pub(super) agent: Option<AgentId>,
}

impl Peer {
    /// Serves the peer until its connection ends, the server stops, or the agent no longer belongs to its workspace.
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
                    running.spawn(self.clone().answer(stream).in_current_span());
                    // Each call may write to the database, which delays all others.
                    sleep_until(pace.count(PACE, tokio::time::Instant::now().into_std()).into()).await;
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
        // While the store does not answer, the agent stays connected.
        self.plane.is_current(id).await.unwrap_or(true)
    }

    async fn answer(self, stream: Stream) {
        let account = self.share.packets.clone();
        let accepting = Answer::accept_with_budget(stream, LIMITS, account);
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
                // Telemetry is accepted, but not collected.
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
        // Others are told at once, however long the peer takes to end the call.
        drop(peer);
        match ending? {
            Ending::Ours => answer.end().await,
            Ending::Theirs => Ok(()),
        }
    }

    /// Exchanges node updates between a peer and the others until either side ends the call.
    async fn exchange(
        &self,
        peer: &PeerConnection,
        told: &mut mpsc::Receiver<CoordinateResponse>,
        answer: &mut IncomingCall,
    ) -> Result<Ending, CallError> {
        let (mut pace, mut due) = (Pace::default(), tokio::time::Instant::now().into_std());
        let mut expected = None;
        loop {
            // A peer that sends requests too fast still receives updates, so that its queue does not grow.
            let request = async {
                sleep_until(due.into()).await;
                answer.receive::<CoordinateRequest>().await
            };
            tokio::select! {
                request = request => match request? {
                    Some(request) => {
                        // Its requests cause updates for others, who must be able to keep up.
                        due = pace.count(cost(&request), tokio::time::Instant::now().into_std());
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
                    // Another connection has replaced it, or it did not read its updates.
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

    /// Makes the relay serve the node that the peer announces, in place of its former one.
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

    /// Checks whether a client that may reach several agents may reach the one that it asks for.
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
        // The coordinator itself refuses invalid ids.
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
        // Some time has passed since the token was issued.
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

    /// Sends the DERP map, which never changes: ours is the only relay.
    async fn derp_maps(&self, mut answer: IncomingCall) -> Result<(), CallError> {
        send(&mut answer, &self.plane.derp_map().to_wire()).await?;
        self.plane.stop().draining().await;
        answer.end().await
    }
}

/// Key of the node that a peer announces.
fn announced(request: &CoordinateRequest) -> Option<Key> {
    let node = request.update_self.as_ref()?.node.as_ref()?;
    Key::from_node_bytes(&node.key)
}

/// Cost of a request, in time until the next one: a `ready_for_handshake` of an agent costs less, because it goes to
/// a single client.
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
