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
    InitProxy, LinkSink, ProviderPackages, ProviderStore, ProviderView, Services, UnmetTemplate,
    WantedProvider,
};

/// Receiver of a session's log. Implementations return at once, whatever happens to the lines: an engine is never
/// slowed down by a server that does not listen.
pub trait LogSink: Send + Sync {
    /// Takes one entry; `output` may have several lines.
    fn log(&self, level: LogLevel, output: String);

    /// Takes one entry with its kind. The default implementation ignores the kind.
    fn log_entry(&self, entry: LogEntry) {
        self.log(entry.level, entry.output);
    }
}

/// One message of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Severity of the entry.
    pub level: LogLevel,
    /// The text, possibly of several lines.
    pub output: String,
    /// Kind of the entry, which decides what is kept when there is not room for everything.
    pub kind: LogKind,
}

/// Kind of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// An entry without a special meaning.
    Plain,
    /// Part of a diagnostic: an error or a warning of the engine with its position in the template.
    Diagnostic,
    /// A piece of a line that is too long to be taken at once.
    Piece {
        /// Number of the pipe, because pieces of lines from different pipes may alternate.
        stream: usize,
        /// `true` for the last piece of the line.
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

    /// Ends an apply that is still running in the directories of a session whose daemon died, and tells `observer`
    /// what it does until then and the newest complete state. Returns without either if there is no such apply.
    /// Dropping the future leaves the engine running.
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

/// Observer of an apply, whose records help after a crash. Implementations return at once.
pub trait ApplyObserver: Send + Sync {
    /// Records that the creation of a resource began.
    fn began(&self, address: &str);

    /// Records that the resource was created.
    fn created(&self, address: &str);

    /// Records that the creation failed in an orderly way.
    fn failed(&self, address: &str);

    /// Records the newest complete state.
    fn state(&self, state: Bytes);
}

/// Parameters of a session.
#[derive(Clone)]
pub struct SessionConfig {
    /// Id of the session's job, for logs.
    pub job_id: JobId,
    /// Lowest level of lines to keep; `None` keeps all.
    pub log_level: Option<LogLevel>,
    /// Id of the template; empty if unknown.
    pub template_id: String,
    /// Id of the template version; empty if unknown.
    pub template_version_id: String,
    /// Meter for the memory of the session's processes.
    pub memory: Memory,
}

impl SessionConfig {
    /// A session that no server knows of.
    pub fn without_job() -> Self {
        Self {
            job_id: JobId(Uuid::new_v4()),
            log_level: None,
            template_id: String::new(),
            template_version_id: String::new(),
            memory: Memory::default(),
        }
    }
}

/// Meter and limit of the memory of a job's processes. All clones share the same values.
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
    /// Returns a meter that somebody reads, with a limit in bytes. The default meter is never read.
    pub fn watched(limit: Option<u64>) -> Self {
        Self(Some(Arc::new(Measure {
            limit,
            now: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            changed: Notify::new(),
        })))
    }

    /// Returns whether somebody reads the meter.
    pub fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the limit in bytes.
    pub fn limit(&self) -> Option<u64> {
        self.0.as_ref()?.limit
    }

    /// Records the current memory of the job in bytes.
    pub fn note(&self, bytes: u64) {
        if let Some(measure) = &self.0 {
            measure.peak.fetch_max(bytes, Ordering::Relaxed);
            measure.now.store(bytes, Ordering::Relaxed);
            measure.changed.notify_one();
        }
    }

    /// Returns the peak in bytes; 0 if nothing was recorded.
    pub fn peak(&self) -> u64 {
        let measure = self.0.as_ref();
        measure.map_or(0, |measure| measure.peak.load(Ordering::Relaxed))
    }

    /// Waits for the next measurement, and returns it in bytes.
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

/// A conversation with an engine about one job.
///
/// Steps come in one of these orders, and a step that failed ends the conversation:
/// init → parse → plan → graph → plan → graph (import), init → plan → graph (dry run),
/// init → plan → graph → apply → graph (build). Every step ends soon after `stop` is cancelled: with a failure, or with
/// the result if the engine had it already. Dropping a step kills what it runs.
#[async_trait]
pub trait Session: Send {
    /// Unpacks the template and installs its modules and providers.
    async fn init(
        &mut self,
        request: InitRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<InitComplete, StepFailure>;

    /// Reads the template's source without running anything.
    async fn parse(&mut self, log: Arc<dyn LogSink>) -> Result<ParseComplete, StepFailure>;

    /// Computes the difference between the configuration and the existing resources.
    async fn plan(
        &mut self,
        request: PlanRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<PlanComplete, StepFailure>;

    /// Applies the last plan. The state is returned whether apply succeeded or not.
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

    /// Sets the observer of the following apply, which it sees from the beginning.
    fn set_observer(&mut self, observer: Arc<dyn ApplyObserver>) {
        let _ = observer;
    }

    /// Returns the schemas of the providers that the template names, as `terraform providers schema -json` prints them. Needs
    /// an init before.
    async fn schemas(&mut self, stop: &Stop) -> Result<Bytes, StepFailure> {
        let _ = stop;
        Err(StepFailure::new("this engine prints no schemas"))
    }

    /// Returns the directories that end with the session. The first one contains the state file of an apply.
    fn dirs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Returns the newest state that parses, `None` if there is none: for use after an apply that did not return.
    async fn newest_state(&mut self) -> Option<Bytes>;

    /// Returns the total run time of the engine's processes so far.
    fn engine_time(&self) -> Duration;

    /// Ends the session and removes its directory. Problems are logged.
    async fn close(self: Box<Self>);
}

/// Reason why a step returned no result.
#[derive(Clone, Debug, Default)]
pub struct StepFailure {
    /// Message for the template's author, such as `terraform plan: exit status 1`.
    pub error: String,
    /// First error that the engine reported, if it reported one.
    pub diagnostic: Option<String>,
    /// Timings of the steps until the failure.
    pub timings: Vec<Timing>,
    /// `true` if the engine was left running and continues without this daemon.
    pub is_left: bool,
}

/// Result of an apply whose daemon died.
#[derive(Clone, Debug)]
pub enum Salvaged {
    /// The apply ended, or there was none. Whether it succeeded is not known.
    Ended {
        /// Reason why its state cannot be read, so that the last observed one has to be used.
        problem: Option<String>,
    },
    /// The apply succeeded, with this result.
    Succeeded(GraphComplete),
}

impl StepFailure {
    /// Returns a failure that `error` describes completely.
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            ..Self::default()
        }
    }
}

impl std::fmt::Display for StepFailure {
    /// Writes the error, followed by the engine's first error if that is known.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)?;
        match &self.diagnostic {
            Some(diagnostic) => write!(f, ": {diagnostic}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StepFailure {}

/// Input of the init step.
#[derive(Clone, Debug, Default)]
pub struct InitRequest {
    /// The template: an uncompressed tar archive.
    pub template_archive: Bytes,
    /// Files that are added to the template: the modules of an earlier import. Empty for none.
    pub module_archive: Bytes,
    /// `true` if [`InitComplete::module_files`] should stay empty.
    pub omit_module_files: bool,
    /// `true` if init should end once the modules are there, without providers and without a backend.
    pub only_modules: bool,
}

/// Result of a successful init.
#[derive(Clone, Debug, Default)]
pub struct InitComplete {
    /// Timings of init's steps.
    pub timings: Vec<Timing>,
    /// Modules the template calls.
    pub modules: Vec<Module>,
    /// The modules' files, an uncompressed tar archive; empty if there are none.
    pub module_files: Bytes,
}

/// Contents of the template's source.
#[derive(Clone, Debug, Default)]
pub struct ParseComplete {
    /// Input variables, sorted by file and line.
    pub template_variables: Vec<TemplateVariable>,
    /// Text of `README.md`; empty if there is none.
    pub readme: Bytes,
    /// Tags of `coder_workspace_tags`, as source texts of the values by name.
    pub workspace_tags: BTreeMap<String, String>,
}

/// Input of a plan.
#[derive(Clone, Debug, Default)]
pub struct PlanRequest {
    /// Facts for the `coder` provider; the transition decides whether the plan destroys everything.
    pub metadata: Metadata,
    /// Values of the template's parameters.
    pub parameters: Vec<ParameterValue>,
    /// Values of the parameters in the previous build.
    pub previous_parameters: Vec<ParameterValue>,
    /// Values of Terraform input variables, in the order in which they are passed.
    pub variables: Vec<VariableValue>,
    /// Tokens of external services.
    pub external_auth: Vec<ExternalAuth>,
    /// State that the plan starts from; empty for none.
    pub state: Bytes,
}

/// Result of a successful plan.
#[derive(Clone, Debug, Default)]
pub struct PlanComplete {
    /// Timings of the plan's steps.
    pub timings: Vec<Timing>,
    /// The plan as `terraform show -json` prints it. Empty if there was nothing to plan.
    pub plan: Bytes,
    /// Cost in whole units a day, summed over all resources.
    pub daily_cost: i32,
    /// Resources that the plan replaces, sorted by address.
    pub replacements: Vec<Replacement>,
    /// Number of AI tasks; used only where [`JobSource::has_ai_tasks`] returns `true`.
    pub ai_task_count: i32,
}

/// Input of apply, in addition to what the session remembers from the plan.
#[derive(Clone, Debug, Default)]
pub struct ApplyRequest {
    /// Facts for the `coder` provider.
    pub metadata: Metadata,
}

/// Result of an apply, successful or not.
#[derive(Clone, Debug, Default)]
pub struct ApplyComplete {
    /// The newest state that parses, `None` if there never was one.
    pub state: Option<Bytes>,
    /// Reason for the failure; `None` if apply succeeded.
    pub failure: Option<StepFailure>,
    /// Timings of the steps, also after a failure.
    pub timings: Vec<Timing>,
}

/// Source of the conversion into resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphSource {
    /// The plan that was made last.
    Plan,
    /// The state after an apply.
    State,
}

/// Result of the conversion into resources.
#[derive(Clone, Debug, Default)]
pub struct GraphComplete {
    /// Timings of the conversion's steps.
    pub timings: Vec<Timing>,
    /// Resources, sorted by address.
    pub resources: Vec<Resource>,
    /// Parameters in the order of the plan.
    pub parameters: Vec<Parameter>,
    /// External services that the template needs, sorted by id.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// Presets in the order of the plan.
    pub presets: Vec<Preset>,
    /// AI tasks in the order of the plan.
    pub ai_tasks: Vec<AiTask>,
    /// `true` if the template has AI tasks.
    pub has_ai_tasks: bool,
    /// `true` if the template has external agents, which run outside of its resources.
    pub has_external_agents: bool,
}

/// A server that hands out jobs, as one daemon sees it. Implementations reconnect by themselves.
#[async_trait]
pub trait JobSource: Send + Sync {
    /// Waits for a job. After `stop` drains, asks the server to hand out none, and returns its answer: `None`, or a
    /// job that was already on its way and must be run.
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError>;

    /// Sends a heartbeat of the job with whatever is new.
    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError>;

    /// Asks whether the owner's budget allows `daily_cost`, in whole units.
    async fn commit_quota(&self, job: JobId, daily_cost: i32) -> Result<Quota, SourceError>;

    /// Ends a job that failed. A repeated call succeeds, or returns [`SourceError::Ended`].
    async fn fail(&self, job: FailedJob) -> Result<(), SourceError>;

    /// Ends a job that succeeded. A repeated call succeeds.
    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError>;

    /// Fetches the module archive with this id.
    async fn download_modules(&self, file: Uuid) -> Result<Bytes, SourceError>;

    /// Returns whether the server supports AI tasks. They are counted and reported only to such a server.
    fn has_ai_tasks(&self) -> bool {
        false
    }

    /// Returns the version of the server's daemon API if it is too old for the order of scripts; `None` if it is new
    /// enough or not known. Agents of such a server run all scripts of a phase at the same time.
    fn without_script_order(&self) -> Option<String> {
        None
    }

    /// Returns the identity of the daemon at the server; `None` without a server outside of this process.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Returns a source for the same server under the name of another daemon, to end the jobs that it left behind.
    fn sibling(&self, name: &str) -> Option<Arc<dyn JobSource>> {
        let _ = name;
        None
    }

    /// Reports, before the first job is requested, which jobs of an earlier process the daemon still holds, so that
    /// the server ends its other jobs. `state_id` distinguishes its state directory from those of other machines.
    async fn come_back(&self, state_id: &str, held: Vec<JobId>) -> Result<(), SourceError> {
        let _ = (state_id, held);
        Ok(())
    }

    /// Connects if there is no connection, without requesting a job.
    async fn connect(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Returns whether there is a connection, for health checks; `None` if there is nothing to connect to.
    fn connected(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Returns whether the server has ever accepted the credentials: a refusal after that may be temporary, one
    /// before it is not.
    fn was_accepted(&self) -> bool {
        false
    }
}

/// Identity of a daemon at a server. Only the name decides who owns a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Address of the server.
    pub server: String,
    /// Name of the daemon at that server.
    pub name: String,
}

/// News of a running job.
#[derive(Clone, Debug)]
pub struct JobUpdate {
    /// Id of the running job.
    pub job: JobId,
    /// New log lines, in order.
    pub logs: Vec<LogLine>,
    /// Variables that the template declares; sent once.
    pub template_variables: Vec<TemplateVariable>,
    /// Values that the author gave to the variables.
    pub user_variables: Vec<VariableValue>,
    /// The template's README; sent once.
    pub readme: Bytes,
    /// The template's workspace tags; sent once.
    pub workspace_tags: BTreeMap<String, String>,
}

impl JobUpdate {
    /// Returns an update that is only a heartbeat.
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

/// Answer of the server to an update.
#[derive(Clone, Debug, Default)]
pub struct JobUpdated {
    /// `true` if the job was cancelled.
    pub cancelled: bool,
    /// Values of all variables that the update named.
    pub variables: Vec<VariableValue>,
}

/// Quota of the workspace's owner, in whole units a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// `true` if the cost is allowed.
    pub ok: bool,
    /// Cost of the owner's workspaces.
    pub consumed: i32,
    /// Limit of the cost; -1 for no limit.
    pub budget: i32,
}

/// Reason why a call of a job source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection broke, or there is none. The call may have been carried out.
    #[error("lost the connection to the server")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server understood and refused. A repetition does not help.
    #[error("server refused: {0}")]
    Refused(String),
    /// The job belongs to another daemon, or no longer exists at the server.
    #[error("job is gone: {0}")]
    Gone(String),
    /// The job has ended already: by an earlier call whose answer was lost, or by another party.
    #[error("job has already ended: {0}")]
    Ended(String),
    /// The server does not accept the credentials. A repetition does not help until they change.
    #[error("server does not accept the credentials: {0}")]
    Unauthorized(String),
    /// The server does not accept this daemon's configuration. A repetition does not help until either changes.
    #[error("server rejects this daemon: {0}")]
    Unsuitable(String),
    /// The message exceeds the transport's limit.
    #[error("message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Size of the message in bytes.
        size: usize,
        /// Limit of the transport in bytes.
        limit: usize,
    },
    /// The answer of the server is not valid.
    #[error("invalid answer: {0}")]
    Invalid(String),
}
