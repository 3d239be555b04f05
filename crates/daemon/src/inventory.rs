//! Number of kept states that no server has: counted at the start, and whenever the journals have changed.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{
    contact::is_older,
    journal::{self, Journals},
    metrics::Metrics,
};

/// Interval at which the files' names and ages are checked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time after which no build is waiting any more that was queued before the server accepted a late state.
const LATE_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Names and ages of the entries' files.
type Versions = Vec<(PathBuf, Option<SystemTime>)>;

/// Kept states below a state directory.
pub(super) struct Inventory {
    journals: Journals,
    metrics: Arc<Metrics>,
    seen: Option<Versions>,
}

impl Inventory {
    /// Counts the kept states, and logs them if there are any.
    pub(super) async fn open(journals: Journals, metrics: Arc<Metrics>) -> Self {
        let mut inventory = Self {
            journals,
            metrics,
            seen: None,
        };
        inventory.look().await;
        let kept = inventory.metrics.snapshot().kept;
        if kept > 0 {
            warn!(
                kept,
                "this daemon keeps states that no server has; the next jobs of their workspaces use them, and \
                 `outpost recover list` shows them"
            );
        }
        inventory
    }

    /// Keeps the count up to date until this is dropped.
    pub(super) async fn follow(mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let (journals, seen) = (self.journals.clone(), self.seen.take());
        let counted = spawn_blocking(move || {
            let versions = journals.versions();
            let kept = (seen.as_ref() != Some(&versions)).then(|| count(&journals));
            (versions, kept)
        });
        let Ok((versions, kept)) = counted.await else {
            return;
        };
        self.seen = Some(versions);
        if let Some(kept) = kept {
            self.metrics.set_kept(kept);
        }
    }
}

/// Counts entries that wait for a person, or that cannot be read. Entries that the server accepted late are removed
/// once they are old.
fn count(journals: &Journals) -> usize {
    let found = journals.entries().unwrap_or_else(|error| {
        let error = &error as &dyn std::error::Error;
        warn!(error, "cannot list the journals");
        Vec::new()
    });
    let is_kept = |found: &journal::Found| match &found.entry {
        Ok(entry) => {
            if entry.taken_late_at.is_some_and(|at| is_older(at, LATE_FOR)) {
                info!(job_id = %entry.job, "removed a state that the server accepted late, a week ago");
                journal::erase(&found.path).ok();
            }
            entry.is_kept()
        }
        Err(_) => true,
    };
    found.iter().filter(|found| is_kept(found)).count()
}
