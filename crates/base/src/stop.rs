//! The three stages in which a service, a job or a subprocess is stopped: drain, cancel, kill.

use tokio_util::sync::CancellationToken;

/// Coder's three stages of stopping. A later stage implies the earlier ones.
///
/// - *drain* (SIGTERM): take no new work, finish what runs.
/// - *cancel* (SIGINT, a cancelled job): ask what runs to end early, in an orderly way.
/// - *kill* (a second signal, the grace period is over): end it now; an apply, later or never, see [`Stop::patient`].
///
/// A clone observes the same stages; a [`Stop::child`] also has stages of its own.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    drain: CancellationToken,
    cancel: CancellationToken,
    kill: CancellationToken,
    leave: CancellationToken,
}

impl Stop {
    /// Returns a handle on which no stage has been requested.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a handle that follows this one, and can be stopped without stopping this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            cancel: self.cancel.child_token(),
            kill: self.kill.child_token(),
            leave: self.leave.child_token(),
        }
    }

    /// Returns a handle for work that must not be cut short: it is cancelled together with this one, and killed only
    /// by [`Self::kill`] or [`Self::leave`] on the handle itself.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            cancel: self.cancel.child_token(),
            ..Self::default()
        }
    }

    /// Returns a handle for the cleanup after a cancel: of the stages of this one it follows only the kill.
    #[must_use]
    pub fn cleanup(&self) -> Self {
        Self {
            drain: self.kill.child_token(),
            cancel: self.kill.child_token(),
            kill: self.kill.child_token(),
            leave: self.leave.child_token(),
        }
    }

    /// Requests that no new work is taken.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Requests that running work ends early.
    pub fn cancel(&self) {
        // In this order, so that whoever sees a drain alone knows that it is no cancel.
        self.cancel.cancel();
        self.drain.cancel();
    }

    /// Ends running work at once.
    pub fn kill(&self) {
        self.cancel();
        self.kill.cancel();
    }

    /// Ends running work, except what can continue without this process.
    pub fn leave(&self) {
        self.leave.cancel();
        self.kill();
    }

    /// Returns whether work that can continue without this process should do so.
    pub fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Returns whether no new work should start.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns whether running work should end early.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Returns whether running work should end now.
    pub fn is_killed(&self) -> bool {
        self.kill.is_cancelled()
    }

    /// Waits until [`Self::drain`] or a later stage is requested.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until [`Self::cancel`] or a later stage is requested.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Waits until [`Self::kill`] is requested.
    pub async fn killed(&self) {
        self.kill.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_stage_implies_the_earlier_ones() {
        let stop = Stop::new();

        stop.kill();

        assert!(stop.is_draining() && stop.is_cancelled() && stop.is_killed());
    }

    #[test]
    fn cleaning_up_goes_on_after_a_cancel_and_ends_with_a_kill() {
        let stop = Stop::new();
        let cleanup = stop.cleanup();

        stop.cancel();
        assert!(!cleanup.is_draining() && !cleanup.is_cancelled());

        stop.kill();
        assert!(cleanup.is_draining() && cleanup.is_cancelled() && cleanup.is_killed());
    }

    #[test]
    fn a_patient_handle_is_cancelled_with_its_parent_and_ends_only_by_itself() {
        let stop = Stop::new();
        let patient = stop.patient();

        stop.kill();
        assert!(patient.is_cancelled() && !patient.is_killed());

        patient.leave();
        assert!(patient.is_killed() && patient.is_leaving() && !stop.is_leaving());
    }

    #[test]
    fn a_child_follows_its_parent_but_not_the_other_way_round() {
        let parent = Stop::new();
        let (first, second) = (parent.child(), parent.child());

        first.cancel();
        assert!(!parent.is_draining() && !second.is_draining());

        parent.drain();
        assert!(second.is_draining() && !second.is_cancelled());
    }
}
