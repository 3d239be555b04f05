//! Pauses between attempts. Pure: time and chance are arguments.
//!
//! Unlike the pauses of `net/back_off.rs`, which go on for as long as somebody wants to connect, these end after a number
//! of failures, and a server may demand longer ones.

use std::time::Duration;

/// Maximum pause, whatever a server demands.
const LONGEST: Duration = Duration::from_secs(120);

/// Number of attempts, and pauses between them.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Maximum number of consecutive attempts without progress.
    pub tries: u32,
    /// Pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(500),
        }
    }
}

impl Retry {
    /// Returns the pause after this many consecutive failures; `None` to give up. `after` is the server's demand,
    /// `chance` lies between 0 and 1 and spreads clients that failed together.
    pub(super) fn pause(
        self,
        failures: u32,
        after: Option<Duration>,
        chance: f64,
    ) -> Option<Duration> {
        if failures >= self.tries {
            return None;
        }
        let doubled = self
            .first_pause
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let own = doubled.min(LONGEST).mul_f64(0.5 + chance / 2.0);
        Some(own.max(after.unwrap_or_default()).min(LONGEST))
    }
}

/// Returns whether a status may be temporary: the server is busy, or broken for the moment.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Parses a `Retry-After` header in seconds; servers of programs do not send dates.
pub(super) fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_and_never_begin_together() {
        let retry = Retry {
            tries: 4,
            first_pause: Duration::from_secs(1),
        };
        let all = |chance| (1..=4).map(move |failures| retry.pause(failures, None, chance));

        let seconds = [Some(1), Some(2), Some(4), None];
        assert!(all(1.0).eq(seconds.map(|s| s.map(Duration::from_secs))));
        assert_eq!(all(0.0).next(), Some(Some(Duration::from_millis(500))));
    }

    #[test]
    fn a_server_may_ask_for_more_time_but_not_for_any() {
        let retry = Retry::default();

        assert_eq!(
            retry.pause(1, retry_after("7"), 0.0),
            Some(Duration::from_secs(7))
        );
        assert_eq!(retry.pause(1, retry_after("86400"), 0.0), Some(LONGEST));
        assert_eq!(retry_after("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn what_will_not_change_is_not_asked_again() {
        assert!(
            [400, 401, 403, 404, 410, 501]
                .iter()
                .all(|s| !is_passing(*s))
        );
        assert!([429, 500, 503].iter().all(|s| is_passing(*s)));
    }
}
