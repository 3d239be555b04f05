//! Ids of what an agent or a template has: templates give none to most of it.

use outpost_base::job::App;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::model::{AgentId, VersionId};

/// Ids of what has none: the same whenever it is asked for.
fn derived(agent: AgentId, what: &str) -> Uuid {
    planned_id(agent.0, what)
}

/// The id of a preset of a version.
pub fn preset_id(version: VersionId, name: &str) -> Uuid {
    planned_id(version.0, &format!("preset {name}"))
}

/// The id of something within `whole` that has none of its own.
pub fn planned_id(whole: Uuid, what: &str) -> Uuid {
    let digest = Sha256::new()
        .chain_update(whole.as_bytes())
        .chain_update(what)
        .finalize();
    let first: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    uuid::Builder::from_custom_bytes(first).into_uuid()
}

/// The id of an agent's script at this place.
pub fn script_id(agent: AgentId, at: usize) -> Uuid {
    derived(agent, &format!("script {at}"))
}

/// What the lines of that script are marked with.
pub fn log_source_id(agent: AgentId, at: usize) -> Uuid {
    derived(agent, &format!("log source {at}"))
}

/// The id of an agent's app.
pub fn app_id(agent: AgentId, app: &App) -> Uuid {
    let given = app.id.parse();
    given.unwrap_or_else(|_| derived(agent, &app.slug))
}
