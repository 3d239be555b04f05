//! Source of jobs for a daemon in the server's own process.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::{
    job::{CompletedJob, FailedJob, Job, JobId},
    stop::Stop,
};
use outpost_provision::{Identity, JobSource, JobUpdate, JobUpdated, Quota, SourceError};
use uuid::Uuid;

use super::{
    model::Daemon,
    plane::{Plane, RequestError, RestoredState},
};

/// Source that hands out jobs to a daemon in this process, as the gRPC service does over the wire.
#[derive(Clone)]
pub struct LocalSource {
    plane: Arc<Plane>,
    daemon: Daemon,
    state_id: OnceLock<String>,
}

impl LocalSource {
    /// Serves `daemon`, which is registered.
    pub(super) fn new(plane: Arc<Plane>, daemon: Daemon) -> Self {
        let state_id = OnceLock::new();
        Self {
            plane,
            daemon,
            state_id,
        }
    }
}

impl From<RequestError> for SourceError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Gone(reason) => Self::Gone(reason),
            RequestError::Unauthenticated(reason) => Self::Unauthorized(reason.to_owned()),
            RequestError::Forbidden(reason) => Self::Unauthorized(reason),
            RequestError::Suspended => Self::Unauthorized(error.to_string()),
            // The disk may have space again, or the database be available again: the daemon must repeat what was not
            // stored.
            RequestError::Stopping | RequestError::Busy(_) | RequestError::Store(_) => {
                Self::Lost(error.into())
            }
            RequestError::NotFound { .. }
            | RequestError::Invalid(_)
            | RequestError::Parameters(_)
            | RequestError::Conflict(_)
            | RequestError::Sealed { .. } => Self::Refused(error.to_string()),
        }
    }
}

#[async_trait]
impl JobSource for LocalSource {
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError> {
        let daemon = Daemon {
            state_id: self.state_id.get().cloned().unwrap_or_default(),
            ..self.daemon.clone()
        };
        Ok(self.plane.acquire(&daemon, stop.draining()).await?)
    }

    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        Ok(self.plane.update_job(&self.daemon, update).await?)
    }

    async fn commit_quota(&self, job: JobId, daily_cost: i32) -> Result<Quota, SourceError> {
        Ok(self
            .plane
            .commit_quota(&self.daemon, job, daily_cost)
            .await?)
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        Ok(self.plane.fail_job(&self.daemon, job).await?)
    }

    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError> {
        Ok(self.plane.complete_job(&self.daemon, job).await?)
    }

    async fn download_modules(&self, file: Uuid) -> Result<Bytes, SourceError> {
        Ok(self.plane.download_modules(&self.daemon, file).await?)
    }

    async fn come_back(&self, state_id: &str, held: Vec<JobId>) -> Result<(), SourceError> {
        let state_id = state_id.to_owned();
        self.state_id.set(state_id.clone()).ok();
        let restored = RestoredState { state_id, held };
        Ok(self.plane.end_forgotten(&self.daemon, &restored).await?)
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            server: "the same process".to_owned(),
            name: self.daemon.name.clone(),
        })
    }
}
