//! Storage of everything that outlives the process: a trait that defines what is atomic, and its implementations.
//!
//! Secrets come sealed; a store never sees them. Each method is one transaction: it happens as a whole or not at all.

pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::job::{FailureCode, JobId, LogLine};
use outpost_process::uptime::Uptime;
use outpost_provision::Quota;
use uuid::Uuid;

use crate::{
    agent_log,
    crypt::Sealed,
    model::{
        AgentId, AgentRecord, AuditEntry, Build, BuildId, Daemon, DaemonId, EndedBy, File, FileId,
        FileKind, ImportOutput, JobRecord, JobStatus, KeyId, Lifecycle, Organization,
        OrganizationId, ProvisionerKey, StateVersion, StoredAgentLine, StoredLine, Template,
        TemplateId, Token, TokenId, User, UserId, Version, VersionId, Workspace, WorkspaceId,
    },
    queue::Waiting,
    snapshot::WorkspaceSnapshots,
    tokens::Hashed,
};

/// Reasons why a store fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something of that name that exists, or happens, already.
    #[error("{0}")]
    Conflict(String),
    /// An object that should be changed and does not exist.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Kind of object, such as `job`.
        what: &'static str,
        /// Id of the object.
        id: String,
    },
    /// A full disk. Nothing was changed; the store works again once there is space.
    #[error("disk with the database is full")]
    DiskFull,
    /// A database that is damaged.
    #[error("database is damaged")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row whose content this version would not write.
    #[error("invalid row in table {table}: {reason}")]
    Row {
        /// Table that contains the row.
        table: &'static str,
        /// Reason why the row is invalid.
        reason: String,
    },
    /// Any other error of the database.
    #[error("unexpected database error")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Returns what the operator can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DiskFull => {
                Some("free some space; daemons repeat what was not stored".to_owned())
            }
            Self::Corrupt(_) | Self::Row { .. } => {
                Some("restore the newest backup with `outpost server restore`".to_owned())
            }
            Self::Conflict(_) | Self::NotFound { .. } | Self::Database(_) => None,
        }
    }
}

/// A version to add, with its import job.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Template to create with it; `None` if it exists.
    pub template: Option<Template>,
    /// Version to add to the template.
    pub version: Version,
    /// Author's values of Terraform variables.
    pub variables: Sealed,
    /// Job that imports the version.
    pub job: JobRecord,
}

/// A build to add, with its job.
#[derive(Clone, Debug)]
pub struct NewBuild {
    /// Workspace to create with it; `None` if it exists.
    pub workspace: Option<Workspace>,
    /// Build to add. Its number is assigned by the store, and its state is that of the previous build.
    pub build: Build,
    /// Job that runs the build.
    pub job: JobRecord,
}

/// News of a running job.
#[derive(Clone, Debug)]
pub struct JobChange {
    /// Id of the job.
    pub job: JobId,
    /// New lines of the log, in order.
    pub lines: Vec<LogLine>,
    /// Output of the import so far, with its version.
    pub(crate) import_output: Option<(VersionId, ImportOutput)>,
    /// Time of the update.
    pub now: Timestamp,
    /// Time of the update by the machine's uptime, which nobody can set.
    pub heard: Uptime,
}

/// The end of a job.
#[derive(Clone, Debug)]
pub struct End {
    /// Id of the job.
    pub job: JobId,
    /// Party that ends the job.
    pub by: EndedBy,
    /// Error that the job failed with; empty if it did not fail.
    pub error: String,
    /// Machine-readable code of the error.
    pub error_code: Option<FailureCode>,
    /// Lines for the end of the log, however long it is.
    pub lines: Vec<LogLine>,
    /// Changes that the job leaves behind.
    pub(crate) effect: Effect,
    /// If given, the job ends only if it was last heard from at that time.
    pub(crate) silent_since: Option<Uptime>,
    /// Time of the end.
    pub now: Timestamp,
}

/// Changes that a job leaves behind when it ends.
#[derive(Clone, Debug)]
pub enum Effect {
    /// No changes beside the end itself.
    None,
    /// Result of a build.
    Build {
        /// Id of the build.
        build: BuildId,
        /// Change of the workspace's state.
        state: StateChange,
        /// Resources, timings and modules, if the build succeeded.
        made: Option<Sealed>,
        /// Agents of the build, if it succeeded.
        agents: Vec<NewAgent>,
        /// Set if the workspace no longer exists.
        deleted: bool,
    },
    /// Result of an import.
    Import {
        /// Id of the imported version.
        version: VersionId,
        /// Complete output of the import.
        import_output: Box<ImportOutput>,
        /// Plan of a started workspace.
        plan: Option<Sealed>,
    },
    /// Result of a dry run.
    DryRun(Sealed),
}

/// An agent to add.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Unique id of the agent.
    pub id: AgentId,
    /// Name of the agent, unique in the workspace.
    pub name: String,
    /// Hash of the agent's token; `None` if its cloud vouches for it.
    pub token: Option<Hashed>,
}

/// A change of an agent's record.
#[derive(Clone, Debug)]
pub enum AgentChange {
    /// Sign of life of a connected agent.
    Seen,
    /// Lifecycle state that the agent reached.
    Lifecycle(Lifecycle),
    /// Description that the agent gave of itself.
    Startup {
        /// Version of the agent's program.
        version: String,
        /// Directory in which its sessions start.
        directory: String,
    },
}

/// Effect of a build on its workspace's state.
#[derive(Clone, Debug)]
pub enum StateChange {
    /// Keeps the state from before the build.
    Keep,
    /// Removes the state from the workspace.
    Clear,
    /// Replaces it with a new state.
    Set(NewState),
}

/// A state to add.
#[derive(Clone, Debug)]
pub struct NewState {
    /// State in encrypted form.
    pub sealed: Sealed,
    /// SHA-256 of the build's id followed by the state: equal states of a build are kept once.
    pub digest: [u8; 32],
}

/// Result of an attempt to end a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Ended by this attempt.
    Now,
    /// Ended by the reaper before, and successful since this attempt.
    Late,
    /// Ended before; nothing was changed.
    Before(EndedBy),
    /// Still running, because something has happened to it.
    Alive,
}

/// Result of storing a state that arrived after the end of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateState {
    /// A state that was stored already.
    Known,
    /// Now the state after its build.
    Adopted,
    /// Kept in the history only, because a newer one counts.
    Kept,
}

/// Result of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Ended, because no daemon had it.
    Ended,
    /// Requested; its daemon will be told.
    Asked,
    /// Cancelled or ended before; nothing was changed.
    Before,
}

/// Result of an attempt to register a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// Registered as this daemon.
    As(Daemon),
    /// Refused, because the name belongs to another credential.
    Held {
        /// Daemon that has the name.
        by: Daemon,
        /// Number of jobs for which that daemon may still send a result.
        jobs: usize,
    },
}

/// Selection of jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Organization of the jobs; `None` for all.
    pub organization: Option<OrganizationId>,
    /// User who requested the jobs; `None` for all.
    pub initiator: Option<UserId>,
    /// Status of the jobs: any of these; empty for all.
    pub statuses: Vec<JobStatus>,
    /// Largest number of jobs, newest first.
    pub limit: usize,
}

/// Selection of workspaces to list.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceFilter {
    /// Organization of the workspaces; `None` for all.
    pub organization: Option<OrganizationId>,
    /// Owner of the workspaces; `None` for all.
    pub owner: Option<UserId>,
    /// Set to list deleted workspaces as well.
    pub deleted: bool,
}

/// Storage of people and their credentials.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait PeopleStore: Send + Sync {
    /// Returns all organizations except deleted ones.
    async fn organizations(&self) -> Result<Vec<Organization>, StoreError>;
    /// Returns all organizations, with deleted ones as `NAME (deleted)`.
    async fn organizations_ever(&self) -> Result<Vec<Organization>, StoreError>;
    async fn insert_organization(&self, organization: &Organization) -> Result<(), StoreError>;
    /// Deletes an organization with its provisioner keys and daemons. Refused with [`StoreError::Conflict`] while there
    /// are templates, workspaces or jobs that have not ended.
    async fn delete_organization(
        &self,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Returns all users except deleted ones.
    async fn users(&self) -> Result<Vec<User>, StoreError>;
    /// Returns all users, with deleted ones as `NAME (deleted)`.
    async fn users_ever(&self) -> Result<Vec<User>, StoreError>;
    async fn insert_user(&self, user: &User) -> Result<(), StoreError>;
    async fn set_budget(&self, user: UserId, budget: Option<i32>) -> Result<(), StoreError>;
    async fn set_admin(&self, user: UserId, admin: bool) -> Result<(), StoreError>;
    /// Suspends a user at this time, or ends the suspension with `None`.
    async fn set_suspended(&self, user: UserId, since: Option<Timestamp>)
    -> Result<(), StoreError>;
    /// Deletes a user with all tokens. Refused with [`StoreError::Conflict`] while there are workspaces.
    async fn delete_user(&self, user: UserId, now: Timestamp) -> Result<(), StoreError>;

    async fn insert_token(&self, token: &Token, value: &Hashed) -> Result<(), StoreError>;
    async fn token(&self, value: &Hashed) -> Result<Option<(Token, User)>, StoreError>;
    async fn tokens(&self, user: Option<UserId>) -> Result<Vec<Token>, StoreError>;
    async fn touch_token(&self, token: TokenId, now: Timestamp) -> Result<(), StoreError>;
    /// Stores a new value for a token, with its new times.
    async fn replace_token(&self, token: &Token, value: &Hashed) -> Result<(), StoreError>;
    /// Deletes a token, and returns whether it existed.
    async fn delete_token(&self, token: TokenId) -> Result<bool, StoreError>;
    /// Revokes every token of this name; there may be none.
    async fn delete_tokens_named(&self, user: UserId, name: &str) -> Result<(), StoreError>;

    async fn insert_key(&self, key: &ProvisionerKey, value: &Hashed) -> Result<(), StoreError>;
    async fn key(&self, value: &Hashed) -> Result<Option<ProvisionerKey>, StoreError>;
    async fn keys(&self) -> Result<Vec<ProvisionerKey>, StoreError>;
    /// Deletes a provisioner key and forgets the daemons that registered with it; returns whether it existed.
    async fn delete_key(&self, key: KeyId) -> Result<bool, StoreError>;
}

/// Storage of provisioner daemons.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait DaemonStore: Send + Sync {
    /// Adds a daemon, or updates the one with the same organization, name and owner, whose id stays the same.
    ///
    /// Refused if that one has another holder and may come back: it is not `offline`, or has jobs. A free name passes
    /// to the new daemon, which gets a new id.
    async fn register_daemon(
        &self,
        daemon: &Daemon,
        is_offline: &(dyn Fn(DaemonId) -> bool + Send + Sync),
    ) -> Result<Registered, StoreError>;
    async fn daemon(&self, id: DaemonId) -> Result<Option<Daemon>, StoreError>;
    async fn daemons(&self) -> Result<Vec<Daemon>, StoreError>;
    /// Returns running jobs that the daemon took while it had this state directory.
    async fn jobs_of_state(&self, id: DaemonId, state_id: &str) -> Result<Vec<JobId>, StoreError>;
    async fn touch_daemon(&self, id: DaemonId, now: Timestamp) -> Result<(), StoreError>;
    async fn delete_daemon(&self, id: DaemonId) -> Result<(), StoreError>;
    /// Forgets daemons that have not been seen since, are not `present` and have no job, and returns their number.
    async fn forget_daemons(
        &self,
        unseen_since: Timestamp,
        present: &[DaemonId],
    ) -> Result<u64, StoreError>;
}

/// Storage of files, templates and their versions.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait TemplateStore: Send + Sync {
    /// Adds a file, or finds the one with the same kind and content.
    async fn insert_file(&self, kind: FileKind, content: Bytes) -> Result<FileId, StoreError>;
    async fn file(&self, id: FileId) -> Result<Option<File>, StoreError>;
    /// Returns the file of this kind with this hash, in hexadecimal digits.
    async fn file_by_hash(&self, kind: FileKind, sha256: &str) -> Result<Option<File>, StoreError>;

    /// Size of these modules in bytes, if a template of the organization has them.
    async fn modules_bytes(
        &self,
        organization: OrganizationId,
        file: FileId,
    ) -> Result<Option<usize>, StoreError>;

    /// Returns archives of modules that no version has: their SHA-256 in hexadecimal digits, and their sizes in
    /// bytes.
    async fn unused_modules(&self) -> Result<Vec<(String, usize)>, StoreError>;
    /// Removes such an archive unless a version has it, and returns whether it was removed.
    async fn remove_unused_modules(&self, sha256: &str) -> Result<bool, StoreError>;

    /// Adds a version and its job.
    async fn insert_version(&self, new: NewVersion) -> Result<(), StoreError>;
    async fn templates(&self) -> Result<Vec<Template>, StoreError>;
    async fn template(&self, id: TemplateId) -> Result<Option<Template>, StoreError>;
    async fn rename_template(
        &self,
        id: TemplateId,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    async fn delete_template(&self, id: TemplateId, now: Timestamp) -> Result<(), StoreError>;
    /// Renames a deleted template of the name `draft`, which is not deleted any more.
    async fn name_draft(
        &self,
        id: TemplateId,
        draft: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Returns the versions of a template, newest first.
    async fn versions(&self, template: TemplateId) -> Result<Vec<Version>, StoreError>;
    async fn version(&self, id: VersionId) -> Result<Option<Version>, StoreError>;
    async fn import_output(&self, id: VersionId) -> Result<ImportOutput, StoreError>;
    async fn version_variables(&self, id: VersionId) -> Result<Sealed, StoreError>;
    async fn activate_version(&self, id: VersionId, now: Timestamp) -> Result<(), StoreError>;
}

/// Storage of workspaces, their builds and states, and their costs.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait WorkspaceStore: Send + Sync {
    /// Adds a build and its job. Refused with [`StoreError::Conflict`] while another one is in progress.
    async fn insert_build(&self, new: NewBuild) -> Result<Build, StoreError>;
    /// Returns the selected workspaces, sorted by owner and name.
    async fn workspaces(&self, filter: &WorkspaceFilter) -> Result<Vec<Workspace>, StoreError>;
    async fn workspace(&self, id: WorkspaceId) -> Result<Option<Workspace>, StoreError>;
    /// Renames a workspace. Refused with [`StoreError::Conflict`] while a build is in progress, or if the owner has
    /// another one of that name.
    async fn rename_workspace(
        &self,
        id: WorkspaceId,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Returns the builds of a workspace, newest first.
    async fn builds(&self, workspace: WorkspaceId) -> Result<Vec<Build>, StoreError>;
    async fn build(&self, id: BuildId) -> Result<Option<Build>, StoreError>;
    async fn latest_build(&self, workspace: WorkspaceId) -> Result<Option<Build>, StoreError>;
    /// Returns the resources, timings and modules of a build, if it succeeded.
    async fn made(&self, build: BuildId) -> Result<Option<Sealed>, StoreError>;
    /// Returns the state after a build and the build that made it, to which it is sealed.
    async fn state(&self, build: BuildId) -> Result<Option<(BuildId, Sealed)>, StoreError>;
    /// Returns all states of a workspace, oldest first.
    async fn states(&self, workspace: WorkspaceId) -> Result<Vec<StateVersion>, StoreError>;
    /// Stores a state that arrived after the end of its job.
    async fn insert_late_state(
        &self,
        build: BuildId,
        state: NewState,
        now: Timestamp,
    ) -> Result<LateState, StoreError>;
    /// Makes a state the one after a build. Returns `false`, and changes nothing, if the build is running or is not
    /// the latest.
    async fn replace_state(
        &self,
        build: BuildId,
        state: NewState,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Commits the daily cost of a build, unless that exceeds the owner's budget and the cost of the previous build.
    async fn commit_quota(&self, build: BuildId, daily_cost: i32) -> Result<Quota, StoreError>;
    /// Returns the daily cost of a user's workspaces in an organization.
    async fn consumed(&self, user: UserId, organization: OrganizationId)
    -> Result<i32, StoreError>;
}

/// Storage of the agents of builds. Unless a method says otherwise, it finds only those of a workspace's newest build
/// that succeeded.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait AgentStore: Send + Sync {
    async fn agent_by_token(&self, token: &Hashed) -> Result<Option<AgentRecord>, StoreError>;
    async fn agent(&self, id: AgentId) -> Result<Option<AgentRecord>, StoreError>;
    /// Returns the agents of a workspace, by name.
    async fn agents(&self, workspace: WorkspaceId) -> Result<Vec<AgentRecord>, StoreError>;
    /// Returns an agent of any build.
    async fn any_agent(&self, id: AgentId) -> Result<Option<AgentRecord>, StoreError>;
    /// Returns the agents of the newest build that had some, by name: for a stopped workspace, those that it had
    /// before.
    async fn last_agents(&self, workspace: WorkspaceId) -> Result<Vec<AgentRecord>, StoreError>;
    /// Returns snapshots of a person's workspaces, with their agents.
    async fn snapshots(&self, owner: UserId) -> Result<WorkspaceSnapshots, StoreError>;
    /// Appends as much as fits to an agent's log, and returns whether everything did.
    async fn append_agent_log(
        &self,
        agent: AgentId,
        source: Uuid,
        lines: Vec<agent_log::Line>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Returns lines with an id above `after` and, if that is given, below `before`, in order.
    async fn agent_log(
        &self,
        agent: AgentId,
        after: i64,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredAgentLine>, StoreError>;
    async fn change_agent(
        &self,
        id: AgentId,
        change: AgentChange,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}

/// Storage of jobs and their logs.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait JobStore: Send + Sync {
    /// Adds a job without any other object: a dry run.
    async fn insert_job(&self, job: &JobRecord) -> Result<(), StoreError>;
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError>;
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError>;
    /// Returns at most two jobs whose ids begin with `prefix`, of one initiator or of all: enough to see whether it
    /// is unique.
    async fn jobs_beginning(
        &self,
        prefix: &str,
        initiator: Option<UserId>,
    ) -> Result<Vec<JobId>, StoreError>;
    /// Returns all jobs that no daemon has taken yet.
    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError>;
    /// Counts the silence of open jobs from `now` on if they were last heard from during another boot of the machine.
    async fn count_anew(&self, now: &Uptime) -> Result<(), StoreError>;
    /// Returns all jobs that have not ended.
    async fn open_jobs(&self) -> Result<Vec<JobRecord>, StoreError>;
    /// Gives a job to a daemon. Returns `false` if it was taken, cancelled or ended already.
    async fn start_job(
        &self,
        job: JobId,
        daemon: &Daemon,
        now: Timestamp,
        heard: &Uptime,
    ) -> Result<bool, StoreError>;
    /// Records a sign of life and news of a job. Returns whether it was cancelled.
    async fn update_job(&self, change: JobChange) -> Result<bool, StoreError>;
    async fn cancel_job(&self, job: JobId, now: Timestamp) -> Result<Cancelled, StoreError>;
    /// Ends a job with all its effects, once. A build that the reaper ended may still succeed while its workspace has no
    /// newer build, and no other state than the one that the daemon brings.
    async fn end_job(&self, end: End) -> Result<Ended, StoreError>;
    /// Returns the stage of the last line of a job's log; empty if the log is.
    async fn last_stage(&self, job: JobId) -> Result<String, StoreError>;
    async fn dry_run(&self, job: JobId) -> Result<Option<Sealed>, StoreError>;
    /// Returns lines with an id above `after`, in order.
    async fn log_lines(
        &self,
        job: JobId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredLine>, StoreError>;
}

/// Storage of everything that the control plane keeps.
#[async_trait]
pub trait Store:
    PeopleStore + DaemonStore + TemplateStore + WorkspaceStore + AgentStore + JobStore
{
    /// Adds an entry, to which the store assigns an id. Entries are never changed or removed.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;
    /// Returns entries with an id below `before`, if that is given, newest first.
    async fn audit_entries(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError>;

    /// Checks that the store answers and can write.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Closes the store cleanly.
    async fn close(&self);
}
