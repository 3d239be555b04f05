//! Attributes, indexes and splats.

use hcl_edit::{Decorated, expr::TraversalOperator};
use serde_json::Value;

use super::{EvalError, Evaluated, Scope, evaluate, operators, text};

/// Applies operators in order, the first one first.
pub(super) fn follow(
    mut value: Value,
    operators: &[Decorated<TraversalOperator>],
    scope: &Scope<'_>,
) -> Evaluated {
    for (at, operator) in operators.iter().enumerate() {
        let rest = &operators[at + 1..];
        value = match operator.value() {
            TraversalOperator::GetAttr(name) => attribute(value, name.as_str())?,
            TraversalOperator::LegacyIndex(index) => element(value, &Value::from(**index))?,
            TraversalOperator::Index(expr) => element(value, &evaluate(expr, scope)?)?,
            TraversalOperator::FullSplat(_) => return splat(value, rest, scope),
            TraversalOperator::AttrSplat(_) => {
                let is_attr = |operator: &Decorated<TraversalOperator>| {
                    matches!(operator.value(), TraversalOperator::GetAttr(_))
                };
                let count = rest.iter().take_while(|operator| is_attr(operator)).count();
                let items = splat(value, &rest[..count], scope)?;
                return follow(items, &rest[count..], scope);
            }
        };
    }
    Ok(value)
}

/// Evaluates a splat. Null counts as an empty list, any other single value as a list of one.
fn splat(value: Value, rest: &[Decorated<TraversalOperator>], scope: &Scope<'_>) -> Evaluated {
    let items = match value {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => vec![value],
    };
    let items = items.into_iter().map(|item| follow(item, rest, scope));
    Ok(Value::Array(items.collect::<Result<_, _>>()?))
}

fn attribute(value: Value, name: &str) -> Evaluated {
    let Value::Object(mut object) = value else {
        let detail = "This value does not have any attributes.";
        return Err(EvalError::new("Unsupported attribute", detail));
    };
    object.swap_remove(name).ok_or_else(|| {
        let detail = format!("This object does not have an attribute named \"{name}\".");
        EvalError::new("Unsupported attribute", detail)
    })
}

fn element(value: Value, index: &Value) -> Evaluated {
    let invalid = |detail: &str| EvalError::new("Invalid index", detail);
    match value {
        Value::Object(mut object) => {
            let key = text(index).ok_or_else(|| invalid("The key must be a string."))?;
            object.swap_remove(&key).ok_or_else(|| {
                invalid("The given key does not identify an element in this collection value.")
            })
        }
        Value::Array(mut items) => {
            let index = operators::to_number(index)?;
            let at = index.as_u64().and_then(|at| usize::try_from(at).ok());
            match at.filter(|at| *at < items.len()) {
                Some(at) => Ok(items.swap_remove(at)),
                None => Err(invalid(
                    "The given key does not identify an element in this collection value.",
                )),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(invalid("This value does not have any indices."))
        }
    }
}
