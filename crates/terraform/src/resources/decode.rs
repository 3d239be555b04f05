//! Strict decoding of attributes: absent and null give the zero value, another type is an error.
//!
//! # Source
//! Coder decodes with `mitchellh/mapstructure` without weak typing; the error texts are that library's.

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::{Map, Value};

use crate::go_text;

/// Attributes with another type than expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {} error(s) decoding:\n\n{}", .problems.len(), .problems.join("\n"))]
pub struct DecodeError {
    /// The failed operation, such as `decode agent attributes`.
    pub what: String,
    /// Problems, one line for each attribute, sorted.
    pub problems: Vec<String>,
}

/// Decodes the attributes of one resource with `read`.
///
/// # Errors
/// [`DecodeError`] with all problems that `read` found. Its text begins with `what`.
pub(super) fn decode<T>(
    what: &str,
    values: &Map<String, Value>,
    read: impl FnOnce(&Attributes<'_>) -> T,
) -> Result<T, DecodeError> {
    let problems = RefCell::default();
    let read = read(&Attributes {
        values: Some(values),
        path: String::new(),
        problems: &problems,
    });
    let mut problems = problems.into_inner();
    if problems.is_empty() {
        return Ok(read);
    }
    problems.sort();
    Err(DecodeError {
        what: what.to_owned(),
        problems,
    })
}

/// An object whose attributes are decoded. A value of the wrong type is decoded as the zero value and recorded.
pub(super) struct Attributes<'a> {
    values: Option<&'a Map<String, Value>>,
    /// Path of the object; empty at the top.
    path: String,
    problems: &'a RefCell<Vec<String>>,
}

impl<'a> Attributes<'a> {
    /// Returns whether the key is present, null or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.is_some_and(|values| values.contains_key(key))
    }

    /// Returns whether there is an object at all, rather than a null element of a list.
    pub(super) fn is_object(&self) -> bool {
        self.values.is_some()
    }

    pub(super) fn string(&self, key: &str) -> String {
        self.read(key, "string", |value| value.as_str().map(str::to_owned))
    }

    /// Returns a string whose type has a name of its own in the reference.
    pub(super) fn word(&self, key: &str, go_type: &'static str) -> String {
        self.read(key, go_type, |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn bool(&self, key: &str) -> bool {
        self.read(key, "bool", Value::as_bool)
    }

    /// Returns any number, truncated towards zero.
    pub(super) fn i64(&self, key: &str) -> i64 {
        self.read(key, "int64", integer)
    }

    /// Returns any number, truncated towards zero and to 32 bits, as in the reference.
    pub(super) fn i32(&self, key: &str) -> i32 {
        self.read(key, "int32", integer) as i32
    }

    /// Returns any number, truncated towards zero, for values that are narrowed later.
    pub(super) fn int(&self, key: &str) -> i64 {
        self.read(key, "int", integer)
    }

    pub(super) fn strings(&self, key: &str) -> BTreeMap<String, String> {
        let members = match self.get(key) {
            None => return BTreeMap::new(),
            Some(Value::Object(members)) => members,
            Some(other) => {
                let kind = kind(other);
                self.problem(format!("'{}' expected a map, got '{kind}'", self.at(key)));
                return BTreeMap::new();
            }
        };
        let entry = |(name, value): (&String, &Value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    self.unconvertible(&format!("{}[{name}]", self.at(key)), "string", value);
                    String::new()
                }
            };
            (name.clone(), text)
        };
        members.iter().map(entry).collect()
    }

    /// Returns a list of strings; a null element becomes an empty one.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        let text = |(index, item): (usize, &Value)| match item {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.unconvertible(&format!("{}[{index}]", self.at(key)), "string", item);
                String::new()
            }
        };
        self.items(key).iter().enumerate().map(text).collect()
    }

    /// Returns a list of objects; a null element has no attributes.
    pub(super) fn objects(&self, key: &str) -> Vec<Attributes<'a>> {
        let object = |(index, item): (usize, &'a Value)| {
            let path = format!("{}[{index}]", self.at(key));
            if !item.is_object() && !item.is_null() {
                self.problem(format!("'{path}' expected a map, got '{}'", kind(item)));
            }
            Attributes {
                values: item.as_object(),
                path,
                problems: self.problems,
            }
        };
        self.items(key).iter().enumerate().map(object).collect()
    }

    fn items(&self, key: &str) -> &'a [Value] {
        match self.get(key) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                let (at, kind) = (self.at(key), kind(other));
                self.problem(format!(
                    "'{at}': source data must be an array or slice, got {kind}"
                ));
                &[]
            }
        }
    }

    /// Returns the value of a key; the exact name has priority over one in other case. Null counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        let values = self.values?;
        let value = values.get(key).or_else(|| {
            let mut members = values.iter();
            let same = |(name, _): &(&String, &Value)| name.eq_ignore_ascii_case(key);
            members.find(same).map(|(_, value)| value)
        });
        value.filter(|value| !value.is_null())
    }

    fn read<T: Default>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> T {
        let Some(value) = self.get(key) else {
            return T::default();
        };
        read(value).unwrap_or_else(|| {
            self.unconvertible(&self.at(key), expected, value);
            T::default()
        })
    }

    fn unconvertible(&self, at: &str, expected: &str, value: &Value) {
        let (found, value) = (type_name(value), go_text::value(value));
        self.problem(format!(
            "'{at}' expected type '{expected}', got unconvertible type '{found}', value: '{value}'"
        ));
    }

    fn problem(&self, text: String) {
        self.problems.borrow_mut().push(format!("* {text}"));
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

fn integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
}

/// Returns the name of the type in Go's reflection.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Returns the name of the kind in Go's reflection.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(values: Value, read: impl FnOnce(&Attributes<'_>)) -> String {
        decode("decode x attributes", values.as_object().unwrap(), read)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn all_that_has_the_wrong_type_is_named_in_the_words_of_the_reference() {
        let values =
            json!({"os": 5, "env": {"A": [1]}, "metadata": [{"key": true}, 7], "arch": {}});

        let text = problems(values, |values| {
            values.string("os");
            values.strings("env");
            values.strings("os");
            values.objects("arch");
            for item in values.objects("metadata") {
                item.string("key");
            }
        });

        let expected = "decode x attributes: 6 error(s) decoding:\n\n\
            * 'arch': source data must be an array or slice, got map\n\
            * 'env[A]' expected type 'string', got unconvertible type '[]interface {}', value: '[1]'\n\
            * 'metadata[0].key' expected type 'string', got unconvertible type 'bool', value: 'true'\n\
            * 'metadata[1]' expected a map, got 'float64'\n\
            * 'os' expected a map, got 'float64'\n\
            * 'os' expected type 'string', got unconvertible type 'float64', value: '5'";
        assert_eq!(text, expected);
    }

    #[test]
    fn absent_null_and_other_spellings_are_read_as_the_reference_does() {
        let values = json!({"a": null, "OS": "linux", "Order": 7.9, "order": 2, "low": -1.9});
        let read = decode("x", values.as_object().unwrap(), |values| {
            (
                values.string("a"),
                values.string("os"),
                values.i64("order"),
                values.i32("low"),
                values.bool("none"),
                values.has("a"),
            )
        });

        assert_eq!(
            read,
            Ok((String::new(), "linux".to_owned(), 2, -1, false, true))
        );
    }
}
