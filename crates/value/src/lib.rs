//! Terraform values: types, JSON, msgpack and unknowns.
//!
//! A [`Value`] is what Terraform and a provider exchange about one attribute or one block, a [`Type`] is what its
//! schema promises. Bytes are read with the type at hand ([`Value::from_msgpack`], [`Value::from_json`]): only the
//! type tells a set from a list and an object from a map. Nesting is limited to [`MAX_DEPTH`].

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

/// Containers within containers that are read at most; real schemas stay below ten.
pub const MAX_DEPTH: usize = 64;

/// A value of an attribute or a block, as Terraform's protocol knows it.
///
/// Elements of a set are kept sorted, so that equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Not set.
    #[default]
    Null,
    /// Known only after apply.
    Unknown,
    /// A boolean.
    Bool(bool),
    /// A number of any precision.
    Number(Number),
    /// A text.
    String(String),
    /// Elements whose order counts; tuples too.
    List(Vec<Value>),
    /// Elements whose order does not count; made by [`Value::set`].
    Set(Vec<Value>),
    /// Elements by key.
    Map(BTreeMap<String, Value>),
    /// Attributes and blocks by name.
    Object(Object),
    /// A value whose schema leaves the type open, with the type that it came with.
    Dynamic(Box<(Type, Value)>),
}

/// What [`Value::get`] gives where nothing is.
const NULL: &Value = &Value::Null;

impl Value {
    /// A set: `elements` sorted, those that are equal and known only once.
    pub fn set(elements: impl IntoIterator<Item = Value>) -> Self {
        let mut elements: Vec<_> = elements.into_iter().collect();
        elements.sort();
        // Two unknown values may turn out to differ.
        elements.dedup_by(|left, right| left == right && left.is_wholly_known());
        Self::Set(elements)
    }

    /// A list of texts.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(
            texts
                .into_iter()
                .map(|text| Self::String(text.into()))
                .collect(),
        )
    }

    /// Whether it is not set.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is known only after apply. What is inside is not looked at.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Whether nothing in it waits for apply.
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

    /// Whether it is null, false, zero, an empty text or an empty container: what SDKs take for "not set".
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

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The flag, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The number, if it is a whole one of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Elements of a list or a set; none of anything else.
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::List(elements) | Self::Set(elements) => elements,
            _ => &[],
        }
    }

    /// Elements of a map by key, if it is one.
    pub fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Self::Map(elements) => Some(elements),
            _ => None,
        }
    }

    /// An attribute of an object or an element of a map; null where nothing is.
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
