//! Heartbeat of a job: when it is due, and when the server has given the job up. Pure: `now` is an argument.
//!
//! Pauses after a missed beat are not those of `net/back_off.rs`: none is random, because a server counts the beats of
//! each job, and they begin with the interval of the beats.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

use std::time::{Duration, Instant};

/// Longest pause between two attempts while the server is away.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Heartbeat of one job.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    outage_limit: Duration,
    last_answer: Instant,
    next: Instant,
    failures: u32,
}

impl Heartbeat {
    /// Begins a heartbeat now: the server has just handed out the job.
    pub(super) fn new(interval: Duration, outage_limit: Duration, now: Instant) -> Self {
        Self {
            interval,
            outage_limit,
            last_answer: now,
            next: now + interval,
            failures: 0,
        }
    }

    /// Records an answer of the server.
    pub(super) fn answered(&mut self, now: Instant) {
        (self.last_answer, self.next, self.failures) = (now, now + self.interval, 0);
    }

    /// Records that the server did not answer. Nothing is sent before the next beat.
    pub(super) fn missed(&mut self, now: Instant) {
        let pause = self.interval * 2_u32.saturating_pow(self.failures.min(10));
        self.failures += 1;
        self.next = now + pause.min(MAX_PAUSE).max(Duration::from_millis(50));
    }

    /// Time when something must be sent at the latest.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Returns whether to wait for the next beat even if there is something to send.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.failures > 0 && now < self.next
    }

    /// Returns whether the server has been away for so long that it gives the job up.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        now.duration_since(self.last_answer) >= self.outage_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_job_beats_while_the_server_answers() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(SECOND, 270 * SECOND, start);

        heartbeat.answered(start + SECOND);

        assert_eq!(heartbeat.next(), start + 2 * SECOND);
        assert!(!heartbeat.is_waiting(start + SECOND));
    }

    #[test]
    fn tries_become_rarer_while_the_server_is_away() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(SECOND, 270 * SECOND, start);

        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..5 {
            heartbeat.missed(now);
            assert!(heartbeat.is_waiting(now));
            pauses.push((heartbeat.next() - now).as_secs());
            now = heartbeat.next();
        }

        assert_eq!(pauses, [1, 2, 2, 2, 2]);
    }

    #[test]
    fn a_job_is_lost_only_after_the_limit() {
        let start = Instant::now();
        let heartbeat = Heartbeat::new(SECOND, 270 * SECOND, start);

        assert!(!heartbeat.is_lost(start + 269 * SECOND));
        assert!(heartbeat.is_lost(start + 270 * SECOND));
    }
}
