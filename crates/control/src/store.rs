//! Where the control plane keeps what must last: a trait that says what is atomic, and its implementations.
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

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something of that name exists, or happens, already.
    #[error("{0}")]
    Conflict(String),
    /// What should be changed is not there.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Such as `job`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// There is no space left. Nothing was changed; it works again once there is.
    #[error("disk with the database is full")]
    DiskFull,
    /// The database is damaged.
    #[error("database is damaged")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row does not have the form that this version writes.
    #[error("invalid row in table {table}: {reason}")]
    Row {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else that the database says.
    #[error("unexpected database error")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// What the operator can try next.
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

/// A version to add, with the job that imports it.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The template, if it is to be made too.
    pub template: Option<Template>,
    /// The version.
    pub version: Version,
    /// The author's values of Terraform variables.
    pub variables: Sealed,
    /// The job.
    pub job: JobRecord,
}

/// A build to add, with the job that does it.
#[derive(Clone, Debug)]
pub struct NewBuild {
    /// The workspace, if it is to be made too.
    pub workspace: Option<Workspace>,
    /// The build. Its number is given by the store, and its state is that of the build before.
    pub build: Build,
    /// The job.
    pub job: JobRecord,
}

/// What is new of a job that runs.
#[derive(Clone, Debug)]
pub struct JobChange {
    /// Which job.
    pub job: JobId,
    /// New lines, in order.
    pub lines: Vec<LogLine>,
    /// What was learned of a version so far.
    pub import_output: Option<(VersionId, ImportOutput)>,
    /// When.
    pub now: Timestamp,
    /// The same by a clock that nobody sets.
    pub heard: Uptime,
}

/// The end of a job.
#[derive(Clone, Debug)]
pub struct End {
    /// Which job.
    pub job: JobId,
    /// Who ends it.
    pub by: EndedBy,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// A code for the error.
    pub error_code: Option<FailureCode>,
    /// Lines for the end of its log, whatever its length.
    pub lines: Vec<LogLine>,
    /// What it leaves behind.
    pub effect: Effect,
    /// If given, it ends only if it was last heard of then.
    pub silent_since: Option<Uptime>,
    /// When.
    pub now: Timestamp,
}

/// What the end of a job leaves behind.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing but the end itself.
    None,
    /// What a build made.
    Build {
        /// Which build.
        build: BuildId,
        /// What becomes of its state.
        state: StateChange,
        /// Its resources, timings and modules, if it succeeded.
        made: Option<Sealed>,
        /// Its agents, if it succeeded.
        agents: Vec<NewAgent>,
        /// Whether the workspace is gone.
        deleted: bool,
    },
    /// What an import learned.
    Import {
        /// Which version.
        version: VersionId,
        /// Everything.
        import_output: Box<ImportOutput>,
        /// The plan of a started workspace.
        plan: Option<Sealed>,
    },
    /// What a dry run learned.
    DryRun(Sealed),
}

/// An agent to add.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// How it proves who it is; `None` if its cloud vouches for it.
    pub token: Option<Hashed>,
}

/// What is new of an agent.
#[derive(Clone, Debug)]
pub enum AgentChange {
    /// It is connected.
    Seen,
    /// It came this far.
    Lifecycle(Lifecycle),
    /// It said what it is.
    Startup {
        /// What it runs.
        version: String,
        /// Where its sessions begin.
        directory: String,
    },
}

/// What becomes of the state of a build.
#[derive(Clone, Debug)]
pub enum StateChange {
    /// It stays as it was before the build.
    Keep,
    /// There is none any more.
    Clear,
    /// It is a new one.
    Set(NewState),
}

/// A state to add.
#[derive(Clone, Debug)]
pub struct NewState {
    /// The state.
    pub sealed: Sealed,
    /// SHA-256 of the state with the build's id before it: equal states of a build are kept once.
    pub digest: [u8; 32],
}

/// What came of an attempt to end a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ended now.
    Now,
    /// It had ended before, and nothing was changed.
    Before(EndedBy),
    /// It goes on, because something has happened to it.
    Alive,
}

/// What became of a state that came after the end of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateState {
    /// It was there already.
    Known,
    /// It is the state after its build now.
    Adopted,
    /// It is kept in the history only, because a newer one counts.
    Kept,
}

/// What came of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// No daemon had it, so it ended.
    Ended,
    /// Its daemon will hear of it.
    Asked,
    /// It had been cancelled or had ended before.
    Before,
}

/// What came of an attempt to register a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is this one.
    As(Daemon),
    /// Its name belongs to another credential.
    Held {
        /// The daemon that has the name.
        by: Daemon,
        /// Jobs of which that one may still bring something.
        jobs: usize,
    },
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of one organization, or of all.
    pub organization: Option<OrganizationId>,
    /// Of one initiator, or of all.
    pub initiator: Option<UserId>,
    /// With any of these; empty for all.
    pub statuses: Vec<JobStatus>,
    /// At most this many, newest first.
    pub limit: usize,
}

/// Which workspaces to list.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceFilter {
    /// Of one organization, or of all.
    pub organization: Option<OrganizationId>,
    /// Of one owner, or of all.
    pub owner: Option<UserId>,
    /// Whether to list deleted ones, too.
    pub deleted: bool,
}

/// People and how they prove who they are.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait PeopleStore: Send + Sync {
    /// Without those that were deleted.
    async fn organizations(&self) -> Result<Vec<Organization>, StoreError>;
    /// With those that were deleted, as `NAME (deleted)`.
    async fn organizations_ever(&self) -> Result<Vec<Organization>, StoreError>;
    async fn insert_organization(&self, organization: &Organization) -> Result<(), StoreError>;
    /// Deletes an organization with its provisioner keys and daemons. Refused with [`StoreError::Conflict`] while there
    /// are templates, workspaces or jobs that have not ended.
    async fn delete_organization(
        &self,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Without those that were deleted.
    async fn users(&self) -> Result<Vec<User>, StoreError>;
    /// With those that were deleted, as `NAME (deleted)`.
    async fn users_ever(&self) -> Result<Vec<User>, StoreError>;
    async fn insert_user(&self, user: &User) -> Result<(), StoreError>;
    async fn set_budget(&self, user: UserId, budget: Option<i32>) -> Result<(), StoreError>;
    async fn set_admin(&self, user: UserId, admin: bool) -> Result<(), StoreError>;
    /// `None` ends a suspension.
    async fn set_suspended(&self, user: UserId, since: Option<Timestamp>)
    -> Result<(), StoreError>;
    /// Deletes a user with all tokens. Refused with [`StoreError::Conflict`] while there are workspaces.
    async fn delete_user(&self, user: UserId, now: Timestamp) -> Result<(), StoreError>;

    async fn insert_token(&self, token: &Token, value: &Hashed) -> Result<(), StoreError>;
    async fn token(&self, value: &Hashed) -> Result<Option<(Token, User)>, StoreError>;
    async fn tokens(&self, user: Option<UserId>) -> Result<Vec<Token>, StoreError>;
    async fn touch_token(&self, token: TokenId, now: Timestamp) -> Result<(), StoreError>;
    /// Stores another value for a token, with its new times.
    async fn replace_token(&self, token: &Token, value: &Hashed) -> Result<(), StoreError>;
    /// Whether it was there.
    async fn delete_token(&self, token: TokenId) -> Result<bool, StoreError>;
    /// Revokes every token of this name; there may be none.
    async fn delete_tokens_named(&self, user: UserId, name: &str) -> Result<(), StoreError>;

    async fn insert_key(&self, key: &ProvisionerKey, value: &Hashed) -> Result<(), StoreError>;
    async fn key(&self, value: &Hashed) -> Result<Option<ProvisionerKey>, StoreError>;
    async fn keys(&self) -> Result<Vec<ProvisionerKey>, StoreError>;
    /// Whether it was there. The daemons that came with it are forgotten.
    async fn delete_key(&self, key: KeyId) -> Result<bool, StoreError>;
}

/// Daemons.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait DaemonStore: Send + Sync {
    /// Adds a daemon, or changes the one with the same organization, name and owner, whose id stays.
    ///
    /// Refused if that one has another holder and may come back: it is not `offline`, or has jobs. A name that is free
    /// passes on, and the new daemon has an id of its own.
    async fn register_daemon(
        &self,
        daemon: &Daemon,
        is_offline: &(dyn Fn(DaemonId) -> bool + Send + Sync),
    ) -> Result<Registered, StoreError>;
    async fn daemon(&self, id: DaemonId) -> Result<Option<Daemon>, StoreError>;
    async fn daemons(&self) -> Result<Vec<Daemon>, StoreError>;
    /// Jobs that run and that the daemon took while it had this state directory.
    async fn jobs_of_state(&self, id: DaemonId, state_id: &str) -> Result<Vec<JobId>, StoreError>;
    async fn touch_daemon(&self, id: DaemonId, now: Timestamp) -> Result<(), StoreError>;
    async fn delete_daemon(&self, id: DaemonId) -> Result<(), StoreError>;
    /// Forgets daemons that were not seen since, are not `present` and have no job, and says how many.
    async fn forget_daemons(
        &self,
        unseen_since: Timestamp,
        present: &[DaemonId],
    ) -> Result<u64, StoreError>;
}

/// Files, templates and their versions.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait TemplateStore: Send + Sync {
    /// Adds a file, or finds the one with the same kind and content.
    async fn insert_file(&self, kind: FileKind, content: Bytes) -> Result<FileId, StoreError>;
    async fn file(&self, id: FileId) -> Result<Option<File>, StoreError>;
    /// The file of this kind with this hash, in hexadecimal digits.
    async fn file_by_hash(&self, kind: FileKind, sha256: &str) -> Result<Option<File>, StoreError>;

    /// Bytes of these modules, if a template of the organization has them.
    async fn modules_bytes(
        &self,
        organization: OrganizationId,
        file: FileId,
    ) -> Result<Option<usize>, StoreError>;

    /// Archives of modules that no version has: their SHA-256 in hexadecimal digits, and their bytes.
    async fn unused_modules(&self) -> Result<Vec<(String, usize)>, StoreError>;
    /// Removes one if no version has it, and says whether.
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
    /// Newest first.
    async fn versions(&self, template: TemplateId) -> Result<Vec<Version>, StoreError>;
    async fn version(&self, id: VersionId) -> Result<Option<Version>, StoreError>;
    async fn import_output(&self, id: VersionId) -> Result<ImportOutput, StoreError>;
    async fn version_variables(&self, id: VersionId) -> Result<Sealed, StoreError>;
    async fn activate_version(&self, id: VersionId, now: Timestamp) -> Result<(), StoreError>;
}

/// Workspaces, their builds and states, and what they cost.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait WorkspaceStore: Send + Sync {
    /// Adds a build and its job. Refused with [`StoreError::Conflict`] while another one goes on.
    async fn insert_build(&self, new: NewBuild) -> Result<Build, StoreError>;
    /// Sorted by owner and name.
    async fn workspaces(&self, filter: &WorkspaceFilter) -> Result<Vec<Workspace>, StoreError>;
    async fn workspace(&self, id: WorkspaceId) -> Result<Option<Workspace>, StoreError>;
    /// Refused with [`StoreError::Conflict`] while a build goes on, or if the owner has another one of that name.
    async fn rename_workspace(
        &self,
        id: WorkspaceId,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Newest first.
    async fn builds(&self, workspace: WorkspaceId) -> Result<Vec<Build>, StoreError>;
    async fn build(&self, id: BuildId) -> Result<Option<Build>, StoreError>;
    async fn latest_build(&self, workspace: WorkspaceId) -> Result<Option<Build>, StoreError>;
    /// Resources, timings and modules, if it succeeded.
    async fn made(&self, build: BuildId) -> Result<Option<Sealed>, StoreError>;
    /// The state after a build and the build that made it, to which it is sealed.
    async fn state(&self, build: BuildId) -> Result<Option<(BuildId, Sealed)>, StoreError>;
    /// All states of a workspace, oldest first.
    async fn states(&self, workspace: WorkspaceId) -> Result<Vec<StateVersion>, StoreError>;
    /// Keeps a state that came after the end of its job.
    async fn insert_late_state(
        &self,
        build: BuildId,
        state: NewState,
        now: Timestamp,
    ) -> Result<LateState, StoreError>;
    /// Makes a state the one after a build. `false`, and nothing changes, if the build runs or is not the latest.
    async fn replace_state(
        &self,
        build: BuildId,
        state: NewState,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Commits what a build costs, unless that is over the owner's budget and more than the build before cost.
    async fn commit_quota(&self, build: BuildId, daily_cost: i32) -> Result<Quota, StoreError>;
    /// What a user's workspaces cost.
    async fn consumed(&self, user: UserId, organization: OrganizationId)
    -> Result<i32, StoreError>;
}

/// Agents of builds. Only those of a workspace's newest build that succeeded are found, unless it says otherwise.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait AgentStore: Send + Sync {
    async fn agent_by_token(&self, token: &Hashed) -> Result<Option<AgentRecord>, StoreError>;
    async fn agent(&self, id: AgentId) -> Result<Option<AgentRecord>, StoreError>;
    /// By name.
    async fn agents(&self, workspace: WorkspaceId) -> Result<Vec<AgentRecord>, StoreError>;
    /// Whatever its build.
    async fn any_agent(&self, id: AgentId) -> Result<Option<AgentRecord>, StoreError>;
    /// Those of the newest build that had some, by name: of a workspace that is stopped, those that it had.
    async fn last_agents(&self, workspace: WorkspaceId) -> Result<Vec<AgentRecord>, StoreError>;
    /// A person's workspaces and their agents.
    async fn snapshots(&self, owner: UserId) -> Result<WorkspaceSnapshots, StoreError>;
    /// Adds what fits to an agent's log, and says whether everything did.
    async fn append_agent_log(
        &self,
        agent: AgentId,
        source: Uuid,
        lines: Vec<agent_log::Line>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Lines with a greater id than `after` and, if that is given, a smaller one than `before`, in order.
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

/// Jobs and their logs.
#[async_trait]
#[expect(
    missing_docs,
    reason = "the signature of a plain insert or look-up says all there is"
)]
pub trait JobStore: Send + Sync {
    /// Adds a job that belongs to nothing else: a dry run.
    async fn insert_job(&self, job: &JobRecord) -> Result<(), StoreError>;
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError>;
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError>;
    /// Two of the jobs whose ids begin with `prefix`, of one initiator or of all: enough to see whether it is unique.
    async fn jobs_beginning(
        &self,
        prefix: &str,
        initiator: Option<UserId>,
    ) -> Result<Vec<JobId>, StoreError>;
    /// All that nobody took yet.
    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError>;
    /// Counts the silence of open jobs that were heard of on another start of the machine from `now` on.
    async fn count_anew(&self, now: &Uptime) -> Result<(), StoreError>;
    /// All that have not ended.
    async fn open_jobs(&self) -> Result<Vec<JobRecord>, StoreError>;
    /// Gives a job to a daemon, unless it was taken, cancelled or ended: then `false`.
    async fn start_job(
        &self,
        job: JobId,
        daemon: &Daemon,
        now: Timestamp,
        heard: &Uptime,
    ) -> Result<bool, StoreError>;
    /// Writes down that a job lives and what is new of it. Says whether it was cancelled.
    async fn update_job(&self, change: JobChange) -> Result<bool, StoreError>;
    async fn cancel_job(&self, job: JobId, now: Timestamp) -> Result<Cancelled, StoreError>;
    /// Ends a job with all that it leaves behind, once.
    async fn end_job(&self, end: End) -> Result<Ended, StoreError>;
    /// The stage of the last line of its log; empty if it has none.
    async fn last_stage(&self, job: JobId) -> Result<String, StoreError>;
    async fn dry_run(&self, job: JobId) -> Result<Option<Sealed>, StoreError>;
    /// Lines with a greater id than `after`, in order.
    async fn log_lines(
        &self,
        job: JobId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredLine>, StoreError>;
}

/// Everything that the control plane asks of its storage.
#[async_trait]
pub trait Store:
    PeopleStore + DaemonStore + TemplateStore + WorkspaceStore + AgentStore + JobStore
{
    /// Adds an entry; its id is given by the store. Nothing can change or remove one.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;
    /// Newest first, with a smaller id than `before` if that is given.
    async fn audit_entries(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError>;

    /// Whether it answers, and can write.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Ends orderly.
    async fn close(&self);
}
