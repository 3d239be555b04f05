use super::*;
use crate::{computed, list, optional, required, set};

fn fields() -> Vec<Field> {
    let item = vec![
        optional("display_name", Shape::String, ""),
        computed("is_null", Shape::Bool, ""),
        required("key", Shape::String, ""),
        optional("order", Shape::Int, ""),
    ];
    let app = vec![
        optional("name", Shape::String, ""),
        optional("shown", Shape::Bool, "").default(true),
    ];
    vec![
        optional("auth", Shape::String, "").default("token"),
        optional("dir", Shape::String, ""),
        optional("env", Shape::Map, ""),
        optional("id", Shape::String, "")
            .optional_computed()
            .updatable(),
        list("item", "", item),
        optional("label", Shape::String, "").updatable(),
        optional("order", Shape::Int, ""),
        set("app", "", app).at_most(1).optional_computed(),
        computed("token", Shape::String, ""),
    ]
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Object {
    Object::from(entries)
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(
        entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

fn item<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Object(object(entries))
}

/// Returns a state as the SDK writes it, with zeros in blocks of lists.
fn state() -> Object {
    object([
        (
            "app",
            Value::set([item([("name", "".into()), ("shown", true.into())])]),
        ),
        ("auth", "token".into()),
        ("dir", Value::Null),
        ("env", Value::Null),
        ("id", "1".into()),
        (
            "item",
            Value::List(vec![item([
                ("display_name", "".into()),
                ("is_null", false.into()),
                ("key", "k".into()),
                ("order", 0.into()),
            ])]),
        ),
        ("label", Value::Null),
        ("order", Value::Null),
        ("token", "secret".into()),
    ])
}

/// Returns Terraform's proposal for an unchanged template: null for attributes that are not set.
fn unchanged() -> Object {
    let mut proposed = state();
    proposed.set("auth", Value::Null);
    proposed.set("app", Value::Set(vec![]));
    proposed.update_blocks("item", |item| {
        item.set("display_name", Value::Null);
        item.set("order", Value::Null);
    });
    proposed
}

fn replaced(change: impl FnOnce(&mut Object)) -> Vec<String> {
    let mut proposed = unchanged();
    change(&mut proposed);
    let planned = plan(&fields(), Some(&state()), &proposed);
    assert!(planned.changed, "no change is planned");
    planned.replace.iter().map(Path::to_string).collect()
}

#[test]
fn a_new_resource_has_defaults_and_what_it_computes_is_unknown() {
    let proposed = object([
        ("env", map([])),
        ("item", Value::List(vec![item([("key", "".into())])])),
        ("order", 0.into()),
    ]);

    let planned = plan(&fields(), None, &proposed).state;

    assert_eq!(planned.text("auth"), Some("token"));
    assert_eq!(
        (planned.get("dir"), planned.get("env")),
        (&Value::Null, &Value::Null)
    );
    for name in ["app", "id", "token"] {
        assert_eq!(planned.get(name), &Value::Unknown, "{name}");
    }
    let expected = item([
        ("display_name", Value::Null),
        ("is_null", Value::Unknown),
        ("key", "".into()),
        ("order", Value::Null),
    ]);
    assert_eq!(planned.get("item"), &Value::List(vec![expected]));
    assert_eq!(planned.integer("order"), Some(0));
}

#[test]
fn unset_texts_in_a_set_are_empty_as_the_sdk_stores_them() {
    let proposed = object([(
        "app",
        Value::set([item([("name", Value::Null), ("shown", Value::Null)])]),
    )]);

    let planned = plan(&fields(), None, &proposed).state;

    let expected = item([("name", "".into()), ("shown", true.into())]);
    assert_eq!(planned.get("app"), &Value::set([expected]));
}

#[test]
fn a_map_with_something_unknown_is_unknown_and_one_of_nulls_is_none() {
    let env = |element: Value| {
        let proposed = object([("env", map([("A", element)]))]);
        plan(&fields(), None, &proposed).state.get("env").clone()
    };

    assert_eq!(env(Value::Unknown), Value::Unknown);
    assert_eq!(env(Value::Null), Value::Null);
    assert_eq!(env("".into()), map([("A", "".into())]));
}

#[test]
fn a_state_of_the_sdk_is_planned_without_a_change() {
    let planned = plan(&fields(), Some(&state()), &unchanged());

    assert!(!planned.changed);
    assert_eq!(planned.state, state());
    assert_eq!(planned.replace, []);
}

#[test]
fn what_is_written_as_nothing_is_no_change() {
    let mut proposed = unchanged();
    proposed.set("dir", "");
    proposed.set("env", map([]));
    proposed.set("order", 0);

    assert!(!plan(&fields(), Some(&state()), &proposed).changed);
}

#[test]
fn every_changed_argument_replaces_the_resource() {
    assert_eq!(replaced(|state| state.set("dir", "/x")), ["dir", "id"]);
    assert_eq!(replaced(|state| state.set("auth", "aws")), ["auth", "id"]);
    assert_eq!(
        replaced(|state| state.set("dir", Value::Unknown)),
        ["dir", "id"]
    );
    let env = map([("A", "1".into())]);
    assert_eq!(replaced(|state| state.set("env", env)), ["env", "id"]);
    let app = Value::set([item([("shown", false.into())])]);
    assert_eq!(replaced(|state| state.set("app", app)), ["app", "id"]);
}

#[test]
fn a_change_inside_of_a_block_is_named() {
    let renamed = replaced(|state| state.update_blocks("item", |item| item.set("key", "other")));
    let removed = replaced(|state| state.set("item", Value::List(vec![])));
    let added = replaced(|state| {
        let more = item([("key", "new".into()), ("order", 3.into())]);
        let items = state.get("item").elements().iter().cloned().chain([more]);
        state.set("item", Value::List(items.collect()));
    });

    assert_eq!(renamed, ["item[0].key", "id"]);
    assert_eq!(removed, ["item", "item[0].key", "id"]);
    assert_eq!(added, ["item", "item[1].key", "item[1].order", "id"]);
}

#[test]
fn an_updatable_argument_changes_in_place() {
    let mut proposed = unchanged();
    proposed.set("label", "new");

    let planned = plan(&fields(), Some(&state()), &proposed);

    assert!(planned.changed);
    assert_eq!(planned.replace, []);
    assert_eq!(
        (planned.state.text("label"), planned.state.text("id")),
        (Some("new"), Some("1"))
    );
    assert_eq!(planned.state.get("item"), state().get("item"));
}
