//! UDP sockets of a node, one for each address family: packets to one endpoint leave together where the kernel can cut
//! them apart, and arrive together where it joins them.

use std::{
    collections::VecDeque,
    future::pending,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};
use tracing::debug;

/// Bytes that wait to be sent; what does not fit is lost, as on any network.
const MAX_WAITING: usize = 1 << 20;
/// Bytes of one datagram that the kernel cuts apart.
const MAX_BATCH: usize = 60_000;
/// Number of buffers for what has arrived, and their size: the kernel joins datagrams up to 64 KiB.
const BUFFERS: usize = 4;
const BUFFER: usize = 1 << 16;
/// Number of reads before others have their turn.
const MAX_READS: usize = 16;
/// Socket buffers, in bytes; the kernel may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// Number of addresses of this machine that are announced.
const MAX_LOCAL: usize = 32;

struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
}

/// Packets of one size to one endpoint, of which the last may be shorter.
struct Batch {
    to: SocketAddr,
    size: usize,
    contents: Vec<u8>,
    is_complete: bool,
}

/// UDP sockets of a node.
pub(super) struct Sockets {
    all: Vec<Socket>,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Binds a port for each address family that the machine has.
    pub(super) fn bind() -> Self {
        let families = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Ipv6Addr::UNSPECIFIED.into(),
        ];
        let bound = families
            .into_iter()
            .filter_map(|ip| match Socket::bind(ip) {
                Ok(socket) => Some(socket),
                Err(error) => {
                    debug!(%ip, %error, "no direct paths by this address family");
                    None
                }
            });
        Self {
            all: bound.collect(),
            buffer: Vec::new(),
        }
    }

    /// Waits until something has arrived, or until something that waits can be sent.
    pub(super) async fn ready(&self) {
        match &self.all[..] {
            [] => pending().await,
            [one] => one.ready().await,
            [one, other, ..] => tokio::select! {
                () = one.ready() => {}
                () = other.ready() => {}
            },
        }
    }

    /// Passes what has arrived to `hear`, up to a limit.
    pub(super) fn receive(&mut self, mut hear: impl FnMut(SocketAddr, &[u8])) {
        if self.buffer.is_empty() {
            // Zeroed pages are not resident before something arrives in them.
            self.buffer = vec![0; BUFFERS * BUFFER];
        }
        for socket in &self.all {
            for _ in 0..MAX_READS {
                let mut slices = self.buffer.chunks_mut(BUFFER).map(IoSliceMut::new);
                let mut slices: [_; BUFFERS] = std::array::from_fn(|_| {
                    slices.next().unwrap_or_else(|| IoSliceMut::new(&mut []))
                });
                let mut metas = [RecvMeta::default(); BUFFERS];
                let Ok(count) = socket.receive(&mut slices, &mut metas) else {
                    break;
                };
                for (slice, meta) in slices.iter().zip(&metas).take(count) {
                    let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                    let packets = slice[..meta.len].chunks(meta.stride.max(1));
                    packets.for_each(|packet| hear(from, packet));
                }
            }
        }
    }

    /// Takes a packet, which leaves with the next [`Sockets::flush`].
    pub(super) fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        if let Some(socket) = self.all.iter_mut().find(|it| it.is_for(to)) {
            socket.push(to, packet);
        }
    }

    /// Sends what waits, as far as the kernel takes it.
    pub(super) fn flush(&mut self) {
        self.all.iter_mut().for_each(Socket::flush);
    }

    /// Returns whether the kernel takes no more at present.
    pub(super) fn is_full(&self) -> bool {
        self.all.iter().any(|it| it.waiting_bytes > MAX_WAITING / 2)
    }

    /// Returns the endpoints that these sockets have in the networks of this machine. Addresses of the machine itself
    /// count only if it has no others.
    pub(super) fn local_endpoints(&self) -> Vec<SocketAddr> {
        let (own, others): (Vec<IpAddr>, Vec<IpAddr>) =
            local_addresses().into_iter().partition(IpAddr::is_loopback);
        let addresses = if others.is_empty() { own } else { others };
        let endpoints = addresses.into_iter().filter_map(|ip| {
            let socket = self.all.iter().find(|it| it.is_for((ip, 1).into()))?;
            let port = socket.socket.local_addr().ok()?.port();
            Some(SocketAddr::new(ip, port))
        });
        endpoints.take(MAX_LOCAL).collect()
    }
}

impl Socket {
    fn bind(ip: IpAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        // Besides offloads, this forbids fragments, so that a ping proves what a path carries.
        let state = UdpSocketState::new((&socket).into())?;
        // Small buffers only cost speed.
        let _ = state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER);
        let _ = state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER);
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            state,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        })
    }

    fn is_for(&self, address: SocketAddr) -> bool {
        let local = self.socket.local_addr();
        local.is_ok_and(|local| local.is_ipv4() == address.is_ipv4())
    }

    async fn ready(&self) {
        let interest = match self.waiting.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        // An error of a socket shows when it is read.
        let _ = self.socket.ready(interest).await;
    }

    fn receive(&self, slices: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        self.socket.try_io(Interest::READABLE, || {
            self.state.recv((&self.socket).into(), slices, metas)
        })
    }

    fn push(&mut self, to: SocketAddr, packet: &[u8]) {
        if self.waiting_bytes + packet.len() > MAX_WAITING {
            return;
        }
        self.waiting_bytes += packet.len();
        let segments = self.state.max_gso_segments();
        let fits = |batch: &&mut Batch| {
            let has_room = batch.contents.len() + packet.len() <= MAX_BATCH
                && batch.contents.len() < segments * batch.size;
            !batch.is_complete && batch.to == to && packet.len() <= batch.size && has_room
        };
        match self.waiting.back_mut().filter(fits) {
            Some(batch) => {
                batch.contents.extend_from_slice(packet);
                batch.is_complete = packet.len() < batch.size;
            }
            None => self.waiting.push_back(Batch {
                to,
                size: packet.len(),
                contents: packet.to_vec(),
                is_complete: segments < 2,
            }),
        }
    }

    fn flush(&mut self) {
        while let Some(batch) = self.waiting.front() {
            let transmit = Transmit {
                destination: batch.to,
                ecn: None,
                contents: &batch.contents,
                segment_size: Some(batch.size),
                src_ip: None,
            };
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                self.state.try_send((&self.socket).into(), &transmit)
            });
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            // Whatever else went wrong, for example an unreachable network: the packet is lost.
            self.waiting_bytes -= batch.contents.len();
            self.waiting.pop_front();
        }
    }
}

/// Returns the addresses of interfaces that are up, except for those that need the interface's name.
fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let up = interfaces.filter(|it| it.flags.contains(InterfaceFlags::IFF_UP));
    let mut addresses: Vec<IpAddr> = up
        .filter_map(|it| it.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
        })
        .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn flush_all(sockets: &mut Sockets) {
        while sockets.all.iter().any(|socket| !socket.waiting.is_empty()) {
            sockets.ready().await;
            sockets.flush();
        }
    }

    #[tokio::test]
    async fn packets_arrive_one_by_one_whatever_left_together() {
        let (mut a, mut b) = (Sockets::bind(), Sockets::bind());
        let to = |sockets: &Sockets| {
            let port = sockets.all[0].socket.local_addr().unwrap().port();
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        let sent: Vec<Vec<u8>> = (0..100_u8)
            .map(|number| vec![number; if number % 7 == 6 { 900 } else { 1312 }])
            .collect();
        for packet in &sent {
            a.send(to(&b), packet);
        }
        flush_all(&mut a).await;

        let mut received = Vec::new();
        while received.len() < sent.len() {
            b.ready().await;
            b.receive(|from, packet| {
                assert_eq!(from, to(&a));
                received.push(packet.to_vec());
            });
        }

        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn more_than_fits_is_dropped_and_an_unreachable_network_is_no_error() {
        let mut sockets = Sockets::bind();
        for _ in 0..2 * MAX_WAITING / 1_000 {
            sockets.send("255.255.255.255:9".parse().unwrap(), &[0; 1_000]);
        }

        assert!(sockets.is_full());
        assert!(sockets.all[0].waiting_bytes <= MAX_WAITING);
        flush_all(&mut sockets).await;
        assert_eq!(sockets.all[0].waiting_bytes, 0);
    }

    #[tokio::test]
    async fn endpoints_have_the_port_of_their_socket() {
        let sockets = Sockets::bind();
        let port = |at: usize| sockets.all[at].socket.local_addr().unwrap().port();

        for endpoint in sockets.local_endpoints() {
            let place = usize::from(endpoint.is_ipv6());
            assert_eq!(endpoint.port(), port(place), "{endpoint}");
        }
    }
}
