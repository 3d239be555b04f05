//! The stack's network device: packets on their way in and out.

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::engine::MTU;

/// What one poll takes in and puts out.
#[derive(Default)]
pub(super) struct Wire {
    /// The packet that is read next.
    pub(super) inbound: Option<Vec<u8>>,
    /// Packets for peers, in order.
    pub(super) outbound: Vec<Vec<u8>>,
    /// Packets that may still go out.
    pub(super) room: usize,
    /// Whether a packet had to wait for room.
    pub(super) is_held: bool,
}

impl Device for Wire {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Inbound, Outbound<'_>)> {
        let packet = self.inbound.take()?;
        // What answers a packet at once is small, and no more than one.
        Some((Inbound(packet), Outbound(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outbound<'_>> {
        // Who sends faster than the tunnel takes it waits.
        self.is_held |= self.outbound.len() >= self.room;
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

/// Bytes of an IPv6 header, without extensions as the overlay has none.
const IP_HEADER: usize = 40;
const TCP: u8 = 6;
const FIN: u8 = 0b1;
const SYN: u8 = 0b10;
const RST: u8 = 0b100;
const SYN_ACK_RST: u8 = 0b1_0110;
/// Where a sequence number and a checksum are in a packet.
const SEQUENCE: usize = IP_HEADER + 4;
const CHECKSUM: usize = IP_HEADER + 16;

/// A TCP segment as far as the stack looks at it before smoltcp does.
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) target: u16,
    pub(super) sequence: u32,
    flags: u8,
    payload: usize,
}

impl Segment {
    /// The segment in an IPv6 packet; `None` if there is none.
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

    /// Whether it asks for a new connection.
    pub(super) fn is_first(&self) -> bool {
        self.flags & SYN_ACK_RST == SYN
    }

    /// Whether it begins a connection, from either side.
    pub(super) fn has_syn(&self) -> bool {
        self.flags & SYN != 0
    }

    /// Whether a peer that has it answers: a bare acknowledgement stays without an answer.
    pub(super) fn wants_answer(&self) -> bool {
        self.payload > 0 || self.flags & (SYN | FIN) != 0
    }

    /// Whether it does nothing but acknowledge.
    pub(super) fn is_bare(&self) -> bool {
        !self.wants_answer() && self.flags & RST == 0
    }

    /// The sequence number behind it.
    pub(super) fn end(&self) -> u32 {
        let control = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        let payload = u32::try_from(self.payload).unwrap_or_default();
        self.sequence.wrapping_add(payload).wrapping_add(control)
    }
}

/// Whether one sequence number comes before another (RFC 9293, section 3.4).
pub(super) fn is_before(one: u32, other: u32) -> bool {
    one != other && other.wrapping_sub(one) < 1 << 31
}

/// Gives a TCP segment another sequence number, and its checksum what follows from that (RFC 1624).
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
