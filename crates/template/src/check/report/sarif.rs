//! SARIF 2.1.0, for code scanning.

use serde_json::{Value, json};

use super::{Report, TemplateReport, fingerprint};
use crate::check::{
    finding::{Finding, Severity},
    rules::{RULES, Rule, id_of},
};

pub(super) fn document(report: &Report) -> Value {
    let results = report.templates.iter().flat_map(results);
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "outpost",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": RULES.iter().map(described).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": report.templates.iter().all(|it| it.incomplete.is_empty())}],
            "results": results.collect::<Vec<_>>(),
        }],
    })
}

fn described(rule: &Rule) -> Value {
    let bad = rule.bad();
    let fenced = bad
        .files
        .iter()
        .map(|(name, text)| format!("`{name}`\n```hcl\n{text}```\n"));
    let markdown = format!("{}\n\n{}", rule.why(), fenced.collect::<String>());
    json!({
        "id": rule.id,
        "shortDescription": {"text": rule.summary()},
        "fullDescription": {"text": rule.why()},
        "help": {"text": rule.why(), "markdown": markdown},
        "defaultConfiguration": {"level": level(rule.severity)},
    })
}

fn level(severity: Severity) -> &'static str {
    severity.as_str()
}

fn results(template: &TemplateReport) -> Vec<Value> {
    let open = template
        .findings
        .iter()
        .map(|finding| result(template, finding));
    let suppressed = template.suppressed.iter().map(|one| {
        let mut value = result(template, &one.finding);
        let kind = if one.is_in_source {
            "inSource"
        } else {
            "external"
        };
        let mut suppression = json!({"kind": kind});
        if !one.reason.is_empty() {
            suppression["justification"] = one.reason.as_str().into();
        }
        value["suppressions"] = json!([suppression]);
        value
    });
    open.chain(suppressed).collect()
}

fn result(template: &TemplateReport, finding: &Finding) -> Value {
    let (place, path) = (&finding.place, template.path(finding));
    let mut region = json!({
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    });
    if !finding.source.is_empty() {
        region["snippet"] = json!({"text": finding.source});
    }
    let mut location = json!({"physicalLocation": {
        "artifactLocation": {"uri": encoded(&path)},
        "region": region,
    }});
    if !finding.address.is_empty() {
        location["logicalLocations"] =
            json!([{"fullyQualifiedName": finding.address, "kind": "resource"}]);
    }
    json!({
        "ruleId": finding.rule,
        "ruleIndex": RULES.iter().position(|rule| rule.id == id_of(&finding.rule)),
        "level": level(finding.severity),
        "message": {"text": format!("{}. Remedy: {}.", finding.message.trim_end_matches('.'), finding.remedy.trim_end_matches('.'))},
        "locations": [location],
        "partialFingerprints": {"outpost/v1": fingerprint(&path, finding)},
    })
}

/// A path as a URI: what has another meaning there is escaped.
fn encoded(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| match is_plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}
