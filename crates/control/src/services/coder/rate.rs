//! Limits on how often one peer may call one endpoint, and how fast on one connection. Pure: `now` is an argument.
//!
//! # Source
//! coder `coderd/httpmw/ratelimit.go`, and the default of `--api-rate-limit`.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Requests of one address to one endpoint in each window.
pub(super) const REQUESTS: u32 = 512;
/// Requests that each session of a person sends to open connections: a script may begin thousands on one machine,
/// many machines may share an address, and the reference does not limit its relay at all.
pub(super) const DIALS: u32 = 8192;
/// Length of a window.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Number of pairs of peer and endpoint that are counted at the same time. Counting does not stop an attacker with
/// more addresses.
const MAX_COUNTED: usize = 4096;

/// Counts of requests in the open windows.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<(IpAddr, &'static str), (Instant, u32)>);

impl Rates {
    /// Counts a request, and returns whether it may be answered.
    pub(super) fn allow(
        &mut self,
        peer: IpAddr,
        (endpoint, limit): (&'static str, u32),
        now: Instant,
    ) -> bool {
        let is_over = |begun: Instant| now.duration_since(begun) >= WINDOW;
        let key = (peer, endpoint);
        if self.0.len() >= MAX_COUNTED && !self.0.contains_key(&key) {
            self.0.retain(|_, (begun, _)| !is_over(*begun));
            if self.0.len() >= MAX_COUNTED {
                return true;
            }
        }
        let (begun, count) = self.0.entry(key).or_insert((now, 0));
        if is_over(*begun) {
            (*begun, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= limit
    }
}

/// Requests that one connection may send at once; an agent begins with about twenty calls.
const BURST: u32 = 64;
/// Time between later requests of a connection.
pub(super) const PACE: Duration = Duration::from_millis(20);
/// Time between an agent's `ready_for_handshake` messages: each client gets one, and five hundred clients may come at
/// once.
pub(super) const READY_PACE: Duration = Duration::from_millis(2);

/// Rate of requests on one connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time when everything that the connection was granted is used up; `None` before the first request.
    spent: Option<Instant>,
}

impl Pace {
    /// Counts a request of this cost, and returns the time when the next one may be read.
    pub(super) fn count(&mut self, cost: Duration, now: Instant) -> Instant {
        let spent = self.spent.map_or(now, |spent| spent.max(now)) + cost;
        self.spent = Some(spent);
        spent
            .checked_sub(PACE * BURST)
            .map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_peer_may_ask_so_often_in_each_window_and_others_do_not_suffer() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let [one, two] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last)));
        let (serve, key) = (("serve", 3), ("key", 3));
        for _ in 0..3 {
            assert!(rates.allow(one, serve, start));
        }

        assert!(!rates.allow(one, serve, start + WINDOW / 2));
        assert!(rates.allow(one, key, start) && rates.allow(two, serve, start));
        assert!(rates.allow(one, serve, start + WINDOW));
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let serve = ("serve", REQUESTS);
        for number in 0..10_000 {
            assert!(rates.allow(IpAddr::from(Ipv4Addr::from_bits(number)), serve, start));
        }
        assert_eq!(rates.0.len(), MAX_COUNTED);
        assert!(rates.allow(IpAddr::from([1, 1, 1, 1]), serve, start + WINDOW));
        assert_eq!(rates.0.len(), 1);
    }

    #[test]
    fn a_connection_asks_much_at_once_and_then_at_its_pace() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(pace.count(PACE, start), start);
        }

        assert_eq!(pace.count(PACE, start), start + PACE);
        assert_eq!(pace.count(PACE, start + PACE), start + PACE * 2);
        assert_eq!(pace.count(PACE, start + PACE * 3), start + PACE * 3);
        let later = start + Duration::from_secs(3600);
        let due: Vec<_> = (0..=BURST).map(|_| pace.count(PACE, later)).collect();
        assert_eq!(due.iter().max(), Some(&(later + PACE)));
    }

    #[test]
    fn an_agent_is_ready_for_five_hundred_clients_at_once() {
        let (mut pace, start) = (Pace::default(), Instant::now());

        let due = (0..500).map(|_| pace.count(READY_PACE, start)).max();

        assert_eq!(due, Some(start));
    }
}
