//! Planned resources, which no workspace has yet, as Coder's clients read them.

use outpost_base::job::{Agent, Resource, ResourceMetadata, Transition};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{jobs::transition, workspaces::display_apps};
use crate::agent_ids::planned_id;

/// Describes the resources of a plan, with their agents. Their ids are the same whenever `plan` is asked for.
pub(super) fn planned(plan: Uuid, all: &[Resource], change: Transition) -> Vec<Value> {
    let each = all.iter().enumerate().map(|(at, resource)| {
        let id = planned_id(plan, &format!("{} {at}", transition(change)));
        let agents = resource.agents.iter().map(|it| planned_agent(id, it));
        json!({
            "id": id,
            "job_id": plan,
            "type": resource.kind,
            "name": resource.name,
            "workspace_transition": transition(change),
            "hide": resource.hide,
            "icon": resource.icon,
            "daily_cost": resource.daily_cost,
            "agents": agents.collect::<Vec<_>>(),
            "metadata": facts(&resource.metadata),
        })
    });
    each.collect()
}

/// Metadata of a resource; clients show sensitive values on demand only.
pub(super) fn facts(all: &[ResourceMetadata]) -> Vec<Value> {
    let each = all
        .iter()
        .map(|it| json!({ "key": it.key, "value": it.value, "sensitive": it.sensitive }));
    each.collect()
}

fn planned_agent(resource: Uuid, agent: &Agent) -> Value {
    json!({
        "id": planned_id(resource, &agent.name),
        "resource_id": resource,
        "name": agent.name,
        "status": "connecting",
        "lifecycle_state": "created",
        "architecture": agent.architecture,
        "operating_system": agent.operating_system,
        "directory": agent.directory,
        "display_apps": display_apps(&agent.display_apps),
        "subsystems": [],
        "apps": [],
        "scripts": [],
        "log_sources": [],
        "health": { "healthy": false, "reason": "agent is not running" },
    })
}
