//! The resources of a build, as conditions and tables see them.

use std::collections::{BTreeMap, BTreeSet};

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
    let changes = changes(facts);
    let change = |resource: &Resource| changes.get(resource.address.as_str()).copied();
    let there: BTreeSet<&str> = facts
        .resources
        .iter()
        .map(|it| it.address.as_str())
        .collect();
    let gone = facts.before.iter().filter(|resource| {
        !there.contains(resource.address.as_str()) && change(resource) == Some(DELETE)
    });
    let mut rows: Vec<_> = facts
        .resources
        .iter()
        .chain(gone)
        .map(|resource| Row {
            resource,
            change: change(resource).unwrap_or("no-op"),
            persistence: facts.persistence.get(&resource.address).copied(),
        })
        .collect();
    rows.sort_by(|a, b| a.resource.address.cmp(&b.resource.address));
    rows
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

/// Returns the plan's changes by address.
fn changes(facts: &Facts) -> BTreeMap<&str, &'static str> {
    let changes = facts.plan["resource_changes"].as_array();
    // A deposed object has an entry of its own with the same address.
    let current = changes
        .into_iter()
        .flatten()
        .filter(|it| it["deposed"].is_null());
    current
        .filter_map(|it| Some((it["address"].as_str()?, name(&it["change"]["actions"]))))
        .collect()
}

/// Returns the name of a change that an engine carries out in one or two actions.
fn name(actions: &Value) -> &'static str {
    let actions = actions.as_array().into_iter().flatten();
    let actions: Vec<_> = actions.filter_map(Value::as_str).collect();
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
