//! Our own endpoints: the addresses of the machine, and those that STUN servers see. Sans-IO: `now` is an argument.
//!
//! # Source
//! coder/tailscale `wgengine/magicsock/magicsock.go`: how often servers are asked, and for how long an endpoint counts.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::stun::{self, Transaction};

/// Interval of requests while direct paths are in use.
const AGAIN: Duration = Duration::from_secs(23);
/// Interval of requests at other times, while no server has answered.
const UNANSWERED: Duration = Duration::from_secs(60);
/// Time after which a request is lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which an endpoint counts after a server last saw it.
const SEEN: Duration = Duration::from_secs(310);
/// Number of servers that are asked.
const MAX_SERVERS: usize = 16;
/// Number of endpoints that servers saw; a translator that uses a new port for each server fills no announcement.
const MAX_SEEN: usize = 8;

/// Our own endpoints.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    local: Vec<SocketAddr>,
    servers: Vec<SocketAddr>,
    /// Endpoints that servers saw, the newest first.
    seen: Vec<(SocketAddr, Instant)>,
    requests: Vec<(Transaction, Instant)>,
    asked_at: Option<Instant>,
}

impl Endpoints {
    /// Replaces the endpoints in the networks of this machine. Returns whether they changed.
    pub(super) fn set_local(&mut self, local: Vec<SocketAddr>) -> bool {
        let is_new = self.local != local;
        if is_new {
            // In another network, servers see something else.
            self.seen.clear();
            self.asked_at = None;
        }
        self.local = local;
        is_new
    }

    /// Replaces the STUN servers, which are asked at once.
    pub(super) fn set_servers(&mut self, mut servers: Vec<SocketAddr>) {
        servers.truncate(MAX_SERVERS);
        self.servers = servers;
        self.asked_at = None;
    }

    /// Returns the requests that are due: to whom, and what.
    pub(super) fn due(&mut self, is_in_use: bool, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        self.requests.retain(|(_, at)| now < *at + REQUEST_TIMEOUT);
        self.seen.retain(|(_, at)| now < *at + SEEN);
        if self.next_due(is_in_use, now).is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.asked_at = Some(now);
        let mut requests = Vec::with_capacity(self.servers.len());
        for server in &self.servers {
            let transaction = rand::random();
            self.requests.push((transaction, now));
            requests.push((*server, stun::request(transaction)));
        }
        requests
    }

    /// Takes a response of a server. Returns whether it told a new endpoint.
    pub(super) fn response(&mut self, packet: &[u8], now: Instant) -> bool {
        let Some((transaction, endpoint)) = stun::parse_response(packet) else {
            return false;
        };
        let place = self.requests.iter().position(|(it, _)| *it == transaction);
        if place
            .map(|place| self.requests.swap_remove(place))
            .is_none()
        {
            return false;
        }
        let known = self.seen.iter().position(|(it, _)| *it == endpoint);
        if let Some(place) = known {
            self.seen.remove(place);
        }
        self.seen.insert(0, (endpoint, now));
        self.seen.truncate(MAX_SEEN);
        known.is_none()
    }

    /// Returns all endpoints to announce: first those that others see.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        let seen = self.seen.iter().map(|(endpoint, _)| *endpoint);
        let local = self.local.iter().copied();
        let mut all: Vec<SocketAddr> = Vec::new();
        for endpoint in seen.chain(local) {
            if !all.contains(&endpoint) {
                all.push(endpoint);
            }
        }
        all
    }

    /// Time when requests are due; `None` if there is nobody to ask or nothing to ask for.
    pub(super) fn next_due(&self, is_in_use: bool, now: Instant) -> Option<Instant> {
        self.servers.first()?;
        let Some(asked_at) = self.asked_at else {
            return Some(now);
        };
        match (is_in_use, self.seen.is_empty()) {
            (true, _) => Some(asked_at + AGAIN),
            (false, true) => Some(asked_at + UNANSWERED),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Answers a request as a server does that sees it come from `source`.
    fn answer(request: &[u8], source: &str) -> Vec<u8> {
        stun::response(stun::parse_request(request).unwrap(), at(source))
    }

    #[test]
    fn an_endpoint_that_a_server_sees_is_announced_before_those_of_the_machine() {
        let (mut endpoints, now) = (Endpoints::default(), Instant::now());
        assert!(endpoints.set_local(vec![at("10.0.0.2:7")]));
        assert!(!endpoints.set_local(vec![at("10.0.0.2:7")]));
        assert_eq!(endpoints.next_due(true, now), None, "nobody to ask");
        endpoints.set_servers(vec![at("192.0.2.1:3478"), at("192.0.2.2:3478")]);

        let requests = endpoints.due(false, now);
        assert_eq!(requests.len(), 2);
        assert!(endpoints.due(true, now).is_empty());
        let first = answer(&requests[0].1, "203.0.113.9:4000");
        assert!(endpoints.response(&first, now));
        assert!(!endpoints.response(&first, now), "the same again");
        let second = answer(&requests[1].1, "203.0.113.9:4000");
        assert!(!endpoints.response(&second, now), "nothing new");

        let both = [at("203.0.113.9:4000"), at("10.0.0.2:7")];
        assert_eq!(endpoints.all(), both);
        assert_eq!(endpoints.next_due(true, now), Some(now + AGAIN));
        assert_eq!(endpoints.next_due(false, now), None);
        endpoints.due(false, now + SEEN);
        assert_eq!(endpoints.all(), both[1..]);
    }

    #[test]
    fn in_another_network_servers_are_asked_again_at_once() {
        let (mut endpoints, now) = (Endpoints::default(), Instant::now());
        endpoints.set_servers(vec![at("192.0.2.1:3478")]);
        let requests = endpoints.due(false, now);
        endpoints.response(&answer(&requests[0].1, "203.0.113.9:4000"), now);

        assert!(endpoints.set_local(vec![at("10.9.0.2:7")]));

        assert_eq!(endpoints.all(), [at("10.9.0.2:7")]);
        assert_eq!(endpoints.due(false, now).len(), 1);
    }

    #[test]
    fn responses_to_nobody_and_too_many_endpoints_change_nothing() {
        let (mut endpoints, now) = (Endpoints::default(), Instant::now());
        let strange = stun::response([7; 12], at("203.0.113.9:1"));
        assert!(!endpoints.response(&strange, now));
        let servers = (1..=100).map(|port| at(&format!("192.0.2.1:{port}")));
        endpoints.set_servers(servers.collect());

        let requests = endpoints.due(true, now);
        assert_eq!(requests.len(), MAX_SERVERS);
        for (place, (_, request)) in requests.iter().enumerate() {
            let source = format!("203.0.113.9:{}", 1000 + place);
            assert!(endpoints.response(&answer(request, &source), now));
        }

        assert_eq!(endpoints.all().len(), MAX_SEEN);
    }
}
