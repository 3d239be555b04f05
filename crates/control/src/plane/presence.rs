//! Times of daemons' last signs of life, by the machine's uptime, which nobody can set. The store has the time of
//! day, for people.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outpost_process::uptime::Uptime;

use crate::model::DaemonId;

/// Number of daemons that are remembered. Those that have been silent for long are forgotten before that.
const MAX_DAEMONS: usize = 1 << 16;

/// Daemons that this process has heard from.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<HashMap<DaemonId, Uptime>>);

impl Presence {
    fn lock(&self) -> MutexGuard<'_, HashMap<DaemonId, Uptime>> {
        // Entries are consistent even after a panic, so a poisoned lock can be used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a sign of life.
    pub(super) fn hear(&self, id: DaemonId, now: Uptime) {
        let mut heard = self.lock();
        if heard.len() < MAX_DAEMONS || heard.contains_key(&id) {
            heard.insert(id, now);
        }
    }

    /// Returns how long a daemon has been silent; `None` if this process never heard from it.
    pub(super) fn silence(&self, id: DaemonId, now: &Uptime) -> Option<Duration> {
        now.since(self.lock().get(&id)?)
    }

    /// Number of daemons that were heard from within `limit`.
    pub(super) fn count_within(&self, limit: Duration, now: &Uptime) -> usize {
        let is_recent = |at: &&Uptime| now.since(at).is_some_and(|silence| silence < limit);
        self.lock().values().filter(is_recent).count()
    }

    /// Returns the daemons that were heard from within `limit`; all others are forgotten.
    pub(super) fn keep_within(&self, limit: Duration, now: &Uptime) -> Vec<DaemonId> {
        let mut heard = self.lock();
        heard.retain(|_, at| now.since(at).is_some_and(|silence| silence <= limit));
        heard.keys().copied().collect()
    }
}
