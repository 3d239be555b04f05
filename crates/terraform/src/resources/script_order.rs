//! The order of scripts: selections by the rules of `coder_script_order`, and the resulting dependencies.
//!
//! A rule names scripts by selectors, which are relative to the module that declares it. They are expanded to
//! instances (`selector`), checked one rule at a time (`rule`), and combined to the dependencies of each script
//! (`edges`). Agents are known by their ids after an apply, and before it by the references of `agent_id`
//! (`runtime`).
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

/// Maximum number of warnings; further ones are only counted.
const MAX_WARNINGS: usize = 20;
/// Maximum number of characters of an author's text in a message.
const MAX_VALUE_CHARS: usize = 256;
/// Maximum number of characters of a rule's problem.
const MAX_PROBLEM_CHARS: usize = 64 << 10;

/// Reason why scripts cannot be ordered. The texts are those that authors know from Coder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptOrderError {
    /// An attribute has another type than expected.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A data source has no rules.
    #[error("script order data source {} must contain at least one rule", shown(.0))]
    NoRules(String),
    /// A rule selects something that it must not.
    #[error(
        "script order data source {} rule {rule}: {}",
        shown(data_source),
        cut(&problem.to_string(), MAX_PROBLEM_CHARS)
    )]
    Rule {
        /// Address of the data source.
        data_source: String,
        /// Index of the rule in the data source, counted from 0.
        rule: usize,
        /// Problem of the rule.
        problem: Box<RuleProblem>,
    },
    /// Scripts wait for each other.
    #[error("script order dependency cycle: {path}; cycle edges: {edges}")]
    Cycle {
        /// Scripts in the order in which they would run; the first is also the last.
        path: String,
        /// Rules that cause the cycle.
        edges: String,
    },
}

/// Phase in which a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The start of the workspace.
    Start,
    /// The stop of the workspace.
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

/// Runner of a script: an agent, or the agent inside a development container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Runtime {
    /// Terraform's address; without keys if they are not known in a plan.
    pub(super) address: String,
    pub(super) is_container: bool,
    pub(super) name: String,
}

/// Result of all rules, by script.
#[derive(Debug, Default)]
pub(super) struct ScriptOrder {
    scripts: BTreeMap<String, Ordered>,
    /// Warnings, one sentence each.
    pub(super) warnings: Vec<String>,
}

/// A script that a rule selects.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// Runner of the script; `None` if it is not known yet.
    pub(super) runtime: Option<Runtime>,
    /// Scripts that it waits for, sorted by address.
    pub(super) dependencies: Vec<ScriptDependency>,
}

impl ScriptOrder {
    /// Returns the result for the script at an address; `None` if no rule selects it.
    pub(super) fn of(&self, address: &str) -> Option<&Ordered> {
        self.scripts.get(address)
    }
}

/// The properties of a script that matter for its order.
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

    /// Returns the phase of a script that runs in exactly one.
    fn phase(&self) -> Phase {
        match self.run_on_stop {
            true => Phase::Stop,
            false => Phase::Start,
        }
    }
}

/// Applies all rules among the resources.
///
/// Without a `configuration`, as for a state alone, nothing is compared with the template's declarations.
///
/// # Errors
/// [`ScriptOrderError`] if a rule selects something that it must not, or if scripts would wait for each other.
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
    // As in the reference, agents are determined only once every rule can be read.
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

/// Type of the data source.
const ORDER: &str = "coder_script_order";

fn scripts<'a>(index: &Index<'a>) -> Result<Vec<Script<'a>>, ScriptOrderError> {
    let mut scripts = Vec::new();
    for resource in index.of_type("coder_script") {
        let Some(instance) = Instance::parse(&resource.address) else {
            continue; // No selector can select it.
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

/// Returns a warning about what cannot be checked before the build.
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

/// Returns a text of the template in quotes, or its beginning.
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
