//! Agents: found, checked, and put on the resource that is nearest among those that depend on them.

mod read;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
};

use self::read::{check_name, read_agent};
use super::{ConvertError, decode::decode, index, index::Index};
use crate::{
    job::{Agent, AgentAuth, App, Devcontainer, Env, Script},
    terraform::{
        graph::{Direction, Graph},
        plan::ResourceValues,
    },
};

/// Agents in the order of their resources' labels, and of their addresses for one label.
pub(super) struct Agents<'a> {
    all: Vec<Agent>,
    /// Which of them a resource has, by its label.
    by_label: BTreeMap<&'a str, Range<usize>>,
    /// By id, without those that have none.
    by_id: HashMap<String, Vec<usize>>,
    /// Those without an id, by name.
    by_name: HashMap<String, usize>,
    /// The first container for a sub-agent's id, and for the name of one without such an id.
    containers: HashMap<ContainerKey, Spot>,
    /// Direct edges of the root module: from things by type and name to agents and containers.
    links: HashMap<&'a str, HashSet<(Target, &'a str)>>,
}

/// An agent's place, and the place of a container in it; none sorts before any.
type Spot = (usize, Option<usize>);

#[derive(PartialEq, Eq, Hash)]
enum ContainerKey {
    Id(String),
    Name(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Agent,
    Devcontainer,
}

/// Where something that names an agent belongs.
pub(super) enum Place<'p> {
    /// The agent itself.
    Agent(&'p mut Agent),
    /// A development container of it.
    Devcontainer(&'p mut Devcontainer),
}

impl<'a> Agents<'a> {
    /// Reads every `coder_agent` and finds its resource. One that no resource depends on is dropped.
    pub(super) fn collect(index: &Index<'a>, graph: &'a Graph) -> Result<Self, ConvertError> {
        let mut names = BTreeSet::new();
        let mut groups: BTreeMap<&str, Vec<Agent>> = BTreeMap::new();
        for resource in index.of_type("coder_agent") {
            let agent = read_agent(resource)?;
            check_name(&resource.name)?;
            if !names.insert(resource.name.to_lowercase()) {
                return Err(ConvertError::DuplicateAgent(resource.name.clone()));
            }
            let label = index::label(&resource.address);
            let node = graph
                .node_with_label(label)
                .ok_or_else(|| ConvertError::NotInGraph(label.to_owned()))?;
            let nearest =
                graph.nearest(node, Direction::Dependants, |label| index.is_target(label));
            if let Some(target) = nearest {
                groups.entry(target).or_default().push(agent);
            }
        }
        Ok(Self::new(groups, links(graph)))
    }

    fn new(
        groups: BTreeMap<&'a str, Vec<Agent>>,
        links: HashMap<&'a str, HashSet<(Target, &'a str)>>,
    ) -> Self {
        let mut agents = Self {
            all: Vec::new(),
            by_label: BTreeMap::new(),
            by_id: HashMap::new(),
            by_name: HashMap::new(),
            containers: HashMap::new(),
            links,
        };
        for (label, group) in groups {
            let start = agents.all.len();
            agents.all.extend(group);
            agents.by_label.insert(label, start..agents.all.len());
        }
        for (spot, agent) in agents.all.iter().enumerate() {
            if agent.id.is_empty() {
                agents.by_name.insert(agent.name.clone(), spot);
            } else {
                agents.by_id.entry(agent.id.clone()).or_default().push(spot);
            }
        }
        agents
    }

    /// The agents of a resource, by its label.
    pub(super) fn of(&self, label: &str) -> Vec<Agent> {
        let range = self.by_label.get(label).cloned();
        range.map_or_else(Vec::new, |range| self.all[range].to_vec())
    }

    /// Puts each `coder_devcontainer` on every agent that it names.
    pub(super) fn attach_devcontainers(&mut self, index: &Index<'_>) -> Result<(), ConvertError> {
        let what = "decode devcontainer attributes";
        for resource in index.of_type("coder_devcontainer") {
            let (agent_id, container) = decode(what, &resource.values, |values| {
                let container = Devcontainer {
                    id: values.string("id"),
                    subagent_id: values.string("subagent_id"),
                    name: resource.name.clone(),
                    workspace_folder: values.string("workspace_folder"),
                    config_path: values.string("config_path"),
                    ..Devcontainer::default()
                };
                (values.string("agent_id"), container)
            })?;
            for spot in self.agents_named(resource, &agent_id) {
                self.add_container(spot, container.clone());
            }
        }
        self.find_containers();
        Ok(())
    }

    /// Gives agents the ids that `coder_agent_instance` resources name: in each resource the first that takes one.
    /// Agents with a token are left alone.
    pub(super) fn set_instance_ids(&mut self, index: &Index<'_>) {
        for resource in index.of_type("coder_agent_instance") {
            let text = |key: &str| resource.values.get(key).and_then(|value| value.as_str());
            let (Some(agent_id), Some(instance_id)) = (text("agent_id"), text("instance_id"))
            else {
                continue;
            };
            for range in self.by_label.values() {
                let takes = |agent: &&mut Agent| {
                    agent.id == agent_id && matches!(agent.auth, AgentAuth::InstanceId(_))
                };
                if let Some(agent) = self.all[range.clone()].iter_mut().find(takes) {
                    agent.auth = AgentAuth::InstanceId(instance_id.to_owned());
                }
            }
        }
    }

    /// Gives the id of a cloud's machine to the agents on it that have neither a token nor an id.
    pub(super) fn apply_instance_id(&mut self, label: &str, id: &str) {
        let range = self.by_label.get(label).cloned().unwrap_or_default();
        for agent in &mut self.all[range] {
            if let AgentAuth::Token(value) | AgentAuth::InstanceId(value) = &agent.auth
                && value.is_empty()
            {
                agent.auth = AgentAuth::InstanceId(id.to_owned());
            }
        }
    }

    /// Puts each `coder_env` where it belongs. Order and duplicates are kept.
    pub(super) fn attach_envs(&mut self, index: &Index<'_>) -> Result<(), ConvertError> {
        for resource in index.of_type("coder_env") {
            let (agent_id, env) = decode("decode env attributes", &resource.values, |values| {
                let env = Env {
                    name: values.string("name"),
                    value: values.string("value"),
                    merge_strategy: values.string("merge_strategy"),
                };
                (values.string("agent_id"), env)
            })?;
            match self.place(resource, &agent_id) {
                Some(Place::Agent(agent)) => agent.extra_envs.push(env),
                Some(Place::Devcontainer(container)) => container.envs.push(env),
                None => {}
            }
        }
        Ok(())
    }

    /// Puts each `coder_script` where it belongs.
    pub(super) fn attach_scripts(&mut self, index: &Index<'_>) -> Result<(), ConvertError> {
        for resource in index.of_type("coder_script") {
            let (agent_id, script) =
                decode("decode script attributes", &resource.values, |values| {
                    let script = Script {
                        display_name: values.string("display_name"),
                        icon: values.string("icon"),
                        script: values.string("script"),
                        cron: values.string("cron"),
                        start_blocks_login: values.bool("start_blocks_login"),
                        run_on_start: values.bool("run_on_start"),
                        run_on_stop: values.bool("run_on_stop"),
                        timeout_seconds: values.i32("timeout"),
                        log_path: values.string("log_path"),
                        ..Script::default()
                    };
                    (values.string("agent_id"), script)
                })?;
            match self.place(resource, &agent_id) {
                Some(Place::Agent(agent)) => agent.scripts.push(script),
                Some(Place::Devcontainer(container)) => container.scripts.push(script),
                None => {}
            }
        }
        Ok(())
    }

    /// Puts an app where it belongs.
    pub(super) fn attach_app(&mut self, resource: &ResourceValues, agent_id: &str, app: App) {
        match self.place(resource, agent_id) {
            Some(Place::Agent(agent)) => agent.apps.push(app),
            Some(Place::Devcontainer(container)) => container.apps.push(app),
            None => {}
        }
    }

    fn add_container(&mut self, agent: usize, container: Devcontainer) {
        self.all[agent].devcontainers.push(container);
    }

    fn find_containers(&mut self) {
        for (spot, agent) in self.all.iter().enumerate() {
            for (nested, container) in agent.devcontainers.iter().enumerate() {
                let key = if container.subagent_id.is_empty() {
                    ContainerKey::Name(container.name.clone())
                } else {
                    ContainerKey::Id(container.subagent_id.clone())
                };
                self.containers.entry(key).or_insert((spot, Some(nested)));
            }
        }
    }

    /// All agents that a resource names, in order. Before an apply there are no ids, and direct edges decide.
    fn agents_named(&self, resource: &ResourceValues, agent_id: &str) -> Vec<usize> {
        if !agent_id.is_empty() {
            return self.by_id.get(agent_id).cloned().unwrap_or_default();
        }
        let linked = self.linked(resource, Target::Agent);
        let mut spots: Vec<_> = linked
            .filter_map(|name| self.by_name.get(name).copied())
            .collect();
        spots.sort_unstable();
        spots
    }

    /// The first agent that a resource names, or the first of an agent's containers, whichever comes first.
    fn place(&mut self, resource: &ResourceValues, agent_id: &str) -> Option<Place<'_>> {
        let agent = self.agents_named(resource, agent_id).first().copied();
        let container = if agent_id.is_empty() {
            let linked = self.linked(resource, Target::Devcontainer);
            let spots =
                linked.filter_map(|name| self.containers.get(&ContainerKey::Name(name.to_owned())));
            spots.min().copied()
        } else {
            let key = ContainerKey::Id(agent_id.to_owned());
            self.containers.get(&key).copied()
        };
        let first = agent
            .map(|spot| (spot, None))
            .into_iter()
            .chain(container)
            .min()?;
        let agent = &mut self.all[first.0];
        Some(match first.1 {
            None => Place::Agent(agent),
            Some(nested) => Place::Devcontainer(&mut agent.devcontainers[nested]),
        })
    }

    /// Names of agents or containers to which a direct edge leads from the resource.
    fn linked(&self, resource: &ResourceValues, kind: Target) -> impl Iterator<Item = &'a str> {
        let from = format!("{}.{}", resource.kind, resource.name);
        let targets = self.links.get(from.as_str()).into_iter().flatten();
        targets
            .filter(move |(target, _)| *target == kind)
            .map(|(_, name)| *name)
    }
}

/// Direct edges between things of the root module. The reference compares ends of ids, which are
/// `] TYPE.NAME (expand)` there, and `module.….TYPE.NAME (expand)` in modules.
fn links(graph: &Graph) -> HashMap<&str, HashSet<(Target, &str)>> {
    let name = |id| -> Option<&str> {
        let id = str::strip_suffix(id, " (expand)")?;
        Some(&id[id.rfind("] ")? + 2..])
    };
    let mut links: HashMap<_, HashSet<_>> = HashMap::new();
    for (from, to) in graph.edges() {
        let (Some(from), Some(to)) = (name(from), name(to)) else {
            continue;
        };
        let target = if let Some(name) = to.strip_prefix("coder_agent.") {
            (Target::Agent, name)
        } else if let Some(name) = to.strip_prefix("coder_devcontainer.") {
            (Target::Devcontainer, name)
        } else {
            continue;
        };
        links.entry(from).or_default().insert(target);
    }
    links
}
