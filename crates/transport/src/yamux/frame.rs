//! Header of 12 bytes in front of every yamux frame. Pure.

use bytes::{BufMut, BytesMut};

pub(super) const HEADER_BYTES: usize = 12;

/// Reason in a go-away frame for a peer that violated the protocol.
pub(super) const GO_AWAY_PROTOCOL_ERROR: u32 = 1;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data = 0,
    WindowUpdate = 1,
    Ping = 2,
    GoAway = 3,
}

/// Flags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    pub(super) const SYN: Self = Self(1);
    pub(super) const ACK: Self = Self(2);
    pub(super) const FIN: Self = Self(4);
    pub(super) const RST: Self = Self(8);

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

/// Header of a frame. `length` is that of the body for data, a number of bytes granted for a window update, an opaque
/// value for a ping and a reason for a go-away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: Flags,
    pub(super) stream: u32,
    pub(super) length: u32,
}

impl Header {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(0);
        out.put_u8(self.kind as u8);
        out.put_u16(self.flags.0);
        out.put_u32(self.stream);
        out.put_u32(self.length);
    }

    /// `None` for a version or a kind that does not exist.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [0, kind, flags @ .., s0, s1, s2, s3, l0, l1, l2, l3] = bytes else {
            return None;
        };
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            _ => return None,
        };
        Some(Self {
            kind,
            flags: Flags(u16::from_be_bytes(flags.try_into().ok()?)),
            stream: u32::from_be_bytes([*s0, *s1, *s2, *s3]),
            length: u32::from_be_bytes([*l0, *l1, *l2, *l3]),
        })
    }
}
