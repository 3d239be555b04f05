//! When daemons were heard of last, by the clock that nobody sets. What the store has is the time of day, for people.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outpost_process::uptime::Uptime;

use crate::model::DaemonId;

/// Daemons that are remembered. Those of which nothing was heard for long are forgotten before.
const MAX_DAEMONS: usize = 1 << 16;

/// Daemons that were heard of since this process began.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<HashMap<DaemonId, Uptime>>);

impl Presence {
    fn lock(&self) -> MutexGuard<'_, HashMap<DaemonId, Uptime>> {
        // An entry is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a sign of life.
    pub(super) fn hear(&self, id: DaemonId, now: Uptime) {
        let mut heard = self.lock();
        if heard.len() < MAX_DAEMONS || heard.contains_key(&id) {
            heard.insert(id, now);
        }
    }

    /// How long a daemon has been silent; `None` if this process never heard of it.
    pub(super) fn silence(&self, id: DaemonId, now: &Uptime) -> Option<Duration> {
        now.since(self.lock().get(&id)?)
    }

    /// Those that were heard of within `limit`; all others are forgotten.
    pub(super) fn keep_within(&self, limit: Duration, now: &Uptime) -> Vec<DaemonId> {
        let mut heard = self.lock();
        heard.retain(|_, at| now.since(at).is_some_and(|silence| silence <= limit));
        heard.keys().copied().collect()
    }
}
