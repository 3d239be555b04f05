//! Outages of a server, and how commands survive them.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::output;
use crate::net::back_off::Pauses;

/// Longest outage that is waited for: the server gives up jobs itself after this time.
const AWAY: Duration = Duration::from_secs(5 * 60);
/// First and longest pause between two attempts to reach the server.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// An outage of a server.
pub(super) struct Outage {
    /// Set if the server has ever answered: nobody waits for one that may not exist.
    heard: bool,
    since: Option<Instant>,
    pauses: Pauses,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            heard: false,
            since: None,
            pauses: Pauses::new(PAUSE),
        }
    }
}

impl Outage {
    /// Returns the state for a server that has just answered.
    pub(super) fn after_an_answer() -> Self {
        Self {
            heard: true,
            ..Self::default()
        }
    }

    /// Waits for the next attempt. The first time, the reason is printed.
    ///
    /// # Errors
    /// `status`, if it does not mean an outage, or if the outage takes too long.
    pub(super) async fn wait(
        &mut self,
        status: Status,
        say: impl FnOnce(&str),
    ) -> Result<(), Status> {
        if !self.heard || !is_outage(&status) {
            return Err(status);
        }
        let since = match self.since {
            Some(since) => since,
            None => {
                say(
                    "Lost the connection to the server. Running jobs continue there; reconnecting.",
                );
                self.pauses.reset();
                Instant::now()
            }
        };
        self.since = Some(since);
        if since.elapsed() >= AWAY {
            return Err(status);
        }
        sleep(self.pauses.next_pause()).await;
        Ok(())
    }

    /// Returns whether the server is being waited for.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Records that the server has answered.
    pub(super) fn over(&mut self, say: impl FnOnce(&str)) {
        self.heard = true;
        if self.since.take().is_some() {
            say("Connected again.");
        }
    }
}

/// Returns whether the server may answer the same call later. The server's own statuses come without a source.
pub(super) fn is_outage(status: &Status) -> bool {
    let is_ours = std::error::Error::source(status).is_some();
    is_ours
        || matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled
        )
}

/// Reads a stream again from where it broke off, until it ends: `read` is told to begin, and reports when it received
/// something.
///
/// # Errors
/// Errors that do not mean an outage, or an outage that took too long.
pub(super) async fn through<T>(
    mut outage: Outage,
    mut read: impl AsyncFnMut(&mut Outage) -> Result<T, Status>,
) -> anyhow::Result<T> {
    loop {
        match read(&mut outage).await {
            Ok(done) => return Ok(done),
            Err(status) => outage
                .wait(status, output::note)
                .await
                .context("lost the connection to the server")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_for_and_said_once_and_a_refusal_is_not() {
        let mut outage = Outage::default();
        let unheard = outage.wait(Status::unavailable("away"), |_| {}).await;
        assert!(unheard.is_err() && !outage.is_on());
        outage.over(|_| {});
        let mut said = 0;
        let begun = Instant::now();
        let away = loop {
            let status = Status::unavailable("away");
            if let Err(status) = outage.wait(status, |_| said += 1).await {
                break status;
            }
        };

        assert_eq!((away.code(), said), (Code::Unavailable, 1));
        assert!(outage.is_on());
        assert!(begun.elapsed() >= AWAY && begun.elapsed() < AWAY + 2 * PAUSE.1);
        outage.over(|_| said += 1);
        assert_eq!(said, 2);
        let refused = outage.wait(Status::not_found("no"), |_| said += 1).await;
        assert!(refused.is_err() && said == 2);
    }
}
