//! Agents: read, checked, and assigned to the nearest resource that depends on them.

mod envs;
mod links;
mod lost;
mod read;

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use outpost_base::job::{Agent, AgentAuth, App, Devcontainer, Script};

use self::{
    links::{Links, Target},
    lost::Lost,
    read::{check_name, names, read_agent},
};
use super::{
    ConvertError,
    decode::decode,
    index::Index,
    script_order::{Runtime, ScriptOrder},
};
use crate::{
    graph::{Direction, Graph},
    plan::ResourceValues,
};

/// Agents in the order of their resources' places, and of their addresses within one place.
pub(super) struct Agents<'a> {
    all: Vec<Agent>,
    /// Range of agents of each place.
    by_place: BTreeMap<&'a str, Range<usize>>,
    /// Agents by id; those without an id are left out.
    by_id: HashMap<String, Vec<usize>>,
    /// Agents without an id, by name.
    by_name: HashMap<String, usize>,
    /// First container by its sub-agent's id, or by its name if it has no such id.
    containers: HashMap<ContainerKey, Spot>,
    links: Links<'a>,
    /// Warnings for the author, one sentence each.
    pub(super) warnings: Vec<String>,
}

/// Index of an agent, and that of a container in it; none sorts first.
type Spot = (usize, Option<usize>);

#[derive(PartialEq, Eq, Hash)]
enum ContainerKey {
    Id(String),
    Name(String),
}

/// Target of a resource that names an agent.
pub(super) enum Place<'p> {
    /// The agent itself, outside of containers.
    Agent(&'p mut Agent),
    /// A development container of the agent.
    Devcontainer(&'p mut Devcontainer),
}

impl<'a> Agents<'a> {
    /// Reads every `coder_agent` and finds its resource. An agent that no resource depends on is dropped with a
    /// warning.
    pub(super) fn collect(index: &Index<'a>, graph: &'a Graph) -> Result<Self, ConvertError> {
        let mut seen = BTreeSet::new();
        let mut warnings = Vec::new();
        let lost = LazyCell::new(|| Lost::new(index, graph));
        let mut groups: BTreeMap<&str, Vec<(&str, Agent)>> = BTreeMap::new();
        for (resource, name) in names(index) {
            let agent = read_agent(resource, &name)?;
            check_name(&name)?;
            if !seen.insert(name.to_lowercase()) {
                return Err(ConvertError::DuplicateAgent(resource.name.clone()));
            }
            let label = index.label(&resource.address);
            let node = graph
                .node_with_label(&label)
                .ok_or_else(|| ConvertError::NotInGraph(label.into_owned()))?;
            let nearest =
                graph.nearest(node, Direction::Dependants, |label| index.is_target(label));
            let Some(target) = nearest else {
                warnings.extend(lost.warning(resource, node));
                continue;
            };
            let places = index.places(target, &resource.address, "");
            let is_free = |place: &&&str| !has_sibling(groups.get(**place), index, resource);
            if let Some(place) = places.iter().find(is_free).or(places.first()) {
                let group = groups.entry(place).or_default();
                group.push((&resource.address, agent));
            }
        }
        Ok(Self {
            warnings,
            ..Self::new(groups, Links::new(index, graph))
        })
    }

    fn new(groups: BTreeMap<&'a str, Vec<(&'a str, Agent)>>, links: Links<'a>) -> Self {
        let mut agents = Self {
            all: Vec::new(),
            by_place: BTreeMap::new(),
            by_id: HashMap::new(),
            by_name: HashMap::new(),
            containers: HashMap::new(),
            links,
            warnings: Vec::new(),
        };
        for (place, group) in groups {
            let start = agents.all.len();
            for (address, agent) in group {
                agents.links.add_agent(address, agents.all.len());
                agents.all.push(agent);
            }
            agents.by_place.insert(place, start..agents.all.len());
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

    /// Returns the agents of a place.
    pub(super) fn of(&self, place: &str) -> Vec<Agent> {
        let range = self.by_place.get(place).cloned();
        range.map_or_else(Vec::new, |range| self.all[range].to_vec())
    }

    /// Assigns each `coder_devcontainer` to all agents that it names.
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

    /// Gives agents the ids that `coder_agent_instance` resources name: in each resource the first agent that accepts
    /// one. Agents with a token are skipped.
    pub(super) fn set_instance_ids(&mut self, index: &Index<'_>) {
        for resource in index.of_type("coder_agent_instance") {
            let text = |key: &str| resource.values.get(key).and_then(|value| value.as_str());
            let (Some(agent_id), Some(instance_id)) = (text("agent_id"), text("instance_id"))
            else {
                continue;
            };
            for range in self.by_place.values() {
                let takes = |agent: &&mut Agent| {
                    agent.id == agent_id && matches!(agent.auth, AgentAuth::InstanceId(_))
                };
                if let Some(agent) = self.all[range.clone()].iter_mut().find(takes) {
                    agent.auth = AgentAuth::InstanceId(instance_id.to_owned());
                }
            }
        }
    }

    /// Gives the id of a cloud instance to the agents on it that have neither a token nor an id.
    pub(super) fn apply_instance_id(&mut self, place: &str, id: &str) {
        let range = self.by_place.get(place).cloned().unwrap_or_default();
        for agent in &mut self.all[range] {
            if let AgentAuth::Token(value) | AgentAuth::InstanceId(value) = &agent.auth
                && value.is_empty()
            {
                agent.auth = AgentAuth::InstanceId(id.to_owned());
            }
        }
    }

    /// Assigns each `coder_script` to its agent or container, with the scripts that it waits for.
    pub(super) fn attach_scripts(
        &mut self,
        index: &Index<'_>,
        order: &ScriptOrder,
    ) -> Result<(), ConvertError> {
        for resource in index.of_type("coder_script") {
            let (agent_id, mut script) =
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
            let ordered = order.of(&resource.address);
            if let Some(ordered) = ordered {
                script.resource_address = resource.address.clone();
                script.dependencies = ordered.dependencies.clone();
            }
            // Before an apply, a script order finds agents that the graph's direct edges do not lead to.
            let runtime = ordered.and_then(|ordered| ordered.runtime.as_ref());
            let runtime = runtime.filter(|_| agent_id.is_empty());
            let place = match runtime.and_then(|runtime| self.spot_of(runtime)) {
                Some(spot) => Some(self.at(spot)),
                None => self.place(resource, &agent_id),
            };
            match place {
                Some(Place::Agent(agent)) => agent.scripts.push(script),
                Some(Place::Devcontainer(container)) => container.scripts.push(script),
                None => {}
            }
        }
        Ok(())
    }

    /// Assigns an app to its agent or container. Returns whether that has no other app with the same slug.
    pub(super) fn attach_app(
        &mut self,
        resource: &ResourceValues,
        agent_id: &str,
        app: App,
    ) -> bool {
        let apps = match self.place(resource, agent_id) {
            Some(Place::Agent(agent)) => &mut agent.apps,
            Some(Place::Devcontainer(container)) => &mut container.apps,
            None => return true,
        };
        let is_first = apps.iter().all(|other| other.slug != app.slug);
        apps.push(app);
        is_first
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

    /// Returns all agents that a resource names, in order. Before an apply there are no ids, and direct edges decide.
    fn agents_named(&self, resource: &ResourceValues, agent_id: &str) -> Vec<usize> {
        if !agent_id.is_empty() {
            return self.by_id.get(agent_id).cloned().unwrap_or_default();
        }
        if let Some(spot) = self.links.nearest_agent(resource) {
            return vec![spot];
        }
        let linked = self.links.of(resource, Target::Agent);
        let mut spots: Vec<_> = linked
            .filter_map(|name| self.by_name.get(name).copied())
            .collect();
        spots.sort_unstable();
        spots
    }

    /// Returns the first agent that a resource names, or the first of an agent's containers, whichever comes first.
    fn place(&mut self, resource: &ResourceValues, agent_id: &str) -> Option<Place<'_>> {
        let agent = self.agents_named(resource, agent_id).first().copied();
        let container = if agent_id.is_empty() {
            let linked = self.links.of(resource, Target::Devcontainer);
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
        Some(self.at(first))
    }

    fn at(&mut self, (agent, nested): Spot) -> Place<'_> {
        let agent = &mut self.all[agent];
        match nested {
            None => Place::Agent(agent),
            Some(nested) => Place::Devcontainer(&mut agent.devcontainers[nested]),
        }
    }

    /// Returns the agent or container that runs an ordered script, by its unique name.
    fn spot_of(&self, runtime: &Runtime) -> Option<Spot> {
        let mut all = self.all.iter().enumerate();
        if !runtime.is_container {
            let (spot, _) = all.find(|(_, agent)| agent.name == runtime.name)?;
            return Some((spot, None));
        }
        all.find_map(|(spot, agent)| {
            let mut inside = agent.devcontainers.iter();
            let nested = inside.position(|container| container.name == runtime.name)?;
            Some((spot, Some(nested)))
        })
    }
}

/// Returns whether the group contains another agent of the same block.
fn has_sibling(
    group: Option<&Vec<(&str, Agent)>>,
    index: &Index<'_>,
    own: &ResourceValues,
) -> bool {
    let block = index.label(&own.address);
    let mut group = group.into_iter().flatten();
    group.any(|(address, _)| index.label(address) == block)
}
