//! Userspace TCP over packets: listeners and connections that look like sockets, and open nothing on the machine.
//!
//! A connection's buffers are memory that the system allocates as it is touched, so an idle one costs next to
//! nothing. A connection survives hours without a packet of its peer, because a laptop sleeps or a relay hangs; the
//! resources of an absent peer are bounded meanwhile, and give way to peers that are present.

mod peer;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::{Ipv6Addr, SocketAddrV6},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface, SocketSet},
    socket::tcp::State,
    time::Instant as StackInstant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use tokio::sync::{Notify, mpsc};

pub use self::stream::{Listener, Stream};
use self::{
    peer::{AcceptSender, Peer, endpoint},
    stream::is_begun,
    wire::{Segment, Wire},
};
use super::tsmp;

/// Buffer of each connection in each direction, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// Number of connections at the same time; further ones wait.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Number of connections that one peer may begin, so that it leaves room for others.
const MAX_OF_PEER: usize = 128;
/// Interval of keep-alives to a silent peer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time for a peer to confirm that its connection was accepted.
const HALF_OPEN: Duration = Duration::from_secs(30);
/// Time for a peer to accept our connection: it may have to wait for room.
const CONNECT: Duration = Duration::from_secs(180);
/// Time for the end of a connection whose owner has dropped it.
const LINGER: Duration = Duration::from_secs(30);
/// First of the dynamic ports (RFC 6335), from which connections begin.
const DYNAMIC_PORTS: u16 = 49152;
/// Silence, as unanswered keep-alives, after which a peer's connections give way to those of others.
const SILENT: Duration = Duration::from_secs(60);
/// Limit of data that waits for silent peers, all together, in bytes.
const SILENT_BYTES: usize = 32 << 20;
/// Interval at which that data is counted.
const LOOK: Duration = Duration::from_secs(10);
/// Number of packets that wait for the stack: further ones are lost, as on any network.
const QUEUE_PACKETS: usize = 4096;

/// Number of packets that arrive together and are acknowledged together. A sender that has just begun may send one
/// packet more for each acknowledgement, however much that covers: with a single one for all it would stay slow.
const ACKNOWLEDGE: usize = 4;

/// Time limits of connections in a stack.
#[derive(Clone, Copy)]
struct Limits {
    /// Silence of a peer after which a connection ends; `None` for never.
    silence: Option<Duration>,
}

/// Stack of a node. Clones are the same stack.
#[derive(Clone)]
pub(super) struct Stack(Arc<Shared>);

struct Shared {
    state: Mutex<Inner>,
    /// Notified when something is to be sent.
    work: Notify,
    began: Instant,
}

struct Inner {
    interface: Interface,
    inbound: VecDeque<Vec<u8>>,
    wire: Wire,
    /// Peers that have connections with us, by address.
    peers: BTreeMap<Ipv6Addr, Peer>,
    /// Peer before the one whose turn it is to send first.
    last_turn: Ipv6Addr,
    listeners: HashMap<u16, AcceptSender>,
    limits: Limits,
    next_port: u16,
    next_look: Instant,
}

impl Stack {
    pub(super) fn new(
        addresses: &[Ipv6Addr],
        silence: Option<Duration>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire::default();
        let interface = Interface::new(config, &mut wire, StackInstant::ZERO);
        let inner = Inner {
            interface,
            inbound: VecDeque::new(),
            wire,
            peers: BTreeMap::new(),
            last_turn: Ipv6Addr::UNSPECIFIED,
            listeners: HashMap::new(),
            limits: Limits { silence },
            next_port: first_port(seed),
            next_look: now,
        };
        let stack = Self(Arc::new(Shared {
            state: Mutex::new(inner),
            work: Notify::new(),
            began: now,
        }));
        stack.set_addresses(addresses);
        stack
    }

    /// Replaces the stack's own addresses.
    pub(super) fn set_addresses(&self, addresses: &[Ipv6Addr]) {
        let mut inner = self.lock();
        inner.interface.update_ip_addrs(|all| {
            all.clear();
            for address in addresses {
                // The list has room for as many addresses as a node has.
                let _ = all.push(IpCidr::new(IpAddress::Ipv6(*address), 128));
            }
        });
        if let Some(address) = addresses.first() {
            // A default route: without it no peer could be reached.
            let routes = inner.interface.routes_mut();
            let _ = routes.add_default_ipv6_route(*address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.0.work.notify_one();
    }

    /// Waits until a stream has been used.
    pub(super) async fn work(&self) {
        self.0.work.notified().await;
    }

    /// Accepts a packet from a peer.
    pub(super) fn receive(&self, packet: Vec<u8>) {
        let mut inner = self.lock();
        if inner.inbound.len() < QUEUE_PACKETS {
            inner.inbound.push_back(packet);
        }
    }

    /// Handles everything that is due, and appends the packets to send: up to `room` packets besides responses.
    /// Returns when to call again at the latest, and whether there is more that waits for room.
    pub(super) fn poll(
        &self,
        now: Instant,
        room: usize,
        packets: &mut Vec<Vec<u8>>,
    ) -> (Option<Instant>, bool) {
        let began = self.0.began;
        let since = now.saturating_duration_since(began);
        let mut inner = self.lock();
        (inner.wire.room, inner.wire.is_held) = (room, false);
        while let Some(packet) = inner.inbound.pop_front() {
            inner.take(packet, since, now);
        }
        inner.send(since, now);
        inner.settle(began, since, now);
        packets.append(&mut inner.wire.outbound);
        let is_held = inner.wire.is_held;
        // Held packets are due already, and stay so.
        let due = inner.peers.values().filter_map(|peer| peer.due).min();
        (due.filter(|_| !is_held), is_held)
    }

    /// Accepts connections to a port.
    pub(super) fn listen(&self, port: u16) -> Listener {
        // Room for all possible connections: an established one is never dropped for lack of it.
        let (sender, receiver) = mpsc::channel(MAX_CONNECTIONS);
        self.lock().listeners.insert(port, sender);
        let stack = self.clone();
        Listener { stack, receiver }
    }

    /// Connects from `source` to a port of a peer.
    pub(super) async fn connect(
        &self,
        source: Ipv6Addr,
        target: SocketAddrV6,
    ) -> io::Result<Stream> {
        let begun = tokio::time::Instant::now().into_std();
        let stream = {
            let mut inner = self.lock();
            let handle = inner.connect(source, target, begun)?;
            Stream {
                stack: self.clone(),
                peer: *target.ip(),
                handle,
            }
        };
        self.wake();
        std::future::poll_fn(|context| {
            stream.with(|socket| {
                if is_begun(socket) {
                    socket.register_send_waker(context.waker());
                    return Poll::Pending;
                }
                let is_late = begun.elapsed() >= CONNECT;
                Poll::Ready(match (socket.state(), is_late) {
                    (State::Closed, true) => Err(io::ErrorKind::TimedOut.into()),
                    (State::Closed, false) => Err(io::ErrorKind::ConnectionRefused.into()),
                    (_, _) => io::Result::Ok(()),
                })
            })
        })
        .await?;
        let silence = self.lock().limits.silence;
        stream.with(|socket| socket.set_timeout(silence.map(Into::into)));
        Ok(stream)
    }

    /// Returns for how long a peer has left something unanswered.
    pub(super) fn silent_for(&self, address: Ipv6Addr, now: Instant) -> Duration {
        let inner = self.lock();
        let peer = inner.peers.get(&address);
        peer.map_or(Duration::ZERO, |peer| peer.silent_for(now))
    }

    /// Sends unanswered data again at once, because there may be a path again. Returns the addresses of the peers.
    pub(super) fn ask_again(&self, now: Instant) -> Vec<Ipv6Addr> {
        let mut inner = self.lock();
        let peers = inner.peers.iter_mut();
        let away = peers.filter_map(|(address, peer)| peer.ask_again(now).then_some(*address));
        away.collect()
    }

    /// Aborts the connections with a peer that said goodbye.
    pub(super) fn abort(&self, address: Ipv6Addr) {
        if let Some(peer) = self.lock().peers.get_mut(&address) {
            peer.abort();
        }
        self.wake();
    }
}

impl Inner {
    /// Handles one packet of a peer.
    fn take(&mut self, packet: Vec<u8>, since: Duration, now: Instant) {
        let Some((source, _)) = tsmp::ends(&packet) else {
            return;
        };
        if !self.admit(source, &packet, now) {
            return;
        }
        let before = self.wire.outbound.len();
        self.wire.inbound = Some(packet);
        let Some(peer) = self.peers.get_mut(&source) else {
            // There is no connection with this peer: an empty socket set answers with a reset.
            let mut none = SocketSet::new(Vec::new());
            let at = Peer::default().at(since);
            self.interface
                .poll_ingress_single(at, &mut self.wire, &mut none);
            return;
        };
        let at = peer.at(since);
        self.interface
            .poll_ingress_single(at, &mut self.wire, &mut peer.sockets);
        peer.heard(now);
        peer.sent(&mut self.wire.outbound[before..], now);
        peer.arrived += 1;
        if peer.arrived.is_multiple_of(ACKNOWLEDGE) {
            peer.send(&mut self.interface, &mut self.wire, since, now);
        }
    }

    /// Decides whether a packet is read. One that begins a connection gets a socket of its own, or, if there is no
    /// room, is dropped: its sender will try again.
    fn admit(&mut self, source: Ipv6Addr, packet: &[u8], now: Instant) -> bool {
        let Some(segment) = Segment::parse(packet).filter(Segment::is_first) else {
            return true;
        };
        let peer = self.peers.get(&source);
        let is_known = peer.is_some_and(|peer| peer.has(&segment));
        if is_known || !self.listeners.contains_key(&segment.target) {
            return true;
        }
        let of_peer = peer.map_or(0, Peer::open);
        if of_peer >= MAX_OF_PEER || !self.has_room() && !self.make_room(now) {
            return false;
        }
        self.peers.entry(source).or_default().expect(segment.target);
        true
    }

    fn has_room(&self) -> bool {
        let open: usize = self.peers.values().map(Peer::open).sum();
        open < MAX_CONNECTIONS
    }

    /// Aborts the connections of the peer that has been silent longest, if any is silent. Returns whether one was.
    fn make_room(&mut self, now: Instant) -> bool {
        let peers = self.peers.values_mut();
        let silent = peers.filter(|peer| peer.silent_for(now) >= SILENT && peer.open() > 0);
        let longest = silent.max_by_key(|peer| peer.silent_for(now));
        longest.map(Peer::abort).is_some()
    }

    /// Aborts connections of silent peers until the data waiting for them is below the limit.
    fn look_after_silent(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        loop {
            let peers = self.peers.values();
            let silent = peers.filter(|peer| peer.silent_for(now) >= SILENT && peer.open() > 0);
            let bytes: usize = silent.map(Peer::bytes).sum();
            if bytes <= SILENT_BYTES || !self.make_room(now) {
                return;
            }
        }
    }

    fn connect(
        &mut self,
        source: Ipv6Addr,
        target: SocketAddrV6,
        now: Instant,
    ) -> io::Result<smoltcp::iface::SocketHandle> {
        if !self.has_room() && !self.make_room(now) {
            return Err(io::Error::other("too many connections in the overlay"));
        }
        self.next_port = port_after(self.next_port);
        let ends = (
            endpoint(source, self.next_port),
            endpoint(*target.ip(), target.port()),
        );
        let peer = self.peers.entry(*target.ip()).or_default();
        let begun = peer.connect(&mut self.interface, ends, CONNECT);
        begun.map_err(|error| io::Error::other(error.to_string()))
    }

    /// Sends what is due. Peers take turns with one packet of each connection, and the next call goes on where there
    /// was no more room.
    fn send(&mut self, since: Duration, now: Instant) {
        let first = (Bound::Excluded(self.last_turn), Bound::Unbounded);
        let all = self.peers.range(first);
        let all = all.chain(self.peers.range(..=self.last_turn));
        let is_active = |peer: &Peer| peer.is_dirty || peer.due.is_some_and(|due| due <= now);
        let active = all.filter(|(_, peer)| is_active(peer)).map(|(it, _)| *it);
        let mut active: Vec<Ipv6Addr> = active.collect();
        while !active.is_empty() && !self.wire.is_held {
            active.retain(|address| {
                let Some(peer) = self.peers.get_mut(address) else {
                    return false;
                };
                peer.is_dirty = true;
                if self.wire.is_held {
                    return true;
                }
                let has_sent = peer.send(&mut self.interface, &mut self.wire, since, now);
                if !self.wire.is_held {
                    self.last_turn = *address;
                }
                has_sent
            });
        }
    }

    /// Settles the peers that something was done for.
    fn settle(&mut self, began: Instant, since: Duration, now: Instant) {
        self.look_after_silent(now);
        let Self {
            interface,
            peers,
            listeners,
            limits,
            wire,
            ..
        } = self;
        peers.retain(|_, peer| {
            if !peer.is_dirty {
                return true;
            }
            peer.settle(listeners, *limits, now);
            let due = interface.poll_at(peer.at(since), &peer.sockets);
            peer.due = due.map(|at| peer.due_at(at, began).max(now));
            peer.is_dirty = wire.is_held;
            !peer.is_empty()
        });
    }
}

/// Returns a dynamic port, so that a node that restarts with its old address does not reuse the ports of connections that
/// its peers still remember.
fn first_port(seed: u64) -> u16 {
    DYNAMIC_PORTS + (seed % u64::from(u16::MAX - DYNAMIC_PORTS)) as u16
}

fn port_after(port: u16) -> u16 {
    port.checked_add(1).unwrap_or(DYNAMIC_PORTS)
}
