//! Attributes and blocks by name.

use std::collections::BTreeMap;

use super::Value;

/// The attributes and blocks of a resource, of a data source, or of one block in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object(BTreeMap<String, Value>);

impl Object {
    /// Returns an object without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an attribute or block; null if it is missing.
    pub fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// Sets an attribute or block.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// Returns whether there is an attribute or block of that name, even if it is null.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Removes and returns an attribute; null if there is none.
    pub fn take(&mut self, name: &str) -> Value {
        self.0.remove(name).unwrap_or_default()
    }

    /// Returns the string `name`, if it is known and set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).as_str()
    }

    /// Returns the boolean `name`, if it is known and set.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).as_bool()
    }

    /// Returns the whole number `name`, if it is known and set.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name).as_i64()
    }

    /// Returns whether `name` is set to a non-zero value (`GetOk` of SDKs). Unknown values count as set.
    pub fn has(&self, name: &str) -> bool {
        !self.get(name).is_zero()
    }

    /// Returns the known blocks `name`, in their order; those of a set are sorted by value.
    pub fn blocks(&self, name: &str) -> impl Iterator<Item = &Object> {
        self.get(name)
            .elements()
            .iter()
            .filter_map(Value::as_object)
    }

    /// Sets the blocks `name` to a list.
    pub fn set_blocks(
        &mut self,
        name: impl Into<String>,
        blocks: impl IntoIterator<Item = Object>,
    ) {
        let blocks = blocks.into_iter().map(Value::Object).collect();
        self.set(name, Value::List(blocks));
    }

    /// Changes each of the blocks `name`. Unknown ones are skipped.
    pub fn update_blocks(&mut self, name: &str, mut change: impl FnMut(&mut Object)) {
        let Some(Value::List(blocks) | Value::Set(blocks)) = self.0.get_mut(name) else {
            return;
        };
        for block in blocks {
            if let Value::Object(block) = block {
                change(block);
            }
        }
    }

    /// Returns attributes and blocks sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns the number of attributes and blocks.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no attributes or blocks.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<Value>> FromIterator<(N, V)> for Object {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(entries: T) -> Self {
        let entries = entries.into_iter();
        Self(
            entries
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl<N: Into<String>, V: Into<Value>, const LENGTH: usize> From<[(N, V); LENGTH]> for Object {
    fn from(entries: [(N, V); LENGTH]) -> Self {
        entries.into_iter().collect()
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::collections::btree_map::IntoIter<String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
