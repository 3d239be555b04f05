//! Resources that a plan replaces, and the reasons.
//!
//! Resources of the `coder` provider are left out: replacing them costs neither time nor data.
//!
//! # Source
//! coder `provisioner/terraform/resource_replacements.go`.

use std::collections::BTreeMap;

use outpost_base::job::Replacement;
use serde_json::Value;

use super::{
    go_text,
    plan::{Change, Plan, ResourceChange},
};

/// Returns replacements for which Terraform gives reasons, sorted by address.
pub fn list(plan: &Plan) -> Vec<Replacement> {
    let mut by_address: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (address, change) in foreign_changes(plan) {
        if change.actions != ["no-op"] && !change.replace_paths.is_empty() {
            let paths = change.replace_paths.iter().map(path_text);
            by_address.entry(address).or_default().extend(paths);
        }
    }
    let replacement = |(address, paths): (&str, Vec<String>)| Replacement {
        resource: address.to_owned(),
        paths,
    };
    by_address.into_iter().map(replacement).collect()
}

/// Returns whether anything is replaced, whatever the reason.
pub fn any(plan: &Plan) -> bool {
    foreign_changes(plan).any(|(_, change)| is_replacement(change))
}

/// Returns warnings about replacements and their reasons, sorted by address; none if nothing is replaced.
///
/// Sensitive values are not shown.
pub(crate) fn log_lines(plan: &Plan) -> Vec<String> {
    let mut replaced: Vec<_> = foreign_changes(plan)
        .filter(|(_, change)| is_replacement(change))
        .collect();
    replaced.sort_by_key(|(address, _)| *address);
    if replaced.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["Resource replacements:".to_owned()];
    for (address, change) in replaced {
        lines.push(format!("  -/+ {address} (replace)"));
        lines.extend(reasons(change));
    }
    lines
}

fn foreign_changes(plan: &Plan) -> impl Iterator<Item = (&str, &Change)> {
    let foreign = |resource: &&ResourceChange| !resource.kind.starts_with("coder_");
    plan.resource_changes
        .iter()
        .filter(foreign)
        .filter_map(|resource| Some((resource.address.as_str(), resource.change.as_ref()?)))
}

fn is_replacement(change: &Change) -> bool {
    change.actions == ["delete", "create"] || change.actions == ["create", "delete"]
}

fn reasons(change: &Change) -> Vec<String> {
    let mut paths: Vec<_> = change
        .replace_paths
        .iter()
        .map(|path| (path_text(path), path))
        .collect();
    if paths.is_empty() {
        return vec!["      ~ replacement reason unavailable".to_owned()];
    }
    paths.sort_by(|(a, _), (b, _)| a.cmp(b));
    paths
        .into_iter()
        .map(|(text, path)| reason(&text, path, change))
        .collect()
}

fn reason(text: &str, path: &Value, change: &Change) -> String {
    let before = value_text(&change.before, &change.before_sensitive, None, path);
    let after = value_text(
        &change.after,
        &change.after_sensitive,
        Some(&change.after_unknown),
        path,
    );
    if before.is_none() && after.is_none() {
        return format!("      ~ {text} (forces replacement)");
    }
    let shown = |side: Option<String>| side.unwrap_or_else(|| "(unavailable)".to_owned());
    let (before, after) = (shown(before), shown(after));
    format!("      ~ {text}: {before} -> {after} (forces replacement)")
}

/// Returns a path as people read it: `root_block_device.0.volume_size`.
fn path_text(path: &Value) -> String {
    match path {
        Value::Array(segments) => {
            let segments: Vec<_> = segments.iter().map(go_text::value).collect();
            segments.join(".")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            go_text::value(path)
        }
    }
}

/// Returns one side of a change at a path; `None` if it has no value there. A sensitive value is not examined
/// further.
fn value_text(
    values: &Value,
    sensitive: &Value,
    unknown: Option<&Value>,
    path: &Value,
) -> Option<String> {
    let segments = segments(path);
    if is_marked(sensitive, segments) {
        return Some("(sensitive value)".to_owned());
    }
    if unknown.is_some_and(|unknown| is_marked(unknown, segments)) {
        return Some("(known after apply)".to_owned());
    }
    let found = segments
        .iter()
        .try_fold(values, |value, segment| child(value, segment))?;
    Some(found.to_string())
}

fn segments(path: &Value) -> &[Value] {
    match path {
        Value::Array(segments) => segments,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            std::slice::from_ref(path)
        }
    }
}

/// Returns whether a tree of marks has one above the path, at it, or anywhere below.
fn is_marked(marks: &Value, path: &[Value]) -> bool {
    let mut marks = marks;
    for segment in path {
        if let Value::Bool(mark) = marks {
            return *mark;
        }
        match child(marks, segment) {
            Some(below) => marks = below,
            None => return false,
        }
    }
    has_mark(marks)
}

fn has_mark(marks: &Value) -> bool {
    match marks {
        Value::Bool(mark) => *mark,
        Value::Array(items) => items.iter().any(has_mark),
        Value::Object(members) => members.values().any(has_mark),
        Value::Null | Value::Number(_) | Value::String(_) => false,
    }
}

fn child<'a>(value: &'a Value, segment: &Value) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(segment.as_str()?),
        Value::Array(items) => items.get(list_index(segment)?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Parses a whole number that is not negative, in any notation.
fn list_index(segment: &Value) -> Option<usize> {
    let number = segment.as_f64()?;
    (number >= 0.0 && number.fract() == 0.0).then_some(number as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(changes: Value) -> Plan {
        let document = json!({"format_version": "1.2", "resource_changes": changes});
        Plan::parse(document.to_string().as_bytes()).unwrap()
    }

    fn replaced(change: Value) -> Value {
        let mut change = change;
        change["actions"] = json!(["delete", "create"]);
        json!([{"address": "a.b", "type": "a", "change": change}])
    }

    #[test]
    fn only_foreign_resources_with_reasons_are_listed_by_address() {
        let change =
            |actions: &[&str], paths: Value| json!({"actions": actions, "replace_paths": paths});
        let plan = plan(json!([
            {"address": "b.x", "type": "b", "change": change(&["delete", "create"], json!([["tags", 0, "name"], ["size"]]))},
            {"address": "a.x", "type": "a", "change": change(&["create", "delete"], json!([["id"]]))},
            {"address": "a.tainted", "type": "a", "change": change(&["delete", "create"], json!([]))},
            {"address": "a.same", "type": "a", "change": change(&["no-op"], json!([["id"]]))},
            {"address": "coder_agent.x", "type": "coder_agent", "change": change(&["delete", "create"], json!([["os"]]))},
            {"address": "a.none", "type": "a"}
        ]));

        let expected =
            [("a.x", vec!["id"]), ("b.x", vec!["tags.0.name", "size"])].map(|(resource, paths)| {
                Replacement {
                    resource: resource.to_owned(),
                    paths: paths.into_iter().map(str::to_owned).collect(),
                }
            });
        assert_eq!(list(&plan), expected);
        assert!(any(&plan));
        assert_eq!(
            log_lines(&plan),
            [
                "Resource replacements:",
                "  -/+ a.tainted (replace)",
                "      ~ replacement reason unavailable",
                "  -/+ a.x (replace)",
                "      ~ id (forces replacement)",
                "  -/+ b.x (replace)",
                "      ~ size (forces replacement)",
                "      ~ tags.0.name (forces replacement)",
            ]
        );
    }

    #[test]
    fn each_kind_of_value_has_its_text() {
        let cases = [
            (
                json!({"before": {"v": "a"}, "after": {"v": 2}}),
                r#"v: "a" -> 2"#,
            ),
            (
                json!({"before": {"v": null}, "after": {"v": {"k": [true]}}}),
                r#"v: null -> {"k":[true]}"#,
            ),
            (
                json!({"before": {"v": 1}, "after": {}}),
                "v: 1 -> (unavailable)",
            ),
            (json!({"after": {"v": 1}}), "v: (unavailable) -> 1"),
            (json!({}), "v"),
            (
                json!({"before": {"v": 1}, "after": {}, "after_unknown": {"v": true}}),
                "v: 1 -> (known after apply)",
            ),
            (
                json!({"before": {"v": 1}, "after_unknown": {"v": [{"deep": true}]}}),
                "v: 1 -> (known after apply)",
            ),
            (
                json!({"before": {"v": "secret"}, "before_sensitive": {"v": true}, "after": {"v": "secret"},
                    "after_sensitive": true, "after_unknown": {"v": true}}),
                "v: (sensitive value) -> (sensitive value)",
            ),
            (
                json!({"before": {"v": [{"name": "secret"}]}, "before_sensitive": {"v": [{"name": true}]},
                    "after": {"v": 1}, "after_sensitive": false}),
                "v: (sensitive value) -> 1",
            ),
        ];
        for (mut change, text) in cases {
            change["replace_paths"] = json!([["v"]]);
            let lines = log_lines(&plan(replaced(change)));
            assert_eq!(lines[2], format!("      ~ {text} (forces replacement)"));
        }
    }

    #[test]
    fn paths_lead_through_lists_only_by_whole_numbers_in_range() {
        let cases = [
            (json!(["v", 1]), "v.1: 8 -> (unavailable)"),
            (json!(["v", 1.0]), "v.1: 8 -> (unavailable)"),
            (json!(["v", 2]), "v.2"),
            (json!(["v", -1]), "v.-1"),
            (json!(["v", 0.5]), "v.0.5"),
            (json!(["v", "0"]), "v.0"),
            (json!(["v", 1_000_000]), "v.1e+06"),
            (json!("v"), "v: [7,8] -> (unavailable)"),
            (json!(3), "3"),
        ];
        for (path, text) in cases {
            let change = json!({"before": {"v": [7, 8]}, "replace_paths": [path]});
            let lines = log_lines(&plan(replaced(change)));
            assert_eq!(lines[2], format!("      ~ {text} (forces replacement)"));
        }
    }

    #[test]
    fn a_plan_without_replacements_says_nothing() {
        assert!(log_lines(&plan(json!([]))).is_empty());
        assert!(!any(&plan(json!([]))));
    }
}
