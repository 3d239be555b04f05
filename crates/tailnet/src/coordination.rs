//! Our side of a coordinator: says what our node is like, and lets it know of its peers.
//!
//! # Source
//! coder `tailnet/controllers.go`: what is answered to what, and how one leaves.

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

/// A coordinator that takes nothing for so long is away.
const SEND: Duration = Duration::from_secs(10);
/// Time for one question.
const CALL: Duration = Duration::from_secs(30);
/// When a token is asked for again by itself, if the coordinator does not say.
const REFRESH: Duration = Duration::from_secs(30 * 60);
/// How long one who leaves waits for the coordinator to hang up.
const FAREWELL: Duration = Duration::from_secs(5);

/// Messages of a tailnet are small, whatever comes.
pub const LIMITS: Limits = Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};

/// What we are to a coordinator.
pub enum Side {
    /// Peers come to us.
    Agent,
    /// We go to these peers, and tell of each that can be spoken to.
    Client(Vec<Uuid>, mpsc::Sender<Uuid>),
}

/// Coordinates until the coordinator hangs up or `stop` drains; then it is left in an orderly way.
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
        // Whatever the coordinator knew of us, it may have forgotten: our home, too.
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
                    // Who asks only for the first does not wait for the rest.
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
        // Only now, as a handshake that comes before we know its sender is lost, and the next one is far.
        if matches!(self.side, Side::Agent) && !ready.is_empty() {
            self.send(CoordinateRequest {
                ready_for_handshake: ready,
                ..CoordinateRequest::default()
            })
            .await?;
        }
        Ok(())
    }

    /// Says that we go, and waits until that was heard: who hangs up first may not be.
    async fn leave(&mut self) -> Result<(), CallError> {
        self.send(CoordinateRequest {
            disconnect: Some(Disconnect {}),
            ..CoordinateRequest::default()
        })
        .await?;
        let heard =
            async { while let Ok(Some(CoordinateResponse { .. })) = self.call.receive().await {} };
        // A coordinator that does not hang up has had its time.
        let _ = timeout(FAREWELL, heard).await;
        Ok(())
    }
}

/// What a coordinator says of a peer, if it makes sense.
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

/// Follows the map of relays, until the server ends it. Before it is used, `change` puts the server's own relay where
/// the server is for us, and leaves out what we are not to ask.
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

/// With what a client comes back to a coordinator under the id that it had.
#[derive(Default)]
pub struct Resumption(Mutex<Option<Secret>>);

impl Resumption {
    /// The newest token, if there is one.
    pub fn token(&self) -> Option<Secret> {
        let token = self.0.lock();
        token.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another one in its place.
    pub fn set(&self, token: Option<Secret>) {
        let held = self.0.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// Asks for a token at once, and again before it gets old. One that has none to give is asked no more.
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
