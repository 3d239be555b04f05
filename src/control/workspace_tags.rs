//! Tags that a template gives to its workspaces' jobs, which may depend on parameters and variables. Pure.

use std::collections::BTreeMap;

use hcl::{
    Expression, Value,
    eval::{Context, Evaluate as _},
};

use crate::job::ParameterValue;

/// Why a tag has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// It cannot be parsed or evaluated.
    #[error("workspace tag `{name}` has no value: `{expression}`: {reason}")]
    Invalid {
        /// The tag.
        name: String,
        /// The author's words.
        expression: String,
        /// What is wrong with them.
        reason: String,
    },
    /// It is a list or an object.
    #[error("workspace tag `{name}` is not a string: `{expression}`")]
    NotText {
        /// The tag.
        name: String,
        /// The author's words.
        expression: String,
    },
}

/// Evaluates `tags`, names to expressions, which may name `data.coder_parameter.NAME.value` and `var.NAME`.
///
/// # Errors
/// [`TagError`] names the first tag that has no value.
pub fn evaluate(
    tags: &BTreeMap<String, String>,
    parameters: &[ParameterValue],
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, TagError> {
    if tags.is_empty() {
        return Ok(BTreeMap::new());
    }
    let context = context(parameters, variables);
    tags.iter()
        .map(|(name, expression)| Ok((name.clone(), value(&context, name, expression)?)))
        .collect()
}

fn context(
    parameters: &[ParameterValue],
    variables: &BTreeMap<String, String>,
) -> Context<'static> {
    let object = |entries: Vec<(String, Value)>| Value::Object(entries.into_iter().collect());
    let parameters = parameters.iter().map(|parameter| {
        let value = object(vec![("value".to_owned(), parameter.value.clone().into())]);
        (parameter.name.clone(), value)
    });
    let parameters = object(parameters.collect());
    let variables = variables
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()));
    let mut context = Context::new();
    context.declare_var(
        "data",
        object(vec![("coder_parameter".to_owned(), parameters)]),
    );
    context.declare_var("var", object(variables.collect()));
    context
}

fn value(context: &Context<'_>, name: &str, expression: &str) -> Result<String, TagError> {
    let invalid = |reason: &dyn std::fmt::Display| TagError::Invalid {
        name: name.to_owned(),
        expression: expression.to_owned(),
        reason: reason
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .to_owned(),
    };
    let parsed: Expression = expression.parse().map_err(|error| invalid(&error))?;
    match parsed.evaluate(context).map_err(|error| invalid(&error))? {
        Value::String(text) => Ok(text),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err(TagError::NotText {
            name: name.to_owned(),
            expression: expression.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn tags_follow_parameters_and_variables() {
        let parameters = [ParameterValue {
            name: "region".to_owned(),
            value: "eu".to_owned(),
        }];
        let given = tags(&[
            ("plain", "\"yes\""),
            ("region", "data.coder_parameter.region.value"),
            (
                "zone",
                "\"${data.coder_parameter.region.value}-${var.zone}\"",
            ),
            ("number", "3"),
        ]);

        let evaluated = evaluate(&given, &parameters, &tags(&[("zone", "a")]));

        let expected = tags(&[
            ("plain", "yes"),
            ("region", "eu"),
            ("zone", "eu-a"),
            ("number", "3"),
        ]);
        assert_eq!(evaluated, Ok(expected));
    }

    #[test]
    fn a_tag_without_a_value_is_named() {
        for expression in ["data.coder_parameter.other.value", "local.x", "\"", "[1]"] {
            let error =
                evaluate(&tags(&[("zone", expression)]), &[], &BTreeMap::new()).unwrap_err();

            assert!(
                error.to_string().starts_with("workspace tag `zone` "),
                "{error}"
            );
        }
    }
}
