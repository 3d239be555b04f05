//! The resource `coder_metadata`, facts about a resource.

use outpost_plugin::{
    Diagnostic, Diagnostics, Field, Outcome, Schema, Shape, computed, list, optional, required,
};
use outpost_value::Object;

use crate::{
    agent::first_duplicate,
    check,
    resource::{Call, Resource, new_id},
};

pub(super) fn metadata() -> Resource {
    Resource {
        check_plan,
        create,
        ..Resource::plain(schema)
    }
}

fn schema() -> Schema {
    Schema::new("Metadata shown with a resource.", fields()).version(1)
}

fn fields() -> Vec<Field> {
    vec![
        optional(
            "daily_cost",
            Shape::Int,
            "Cost of the resource per day, in any unit; it counts against the owner's quota.",
        ),
        optional(
            "hide",
            Shape::Bool,
            "Whether to hide the resource from users.",
        ),
        optional("icon", Shape::String, "The URL of an icon.").check(check::url),
        required("resource_id", Shape::String, "The `id` of the resource."),
        list(
            "item",
            "One fact.",
            vec![
                computed("is_null", Shape::Bool, ""),
                required(
                    "key",
                    Shape::String,
                    "Key of the item, unique for the resource.",
                ),
                optional(
                    "sensitive",
                    Shape::Bool,
                    "Whether to mask the value until a user reveals it. Do not store secrets here.",
                )
                .default(false),
                optional(
                    "value",
                    Shape::String,
                    "Value of the item, with basic Markdown.",
                ),
            ],
        ),
    ]
}

fn check_plan(planned: &Object) -> Result<(), Diagnostic> {
    let keys = planned.blocks("item").filter_map(|item| item.text("key"));
    match first_duplicate(keys) {
        Some(key) => Err(Diagnostic::error(format!(
            "duplicate resource metadata key {key:?}"
        ))),
        None => Ok(()),
    }
}

/// Records which values are null, because the state has empty strings in their place.
fn create(state: &mut Object, call: &Call<'_>) -> Outcome {
    state.set("id", new_id());
    let mut given = call.config.blocks("item");
    state.update_blocks("item", |item| {
        let is_null = given.next().is_none_or(|item| item.get("value").is_null());
        item.set("is_null", is_null);
    });
    Ok(Diagnostics::none())
}

#[cfg(test)]
mod tests {
    use outpost_value::Value;

    use super::*;
    use crate::context::tests::{context, created};

    fn with_items(items: [(&str, Value); 2]) -> Object {
        let item = |(key, value)| Object::from([("key", Value::from(key)), ("value", value)]);
        let mut object = Object::new();
        object.set_blocks("item", items.map(item));
        object
    }

    #[test]
    fn a_value_that_is_not_set_is_told_from_one_that_is_empty() {
        let config = with_items([("a", Value::Null), ("b", "".into())]);

        let state = created(&metadata(), config, &context(&[])).unwrap();

        let nulls: Vec<_> = state
            .blocks("item")
            .map(|item| item.flag("is_null"))
            .collect();
        assert_eq!(nulls, [Some(true), Some(false)]);
    }

    #[test]
    fn no_key_stands_twice() {
        let twice = with_items([("a", Value::Null), ("a", Value::Null)]);

        let error = check_plan(&twice).unwrap_err();

        assert_eq!(error.summary, "duplicate resource metadata key \"a\"");
    }
}
