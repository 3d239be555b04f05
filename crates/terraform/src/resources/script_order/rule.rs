//! One rule: its scripts, its phase, and whether the scripts can wait for each other at all.

use std::collections::BTreeSet;

use outpost_base::job::ScriptRequirement;

use super::{
    Known, Phase, Script,
    problem::{Field, Pick, RuleProblem},
    selector::{self, Budget, Expanded, Meaning, Wanted},
    shown,
};
use crate::plan::ResourceValues;

/// A rule as written in the template.
pub(super) struct Rule {
    pub(super) run: Vec<String>,
    pub(super) after: Vec<String>,
    pub(super) requires: String,
    pub(super) phase: String,
}

/// A selector with the scripts that it selects.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    field: Field,
    pub(super) text: String,
    is_module: bool,
    /// Numbers of the scripts, sorted by address.
    pub(super) scripts: Vec<usize>,
}

/// A rule whose selectors are expanded.
pub(super) struct Selected {
    requirement: ScriptRequirement,
    phase: Option<Phase>,
    run: Vec<Selector>,
    after: Vec<Selector>,
}

/// A rule that is reduced to the scripts of its phase.
pub(super) struct Settled {
    pub(super) requirement: ScriptRequirement,
    pub(super) run: Vec<Selector>,
    pub(super) after: Vec<Selector>,
    /// The inferred phase, and the modules from which scripts were omitted because of it.
    omitted: Option<(Phase, BTreeSet<String>)>,
}

/// Expands the selectors of a rule.
pub(super) fn select(
    rule: &Rule,
    source: &ResourceValues,
    expanded: &Expanded<'_>,
    budget: &mut Budget,
) -> Result<Selected, RuleProblem> {
    let requirement = match rule.requires.as_str() {
        "" | "success" => ScriptRequirement::Success,
        "completion" => ScriptRequirement::Completion,
        other => return Err(RuleProblem::Requires(other.to_owned())),
    };
    let phase = match rule.phase.as_str() {
        "" => None,
        "start" => Some(Phase::Start),
        "stop" => Some(Phase::Stop),
        other => return Err(RuleProblem::Phase(other.to_owned())),
    };
    let mut list = |field, texts: &[String]| {
        if texts.is_empty() {
            return Err(RuleProblem::NoSelector(field));
        }
        let mut seen = BTreeSet::new();
        let texts = texts.iter().filter(|text| seen.insert(*text));
        texts
            .map(|text| expand(field, text, source, expanded, budget))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Selected {
        requirement,
        phase,
        run: list(Field::Run, &rule.run)?,
        after: list(Field::After, &rule.after)?,
    })
}

fn expand(
    field: Field,
    text: &str,
    source: &ResourceValues,
    expanded: &Expanded<'_>,
    budget: &mut Budget,
) -> Result<Selector, RuleProblem> {
    let selector = || text.to_owned();
    let wanted = selector::parse(text).map_err(|problem| RuleProblem::Selector {
        field,
        selector: selector(),
        problem,
    })?;
    let scripts = match (expanded.meaning(&wanted, source, budget), &wanted) {
        (Meaning::TooMany(limit), _) => {
            return Err(RuleProblem::TooMany {
                field,
                selector: selector(),
                limit,
            });
        }
        (Meaning::Undeclared, Wanted::Script { .. }) => {
            return Err(RuleProblem::NoScript(field, selector()));
        }
        (Meaning::Undeclared, Wanted::Module { .. }) => {
            return Err(RuleProblem::NoModule(field, selector()));
        }
        (Meaning::Scripts(scripts), Wanted::Script { key: Some(_), .. }) if scripts.is_empty() => {
            return Err(RuleProblem::NoInstance(field, selector()));
        }
        (Meaning::Scripts(scripts), _) => scripts,
    };
    Ok(Selector {
        field,
        text: selector(),
        is_module: matches!(wanted, Wanted::Module { .. }),
        scripts,
    })
}

/// Determines the phase of a rule, and omits scripts of the other phase from its modules.
pub(super) fn settle(rule: Selected, scripts: &[Script<'_>]) -> Result<Settled, RuleProblem> {
    let all = || rule.run.iter().chain(&rule.after);
    all().try_for_each(|selector| check_lifecycle(selector, scripts))?;
    let (phase, is_inferred) = match rule.phase {
        Some(phase) => (Some(phase), false),
        None => (infer(all, scripts)?, true),
    };
    let Some(phase) = phase else {
        // Nothing that is selected has an instance.
        return Ok(Settled {
            requirement: rule.requirement,
            run: rule.run,
            after: rule.after,
            omitted: None,
        });
    };
    for selector in all().filter(|selector| !selector.is_module) {
        let other = |script: &&usize| scripts[**script].phase() != phase;
        if let Some(script) = selector.scripts.iter().find(other) {
            return Err(RuleProblem::WrongPhase {
                pick: selector.pick(*script, scripts),
                actual: scripts[*script].phase(),
                phase,
            });
        }
    }
    let mut omitted = BTreeSet::new();
    let mut keep = |mut selector: Selector| {
        let before = selector.scripts.len();
        selector
            .scripts
            .retain(|script| scripts[*script].phase() == phase);
        if selector.scripts.len() < before {
            omitted.insert(selector.text.clone());
        }
        selector
    };
    let run = rule.run.into_iter().map(&mut keep).collect();
    let after = rule.after.into_iter().map(&mut keep).collect();
    Ok(Settled {
        requirement: rule.requirement,
        run,
        after,
        omitted: (is_inferred && !omitted.is_empty()).then_some((phase, omitted)),
    })
}

fn check_lifecycle(selector: &Selector, scripts: &[Script<'_>]) -> Result<(), RuleProblem> {
    for script in &selector.scripts {
        let Script {
            run_on_start,
            run_on_stop,
            cron,
            ..
        } = &scripts[*script];
        let reason = match (run_on_start, run_on_stop, cron.is_empty()) {
            (true, true, _) => "has both run_on_start and run_on_stop enabled",
            (false, false, true) => "has neither run_on_start nor run_on_stop enabled",
            (false, false, false) => {
                "is cron-only; script ordering requires run_on_start or run_on_stop"
            }
            (true, false, _) | (false, true, _) => continue,
        };
        let expanded = selector.scripts.iter();
        let expanded: Vec<_> = expanded.map(|it| shown(scripts[*it].address())).collect();
        return Err(RuleProblem::Lifecycle {
            pick: selector.pick(*script, scripts),
            expanded: expanded.join(" "),
            reason,
        });
    }
    Ok(())
}

/// Returns the phase of the scripts that are named themselves, else that of the modules' scripts.
fn infer<'s, I: Iterator<Item = &'s Selector>>(
    all: impl Fn() -> I,
    scripts: &[Script<'_>],
) -> Result<Option<Phase>, RuleProblem> {
    let first = |is_module, phase| {
        let mut selectors = all().filter(|selector| selector.is_module == is_module);
        selectors.find_map(|selector| {
            let mut found = selector.scripts.iter();
            let script = found.find(|script| scripts[**script].phase() == phase)?;
            Some((selector.pick(*script, scripts), phase))
        })
    };
    for is_module in [false, true] {
        match [Phase::Start, Phase::Stop].map(|phase| first(is_module, phase)) {
            [Some(start), Some(stop)] if is_module => {
                return Err(RuleProblem::UnclearPhase(Box::new([start, stop])));
            }
            [Some(start), Some(stop)] => {
                return Err(RuleProblem::MixedPhases(Box::new([start, stop])));
            }
            [Some((_, phase)), None] | [None, Some((_, phase))] => return Ok(Some(phase)),
            [None, None] => {}
        }
    }
    Ok(None)
}

impl Selector {
    fn pick(&self, script: usize, scripts: &[Script<'_>]) -> Pick {
        Pick {
            field: self.field,
            selector: self.text.clone(),
            script: scripts[script].address().to_owned(),
        }
    }
}

impl Settled {
    /// Returns whether the rule makes no script wait.
    pub(super) fn is_empty(&self) -> bool {
        let is_empty = |list: &[Selector]| list.iter().all(|it| it.scripts.is_empty());
        is_empty(&self.run) || is_empty(&self.after)
    }

    /// Returns all scripts of both lists, sorted by address.
    pub(super) fn selected(&self) -> BTreeSet<usize> {
        let all = self.run.iter().chain(&self.after);
        all.flat_map(|selector| selector.scripts.iter().copied())
            .collect()
    }

    /// Returns a warning about scripts that were omitted because of an inferred phase.
    pub(super) fn warning(&self, data_source: &str, rule: usize) -> Option<String> {
        let (phase, modules) = self.omitted.as_ref()?;
        let modules: Vec<_> = modules.iter().map(|text| format!("\"{text}\"")).collect();
        Some(format!(
            "script order data source {} rule {rule} inferred phase \"{phase}\" and omitted scripts in the other \
             phase from module selectors: {}; set phase = \"{phase}\" explicitly to make this filtering intentional",
            shown(data_source),
            modules.join(", ")
        ))
    }

    fn picked(&self, script: usize, scripts: &[Script<'_>]) -> Pick {
        let mut all = self.run.iter().chain(&self.after);
        let selector = all.find(|selector| selector.scripts.contains(&script));
        selector
            .expect("the script is one that a selector of the rule means")
            .pick(script, scripts)
    }
}

/// Checks that one agent runs all scripts of a rule, and that none waits for itself.
pub(super) fn check(
    rule: &Settled,
    scripts: &[Script<'_>],
    known: &Known,
) -> Result<(), RuleProblem> {
    let mut first: Option<(usize, &str)> = None;
    for script in rule.selected() {
        let found = &known[&script];
        if found.is_nobody() {
            return Err(RuleProblem::NoAgent(rule.picked(script, scripts)));
        }
        let Some(address) = found.address() else {
            continue;
        };
        match first {
            None => first = Some((script, address)),
            Some((other, others)) if others != address => {
                let one = (rule.picked(other, scripts), others.to_owned());
                let two = (rule.picked(script, scripts), address.to_owned());
                return Err(RuleProblem::Agents(Box::new([one, two])));
            }
            Some(_) => {}
        }
    }
    for run in &rule.run {
        for script in &run.scripts {
            let mut after = rule.after.iter();
            if let Some(after) = after.find(|after| after.scripts.contains(script)) {
                return Err(RuleProblem::Itself {
                    run: run.text.clone(),
                    after: after.text.clone(),
                    script: scripts[*script].address().to_owned(),
                });
            }
        }
    }
    Ok(())
}
