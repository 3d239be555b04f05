//! Planning of a resource by the rules of HashiCorp's plugin SDK.
//!
//! That SDK stores values as strings, so it sometimes treats null as an empty string, zero or an empty container, and
//! sometimes does not. A provider with other rules would plan changes of states that the SDK wrote.

use outpost_value::{Object, Path, Value};

use crate::{Field, Nesting, Shape};

/// The plan of a resource.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    /// New state, as far as it is known.
    pub(super) state: Object,
    /// Attributes whose change requires a replacement. Terraform ignores those that turn out to be equal.
    pub(super) replace: Vec<Path>,
    /// `true` if anything changes.
    pub(super) changed: bool,
}

/// Plans a resource. `proposed` is its configuration, with earlier computed values from `prior`. `proposed` is its
/// configuration, with what was computed before taken from `prior`.
///
/// # Source
/// `PlanResourceChange` of `terraform-plugin-sdk` 2.40, observed from outside.
pub(super) fn plan(fields: &[Field], prior: Option<&Object>, proposed: &Object) -> Planned {
    let mut state = plan_fields(fields, prior, proposed);
    let Some(prior) = prior else {
        return Planned {
            state,
            replace: vec!["id".into()],
            changed: true,
        };
    };
    let (mut replace, mut changed) = (Vec::new(), false);
    for field in fields {
        let mut changes = Changes::default();
        changes.compare(
            field,
            prior.get(&field.name),
            state.get(&field.name),
            &Path::root(),
        );
        if changes.any {
            changed = true;
            replace.extend(changes.replace);
        } else {
            // Null where the state has zero is not a change: the state keeps its value.
            state.set(field.name.clone(), prior.get(&field.name).clone());
        }
    }
    if !changed || same_objects(prior, &state) {
        return Planned {
            state: prior.clone(),
            replace: Vec::new(),
            changed: false,
        };
    }
    if !replace.is_empty() {
        // Like the SDK, which names `id` as a cause of every replacement.
        replace.push("id".into());
    }
    Planned {
        state,
        replace,
        changed,
    }
}

fn plan_fields(fields: &[Field], prior: Option<&Object>, proposed: &Object) -> Object {
    let plan = |field: &Field| {
        let prior = prior.map(|prior| prior.get(&field.name));
        let planned = plan_field(field, prior, proposed.get(&field.name));
        (field.name.to_string(), planned)
    };
    fields.iter().map(plan).collect()
}

fn plan_field(field: &Field, prior: Option<&Value>, proposed: &Value) -> Value {
    let computed = field.presence.is_computed();
    let unset = || match (&field.default, prior) {
        (_, Some(prior)) if computed => prior.clone(),
        (_, None) if computed => Value::Unknown,
        (Some(default), _) => default.value(),
        (None, _) => Value::Null,
    };
    match (&field.shape, proposed) {
        (_, Value::Unknown) => Value::Unknown,
        (Shape::Block(_), blocks) if blocks.is_zero() && computed => unset(),
        (Shape::Block(block), blocks) => match block.nesting {
            Nesting::List => plan_list(&block.fields, prior, blocks),
            Nesting::Set => plan_set(&block.fields, blocks),
        },
        (_, Value::Null) => unset(),
        (_, Value::Map(_)) => plan_map(proposed, unset),
        (_, Value::Set(elements)) if elements.is_empty() => unset(),
        (_, Value::List(elements)) if elements.is_empty() && computed => unset(),
        (_, value) => value.clone(),
    }
}

fn plan_list(fields: &[Field], prior: Option<&Value>, blocks: &Value) -> Value {
    let prior = prior.map_or(&[][..], Value::elements);
    let plan = |(index, block): (usize, &Value)| match block {
        Value::Object(block) => {
            let prior = prior.get(index).and_then(Value::as_object);
            Value::Object(plan_fields(fields, prior, block))
        }
        other => other.clone(),
    };
    Value::List(blocks.elements().iter().enumerate().map(plan).collect())
}

/// Plans the blocks of a set, which have no history; an unset string in one of them is empty.
fn plan_set(fields: &[Field], blocks: &Value) -> Value {
    let plan = |block: &Value| match block {
        Value::Object(block) => {
            let mut planned = plan_fields(fields, None, block);
            for field in fields {
                if matches!(field.shape, Shape::String) && planned.get(&field.name).is_null() {
                    planned.set(field.name.clone(), "");
                }
            }
            Value::Object(planned)
        }
        other => other.clone(),
    };
    Value::set(blocks.elements().iter().map(plan))
}

/// Plans a map. The SDK has no unknown or null elements in maps, and no empty maps.
fn plan_map(map: &Value, unset: impl Fn() -> Value) -> Value {
    if !map.is_wholly_known() {
        return Value::Unknown;
    }
    let elements = map.as_map().into_iter().flatten();
    let elements: std::collections::BTreeMap<_, _> = elements
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    match elements.is_empty() {
        true => unset(),
        false => Value::Map(elements),
    }
}

/// Differences between a state and its plan.
#[derive(Default)]
struct Changes {
    any: bool,
    replace: Vec<Path>,
}

impl Changes {
    fn compare(&mut self, field: &Field, prior: &Value, planned: &Value, parent: &Path) {
        let path = parent.attribute(field.name.clone());
        match &field.shape {
            Shape::Block(block) if block.nesting == Nesting::List && !planned.is_unknown() => {
                self.compare_lists(
                    field,
                    &block.fields,
                    prior.elements(),
                    planned.elements(),
                    &path,
                );
            }
            Shape::Block(block) if !planned.is_unknown() => {
                let filled = |blocks: &Value| fill_set(&block.fields, blocks);
                self.record(field, filled(prior) != filled(planned), path);
            }
            _ => self.record(field, differ(prior, planned), path),
        }
    }

    fn compare_lists(
        &mut self,
        field: &Field,
        fields: &[Field],
        prior: &[Value],
        planned: &[Value],
        path: &Path,
    ) {
        self.record(field, prior.len() != planned.len(), path.clone());
        for index in 0..prior.len().max(planned.len()) {
            let [prior, planned] =
                [prior, planned].map(|blocks| blocks.get(index).unwrap_or(&Value::Null));
            if planned.is_unknown() {
                self.record(field, true, path.index(index));
                continue;
            }
            for field in fields {
                let name = &*field.name;
                self.compare(
                    field,
                    prior.get(name),
                    planned.get(name),
                    &path.index(index),
                );
            }
        }
    }

    fn record(&mut self, field: &Field, differs: bool, path: Path) {
        self.any |= differs;
        if differs && field.force_new {
            self.replace.push(path);
        }
    }
}

/// Returns whether the SDK's strings for two values differ. Null is an empty string; a planned null also equals a zero
/// in the state, but not vice versa.
fn differ(prior: &Value, planned: &Value) -> bool {
    match (prior, planned) {
        (_, Value::Unknown) => true,
        (Value::Null, Value::String(text)) => !text.is_empty(),
        (Value::Null, Value::Bool(_) | Value::Number(_)) => true,
        (prior, planned) => !same(prior, planned),
    }
}

/// Returns whether the SDK treats two values as equal in the end: all null, zero and empty values are.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => left == right,
        _ if left.is_zero() || right.is_zero() => left.is_zero() && right.is_zero(),
        (Value::Object(left), Value::Object(right)) => same_objects(left, right),
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same(left, right))
        }
        _ => left == right,
    }
}

fn same_objects(left: &Object, right: &Object) -> bool {
    left.iter()
        .all(|(name, value)| same(value, right.get(name)))
        && right
            .iter()
            .all(|(name, value)| left.contains(name) || value.is_zero())
}

fn fill_set(fields: &[Field], blocks: &Value) -> Value {
    let fill = |block: &Value| match block {
        Value::Object(block) => Value::Object(super::settle::fill(fields, block)),
        other => other.clone(),
    };
    Value::set(blocks.elements().iter().map(fill))
}

#[cfg(test)]
mod tests;
