//! Arguments of a function, converted on request.

use serde_json::{Map, Number, Value};

use super::super::{Scope, operators, text};

/// Arguments and scope of a call.
pub(super) struct Args<'a> {
    values: Vec<Value>,
    scope: &'a Scope<'a>,
}

impl<'a> Args<'a> {
    pub(super) fn new(values: Vec<Value>, scope: &'a Scope<'a>) -> Self {
        Self { values, scope }
    }

    pub(super) fn all(&self) -> &[Value] {
        &self.values
    }

    /// Returns the arguments from `index` on.
    pub(super) fn rest(&self, index: usize) -> &[Value] {
        self.values.get(index..).unwrap_or_default()
    }

    pub(super) fn value(&self, index: usize) -> Result<&Value, String> {
        let missing = || format!("argument {} is missing", index + 1);
        self.values.get(index).ok_or_else(missing)
    }

    pub(super) fn text(&self, index: usize) -> Result<String, String> {
        let wrong = || format!("argument {} must be a string", index + 1);
        text(self.value(index)?).ok_or_else(wrong)
    }

    pub(super) fn number(&self, index: usize) -> Result<Number, String> {
        let wrong = |_| format!("argument {} must be a number", index + 1);
        operators::to_number(self.value(index)?).map_err(wrong)
    }

    pub(super) fn float(&self, index: usize) -> Result<f64, String> {
        Ok(operators::as_float(&self.number(index)?))
    }

    pub(super) fn whole(&self, index: usize) -> Result<i64, String> {
        let wrong = || format!("argument {} must be a whole number", index + 1);
        self.number(index)?.as_i64().ok_or_else(wrong)
    }

    pub(super) fn list(&self, index: usize) -> Result<&[Value], String> {
        let items = self.value(index)?.as_array();
        let wrong = || format!("argument {} must be a list", index + 1);
        items.map(Vec::as_slice).ok_or_else(wrong)
    }

    pub(super) fn map(&self, index: usize) -> Result<&Map<String, Value>, String> {
        let object = self.value(index)?.as_object();
        object.ok_or_else(|| format!("argument {} must be a map", index + 1))
    }

    pub(super) fn texts(&self, index: usize) -> Result<Vec<String>, String> {
        let wrong = || format!("argument {} must be a list of strings", index + 1);
        let texts = self.list(index)?.iter().map(text);
        texts.collect::<Option<_>>().ok_or_else(wrong)
    }

    /// Takes units from the budget before a large value is built.
    pub(super) fn reserve(&self, units: usize) -> Result<(), String> {
        let spent = self.scope.spend(units as u64);
        spent.map_err(|_| "the result is too large".to_owned())
    }
}

/// Returns strings as a list.
pub(super) fn list_of(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Array(texts.into_iter().map(Value::String).collect())
}
