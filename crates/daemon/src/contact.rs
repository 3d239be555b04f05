//! Contact with the server about a job: when it last answered, and whether it may have given the job up.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Answers of the server about one job. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    limit: Duration,
    last: Arc<Mutex<Last>>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    /// Time of the answer on the clock that goes on while the machine sleeps.
    time: Timestamp,
    was_lost: bool,
}

impl Contact {
    /// Begins a contact now. A server that is silent for `limit` may give the job up.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: Arc::new(Mutex::new(Last {
                at: Instant::now(),
                time: Timestamp::now(),
                was_lost: false,
            })),
        }
    }

    /// Records an answer. One that comes after a long silence does not show that the job is still ours: coderd
    /// accepts heartbeats of a job that its reaper has ended.
    pub(super) fn answered(&self) {
        let was_lost = self.may_be_lost();
        *self.last() = Last {
            at: Instant::now(),
            time: Timestamp::now(),
            was_lost,
        };
    }

    /// Records that the server has given the job up, whatever its patience is.
    pub(super) fn lost(&self) {
        self.last().was_lost = true;
    }

    /// Time of the last answer.
    pub(super) fn at(&self) -> Instant {
        self.last().at
    }

    /// Time of the last answer, by the time of day.
    pub(super) fn time(&self) -> Timestamp {
        self.last().time
    }

    /// Returns whether the server may have given the job up by now.
    pub(super) fn may_be_lost(&self) -> bool {
        let last = self.last();
        last.was_lost || last.at.elapsed() >= self.limit || is_older(last.time, self.limit)
    }

    /// Time until which the server will not end the job; `None` if it may have.
    pub(super) fn owned_until(&self) -> Option<Instant> {
        let last = self.last();
        (!last.was_lost).then(|| last.at + self.limit)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        let last = self.last.lock();
        last.expect("no code panics while it holds a moment")
    }
}

/// Returns whether `time` is longer ago than `limit`.
pub(super) fn is_older(time: Timestamp, limit: Duration) -> bool {
    let age = Timestamp::now().duration_since(time);
    age >= SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_is_not_forgotten_when_the_server_answers_again() {
        let contact = Contact::new(Duration::from_secs(240));
        tokio::time::advance(Duration::from_secs(239)).await;
        assert!(!contact.may_be_lost());
        contact.answered();
        tokio::time::advance(Duration::from_secs(239)).await;
        assert!(!contact.may_be_lost() && contact.owned_until().is_some());

        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(contact.may_be_lost(), "nobody has answered yet");
        contact.answered();

        assert!(contact.may_be_lost() && contact.owned_until().is_none());
    }

    #[test]
    fn a_server_that_gives_a_job_up_is_believed_before_our_limit() {
        let contact = Contact::new(Duration::from_secs(240));
        contact.lost();
        contact.answered();
        assert!(contact.may_be_lost() && contact.owned_until().is_none());
    }
}
