//! Connection of a node to its coordinator: announces the node, and receives node updates of its peers.
//!
//! # Source
//! coder `tailnet/controllers.go`: requests, responses and the goodbye.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use outpost_base::{secret::Secret, stop::Stop};
use outpost_transport::{
    drpc::{Call, CallError, Limits},
    yamux,
};
use outpost_wire::proto::coder::tailnet::v2::{
    self as wire, CoordinateRequest, CoordinateResponse,
    coordinate_request::{Disconnect, ReadyForHandshake, Tunnel, UpdateSelf},
    coordinate_response::peer_update::Kind,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::debug;
use uuid::Uuid;

use super::{DerpMap, Event, Node, PeerUpdate, Tailnet};

/// Time after which a coordinator that reads nothing counts as away.
const SEND: Duration = Duration::from_secs(10);
/// Longest time for one call.
const CALL: Duration = Duration::from_secs(30);
/// Interval at which a resume token is refreshed if the coordinator names none.
const REFRESH: Duration = Duration::from_secs(30 * 60);
/// Longest wait for the coordinator to hang up after we have said goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// Limits on a packet: all messages of a tailnet are small.
pub const LIMITS: Limits = Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};

/// Role of our node towards the coordinator.
pub enum Side {
    /// An agent, which peers connect to.
    Agent,
    /// A client, which connects to these peers, and reports each that is ready for a handshake.
    Client(Vec<Uuid>, mpsc::Sender<Uuid>),
}

/// Exchanges node updates until the coordinator hangs up or `stop` drains; then it says goodbye.
///
/// # Errors
/// [`CallError`] if the connection breaks. Peers are kept, as they may be there still.
pub async fn coordinate(
    connection: &yamux::Connection,
    node: &Tailnet,
    events: &mut mpsc::Receiver<Event>,
    side: &Side,
    stop: &Stop,
) -> Result<(), CallError> {
    let stream = connection.open().map_err(CallError::Lost)?;
    let call = Call::begin(stream, "/coder.tailnet.v2.Tailnet/Coordinate", LIMITS).await?;
    let mut coordination = Coordination { call, node, side };
    let ended = coordination.run(events, stop).await;
    node.all_lost().await;
    ended
}

struct Coordination<'a> {
    call: Call<yamux::Stream>,
    node: &'a Tailnet,
    side: &'a Side,
}

impl Coordination<'_> {
    async fn run(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        stop: &Stop,
    ) -> Result<(), CallError> {
        self.node.coordinated().await;
        if let Side::Client(peers, _) = self.side {
            for id in peers {
                self.node.seek(*id).await;
            }
        }
        // The coordinator may have forgotten everything about us, including our home.
        if let Some(node) = self.node.node().await {
            self.is_now(&node).await?;
        }
        if let Side::Client(peers, _) = self.side {
            for id in peers {
                let add_tunnel = Some(Tunnel { id: bytes(*id) });
                self.send(CoordinateRequest {
                    add_tunnel,
                    ..CoordinateRequest::default()
                })
                .await?;
            }
        }
        loop {
            tokio::select! {
                answer = self.call.receive() => match answer? {
                    Some(answer) => self.hear(answer).await?,
                    None => return Ok(()),
                },
                Some(event) = events.recv() => match (event, self.side) {
                    (Event::NodeChanged(node), _) => self.is_now(&node).await?,
                    // The receiver may be gone: a caller that needs only one peer does not wait for the others.
                    (Event::PeerReady(id), Side::Client(_, ready)) => drop(ready.try_send(id)),
                    (Event::PeerReady(_), Side::Agent) => {}
                },
                () = stop.draining() => return self.leave().await,
            }
        }
    }

    async fn send(&mut self, request: CoordinateRequest) -> Result<(), CallError> {
        let sent = timeout(SEND, self.call.send(&request)).await;
        sent.unwrap_or_else(|late| Err(CallError::Lost(late.into())))
    }

    async fn is_now(&mut self, node: &Node) -> Result<(), CallError> {
        let node = Some(node.to_wire());
        self.send(CoordinateRequest {
            update_self: Some(UpdateSelf { node }),
            ..CoordinateRequest::default()
        })
        .await
    }

    async fn hear(&mut self, answer: CoordinateResponse) -> Result<(), CallError> {
        if !answer.error.is_empty() {
            debug!(error = answer.error, "message from the coordinator");
        }
        let mut ready = Vec::new();
        for (id, change) in answer.peer_updates.into_iter().filter_map(change) {
            let is_node = matches!(change, PeerUpdate::Node(_));
            self.node.update(id, change).await;
            if is_node {
                ready.push(ReadyForHandshake { id: bytes(id) });
            }
        }
        // Only now: a handshake that arrives before we know its sender is lost, and WireGuard repeats it only after
        // five seconds.
        if matches!(self.side, Side::Agent) && !ready.is_empty() {
            self.send(CoordinateRequest {
                ready_for_handshake: ready,
                ..CoordinateRequest::default()
            })
            .await?;
        }
        Ok(())
    }

    /// Says goodbye, and waits until the coordinator has heard it: hanging up first could lose the message.
    async fn leave(&mut self) -> Result<(), CallError> {
        self.send(CoordinateRequest {
            disconnect: Some(Disconnect {}),
            ..CoordinateRequest::default()
        })
        .await?;
        let heard =
            async { while let Ok(Some(CoordinateResponse { .. })) = self.call.receive().await {} };
        // A coordinator that does not hang up in time is not waited for.
        let _ = timeout(FAREWELL, heard).await;
        Ok(())
    }
}

/// Converts an update of a peer; `None` if it makes no sense.
pub fn change(update: wire::coordinate_response::PeerUpdate) -> Option<(Uuid, PeerUpdate)> {
    let id = Uuid::from_slice(&update.id).ok()?;
    let change = match update.kind() {
        Kind::Node => PeerUpdate::Node(Box::new(update.node.and_then(Node::from_wire)?)),
        Kind::Disconnected => PeerUpdate::Disconnected,
        Kind::Lost => PeerUpdate::Lost,
        Kind::ReadyForHandshake => PeerUpdate::Ready,
        Kind::Unspecified => return None,
    };
    Some((id, change))
}

fn bytes(id: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

/// Follows the DERP map until the server ends it. Before it is used, `change` puts the server's own relay where the
/// server is for us, and removes what we must not contact.
///
/// # Errors
/// [`CallError`] if the connection breaks.
pub async fn follow_derp_map(
    connection: &yamux::Connection,
    node: &Tailnet,
    change: impl Fn(&mut DerpMap),
) -> Result<(), CallError> {
    let stream = connection.open().map_err(CallError::Lost)?;
    let mut call = Call::begin(stream, "/coder.tailnet.v2.Tailnet/StreamDERPMaps", LIMITS).await?;
    call.send(&wire::StreamDerpMapsRequest {}).await?;
    call.close_send().await?;
    while let Some(map) = call.receive::<wire::DerpMap>().await? {
        let mut map = DerpMap::from_wire(map);
        change(&mut map);
        node.set_derp_map(map).await;
    }
    Ok(())
}

/// Resume token, with which a client returns to a coordinator under its former id.
#[derive(Default)]
pub struct Resumption(Mutex<Option<Secret>>);

impl Resumption {
    /// Returns the newest token, if there is one.
    pub fn token(&self) -> Option<Secret> {
        let token = self.0.lock();
        token.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the token with this one.
    pub fn set(&self, token: Option<Secret>) {
        let held = self.0.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// Requests a token at once, and again before it expires. A coordinator that has none is not asked again.
///
/// # Errors
/// [`CallError`] if the connection breaks.
pub async fn keep_resumption(
    connection: &yamux::Connection,
    resumption: &Resumption,
) -> Result<(), CallError> {
    const METHOD: &str = "/coder.tailnet.v2.Tailnet/RefreshResumeToken";
    loop {
        let stream = connection.open().map_err(CallError::Lost)?;
        let request = wire::RefreshResumeTokenRequest {};
        let asked = timeout(CALL, Call::unary(stream, METHOD, &request, LIMITS)).await;
        let asked = asked.unwrap_or_else(|late| Err(CallError::Lost(late.into())));
        let answer: wire::RefreshResumeTokenResponse = match asked {
            Ok(answer) => answer,
            Err(CallError::Remote { message, .. }) => {
                debug!(message, "the coordinator sent no resume token");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        resumption.set(Some(Secret::new(answer.token)));
        let after = answer.refresh_in.map(Duration::try_from);
        let after = after.and_then(Result::ok).filter(|it| !it.is_zero());
        sleep(after.unwrap_or(REFRESH)).await;
    }
}
