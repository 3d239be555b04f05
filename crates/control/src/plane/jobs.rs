//! Jobs as people see them: lists, explanations, cancellation, logs.

use std::sync::Arc;

use futures::{Stream, stream};
use outpost_base::job::JobId;

use super::{Caller, Plane, RequestError, SHORTEST_ID, not_found, several};
use crate::{
    model::{JobRecord, JobStatus, StoredLine},
    queue::{self, Verdict, Waiting},
    store::{Cancelled, JobFilter},
};

/// Number of lines that are read at a time.
const LINES: usize = 1000;

/// A job, with the reasons why it waits if it does.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Record of the job.
    pub job: JobRecord,
    /// Position among the waiting jobs, from 1; 0 if it does not wait.
    pub position: usize,
    /// Number of waiting jobs.
    pub waiting: usize,
    /// Verdict of each daemon on the job; empty unless it waits.
    pub verdicts: Vec<Verdict>,
}

impl Plane {
    /// Returns jobs that the caller may see, newest first.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn jobs(
        &self,
        caller: &Caller,
        mut filter: JobFilter,
    ) -> Result<Vec<JobRecord>, RequestError> {
        if !caller.user.admin {
            filter.initiator = Some(caller.user.id);
        }
        Ok(self.store.jobs(&filter).await?)
    }

    /// Returns a job that the caller may see.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if the caller may not see it.
    pub async fn job(&self, caller: &Caller, id: JobId) -> Result<JobRecord, RequestError> {
        let job = self.store.job(id).await?;
        job.filter(|job| caller.may_act_for(job.initiator_id))
            .ok_or_else(|| not_found("job", id.to_string()))
    }

    /// Finds the id of a job by a prefix of it.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if the caller may not see it; [`RequestError::Invalid`] if several begin so.
    pub async fn job_id(&self, caller: &Caller, named: &str) -> Result<JobId, RequestError> {
        if let Ok(id) = named.parse() {
            return Ok(id);
        }
        if named.len() < SHORTEST_ID {
            return Err(not_found("job", named));
        }
        let initiator = (!caller.user.admin).then_some(caller.user.id);
        let prefix = named.to_ascii_lowercase();
        let found = self.store.jobs_beginning(&prefix, initiator).await?;
        match *found {
            [] => Err(not_found("job", named)),
            [id] => Ok(id),
            [..] => Err(several("job", named)),
        }
    }

    /// Returns a job, with each daemon's verdict while it waits.
    ///
    /// # Errors
    /// As [`Self::job`].
    pub(crate) async fn explain_job(
        &self,
        caller: &Caller,
        id: JobId,
    ) -> Result<Explained, RequestError> {
        let job = self.job(caller, id).await?;
        let waiting = self.store.waiting().await?;
        let verdicts = match job.status() {
            JobStatus::Queued => self.verdicts(&job).await?,
            JobStatus::Running
            | JobStatus::Cancelling
            | JobStatus::Succeeded
            | JobStatus::Failed
            | JobStatus::Cancelled => Vec::new(),
        };
        Ok(Explained {
            position: queue::position(&waiting, id),
            waiting: waiting.len(),
            verdicts,
            job,
        })
    }

    /// Returns each daemon's verdict on a waiting job.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn verdicts(&self, job: &JobRecord) -> Result<Vec<Verdict>, RequestError> {
        let open = self.store.open_jobs().await?;
        let busy = |daemon| open.iter().any(|job| job.worker == Some(daemon));
        Ok(queue::explain(
            &Waiting::from(job),
            &self.store.daemons().await?,
            busy,
            self.limits.offline,
            self.now(),
        ))
    }

    /// Asks a job to end, or ends it if no daemon has it.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] if it was cancelled or has ended.
    pub async fn cancel_job(&self, caller: &Caller, id: JobId) -> Result<JobRecord, RequestError> {
        self.job(caller, id).await?;
        let cancelled = self.store.cancel_job(id, self.now()).await?;
        self.job_moved();
        let job = self.job(caller, id).await?;
        match cancelled {
            Cancelled::Ended | Cancelled::Asked => Ok(job),
            Cancelled::Before => Err(RequestError::Conflict(format!(
                "the job cannot be cancelled: it is {}",
                job.status()
            ))),
        }
    }

    /// Lines of a job's log after `after`, in batches. With `follow` it waits for more until the job has ended.
    ///
    /// # Errors
    /// As [`Self::job`]; the stream ends with an error if the store fails or the server stops.
    pub async fn logs(
        self: &Arc<Self>,
        caller: &Caller,
        id: JobId,
        after: i64,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Vec<StoredLine>, RequestError>> + use<>, RequestError>
    {
        self.job(caller, id).await?;
        let reader = Reader {
            changes: self.changed.subscribe(),
            plane: self.clone(),
            job: id,
            after,
            follow,
        };
        Ok(stream::try_unfold(reader, |mut reader| async move {
            let batch = reader.next().await?;
            Ok(batch.map(|batch| (batch, reader)))
        }))
    }
}

/// A reader of a job's log.
struct Reader {
    plane: Arc<Plane>,
    changes: tokio::sync::watch::Receiver<()>,
    job: JobId,
    after: i64,
    follow: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Vec<StoredLine>>, RequestError> {
        loop {
            self.changes.mark_unchanged();
            // The end is checked before reading the lines, so that those before the end are always read.
            let job = self.plane.store.job(self.job).await?;
            let ended = job.is_none_or(|job| job.completed_at.is_some());
            let lines = self
                .plane
                .store
                .log_lines(self.job, self.after, LINES)
                .await?;
            if let Some(last) = lines.last() {
                self.after = last.id;
                return Ok(Some(lines));
            }
            if ended || !self.follow {
                return Ok(None);
            }
            self.plane.wait_for(&mut self.changes).await?;
        }
    }
}
