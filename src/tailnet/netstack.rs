//! TCP of our own, over packets: listeners and connections that look like sockets, and open nothing on the machine.
//!
//! A connection's buffers are memory that the system hands out as it is touched, so an idle one costs next to nothing.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv6Addr, SocketAddrV6},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{RecvError, Socket, SocketBuffer, State},
    time::Instant as StackInstant,
    wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, mpsc},
};

use super::{engine::MTU, tsmp};

/// Of each connection, in each direction.
const BUFFER_BYTES: usize = 1 << 20;
/// Connections at a time, those included that end.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Connections that one peer began, so that it leaves room for others.
const MAX_OF_PEER: usize = 128;
/// Connections that wait to be accepted, of each listener.
const BACKLOG: usize = 32;
/// A peer that takes nothing for so long is away.
const DEAD: Duration = Duration::from_secs(30);
/// Asks a silent peer whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Packets that wait for the stack: the rest is lost, as on any network.
const QUEUE_PACKETS: usize = 4096;

/// Packets that come at once and are acknowledged together. A sender that has just begun may send one packet more for
/// each answer, whatever that acknowledges: with one answer for all it would stay slow.
const ACKNOWLEDGE: usize = 4;

const TCP: u8 = 6;
const SYN_ACK_RST: u8 = 0b1_0110;
const SYN: u8 = 0b10;

/// The stack of a node. A clone is the same stack.
#[derive(Clone)]
pub(super) struct Stack(Arc<Shared>);

struct Shared {
    state: Mutex<Inner>,
    /// Something is to be sent.
    work: Notify,
    began: Instant,
}

struct Inner {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    listeners: HashMap<u16, mpsc::Sender<(SocketHandle, SocketAddrV6)>>,
    /// Connections that were begun by others and do not stand yet.
    begun: Vec<(u16, SocketHandle)>,
    /// Connections that nobody holds, until they have ended.
    ending: Vec<SocketHandle>,
    next_port: u16,
}

/// Packets on their way in and out.
#[derive(Default)]
struct Wire {
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
    /// Packets that may still go out.
    room: usize,
    /// Whether there would have been more.
    is_held: bool,
}

impl Device for Wire {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Inbound, Outbound<'_>)> {
        let packet = self.inbound.pop_front()?;
        // What answers a packet at once is small, and no more than one.
        Some((Inbound(packet), Outbound(&mut self.outbound)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Outbound<'_>> {
        // Who sends faster than the tunnel takes it waits.
        self.is_held = self.outbound.len() >= self.room;
        (!self.is_held).then_some(Outbound(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // What came out of a tunnel is as it went in.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Inbound(Vec<u8>);

impl RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, consume: F) -> R {
        consume(&self.0)
    }
}

struct Outbound<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Stack {
    pub(super) fn new(addresses: &[Ipv6Addr], seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire::default();
        let interface = Interface::new(config, &mut wire, StackInstant::ZERO);
        let inner = Inner {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            listeners: HashMap::new(),
            begun: Vec::new(),
            ending: Vec::new(),
            next_port: 32768 + (seed % 16384) as u16,
        };
        let stack = Self(Arc::new(Shared {
            state: Mutex::new(inner),
            work: Notify::new(),
            began: now,
        }));
        stack.set_addresses(addresses);
        stack
    }

    /// Takes these for its own.
    pub(super) fn set_addresses(&self, addresses: &[Ipv6Addr]) {
        let mut inner = self.lock();
        inner.interface.update_ip_addrs(|all| {
            all.clear();
            for address in addresses {
                // There is room for as many as a node has.
                let _ = all.push(IpCidr::new(IpAddress::Ipv6(*address), 128));
            }
        });
        if let Some(address) = addresses.first() {
            // Everybody is reached the same way: without this, nobody would be.
            let routes = inner.interface.routes_mut();
            let _ = routes.add_default_ipv6_route(*address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a stream was used.
    pub(super) async fn work(&self) {
        self.0.work.notified().await;
    }

    /// Takes a packet from a peer.
    pub(super) fn receive(&self, packet: Vec<u8>) {
        let mut inner = self.lock();
        if inner.wire.inbound.len() < QUEUE_PACKETS {
            inner.expect(&packet);
            inner.wire.inbound.push_back(packet);
        }
    }

    /// Does what is to be done, and appends what is to be sent: up to `room` packets beside answers. Returns when to
    /// come again at the latest, and whether there is more that waits for room.
    pub(super) fn poll(
        &self,
        now: Instant,
        room: usize,
        packets: &mut Vec<Vec<u8>>,
    ) -> (Option<Instant>, bool) {
        let at = self.at(now);
        let mut inner = self.lock();
        let Inner {
            interface,
            sockets,
            wire,
            ..
        } = &mut *inner;
        (wire.room, wire.is_held) = (room, false);
        for arrived in 1..=wire.inbound.len() {
            interface.poll_ingress_single(at, wire, sockets);
            if arrived % ACKNOWLEDGE == 0 {
                interface.poll_egress(at, wire, sockets);
            }
        }
        interface.poll(at, wire, sockets);
        let is_held = wire.is_held;
        packets.append(&mut wire.outbound);
        inner.settle();
        let Inner {
            interface, sockets, ..
        } = &mut *inner;
        let delay = interface.poll_delay(at, sockets);
        // What is held is due already, and stays so.
        let due = delay
            .filter(|_| !is_held)
            .map(|it| now + Duration::from(it));
        (due, is_held)
    }

    fn at(&self, now: Instant) -> StackInstant {
        let passed = now.saturating_duration_since(self.0.began);
        StackInstant::from_micros(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Takes connections to a port.
    pub(super) fn listen(&self, port: u16) -> Listener {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.lock().listeners.insert(port, sender);
        Listener {
            stack: self.clone(),
            receiver,
        }
    }

    /// Connects from `source`.
    pub(super) async fn connect(
        &self,
        source: Ipv6Addr,
        target: SocketAddrV6,
    ) -> io::Result<Stream> {
        let stream = {
            let mut inner = self.lock();
            let handle = inner.connect(source, target)?;
            Stream {
                stack: self.clone(),
                handle,
            }
        };
        self.0.work.notify_one();
        std::future::poll_fn(|context| {
            let mut inner = self.lock();
            let socket = inner.sockets.get_mut::<Socket<'_>>(stream.handle);
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => Poll::Ready(io::Result::Ok(())),
            }
        })
        .await?;
        Ok(stream)
    }
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(Some(smoltcp::time::Duration::from_millis(5)));
    socket.set_timeout(Some(DEAD.into()));
    socket.set_keep_alive(Some(KEEP_ALIVE.into()));
    socket.set_congestion_control(smoltcp::socket::tcp::CongestionControl::Cubic);
    socket
}

impl Inner {
    /// Opens a door for a connection that begins with `packet`, if somebody listens and there is room.
    fn expect(&mut self, packet: &[u8]) {
        let Some(tcp) = packet.get(40..).filter(|_| packet[6] == TCP) else {
            return;
        };
        let (Some(&[high, low]), Some(flags)) =
            (tcp.get(2..4).and_then(<[u8]>::first_chunk), tcp.get(13))
        else {
            return;
        };
        let port = u16::from_be_bytes([high, low]);
        if flags & SYN_ACK_RST != SYN || !self.listeners.contains_key(&port) {
            return;
        }
        let is_waiting = |handle: &SocketHandle| {
            self.sockets.get::<Socket<'_>>(*handle).state() == State::Listen
        };
        let is_there = self
            .begun
            .iter()
            .any(|(it, handle)| *it == port && is_waiting(handle));
        if is_there || !self.has_room() || self.of_peer(packet) >= MAX_OF_PEER {
            return;
        }
        let mut socket = socket();
        if socket.listen(IpListenEndpoint::from(port)).is_ok() {
            let handle = self.sockets.add(socket);
            self.begun.push((port, handle));
        }
    }

    /// How many connections there are with whoever sent this packet.
    fn of_peer(&self, packet: &[u8]) -> usize {
        let Some((source, _)) = tsmp::ends(packet) else {
            return usize::MAX;
        };
        let source = IpAddress::Ipv6(source);
        let is_its = |socket: &smoltcp::socket::Socket<'_>| match socket {
            smoltcp::socket::Socket::Tcp(socket) => {
                let peer = socket.remote_endpoint();
                peer.is_some_and(|peer| peer.addr == source)
            }
            smoltcp::socket::Socket::Udp(_) => false,
        };
        let all = self.sockets.iter();
        all.filter(|(_, socket)| is_its(socket)).count()
    }

    fn has_room(&self) -> bool {
        self.sockets.iter().count() < MAX_CONNECTIONS
    }

    fn connect(&mut self, source: Ipv6Addr, target: SocketAddrV6) -> io::Result<SocketHandle> {
        if !self.has_room() {
            return Err(io::Error::other("too many connections in the overlay"));
        }
        self.next_port = match self.next_port {
            ..49152 | u16::MAX => 49152,
            port => port + 1,
        };
        let mut socket = socket();
        let local = IpEndpoint::new(IpAddress::Ipv6(source), self.next_port);
        let remote = IpEndpoint::new(IpAddress::Ipv6(*target.ip()), target.port());
        let begun = socket.connect(self.interface.context(), remote, local);
        begun.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(self.sockets.add(socket))
    }

    /// Hands over connections that stand, and forgets those that have ended.
    fn settle(&mut self) {
        let Self {
            sockets,
            begun,
            ending,
            listeners,
            ..
        } = self;
        begun.retain(|(port, handle)| {
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            match socket.state() {
                State::Listen | State::SynReceived => return true,
                State::Closed => {
                    sockets.remove(*handle);
                    return false;
                }
                _ => {}
            }
            let peer = socket.remote_endpoint().map(|peer| {
                let IpAddress::Ipv6(address) = peer.addr;
                SocketAddrV6::new(address, peer.port, 0, 0)
            });
            let taken = listeners.get(port).zip(peer);
            let taken = taken.is_some_and(|(to, peer)| to.try_send((*handle, peer)).is_ok());
            if !taken {
                socket.abort();
                ending.push(*handle);
            }
            false
        });
        ending.retain(|handle| {
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            if socket.state() == State::Closed && socket.send_queue() == 0
                || socket.state() == State::TimeWait
            {
                sockets.remove(*handle);
                return false;
            }
            true
        });
    }
}

/// Connections to a port.
pub struct Listener {
    stack: Stack,
    receiver: mpsc::Receiver<(SocketHandle, SocketAddrV6)>,
}

impl Listener {
    /// The next connection, and from where; `None` if another one listens in its place.
    pub async fn accept(&mut self) -> Option<(Stream, SocketAddrV6)> {
        let (handle, peer) = self.receiver.recv().await?;
        let stack = self.stack.clone();
        Some((Stream { stack, handle }, peer))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        while let Ok((handle, _)) = self.receiver.try_recv() {
            let stack = self.stack.clone();
            drop(Stream { stack, handle });
        }
    }
}

/// A connection in the overlay. Dropped, it ends in an orderly way.
pub struct Stream {
    stack: Stack,
    handle: SocketHandle,
}

impl Stream {
    fn with<T>(&self, act: impl FnOnce(&mut Socket<'static>) -> T) -> T {
        act(self.stack.lock().sockets.get_mut(self.handle))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let read = self.with(|socket| {
            if !socket.can_recv() && (socket.may_recv() || is_begun(socket)) {
                socket.register_recv_waker(context.waker());
                return Poll::Pending;
            }
            match socket.recv_slice(buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    Poll::Ready(Ok(()))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(())),
                Err(RecvError::InvalidState) => {
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
            }
        });
        if read.is_ready() {
            budget.made_progress();
            // The peer may send more now.
            self.stack.0.work.notify_one();
        }
        read
    }
}

fn is_begun(socket: &Socket<'_>) -> bool {
    matches!(socket.state(), State::SynSent | State::SynReceived)
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let written = self.with(|socket| {
            if !socket.can_send() && (socket.may_send() || is_begun(socket)) {
                socket.register_send_waker(context.waker());
                return Poll::Pending;
            }
            let sent = socket.send_slice(data);
            Poll::Ready(sent.map_err(|_| io::ErrorKind::BrokenPipe.into()))
        });
        if written.is_ready() {
            budget.made_progress();
            self.stack.0.work.notify_one();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(Socket::close);
        self.stack.0.work.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.stack.lock();
        let socket = inner.sockets.get_mut::<Socket<'_>>(self.handle);
        match socket.recv_queue() {
            0 => socket.close(),
            // What came is read by nobody: the peer should know.
            _ => socket.abort(),
        }
        inner.ending.push(self.handle);
        drop(inner);
        self.stack.0.work.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 2);

    /// Two stacks with a wire between them.
    fn pair() -> (Stack, Stack) {
        let now = Instant::now();
        let (a, b) = (Stack::new(&[A], 1, now), Stack::new(&[B], 2, now));
        for (from, to) in [(a.clone(), b.clone()), (b.clone(), a.clone())] {
            tokio::spawn(async move {
                loop {
                    let mut packets = Vec::new();
                    let (next, _) = from.poll(Instant::now(), QUEUE_PACKETS, &mut packets);
                    if !packets.is_empty() {
                        packets.into_iter().for_each(|packet| to.receive(packet));
                        to.0.work.notify_one();
                    }
                    let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
                    tokio::select! {
                        () = from.work() => {}
                        () = tokio::time::sleep_until(next.into()) => {}
                    }
                }
            });
        }
        (a, b)
    }

    #[tokio::test]
    async fn streams_carry_everything_both_ways_and_end() {
        let (a, b) = pair();
        let mut listener = b.listen(7);
        let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i >> 3) as u8).collect();

        let echo = tokio::spawn(async move {
            let (stream, peer) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
            (peer, reader.unsplit(writer))
        });
        let stream = a.connect(A, SocketAddrV6::new(B, 7, 0, 0)).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (data, mut come) = (sent.clone(), Vec::new());
        let writing = async {
            writer.write_all(&data).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(writing, reader.read_to_end(&mut come));

        read.unwrap();
        assert!(come == sent);
        assert_eq!(*echo.await.unwrap().0.ip(), A);
    }

    /// Carries what waits from one stack to the other, all at once.
    fn carry(from: &Stack, to: &Stack) {
        let mut packets = Vec::new();
        from.poll(Instant::now(), QUEUE_PACKETS, &mut packets);
        packets.into_iter().for_each(|packet| to.receive(packet));
    }

    #[tokio::test]
    async fn a_sender_becomes_fast_within_few_round_trips() {
        let now = Instant::now();
        let (a, b) = (Stack::new(&[A], 1, now), Stack::new(&[B], 2, now));
        let mut listener = b.listen(7);
        let mut connecting = Box::pin(a.connect(A, SocketAddrV6::new(B, 7, 0, 0)));
        let mut here = loop {
            if let Some(connected) = (&mut connecting).now_or_never() {
                break connected.unwrap();
            }
            carry(&a, &b);
            carry(&b, &a);
        };
        carry(&a, &b);
        carry(&b, &a);
        let (mut there, _) = listener.accept().await.unwrap();

        let (mut piece, mut come, mut trips) = (vec![0; 64 << 10], 0, 0);
        while come < 8_000_000 {
            while let Some(written) = here.write(&piece).now_or_never() {
                written.unwrap();
            }
            carry(&a, &b);
            carry(&b, &a);
            while let Some(read) = there.read(&mut piece).now_or_never() {
                come += read.unwrap();
            }
            carry(&b, &a);
            trips += 1;
            // Else it would look as if there were never anything to read again.
            tokio::task::yield_now().await;
        }

        assert!(trips < 60, "{trips}");
    }

    #[tokio::test]
    async fn nothing_is_sent_without_room_and_it_is_told_that_something_waits() {
        let now = Instant::now();
        let a = Stack::new(&[A], 1, now);
        let mut connecting = Box::pin(a.connect(A, SocketAddrV6::new(B, 7, 0, 0)));
        assert!((&mut connecting).now_or_never().is_none());
        let mut packets = Vec::new();

        assert_eq!(a.poll(now, 0, &mut packets), (None, true));
        assert!(packets.is_empty());
        let (due, is_held) = a.poll(now, 1, &mut packets);
        assert!(due.is_some() && !is_held);
        assert_eq!(packets.len(), 1);
    }

    #[tokio::test]
    async fn where_nobody_listens_a_connection_is_refused() {
        let (a, _b) = pair();

        let refused = a.connect(A, SocketAddrV6::new(B, 8, 0, 0)).await;

        let refused = refused.err().unwrap().kind();
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn one_peer_leaves_room_for_the_connections_of_others() {
        const C: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 3);
        let (a, b) = pair();
        a.set_addresses(&[A, C]);
        let (mut listener, target) = (b.listen(7), SocketAddrV6::new(B, 7, 0, 0));
        let mut held = Vec::new();
        for _ in 0..MAX_OF_PEER {
            held.push(tokio::join!(a.connect(A, target), listener.accept()));
        }

        let refused = a.connect(A, target).await.err().unwrap().kind();
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
        let (here, there) = tokio::join!(a.connect(C, target), listener.accept());
        assert!(here.is_ok());
        assert_eq!(*there.unwrap().1.ip(), C);
        assert!(
            held.iter()
                .all(|(here, there)| here.is_ok() && there.is_some())
        );
    }

    #[tokio::test]
    async fn what_has_ended_is_forgotten() {
        let (a, b) = pair();
        let mut listener = b.listen(7);
        for _ in 0..MAX_CONNECTIONS / 64 {
            let connecting = a.connect(A, SocketAddrV6::new(B, 7, 0, 0));
            let (mut here, there) = tokio::join!(connecting, listener.accept());
            drop(there);
            let here = here.as_mut().unwrap();
            assert_eq!(here.read(&mut [0; 8]).await.unwrap(), 0);
        }
        while b.lock().sockets.iter().count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
