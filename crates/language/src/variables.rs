//! Input variables of a template.

use std::collections::BTreeMap;

use hcl_edit::{expr::Expression, structure::Body};
use outpost_base::job::TemplateVariable;
use serde_json::Value;

use super::{
    diagnostic::{Diagnostic, LoadError},
    eval::{self, Fuel, Scope},
    module::{Located, Module, SourceFile},
};

/// Returns the input variables that a template declares, sorted by file and line.
///
/// `kind` is the type as the author wrote it, or empty. A default that is not a string becomes compact JSON with
/// sorted keys. A default must be literal: it can neither refer to anything nor call functions. A variable that a
/// file overrides keeps its position.
///
/// # Errors
/// [`LoadError`] if an argument has the wrong type, or if a default cannot be evaluated.
///
/// # Source
/// coder `provisioner/terraform/tfparse/tfparse.go`, `TemplateVariables`.
pub fn variables(module: &Module) -> Result<Vec<TemplateVariable>, LoadError> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut diagnostics = Vec::new();
    for (order, located) in module.blocks("variable").enumerate() {
        let name = located.label(0).to_owned();
        let previous = found.remove(&name).filter(|_| located.file.is_override);
        let variable = previous.unwrap_or_else(|| Found::new(&name, order));
        match variable.read(&located) {
            Ok(variable) => drop(found.insert(name, variable)),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    LoadError::check(diagnostics)?;
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by_key(|variable| variable.order);
    Ok(found.into_iter().map(Found::finish).collect())
}

struct Found {
    order: usize,
    default: Option<Value>,
    variable: TemplateVariable,
}

impl Found {
    fn new(name: &str, order: usize) -> Self {
        Self {
            order,
            default: None,
            variable: TemplateVariable {
                name: name.to_owned(),
                ..TemplateVariable::default()
            },
        }
    }

    fn read(mut self, located: &Located<'_>) -> Result<Self, Diagnostic> {
        let (file, body) = (located.file, &located.block.body);
        if let Some(expr) = argument(body, "description") {
            self.variable.description = string(file, expr)?;
        }
        if let Some(expr) = argument(body, "type") {
            self.variable.kind = type_text(file, expr);
        }
        if let Some(expr) = argument(body, "sensitive") {
            self.variable.sensitive = bool(file, expr)?;
        }
        if let Some(default) = default(file, body)? {
            self.default = Some(default);
        }
        Ok(self)
    }

    fn finish(mut self) -> TemplateVariable {
        self.variable.required = self.default.is_none();
        self.variable.default_value = match self.default {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => eval::json_text(&other),
        };
        self.variable
    }
}

fn argument<'a>(body: &'a Body, name: &str) -> Option<&'a Expression> {
    body.get_attribute(name).map(|attribute| &attribute.value)
}

/// Returns the default as a value; `None` if there is none or if it is null.
fn default(file: &SourceFile, body: &Body) -> Result<Option<Value>, Diagnostic> {
    let Some(expr) = argument(body, "default") else {
        return Ok(None);
    };
    let value = literal(file, expr)?;
    Ok(Some(value).filter(|value| !value.is_null()))
}

fn literal(file: &SourceFile, expr: &Expression) -> Result<Value, Diagnostic> {
    let fuel = Fuel::new();
    let scope = Scope::literal(&fuel).with_repeated_keys(&file.repeated_keys);
    eval::evaluate(expr, &scope).map_err(|error| file.error(expr, error.summary, error.detail))
}

fn string(file: &SourceFile, expr: &Expression) -> Result<String, Diagnostic> {
    let value = literal(file, expr)?;
    match eval::text(&value) {
        Some(text) => Ok(text),
        None if value.is_null() => Ok(String::new()),
        None => Err(unsuitable(file, expr, "string")),
    }
}

fn bool(file: &SourceFile, expr: &Expression) -> Result<bool, Diagnostic> {
    let value = literal(file, expr)?;
    match eval::text(&value).as_deref() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        None if value.is_null() => Ok(false),
        _ => Err(unsuitable(file, expr, "bool")),
    }
}

fn unsuitable(file: &SourceFile, expr: &Expression, kind: &str) -> Diagnostic {
    let detail = format!("Unsuitable value: {kind} required.");
    file.error(expr, "Unsuitable value type", detail)
}

/// Returns the source text of a type, which is a string in old templates.
fn type_text(file: &SourceFile, expr: &Expression) -> String {
    match expr.as_str() {
        Some(text) => text.to_owned(),
        None => file.source(expr).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Vec<TemplateVariable>, LoadError> {
        variables(&Module::parse(files.iter().copied())?)
    }

    fn only(text: &str) -> TemplateVariable {
        let mut variables = read(&[("main.tf", text)]).unwrap();
        assert_eq!(variables.len(), 1);
        variables.remove(0)
    }

    #[test]
    fn variables_are_sorted_by_file_and_line() {
        let variables = read(&[
            ("main2.tf", "variable \"baz\" { }\nvariable \"quux\" { }"),
            ("main1.tf", "variable \"foo\" { }\nvariable \"bar\" { }"),
        ]);

        let names: Vec<String> = variables.unwrap().into_iter().map(|v| v.name).collect();
        assert_eq!(names, ["foo", "bar", "baz", "quux"]);
    }

    #[test]
    fn a_variable_without_default_is_required() {
        let variable = only("variable \"A\" {\n description = \"Testing!\"\n}");

        assert_eq!(variable.description, "Testing!");
        assert!(variable.required && variable.default_value.is_empty());
        assert!(only("variable \"A\" {\n default = null\n}").required);
    }

    #[test]
    fn an_empty_string_is_a_default() {
        let variable = only("variable \"A\" {\n default = \"\"\n}");

        assert!(!variable.required && variable.default_value.is_empty());
    }

    #[test]
    fn a_bool_becomes_text_and_secrets_stay_marked() {
        let variable =
            only("variable \"A\" {\n type = \tbool\n default = true\n sensitive = true\n}");

        assert_eq!(
            (variable.kind.as_str(), variable.default_value.as_str()),
            ("bool", "true")
        );
        assert!(variable.sensitive && !variable.required);
    }

    #[test]
    fn lists_and_maps_become_json() {
        let list = only("variable \"A\" {\n type = list(string)\n default = [\"a\", \"<b>\"]\n}");
        let map = only(
            "variable \"A\" {\n type = map(number)\n default = { b = 1.5, a = -2, \"c\" : 12345678901234 }\n}",
        );

        assert_eq!(
            (list.kind.as_str(), list.default_value.as_str()),
            ("list(string)", r#"["a","\u003cb\u003e"]"#)
        );
        assert_eq!(map.default_value, r#"{"a":-2,"b":1.5,"c":12345678901234}"#);
    }

    #[test]
    fn types_are_kept_as_they_are_written() {
        let text =
            "variable \"A\" {\n type = object({\n    a = optional(string, \"x\") # why\n  })\n}";

        assert_eq!(
            only(text).kind,
            "object({\n    a = optional(string, \"x\") # why\n  })"
        );
        assert_eq!(
            only("variable \"A\" {\n type = \"string\"\n}").kind,
            "string"
        );
    }

    #[test]
    fn conditions_of_variables_are_ignored() {
        let variable = only(
            "variable \"A\" {\n validation {\n condition = var.A == \"value\"\n error_message = \"A must be 'value'\"\n }\n}",
        );

        assert!(variable.required);
    }

    #[test]
    fn the_last_of_repeated_keys_wins() {
        let variable =
            only("variable \"A\" {\n default = { long_key = 1, long_key = 2, b = 3 }\n}");

        assert_eq!(variable.default_value, r#"{"b":3,"long_key":2}"#);
    }

    #[test]
    fn a_default_that_refers_to_something_is_an_error_at_its_line() {
        let error = read(&[("main.tf", "variable \"A\" {\n default = var.b\n}")]).unwrap_err();

        let expected =
            "ERROR: Variables not allowed (main.tf:2)\n> Variables may not be used here.";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_default_that_calls_a_function_is_an_error() {
        let error =
            read(&[("main.tf", "variable \"A\" {\n default = upper(\"a\")\n}")]).unwrap_err();

        assert!(
            error
                .to_string()
                .contains("Function calls not allowed (main.tf:2)")
        );
    }

    #[test]
    fn json_declares_variables_too() {
        let text = r#"{"variable": {"b": {"type": "string", "default": "${not.evaluated}"}, "a": {"sensitive": true, "default": {"y": 1, "x": [null]}}}}"#;

        let variables = read(&[("main.tf.json", text)]).unwrap();

        assert_eq!(
            (variables[0].name.as_str(), variables[0].kind.as_str()),
            ("b", "string")
        );
        assert_eq!(variables[0].default_value, "${not.evaluated}");
        assert_eq!(variables[1].default_value, r#"{"x":[null],"y":1}"#);
        assert!(variables[1].sensitive);
    }

    #[test]
    fn an_override_changes_arguments_and_keeps_the_place() {
        let variables = read(&[
            ("override.tf", "variable \"a\" {\n default = \"new\"\n}"),
            (
                "z.tf",
                "variable \"a\" {\n type = string\n default = \"old\"\n}\nvariable \"b\" {}",
            ),
        ]);

        let variables = variables.unwrap();
        assert_eq!(
            (
                variables[0].kind.as_str(),
                variables[0].default_value.as_str()
            ),
            ("string", "new")
        );
        assert_eq!(variables[1].name, "b");
    }
}
