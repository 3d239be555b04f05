//! One call of a daemon, from its name to its answer.

use std::{sync::Arc, time::Duration};

use outpost_base::job::{CompletedJob, CompletedWork, Job, Resource};
use outpost_net::budget::Account;
use outpost_transport::{
    drpc::{self, Answer, CallError as WireError},
    yamux::Stream,
};
use outpost_wire::proto::provisionerd::{
    AcquiredJob, CancelAcquire, CompletedJob as WireCompletedJob, Empty, completed_job,
};
use prost::Message;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::files;
use crate::{
    plane::RequestError,
    services::calls::{CallError, Calls},
};

/// Limits on a packet, for both sides; a Go daemon disconnects whoever sends more.
pub(super) const LIMITS: drpc::Limits = drpc::Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};

/// Longest time from the opening of a stream to the name of its call; the two arrive together.
const NAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a call; our daemon does not wait longer, either.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a file, as in the reference.
const FILE_TIMEOUT: Duration = Duration::from_secs(300);
/// Wait of the deprecated call for acquiring a job.
const SHORT_WAIT: Duration = Duration::from_secs(5);

const SERVICE: &str = "/provisionerd.ProvisionerDaemon/";

pub(super) type IncomingCall = Answer<Stream>;

/// Answers the call on `stream`. Nothing is logged if the daemon breaks it off.
pub(super) async fn serve(
    calls: Calls,
    account: Arc<Account>,
    uploads: files::Uploads,
    stream: Stream,
) {
    let accepting = Answer::accept_with_budget(stream, LIMITS, account);
    let answer = match timeout(NAME_TIMEOUT, accepting).await {
        Ok(Ok(Some(answer))) => answer,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => return debug!(%error, "a daemon opened a stream that is not a call"),
    };
    let method = answer.method().to_owned();
    let name = method.strip_prefix(SERVICE).unwrap_or_default();
    let limit = match name {
        "UploadFile" | "DownloadFile" => FILE_TIMEOUT,
        _ => CALL_TIMEOUT,
    };
    let answered = match name {
        // It waits as long as the daemon does.
        "AcquireJobWithCancel" => Ok(acquire(&calls, answer).await),
        _ => timeout(limit, by_name(name, &calls, &uploads, answer)).await,
    };
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(method, %error, "a daemon cancelled its call"),
        Err(_) => warn!(method, "call timed out"),
    }
}

async fn by_name(
    name: &str,
    calls: &Calls,
    uploads: &files::Uploads,
    answer: IncomingCall,
) -> Result<(), WireError> {
    match name {
        "UpdateJob" => unary(answer, |request| calls.update_job(request)).await,
        "CommitQuota" => unary(answer, |request| calls.commit_quota(request)).await,
        "FailJob" => unary(answer, |request| calls.fail_job(request)).await,
        "CompleteJob" => unary(answer, |request| complete(calls, request)).await,
        "AcquireJob" => unary(answer, |Empty {}| acquire_shortly(calls)).await,
        "UploadFile" => files::upload(calls, uploads, answer).await,
        "DownloadFile" => files::download(calls, answer).await,
        _ => answer.unimplemented().await,
    }
}

async fn unary<Q, A, F>(
    mut answer: IncomingCall,
    call: impl FnOnce(Q) -> F,
) -> Result<(), WireError>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<A, CallError>>,
{
    let request = match answer.receive().await {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(WireError::Decode(error)) => return answer.fail(&error.to_string()).await,
        Err(error) => return Err(error),
    };
    match call(request).await {
        Ok(message) => answer.reply(&message).await,
        Err(error) => refuse(answer, &error).await,
    }
}

/// Returns whether the same call may succeed a moment later.
pub(super) fn is_passing(error: &CallError) -> bool {
    matches!(
        error,
        CallError::Request(RequestError::Stopping | RequestError::Busy(_) | RequestError::Store(_))
    )
}

/// Answers with the error's text. A call that may succeed a moment later is not answered at all: of all that this
/// wire can say, only a lost answer makes a daemon ask again instead of giving the job up.
pub(super) async fn refuse(answer: IncomingCall, error: &CallError) -> Result<(), WireError> {
    if is_passing(error) {
        warn!(method = answer.method(), %error, "call must be repeated");
        return Ok(());
    }
    answer.fail(&error.to_string()).await
}

/// Waits for a job as long as the daemon does, which ends its wait with a message, or with the end of its half of the
/// stream.
async fn acquire(calls: &Calls, mut answer: IncomingCall) -> Result<(), WireError> {
    let cancelled = async {
        // Any message, and the end of the stream as well, ends the wait.
        let _ = answer.receive::<CancelAcquire>().await;
    };
    let job = calls.plane.acquire(&calls.daemon, cancelled).await;
    match job {
        Ok(Some(job)) => hand_over(calls, answer, job).await,
        Ok(None) => {
            answer.send(&AcquiredJob::default()).await?;
            answer.end().await
        }
        // As in the reference: an end without a message. The daemon asks again after a moment.
        Err(error) => {
            debug!(daemon = calls.daemon.name, %error, "no job for a daemon");
            answer.end().await
        }
    }
}

/// Sends a job to its daemon. One that does not reach it fails at once, because it is handed out only once.
async fn hand_over(calls: &Calls, mut answer: IncomingCall, job: Job) -> Result<(), WireError> {
    let id = job.id;
    let sent = async {
        answer.send(&AcquiredJob::from(job)).await?;
        Ok(())
    };
    match timeout(CALL_TIMEOUT, sent).await {
        Ok(Ok(())) => answer.end().await,
        Ok(Err(WireError::TooLarge { size, limit })) => {
            calls.plane.too_large(id, size, limit).await;
            answer.end().await
        }
        Ok(Err(error)) => {
            calls.plane.undelivered(id).await;
            Err(error)
        }
        Err(_) => {
            calls.plane.undelivered(id).await;
            Ok(())
        }
    }
}

async fn acquire_shortly(calls: &Calls) -> Result<AcquiredJob, CallError> {
    let job = calls
        .plane
        .acquire(&calls.daemon, tokio::time::sleep(SHORT_WAIT))
        .await?;
    Ok(job.map(AcquiredJob::from).unwrap_or_default())
}

async fn complete(calls: &Calls, mut request: WireCompletedJob) -> Result<Empty, CallError> {
    if let Some(completed_job::Type::TemplateImport(import)) = &mut request.r#type
        && import.module_files.is_empty()
        && !import.module_files_hash.is_empty()
    {
        import.module_files = calls
            .plane
            .uploaded_modules(&import.module_files_hash)
            .await?;
    }
    let mut completed = CompletedJob::try_from(request)?;
    name_resources(&mut completed);
    calls.complete_job(completed).await
}

/// Names all instances of a resource alike, because this wire has no addresses.
fn name_resources(completed: &mut CompletedJob) {
    let name = |resource: &mut Resource| {
        let parts = [&resource.module_path, &resource.kind, &resource.name];
        let parts: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        let named = parts.into_iter().filter(|part| !part.is_empty());
        resource.address = named.collect::<Vec<_>>().join(".");
    };
    match &mut completed.result {
        CompletedWork::WorkspaceBuild(build) => build.resources.iter_mut().for_each(name),
        CompletedWork::TemplateDryRun(dry_run) => dry_run.resources.iter_mut().for_each(name),
        CompletedWork::TemplateImport(import) => {
            let both = import.start_resources.iter_mut();
            both.chain(&mut import.stop_resources).for_each(name);
        }
    }
}
