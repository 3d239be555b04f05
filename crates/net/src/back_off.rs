//! Back-off of reconnections: soon at first, rarely later, and not all at the same moment. The only one for connections
//! and calls; downloads (`mirror/fetch/retry.rs`) and heartbeats (`daemon/heartbeat.rs`) have pauses of their own kind.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lifetime of a connection that resets the pause.
const STABLE: Duration = Duration::from_secs(30);
/// First and longest pause between two attempts: a server that is back has all its daemons two seconds later,
/// including the time to dial.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1500));
/// Longest pause that a server can ask for.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// Shortest and longest pause after a refusal.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Length of the pause after a refusal, as a fraction of the time since the first one. A build's agent may start long
/// before its server knows it, and must not be late by much then.
const REFUSED_PART: f64 = 0.05;

/// Pauses that double, from a first to a longest one. Half of each is random, so that clients which failed together
/// do not return together.
#[derive(Clone, Debug)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// Creates pauses that grow from `first` to `longest`.
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// Returns the next pause, up to the longest.
    pub fn next_pause(&mut self) -> Duration {
        self.next_up_to(self.longest)
    }

    /// Returns the next pause, of at most `longest`, from which later ones go on.
    pub fn next_up_to(&mut self, longest: Duration) -> Duration {
        let pause = self.next.min(longest).min(self.longest);
        self.next = pause.saturating_mul(2);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }

    /// Starts again with the first pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Pauses between attempts to connect.
pub struct BackOff {
    pauses: Pauses,
    tried_at: Option<Instant>,
    not_before: Option<Instant>,
    refused_since: Option<Instant>,
}

/// Interval of log lines about a server that stays away.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// Limit on log lines about a repeated failure: the first time, when it changes, and once a minute.
#[derive(Debug, Default)]
pub struct Complaints {
    said: Option<(String, Instant)>,
    tries: u32,
}

impl Complaints {
    /// Records a failure. Returns the number of failures so far if it should be logged.
    pub fn should_say(&mut self, text: &str) -> Option<u32> {
        self.tries += 1;
        let is_authenticated = self
            .said
            .as_ref()
            .is_some_and(|(said, at)| said == text && at.elapsed() < REMIND_EVERY);
        if is_authenticated {
            return None;
        }
        self.said = Some((text.to_owned(), Instant::now()));
        Some(self.tries)
    }
}

/// Creates a back-off whose first attempt needs no pause.
impl Default for BackOff {
    fn default() -> Self {
        Self {
            pauses: Pauses::new(PAUSE),
            tried_at: None,
            not_before: None,
            refused_since: None,
        }
    }
}

impl BackOff {
    /// Waits until the next attempt is due, and records it.
    pub async fn wait(&mut self) {
        let now = Instant::now();
        let mut at = self.not_before.take();
        match self.tried_at {
            None => {}
            Some(tried) if now.duration_since(tried) >= STABLE => self.pauses.reset(),
            Some(_) => at = at.max(Some(now + self.pauses.next_pause())),
        }
        if let Some(at) = at {
            sleep_until(at).await;
        }
        self.tried_at = Some(Instant::now());
    }

    /// Records that the server refuses our credential: the longer it does, the rarer are the attempts.
    pub fn refused(&mut self) {
        let now = Instant::now();
        let since = *self.refused_since.get_or_insert(now);
        let part = now.duration_since(since).mul_f64(REFUSED_PART);
        self.hold(part.clamp(REFUSED.0, REFUSED.1));
    }

    /// Records that the server does not refuse our credential, or not yet.
    pub fn accepted(&mut self) {
        self.refused_since = None;
    }

    /// Delays the next attempt by at least this pause, and by up to a quarter more.
    pub fn hold(&mut self, pause: Duration) {
        let pause = pause
            .min(LONGEST_HOLD)
            .mul_f64(rand::random_range(1.0..1.25));
        self.not_before = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waited(back_off: &mut BackOff) -> Duration {
        let before = Instant::now();
        back_off.wait().await;
        before.elapsed()
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut pauses = Pauses::new((ms(10), ms(50)));
        for longest in [10, 20, 40, 50, 50] {
            let pause = pauses.next_pause();
            assert!((ms(longest) / 2..ms(longest)).contains(&pause), "{pause:?}");
        }
        assert!(pauses.next_up_to(ms(15)) < ms(15));
        assert!(pauses.next_pause() >= ms(15));
        pauses.reset();
        assert!(pauses.next_pause() < ms(10));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_begin_anew_after_a_stable_time() {
        let mut back_off = BackOff::default();

        assert_eq!(waited(&mut back_off).await, Duration::ZERO);
        assert!(waited(&mut back_off).await <= PAUSE.0);
        for _ in 0..20 {
            assert!(waited(&mut back_off).await <= PAUSE.1);
        }
        assert!(waited(&mut back_off).await >= PAUSE.1 / 2);
        tokio::time::advance(STABLE).await;
        assert_eq!(waited(&mut back_off).await, Duration::ZERO);
        assert!(waited(&mut back_off).await <= PAUSE.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_said_once_a_minute_and_what_is_new_at_once() {
        let mut complaints = Complaints::default();

        assert_eq!(complaints.should_say("refused"), Some(1));
        assert_eq!(complaints.should_say("refused"), None);
        assert_eq!(complaints.should_say("unknown host"), Some(3));
        tokio::time::advance(REMIND_EVERY).await;
        assert_eq!(complaints.should_say("unknown host"), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_is_kept_even_after_a_stable_time_and_never_for_ever() {
        let mut back_off = BackOff::default();
        back_off.wait().await;
        tokio::time::advance(STABLE).await;

        back_off.hold(Duration::from_secs(60));
        let held = waited(&mut back_off).await;
        assert!((60..=75).contains(&held.as_secs()), "{held:?}");

        back_off.hold(Duration::from_secs(1_000_000));
        assert!(waited(&mut back_off).await <= LONGEST_HOLD.mul_f64(1.25));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_asks_at_the_pace_of_its_own_age() {
        let mut back_off = BackOff::default();
        let begin = Instant::now();
        let mut tries = 0;
        while begin.elapsed() < Duration::from_secs(24 * 60 * 60) {
            let waited = waited(&mut back_off).await;
            assert!(waited <= REFUSED.1.mul_f64(1.25), "{waited:?}");
            if begin.elapsed() < Duration::from_secs(60) {
                assert!(waited < Duration::from_secs(4), "{waited:?}");
            }
            back_off.refused();
            tries += 1;
        }
        assert!(tries < 1600, "{tries} tries a day");

        back_off.accepted();
        back_off.wait().await;
        back_off.refused();
        assert!(waited(&mut back_off).await < 2 * REFUSED.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_back_is_found_within_two_seconds_and_by_few_at_once() {
        let mut pauses = Vec::new();
        for _ in 0..30 {
            let mut back_off = BackOff::default();
            let mut last = Duration::ZERO;
            for _ in 0..20 {
                let before = tokio::time::Instant::now();
                back_off.wait().await;
                last = before.elapsed();
            }
            pauses.push(last);
        }

        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*longest < Duration::from_secs(2), "{longest:?}");
        assert!(
            *longest - *shortest > Duration::from_millis(200),
            "{pauses:?}"
        );
    }
}
