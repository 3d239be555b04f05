//! Dependencies between scripts, from all rules together.

use std::collections::{BTreeMap, BTreeSet};

use outpost_base::job::ScriptRequirement;

use super::{
    Script, ScriptOrderError,
    problem::RuleProblem,
    requirement_name,
    rule::{Selector, Settled},
    shown,
};

/// Maximum number of pairs of scripts in all rules together; a pair counts once for each rule.
const MAX_PAIRS: usize = 100_000;
/// Maximum number of a cycle's pairs that a message shows.
const MAX_SHOWN: usize = 20;

/// Dependencies of each script. Scripts are numbered in the order of their addresses.
#[derive(Default)]
pub(super) struct Edges<'a> {
    of: BTreeMap<usize, BTreeMap<usize, Edge<'a>>>,
    used: usize,
}

/// Origin of a dependency between two scripts.
struct Edge<'a> {
    requirement: ScriptRequirement,
    data_source: &'a str,
    rule: usize,
    run: String,
    after: String,
}

impl<'a> Edges<'a> {
    /// Makes each script of one list wait for each of the other.
    pub(super) fn add(
        &mut self,
        rule: &Settled,
        scripts: &[Script<'_>],
        (data_source, at): (&'a str, usize),
    ) -> Result<(), RuleProblem> {
        let (run, after) = (unique(&rule.run), unique(&rule.after));
        self.spend(run.len(), after.len())?;
        for (dependent, run) in &run {
            let prerequisites = self.of.entry(*dependent).or_default();
            for (prerequisite, after) in &after {
                match prerequisites.get(prerequisite) {
                    Some(edge) if edge.requirement != rule.requirement => {
                        let pair = [*dependent, *prerequisite].map(|it| scripts[it].address());
                        let texts = [run.as_str(), after];
                        return Err(conflict(edge, rule.requirement, pair, texts));
                    }
                    Some(_) => {}
                    None => {
                        let edge = Edge {
                            requirement: rule.requirement,
                            data_source,
                            rule: at,
                            run: (*run).clone(),
                            after: (*after).clone(),
                        };
                        prerequisites.insert(*prerequisite, edge);
                    }
                }
            }
        }
        Ok(())
    }

    fn spend(&mut self, run: usize, after: usize) -> Result<(), RuleProblem> {
        let pairs = run.saturating_mul(after);
        if pairs > MAX_PAIRS {
            return Err(RuleProblem::TooManyPairs(format!(
                "run selectors resolve to {run} scripts and after selectors resolve to {after} scripts; the rule \
                 creates one dependency for each run/after script combination, exceeding the overall limit of \
                 {MAX_PAIRS} combinations across all script ordering rules"
            )));
        }
        if self.used + pairs > MAX_PAIRS {
            return Err(RuleProblem::TooManyPairs(format!(
                "script ordering rules are limited to {MAX_PAIRS} run/after script combinations in total; {} from \
                 earlier rules together with {pairs} from this rule exceed the limit",
                self.used
            )));
        }
        self.used += pairs;
        Ok(())
    }

    /// Returns the scripts that a script waits for, sorted by address.
    pub(super) fn of(
        &self,
        script: usize,
    ) -> impl Iterator<Item = (usize, ScriptRequirement)> + '_ {
        let edges = self.of.get(&script).into_iter().flatten();
        edges.map(|(prerequisite, edge)| (*prerequisite, edge.requirement))
    }

    /// Checks that no scripts wait for each other.
    pub(super) fn check(&self, scripts: &[Script<'_>]) -> Result<(), ScriptOrderError> {
        match self.cycle() {
            Some(cycle) => Err(self.describe(&cycle, scripts)),
            None => Ok(()),
        }
    }

    /// Returns scripts of which each waits for the next, and the last for the first. The search is iterative, because
    /// a chain may be as long as the limit allows.
    fn cycle(&self) -> Option<Vec<usize>> {
        let mut done = BTreeSet::new();
        for root in self.of.keys() {
            let mut path: Vec<usize> = Vec::new();
            let mut on_path = BTreeSet::new();
            let mut open = vec![(*root, true)];
            while let Some((script, is_entered)) = open.pop() {
                if !is_entered {
                    path.pop();
                    on_path.remove(&script);
                    done.insert(script);
                    continue;
                }
                if done.contains(&script) {
                    continue;
                }
                if !on_path.insert(script) {
                    let start = path.iter().position(|it| *it == script)?;
                    return Some(path.split_off(start));
                }
                path.push(script);
                open.push((script, false));
                let next: Vec<_> = self.of(script).map(|(it, _)| (it, true)).collect();
                open.extend(next.into_iter().rev());
            }
        }
        None
    }

    /// Describes a cycle in the order in which its scripts would run.
    fn describe(&self, cycle: &[usize], scripts: &[Script<'_>]) -> ScriptOrderError {
        let name = |script: usize| shown(scripts[script].address());
        let bare = |script: usize| super::cut(scripts[script].address(), super::MAX_VALUE_CHARS);
        let mut path = vec![bare(cycle[0])];
        let mut edges = Vec::new();
        for (at, dependent) in cycle.iter().enumerate().rev().take(MAX_SHOWN) {
            let prerequisite = cycle[(at + 1) % cycle.len()];
            let edge = &self.of[dependent][&prerequisite];
            path.push(bare(*dependent));
            edges.push(format!(
                "{} after {} from run selector {} and after selector {} (data source {} rule {})",
                name(*dependent),
                name(prerequisite),
                shown(&edge.run),
                shown(&edge.after),
                shown(edge.data_source),
                edge.rule
            ));
        }
        let omitted = cycle.len().saturating_sub(MAX_SHOWN);
        if omitted > 0 {
            path.extend(["…".to_owned(), bare(cycle[0])]);
            edges.push(format!("{omitted} cycle edges omitted"));
        }
        ScriptOrderError::Cycle {
            path: path.join(" -> "),
            edges: edges.join("; "),
        }
    }
}

/// Returns each script with the first selector that selects it.
fn unique(selectors: &[Selector]) -> BTreeMap<usize, &String> {
    let mut found = BTreeMap::new();
    for selector in selectors {
        for script in &selector.scripts {
            found.entry(*script).or_insert(&selector.text);
        }
    }
    found
}

fn conflict(
    edge: &Edge<'_>,
    requirement: ScriptRequirement,
    [dependent, prerequisite]: [&str; 2],
    [run, after]: [&str; 2],
) -> RuleProblem {
    RuleProblem::Conflict(format!(
        "run selector {} and after selector {} declare script {} after {} with requires \"{}\", conflicting with \
         requires \"{}\" from data source {} rule {}",
        shown(run),
        shown(after),
        shown(dependent),
        shown(prerequisite),
        requirement_name(requirement),
        requirement_name(edge.requirement),
        shown(edge.data_source),
        edge.rule
    ))
}
