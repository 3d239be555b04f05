//! Conditions, evaluated over what a build gave.

use std::collections::BTreeMap;

use outpost_language::evaluate_condition;
use serde::Serialize;
use serde_json::Value;

use super::{Assert, Place, Reference};
use crate::similar::suggestion;

/// A longer value is cut, in characters.
const MAX_VALUE: usize = 300;

/// One reason why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Description of the failure; of a condition, its `error_message`.
    pub message: String,
    /// The place in the scenario.
    #[serde(flatten)]
    pub place: Place,
    /// The condition as its author wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// References in the condition and their values as JSON.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// More lines: an engine's words, a difference between tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// True if nothing was built, so that later runs have nothing to begin with.
    #[serde(skip)]
    pub(crate) is_of_build: bool,
}

impl Failure {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            place,
            condition: None,
            values: BTreeMap::new(),
            details: Vec::new(),
            is_of_build: false,
        }
    }
}

/// Evaluates a condition; `None` if it is true.
pub fn check(assert: &Assert, context: &BTreeMap<String, Value>) -> Option<Failure> {
    let failure = match evaluate_condition(&assert.condition, context) {
        Ok(Value::Bool(true)) => return None,
        Ok(Value::String(text)) if text == "true" => return None,
        Ok(Value::Bool(false)) => Failure::new(assert.place.clone(), message(assert, context)),
        Ok(Value::String(text)) if text == "false" => {
            Failure::new(assert.place.clone(), message(assert, context))
        }
        Ok(other) => {
            let text = format!(
                "the condition must be true or false, and is {}",
                shown(&other)
            );
            Failure::new(assert.place.clone(), text)
        }
        Err(error) => missing(assert, context).unwrap_or_else(|| {
            Failure::new(
                assert.place.clone(),
                format!("the condition has no value: {error}"),
            )
        }),
    };
    Some(Failure {
        condition: Some(assert.condition.clone()),
        values: values(&assert.references, context),
        ..failure
    })
}

fn message(assert: &Assert, context: &BTreeMap<String, Value>) -> String {
    let value = evaluate_condition(&assert.error_message, context).ok();
    let text = value.as_ref().and_then(outpost_language::primitive_text);
    text.unwrap_or_else(|| assert.error_message.clone())
}

/// The first name that the build does not have.
fn missing(assert: &Assert, context: &BTreeMap<String, Value>) -> Option<Failure> {
    assert.references.iter().find_map(|reference| {
        let mut value = context.get(&reference.root.0)?;
        let mut before = reference.root.0.clone();
        for (name, place) in &reference.path {
            let Value::Object(object) = value else {
                return None;
            };
            value = match object.get(name) {
                Some(value) => value,
                None => {
                    let near = suggestion(name, object.keys().map(String::as_str));
                    let text = format!("`{before}` has no `{name}` after this run{near}");
                    return Some(Failure::new(place.clone(), text));
                }
            };
            before = format!("{before}[\"{name}\"]");
        }
        None
    })
}

fn values(references: &[Reference], context: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let values = references.iter().filter_map(|reference| {
        let value = evaluate_condition(&reference.source, context).ok()?;
        Some((reference.source.clone(), shown(&value)))
    });
    values.collect()
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
