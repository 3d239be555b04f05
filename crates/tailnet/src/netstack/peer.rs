//! Connections with one peer: each peer has sockets and a clock of its own.
//!
//! When a peer that was away answers again, smoltcp may be waiting for up to a minute before it sends the next time.
//! Setting the peer's clock forward makes everything due at once, and does not affect the connections of others.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv6Addr, SocketAddrV6},
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, Socket, SocketBuffer, State},
    time::Instant as StackInstant,
    wire::{IpAddress, IpEndpoint, IpListenEndpoint},
};
use tokio::sync::mpsc;

use super::{
    BUFFER_BYTES, HALF_OPEN, KEEP_ALIVE, LINGER, Limits,
    wire::{Segment, Wire, is_before, set_sequence},
};

/// Longest pause of smoltcp between two retransmissions.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Time without an answer after which a peer counts as having been away: more than the first pause of a
/// retransmission, with its round trip.
const AWAY: Duration = Duration::from_secs(2);

/// Number of a peer's ended connections that are remembered until they are forgotten together.
const SPARE: usize = 16;

/// Channel that passes new connections to their listener.
pub(super) type AcceptSender = mpsc::Sender<(SocketHandle, SocketAddrV6)>;

/// Connections with one address.
pub(super) struct Peer {
    pub(super) sockets: SocketSet<'static>,
    /// Connections that it began and that are not established yet, by their port.
    begun: Vec<(u16, SocketHandle)>,
    /// Connections that nobody owns any more, and since when.
    ending: Vec<(SocketHandle, Instant)>,
    /// Sequence number behind everything that was sent on a connection, by our port and the peer's.
    furthest: HashMap<(u16, u16), u32>,
    /// Amount by which its clock is set forward.
    ahead: Duration,
    /// Time since which something that it should answer has no answer.
    unanswered_since: Option<Instant>,
    /// Time when its clock was last set forward.
    asked_at: Option<Instant>,
    /// Time when it has to be polled next without an event.
    pub(super) due: Option<Instant>,
    /// Set if it has to be polled now.
    pub(super) is_dirty: bool,
    /// Number of its packets since the last forced acknowledgement.
    pub(super) arrived: usize,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            sockets: SocketSet::new(Vec::new()),
            begun: Vec::new(),
            ending: Vec::new(),
            furthest: HashMap::new(),
            ahead: Duration::ZERO,
            unanswered_since: None,
            asked_at: None,
            due: None,
            is_dirty: true,
            arrived: 0,
        }
    }
}

fn socket(limit: Duration) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(Some(smoltcp::time::Duration::from_millis(5)));
    socket.set_timeout(Some(limit.into()));
    socket.set_keep_alive(Some(KEEP_ALIVE.into()));
    socket.set_congestion_control(CongestionControl::Cubic);
    socket
}

impl Peer {
    fn tcp(&self) -> impl Iterator<Item = &Socket<'static>> {
        self.sockets.iter().filter_map(|(_, socket)| match socket {
            smoltcp::socket::Socket::Tcp(socket) => Some(socket),
            smoltcp::socket::Socket::Udp(_) => None,
        })
    }

    /// Number of connections that have not ended.
    pub(super) fn open(&self) -> usize {
        self.tcp().filter(|socket| socket.is_open()).count()
    }

    /// Bytes that wait to be sent or read.
    pub(super) fn bytes(&self) -> usize {
        let waiting = |socket: &Socket<'_>| socket.send_queue() + socket.recv_queue();
        self.tcp().map(waiting).sum()
    }

    /// Returns whether this segment belongs to one of its connections.
    pub(super) fn has(&self, segment: &Segment) -> bool {
        let mut all = self.tcp();
        all.any(|socket| {
            let (local, remote) = (socket.local_endpoint(), socket.remote_endpoint());
            local.is_some_and(|it| it.port == segment.target)
                && remote.is_some_and(|it| it.port == segment.source)
        })
    }

    /// Returns for how long it has left something unanswered.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        self.unanswered_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Opens a socket for the next connection to this port.
    pub(super) fn expect(&mut self, port: u16) {
        let mut socket = socket(HALF_OPEN);
        if socket.listen(IpListenEndpoint::from(port)).is_ok() {
            let handle = self.sockets.add(socket);
            self.begun.push((port, handle));
        }
    }

    /// Begins a connection to the peer.
    pub(super) fn connect(
        &mut self,
        interface: &mut Interface,
        ends: (IpEndpoint, IpEndpoint),
        within: Duration,
    ) -> Result<SocketHandle, smoltcp::socket::tcp::ConnectError> {
        let (local, remote) = ends;
        let mut socket = socket(within);
        socket.connect(interface.context(), remote, local)?;
        self.is_dirty = true;
        Ok(self.sockets.add(socket))
    }

    /// Lets a connection end that nobody owns any more.
    pub(super) fn let_go(&mut self, handle: SocketHandle, now: Instant) {
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.set_timeout(Some(LINGER.into()));
        match socket.recv_queue() {
            0 => socket.close(),
            // Unread data would be lost silently: a reset tells the peer.
            _ => socket.abort(),
        }
        self.ending.push((handle, now));
        self.is_dirty = true;
    }

    /// Aborts all connections, because the peer no longer exists.
    pub(super) fn abort(&mut self) {
        for (_, socket) in self.sockets.iter_mut() {
            if let smoltcp::socket::Socket::Tcp(socket) = socket {
                socket.abort();
            }
        }
        self.is_dirty = true;
    }

    /// Converts a time to the peer's clock for smoltcp, `since` the start of the stack.
    pub(super) fn at(&self, since: Duration) -> StackInstant {
        let passed = since + self.ahead;
        StackInstant::from_micros(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Converts a time of the peer's clock back, for a stack that started at `began`.
    pub(super) fn due_at(&self, at: StackInstant, began: Instant) -> Instant {
        let passed = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or_default());
        began + passed.saturating_sub(self.ahead)
    }

    /// Records what was sent to it, and corrects bare acknowledgements.
    ///
    /// smoltcp numbers them by the next byte that it sends, and goes back with that when it retransmits. If the peer
    /// has received everything, such a number is below the one that it expects, and then, by RFC 9293 section
    /// 3.10.7.4, it ignores the acknowledgement. Two peers that have all of each other's data, and whose
    /// acknowledgements were all lost, would send each other their first packet forever. So an acknowledgement gets
    /// the number behind everything that was sent.
    pub(super) fn sent(&mut self, packets: &mut [Vec<u8>], now: Instant) {
        for packet in packets {
            let Some(segment) = Segment::parse(packet) else {
                continue;
            };
            if segment.wants_answer() {
                self.unanswered_since.get_or_insert(now);
            }
            let (ends, end) = ((segment.source, segment.target), segment.end());
            let furthest = self.furthest.entry(ends).or_insert(end);
            match is_before(end, *furthest) {
                true if segment.is_bare() => set_sequence(packet, *furthest),
                true if !segment.has_syn() => {}
                // A reused port: the new connection has sequence numbers of its own.
                _ => *furthest = end,
            }
        }
    }

    /// Forgets the sequence numbers of connections that no longer exist.
    fn forget_ended(&mut self) {
        if self.furthest.len() <= 2 * self.tcp().count() + SPARE {
            return;
        }
        let ends = self.tcp().filter_map(|socket| {
            let ends = socket.local_endpoint().zip(socket.remote_endpoint());
            ends.map(|(local, remote)| (local.port, remote.port))
        });
        let here: HashSet<_> = ends.collect();
        self.furthest.retain(|ends, _| here.contains(ends));
    }

    /// Records that it was heard. If it was away, everything unacknowledged is sent again at once.
    pub(super) fn heard(&mut self, now: Instant) {
        let was_away = self.silent_for(now) >= AWAY;
        self.unanswered_since = None;
        self.is_dirty = true;
        if was_away && self.tcp().any(|socket| socket.send_queue() > 0) {
            self.set_forward(now);
        }
    }

    fn set_forward(&mut self, now: Instant) {
        self.ahead += LONGEST_PAUSE;
        self.asked_at = Some(now);
        self.is_dirty = true;
    }

    /// Sends unanswered data again at once, because there may be a path again. Returns whether there was any.
    pub(super) fn ask_again(&mut self, now: Instant) -> bool {
        let asked = |at: Instant| now.saturating_duration_since(at) < AWAY;
        let is_due = self.silent_for(now) >= AWAY && !self.asked_at.is_some_and(asked);
        if is_due {
            self.set_forward(now);
        }
        is_due
    }

    /// Hands over established connections, and forgets those that have ended.
    pub(super) fn settle(
        &mut self,
        doors: &HashMap<u16, AcceptSender>,
        limits: Limits,
        now: Instant,
    ) {
        let Self {
            sockets,
            begun,
            ending,
            ..
        } = self;
        begun.retain(|(port, handle)| {
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            match socket.state() {
                State::SynReceived => return true,
                // The packet that this socket was opened for did not establish a connection.
                State::Listen | State::Closed => {
                    sockets.remove(*handle);
                    return false;
                }
                _ => {}
            }
            socket.set_timeout(limits.silence.map(Into::into));
            let peer = socket.remote_endpoint().map(|peer| {
                let IpAddress::Ipv6(address) = peer.addr;
                SocketAddrV6::new(address, peer.port, 0, 0)
            });
            let taken = doors.get(port).zip(peer);
            let taken = taken.is_some_and(|(door, peer)| door.try_send((*handle, peer)).is_ok());
            if !taken {
                socket.abort();
                ending.push((*handle, now));
            }
            false
        });
        ending.retain(|(handle, since)| {
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            let is_over = match socket.state() {
                // The peer has been told, if it had to be.
                State::Closed => socket.remote_endpoint().is_none(),
                State::TimeWait => true,
                // The peer has acknowledged everything, and does not close its side.
                State::FinWait2 => now.saturating_duration_since(*since) >= LINGER,
                _ => false,
            };
            if is_over {
                sockets.remove(*handle);
            }
            !is_over
        });
        self.forget_ended();
    }

    /// Sends at most one packet of each connection, and returns whether one was sent.
    pub(super) fn send(
        &mut self,
        interface: &mut Interface,
        wire: &mut Wire,
        since: Duration,
        now: Instant,
    ) -> bool {
        let before = wire.outbound.len();
        interface.poll_egress(self.at(since), wire, &mut self.sockets);
        self.sent(&mut wire.outbound[before..], now);
        wire.outbound.len() > before
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.iter().next().is_none()
    }
}

/// Returns the address of a peer in the stack's form.
pub(super) fn endpoint(address: Ipv6Addr, port: u16) -> IpEndpoint {
    IpEndpoint::new(IpAddress::Ipv6(address), port)
}
