//! Functions of numbers and types.

use serde_json::Value;

use super::{
    super::{float, operators, text},
    Args, Called,
};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "abs" => match args.number(0).map(|number| number.as_i64()) {
            Ok(Some(whole)) if whole != i64::MIN => Ok(whole.abs().into()),
            _ => args.float(0).map(|value| float(value.abs())),
        },
        "ceil" => args.float(0).map(|value| float(value.ceil())),
        "floor" => args.float(0).map(|value| float(value.floor())),
        "log" => log(args),
        "pow" => pow(args),
        "signum" => args.float(0).map(|value| {
            let is_zero = value == 0.0;
            float(if is_zero { 0.0 } else { value.signum() })
        }),
        "max" => extreme(args, f64::total_cmp),
        "min" => extreme(args, |a, b| b.total_cmp(a)),
        "parseint" => parse(args),
        "tobool" => convert(args, |value| {
            operators::to_bool(value).ok().map(Value::Bool)
        }),
        "tonumber" => convert(args, |value| {
            operators::to_number(value).ok().map(Value::Number)
        }),
        "tostring" => convert(args, |value| text(value).map(Value::String)),
        _ => return None,
    })
}

fn log(args: &Args<'_>) -> Called {
    let (value, base) = (args.float(0)?, args.float(1)?);
    finite(value.ln() / base.ln())
}

fn pow(args: &Args<'_>) -> Called {
    let exact = || {
        let exponent = u32::try_from(args.whole(1).ok()?).ok()?;
        args.whole(0).ok()?.checked_pow(exponent)
    };
    match exact() {
        Some(whole) => Ok(whole.into()),
        None => finite(args.float(0)?.powf(args.float(1)?)),
    }
}

fn finite(value: f64) -> Called {
    match value.is_finite() {
        true => Ok(float(value)),
        false => Err("the result is not a number".to_owned()),
    }
}

fn extreme(args: &Args<'_>, order: fn(&f64, &f64) -> std::cmp::Ordering) -> Called {
    let mut found: Option<(f64, Value)> = None;
    for index in 0..args.all().len() {
        let number = args.number(index)?;
        let value = operators::as_float(&number);
        if found
            .as_ref()
            .is_none_or(|(best, _)| order(&value, best).is_gt())
        {
            found = Some((value, Value::Number(number)));
        }
    }
    found
        .map(|(_, value)| value)
        .ok_or_else(|| "at least one number is required".to_owned())
}

fn parse(args: &Args<'_>) -> Called {
    let (digits, base) = (args.text(0)?, args.whole(1)?);
    // Bases above 36 have digits of their own, which no tag uses.
    let base = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base));
    let base = base.ok_or("the base must be between 2 and 36")?;
    let parsed = i64::from_str_radix(&digits, base);
    let wrong = |_| format!("cannot parse {digits:?} as an integer in base {base}");
    parsed.map(Value::from).map_err(wrong)
}

/// Converts a value; null stays null.
fn convert(args: &Args<'_>, apply: fn(&Value) -> Option<Value>) -> Called {
    let value = args.value(0)?;
    match value.is_null() {
        true => Ok(Value::Null),
        false => apply(value).ok_or_else(|| "the value cannot be converted".to_owned()),
    }
}
