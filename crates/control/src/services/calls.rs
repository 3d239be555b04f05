//! Calls of daemons, whichever wire they use: messages in, messages out, the control plane in between.

use std::sync::Arc;

use bytes::Bytes;
use outpost_base::job::{CompletedJob, FailedJob, JobId};
use outpost_provision::JobUpdate;
use outpost_transport::pieces;
use outpost_wire::{
    messages::FieldError,
    proto::{
        provisioner::FileUpload,
        provisionerd::{
            self, CommitQuotaRequest, CommitQuotaResponse, FileRequest, UpdateJobRequest,
            UpdateJobResponse,
        },
    },
};

use crate::{
    model::Daemon,
    plane::{Plane, RequestError},
};

/// A daemon, with the calls that it may make.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) plane: Arc<Plane>,
    pub(super) daemon: Daemon,
}

/// Reasons why a call fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// A message with an invalid field.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A message without a required part.
    #[error("field `{0}` of the message is missing")]
    Missing(&'static str),
    /// An id that is not a UUID.
    #[error("parse {what} id: {source}")]
    Id {
        /// Kind of object that the id should name.
        what: &'static str,
        /// Error of the parser.
        source: uuid::Error,
    },
    /// A refusal of the control plane.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Calls {
    pub(super) async fn update_job(
        &self,
        request: UpdateJobRequest,
    ) -> Result<UpdateJobResponse, CallError> {
        let update = JobUpdate::try_from(request)?;
        Ok(self.plane.update_job(&self.daemon, update).await?.into())
    }

    pub(super) async fn commit_quota(
        &self,
        request: CommitQuotaRequest,
    ) -> Result<CommitQuotaResponse, CallError> {
        let job: JobId = id("job", &request.job_id)?;
        let quota = self
            .plane
            .commit_quota(&self.daemon, job, request.daily_cost)
            .await?;
        Ok(CommitQuotaResponse {
            ok: quota.ok,
            credits_consumed: quota.consumed,
            budget: quota.budget,
        })
    }

    pub(super) async fn fail_job(
        &self,
        request: provisionerd::FailedJob,
    ) -> Result<provisionerd::Empty, CallError> {
        let failed = FailedJob::try_from(request)?;
        self.plane.fail_job(&self.daemon, failed).await?;
        Ok(provisionerd::Empty {})
    }

    pub(super) async fn complete_job(
        &self,
        completed: CompletedJob,
    ) -> Result<provisionerd::Empty, CallError> {
        self.plane.complete_job(&self.daemon, completed).await?;
        Ok(provisionerd::Empty {})
    }

    /// Returns the requested archive of modules, in pieces.
    pub(super) async fn download_file(
        &self,
        request: FileRequest,
    ) -> Result<impl Iterator<Item = FileUpload> + Send + use<>, CallError> {
        let file = id("file", &request.file_id)?;
        let content: Bytes = self.plane.download_modules(&self.daemon, file).await?;
        Ok(pieces(&content))
    }
}

fn id<T: std::str::FromStr<Err = uuid::Error>>(
    what: &'static str,
    text: &str,
) -> Result<T, CallError> {
    text.parse()
        .map_err(|source| CallError::Id { what, source })
}
