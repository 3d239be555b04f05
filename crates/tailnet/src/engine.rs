//! Decisions of a node, without a socket or a clock: peers, sessions, disco, and where packets go.
//!
//! Its driver passes in packets and the time, and takes [`Output`]s out. Peers are those that the coordinator announces;
//! packets from anybody else are dropped before anything is computed for them.
//!
//! # Source
//! coder `tailnet/configmaps.go`, coder/tailscale `wgengine/magicsock`: which peer is there when.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    disco::{self, Transaction},
    key::{Key, Private, Shared},
    node::Node,
    paths::{Paths, Route},
    tsmp,
    wireguard::{Out, Session, Sessions, TICK},
};

/// Size of a packet inside the overlay, in bytes.
pub(crate) const MTU: usize = 1280;
/// Number of peers at the same time; further ones from a coordinator are ignored.
const MAX_PEERS: usize = 4096;
/// Time for which a lost peer is kept after its last handshake.
const LOST: Duration = Duration::from_secs(15 * 60);
/// Time within which a new session of the coordinator must announce a peer that came to us. Clients of a restarted
/// server come back within seconds; one whose token was revoked meanwhile never does, and nobody would tell us.
const UNANNOUNCED: Duration = Duration::from_secs(2 * 60);
/// Time after which a peer that we seek counts as ready.
const READY: Duration = Duration::from_secs(5);
/// First and longest pause between handshakes that are requested while somebody waits: WireGuard's own pauses are of
/// five seconds.
const ASK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(4));
/// IPv4 address that stands for a relay, with the region as port.
const RELAY: [u8; 4] = [127, 3, 3, 40];

/// Update of a peer from a coordinator.
#[derive(Clone, Debug)]
pub enum PeerUpdate {
    /// A new or changed node.
    Node(Box<Node>),
    /// The peer has disconnected.
    Disconnected,
    /// The coordinator lost its connection to the peer.
    Lost,
    /// The peer knows us and is ready for a handshake.
    Ready,
}

/// Action for the driver.
#[derive(Debug)]
pub enum Output {
    /// Send a packet by the relay of a region.
    Relay {
        /// Id of the region.
        region: i32,
        /// Key of the recipient.
        to: Key,
        /// Encrypted packet for it.
        packet: Bytes,
    },
    /// Send a packet to this endpoint by UDP.
    Udp {
        /// Endpoint of the recipient.
        to: SocketAddr,
        /// Encrypted packet for it.
        packet: Bytes,
    },
    /// Give this packet to the stack.
    Deliver(Vec<u8>),
    /// Report a pong of a peer, and the path that it came by.
    Pong(Transaction, Via),
    /// Report an answer of a peer inside WireGuard.
    Reached(tsmp::Token),
    /// Report that a peer that we seek is ready.
    Ready(Uuid),
    /// End the connections with this address, whose owner said goodbye.
    Ended(Ipv6Addr),
}

/// Path of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The relay of the region with this id.
    Relay(i32),
    /// UDP, to or from this endpoint of the peer.
    Direct(SocketAddr),
}

struct Peer {
    node: Node,
    session: Box<dyn Session>,
    shared: Shared,
    paths: Paths,
    lost_at: Option<Instant>,
    /// Region by which its last packet came, until that relay is gone.
    came_by: Option<i32>,
    /// Time until which we wait for a peer that we seek to know us.
    unready_until: Option<Instant>,
    /// Time when the next handshake may be requested, and the pause after that.
    ask: Option<(Instant, Duration)>,
}

/// A node: its peers and their sessions.
pub struct Engine {
    private: Private,
    disco: Private,
    addresses: Vec<Ipv6Addr>,
    sessions: Box<dyn Sessions>,
    peers: HashMap<Uuid, Peer>,
    by_key: HashMap<Key, Uuid>,
    by_disco: HashMap<Key, Uuid>,
    by_address: HashMap<Ipv6Addr, Uuid>,
    /// Peers whose sealed pings or pongs came from these endpoints, the newest last. One that forges another one's
    /// address must not take its packets away, so that there may be several.
    by_endpoint: HashMap<SocketAddr, Vec<Uuid>>,
    /// Our own endpoints; `None` while no direct path may be used.
    endpoints: Option<Vec<SocketAddr>>,
    /// Peers with keys that another peer still has, until that one is lost: clients that came back before the
    /// coordinator saw them go.
    waiting: HashMap<Uuid, Node>,
    /// Peers that we seek, and whether each has said that it knows us.
    sought: HashMap<Uuid, bool>,
    /// Start of the coordinator's session, until the peers that it did not announce are forgotten.
    session_began: Option<Instant>,
    next_tick: Option<Instant>,
    outputs: VecDeque<Output>,
    scratch: Vec<Out>,
}

impl Engine {
    /// Creates a node with these keys and addresses.
    pub fn new(
        private: Private,
        disco: Private,
        addresses: Vec<Ipv6Addr>,
        sessions: Box<dyn Sessions>,
    ) -> Self {
        Self {
            private,
            disco,
            addresses,
            sessions,
            peers: HashMap::new(),
            by_key: HashMap::new(),
            by_disco: HashMap::new(),
            by_address: HashMap::new(),
            by_endpoint: HashMap::new(),
            endpoints: None,
            waiting: HashMap::new(),
            sought: HashMap::new(),
            session_began: None,
            next_tick: None,
            outputs: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    /// Replaces our own addresses, which change only with our id.
    pub fn set_addresses(&mut self, addresses: Vec<Ipv6Addr>) {
        self.addresses = addresses;
    }

    /// Number of peers that are known.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Begins to seek a peer: packets are sent to it once it knows us.
    pub fn seek(&mut self, id: Uuid) {
        self.sought.entry(id).or_insert(false);
    }

    /// Applies an update of a peer from the coordinator.
    pub fn update(&mut self, id: Uuid, update: PeerUpdate, now: Instant) {
        match update {
            PeerUpdate::Node(node) => self.install(id, *node, now),
            PeerUpdate::Disconnected => {
                self.waiting.remove(&id);
                self.lose(id, now);
                self.end(id);
            }
            PeerUpdate::Lost => {
                self.waiting.remove(&id);
                self.lose(id, now);
            }
            PeerUpdate::Ready => {
                let Some(is_ready) = self.sought.get_mut(&id) else {
                    return;
                };
                *is_ready = true;
                if let Some(peer) = self.peers.get_mut(&id)
                    && peer.unready_until.take().is_some()
                {
                    self.outputs.push_back(Output::Ready(id));
                }
            }
        }
    }

    /// Begins a session with a coordinator. It does not know clients that were lost before: those that it does not
    /// announce within two minutes are forgotten. Their connections wait until they are announced again.
    pub fn coordinated(&mut self, now: Instant) {
        self.session_began = Some(now);
    }

    /// Records that the coordinator is away, so that every peer may be.
    pub fn all_lost(&mut self, now: Instant) {
        self.session_began = None;
        self.waiting.clear();
        for peer in self.peers.values_mut() {
            peer.lost_at.get_or_insert(now);
        }
    }

    /// Records that the coordinator lost a peer, so that another peer waiting for its keys may have them.
    fn lose(&mut self, id: Uuid, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.lost_at.get_or_insert(now);
        let (key, disco) = (peer.node.key, peer.node.disco);
        let heirs = self
            .waiting
            .extract_if(|_, node| node.key == key || node.disco == disco);
        for (heir, node) in heirs.collect::<Vec<_>>() {
            self.install(heir, node, now);
        }
    }

    fn install(&mut self, id: Uuid, mut node: Node, now: Instant) {
        let holder = |peers: &HashMap<Uuid, Peer>, other: Uuid| {
            other != id && peers.get(&other).is_some_and(|peer| peer.lost_at.is_none())
        };
        // A key or an address of another peer, or our own, cannot be taken over.
        let keys = [self.by_key.get(&node.key), self.by_disco.get(&node.disco)];
        let is_taken = keys
            .into_iter()
            .flatten()
            .any(|it| holder(&self.peers, *it));
        self.waiting.remove(&id);
        // A peer with our own key could never be told apart from us.
        if node.key == self.private.public() {
            return;
        }
        if is_taken {
            if self.waiting.len() < MAX_PEERS {
                self.waiting.insert(id, node);
            }
            return;
        }
        node.allowed.retain(|address| {
            let other = self.by_address.get(address);
            !self.addresses.contains(address) && !other.is_some_and(|it| holder(&self.peers, *it))
        });
        let predecessor = self.predecessor(id, &node);
        let known = self.peers.remove(&id);
        if let Some(peer) = &known {
            self.forget_names(id, &peer.node);
        }
        let known = known.or(predecessor);
        if known.is_none() && self.peers.len() >= MAX_PEERS {
            return;
        }
        self.by_key.insert(node.key, id);
        self.by_disco.insert(node.disco, id);
        for address in &node.allowed {
            self.by_address.insert(*address, id);
        }
        let is_sought = self.sought.get(&id).copied();
        let mut peer = match known {
            Some(peer) if peer.node.key == node.key && peer.node.disco == node.disco => Peer {
                // If the home has changed, no packet has come by the new relay yet.
                came_by: peer.came_by.filter(|_| peer.node.home == node.home),
                node,
                lost_at: None,
                ..peer
            },
            // The peer has new keys, so that the old session is useless.
            _ => Peer {
                ask: None,
                session: self.sessions.session(node.key, is_sought.is_some()),
                shared: self.disco.shared(node.disco),
                paths: Paths::default(),
                node,
                lost_at: None,
                came_by: None,
                unready_until: (is_sought == Some(false)).then(|| now + READY),
            },
        };
        if is_sought.is_some() && peer.unready_until.is_none() {
            self.outputs.push_back(Output::Ready(id));
        }
        peer.paths.announce(&peer.node.endpoints);
        self.peers.insert(id, peer);
        self.next_tick.get_or_insert(now + TICK);
    }

    /// Finds the lost peer that had these keys: a client that returns to a coordinator has another id there, and its
    /// connections go on.
    fn predecessor(&mut self, id: Uuid, node: &Node) -> Option<Peer> {
        let holders = [self.by_key.get(&node.key), self.by_disco.get(&node.disco)];
        let mut found = None;
        for other in holders.map(Option::<&Uuid>::copied).into_iter().flatten() {
            if other == id {
                continue;
            }
            if let Some(peer) = self.peers.remove(&other) {
                self.forget_names(other, &peer.node);
                let is_same = peer.node.key == node.key && peer.node.disco == node.disco;
                found = is_same.then_some(peer).or(found);
            }
        }
        found
    }

    /// Removes a peer that said goodbye, with its connections.
    fn end(&mut self, id: Uuid) {
        let addresses = self.by_address.iter();
        let its = addresses.filter(|(_, holder)| **holder == id);
        let ended = its.map(|(address, _)| Output::Ended(*address));
        self.outputs.extend(ended);
        self.remove(id);
    }

    fn remove(&mut self, id: Uuid) {
        if let Some(peer) = self.peers.remove(&id) {
            self.forget_names(id, &peer.node);
            self.forget_endpoints();
        }
        if let Some(is_ready) = self.sought.get_mut(&id) {
            *is_ready = false;
        }
    }

    fn forget_names(&mut self, id: Uuid, node: &Node) {
        if self.by_key.get(&node.key) == Some(&id) {
            self.by_key.remove(&node.key);
        }
        self.by_disco.retain(|_, holder| *holder != id);
        self.by_address.retain(|_, holder| *holder != id);
    }

    /// Handles a packet that came by the relay of a region from the owner of this key.
    pub fn from_relay(&mut self, region: i32, from: Key, packet: &[u8], now: Instant) {
        if let Some(sender) = disco::sender(packet) {
            self.relayed_disco(region, from, sender, packet, now);
            return;
        }
        let Some((id, peer)) = peer(&self.by_key, &mut self.peers, from) else {
            return;
        };
        peer.came_by = Some(region);
        peer.session.open(packet, &mut self.scratch);
        self.drain(id, now);
    }

    /// Handles a relay's notice that a peer is not connected to it.
    pub fn peer_gone(&mut self, region: i32, key: Key) {
        if let Some((_, peer)) = peer(&self.by_key, &mut self.peers, key)
            && peer.came_by == Some(region)
        {
            peer.came_by = None;
        }
    }

    /// Records that a relay is away.
    pub fn relay_lost(&mut self, region: i32) {
        for peer in self.peers.values_mut() {
            peer.came_by = peer.came_by.filter(|it| *it != region);
        }
    }

    /// Encrypts a packet of our stack for a peer.
    pub fn from_stack(&mut self, packet: &[u8], now: Instant) {
        let Some((_, target)) = tsmp::ends(packet) else {
            return;
        };
        let Some(id) = self.by_address.get(&target).copied() else {
            return;
        };
        self.send(id, packet, now);
    }

    fn send(&mut self, id: Uuid, packet: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.unready_until.is_some() {
            return;
        }
        peer.session.seal(packet, &mut self.scratch);
        self.drain(id, now);
    }

    /// Pings a peer inside WireGuard. Called again for lack of an answer, it also requests a new handshake, because
    /// the previous one may be lost.
    pub fn reach(&mut self, id: Uuid, token: tsmp::Token, now: Instant) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let is_agreed = peer.session.last_handshake().is_some();
        let ends = self.addresses.first().zip(peer.node.addresses.first());
        if let Some((source, target)) = ends {
            let packet = tsmp::packet(*source, *target, tsmp::Message::Ping(token));
            self.send(id, &packet, now);
        }
        match is_agreed {
            true => self.forget_asking(id),
            false => self.agree(id, ASK.0, now),
        }
    }

    /// Requests a new handshake with the owner of this address, because there may be a path to it again.
    pub(crate) fn agree_again(&mut self, address: Ipv6Addr, now: Instant) {
        if let Some(id) = self.by_address.get(&address).copied() {
            self.agree(id, Duration::ZERO, now);
        }
    }

    fn forget_asking(&mut self, id: Uuid) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.ask = None;
        }
    }

    /// Requests a handshake, at first after this pause and then after longer ones.
    fn agree(&mut self, id: Uuid, after: Duration, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (due, pause) = *peer.ask.get_or_insert((now + after, ASK.0));
        if peer.unready_until.is_some() || now < due {
            return;
        }
        peer.ask = Some((now + pause, (2 * pause).min(ASK.1)));
        peer.session.ask(&mut self.scratch);
        self.drain(id, now);
    }

    /// Returns whether any peer is sought.
    pub(crate) fn is_seeking(&self) -> bool {
        !self.sought.is_empty()
    }

    /// Turns everything that a session produced into outputs.
    fn drain(&mut self, id: Uuid, now: Instant) {
        let mut made = std::mem::take(&mut self.scratch);
        for out in made.drain(..) {
            match out {
                Out::Network(packet) => self.send_encrypted(id, packet.into(), now),
                Out::Inner(packet) => {
                    let Some((source, target)) = tsmp::ends(&packet) else {
                        continue;
                    };
                    let is_its = self.by_address.get(&source) == Some(&id);
                    if !is_its || !self.addresses.contains(&target) {
                        continue;
                    }
                    match tsmp::parse(&packet) {
                        Some(tsmp::Message::Ping(token)) => {
                            let pong = tsmp::Message::Pong(token);
                            let pong = tsmp::packet(target, source, pong);
                            self.send(id, &pong, now);
                        }
                        Some(tsmp::Message::Pong(token)) => {
                            self.outputs.push_back(Output::Reached(token));
                        }
                        None => self.outputs.push_back(Output::Deliver(packet)),
                    }
                }
            }
        }
        // Output of nested calls was drained by them; this keeps the buffer's capacity.
        self.scratch = made;
    }

    /// Time when [`Engine::tick`] is due.
    pub fn next_tick(&self) -> Option<Instant> {
        self.next_tick
    }

    /// Does everything that is due at `now`.
    pub fn tick(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|due| now < due) {
            return;
        }
        let is_due = |began: &Instant| now.saturating_duration_since(*began) >= UNANNOUNCED;
        let session_began = self.session_began.take_if(|began| is_due(began));
        let mut ids: Vec<Uuid> = self.peers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if let Some(lost_at) = peer.lost_at {
                let since_agreed = peer.session.last_handshake();
                let since_lost = now.saturating_duration_since(lost_at);
                // Peers that were lost during this session are watched by the coordinator. Agents that we seek may be
                // away for longer.
                let is_unannounced = session_began.is_some_and(|began| lost_at <= began)
                    && !self.sought.contains_key(&id);
                let is_idle = since_agreed.map_or(since_lost, |it| it.min(since_lost)) >= LOST;
                if is_unannounced || is_idle {
                    self.remove(id);
                    continue;
                }
            }
            if peer.unready_until.is_some_and(|until| until <= now) {
                peer.unready_until = None;
                self.outputs.push_back(Output::Ready(id));
            }
            peer.session.tick(&mut self.scratch);
            self.drain(id, now);
            self.search(id, now);
        }
        self.forget_endpoints();
        self.next_tick = (!self.peers.is_empty()).then(|| now + TICK);
    }

    /// Returns the next action, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

impl Peer {
    /// Region by which the peer is reached: the one that its last packet came by, else its home.
    fn region(&self) -> i32 {
        self.came_by.unwrap_or(self.node.home)
    }
}

fn peer<'a>(
    names: &HashMap<Key, Uuid>,
    peers: &'a mut HashMap<Uuid, Peer>,
    name: Key,
) -> Option<(Uuid, &'a mut Peer)> {
    let id = *names.get(&name)?;
    Some((id, peers.get_mut(&id)?))
}

mod direct;
#[cfg(test)]
mod tests;
