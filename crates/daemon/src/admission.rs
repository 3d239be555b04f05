//! Admission of jobs by memory: which slot may ask for a job, and which job may begin. Pure.
//!
//! The memory that a job needs is known only once the job is ours, and then no other daemon can run it. So a slot asks
//! only while the largest known kind of job would fit. A job that arrives nevertheless, because the server had handed it
//! out already, waits; behind it only jobs of its kind wait.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

use std::collections::BTreeMap;

use super::peaks::Peaks;

/// Memory limits of a daemon's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Memory for all jobs together, in bytes.
    pub budget: u64,
    /// Memory that an unknown job is expected to need, in bytes.
    pub assumed: u64,
    /// Memory of one job in bytes; a job that uses more is ended. `None` for no limit.
    pub job_limit: Option<u64>,
}

impl Capacity {
    /// Returns a capacity in which a single job may use all of `budget`.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            assumed: 768 << 20,
            job_limit: Some(budget),
        }
    }
}

/// State of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Ready to ask for a job. The number is its place in the queue.
    Wanting(u64),
    Asking(u64),
    /// Told to withdraw its request; a job may arrive nevertheless.
    Retracting,
    /// Has a job that does not fit yet.
    Holding {
        place: u64,
        class: String,
        need: u64,
    },
    Running {
        class: String,
        need: u64,
        used: u64,
    },
}

/// Memory of a daemon, by the slots that use it.
#[derive(Debug)]
pub(super) struct Admission {
    /// Memory limits; `None` if memory does not count.
    capacity: Option<Capacity>,
    /// Number of jobs that may still be taken; `None` for no limit.
    left: Option<usize>,
    peaks: Peaks,
    /// Seconds since 1970, as last reported.
    now: u64,
    slots: BTreeMap<usize, State>,
    next_place: u64,
}

impl Admission {
    pub(super) fn new(capacity: Option<Capacity>, max_jobs: Option<usize>, peaks: Peaks) -> Self {
        Self {
            capacity,
            left: max_jobs,
            peaks,
            now: 0,
            slots: BTreeMap::new(),
            next_place: 0,
        }
    }

    /// Records the current time, in seconds since 1970.
    pub(super) fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    /// Returns whether no more jobs will be taken.
    pub(super) fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    /// Puts a slot into the queue of those that are ready to ask.
    pub(super) fn want(&mut self, slot: usize) {
        let place = self.place();
        self.slots.insert(slot, State::Wanting(place));
    }

    /// Returns whether `slot` may ask now; if so, it counts as asking.
    pub(super) fn try_ask(&mut self, slot: usize) -> bool {
        let first = self.slots.iter().filter_map(|(slot, state)| {
            let State::Wanting(place) = state else {
                return None;
            };
            Some((place, slot))
        });
        if first.min().map(|(_, slot)| *slot) != Some(slot) || !self.may_ask(self.asking() + 1) {
            return false;
        }
        let place = self.place();
        self.slots.insert(slot, State::Asking(place));
        true
    }

    /// Returns whether `slot` must withdraw its request, because a job would no longer fit.
    pub(super) fn try_retract(&mut self, slot: usize) -> bool {
        let newest = self.slots.iter().filter_map(|(slot, state)| {
            let State::Asking(place) = state else {
                return None;
            };
            Some((place, slot))
        });
        if newest.max().map(|(_, slot)| *slot) != Some(slot) || self.may_ask(self.asking()) {
            return false;
        }
        self.slots.insert(slot, State::Retracting);
        true
    }

    /// Records that a slot needs no job for now: it got none, or it ends.
    pub(super) fn leave(&mut self, slot: usize) {
        self.slots.remove(&slot);
    }

    /// Records that a slot got a job of `class`. The job begins with [`Self::try_begin`].
    pub(super) fn acquired(&mut self, slot: usize, class: String) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        self.hold(slot, class);
    }

    /// Records that a slot has a job of `class` that was acquired before.
    pub(super) fn hold(&mut self, slot: usize, class: String) {
        let need = match self.capacity {
            Some(capacity) => self.peaks.of(&class).unwrap_or(capacity.assumed),
            None => 0,
        };
        let place = self.place();
        let holding = State::Holding { place, class, need };
        self.slots.insert(slot, holding);
    }

    /// Returns whether the job of `slot` may begin; if so, it counts as running.
    pub(super) fn try_begin(&mut self, slot: usize) -> bool {
        let Some(State::Holding { place, class, need }) = self.slots.get(&slot).cloned() else {
            return false;
        };
        let is_behind = |state: &State| matches!(state, State::Holding { place: other, class: others, .. } if *other < place && *others == class);
        let running = self.running();
        let fits = self
            .capacity
            .is_none_or(|capacity| running + need <= capacity.budget);
        if self.slots.values().any(is_behind) || !fits && running > 0 {
            return false;
        }
        let running = State::Running {
            class,
            need,
            used: 0,
        };
        self.slots.insert(slot, running);
        true
    }

    /// Records how much memory the job of `slot` uses now.
    pub(super) fn measured(&mut self, slot: usize, bytes: u64) {
        if let Some(State::Running { used, .. }) = self.slots.get_mut(&slot) {
            *used = bytes.max(*used);
        }
    }

    /// Records the end of the job of `slot`, with its peak memory in bytes; 0 if unknown.
    pub(super) fn ended(&mut self, slot: usize, peak: u64, has_completed: bool) {
        if let Some(State::Running { class, .. }) = self.slots.remove(&slot)
            && peak > 0
        {
            // A job that used more than the budget counts as needing the whole budget.
            let peak = self.capacity.map_or(peak, |it| peak.min(it.budget));
            self.peaks.learn(&class, peak, has_completed, self.now);
        }
    }

    pub(super) fn peaks(&self) -> &Peaks {
        &self.peaks
    }

    /// Returns whether `asking` slots may ask at the same time: each may get the largest known job.
    fn may_ask(&self, asking: usize) -> bool {
        if self.left.is_some_and(|left| asking > left) {
            return false;
        }
        let Some(capacity) = self.capacity else {
            return true;
        };
        let taken = self.taken();
        let all = taken.saturating_add(self.largest(capacity).saturating_mul(asking as u64));
        // A job that exceeds the budget may still run alone.
        all <= capacity.budget || taken == 0 && asking <= 1
    }

    fn asking(&self) -> usize {
        let asks = |state: &&State| matches!(state, State::Asking(_) | State::Retracting);
        self.slots.values().filter(asks).count()
    }

    fn largest(&self, capacity: Capacity) -> u64 {
        let here = self.slots.values().filter_map(|state| match state {
            State::Holding { need, .. } => Some(*need),
            State::Running { need, used, .. } => Some(*need.max(used)),
            State::Wanting(_) | State::Asking(_) | State::Retracting => None,
        });
        let largest = here.chain(self.peaks.largest(self.now)).max();
        largest.unwrap_or(capacity.assumed)
    }

    fn running(&self) -> u64 {
        let running = self.slots.values().map(|state| match state {
            State::Running { need, used, .. } => *need.max(used),
            State::Holding { .. } => 0,
            State::Wanting(_) | State::Asking(_) | State::Retracting => 0,
        });
        running.sum()
    }

    fn taken(&self) -> u64 {
        let held = self.slots.values().map(|state| match state {
            State::Holding { need, .. } => *need,
            State::Running { .. } => 0,
            State::Wanting(_) | State::Asking(_) | State::Retracting => 0,
        });
        self.running() + held.sum::<u64>()
    }

    fn place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn admission(known: &[(&str, u64)]) -> Admission {
        let mut peaks = Peaks::default();
        for (class, peak) in known {
            peaks.learn(class, *peak, true, 0);
        }
        Admission::new(Some(Capacity::new(1000 * MIB)), None, peaks)
    }

    /// Lets a slot ask and gives it a job at once. Returns whether the job runs.
    fn runs(admission: &mut Admission, slot: usize, class: &str) -> bool {
        admission.want(slot);
        if !admission.try_ask(slot) {
            admission.leave(slot);
            return false;
        }
        admission.acquired(slot, class.to_owned());
        admission.try_begin(slot)
    }

    #[test]
    fn two_large_jobs_never_run_together_even_if_nothing_is_known() {
        for known in [&[][..], &[("big", 600 * MIB)]] {
            let mut admission = admission(known);

            assert!(runs(&mut admission, 0, "big"));
            assert!(!runs(&mut admission, 1, "big"));

            admission.ended(0, 600 * MIB, true);
            assert!(runs(&mut admission, 1, "big"));
        }
    }

    #[test]
    fn small_jobs_run_side_by_side_and_a_large_one_beside_them() {
        let mut admission = admission(&[("big", 600 * MIB), ("small", 50 * MIB)]);

        assert!((0..4).all(|slot| runs(&mut admission, slot, "small")));
        assert!(runs(&mut admission, 4, "big"));
        assert!(!runs(&mut admission, 5, "small"), "it might get a big one");
    }

    #[test]
    fn a_slot_takes_its_question_back_when_a_job_turns_out_to_be_large() {
        let mut admission = admission(&[("small", 50 * MIB)]);
        assert!(runs(&mut admission, 0, "small"));
        for slot in [1, 2] {
            admission.want(slot);
            assert!(admission.try_ask(slot));
        }

        admission.measured(0, 700 * MIB);

        assert!(
            !admission.try_retract(1),
            "the last one that asked goes first"
        );
        assert!(admission.try_retract(2) && admission.try_retract(1));
        admission.leave(2);
        admission.measured(0, 10 * MIB);
        admission.want(2);
        assert!(!admission.try_ask(2), "what it had once it may have again");
    }

    #[test]
    fn a_small_job_passes_a_large_one_that_waits_and_a_large_one_does_not() {
        let mut admission = admission(&[("big", 600 * MIB), ("small", 50 * MIB)]);
        assert!(runs(&mut admission, 0, "big"));
        for (slot, class) in [(1, "big"), (2, "small"), (3, "big")] {
            // As if the server had handed out the jobs before it heard of the withdrawal.
            admission.acquired(slot, class.to_owned());
        }

        assert!(!admission.try_begin(3) && !admission.try_begin(1) && admission.try_begin(2));
        admission.want(4);
        assert!(
            !admission.try_ask(4),
            "others can run what does not fit here"
        );

        admission.ended(0, 600 * MIB, true);
        assert!(!admission.try_begin(3), "first come, first served");
        assert!(admission.try_begin(1) && !admission.try_begin(3));
        admission.ended(1, 600 * MIB, true);
        assert!(admission.try_begin(3));
    }

    #[test]
    fn a_job_that_took_everything_keeps_others_apart_for_hours_and_not_for_weeks() {
        let mut admission = admission(&[("small", 50 * MIB)]);
        assert!(runs(&mut admission, 0, "bomb"));
        admission.ended(0, 64_000 * MIB, false);

        assert!(runs(&mut admission, 1, "small"));
        assert!(
            !runs(&mut admission, 2, "small"),
            "it might be the same again"
        );
        admission.set_time(5 * 60 * 60);
        assert!(runs(&mut admission, 2, "small"));
    }

    #[test]
    fn a_job_that_is_larger_than_the_budget_runs_alone() {
        let mut admission = admission(&[("huge", 5000 * MIB), ("small", 50 * MIB)]);

        assert!(runs(&mut admission, 0, "huge"));
        assert!(!runs(&mut admission, 1, "small"));
        admission.ended(0, 5000 * MIB, true);
        assert!(runs(&mut admission, 1, "small"));
        assert!(!runs(&mut admission, 0, "huge"));
    }

    #[test]
    fn slots_ask_in_turn() {
        let mut admission = admission(&[("big", 600 * MIB)]);
        for slot in [2, 0, 1] {
            admission.want(slot);
        }

        assert!(!admission.try_ask(0) && !admission.try_ask(1) && admission.try_ask(2));
        assert!(!admission.try_ask(0), "two of the largest do not fit");
        admission.leave(2);
        assert!(!admission.try_ask(1) && admission.try_ask(0));
    }

    #[test]
    fn no_more_jobs_are_asked_for_than_the_daemon_may_take() {
        let mut admission = Admission::new(None, Some(2), Peaks::default());
        for slot in 0..3 {
            admission.want(slot);
        }

        assert!(admission.try_ask(0) && admission.try_ask(1) && !admission.try_ask(2));
        for slot in 0..2 {
            admission.acquired(slot, String::new());
            assert!(admission.try_begin(slot));
        }
        assert!(admission.is_over());
    }
}
