//! The nouns: a job, its input, its logs while it runs, and its outcome. Pure, modules included.
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

/// The effect of a build on a workspace. Coder's interface says *delete* where Terraform says *destroy*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// Creates or starts the workspace.
    #[default]
    Start,
    /// Stops the workspace: ephemeral resources are destroyed, persistent ones stay.
    Stop,
    /// Destroys all resources of the workspace.
    Destroy,
}

impl Transition {
    /// Returns `start`, `stop` or `destroy`, the words that the `coder` provider reads.
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
    /// Id that the server gave the job.
    pub id: JobId,
    /// Time at which the job was queued.
    pub created_at: Timestamp,
    /// Type of provisioner that the job needs; `terraform` for all that we run.
    pub provisioner: String,
    /// Name of the user who started the job.
    pub user_name: String,
    /// The template, an uncompressed tar archive.
    pub template_archive: Bytes,
    /// Kind of job, with its input.
    pub work: Work,
    /// W3C trace context, by header name.
    pub trace: BTreeMap<String, String>,
}

/// The three kinds of job, and a placeholder for kinds that this version does not know.
#[derive(Clone, Debug)]
pub enum Work {
    /// Creates, starts, stops or deletes a workspace.
    WorkspaceBuild(WorkspaceBuild),
    /// Determines what a new template version needs and creates.
    TemplateImport(TemplateImport),
    /// Plans a template with given parameters, for a preview.
    TemplateDryRun(TemplateDryRun),
    /// A kind that only newer daemons know, or no kind at all.
    Unknown,
}

impl Work {
    /// Returns `workspace_build`, `template_import`, `template_dry_run` or `unknown`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::WorkspaceBuild(_) => "workspace_build",
            Self::TemplateImport(_) => "template_import",
            Self::TemplateDryRun(_) => "template_dry_run",
            Self::Unknown => "unknown",
        }
    }
}

/// Input of a workspace build.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceBuild {
    /// The server's id of the build, a UUID as text.
    pub build_id: String,
    /// Name of the workspace.
    pub workspace_name: String,
    /// Values of `coder_parameter` data sources.
    pub parameters: Vec<ParameterValue>,
    /// Values of the same parameters in the previous build.
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

/// Input of a template import.
#[derive(Clone, Debug, Default)]
pub struct TemplateImport {
    /// Facts for the `coder` provider; only the URL, groups and template ids are filled.
    pub metadata: Metadata,
    /// The author's values of Terraform input variables.
    pub user_variables: Vec<VariableValue>,
}

/// Input of a dry run.
#[derive(Clone, Debug, Default)]
pub struct TemplateDryRun {
    /// Facts for the `coder` provider; missing names and ids get placeholders.
    pub metadata: Metadata,
    /// Values of `coder_parameter` data sources.
    pub parameters: Vec<ParameterValue>,
    /// Values of Terraform input variables.
    pub variables: Vec<VariableValue>,
}

/// The value of one `coder_parameter`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterValue {
    /// Name of the parameter in the template.
    pub name: String,
    /// The value as text, whatever the parameter's type.
    pub value: String,
}

/// The value of one Terraform input variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableValue {
    /// Name of the variable in the template.
    pub name: String,
    /// The value as Terraform reads it after `-var name=`; possibly a password.
    pub value: Secret,
    /// `true` if the value must not be shown to people.
    pub sensitive: bool,
}

/// A token of an external service, such as a Git host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    /// Id of the external auth provider at the server.
    pub id: String,
    /// Access token of the user for the service.
    pub access_token: Secret,
}

/// Facts about the workspace, its owner and its template, which the `coder` provider reads. An empty value is
/// unknown.
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
    /// Name of the role, such as `member`.
    pub name: String,
    /// Id of the role's organization; empty for a role in the whole deployment.
    pub organization_id: String,
}

/// Part of a build in the life of a prebuilt workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrebuiltStage {
    /// An ordinary build, without prebuilt workspaces.
    #[default]
    None,
    /// The workspace is created for the pool.
    Create,
    /// A user claims the workspace from the pool.
    Claim,
}

/// The token that an agent of a prebuilt workspace already uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAgentToken {
    /// Id of the agent in the state.
    pub agent_id: String,
    /// Token that the running agent uses.
    pub token: Secret,
}

/// Severity of a log line. The order is that of the wire: `Trace` is the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every single step of the work.
    Trace,
    /// Details for debugging the template.
    Debug,
    /// Progress that a user wants to see.
    Info,
    /// A problem that did not stop the job.
    Warn,
    /// A failure of the job or a step.
    Error,
}

impl LogLevel {
    /// Returns the level's name in lower case.
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

/// Origin of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The daemon itself: mostly the markers of stages.
    ProvisionerDaemon,
    /// Output of the engine.
    Provisioner,
}

impl LogSource {
    /// Returns the name on Coder's wire.
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
    /// Program that wrote the line.
    pub source: LogSource,
    /// Severity of the line.
    pub level: LogLevel,
    /// Time at which the line was written; the wire carries milliseconds.
    pub created_at: Timestamp,
    /// A heading such as `Planning Infrastructure`. Empty output with a new stage marks its beginning.
    pub stage: String,
    /// The text: valid UTF-8 without NUL, possibly of several lines.
    pub output: String,
}

/// Duration of one step of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Beginning of the step, to the microsecond.
    pub start: Timestamp,
    /// End of the step; never before `start`.
    pub end: Timestamp,
    /// The action, such as `create`, `read` or `load`.
    pub action: String,
    /// Provider of the resource, or empty.
    pub source: String,
    /// A resource address, or the name of a stage.
    pub resource: String,
    /// One of `init`, `plan`, `graph` and `apply`; a server skips others.
    pub stage: String,
    /// State in which the step ended.
    pub state: TimingState,
}

/// State of a timed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimingState {
    /// The step has not ended.
    Started,
    /// The step ended with success.
    Completed,
    /// The step ended with a failure.
    Failed,
}

/// A resource that must be replaced, and the attributes that force its replacement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// Address of the resource instance.
    pub resource: String,
    /// Paths of attributes, such as `tags.0.name`.
    pub paths: Vec<String>,
}

/// The final message of a job. Exactly one is sent for each job.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The job succeeded, with this result.
    Completed(CompletedJob),
    /// The job failed; its state contains what it created nevertheless.
    Failed(FailedJob),
}

/// Result of a job that succeeded.
#[derive(Clone, Debug)]
pub struct CompletedJob {
    /// Id of the completed job.
    pub id: JobId,
    /// Result of the job, by its kind.
    pub result: CompletedWork,
}

/// Result of a completed job, by its kind.
#[derive(Clone, Debug)]
pub enum CompletedWork {
    /// Result of a workspace build.
    WorkspaceBuild(BuildResult),
    /// Result of a template import.
    TemplateImport(Box<ImportResult>),
    /// Result of a dry run.
    TemplateDryRun(DryRunResult),
}

/// Result of a workspace build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildResult {
    /// The new state; empty if everything was destroyed and no state is left.
    #[serde(skip)]
    pub state: Bytes,
    /// All resources, sorted by address.
    pub resources: Vec<Resource>,
    /// Timings of the steps of all stages.
    pub timings: Vec<Timing>,
    /// Modules that the template calls.
    pub modules: Vec<Module>,
    /// Resources that the build replaced.
    pub replacements: Vec<Replacement>,
    /// AI tasks of the workspace; at most one in practice.
    pub ai_tasks: Vec<AiTask>,
}

/// Result of a template import.
#[derive(Clone, Debug, Default)]
pub struct ImportResult {
    /// Resources of a started workspace, sorted by address.
    pub start_resources: Vec<Resource>,
    /// Resources of a stopped workspace, sorted by address.
    pub stop_resources: Vec<Resource>,
    /// Parameters in the order of the plan.
    pub parameters: Vec<Parameter>,
    /// External services whose tokens the template needs, sorted by id.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// Modules that the template calls.
    pub modules: Vec<Module>,
    /// Presets in the order of the plan.
    pub presets: Vec<Preset>,
    /// The start plan as `terraform show -json` prints it.
    pub plan: Bytes,
    /// The modules' files: an uncompressed tar archive, empty if there are none.
    pub module_files: Bytes,
    /// `true` if the template has AI tasks.
    pub has_ai_tasks: bool,
    /// `true` if the template has external agents, which run outside of its resources.
    pub has_external_agents: bool,
}

/// Result of a dry run.
#[derive(Clone, Debug, Default)]
pub struct DryRunResult {
    /// All resources, sorted by address.
    pub resources: Vec<Resource>,
    /// Modules that the template calls.
    pub modules: Vec<Module>,
}

/// The end of a job that failed.
#[derive(Clone, Debug)]
pub struct FailedJob {
    /// Id of the failed job.
    pub id: JobId,
    /// Reason, for the person who started the job. Never empty: a server interprets an empty text as success.
    pub error: String,
    /// Code that a user interface can act on.
    pub code: Option<FailureCode>,
    /// Kind of the job, with what a build leaves behind.
    pub work: FailedWork,
}

/// Remains of a failed job, by its kind.
#[derive(Clone, Debug)]
pub enum FailedWork {
    /// Remains of a workspace build.
    WorkspaceBuild {
        /// The newest state that parses. `None` before apply began: the server then keeps the state that it has.
        state: Option<Bytes>,
        /// Timings of the stages that ran.
        timings: Vec<Timing>,
    },
    /// A template import, which leaves nothing behind.
    TemplateImport,
    /// A dry run, which leaves nothing behind.
    TemplateDryRun,
    /// A kind that this version does not know.
    Unknown,
}

/// Reason for a failure that a user interface can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCode {
    /// A required parameter has no value.
    MissingTemplateParameter,
    /// A required Terraform variable has no value.
    RequiredTemplateVariables,
    /// The owner's quota is used up.
    InsufficientQuota,
}

impl FailureCode {
    /// Returns the code on the wire, such as `INSUFFICIENT_QUOTA`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingTemplateParameter => "MISSING_TEMPLATE_PARAMETER",
            Self::RequiredTemplateVariables => "REQUIRED_TEMPLATE_VARIABLES",
            Self::InsufficientQuota => "INSUFFICIENT_QUOTA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Journals and databases hold results as JSON, so an upgrade must read those that lack its newer fields.
    #[test]
    fn a_result_stored_before_a_field_existed_is_read() {
        let stored = r#"{
            "resources": [{
                "metadata": [{}],
                "agents": [{
                    "apps": [{}, {"healthcheck": {}}],
                    "display_apps": {},
                    "metadata": [{}],
                    "scripts": [{"dependencies": [{"prerequisite": "coder_script.a", "requirement": "success"}]}],
                    "extra_envs": [{}],
                    "resources_monitoring": {"memory": {}, "volumes": [{}]},
                    "devcontainers": [{}]
                }]
            }],
            "timings": [{
                "start": "1970-01-01T00:00:00Z", "end": "1970-01-01T00:00:01Z", "action": "create",
                "source": "", "resource": "a.b", "stage": "apply", "state": "completed"
            }],
            "modules": [{}],
            "replacements": [{"resource": "a.b", "paths": ["c"]}],
            "ai_tasks": [{}]
        }"#;

        let result: BuildResult = serde_json::from_str(stored).unwrap();

        let agent = &result.resources[0].agents[0];
        assert_eq!(
            agent.apps,
            [
                App::default(),
                App {
                    healthcheck: Some(Healthcheck::default()),
                    ..App::default()
                }
            ]
        );
        assert_eq!(agent.display_apps, DisplayApps::default());
        assert_eq!(agent.scripts[0].dependencies.len(), 1);
        assert_eq!(
            agent.resources_monitoring.volumes,
            [VolumeMonitor::default()]
        );
        assert_eq!((result.timings.len(), result.replacements.len()), (1, 1));
    }
}
