//! Disco of a node, and the direct paths to its peers that disco finds.
//!
//! # Source
//! coder/tailscale `wgengine/magicsock/magicsock.go`: which messages count by which path.

use super::{
    Bytes, Engine, HashMap, Instant, Key, Output, RELAY, Route, SocketAddr, Transaction, Uuid, Via,
    disco, peer,
};

/// Number of peers that an endpoint may have: one, and those that claim it or had it before.
const MAX_HOLDERS: usize = 8;

/// Records that a sealed message of a peer came from an endpoint.
fn hold(by_endpoint: &mut HashMap<SocketAddr, Vec<Uuid>>, endpoint: SocketAddr, id: Uuid) {
    let holders = by_endpoint.entry(endpoint).or_default();
    holders.retain(|holder| *holder != id);
    if holders.len() >= MAX_HOLDERS {
        holders.remove(0);
    }
    holders.push(id);
}

impl Engine {
    /// Replaces our own endpoints, at which peers are asked to call us. `None` blocks direct paths: no endpoint is
    /// pinged, and nothing that comes by UDP counts.
    pub fn set_endpoints(&mut self, endpoints: Option<Vec<SocketAddr>>) {
        if endpoints.is_none() {
            self.network_changed();
        }
        self.endpoints = endpoints;
    }

    /// Forgets which direct paths work, because the machine's network has changed.
    pub fn network_changed(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.paths.reset());
        self.by_endpoint.clear();
    }

    /// Returns whether packets went to any peer lately, so that direct paths are worth having.
    pub fn has_paths_in_use(&self, now: Instant) -> bool {
        self.peers.values().any(|peer| peer.paths.is_in_use(now))
    }

    /// Handles a packet that came by UDP from this endpoint.
    pub fn from_udp(&mut self, from: SocketAddr, packet: &[u8], now: Instant) {
        if self.endpoints.is_none() {
            return;
        }
        if let Some(sender) = disco::sender(packet) {
            self.direct_disco(from, sender, packet, now);
            return;
        }
        let holders = self.by_endpoint.get(&from).cloned();
        // A session that a packet is not for ignores it.
        for id in holders.unwrap_or_default() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.session.open(packet, &mut self.scratch);
                self.drain(id, now);
            }
        }
    }

    fn direct_disco(&mut self, from: SocketAddr, sender: Key, packet: &[u8], now: Instant) {
        let Some((id, peer)) = peer(&self.by_disco, &mut self.peers, sender) else {
            return;
        };
        match disco::open(packet, &peer.shared) {
            Some(disco::Message::Ping { transaction, node }) => {
                if node.is_some_and(|key| key != peer.node.key) {
                    return;
                }
                if peer.paths.hear(from, now) {
                    hold(&mut self.by_endpoint, from, id);
                }
                let pong = disco::Message::Pong {
                    transaction,
                    source: from,
                };
                let packet = disco::seal(&pong, &self.disco, &peer.shared).into();
                self.outputs.push_back(Output::Udp { to: from, packet });
            }
            Some(disco::Message::Pong { transaction, .. }) => {
                if peer.paths.pong(transaction, now) && peer.paths.hear(from, now) {
                    hold(&mut self.by_endpoint, from, id);
                }
                let via = Via::Direct(from);
                self.outputs.push_back(Output::Pong(transaction, via));
            }
            // Only a relay shows that the request comes from the peer, and not from somebody who repeats it.
            Some(disco::Message::CallMeMaybe(_)) | None => {}
        }
    }

    pub(super) fn relayed_disco(
        &mut self,
        region: i32,
        from: Key,
        sender: Key,
        packet: &[u8],
        now: Instant,
    ) {
        let Some((id, peer)) = peer(&self.by_disco, &mut self.peers, sender) else {
            return;
        };
        if peer.node.key != from {
            return;
        }
        match disco::open(packet, &peer.shared) {
            Some(disco::Message::Ping { transaction, .. }) => {
                peer.came_by = Some(region);
                let port = u16::try_from(region).unwrap_or_default();
                let source = SocketAddr::from((RELAY, port));
                let pong = disco::Message::Pong {
                    transaction,
                    source,
                };
                let packet = disco::seal(&pong, &self.disco, &peer.shared).into();
                let to = from;
                self.outputs.push_back(Output::Relay { region, to, packet });
            }
            Some(disco::Message::Pong { transaction, .. }) => {
                let via = Via::Relay(region);
                self.outputs.push_back(Output::Pong(transaction, via));
            }
            Some(disco::Message::CallMeMaybe(endpoints)) if self.endpoints.is_some() => {
                peer.paths.call(&endpoints, now);
                self.ping_endpoints(id, now);
            }
            Some(disco::Message::CallMeMaybe(_)) | None => {}
        }
    }

    /// Pings a peer on the path that packets take now; if that is not certain, on every path. The first pong counts.
    /// Returns `false` if the peer is not known.
    pub fn ping(&mut self, id: Uuid, transaction: Transaction, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let may_be_direct = self.endpoints.is_some();
        let trusted = peer.paths.trusted(now).filter(|_| may_be_direct);
        let addresses: Vec<_> = match trusted {
            Some(address) => vec![address],
            None if may_be_direct => peer.paths.addresses().collect(),
            None => Vec::new(),
        };
        let node = Some(self.private.public());
        let ping = disco::Message::Ping { transaction, node };
        for to in addresses {
            let packet = disco::seal(&ping, &self.disco, &peer.shared).into();
            self.outputs.push_back(Output::Udp { to, packet });
        }
        if trusted.is_none() {
            let packet = disco::seal(&ping, &self.disco, &peer.shared).into();
            let (region, to) = (peer.region(), peer.node.key);
            self.outputs.push_back(Output::Relay { region, to, packet });
        }
        true
    }

    /// Forgets endpoints that are no longer their peers'.
    pub(super) fn forget_endpoints(&mut self) {
        let peers = &self.peers;
        let is_its = |id: &Uuid, address| peers.get(id).is_some_and(|peer| peer.paths.has(address));
        self.by_endpoint.retain(|address, holders| {
            holders.retain(|id| is_its(id, *address));
            !holders.is_empty()
        });
    }

    /// Sends an encrypted packet over the peer's current path.
    pub(super) fn send_encrypted(&mut self, id: Uuid, packet: Bytes, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let route = match self.endpoints {
            Some(_) => peer.paths.route(now),
            None => Route::RELAY,
        };
        if let Some(to) = route.direct {
            let packet = packet.clone();
            self.outputs.push_back(Output::Udp { to, packet });
        }
        if route.is_relayed {
            let (region, to) = (peer.region(), peer.node.key);
            self.outputs.push_back(Output::Relay { region, to, packet });
            self.search(id, now);
        }
    }

    /// Pings the endpoints of a peer that are due, and asks it to ping ours if there are several to try: a packet out
    /// opens the way for one in.
    pub(super) fn search(&mut self, id: Uuid, now: Instant) {
        let has_path = match self.peers.get(&id) {
            Some(peer) => peer.paths.trusted(now).is_some(),
            None => return,
        };
        if self.endpoints.is_none() || !self.ping_endpoints(id, now) || has_path {
            return;
        }
        let (Some(peer), Some(ours)) = (self.peers.get(&id), &self.endpoints) else {
            return;
        };
        let call = disco::Message::CallMeMaybe(ours.clone());
        let packet = disco::seal(&call, &self.disco, &peer.shared).into();
        let (region, to) = (peer.region(), peer.node.key);
        self.outputs.push_back(Output::Relay { region, to, packet });
    }

    /// Pings the endpoints of a peer that are due; returns whether there were any.
    fn ping_endpoints(&mut self, id: Uuid, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let due = peer.paths.due(now);
        let node = Some(self.private.public());
        for to in &due {
            let transaction = rand::random();
            peer.paths.pinged(*to, transaction, now);
            let ping = disco::Message::Ping { transaction, node };
            let packet = disco::seal(&ping, &self.disco, &peer.shared).into();
            self.outputs.push_back(Output::Udp { to: *to, packet });
        }
        !due.is_empty()
    }
}
