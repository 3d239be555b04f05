//! Nodes as they are announced through a coordinator: keys, addresses, and the home relay.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
};

use jiff::Timestamp;
use outpost_wire::proto::coder::tailnet::v2 as wire;

use super::{address, key::Key};

/// Number of addresses, endpoints and measurements of one node: further ones are dropped.
const MAX_ENTRIES: usize = 64;

/// A node as others see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Numeric id of the node.
    pub id: i64,
    /// Time of the announcement.
    pub as_of: Timestamp,
    /// WireGuard key, by which relays know it as well.
    pub key: Key,
    /// Public key for disco.
    pub disco: Key,
    /// Region of its home relay. Never 0: a node without a home is not announced.
    pub home: i32,
    /// Latencies to relays in seconds, by region and address family.
    pub latency: BTreeMap<String, f64>,
    /// Regions that it reaches only by WebSocket, with the reason.
    pub forced_websocket: BTreeMap<i32, String>,
    /// Addresses of the node in the overlay.
    pub addresses: Vec<Ipv6Addr>,
    /// Addresses that it may send from.
    pub allowed: Vec<Ipv6Addr>,
    /// Endpoints at which it may be reached by UDP.
    pub endpoints: Vec<SocketAddr>,
}

impl Node {
    /// Converts a node from a message; `None` if it has no usable key or home.
    pub fn from_wire(node: wire::Node) -> Option<Self> {
        let addresses = |texts: Vec<String>| {
            let texts = texts.iter().take(MAX_ENTRIES);
            texts
                .filter_map(|text| address::parse_cidr(text))
                .collect::<Vec<_>>()
        };
        let as_of = node
            .as_of
            .and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
        Some(Self {
            id: node.id,
            as_of: as_of.unwrap_or_default(),
            key: Key::from_node_bytes(&node.key)?,
            disco: Key::from_disco_text(&node.disco)?,
            home: Some(node.preferred_derp).filter(|home| *home != 0)?,
            latency: node.derp_latency.into_iter().take(MAX_ENTRIES).collect(),
            forced_websocket: node
                .derp_forced_websocket
                .into_iter()
                .take(MAX_ENTRIES)
                .collect(),
            addresses: addresses(node.addresses),
            allowed: addresses(node.allowed_ips),
            endpoints: node
                .endpoints
                .iter()
                .take(MAX_ENTRIES)
                .filter_map(|text| text.parse().ok())
                .collect(),
        })
    }

    /// Converts the node to a message.
    pub fn to_wire(&self) -> wire::Node {
        let texts = |all: &[Ipv6Addr]| all.iter().copied().map(address::cidr).collect();
        wire::Node {
            id: self.id,
            as_of: Some(prost_types::Timestamp {
                seconds: self.as_of.as_second(),
                nanos: self.as_of.subsec_nanosecond(),
            }),
            key: self.key.to_node_bytes().into(),
            disco: self.disco.to_disco_text(),
            preferred_derp: self.home,
            derp_latency: self.latency.clone().into_iter().collect(),
            derp_forced_websocket: self.forced_websocket.clone().into_iter().collect(),
            addresses: texts(&self.addresses),
            allowed_ips: texts(&self.allowed),
            endpoints: self.endpoints.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_comes_back_from_its_message() {
        let node = Node {
            id: 7,
            as_of: Timestamp::UNIX_EPOCH,
            key: Key::new([1; 32]),
            disco: Key::new([2; 32]),
            home: 999,
            latency: [("999-v4".to_owned(), 0.5)].into(),
            forced_websocket: [(1, "a proxy".to_owned())].into(),
            addresses: vec!["fd7a::1".parse().unwrap()],
            allowed: vec!["fd7a::1".parse().unwrap()],
            endpoints: vec!["[::1]:7".parse().unwrap()],
        };

        assert_eq!(Node::from_wire(node.to_wire()), Some(node.clone()));
        let mut homeless = node.to_wire();
        homeless.preferred_derp = 0;
        assert_eq!(Node::from_wire(homeless), None);
    }

    #[test]
    fn a_node_that_says_too_much_of_itself_is_cut_off() {
        let many = 100_000_u32;
        let node = wire::Node {
            key: Key::new([1; 32]).to_node_bytes().into(),
            disco: Key::new([2; 32]).to_disco_text(),
            preferred_derp: 1,
            derp_latency: (0..many).map(|it| (it.to_string(), 1.0)).collect(),
            derp_forced_websocket: (0..64_000).map(|it| (it, String::new())).collect(),
            addresses: (0..many).map(|it| format!("fd7a::{it:x}/128")).collect(),
            allowed_ips: (0..many).map(|it| format!("fd7a::{it:x}/128")).collect(),
            endpoints: (0..many).map(|_| "[::1]:7".to_owned()).collect(),
            ..wire::Node::default()
        };

        let node = Node::from_wire(node).unwrap();

        let maps = [node.latency.len(), node.forced_websocket.len()];
        let lists = [
            node.addresses.len(),
            node.allowed.len(),
            node.endpoints.len(),
        ];
        assert_eq!((maps, lists), ([MAX_ENTRIES; 2], [MAX_ENTRIES; 3]));
    }
}
