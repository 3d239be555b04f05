//! The picture of a source, for templates whose providers are not at hand.

use std::collections::{BTreeMap, BTreeSet};

use outpost_base::job::{Class, ExternalAuthRequirement, FormType, Persistence};
use outpost_language::{Count, Outline, OutlinedResource};
use outpost_terraform::resources::HELPER_TYPES;

use super::{Agent, App, Basis, Parameter, Picture, Preset, Resource};

impl Picture {
    /// The picture of what stands in a template's source. One block is one resource, however many it makes.
    pub fn of_source(outline: &Outline) -> Self {
        let places = places(outline);
        let resources = outline.resources.iter().filter(|item| is_shown(item));
        let mut picture = Self {
            basis: Basis::Source,
            resources: resources.map(|item| resource(item, &places)).collect(),
            agents: agents(outline),
            parameters: outline.parameters().map(parameter).collect(),
            presets: outline
                .of_kind("coder_workspace_preset")
                .map(preset)
                .collect(),
            external_auth: outline
                .of_kind("coder_external_auth")
                .filter_map(auth)
                .collect(),
            notes: notes(outline),
        };
        picture.resources.sort_by(|a, b| a.address.cmp(&b.address));
        picture.agents.sort_by(|a, b| a.name.cmp(&b.name));
        picture.external_auth.sort();
        picture
    }
}

fn is_shown(resource: &OutlinedResource) -> bool {
    !resource.is_data && !HELPER_TYPES.contains(&resource.kind.as_str())
}

/// Names of agents by the address of the resource that each is most likely to run in.
fn places(outline: &Outline) -> BTreeMap<&str, Vec<String>> {
    let mut dependants: BTreeMap<&str, Vec<&OutlinedResource>> = BTreeMap::new();
    for resource in &outline.resources {
        for reference in &resource.references {
            dependants.entry(reference).or_default().push(resource);
        }
    }
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for agent in outline.agents() {
        if let Some(place) = nearest(agent, &dependants) {
            places.entry(place).or_default().push(agent.name.clone());
        }
    }
    places.values_mut().for_each(|names| names.sort());
    places
}

/// The nearest resource that refers to the agent, directly or through others; of several the first by address.
fn nearest<'a>(
    agent: &OutlinedResource,
    dependants: &BTreeMap<&str, Vec<&'a OutlinedResource>>,
) -> Option<&'a str> {
    let mut seen = BTreeSet::from([agent.address.as_str()]);
    let mut level = vec![agent.address.as_str()];
    while !level.is_empty() {
        let next = level.iter().filter_map(|address| dependants.get(address));
        let next: Vec<_> = next
            .flatten()
            .filter(|resource| seen.insert(&resource.address))
            .collect();
        let takes_agents = |resource: &&&&OutlinedResource| {
            let is_foreign =
                !resource.kind.starts_with("coder_") || resource.kind == "coder_external_agent";
            !resource.is_data && is_foreign
        };
        let places = next.iter().filter(takes_agents);
        if let Some(place) = places.map(|resource| resource.address.as_str()).min() {
            return Some(place);
        }
        level = next
            .iter()
            .map(|resource| resource.address.as_str())
            .collect();
    }
    None
}

fn resource(resource: &OutlinedResource, places: &BTreeMap<&str, Vec<String>>) -> Resource {
    let agents = places.get(resource.address.as_str());
    let agents = agents.cloned().unwrap_or_default();
    Resource {
        address: resource.address.clone(),
        kind: resource.kind.clone(),
        class: if agents.is_empty() {
            Class::Peripheral
        } else {
            Class::Computational
        },
        persistence: match resource.count {
            Count::One => Some(Persistence::Persistent),
            Count::Transition => Some(Persistence::Ephemeral),
            Count::Other => None,
        },
        agents,
        instance_type: text(resource, "instance_type"),
        daily_cost: 0,
        hide: false,
    }
}

fn agents(outline: &Outline) -> Vec<Agent> {
    let agent = |agent: &OutlinedResource| {
        let refers = |item: &&OutlinedResource| item.references.contains(&agent.address);
        let names = |kind| {
            let found = outline.of_kind(kind).filter(refers);
            found.map(shown_name).collect()
        };
        let app = |app: &OutlinedResource| App {
            slug: app.text("slug").unwrap_or(&app.name).to_owned(),
            display_name: shown_name(app),
            devcontainer: String::new(),
        };
        Agent {
            name: agent.name.clone(),
            operating_system: text(agent, "os"),
            architecture: text(agent, "arch"),
            apps: outline.apps().filter(refers).map(app).collect(),
            scripts: names("coder_script"),
            script_orders: Vec::new(),
            devcontainers: outline
                .of_kind("coder_devcontainer")
                .filter(refers)
                .map(|container| container.name.clone())
                .collect(),
        }
    };
    outline.agents().map(agent).collect()
}

fn shown_name(resource: &OutlinedResource) -> String {
    let name = resource.text("display_name").or(resource.text("slug"));
    name.unwrap_or(&resource.name).to_owned()
}

fn parameter(parameter: &OutlinedResource) -> Parameter {
    let default = parameter.text("default");
    Parameter {
        name: parameter.text("name").unwrap_or(&parameter.name).to_owned(),
        display_name: text(parameter, "display_name"),
        kind: parameter.text("type").unwrap_or("string").to_owned(),
        form_type: FormType::Default,
        required: default.is_none(),
        default_value: default.unwrap_or_default().to_owned(),
        mutable: parameter.text("mutable") == Some("true"),
        ephemeral: parameter.text("ephemeral") == Some("true"),
        options: Vec::new(),
    }
}

fn preset(preset: &OutlinedResource) -> Preset {
    Preset {
        name: preset.text("name").unwrap_or(&preset.name).to_owned(),
        default: preset.text("default") == Some("true"),
        parameters: BTreeMap::new(),
        prebuilds: 0,
    }
}

fn auth(auth: &OutlinedResource) -> Option<ExternalAuthRequirement> {
    Some(ExternalAuthRequirement {
        id: auth.text("id")?.to_owned(),
        optional: auth.text("optional") == Some("true"),
    })
}

fn notes(outline: &Outline) -> Vec<String> {
    let missing = outline.missing_modules.iter().map(|(address, source)| {
        format!("{address} is not part of the template, so its resources are not shown: {source}")
    });
    let drawn = "drawn from the source alone: each block counts as one resource, \
        and persistence is guessed from `count` and `for_each`";
    std::iter::once(drawn.to_owned()).chain(missing).collect()
}

fn text(resource: &OutlinedResource, name: &str) -> String {
    resource.text(name).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use outpost_language::{Module, outline_of};

    use super::*;

    const TEMPLATE: &str = r#"
data "coder_workspace" "me" {}
data "coder_parameter" "size" {
  name    = "Size"
  type    = "number"
  default = 2
  mutable = true
}
data "coder_external_auth" "git" {
  id = "github"
}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "arm64"
}
resource "coder_agent" "idle" {
  os   = "linux"
  arch = "arm64"
}
resource "coder_app" "ide" {
  agent_id     = coder_agent.main.id
  slug         = "code"
  display_name = "Editor"
}
resource "cloud_disk" "home" {}
resource "local_file" "script" {
  content = coder_agent.main.init_script
}
resource "cloud_vm" "a" {
  count     = data.coder_workspace.me.start_count
  user_data = coder_agent.main.init_script
  disk      = cloud_disk.home.id
}
"#;

    #[test]
    fn the_source_tells_classes_agents_apps_and_questions() {
        let outline = outline_of(Module::parse([("main.tf", TEMPLATE)]).unwrap());

        let picture = Picture::of_source(&outline);

        let told: Vec<_> = picture
            .resources
            .iter()
            .map(|resource| {
                (
                    resource.address.as_str(),
                    resource.class,
                    resource.persistence,
                )
            })
            .collect();
        let expected = [
            (
                "cloud_disk.home",
                Class::Peripheral,
                Some(Persistence::Persistent),
            ),
            (
                "cloud_vm.a",
                Class::Computational,
                Some(Persistence::Ephemeral),
            ),
            (
                "local_file.script",
                Class::Peripheral,
                Some(Persistence::Persistent),
            ),
        ];
        assert_eq!(told, expected);
        let agent = picture.agent("main").unwrap();
        assert_eq!(
            (
                agent.apps[0].slug.as_str(),
                agent.apps[0].display_name.as_str()
            ),
            ("code", "Editor")
        );
        assert_eq!(agent.architecture, "arm64");
        assert_eq!(picture.parameters[0].name, "Size");
        assert_eq!(picture.parameters[0].default_value, "2");
        assert_eq!(picture.external_auth[0].id, "github");
        assert!(picture.agent("idle").is_some());
    }
}
