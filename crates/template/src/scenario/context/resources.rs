//! The resources of a build, as conditions and tables see them.

use outpost_base::job::{Persistence, Resource};
use serde_json::{Map, Value, json};

use super::Facts;

/// A resource and what the build did with it.
pub(in super::super) struct Row<'a> {
    pub(in super::super) resource: &'a Resource,
    pub(in super::super) change: &'static str,
    pub(in super::super) persistence: Option<Persistence>,
}

pub(super) fn rows(facts: &Facts) -> Vec<Row<'_>> {
    let is_gone = |resource: &&Resource| {
        facts
            .resources
            .iter()
            .all(|it| it.address != resource.address)
            && change(facts, &resource.address) == DELETE
    };
    let gone = facts.before.iter().filter(is_gone);
    let mut rows: Vec<_> = facts
        .resources
        .iter()
        .chain(gone)
        .map(|resource| row(facts, resource))
        .collect();
    rows.sort_by(|a, b| a.resource.address.cmp(&b.resource.address));
    rows
}

fn row<'a>(facts: &'a Facts, resource: &'a Resource) -> Row<'a> {
    Row {
        resource,
        change: change(facts, &resource.address),
        persistence: facts.persistence.get(&resource.address).copied(),
    }
}

pub(super) fn resources(facts: &Facts) -> Value {
    let entries = rows(facts).into_iter();
    Value::Object(
        entries
            .map(|row| (row.resource.address.clone(), value(&row)))
            .collect(),
    )
}

fn value(row: &Row<'_>) -> Value {
    let resource = row.resource;
    let agents: Vec<_> = resource
        .agents
        .iter()
        .map(|agent| agent.name.as_str())
        .collect();
    json!({
        "type": resource.kind,
        "name": resource.name,
        "class": resource.class().as_str(),
        "persistence": row.persistence.map(Persistence::as_str),
        "daily_cost": resource.daily_cost,
        "change": row.change,
        "hide": resource.hide,
        "icon": resource.icon,
        "metadata": metadata(resource),
        "agents": agents,
        "instance_type": resource.instance_type,
    })
}

fn metadata(resource: &Resource) -> Map<String, Value> {
    let items = resource.metadata.iter().map(|item| {
        let value = match item.is_null {
            true => Value::Null,
            false => item.value.clone().into(),
        };
        (item.key.clone(), value)
    });
    items.collect()
}

const DELETE: &str = "delete";

/// Returns the plan's change of an address.
fn change(facts: &Facts, address: &str) -> &'static str {
    let changes = facts.plan["resource_changes"]
        .as_array()
        .into_iter()
        .flatten();
    // A deposed object has an entry of its own with the same address.
    let mut changes = changes.filter(|it| it["address"] == address && it["deposed"].is_null());
    let actions = changes
        .next()
        .and_then(|it| it["change"]["actions"].as_array());
    let actions: Vec<_> = actions
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match actions.as_slice() {
        ["create"] => "create",
        ["update"] => "update",
        ["delete"] => DELETE,
        ["read"] => "read",
        ["forget"] => "forget",
        [_, _] => "replace",
        _ => "no-op",
    }
}
