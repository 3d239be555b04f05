//! Edges of a graph that lead from apps, scripts and similar resources to their agent, before an apply assigns ids.

use std::collections::{HashMap, HashSet};

use crate::{
    graph::{Direction, Graph},
    plan::ResourceValues,
    resources::{
        index::{Granularity, Index},
        keys::{counterparts, without_keys},
    },
};

/// Edges of a graph that lead to agents and containers.
pub(super) struct Links<'a> {
    /// Direct edges of the root module: from resources by type and name to agents and containers.
    direct: HashMap<&'a str, HashSet<(Target, &'a str)>>,
    /// The graph for searching agents' instances; `None` if only direct edges count.
    graph: Option<&'a Graph>,
    /// Addresses and indices of agents, by the label of their block.
    agents: HashMap<String, Vec<(&'a str, usize)>>,
}

/// Kind of the resource that an edge leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Agent,
    Devcontainer,
}

impl<'a> Links<'a> {
    pub(super) fn new(index: &Index<'_>, graph: &'a Graph) -> Self {
        Self {
            direct: direct(graph),
            graph: (index.granularity == Granularity::Instance).then_some(graph),
            agents: HashMap::new(),
        }
    }

    pub(super) fn add_agent(&mut self, address: &'a str, spot: usize) {
        let block = without_keys(address).into_owned();
        self.agents.entry(block).or_default().push((address, spot));
    }

    /// Returns names of agents or containers to which a direct edge leads from the resource.
    pub(super) fn of(
        &self,
        resource: &ResourceValues,
        kind: Target,
    ) -> impl Iterator<Item = &'a str> {
        let from = format!("{}.{}", resource.kind, resource.name);
        let targets = self.direct.get(from.as_str()).into_iter().flatten();
        targets
            .filter(move |(target, _)| *target == kind)
            .map(|(_, name)| *name)
    }

    /// Returns the index of the agent whose block is nearest, in the instance that corresponds to that of the
    /// resource. `None` if only direct edges count, or if one leads to a container.
    pub(super) fn nearest_agent(&self, resource: &ResourceValues) -> Option<usize> {
        let graph = self.graph?;
        if self.of(resource, Target::Devcontainer).next().is_some() {
            return None;
        }
        let node = graph.node_with_label(&without_keys(&resource.address))?;
        let is_agent = |label: &str| self.agents.contains_key(label);
        let block = graph.nearest(node, Direction::Dependencies, is_agent)?;
        let instances = self.agents.get(block)?;
        let addresses: Vec<_> = instances.iter().map(|(address, _)| *address).collect();
        let first = *counterparts(&resource.address, &addresses).first()?;
        let found = instances.iter().find(|(address, _)| *address == first);
        found.map(|(_, spot)| *spot)
    }
}

/// Returns direct edges between resources of the root module. The reference compares the ends of ids, which are `]
/// TYPE.NAME (expand)` there, and `module.….TYPE.NAME (expand)` in modules.
fn direct(graph: &Graph) -> HashMap<&str, HashSet<(Target, &str)>> {
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
