//! For people: each finding with its line and a caret, by file, as compilers print it.

use std::fmt::Write as _;

use outpost_base::rules::text::visible;

use super::{Report, TemplateReport};
use crate::check::finding::{Finding, Severity, Summary};

/// Characters of a line that are shown; longer ones are cut around the place.
const WIDEST: usize = 160;

struct Colours {
    is_on: bool,
}

impl Colours {
    fn paint(&self, code: &str, text: &str) -> String {
        match self.is_on {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }

    fn of(&self, severity: Severity, text: &str) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
            Severity::Note => "1;36",
        };
        self.paint(code, text)
    }
}

pub(super) fn render(report: &Report, is_coloured: bool) -> String {
    let colours = Colours { is_on: is_coloured };
    let mut text = String::new();
    for template in &report.templates {
        for finding in &template.findings {
            one(&mut text, template, finding, &colours);
        }
        for reason in &template.incomplete {
            let label = colours.paint("1;31", "not checked to the end");
            let _ = writeln!(
                text,
                "{label}: {}: {}\n",
                shown(&template.directory),
                visible(reason)
            );
        }
    }
    let seconds: f64 = report
        .templates
        .iter()
        .map(|template| template.seconds)
        .sum();
    let _ = write!(
        text,
        "{} ({seconds:.1} s{})",
        total(report.summary, report.templates.len()),
        kept(report)
    );
    text.push('\n');
    text
}

/// How many results are those of an earlier run.
fn kept(report: &Report) -> String {
    let kept = report
        .templates
        .iter()
        .filter(|template| template.is_cached);
    match (kept.count(), report.templates.len()) {
        (0, _) => String::new(),
        (1, 1) => ", unchanged since an earlier check".to_owned(),
        (kept, _) => format!(", {kept} unchanged since an earlier check"),
    }
}

fn shown(directory: &str) -> &str {
    match directory {
        "" => ".",
        directory => directory,
    }
}

fn one(text: &mut String, template: &TemplateReport, finding: &Finding, colours: &Colours) {
    let (place, gutter) = (&finding.place, finding.place.line.to_string().len());
    let severity = colours.of(finding.severity, finding.severity.as_str());
    let bar = colours.paint("34", "|");
    let pad = " ".repeat(gutter);
    let path = template.path(finding);
    let _ = writeln!(
        text,
        "{severity}[{}]: {}",
        finding.rule,
        visible(&finding.message)
    );
    let arrow = colours.paint("34", "-->");
    let _ = writeln!(
        text,
        "{pad}{arrow} {}:{}:{}",
        visible(&path),
        place.line,
        place.column
    );
    if !finding.source.trim().is_empty() {
        let (line, start, length) = window(finding);
        let carets = colours.of(finding.severity, &"^".repeat(length));
        let number = colours.paint("34", &place.line.to_string());
        let _ = writeln!(text, "{pad} {bar}");
        let _ = writeln!(text, "{number} {bar} {}", visible(&line));
        let _ = writeln!(text, "{pad} {bar} {}{carets}", " ".repeat(start));
    }
    let equals = colours.paint("34", "=");
    let _ = writeln!(
        text,
        "{pad} {equals} remedy: {}\n",
        visible(&finding.remedy)
    );
}

/// The part of a line to show, where the carets begin in it, and how many there are.
fn window(finding: &Finding) -> (String, usize, usize) {
    let place = &finding.place;
    // A tab is as wide as a terminal likes, so it becomes a blank, as every other character.
    let characters: Vec<char> = finding
        .source
        .chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .collect();
    let start = (place.column - 1).min(characters.len());
    let end = match place.end_line == place.line {
        true => (place.end_column - 1).clamp(start, characters.len()),
        false => characters.len(),
    };
    let from = match characters.len() > WIDEST && end > WIDEST {
        true => start.saturating_sub(WIDEST / 4),
        false => 0,
    };
    let until = characters.len().min(from + WIDEST);
    let line: String = characters[from..until].iter().collect();
    let length = end.min(until).saturating_sub(start).max(1);
    (line, start - from, length)
}

/// The last line: what was found, in words.
pub(super) fn total(summary: Summary, templates: usize) -> String {
    let count = |number: usize, word: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {word}{plural}")
    };
    let mut parts = vec![
        count(summary.error, "error"),
        count(summary.warning, "warning"),
        count(summary.note, "note"),
    ];
    if summary.suppressed > 0 {
        parts.push(format!("{} suppressed", summary.suppressed));
    }
    format!("{} in {}", parts.join(", "), count(templates, "template"))
}
