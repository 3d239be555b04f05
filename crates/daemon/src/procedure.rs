//! Steps of each kind of job, with the stages and texts that people know from Coder.
//!
//! # Source
//! coder `provisionerd/runner/runner.go`.

mod build;
mod dry_run;
mod import;
mod kept;

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::{
    job::{
        CompletedJob, CompletedWork, FailedJob, FailedWork, FailureCode, Job, JobId, LogLevel,
        Metadata, Outcome, Timing, Work,
    },
    rules::resources::Refused,
    stop::Stop,
};
use outpost_provision::{Identity, JobSource, Provisioner, Session, SessionConfig, StepFailure};
use tokio::time::sleep;
use tracing::warn;

use super::{
    gate::Turn,
    job_log::JobLog,
    journal::{Journal, Journals, Record},
    reporter::Reporter,
};

/// Stages of a log, in the reference's words.
pub(super) mod stage {
    pub(crate) const SETTING_UP: &str = "Setting up";
    pub(crate) const INIT: &str = "Initializing Terraform Directory";
    pub(crate) const PARSE: &str = "Parsing template parameters";
    pub(crate) const PARSE_LOGS: &str = "Parse parameters";
    pub(crate) const PERSISTENT: &str = "Detecting persistent resources";
    pub(crate) const EPHEMERAL: &str = "Detecting ephemeral resources";
    pub(crate) const PLAN: &str = "Planning Infrastructure";
    pub(crate) const QUOTA: &str = "Commit quota";
    pub(crate) const GRAPH: &str = "Graphing Infrastructure";
    pub(crate) const CLEANING_UP: &str = "Cleaning Up";
}

/// Context of the steps.
pub(super) struct Context<'a> {
    pub(super) job: JobId,
    pub(super) source: &'a Arc<dyn JobSource>,
    pub(super) provisioner: &'a dyn Provisioner,
    pub(super) log: &'a JobLog,
    pub(super) reporter: &'a Reporter,
    pub(super) stop: &'a Stop,
    /// Limits of operations that a job of this daemon may not be interrupted in.
    pub(super) patience: Patience<'a>,
    pub(super) journal: &'a Journal,
    /// Journals of this daemon and its siblings.
    pub(super) journals: &'a Journals,
    /// Identity under which the daemon owns its jobs.
    pub(super) identity: &'a Identity,
    pub(super) turn: &'a Turn,
}

/// Time that an apply has to end after a second signal to the daemon.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    /// Requests to the daemon to stop.
    pub(super) daemon: &'a Stop,
    /// Time after a second signal.
    pub(super) limit: Duration,
}

impl Patience<'_> {
    /// Ends `patient`, a handle for an apply: kills it if its `job` is killed, and leaves it running some time after
    /// its daemon is asked to end at once. People send signals twice by habit, and a killed apply forgets what it
    /// created.
    pub(super) async fn bound(&self, job: &Stop, patient: &Stop) -> Infallible {
        job.killed().await;
        if self.daemon.is_killed() {
            warn!(
                limit = ?self.limit,
                "interrupted the apply; if it takes longer it continues in the background, and the next daemon of this \
                 name finishes the job"
            );
            sleep(self.limit).await;
            patient.leave();
        } else {
            patient.kill();
        }
        pending().await
    }
}

/// Progress of a job. It outlives the code that runs the steps, so that a bug there loses no state.
#[derive(Default)]
pub(super) struct Progress {
    /// Session, which must be closed in the end.
    pub(super) session: Option<Box<dyn Session>>,
    /// Progress of the apply, which decides whether the state belongs to the end of the job.
    pub(super) apply: Apply,
    /// Newest state that the server does not know; `None` before there is one.
    pub(super) state: Option<Bytes>,
    /// Timings of the steps.
    pub(super) timings: Vec<Timing>,
    /// Record in the journal, which outlives us, from the moment apply begins.
    pub(super) record: Option<Record>,
}

/// Progress of an apply: whether the infrastructure may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Apply {
    /// Not begun; nothing has changed.
    #[default]
    NotBegun,
    /// Running; the infrastructure is changing.
    Running,
    /// Running and left to itself: the daemon that takes the journal over ends it.
    Left,
    /// Ended; the infrastructure has changed, and the session has returned the state.
    Ended,
}

/// Failure of a job.
pub(super) struct Failure {
    error: String,
    code: Option<FailureCode>,
}

impl Failure {
    pub(super) fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            code: None,
        }
    }

    /// Returns the failure for a bug of ours, whose details appear only in our log.
    pub(super) fn internal() -> Self {
        Self::new(format!(
            "internal error of the provisioner daemon at {}; see its log",
            Timestamp::now()
        ))
    }

    /// Sets the error code that the text implies. Texts of engines in a build never imply one.
    fn coded(mut self) -> Self {
        self.code = if self.error.contains("missing parameter") {
            Some(FailureCode::MissingTemplateParameter)
        } else if self.error.contains("required template variables") {
            Some(FailureCode::RequiredTemplateVariables)
        } else {
            None
        };
        self
    }

    fn explained(mut self, explanation: &str) -> Self {
        self.error.push_str(explanation);
        self
    }

    fn prefixed(mut self, prefix: &str) -> Self {
        self.error.insert_str(0, prefix);
        self
    }
}

impl From<StepFailure> for Failure {
    /// Converts the failure of a step, with the engine's own first words on it.
    fn from(failure: StepFailure) -> Self {
        Self::new(failure.to_string())
    }
}

impl From<Refused> for Failure {
    /// Converts a violation of the rules that servers enforce.
    fn from(refused: Refused) -> Self {
        Self::new(refused.to_string())
    }
}

/// Runs a job's steps to their end.
pub(super) async fn run(
    context: &Context<'_>,
    job: Job,
    progress: &mut Progress,
) -> Result<CompletedWork, Failure> {
    if let Work::WorkspaceBuild(build) = &job.work {
        context
            .wait_for_workspace(&build.metadata.workspace_id)
            .await?;
    }
    context.wait_for_memory().await?;
    let archive = job.template_archive;
    match job.work {
        Work::Unknown => Err(Failure::new(
            "unknown job type; ensure your provisioner daemon is up-to-date",
        )),
        _ if job.provisioner != "terraform" => Err(Failure::new(format!(
            "failed to connect to provisioner: missing provisioner type {:?}; this daemon has \"terraform\"",
            job.provisioner
        ))),
        Work::WorkspaceBuild(build) => context.build(archive, build, progress).await,
        Work::TemplateImport(import) => context.import(archive, import, progress).await,
        Work::TemplateDryRun(dry_run) => {
            let session = &mut progress.session;
            context
                .dry_run(archive, dry_run, &job.user_name, session)
                .await
        }
    }
}

/// Kind of a job, for a failure of it.
pub(super) fn kind(work: &Work) -> FailedWork {
    match work {
        Work::WorkspaceBuild(_) => FailedWork::WorkspaceBuild {
            state: None,
            timings: Vec::new(),
        },
        Work::TemplateImport(_) => FailedWork::TemplateImport,
        Work::TemplateDryRun(_) => FailedWork::TemplateDryRun,
        Work::Unknown => FailedWork::Unknown,
    }
}

/// Returns the outcome for the server. Once apply has begun, it contains the state, whatever happened.
pub(super) fn outcome(
    context: &Context<'_>,
    kind: FailedWork,
    result: Result<CompletedWork, Failure>,
    progress: &mut Progress,
) -> Outcome {
    let id = context.job;
    let failure = match result {
        Ok(result) => return Outcome::Completed(CompletedJob { id, result }),
        Err(failure) => failure,
    };
    let mut error = match context.why_stopped() {
        Some(why) => format!("{why}: {}", failure.error),
        None => failure.error,
    };
    let record = progress.record.as_ref();
    if let Some(warning) = record.and_then(Record::warning) {
        error.push_str(&format!("; {warning}"));
    }
    let error = context.log.redact(error);
    let work = match kind {
        FailedWork::WorkspaceBuild { .. } => FailedWork::WorkspaceBuild {
            state: progress.state.clone().or_else(|| record?.state()),
            timings: std::mem::take(&mut progress.timings),
        },
        other @ (FailedWork::TemplateImport | FailedWork::TemplateDryRun | FailedWork::Unknown) => {
            other
        }
    };
    let code = failure.code;
    Outcome::Failed(FailedJob {
        id,
        error,
        code,
        work,
    })
}

impl Context<'_> {
    /// Waits until the memory of a job that arrived without fitting is free, while heartbeats keep it alive at the
    /// server.
    async fn wait_for_memory(&self) -> Result<(), Failure> {
        if self.turn.try_begin() {
            return Ok(());
        }
        let text = "Waiting for memory: other jobs of this daemon must end first";
        self.log.line(LogLevel::Info, stage::SETTING_UP, text);
        tokio::select! {
            () = self.turn.begin() => Ok(()),
            () = self.stop.cancelled() => Err(Failure::new("stopped while waiting for memory")),
        }
    }

    async fn open<'s>(
        &self,
        metadata: &Metadata,
        log_level: Option<LogLevel>,
        session: &'s mut Option<Box<dyn Session>>,
    ) -> Result<&'s mut dyn Session, Failure> {
        let config = SessionConfig {
            job_id: self.job,
            log_level,
            template_id: metadata.template_id.clone(),
            template_version_id: metadata.template_version_id.clone(),
            memory: self.turn.memory().clone(),
        };
        let opened = self.provisioner.open(config).await?;
        Ok(session.insert(opened).as_mut())
    }

    /// Checks between two steps whether the job was stopped: then nothing new is begun.
    fn check_stop(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            return Err(Failure::new("stopped between two steps"));
        }
        Ok(())
    }

    fn why_stopped(&self) -> Option<String> {
        let told = self.reporter.why_stopped().map(|why| why.to_string());
        let daemon = || "the provisioner daemon was stopped".to_owned();
        told.or_else(|| self.stop.is_cancelled().then(daemon))
    }
}
