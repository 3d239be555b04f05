//! TSMP: pings inside WireGuard, by an IP protocol of Tailscale's. Before it dials, every client of Coder's waits for
//! a pong.
//!
//! # Source
//! coder/tailscale `net/packet/tsmp.go`, `net/tstun/wrap.go`.

use std::net::Ipv6Addr;

// IANA's number for "any private encryption scheme", which Tailscale uses inside of its tunnels.
const PROTOCOL: u8 = 99;
// Length of an IPv6 header without extensions.
const HEADER: usize = 40;
const PING: u8 = b'p';
const PONG: u8 = b'o';

/// Bytes that a ping and its pong have in common.
pub type Token = [u8; 8];

/// Meaning of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Request for a [`Message::Pong`] with this token.
    Ping(Token),
    /// Response to a [`Message::Ping`] with this token.
    Pong(Token),
}

/// Returns source and destination of a complete IPv6 packet.
pub fn ends(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || packet.len() != HEADER + length {
        return None;
    }
    let address = |from: usize| {
        let bytes: [u8; 16] = header[from..from + 16].try_into().ok()?;
        Some(Ipv6Addr::from(bytes))
    };
    Some((address(8)?, address(24)?))
}

/// Parses the message in a packet; `None` if there is none.
pub fn parse(packet: &[u8]) -> Option<Message> {
    ends(packet)?;
    if packet[6] != PROTOCOL {
        return None;
    }
    let (&kind, rest) = packet[HEADER..].split_first()?;
    let token = *rest.first_chunk()?;
    match kind {
        PING => Some(Message::Ping(token)),
        PONG => Some(Message::Pong(token)),
        _ => None,
    }
}

/// Builds a packet from `source` with this message.
pub fn packet(source: Ipv6Addr, destination: Ipv6Addr, message: Message) -> Vec<u8> {
    let payload = match message {
        Message::Ping(token) => [&[PING][..], &token].concat(),
        // The last two bytes would be the port of Tailscale's peer API, which we do not have.
        Message::Pong(token) => [&[PONG][..], &token, &[0, 0]].concat(),
    };
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, PROTOCOL, 64];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&payload);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_told_from_a_pong_and_from_the_rest() {
        let (a, b) = ("fd7a::1".parse().unwrap(), "fd7a::2".parse().unwrap());
        for message in [Message::Ping(*b"12345678"), Message::Pong(*b"12345678")] {
            let packet = packet(a, b, message);

            assert_eq!(ends(&packet), Some((a, b)));
            assert_eq!(parse(&packet), Some(message));
            assert_eq!(parse(&packet[..packet.len() - 1]), None);
            let mut tcp = packet.clone();
            tcp[6] = 6;
            assert_eq!(parse(&tcp), None);
        }
        assert_eq!(ends(&[0x45; 60]), None);
    }
}
