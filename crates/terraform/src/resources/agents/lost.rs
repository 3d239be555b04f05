//! Agents that belong to no resource, so that they are never shown, and the reasons.

use std::collections::BTreeSet;

use crate::{
    address::Instance,
    go_text::quoted,
    graph::{Direction, Graph},
    plan::ResourceValues,
    resources::index::{Index, is_target},
};

/// Declared resources that agents can belong to, regardless of the keys of their modules.
pub(super) struct Lost<'a> {
    graph: &'a Graph,
    declared: BTreeSet<String>,
}

impl<'a> Lost<'a> {
    pub(super) fn new(index: &Index<'_>, graph: &'a Graph) -> Self {
        let targets = index.resources().filter(|resource| is_target(resource));
        let declared = targets.filter_map(|it| Some(Instance::parse(&it.address)?.declared()));
        Self {
            graph,
            declared: declared.collect(),
        }
    }

    /// Returns the reason why an agent belongs to no resource; `None` if its resource merely has no instance in
    /// this build.
    pub(super) fn warning(&self, agent: &ResourceValues, node: usize) -> Option<String> {
        let nearest = |accepts: &dyn Fn(&str) -> bool| {
            self.graph.nearest(node, Direction::Dependants, accepts)
        };
        let name = quoted(&agent.name);
        let begin = format!("agent {name} ({}) belongs to no resource", agent.address);
        if let Some(counted) = nearest(&|label| self.declared.contains(label)) {
            return Some(format!(
                "{begin}: {counted} depends on it, but is in a module with `count` or `for_each`, to which agents \
                 cannot be assigned; use `count` on the resources in the module instead of on the module"
            ));
        }
        match nearest(&is_foreign) {
            Some(_) => None,
            None => Some(format!(
                "{begin}: no resource depends on it, so no workspace gets it; use its `token` or `init_script` in the \
                 resource that it should run in"
            )),
        }
    }
}

/// Returns whether a label is that of a resource that an agent can belong to.
fn is_foreign(label: &str) -> bool {
    let node = Instance::parse(label);
    node.is_some_and(|node| {
        let is_foreign = !node.kind.starts_with("coder_") || node.kind == "coder_external_agent";
        is_foreign && !node.is_data
    })
}
