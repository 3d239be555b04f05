//! Addresses of nodes, which are all derived from a UUID.
//!
//! # Source
//! coder `tailnet/conn.go`.

use std::net::Ipv6Addr;

use uuid::Uuid;

/// Prefix of the addresses that commands dial.
const TAILSCALE: [u8; 6] = [0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0];
/// Prefix of the addresses that Coder's desktop client dials.
const CODER: [u8; 6] = [0xfd, 0x60, 0x62, 0x7a, 0xa4, 0x2b];

/// Address that Coder's commands and ours dial.
pub fn primary(id: Uuid) -> Ipv6Addr {
    with_prefix(TAILSCALE, id)
}

/// Addresses of an agent, the primary one first.
pub fn of_agent(id: Uuid) -> [Ipv6Addr; 2] {
    [primary(id), with_prefix(CODER, id)]
}

fn with_prefix(prefix: [u8; 6], id: Uuid) -> Ipv6Addr {
    let mut bytes = id.into_bytes();
    bytes[..6].copy_from_slice(&prefix);
    Ipv6Addr::from(bytes)
}

/// Numeric node id of an agent.
pub fn node_id(id: Uuid) -> i64 {
    let [_, _, _, _, _, _, _, _, low @ ..] = id.into_bytes();
    i64::from_be_bytes(low).wrapping_abs()
}

/// Formats an address as in messages.
pub fn cidr(address: Ipv6Addr) -> String {
    format!("{address}/128")
}

/// Parses the result of [`cidr`]; `None` for anything but a single address with one of our prefixes.
pub(crate) fn parse_cidr(text: &str) -> Option<Ipv6Addr> {
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
