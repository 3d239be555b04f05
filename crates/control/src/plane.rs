//! What the control plane does, whoever asks: services translate a wire into these calls and back.

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
    secret::Secret,
    stop::Stop,
};
use outpost_net::{access::Access, budget::Shared};
use outpost_process::uptime::Uptime;
use tokio::sync::{Mutex, Notify, watch};
use url::Url;

use self::access::Proof;
pub use self::{
    agents::{AgentFacts, AgentStatus, ResumeError},
    daemons::{CameBack, Credential, Registration},
    jobs::Explained,
    people::NewUser,
    templates::VersionRequest,
    workspaces::{BuildRequest, WorkspaceRequest},
};
use super::{
    binaries::Binaries,
    config::Limits,
    crypt::{OpenError, Sealed, Vault},
    model::{AuditEntry, JobRecord, Organization, User, Workspace},
    parameters::Problem,
    queue::BadTag,
    store::{Store, StoreError},
    workspace_tags::TagError,
};

/// Tells the time. Tests have their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

type UptimeClock = Box<dyn Fn() -> Uptime + Send + Sync>;

/// Everything that calls need.
pub struct Plane {
    store: Arc<dyn Store>,
    vault: Vault,
    limits: Limits,
    psks: Vec<Secret>,
    access_url: OnceLock<Url>,
    clock: Clock,
    uptime: UptimeClock,
    /// When this process began to serve.
    started_up: Uptime,
    presence: presence::Presence,
    stop: Stop,
    archives: archives::Archives,
    /// Held while an archive is stored or removed, so that neither overtakes the other.
    uploads: Mutex<uploads::Uploads>,
    /// A job was queued.
    posted: Notify,
    /// Something happened to a job.
    changed: watch::Sender<()>,
    /// A job began or ended, so that workspaces may look different.
    moved: watch::Sender<()>,
    overlay: agents::Overlay,
    binaries: Binaries,
    /// Access that was granted, by credential.
    granted: Shared<Proof, Access>,
    noted_uses: people::NotedUses,
}

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// What it names is not there, or the caller may not see it.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Such as `template`.
        what: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Answers to the template's questions that are not accepted.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Parameters(Vec<Problem>),
    /// It does not go together with what there is.
    #[error("{0}")]
    Conflict(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// We do not know the caller.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The credential is good, and its user is suspended.
    #[error(
        "user is suspended; an administrator can reactivate the user with `outpost user activate`"
    )]
    Suspended,
    /// The job is not the daemon's, or not there.
    #[error("{0}")]
    Gone(String),
    /// There is no room for it now.
    #[error("{0}")]
    Busy(&'static str),
    /// The server stops.
    #[error("server is stopping")]
    Stopping,
    /// The storage did not do its part.
    #[error(transparent)]
    Store(StoreError),
    /// A secret at rest cannot be read.
    #[error("stored data of {place} cannot be read")]
    Sealed {
        /// What it belongs to.
        place: String,
        /// Why not.
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

/// Somebody who called with a valid token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub user: User,
    /// Ends with the token.
    pub access: Arc<Access>,
}

impl Caller {
    /// Somebody in this process, who needs no token.
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

    /// Whether they may see and change what belongs to `owner`.
    fn may_act_for(&self, owner: crate::model::UserId) -> bool {
        self.user.admin || self.user.id == owner
    }
}

impl Plane {
    /// Puts it together. The access URL is set once the listener has an address.
    pub fn new(
        store: Arc<dyn Store>,
        vault: Vault,
        limits: Limits,
        psks: Vec<Secret>,
        clock: Clock,
        stop: Stop,
    ) -> Self {
        Self {
            store,
            vault,
            limits,
            psks,
            access_url: OnceLock::new(),
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
        }
    }

    /// Takes another clock that nobody sets, for tests.
    #[cfg(test)]
    fn with_uptime(mut self, uptime: UptimeClock) -> Self {
        self.started_up = uptime();
        self.uptime = uptime;
        self
    }

    fn uptime(&self) -> Uptime {
        (self.uptime)()
    }

    /// How long a job has been silent. Of what was before the machine or this process started nothing is known: it counts
    /// from then on, so that nobody loses a job because the server was away.
    fn silence(&self, job: &JobRecord) -> Duration {
        let now = self.uptime();
        let since_start = now.since(&self.started_up).unwrap_or_default();
        now.since(&job.heard).unwrap_or(since_start)
    }

    /// Limits it works with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The storage, for look-ups that decide nothing.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// How it is asked to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Says where binaries of agents come from.
    #[must_use]
    pub fn with_binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = binaries;
        self
    }

    /// Binaries of agents.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Sets the URL that templates and agents are told; the first one counts.
    pub fn set_access_url(&self, url: Url) {
        self.access_url.set(url).ok();
    }

    /// The time, in the milliseconds that are stored.
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

    /// Finds an organization by name or id; the default one for an empty text.
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

/// Fewer digits of an id are no id: they could be a name.
const SHORTEST_ID: usize = 4;

/// Whether `named` is `id`, or enough of its beginning.
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

/// How a workspace is called in logs and lists.
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

/// Checks a text that is shown to people, and that terminals must not obey.
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

/// Ends early when `stop` drains.
async fn unless_stopped<T>(stop: &Stop, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.draining() => None,
        done = work => Some(done),
    }
}
