//! Operators, and the conversions that they make.

use hcl_edit::expr::{BinaryOperator, UnaryOperator};
use serde_json::{Number, Value};

use super::{EvalError, Evaluated, float};

pub(super) fn unary(operator: UnaryOperator, value: &Value) -> Evaluated {
    match operator {
        UnaryOperator::Not => Ok(Value::Bool(!to_bool(value)?)),
        UnaryOperator::Neg => {
            let number = to_number(value)?;
            match number.as_i64().and_then(i64::checked_neg) {
                Some(whole) => Ok(whole.into()),
                None => Ok(float(-as_float(&number))),
            }
        }
    }
}

pub(super) fn binary(operator: BinaryOperator, left: &Value, right: &Value) -> Evaluated {
    use BinaryOperator as Op;
    Ok(match operator {
        Op::Eq => Value::Bool(left == right),
        Op::NotEq => Value::Bool(left != right),
        Op::And => Value::Bool(to_bool(left)? && to_bool(right)?),
        Op::Or => Value::Bool(to_bool(left)? || to_bool(right)?),
        Op::Less => Value::Bool(compare(left, right)?.is_lt()),
        Op::LessEq => Value::Bool(compare(left, right)?.is_le()),
        Op::Greater => Value::Bool(compare(left, right)?.is_gt()),
        Op::GreaterEq => Value::Bool(compare(left, right)?.is_ge()),
        Op::Plus => arithmetic(left, right, i64::checked_add, |a, b| a + b)?,
        Op::Minus => arithmetic(left, right, i64::checked_sub, |a, b| a - b)?,
        Op::Mul => arithmetic(left, right, i64::checked_mul, |a, b| a * b)?,
        Op::Div | Op::Mod if as_float(&to_number(right)?) == 0.0 => {
            return Err(EvalError::new("Division by zero", "Cannot divide by zero."));
        }
        Op::Div => arithmetic(left, right, exact_quotient, |a, b| a / b)?,
        Op::Mod => arithmetic(left, right, i64::checked_rem, |a, b| a % b)?,
    })
}

fn exact_quotient(left: i64, right: i64) -> Option<i64> {
    match left.checked_rem(right) {
        Some(0) => left.checked_div(right),
        _ => None,
    }
}

fn compare(left: &Value, right: &Value) -> Result<std::cmp::Ordering, EvalError> {
    let (left, right) = (to_number(left)?, to_number(right)?);
    if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
        return Ok(left.cmp(&right));
    }
    Ok(as_float(&left).total_cmp(&as_float(&right)))
}

/// Computes with whole numbers as long as they fit.
pub(super) fn arithmetic(
    left: &Value,
    right: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    other: fn(f64, f64) -> f64,
) -> Evaluated {
    let (left, right) = (to_number(left)?, to_number(right)?);
    let exact = left
        .as_i64()
        .zip(right.as_i64())
        .and_then(|(a, b)| whole(a, b));
    match exact {
        Some(value) => Ok(value.into()),
        None => Ok(float(other(as_float(&left), as_float(&right)))),
    }
}

pub(super) fn as_float(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default()
}

pub(super) fn to_bool(value: &Value) -> Result<bool, EvalError> {
    let parsed = value.as_bool().or_else(|| value.as_str()?.parse().ok());
    parsed.ok_or_else(|| EvalError::new("Invalid operand", "Unsuitable value: bool required."))
}

pub(super) fn to_number(value: &Value) -> Result<Number, EvalError> {
    let parsed = match value {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => parse_number(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    parsed
        .ok_or_else(|| EvalError::new("Invalid operand", "Unsuitable value: a number is required."))
}

fn parse_number(text: &str) -> Option<Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let is_decimal = text
        .bytes()
        .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let value = float(text.parse().ok().filter(|_| is_decimal)?);
    value.as_number().cloned()
}
