//! The JSON form of the language (`*.tf.json`), converted to the same blocks as the native one.

use hcl_edit::{
    Ident,
    expr::{Array, Expression, Object, ObjectKey},
    structure::{Attribute, Block, Body},
    template::{Element, StringTemplate},
};
use serde_json::{Map, Value};

use super::diagnostic::Diagnostic;

/// Returns the number of labels of a kind of block, which are levels of objects in JSON.
fn label_count(kind: &str) -> Option<usize> {
    match kind {
        "resource" | "data" => Some(2),
        "variable" | "output" | "module" | "provider" => Some(1),
        "terraform" | "locals" => Some(0),
        _ => None,
    }
}

/// Key under which authors write comments.
const COMMENT: &str = "//";

/// Parses a file. Nested blocks stay attributes, because only a schema could distinguish them, except in `terraform`,
/// whose nested blocks are known.
pub(super) fn parse(name: &str, text: &str) -> Result<Body, Diagnostic> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let detail = format!("The file is not valid JSON: {error}.");
        Diagnostic::error("Invalid JSON", detail, name, error.line()).column(error.column())
    })?;
    let builder = Builder { name };
    let mut body = Body::new();
    for root in objects(&value).ok_or_else(|| builder.invalid("The file must hold an object."))? {
        for (kind, value) in root {
            if let Some(labels) = label_count(kind) {
                for block in builder.blocks(kind, labels, value)? {
                    body.push(block);
                }
            }
        }
    }
    Ok(body)
}

/// Returns an object, or the objects in an array; `None` for anything else.
fn objects(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    match value {
        Value::Object(object) => Some(vec![object]),
        Value::Array(items) => items.iter().map(Value::as_object).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

struct Builder<'a> {
    name: &'a str,
}

impl Builder<'_> {
    fn invalid(&self, detail: &str) -> Diagnostic {
        Diagnostic::error("Invalid JSON structure", detail, self.name, 1)
    }

    fn blocks(&self, kind: &str, labels: usize, value: &Value) -> Result<Vec<Block>, Diagnostic> {
        let objects = objects(value).ok_or_else(|| {
            self.invalid(&format!(
                "The value of {kind:?} must be an object or a list of objects."
            ))
        })?;
        let mut blocks = Vec::new();
        for object in objects {
            if labels == 0 {
                let mut block = Block::new(Ident::new(kind));
                block.body = self.body(kind, object)?;
                blocks.push(block);
                continue;
            }
            for (label, value) in object.iter().filter(|(label, _)| *label != COMMENT) {
                for mut block in self.blocks(kind, labels - 1, value)? {
                    block.labels.insert(0, label.as_str().into());
                    blocks.push(block);
                }
            }
        }
        Ok(blocks)
    }

    fn body(&self, kind: &str, object: &Map<String, Value>) -> Result<Body, Diagnostic> {
        let mut body = Body::new();
        for (key, value) in object.iter().filter(|(key, _)| *key != COMMENT) {
            let Ok(ident) = Ident::try_new(key.as_str()) else {
                return Err(self.invalid(&format!("{key:?} is not a valid argument name.")));
            };
            let inner_labels = match (kind, key.as_str()) {
                ("terraform", "required_providers" | "cloud") => Some(0),
                ("terraform", "backend") => Some(1),
                _ => None,
            };
            match inner_labels {
                Some(labels) => {
                    for block in self.blocks(key, labels, value)? {
                        body.push(block);
                    }
                }
                // Values of variables are literal; elsewhere strings are templates.
                None => body.push(Attribute::new(ident, self.expr(value, kind != "variable")?)),
            }
        }
        Ok(body)
    }

    fn expr(&self, value: &Value, is_template: bool) -> Result<Expression, Diagnostic> {
        Ok(match value {
            Value::Null => Expression::null(),
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number_expr(number),
            Value::String(text) if is_template => self.template(text)?,
            Value::String(text) => text.as_str().into(),
            Value::Array(items) => {
                let items = items.iter().map(|item| self.expr(item, is_template));
                Expression::Array(items.collect::<Result<Array, _>>()?)
            }
            Value::Object(object) => {
                let item = |(key, value): (&String, &Value)| {
                    let key = ObjectKey::from(Expression::from(key.as_str()));
                    Ok((key, self.expr(value, is_template)?))
                };
                Expression::Object(object.iter().map(item).collect::<Result<Object, _>>()?)
            }
        })
    }

    fn template(&self, text: &str) -> Result<Expression, Diagnostic> {
        if !text.contains("${") && !text.contains("%{") {
            return Ok(text.into());
        }
        let template = hcl_edit::parser::parse_template(text).map_err(|error| {
            let detail = format!(
                "The template {text:?} cannot be parsed: {}.",
                error.message()
            );
            Diagnostic::error("Invalid template", detail, self.name, 1)
        })?;
        if let Some(Element::Interpolation(only)) = template.as_single_element() {
            return Ok(only.expr.clone());
        }
        Ok(Expression::StringTemplate(StringTemplate::from(template)))
    }
}

fn number_expr(number: &serde_json::Number) -> Expression {
    let whole = number.as_i64().map(Expression::from);
    let positive = || number.as_u64().map(Expression::from);
    let float = || number.as_f64().map(Expression::from);
    whole
        .or_else(positive)
        .or_else(float)
        .unwrap_or_else(Expression::null)
}
