//! Who may know of whom: tells nodes of each other, along tunnels that clients ask for.
//!
//! All of it happens under one lock and at once. A peer that does not take what it is told is cut off, so that none can
//! make another one wait.
//!
//! # Source
//! coder `tailnet/coordinator.go`, `tailnet/peer.go`, `tailnet/tunnel.go`: rules, order and texts.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv6Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::address;
use crate::proto::coder::tailnet::v2::{
    CoordinateRequest, CoordinateResponse, Node,
    coordinate_response::{PeerUpdate, peer_update::Kind},
};

/// Answers that wait for a peer to take them.
const QUEUE: usize = 512;
/// Peers in one answer.
const BATCH: usize = 1024;
/// Tunnels of one peer, which it began.
const MAX_TUNNELS: usize = 4096;
/// Bytes of a node: one with all relays of the world and fifty endpoints has a tenth of it. What is told of it waits for
/// each of those who hear of it, [`QUEUE`] times at most.
const MAX_NODE: usize = 32 << 10;
/// Where agents of old listened, each of them.
const LEGACY: Ipv6Addr = Ipv6Addr::new(
    0xfd7a, 0x115c, 0xa1e0, 0x49d6, 0xb259, 0xb7ac, 0xb1b2, 0x48f4,
);

/// What a peer may do.
pub enum Auth {
    /// The agent with this id: it listens, and opens nothing.
    Agent(Uuid),
    /// A client, with tunnels to the agents that this allows.
    Client(Box<dyn Fn(Uuid) -> bool + Send>),
}

/// Why a peer is cut off.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It asked for what it may not.
    #[error("authorization: {0}")]
    Authorization(&'static str),
    /// It is not connected any more.
    #[error("connection closed")]
    Closed,
}

struct Peer {
    /// Tells one connection of an id from the next.
    connection: u64,
    auth: Auth,
    node: Option<Arc<Node>>,
    /// What it was told last of each other one.
    sent: HashMap<Uuid, Arc<Node>>,
    answers: mpsc::Sender<CoordinateResponse>,
}

#[derive(Default)]
struct State {
    peers: HashMap<Uuid, Peer>,
    /// Whom each began a tunnel to.
    to: HashMap<Uuid, BTreeSet<Uuid>>,
    /// The same from the other end.
    from: HashMap<Uuid, BTreeSet<Uuid>>,
    next_connection: u64,
    /// Who did not take an answer.
    failed: Vec<Uuid>,
}

/// The coordinator. A clone is the same one.
#[derive(Clone, Default)]
pub struct Coordinator(Arc<Mutex<State>>);

/// A peer's connection. Dropped without [`Seat::leave`], the peer counts as lost.
pub struct Seat {
    coordinator: Coordinator,
    id: Uuid,
    connection: u64,
}

impl Coordinator {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a peer in, in the place of whoever had its id before; its answers end when it is cut off.
    pub fn connect(&self, id: Uuid, auth: Auth) -> (Seat, mpsc::Receiver<CoordinateResponse>) {
        let (answers, receiver) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        state.next_connection += 1;
        let connection = state.next_connection;
        let peer = Peer {
            connection,
            auth,
            node: None,
            sent: HashMap::new(),
            answers,
        };
        if let Some(old) = state.peers.insert(id, peer) {
            let error = "peer ID overwritten by new connection".to_owned();
            let told = CoordinateResponse {
                error,
                ..Default::default()
            };
            // Its answers end with it, whether it hears why or not.
            let _ = old.answers.try_send(told);
        }
        let others: Vec<Uuid> = state.linked(id).into_iter().collect();
        let nodes = others
            .into_iter()
            .filter_map(|other| Some((other, state.peers.get(&other)?.node.clone()?)));
        let updates: Vec<(Uuid, Update)> = nodes
            .map(|(other, node)| (other, Update::Node(node)))
            .collect();
        state.send(id, updates);
        state.settle();
        drop(state);
        let coordinator = self.clone();
        let seat = Seat {
            coordinator,
            id,
            connection,
        };
        (seat, receiver)
    }

    /// What a peer said last of itself.
    pub fn node(&self, id: Uuid) -> Option<Arc<Node>> {
        self.lock().peers.get(&id)?.node.clone()
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self, id: Uuid) -> bool {
        self.lock().peers.contains_key(&id)
    }
}

impl Seat {
    /// Does what the peer asks for.
    ///
    /// # Errors
    /// [`Refusal`]: then the peer is to be told, and cut off.
    pub fn request(&self, request: CoordinateRequest) -> Result<(), Refusal> {
        let mut state = self.coordinator.lock();
        let done = state.request(self.id, self.connection, request);
        state.settle();
        done
    }

    /// Ends in an orderly way.
    pub fn leave(self) {
        let mut state = self.coordinator.lock();
        state.leave(self.id, self.connection, Kind::Disconnected);
        state.settle();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.coordinator.lock();
        state.leave(self.id, self.connection, Kind::Lost);
        state.settle();
    }
}

/// What one peer hears of another.
#[derive(Clone)]
enum Update {
    Node(Arc<Node>),
    Gone(Kind),
    Ready,
}

impl State {
    fn request(
        &mut self,
        id: Uuid,
        connection: u64,
        request: CoordinateRequest,
    ) -> Result<(), Refusal> {
        let peer = self.peers.get_mut(&id);
        let peer = peer.filter(|peer| peer.connection == connection);
        let peer = peer.ok_or(Refusal::Closed)?;
        let target = |bytes: &[u8]| {
            let malformed = Refusal::Authorization("an id that is no UUID");
            Uuid::from_slice(bytes).map_err(|_| malformed)
        };
        let added = request.add_tunnel.as_ref().map(|it| target(&it.id));
        let added = added.transpose()?;
        let removed = request.remove_tunnel.as_ref().map(|it| target(&it.id));
        let removed = removed.transpose()?;
        peer.auth.check(&request, added)?;

        if let Some(node) = request.update_self.and_then(|update| update.node) {
            let node = Arc::new(node);
            peer.node = Some(Arc::clone(&node));
            for other in self.linked(id) {
                self.send(other, [(id, Update::Node(Arc::clone(&node)))]);
            }
        }
        if let Some(other) = added {
            self.add_tunnel(id, other)?;
        }
        if let Some(other) = removed
            && self.is_linked(id, other)
        {
            let gone = Update::Gone(Kind::Disconnected);
            self.send(id, [(other, gone.clone())]);
            self.send(other, [(id, gone)]);
            self.unlink(id, other);
        }
        if request.disconnect.is_some() {
            self.leave(id, connection, Kind::Disconnected);
            return Ok(());
        }
        for ready in request.ready_for_handshake {
            let other = target(&ready.id)?;
            match self.is_linked(id, other) || self.is_linked(other, id) {
                true => self.send(other, [(id, Update::Ready)]),
                false => self.say(
                    id,
                    format!("ready for handshake error: you do not share a tunnel with {other}"),
                ),
            }
        }
        Ok(())
    }

    fn add_tunnel(&mut self, id: Uuid, other: Uuid) -> Result<(), Refusal> {
        let of_it = self.to.entry(id).or_default();
        if of_it.len() >= MAX_TUNNELS && !of_it.contains(&other) {
            return Err(Refusal::Authorization("too many tunnels"));
        }
        of_it.insert(other);
        self.from.entry(other).or_default().insert(id);
        let node = |peers: &HashMap<Uuid, Peer>, id| peers.get(&id)?.node.clone();
        let theirs = node(&self.peers, other);
        let ours = node(&self.peers, id);
        if let Some(theirs) = theirs {
            self.send(id, [(other, Update::Node(theirs))]);
            if let Some(ours) = ours {
                self.send(other, [(id, Update::Node(ours))]);
            }
        }
        Ok(())
    }

    fn leave(&mut self, id: Uuid, connection: u64, kind: Kind) {
        let peer = self.peers.get(&id);
        if peer.is_none_or(|peer| peer.connection != connection) {
            return;
        }
        self.peers.remove(&id);
        for other in self.linked(id) {
            self.send(other, [(id, Update::Gone(kind))]);
        }
        // Tunnels to it stay: whoever comes back is told of at once.
        for other in self.to.get(&id).cloned().unwrap_or_default() {
            self.unlink(id, other);
        }
    }

    /// Those who hear of a peer.
    fn linked(&self, id: Uuid) -> BTreeSet<Uuid> {
        let both = [self.to.get(&id), self.from.get(&id)];
        both.into_iter().flatten().flatten().copied().collect()
    }

    fn is_linked(&self, from: Uuid, to: Uuid) -> bool {
        self.to
            .get(&from)
            .is_some_and(|others| others.contains(&to))
    }

    fn unlink(&mut self, from: Uuid, to: Uuid) {
        for (ends, (one, other)) in [(&mut self.to, (from, to)), (&mut self.from, (to, from))] {
            if let Some(others) = ends.get_mut(&one) {
                others.remove(&other);
                if others.is_empty() {
                    ends.remove(&one);
                }
            }
        }
    }

    /// Tells a peer of others; what it knows already, or never knew of, is left out.
    fn send(&mut self, id: Uuid, updates: impl IntoIterator<Item = (Uuid, Update)>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let mut told = Vec::new();
        for (other, update) in updates {
            let (kind, node) = match update {
                Update::Node(node) if peer.sent.get(&other) == Some(&node) => continue,
                Update::Node(node) => {
                    peer.sent.insert(other, Arc::clone(&node));
                    (Kind::Node, Some(Node::clone(&node)))
                }
                Update::Gone(_) if peer.sent.remove(&other).is_none() => continue,
                Update::Gone(kind) => (kind, None),
                Update::Ready => (Kind::ReadyForHandshake, None),
            };
            told.push(PeerUpdate {
                id: other.as_bytes().to_vec().into(),
                node,
                kind: kind.into(),
                reason: String::new(),
            });
        }
        while !told.is_empty() {
            let rest = told.split_off(told.len().min(BATCH));
            let answer = CoordinateResponse {
                peer_updates: std::mem::replace(&mut told, rest),
                error: String::new(),
            };
            if peer.answers.try_send(answer).is_err() {
                self.failed.push(id);
                return;
            }
        }
    }

    fn say(&mut self, id: Uuid, error: String) {
        if let Some(peer) = self.peers.get(&id) {
            let answer = CoordinateResponse {
                error,
                ..Default::default()
            };
            if peer.answers.try_send(answer).is_err() {
                self.failed.push(id);
            }
        }
    }

    /// Cuts off who did not take an answer, and whoever could not be told of that.
    fn settle(&mut self) {
        while let Some(id) = self.failed.pop() {
            if let Some(connection) = self.peers.get(&id).map(|peer| peer.connection) {
                self.leave(id, connection, Kind::Lost);
            }
        }
    }
}

impl Auth {
    fn check(&self, request: &CoordinateRequest, added: Option<Uuid>) -> Result<(), Refusal> {
        let node = request.update_self.as_ref().and_then(|it| it.node.as_ref());
        let refuse = |is_bad: bool, why| match is_bad {
            true => Err(Refusal::Authorization(why)),
            false => Ok(()),
        };
        let is_large = node.is_some_and(|node| node.encoded_len() > MAX_NODE);
        refuse(is_large, "a node that is too large to be told")?;
        let are_many = request.ready_for_handshake.len() > BATCH;
        refuse(are_many, "ready for more peers than were ever told at once")?;
        match self {
            Self::Agent(id) => {
                let mut own = address::of_agent(*id).to_vec();
                own.push(LEGACY);
                let is_own =
                    |text: &String| address::parse_cidr(text).is_some_and(|it| own.contains(&it));
                let all = |node: &Node| node.addresses.iter().chain(&node.allowed_ips).all(is_own);
                refuse(added.is_some(), "agents cannot open tunnels")?;
                refuse(!node.is_none_or(all), "an address that is not the agent's")
            }
            Self::Client(may) => {
                let is_single = |text: &String| address::parse_cidr(text).is_some();
                let all = |node: &Node| node.addresses.iter().all(is_single);
                refuse(!node.is_none_or(all), "an address that is no single one")?;
                let is_early = !request.ready_for_handshake.is_empty();
                refuse(is_early, "clients cannot send ready for handshake")?;
                refuse(
                    added.is_some_and(|id| !may(id)),
                    "this agent is not there for you",
                )
            }
        }
    }
}

#[cfg(test)]
#[path = "coordinator/tests.rs"]
mod tests;
