//! Who may know of whom: tells nodes of each other, along tunnels that clients ask for. Pure: no socket, no queue.
//!
//! [`Core`] decides, and [`Core::poll_output`] says what is to be done for it. [`peer_connections`](super::peer_connections) does that: it
//! owns the queues of peers, and tells when one does not take what it is told.
//!
//! # Source
//! coder `tailnet/coordinator.go`, `tailnet/peer.go`, `tailnet/tunnel.go`: rules, order and texts.

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

/// Peers in one answer.
pub(super) const BATCH: usize = 1024;
/// Tunnels of one peer, which it began.
pub(super) const MAX_TUNNELS: usize = 4096;
/// Bytes of a node: one with all relays of the world and fifty endpoints has a tenth of it. What is told of it waits for
/// each of those who hear of it, as often as their queue is long at most.
pub(super) const MAX_NODE: usize = 32 << 10;
/// Peers that others will hear of as gone, over all of those.
const MAX_DISMISSED: usize = 1 << 16;
/// Why somebody may not go to an agent.
pub const ELSEWHERE: &str = "you may not reach this agent, or it does not exist";
/// Where agents of old listened, each of them.
const LEGACY: Ipv6Addr = Ipv6Addr::new(
    0xfd7a, 0x115c, 0xa1e0, 0x49d6, 0xb259, 0xb7ac, 0xb1b2, 0x48f4,
);

/// What a peer may do.
pub enum Auth {
    /// The agent with this id: it listens, and opens nothing.
    Agent(Uuid),
    /// A client on its way to this agent; if there is none, to those that were looked up before it asks for them.
    Client(Option<Uuid>),
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

/// Tells one connection of an id from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection(u64);

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Tell a peer. If it does not take it, [`Core::leave`] is to hear of that as a loss.
    Answer {
        /// The peer.
        id: Uuid,
        /// Its connection.
        connection: Connection,
        /// What it is told.
        answer: CoordinateResponse,
    },
    /// Cut a connection off, after what was to be told on it.
    End(Connection),
}

struct Peer {
    connection: Connection,
    auth: Auth,
    node: Option<Arc<Node>>,
    /// What it was told last of each other one.
    sent: HashMap<Uuid, Arc<Node>>,
}

/// What the coordinator knows.
#[derive(Default)]
pub struct Core {
    peers: HashMap<Uuid, Peer>,
    /// Whom each began a tunnel to.
    to: HashMap<Uuid, BTreeSet<Uuid>>,
    /// The same from the other end.
    from: HashMap<Uuid, BTreeSet<Uuid>>,
    /// Whom peers are to hear of as gone once they are connected, and how many those are together.
    dismissed: HashMap<Uuid, BTreeSet<Uuid>>,
    last_connection: u64,
    outputs: VecDeque<Output>,
}

/// What one peer hears of another.
#[derive(Clone)]
enum Update {
    Node(Arc<Node>),
    Gone(Kind),
    Ready,
}

impl Core {
    /// How many peers there are, how many began tunnels, and to how many there are some.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.peers.len(), self.to.len(), self.from.len())
    }

    /// Takes a peer in, in the place of whoever had its id before.
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
            // It is cut off with it, whether it hears why or not.
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

    /// Those to whom this connection of a client began a tunnel.
    pub fn tunnels(&self, id: Uuid, connection: Connection) -> BTreeSet<Uuid> {
        let peer = self.peers.get(&id);
        let is_current = peer.is_some_and(|peer| peer.connection == connection);
        let to = self.to.get(&id).filter(|_| is_current);
        to.cloned().unwrap_or_default()
    }

    /// Lets `others` forget a peer for good: now, or as soon as they are connected. Whoever was only told that it is
    /// lost waits for it.
    pub fn dismiss(&mut self, id: Uuid, others: BTreeSet<Uuid>) {
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

    /// What a peer said last of itself.
    pub fn node(&self, id: Uuid) -> Option<Arc<Node>> {
        self.peers.get(&id)?.node.clone()
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self, id: Uuid) -> bool {
        self.peers.contains_key(&id)
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Does what a peer asks for.
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

    /// A connection has ended, as [`Kind::Disconnected`] or [`Kind::Lost`]; one that has ended before changes nothing.
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
