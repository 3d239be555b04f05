//! Functions of Terraform's that Coder does not offer in tags; conditions may call them.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    super::{float, operators},
    Args, Called,
};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "alltrue" => every(args, |items| items.iter().all(|is_true| *is_true)),
        "anytrue" => every(args, |items| items.contains(&true)),
        "sum" => sum(args),
        "one" => one(args),
        "startswith" => both(args, |text, part| text.starts_with(part)),
        "endswith" => both(args, |text, part| text.ends_with(part)),
        "strcontains" => both(args, |text, part| text.contains(part)),
        // Marks are not kept here: a value with one is the value.
        "sensitive" | "nonsensitive" => args.value(0).cloned(),
        "timecmp" => compared_times(args),
        _ => return None,
    })
}

fn both(args: &Args<'_>, test: fn(&str, &str) -> bool) -> Called {
    Ok(test(&args.text(0)?, &args.text(1)?).into())
}

fn every(args: &Args<'_>, decide: fn(&[bool]) -> bool) -> Called {
    let items = args.list(0)?.iter().map(|item| match item {
        Value::Null => Ok(false),
        item => operators::to_bool(item).map_err(|_| "all elements must be bools".to_owned()),
    });
    Ok(decide(&items.collect::<Result<Vec<_>, _>>()?).into())
}

fn sum(args: &Args<'_>) -> Called {
    let items = args.list(0)?;
    if items.is_empty() {
        return Err("cannot sum an empty list".to_owned());
    }
    let numbers = items.iter().map(|item| {
        let number =
            operators::to_number(item).map_err(|_| "all elements must be numbers".to_owned());
        number.map(|number| operators::as_float(&number))
    });
    Ok(float(numbers.sum::<Result<f64, String>>()?))
}

fn one(args: &Args<'_>) -> Called {
    match args.list(0)? {
        [] => Ok(Value::Null),
        [item] => Ok(item.clone()),
        _ => Err("argument 1 must have at most one element".to_owned()),
    }
}

fn compared_times(args: &Args<'_>) -> Called {
    let time = |index: usize| -> Result<Timestamp, String> {
        let wrong = |_| format!("argument {} is not a valid RFC 3339 timestamp", index + 1);
        args.text(index)?.parse().map_err(wrong)
    };
    Ok((time(0)?.cmp(&time(1)?) as i64).into())
}
