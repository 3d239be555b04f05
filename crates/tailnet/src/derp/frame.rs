//! Frames of the DERP protocol: a type, a length, a payload; and the limits of their lengths.
//!
//! # Source
//! coder/tailscale `derp/derp.go`.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::key::{Key, Private};

// "DERP" and U+1F511, a key.
const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";
// One byte for the type, four for the length.
const HEADER: usize = 5;
const VERSION: u32 = 2;
/// Longest frame that is accepted, in bytes.
const MAX_FRAME: usize = 1 << 20;
/// Overhead of a frame that carries a packet to a client, in bytes: kind, length, and the sender's key.
pub(super) const RECEIVE_OVERHEAD: usize = 1 + 4 + 32;
/// Longest packet that may be sent, in bytes.
pub const MAX_PACKET: usize = 64 << 10;

/// Reasons why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// A peer that has disconnected.
    Disconnected,
    /// A peer that is not connected to this relay.
    NotHere,
}

/// A frame of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Public key of the relay.
    ServerKey(Key),
    /// Description of a client, sealed to the relay's key.
    ClientInfo {
        /// Public key of the client.
        key: Key,
        /// Sealed JSON, preceded by its nonce.
        sealed: Bytes,
    },
    /// Description of the relay, sealed, preceded by its nonce.
    ServerInfo(Bytes),
    /// Packet from a client to another.
    Send {
        /// Key of the recipient.
        to: Key,
        /// Content of at most [`MAX_PACKET`] bytes.
        packet: Bytes,
    },
    /// Packet to a client from another.
    Receive {
        /// Key of the sender.
        from: Key,
        /// Content of the packet.
        packet: Bytes,
    },
    /// Sign of life of the relay.
    KeepAlive,
    /// Choice of home: whether this is the client's home relay.
    Preferred(bool),
    /// Notice that packets to this peer are lost.
    PeerGone(Key, Gone),
    /// Request for a [`Frame::Pong`] with the same bytes.
    Ping([u8; 8]),
    /// Response to a [`Frame::Ping`], with its bytes.
    Pong([u8; 8]),
    /// Problem of the relay; empty if it is healthy.
    Health(String),
    /// Announced restart: milliseconds until a client should come back, and for how long it should try.
    Restarting(u32, u32),
    /// Frame of an unknown type, or one that only relays send to each other.
    Other(u8),
}

/// Violations of the protocol by a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame longer than the limit; the value is its length in bytes.
    #[error("frame of {0} bytes is over the limit of {MAX_FRAME} bytes")]
    TooLarge(usize),
    /// A frame of this type that is shorter than it must be.
    #[error("frame of type {0:#04x} has an invalid payload")]
    Malformed(u8),
}

/// Length of the frame that begins with these bytes.
pub(super) fn length(bytes: &[u8]) -> usize {
    let length = bytes.get(1..HEADER).and_then(<[u8]>::first_chunk);
    HEADER + length.map_or(0, |it| u32::from_be_bytes(*it) as usize)
}

impl Frame {
    /// Appends the encoded frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let begin = out.len();
        out.put_bytes(0, HEADER);
        let kind = match self {
            Self::ServerKey(key) => {
                out.put_slice(MAGIC);
                out.put_slice(key.bytes());
                1
            }
            Self::ClientInfo { key, sealed } => {
                out.put_slice(key.bytes());
                out.put_slice(sealed);
                2
            }
            Self::ServerInfo(sealed) => {
                out.put_slice(sealed);
                3
            }
            Self::Send { to: key, packet } => {
                out.put_slice(key.bytes());
                out.put_slice(packet);
                4
            }
            Self::Receive { from: key, packet } => {
                out.put_slice(key.bytes());
                out.put_slice(packet);
                5
            }
            Self::KeepAlive => 6,
            Self::Preferred(is) => {
                out.put_u8((*is).into());
                7
            }
            Self::PeerGone(key, why) => {
                out.put_slice(key.bytes());
                out.put_u8((*why == Gone::NotHere).into());
                8
            }
            Self::Ping(data) => {
                out.put_slice(data);
                0x12
            }
            Self::Pong(data) => {
                out.put_slice(data);
                0x13
            }
            Self::Health(text) => {
                out.put_slice(text.as_bytes());
                0x14
            }
            Self::Restarting(within, during) => {
                out.put_u32(*within);
                out.put_u32(*during);
                0x15
            }
            Self::Other(kind) => *kind,
        };
        let length = (out.len() - begin - HEADER) as u32;
        out[begin] = kind;
        out[begin + 1..begin + HEADER].copy_from_slice(&length.to_be_bytes());
    }

    /// Removes the first frame from `bytes` and returns it; `None` until it is complete.
    ///
    /// # Errors
    /// [`FrameError`] ends the connection.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some([kind, length @ ..]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = (*kind, u32::from_be_bytes(*length) as usize);
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        if bytes.len() < HEADER + length {
            bytes.reserve(HEADER + length - bytes.len());
            return Ok(None);
        }
        bytes.advance(HEADER);
        let payload = bytes.split_to(length).freeze();
        let frame = Self::parse(kind, payload).ok_or(FrameError::Malformed(kind))?;
        Ok(Some(frame))
    }

    fn parse(kind: u8, mut payload: Bytes) -> Option<Self> {
        let key = |payload: &mut Bytes| {
            let key = Key::new(*payload.first_chunk()?);
            payload.advance(32);
            Some(key)
        };
        Some(match kind {
            1 => {
                payload.strip_prefix(MAGIC)?;
                payload.advance(MAGIC.len());
                Self::ServerKey(key(&mut payload)?)
            }
            2 => Self::ClientInfo {
                key: key(&mut payload)?,
                sealed: payload,
            },
            3 => Self::ServerInfo(payload),
            4 => Self::Send {
                to: key(&mut payload)?,
                packet: (payload.len() <= MAX_PACKET).then_some(payload)?,
            },
            5 => Self::Receive {
                from: key(&mut payload)?,
                packet: payload,
            },
            6 => Self::KeepAlive,
            7 => Self::Preferred(*payload.first()? != 0),
            8 => {
                let key = key(&mut payload)?;
                let why = match payload.first() {
                    Some(1) => Gone::NotHere,
                    _ => Gone::Disconnected,
                };
                Self::PeerGone(key, why)
            }
            0x12 => Self::Ping(*payload.first_chunk()?),
            0x13 => Self::Pong(*payload.first_chunk()?),
            0x14 => Self::Health(String::from_utf8_lossy(&payload).into_owned()),
            0x15 => {
                let (within, rest) = payload.split_first_chunk()?;
                let during = *rest.first_chunk()?;
                Self::Restarting(u32::from_be_bytes(*within), u32::from_be_bytes(during))
            }
            kind => Self::Other(kind),
        })
    }
}

/// Returns the frame with which a client introduces itself to a relay with this key.
pub fn client_info(ours: &Private, relay: Key) -> Frame {
    let info = serde_json::json!({ "version": VERSION, "CanAckPings": true });
    Frame::ClientInfo {
        key: ours.public(),
        sealed: ours.shared(relay).seal(info.to_string().as_bytes()).into(),
    }
}

/// Returns whether the client claims to be a relay of the same mesh; `None` if it does not own its key.
pub fn open_client_info(relay: &Private, key: Key, sealed: &[u8]) -> Option<bool> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(default, rename = "meshKey")]
        mesh_key: String,
    }
    let info = relay.shared(key).open(sealed)?;
    let info: Info = serde_json::from_slice(&info).ok()?;
    Some(!info.mesh_key.is_empty())
}

/// Returns the frame with which a relay describes itself.
pub(crate) fn server_info(relay: &Private, client: Key) -> Frame {
    let info = serde_json::json!({ "version": VERSION });
    Frame::ServerInfo(
        relay
            .shared(client)
            .seal(info.to_string().as_bytes())
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_any_pieces() {
        let key = Key::new([9; 32]);
        let packet = Bytes::from_static(b"packet");
        let frames = [
            Frame::ServerKey(key),
            Frame::ClientInfo {
                key,
                sealed: packet.clone(),
            },
            Frame::ServerInfo(packet.clone()),
            Frame::Send {
                to: key,
                packet: packet.clone(),
            },
            Frame::Receive { from: key, packet },
            Frame::KeepAlive,
            Frame::Preferred(true),
            Frame::PeerGone(key, Gone::NotHere),
            Frame::PeerGone(key, Gone::Disconnected),
            Frame::Ping(*b"12345678"),
            Frame::Pong(*b"12345678"),
            Frame::Health("ill".to_owned()),
            Frame::Restarting(1, 2),
            Frame::Other(0x42),
        ];
        let mut all = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut all));

        let (mut come, mut decoded) = (BytesMut::new(), Vec::new());
        for byte in all {
            come.put_u8(byte);
            decoded.extend(Frame::decode(&mut come).unwrap());
        }
        assert_eq!(decoded, frames);
    }

    #[test]
    fn what_is_too_large_or_too_short_is_refused() {
        let refused = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes)).unwrap_err();

        let large = [4, 0x7f, 0, 0, 0];
        assert_eq!(refused(&large), FrameError::TooLarge(0x7f00_0000));
        assert_eq!(refused(&[4, 0, 0, 0, 1, 0]), FrameError::Malformed(4));
        assert_eq!(refused(&[0x12, 0, 0, 0, 1, 0]), FrameError::Malformed(0x12));
    }

    #[test]
    fn only_the_relay_reads_who_a_client_is() {
        let (client, relay) = (Private::generate(), Private::generate());
        let Frame::ClientInfo { key, sealed } = client_info(&client, relay.public()) else {
            unreachable!()
        };

        assert_eq!(open_client_info(&relay, key, &sealed), Some(false));
        let another = Private::generate().public();
        assert_eq!(open_client_info(&relay, another, &sealed), None);
    }
}
