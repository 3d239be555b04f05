//! Operations of the control plane, independent of the caller: services translate a wire format into these calls and
//! back.

mod access;
mod acquire;
mod agents;
mod archives;
mod daemons;
mod follow;
mod handout;
mod jobs;
mod outcome;
mod people;
mod presence;
mod reaper;
mod templates;
mod uploads;
mod workspaces;

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use jiff::Timestamp;
use outpost_base::{
    rules::{resources::Refused, text::is_control},
    stop::Stop,
};
use outpost_net::{access::Access, budget::Shared};
use outpost_process::uptime::Uptime;
use tokio::sync::{Mutex, Notify, watch};
use url::Url;

use self::access::Proof;
pub use self::{
    agents::{AgentFacts, AgentStatus, ResumeError},
    daemons::{Credential, Registration, RestoredState},
    jobs::Explained,
    people::NewUser,
    templates::VersionRequest,
    workspaces::{BuildRequest, WorkspaceRequest},
};
use super::{
    binaries::Binaries,
    config::{DirectPaths, Limits},
    crypt::{OpenError, Sealed, Vault},
    metrics::EndedJobs,
    model::{AuditEntry, JobRecord, Organization, User, Workspace},
    parameters::Problem,
    psk,
    queue::BadTag,
    store::{Store, StoreError},
    workspace_tags::TagError,
};

/// A clock. Tests have their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

type UptimeClock = Box<dyn Fn() -> Uptime + Send + Sync>;

/// State of the control plane that calls need.
pub struct Plane {
    store: Arc<dyn Store>,
    vault: Vault,
    limits: Limits,
    psks: psk::Accepted,
    access_url: OnceLock<Url>,
    direct_paths: DirectPaths,
    clock: Clock,
    uptime: UptimeClock,
    /// Uptime at which this process began to serve.
    started_up: Uptime,
    presence: presence::Presence,
    stop: Stop,
    archives: archives::Archives,
    /// Lock held while an archive is stored or removed, so that neither overtakes the other.
    uploads: Mutex<uploads::Uploads>,
    /// Notified when a job has been queued.
    posted: Notify,
    /// Signals any change of a job.
    changed: watch::Sender<()>,
    /// Signals that a job began or ended, so that workspaces may look different.
    moved: watch::Sender<()>,
    overlay: agents::Overlay,
    binaries: Binaries,
    /// Access that was granted to open connections, by credential.
    granted: Shared<Proof, Access>,
    noted_uses: people::NotedUses,
    pub(crate) ended_jobs: EndedJobs,
}

/// Reasons why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Something that does not exist or that the caller may not see.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Kind of object, such as `template`.
        what: &'static str,
        /// Name as the caller gave it.
        name: String,
    },
    /// A request that is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Parameter values that are not accepted.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Parameters(Vec<Problem>),
    /// A request that conflicts with the current state.
    #[error("{0}")]
    Conflict(String),
    /// Something that the caller is not allowed to do.
    #[error("{0}")]
    Forbidden(String),
    /// A missing or unknown credential.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// A valid credential of a suspended user.
    #[error(
        "user is suspended; an administrator can reactivate the user with `outpost user activate`"
    )]
    Suspended,
    /// A job that does not exist or does not belong to the daemon.
    #[error("{0}")]
    Gone(String),
    /// No capacity at the moment.
    #[error("{0}")]
    Busy(&'static str),
    /// Returned while the server is stopping.
    #[error("server is stopping")]
    Stopping,
    /// A failure of the storage.
    #[error(transparent)]
    Store(StoreError),
    /// A secret at rest that cannot be decrypted.
    #[error("stored data of {place} cannot be read")]
    Sealed {
        /// Object that the secret belongs to.
        place: String,
        /// Error of the decryption.
        source: OpenError,
    },
}

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(reason) => Self::Conflict(reason),
            StoreError::NotFound { what, id } => Self::NotFound { what, name: id },
            StoreError::DiskFull
            | StoreError::Corrupt(_)
            | StoreError::Row { .. }
            | StoreError::Database(_) => Self::Store(error),
        }
    }
}

impl From<BadTag> for RequestError {
    fn from(error: BadTag) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<Refused> for RequestError {
    fn from(error: Refused) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<TagError> for RequestError {
    fn from(error: TagError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// A person who called with a valid token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// User that the token authenticates.
    pub user: User,
    /// Access of everything opened with the token; revoked with it.
    pub access: Arc<Access>,
}

impl Caller {
    /// Returns a caller within this process, who needs no token.
    pub fn inside(user: User) -> Self {
        let access = Arc::default();
        Self { user, access }
    }

    fn need_admin(&self, what: &str) -> Result<(), RequestError> {
        if self.user.admin {
            return Ok(());
        }
        Err(RequestError::Forbidden(format!(
            "{what} needs an administrator, and {} is not one",
            self.user.name
        )))
    }

    /// Returns whether the caller may see and change what belongs to `owner`.
    fn may_act_for(&self, owner: crate::model::UserId) -> bool {
        self.user.admin || self.user.id == owner
    }
}

impl Plane {
    /// Assembles the control plane. The access URL is set once the listener has an address.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        vault: Vault,
        limits: Limits,
        psks: psk::Accepted,
        clock: Clock,
        stop: Stop,
    ) -> Self {
        Self {
            store,
            vault,
            limits,
            psks,
            access_url: OnceLock::new(),
            direct_paths: DirectPaths::default(),
            clock,
            uptime: Box::new(Uptime::now),
            started_up: Uptime::now(),
            presence: presence::Presence::default(),
            stop,
            archives: archives::Archives::default(),
            uploads: Mutex::default(),
            posted: Notify::new(),
            changed: watch::Sender::new(()),
            moved: watch::Sender::new(()),
            overlay: agents::Overlay::default(),
            binaries: Binaries::default(),
            granted: Shared::default(),
            noted_uses: people::NotedUses::default(),
            ended_jobs: EndedJobs::default(),
        }
    }

    /// Replaces the uptime clock, for tests.
    #[cfg(test)]
    fn with_uptime(mut self, uptime: UptimeClock) -> Self {
        self.started_up = uptime();
        self.uptime = uptime;
        self
    }

    fn uptime(&self) -> Uptime {
        (self.uptime)()
    }

    /// Returns how long a job has been silent. Nothing is known of the time before the machine or this process
    /// started: silence counts from then on, so that nobody loses a job because the server was away.
    fn silence(&self, job: &JobRecord) -> Duration {
        let now = self.uptime();
        let since_start = now.since(&self.started_up).unwrap_or_default();
        now.since(&job.heard).unwrap_or(since_start)
    }

    /// Limits that the control plane works with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Storage, for look-ups that decide nothing.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Signal that tells the control plane to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Sets the source of agent binaries.
    #[must_use]
    pub(crate) fn with_binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = binaries;
        self
    }

    /// Allows or blocks direct paths between agents and their clients.
    pub fn with_direct_paths(self, direct_paths: DirectPaths) -> Self {
        Self {
            direct_paths,
            ..self
        }
    }

    /// Returns whether agents and their clients reach each other only by the relay.
    pub fn blocks_direct_paths(&self) -> bool {
        self.direct_paths.are_blocked
    }

    /// Agent binaries that the server hands out.
    pub(crate) fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Sets the URL that templates and agents are given; the first one counts.
    pub(crate) fn set_access_url(&self, url: Url) {
        self.access_url.set(url).ok();
    }

    /// Returns the current time in milliseconds, as it is stored.
    pub fn now(&self) -> Timestamp {
        let now = (self.clock)();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    fn open(&self, place: String, sealed: &Sealed) -> Result<Vec<u8>, RequestError> {
        self.vault
            .open(&place, sealed)
            .map_err(|source| RequestError::Sealed { place, source })
    }

    async fn audit(
        &self,
        actor: &str,
        action: &str,
        target: &str,
        detail: impl Into<String>,
    ) -> Result<(), RequestError> {
        let entry = AuditEntry {
            id: 0,
            at: self.now(),
            actor: actor.to_owned(),
            action: action.to_owned(),
            target: target.to_owned(),
            detail: detail.into(),
        };
        Ok(self.store.audit(&entry).await?)
    }

    /// Finds an organization by name or id; an empty text means the default one.
    pub async fn organization(&self, named: &str) -> Result<Organization, RequestError> {
        let all = self.store.organizations().await?;
        all.into_iter()
            .find(|organization| match named {
                "" => organization.is_default,
                _ => is_called(named, &organization.name, organization.id),
            })
            .ok_or_else(|| not_found("organization", named))
    }

    /// Finds a user by name or id.
    pub async fn user(&self, named: &str) -> Result<User, RequestError> {
        let all = self.store.users().await?;
        all.into_iter()
            .find(|user| is_called(named, &user.name, user.id))
            .ok_or_else(|| not_found("user", named))
    }
}

fn is_called(named: &str, name: &str, id: impl ToString) -> bool {
    named.eq_ignore_ascii_case(name) || named == id.to_string()
}

/// Length of the shortest prefix of an id. Fewer digits could be a name.
const SHORTEST_ID: usize = 4;

/// Returns whether `named` is `id` or a long enough prefix of it.
fn begins(id: &str, named: &str) -> bool {
    named.len() >= SHORTEST_ID && id.starts_with(&named.to_ascii_lowercase())
}

fn several(what: &str, named: &str) -> RequestError {
    RequestError::Invalid(format!(
        "`{named}` matches more than one {what}; give more of its id"
    ))
}

fn not_found(what: &'static str, name: impl Into<String>) -> RequestError {
    RequestError::NotFound {
        what,
        name: name.into(),
    }
}

/// Name of a workspace in logs and lists: `owner/name`.
pub fn full_name(workspace: &Workspace) -> String {
    format!("{}/{}", workspace.owner, workspace.name)
}

/// Checks a name that becomes part of a URL and of resources.
///
/// # Source
/// coder `coderd/httpapi/name.go`: letters, digits and single hyphens, at most 32 characters.
fn check_name(what: &str, name: &str) -> Result<(), RequestError> {
    let hyphens = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if name.is_empty() || name.len() > 32 || hyphens || !letters {
        return Err(RequestError::Invalid(format!(
            "{what} `{name}` is not a valid name: use up to 32 letters, digits and single hyphens between them"
        )));
    }
    Ok(())
}

/// Checks a text that is shown to people, and that must not contain control sequences for terminals.
fn check_text(what: &str, text: &str, longest: usize) -> Result<(), RequestError> {
    if text.chars().any(is_control) {
        return Err(RequestError::Invalid(format!(
            "{what} {text:?} contains a control character: remove it"
        )));
    }
    if text.chars().count() > longest {
        return Err(RequestError::Invalid(format!(
            "{what} has more than {longest} characters"
        )));
    }
    Ok(())
}

/// Runs a future; returns `None` once `stop` drains.
async fn unless_stopped<T>(stop: &Stop, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.draining() => None,
        done = work => Some(done),
    }
}
