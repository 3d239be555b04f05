//! What two runs must have in common, without what is random or ours to word.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

/// Replaces random ids, times and what differs by nature.
pub fn normalised(mut json: Value) -> Value {
    let uuid = Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap();
    let given = "5d1d5a6a-5fbc-4d11-a1a1-";
    walk(&mut json, &|value| {
        if let Value::String(text) = value {
            let replace = |found: &regex::Captures<'_>| match found[0].starts_with(given) {
                true => found[0].to_owned(),
                false => "ID".to_owned(),
            };
            *text = uuid.replace_all(text, replace).into_owned();
        }
    });
    if let Value::Object(members) = &mut json {
        members.remove("timestamp");
        // Terraform lists these in random order.
        if let Some(Value::Array(relevant)) = members.get_mut("relevant_attributes") {
            relevant.sort_by_key(Value::to_string);
        }
    }
    json
}

/// Removes the documentation of a schema, which everybody writes for himself.
pub fn drop_descriptions(schema: &mut Value) {
    walk(schema, &|value| {
        // An attribute may have this name too; its value is no text then.
        if let Value::Object(members) = value {
            members.retain(|name, value| name != "description" || !value.is_string());
        }
    });
}

fn walk(value: &mut Value, change: &impl Fn(&mut Value)) {
    change(value);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, change)),
        Value::Object(members) => members.values_mut().for_each(|item| walk(item, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Panics with the first places in which two documents differ.
pub fn assert_equal(what: &str, ours: &Value, theirs: &Value) {
    let mut differences = Vec::new();
    compare("", ours, theirs, &mut differences);
    differences.truncate(20);
    assert!(
        differences.is_empty(),
        "{what}:\n{}",
        differences.join("\n")
    );
}

fn compare(path: &str, ours: &Value, theirs: &Value, differences: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let null = Value::String("(missing)".to_owned());
                let [a, b] = [a, b].map(|members| members.get(name).unwrap_or(&null));
                compare(&format!("{path}.{name}"), a, b, differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), a, b, differences);
            }
        }
        _ if ours == theirs => {}
        _ => differences.push(format!("{path}: ours {ours}, theirs {theirs}")),
    }
}

/// A diagnostic: where it is, and enough of its words to know what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Whether it stops the run.
    pub is_error: bool,
    address: String,
    line: u64,
    /// The first words, which are the original's.
    summary: String,
}

/// All diagnostics of a command's output, be it one document or JSON lines.
pub fn findings(output: &str) -> BTreeSet<Finding> {
    let documents: Vec<Value> = match serde_json::from_str::<Value>(output) {
        Ok(document) => document["diagnostics"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
        Err(_) => output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|mut line| line["diagnostic"].take())
            .collect(),
    };
    documents.iter().filter_map(finding).collect()
}

fn finding(diagnostic: &Value) -> Option<Finding> {
    let summary = diagnostic["summary"].as_str()?;
    let words = summary.split(' ').take(WORDS);
    Some(Finding {
        is_error: diagnostic["severity"] == "error",
        address: diagnostic["address"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        line: diagnostic["range"]["start"]["line"]
            .as_u64()
            .unwrap_or_default(),
        summary: words.collect::<Vec<_>>().join(" "),
    })
}

/// Words of a summary that are compared: what follows may be worded by us.
const WORDS: usize = 3;
