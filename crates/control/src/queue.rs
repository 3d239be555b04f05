//! Queue: which daemon takes which job, and when a job counts as lost. Pure: the time is an argument, rows come from
//! the store.
//!
//! A job is handed out at most once. Each has tags; a daemon takes it if its own tags contain them, except that
//! jobs without tags go to daemons without tags only.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

mod explain;
mod tags;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use outpost_base::job::JobId;

pub use self::{
    explain::{Reason, Verdict, explain},
    tags::{BadTag, Tags},
};
use crate::model::{Daemon, JobRecord, OrganizationId};

/// A waiting job, as far as the queue needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Unique id of the job.
    pub id: JobId,
    /// Organization whose daemons may take the job.
    pub organization_id: OrganizationId,
    /// Type of provisioner that the job needs.
    pub provisioner: String,
    /// Tags that a daemon must have.
    pub tags: Tags,
    /// Set if the job fills a pool of prebuilt workspaces.
    pub prebuild: bool,
    /// Time when the job was queued.
    pub created_at: Timestamp,
}

impl From<&JobRecord> for Waiting {
    fn from(job: &JobRecord) -> Self {
        Self {
            id: job.id,
            organization_id: job.organization_id,
            provisioner: job.provisioner.clone(),
            tags: job.tags.clone(),
            prebuild: job.prebuild,
            created_at: job.created_at,
        }
    }
}

impl Waiting {
    /// Key that orders the queue: people's jobs before those that fill pools, then the oldest.
    ///
    /// The id comes last, so that jobs of one instant have an order at all.
    pub fn rank(&self) -> (bool, Timestamp, JobId) {
        (self.prebuild, self.created_at, self.id)
    }

    /// Returns whether `daemon` may run the job.
    pub(crate) fn suits(&self, daemon: &Daemon) -> bool {
        self.organization_id == daemon.organization_id
            && daemon.provisioners.contains(&self.provisioner)
            && daemon.tags.satisfy(&self.tags)
    }
}

/// Returns the job that `daemon` should take next, if there is one.
pub fn pick<'a>(waiting: &'a [Waiting], daemon: &Daemon) -> Option<&'a Waiting> {
    waiting
        .iter()
        .filter(|job| job.suits(daemon))
        .min_by_key(|job| job.rank())
}

/// Position of `id` in `waiting`, from 1, or 0 if it is not there.
pub fn position(waiting: &[Waiting], id: JobId) -> usize {
    let Some(job) = waiting.iter().find(|job| job.id == id) else {
        return 0;
    };
    waiting
        .iter()
        .filter(|other| other.rank() <= job.rank())
        .count()
}

/// Reasons why a job counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Silence of its daemon for longer than this.
    Hung(Duration),
    /// Waiting for a daemon for longer than this.
    Unclaimed(Duration),
}

impl Loss {
    /// Error that the job ends with.
    pub fn error(self) -> &'static str {
        match self {
            Self::Hung(_) => {
                "Build has been detected as hung and has been terminated by the reaper."
            }
            Self::Unclaimed(_) => {
                "Build has been pending for too long and has been terminated by the reaper."
            }
        }
    }

    /// Lines for the end of the job's log.
    pub fn log(self) -> [String; 3] {
        let (what, limit) = match self {
            Self::Hung(limit) => ("detected as hung", limit),
            Self::Unclaimed(limit) => ("pending", limit),
        };
        [
            "====================".to_owned(),
            format!(
                "Build has been {what} for {} and will be terminated.",
                humantime::format_duration(limit)
            ),
            "====================".to_owned(),
        ]
    }
}

/// Returns the loss of `job` after so much silence: started and silent for longer than `lease`, or waiting for longer
/// than `pending`.
pub(crate) fn loss(
    job: &JobRecord,
    lease: Duration,
    pending: Duration,
    silence: Duration,
) -> Option<Loss> {
    match (job.completed_at, job.started_at) {
        (None, Some(_)) if silence > lease => Some(Loss::Hung(lease)),
        (None, None) if silence > pending => Some(Loss::Unclaimed(pending)),
        (Some(_), _) | (None, _) => None,
    }
}
