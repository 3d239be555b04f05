//! Permit of a slot: its holder asks for a job or works on one, so that a slot works on one job at a time.
//!
//! A job that waits for another job of its workspace returns the permit, and needs it again before it goes on. The
//! slot takes other jobs meanwhile, and stops asking for one as soon as a job wants to go on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Number of jobs that may wait beside one slot. Each holds a session at the server and some memory.
const MAX_ASIDE: usize = 8;

/// Permit of one slot, with the jobs that want it back.
pub(super) struct SlotPermit {
    one: Arc<Semaphore>,
    aside: Arc<Semaphore>,
    /// Number of jobs that want to go on.
    returning: watch::Sender<usize>,
}

impl SlotPermit {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            one: Arc::new(Semaphore::new(1)),
            aside: Arc::new(Semaphore::new(MAX_ASIDE)),
            returning: watch::Sender::new(0),
        })
    }

    /// Waits until nobody holds the permit; first come, first served.
    pub(super) async fn take(&self) -> OwnedSemaphorePermit {
        let taken = Arc::clone(&self.one).acquire_owned().await;
        taken.expect("nobody closes it")
    }

    /// Takes the permit as [`Self::take`] does, for a job that goes on: a slot that is asking for a job gives way.
    pub(super) async fn take_again(&self) -> OwnedSemaphorePermit {
        let _returning = Returning::new(&self.returning);
        self.take().await
    }

    /// Returns a place beside the slot, if there is one left.
    pub(super) fn place_aside(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.aside).try_acquire_owned().ok()
    }

    /// Waits until a job wants to go on.
    pub(super) async fn is_wanted(&self) {
        let mut returning = self.returning.subscribe();
        let wanted = returning.wait_for(|jobs| *jobs > 0).await;
        wanted.expect("the sender is ours");
    }
}

/// Counts a job among those that want to go on, until it is dropped.
struct Returning<'a>(&'a watch::Sender<usize>);

impl<'a> Returning<'a> {
    fn new(jobs: &'a watch::Sender<usize>) -> Self {
        jobs.send_modify(|jobs| *jobs += 1);
        Self(jobs)
    }
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|jobs| *jobs -= 1);
    }
}
