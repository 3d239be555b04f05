//! Telling the server how a job ended, whatever it takes; and keeping the state if it cannot be told.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use tracing::{error, warn};

use super::{Config, Ended};
use crate::{
    files,
    job::{CompletedJob, CompletedWork, FailedJob, FailedWork, JobId, Outcome},
    provision::{JobSource, SourceError},
    stop::Stop,
};

/// First and longest pause between two tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Delivers an outcome, and repeats it until the server has answered or `stop` kills.
pub(super) async fn deliver(
    config: &Config,
    source: &dyn JobSource,
    outcome: Outcome,
    stop: &Stop,
) -> Ended {
    match outcome {
        Outcome::Failed(job) => fail(config, source, job, stop).await,
        Outcome::Completed(job) => complete(config, source, job, stop).await,
    }
}

async fn complete(
    config: &Config,
    source: &dyn JobSource,
    job: CompletedJob,
    stop: &Stop,
) -> Ended {
    let refused = |error: String| FailedJob {
        id: job.id,
        error,
        code: None,
        work: failed_work(&job),
    };
    match repeat(stop, || source.complete(job.clone())).await {
        Ok(()) => Ended::Completed,
        Err(SourceError::Refused(text) | SourceError::Invalid(text)) => {
            warn!(%text, "server refused the result of the job");
            fail(
                config,
                source,
                refused(format!("internal provisionerserver error: {text}")),
                stop,
            )
            .await
        }
        Err(error @ SourceError::TooLarge { .. }) => {
            warn!(%error, "result of the job is too large for the server");
            fail(
                config,
                source,
                refused(format!("the result of the job is too large: {error}")),
                stop,
            )
            .await
        }
        Err(
            error @ (SourceError::Lost(_) | SourceError::Gone(_) | SourceError::Unauthorized(_)),
        ) => keep(config, job.id, state_of(&job), &error).await,
    }
}

async fn fail(config: &Config, source: &dyn JobSource, job: FailedJob, stop: &Stop) -> Ended {
    match repeat(stop, || source.fail(job.clone())).await {
        Ok(()) => Ended::Failed,
        Err(error) => {
            let state = match &job.work {
                FailedWork::WorkspaceBuild { state, .. } => state.clone(),
                FailedWork::TemplateImport | FailedWork::TemplateDryRun | FailedWork::Unknown => {
                    None
                }
            };
            keep(config, job.id, state, &error).await
        }
    }
}

/// Repeats a call while the connection is lost.
async fn repeat<F: Future<Output = Result<(), SourceError>>>(
    stop: &Stop,
    mut call: impl FnMut() -> F,
) -> Result<(), SourceError> {
    let mut pause = BACK_OFF.0;
    loop {
        match call().await {
            Err(error @ SourceError::Lost(_)) => {
                if stop.is_killed() {
                    return Err(error);
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.killed() => {}
                }
                pause = (pause * 2).min(BACK_OFF.1);
            }
            result => return result,
        }
    }
}

fn state_of(job: &CompletedJob) -> Option<Bytes> {
    match &job.result {
        CompletedWork::WorkspaceBuild(build) => Some(build.state.clone()),
        CompletedWork::TemplateImport(_) | CompletedWork::TemplateDryRun(_) => None,
    }
}

fn failed_work(job: &CompletedJob) -> FailedWork {
    match &job.result {
        CompletedWork::WorkspaceBuild(build) => FailedWork::WorkspaceBuild {
            state: Some(build.state.clone()),
            timings: build.timings.clone(),
        },
        CompletedWork::TemplateImport(_) => FailedWork::TemplateImport,
        CompletedWork::TemplateDryRun(_) => FailedWork::TemplateDryRun,
    }
}

/// Writes a state that nobody took to `lost/<job>.tfstate`, and says so.
async fn keep(config: &Config, job: JobId, state: Option<Bytes>, reason: &SourceError) -> Ended {
    let reason = reason.to_string();
    let Some(state) = state.filter(|state| !state.is_empty()) else {
        warn!(
            %reason,
            "the end of the job was not delivered; it leaves no state behind"
        );
        return Ended::Undelivered;
    };
    let dir = config.state_dir.join("lost");
    let written =
        tokio::task::spawn_blocking(move || write_private(dir, &format!("{job}.tfstate"), &state))
            .await;
    match written.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(path) => {
            error!(%reason, path = %path.display(), "the state was not delivered and is kept on disk")
        }
        Err(write) => {
            error!(%reason, %write, "the state was not delivered and could not be kept")
        }
    }
    Ended::Undelivered
}

fn write_private(dir: PathBuf, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    files::create_private_dir(&dir)?;
    let path = dir.join(name);
    files::write_private(&path, content)?;
    Ok(path)
}
