//! The stack's network device: packets on their way in and out.

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::tailnet::engine::MTU;

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
const SYN_ACK_RST: u8 = 0b1_0110;

/// A TCP segment as far as the stack looks at it before smoltcp does.
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) target: u16,
    flags: u8,
    has_payload: bool,
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
            flags: *tcp.get(13)?,
            has_payload: tcp.len() > header,
        })
    }

    /// Whether it asks for a new connection.
    pub(super) fn is_first(&self) -> bool {
        self.flags & SYN_ACK_RST == SYN
    }

    /// Whether a peer that has it answers: a bare acknowledgement stays without an answer.
    pub(super) fn wants_answer(&self) -> bool {
        self.has_payload || self.flags & (SYN | FIN) != 0
    }
}
