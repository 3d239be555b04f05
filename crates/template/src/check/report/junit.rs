//! JUnit's XML: a suite for each template, a case for each finding.

use std::fmt::Write as _;

use super::{Report, TemplateReport};
use crate::check::finding::{Finding, Severity};

pub(super) fn document(report: &Report, fails: Option<Severity>) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all = report
        .templates
        .iter()
        .map(|template| cases(template, fails));
    let (tests, failures, errors) = all.clone().fold((0, 0, 0), |sum, it| {
        (sum.0 + it.0, sum.1 + it.1, sum.2 + it.2)
    });
    let seconds: f64 = report
        .templates
        .iter()
        .map(|template| template.seconds)
        .sum();
    let _ = writeln!(
        xml,
        "<testsuites name=\"outpost template check\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds:.3}\">"
    );
    for template in &report.templates {
        suite(&mut xml, template, fails);
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn is_failure(finding: &Finding, fails: Option<Severity>) -> bool {
    fails.is_some_and(|least| finding.severity >= least)
}

/// Tests, failures and errors of a template. One without findings has one test, which passed.
fn cases(template: &TemplateReport, fails: Option<Severity>) -> (usize, usize, usize) {
    let failures = template
        .findings
        .iter()
        .filter(|it| is_failure(it, fails))
        .count();
    let errors = template.incomplete.len();
    ((template.findings.len() + errors).max(1), failures, errors)
}

fn suite(xml: &mut String, template: &TemplateReport, fails: Option<Severity>) {
    let (tests, failures, errors) = cases(template, fails);
    let name = escaped(&template.directory);
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\" time=\"{:.3}\">",
        template.seconds
    );
    if template.findings.is_empty() && template.incomplete.is_empty() {
        let _ = writeln!(
            xml,
            "    <testcase classname=\"{name}\" name=\"check\" time=\"{:.3}\"/>",
            template.seconds
        );
    }
    for finding in &template.findings {
        case(xml, template, finding, fails);
    }
    for reason in &template.incomplete {
        let reason = escaped(reason);
        let _ = writeln!(
            xml,
            "    <testcase classname=\"{name}\" name=\"check\" time=\"0\">\n      <error message=\"{reason}\" type=\"incomplete\"/>\n    </testcase>"
        );
    }
    xml.push_str("  </testsuite>\n");
}

fn case(xml: &mut String, template: &TemplateReport, finding: &Finding, fails: Option<Severity>) {
    let at = format!(
        "{}:{}:{}",
        template.path(finding),
        finding.place.line,
        finding.place.column
    );
    let (class, name) = (
        escaped(&template.directory),
        escaped(&format!("{} at {at}", finding.rule)),
    );
    let (message, severity) = (escaped(&finding.message), finding.severity.as_str());
    let text = escaped(&format!(
        "{at}: {severity}: {}\nremedy: {}",
        finding.message, finding.remedy
    ));
    let _ = writeln!(
        xml,
        "    <testcase classname=\"{class}\" name=\"{name}\" time=\"0\">"
    );
    let _ = match is_failure(finding, fails) {
        true => writeln!(
            xml,
            "      <failure message=\"{message}\" type=\"{severity}\">{text}</failure>"
        ),
        false => writeln!(xml, "      <system-out>{text}</system-out>"),
    };
    xml.push_str("    </testcase>\n");
}

/// Text as XML 1.0 can hold it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(character),
            other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => {
                out.push('\u{fffd}')
            }
            other => out.push(other),
        }
    }
    out
}
