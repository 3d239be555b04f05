//! Who has which address: all follow from a UUID.
//!
//! # Source
//! coder `tailnet/conn.go`.

use std::net::Ipv6Addr;

use uuid::Uuid;

/// What commands dial.
const TAILSCALE: [u8; 6] = [0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0];
/// What Coder's desktop client dials.
const CODER: [u8; 6] = [0xfd, 0x60, 0x62, 0x7a, 0xa4, 0x2b];

/// The address that commands of Coder's and ours dial.
pub fn primary(id: Uuid) -> Ipv6Addr {
    with_prefix(TAILSCALE, id)
}

/// The addresses of an agent, the first one first.
pub fn of_agent(id: Uuid) -> [Ipv6Addr; 2] {
    [primary(id), with_prefix(CODER, id)]
}

fn with_prefix(prefix: [u8; 6], id: Uuid) -> Ipv6Addr {
    let mut bytes = id.into_bytes();
    bytes[..6].copy_from_slice(&prefix);
    Ipv6Addr::from(bytes)
}

/// An agent's number among nodes.
pub fn node_id(id: Uuid) -> i64 {
    let [_, _, _, _, _, _, _, _, low @ ..] = id.into_bytes();
    i64::from_be_bytes(low).wrapping_abs()
}

/// As addresses stand in messages.
pub fn cidr(address: Ipv6Addr) -> String {
    format!("{address}/128")
}

/// The reverse of [`cidr`]; `None` for anything else than one address of ours.
pub fn parse_cidr(text: &str) -> Option<Ipv6Addr> {
    text.strip_suffix("/128")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_numbers_are_the_reference_s() {
        let id: Uuid = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6".parse().unwrap();

        let [first, second] = of_agent(id).map(|address| address.to_string());
        assert_eq!(first, "fd7a:115c:a1e0:41d0:a765:a0:c91e:6bf6");
        assert_eq!(second, "fd60:627a:a42b:41d0:a765:a0:c91e:6bf6");
        assert_eq!(node_id(id), 6_384_696_206_158_828_554);
        let other = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        assert_eq!(node_id(other), i64::MAX);
        assert_eq!(parse_cidr(&cidr(primary(id))), Some(primary(id)));
        assert_eq!(parse_cidr("fd7a::/64"), None);
    }
}
