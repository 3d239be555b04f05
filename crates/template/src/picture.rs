//! Model for drawing a template: resources, agents, persistence and parameters.

mod order;
mod outlined;

use std::collections::BTreeMap;

use outpost_base::job::{self, Class, FormType, Persistence};
use outpost_provision::GraphComplete;
use serde::Serialize;

pub use self::order::{OrderedScript, Phase, Prerequisite, ScriptOrder};

/// Resources, agents and parameters of a template, as far as its basis shows them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Picture {
    /// Basis of the picture.
    pub basis: Basis,
    /// Resources, sorted by address.
    pub resources: Vec<Resource>,
    /// Agents, sorted by name.
    pub agents: Vec<Agent>,
    /// Parameters in the template's order.
    pub parameters: Vec<Parameter>,
    /// Presets, in the template's order.
    pub presets: Vec<Preset>,
    /// External services whose tokens it needs, sorted by id.
    pub external_auth: Vec<job::ExternalAuthRequirement>,
    /// Limits of the picture, one sentence each.
    pub notes: Vec<String>,
}

/// Basis of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Plans of a start and of a stop: nothing is guessed.
    StartAndStop,
    /// One plan: what outlives a stop is not known.
    Plan,
    /// A state: what outlives a stop is not known.
    State,
    /// The source alone: counts and what outlives a stop are guessed.
    Source,
}

/// A resource, or in a picture of a source all instances of one block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resource {
    /// Full address in the template.
    pub address: String,
    /// Terraform's type, such as `docker_container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Computational if agents run in it, else peripheral.
    pub class: Class,
    /// Persistent if it outlives a stop; `None` if that is not known.
    pub persistence: Option<Persistence>,
    /// Names of the agents that run in it, sorted.
    pub agents: Vec<String>,
    /// Such as `t3.large`; empty if there is no such thing.
    pub(crate) instance_type: String,
    /// Whole units a day.
    pub daily_cost: i32,
    /// `true` if a user interface leaves it out.
    pub hide: bool,
}

/// An agent and what it offers. It runs in every resource that names it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agent {
    /// Unique in the template.
    pub name: String,
    /// Such as `linux`; empty if it is not known.
    pub operating_system: String,
    /// Such as `amd64`; empty if it is not known.
    pub architecture: String,
    /// Apps, those in containers included, in the template's order.
    pub apps: Vec<App>,
    /// Names of scripts as people read them.
    pub scripts: Vec<String>,
    /// Scripts and the scripts that they wait for.
    pub script_orders: Vec<ScriptOrder>,
    /// Names of development containers.
    pub devcontainers: Vec<String>,
}

impl Agent {
    /// Such as `linux/amd64`, as far as it is known.
    pub fn platform(&self) -> String {
        let parts = [self.operating_system.as_str(), &self.architecture];
        let known: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        known.join("/")
    }
}

/// An app of an agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct App {
    /// Its name in URLs.
    pub slug: String,
    /// Name that people read.
    pub display_name: String,
    /// The development container that it runs in; empty for the agent itself.
    pub devcontainer: String,
}

/// Parameter of a template (`coder_parameter`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameter {
    /// Unique in the template.
    pub name: String,
    /// Name that people read; empty if it is `name`.
    pub display_name: String,
    /// `string`, `number`, `bool` or `list(string)`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Form control that asks for the value.
    pub(crate) form_type: FormType,
    /// `true` if there is no default.
    pub required: bool,
    /// Default value; empty if there is none.
    pub default_value: String,
    /// `true` if the value may change after the first build.
    pub mutable: bool,
    /// `true` if the value counts for one build only.
    pub ephemeral: bool,
    /// Allowed values; empty for any.
    pub options: Vec<String>,
}

/// Preset of a template: a named set of parameter values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preset {
    /// Unique in the template.
    pub name: String,
    /// `true` if the preset is selected at first.
    pub default: bool,
    /// The answers, by parameter.
    pub parameters: BTreeMap<String, String>,
    /// Number of prebuilt workspaces.
    pub prebuilds: i32,
}

impl Picture {
    /// The picture of plans of a start and of a stop. What people are asked is taken from the start.
    ///
    /// # Source
    /// coder `provisionerd/runner/runner.go`, `runTemplateImport`.
    pub(crate) fn of_plans(start: &GraphComplete, stop: &GraphComplete) -> Self {
        let mut picture = Self::of_one(Basis::StartAndStop, start);
        let persistence = job::classify(&start.resources, &stop.resources);
        let is_stop_only = |resource: &&job::Resource| {
            persistence.get(&resource.address) == Some(&Persistence::StopOnly)
        };
        let stop_only = stop.resources.iter().filter(is_stop_only).map(resource);
        picture.resources.extend(stop_only);
        picture.resources.sort_by(|a, b| a.address.cmp(&b.address));
        for resource in &mut picture.resources {
            resource.persistence = persistence.get(&resource.address).copied();
        }
        picture
    }

    /// The picture of one plan or one state.
    pub fn of_one(basis: Basis, converted: &GraphComplete) -> Self {
        let agents = converted
            .resources
            .iter()
            .flat_map(|resource| &resource.agents);
        let agents: BTreeMap<_, _> = agents.map(|item| (&item.name, agent(item))).collect();
        Self {
            basis,
            resources: converted.resources.iter().map(resource).collect(),
            agents: agents.into_values().collect(),
            parameters: converted.parameters.iter().map(parameter).collect(),
            presets: converted.presets.iter().map(preset).collect(),
            external_auth: converted.external_auth.clone(),
            notes: Vec::new(),
        }
    }

    /// The agent of a name.
    pub fn agent(&self, name: &str) -> Option<&Agent> {
        let found = self
            .agents
            .binary_search_by(|agent| agent.name.as_str().cmp(name));
        found.ok().map(|at| &self.agents[at])
    }
}

fn resource(resource: &job::Resource) -> Resource {
    let mut agents: Vec<_> = resource
        .agents
        .iter()
        .map(|agent| agent.name.clone())
        .collect();
    agents.sort();
    Resource {
        address: resource.address.clone(),
        kind: resource.kind.clone(),
        class: resource.class(),
        persistence: None,
        agents,
        instance_type: resource.instance_type.clone(),
        daily_cost: resource.daily_cost,
        hide: resource.hide,
    }
}

fn agent(agent: &job::Agent) -> Agent {
    let app = |app: &job::App, devcontainer: &str| App {
        slug: app.slug.clone(),
        display_name: app.display_name.clone(),
        devcontainer: devcontainer.to_owned(),
    };
    let mut apps: Vec<_> = agent.apps.iter().map(|item| app(item, "")).collect();
    let mut scripts: Vec<_> = agent.scripts.iter().collect();
    for container in &agent.devcontainers {
        apps.extend(container.apps.iter().map(|item| app(item, &container.name)));
        scripts.extend(&container.scripts);
    }
    Agent {
        name: agent.name.clone(),
        operating_system: agent.operating_system.clone(),
        architecture: agent.architecture.clone(),
        apps,
        scripts: scripts
            .into_iter()
            .map(|script| script.display_name.clone())
            .collect(),
        script_orders: ScriptOrder::all_of(agent),
        devcontainers: agent
            .devcontainers
            .iter()
            .map(|container| container.name.clone())
            .collect(),
    }
}

fn parameter(parameter: &job::Parameter) -> Parameter {
    Parameter {
        name: parameter.name.clone(),
        display_name: parameter.display_name.clone(),
        kind: parameter.kind.clone(),
        form_type: parameter.form_type,
        required: parameter.required,
        default_value: parameter.default_value.clone(),
        mutable: parameter.mutable,
        ephemeral: parameter.ephemeral,
        options: parameter
            .options
            .iter()
            .map(|option| option.value.clone())
            .collect(),
    }
}

fn preset(preset: &job::Preset) -> Preset {
    let answers = preset.parameters.iter();
    Preset {
        name: preset.name.clone(),
        default: preset.default,
        parameters: answers
            .map(|answer| (answer.name.clone(), answer.value.clone()))
            .collect(),
        prebuilds: preset.prebuild.instances,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A picture with one of everything.
    pub(crate) fn example() -> Picture {
        let mut disk = made("docker_volume.home", &[]);
        disk.daily_cost = 3;
        let mut vm = made("docker_container.workspace[\"a\"]", &["main"]);
        let agent = &mut vm.agents[0];
        agent.operating_system = "linux".to_owned();
        agent.architecture = "amd64".to_owned();
        agent.apps = vec![job::App {
            slug: "editor".to_owned(),
            display_name: "Editor <1>".to_owned(),
            ..job::App::default()
        }];
        agent.scripts = ["clone", "install"].map(script).into();
        agent.scripts[1].dependencies = vec![job::ScriptDependency {
            prerequisite: "coder_script.clone".to_owned(),
            requirement: job::ScriptRequirement::Success,
        }];
        let stop = graph(vec![disk.clone()]);
        let mut start = graph(vec![vm, disk]);
        start.parameters = vec![job::Parameter {
            name: "size & shape".to_owned(),
            kind: "string".to_owned(),
            default_value: "big".to_owned(),
            ..job::Parameter::default()
        }];
        Picture::of_plans(&start, &stop)
    }

    fn script(name: &str) -> job::Script {
        job::Script {
            display_name: name.to_owned(),
            resource_address: format!("coder_script.{name}"),
            run_on_start: true,
            ..job::Script::default()
        }
    }

    fn made(address: &str, agents: &[&str]) -> job::Resource {
        let agent = |name: &&str| job::Agent {
            name: (*name).to_owned(),
            ..job::Agent::default()
        };
        job::Resource {
            address: address.to_owned(),
            agents: agents.iter().map(agent).collect(),
            ..job::Resource::default()
        }
    }

    fn graph(resources: Vec<job::Resource>) -> GraphComplete {
        GraphComplete {
            resources,
            ..GraphComplete::default()
        }
    }

    #[test]
    fn two_plans_tell_what_outlives_a_stop_and_what_only_a_stop_makes() {
        let start = graph(vec![
            made("a.disk", &[]),
            made("a.vm[0]", &["dev", "build"]),
        ]);
        // Without its machine the agent falls to the disk, which does not make the disk computational.
        let stop = graph(vec![made("a.disk", &["dev"]), made("a.note", &[])]);

        let picture = Picture::of_plans(&start, &stop);

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
            ("a.disk", Class::Peripheral, Some(Persistence::Persistent)),
            ("a.note", Class::Peripheral, Some(Persistence::StopOnly)),
            (
                "a.vm[0]",
                Class::Computational,
                Some(Persistence::Ephemeral),
            ),
        ];
        assert_eq!(told, expected);
        assert_eq!(picture.resources[2].agents, ["build", "dev"]);
        assert_eq!(picture.agents.len(), 2);
    }

    #[test]
    fn one_plan_tells_nothing_about_stops() {
        let picture = Picture::of_one(Basis::Plan, &graph(vec![made("a.vm", &["dev"])]));

        assert_eq!(picture.resources[0].persistence, None);
        assert_eq!(picture.agent("dev").unwrap().name, "dev");
    }

    #[test]
    fn apps_in_containers_name_their_container() {
        let mut resource = made("a.vm", &["dev"]);
        let app = |slug: &str| job::App {
            slug: slug.to_owned(),
            ..job::App::default()
        };
        resource.agents[0].apps = vec![app("ide")];
        resource.agents[0].devcontainers = vec![job::Devcontainer {
            name: "web".to_owned(),
            apps: vec![app("preview")],
            ..job::Devcontainer::default()
        }];

        let picture = Picture::of_one(Basis::State, &graph(vec![resource]));

        let places: Vec<_> = picture.agents[0]
            .apps
            .iter()
            .map(|app| (app.slug.as_str(), app.devcontainer.as_str()))
            .collect();
        assert_eq!(places, [("ide", ""), ("preview", "web")]);
    }
}
