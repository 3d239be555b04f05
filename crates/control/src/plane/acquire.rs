//! Acquiring a job: waiting for one, and taking it.

use std::{future::Future, sync::Arc};

use outpost_base::job::{Job, JobId};
use tokio::sync::oneshot;
use tracing::{Instrument as _, debug_span, info, warn};

use super::{Plane, RequestError, daemons::NOT_REGISTERED};
use crate::{
    model::{Daemon, EndedBy, JobRecord, JobStatus},
    queue,
    store::{Effect, End, Ended},
};

impl Plane {
    /// Waits until there is a job for `daemon` and gives it to that daemon alone; `None` once `cancelled`.
    ///
    /// A caller that drops this half-way loses no job: one that was taken for it then fails at once.
    ///
    /// # Errors
    /// [`RequestError::Unauthenticated`] if the daemon's key is deleted meanwhile, [`RequestError::Stopping`].
    pub async fn acquire(
        self: &Arc<Self>,
        daemon: &Daemon,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Option<Job>, RequestError> {
        tokio::pin!(cancelled);
        let mut alive = tokio::time::interval(self.limits.heartbeat);
        let poll = self.limits.poll;
        let mut poll = tokio::time::interval_at(tokio::time::Instant::now() + poll, poll);
        loop {
            let posted = self.posted.notified();
            tokio::pin!(posted);
            // From here on no notification is missed, even during the query below.
            posted.as_mut().enable();
            if self.stop.is_draining() {
                return Err(RequestError::Stopping);
            }
            if let Some(job) = self.take_guarded(daemon).await? {
                return Ok(Some(job));
            }
            loop {
                tokio::select! {
                    biased;
                    () = &mut cancelled => return Ok(None),
                    () = self.stop.draining() => return Err(RequestError::Stopping),
                    () = &mut posted => break,
                    _ = poll.tick() => break,
                    _ = alive.tick() => self.touch(daemon.id).await?,
                }
            }
        }
    }

    /// Takes a job in a task of its own: if the call were dropped half-way, the job would belong to a daemon that
    /// never got it.
    async fn take_guarded(self: &Arc<Self>, daemon: &Daemon) -> Result<Option<Job>, RequestError> {
        let (sender, receiver) = oneshot::channel();
        let (plane, daemon) = (self.clone(), daemon.clone());
        let span = debug_span!("acquire", daemon = %daemon.id);
        let taking = async move {
            let taken = plane.take(&daemon).await;
            if let Err(Ok(Some(job))) = sender.send(taken) {
                plane.undelivered(job.id).await;
            }
        };
        // Detached: a few transactions, which must not be dropped half-way.
        tokio::spawn(taking.instrument(span));
        receiver.await.unwrap_or(Err(RequestError::Stopping))
    }

    async fn take(&self, daemon: &Daemon) -> Result<Option<Job>, RequestError> {
        // A daemon whose key was deleted is gone.
        let registered = self.store.daemon(daemon.id).await?;
        if registered.is_none_or(|it| it.holder != daemon.holder) {
            return Err(NOT_REGISTERED);
        }
        // Asking for a job is a sign of life as well.
        self.presence.hear(daemon.id, self.uptime());
        loop {
            let waiting = self.store.waiting().await?;
            let Some(next) = queue::pick(&waiting, daemon) else {
                return Ok(None);
            };
            if !self
                .store
                .start_job(next.id, daemon, self.now(), &self.uptime())
                .await?
            {
                continue; // Somebody else was faster.
            }
            self.job_moved();
            let Some(record) = self.store.job(next.id).await? else {
                continue;
            };
            match self.hand_out(&record).await {
                Ok(job) => {
                    info!(job_id = %job.id, daemon = daemon.name, "job handed out");
                    return Ok(Some(job));
                }
                Err(error) => self.invalidate(&record, &error).await?,
            }
        }
    }

    /// Fails a job that cannot be assembled.
    async fn invalidate(&self, job: &JobRecord, error: &RequestError) -> Result<(), RequestError> {
        warn!(job_id = %job.id, %error, "cannot hand out a job");
        let error = format!("request job was invalidated: {error}");
        self.end(job.id, error).await
    }

    /// Fails a job whose daemon went away during the hand-over.
    pub async fn undelivered(&self, id: JobId) {
        let error = "connection to provisioner daemon broken".to_owned();
        if let Err(error) = self.end(id, error).await {
            warn!(job_id = %id, %error, "cannot end a job that reached no daemon; leaving it to the reaper");
        }
    }

    /// Fails a job that is too large to send to a daemon: it has `size` bytes, and at most `limit` fit.
    pub(crate) async fn too_large(&self, id: JobId, size: usize, limit: usize) {
        let error = format!("request job was invalidated: payload was too big: {size} > {limit}");
        if let Err(error) = self.end(id, error).await {
            warn!(job_id = %id, %error, "cannot end a job that is too large; leaving it to the reaper");
        }
    }

    pub(super) async fn end(&self, job: JobId, error: String) -> Result<(), RequestError> {
        let end = End {
            job,
            by: EndedBy::Server,
            error,
            error_code: None,
            lines: Vec::new(),
            effect: Effect::None,
            silent_since: None,
            now: self.now(),
        };
        if self.store.end_job(end).await? == Ended::Now {
            self.ended_jobs.count(JobStatus::Failed);
        }
        self.job_moved();
        Ok(())
    }
}
