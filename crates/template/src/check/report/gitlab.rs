//! GitLab's code quality report.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Report, fingerprint};
use crate::check::finding::Severity;

pub(super) fn document(report: &Report) -> Value {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut issues = Vec::new();
    for template in &report.templates {
        for finding in &template.findings {
            let path = template.path(finding);
            // GitLab shows one of those with the same fingerprint.
            let mut print = fingerprint(&path, finding);
            let count = seen.entry(print.clone()).or_default();
            if *count > 0 {
                print = format!("{print}-{count}");
            }
            *count += 1;
            issues.push(json!({
                "description": format!("{} Remedy: {}", sentence(&finding.message), sentence(&finding.remedy)),
                "check_name": finding.rule,
                "fingerprint": print,
                "severity": severity(finding.severity),
                "location": {
                    "path": path,
                    "lines": {"begin": finding.place.line, "end": finding.place.end_line},
                },
            }));
        }
    }
    Value::Array(issues)
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "major",
        Severity::Warning => "minor",
        Severity::Note => "info",
    }
}
