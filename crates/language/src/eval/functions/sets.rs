//! Functions of sets, which are sorted lists without duplicates.

use serde_json::Value;

use super::{Args, Called, collections::order};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "distinct" => distinct(args),
        "toset" => args.list(0).and_then(|items| set(args, items.to_vec())),
        "setunion" => union(args),
        "setintersection" => combine(args, |left, right| {
            left.iter()
                .filter(|item| right.contains(item))
                .cloned()
                .collect()
        }),
        "setsubtract" => combine(args, |left, right| {
            left.iter()
                .filter(|item| !right.contains(item))
                .cloned()
                .collect()
        }),
        "setproduct" => product(args),
        _ => return None,
    })
}

fn set(args: &Args<'_>, mut items: Vec<Value>) -> Called {
    args.reserve(items.len().saturating_mul(8))?;
    items.sort_by(order);
    items.dedup();
    Ok(Value::Array(items))
}

/// Removes duplicates and keeps the order, unlike a set.
fn distinct(args: &Args<'_>) -> Called {
    let items = args.list(0)?;
    args.reserve(items.len().saturating_mul(items.len()))?;
    let mut kept: Vec<Value> = Vec::new();
    for item in items {
        if !kept.contains(item) {
            kept.push(item.clone());
        }
    }
    Ok(Value::Array(kept))
}

fn union(args: &Args<'_>) -> Called {
    let mut all = Vec::new();
    for index in 0..args.all().len() {
        all.extend_from_slice(args.list(index)?);
    }
    set(args, all)
}

fn combine(args: &Args<'_>, apply: fn(&[Value], &[Value]) -> Vec<Value>) -> Called {
    let mut left = args.list(0)?.to_vec();
    for index in 1..args.all().len() {
        let right = args.list(index)?;
        args.reserve(left.len().saturating_mul(right.len()))?;
        left = apply(&left, right);
    }
    set(args, left)
}

fn product(args: &Args<'_>) -> Called {
    if args.all().len() < 2 {
        return Err("at least two arguments are required".to_owned());
    }
    let mut rows = vec![Vec::new()];
    for index in 0..args.all().len() {
        let items = args.list(index)?;
        args.reserve(
            rows.len()
                .saturating_mul(items.len())
                .saturating_mul(index + 1),
        )?;
        let extend = |row: &Vec<Value>| -> Vec<Vec<Value>> {
            let with = |item: &Value| [row.as_slice(), std::slice::from_ref(item)].concat();
            items.iter().map(with).collect()
        };
        rows = rows.iter().flat_map(extend).collect();
    }
    Ok(Value::Array(rows.into_iter().map(Value::Array).collect()))
}
