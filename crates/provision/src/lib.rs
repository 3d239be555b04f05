//! The contracts between the daemon and its two partners: the engine that does a job's work
//! ([`Provisioner`], [`Session`]) and the server that hands out jobs ([`JobSource`]).
//!
//! The shapes are those of Coder's messages at API 1.20, so that every transport carries all of it.

mod providers;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::{
    job::{
        AiTask, CompletedJob, ExternalAuth, ExternalAuthRequirement, FailedJob, Job, JobId,
        LogLevel, LogLine, Metadata, Module, Parameter, ParameterValue, Preset, Replacement,
        Resource, TemplateVariable, Timing, VariableValue,
    },
    stop::Stop,
};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub use self::providers::{
    Detour, LinkSink, ProviderPackages, ProviderStore, ProviderView, Services, UnmetTemplate,
    WantedProvider,
};

/// Where a session says what it does. Implementations return at once, whatever happens to the lines:
/// an engine is never slowed down by a server that does not listen.
pub trait LogSink: Send + Sync {
    /// Takes one entry; `output` may have several lines.
    fn log(&self, level: LogLevel, output: String);

    /// Takes one entry and what it is. Who does not tell kinds apart takes it like any other.
    fn log_entry(&self, entry: LogEntry) {
        self.log(entry.level, entry.output);
    }
}

/// One thing that an engine said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// How important it is.
    pub level: LogLevel,
    /// The text; it may have several lines.
    pub output: String,
    /// What to do with it where there is not room for all.
    pub kind: LogKind,
}

/// What an entry of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Something like any other.
    Plain,
    /// Part of what the engine explained to the author: an error or a warning with its place.
    Diagnostic,
    /// A piece of a line that is too long to be taken at once.
    Piece {
        /// Pieces of lines from different pipes come in turns; this tells them apart.
        stream: usize,
        /// Whether the line ends with it.
        is_last: bool,
    },
}

/// An engine that runs templates.
#[async_trait]
pub trait Provisioner: Send + Sync {
    /// Opens a session, in which the steps of one job run.
    ///
    /// # Errors
    /// [`StepFailure`] if the engine is missing or no directory can be made.
    async fn open(&self, config: SessionConfig) -> Result<Box<dyn Session>, StepFailure>;

    /// Ends an apply that goes on in the directories of a session whose daemon died, and tells `observer` what it
    /// still does, and the newest state that is whole. Nothing of it if there is none. Who drops it leaves the engine
    /// to itself.
    async fn salvage(
        &self,
        dirs: &[PathBuf],
        observer: Arc<dyn ApplyObserver>,
        stop: &Stop,
    ) -> Salvaged {
        let _ = (dirs, observer, stop);
        Salvaged::Ended { problem: None }
    }
}

/// Is told what an apply does, while it does it, for whoever comes after a crash. Implementations return at once.
pub trait ApplyObserver: Send + Sync {
    /// The creation of something began.
    fn began(&self, address: &str);

    /// It is there.
    fn created(&self, address: &str);

    /// It failed, in an orderly way.
    fn failed(&self, address: &str);

    /// The newest state that is whole.
    fn state(&self, state: Bytes);
}

/// What a session is told at its beginning.
#[derive(Clone)]
pub struct SessionConfig {
    /// The job it serves, for logs.
    pub job_id: JobId,
    /// Lines below are dropped. `None` keeps all.
    pub log_level: Option<LogLevel>,
    /// Empty if unknown.
    pub template_id: String,
    /// Empty if unknown.
    pub template_version_id: String,
    /// What measures the memory of its processes.
    pub memory: Memory,
}

/// How much memory the processes of a job have, and may have. Every clone is the same measure.
#[derive(Clone, Debug, Default)]
pub struct Memory(Option<Arc<Measure>>);

#[derive(Debug)]
struct Measure {
    limit: Option<u64>,
    now: AtomicU64,
    peak: AtomicU64,
    changed: Notify,
}

impl Memory {
    /// A measure that somebody reads, with a limit in bytes. The default one is never read.
    pub fn watched(limit: Option<u64>) -> Self {
        Self(Some(Arc::new(Measure {
            limit,
            now: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            changed: Notify::new(),
        })))
    }

    /// Whether measuring is worth while.
    pub fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    /// Bytes that the job may have.
    pub fn limit(&self) -> Option<u64> {
        self.0.as_ref()?.limit
    }

    /// Notes what the job has right now.
    pub fn note(&self, bytes: u64) {
        if let Some(measure) = &self.0 {
            measure.peak.fetch_max(bytes, Ordering::Relaxed);
            measure.now.store(bytes, Ordering::Relaxed);
            measure.changed.notify_one();
        }
    }

    /// What the job had at most; 0 if nobody measured.
    pub fn peak(&self) -> u64 {
        let measure = self.0.as_ref();
        measure.map_or(0, |measure| measure.peak.load(Ordering::Relaxed))
    }

    /// Waits for the next measurement.
    pub async fn changed(&self) -> u64 {
        match &self.0 {
            Some(measure) => {
                measure.changed.notified().await;
                measure.now.load(Ordering::Relaxed)
            }
            None => std::future::pending().await,
        }
    }
}

/// One conversation with an engine, about one job.
///
/// Steps come in one of these orders, and a step that failed ends the conversation:
/// init → parse → plan → graph → plan → graph (import), init → plan → graph (dry run),
/// init → plan → graph → apply → graph (build). Every step ends soon after `stop` is cancelled: with a failure, or with
/// the result if the engine had it already. Dropping a step kills what it runs.
#[async_trait]
pub trait Session: Send {
    /// Unpacks the template and makes providers and modules ready.
    async fn init(
        &mut self,
        request: InitRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<InitComplete, StepFailure>;

    /// Reads the template's source without running anything.
    async fn parse(&mut self, log: Arc<dyn LogSink>) -> Result<ParseComplete, StepFailure>;

    /// Compares what should be with what is.
    async fn plan(
        &mut self,
        request: PlanRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<PlanComplete, StepFailure>;

    /// Carries out the last plan. The state comes back whether it succeeded or not.
    async fn apply(
        &mut self,
        request: ApplyRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> ApplyComplete;

    /// Converts the last plan, or the state, into resources.
    async fn graph(
        &mut self,
        source: GraphSource,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<GraphComplete, StepFailure>;

    /// Has `observer` told what apply does, from its first moment on.
    fn set_observer(&mut self, observer: Arc<dyn ApplyObserver>) {
        let _ = observer;
    }

    /// The directories that end with the session. The state file of an apply is in the first one.
    fn dirs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The newest state that parses, `None` if there is none: for whoever comes after an apply that did not return.
    async fn newest_state(&mut self) -> Option<Bytes>;

    /// The time that processes of the engine took so far, added up.
    fn engine_time(&self) -> Duration;

    /// Ends the session and removes its directory. Problems are logged.
    async fn close(self: Box<Self>);
}

/// Why a step gave no result.
#[derive(Clone, Debug, Default)]
pub struct StepFailure {
    /// For the author: what failed, such as `terraform plan: exit status 1`.
    pub error: String,
    /// The first error that the engine named, if it named one.
    pub diagnostic: Option<String>,
    /// What was measured until then.
    pub timings: Vec<Timing>,
    /// Whether the engine was left to itself, and goes on.
    pub is_left: bool,
}

/// What became of an apply whose daemon died.
#[derive(Clone, Debug)]
pub enum Salvaged {
    /// It ended, or there was none. Whether it succeeded is not known.
    Ended {
        /// Why its state cannot be read, so that the last one that was told of must do.
        problem: Option<String>,
    },
    /// It succeeded, and made this.
    Succeeded(GraphComplete),
}

impl StepFailure {
    /// A failure that is fully said by `error`.
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            ..Self::default()
        }
    }
}

impl std::fmt::Display for StepFailure {
    /// The error, and the engine's own words behind it if they are known.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)?;
        match &self.diagnostic {
            Some(diagnostic) => write!(f, ": {diagnostic}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StepFailure {}

/// What init is given.
#[derive(Clone, Debug, Default)]
pub struct InitRequest {
    /// The template: an uncompressed tar archive.
    pub template_archive: Bytes,
    /// Files to lay over it: the modules of an earlier import. Empty for none.
    pub module_archive: Bytes,
    /// Whether to leave [`InitComplete::module_files`] empty.
    pub omit_module_files: bool,
}

/// What init gives.
#[derive(Clone, Debug, Default)]
pub struct InitComplete {
    /// What was measured.
    pub timings: Vec<Timing>,
    /// Modules the template calls.
    pub modules: Vec<Module>,
    /// Their files: an uncompressed tar archive, empty if there are none.
    pub module_files: Bytes,
}

/// What the template's source says.
#[derive(Clone, Debug, Default)]
pub struct ParseComplete {
    /// Input variables, sorted by file and line.
    pub template_variables: Vec<TemplateVariable>,
    /// `README.md`, empty if there is none.
    pub readme: Bytes,
    /// Tags of `coder_workspace_tags`: names to the source text of their values.
    pub workspace_tags: BTreeMap<String, String>,
}

/// What a plan is given.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest {
    /// Facts for the `coder` provider; the transition decides whether it plans a destruction.
    pub metadata: Metadata,
    /// Answers to the template's questions.
    pub parameters: Vec<ParameterValue>,
    /// Answers in the build before this one.
    pub previous_parameters: Vec<ParameterValue>,
    /// Values of Terraform input variables, in the order in which they are passed.
    pub variables: Vec<VariableValue>,
    /// Tokens of external services.
    pub external_auth: Vec<ExternalAuth>,
    /// The state to start from, empty for none.
    pub state: Bytes,
}

/// What a plan gives.
#[derive(Clone, Debug, Default)]
pub struct PlanComplete {
    /// What was measured.
    pub timings: Vec<Timing>,
    /// The plan as `terraform show -json` prints it. Empty if there was nothing to plan.
    pub plan: Bytes,
    /// Whole units a day, summed over all resources.
    pub daily_cost: i32,
    /// What is destroyed and made again, sorted by address.
    pub replacements: Vec<Replacement>,
    /// How many AI tasks there are; of interest where [`JobSource::has_ai_tasks`].
    pub ai_task_count: i32,
}

/// What apply is given. Everything else it remembers from the plan.
#[derive(Clone, Debug, Default)]
pub struct ApplyRequest {
    /// Facts for the `coder` provider.
    pub metadata: Metadata,
}

/// What apply gives.
#[derive(Clone, Debug, Default)]
pub struct ApplyComplete {
    /// The newest state that parses, `None` if there never was one.
    pub state: Option<Bytes>,
    /// Why it failed; `None` if it did not.
    pub failure: Option<StepFailure>,
    /// What was measured, also if it failed.
    pub timings: Vec<Timing>,
}

/// What to convert into resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphSource {
    /// The last plan.
    Plan,
    /// The state after an apply.
    State,
}

/// What the conversion gives.
#[derive(Clone, Debug, Default)]
pub struct GraphComplete {
    /// What was measured.
    pub timings: Vec<Timing>,
    /// Sorted by address.
    pub resources: Vec<Resource>,
    /// In the plan's order.
    pub parameters: Vec<Parameter>,
    /// Sorted by id.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// In the plan's order.
    pub presets: Vec<Preset>,
    /// In the plan's order.
    pub ai_tasks: Vec<AiTask>,
    /// Whether the template has AI tasks.
    pub has_ai_tasks: bool,
    /// Whether the template has agents that somebody else runs.
    pub has_external_agents: bool,
}

/// A server that hands out jobs, as one daemon sees it. A connection that breaks is mended inside.
#[async_trait]
pub trait JobSource: Send + Sync {
    /// Waits for a job. Once `stop` drains, asks the server to hand out none, and returns what it answers:
    /// `None`, or a job that was already on its way and must be run.
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError>;

    /// Says that the job lives, and what is new of it.
    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError>;

    /// Asks whether the owner's budget allows `daily_cost`, in whole units.
    async fn commit_quota(&self, job: JobId, daily_cost: i32) -> Result<Quota, SourceError>;

    /// Ends a job that failed. A repeated call succeeds, or tells that the job has [`SourceError::Ended`].
    async fn fail(&self, job: FailedJob) -> Result<(), SourceError>;

    /// Ends a job that succeeded. A repeated call succeeds.
    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError>;

    /// Fetches the module archive with this id.
    async fn download_modules(&self, file: Uuid) -> Result<Bytes, SourceError>;

    /// Whether the server still has AI tasks. Only towards such a one they are counted and reported.
    fn has_ai_tasks(&self) -> bool {
        false
    }

    /// The version of a server's daemon API that is too old for the order of scripts; `None` if it is new enough or
    /// not known. Agents of such a server run all scripts of a phase at the same time.
    fn without_script_order(&self) -> Option<String> {
        None
    }

    /// As whom it speaks to which server, `None` if it speaks to nobody outside.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// The same server under the name of another daemon, to end what that one left behind.
    fn sibling(&self, name: &str) -> Option<Arc<dyn JobSource>> {
        let _ = name;
        None
    }

    /// Says, before the first job is asked for, what the daemon has of an earlier process: the server need not wait for
    /// anything else that the daemon had. `state_id` tells its state directory from those of other machines.
    async fn come_back(&self, state_id: &str, held: Vec<JobId>) -> Result<(), SourceError> {
        let _ = (state_id, held);
        Ok(())
    }

    /// Connects if there is no connection, without asking for a job.
    async fn connect(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Whether there is a connection, for health checks; `None` if there is nothing to connect to.
    fn connected(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Whether the server has ever accepted who we are: a refusal after that may pass, one before it will not.
    fn was_accepted(&self) -> bool {
        false
    }
}

/// Who owns jobs at a server: ownership hangs on the name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server's address.
    pub server: String,
    /// The daemon's name there.
    pub name: String,
}

/// What is new of a job that runs.
#[derive(Clone, Debug)]
pub struct JobUpdate {
    /// Which job.
    pub job: JobId,
    /// New lines, in order.
    pub logs: Vec<LogLine>,
    /// Variables that the template declares; sent once.
    pub template_variables: Vec<TemplateVariable>,
    /// The author's values of them.
    pub user_variables: Vec<VariableValue>,
    /// The template's README; sent once.
    pub readme: Bytes,
    /// The template's workspace tags; sent once.
    pub workspace_tags: BTreeMap<String, String>,
}

impl JobUpdate {
    /// An update that only says that the job lives.
    pub fn heartbeat(job: JobId) -> Self {
        Self {
            job,
            logs: Vec::new(),
            template_variables: Vec::new(),
            user_variables: Vec::new(),
            readme: Bytes::new(),
            workspace_tags: BTreeMap::new(),
        }
    }
}

/// What the server answers to an update.
#[derive(Clone, Debug, Default)]
pub struct JobUpdated {
    /// Whether the job was cancelled.
    pub cancelled: bool,
    /// The values of all variables that the update named.
    pub variables: Vec<VariableValue>,
}

/// What the server says about the owner's budget, in whole units a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whether the cost is allowed.
    pub ok: bool,
    /// What is in use.
    pub consumed: i32,
    /// What is allowed; -1 for no limit.
    pub budget: i32,
}

/// Why a job source did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection broke, or there is none. The call may have been carried out.
    #[error("lost the connection to the server")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server understood and refused. Repeating does not help.
    #[error("server refused: {0}")]
    Refused(String),
    /// The job belongs to another daemon, or is not known any more.
    #[error("job is gone: {0}")]
    Gone(String),
    /// The job has an end: ours, if the answer to an earlier call was lost, or somebody else's.
    #[error("job has already ended: {0}")]
    Ended(String),
    /// The server does not accept who we are. Repeating does not help until credentials change.
    #[error("server does not accept the credentials: {0}")]
    Unauthorized(String),
    /// The server does not take this daemon as it is configured. Repeating does not help until either changes.
    #[error("server rejects this daemon: {0}")]
    Unsuitable(String),
    /// The message does not fit through the wire.
    #[error("message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// What it has, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// The server's answer makes no sense.
    #[error("invalid answer: {0}")]
    Invalid(String),
}
