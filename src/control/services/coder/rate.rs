//! How often one peer may ask for one thing, and how fast on one connection. Pure: `now` is an argument.
//!
//! # Source
//! coder `coderd/httpmw/ratelimit.go`, and the default of `--api-rate-limit`.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Requests of one peer for one endpoint in each window.
pub(super) const REQUESTS: u32 = 512;
/// The window.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Peers and endpoints that are counted at a time. Whoever has so many addresses is not held up by counting.
const MAX_COUNTED: usize = 4096;

/// What was asked in the windows that are open.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<(IpAddr, &'static str), (Instant, u32)>);

impl Rates {
    /// Counts a request, and says whether it may be answered.
    pub(super) fn allow(&mut self, peer: IpAddr, endpoint: &'static str, now: Instant) -> bool {
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
        *count <= REQUESTS
    }
}

/// What one connection may ask at once; an agent begins with about twenty calls.
const BURST: u32 = 64;
/// How far apart its questions are from then on.
const PACE: Duration = Duration::from_millis(20);

/// How fast one connection asks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When it has had all that it was given.
    spent: Option<Instant>,
}

impl Pace {
    /// Counts a question, and says how long the next one has to wait.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let spent = self.spent.map_or(now, |spent| spent.max(now)) + PACE;
        self.spent = Some(spent);
        spent.duration_since(now).saturating_sub(PACE * BURST)
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
        for _ in 0..REQUESTS {
            assert!(rates.allow(one, "serve", start));
        }

        assert!(!rates.allow(one, "serve", start + WINDOW / 2));
        assert!(rates.allow(one, "key", start) && rates.allow(two, "serve", start));
        assert!(rates.allow(one, "serve", start + WINDOW));
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for number in 0..10_000 {
            assert!(rates.allow(IpAddr::from(Ipv4Addr::from_bits(number)), "serve", start));
        }
        assert_eq!(rates.0.len(), MAX_COUNTED);
        assert!(rates.allow(IpAddr::from([1, 1, 1, 1]), "serve", start + WINDOW));
        assert_eq!(rates.0.len(), 1);
    }

    #[test]
    fn a_connection_asks_much_at_once_and_then_at_its_pace() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(pace.pause(start), Duration::ZERO);
        }

        assert_eq!(pace.pause(start), PACE);
        assert_eq!(pace.pause(start + PACE), PACE);
        assert_eq!(pace.pause(start + PACE * 3), Duration::ZERO);
        let later = start + Duration::from_secs(3600);
        let pauses: Vec<_> = (0..=BURST).map(|_| pace.pause(later)).collect();
        assert_eq!(pauses.iter().sum::<Duration>(), PACE);
    }
}
