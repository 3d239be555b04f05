//! Workspace tags: which daemons may build a workspace, as its template says.

use std::collections::{BTreeMap, BTreeSet};

use hcl_edit::{
    expr::{Expression, Object, ObjectKey, Traversal, TraversalOperator},
    visit::{self, Visit},
};
use serde_json::{Map, Value};

use super::{
    diagnostic::LoadError,
    eval::{self, EvalError, Fuel, Scope},
    module::{Located, Module},
    variables,
};

/// Why a template's tags are not known.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The block has no tags.
    #[error("\"tags\" attribute is required by coder_workspace_tags")]
    Missing,
    /// The tags are not written as a map.
    #[error("\"tags\" attribute is expected to be a key-value map")]
    NoMap,
    /// A tag has two values.
    #[error("workspace tag {key:?} is defined multiple times")]
    Repeated {
        /// The tag.
        key: String,
    },
    /// A tag takes its value from where there is none before a plan.
    #[error(
        "invalid workspace tag value {value:?}: only the \"coder_parameter\" data source is supported here"
    )]
    Unsupported {
        /// The source of the value.
        value: String,
    },
    /// The default of a variable cannot be used.
    #[error("load variable defaults")]
    Variables(#[source] LoadError),
    /// The default of a parameter or the value of a tag cannot be evaluated.
    #[error("failed to evaluate {what} value {value:?}: {reason}")]
    Evaluation {
        /// Whose value it is.
        what: String,
        /// The source of the value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One item of the tags of a template.
struct Tag<'a> {
    key: String,
    /// As the author wrote it.
    source: &'a str,
    expr: &'a Expression,
    located: Located<'a>,
}

/// The tags of a template with the source text of their values, quotes included. JSON files are not read.
///
/// # Errors
/// [`TagError`] if the tags are not written as a map with unique keys.
///
/// # Source
/// coder `provisioner/terraform/tfparse/tfparse.go`, `WorkspaceTags`.
pub fn workspace_tags_raw(module: &Module) -> Result<BTreeMap<String, String>, TagError> {
    let mut raw = BTreeMap::new();
    for tag in tags(module)? {
        if raw.insert(tag.key.clone(), tag.source.to_owned()).is_some() {
            return Err(TagError::Repeated { key: tag.key });
        }
    }
    Ok(raw)
}

/// The tags of a template with values evaluated from the defaults of variables and parameters.
///
/// Inside of values, `var.NAME` and `data.coder_parameter.NAME` are maps with the one member `value`, as in Coder;
/// other things are not known. Unlike there, every parameter that a value mentions gets its default, and numbers
/// keep all digits.
///
/// # Errors
/// [`TagError`] if a value cannot be evaluated, or is neither text, number nor bool.
///
/// # Source
/// coder `provisioner/terraform/tfparse/tfparse.go`, `WorkspaceTagDefaults`.
pub fn workspace_tags_evaluated(module: &Module) -> Result<BTreeMap<String, String>, TagError> {
    let raw = workspace_tags_raw(module)?;
    if raw.is_empty() {
        return Ok(raw);
    }
    raw.values().try_for_each(|value| check_source(value))?;
    let tags = tags(module)?;
    let mut wanted = BTreeSet::new();
    for tag in &tags {
        let mut finder = ParameterFinder { found: &mut wanted };
        finder.visit_expr(tag.expr);
    }
    let mut variables = BTreeMap::new();
    let defaults = variable_defaults(module)?;
    if !defaults.is_empty() {
        variables.insert("var".to_owned(), Value::Object(defaults));
    }
    let defaults = parameter_defaults(module, &wanted, &variables)?;
    if !defaults.is_empty() {
        let data = Map::from_iter([("coder_parameter".to_owned(), Value::Object(defaults))]);
        variables.insert("data".to_owned(), Value::Object(data));
    }
    let evaluated = |tag: Tag<'_>| {
        let what = || format!("workspace tag key {:?}", tag.key);
        let value = evaluate(tag.expr, &tag.located, &variables).and_then(|value| tag_text(&value));
        let value = value.map_err(|reason| failure(what(), tag.source, reason))?;
        Ok((tag.key, value))
    };
    tags.into_iter().map(evaluated).collect()
}

fn failure(what: String, value: &str, reason: String) -> TagError {
    TagError::Evaluation {
        what,
        value: value.to_owned(),
        reason,
    }
}

fn tags(module: &Module) -> Result<Vec<Tag<'_>>, TagError> {
    let mut tags = Vec::new();
    for located in data_sources(module, "coder_workspace_tags") {
        let attribute = located.block.body.get_attribute("tags");
        let Expression::Object(object) = &attribute.ok_or(TagError::Missing)?.value else {
            return Err(TagError::NoMap);
        };
        tags.extend(items(object, located));
    }
    Ok(tags)
}

fn items<'a>(object: &'a Object, located: Located<'a>) -> impl Iterator<Item = Tag<'a>> {
    let tag = move |(key, value): (&'a ObjectKey, &'a hcl_edit::expr::ObjectValue)| Tag {
        key: key_source(located, key),
        source: located.file.source(value.expr()),
        expr: value.expr(),
        located,
    };
    object.iter().map(tag)
}

/// The key as the author wrote it, which for a repeated key is not what the parser saw.
fn key_source(located: Located<'_>, key: &ObjectKey) -> String {
    use hcl_edit::Span;
    let start = key.span().map_or(0, |span| span.start);
    let keys = &located.file.repeated_keys;
    match keys.get(&start).or_else(|| keys.get(&(start + 1))) {
        Some(real) => real.clone(),
        None => located.file.source(key).trim().trim_matches('"').to_owned(),
    }
}

fn data_sources<'a>(module: &'a Module, kind: &'a str) -> impl Iterator<Item = Located<'a>> {
    let all = module
        .blocks("data")
        .filter(|located| !located.file.is_json);
    all.filter(move |located| located.label(0) == kind)
}

/// Gives a better error than evaluating would.
fn check_source(value: &str) -> Result<(), TagError> {
    let mut parts = value.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("data"), Some(kind), Some(_)) if kind != "coder_parameter" => {
            Err(TagError::Unsupported {
                value: value.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Finds `NAME` of every `data.coder_parameter.NAME`.
struct ParameterFinder<'a> {
    found: &'a mut BTreeSet<String>,
}

impl Visit for ParameterFinder<'_> {
    fn visit_traversal(&mut self, traversal: &Traversal) {
        let is_data = traversal
            .expr
            .as_variable()
            .is_some_and(|root| root.as_str() == "data");
        let names: Vec<&str> = traversal
            .operators
            .iter()
            .map_while(|operator| match operator.value() {
                TraversalOperator::GetAttr(name) => Some(name.as_str()),
                TraversalOperator::Index(expr) => expr.as_str(),
                TraversalOperator::AttrSplat(_)
                | TraversalOperator::FullSplat(_)
                | TraversalOperator::LegacyIndex(_) => None,
            })
            .collect();
        if let (true, ["coder_parameter", name, ..]) = (is_data, names.as_slice()) {
            self.found.insert((*name).to_owned());
        }
        visit::visit_traversal(self, traversal);
    }
}

fn variable_defaults(module: &Module) -> Result<Map<String, Value>, TagError> {
    let defaults = variables::defaults(module).map_err(TagError::Variables)?;
    let entry = |(name, value): (String, Option<Value>)| {
        let text = match &value {
            None => String::new(),
            Some(value) => eval::text(value).unwrap_or_else(|| eval::json_text(value)),
        };
        (name, wrapped(text.trim_matches('"')))
    };
    Ok(defaults.into_iter().map(entry).collect())
}

fn parameter_defaults(
    module: &Module,
    wanted: &BTreeSet<String>,
    variables: &BTreeMap<String, Value>,
) -> Result<Map<String, Value>, TagError> {
    let mut defaults = Map::new();
    for located in data_sources(module, "coder_parameter") {
        let name = located.label(1);
        if !wanted.contains(name) {
            continue;
        }
        let text = match located.block.body.get_attribute("default") {
            None => {
                tracing::warn!(name, "parameter of a workspace tag has no default");
                String::new()
            }
            Some(attribute) => {
                let expr = &attribute.value;
                let value = evaluate(expr, &located, variables).and_then(|value| tag_text(&value));
                let what = || format!("coder_parameter {name:?} default");
                value.map_err(|reason| failure(what(), located.file.source(expr), reason))?
            }
        };
        defaults.insert(name.to_owned(), wrapped(text.trim_matches('"')));
    }
    Ok(defaults)
}

fn wrapped(text: &str) -> Value {
    Value::Object(Map::from_iter([("value".to_owned(), Value::from(text))]))
}

fn evaluate(
    expr: &Expression,
    located: &Located<'_>,
    variables: &BTreeMap<String, Value>,
) -> Result<Value, String> {
    let fuel = Fuel::new();
    let scope =
        Scope::with_variables(variables, &fuel).with_repeated_keys(&located.file.repeated_keys);
    eval::evaluate(expr, &scope).map_err(|error: EvalError| error.to_string())
}

/// A map counts as its member `value`: this is what makes `var.region` work.
fn tag_text(value: &Value) -> Result<String, String> {
    const ONLY: &str = "only primitive types are supported - bool, number, and string";
    let is_map = |object: &&Map<String, Value>| object.values().all(Value::is_string);
    let text = match value.as_object().filter(is_map) {
        Some(map) => eval::text(map.get("value").ok_or("map does not have key 'value'")?),
        None => eval::text(value),
    };
    text.ok_or_else(|| ONLY.to_owned())
}

#[cfg(test)]
mod tests;
