//! The order in which an agent's scripts run, as far as the template says one, and its longest chain.

use std::collections::{BTreeMap, BTreeSet};

use outpost_base::job::{self, ScriptRequirement};
use serde::Serialize;

/// Scripts of one agent and one phase that wait for others, or are waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScriptOrder {
    /// Phase in which they run.
    pub phase: Phase,
    /// The development container that they run in; empty for the agent itself.
    pub devcontainer: String,
    /// The scripts, each after all that it waits for, else sorted by address.
    pub scripts: Vec<OrderedScript>,
    /// Addresses of the longest chain of scripts of which each waits for the one before it.
    pub critical_path: Vec<String>,
}

/// Phase in which scripts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Start of the workspace.
    Start,
    /// Stop of the workspace.
    Stop,
}

impl Phase {
    /// Returns `start` or `stop`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// A script of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderedScript {
    /// Name that people read, with the address if another script has the same one; the address if there is no name.
    pub name: String,
    /// Full address in the template.
    pub address: String,
    /// Scripts that it waits for, sorted by address.
    pub after: Vec<Prerequisite>,
    /// Scripts of the longest chain that leads to it.
    #[serde(skip)]
    pub depth: usize,
}

/// A script that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prerequisite {
    /// Full address in the template.
    pub address: String,
    /// End that is waited for: `success` or `completion`.
    pub requires: ScriptRequirement,
}

impl ScriptOrder {
    /// The orders of an agent: at start before at stop, its own before those of its containers.
    pub(super) fn all_of(agent: &job::Agent) -> Vec<Self> {
        let own = std::iter::once(("", &agent.scripts));
        let containers = agent.devcontainers.iter();
        let inside = containers.map(|it| (it.name.as_str(), &it.scripts));
        let places = own.chain(inside);
        places
            .flat_map(|(container, scripts)| {
                [Phase::Start, Phase::Stop]
                    .into_iter()
                    .filter_map(move |phase| Self::of(phase, container, scripts))
            })
            .collect()
    }

    fn of(phase: Phase, container: &str, scripts: &[job::Script]) -> Option<Self> {
        let is_due = |script: &&job::Script| match phase {
            Phase::Start => script.run_on_start,
            Phase::Stop => script.run_on_stop,
        };
        let due = scripts.iter().filter(is_due);
        let ordered = due.filter(|script| !script.resource_address.is_empty());
        let all: BTreeMap<_, _> = ordered
            .map(|script| (script.resource_address.as_str(), script))
            .collect();
        let scripts = distinct(sorted(&all));
        (!scripts.is_empty()).then(|| Self {
            phase,
            devcontainer: container.to_owned(),
            critical_path: critical_path(&scripts),
            scripts,
        })
    }

    /// The script at an address.
    pub fn script(&self, address: &str) -> Option<&OrderedScript> {
        self.scripts.iter().find(|script| script.address == address)
    }

    /// Returns the name that people read of the script at an address.
    pub fn name<'a>(&'a self, address: &'a str) -> &'a str {
        self.script(address).map_or(address, |script| &script.name)
    }

    /// Returns whether a wait is part of the longest chain.
    pub(crate) fn is_critical(&self, before: &str, after: &str) -> bool {
        let mut pairs = self.critical_path.windows(2);
        pairs.any(|pair| pair[0] == before && pair[1] == after)
    }
}

impl OrderedScript {
    fn new(script: &job::Script, depth: usize) -> Self {
        let after = script.dependencies.iter().map(|it| Prerequisite {
            address: it.prerequisite.clone(),
            requires: it.requirement,
        });
        Self {
            name: match script.display_name.as_str() {
                "" => script.resource_address.clone(),
                name => name.to_owned(),
            },
            address: script.resource_address.clone(),
            after: after.collect(),
            depth,
        }
    }
}

/// Each script after what it waits for. What waits for itself, which no import lets through, is left out.
fn sorted(all: &BTreeMap<&str, &job::Script>) -> Vec<OrderedScript> {
    let mut waits: BTreeMap<&str, usize> = BTreeMap::new();
    let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (address, script) in all {
        let known = script
            .dependencies
            .iter()
            .map(|it| it.prerequisite.as_str());
        let known: BTreeSet<_> = known.filter(|it| all.contains_key(it)).collect();
        waits.insert(address, known.len());
        for prerequisite in known {
            dependents.entry(prerequisite).or_default().push(address);
        }
    }
    let free = waits.iter().filter(|(_, left)| **left == 0);
    let mut free: BTreeSet<_> = free.map(|(address, _)| *address).collect();
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sorted = Vec::new();
    while let Some(address) = free.pop_first() {
        let script = all[address];
        let before = script
            .dependencies
            .iter()
            .map(|it| it.prerequisite.as_str());
        let deepest = before.filter_map(|it| depths.get(it)).max();
        let depth = deepest.map_or(1, |deepest| deepest + 1);
        depths.insert(address, depth);
        sorted.push(OrderedScript::new(script, depth));
        for dependent in dependents.get(address).into_iter().flatten() {
            let left = waits.entry(dependent).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                free.insert(dependent);
            }
        }
    }
    sorted
}

/// Adds the address to names that several scripts have, such as those of a module that is used twice.
fn distinct(mut scripts: Vec<OrderedScript>) -> Vec<OrderedScript> {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for script in &scripts {
        *uses.entry(script.name.clone()).or_default() += 1;
    }
    let shared = scripts.iter_mut().filter(|it| uses[&it.name] > 1);
    for script in shared {
        script.name = format!("{} ({})", script.name, script.address);
    }
    scripts
}

/// The longest chain, back from the deepest script; of several the first by address.
fn critical_path(scripts: &[OrderedScript]) -> Vec<String> {
    let by_address: BTreeMap<_, _> = scripts.iter().map(|it| (it.address.as_str(), it)).collect();
    let deepest = by_address.values().rev().max_by_key(|script| script.depth);
    let mut path = Vec::new();
    let mut next = deepest.copied();
    while let Some(script) = next {
        path.push(script.address.clone());
        let before = script
            .after
            .iter()
            .filter_map(|it| by_address.get(it.address.as_str()));
        next = before
            .copied()
            .find(|before| before.depth + 1 == script.depth);
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str, after: &[&str]) -> job::Script {
        let dependency = |name: &&str| job::ScriptDependency {
            prerequisite: format!("coder_script.{name}"),
            requirement: ScriptRequirement::Success,
        };
        job::Script {
            display_name: name.to_owned(),
            resource_address: format!("coder_script.{name}"),
            run_on_start: true,
            dependencies: after.iter().map(dependency).collect(),
            ..job::Script::default()
        }
    }

    #[test]
    fn scripts_follow_what_they_wait_for_and_the_longest_chain_is_named() {
        let mut stop = script("bye", &[]);
        (stop.run_on_start, stop.run_on_stop) = (false, true);
        let agent = job::Agent {
            scripts: vec![
                script("a_last", &["tools", "clone"]),
                script("tools", &["clone", "apt"]),
                script("apt", &[]),
                script("clone", &["apt"]),
                stop,
                job::Script {
                    run_on_start: true,
                    ..job::Script::default()
                },
            ],
            ..job::Agent::default()
        };

        let orders = ScriptOrder::all_of(&agent);

        let names: Vec<_> = orders[0]
            .scripts
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(names, ["apt", "clone", "tools", "a_last"]);
        let path = ["apt", "clone", "tools", "a_last"].map(|it| format!("coder_script.{it}"));
        assert_eq!(orders[0].critical_path, path);
        assert!(orders[0].is_critical("coder_script.apt", "coder_script.clone"));
        assert!(!orders[0].is_critical("coder_script.apt", "coder_script.tools"));
        assert_eq!((orders.len(), orders[1].phase), (2, Phase::Stop));
    }

    #[test]
    fn scripts_with_the_same_name_are_told_apart_by_their_address() {
        let renamed = |name: &str, script: job::Script| job::Script {
            display_name: name.to_owned(),
            ..script
        };
        let agent = job::Agent {
            scripts: vec![
                renamed("Install", script("first", &[])),
                renamed("Install", script("second", &["first"])),
                renamed("Start", script("third", &["second"])),
            ],
            ..job::Agent::default()
        };

        let orders = ScriptOrder::all_of(&agent);

        let path = orders[0].critical_path.iter();
        let names: Vec<_> = path.map(|address| orders[0].name(address)).collect();
        let expected = [
            "Install (coder_script.first)",
            "Install (coder_script.second)",
            "Start",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn without_rules_there_is_no_order() {
        let agent = job::Agent {
            scripts: vec![job::Script {
                run_on_start: true,
                ..job::Script::default()
            }],
            ..job::Agent::default()
        };
        assert_eq!(ScriptOrder::all_of(&agent), []);
    }
}
