use super::*;
use crate::{computed, list, optional, required, set};

fn fields() -> Vec<Field> {
    let inner = vec![
        required("key", Shape::String, ""),
        optional("on", Shape::Bool, "").default(true),
        optional("order", Shape::Int, ""),
        optional("run", Shape::List, ""),
        list("schedule", "", vec![required("cron", Shape::String, "")]),
        optional("text", Shape::String, ""),
    ];
    vec![
        optional("default", Shape::String, "").default("x"),
        optional("env", Shape::Map, ""),
        computed("groups", Shape::List, ""),
        list("item", "", inner.clone()),
        optional("order", Shape::Int, ""),
        set("pool", "", inner),
        optional("text", Shape::String, ""),
    ]
}

fn block(key: &str) -> Value {
    Value::Object(Object::from([("key", key)]))
}

fn filled(key: &str) -> &'static str {
    match key {
        "a" => r#"{"key":"a","on":true,"order":0,"run":[],"schedule":[],"text":""}"#,
        _ => r#"{"key":"b","on":true,"order":0,"run":[],"schedule":[],"text":""}"#,
    }
}

#[test]
fn a_created_resource_has_zeros_in_listed_blocks_only() {
    let planned = Object::from([
        ("env", Value::Null),
        ("groups", Value::Unknown),
        ("item", Value::List(vec![block("a")])),
        ("pool", Value::set([block("b")])),
        ("text", "".into()),
    ]);
    let mut state = start(&fields(), &planned);
    state.set("groups", Value::List(vec![]));

    let settled = created(&fields(), &planned, &state);

    assert_eq!(
        settled.get("item").to_string(),
        format!("[{}]", filled("a"))
    );
    assert_eq!(settled.get("pool").to_string(), r#"[{"key":"b"}]"#);
    assert_eq!(
        (settled.text("text"), settled.get("order")),
        (Some(""), &Value::Null)
    );
    assert_eq!(settled.get("groups").to_string(), "[]");
}

#[test]
fn what_a_provider_leaves_uncomputed_is_null() {
    let planned = Object::from([("groups", Value::Unknown), ("pool", Value::Unknown)]);

    let settled = created(&fields(), &planned, &start(&fields(), &planned));

    assert_eq!(settled.get("groups"), &Value::Null);
    assert_eq!(settled.get("pool"), &Value::Set(vec![]));
}

#[test]
fn a_data_source_has_null_for_what_is_empty_and_zeros_in_blocks() {
    let config = Object::from([
        ("env", Value::Map(BTreeMap::new())),
        ("item", Value::List(vec![])),
        ("order", 0.into()),
        ("pool", Value::set([block("b")])),
        ("text", "".into()),
    ]);

    let state = configured(&fields(), &config);

    assert_eq!(
        Value::Object(state).to_string(),
        format!(
            r#"{{"default":"x","env":null,"groups":null,"item":null,"order":0,"pool":[{}],"text":null}}"#,
            filled("b")
        )
    );
}

#[test]
fn blocks_that_a_provider_adds_are_filled_too() {
    let state = Object::from([
        ("item", Value::List(vec![block("a")])),
        ("pool", Value::Null),
    ]);

    let settled = read(&fields(), &state);

    assert_eq!(
        settled.get("item").to_string(),
        format!("[{}]", filled("a"))
    );
    assert_eq!(settled.get("pool"), &Value::Null);
}

#[test]
fn a_stored_state_has_all_blocks_even_those_it_was_written_without() {
    let state = Object::from([("item", Value::List(vec![block("a")]))]);

    let settled = stored(&fields(), &state);

    assert_eq!(settled.get("pool"), &Value::Set(vec![]));
    assert_eq!(
        settled.get("item").elements()[0].get("schedule"),
        &Value::List(vec![])
    );
    assert_eq!(settled.get("item").elements()[0].get("text"), &Value::Null);
}
