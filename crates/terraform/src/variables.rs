//! Values of input variables, in a file that only its owner can read, because command lines are visible to all users.
//!
//! A file given by `-var-file` has the same priority as `-var`, and each value has the same meaning as there: text
//! for variables of a primitive type or without one, an expression for all others.

use std::collections::{BTreeMap, BTreeSet};

use hcl_edit::expr::Expression;
use outpost_base::job::{TemplateVariable, VariableValue};
use outpost_language as language;

/// Returned if a value is not an expression although its variable's type requires one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of variable `{name}` is not a valid expression of type {kind}")]
pub(super) struct VariableError {
    name: String,
    kind: String,
}

/// Writes an assignment for each value. The last one of a name counts.
pub(super) fn assignments(
    values: &[VariableValue],
    declared: &[TemplateVariable],
) -> Result<String, VariableError> {
    let last: BTreeMap<_, _> = values
        .iter()
        .map(|value| (value.name.as_str(), value.value.expose()))
        .collect();
    let mut text = String::new();
    for (name, value) in last {
        let kind = declared
            .iter()
            .find(|variable| variable.name == name)
            .map_or("", |variable| &variable.kind);
        let value = match kind.trim() {
            "" | "string" | "number" | "bool" => language::quote(value),
            _ if value.parse::<Expression>().is_ok() => format!("({value}\n)"),
            _ => {
                return Err(VariableError {
                    name: name.to_owned(),
                    kind: kind.to_owned(),
                });
            }
        };
        text.push_str(&format!("{name} = {value}\n"));
    }
    Ok(text)
}

/// Returns the names of ephemeral variables, whose values apply needs again.
pub(super) fn ephemeral(module: &language::Module) -> BTreeSet<String> {
    let is_ephemeral = |located: &language::Located<'_>| {
        let value = located
            .block
            .body
            .get_attribute("ephemeral")
            .map(|attribute| &attribute.value);
        value.and_then(Expression::as_bool) == Some(true)
    };
    module
        .blocks("variable")
        .filter(is_ephemeral)
        .map(|located| located.label(0).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: &str, value: &str) -> Result<String, VariableError> {
        let variable = TemplateVariable {
            name: "x".to_owned(),
            kind: kind.to_owned(),
            ..TemplateVariable::default()
        };
        let value = VariableValue {
            name: "x".to_owned(),
            value: value.to_owned().into(),
            sensitive: false,
        };
        assignments(&[value], &[variable])
    }

    #[test]
    fn text_is_quoted_so_that_nothing_in_it_is_evaluated() {
        let text = "a \"b\" \\ ${c} %{d} $e\n\u{7}";

        assert_eq!(
            written("string", text).unwrap(),
            "x = \"a \\\"b\\\" \\\\ $${c} %%{d} $e\\n\\u0007\"\n"
        );
        assert_eq!(written("", "5").unwrap(), "x = \"5\"\n");
    }

    #[test]
    fn an_expression_is_written_as_it_is() {
        assert_eq!(
            written("list(string)", "[\"a\"]").unwrap(),
            "x = ([\"a\"]\n)\n"
        );
    }

    #[test]
    fn a_value_cannot_smuggle_in_another_assignment() {
        let error = written("list(string)", "[]\ny = 1").unwrap_err();

        assert_eq!(
            error.to_string(),
            "the value of variable `x` is not a valid expression of type list(string)"
        );
        assert!(written("map(string)", "{").is_err());
    }
}
