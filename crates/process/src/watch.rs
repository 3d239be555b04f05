//! Watch over the memory that a child and its group use.

use std::{process::ExitStatus, sync::Arc, time::Duration};

use nix::unistd::Pid;
use outpost_provision::Memory;
use tokio::time::{Instant, sleep_until};

use super::{control_group::ControlGroup, group::Group, memory};

/// Interval at which a group's memory is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Watch over the memory of a group, which is measured at intervals.
pub(super) struct Watch<'a> {
    memory: &'a Memory,
    leader: Option<Pid>,
    control_group: Option<Arc<ControlGroup>>,
    next: Instant,
    /// Memory and limit when the limit was first exceeded.
    pub(super) found: Option<(u64, u64)>,
    /// Memory of the largest of our children so far, whoever waited for it.
    largest_child: u64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(memory: &'a Memory, group: &Group) -> Self {
        let is_watched = memory.is_watched();
        Self {
            memory,
            leader: group.leader.filter(|_| is_watched),
            control_group: group.control_group.clone(),
            next: Instant::now() + LOOK_INTERVAL,
            found: None,
            largest_child: memory::largest_child(),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.memory.limit().unwrap_or(u64::MAX)
    }

    /// Measures until the group exceeds its limit, and returns its memory.
    pub(super) async fn excess(&mut self) -> u64 {
        let Some(leader) = self.leader else {
            return std::future::pending().await;
        };
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + LOOK_INTERVAL;
            self.largest_child = memory::largest_child();
            let counted = self.control_group.as_ref().and_then(|it| it.memory());
            let bytes = counted.unwrap_or_else(|| memory::of_job(leader.as_raw()));
            self.memory.note(bytes);
            if bytes > self.limit() {
                self.found.get_or_insert((bytes, self.limit()));
                return bytes;
            }
        }
    }

    /// Counts a child that ended before it was measured if it was larger than all before it; one that failed for lack
    /// of memory counts with its limit.
    pub(super) fn ended(&mut self, status: Option<ExitStatus>) {
        let has_failed = status.is_some_and(|status| !status.success());
        let control_group = self.control_group.as_ref().filter(|_| has_failed);
        if let Some(limit) = self.memory.limit()
            && control_group.is_some_and(|it| it.ran_out_of_memory())
        {
            self.memory.note(limit);
            self.found.get_or_insert((limit, limit));
        }
        let largest = memory::largest_child();
        if largest > self.largest_child {
            self.memory.note(largest);
        }
    }
}
