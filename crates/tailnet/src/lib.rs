//! Overlay network in which people reach agents: WireGuard between nodes, through a relay.
//!
//! A [`Tailnet`] is a node: it has keys, addresses, peers that a coordinator announced, and a userspace TCP stack, so
//! that nothing on the machine is configured. Packets go through a relay (DERP) until a direct path by UDP is found,
//! unless those are forbidden.
//!
//! # Source
//! coder `tailnet`, coder/tailscale; the wire only.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod address;
pub mod coordination;
pub mod coordinator;
pub mod derp;
pub mod derp_map;
pub mod dial;
pub mod disco;
mod driver;
mod endpoints;
pub mod engine;
mod home;
pub mod key;
mod netstack;
mod node;
mod paths;
pub mod peer_connections;
pub mod stun;
pub mod tsmp;
mod udp;
pub mod wireguard;

pub use self::{
    derp::{
        Limits as RelayLimits,
        server::{Guest, Relay},
    },
    derp_map::DerpMap,
    driver::{Config, Driver, Event, Tailnet, start},
    engine::{PeerUpdate, Via},
    netstack::{Listener, Stream},
    node::Node,
    peer_connections::Coordinator,
};

use outpost_transport::coder::ApiVersion;

/// Newest version of the agents' and clients' API that we know.
pub const API_VERSION: ApiVersion = ApiVersion {
    major: 2,
    minor: 11,
};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
