//! What the control plane keeps: our own types, free of SQL and of wire formats.

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
            /// An id that nothing else has.
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
    /// Its id.
    pub id: OrganizationId,
    /// Unique.
    pub name: String,
    /// Whether it is meant where none is named; daemons with a pre-shared key belong to it.
    pub is_default: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Somebody who may call the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// Unique.
    pub name: String,
    /// May be empty.
    pub email: String,
    /// May be empty.
    pub full_name: String,
    /// Whether they manage templates, keys and users.
    pub admin: bool,
    /// When an administrator suspended them; `None` if they may call.
    pub suspended_at: Option<Timestamp>,
    /// Whole units a day that their workspaces may cost; `None` for no limit.
    pub budget: Option<i32>,
    /// When they were added.
    pub created_at: Timestamp,
}

/// An API token; its value is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Whom it stands for.
    pub user_id: UserId,
    /// What its owner calls it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if it does.
    pub expires_at: Option<Timestamp>,
    /// When it was last seen, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// A provisioner key; its value is stored as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProvisionerKey {
    /// Its id.
    pub id: KeyId,
    /// Where daemons with this key belong.
    pub organization_id: OrganizationId,
    /// Unique in the organization, whatever the case of its letters.
    pub name: String,
    /// Tags of daemons with this key.
    pub tags: Tags,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A daemon that registered once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Its id.
    pub id: DaemonId,
    /// Whose jobs it takes.
    pub organization_id: OrganizationId,
    /// The credential that it came with, and that its name belongs to.
    pub holder: Holder,
    /// Unique in the organization and owner.
    pub name: String,
    /// Matched against the tags of jobs.
    pub tags: Tags,
    /// Types of provisioner, such as `terraform`.
    pub provisioners: Vec<String>,
    /// Its build.
    pub version: String,
    /// The version of Coder's daemon API that it speaks; empty if it did not say.
    pub api_version: String,
    /// When it registered first.
    pub created_at: Timestamp,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
    /// The state directory of the process that calls; empty if it does not say.
    #[serde(skip)]
    pub state_id: String,
}

impl Daemon {
    /// The provisioner key it came with, if it did with one.
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
    /// A provisioner key.
    Key(KeyId),
    /// A token of a person; any of theirs.
    Person(UserId),
    /// A version of this program that did not write it down; not a key.
    Unknown,
}

impl Holder {
    /// Whether a daemon with the credential `other` is the same daemon, come back.
    pub fn is_also(self, other: Self) -> bool {
        match (self, other) {
            (Self::Unknown, Self::Shared | Self::Person(_)) => true,
            (_, _) => self == other,
        }
    }
}

/// As it is stored.
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

/// From what is stored.
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

/// A template and the version that new workspaces use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// Where it belongs.
    pub organization_id: OrganizationId,
    /// Unique in the organization among templates that are not deleted.
    pub name: String,
    /// `None` until a version was imported.
    pub active_version: Option<VersionId>,
    /// Who made it.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its active version last changed.
    pub updated_at: Timestamp,
    /// When it was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
}

/// A version of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Of which template.
    pub template_id: TemplateId,
    /// Unique in the template.
    pub name: String,
    /// What its author says of it.
    pub message: String,
    /// Its archive.
    pub file_id: FileId,
    /// The job that imports it.
    pub job_id: JobId,
    /// Whether it becomes active once it is imported.
    pub activate: bool,
    /// Tags that its author gave: of its import, and the base of those of its builds.
    pub tags: Tags,
    /// Who made it.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What an import learned of a version. Empty while it runs, except for what is sent early.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportOutput {
    /// Terraform input variables it declares; sent early.
    pub variables: Vec<TemplateVariable>,
    /// Its README; sent early.
    pub readme: String,
    /// Tags that its workspaces' jobs get: names to expressions; sent early.
    pub workspace_tags: BTreeMap<String, String>,
    /// Questions to whoever makes a workspace.
    pub parameters: Vec<Parameter>,
    /// Named sets of answers.
    pub presets: Vec<Preset>,
    /// External services it needs tokens of.
    pub external_auth: Vec<ExternalAuthRequirement>,
    /// Modules it calls.
    pub modules: Vec<Module>,
    /// Resources of a started workspace.
    pub start_resources: Vec<Resource>,
    /// Resources of a stopped workspace.
    pub stop_resources: Vec<Resource>,
    /// Its modules' files, if it has any.
    pub modules_file: Option<FileId>,
    /// Whether it has AI tasks.
    pub has_ai_tasks: bool,
    /// Whether it has agents that somebody else runs.
    pub has_external_agents: bool,
}

/// A stored file. Equal content of one kind is stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id.
    pub id: FileId,
    /// What it is for.
    pub kind: FileKind,
    /// SHA-256 of the content, 64 hexadecimal digits.
    pub sha256: String,
    /// The content.
    pub content: bytes::Bytes,
}

/// What a file is for. A daemon may fetch modules by id, never templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A template's archive.
    Template,
    /// The modules of a template version.
    Modules,
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Where it belongs.
    pub organization_id: OrganizationId,
    /// Whose it is.
    pub owner_id: UserId,
    /// The owner's name.
    pub owner: String,
    /// What it is made from.
    pub template_id: TemplateId,
    /// Unique among the owner's workspaces that are not deleted.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its latest build began or ended.
    pub updated_at: Timestamp,
    /// When it was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
}

/// One change of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// Of which workspace.
    pub workspace_id: WorkspaceId,
    /// From 1, without gaps.
    pub number: i32,
    /// What it does.
    pub transition: Transition,
    /// The version it uses.
    pub version_id: VersionId,
    /// The job that does it.
    pub job_id: JobId,
    /// Answers to the template's questions, all of them.
    pub parameters: Vec<ParameterValue>,
    /// The preset that was chosen; empty for none.
    pub preset: String,
    /// The lowest level of log lines to keep: a level's name, or empty for all.
    pub log_level: String,
    /// Whole units a day, once the quota is committed.
    pub daily_cost: i32,
    /// Whether there is a state after it.
    pub has_state: bool,
    /// Who asked for it.
    pub initiator_id: UserId,
    /// When.
    pub created_at: Timestamp,
}

/// An agent of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentRecord {
    /// Its id.
    pub id: AgentId,
    /// Of which build.
    pub build_id: BuildId,
    /// Of which workspace.
    pub workspace_id: WorkspaceId,
    /// Unique in the workspace.
    pub name: String,
    /// How far it came.
    pub lifecycle: Lifecycle,
    /// What it runs; empty until it said so.
    pub version: String,
    /// Where its sessions begin; empty until it said so.
    pub directory: String,
    /// When its build ended.
    pub created_at: Timestamp,
    /// When it came first.
    pub first_connected_at: Option<Timestamp>,
    /// When it was last heard of.
    pub last_connected_at: Option<Timestamp>,
}

/// Something that an agent said, and its place in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAgentLine {
    /// Grows by line; not without gaps.
    pub id: i64,
    /// The script that said it, as the agent knows it.
    pub source: Uuid,
    /// When it came here.
    pub created_at: Timestamp,
    /// What was said.
    pub line: agent_log::Line,
}

/// How far an agent came. A state never goes back.
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
    /// As it is stored and shown.
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

/// What a build made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildOutput {
    /// Its resources, each with what the import learned of its persistence.
    pub resources: Vec<Resource>,
    /// Modules the template calls.
    pub modules: Vec<Module>,
    /// How long each step took.
    pub timings: Vec<Timing>,
    /// Whether resources outlive a stop, by address.
    pub persistence: BTreeMap<String, Persistence>,
}

/// A job, as the queue knows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Whose daemons may take it.
    pub organization_id: OrganizationId,
    /// Who asked for it.
    pub initiator_id: UserId,
    /// What it works on.
    pub task: Task,
    /// The type of provisioner it needs.
    pub provisioner: String,
    /// Tags that a daemon must have.
    pub tags: Tags,
    /// Whether it fills a pool; people's jobs go first.
    pub prebuild: bool,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When a daemon last said that it lives, or anything else happened to it.
    pub updated_at: Timestamp,
    /// The same by a clock that nobody sets.
    #[serde(skip)]
    pub heard: Uptime,
    /// When a daemon took it.
    pub started_at: Option<Timestamp>,
    /// When somebody cancelled it.
    pub canceled_at: Option<Timestamp>,
    /// When it ended, however it did.
    pub completed_at: Option<Timestamp>,
    /// The daemon that took it.
    pub worker: Option<DaemonId>,
    /// That daemon's name; empty if there is none.
    pub worker_name: String,
    /// What it works on, for people: a template's name, or a workspace as `owner/name`.
    pub subject: String,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// A code that a user interface can act upon.
    pub error_code: Option<FailureCode>,
    /// Whether lines were dropped because the log was full.
    pub log_truncated: bool,
    /// Who ended it; `None` while it goes on.
    pub ended_by: Option<EndedBy>,
}

/// Who ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// The daemon that ran it.
    Daemon,
    /// The reaper, because it was lost.
    Reaper,
    /// A person, before any daemon took it.
    Person,
    /// The server, because it could not be handed out.
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

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Daemon, Self::Reaper, Self::Person, Self::Server];
}

/// What a job works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Task {
    /// Learn what a template version needs and makes.
    TemplateImport {
        /// Which.
        version_id: VersionId,
    },
    /// Plan a version with given parameters.
    TemplateDryRun {
        /// Which.
        version_id: VersionId,
        /// Answers to its questions.
        parameters: Vec<ParameterValue>,
        /// What the workspace would be called; may be empty.
        workspace_name: String,
    },
    /// Build a workspace.
    WorkspaceBuild {
        /// Which build.
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

/// Where a job stands. It is computed, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// No daemon has taken it.
    Queued,
    /// A daemon works on it.
    Running,
    /// A daemon works on it, and is asked to end.
    Cancelling,
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// It ended early and without an error, because somebody asked.
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
    /// Where it stands. One that was cancelled is so whatever its end says: an engine that was interrupted ends with
    /// an error, too. For Coder such a job has failed.
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

/// A line of a job's log, and its place in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredLine {
    /// Grows by line; not without gaps.
    pub id: i64,
    /// What was said.
    #[serde(flatten)]
    pub line: LogLine,
}

/// One state of a workspace as it was after, or during, a build. None is ever removed or overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateVersion {
    /// Grows by version.
    pub id: i64,
    /// The build that made it.
    pub build_id: BuildId,
    /// When it was stored.
    pub created_at: Timestamp,
    /// Whether it counts as the state after that build. One that came too late may not.
    pub adopted: bool,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Grows by entry.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// A user's name, `daemon NAME` or `server`.
    pub actor: String,
    /// Such as `key.create`.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// What else is to know; never a secret.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

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
