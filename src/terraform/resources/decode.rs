//! Strict reading of attributes: absent and null are the zero value, another type is an error.
//!
//! # Source
//! Coder decodes with `mitchellh/mapstructure` without weak typing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// An attribute of another type than it should have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: '{key}' expected {expected}, got {found}")]
pub struct DecodeError {
    /// What was decoded, such as `decode agent attributes`.
    pub what: String,
    /// The attribute.
    pub key: String,
    /// The type it should have.
    pub expected: &'static str,
    /// The type it has.
    pub found: &'static str,
}

/// An object whose attributes are read.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    what: &'a str,
    values: Option<&'a Map<String, Value>>,
}

impl<'a> Attributes<'a> {
    /// `what` begins the error text.
    pub(super) fn new(what: &'a str, values: &'a Map<String, Value>) -> Self {
        Self {
            what,
            values: Some(values),
        }
    }

    /// The value of a key; its exact name counts before another spelling of it. Null is absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        let values = self.values?;
        let value = values.get(key).or_else(|| {
            values
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        });
        value.filter(|value| !value.is_null())
    }

    /// Whether the key is there, null or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.is_some_and(|values| values.contains_key(key))
    }

    pub(super) fn string(&self, key: &str) -> Result<String, DecodeError> {
        self.read(key, "string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn bool(&self, key: &str) -> Result<bool, DecodeError> {
        self.read(key, "bool", Value::as_bool)
    }

    /// Any number, cut towards zero.
    pub(super) fn i64(&self, key: &str) -> Result<i64, DecodeError> {
        self.read(key, "int64", |value| {
            value
                .as_i64()
                .or_else(|| value.as_f64().map(|number| number as i64))
        })
    }

    /// Any number, cut towards zero and to 32 bits, as the reference does.
    pub(super) fn i32(&self, key: &str) -> Result<i32, DecodeError> {
        self.i64(key).map(|number| number as i32)
    }

    pub(super) fn strings(&self, key: &str) -> Result<BTreeMap<String, String>, DecodeError> {
        self.read(key, "map[string]string", |value| {
            let entry = |(name, value): (&String, &Value)| match value {
                Value::String(text) => Some((name.clone(), text.clone())),
                Value::Null => Some((name.clone(), String::new())),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
            };
            value.as_object()?.iter().map(entry).collect()
        })
    }

    /// A list of objects; a null one has no attributes.
    pub(super) fn objects(&self, key: &str) -> Result<Vec<Attributes<'a>>, DecodeError> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let items = value
            .as_array()
            .ok_or_else(|| self.wrong(key, "slice", value))?;
        let object = |item: &'a Value| match item {
            Value::Object(values) => Ok(Attributes {
                what: self.what,
                values: Some(values),
            }),
            Value::Null => Ok(Attributes {
                what: self.what,
                values: None,
            }),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(self.wrong(key, "map", item))
            }
        };
        items.iter().map(object).collect()
    }

    fn read<T: Default>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let Some(value) = self.get(key) else {
            return Ok(T::default());
        };
        read(value).ok_or_else(|| self.wrong(key, expected, value))
    }

    fn wrong(&self, key: &str, expected: &'static str, value: &Value) -> DecodeError {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "list",
            Value::Object(_) => "map",
        };
        DecodeError {
            what: self.what.to_owned(),
            key: key.to_owned(),
            expected,
            found,
        }
    }
}
