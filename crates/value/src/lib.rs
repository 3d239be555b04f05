//! Terraform values: types, JSON, msgpack and unknowns.
//!
//! A [`Value`] is what Terraform and a provider exchange about one attribute or one block, a [`Type`] is what its
//! schema promises. Parsing requires the type ([`Value::from_msgpack`], [`Value::from_json`]): only the type
//! distinguishes a set from a list and an object from a map. Nesting is limited to [`MAX_DEPTH`].

mod json;
mod msgpack;
mod number;
mod object;
mod path;
mod types;

pub use self::{
    json::JsonError,
    msgpack::MsgpackError,
    number::Number,
    object::Object,
    path::{Path, Step},
    types::{Type, TypeError},
};

use std::collections::BTreeMap;

/// Maximum nesting of values that are parsed; real schemas stay below ten.
pub const MAX_DEPTH: usize = 64;

/// A value of an attribute or a block in Terraform's protocol.
///
/// Elements of a set are kept sorted, so that equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// No value is set.
    #[default]
    Null,
    /// A value that is known only after apply.
    Unknown,
    /// A boolean, `true` or `false`.
    Bool(bool),
    /// A number of any precision.
    Number(Number),
    /// A string of Unicode text.
    String(String),
    /// Elements in order; tuples as well.
    List(Vec<Value>),
    /// Elements without order; made by [`Value::set`].
    Set(Vec<Value>),
    /// Elements by their keys.
    Map(BTreeMap<String, Value>),
    /// Attributes and blocks by name.
    Object(Object),
    /// A value whose schema leaves the type open, with its actual type.
    Dynamic(Box<(Type, Value)>),
}

/// Result of [`Value::get`] for a missing value.
const NULL: &Value = &Value::Null;

impl Value {
    /// Returns a set: `elements` sorted, without duplicates among those that are wholly known.
    pub fn set(elements: impl IntoIterator<Item = Value>) -> Self {
        let mut elements: Vec<_> = elements.into_iter().collect();
        elements.sort();
        // Two unknown values may turn out to be different.
        elements.dedup_by(|left, right| left == right && left.is_wholly_known());
        Self::Set(elements)
    }

    /// Returns a list of strings.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(
            texts
                .into_iter()
                .map(|text| Self::String(text.into()))
                .collect(),
        )
    }

    /// Returns whether the value is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Returns whether the value itself is known only after apply; nested values are ignored.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Returns whether the value and all nested ones are known.
    pub fn is_wholly_known(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Dynamic(inner) => inner.1.is_wholly_known(),
            Self::List(_) | Self::Set(_) | Self::Map(_) | Self::Object(_) => {
                self.children().all(Self::is_wholly_known)
            }
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => true,
        }
    }

    /// Returns whether the value is null, false, zero, an empty string or an empty container: what SDKs treat as "not
    /// set".
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Unknown | Self::Object(_) => false,
            Self::Bool(flag) => !flag,
            Self::Number(number) => *number == Number::from(0_i64),
            Self::String(text) => text.is_empty(),
            Self::List(elements) | Self::Set(elements) => elements.is_empty(),
            Self::Map(elements) => elements.is_empty(),
            Self::Dynamic(inner) => inner.1.is_zero(),
        }
    }

    /// Returns the string, if the value is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the boolean, if the value is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Returns the number, if it is a whole one of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    /// Returns the object, if the value is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Returns the elements of a list or a set; none for any other value.
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::List(elements) | Self::Set(elements) => elements,
            _ => &[],
        }
    }

    /// Returns the elements by key, if the value is a map.
    pub fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Self::Map(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns an attribute of an object or an element of a map; null if it is missing.
    pub fn get(&self, name: &str) -> &Value {
        match self {
            Self::Object(object) => object.get(name),
            Self::Map(elements) => elements.get(name).unwrap_or(NULL),
            _ => NULL,
        }
    }

    fn children(&self) -> Box<dyn Iterator<Item = &Value> + '_> {
        match self {
            Self::List(elements) | Self::Set(elements) => Box::new(elements.iter()),
            Self::Map(elements) => Box::new(elements.values()),
            Self::Object(object) => Box::new(object.iter().map(|(_, value)| value)),
            _ => Box::new(std::iter::empty()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number.into())
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        Self::Number(number)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_no_order_and_hold_what_is_known_once() {
        let set = Value::set([
            Value::Unknown,
            "b".into(),
            Value::Unknown,
            "a".into(),
            "b".into(),
        ]);

        assert_eq!(
            set,
            Value::Set(vec![Value::Unknown, Value::Unknown, "a".into(), "b".into()])
        );
        assert!(!set.is_wholly_known());
    }

    #[test]
    fn what_sdks_take_for_not_set_is_zero() {
        let zeros = [
            Value::Null,
            false.into(),
            0.into(),
            "".into(),
            Value::texts([""; 0]),
        ];
        let others = [
            Value::Unknown,
            true.into(),
            1.into(),
            " ".into(),
            Object::new().into(),
        ];

        assert!(zeros.iter().all(Value::is_zero));
        assert!(!others.iter().any(Value::is_zero));
    }
}
