//! Types of the control plane's data: our own, free of SQL and of wire formats. Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;
use outpost_base::job::{
    ExternalAuthRequirement, FailureCode, JobId, LogLine, Module, Parameter, ParameterValue,
    Persistence, Preset, Resource, TemplateVariable, Timing, Transition,
};
use outpost_process::uptime::Uptime;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{agent_log, queue::Tags};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Returns a new random id (a UUID, version 4).
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

ids! {
    /// Id of an organization.
    OrganizationId,
    /// Id of a user.
    UserId,
    /// Id of an API token.
    TokenId,
    /// Id of a provisioner key.
    KeyId,
    /// Id of a daemon; it stays the same while its organization, name and owner do.
    DaemonId,
    /// Id of a stored file.
    FileId,
    /// Id of a template.
    TemplateId,
    /// Id of a version of a template.
    VersionId,
    /// Id of a workspace.
    WorkspaceId,
    /// Id of a build of a workspace.
    BuildId,
    /// Id of an agent, another one in each build.
    AgentId,
}

/// A group of people, templates and daemons that sees nothing of other groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Organization {
    /// Unique id of the organization.
    pub id: OrganizationId,
    /// Name, unique among all organizations.
    pub name: String,
    /// Set for the default organization, which calls mean that name none; daemons with a pre-shared key belong to it.
    pub is_default: bool,
    /// Time when the organization was created.
    pub created_at: Timestamp,
}

/// A person who may call the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Unique id of the user.
    pub id: UserId,
    /// Name, unique among all users.
    pub name: String,
    /// Email address; may be empty.
    pub email: String,
    /// Full name; may be empty.
    pub full_name: String,
    /// Set for administrators, who manage templates, keys and users.
    pub admin: bool,
    /// Time when an administrator suspended the user; `None` for an active one.
    pub(crate) suspended_at: Option<Timestamp>,
    /// Daily budget of the user's workspaces, in whole units; `None` for no limit.
    pub budget: Option<i32>,
    /// Time when the user was added.
    pub created_at: Timestamp,
}

/// An API token; its value is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Unique id of the token.
    pub id: TokenId,
    /// User that the token authenticates.
    pub user_id: UserId,
    /// Name that its owner chose.
    pub name: String,
    /// Time when the token was created.
    pub created_at: Timestamp,
    /// Time when the token expires; `None` if it never does.
    pub expires_at: Option<Timestamp>,
    /// Time of its last use, to the minute; `None` before the first.
    pub last_used_at: Option<Timestamp>,
}

/// A provisioner key; its value is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvisionerKey {
    /// Unique id of the provisioner key.
    pub id: KeyId,
    /// Organization that daemons with this key belong to.
    pub organization_id: OrganizationId,
    /// Name, unique in the organization when case is ignored.
    pub name: String,
    /// Tags of daemons with this key.
    pub tags: Tags,
    /// Time when the key was created.
    pub created_at: Timestamp,
}

/// A daemon that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Unique id of the daemon.
    pub id: DaemonId,
    /// Organization whose jobs the daemon takes.
    pub organization_id: OrganizationId,
    /// Credential that the daemon registered with, and that its name belongs to.
    pub holder: Holder,
    /// Name, unique among the daemons of its organization and holder.
    pub name: String,
    /// Tags that are matched against those of jobs.
    pub tags: Tags,
    /// Types of provisioner, such as `terraform`.
    pub provisioners: Vec<String>,
    /// Version of the daemon's program.
    pub version: String,
    /// Version of Coder's daemon API that the daemon speaks; empty if it did not say.
    pub api_version: String,
    /// Time of its first registration.
    pub created_at: Timestamp,
    /// Time when it was last heard from.
    pub last_seen_at: Timestamp,
    /// Id of the calling process's state directory; empty if it did not say.
    #[serde(skip)]
    pub(crate) state_id: String,
}

impl Daemon {
    /// Returns the provisioner key that the daemon registered with, if it used one.
    pub fn key_id(&self) -> Option<KeyId> {
        match self.holder {
            Holder::Key(id) => Some(id),
            Holder::Shared | Holder::Person(_) | Holder::Unknown => None,
        }
    }
}

/// The credential that a daemon's name, and with it the daemon's jobs, belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Holder {
    /// Any of the server's pre-shared keys, or the server itself for a daemon in its process.
    Shared,
    /// A provisioner key, by its id.
    Key(KeyId),
    /// Any token of this person.
    Person(UserId),
    /// Unknown, because an old version of this program did not record it; not a provisioner key.
    Unknown,
}

impl Holder {
    /// Returns whether a daemon with the credential `other` counts as the same daemon, reconnected.
    pub(crate) fn is_also(self, other: Self) -> bool {
        match (self, other) {
            (Self::Unknown, Self::Shared | Self::Person(_)) => true,
            (_, _) => self == other,
        }
    }
}

/// Formats a holder as it is stored.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("psk"),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Person(id) => write!(f, "user:{id}"),
            Self::Unknown => Ok(()),
        }
    }
}

/// Parses a holder as it is stored.
impl FromStr for Holder {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.split_once(':')) {
            ("psk", _) => Ok(Self::Shared),
            (_, Some(("key", id))) => id.parse().map(Self::Key),
            (_, Some(("user", id))) => id.parse().map(Self::Person),
            ("", _) => Ok(Self::Unknown),
            (other, _) => other.parse().map(Self::Key),
        }
    }
}

/// A template, with the version that new workspaces use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Template {
    /// Unique id of the template.
    pub id: TemplateId,
    /// Organization that the template belongs to.
    pub organization_id: OrganizationId,
    /// Unique in the organization among templates that are not deleted.
    pub name: String,
    /// Version that new workspaces use; `None` before the first import.
    pub active_version: Option<VersionId>,
    /// User who created the template.
    pub created_by: UserId,
    /// Time when the template was created.
    pub created_at: Timestamp,
    /// Time when the active version last changed.
    pub updated_at: Timestamp,
    /// Time when the template was deleted; `None` while it exists.
    pub(crate) deleted_at: Option<Timestamp>,
}

/// A version of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Unique id of the version.
    pub id: VersionId,
    /// Template that the version belongs to.
    pub template_id: TemplateId,
    /// Name, unique in the template.
    pub name: String,
    /// Message that its author wrote; may be empty.
    pub message: String,
    /// Archive with the template's files.
    pub(crate) file_id: FileId,
    /// The job that imports it.
    pub job_id: JobId,
    /// Set if the version becomes active once it is imported.
    pub activate: bool,
    /// Tags that the author gave: those of the import, and the base of those of builds.
    pub tags: Tags,
    /// User who created the version.
    pub created_by: UserId,
    /// Time when the version was created.
    pub created_at: Timestamp,
}

/// Result of the import of a version. Empty while the import runs, except for fields that are sent early.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportOutput {
    /// Terraform input variables that the template declares; sent early.
    pub variables: Vec<TemplateVariable>,
    /// README of the template; sent early.
    pub readme: String,
    /// Tags of its workspaces' jobs: names to expressions; sent early.
    pub workspace_tags: BTreeMap<String, String>,
    /// Parameters of the template.
    pub parameters: Vec<Parameter>,
    /// Presets of the template: named sets of parameter values.
    pub presets: Vec<Preset>,
    /// External services that its workspaces need tokens for.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// Modules that the template calls.
    pub modules: Vec<Module>,
    /// Resources of a started workspace.
    pub start_resources: Vec<Resource>,
    /// Resources of a stopped workspace.
    pub stop_resources: Vec<Resource>,
    /// Archive of the modules' files; `None` without modules.
    pub(crate) modules_file: Option<FileId>,
    /// Set if the template has AI tasks.
    pub has_ai_tasks: bool,
    /// Set if the template has external agents, which run outside the workspace's resources.
    pub has_external_agents: bool,
}

/// A stored file. Equal content of one kind is stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Unique id of the file.
    pub id: FileId,
    /// Purpose of the file.
    pub kind: FileKind,
    /// SHA-256 of the content, 64 hexadecimal digits.
    pub(crate) sha256: String,
    /// Content of the file.
    pub content: bytes::Bytes,
}

/// Purpose of a file. A daemon may fetch modules by id, but never templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Archive with a template's files.
    Template,
    /// The modules of a template version.
    Modules,
}

/// A workspace of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workspace {
    /// Unique id of the workspace.
    pub id: WorkspaceId,
    /// Organization that the workspace belongs to.
    pub organization_id: OrganizationId,
    /// User who owns the workspace.
    pub(crate) owner_id: UserId,
    /// Name of the owner.
    pub owner: String,
    /// Template that the workspace is built from.
    pub template_id: TemplateId,
    /// Name, unique among the owner's workspaces that are not deleted.
    pub name: String,
    /// Time when the workspace was created.
    pub created_at: Timestamp,
    /// Time when its latest build began or ended.
    pub updated_at: Timestamp,
    /// Time when the workspace was deleted; `None` while it exists.
    pub(crate) deleted_at: Option<Timestamp>,
}

/// A build of a workspace: one transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Unique id of the build.
    pub id: BuildId,
    /// Workspace that is built.
    pub workspace_id: WorkspaceId,
    /// Number of the build within its workspace, from 1, without gaps.
    pub number: i32,
    /// Transition that the build carries out.
    pub transition: Transition,
    /// Template version that the build uses.
    pub(crate) version_id: VersionId,
    /// Job that runs the build.
    pub job_id: JobId,
    /// Values of all of the template's parameters.
    pub parameters: Vec<ParameterValue>,
    /// Name of the chosen preset; empty for none.
    pub preset: String,
    /// Lowest level of log lines to keep: a level's name, or empty for all.
    pub log_level: String,
    /// Daily cost in whole units, once the quota is committed.
    pub daily_cost: i32,
    /// Set if there is a state after the build.
    pub has_state: bool,
    /// User who requested the build.
    pub(crate) initiator_id: UserId,
    /// Time when the build was requested.
    pub created_at: Timestamp,
}

/// An agent of a build, with its reported progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentRecord {
    /// Unique id of the agent.
    pub id: AgentId,
    /// Build that created the agent.
    pub build_id: BuildId,
    /// Workspace that the agent runs in.
    pub workspace_id: WorkspaceId,
    /// Name, unique in the workspace.
    pub name: String,
    /// Lifecycle state that the agent reported last.
    pub lifecycle: Lifecycle,
    /// Version of the agent's program; empty before its first report.
    pub version: String,
    /// Directory in which its sessions start; empty before its first report.
    pub directory: String,
    /// Time when the agent's build ended.
    pub created_at: Timestamp,
    /// Time of its first connection.
    pub first_connected_at: Option<Timestamp>,
    /// Time when it was last heard from.
    pub last_connected_at: Option<Timestamp>,
}

/// A line of an agent's log, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAgentLine {
    /// Position in the log: increasing, but with gaps.
    pub id: i64,
    /// Log source of the script that wrote the line, as the agent knows it.
    pub source: Uuid,
    /// Time when the server received the line.
    pub created_at: Timestamp,
    /// Level and text of the line.
    pub line: agent_log::Line,
}

/// Lifecycle state of an agent. An agent never returns to an earlier state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is Coder's word for it")]
pub enum Lifecycle {
    Created,
    Starting,
    StartTimeout,
    StartError,
    Ready,
    ShuttingDown,
    ShutdownTimeout,
    ShutdownError,
    Off,
}

impl Lifecycle {
    /// Returns the name under which the state is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::StartTimeout => "start_timeout",
            Self::StartError => "start_error",
            Self::Ready => "ready",
            Self::ShuttingDown => "shutting_down",
            Self::ShutdownTimeout => "shutdown_timeout",
            Self::ShutdownError => "shutdown_error",
            Self::Off => "off",
        }
    }
}

/// Result of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildOutput {
    /// Resources that were built, each with the persistence that the import found.
    pub resources: Vec<Resource>,
    /// Modules that the template calls.
    pub modules: Vec<Module>,
    /// Duration of each step.
    pub timings: Vec<Timing>,
    /// Persistence of each resource across a stop, by address.
    pub persistence: BTreeMap<String, Persistence>,
}

/// A job, as the queue sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobRecord {
    /// Unique id of the job.
    pub id: JobId,
    /// Organization whose daemons may take the job.
    pub organization_id: OrganizationId,
    /// User who requested the job.
    pub(crate) initiator_id: UserId,
    /// Task of the job.
    pub task: Task,
    /// Type of provisioner that the job needs.
    pub provisioner: String,
    /// Tags that a daemon must have.
    pub tags: Tags,
    /// Set if the job fills a pool of prebuilt workspaces; people's jobs go first.
    pub prebuild: bool,
    /// Time when the job was queued.
    pub created_at: Timestamp,
    /// Time when its daemon last updated it, or anything else happened to it.
    pub updated_at: Timestamp,
    /// The same moment by the machine's uptime, which nobody can set.
    #[serde(skip)]
    pub heard: Uptime,
    /// Time when a daemon took the job.
    pub started_at: Option<Timestamp>,
    /// Time when somebody cancelled the job.
    pub(crate) canceled_at: Option<Timestamp>,
    /// Time when the job ended, with whatever result.
    pub completed_at: Option<Timestamp>,
    /// Daemon that took the job; `None` before that.
    pub worker: Option<DaemonId>,
    /// Name of that daemon; empty if there is none.
    pub(crate) worker_name: String,
    /// Subject of the job, for people: the name of a template, or of a workspace as `owner/name`.
    pub subject: String,
    /// Error that the job failed with; empty if it did not fail.
    pub error: String,
    /// Machine-readable code of the failure, for user interfaces.
    pub error_code: Option<FailureCode>,
    /// Set if log lines were dropped because the log was full.
    pub(crate) log_truncated: bool,
    /// Party that ended the job; `None` before its end.
    pub(crate) ended_by: Option<EndedBy>,
}

/// Party that ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// Daemon that ran the job.
    Daemon,
    /// Reaper, because the job was lost.
    Reaper,
    /// Person who cancelled it before any daemon took it.
    Person,
    /// Server, because the job could not be handed out.
    Server,
}

impl EndedBy {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Reaper => "reaper",
            Self::Person => "person",
            Self::Server => "server",
        }
    }

    /// Every variant, for look-ups by name.
    pub const ALL: [Self; 4] = [Self::Daemon, Self::Reaper, Self::Person, Self::Server];
}

/// Task of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Task {
    /// Imports a template version: finds its parameters and resources.
    TemplateImport {
        /// Version that is imported.
        version_id: VersionId,
    },
    /// Plans a version with given parameters.
    TemplateDryRun {
        /// Version that is planned.
        version_id: VersionId,
        /// Values of the version's parameters.
        parameters: Vec<ParameterValue>,
        /// Name of the imagined workspace; may be empty.
        workspace_name: String,
    },
    /// Carries out a build of a workspace.
    WorkspaceBuild {
        /// Build that is carried out.
        build_id: BuildId,
    },
}

impl Task {
    /// `template_import`, `template_dry_run` or `workspace_build`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TemplateImport { .. } => "template_import",
            Self::TemplateDryRun { .. } => "template_dry_run",
            Self::WorkspaceBuild { .. } => "workspace_build",
        }
    }
}

/// Status of a job, computed from its record and never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Waits until a daemon takes it.
    Queued,
    /// Runs on a daemon.
    Running,
    /// Runs on a daemon, which has been asked to end it.
    Cancelling,
    /// Ended, and did what it should.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended after somebody had cancelled it.
    Cancelled,
}

impl JobStatus {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JobRecord {
    /// Returns the status of the job. One that was cancelled and has ended counts as cancelled whatever its error,
    /// since an interrupted engine ends with an error, too. For Coder such a job has failed.
    pub fn status(&self) -> JobStatus {
        match (self.completed_at, self.error.is_empty(), self.canceled_at) {
            (_, false, None) | (None, false, Some(_)) => JobStatus::Failed,
            (Some(_), _, Some(_)) => JobStatus::Cancelled,
            (Some(_), true, None) => JobStatus::Succeeded,
            (None, true, Some(_)) => JobStatus::Cancelling,
            (None, true, None) if self.started_at.is_none() => JobStatus::Queued,
            (None, true, None) => JobStatus::Running,
        }
    }
}

/// A line of a job's log, with its position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredLine {
    /// Position in the log: increasing, but with gaps.
    pub id: i64,
    /// Level, stage and text of the line.
    #[serde(flatten)]
    pub line: LogLine,
}

/// State of a workspace after, or during, a build. None is ever removed or overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateVersion {
    /// Number of the state: increasing by version.
    pub id: i64,
    /// Build that produced the state.
    pub build_id: BuildId,
    /// Time when the state was stored.
    pub created_at: Timestamp,
    /// Set if this counts as the state after that build. One that arrived too late may not.
    pub(crate) adopted: bool,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Number of the entry: increasing by entry.
    pub id: i64,
    /// Time of the action.
    pub at: Timestamp,
    /// A user's name, `daemon NAME` or `server`.
    pub actor: String,
    /// Action, such as `key.create`.
    pub action: String,
    /// Object of the action, for people.
    pub target: String,
    /// Further details; never a secret.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_stored_before_a_field_existed_is_read() {
        let stored = r#"{
            "variables": [{}],
            "parameters": [{"options": [{}]}],
            "presets": [{
                "parameters": [{"name": "a", "value": "b"}],
                "prebuild": {"scheduling": {"schedules": [{}]}}
            }],
            "external_auth": [{"id": "github", "optional": true}],
            "modules": [{}],
            "start_resources": [{}]
        }"#;

        let import: ImportOutput = serde_json::from_str(stored).unwrap();

        assert_eq!(import.variables, [TemplateVariable::default()]);
        assert_eq!(import.parameters[0].options.len(), 1);
        assert_eq!(
            import.presets[0]
                .prebuild
                .scheduling
                .as_ref()
                .unwrap()
                .schedules
                .len(),
            1
        );
        let build: BuildOutput = serde_json::from_str(r#"{"resources": [{}]}"#).unwrap();
        assert_eq!(build.resources, import.start_resources);
    }

    fn job() -> JobRecord {
        JobRecord {
            id: JobId(Uuid::nil()),
            organization_id: OrganizationId(Uuid::nil()),
            initiator_id: UserId(Uuid::nil()),
            task: Task::TemplateImport {
                version_id: VersionId(Uuid::nil()),
            },
            provisioner: "terraform".to_owned(),
            tags: Tags::default(),
            prebuild: false,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            heard: Uptime::default(),
            started_at: None,
            canceled_at: None,
            completed_at: None,
            worker: None,
            worker_name: String::new(),
            subject: String::new(),
            error: String::new(),
            error_code: None,
            log_truncated: false,
            ended_by: None,
        }
    }

    #[test]
    fn the_status_follows_from_times_and_error() {
        let now = Some(Timestamp::UNIX_EPOCH);
        let mut job = job();
        assert_eq!(job.status(), JobStatus::Queued);
        job.started_at = now;
        assert_eq!(job.status(), JobStatus::Running);
        job.canceled_at = now;
        assert_eq!(job.status(), JobStatus::Cancelling);
        job.completed_at = now;
        assert_eq!(job.status(), JobStatus::Cancelled);
        job.error = "apply was interrupted".to_owned();
        assert_eq!(job.status(), JobStatus::Cancelled);
        job.canceled_at = None;
        assert_eq!(job.status(), JobStatus::Failed);
        job.error = String::new();
        assert_eq!(job.status(), JobStatus::Succeeded);
    }
}
