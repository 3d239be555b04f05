//! Network device of the stack: packets on their way in and out.

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::engine::MTU;

/// Input and output of one poll.
#[derive(Default)]
pub(super) struct Wire {
    /// Packet to be read next.
    pub(super) inbound: Option<Vec<u8>>,
    /// Packets for peers, in order.
    pub(super) outbound: Vec<Vec<u8>>,
    /// Number of packets that may still be sent.
    pub(super) room: usize,
    /// Set if a packet had to wait for room.
    pub(super) is_held: bool,
}

impl Device for Wire {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Inbound, Outbound<'_>)> {
        let packet = self.inbound.take()?;
        // An immediate answer is small, and there is at most one, so it needs no room.
        Some((Inbound(packet), Outbound(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outbound<'_>> {
        // A socket that sends faster than the tunnel accepts has to wait.
        self.is_held |= self.outbound.len() >= self.room;
        (!self.is_held).then_some(Outbound(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // Packets from a tunnel are authenticated, so that their checksums need no verification.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

pub(super) struct Inbound(Vec<u8>);

impl RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, consume: F) -> R {
        consume(&self.0)
    }
}

pub(super) struct Outbound<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

/// Length of an IPv6 header in bytes; the overlay uses no extensions.
const IP_HEADER: usize = 40;
// IP protocol number, and flags of RFC 9293, section 3.1.
const TCP: u8 = 6;
const FIN: u8 = 0b1;
const SYN: u8 = 0b10;
const RST: u8 = 0b100;
const SYN_ACK_RST: u8 = 0b1_0110;
/// Positions of the sequence number and the checksum in a packet.
const SEQUENCE: usize = IP_HEADER + 4;
const CHECKSUM: usize = IP_HEADER + 16;

/// A TCP segment, as far as the stack looks at it before smoltcp does.
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) target: u16,
    pub(super) sequence: u32,
    flags: u8,
    payload: usize,
}

impl Segment {
    /// Parses the segment in an IPv6 packet; `None` if there is none.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let tcp = packet.get(IP_HEADER..).filter(|_| packet[6] == TCP)?;
        let port = |at: usize| {
            let bytes = tcp.get(at..at + 2)?.first_chunk()?;
            Some(u16::from_be_bytes(*bytes))
        };
        let header = usize::from(*tcp.get(12)? >> 4) * 4;
        Some(Self {
            source: port(0)?,
            target: port(2)?,
            sequence: u32::from_be_bytes(*tcp.get(4..8)?.first_chunk()?),
            flags: *tcp.get(13)?,
            payload: tcp.len().saturating_sub(header),
        })
    }

    /// Returns whether it requests a new connection.
    pub(super) fn is_first(&self) -> bool {
        self.flags & SYN_ACK_RST == SYN
    }

    /// Returns whether it begins a connection, from either side.
    pub(super) fn has_syn(&self) -> bool {
        self.flags & SYN != 0
    }

    /// Returns whether its receiver answers: a bare acknowledgement has no answer.
    pub(super) fn wants_answer(&self) -> bool {
        self.payload > 0 || self.flags & (SYN | FIN) != 0
    }

    /// Returns whether it only acknowledges.
    pub(super) fn is_bare(&self) -> bool {
        !self.wants_answer() && self.flags & RST == 0
    }

    /// Sequence number behind the segment.
    pub(super) fn end(&self) -> u32 {
        let control = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        let payload = u32::try_from(self.payload).unwrap_or_default();
        self.sequence.wrapping_add(payload).wrapping_add(control)
    }
}

/// Returns whether one sequence number comes before another (RFC 9293, section 3.4).
pub(super) fn is_before(one: u32, other: u32) -> bool {
    one != other && other.wrapping_sub(one) < 1 << 31
}

/// Replaces the sequence number of a TCP segment, and adjusts its checksum (RFC 1624).
pub(super) fn set_sequence(packet: &mut [u8], sequence: u32) {
    let Some(old) = packet.get(SEQUENCE..).and_then(|it| it.first_chunk::<4>()) else {
        return;
    };
    let words =
        |bytes: [u8; 4]| [[bytes[0], bytes[1]], [bytes[2], bytes[3]]].map(u16::from_be_bytes);
    let (old, new) = (words(*old), words(sequence.to_be_bytes()));
    let Some(checksum) = packet.get(CHECKSUM..).and_then(|it| it.first_chunk::<2>()) else {
        return;
    };
    let mut sum = u32::from(!u16::from_be_bytes(*checksum));
    sum += old.iter().map(|word| u32::from(!word)).sum::<u32>();
    sum += new.iter().map(|word| u32::from(*word)).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or_default();
    packet[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    packet[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
}
