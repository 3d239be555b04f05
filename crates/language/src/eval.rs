//! Evaluation of expressions without an engine: literals, references to given values, and functions.
//!
//! Values are JSON. Lists, sets and tuples are arrays, maps and objects are objects; a whole number beyond 64 bits
//! loses digits. Work is limited, because any author of templates may write expressions.

mod functions;
mod operators;
mod templates;
mod traversals;

use std::{cell::Cell, collections::BTreeMap, fmt, rc::Rc};

use hcl_edit::{
    Span,
    expr::{Expression, ForExpr, FuncCall, Object, ObjectKey},
};
use serde_json::{Map, Number, Value};

/// Budget of one evaluation: about one unit for an expression, an item and a byte of text.
const FUEL: u64 = 20_000_000;

/// Values that an expression may refer to.
#[derive(Clone, Debug)]
pub(super) struct Scope<'a> {
    /// Values by name; `None` if references are not allowed.
    variables: Option<&'a BTreeMap<String, Value>>,
    /// Variables of `for` expressions, the innermost last.
    locals: Vec<(String, Rc<Value>)>,
    /// Repeated keys of the file, as in [`super::SourceFile`].
    repeated_keys: Option<&'a BTreeMap<usize, String>>,
    /// `true` if functions may be called that Coder does not offer in tags.
    has_further_functions: bool,
    fuel: &'a Fuel,
}

/// Remaining budget of an evaluation.
#[derive(Debug)]
pub(super) struct Fuel(Cell<u64>);

impl Fuel {
    pub(super) fn new() -> Self {
        Self(Cell::new(FUEL))
    }
}

/// Reason why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct EvalError {
    /// Summary in a few words without a full stop.
    pub summary: &'static str,
    /// Details in a sentence.
    pub detail: String,
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.summary, self.detail)
    }
}

impl EvalError {
    fn new(summary: &'static str, detail: impl Into<String>) -> Self {
        Self {
            summary,
            detail: detail.into(),
        }
    }
}

type Evaluated = Result<Value, EvalError>;

impl<'a> Scope<'a> {
    /// Returns a scope for expressions without references and functions.
    pub(super) fn literal(fuel: &'a Fuel) -> Self {
        Self {
            variables: None,
            locals: Vec::new(),
            repeated_keys: None,
            has_further_functions: false,
            fuel,
        }
    }

    /// Returns a scope for expressions that may use these values, and functions.
    pub(super) fn with_variables(variables: &'a BTreeMap<String, Value>, fuel: &'a Fuel) -> Self {
        Self {
            variables: Some(variables),
            ..Self::literal(fuel)
        }
    }

    /// Adds the repeated keys of the expression's file.
    pub(super) fn with_repeated_keys(mut self, keys: &'a BTreeMap<usize, String>) -> Self {
        self.repeated_keys = Some(keys);
        self
    }

    fn bind(&self, key: Option<(&str, Value)>, value: (&str, Value)) -> Self {
        let mut inner = self.clone();
        inner
            .locals
            .extend(key.map(|(name, key)| (name.to_owned(), Rc::new(key))));
        inner.locals.push((value.0.to_owned(), Rc::new(value.1)));
        inner
    }

    fn lookup(&self, name: &str) -> Evaluated {
        if let Some((_, value)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Ok(Value::clone(value));
        }
        let Some(variables) = self.variables else {
            let detail = "Variables may not be used here.";
            return Err(EvalError::new("Variables not allowed", detail));
        };
        variables.get(name).cloned().ok_or_else(|| {
            let detail = format!("There is no variable named \"{name}\".");
            EvalError::new("Unknown variable", detail)
        })
    }

    fn spend(&self, units: u64) -> Result<(), EvalError> {
        let left = self.fuel.0.get().checked_sub(units);
        self.fuel.0.set(left.unwrap_or(0));
        match left {
            Some(_) => Ok(()),
            None => Err(EvalError::new(
                "Expression too large",
                "Evaluating this expression takes too much time or memory.",
            )),
        }
    }
}

/// Evaluates an expression in its source text, which may use `variables` and functions.
///
/// # Errors
/// [`EvalError`] if it is not an expression, has no value, or takes too much time or memory.
pub fn evaluate_text(text: &str, variables: &BTreeMap<String, Value>) -> Evaluated {
    let fuel = Fuel::new();
    evaluate(&parsed(text)?, &Scope::with_variables(variables, &fuel))
}

/// Evaluates a condition or another expression that a server never sees: as [`evaluate_text`], with further functions of
/// Terraform's.
///
/// # Errors
/// As [`evaluate_text`].
pub fn evaluate_condition(text: &str, variables: &BTreeMap<String, Value>) -> Evaluated {
    let fuel = Fuel::new();
    let scope = Scope {
        has_further_functions: true,
        ..Scope::with_variables(variables, &fuel)
    };
    evaluate(&parsed(text)?, &scope)
}

fn parsed(text: &str) -> Result<Expression, EvalError> {
    text.parse().map_err(|error: hcl_edit::parser::Error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim();
        EvalError::new(
            "Invalid expression",
            format!("This is not an expression: {reason}."),
        )
    })
}

/// Evaluates an expression within its budget.
///
/// # Errors
/// [`EvalError`], in the words of HCL if it has such an error.
pub(super) fn evaluate(expr: &Expression, scope: &Scope<'_>) -> Evaluated {
    let value = match expr {
        Expression::Null(_) => Value::Null,
        Expression::Bool(value) => Value::Bool(*value.value()),
        Expression::Number(number) => literal_number(number.value()),
        Expression::String(text) => Value::String(text.value().clone()),
        Expression::Array(items) => {
            let items = items.iter().map(|item| evaluate(item, scope));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Expression::Object(object) => object_value(object, scope)?,
        Expression::StringTemplate(template) => templates::evaluate(template, scope)?,
        Expression::HeredocTemplate(heredoc) => templates::evaluate(&heredoc.template, scope)?,
        Expression::Parenthesis(inner) => evaluate(inner.inner(), scope)?,
        Expression::Variable(name) => scope.lookup(name.as_str())?,
        Expression::Conditional(conditional) => {
            let condition = evaluate(&conditional.cond_expr, scope)?;
            match operators::to_bool(&condition)? {
                true => evaluate(&conditional.true_expr, scope)?,
                false => evaluate(&conditional.false_expr, scope)?,
            }
        }
        Expression::FuncCall(call) => call_value(call, scope)?,
        Expression::Traversal(traversal) => {
            let root = evaluate(&traversal.expr, scope)?;
            traversals::follow(root, &traversal.operators, scope)?
        }
        Expression::UnaryOp(op) => operators::unary(*op.operator, &evaluate(&op.expr, scope)?)?,
        Expression::BinaryOp(op) => {
            let left = evaluate(&op.lhs_expr, scope)?;
            let right = evaluate(&op.rhs_expr, scope)?;
            operators::binary(*op.operator.value(), &left, &right)?
        }
        Expression::ForExpr(each) => for_value(each, scope)?,
    };
    scope.spend(1 + size(&value))?;
    Ok(value)
}

/// Returns the cost of a value, in units of [`FUEL`].
fn size(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => 1 + text.len() as u64,
        Value::Array(items) => items.iter().map(size).sum::<u64>() + 1,
        Value::Object(object) => {
            let entry = |(key, value): (&String, &Value)| key.len() as u64 + size(value);
            object.iter().map(entry).sum::<u64>() + 1
        }
    }
}

fn literal_number(number: &hcl_edit::Number) -> Value {
    if let Some(whole) = number.as_i64() {
        return whole.into();
    }
    match number.as_u64() {
        Some(whole) => whole.into(),
        None => float(number.as_f64().unwrap_or_default()),
    }
}

/// Returns a number, as a whole one if possible.
fn float(value: f64) -> Value {
    // Above 2^53 a float stands for several whole numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn object_value(object: &Object, scope: &Scope<'_>) -> Evaluated {
    let mut map = Map::new();
    for (key, item) in object {
        map.insert(key_text(key, scope)?, evaluate(item.expr(), scope)?);
    }
    Ok(Value::Object(map))
}

fn key_text(key: &ObjectKey, scope: &Scope<'_>) -> Result<String, EvalError> {
    if let (Some(keys), Some(span)) = (scope.repeated_keys, key.span()) {
        let real = keys
            .get(&span.start)
            // The span of a quoted key includes its quotes, the recorded position does not.
            .or_else(|| keys.get(&(span.start + 1)));
        if let Some(real) = real {
            return Ok(real.clone());
        }
    }
    match key {
        ObjectKey::Ident(ident) => Ok(ident.as_str().to_owned()),
        ObjectKey::Expression(expr) => {
            let key = evaluate(expr, scope)?;
            text(&key).ok_or_else(|| {
                let detail = "Can't use this value as a key: string required.";
                EvalError::new("Incorrect key type", detail)
            })
        }
    }
}

/// Calls a function. Functions get values; `try` and `can` get expressions, because these may fail.
fn call_value(call: &FuncCall, scope: &Scope<'_>) -> Evaluated {
    let name = match call.name.is_namespaced() {
        true => "a function of a provider",
        false => call.name.name.as_str(),
    };
    if scope.variables.is_none() {
        let detail = "Functions may not be called here.";
        return Err(EvalError::new("Function calls not allowed", detail));
    }
    match name {
        "try" => attempt(call, scope),
        "can" => match call.args.get(0) {
            Some(expr) => Ok(Value::Bool(evaluate(expr, scope).is_ok())),
            None => Err(functions::failed("can", "one argument is required")),
        },
        name => {
            let mut values = Vec::with_capacity(call.args.len());
            for argument in call.args.iter() {
                values.push(evaluate(argument, scope)?);
            }
            if call.args.expand_final() {
                match values.pop() {
                    Some(Value::Array(rest)) => values.extend(rest),
                    _ => {
                        let detail = "The expanding argument (indicated by ...) must be of a list.";
                        return Err(EvalError::new("Invalid expanding argument value", detail));
                    }
                }
            }
            functions::call(name, values, scope)
        }
    }
}

fn attempt(call: &FuncCall, scope: &Scope<'_>) -> Evaluated {
    let mut last = functions::failed("try", "at least one argument is required");
    for expr in call.args.iter() {
        match evaluate(expr, scope) {
            Ok(value) => return Ok(value),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn for_value(each: &ForExpr, scope: &Scope<'_>) -> Evaluated {
    let intro = &each.intro;
    let collection = evaluate(&intro.collection_expr, scope)?;
    let key_name = intro.key_var.as_ref().map(|name| name.as_str());
    let (mut list, mut map) = (Vec::new(), Map::new());
    for (key, value) in entries(collection)? {
        let inner = scope.bind(
            key_name.map(|name| (name, key)),
            (intro.value_var.as_str(), value),
        );
        if let Some(condition) = &each.cond
            && !operators::to_bool(&evaluate(&condition.expr, &inner)?)?
        {
            continue;
        }
        let value = evaluate(&each.value_expr, &inner)?;
        let Some(key) = &each.key_expr else {
            list.push(value);
            continue;
        };
        let key = text(&evaluate(key, &inner)?)
            .ok_or_else(|| EvalError::new("Invalid object key", "Key must be a string."))?;
        insert(&mut map, key, value, each.grouping)?;
    }
    match each.key_expr {
        Some(_) => Ok(Value::Object(map)),
        None => Ok(Value::Array(list)),
    }
}

fn insert(
    map: &mut Map<String, Value>,
    key: String,
    value: Value,
    group: bool,
) -> Result<(), EvalError> {
    if group {
        let group = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        group.as_array_mut().expect("made above").push(value);
    } else if map.contains_key(&key) {
        let detail =
            format!("Two different items produced the key \"{key}\" in this 'for' expression.");
        return Err(EvalError::new("Duplicate object key", detail));
    } else {
        map.insert(key, value);
    }
    Ok(())
}

/// Returns keys and values of a collection for `for`. Maps are sorted by key.
fn entries(collection: Value) -> Result<Vec<(Value, Value)>, EvalError> {
    match collection {
        Value::Array(items) => {
            let entry = |(index, item)| (Value::from(index), item);
            Ok(items.into_iter().enumerate().map(entry).collect())
        }
        Value::Object(object) => {
            let mut entries: Vec<(String, Value)> = object.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(entries
                .into_iter()
                .map(|(key, value)| (Value::String(key), value))
                .collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(EvalError::new(
            "Iteration over non-iterable value",
            "A value of this type cannot be used as the collection in a 'for' expression.",
        )),
    }
}

/// Returns a primitive as text, as in a string template; `None` for null and collections.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number_text(number)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns all decimal digits without an exponent.
fn number_text(number: &Number) -> String {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(whole), ..) => whole.to_string(),
        (_, Some(whole), _) => whole.to_string(),
        (.., Some(float)) => float.to_string(),
        (None, None, None) => number.to_string(),
    }
}

/// Returns compact JSON as Go writes it: keys are sorted, and characters with a meaning in HTML are escaped.
pub(super) fn json_text(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(json_text).collect();
            return format!("[{}]", items.join(","));
        }
        Value::Object(object) => {
            let mut entries: Vec<(&String, &Value)> = object.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entry = |(key, value): (&String, &Value)| {
                format!(
                    "{}:{}",
                    json_text(&Value::String(key.clone())),
                    json_text(value)
                )
            };
            let entries: Vec<String> = entries.into_iter().map(entry).collect();
            return format!("{{{}}}", entries.join(","));
        }
        Value::Number(number) => return number_text(number),
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    };
    let escapes = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    escapes
        .iter()
        .fold(text, |text, (from, to)| text.replace(*from, to))
}

#[cfg(test)]
mod tests;
