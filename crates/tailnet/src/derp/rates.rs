//! Limits on how much clients of a relay may send. A client that sends more is read more slowly: nothing is lost, and
//! the connections inside the tunnel adapt.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use outpost_net::budget::Shared;
use tokio::time::Instant;

use crate::key::Key;

/// Limits in bytes a second, over both directions of a tunnel for each of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Limit of one key, over all its connections. A tunnel alone on two cores has 2 to 3 Gbit/s.
    pub(crate) of_key: u64,
    /// Limit of one address (for IPv6, a /64), behind which there may be many clients.
    pub(crate) of_address: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            of_key: 4_000_000_000 / 8,
            of_address: 8_000_000_000 / 8,
        }
    }
}

/// Amount that may be sent at once after a pause, as time at the full rate: late scheduling must not cost throughput.
const BURST: Duration = Duration::from_millis(250);

/// Rates of all connected clients.
#[derive(Debug, Default)]
pub(super) struct Rates {
    limits: Limits,
    by_key: Shared<Key, Rate>,
    by_address: Shared<IpAddr, Rate>,
}

/// A rate that connections share.
#[derive(Debug)]
struct Rate {
    bytes_per_second: u64,
    /// Time when everything sent so far would be through at exactly this rate.
    busy_until: Mutex<Instant>,
}

/// Rates that apply to one connection.
pub(super) struct Pace([Option<Arc<Rate>>; 2]);

impl Rates {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(super) fn of(&self, key: Key, address: Option<IpAddr>) -> Pace {
        let Limits { of_key, of_address } = self.limits;
        let address = address.map(|it| self.by_address.of(it, || Rate::new(of_address)));
        Pace([Some(self.by_key.of(key, || Rate::new(of_key))), address])
    }
}

impl Rate {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            busy_until: Mutex::new(Instant::now()),
        }
    }

    /// Counts `bytes`, and returns how long to wait before anything else is read.
    fn charge(&self, bytes: usize, now: Instant) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        // The instant is consistent even after a panic, so a poisoned lock can be used.
        let busy_until = self.busy_until.lock();
        let mut busy_until = busy_until.unwrap_or_else(PoisonError::into_inner);
        *busy_until = (*busy_until).max(now) + takes;
        let ahead = busy_until.saturating_duration_since(now);
        ahead.saturating_sub(BURST)
    }
}

impl Pace {
    /// Counts `bytes`, and returns how long to wait before anything else is read.
    pub(super) fn charge(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        let rates = self.0.iter().flatten();
        let pauses = rates.map(|rate| rate.charge(bytes, now));
        pauses.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    fn rates() -> Rates {
        Rates::new(Limits {
            of_key: 1_000_000,
            of_address: 2_000_000,
        })
    }

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    fn address(n: u8) -> Option<IpAddr> {
        Some([127, 0, 0, n].into())
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_one_key_share_its_rate() {
        let rates = rates();
        let (one, two) = (rates.of(key(1), address(1)), rates.of(key(1), address(2)));
        let began = Instant::now();

        for _ in 0..50 {
            for pace in [&one, &two] {
                sleep(pace.charge(100_000)).await;
            }
        }

        let took = began.elapsed() + BURST;
        let expected = Duration::from_secs(10);
        assert!(
            took.abs_diff(expected) < Duration::from_millis(100),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn keys_at_one_address_share_its_rate_and_others_are_not_slowed() {
        let rates = rates();
        let paces = [1, 2, 3].map(|n| rates.of(key(n), address(1)));
        let other = rates.of(key(4), address(2));
        let began = Instant::now();

        for _ in 0..50 {
            for pace in &paces {
                sleep(pace.charge(40_000)).await;
            }
            assert_eq!(other.charge(1_000), Duration::ZERO);
        }

        let took = began.elapsed() + BURST;
        let expected = Duration::from_secs(3);
        assert!(
            took.abs_diff(expected) < Duration::from_millis(100),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_less_never_waits_and_saves_no_more_than_a_burst() {
        let pace = rates().of(key(1), None);
        for _ in 0..1_000 {
            assert_eq!(pace.charge(900), Duration::ZERO);
            advance(Duration::from_millis(1)).await;
        }

        advance(Duration::from_secs(3_600)).await;
        assert_eq!(pace.charge(250_000), Duration::ZERO);
        assert!(pace.charge(250_000) > Duration::from_millis(200));
    }
}
