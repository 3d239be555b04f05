//! The form of values in a state, by the rules of HashiCorp's plugin SDK: inside of blocks nothing is null.

use std::collections::BTreeMap;

use outpost_value::{Object, Type, Value};

use crate::{Field, Nesting, Shape};

/// Returns the planned resource for the provider: unknown values become null, and the provider sets them.
pub(super) fn start(fields: &[Field], planned: &Object) -> Object {
    let known = |field: &Field| {
        let value = match (&field.shape, planned.get(&field.name)) {
            (Shape::Block(block), blocks @ (Value::List(_) | Value::Set(_))) => {
                map_blocks(block.nesting, blocks, |object| start(&block.fields, object))
            }
            (Shape::Block(block), _) => empty(block.nesting),
            (_, Value::Unknown) => Value::Null,
            (_, value) => value.clone(),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(known).collect()
}

/// Returns a resource after its creation: blocks in lists are filled with zeros, planned sets stay as planned.
pub(super) fn created(fields: &[Field], planned: &Object, state: &Object) -> Object {
    let settle = |field: &Field| {
        let (planned, value) = (planned.get(&field.name), state.get(&field.name));
        let value = match &field.shape {
            Shape::Block(block) if block.nesting == Nesting::Set && planned.is_wholly_known() => {
                or_empty(planned, block.nesting)
            }
            Shape::Block(block) => fill_blocks(block.nesting, &block.fields, value),
            _ if planned.is_null() && is_empty_container(value) => Value::Null,
            _ => known(value),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(settle).collect()
}

/// Returns a refreshed resource: all blocks are filled with zeros.
pub(super) fn refreshed(fields: &[Field], state: &Object) -> Object {
    let settle = |field: &Field| {
        let value = state.get(&field.name);
        let value = match &field.shape {
            Shape::Block(block) => fill_blocks(block.nesting, &block.fields, value),
            _ => known(value),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(settle).collect()
}

/// Returns a stored state in the schema's form: missing blocks become empty collections.
pub(super) fn stored(fields: &[Field], state: &Object) -> Object {
    let settle = |field: &Field| {
        let value = match (&field.shape, state.get(&field.name)) {
            (Shape::Block(block), blocks) => map_blocks(block.nesting, blocks, |object| {
                stored(&block.fields, object)
            }),
            (_, value) => value.clone(),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(settle).collect()
}

/// Returns a data source before it is read: defaults are set, empty strings, containers and blocks are null, and
/// blocks are filled with zeros. Null blocks stay null in the state.
pub(super) fn configured(fields: &[Field], config: &Object) -> Object {
    let settle = |field: &Field| {
        let default = || {
            field
                .default
                .as_ref()
                .map_or(Value::Null, super::Default::value)
        };
        let value = match (&field.shape, config.get(&field.name)) {
            (_, Value::Null) => default(),
            (_, Value::Unknown) => Value::Null,
            (_, Value::String(text)) if text.is_empty() => Value::Null,
            (_, value) if is_empty_container(value) => Value::Null,
            (Shape::Block(block), blocks) => fill_blocks(block.nesting, &block.fields, blocks),
            (_, value) => value.clone(),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(settle).collect()
}

/// Returns a data source after it was read: blocks that the provider added are filled with zeros as well.
pub(super) fn read(fields: &[Field], state: &Object) -> Object {
    let settle = |field: &Field| {
        let value = match (&field.shape, state.get(&field.name)) {
            (Shape::Block(block), blocks @ (Value::List(_) | Value::Set(_))) => {
                fill_blocks(block.nesting, &block.fields, blocks)
            }
            (_, value) => known(value),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(settle).collect()
}

/// Returns a configuration with its defaults, for the provider itself.
pub(super) fn with_defaults(fields: &[Field], config: &Object) -> Object {
    let settle = |field: &Field| {
        let value = match (config.get(&field.name), &field.default) {
            (Value::Null, Some(default)) => default.value(),
            (value, _) => value.clone(),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(settle).collect()
}

/// Fills an object of a block: null becomes the default or zero.
pub(super) fn fill(fields: &[Field], object: &Object) -> Object {
    let fill = |field: &Field| {
        let value = match (&field.shape, object.get(&field.name)) {
            (Shape::Block(block), blocks) => fill_blocks(block.nesting, &block.fields, blocks),
            (shape, Value::Null | Value::Unknown) => match &field.default {
                Some(default) => default.value(),
                None => zero(&shape.value_type()),
            },
            (_, value) => value.clone(),
        };
        (field.name.to_string(), value)
    };
    fields.iter().map(fill).collect()
}

fn fill_blocks(nesting: Nesting, fields: &[Field], blocks: &Value) -> Value {
    map_blocks(nesting, blocks, |object| fill(fields, object))
}

/// Changes each of the blocks, and makes them the schema's kind of collection, list or set.
fn map_blocks(nesting: Nesting, blocks: &Value, change: impl Fn(&Object) -> Object) -> Value {
    let objects = blocks.elements().iter().filter_map(Value::as_object);
    let changed = objects.map(|object| Value::Object(change(object)));
    match nesting {
        Nesting::List => Value::List(changed.collect()),
        Nesting::Set => Value::set(changed),
    }
}

fn or_empty(blocks: &Value, nesting: Nesting) -> Value {
    match blocks {
        Value::Null => empty(nesting),
        blocks => blocks.clone(),
    }
}

fn empty(nesting: Nesting) -> Value {
    match nesting {
        Nesting::List => Value::List(Vec::new()),
        Nesting::Set => Value::Set(Vec::new()),
    }
}

fn is_empty_container(value: &Value) -> bool {
    value.is_zero() && matches!(value, Value::List(_) | Value::Set(_) | Value::Map(_))
}

/// Replaces an unknown value, which the provider did not compute, by null.
fn known(value: &Value) -> Value {
    match value {
        Value::Unknown => Value::Null,
        value => value.clone(),
    }
}

fn zero(of: &Type) -> Value {
    match of {
        Type::Bool => false.into(),
        Type::Number => 0.into(),
        Type::String => "".into(),
        Type::List(_) | Type::Tuple(_) => Value::List(Vec::new()),
        Type::Set(_) => Value::Set(Vec::new()),
        Type::Map(_) => Value::Map(BTreeMap::new()),
        Type::Dynamic | Type::Object { .. } => Value::Null,
    }
}

#[cfg(test)]
mod tests;
