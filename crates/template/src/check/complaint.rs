//! Places for an engine's complaints, without those that a rule says better.

use std::{collections::BTreeSet, sync::LazyLock};

use hcl_edit::{Span, structure::Block};
use regex::Regex;

use super::{
    finding::{Finding, Severity},
    place::Place,
    planned::Problem,
    source::{File, ModuleSource, Sources, slashed},
};

/// An index in an address: `[0]`, `["a.b"]`.
static INDEX: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\["[^"]*"\]|\[\d+\]"#).expect("is valid"));

/// The line that a complaint names, or the block that it is about; the first block of the template if it names nothing.
pub(super) fn place(sources: &Sources, problem: &Problem) -> (Place, String) {
    if let Some((name, line)) = &problem.place {
        for module in &sources.modules {
            if let Some(file) = module
                .files
                .iter()
                .find(|file| is_named(module, file, name))
            {
                return (file.line_place(*line), module.fetched.clone());
            }
        }
    }
    let text = format!("{} {}", problem.summary, problem.detail);
    place_of_mentioned(sources, &text)
}

/// The block whose address a text mentions; the first block of the template if there is none.
pub(super) fn place_of_mentioned(sources: &Sources, text: &str) -> (Place, String) {
    let named = sources.modules.iter().find_map(|module| {
        let place = module.files.iter().find_map(|file| mentioned(file, text))?;
        Some((place, module.fetched.clone()))
    });
    named.or_else(|| first(sources)).unwrap_or_else(|| {
        let place = Place {
            file: "main.tf".to_owned(),
            line: 1,
            column: 1,
            end_line: 1,
            end_column: 1,
        };
        (place, String::new())
    })
}

/// The block of a resource, a data source or a module; the first block of the template if there is none of this address.
pub(super) fn place_of_address(sources: &Sources, address: &str) -> (Place, String) {
    let bare = INDEX.replace_all(address, "");
    let parts: Vec<_> = bare.split('.').collect();
    let is_it = |block: &Block| {
        let ident = block.ident.as_str();
        let labels = block.labels.iter().map(|label| label.as_str());
        let named: Vec<_> = match ident {
            "resource" => labels.collect(),
            "data" | "module" => std::iter::once(ident).chain(labels).collect(),
            _ => return false,
        };
        let is_data = parts.len() > named.len() && parts[parts.len() - named.len() - 1] == "data";
        parts.ends_with(&named) && !is_data
    };
    let named = sources.modules.iter().find_map(|module| {
        let in_file = |file: &File| Some(file.header(file.body().blocks().find(|it| is_it(it))?));
        let place = module.files.iter().find_map(in_file)?;
        Some((place, module.fetched.clone()))
    });
    named.unwrap_or_else(|| place_of_mentioned(sources, address))
}

/// Tells whether an engine means this file: fetched modules lie below the session's own directory, in the same places as
/// below the one that they were read from.
fn is_named(module: &ModuleSource, file: &File, name: &str) -> bool {
    const FETCHED: &str = ".terraform/modules/";
    match module.fetched.as_str() {
        "" => file.name == name,
        _ => name.rsplit_once(FETCHED).is_some_and(|(_, named)| {
            let path = slashed(&module.dir.join(&file.name));
            path.rsplit_once(FETCHED)
                .is_some_and(|(_, rest)| rest == named)
        }),
    }
}

/// The block whose address the complaint mentions.
fn mentioned(file: &File, text: &str) -> Option<Place> {
    let block = file.body().blocks().find(|block| {
        let labels: Vec<_> = block.labels.iter().map(|label| label.as_str()).collect();
        labels.len() == 2 && text.contains(&labels.join("."))
    })?;
    Some(file.header(block))
}

fn first(sources: &Sources) -> Option<(Place, String)> {
    let file = sources.modules.first()?.files.first()?;
    let place = file.body().blocks().next().map(|block| file.header(block));
    Some((place.unwrap_or_else(|| file.line_place(1)), String::new()))
}

/// Tells whether a rule has found an error in the same block.
pub(super) fn is_known(
    sources: &Sources,
    found: &[Finding],
    problem: &Problem,
    (place, module): (&Place, &str),
) -> bool {
    let mut errors = found.iter().filter(|it| it.severity == Severity::Error);
    if problem.place.is_none() {
        // What the server refuses has rules of its own, which know the place.
        return problem.is_of_server && errors.next().is_some();
    }
    let lines = block_around(sources, place, module).unwrap_or(place.line..=place.end_line);
    errors.any(|it| {
        it.module == module && it.place.file == place.file && lines.contains(&it.place.line)
    })
}

/// Tells whether a function refuses a value of a mocked type: one of the statement that the complaint is about.
pub(super) fn is_about_mocks(
    sources: &Sources,
    problem: &Problem,
    (place, module): (&Place, &str),
    mocked: &BTreeSet<String>,
) -> bool {
    const OF_FUNCTIONS: [&str; 2] = ["Error in function call", "Invalid function argument"];
    if !OF_FUNCTIONS.iter().any(|it| problem.summary.contains(it)) {
        return false;
    }
    let modules = sources.modules.iter().filter(|it| it.fetched == module);
    let mut files = modules.flat_map(|module| &module.files);
    let Some(file) = files.find(|file| file.name == place.file) else {
        return false;
    };
    let statements = file.body().blocks().flat_map(|block| block.body.iter());
    let around = statements.filter_map(Span::span).find(|span| {
        let lines = file.place(span);
        (lines.line..=lines.end_line).contains(&place.line)
    });
    let text = around
        .and_then(|span| file.parsed_text(&span))
        .unwrap_or_default();
    let words = text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_' || it == '-'));
    let mut words = words.filter(|word| !word.is_empty());
    words.any(|word| mocked.contains(word))
}

/// Lines of the block at the top of a file around a place.
fn block_around(
    sources: &Sources,
    place: &Place,
    fetched: &str,
) -> Option<std::ops::RangeInclusive<usize>> {
    let modules = sources.modules.iter();
    let mut files = modules
        .filter(|module| module.fetched == fetched)
        .flat_map(|module| &module.files);
    let file = files.find(|file| file.name == place.file)?;
    file.body().blocks().find_map(|block| {
        let around = file.place(&block.span()?);
        let lines = around.line..=around.end_line;
        lines.contains(&place.line).then_some(lines)
    })
}
