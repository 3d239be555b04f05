//! Agents: their tokens, their work, and how they are reached.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use outpost_base::{job::Agent, secret::Secret};
use outpost_net::listener::mark_authenticated;
use outpost_tailnet::{Coordinator, DerpMap, Relay};
use tokio::sync::watch;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Caller, Plane, RequestError, not_found};
use crate::{
    agent_log,
    agent_reports::{AgentReports, ReportCache},
    crypt::{OpenError, Sealed},
    model::{AgentId, AgentRecord, Workspace, WorkspaceId},
    store::AgentChange,
    tokens::Hashed,
};

/// An agent, with its description in the template.
pub struct AgentFacts {
    /// Record of the agent in the store.
    pub record: AgentRecord,
    /// Description of the agent in the template.
    pub agent: Agent,
    /// Workspace that the agent runs in.
    pub workspace: Workspace,
}

/// Connection status of an agent, in Coder's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says it")]
pub enum AgentStatus {
    Connecting,
    Connected,
    Disconnected,
    Timeout,
}

impl AgentStatus {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Timeout => "timeout",
        }
    }
}

/// Validity of a resume token, as in Coder.
const RESUME: Duration = Duration::from_secs(24 * 60 * 60);

/// State that agents and their clients share on the server, apart from jobs. Lost when the process ends.
pub(super) struct Overlay {
    coordinator: Coordinator,
    relay: Relay,
    reports: Mutex<ReportCache>,
    /// Signals a new report of an agent.
    pub(super) changed: watch::Sender<()>,
}

/// Creates a relay that serves only nodes that the coordinator knows.
impl Default for Overlay {
    fn default() -> Self {
        Self {
            coordinator: Coordinator::default(),
            relay: Relay::guarded(),
            reports: Mutex::default(),
            changed: watch::Sender::default(),
        }
    }
}

/// Reasons why a resume token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Returned if the token is not ours, or another user's.
    #[error("resume token was not made for this user")]
    Foreign,
    /// Returned if the token has expired.
    #[error("resume token has expired")]
    Expired,
}

impl Plane {
    /// Coordinator that introduces agents and their clients to each other.
    pub fn coordinator(&self) -> &Coordinator {
        &self.overlay.coordinator
    }

    /// Relay that forwards their packets.
    pub fn relay(&self) -> &Relay {
        &self.overlay.relay
    }

    /// Returns the map of the relays, of which our own is the only one, with the STUN servers.
    pub fn derp_map(&self) -> DerpMap {
        let map = self.access_url.get().map(DerpMap::embedded);
        let mut map = map.unwrap_or_default();
        if !self.direct_paths.are_blocked {
            map.add_stun_servers(&self.direct_paths.stun_servers);
        }
        map
    }

    /// Returns the agent that this token belongs to.
    ///
    /// # Errors
    /// [`RequestError::Unauthenticated`] if there is none, a newer build took its place, or its owner is suspended.
    pub(crate) async fn agent_by_token(&self, token: &Secret) -> Result<AgentRecord, RequestError> {
        const UNKNOWN: RequestError =
            RequestError::Unauthenticated("agent token is unknown or belongs to an older build");
        if token.expose().parse::<Uuid>().is_err() {
            return Err(UNKNOWN);
        }
        let found = self.store.agent_by_token(&Hashed::of(token)).await?;
        let agent = found.ok_or(UNKNOWN)?;
        if self.is_suspended(&agent).await? {
            return Err(RequestError::Unauthenticated(
                "owner of the agent's workspace is suspended",
            ));
        }
        // No expiry: the connection itself checks whether a newer build has replaced the agent.
        mark_authenticated(None);
        Ok(agent)
    }

    /// Returns an agent that the caller may reach.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if the caller may not.
    pub async fn agent(&self, caller: &Caller, id: AgentId) -> Result<AgentFacts, RequestError> {
        let missing = || not_found("agent", id.to_string());
        let record = self.store.agent(id).await?.ok_or_else(missing)?;
        let facts = self.agent_facts(record).await?;
        match caller.may_act_for(facts.workspace.owner_id) {
            true => Ok(facts),
            false => Err(missing()),
        }
    }

    /// Collects everything that is known of an agent.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn agent_facts(
        &self,
        record: AgentRecord,
    ) -> Result<AgentFacts, RequestError> {
        let missing = || not_found("agent", record.id.to_string());
        let workspace = self.store.workspace(record.workspace_id).await?;
        let workspace = workspace.ok_or_else(missing)?;
        let made = self.made(record.build_id).await?;
        let agents = made
            .resources
            .into_iter()
            .flat_map(|resource| resource.agents);
        let mut agents = agents.filter(|agent| agent.name == record.name);
        let agent = agents.next().ok_or_else(missing)?;
        Ok(AgentFacts {
            record,
            agent,
            workspace,
        })
    }

    /// Returns whether the caller may reach an agent, including one of an older build.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn may_reach(
        &self,
        caller: &Caller,
        id: AgentId,
    ) -> Result<bool, RequestError> {
        let Some(record) = self.store.any_agent(id).await? else {
            return Ok(false);
        };
        let workspace = self.store.workspace(record.workspace_id).await?;
        Ok(workspace.is_some_and(|it| caller.may_act_for(it.owner_id)))
    }

    /// Returns the agent of this name, or the only agent, of the newest build that had agents.
    ///
    /// # Errors
    /// [`RequestError::NotFound`]; [`RequestError::Invalid`] if one has to be named.
    pub(crate) async fn last_agent(
        &self,
        workspace: WorkspaceId,
        name: &str,
    ) -> Result<AgentFacts, RequestError> {
        let mut all = self.store.last_agents(workspace).await?;
        let found = match (name, all.len()) {
            ("", 0) => None,
            ("", 1) => all.pop(),
            ("", _) => {
                let names: Vec<_> = all.into_iter().map(|agent| agent.name).collect();
                let names = names.join(", ");
                let why = format!("the workspace has several agents: name one of {names}");
                return Err(RequestError::Invalid(why));
            }
            (name, _) => all
                .into_iter()
                .find(|agent| agent.name.eq_ignore_ascii_case(name)),
        };
        let found = found.ok_or_else(|| not_found("agent", name))?;
        self.agent_facts(found).await
    }

    /// Returns whether the agent can be reached; `described` is its description in the template.
    pub(crate) fn agent_status(&self, record: &AgentRecord, described: &Agent) -> AgentStatus {
        let limit = described.connection_timeout_seconds;
        let is_late = || {
            let waited = self.now().duration_since(record.created_at);
            limit > 0 && waited > SignedDuration::from_secs(limit.into())
        };
        let is_connected = self.coordinator().is_connected(record.id.0);
        match (is_connected, record.first_connected_at) {
            (true, _) => AgentStatus::Connected,
            (false, Some(_)) => AgentStatus::Disconnected,
            (false, None) if is_late() => AgentStatus::Timeout,
            (false, None) => AgentStatus::Connecting,
        }
    }

    /// Returns the newest reports of an agent.
    pub fn reports(&self, id: AgentId) -> AgentReports {
        self.report_cache().reports(id)
    }

    /// Records a report of an agent.
    pub(crate) fn record_report<T>(
        &self,
        id: AgentId,
        change: impl FnOnce(&mut AgentReports) -> T,
    ) -> T {
        let mut cache = self.report_cache();
        change(cache.of(id, |id| self.coordinator().is_connected(id.0)))
    }

    /// Removes the reports of an agent that another one has replaced.
    pub(crate) fn forget_agent(&self, id: AgentId) {
        self.report_cache().forget(id);
    }

    fn report_cache(&self) -> MutexGuard<'_, ReportCache> {
        // Entries are consistent even after a panic, so a poisoned lock can be used.
        let cache = self.overlay.reports.lock();
        cache.unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores as many lines of an agent's log as fit, and returns whether all did.
    ///
    /// # Errors
    /// [`RequestError::NotFound`] if a newer build took its place.
    pub(crate) async fn keep_agent_log(
        &self,
        id: AgentId,
        source: Uuid,
        lines: Vec<agent_log::Line>,
    ) -> Result<bool, RequestError> {
        let kept = self.store.append_agent_log(id, source, lines, self.now());
        let kept = kept.await?;
        self.overlay.changed.send_replace(());
        Ok(kept)
    }

    /// Returns the seed of an agent's SSH host key, which depends on names alone, so that a workspace that is
    /// rebuilt, or deleted and created again, has the same key.
    pub(crate) fn ssh_host_key_seed(
        &self,
        owner: &str,
        workspace: &str,
        agent: &str,
    ) -> Zeroizing<[u8; 32]> {
        // No name has a zero byte.
        let purpose = ["outpost ssh host key/1", owner, workspace, agent].join("\0");
        self.vault.derive(&purpose)
    }

    /// Issues a token with which a client of the caller may return under the id `peer`, and the time when it expires.
    pub fn resume_token(&self, caller: &Caller, peer: Uuid) -> (Secret, Timestamp) {
        let until = self.now().saturating_add(RESUME);
        let until = until.unwrap_or(Timestamp::MAX);
        let plain = [
            peer.as_bytes().as_slice(),
            &until.as_millisecond().to_be_bytes(),
        ]
        .concat();
        let sealed = self.vault.seal(&resume_place(caller), &plain);
        (Secret::new(BASE64_URL_SAFE_NO_PAD.encode(sealed.0)), until)
    }

    /// Returns the id that the token stands for; `None` if the server has another key now and cannot tell.
    ///
    /// # Errors
    /// [`ResumeError`]
    pub fn resumed(&self, caller: &Caller, token: &str) -> Result<Option<Uuid>, ResumeError> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(token);
        let sealed = Sealed(sealed.map_err(|_| ResumeError::Foreign)?);
        let plain = match self.vault.open(&resume_place(caller), &sealed) {
            Ok(plain) => plain,
            Err(OpenError::Key(_)) => return Ok(None),
            Err(OpenError::Truncated | OpenError::Format(_) | OpenError::Changed) => {
                return Err(ResumeError::Foreign);
            }
        };
        let parts = plain.split_first_chunk::<16>();
        let (peer, until) = parts.ok_or(ResumeError::Foreign)?;
        let until: [u8; 8] = until.try_into().map_err(|_| ResumeError::Foreign)?;
        match i64::from_be_bytes(until) > self.now().as_millisecond() {
            true => Ok(Some(Uuid::from_bytes(*peer))),
            false => Err(ResumeError::Expired),
        }
    }

    /// Returns whether the agent still belongs to its workspace and the workspace's owner is not suspended.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn is_current(&self, id: AgentId) -> Result<bool, RequestError> {
        match self.store.agent(id).await? {
            Some(agent) => Ok(!self.is_suspended(&agent).await?),
            None => Ok(false),
        }
    }

    /// Returns whether the owner of the agent's workspace is suspended or no longer exists.
    async fn is_suspended(&self, agent: &AgentRecord) -> Result<bool, RequestError> {
        let Some(workspace) = self.store.workspace(agent.workspace_id).await? else {
            return Ok(true);
        };
        let users = self.store.users().await?;
        let mut suspended = users.iter().filter(|user| user.suspended_at.is_some());
        Ok(suspended.any(|user| user.id == workspace.owner_id))
    }

    /// Stores changes of an agent's record.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn change_agent(
        &self,
        id: AgentId,
        change: AgentChange,
    ) -> Result<(), RequestError> {
        Ok(self.store.change_agent(id, change, self.now()).await?)
    }
}

/// Place that a resume token is sealed to, so that it is worthless to anybody else.
fn resume_place(caller: &Caller) -> String {
    format!("resume token of user {}", caller.user.id)
}
