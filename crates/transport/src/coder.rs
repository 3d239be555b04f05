//! Source of jobs from a real coderd: dRPC over yamux over a WebSocket.
//!
//! One [`CoderSource`] is one daemon at the server: one name, one connection, one job at a time. The connection is
//! established when it is needed and re-established when it broke; ownership of a job depends on the name alone.

mod dial;
mod refusal;
mod request;
mod version;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::{
    job::{CompletedJob, FailedJob, Job, JobId},
    stop::Stop,
};
use outpost_net::{
    back_off::{BackOff, Complaints},
    http::Client,
};
use outpost_provision::{Identity, JobSource, JobUpdate, JobUpdated, Quota, SourceError};
use outpost_wire::proto::{provisioner, provisionerd};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{self, watch},
};
use tracing::{Instrument, Span, debug, info, warn};
use url::{Position, Url};
use uuid::Uuid;

use self::refusal::Reaction;
pub use self::{
    dial::Target,
    refusal::{ErrorAnswer, FieldError},
    request::{DialError, in_time, open_websocket, token_header},
    version::ApiVersion,
};
use super::{
    auth::CredentialSource,
    drpc::{Call, CallError, Limits},
    file::{self, FileBuilder},
    yamux,
};

/// Longest time for a call that the server answers from memory or with a few rows.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a call that ends a job: the server writes it all in one transaction, and a repetition is
/// ambiguous. Whether the server is alive is for the connection to find out.
const TERMINAL_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest time for a file, as in the reference.
const FILE_TIMEOUT: Duration = Duration::from_secs(300);

/// Pause after a server that was reached had problems of its own.
const TROUBLED_PAUSE: Duration = Duration::from_secs(4);
/// Pause after a server refused something that only an operator can change.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Source of jobs from one coderd, as one daemon.
pub struct CoderSource {
    client: Client,
    target: Target,
    credentials: Arc<dyn CredentialSource>,
    held: Arc<Held>,
    dialling: sync::Mutex<(BackOff, Complaints)>,
    was_accepted: AtomicBool,
}

struct Link {
    connection: yamux::Connection,
}

/// Current connection, and those who want to know whether there is one.
struct Held {
    link: Mutex<Option<Arc<Link>>>,
    /// Version that was agreed upon when it was last dialled.
    version: Mutex<Option<ApiVersion>>,
    connected: watch::Sender<bool>,
}

impl Held {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Link>>> {
        // The content is consistent even after a panic, so a poisoned lock can be used.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> std::sync::MutexGuard<'_, Option<ApiVersion>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, is_it: impl Fn(&Arc<Link>) -> bool) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(is_it) {
            *slot = None;
            self.connected.send_replace(false);
            info!("connection to coderd closed");
        }
    }
}

impl CoderSource {
    /// Creates a source that has not dialled yet.
    pub fn new(client: Client, target: Target, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            client,
            target,
            credentials,
            held: Arc::new(Held {
                link: Mutex::new(None),
                version: Mutex::new(None),
                connected: watch::Sender::new(false),
            }),
            dialling: sync::Mutex::default(),
            was_accepted: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl JobSource for CoderSource {
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError> {
        if stop.is_draining() {
            return Ok(None);
        }
        let link = tokio::select! {
            link = self.link() => link?,
            () = stop.draining() => return Ok(None),
        };
        let mut call = self.begin(&link, "AcquireJobWithCancel").await?;
        tokio::select! {
            job = call.receive() => {
                let job = job.map_err(|error| self.lost(&link, error))?;
                // coderd's handler may not have returned yet, and would log that it could not send the job. Do not
                // wait for it: if our caller gave up meanwhile, the job would be lost.
                // Detached: the call ends by itself within seconds.
                tokio::spawn(call.end().in_current_span());
                return acquired(job);
            }
            () = stop.draining() => {}
        }
        // A job may be on its way already, so wait for the server's answer; but not forever.
        let withdrawn = async {
            let sent = call.send(&provisionerd::CancelAcquire {}).await;
            sent.map_err(|error| self.lost(&link, error))?;
            let job = call.receive().await;
            let job = job.map_err(|error| self.lost(&link, error))?;
            // Detached: as above.
            tokio::spawn(call.end().in_current_span());
            acquired(job)
        };
        self.within(CALL_TIMEOUT, &link, withdrawn).await
    }

    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let request = provisionerd::UpdateJobRequest::from(update);
        let answer: provisionerd::UpdateJobResponse = self.unary("UpdateJob", &request).await?;
        Ok(answer.into())
    }

    async fn commit_quota(&self, job: JobId, daily_cost: i32) -> Result<Quota, SourceError> {
        let request = provisionerd::CommitQuotaRequest {
            job_id: job.to_string(),
            daily_cost,
        };
        let answer: provisionerd::CommitQuotaResponse = self.unary("CommitQuota", &request).await?;
        Ok(Quota {
            ok: answer.ok,
            consumed: answer.credits_consumed,
            budget: answer.budget,
        })
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        let request = provisionerd::FailedJob::from(job);
        match self
            .unary_within::<_, provisionerd::Empty>(TERMINAL_TIMEOUT, "FailJob", &request)
            .await
        {
            // coderd sends no code for this: only its text tells that the job has already ended.
            Err(SourceError::Refused(text)) if text.contains("job already completed") => {
                Err(SourceError::Ended(text))
            }
            result => result.map(drop),
        }
    }

    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError> {
        let mut request = provisionerd::CompletedJob::from(job);
        if let Some((modules, hash)) = detach_large_modules(&mut request) {
            self.upload_modules(&modules).await?;
            *hash = file::hash(&modules);
        }
        self.unary_within::<_, provisionerd::Empty>(TERMINAL_TIMEOUT, "CompleteJob", &request)
            .await
            .map(drop)
    }

    async fn download_modules(&self, file: Uuid) -> Result<Bytes, SourceError> {
        let link = self.link().await?;
        let download = async {
            let mut call = self.begin(&link, "DownloadFile").await?;
            let upload_type = provisioner::DataUploadType::UploadTypeModuleFiles.into();
            let request = provisionerd::FileRequest {
                file_id: file.to_string(),
                upload_type,
            };
            call.send(&request)
                .await
                .map_err(|error| self.lost(&link, error))?;
            call.close_send()
                .await
                .map_err(|error| self.lost(&link, error))?;
            let mut file = FileBuilder::default();
            while let Some(piece) = call
                .receive()
                .await
                .map_err(|error| self.lost(&link, error))?
            {
                file.push(piece)?;
            }
            call.end().await;
            file.finish()
        };
        self.within(FILE_TIMEOUT, &link, download).await
    }

    fn has_ai_tasks(&self) -> bool {
        self.held.version().is_some_and(ApiVersion::has_ai_tasks)
    }

    fn without_script_order(&self) -> Option<String> {
        let version = *self.held.version();
        let version = version.filter(|version| !version.has_script_order());
        version.map(|version| version.to_string())
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            server: self.client.url().to_string(),
            name: self.target.name.clone(),
        })
    }

    fn sibling(&self, name: &str) -> Option<Arc<dyn JobSource>> {
        let target = Target {
            name: name.to_owned(),
            ..self.target.clone()
        };
        let credentials = Arc::clone(&self.credentials);
        Some(Arc::new(Self::new(
            self.client.clone(),
            target,
            credentials,
        )))
    }

    async fn connect(&self) -> Result<(), SourceError> {
        self.link().await.map(drop)
    }

    fn connected(&self) -> Option<watch::Receiver<bool>> {
        Some(self.held.connected.subscribe())
    }

    fn was_accepted(&self) -> bool {
        self.was_accepted.load(Ordering::Relaxed)
    }
}

impl CoderSource {
    /// Returns the connection, established anew if it broke.
    async fn link(&self) -> Result<Arc<Link>, SourceError> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let mut dialling = self.dialling.lock().await;
        let (back_off, complaints) = &mut *dialling;
        if let Some(link) = self.current() {
            return Ok(link); // Somebody else dialled while we waited.
        }
        back_off.wait().await;
        let credential = self.credentials.credential().map_err(|error| {
            back_off.hold(TROUBLED_PAUSE);
            SourceError::Unauthorized(error)
        })?;
        let (socket, version) = match dial::dial(&self.client, &self.target, &credential).await {
            Ok(dialled) => dialled,
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                match complaints.should_say(&error.to_string()) {
                    Some(tries) => warn!(error = cause, tries, "coderd client failed to dial"),
                    None => debug!(error = cause, "coderd client failed to dial"),
                }
                let (error, pause) = refused_dial(error);
                back_off.hold(pause);
                return Err(error);
            }
        };
        *complaints = Complaints::default();
        info!(%version, server = host_and_port(self.client.url()), "successfully connected to coderd");
        *self.held.version() = Some(version);
        Ok(self.hold(socket))
    }

    /// Uses a connection from now on, until it ends: then everybody is notified at once, even if nobody calls.
    fn hold(&self, socket: impl AsyncRead + AsyncWrite + Send + 'static) -> Arc<Link> {
        let (connection, _no_streams_from_the_server) =
            yamux::Connection::start(socket, yamux::Role::Client, yamux::Config::default());
        let closed = connection.closed();
        let link = Arc::new(Link { connection });
        *self.held.slot() = Some(Arc::clone(&link));
        self.held.connected.send_replace(true);
        self.was_accepted.store(true, Ordering::Relaxed);
        // Weak references: this task must not keep the source and its connection alive.
        let (held, watched) = (Arc::downgrade(&self.held), Arc::downgrade(&link));
        let watch = async move {
            closed.await;
            if let Some(held) = held.upgrade() {
                held.forget(|current| std::ptr::eq(Arc::as_ptr(current), watched.as_ptr()));
            }
        };
        // Detached: ends with the connection.
        tokio::spawn(watch.instrument(Span::current()));
        link
    }

    fn current(&self) -> Option<Arc<Link>> {
        self.held.slot().clone()
    }

    /// Forgets a connection that is no longer usable, so that the next call dials.
    fn lost(&self, link: &Arc<Link>, error: CallError) -> SourceError {
        if matches!(error, CallError::Lost(_) | CallError::Wire(_)) && link.connection.is_closed() {
            self.forget(link);
        }
        call_error(error)
    }

    fn forget(&self, link: &Arc<Link>) {
        self.held.forget(|current| Arc::ptr_eq(current, link));
    }
}

impl CoderSource {
    async fn begin(
        &self,
        link: &Arc<Link>,
        method: &str,
    ) -> Result<Call<yamux::Stream>, SourceError> {
        let stream = link.connection.open().map_err(|error| {
            self.forget(link);
            SourceError::Lost(error.into())
        })?;
        Call::begin(stream, &full_name(method), Limits::CODER)
            .await
            .map_err(|error| self.lost(link, error))
    }

    async fn unary<Q, A>(&self, method: &str, request: &Q) -> Result<A, SourceError>
    where
        Q: Message,
        A: Message + Default,
    {
        self.unary_within(CALL_TIMEOUT, method, request).await
    }

    async fn unary_within<Q, A>(
        &self,
        timeout: Duration,
        method: &str,
        request: &Q,
    ) -> Result<A, SourceError>
    where
        Q: Message,
        A: Message + Default,
    {
        let link = self.link().await?;
        let call = async {
            let stream = link.connection.open().map_err(|error| {
                self.forget(&link);
                SourceError::Lost(error.into())
            })?;
            let answer = Call::unary(stream, &full_name(method), request, Limits::CODER).await;
            answer.map_err(|error| self.lost(&link, error))
        };
        self.within(timeout, &link, call).await
    }

    async fn upload_modules(&self, modules: &Bytes) -> Result<(), SourceError> {
        let link = self.link().await?;
        let upload = async {
            let mut call = self.begin(&link, "UploadFile").await?;
            for piece in file::pieces(modules) {
                call.send(&piece)
                    .await
                    .map_err(|error| self.lost(&link, error))?;
            }
            call.close_send()
                .await
                .map_err(|error| self.lost(&link, error))?;
            // The server answers alike whether it took the file or not; CompleteJob tells.
            call.receive::<provisionerd::Empty>()
                .await
                .map_err(|error| self.lost(&link, error))?;
            call.end().await;
            Ok(())
        };
        self.within(FILE_TIMEOUT, &link, upload).await
    }

    /// Bounds a call. One that does not end in time leaves a connection that is no longer trusted.
    async fn within<T>(
        &self,
        timeout: Duration,
        link: &Arc<Link>,
        call: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        tokio::time::timeout(timeout, call)
            .await
            .unwrap_or_else(|late| {
                self.forget(link);
                Err(SourceError::Lost(late.into()))
            })
    }
}

/// Returns the server as a person knows it, such as `coder.example:8443`.
fn host_and_port(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

fn full_name(method: &str) -> String {
    format!("/provisionerd.ProvisionerDaemon/{method}")
}

/// Converts an acquired job. An empty id means that nothing was acquired; a missing message that the server failed to
/// build the job.
fn acquired(answer: Option<provisionerd::AcquiredJob>) -> Result<Option<Job>, SourceError> {
    match answer {
        None => Err(SourceError::Refused(
            "the server sent no job and no reason".to_owned(),
        )),
        Some(job) if job.job_id.is_empty() => Ok(None),
        Some(job) => Job::try_from(job)
            .map(Some)
            .map_err(|error| SourceError::Invalid(error.to_string())),
    }
}

/// Removes the modules from a message that would be too large with them, and returns where their hash belongs.
fn detach_large_modules(job: &mut provisionerd::CompletedJob) -> Option<(Bytes, &mut Bytes)> {
    if job.encoded_len() <= Limits::CODER.outbound_bytes {
        return None;
    }
    match &mut job.r#type {
        Some(provisionerd::completed_job::Type::TemplateImport(import))
            if !import.module_files.is_empty() =>
        {
            let modules = std::mem::take(&mut import.module_files);
            Some((modules, &mut import.module_files_hash))
        }
        _ => None,
    }
}

fn call_error(error: CallError) -> SourceError {
    match error {
        CallError::Remote { message, .. } if is_gone(&message) => SourceError::Gone(message),
        CallError::Remote { message, .. } => SourceError::Refused(message),
        CallError::TooLarge { size, limit } => SourceError::TooLarge { size, limit },
        CallError::NoAnswer => SourceError::Lost("the call ended without an answer".into()),
        CallError::Lost(error) => SourceError::Lost(error.into()),
        CallError::Wire(error) => SourceError::Lost(error.into()),
        CallError::Decode(error) => SourceError::Invalid(error.to_string()),
    }
}

/// Returns whether the server says that the job is no longer ours.
fn is_gone(message: &str) -> bool {
    // coderd's texts for a job of another daemon and for one that does not exist; dRPC carries no code for them.
    message.contains("you don't own this job") || message.contains("no rows in result set")
}

/// Converts a failed dial to an error for the daemon, and the pause before the next attempt.
fn refused_dial(error: DialError) -> (SourceError, Duration) {
    let reaction = match &error {
        DialError::Refused {
            status,
            answer,
            retry_after,
            ..
        } => Reaction::to(*status, answer, *retry_after),
        DialError::Version { .. } => Reaction::Unsuitable,
        DialError::Credential => Reaction::Unauthorized,
        DialError::Request(_)
        | DialError::WebSocket(_)
        | DialError::Headers(_)
        | DialError::Foreign { .. }
        | DialError::Timeout { .. } => {
            return (SourceError::Lost(error.into()), Duration::ZERO);
        }
    };
    match reaction {
        Reaction::Retry => (SourceError::Lost(error.into()), TROUBLED_PAUSE),
        Reaction::StayAway(pause) => (SourceError::Lost(error.into()), pause),
        Reaction::Unauthorized => (SourceError::Unauthorized(error.to_string()), REFUSED_PAUSE),
        Reaction::Unsuitable => (SourceError::Unsuitable(error.to_string()), REFUSED_PAUSE),
    }
}

#[cfg(test)]
mod tests;
