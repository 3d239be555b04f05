//! The order of scripts: what the rules of `coder_script_order` select, and what waits for what because of them.
//!
//! A rule names scripts by selectors, which count from the module that declares it. They are expanded to instances
//! (`selector`), checked one rule at a time (`rule`), and put together to what each script waits for (`edges`).
//! Agents are known by their ids after an apply, and before it by what an `agent_id` refers to (`runtime`).
//!
//! # Source
//! coder `provisioner/terraform/scriptorder` of version 2.39: what is refused, and the texts.

mod edges;
mod problem;
mod rule;
mod runtime;
mod selector;

use std::{collections::BTreeMap, fmt};

use outpost_base::job::{ScriptDependency, ScriptRequirement};

use self::{
    edges::Edges,
    rule::Rule,
    runtime::Runtimes,
    selector::{Budget, Expanded},
};
pub use self::{problem::RuleProblem, selector::SelectorProblem};
use super::{
    decode::{Attributes, DecodeError, decode},
    index::Index,
};
use crate::{
    address::Instance, configuration::Configuration, go_text::quoted, graph::Graph,
    plan::ResourceValues,
};

/// Warnings beyond this are only counted.
const MAX_WARNINGS: usize = 20;
/// Letters of a text that an author wrote, in a message.
const MAX_VALUE_CHARS: usize = 256;
/// Letters of what is wrong with a rule.
const MAX_PROBLEM_CHARS: usize = 64 << 10;

/// Why scripts cannot be put into order. The texts are those that authors know from Coder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptOrderError {
    /// An attribute has another type than it should.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A data source without rules.
    #[error("script order data source {} must contain at least one rule", shown(.0))]
    NoRules(String),
    /// A rule that selects what it must not.
    #[error(
        "script order data source {} rule {rule}: {}",
        shown(data_source),
        cut(&problem.to_string(), MAX_PROBLEM_CHARS)
    )]
    Rule {
        /// The data source's address.
        data_source: String,
        /// The rule's place in it, counted from 0.
        rule: usize,
        /// What is wrong.
        problem: Box<RuleProblem>,
    },
    /// Scripts that wait for each other.
    #[error("script order dependency cycle: {path}; cycle edges: {edges}")]
    Cycle {
        /// The scripts in the order in which they would run; the first is also the last.
        path: String,
        /// The rules that say so.
        edges: String,
    },
}

/// When a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// When the workspace starts.
    Start,
    /// When it stops.
    Stop,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What runs a script: an agent, or the agent inside a development container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Runtime {
    /// Terraform's address; of a plan without keys where they are not known.
    pub(super) address: String,
    pub(super) is_container: bool,
    pub(super) name: String,
}

/// What rules say of the scripts that they select.
#[derive(Debug, Default)]
pub(super) struct ScriptOrder {
    scripts: BTreeMap<String, Ordered>,
    /// One sentence each.
    pub(super) warnings: Vec<String>,
}

/// A script that a rule selects.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// What runs it; `None` if that is not known yet.
    pub(super) runtime: Option<Runtime>,
    /// What it waits for, sorted by address.
    pub(super) dependencies: Vec<ScriptDependency>,
}

impl ScriptOrder {
    /// What rules say of the script at an address; `None` if none selects it.
    pub(super) fn of(&self, address: &str) -> Option<&Ordered> {
        self.scripts.get(address)
    }
}

/// A script, as far as order is concerned.
pub(super) struct Script<'a> {
    resource: &'a ResourceValues,
    instance: Instance<'a>,
    run_on_start: bool,
    run_on_stop: bool,
    cron: String,
}

impl Script<'_> {
    fn address(&self) -> &str {
        &self.resource.address
    }

    /// The phase of one that runs in exactly one.
    fn phase(&self) -> Phase {
        match self.run_on_stop {
            true => Phase::Stop,
            false => Phase::Start,
        }
    }
}

/// Finds out what the rules among the resources say.
///
/// Without a `configuration`, as for a state alone, nothing is held against what the template declares.
///
/// # Errors
/// [`ScriptOrderError`] if a rule selects what it must not, or scripts would wait for each other.
pub(super) fn resolve(
    index: &Index<'_>,
    graph: &Graph,
    configuration: Option<&Configuration>,
) -> Result<ScriptOrder, ScriptOrderError> {
    let declared = |source: &&ResourceValues| {
        let instance = Instance::parse(&source.address);
        configuration.is_none_or(|it| {
            let module = instance.and_then(|instance| Some((it.module_of(&instance)?, instance)));
            module.is_some_and(|(it, instance)| it.block("data", ORDER, instance.name).is_some())
        })
    };
    let sources: Vec<_> = index.of_type(ORDER).filter(declared).collect();
    if sources.is_empty() {
        return Ok(ScriptOrder::default());
    }
    let scripts = scripts(index)?;
    let expanded = Expanded::new(&scripts, configuration);
    let runtimes = Runtimes::new(index, graph, configuration);
    let (mut budget, mut edges) = (Budget::default(), Edges::default());
    let (mut settled, mut warnings) = (Vec::new(), Vec::new());
    for source in sources {
        let rules = read_rules(source)?;
        if rules.is_empty() {
            return Err(ScriptOrderError::NoRules(source.address.clone()));
        }
        for (at, rule) in rules.into_iter().enumerate() {
            let wrong = |problem| ScriptOrderError::Rule {
                data_source: source.address.clone(),
                rule: at,
                problem: Box::new(problem),
            };
            let rule = rule::select(&rule, source, &expanded, &mut budget).map_err(wrong)?;
            let rule = rule::settle(rule, &scripts).map_err(wrong)?;
            warnings.extend(rule.warning(&source.address, at));
            settled.push((source, at, rule));
        }
    }
    // As in the reference, agents are looked at only once every rule can be read.
    let mut known = BTreeMap::new();
    for (source, at, rule) in settled.iter().filter(|(.., rule)| !rule.is_empty()) {
        let wrong = |problem| ScriptOrderError::Rule {
            data_source: source.address.clone(),
            rule: *at,
            problem: Box::new(problem),
        };
        for script in rule.selected() {
            let runtime = || runtimes.of(&scripts[script]);
            known.entry(script).or_insert_with(runtime);
        }
        rule::check(rule, &scripts, &known).map_err(wrong)?;
        edges
            .add(rule, &scripts, (&source.address, *at))
            .map_err(wrong)?;
    }
    edges.check(&scripts)?;
    warnings.extend(unknown(&known, &scripts));
    Ok(ScriptOrder {
        scripts: put_together(known, &edges, &scripts),
        warnings: few(warnings),
    })
}

/// The type of the data source.
const ORDER: &str = "coder_script_order";

fn scripts<'a>(index: &Index<'a>) -> Result<Vec<Script<'a>>, ScriptOrderError> {
    let mut scripts = Vec::new();
    for resource in index.of_type("coder_script") {
        let Some(instance) = Instance::parse(&resource.address) else {
            continue; // Nothing can select it.
        };
        let read = |values: &Attributes<'_>| {
            let runs = ["run_on_start", "run_on_stop"].map(|key| values.bool(key));
            (runs, values.string("cron"))
        };
        let what = format!("decode script {} attributes", quoted(&resource.address));
        let ([run_on_start, run_on_stop], cron) = decode(&what, &resource.values, read)?;
        scripts.push(Script {
            resource,
            instance,
            run_on_start,
            run_on_stop,
            cron,
        });
    }
    Ok(scripts)
}

fn read_rules(source: &ResourceValues) -> Result<Vec<Rule>, DecodeError> {
    let what = format!(
        "decode script order data source {}",
        quoted(&source.address)
    );
    let rule = |block: &Attributes<'_>| Rule {
        run: block.texts("run"),
        after: block.texts("after"),
        requires: block.string("requires"),
        phase: block.string("phase"),
    };
    decode(&what, &source.values, |values| {
        values.objects("rule").iter().map(rule).collect()
    })
}

type Known = BTreeMap<usize, runtime::Found>;

/// What cannot be checked before the build.
fn unknown(known: &Known, scripts: &[Script<'_>]) -> Option<String> {
    let unknown = known.iter().filter(|(_, found)| found.is_unsure());
    let names: Vec<_> = unknown
        .map(|(script, _)| shown(scripts[*script].address()))
        .collect();
    (!names.is_empty()).then(|| {
        let shown = names.iter().take(MAX_WARNINGS).cloned().collect::<Vec<_>>();
        format!(
            "the agents that run {} of the ordered scripts are not known before the build: {}; the build fails if they \
             differ from the agents of the related scripts",
            names.len(),
            shown.join(", ")
        )
    })
}

fn put_together(
    known: Known,
    edges: &Edges<'_>,
    scripts: &[Script<'_>],
) -> BTreeMap<String, Ordered> {
    let address = |script: usize| scripts[script].address().to_owned();
    let ordered = known.into_iter().map(|(script, found)| {
        let dependencies = edges
            .of(script)
            .map(|(prerequisite, requirement)| ScriptDependency {
                prerequisite: address(prerequisite),
                requirement,
            });
        let ordered = Ordered {
            runtime: found.runtime(),
            dependencies: dependencies.collect(),
        };
        (address(script), ordered)
    });
    ordered.collect()
}

fn few(mut warnings: Vec<String>) -> Vec<String> {
    let omitted = warnings.len().saturating_sub(MAX_WARNINGS);
    warnings.truncate(MAX_WARNINGS);
    if omitted > 0 {
        warnings.push(format!(
            "{omitted} additional script order warnings were omitted; at most {MAX_WARNINGS} are reported per \
             Terraform conversion"
        ));
    }
    warnings
}

fn requirement_name(requirement: ScriptRequirement) -> &'static str {
    match requirement {
        ScriptRequirement::Unspecified | ScriptRequirement::Success => "success",
        ScriptRequirement::Completion => "completion",
    }
}

/// A text of the template's in quotes, or its beginning.
fn shown(text: &str) -> String {
    quoted(&cut(text, MAX_VALUE_CHARS))
}

fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
            format!("{kept}…")
        }
    }
}

#[cfg(test)]
mod tests;
