//! The agent that runs a script: known by its id after an apply, before that by the script's references.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Runtime, Script};
use crate::{
    address::{self, Instance, Key},
    configuration::Configuration,
    graph::Graph,
    plan::ResourceValues,
    resources::index::Index,
};

/// Types that run scripts, with the attribute that scripts refer to.
const KINDS: [(&str, &str); 2] = [("coder_agent", "id"), ("coder_devcontainer", "subagent_id")];

/// Knowledge about a script's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The agent is known.
    Is(Runtime),
    /// The id belongs to no agent, or to several.
    Nobody,
    /// There is no agent, for example while a workspace stops.
    None,
    /// The agent is known only after an apply.
    Unsure,
}

impl Found {
    pub(super) fn runtime(self) -> Option<Runtime> {
        match self {
            Self::Is(runtime) => Some(runtime),
            Self::Nobody | Self::None | Self::Unsure => None,
        }
    }

    pub(super) fn address(&self) -> Option<&str> {
        match self {
            Self::Is(runtime) => Some(&runtime.address),
            Self::Nobody | Self::None | Self::Unsure => None,
        }
    }

    pub(super) fn is_nobody(&self) -> bool {
        *self == Self::Nobody
    }

    pub(super) fn is_unsure(&self) -> bool {
        *self == Self::Unsure
    }
}

/// All agents, and the references that lead to them.
pub(super) struct Runtimes<'a> {
    by_id: BTreeMap<&'a str, Vec<Runtime>>,
    graph: &'a Graph,
    configuration: Option<&'a Configuration>,
}

impl<'a> Runtimes<'a> {
    pub(super) fn new(
        index: &Index<'a>,
        graph: &'a Graph,
        configuration: Option<&'a Configuration>,
    ) -> Self {
        let mut by_id: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (kind, attribute) in KINDS {
            for resource in index.of_type(kind) {
                let id = resource.values.get(attribute).and_then(Value::as_str);
                if let Some(id) = id.filter(|id| !id.is_empty()) {
                    by_id.entry(id).or_default().push(runtime(resource));
                }
            }
        }
        Self {
            by_id,
            graph,
            configuration,
        }
    }

    pub(super) fn of(&self, script: &Script<'_>) -> Found {
        match script.resource.values.get("agent_id") {
            Some(Value::String(id)) if !id.is_empty() => {
                match self.by_id.get(id.as_str()).map(Vec::as_slice) {
                    Some([runtime]) => Found::Is(runtime.clone()),
                    Some(_) | None => Found::Nobody,
                }
            }
            Some(_) => Found::None,
            None => self.referred(&script.instance),
        }
    }

    /// Returns the only agent that the script's `agent_id` can refer to, according to the template.
    fn referred(&self, script: &Instance<'_>) -> Found {
        let references = || {
            let module = self.configuration?.module_of(script)?;
            let block = module.block("managed", "coder_script", script.name)?;
            Some(block.agent_references())
        };
        let mut walk = Walk {
            graph: self.graph,
            seen: BTreeSet::new(),
            found: BTreeMap::new(),
        };
        for reference in references().unwrap_or_default() {
            walk.refer(script, reference);
        }
        let mut found = walk.found.into_iter();
        match (found.next(), found.next()) {
            (Some(((modules, kind, name), key)), None) => Found::Is(Runtime {
                address: instantiate(script, &modules, &kind, &name, key.as_ref()),
                is_container: kind == "coder_devcontainer",
                name,
            }),
            (_, _) => Found::Unsure,
        }
    }
}

fn runtime(resource: &ResourceValues) -> Runtime {
    Runtime {
        address: resource.address.clone(),
        is_container: resource.kind == "coder_devcontainer",
        name: resource.name.clone(),
    }
}

/// An agent's block: names of the modules around it, its type, its name.
type Block = (Vec<String>, String, String);

/// A walk through variables, locals and outputs.
struct Walk<'a> {
    graph: &'a Graph,
    seen: BTreeSet<String>,
    /// Agents that were found, with the key in the reference, if there is one.
    found: BTreeMap<Block, Option<Key>>,
}

impl Walk<'_> {
    /// Follows a reference in the module of a script.
    fn refer(&mut self, script: &Instance<'_>, reference: &str) {
        let Some(steps) = address::steps(reference) else {
            return;
        };
        let modules = || script.modules.iter().map(|step| step.name.to_owned());
        let around: String = modules().map(|name| format!("module.{name}.")).collect();
        match steps.as_slice() {
            [kind, agent, ..] if is_agent(kind.name) => {
                let block = (
                    modules().collect(),
                    kind.name.to_owned(),
                    agent.name.to_owned(),
                );
                let key = self.found.entry(block).or_default();
                // The most specific form of a reference comes first.
                *key = key.take().or_else(|| agent.key.clone());
            }
            [kind, value, ..] if ["var", "local"].contains(&kind.name) => {
                self.follow(format!(
                    "[root] {around}{}.{} (expand)",
                    kind.name, value.name
                ));
            }
            [module, call, output, ..] if module.name == "module" => {
                let (call, output) = (call.name, output.name);
                self.follow(format!(
                    "[root] {around}module.{call}.output.{output} (expand)"
                ));
            }
            _ => {}
        }
    }

    /// Follows edges of the graph, only through values.
    fn follow(&mut self, id: String) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            for next in self.graph.dependencies_of(&id) {
                let bare = next.strip_prefix("[root] ").unwrap_or(next);
                let bare = bare.strip_suffix(" (expand)").unwrap_or(bare);
                let Some(node) = Instance::parse(bare) else {
                    continue;
                };
                if is_agent(node.kind) {
                    let modules = node.modules.iter().map(|step| step.name.to_owned());
                    let block = (
                        modules.collect(),
                        node.kind.to_owned(),
                        node.name.to_owned(),
                    );
                    self.found.entry(block).or_default();
                } else if ["var", "local", "output"].contains(&node.kind)
                    && self.seen.insert(next.to_owned())
                {
                    open.push(next.to_owned());
                }
            }
        }
    }
}

fn is_agent(kind: &str) -> bool {
    KINDS.iter().any(|(agent, _)| *agent == kind)
}

/// Returns the address of an agent as seen from a script in an instance of a module: their common modules have the
/// same keys.
fn instantiate(
    script: &Instance<'_>,
    modules: &[String],
    kind: &str,
    name: &str,
    key: Option<&Key>,
) -> String {
    let shared = script.modules.iter().zip(modules);
    let shared = shared.take_while(|(step, module)| step.name == *module);
    let (mut around, mut count) = (String::new(), 0);
    for (step, _) in shared {
        around = format!("{}.", script.up_to(step));
        count += 1;
    }
    for module in &modules[count..] {
        around += &format!("module.{module}.");
    }
    let key = match key {
        None => String::new(),
        Some(Key::Index(index)) => format!("[{index}]"),
        Some(Key::Name(name)) => format!("[{}]", outpost_language::quote(name)),
    };
    format!("{around}{kind}.{name}{key}")
}
