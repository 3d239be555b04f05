//! Agents: who they are, what they are to do, and how they are reached.

use uuid::Uuid;

use super::{Caller, Plane, RequestError, not_found};
use crate::{
    control::{
        model::{AgentId, AgentRecord, Workspace},
        store::AgentChange,
        tokens::Hashed,
    },
    job::Agent,
    secret::Secret,
    tailnet::{Coordinator, DerpMap, Relay},
};

/// An agent with what its template says of it.
pub struct AgentFacts {
    /// What is written down of it.
    pub record: AgentRecord,
    /// What it is to do.
    pub agent: Agent,
    /// Its workspace.
    pub workspace: Workspace,
}

/// What agents and those who go to them need of us beside jobs: both are as lasting as the process.
#[derive(Default)]
pub(super) struct Overlay {
    coordinator: Coordinator,
    relay: Relay,
}

impl Plane {
    /// Tells agents and their clients of each other.
    pub fn coordinator(&self) -> &Coordinator {
        &self.overlay.coordinator
    }

    /// Hands their packets on.
    pub fn relay(&self) -> &Relay {
        &self.overlay.relay
    }

    /// The relays that there are: ours.
    pub fn derp_map(&self) -> DerpMap {
        self.access_url
            .get()
            .map(DerpMap::embedded)
            .unwrap_or_default()
    }

    /// The agent that calls with this token.
    ///
    /// # Errors
    /// [`RequestError::Unauthenticated`] if there is none, or a newer build took its place.
    pub async fn agent_by_token(&self, token: &Secret) -> Result<AgentRecord, RequestError> {
        const UNKNOWN: RequestError =
            RequestError::Unauthenticated("agent token is not known, or of an older build");
        if token.expose().parse::<Uuid>().is_err() {
            return Err(UNKNOWN);
        }
        let found = self.store.agent_by_token(&Hashed::of(token)).await?;
        found.ok_or(UNKNOWN)
    }

    /// An agent that the caller may reach.
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

    /// All that there is to know of an agent.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn agent_facts(&self, record: AgentRecord) -> Result<AgentFacts, RequestError> {
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

    /// Whether it is still its workspace's.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn is_current(&self, id: AgentId) -> Result<bool, RequestError> {
        Ok(self.store.agent(id).await?.is_some())
    }

    /// Writes down what is new of an agent.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn change_agent(&self, id: AgentId, change: AgentChange) -> Result<(), RequestError> {
        Ok(self.store.change_agent(id, change, self.now()).await?)
    }
}
