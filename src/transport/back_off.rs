//! When to connect again: soon at first, rarely later, and not all at the same moment.

use std::time::{Duration, Instant};

/// A connection that lasted this long resets the pause.
const STABLE: Duration = Duration::from_secs(30);
/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// The pauses between tries to connect.
pub(super) struct BackOff {
    pause: Duration,
    tried_at: Option<Instant>,
}

impl BackOff {
    /// The first try needs no pause.
    pub(super) fn new() -> Self {
        Self {
            pause: PAUSE.0,
            tried_at: None,
        }
    }

    /// Waits until it is time to try, and notes that it happens.
    pub(super) async fn wait(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        match self.tried_at {
            None => {}
            Some(at) if now.duration_since(at) >= STABLE => self.pause = PAUSE.0,
            Some(_) => {
                // Half of the pause is chance, so that a fleet does not come back in step.
                tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
                self.pause = self.pause.mul_f64(1.618).min(PAUSE.1);
            }
        }
        self.tried_at = Some(tokio::time::Instant::now().into_std());
    }
}
