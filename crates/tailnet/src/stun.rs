//! STUN binding requests and responses, by which a node learns the address that others see its packets come from.
//! Sans-IO.
//!
//! # Source
//! RFC 8489; coder/tailscale `net/stun/stun.go`: Tailscale's servers answer only requests with its software name and a
//! fingerprint.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Port of STUN servers, unless a map says otherwise.
pub const PORT: u16 = 3478;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// The same before it was assigned a number; some servers still send it.
const XOR_MAPPED_ADDRESS_DRAFT: u16 = 0x8020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const SOFTWARE_NAME: &[u8; 8] = b"tailnode";
const FINGERPRINT_MASK: u32 = 0x5354_554e;

/// Id that a request and its response have in common.
pub type Transaction = [u8; 12];

/// Returns whether a packet is STUN's: neither WireGuard's nor disco's have its cookie there.
pub fn is_stun(packet: &[u8]) -> bool {
    packet.len() >= HEADER && packet[0] & 0xc0 == 0 && packet[4..8] == COOKIE
}

/// Encodes a binding request.
pub fn request(transaction: Transaction) -> Vec<u8> {
    let mut packet = header(REQUEST, transaction);
    attribute(SOFTWARE, SOFTWARE_NAME, &mut packet);
    // The fingerprint covers a header whose length already includes it.
    set_length(&mut packet, 8);
    let fingerprint = crc32fast::hash(&packet) ^ FINGERPRINT_MASK;
    attribute(FINGERPRINT, &fingerprint.to_be_bytes(), &mut packet);
    packet
}

/// Parses a binding request, with any attributes or none.
pub fn parse_request(packet: &[u8]) -> Option<Transaction> {
    let (kind, transaction, _) = parse(packet)?;
    (kind == REQUEST).then_some(transaction)
}

/// Encodes the response to a request that came from `source`.
pub fn response(transaction: Transaction, source: SocketAddr) -> Vec<u8> {
    let mut packet = header(SUCCESS, transaction);
    let family = if source.is_ipv4() { 1 } else { 2 };
    let mut value = vec![0, family];
    value.extend_from_slice(&(source.port() ^ 0x2112).to_be_bytes());
    match source {
        SocketAddr::V4(v4) => value.extend(masked(&v4.ip().octets(), transaction)),
        SocketAddr::V6(v6) => value.extend(masked(&v6.ip().octets(), transaction)),
    }
    attribute(XOR_MAPPED_ADDRESS, &value, &mut packet);
    set_length(&mut packet, 0);
    packet
}

/// Parses a response: the id of its request, and the address that the server saw.
pub fn parse_response(packet: &[u8]) -> Option<(Transaction, SocketAddr)> {
    let (kind, transaction, mut rest) = parse(packet)?;
    if kind != SUCCESS {
        return None;
    }
    let mut unmasked = None;
    while let Some(([a, b, c, d], after)) = rest.split_first_chunk() {
        let (kind, length) = (
            u16::from_be_bytes([*a, *b]),
            usize::from(u16::from_be_bytes([*c, *d])),
        );
        let value = after.get(..length)?;
        rest = after.get(length.next_multiple_of(4)..).unwrap_or_default();
        match kind {
            XOR_MAPPED_ADDRESS | XOR_MAPPED_ADDRESS_DRAFT => {
                return Some((transaction, address(value, Some(transaction))?));
            }
            MAPPED_ADDRESS => unmasked = address(value, None),
            _ => {}
        }
    }
    Some((transaction, unmasked?))
}

fn parse(packet: &[u8]) -> Option<(u16, Transaction, &[u8])> {
    if !is_stun(packet) {
        return None;
    }
    let (head, attributes) = packet.split_first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let transaction = *head[8..].first_chunk()?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    Some((kind, transaction, attributes.get(..length)?))
}

/// Decodes the value of an address attribute, which is masked if a transaction is passed.
fn address(value: &[u8], mask: Option<Transaction>) -> Option<SocketAddr> {
    let ([_, family, high, low], ip) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([*high, *low]);
    let (port, ip) = match mask {
        Some(transaction) => (port ^ 0x2112, masked(ip, transaction)),
        None => (port, ip.to_vec()),
    };
    match family {
        1 => Some((Ipv4Addr::from(*ip.first_chunk::<4>()?), port).into()),
        2 => Some((Ipv6Addr::from(*ip.first_chunk::<16>()?), port).into()),
        _ => None,
    }
}

/// Masks or unmasks an IP address.
fn masked(ip: &[u8], transaction: Transaction) -> Vec<u8> {
    let mask = COOKIE.iter().chain(&transaction);
    ip.iter()
        .zip(mask)
        .map(|(byte, mask)| byte ^ mask)
        .collect()
}

fn header(kind: u16, transaction: Transaction) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &transaction].concat()
}

fn attribute(kind: u16, value: &[u8], packet: &mut Vec<u8>) {
    packet.extend_from_slice(&kind.to_be_bytes());
    let length = u16::try_from(value.len()).unwrap_or_default();
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(value);
}

/// Writes the length of all attributes, of which so many bytes are still missing.
fn set_length(packet: &mut [u8], missing: usize) {
    let length = u16::try_from(packet.len() + missing - HEADER).unwrap_or_default();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Transaction = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

    #[test]
    fn a_request_is_the_reference_s_byte_for_byte() {
        let request = request(ID);

        assert_eq!(
            hex::encode(&request),
            "000100142112a442000102030405060708090a0b802200087461696c6e6f6465802800048aabad90"
        );
        assert_eq!(parse_request(&request), Some(ID));
        assert_eq!(parse_response(&request), None);
    }

    #[test]
    fn a_response_says_where_its_request_came_from() {
        for source in ["192.0.2.1:32853", "[2001:db8::7]:1"] {
            let source = source.parse().unwrap();

            let packet = response(ID, source);

            assert_eq!(parse_response(&packet), Some((ID, source)));
            assert_eq!(parse_request(&packet), None);
        }
    }

    #[test]
    fn the_masked_address_counts_where_there_are_two() {
        let source = "192.0.2.1:7".parse().unwrap();
        let mut packet = header(SUCCESS, ID);
        // An unknown attribute whose padding is cut off from the length, then a plain address, then the masked one.
        attribute(0x7fff, b"abcd", &mut packet);
        attribute(MAPPED_ADDRESS, &[0, 1, 0, 9, 10, 0, 0, 1], &mut packet);
        let mut plain = packet.clone();
        set_length(&mut plain, 0);
        packet.extend_from_slice(&response(ID, source)[HEADER..]);
        set_length(&mut packet, 0);

        assert_eq!(parse_response(&packet), Some((ID, source)));
        let mapped = "10.0.0.1:9".parse().unwrap();
        assert_eq!(parse_response(&plain), Some((ID, mapped)));
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = response(ID, "[2001:db8::7]:1".parse().unwrap());
        for length in 0..whole.len() {
            assert_eq!(parse_response(&whole[..length]), None, "{length}");
        }
        let mut odd = whole;
        odd[25] = 9;
        assert_eq!(parse_response(&odd), None, "no such address family");
    }
}
