//! Coordinator: tells nodes of each other, along the tunnels that clients request. Pure: no socket, no queue.
//!
//! [`Core`] decides, and [`Core::poll_output`] returns the actions to carry out, which
//! [`peer_connections`](super::peer_connections) does: it owns the queues of peers, and reports peers that do not read
//! their updates.
//!
//! # Source
//! coder `tailnet/coordinator.go`, `tailnet/peer.go`, `tailnet/tunnel.go`: rules, order and texts.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::Ipv6Addr,
    sync::Arc,
};

use outpost_wire::proto::coder::tailnet::v2::{
    CoordinateRequest, CoordinateResponse, Node,
    coordinate_response::{PeerUpdate, peer_update::Kind},
};
use prost::Message as _;
use uuid::Uuid;

use super::address;

/// Number of peers in one response.
pub(super) const BATCH: usize = 1024;
/// Number of tunnels that one peer may open.
pub(super) const MAX_TUNNELS: usize = 4096;
/// Size of a node update in bytes: one with all relays of the world and fifty endpoints has a tenth of that. Up to a
/// whole queue of updates waits for each peer that receives them.
pub(super) const MAX_NODE: usize = 32 << 10;
/// Number of peers that others are still to be told are gone, counted for each of those others.
const MAX_DISMISSED: usize = 1 << 16;
/// Reason why a client may not reach an agent.
pub const ELSEWHERE: &str = "you may not reach this agent, or it does not exist";
/// Address at which all old agents listened.
const LEGACY: Ipv6Addr = Ipv6Addr::new(
    0xfd7a, 0x115c, 0xa1e0, 0x49d6, 0xb259, 0xb7ac, 0xb1b2, 0x48f4,
);

/// Permissions of a peer.
pub enum Auth {
    /// The agent with this id: it listens, and opens no tunnels.
    Agent(Uuid),
    /// A client of this agent; with `None`, of any agent that was checked before the client requests it.
    Client(Option<Uuid>),
}

/// Reasons why a peer is disconnected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A request that the peer is not allowed to make.
    #[error("authorization: {0}")]
    Authorization(&'static str),
    /// A connection that has already ended.
    #[error("connection closed")]
    Closed,
}

/// Number that distinguishes successive connections of one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection(u64);

/// Action for whoever drives the core.
#[derive(Debug)]
pub enum Output {
    /// Send a response to a peer. If the peer does not accept it, [`Core::leave`] must be called with a loss.
    Answer {
        /// Id of the peer.
        id: Uuid,
        /// Connection of the peer.
        connection: Connection,
        /// Response to send to it.
        answer: CoordinateResponse,
    },
    /// Close a connection, once everything before this was sent on it.
    End(Connection),
}

struct Peer {
    connection: Connection,
    auth: Auth,
    node: Option<Arc<Node>>,
    /// Nodes of other peers, as they were last sent to this one.
    sent: HashMap<Uuid, Arc<Node>>,
}

/// State of the coordinator, and its decisions.
#[derive(Default)]
pub struct Core {
    peers: HashMap<Uuid, Peer>,
    /// Tunnels by the peer that opened them.
    to: HashMap<Uuid, BTreeSet<Uuid>>,
    /// Tunnels by the peer that they lead to.
    from: HashMap<Uuid, BTreeSet<Uuid>>,
    /// Peers that a peer will be told are gone once it is connected, and the total number of those.
    dismissed: HashMap<Uuid, BTreeSet<Uuid>>,
    last_connection: u64,
    outputs: VecDeque<Output>,
}

/// Update about one peer for another.
#[derive(Clone)]
enum Update {
    Node(Arc<Node>),
    Gone(Kind),
    Ready,
}

impl Core {
    /// Number of peers, of peers that opened tunnels, and of peers that tunnels lead to.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.peers.len(), self.to.len(), self.from.len())
    }

    /// Numbers of agents and of clients that are connected.
    pub fn counts(&self) -> (usize, usize) {
        let is_agent = |peer: &&Peer| matches!(peer.auth, Auth::Agent(_));
        let agents = self.peers.values().filter(is_agent).count();
        (agents, self.peers.len() - agents)
    }

    /// Adds a peer. It replaces any former connection with its id.
    pub fn connect(&mut self, id: Uuid, auth: Auth) -> Connection {
        self.last_connection += 1;
        let connection = Connection(self.last_connection);
        let peer = Peer {
            connection,
            auth,
            node: None,
            sent: HashMap::new(),
        };
        if let Some(old) = self.peers.insert(id, peer) {
            let error = "peer ID overwritten by new connection".to_owned();
            // The peer is disconnected even if it does not receive this reason.
            self.outputs.push_back(Output::Answer {
                id,
                connection: old.connection,
                answer: CoordinateResponse {
                    error,
                    ..Default::default()
                },
            });
            self.outputs.push_back(Output::End(old.connection));
        }
        // Tunnels of others to this id survive its connections, so it may already have peers.
        let others: Vec<Uuid> = self.linked(id).into_iter().collect();
        let nodes = others
            .into_iter()
            .filter_map(|other| Some((other, self.peers.get(&other)?.node.clone()?)));
        let updates: Vec<(Uuid, Update)> = nodes
            .map(|(other, node)| (other, Update::Node(node)))
            .collect();
        self.send(id, updates);
        if let Some(gone) = self.dismissed.remove(&id) {
            self.say_gone(id, gone);
        }
        connection
    }

    /// Returns the peers to which this connection of a client has opened tunnels.
    pub fn tunnels(&self, id: Uuid, connection: Connection) -> BTreeSet<Uuid> {
        let peer = self.peers.get(&id);
        let is_current = peer.is_some_and(|peer| peer.connection == connection);
        let to = self.to.get(&id).filter(|_| is_current);
        to.cloned().unwrap_or_default()
    }

    /// Makes `others` forget a peer for good: now, or as soon as they are connected. A peer that was only told that
    /// it is lost keeps waiting for it.
    pub(crate) fn dismiss(&mut self, id: Uuid, others: BTreeSet<Uuid>) {
        for other in others {
            if self.peers.contains_key(&other) {
                self.say_gone(other, BTreeSet::from([id]));
                continue;
            }
            let all: usize = self.dismissed.values().map(BTreeSet::len).sum();
            if all < MAX_DISMISSED {
                self.dismissed.entry(other).or_default().insert(id);
            }
        }
    }

    fn say_gone(&mut self, id: Uuid, gone: BTreeSet<Uuid>) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let gone = gone.into_iter().map(|gone| PeerUpdate {
            id: gone.as_bytes().to_vec().into(),
            node: None,
            kind: Kind::Disconnected.into(),
            reason: String::new(),
        });
        let answer = CoordinateResponse {
            peer_updates: gone.collect(),
            error: String::new(),
        };
        self.outputs.push_back(Output::Answer {
            id,
            connection: peer.connection,
            answer,
        });
    }

    /// Returns the newest node update of a peer.
    pub fn node(&self, id: Uuid) -> Option<Arc<Node>> {
        self.peers.get(&id)?.node.clone()
    }

    /// Returns whether a peer is connected.
    pub fn is_connected(&self, id: Uuid) -> bool {
        self.peers.contains_key(&id)
    }

    /// Returns the next action, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Handles a request of a peer.
    ///
    /// # Errors
    /// [`Refusal`]: then the peer is to be told, and cut off.
    pub fn request(
        &mut self,
        id: Uuid,
        connection: Connection,
        request: CoordinateRequest,
    ) -> Result<(), Refusal> {
        let peer = self.peers.get_mut(&id);
        let peer = peer.filter(|peer| peer.connection == connection);
        let peer = peer.ok_or(Refusal::Closed)?;
        let target = |bytes: &[u8]| {
            let malformed = Refusal::Authorization("an id that is not a UUID");
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

    /// Ends a connection, as [`Kind::Disconnected`] or [`Kind::Lost`]; one that ended before changes nothing.
    pub fn leave(&mut self, id: Uuid, connection: Connection, kind: Kind) {
        let peer = self.peers.get(&id);
        if peer.is_none_or(|peer| peer.connection != connection) {
            return;
        }
        self.peers.remove(&id);
        self.outputs.push_back(Output::End(connection));
        for other in self.linked(id) {
            self.send(other, [(id, Update::Gone(kind))]);
        }
        // Tunnels to the peer stay, so that others are told at once when it returns.
        for other in self.to.get(&id).cloned().unwrap_or_default() {
            self.unlink(id, other);
        }
    }

    /// Peers that receive the updates of a peer.
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

    /// Sends a peer updates about others, leaving out what it has already received, and the end of peers that it
    /// never knew.
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
            self.outputs.push_back(Output::Answer {
                id,
                connection: peer.connection,
                answer,
            });
        }
    }

    fn say(&mut self, id: Uuid, error: String) {
        if let Some(peer) = self.peers.get(&id) {
            self.outputs.push_back(Output::Answer {
                id,
                connection: peer.connection,
                answer: CoordinateResponse {
                    error,
                    ..Default::default()
                },
            });
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
        refuse(is_large, "node announcement is too large")?;
        let are_many = request.ready_for_handshake.len() > BATCH;
        refuse(are_many, "ready for handshake with too many peers")?;
        match self {
            Self::Agent(id) => {
                let mut own = address::of_agent(*id).to_vec();
                own.push(LEGACY);
                let is_own =
                    |text: &String| address::parse_cidr(text).is_some_and(|it| own.contains(&it));
                let all = |node: &Node| node.addresses.iter().chain(&node.allowed_ips).all(is_own);
                refuse(added.is_some(), "agents cannot open tunnels")?;
                refuse(
                    !node.is_none_or(all),
                    "the address does not belong to the agent",
                )
            }
            Self::Client(only) => {
                let is_single = |text: &String| address::parse_cidr(text).is_some();
                let all = |node: &Node| node.addresses.iter().all(is_single);
                refuse(
                    !node.is_none_or(all),
                    "the address is not a single host address",
                )?;
                let is_early = !request.ready_for_handshake.is_empty();
                refuse(is_early, "clients cannot send ready for handshake")?;
                let is_other = |id| only.is_some_and(|only| only != id);
                refuse(added.is_some_and(is_other), ELSEWHERE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_told_why_it_is_cut_off_before_it_is_and_ends_once() {
        let (mut core, id) = (Core::default(), Uuid::from_u128(1));
        let first = core.connect(id, Auth::Client(None));
        assert!(core.poll_output().is_none());

        let second = core.connect(id, Auth::Client(None));

        let told = core.poll_output();
        let is_why = |answer: &CoordinateResponse| answer.error.contains("overwritten");
        assert!(
            matches!(&told, Some(Output::Answer { connection, answer, .. })
                if *connection == first && is_why(answer)),
            "{told:?}"
        );
        assert!(matches!(core.poll_output(), Some(Output::End(ended)) if ended == first));
        core.leave(id, first, Kind::Lost);
        assert!(core.poll_output().is_none() && core.is_connected(id));
        core.leave(id, second, Kind::Lost);
        assert!(matches!(core.poll_output(), Some(Output::End(ended)) if ended == second));
        core.leave(id, second, Kind::Disconnected);
        assert!(core.poll_output().is_none() && !core.is_connected(id));
    }
}
