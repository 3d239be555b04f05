//! Checks a template without a server: rules with places in the author's own files.

pub mod baseline;
mod cached;
mod complaint;
mod finding;
mod json;
mod model;
mod modules;
mod place;
mod planned;
mod policies;
pub mod report;
mod rules;
pub mod settings;
mod source;
mod suppress;
mod trace;
mod values;
mod variables;

use std::{collections::BTreeSet, path::Path};

pub use self::{
    cached::CachedReport,
    finding::{Finding, Severity, Summary, Suppressed},
    model::{Calls, Decl, MissingModule, Model, label},
    modules::{ModulesError, unpack_modules},
    place::Place,
    planned::{Archives, LargeState, Planned, Problem, fetch_modules, plan},
    policies::{ModuleCall, verdicts},
    rules::{Daemon, Example, MissingItem, MissingKind, Options, RULES, Rule, Spot, rule},
    source::{Fetched, SourceError, Sources},
    values::Assumption,
};
use self::{rules::finding as make_finding, settings::Level};
use crate::{
    mock::{self, Mock},
    similar::nearest,
};

/// Results of reading a template's source.
#[derive(Debug, Default)]
pub struct Examined {
    /// Findings of the rules, sorted and each once.
    pub findings: Vec<Finding>,
    /// Modules that are not there.
    pub missing: Vec<MissingModule>,
    /// Resources of a started workspace, as far as the source tells.
    pub resources: usize,
    /// Agents of a started workspace, as far as the source tells.
    pub agents: usize,
    /// Providers that must be replaced before anything is planned, with schemas inferred from use.
    pub mocks: Vec<Mock>,
    /// Set if a call of a module leads nowhere or in a circle, so that no engine can fetch modules.
    pub has_wrong_calls: bool,
    /// Tells whether the template names a place for states.
    pub has_backend: bool,
    /// Calls of modules, those in modules included.
    pub modules: Vec<ModuleCall>,
    /// Variables without a value, and one that a plan can go on with.
    pub made_up: Vec<(String, String)>,
}

/// Findings of one template, those that are suppressed among them.
#[derive(Debug, Default)]
pub struct Checked {
    /// Findings that remain, by file and line.
    pub findings: Vec<Finding>,
    /// Findings that comments accept.
    pub suppressed: Vec<Suppressed>,
}

/// Applies all rules that need no plan. `sources` get the modules that the template calls.
///
/// # Errors
/// [`SourceError`] if a directory cannot be listed.
pub fn examine(sources: &mut Sources, options: &Options) -> Result<Examined, SourceError> {
    let calls = Calls::follow(sources)?;
    let model = Model::new(sources, &calls, &options.variables);
    let mut findings = rules::run(&model, options);
    findings.extend(sources.broken.iter().map(|broken| {
        let spot = Spot {
            place: broken.place.clone(),
            address: String::new(),
            module: broken.module.clone(),
        };
        make_finding(
            "syntax",
            spot,
            broken.message.clone(),
            "correct the file; nothing of it is checked until it parses",
        )
    }));
    findings.extend(calls.wrong.iter().map(|wrong| {
        let spot = Spot {
            place: wrong.place.clone(),
            address: wrong.address.clone(),
            module: wrong.module.clone(),
        };
        make_finding(
            "invalid",
            spot,
            wrong.reason.clone(),
            "correct the module's `source`",
        )
    }));
    let count = |is_agent: bool| -> usize {
        let wanted = model.decls.iter().filter(|decl| !decl.is_data);
        let wanted = wanted.filter(|decl| match is_agent {
            true => decl.kind == "coder_agent",
            false => !decl.kind.starts_with("coder_"),
        });
        wanted
            .map(|decl| {
                model
                    .values
                    .how_many(&model, decl, Assumption::Started)
                    .unwrap_or(1)
            })
            .sum()
    };
    Ok(Examined {
        findings: sorted(findings),
        resources: count(false),
        agents: count(true),
        missing: calls.missing.clone(),
        has_wrong_calls: !calls.wrong.is_empty(),
        mocks: mock::mocks(&model, &options.default_host, &options.force_new),
        has_backend: mock::has_backend(&model),
        modules: policies::modules(&model, &calls.missing),
        made_up: variables::made_up(&model, options),
    })
}

/// Types of what mocks stand in for: `docker_container`.
pub fn mocked_types(mocks: &[Mock]) -> BTreeSet<String> {
    let of_mock = |mock: &Mock| {
        let schema = &mock.served.schema;
        let both = schema
            .resource_schemas
            .keys()
            .chain(schema.data_source_schemas.keys());
        both.cloned().collect::<Vec<_>>()
    };
    mocks.iter().flat_map(of_mock).collect()
}

/// The engine's complaints as findings: those that no rule says better. A function that refuses what a mock made up says
/// nothing about the template, so its place is added to `unfounded` instead; `mocked` are the types of mocks.
pub fn complaints(
    sources: &Sources,
    found: &[Finding],
    problems: &[Problem],
    mocked: &BTreeSet<String>,
    unfounded: &mut Vec<Place>,
) -> Vec<Finding> {
    let mut complaints = Vec::new();
    for problem in problems {
        let (place, module) = complaint::place(sources, problem);
        if complaint::is_about_mocks(sources, problem, (&place, &module), mocked) {
            unfounded.push(place);
            continue;
        }
        if complaint::is_known(sources, found, problem, (&place, &module)) {
            continue;
        }
        let message = match problem.detail.as_str() {
            "" => problem.summary.clone(),
            detail => format!("{}: {detail}", problem.summary),
        };
        let spot = Spot {
            place,
            address: String::new(),
            module,
        };
        complaints.push(make_finding(
            "invalid",
            spot,
            message,
            "correct the template as the engine says",
        ));
    }
    complaints
}

/// The finding about a state that a plan found too large, unless the source has told it already.
pub fn too_large(sources: &Sources, found: &[Finding], state: &LargeState) -> Option<Finding> {
    if found.iter().any(|it| it.rule == rules::state::ID) {
        return None;
    }
    let (place, module) = complaint::place_of_mentioned(sources, &state.address);
    let spot = Spot {
        place,
        address: state.address.clone(),
        module,
    };
    let message = rules::state::message(state.bytes, &state.address, state.largest);
    Some(make_finding(
        rules::state::ID,
        spot,
        message,
        rules::state::REMEDY,
    ))
}

/// Returns the id of the rule that an id without a rule may have meant.
pub fn similar_rule(id: &str) -> Option<&'static str> {
    nearest(id, RULES.iter().map(|rule| rule.id))
}

/// By file and line, each once.
fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    let key = |it: &Finding| {
        (
            it.module.clone(),
            it.place.clone(),
            it.rule.clone(),
            it.message.clone(),
        )
    };
    findings.sort_by_key(key);
    let mut seen = BTreeSet::new();
    findings.retain(|it| {
        seen.insert((
            it.module.clone(),
            it.place.clone(),
            it.rule.clone(),
            it.message.clone(),
        ))
    });
    findings
}

/// Applies severities of settings and suppressions of comments, and adds the lines of the source.
pub fn finish(
    sources: &Sources,
    findings: Vec<Finding>,
    levels: &std::collections::BTreeMap<String, Level>,
) -> Checked {
    let (remaining, mut suppressed) = suppress::apply(sources, findings);
    let mut remaining = sorted(leveled(remaining, levels));
    for finding in &mut remaining {
        finding.source = line_of(sources, finding);
    }
    for one in &mut suppressed {
        one.finding.source = line_of(sources, &one.finding);
    }
    Checked {
        findings: remaining,
        suppressed,
    }
}

fn leveled(
    findings: Vec<Finding>,
    levels: &std::collections::BTreeMap<String, Level>,
) -> Vec<Finding> {
    let leveled = findings.into_iter().filter_map(|finding| {
        let own = levels.get(&*finding.rule);
        let severity = match own.or_else(|| levels.get(rules::id_of(&finding.rule))) {
            Some(level) => level.severity()?,
            None => finding.severity,
        };
        Some(Finding {
            severity,
            ..finding
        })
    });
    leveled.collect()
}

/// The first line of a finding's place.
fn line_of(sources: &Sources, finding: &Finding) -> String {
    let files = sources
        .modules
        .iter()
        .filter(|module| module.fetched == finding.module);
    let mut files = files.flat_map(|module| &module.files);
    let file = files
        .find(|file| file.name == finding.place.file)
        .map(|file| file.text.as_str());
    let others = [&sources.lock, &sources.readme].into_iter().flatten();
    let text = file
        .or_else(|| {
            others
                .into_iter()
                .find(|it| it.name == finding.place.file)
                .map(|it| it.text.as_str())
        })
        .map(str::to_owned)
        .or_else(|| read_line_of(&sources.dir.join(&finding.place.file)));
    let text = text.unwrap_or_default();
    text.lines()
        .nth(finding.place.line.saturating_sub(1))
        .unwrap_or_default()
        .to_owned()
}

/// A file that did not parse is still shown.
fn read_line_of(path: &Path) -> Option<String> {
    const MOST: u64 = 1 << 20;
    use outpost_language::TemplateFiles as _;
    let dir = path.parent()?;
    let bytes = dir.read(Path::new(path.file_name()?), MOST).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
