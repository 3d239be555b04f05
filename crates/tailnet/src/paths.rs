//! Direct paths to one peer: the UDP endpoints that it may have, those that answer, and the one that packets take.
//! Sans-IO: `now` is an argument.
//!
//! A path is used after an endpoint has answered a ping, and trusted for some seconds after each answer. While it is
//! known but not trusted, packets take the relay as well, so that nothing is lost when a path breaks.
//!
//! # Source
//! coder/tailscale `wgengine/magicsock/endpoint.go`.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::disco::Transaction;

/// Interval of pings on the path in use.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Time after the last packet for which a path is kept alive.
const ACTIVE: Duration = Duration::from_secs(45);
/// Time after a pong for which its path is trusted: two heartbeats and a little.
const TRUST: Duration = Duration::from_millis(6_500);
/// Time after which a ping is lost.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Least time between two pings of one endpoint.
const PING_GAP: Duration = Duration::from_secs(5);
/// Interval of the search for a better path than the one in use.
const UPGRADE: Duration = Duration::from_secs(60);
/// Latency below which no better path is searched for.
const GOOD_ENOUGH: Duration = Duration::from_millis(5);
/// Number of endpoints of one peer; further ones are ignored.
const MAX_ENDPOINTS: usize = 100;
/// Number of pings of one peer that wait for an answer.
const MAX_PINGS: usize = 2 * MAX_ENDPOINTS;

#[derive(Clone, Debug)]
struct Endpoint {
    address: SocketAddr,
    /// Set if the peer announced it through the coordinator.
    is_announced: bool,
    /// Set if the peer named it in its last request to be called.
    is_called: bool,
    /// Time of the last ping that came from there.
    heard_at: Option<Instant>,
    pinged_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Best {
    address: SocketAddr,
    latency: Duration,
    trusted_until: Instant,
}

#[derive(Debug)]
struct Ping {
    transaction: Transaction,
    address: SocketAddr,
    sent_at: Instant,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Endpoint to send to by UDP.
    pub(super) direct: Option<SocketAddr>,
    /// Set if the packet goes by the relay, too.
    pub(super) is_relayed: bool,
}

impl Route {
    /// The route of a peer to which no direct path is known.
    pub(super) const RELAY: Self = Self {
        direct: None,
        is_relayed: true,
    };
}

/// Direct paths to one peer.
#[derive(Debug, Default)]
pub(super) struct Paths {
    endpoints: Vec<Endpoint>,
    best: Option<Best>,
    pings: Vec<Ping>,
    /// Time of the last packet to the peer.
    used_at: Option<Instant>,
    beaten_at: Option<Instant>,
    searched_at: Option<Instant>,
}

impl Paths {
    /// Replaces the endpoints that the peer announced through the coordinator.
    pub(super) fn announce(&mut self, addresses: &[SocketAddr]) {
        self.endpoints
            .iter_mut()
            .for_each(|it| it.is_announced = false);
        for address in addresses {
            if let Some(endpoint) = self.endpoint(*address) {
                endpoint.is_announced = true;
            }
        }
        self.drop_unnamed();
    }

    /// Replaces the endpoints at which the peer asks to be called; all endpoints may be pinged again at once.
    pub(super) fn call(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.endpoints
            .iter_mut()
            .for_each(|it| it.is_called = false);
        for address in addresses {
            if let Some(endpoint) = self.endpoint(*address) {
                endpoint.is_called = true;
            }
        }
        self.drop_unnamed();
        self.endpoints.iter_mut().for_each(|it| it.pinged_at = None);
        // Whoever asks is about to send something.
        (self.searched_at, self.used_at) = (None, Some(now));
    }

    /// Records a message of the peer from an endpoint, which is thus one of its own. Returns `false` if there is no
    /// room for it.
    pub(super) fn hear(&mut self, address: SocketAddr, now: Instant) -> bool {
        let endpoint = self.endpoint(address);
        endpoint.map(|it| it.heard_at = Some(now)).is_some()
    }

    /// Returns whether this is an endpoint of the peer.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.addresses().any(|it| it == address)
    }

    /// Returns the route of a packet that is sent now.
    pub(super) fn route(&mut self, now: Instant) -> Route {
        self.used_at = Some(now);
        match self.best {
            Some(best) => Route {
                direct: Some(best.address),
                is_relayed: now >= best.trusted_until,
            },
            None => Route::RELAY,
        }
    }

    /// Endpoint in use, if it is trusted.
    pub(super) fn trusted(&self, now: Instant) -> Option<SocketAddr> {
        let best = self.best.filter(|best| now < best.trusted_until);
        best.map(|best| best.address)
    }

    /// Returns whether packets went to the peer lately.
    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        self.used_at.is_some_and(|at| now < at + ACTIVE)
    }

    /// Returns all endpoints that the peer may have.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// Returns the endpoints to ping now. It is called after each packet, and from time to time.
    pub(super) fn due(&mut self, now: Instant) -> Vec<SocketAddr> {
        self.forget_lost(now);
        if !self.is_in_use(now) {
            return Vec::new();
        }
        if self.wants_search(now) {
            self.searched_at = Some(now);
            let endpoints = self.endpoints.iter();
            let due = endpoints.filter(|it| it.pinged_at.is_none_or(|at| now >= at + PING_GAP));
            return due.map(|endpoint| endpoint.address).collect();
        }
        let is_beat_due = self.beaten_at.is_none_or(|at| now >= at + HEARTBEAT);
        let best = self.best.filter(|_| is_beat_due);
        best.map(|best| best.address).into_iter().collect()
    }

    /// Records a ping that was sent to one of the endpoints.
    pub(super) fn pinged(&mut self, address: SocketAddr, transaction: Transaction, now: Instant) {
        if self.best.is_some_and(|best| best.address == address) {
            self.beaten_at = Some(now);
        }
        if let Some(endpoint) = self.endpoints.iter_mut().find(|it| it.address == address) {
            endpoint.pinged_at = Some(now);
        }
        if self.pings.len() >= MAX_PINGS {
            self.pings.remove(0);
        }
        self.pings.push(Ping {
            transaction,
            address,
            sent_at: now,
        });
    }

    /// Records a pong, which shows that the endpoint of its ping can be used. Returns `false` for an unknown ping.
    pub(super) fn pong(&mut self, transaction: Transaction, now: Instant) -> bool {
        let place = self
            .pings
            .iter()
            .position(|it| it.transaction == transaction);
        let Some(ping) = place.map(|place| self.pings.swap_remove(place)) else {
            return false;
        };
        let new = Best {
            address: ping.address,
            latency: now.saturating_duration_since(ping.sent_at),
            trusted_until: now + TRUST,
        };
        let is_better = self.best.is_none_or(|old| {
            old.address == new.address || now >= old.trusted_until || is_better(new, old)
        });
        if is_better {
            self.best = Some(new);
        }
        true
    }

    /// Forgets which endpoints answered: the network has changed.
    pub(super) fn reset(&mut self) {
        self.endpoints.iter_mut().for_each(|it| it.pinged_at = None);
        (self.best, self.searched_at, self.beaten_at) = (None, None, None);
        self.pings.clear();
    }

    fn wants_search(&self, now: Instant) -> bool {
        let Some(searched_at) = self.searched_at else {
            return true;
        };
        match self.best {
            Some(best) if now < best.trusted_until => {
                best.latency > GOOD_ENOUGH && now >= searched_at + UPGRADE
            }
            _ => now >= searched_at + PING_GAP,
        }
    }

    /// Returns the endpoint with this address, a new one if it may be used and there is room.
    fn endpoint(&mut self, address: SocketAddr) -> Option<&mut Endpoint> {
        let place = self.endpoints.iter().position(|it| it.address == address);
        if place.is_none() {
            if self.endpoints.len() >= MAX_ENDPOINTS || !is_usable(address) {
                return None;
            }
            self.endpoints.push(Endpoint {
                address,
                is_announced: false,
                is_called: false,
                heard_at: None,
                pinged_at: None,
            });
        }
        match place {
            Some(place) => self.endpoints.get_mut(place),
            None => self.endpoints.last_mut(),
        }
    }

    /// Drops endpoints that the peer no longer names and that never pinged us.
    fn drop_unnamed(&mut self) {
        let best = self.best.map(|best| best.address);
        self.endpoints.retain(|it| {
            it.is_announced || it.is_called || it.heard_at.is_some() || Some(it.address) == best
        });
    }

    /// Drops pings without an answer, and endpoints that nobody names and nothing was heard from for long.
    fn forget_lost(&mut self, now: Instant) {
        self.pings.retain(|ping| now < ping.sent_at + PING_TIMEOUT);
        let best = self.best.map(|best| best.address);
        self.endpoints.retain(|it| {
            let is_recent = it.heard_at.is_some_and(|at| now < at + ACTIVE);
            it.is_announced || it.is_called || is_recent || Some(it.address) == best
        });
        // A path that broke long ago would carry a copy of each packet for ever.
        if self
            .best
            .is_some_and(|best| now >= best.trusted_until + ACTIVE)
        {
            self.best = None;
        }
    }
}

/// Returns whether a node can have this endpoint: a peer must not make us send to a group, or into the overlay itself.
fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let is_own = |segments: [u16; 8]| {
        // Tailscale's range, Coder's, and addresses of a link, which lack the link.
        segments[..3] == [0xfd7a, 0x115c, 0xa1e0]
            || segments[..3] == [0xfd60, 0x627a, 0xa42b]
            || segments[0] & 0xffc0 == 0xfe80
    };
    let is_odd = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.octets()[..3] == [127, 3, 3],
        IpAddr::V6(ip) => is_own(ip.segments()),
    };
    address.port() != 0 && !ip.is_multicast() && !ip.is_unspecified() && !is_odd
}

/// Returns whether one of two working paths is better by more than chance: by latency, or because it stays nearby.
fn is_better(new: Best, old: Best) -> bool {
    let (fast, slow) = (new.latency.min(old.latency), new.latency.max(old.latency));
    let advantage = match slow.is_zero() {
        true => 0.0,
        false => 100.0 * (1.0 - fast.as_secs_f64() / slow.as_secs_f64()),
    };
    let advantage = if new.latency < old.latency {
        advantage
    } else {
        -advantage
    };
    advantage + nearness(new.address) - nearness(old.address) > 1.0
}

/// Points for paths that stay on the machine or in its network, and for IPv6, which has no address translation.
fn nearness(address: SocketAddr) -> f64 {
    let place = match address.ip() {
        ip if ip.is_loopback() => 50.0,
        IpAddr::V4(ip) if ip.is_private() => 20.0,
        IpAddr::V6(ip) if ip.is_unique_local() => 20.0,
        IpAddr::V4(_) | IpAddr::V6(_) => 0.0,
    };
    place + if address.is_ipv6() { 10.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Pings what is due; returns the addresses.
    fn pings(paths: &mut Paths, number: u8, now: Instant) -> Vec<SocketAddr> {
        let due = paths.due(now);
        for (place, address) in due.iter().enumerate() {
            paths.pinged(*address, [number + u8::try_from(place).unwrap(); 12], now);
        }
        due
    }

    #[test]
    fn a_path_is_used_once_it_answers_and_trusted_for_a_while() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        let endpoint = at("192.0.2.1:7");
        paths.announce(&[endpoint]);
        assert!(paths.due(now).is_empty(), "nobody sends anything");

        assert_eq!(paths.route(now), Route::RELAY);
        assert_eq!(pings(&mut paths, 1, now), [endpoint]);
        assert!(paths.due(now).is_empty(), "one is on its way");
        assert!(!paths.pong([9; 12], now), "of another ping");
        assert!(paths.pong([1; 12], now + ms(20)));
        assert!(!paths.pong([1; 12], now + ms(20)), "the same again");

        let now = now + ms(20);
        let direct = Some(endpoint);
        assert_eq!(
            paths.route(now),
            Route {
                direct,
                is_relayed: false
            }
        );
        assert_eq!(paths.trusted(now), direct);
        let later = now + TRUST;
        assert_eq!(
            paths.route(later),
            Route {
                direct,
                is_relayed: true
            }
        );
        assert_eq!(paths.trusted(later), None);
        assert_eq!(pings(&mut paths, 1, later), [endpoint]);
        let later = later + TRUST + ACTIVE;
        paths.route(later);
        paths.due(later);
        assert_eq!(paths.route(later), Route::RELAY, "it broke long ago");
    }

    #[test]
    fn a_path_in_use_is_kept_alive_and_an_idle_one_is_not() {
        let (mut paths, mut now) = (Paths::default(), Instant::now());
        paths.announce(&[at("192.0.2.1:7")]);
        paths.route(now);
        pings(&mut paths, 1, now);
        paths.pong([1; 12], now);

        for number in 2..10 {
            now += HEARTBEAT;
            paths.route(now);
            assert_eq!(pings(&mut paths, number, now).len(), 1);
            assert!(paths.pong([number; 12], now));
            assert!(paths.due(now).is_empty());
        }

        assert!(!paths.due(now + ACTIVE - ms(1)).is_empty());
        assert!(paths.due(now + ACTIVE).is_empty());
    }

    #[test]
    fn a_better_path_is_searched_for_and_small_gains_do_not_count() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        let (far, near) = (at("192.0.2.1:7"), at("10.0.0.1:7"));
        paths.announce(&[far, near]);
        paths.route(now);
        pings(&mut paths, 1, now);
        paths.pong([1; 12], now + ms(100));
        assert_eq!(paths.trusted(now + ms(100)), Some(far));
        // Five percent slower, but in a private network.
        paths.pong([2; 12], now + ms(105));
        assert_eq!(paths.trusted(now + ms(105)), Some(near));

        let mut then = now;
        while then < now + UPGRADE {
            assert!(!paths.due(then).contains(&far), "not yet");
            paths.pinged(near, [3; 12], then);
            paths.route(then);
            then += HEARTBEAT;
            paths.pinged(near, [4; 12], then - ms(100));
            paths.pong([4; 12], then);
        }

        assert!(paths.due(then).contains(&far));
    }

    #[test]
    fn a_peer_that_asks_to_be_called_is_pinged_at_once() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        let (old, new) = (at("192.0.2.1:7"), at("192.0.2.2:7"));
        paths.announce(&[old]);
        paths.route(now);
        pings(&mut paths, 1, now);

        let odd = [
            at("[fd60:627a:a42b::1]:7"),
            at("224.0.0.1:7"),
            at("10.0.0.1:0"),
        ];
        paths.call(&[&[new][..], &odd].concat(), now);

        assert_eq!(pings(&mut paths, 3, now), [old, new]);
        paths.call(&[], now);
        paths.announce(&[]);
        assert!(paths.due(now + PING_GAP).is_empty());
    }

    #[test]
    fn endpoints_of_a_peer_are_bounded_whoever_names_them() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        let many: Vec<_> = (1..=1_000)
            .map(|port| at(&format!("192.0.2.1:{port}")))
            .collect();
        paths.announce(&many);
        paths.call(&many, now);
        let heard = many.iter().filter(|address| paths.hear(**address, now));
        assert_eq!(heard.count(), MAX_ENDPOINTS);
        paths.route(now);

        assert_eq!(pings(&mut paths, 1, now).len(), MAX_ENDPOINTS);
        paths.reset();
        for number in 0..=255 {
            paths.pinged(many[0], [number; 12], now);
        }
        assert_eq!(paths.pings.len(), MAX_PINGS);
    }

    #[test]
    fn an_endpoint_that_pings_us_is_one_of_the_peer_s_for_a_while() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        let behind = at("203.0.113.9:4000");
        assert!(paths.hear(behind, now));
        paths.route(now);

        assert_eq!(pings(&mut paths, 1, now), [behind]);
        paths.route(now + ACTIVE);
        assert!(paths.due(now + ACTIVE).is_empty());
    }
}
