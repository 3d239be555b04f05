//! The data source `coder_parameter`, a parameter of a template.

mod form;
mod value;

use outpost_plugin::{Diagnostic, Field, Schema, Shape, computed, list, optional, required};
use outpost_value::Object;

use self::value::{Choice, Rules, Validation};
use crate::{
    check,
    resource::{Call, DataSource, new_id},
};

pub(super) fn parameter() -> DataSource {
    DataSource { schema, read }
}

fn schema() -> Schema {
    let mut fields = attributes();
    fields.extend([option(), validation()]);
    Schema::new(
        "Parameter that users set when they create a workspace.",
        fields,
    )
    .version(1)
}

fn attributes() -> Vec<Field> {
    let switch = |name, description| optional(name, Shape::Bool, description).default(false);
    vec![
        optional("default", Shape::String, "Default value; a parameter without one is required."),
        optional("description", Shape::String, "Description shown to users, in Markdown."),
        optional("display_name", Shape::String, "Label shown to users in place of the name."),
        switch("ephemeral", "Whether the value applies to one build only."),
        optional("form_type", Shape::String, "Form control: `radio`, `slider`, `input`, `dropdown`, `checkbox`, `switch`, `multi-select`, `tag-select`, `textarea` or `error`; the default depends on the type.")
            .default("")
            .check(check::one_of(&form::FORM_TYPES)),
        optional("icon", Shape::String, "The URL of an icon.").check(check::url),
        switch("mutable", "Whether the value can be changed after the workspace was created. A change may replace resources."),
        required("name", Shape::String, "Name of the parameter. Under a new name, users must set the value again."),
        computed("optional", Shape::Bool, "Whether the parameter has a default."),
        optional("order", Shape::Int, "Position of the parameter in forms: lower numbers first, equal ones by name."),
        optional("styling", Shape::String, "JSON object with style options of the form control.").default("{}"),
        optional("type", Shape::String, "Type of the value: `string`, `number`, `bool` or `list(string)`.")
            .default("string")
            .check(check::one_of(&form::TYPES)),
        computed("value", Shape::String, "Value of the parameter."),
    ]
}

fn option() -> Field {
    list(
        "option",
        "Allowed value of the parameter.",
        vec![
            optional("description", Shape::String, "Description of the option."),
            optional("icon", Shape::String, "The URL of an icon.").check(check::url),
            required("name", Shape::String, "Label of the option."),
            required("value", Shape::String, "Value of the option."),
        ],
    )
}

fn validation() -> Field {
    let number = [
        "validation.0.min",
        "validation.0.max",
        "validation.0.monotonic",
    ];
    list(
        "validation",
        "Rules that a value must satisfy.",
        vec![
            optional(
                "error",
                Shape::String,
                "Error message for invalid values; `{min}`, `{max}` and `{value}` are replaced.",
            ),
            optional("max", Shape::Int, "Maximum of a number."),
            computed("max_disabled", Shape::Bool, "Whether `max` is not set."),
            optional("min", Shape::Int, "Minimum of a number."),
            computed("min_disabled", Shape::Bool, "Whether `min` is not set."),
            optional(
                "monotonic",
                Shape::String,
                "Direction in which a number may change: `increasing` or `decreasing`.",
            ),
            optional(
                "regex",
                Shape::String,
                "Regular expression that a string must match.",
            )
            .conflicts(number),
        ],
    )
    .at_most(1)
}

fn read(state: &mut Object, call: &Call<'_>) -> Result<(), Diagnostic> {
    let Call { config, context } = call;
    state.set("id", new_id());
    let mut given = config.blocks("validation");
    state.update_blocks("validation", |shown| {
        let is_unset = |block: Option<&Object>, name| block.is_none_or(|b| b.get(name).is_null());
        let block = given.next();
        shown.set("min_disabled", is_unset(block, "min"));
        shown.set("max_disabled", is_unset(block, "max"));
    });
    if !state.has("validation") {
        // Without a block the original sets an empty list here, where other blocks are null.
        state.set_blocks("validation", []);
    }
    let is_optional = !config.get("default").is_null();
    state.set("optional", is_optional);
    check_ephemeral(state, is_optional)?;
    let name = config.text("name").unwrap_or_default();
    let (input, previous) = (context.parameter(name), context.previous_parameter(name));
    let answer = rules(config, state).decide(input, previous)?;
    state.set("value", answer.value);
    state.set("form_type", answer.form_type);
    Ok(())
}

fn check_ephemeral(state: &Object, is_optional: bool) -> Result<(), Diagnostic> {
    let is = |name| state.flag(name) == Some(true);
    match is("ephemeral") {
        true if !is("mutable") => Err(Diagnostic::error(
            "parameter can't be immutable and ephemeral",
        )),
        true if !is_optional => Err(Diagnostic::error(
            "ephemeral parameter requires the default property",
        )),
        _ => Ok(()),
    }
}

fn rules(config: &Object, state: &Object) -> Rules {
    let text = |object: &Object, name| object.text(name).unwrap_or_default().to_owned();
    let choice = |option: &Object| Choice {
        name: text(option, "name"),
        value: text(option, "value"),
    };
    let validation = |block: &Object| Validation {
        min: block.integer("min"),
        max: block.integer("max"),
        monotonic: text(block, "monotonic"),
        regex: text(block, "regex"),
        error: text(block, "error"),
    };
    Rules {
        kind: text(state, "type"),
        form_type: text(state, "form_type"),
        default: config.text("default").map(str::to_owned),
        choices: config.blocks("option").map(choice).collect(),
        validation: config.blocks("validation").next().map(validation),
    }
}

#[cfg(test)]
mod tests {
    use outpost_value::Value;

    use super::*;
    use crate::context::tests::{self, context};

    /// Reads a parameter named `abc123` with the defaults that the framework sets.
    fn read_with(config: &[(&str, Value)], environment: &[(&str, &str)]) -> Result<Object, String> {
        let named = [("name", Value::from("abc123")), ("type", "string".into())].into_iter();
        let config = named.chain(config.iter().cloned()).collect();
        tests::read(&parameter(), config, &context(environment))
    }

    const ABC123: &str =
        "CODER_PARAMETER_6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090";

    #[test]
    fn the_answer_comes_from_the_environment_even_if_it_is_empty() {
        let answer = |environment: &[_]| {
            let state = read_with(&[("default", "d".into())], environment).unwrap();
            state.text("value").map(str::to_owned)
        };

        assert_eq!(answer(&[]).as_deref(), Some("d"));
        assert_eq!(answer(&[(ABC123, "x")]).as_deref(), Some("x"));
        assert_eq!(answer(&[(ABC123, "")]).as_deref(), Some(""));
    }

    #[test]
    fn a_parameter_with_a_default_is_optional_even_if_it_is_empty() {
        let optional = |config: &[_]| read_with(config, &[]).unwrap().flag("optional");

        assert_eq!(optional(&[("default", "".into())]), Some(true));
        assert_eq!(optional(&[]), Some(false));
    }

    #[test]
    fn ephemeral_parameters_are_mutable_and_have_a_default() {
        let ephemeral = ("ephemeral", true.into());
        let error = |config: &[_]| read_with(config, &[]).unwrap_err();

        assert_eq!(
            error(std::slice::from_ref(&ephemeral)),
            "parameter can't be immutable and ephemeral"
        );
        assert_eq!(
            error(&[ephemeral, ("mutable", true.into())]),
            "ephemeral parameter requires the default property"
        );
    }

    #[test]
    fn a_bound_that_is_not_set_is_disabled() {
        let block = Object::from([("max", Value::from(0)), ("min", Value::Null)]);
        let blocks = Value::List(vec![block.into()]);
        let config = [
            ("type", "number".into()),
            ("default", "0".into()),
            ("validation", blocks),
        ];

        let state = read_with(&config, &[]).unwrap();

        let validation = state.blocks("validation").next().unwrap();
        assert_eq!(validation.flag("min_disabled"), Some(true));
        assert_eq!(validation.flag("max_disabled"), Some(false));
    }

    #[test]
    fn the_control_is_chosen_for_the_type() {
        let state = read_with(&[], &[]).unwrap();

        assert_eq!(state.text("form_type"), Some("input"));
    }
}
