//! Annotations of GitHub's actions, and a summary of a job in Markdown.

use std::fmt::Write as _;

use super::{Report, table};
use crate::check::finding::Severity;

pub(super) fn annotations(report: &Report) -> String {
    let mut lines = String::new();
    for template in &report.templates {
        for finding in &template.findings {
            let place = &finding.place;
            let command = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "notice",
            };
            let message = format!("{}\nRemedy: {}", finding.message, finding.remedy);
            let _ = writeln!(
                lines,
                "::{command} file={},line={},endLine={},col={},endColumn={},title={}::{}",
                property(&template.path(finding)),
                place.line,
                place.end_line,
                place.column,
                place.end_column,
                property(&finding.rule),
                data(&message)
            );
        }
        for reason in &template.incomplete {
            let text = format!(
                "{} was not checked to the end: {reason}",
                template.directory
            );
            let _ = writeln!(lines, "::error title=incomplete::{}", data(&text));
        }
    }
    lines
}

fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The summary of a job: a table of findings.
pub fn job_summary(report: &Report) -> String {
    let mut text = format!(
        "### Templates: {}\n\n",
        table::total(report.summary, report.templates.len())
    );
    let findings: Vec<_> = report
        .templates
        .iter()
        .flat_map(|template| {
            template
                .findings
                .iter()
                .map(move |finding| (template, finding))
        })
        .collect();
    if !findings.is_empty() {
        text.push_str("| severity | rule | place | message |\n|---|---|---|---|\n");
    }
    for (template, finding) in findings {
        let _ = writeln!(
            text,
            "| {} | `{}` | `{}:{}` | {} |",
            finding.severity.as_str(),
            finding.rule,
            cell(&template.path(finding)),
            finding.place.line,
            cell(&finding.message)
        );
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('\n', " ")
        .replace('<', "&lt;")
}
