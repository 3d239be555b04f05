//! Source of jobs from our own control plane, over gRPC.
//!
//! A connection that broke is re-established with the next call, and the daemon registers again under the same name.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex as StdMutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use outpost_base::{
    error_chain::error_chain,
    job::{CompletedJob, FailedJob, Job, JobId},
    rules,
    stop::Stop,
};
use outpost_net::{
    back_off::{BackOff, Complaints},
    tls::{self, Trust},
};
use outpost_provision::{Identity, JobSource, JobUpdate, JobUpdated, Quota, SourceError};
use outpost_wire::messages::{self, FieldError};
use outpost_wire::proto::{
    outpost::v1::{
        AcquireJobRequest, CompleteJobRequest, RegisterRequest,
        daemon_service_client::DaemonServiceClient,
    },
    provisioner::DataUploadType,
    provisionerd,
};
use tokio::sync::{Mutex, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    metadata::{MetadataMap, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tracing::{Instrument as _, debug, info, warn};
use url::Url;
use uuid::Uuid;

use super::{auth::CredentialSource, file::FileBuilder};

/// Longest message in either direction, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Longest time for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a call; waiting for a job has no limit.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a file.
const FILE_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval of pings on a connection, and the longest time for an answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Control plane to connect to, and the daemon's identity there.
#[derive(Clone, Debug)]
pub struct Target {
    /// URL of the server.
    pub url: Url,
    /// Name of the daemon, unique in its organization.
    pub name: String,
    /// Tags of the daemon; none with a provisioner key.
    pub tags: BTreeMap<String, String>,
    /// Authorities whose certificates are trusted.
    pub trust: Trust,
}

/// Source of jobs from one control plane, as one daemon.
pub struct GrpcSource {
    target: Target,
    credentials: Arc<dyn CredentialSource>,
    link: Mutex<Option<Arc<Link>>>,
    connecting: Mutex<(BackOff, Complaints)>,
    connected: watch::Sender<bool>,
    was_accepted: AtomicBool,
    /// State directory of the daemon, and the jobs of an earlier process until the server knows them.
    left: StdMutex<(String, Option<Vec<JobId>>)>,
}

/// Connection on which the daemon has registered.
struct Link {
    client: DaemonServiceClient<Channel>,
    metadata: MetadataMap,
}

impl Link {
    /// Returns a client. They are cheap to clone; all of them share the connection.
    fn client(&self) -> DaemonServiceClient<Channel> {
        self.client.clone()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    fn bounded<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(timeout);
        request
    }
}

impl GrpcSource {
    /// Creates a source that has not connected yet.
    pub fn new(target: Target, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            target,
            credentials,
            link: Mutex::new(None),
            connecting: Mutex::default(),
            connected: watch::Sender::new(false),
            was_accepted: AtomicBool::new(false),
            left: StdMutex::default(),
        }
    }

    async fn link(&self) -> Result<Arc<Link>, SourceError> {
        if let Some(link) = self.link.lock().await.clone() {
            return Ok(link);
        }
        let mut connecting = self.connecting.lock().await;
        let (back_off, complaints) = &mut *connecting;
        if let Some(link) = self.link.lock().await.clone() {
            return Ok(link); // Somebody else connected while we waited.
        }
        back_off.wait().await;
        let link = self.connect().await.inspect_err(|error| {
            let (error, url) = (error_chain(error), &self.target.url);
            match complaints.should_say(&error) {
                Some(tries) => warn!(error, %url, tries, "failed to connect to the control plane"),
                None => debug!(error, %url, "failed to connect to the control plane"),
            }
        })?;
        let link = Arc::new(link);
        *complaints = Complaints::default();
        info!(url = %self.target.url, name = self.target.name, "registered at the control plane");
        *self.link.lock().await = Some(Arc::clone(&link));
        self.connected.send_replace(true);
        self.was_accepted.store(true, Ordering::Relaxed);
        Ok(link)
    }

    async fn connect(&self) -> Result<Link, SourceError> {
        let invalid = |error: tonic::transport::Error| SourceError::Invalid(error_chain(&error));
        let mut endpoint = Endpoint::from_shared(self.target.url.to_string()).map_err(invalid)?;
        if self.target.url.scheme() == "https" {
            let verifier = tls::verifier(&self.target.trust)
                .map_err(|error| SourceError::Invalid(error_chain(&error)))?;
            let tls = ClientTlsConfig::new();
            endpoint = endpoint
                .tls_config_with_verifier(tls, verifier)
                .map_err(invalid)?;
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| SourceError::Lost(error.into()))?;
        let client = DaemonServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut link = Link {
            client,
            metadata: self.metadata()?,
        };
        let (state_id, held) = self.left().clone();
        let request = RegisterRequest {
            name: self.target.name.clone(),
            tags: self.target.tags.clone(),
            provisioners: vec!["terraform".to_owned()],
            version: rules::VERSION.to_owned(),
            // Sent only once: later jobs of this process are not left over from an earlier one.
            state_id: held.as_ref().map(|_| state_id.clone()).unwrap_or_default(),
            held_jobs: held.iter().flatten().map(ToString::to_string).collect(),
        };
        let request = link.bounded(request, CALL_TIMEOUT);
        let answer = link
            .client
            .register(request)
            .await
            .map_err(not_registered)?
            .into_inner();
        let id = MetadataValue::try_from(&answer.daemon_id);
        let id = id.map_err(|_| {
            SourceError::Invalid("the server sent a daemon id that is not valid".to_owned())
        })?;
        link.metadata.insert("outpost-daemon-id", id);
        if let Ok(id) = MetadataValue::try_from(&state_id) {
            link.metadata.insert("outpost-state-id", id);
        }
        self.left().1 = None;
        Ok(link)
    }

    fn left(&self) -> MutexGuard<'_, (String, Option<Vec<JobId>>)> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metadata(&self) -> Result<MetadataMap, SourceError> {
        let credential = self
            .credentials
            .credential()
            .map_err(SourceError::Unauthorized)?;
        let unusable =
            || SourceError::Unauthorized("it has characters that a header cannot carry".to_owned());
        let (name, value) = credential.header().ok_or_else(unusable)?;
        Ok(MetadataMap::from_headers(
            [(name, value)].into_iter().collect(),
        ))
    }

    /// Converts a refusal to an error, and forgets a connection that is no longer usable.
    async fn lost(&self, link: &Arc<Link>, status: Status) -> SourceError {
        let error = source_error(status);
        if matches!(error, SourceError::Lost(_) | SourceError::Unauthorized(_)) {
            let mut current = self.link.lock().await;
            // Another call may have reconnected meanwhile.
            if current.as_ref().is_some_and(|it| Arc::ptr_eq(it, link)) {
                *current = None;
                self.connected.send_replace(false);
                info!("connection to the control plane closed");
            }
        }
        error
    }

    /// Fails a job that we cannot read: nobody else will run it, and it would wait for its reaper.
    async fn refuse(&self, link: &Arc<Link>, id: String, error: &FieldError) -> SourceError {
        let job = provisionerd::FailedJob {
            job_id: id,
            error: format!("the daemon cannot read the job: {error}"),
            ..provisionerd::FailedJob::default()
        };
        let request = link.bounded(job, CALL_TIMEOUT);
        if let Err(status) = link.client().fail_job(request).await {
            return self.lost(link, status).await;
        }
        SourceError::Invalid(error.to_string())
    }
}

#[async_trait]
impl JobSource for GrpcSource {
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError> {
        let link = tokio::select! {
            link = self.link() => link?,
            () = stop.draining() => return Ok(None),
        };
        // The client's half of the call stays open until we no longer want a job; its end tells the server.
        let (half, requests) = tokio::sync::mpsc::channel(1);
        let (_done, is_done) = oneshot::channel::<()>();
        let stop = stop.clone();
        let holding = async move {
            tokio::select! {
                () = stop.draining() => {}
                _ = is_done => {}
            }
            drop::<tokio::sync::mpsc::Sender<AcquireJobRequest>>(half);
        };
        // Detached: ends with this function, which drops `_done`.
        tokio::spawn(holding.in_current_span());
        let request = link.request(ReceiverStream::new(requests));
        let mut answers = match link.client().acquire_job(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Err(self.lost(&link, status).await),
        };
        match answers.next().await {
            None => Ok(None),
            Some(Err(status)) => Err(self.lost(&link, status).await),
            Some(Ok(job)) if job.job_id.is_empty() => Ok(None),
            Some(Ok(job)) => {
                let id = job.job_id.clone();
                match Job::try_from(job) {
                    Ok(job) => Ok(Some(job)),
                    Err(error) => Err(self.refuse(&link, id, &error).await),
                }
            }
        }
    }

    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let link = self.link().await?;
        let request = link.bounded(provisionerd::UpdateJobRequest::from(update), CALL_TIMEOUT);
        match link.client().update_job(request).await {
            Ok(answer) => Ok(answer.into_inner().into()),
            Err(status) => Err(self.lost(&link, status).await),
        }
    }

    async fn commit_quota(&self, job: JobId, daily_cost: i32) -> Result<Quota, SourceError> {
        let link = self.link().await?;
        let request = provisionerd::CommitQuotaRequest {
            job_id: job.to_string(),
            daily_cost,
        };
        let request = link.bounded(request, CALL_TIMEOUT);
        match link
            .client()
            .commit_quota(request)
            .await
            .map(tonic::Response::into_inner)
        {
            Ok(answer) => Ok(Quota {
                ok: answer.ok,
                consumed: answer.credits_consumed,
                budget: answer.budget,
            }),
            Err(status) => Err(self.lost(&link, status).await),
        }
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        let link = self.link().await?;
        let request = link.bounded(provisionerd::FailedJob::from(job), CALL_TIMEOUT);
        match link.client().fail_job(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(self.lost(&link, status).await),
        }
    }

    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError> {
        let link = self.link().await?;
        let (addresses, stop_addresses) = messages::addresses(&job);
        let request = CompleteJobRequest {
            job: Some(job.into()),
            addresses,
            stop_addresses,
        };
        let request = link.bounded(request, CALL_TIMEOUT);
        match link.client().complete_job(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(self.lost(&link, status).await),
        }
    }

    async fn download_modules(&self, file: Uuid) -> Result<Bytes, SourceError> {
        let link = self.link().await?;
        let upload_type = DataUploadType::UploadTypeModuleFiles.into();
        let request = provisionerd::FileRequest {
            file_id: file.to_string(),
            upload_type,
        };
        let request = link.bounded(request, FILE_TIMEOUT);
        let mut pieces = match link.client().download_file(request).await {
            Ok(pieces) => pieces.into_inner(),
            Err(status) => return Err(self.lost(&link, status).await),
        };
        let mut file = FileBuilder::default();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => file.push(piece)?,
                Err(status) => return Err(self.lost(&link, status).await),
            }
        }
        file.finish()
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            server: self.target.url.to_string(),
            name: self.target.name.clone(),
        })
    }

    fn sibling(&self, name: &str) -> Option<Arc<dyn JobSource>> {
        let target = Target {
            name: name.to_owned(),
            ..self.target.clone()
        };
        Some(Arc::new(Self::new(target, Arc::clone(&self.credentials))))
    }

    async fn come_back(&self, state_id: &str, held: Vec<JobId>) -> Result<(), SourceError> {
        // The server is told when the daemon registers.
        *self.left() = (state_id.to_owned(), Some(held));
        Ok(())
    }

    async fn connect(&self) -> Result<(), SourceError> {
        self.link().await.map(drop)
    }

    fn connected(&self) -> Option<watch::Receiver<bool>> {
        Some(self.connected.subscribe())
    }

    fn was_accepted(&self) -> bool {
        self.was_accepted.load(Ordering::Relaxed)
    }
}

/// Converts a refused registration. A name that another credential holds may become free later, and says nothing
/// about the job that waits for the connection.
fn not_registered(status: Status) -> SourceError {
    match status.code() {
        Code::FailedPrecondition => SourceError::Lost(status.message().into()),
        _ => source_error(status),
    }
}

fn source_error(status: Status) -> SourceError {
    // Statuses from the server have no source; failures of the connection have one, under various codes.
    if std::error::Error::source(&status).is_some() {
        return SourceError::Lost(status.into());
    }
    let text = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => SourceError::Unauthorized(text),
        Code::NotFound => SourceError::Gone(text),
        Code::Unavailable
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Unknown
        | Code::Aborted => SourceError::Lost(status.into()),
        Code::OutOfRange => {
            let (size, limit) = sizes(&text);
            SourceError::TooLarge { size, limit }
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => SourceError::Refused(text),
    }
}

/// Parses the two numbers in the message about a message that is too large.
fn sizes(text: &str) -> (usize, usize) {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok());
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or(MAX_MESSAGE_BYTES),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_not_a_refusal_whatever_its_code() {
        let broken = Status::from_error(Box::new(std::io::Error::from(
            std::io::ErrorKind::BrokenPipe,
        )));
        assert!(matches!(source_error(broken), SourceError::Lost(_)));

        let refused = source_error(Status::internal("no"));
        assert!(matches!(refused, SourceError::Refused(text) if text == "no"));
    }

    #[test]
    fn a_name_that_is_taken_is_waited_for() {
        let taken = not_registered(Status::failed_precondition("the name is taken"));

        assert!(matches!(&taken, SourceError::Lost(why) if why.to_string() == "the name is taken"));
        let unknown = not_registered(Status::unauthenticated("no such key"));
        assert!(matches!(unknown, SourceError::Unauthorized(_)));
    }

    #[test]
    fn what_the_server_says_of_a_job_and_of_us_is_told_apart() {
        let gone = source_error(Status::not_found("you don't own this job"));
        assert!(matches!(gone, SourceError::Gone(_)));

        let unknown = source_error(Status::unauthenticated("no such key"));
        assert!(matches!(unknown, SourceError::Unauthorized(_)));

        let text =
            "Error, encoded message length too large: found 70 bytes, the limit is: 64 bytes";
        let large = source_error(Status::out_of_range(text));
        assert!(matches!(
            large,
            SourceError::TooLarge {
                size: 70,
                limit: 64
            }
        ));
    }
}
