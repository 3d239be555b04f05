//! Functions of lists and maps.

use serde_json::{Map, Value};

use super::{
    super::{float, operators, text},
    Args, Called,
    args::list_of,
};

/// Terraform's own limit for `range`.
const MAX_RANGE: usize = 1024;

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "length" => length(args),
        "list" => Ok(Value::Array(args.all().to_vec())),
        "tolist" => args.list(0).map(|items| Value::Array(items.to_vec())),
        "map" => map(args),
        "tomap" => args.map(0).map(|object| Value::Object(object.clone())),
        "merge" => merge(args),
        "keys" => args.map(0).map(|object| list_of(sorted_keys(object))),
        "values" => args.map(0).map(|object| {
            let keys = sorted_keys(object);
            Value::Array(keys.iter().map(|key| object[key].clone()).collect())
        }),
        "lookup" => lookup(args),
        "zipmap" => zipmap(args),
        "transpose" => transpose(args),
        "coalesce" => coalesce(args),
        "coalescelist" => coalesce_list(args),
        "compact" => compact(args),
        "concat" => concat(args),
        "contains" => args
            .list(0)
            .and_then(|items| Ok(items.contains(args.value(1)?).into())),
        "index" => index(args),
        "element" => element(args),
        "chunklist" => chunk(args),
        "flatten" => args.list(0).map(|items| Value::Array(flatten(items))),
        "reverse" => args
            .list(0)
            .map(|items| items.iter().rev().cloned().collect()),
        "slice" => slice(args),
        "sort" => sort(args),
        "range" => range(args),
        "matchkeys" => match_keys(args),
        _ => return None,
    })
}

fn length(args: &Args<'_>) -> Called {
    match args.value(0)? {
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(object) => Ok(object.len().into()),
        Value::String(text) => Ok(text.chars().count().into()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            Err("argument must be a string, a list or a map".to_owned())
        }
    }
}

fn sorted_keys(object: &Map<String, Value>) -> Vec<String> {
    let mut keys: Vec<String> = object.keys().cloned().collect();
    keys.sort();
    keys
}

fn map(args: &Args<'_>) -> Called {
    let mut object = Map::new();
    if !args.all().len().is_multiple_of(2) {
        return Err("an even number of arguments is required".to_owned());
    }
    for index in (0..args.all().len()).step_by(2) {
        object.insert(args.text(index)?, args.value(index + 1)?.clone());
    }
    Ok(Value::Object(object))
}

fn merge(args: &Args<'_>) -> Called {
    let mut merged = Map::new();
    for (index, value) in args.all().iter().enumerate() {
        if !value.is_null() {
            merged.extend(args.map(index)?.clone());
        }
    }
    Ok(Value::Object(merged))
}

fn lookup(args: &Args<'_>) -> Called {
    let (object, key) = (args.map(0)?, args.text(1)?);
    match (object.get(&key), args.rest(2).first()) {
        (Some(value), _) | (None, Some(value)) => Ok(value.clone()),
        (None, None) => Err(format!("lookup failed to find key {key:?}")),
    }
}

fn zipmap(args: &Args<'_>) -> Called {
    let (keys, values) = (args.texts(0)?, args.list(1)?);
    if keys.len() != values.len() {
        return Err("the number of keys must be the number of values".to_owned());
    }
    Ok(Value::Object(
        keys.into_iter().zip(values.iter().cloned()).collect(),
    ))
}

fn transpose(args: &Args<'_>) -> Called {
    let mut turned = Map::new();
    for (key, values) in args.map(0)? {
        let values = values.as_array().ok_or("a map of lists is required")?;
        for value in values {
            let value = text(value).ok_or("a map of lists of strings is required")?;
            let keys = turned
                .entry(value)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(keys) = keys {
                keys.push(Value::String(key.clone()));
            }
        }
    }
    Ok(Value::Object(turned))
}

fn coalesce(args: &Args<'_>) -> Called {
    let is_set = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    let found = args.all().iter().find(is_set);
    found
        .cloned()
        .ok_or_else(|| "no non-null, non-empty-string arguments".to_owned())
}

fn coalesce_list(args: &Args<'_>) -> Called {
    let is_filled = |value: &&Value| value.as_array().is_some_and(|items| !items.is_empty());
    let found = args.all().iter().find(is_filled);
    found
        .cloned()
        .ok_or_else(|| "no non-null arguments".to_owned())
}

fn compact(args: &Args<'_>) -> Called {
    let is_filled = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    Ok(args.list(0)?.iter().filter(is_filled).cloned().collect())
}

fn concat(args: &Args<'_>) -> Called {
    let mut all = Vec::new();
    for index in 0..args.all().len() {
        all.extend_from_slice(args.list(index)?);
    }
    Ok(Value::Array(all))
}

fn index(args: &Args<'_>) -> Called {
    let wanted = args.value(1)?;
    let found = args.list(0)?.iter().position(|item| item == wanted);
    found
        .map(Value::from)
        .ok_or_else(|| "item not found".to_owned())
}

/// Returns an element; an index beyond the end starts again at the beginning.
fn element(args: &Args<'_>) -> Called {
    let (items, index) = (args.list(0)?, args.whole(1)?);
    let index = usize::try_from(index).map_err(|_| "the index must not be negative")?;
    match items.is_empty() {
        true => Err("cannot use element function with an empty list".to_owned()),
        false => Ok(items[index % items.len()].clone()),
    }
}

fn chunk(args: &Args<'_>) -> Called {
    let (items, size) = (args.list(0)?, args.whole(1)?);
    let size = usize::try_from(size).map_err(|_| "the size must not be negative")?;
    let size = if size == 0 { items.len().max(1) } else { size };
    Ok(items
        .chunks(size)
        .map(|chunk| Value::Array(chunk.to_vec()))
        .collect())
}

fn flatten(items: &[Value]) -> Vec<Value> {
    let flat = |item: &Value| match item.as_array() {
        Some(inner) => flatten(inner),
        None => vec![item.clone()],
    };
    items.iter().flat_map(flat).collect()
}

fn slice(args: &Args<'_>) -> Called {
    let bound = |index| {
        let bound = args.whole(index)?;
        usize::try_from(bound).map_err(|_| "indexes must not be negative".to_owned())
    };
    let (items, start, end) = (args.list(0)?, bound(1)?, bound(2)?);
    let found = items.get(start..end);
    let wrong = || format!("no elements {start} to {end} in a list of {}", items.len());
    found
        .map(|found| Value::Array(found.to_vec()))
        .ok_or_else(wrong)
}

fn sort(args: &Args<'_>) -> Called {
    let mut texts = args.texts(0)?;
    texts.sort();
    Ok(list_of(texts))
}

/// Evaluates `range(limit)`, `range(start, limit)` and `range(start, limit, step)`.
fn range(args: &Args<'_>) -> Called {
    let number = |index| args.float(index);
    let (start, limit, step) = match args.all().len() {
        1 => (0.0, number(0)?, None),
        2 => (number(0)?, number(1)?, None),
        3 => (number(0)?, number(1)?, Some(number(2)?)),
        _ => return Err("must have one, two, or three arguments".to_owned()),
    };
    let step = step.unwrap_or(if limit < start { -1.0 } else { 1.0 });
    if step == 0.0 || (limit - start) * step < 0.0 {
        return Err("the step must lead from the start to the limit".to_owned());
    }
    let (mut values, mut current) = (Vec::new(), start);
    while (step > 0.0 && current < limit) || (step < 0.0 && current > limit) {
        if values.len() >= MAX_RANGE {
            return Err(format!("more than {MAX_RANGE} values were generated"));
        }
        values.push(float(current));
        current += step;
    }
    Ok(Value::Array(values))
}

fn match_keys(args: &Args<'_>) -> Called {
    let (values, keys, wanted) = (args.list(0)?, args.list(1)?, args.list(2)?);
    if values.len() != keys.len() {
        return Err("length of keys and values should be equal".to_owned());
    }
    args.reserve(keys.len().saturating_mul(wanted.len()))?;
    let pairs = values.iter().zip(keys);
    let matching = pairs.filter(|(_, key)| wanted.contains(key));
    Ok(matching.map(|(value, _)| value.clone()).collect())
}

/// Compares numbers by size, strings by bytes, and other values by kind.
pub(super) fn order(left: &Value, right: &Value) -> std::cmp::Ordering {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => {
            operators::as_float(a).total_cmp(&operators::as_float(b))
        }
        (a, b) => super::super::json_text(a).cmp(&super::super::json_text(b)),
    }
}
