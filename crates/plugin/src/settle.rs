//! The form that values have in a state, by the rules of HashiCorp's plugin SDK: inside of blocks nothing is null.

use std::collections::BTreeMap;

use outpost_value::{Object, Type, Value};

use crate::{Field, Nesting, Shape};

/// What of a planned resource is handed to the provider: what is unknown becomes null, for the provider to fill in.
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

/// A resource that was just created: blocks in lists are filled with zeros, sets that were planned stay as planned.
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

/// A resource that was refreshed: all blocks are filled with zeros.
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

/// A stored state as the schema has it: blocks that it does not know are none.
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

/// A data source before it is read: defaults are filled in, empty texts, containers and blocks are null, and blocks
/// are filled with zeros. The null of blocks stays in the state.
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

/// A data source that was read: what the provider added to blocks is filled with zeros too.
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

/// A configuration with its defaults, for the provider itself.
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

/// An object of a block: defaults and zeros instead of null.
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

/// Blocks, each of them changed. Whatever they were, list or set, they become what the schema says.
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

/// What the provider did not compute is null.
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
