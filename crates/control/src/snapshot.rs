//! Snapshots of a person's workspaces for followers, and the changes between two of them. Pure.
//!
//! # Source
//! coder `coderd/workspaceupdates.go`: what counts as new.

use std::collections::BTreeMap;

use outpost_base::job::Transition;

use crate::model::{AgentId, JobStatus, WorkspaceId};

/// All of a person's workspaces by their ids.
pub type WorkspaceSnapshots = BTreeMap<WorkspaceId, WorkspaceSnapshot>;

/// State of a workspace, with its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceSnapshot {
    /// Name of the workspace.
    pub name: String,
    /// Transition of its latest build.
    pub transition: Transition,
    /// Status of that build's job.
    pub status: JobStatus,
    /// Names of its agents, by their ids.
    pub agents: BTreeMap<AgentId, String>,
}

/// A changed workspace; its agents are listed separately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedWorkspace {
    /// Unique id of the workspace.
    pub id: WorkspaceId,
    /// Name of the workspace.
    pub name: String,
    /// Transition of its latest build.
    pub transition: Transition,
    /// Status of that build's job.
    pub status: JobStatus,
}

/// An agent that was added or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAgent {
    /// Unique id of the agent.
    pub id: AgentId,
    /// Name of the agent.
    pub name: String,
    /// Workspace that the agent belongs to.
    pub workspace_id: WorkspaceId,
}

/// Changes between two snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Workspaces that are new, or have another name or status.
    pub upserted_workspaces: Vec<ChangedWorkspace>,
    /// Agents that are new. A renamed agent is deleted and added.
    pub upserted_agents: Vec<ChangedAgent>,
    /// Deleted workspaces in their last state.
    pub deleted_workspaces: Vec<ChangedWorkspace>,
    /// Deleted agents, including those of deleted workspaces.
    pub deleted_agents: Vec<ChangedAgent>,
}

impl WorkspaceSnapshot {
    fn as_change(&self, id: WorkspaceId) -> ChangedWorkspace {
        ChangedWorkspace {
            id,
            name: self.name.clone(),
            transition: self.transition,
            status: self.status,
        }
    }

    /// Returns the agents that `other` does not have.
    fn agents_without(&self, other: Option<&Self>, id: WorkspaceId) -> Vec<ChangedAgent> {
        let is_there = |agent: &AgentId, name: &String| {
            other.is_some_and(|other| other.agents.get(agent) == Some(name))
        };
        let missing = self.agents.iter().filter(|(id, name)| !is_there(id, name));
        let changed = missing.map(|(agent, name)| ChangedAgent {
            id: *agent,
            name: name.clone(),
            workspace_id: id,
        });
        changed.collect()
    }

    fn looks_like(&self, other: &Self) -> bool {
        (&self.name, self.transition, self.status) == (&other.name, other.transition, other.status)
    }
}

impl Change {
    /// Returns the changes from `old` to `new`. If `old` is empty, everything is new.
    pub fn between(old: &WorkspaceSnapshots, new: &WorkspaceSnapshots) -> Self {
        let mut change = Self::default();
        for (id, snapshot) in new {
            let before = old.get(id);
            if before.is_none_or(|before| !before.looks_like(snapshot)) {
                change.upserted_workspaces.push(snapshot.as_change(*id));
            }
            let added = snapshot.agents_without(before, *id);
            change.upserted_agents.extend(added);
        }
        for (id, snapshot) in old {
            let after = new.get(id);
            if after.is_none() {
                change.deleted_workspaces.push(snapshot.as_change(*id));
            }
            let removed = snapshot.agents_without(after, *id);
            change.deleted_agents.extend(removed);
        }
        change
    }

    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, status: JobStatus, agents: &[(AgentId, &str)]) -> WorkspaceSnapshot {
        let agents = agents.iter().map(|(id, name)| (*id, (*name).to_owned()));
        WorkspaceSnapshot {
            name: name.to_owned(),
            transition: Transition::Start,
            status,
            agents: agents.collect(),
        }
    }

    #[test]
    fn of_nothing_everything_is_new_and_of_the_same_nothing_is() {
        let agent = AgentId::random();
        let one = snapshot("one", JobStatus::Succeeded, &[(agent, "main")]);
        let all = WorkspaceSnapshots::from([(WorkspaceId::random(), one)]);

        let first = Change::between(&WorkspaceSnapshots::new(), &all);

        assert_eq!(first.upserted_workspaces[0].name, "one");
        assert_eq!(first.upserted_agents[0].id, agent);
        assert!(first.deleted_workspaces.is_empty() && first.deleted_agents.is_empty());
        assert!(Change::between(&all, &all).is_empty());
    }

    #[test]
    fn another_status_is_told_without_the_agents_that_stay() {
        let (id, agent) = (WorkspaceId::random(), AgentId::random());
        let look =
            |status| WorkspaceSnapshots::from([(id, snapshot("w", status, &[(agent, "main")]))]);

        let change = Change::between(&look(JobStatus::Queued), &look(JobStatus::Running));

        assert_eq!(change.upserted_workspaces[0].status, JobStatus::Running);
        assert_eq!(change.upserted_workspaces.len(), 1);
        assert!(change.upserted_agents.is_empty() && change.deleted_agents.is_empty());
    }

    #[test]
    fn a_build_replaces_agents_though_the_workspace_looks_the_same() {
        let (id, [old, new]) = (WorkspaceId::random(), [(); 2].map(|()| AgentId::random()));
        let look = |agent| {
            let snapshot = snapshot("w", JobStatus::Succeeded, &[(agent, "main")]);
            WorkspaceSnapshots::from([(id, snapshot)])
        };

        let change = Change::between(&look(old), &look(new));

        assert!(change.upserted_workspaces.is_empty());
        assert_eq!(change.upserted_agents[0].id, new);
        assert_eq!(change.deleted_agents[0].id, old);
    }

    #[test]
    fn with_a_workspace_its_agents_are_deleted() {
        let (id, agent) = (WorkspaceId::random(), AgentId::random());
        let one = snapshot("w", JobStatus::Running, &[(agent, "main")]);

        let change = Change::between(
            &WorkspaceSnapshots::from([(id, one)]),
            &WorkspaceSnapshots::new(),
        );

        assert_eq!(change.deleted_workspaces[0].id, id);
        assert_eq!(
            change.deleted_agents,
            [ChangedAgent {
                id: agent,
                name: "main".to_owned(),
                workspace_id: id
            }]
        );
        assert!(change.upserted_workspaces.is_empty());
    }
}
