//! Reaper: ends jobs that are lost, and forgets daemons that are gone.

use std::{sync::Arc, time::Duration};

use outpost_base::job::{JobId, LogLevel, LogLine, LogSource};
use tracing::{info, warn};

use super::{Plane, RequestError};
use crate::{
    config::Limits,
    model::{EndedBy, JobRecord, JobStatus},
    queue::{self, Loss},
    store::{Effect, End, Ended},
};

/// Time for which the relay did not read clients between two looks that is worth a line in the log.
const SLOWED: Duration = Duration::from_secs(1);

impl Plane {
    /// Looks for lost jobs at intervals until the server stops.
    pub(crate) async fn run_reaper(self: Arc<Self>) {
        if let Err(error) = self.find_unused_modules().await {
            warn!(%error, "cannot look for unused modules");
        }
        if let Err(error) = self.count_anew().await {
            warn!(%error, "cannot record when jobs were last heard from");
        }
        // A short lease needs checks at least five times within it, or lost jobs would be noticed late.
        let shortest = self.limits.lease.min(self.limits.pending) / 5;
        let mut every = tokio::time::interval(self.limits.reap_every.min(shortest));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut slowed = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = self.stop.draining() => return,
                _ = every.tick() => {}
            }
            self.revoke_expired();
            self.refresh_psks();
            let before = std::mem::replace(&mut slowed, self.relay().counts().slowed);
            if slowed - before > SLOWED {
                let seconds = (slowed - before).as_secs();
                warn!(
                    seconds,
                    "the relay throttled clients that sent more than their rate"
                );
            }
            if let Err(error) = self.reap().await {
                warn!(%error, "cannot look for lost jobs");
            }
        }
    }

    /// Ends lost jobs, at most as many as the limit says, and returns their ids.
    ///
    /// A lost build keeps the state from before the build.
    ///
    /// # Errors
    /// [`RequestError::Store`]
    pub(crate) async fn reap(&self) -> Result<Vec<JobId>, RequestError> {
        let open = self.store.open_jobs().await?;
        let lost = open.into_iter().filter_map(|job| {
            let Limits { lease, pending, .. } = self.limits;
            let loss = queue::loss(&job, lease, pending, self.silence(&job))?;
            Some((job, loss))
        });
        let mut ended = Vec::new();
        for (job, loss) in lost.take(self.limits.reap_at_most) {
            if self.reap_one(&job, loss).await? {
                ended.push(job.id);
            }
        }
        self.forget_daemons().await?;
        self.remove_unused_modules().await?;
        Ok(ended)
    }

    /// Forgets daemons that have not been seen for long. A clock that was set forward makes all of them look silent:
    /// so this waits until the process has run long enough to have heard from those that are present.
    async fn forget_daemons(&self) -> Result<(), RequestError> {
        let now = self.uptime();
        let runs = now.since(&self.started_up).unwrap_or_default();
        let Ok(unseen) = self.now().checked_sub(self.limits.forget_daemons) else {
            return Ok(());
        };
        if runs < self.limits.offline {
            return Ok(());
        }
        let present = self.presence.keep_within(self.limits.forget_daemons, &now);
        let forgotten = self.store.forget_daemons(unseen, &present).await?;
        if forgotten > 0 {
            info!(
                forgotten,
                "removed daemons that have been offline for a long time"
            );
        }
        Ok(())
    }

    /// Removes archives that were uploaded for an import which did not end well.
    async fn remove_unused_modules(&self) -> Result<(), RequestError> {
        let mut uploads = self.uploads.lock().await;
        for sha256 in uploads.expired(self.now()) {
            if self.store.remove_unused_modules(&sha256).await? {
                info!(sha256, "removed modules that no import has named");
            }
        }
        Ok(())
    }

    /// Counts the archives that no template has as uploaded now: the server ended before they were removed.
    async fn find_unused_modules(&self) -> Result<(), RequestError> {
        let unused = self.store.unused_modules().await?;
        let mut uploads = self.uploads.lock().await;
        for (sha256, bytes) in unused {
            uploads.note(&sha256, bytes, self.now());
        }
        Ok(())
    }

    /// Gives jobs one lease from this server's first start after a reboot, however often it is restarted.
    pub(super) async fn count_anew(&self) -> Result<(), RequestError> {
        Ok(self.store.count_anew(&self.started_up).await?)
    }

    async fn reap_one(&self, job: &JobRecord, loss: Loss) -> Result<bool, RequestError> {
        let (now, stage) = (self.now(), self.store.last_stage(job.id).await?);
        let line = |output| LogLine {
            source: LogSource::ProvisionerDaemon,
            level: LogLevel::Error,
            created_at: now,
            stage: stage.clone(),
            output,
        };
        let end = End {
            job: job.id,
            by: EndedBy::Reaper,
            error: loss.error().to_owned(),
            error_code: None,
            lines: loss.log().map(line).into(),
            effect: Effect::None,
            silent_since: Some(job.heard.clone()),
            now,
        };
        let ended = self.store.end_job(end).await? == Ended::Now;
        if ended {
            warn!(job_id = %job.id, worker = job.worker_name, ?loss, "ended a lost job");
            self.ended_jobs.count(JobStatus::Failed);
            self.job_moved();
        }
        Ok(ended)
    }
}
