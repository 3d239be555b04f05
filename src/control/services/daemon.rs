//! The service that daemons call.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller::{credential, daemon},
    status::status,
};
use crate::{
    control::plane::{Plane, Registration},
    job::{CompletedJob, FailedJob, JobId},
    proto::{
        outpost::v1::{
            AcquireJobRequest, CompleteJobRequest, RegisterRequest, RegisterResponse,
            daemon_service_server::DaemonService,
        },
        provisioner::FileUpload,
        provisionerd::{self, AcquiredJob, Empty},
    },
    provision::JobUpdate,
    transport::{
        messages::{FieldError, set_addresses},
        pieces,
    },
};

/// Serves daemons.
pub(super) struct Daemons {
    plane: Arc<Plane>,
}

impl Daemons {
    pub(super) fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn bad_field(error: FieldError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn job_id(text: &str) -> Result<JobId, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("parse job id: {error}")))
}

#[tonic::async_trait]
impl DaemonService for Daemons {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let credential = credential(&self.plane, request.metadata()).await?;
        let request = request.into_inner();
        let registration = Registration {
            name: request.name,
            tags: request.tags,
            provisioners: request.provisioners,
            version: request.version,
        };
        let daemon = self.plane.register(&credential, registration).await;
        let daemon = daemon.map_err(status)?;
        let interval = self.plane.limits().update_interval.as_millis();
        Ok(Response::new(RegisterResponse {
            daemon_id: daemon.id.to_string(),
            update_interval_ms: i64::try_from(interval).unwrap_or(i64::MAX),
        }))
    }

    type AcquireJobStream = Answers<AcquiredJob>;

    async fn acquire_job(
        &self,
        request: Request<Streaming<AcquireJobRequest>>,
    ) -> Result<Response<Self::AcquireJobStream>, Status> {
        let daemon = daemon(&self.plane, request.metadata()).await?;
        let (plane, mut asked) = (self.plane.clone(), request.into_inner());
        // The job is taken inside the stream: if the connection breaks first, the stream is dropped, and with it
        // whatever was taken.
        let answer = async move {
            let cancelled = async move {
                // The client's half says nothing but its end.
                while let Ok(Some(_)) = asked.message().await {}
            };
            let job = plane.acquire(&daemon, cancelled).await.map_err(status)?;
            Ok::<_, Status>(job.map(AcquiredJob::from))
        };
        let answers = stream::once(answer).try_filter_map(|job| async move { Ok(job) });
        Ok(Response::new(answers.boxed()))
    }

    async fn update_job(
        &self,
        request: Request<provisionerd::UpdateJobRequest>,
    ) -> Result<Response<provisionerd::UpdateJobResponse>, Status> {
        let daemon = daemon(&self.plane, request.metadata()).await?;
        let update = JobUpdate::try_from(request.into_inner()).map_err(bad_field)?;
        let updated = self
            .plane
            .update_job(&daemon, update)
            .await
            .map_err(status)?;
        Ok(Response::new(updated.into()))
    }

    async fn commit_quota(
        &self,
        request: Request<provisionerd::CommitQuotaRequest>,
    ) -> Result<Response<provisionerd::CommitQuotaResponse>, Status> {
        let daemon = daemon(&self.plane, request.metadata()).await?;
        let request = request.into_inner();
        let job = job_id(&request.job_id)?;
        let quota = self
            .plane
            .commit_quota(&daemon, job, request.daily_cost)
            .await;
        let quota = quota.map_err(status)?;
        Ok(Response::new(provisionerd::CommitQuotaResponse {
            ok: quota.ok,
            credits_consumed: quota.consumed,
            budget: quota.budget,
        }))
    }

    async fn fail_job(
        &self,
        request: Request<provisionerd::FailedJob>,
    ) -> Result<Response<Empty>, Status> {
        let daemon = daemon(&self.plane, request.metadata()).await?;
        let failed = FailedJob::try_from(request.into_inner()).map_err(bad_field)?;
        self.plane.fail_job(&daemon, failed).await.map_err(status)?;
        Ok(Response::new(Empty {}))
    }

    async fn complete_job(
        &self,
        request: Request<CompleteJobRequest>,
    ) -> Result<Response<Empty>, Status> {
        let daemon = daemon(&self.plane, request.metadata()).await?;
        let request = request.into_inner();
        let job = request
            .job
            .ok_or_else(|| Status::invalid_argument("field `job` of the message is missing"))?;
        let mut job = CompletedJob::try_from(job).map_err(bad_field)?;
        set_addresses(&mut job, request.addresses, request.stop_addresses).map_err(bad_field)?;
        self.plane
            .complete_job(&daemon, job)
            .await
            .map_err(status)?;
        Ok(Response::new(Empty {}))
    }

    type DownloadFileStream = Answers<FileUpload>;

    async fn download_file(
        &self,
        request: Request<provisionerd::FileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        let daemon = daemon(&self.plane, request.metadata()).await?;
        let id = request.into_inner().file_id;
        let id = id
            .parse()
            .map_err(|error| Status::invalid_argument(format!("parse file id: {error}")))?;
        let content = self
            .plane
            .download_modules(&daemon, id)
            .await
            .map_err(status)?;
        let messages: Vec<_> = pieces(&content).map(Ok).collect();
        Ok(Response::new(stream::iter(messages).boxed()))
    }
}
