//! Comments that accept a finding: `# outpost:ignore RULE[,RULE] reason`.

use std::sync::LazyLock;

use hcl_edit::{
    Span,
    structure::{Body, Structure},
};
use regex::Regex;

use super::{
    finding::{Finding, Suppressed},
    place::Place,
    rules::{Spot, finding, id_of, rule},
    similar_rule,
    source::{File, Sources},
};

/// A comment of the native syntax, or the key that stands for one in JSON.
static COMMENT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?:#|//|/\*|"//"\s*:\s*")\s*outpost:ignore(?:[ \t]+([^\r\n]*))?"#)
        .expect("is valid")
});

/// One rule of one comment.
struct Suppression {
    place: Place,
    /// The fetched module with the file; empty for the template's own.
    module: String,
    id: String,
    reason: String,
    /// Lines whose findings it accepts.
    lines: std::ops::RangeInclusive<usize>,
    is_used: bool,
}

/// Separates what comments accept from what remains. What is wrong with comments is added to it.
pub(super) fn apply(sources: &Sources, findings: Vec<Finding>) -> (Vec<Finding>, Vec<Suppressed>) {
    let mut all = suppressions(sources);
    let (mut remaining, mut accepted) = (Vec::new(), Vec::new());
    for finding in findings {
        let covers = |it: &&mut Suppression| {
            (it.id == finding.rule || it.id == id_of(&finding.rule))
                && it.module == finding.module
                && it.place.file == finding.place.file
                && it.lines.contains(&finding.place.line)
                && !it.reason.is_empty()
        };
        match all.iter_mut().find(covers) {
            Some(suppression) => {
                suppression.is_used = true;
                accepted.push(Suppressed {
                    reason: suppression.reason.clone(),
                    finding,
                    is_in_source: true,
                });
            }
            None => remaining.push(finding),
        }
    }
    remaining.extend(all.iter().filter_map(complaint));
    (remaining, accepted)
}

fn complaint(suppression: &Suppression) -> Option<Finding> {
    let spot = Spot {
        place: suppression.place.clone(),
        address: String::new(),
        module: suppression.module.clone(),
    };
    let id = &suppression.id;
    if suppression.reason.is_empty() {
        let message = match id.as_str() {
            "" => {
                "the comment names no rule and gives no reason, so it suppresses nothing".to_owned()
            }
            id => format!("the comment gives no reason to ignore `{id}`, so it suppresses nothing"),
        };
        let remedy = "write why behind the rule: `# outpost:ignore RULE reason`";
        return Some(finding("suppression-without-reason", spot, message, remedy));
    }
    if suppression.is_used {
        return None;
    }
    let (message, remedy) = match rule(id) {
        Some(_) => (
            format!("`{id}` finds nothing here"),
            "remove the comment".to_owned(),
        ),
        None => {
            let remedy = match similar_rule(id) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`outpost template rules` lists all of them".to_owned(),
            };
            (format!("there is no rule `{id}`"), remedy)
        }
    };
    Some(finding("suppression-unused", spot, message, remedy))
}

fn suppressions(sources: &Sources) -> Vec<Suppression> {
    let mut all = Vec::new();
    for module in &sources.modules {
        for file in &module.files {
            of_file(file, &module.fetched, &mut all);
        }
    }
    all
}

fn of_file(file: &File, module: &str, all: &mut Vec<Suppression>) {
    for found in COMMENT.captures_iter(&file.text) {
        let Some(whole) = found.get(0) else { continue };
        let line = file.text[..whole.start()].matches('\n').count() + 1;
        let words = found.get(1).map_or("", |words| words.as_str());
        let words = words
            .trim_end_matches([' ', '\t', ',', '"'])
            .trim_end_matches("*/")
            .trim();
        let (ids, reason) = words.split_once([' ', '\t']).unwrap_or((words, ""));
        let place = comment_place(file, whole.start(), whole.end());
        for id in ids.split(',').filter(|id| !id.is_empty() || ids.is_empty()) {
            all.push(Suppression {
                place: place.clone(),
                module: module.to_owned(),
                id: id.trim().to_owned(),
                reason: reason.trim().to_owned(),
                lines: covered(file, line),
                is_used: false,
            });
        }
    }
}

/// A comment's place in the author's file; JSON is not the text that was parsed, so it is computed here.
fn comment_place(file: &File, start: usize, end: usize) -> Place {
    file.original_place(&(start..end))
}

/// The lines whose findings a comment at `line` accepts: those of the block or argument that begins on its line, or on the
/// next one that is no comment.
fn covered(file: &File, line: usize) -> std::ops::RangeInclusive<usize> {
    let lines: Vec<&str> = file.text.lines().collect();
    let is_comment = |line: &str| {
        let line = line.trim_start();
        line.starts_with('#') || line.starts_with("//") || line.starts_with("/*")
    };
    let mut target = line;
    while lines.get(target - 1).is_some_and(|line| is_comment(line)) {
        target += 1;
    }
    if file.is_json() {
        // The key of a comment stands inside of the object that it is about.
        return around(file, line).unwrap_or(line..=line + 1);
    }
    let own = beginning_at(file, file.body(), target);
    own.unwrap_or(target..=target)
}

/// Lines of the outermost block or argument that begins on a line.
fn beginning_at(file: &File, body: &Body, line: usize) -> Option<std::ops::RangeInclusive<usize>> {
    for structure in body.iter() {
        let span = match structure {
            Structure::Attribute(attribute) => attribute.span(),
            Structure::Block(block) => block.span(),
        };
        let place = file.place(&span?);
        if place.line == line {
            return Some(place.line..=place.end_line);
        }
        if let Structure::Block(block) = structure
            && (place.line..=place.end_line).contains(&line)
        {
            return beginning_at(file, &block.body, line);
        }
    }
    None
}

/// Lines of the innermost block around a line.
fn around(file: &File, line: usize) -> Option<std::ops::RangeInclusive<usize>> {
    let mut found = None;
    let mut body = file.body();
    loop {
        let inner = body.blocks().find_map(|block| {
            let place = file.place(&block.span()?);
            let lines = place.line..=place.end_line;
            lines.contains(&line).then_some((lines, block))
        });
        let Some((lines, block)) = inner else {
            return found;
        };
        found = Some(lines);
        body = &block.body;
    }
}
