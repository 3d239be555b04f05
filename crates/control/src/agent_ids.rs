//! Ids of the parts of agents and templates, most of which have none in a template. Pure.

use outpost_base::job::App;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::model::{AgentId, VersionId};

/// Derives an id for something that has none: the same id for the same agent and name, whenever it is asked for.
fn derived(agent: AgentId, what: &str) -> Uuid {
    planned_id(agent.0, what)
}

/// Id of a version's preset.
pub(crate) fn preset_id(version: VersionId, name: &str) -> Uuid {
    planned_id(version.0, &format!("preset {name}"))
}

/// Id of something within `whole` that has no id of its own.
pub(crate) fn planned_id(whole: Uuid, what: &str) -> Uuid {
    let digest = Sha256::new()
        .chain_update(whole.as_bytes())
        .chain_update(what)
        .finalize();
    let first: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    uuid::Builder::from_custom_bytes(first).into_uuid()
}

/// Id of the agent's script at this position.
pub fn script_id(agent: AgentId, at: usize) -> Uuid {
    derived(agent, &format!("script {at}"))
}

/// Id of the log source under which the lines of that script appear.
pub fn log_source_id(agent: AgentId, at: usize) -> Uuid {
    derived(agent, &format!("log source {at}"))
}

/// Id of the agent's app.
pub(crate) fn app_id(agent: AgentId, app: &App) -> Uuid {
    let given = app.id.parse();
    given.unwrap_or_else(|_| derived(agent, &app.slug))
}
