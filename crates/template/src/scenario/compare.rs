//! Two versions of a template: the second one is built on the workspace of the first.

mod report;

use std::{collections::BTreeMap, path::Path};

use outpost_base::{
    job::{Parameter, ParameterValue, Persistence, Transition},
    stop::Stop,
};
use outpost_files::archive;
use outpost_language as language;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Engines, Facts, Given, Refusal, Scenario,
    workspace::{BuildError, Wanted, Workspace},
};

/// Name of the template, as both versions see it.
const TEMPLATE: &str = "template";

/// A version that cannot be compared.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotBuilt(String);

/// The difference between two versions of a template, for a workspace that runs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    version: u32,
    /// Parameters by name.
    parameters: Vec<Changed>,
    /// Presets by name.
    presets: Vec<Changed>,
    /// Agents by name.
    agents: Vec<Changed>,
    /// Apps by `AGENT.SLUG`.
    apps: Vec<Changed>,
    /// All resources of both versions, by address.
    resources: Vec<ChangedResource>,
    summary: Summary,
}

/// What differs of one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Changed {
    name: String,
    change: Change,
    /// Fields that differ; empty for what is added or removed.
    fields: BTreeMap<String, OldNew>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Added,
    Removed,
    Changed,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct OldNew {
    old: Value,
    new: Value,
}

/// What an update does with a resource of a workspace that runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ChangedResource {
    address: String,
    #[serde(rename = "type")]
    kind: String,
    /// `kept`, `created`, `updated`, `replaced`, `destroyed` or `forgotten`.
    change: &'static str,
    /// `persistent` or `ephemeral`; null if it is new.
    persistence: Option<&'static str>,
    /// Attributes that force a replacement.
    because: Vec<String>,
    /// True if what people keep is lost.
    lost: bool,
}

/// Numbers of changes of resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    kept: usize,
    created: usize,
    updated: usize,
    replaced: usize,
    destroyed: usize,
    lost: usize,
}

/// Builds a started workspace of a version on mocks; with `before`, on the workspace that another version has built.
/// Required parameters without an answer get one that is allowed, and the other answers are those of before.
///
/// # Errors
/// [`NotBuilt`] says why it cannot be built.
pub async fn build_version(
    engines: &dyn Engines,
    dir: &Path,
    scenario: &Scenario,
    before: Option<&Facts>,
    stop: &Stop,
) -> Result<Facts, NotBuilt> {
    let archive = archive::pack_template(dir).map_err(|error| NotBuilt(error.to_string()))?;
    let stage = engines.mocked(scenario, archive).await;
    let stage = stage.map_err(|refusal| match refusal {
        Refusal::Unable(text) => NotBuilt(text),
        Refusal::Scenario(problems) => {
            let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
            NotBuilt(texts.join("; "))
        }
    })?;
    let is_broken = language::load(dir).is_err();
    let state = before.map_or_else(Default::default, |facts| facts.state.to_string().into());
    let mut workspace = Workspace::new(scenario, (stage, is_broken), true, TEMPLATE, state);
    let built = started(&mut workspace, scenario, before, stop).await;
    workspace.leave().await;
    built.map_err(|error| match error {
        BuildError::Failed(text, said) if !said.is_empty() => {
            NotBuilt(said.join("\n") + "\n" + &text)
        }
        BuildError::Failed(text, _) | BuildError::Unable(text) => NotBuilt(text),
        BuildError::Scenario(problem) => NotBuilt(problem.to_string()),
    })
}

async fn started(
    workspace: &mut Workspace,
    scenario: &Scenario,
    before: Option<&Facts>,
    stop: &Stop,
) -> Result<Facts, BuildError> {
    if let Some(before) = before {
        workspace.adopt(&before.resources);
    }
    let parameters = workspace.parameters(stop).await?.to_vec();
    let answers = before.map_or(&[][..], |facts| facts.answers.as_slice());
    let given: Vec<_> = parameters
        .iter()
        .filter_map(|it| answer(it, &scenario.parameters, answers))
        .collect();
    let wanted = Wanted {
        transition: Transition::Start,
        preset: None,
        defaults: &[],
        given: &given,
        persistence: true,
    };
    workspace.build(&wanted, stop).await
}

/// The answer of a workspace to a parameter; `None` for the default.
fn answer(parameter: &Parameter, given: &[Given], before: &[ParameterValue]) -> Option<Given> {
    if let Some(given) = given.iter().find(|it| it.name == parameter.name) {
        return Some(given.clone());
    }
    let is_allowed = |value: &str| {
        parameter.options.is_empty()
            || parameter.kind == "list(string)"
            || parameter.options.iter().any(|it| it.value == value)
    };
    let kept = before.iter().find(|it| it.name == parameter.name);
    let kept = kept.filter(|it| !parameter.ephemeral && is_allowed(&it.value));
    let value = match kept {
        Some(kept) => kept.value.clone(),
        None if parameter.required => made_up(parameter),
        None => return None,
    };
    Some(Given::of_command_line(parameter.name.clone(), value))
}

fn made_up(parameter: &Parameter) -> String {
    match (parameter.kind.as_str(), parameter.options.first()) {
        ("list(string)", _) => "[]".to_owned(),
        (_, Some(option)) => option.value.clone(),
        ("number", None) => parameter.validation_min.unwrap_or(0).to_string(),
        ("bool", None) => "false".to_owned(),
        (_, None) => "example".to_owned(),
    }
}

impl Difference {
    /// Compares the workspace of one version with what another version makes of it.
    pub fn of(old: &Facts, new: &Facts) -> Self {
        let (before, after) = (old.context(), new.context());
        let resources: Vec<_> = resources(old, new);
        let count = |change: &str| resources.iter().filter(|it| it.change == change).count();
        Self {
            version: 1,
            parameters: changes(&before["parameter"], &after["parameter"], &["value"]),
            presets: changes(&before["preset"], &after["preset"], &[]),
            agents: changes(&before["agent"], &after["agent"], &["apps"]),
            apps: changes(&apps(&before["agent"]), &apps(&after["agent"]), &[]),
            summary: Summary {
                kept: count("kept"),
                created: count("created"),
                updated: count("updated"),
                replaced: count("replaced"),
                destroyed: count("destroyed"),
                lost: resources.iter().filter(|it| it.lost).count(),
            },
            resources,
        }
    }

    /// Tells whether something persistent is replaced or destroyed.
    pub fn loses(&self) -> bool {
        self.summary.lost > 0
    }
}

/// Apps of all agents, by `AGENT.SLUG`.
fn apps(agents: &Value) -> Value {
    let agents = agents.as_object().into_iter().flatten();
    let apps = agents.flat_map(|(agent, value)| {
        let apps = value["apps"].as_object().into_iter().flatten();
        apps.map(move |(slug, app)| (format!("{agent}.{slug}"), app.clone()))
    });
    Value::Object(apps.collect())
}

/// What differs between two objects of objects, by name.
fn changes(old: &Value, new: &Value, ignored: &[&str]) -> Vec<Changed> {
    let empty = Map::new();
    let (old, new) = (
        old.as_object().unwrap_or(&empty),
        new.as_object().unwrap_or(&empty),
    );
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = |name: &String| {
        let (change, fields) = match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => (Change::Changed, fields(old, new, ignored)),
            (None, _) => (Change::Added, BTreeMap::new()),
            (_, None) => (Change::Removed, BTreeMap::new()),
        };
        let differs = change != Change::Changed || !fields.is_empty();
        differs.then(|| Changed {
            name: name.clone(),
            change,
            fields,
        })
    };
    names.into_iter().filter_map(changed).collect()
}

fn fields(old: &Value, new: &Value, ignored: &[&str]) -> BTreeMap<String, OldNew> {
    let fields = new.as_object().into_iter().flatten();
    let fields = fields
        .filter(|(name, value)| !ignored.contains(&name.as_str()) && old[name.as_str()] != **value);
    let field = |(name, value): (&String, &Value)| {
        let both = OldNew {
            old: old[name.as_str()].clone(),
            new: value.clone(),
        };
        (name.clone(), both)
    };
    fields.map(field).collect()
}

fn resources(old: &Facts, new: &Facts) -> Vec<ChangedResource> {
    let resource = |row: super::context::Row<'_>| {
        let address = &row.resource.address;
        let change = match row.change {
            "create" => "created",
            "update" => "updated",
            "replace" => "replaced",
            "delete" => "destroyed",
            "forget" => "forgotten",
            _ => "kept",
        };
        let persistence = old.persistence.get(address).copied();
        ChangedResource {
            address: address.clone(),
            kind: row.resource.kind.clone(),
            change,
            persistence: persistence.map(Persistence::as_str),
            because: because(new, address),
            lost: persistence == Some(Persistence::Persistent)
                && matches!(change, "replaced" | "destroyed"),
        }
    };
    new.rows().into_iter().map(resource).collect()
}

/// Attributes that force the replacement of a resource.
fn because(facts: &Facts, address: &str) -> Vec<String> {
    let changes = facts.plan["resource_changes"]
        .as_array()
        .into_iter()
        .flatten();
    let mut of_address = changes.filter(|it| it["address"] == address && it["deposed"].is_null());
    let paths = of_address.next().map(|it| &it["change"]["replace_paths"]);
    let paths = paths.and_then(Value::as_array).into_iter().flatten();
    paths.map(path).collect()
}

/// A path in an attribute, as people write it: `ports[0].internal`.
fn path(steps: &Value) -> String {
    let mut text = String::new();
    for step in steps.as_array().into_iter().flatten() {
        match step.as_str() {
            Some(name) if text.is_empty() => text.push_str(name),
            Some(name) => text.push_str(&format!(".{name}")),
            None => text.push_str(&format!("[{step}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests;
