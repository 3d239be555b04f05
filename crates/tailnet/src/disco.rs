//! Disco: small sealed messages beside WireGuard's, with which nodes find out whether they reach each other.
//!
//! Coder's differ from Tailscale's: pings and pongs have version 1 and are padded, as a proof of what a path carries.
//!
//! # Source
//! coder/tailscale `disco/disco.go`.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use super::key::{Key, NONCE_BYTES, Private, Shared, TAG_BYTES};

// "TS" and U+1F4AC, a speech balloon.
const MAGIC: &[u8; 6] = b"TS\xf0\x9f\x92\xac";
const OVERHEAD: usize = MAGIC.len() + 32 + NONCE_BYTES;
/// Length of a ping's or pong's body in bytes.
const PADDED: usize = 1230;

const PING: u8 = 1;
const PONG: u8 = 2;
const CALL_ME_MAYBE: u8 = 3;

/// Id that a ping and its pong have in common.
pub type Transaction = [u8; 12];

/// A message before it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Request for a [`Message::Pong`] from the peer.
    Ping {
        /// Id that comes back in the pong.
        transaction: Transaction,
        /// Node key of the sender.
        node: Option<Key>,
    },
    /// Response to a [`Message::Ping`] of the peer.
    Pong {
        /// Id of the ping.
        transaction: Transaction,
        /// Address that the ping came from.
        source: SocketAddr,
    },
    /// UDP endpoints at which the sender may be reached.
    CallMeMaybe(Vec<SocketAddr>),
}

impl Message {
    /// Encodes the message before it is sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PADDED + 2);
        match self {
            Self::Ping { transaction, node } => {
                out.extend_from_slice(&[PING, 1]);
                out.extend_from_slice(transaction);
                if let Some(node) = node {
                    out.extend_from_slice(node.bytes());
                }
                out.resize(PADDED + 2, 0);
            }
            Self::Pong {
                transaction,
                source,
            } => {
                out.extend_from_slice(&[PONG, 1]);
                out.extend_from_slice(transaction);
                encode_address(*source, &mut out);
                out.resize(PADDED + 2, 0);
            }
            Self::CallMeMaybe(endpoints) => {
                out.extend_from_slice(&[CALL_ME_MAYBE, 0]);
                for endpoint in endpoints {
                    encode_address(*endpoint, &mut out);
                }
            }
        }
        out
    }

    /// Parses the result of [`Message::encode`]; `None` for anything else, and for messages of unknown kinds.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[kind, version], body) = bytes.split_first_chunk()?;
        match kind {
            PING => {
                let (transaction, rest) = body.split_first_chunk()?;
                let node = rest.first_chunk().map(|bytes| Key::new(*bytes));
                let node = node.filter(|key| key.bytes() != &[0; 32]);
                Some(Self::Ping {
                    transaction: *transaction,
                    node,
                })
            }
            PONG => {
                let (transaction, rest) = body.split_first_chunk()?;
                Some(Self::Pong {
                    transaction: *transaction,
                    source: decode_address(rest.first_chunk()?),
                })
            }
            CALL_ME_MAYBE => {
                let (endpoints, rest) = body.as_chunks();
                let is_known = version == 0 && rest.is_empty();
                let endpoints = endpoints.iter().filter(|_| is_known);
                Some(Self::CallMeMaybe(endpoints.map(decode_address).collect()))
            }
            _ => None,
        }
    }
}

fn encode_address(address: SocketAddr, out: &mut Vec<u8>) {
    let ip = match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        SocketAddr::V6(address) => *address.ip(),
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn decode_address(bytes: &[u8; 18]) -> SocketAddr {
    let [ip @ .., high, low] = bytes;
    let (ip, port) = (Ipv6Addr::from(*ip), u16::from_be_bytes([*high, *low]));
    match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddr::from((ip, port)),
        None => SocketAddrV6::new(ip, port, 0, 0).into(),
    }
}

/// Returns the sender's key if a packet is disco's. Packets with the magic that cannot be opened belong to nobody
/// else.
pub fn sender(packet: &[u8]) -> Option<Key> {
    let key = packet.strip_prefix(MAGIC)?.first_chunk()?;
    (packet.len() >= OVERHEAD).then(|| Key::new(*key))
}

/// Encodes this message from `ours` as a packet.
pub fn seal(message: &Message, ours: &Private, shared: &Shared) -> Vec<u8> {
    let sealed = shared.seal(&message.encode());
    [MAGIC, &ours.public().bytes()[..], &sealed].concat()
}

/// Opens the message in a packet whose [`sender`] shares `shared` with us.
pub fn open(packet: &[u8], shared: &Shared) -> Option<Message> {
    let sealed = packet.get(MAGIC.len() + 32..)?;
    if sealed.len() < NONCE_BYTES + TAG_BYTES {
        return None;
    }
    Message::decode(&shared.open(sealed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_are_as_long_as_the_reference_s() {
        let (a, b) = (Private::generate(), Private::generate());
        let source = SocketAddr::from(([127, 3, 3, 40], 999));
        let endpoints = vec![source, "[fd7a::1]:7".parse().unwrap()];
        let (transaction, node) = ([7; 12], Some(a.public()));
        for (message, length) in [
            (Message::Ping { transaction, node }, 1310),
            (
                Message::Pong {
                    transaction,
                    source,
                },
                1310,
            ),
            (Message::CallMeMaybe(endpoints), 116),
            (Message::CallMeMaybe(vec![]), 80),
        ] {
            let packet = seal(&message, &a, &a.shared(b.public()));

            assert_eq!(packet.len(), length);
            assert_eq!(sender(&packet), Some(a.public()));
            assert_eq!(open(&packet, &b.shared(a.public())), Some(message));
        }
    }

    #[test]
    fn what_is_odd_is_no_message_or_has_no_endpoints() {
        for odd in [&[][..], &[PING], &[PING, 1, 2], &[PONG; 20], &[9; 40]] {
            assert_eq!(Message::decode(odd), None, "{odd:?}");
        }
        let empty = Some(Message::CallMeMaybe(vec![]));
        assert_eq!(Message::decode(&[CALL_ME_MAYBE, 1, 0]), empty);
        assert_eq!(Message::decode(&[[CALL_ME_MAYBE, 0, 0]; 7].concat()), empty);
        assert_eq!(sender(b"TS\xf0\x9f\x92\xac short"), None);
    }
}
