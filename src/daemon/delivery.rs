//! Telling the server how a job ended, whatever it takes; and keeping the state until it has been told.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, info, warn};

use super::{Config, Ended, repeat::until_answered};
use crate::{
    files,
    job::{CompletedJob, CompletedWork, FailedJob, FailedWork, JobId, Outcome},
    provision::{JobSource, SourceError},
    stop::Stop,
};

/// Time for the server's answer while nothing is wrong. After it the state is written down, and we go on waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time to deliver after a kill.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Waits for `clean_up`, then delivers an outcome, and repeats it until the server has answered or `stop` kills.
///
/// A state is on disk as soon as it is not certain that the server takes it, and stays there if it does not.
pub(super) async fn deliver(
    config: &Config,
    source: &dyn JobSource,
    outcome: Outcome,
    clean_up: impl Future<Output = ()>,
    stop: &Stop,
) -> Ended {
    let mut kept = Kept::new(&config.state_dir, &outcome);
    let told = {
        let telling = async {
            clean_up.await;
            tell(source, outcome, stop).await
        };
        tokio::pin!(telling);
        tokio::select! {
            told = &mut telling => told,
            () = sleep(PATIENCE) => {
                kept.write().await;
                telling.await
            }
        }
    };
    match told {
        Ok(ended) => {
            kept.erase().await;
            ended
        }
        Err(reason) => {
            kept.write().await;
            kept.report(&reason);
            Ended::Undelivered
        }
    }
}

/// Tells the outcome.
///
/// # Errors
/// Why the server was not told, for the operator.
async fn tell(source: &dyn JobSource, outcome: Outcome, stop: &Stop) -> Result<Ended, String> {
    let job = match outcome {
        Outcome::Failed(job) => job,
        Outcome::Completed(job) => {
            let call = || source.complete(job.clone());
            match until_answered("complete job", over(stop), call).await {
                Some(Ok(())) => return Ok(Ended::Completed),
                Some(Err(error)) => failed_instead(job, &error).ok_or_else(|| chain(&error))?,
                None => return Err(KILLED.to_owned()),
            }
        }
    };
    match until_answered("fail job", over(stop), || source.fail(job.clone())).await {
        Some(Ok(())) => Ok(Ended::Failed),
        Some(Err(error)) => Err(chain(&error)),
        None => Err(KILLED.to_owned()),
    }
}

const KILLED: &str = "the daemon was stopped before the server answered";

async fn over(stop: &Stop) {
    stop.killed().await;
    sleep(LAST_WORDS).await;
}

/// What to say where the server does not take the result. `None` if the job is not ours any more.
fn failed_instead(job: CompletedJob, error: &SourceError) -> Option<FailedJob> {
    let text = match error {
        SourceError::Refused(text) | SourceError::Invalid(text) => {
            warn!(%text, "server refused the result of the job");
            format!("internal provisionerserver error: {text}")
        }
        SourceError::TooLarge { .. } => {
            warn!(%error, "result of the job is too large for the server");
            format!("the result of the job is too large: {error}")
        }
        SourceError::Gone(_)
        | SourceError::Lost(_)
        | SourceError::Unauthorized(_)
        | SourceError::Unsuitable(_) => return None,
    };
    let work = match job.result {
        CompletedWork::WorkspaceBuild(build) => FailedWork::WorkspaceBuild {
            state: Some(build.state),
            timings: build.timings,
        },
        CompletedWork::TemplateImport(_) => FailedWork::TemplateImport,
        CompletedWork::TemplateDryRun(_) => FailedWork::TemplateDryRun,
    };
    Some(FailedJob {
        id: job.id,
        error: text,
        code: None,
        work,
    })
}

/// The state of a job on disk: `lost/<job>.tfstate`, readable for the owner only.
struct Kept {
    job: JobId,
    dir: PathBuf,
    /// `None` if the job has no state that the server does not know.
    state: Option<Bytes>,
    written: Option<io::Result<PathBuf>>,
}

impl Kept {
    fn new(state_dir: &Path, outcome: &Outcome) -> Self {
        let (job, state) = match outcome {
            Outcome::Completed(job) => (job.id, completed_state(job)),
            Outcome::Failed(job) => (job.id, failed_state(job)),
        };
        Self {
            job,
            dir: state_dir.join("lost"),
            state: state.filter(|state| !state.is_empty()),
            written: None,
        }
    }

    async fn write(&mut self) {
        let (Some(state), None) = (&self.state, &self.written) else {
            return;
        };
        let (dir, name, state) = (
            self.dir.clone(),
            format!("{}.tfstate", self.job),
            state.clone(),
        );
        let written = spawn_blocking(move || write_private(&dir, &name, &state)).await;
        self.written = Some(written.unwrap_or_else(|panic| Err(io::Error::other(panic))));
    }

    async fn erase(self) {
        let Some(Ok(path)) = self.written else { return };
        let shown = path.display().to_string();
        match spawn_blocking(move || fs::remove_file(path)).await {
            Ok(Ok(())) => info!("the server has the state now"),
            Ok(Err(error)) => warn!(%error, path = shown, "failed to remove a delivered state"),
            Err(panic) => warn!(%panic, path = shown, "failed to remove a delivered state"),
        }
    }

    fn report(&self, reason: &str) {
        match &self.written {
            None => warn!(
                reason,
                "the end of the job was not delivered; it leaves no state behind"
            ),
            Some(Ok(path)) => {
                error!(reason, path = %path.display(), "the state was not delivered and is kept on disk")
            }
            Some(Err(write)) => {
                error!(reason, %write, dir = %self.dir.display(), "the state was not delivered and could not be kept")
            }
        }
    }
}

fn completed_state(job: &CompletedJob) -> Option<Bytes> {
    match &job.result {
        CompletedWork::WorkspaceBuild(build) => Some(build.state.clone()),
        CompletedWork::TemplateImport(_) | CompletedWork::TemplateDryRun(_) => None,
    }
}

fn failed_state(job: &FailedJob) -> Option<Bytes> {
    match &job.work {
        FailedWork::WorkspaceBuild { state, .. } => state.clone(),
        FailedWork::TemplateImport | FailedWork::TemplateDryRun | FailedWork::Unknown => None,
    }
}

fn write_private(dir: &Path, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    files::create_private_dir(dir)?;
    let path = dir.join(name);
    files::write_private(&path, content)?;
    Ok(path)
}

fn chain(error: &SourceError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
