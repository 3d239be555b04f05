//! Every packet of a network that is a test's own: a loopback device, no other, and so no way out.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::TimeVal,
    },
};
use outpost::process::isolation::network;

/// On a loopback device a packet is seen when it goes out and when it comes in.
const SEEN: usize = 2;
const DNS: u16 = 53;
/// Where a packet's header of Ethernet ends.
const ETHERNET: usize = 14;

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// `None` if it is none of IP.
    pub to: Option<IpAddr>,
    /// Of TCP and UDP.
    pub port: Option<u16>,
}

impl Packet {
    fn parse(frame: &[u8]) -> Self {
        let bytes = |at: usize, length: usize| frame.get(at..at + length);
        let port = |protocol: Option<&[u8]>, at: usize| match protocol {
            Some([6 | 17]) => bytes(at + 2, 2).map(|it| u16::from_be_bytes([it[0], it[1]])),
            _ => None,
        };
        match bytes(12, 2) {
            Some([0x08, 0x00]) => {
                let to = bytes(ETHERNET + 16, 4).and_then(|it| <[u8; 4]>::try_from(it).ok());
                let words = bytes(ETHERNET, 1).map_or(5, |first| usize::from(first[0] & 0x0f));
                Self {
                    to: to.map(IpAddr::from),
                    port: port(bytes(ETHERNET + 9, 1), ETHERNET + 4 * words),
                }
            }
            Some([0x86, 0xdd]) => {
                let to = bytes(ETHERNET + 24, 16).and_then(|it| <[u8; 16]>::try_from(it).ok());
                Self {
                    to: to.map(IpAddr::from),
                    port: port(bytes(ETHERNET + 6, 1), ETHERNET + 40),
                }
            }
            _ => Self {
                to: None,
                port: None,
            },
        }
    }

    /// Whether it asks for a name.
    pub fn is_dns(&self) -> bool {
        self.port == Some(DNS)
    }

    /// Whether it stays on the machine.
    pub fn is_inside(&self) -> bool {
        self.to.is_some_and(|to| to.is_loopback())
    }
}

/// Runs `work` in such a network, with all that it starts, and returns the packets in it from the very first on.
///
/// # Errors
/// If the kernel gives this user no network with a capture; then `work` was not run.
pub fn captured<T: Send>(work: impl FnOnce() -> T + Send) -> Result<(T, Vec<Packet>), String> {
    // A network belongs to a thread and what that starts.
    thread::scope(|scope| scope.spawn(|| on_this_thread(work)).join().unwrap())
}

fn on_this_thread<T>(work: impl FnOnce() -> T) -> Result<(T, Vec<Packet>), String> {
    network::leave().map_err(|error| error.to_string())?;
    let kind = (AddressFamily::Packet, SockType::Raw);
    let capture = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .map_err(|error| format!("a capture: {error}"))?;
    // Nothing may be dropped while the reader has no turn.
    setsockopt(&capture, RcvBufForce, &(256 << 20)).map_err(|error| error.to_string())?;
    setsockopt(&capture, ReceiveTimeout, &TimeVal::new(0, 100_000)).unwrap();
    let is_over = AtomicBool::new(false);
    let read = || {
        let (mut packets, mut frame) = (Vec::new(), [0; 128]);
        loop {
            match recv(capture.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => packets.push(Packet::parse(&frame[..length])),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if is_over.load(Ordering::Acquire) => return packets,
                Err(Errno::EAGAIN) => {}
                Err(error) => panic!("the capture ended: {error}"),
            }
        }
    };
    let (done, mut packets, counted) = thread::scope(|scope| {
        let reader = scope.spawn(read);
        let done = work();
        // A question that must be seen, or nothing would prove anything; the network's own counters had none until now.
        let question = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        question.send_to(b"?", (Ipv4Addr::LOCALHOST, DNS)).unwrap();
        let counted = settled();
        is_over.store(true, Ordering::Release);
        (done, reader.join().unwrap(), counted)
    });
    assert_eq!(packets.len(), SEEN * counted, "the capture saw all packets");
    for _ in 0..SEEN {
        let question = packets.iter().rposition(Packet::is_dns);
        packets.remove(question.expect("the capture sees a question for a name"));
    }
    Ok((done, packets))
}

/// Packets that the loopback device took, once there are no more: what was ended may still say so to its peer.
fn settled() -> usize {
    let mut before = None;
    loop {
        let now = taken();
        if before == Some(now) {
            return now;
        }
        before = Some(now);
        thread::sleep(Duration::from_millis(300));
    }
}

fn taken() -> usize {
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let lo = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let packets = lo.unwrap().split_whitespace().nth(1).unwrap();
    packets.parse().unwrap()
}
