//! Service for provisioner daemons.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use outpost_base::job::{CompletedJob, JobId};
use outpost_wire::{
    messages::set_addresses,
    proto::{
        outpost::v1::{
            AcquireJobRequest, CompleteJobRequest, RegisterRequest, RegisterResponse,
            daemon_service_server::DaemonService,
        },
        provisioner::FileUpload,
        provisionerd::{self, AcquiredJob, Empty},
    },
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    calls::{CallError, Calls},
    gate::known,
    status::status,
};
use crate::{
    model::Daemon,
    plane::{Credential, Plane, Registration, RestoredState},
};

/// Service for provisioner daemons.
pub(super) struct Daemons {
    plane: Arc<Plane>,
}

impl Daemons {
    pub(super) fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DaemonService for Daemons {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let credential = known::<Credential>(request.extensions())?;
        let request = request.into_inner();
        let restored = restored(&request)?;
        let registration = Registration {
            restored,
            name: request.name,
            tags: request.tags,
            provisioners: request.provisioners,
            version: request.version,
            ..Registration::default()
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
        let daemon = known::<Daemon>(request.extensions())?;
        let (plane, mut asked) = (self.plane.clone(), request.into_inner());
        // The job is taken inside the stream: if the connection breaks first, the stream is dropped, and with it the
        // acquisition.
        let answer = async move {
            let cancelled = async move {
                // The client's half of the stream carries no messages, only its end.
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
        let calls = self.calls(&request)?;
        let updated = calls.update_job(request.into_inner()).await;
        Ok(Response::new(updated.map_err(refused)?))
    }

    async fn commit_quota(
        &self,
        request: Request<provisionerd::CommitQuotaRequest>,
    ) -> Result<Response<provisionerd::CommitQuotaResponse>, Status> {
        let calls = self.calls(&request)?;
        let quota = calls.commit_quota(request.into_inner()).await;
        Ok(Response::new(quota.map_err(refused)?))
    }

    async fn fail_job(
        &self,
        request: Request<provisionerd::FailedJob>,
    ) -> Result<Response<Empty>, Status> {
        let calls = self.calls(&request)?;
        let failed = calls.fail_job(request.into_inner()).await;
        Ok(Response::new(failed.map_err(refused)?))
    }

    async fn complete_job(
        &self,
        request: Request<CompleteJobRequest>,
    ) -> Result<Response<Empty>, Status> {
        let calls = self.calls(&request)?;
        let request = request.into_inner();
        let completed = async {
            let job = request.job.ok_or(CallError::Missing("job"))?;
            let mut job = CompletedJob::try_from(job)?;
            set_addresses(&mut job, request.addresses, request.stop_addresses)?;
            calls.complete_job(job).await
        };
        Ok(Response::new(completed.await.map_err(refused)?))
    }

    type DownloadFileStream = Answers<FileUpload>;

    async fn download_file(
        &self,
        request: Request<provisionerd::FileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        let calls = self.calls(&request)?;
        let pieces = calls.download_file(request.into_inner()).await;
        let pieces = pieces.map_err(refused)?.map(Ok);
        Ok(Response::new(stream::iter(pieces).boxed()))
    }
}

fn restored(request: &RegisterRequest) -> Result<Option<RestoredState>, Status> {
    if request.state_id.is_empty() {
        return Ok(None);
    }
    let held = request.held_jobs.iter().map(|id| id.parse());
    let held: Result<Vec<JobId>, _> = held.collect();
    Ok(Some(RestoredState {
        state_id: request.state_id.clone(),
        held: held
            .map_err(|_| Status::invalid_argument("held_jobs contains an id that is not a UUID"))?,
    }))
}

impl Daemons {
    fn calls<T>(&self, request: &Request<T>) -> Result<Calls, Status> {
        Ok(Calls {
            plane: self.plane.clone(),
            daemon: known(request.extensions())?,
        })
    }
}

fn refused(error: CallError) -> Status {
    match error {
        CallError::Request(error) => status(error),
        CallError::Field(_) | CallError::Missing(_) | CallError::Id { .. } => {
            Status::invalid_argument(error.to_string())
        }
    }
}
