//! The nouns: a job, what it is given, what it says while it runs, and how it ends.
//!
//! These are our own types. Generated protobuf types stop at `transport`, which converts both ways and
//! names the field of a value that does not fit.

mod resource;
mod template;

use std::{collections::BTreeMap, fmt, str::FromStr};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    resource::{
        Agent, AgentAuth, AgentMetadata, AiTask, App, Class, Devcontainer, DisplayApps, Env,
        Healthcheck, MemoryMonitor, OpenIn, Persistence, Resource, ResourceMetadata,
        ResourcesMonitoring, Script, ScriptDependency, ScriptRequirement, SharingLevel,
        VolumeMonitor, classify,
    },
    template::{
        ExternalAuthRequirement, FormType, Module, Parameter, ParameterOption, Prebuild,
        PrebuildSchedule, PrebuildScheduling, Preset, TemplateVariable,
    },
};
use crate::secret::Secret;

/// The server's id of a job.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl From<Uuid> for JobId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What a build does to a workspace. Coder's interface says *delete* where Terraform says *destroy*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// Create or start the workspace.
    #[default]
    Start,
    /// Stop it: its ephemeral resources go, its persistent ones stay.
    Stop,
    /// Remove every resource of it.
    Destroy,
}

impl Transition {
    /// `start`, `stop` or `destroy`, as the `coder` provider reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Destroy => "destroy",
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job as the server hands it out.
#[derive(Clone, Debug)]
pub struct Job {
    /// The server's id.
    pub id: JobId,
    /// When it was queued.
    pub created_at: Timestamp,
    /// The type of provisioner it needs; `terraform` for all that we run.
    pub provisioner: String,
    /// Who asked for it.
    pub user_name: String,
    /// The template: an uncompressed tar archive.
    pub template_archive: Bytes,
    /// What to do with the template.
    pub work: Work,
    /// W3C trace context, by header name.
    pub trace: BTreeMap<String, String>,
}

/// The three kinds of job, and one that we are too old to know.
#[derive(Clone, Debug)]
pub enum Work {
    /// Create, start, stop or delete a workspace.
    WorkspaceBuild(WorkspaceBuild),
    /// Learn what a new template version needs and makes.
    TemplateImport(TemplateImport),
    /// Plan a template with given parameters, for a preview.
    TemplateDryRun(TemplateDryRun),
    /// A kind that only newer daemons know, or none at all.
    Unknown,
}

impl Work {
    /// `workspace_build`, `template_import`, `template_dry_run` or `unknown`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WorkspaceBuild(_) => "workspace_build",
            Self::TemplateImport(_) => "template_import",
            Self::TemplateDryRun(_) => "template_dry_run",
            Self::Unknown => "unknown",
        }
    }
}

/// What a workspace build is given.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceBuild {
    /// The server's id of the build, a UUID as text.
    pub build_id: String,
    /// The workspace's name.
    pub workspace_name: String,
    /// Values of `coder_parameter` data sources.
    pub parameters: Vec<ParameterValue>,
    /// Their values in the build before this one.
    pub previous_parameters: Vec<ParameterValue>,
    /// Values of Terraform input variables, in the order in which they are passed on.
    pub variables: Vec<VariableValue>,
    /// Tokens for `coder_external_auth` data sources.
    pub external_auth: Vec<ExternalAuth>,
    /// Everything else that the `coder` provider tells the template.
    pub metadata: Metadata,
    /// The state after the last build, empty for the first one.
    pub state: Bytes,
    /// The lowest level of log lines to forward: a level's name in lower case, or empty for all.
    pub log_level: String,
}

/// What a template import is given.
#[derive(Clone, Debug, Default)]
pub struct TemplateImport {
    /// Only the URL, groups and template ids are filled.
    pub metadata: Metadata,
    /// The author's values of Terraform input variables.
    pub user_variables: Vec<VariableValue>,
}

/// What a dry run is given.
#[derive(Clone, Debug, Default)]
pub struct TemplateDryRun {
    /// Names and ids that are missing here get placeholders.
    pub metadata: Metadata,
    /// Values of `coder_parameter` data sources.
    pub parameters: Vec<ParameterValue>,
    /// Values of Terraform input variables.
    pub variables: Vec<VariableValue>,
}

/// The value of one `coder_parameter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterValue {
    /// The parameter's name.
    pub name: String,
    /// Its value as text, whatever its type.
    pub value: String,
}

/// The value of one Terraform input variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableValue {
    /// The variable's name.
    pub name: String,
    /// Its value as Terraform takes it after `-var name=`; it may be a password.
    pub value: Secret,
    /// Whether people must not see it.
    pub sensitive: bool,
}

/// A token of an external service, such as a Git host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    /// The provider's id at the server.
    pub id: String,
    /// The user's token.
    pub access_token: Secret,
}

/// Facts about the workspace, its owner and its template, which the `coder` provider reads. Empty means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Coder's and say all there is")]
pub struct Metadata {
    pub coder_url: String,
    pub transition: Transition,
    pub workspace_name: String,
    pub workspace_owner: String,
    pub workspace_id: String,
    pub workspace_owner_id: String,
    pub workspace_owner_email: String,
    pub template_name: String,
    pub template_version: String,
    pub owner_oidc_access_token: Secret,
    pub owner_session_token: Secret,
    pub template_id: String,
    pub workspace_owner_name: String,
    pub owner_groups: Vec<String>,
    pub owner_ssh_public_key: String,
    pub owner_ssh_private_key: Secret,
    pub build_id: String,
    pub owner_login_type: String,
    pub owner_roles: Vec<Role>,
    pub prebuilt_stage: PrebuiltStage,
    pub running_agent_tokens: Vec<RunningAgentToken>,
    pub task_id: String,
    pub task_prompt: String,
    pub template_version_id: String,
    /// Id of the file that holds the modules of the template version; empty if there is none.
    pub template_version_modules_file: String,
}

/// A role of the workspace's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Such as `member`.
    pub name: String,
    /// Empty for a role in the whole deployment.
    pub organization_id: String,
}

/// Whether a build makes a workspace in advance, or gives such a one to its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrebuiltStage {
    /// An ordinary build.
    #[default]
    None,
    /// The workspace is made for the pool.
    Create,
    /// A user takes it out of the pool.
    Claim,
}

/// The token that an agent of a prebuilt workspace already uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAgentToken {
    /// The agent's id in the state.
    pub agent_id: String,
    /// Its token.
    pub token: Secret,
}

/// How important a log line is. The order is that of the wire: `Trace` is the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// For whoever debugs the template.
    Debug,
    /// What a user wants to see.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// The level's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Who said a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The daemon: stage markers, mostly.
    ProvisionerDaemon,
    /// The engine.
    Provisioner,
}

impl LogSource {
    /// The name on Coder's wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProvisionerDaemon => "provisioner_daemon",
            Self::Provisioner => "provisioner",
        }
    }
}

/// One line of a job's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Who said it.
    pub source: LogSource,
    /// How important it is.
    pub level: LogLevel,
    /// When; the wire has milliseconds.
    pub created_at: Timestamp,
    /// A heading such as `Planning Infrastructure`. Empty output with a new stage marks its beginning.
    pub stage: String,
    /// The text: valid UTF-8 without NUL. It may have several lines.
    pub output: String,
}

/// How long one step of the engine took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// When it began, to the microsecond.
    pub start: Timestamp,
    /// When it ended; never before `start`.
    pub end: Timestamp,
    /// Such as `create`, `read` or `load`.
    pub action: String,
    /// The provider, or empty.
    pub source: String,
    /// A resource address, or the name of a stage.
    pub resource: String,
    /// `init`, `plan`, `graph` or `apply`; a server skips others.
    pub stage: String,
    /// How it ended.
    pub state: TimingState,
}

/// How a timed step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimingState {
    /// It has not ended.
    Started,
    /// It succeeded.
    Completed,
    /// It failed.
    Failed,
}

/// A resource that must be destroyed and made again, and the attributes that force it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// The resource's address.
    pub resource: String,
    /// Paths of attributes, such as `tags.0.name`.
    pub paths: Vec<String>,
}

/// How a job ends. Exactly one is sent for each job.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It did what it should.
    Completed(CompletedJob),
    /// It did not; what it made anyway is in the state.
    Failed(FailedJob),
}

/// The result of a job that succeeded.
#[derive(Clone, Debug)]
pub struct CompletedJob {
    /// Which job.
    pub id: JobId,
    /// What it made or learned.
    pub result: CompletedWork,
}

/// What a job made or learned, by kind.
#[derive(Clone, Debug)]
pub enum CompletedWork {
    /// A workspace build.
    WorkspaceBuild(BuildResult),
    /// A template import.
    TemplateImport(Box<ImportResult>),
    /// A dry run.
    TemplateDryRun(DryRunResult),
}

/// What a workspace build made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildResult {
    /// The new state; empty once everything is destroyed without a state.
    #[serde(skip)]
    pub state: Bytes,
    /// All resources, sorted by address.
    pub resources: Vec<Resource>,
    /// Steps of all stages.
    pub timings: Vec<Timing>,
    /// Modules the template calls.
    pub modules: Vec<Module>,
    /// What was destroyed and made again.
    pub replacements: Vec<Replacement>,
    /// AI tasks, at most one in practice.
    pub ai_tasks: Vec<AiTask>,
}

/// What a template import learned.
#[derive(Clone, Debug, Default)]
pub struct ImportResult {
    /// Resources of a started workspace, sorted by address.
    pub start_resources: Vec<Resource>,
    /// Resources of a stopped workspace, sorted by address.
    pub stop_resources: Vec<Resource>,
    /// Parameters in the order of the plan.
    pub parameters: Vec<Parameter>,
    /// External services the template asks for, sorted by id.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// Modules the template calls.
    pub modules: Vec<Module>,
    /// Presets in the order of the plan.
    pub presets: Vec<Preset>,
    /// The start plan as `terraform show -json` prints it.
    pub plan: Bytes,
    /// The modules' files: an uncompressed tar archive, empty if there are none.
    pub module_files: Bytes,
    /// Whether the template has AI tasks.
    pub has_ai_tasks: bool,
    /// Whether the template has agents that somebody else runs.
    pub has_external_agents: bool,
}

/// What a dry run learned.
#[derive(Clone, Debug, Default)]
pub struct DryRunResult {
    /// All resources, sorted by address.
    pub resources: Vec<Resource>,
    /// Modules the template calls.
    pub modules: Vec<Module>,
}

/// The end of a job that failed.
#[derive(Clone, Debug)]
pub struct FailedJob {
    /// Which job.
    pub id: JobId,
    /// Why, for the person who started it. Never empty: a server takes an empty text for success.
    pub error: String,
    /// A code that a user interface can act upon.
    pub code: Option<FailureCode>,
    /// What kind of job it was, with what a build leaves behind.
    pub work: FailedWork,
}

/// What a failed job leaves behind, by kind.
#[derive(Clone, Debug)]
pub enum FailedWork {
    /// A workspace build.
    WorkspaceBuild {
        /// The newest state that parses. `None` before apply began: the server keeps the one it has.
        state: Option<Bytes>,
        /// Steps of the stages that ran.
        timings: Vec<Timing>,
    },
    /// A template import.
    TemplateImport,
    /// A dry run.
    TemplateDryRun,
    /// A kind that we do not know.
    Unknown,
}

/// Why a job failed, where a user interface can act upon it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCode {
    /// A required parameter has no value.
    MissingTemplateParameter,
    /// A required Terraform variable has no value.
    RequiredTemplateVariables,
    /// The owner's budget is used up.
    InsufficientQuota,
}

impl FailureCode {
    /// The code on the wire, such as `INSUFFICIENT_QUOTA`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingTemplateParameter => "MISSING_TEMPLATE_PARAMETER",
            Self::RequiredTemplateVariables => "REQUIRED_TEMPLATE_VARIABLES",
            Self::InsufficientQuota => "INSUFFICIENT_QUOTA",
        }
    }
}
