//! Tags that a template gives to its workspaces' jobs, which may depend on parameters and variables. Pure.

use std::collections::BTreeMap;

use outpost_base::job::ParameterValue;
use outpost_language::{EvalError, evaluate_text, primitive_text};
use serde_json::{Value, json};

/// Reasons why a tag has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// An expression that cannot be parsed or evaluated.
    #[error("workspace tag `{name}` has no value: `{expression}`: {reason}")]
    Invalid {
        /// Name of the tag.
        name: String,
        /// Expression that the author wrote.
        expression: String,
        /// Error of the parser or the evaluation.
        reason: EvalError,
    },
    /// A value that is a list or an object.
    #[error("workspace tag `{name}` is not a string: `{expression}`")]
    NotText {
        /// Name of the tag.
        name: String,
        /// Expression that the author wrote.
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
    let known = known(parameters, variables);
    tags.iter()
        .map(|(name, expression)| Ok((name.clone(), value(&known, name, expression)?)))
        .collect()
}

fn known(
    parameters: &[ParameterValue],
    variables: &BTreeMap<String, String>,
) -> BTreeMap<String, Value> {
    let parameters = parameters.iter();
    let parameters = parameters.map(|it| (it.name.clone(), json!({"value": it.value})));
    let parameters = Value::Object(parameters.collect());
    BTreeMap::from([
        ("data".to_owned(), json!({"coder_parameter": parameters})),
        ("var".to_owned(), json!(variables)),
    ])
}

fn value(
    known: &BTreeMap<String, Value>,
    name: &str,
    expression: &str,
) -> Result<String, TagError> {
    let (name, expression) = (name.to_owned(), expression.to_owned());
    match evaluate_text(&expression, known) {
        Ok(Value::Null) => Ok(String::new()),
        Ok(value) => primitive_text(&value).ok_or(TagError::NotText { name, expression }),
        Err(reason) => Err(TagError::Invalid {
            name,
            expression,
            reason,
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
            (
                "size",
                "try(split(\"-\", data.coder_parameter.region.value)[1], \"small\")",
            ),
        ]);

        let evaluated = evaluate(&given, &parameters, &tags(&[("zone", "a")]));

        let expected = tags(&[
            ("plain", "yes"),
            ("region", "eu"),
            ("zone", "eu-a"),
            ("number", "3"),
            ("size", "small"),
        ]);
        assert_eq!(evaluated, Ok(expected));
    }

    #[test]
    fn a_tag_without_a_value_is_named() {
        let endless =
            "[for a in range(1000) : [for b in range(1000) : [for c in range(1000) : a]]]";
        let nested = "(".repeat(100_000);
        for expression in [
            "data.coder_parameter.other.value",
            "local.x",
            "\"",
            "[1]",
            "file(\"/etc/passwd\")",
            endless,
            &nested,
        ] {
            let given = tags(&[("zone", expression)]);
            let error = evaluate(&given, &[], &BTreeMap::new()).unwrap_err();

            assert!(
                error.to_string().starts_with("workspace tag `zone` "),
                "{error}"
            );
        }
    }
}
