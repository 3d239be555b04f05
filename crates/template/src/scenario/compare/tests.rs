//! Differences between two versions whose builds are known.

use std::collections::BTreeMap;

use outpost_base::job::{Agent, App, Resource};
use serde_json::json;

use super::*;

fn facts(resources: &[(&str, Vec<Agent>)], changes: &Value) -> Facts {
    let resource = |(address, agents): &(&str, Vec<Agent>)| Resource {
        address: (*address).to_owned(),
        kind: address.split('.').next().unwrap().to_owned(),
        agents: agents.clone(),
        ..Resource::default()
    };
    Facts {
        plan: json!({ "resource_changes": changes }),
        resources: resources.iter().map(resource).collect(),
        ..Facts::default()
    }
}

fn agent(slugs: &[&str]) -> Agent {
    let app = |slug: &&str| App {
        slug: (*slug).to_owned(),
        ..App::default()
    };
    Agent {
        name: "main".to_owned(),
        apps: slugs.iter().map(app).collect(),
        ..Agent::default()
    }
}

fn parameter(name: &str, kind: &str) -> Parameter {
    Parameter {
        name: name.to_owned(),
        kind: kind.to_owned(),
        ..Parameter::default()
    }
}

#[test]
fn a_replaced_volume_is_lost_and_a_replaced_container_is_not() {
    let mut old = facts(
        &[("a_volume.home", vec![]), ("a_box.dev", vec![agent(&[])])],
        &json!([]),
    );
    old.persistence = BTreeMap::from([
        ("a_volume.home".to_owned(), Persistence::Persistent),
        ("a_box.dev".to_owned(), Persistence::Ephemeral),
    ]);
    let replaced = |address: &str, path: Value| json!({"address": address, "change": {"actions": ["delete", "create"], "replace_paths": [path]}});
    let changes = json!([
        replaced("a_volume.home", json!(["name"])),
        replaced("a_box.dev", json!(["ports", 0, "internal"]))
    ]);
    let new = facts(
        &[("a_volume.home", vec![]), ("a_box.dev", vec![agent(&[])])],
        &changes,
    );

    let difference = Difference::of(&old, &new);

    assert!(difference.loses());
    let lost: Vec<_> = difference
        .resources
        .iter()
        .filter(|it| it.lost)
        .map(|it| it.address.as_str())
        .collect();
    assert_eq!(lost, ["a_volume.home"]);
    assert_eq!(difference.resources[0].because, ["ports[0].internal"]);
    let table = difference.table();
    assert!(
        table.ends_with("Resources: 0 kept, 2 replaced; lost: `a_volume.home`.\n"),
        "{table}"
    );
    assert!(
        difference.markdown().contains("**Resources: "),
        "{}",
        difference.markdown()
    );
}

#[test]
fn parameters_and_apps_that_came_went_or_changed_are_named() {
    let mut old = facts(&[("a_box.dev", vec![agent(&["ide", "docs"])])], &json!([]));
    old.parameters = vec![parameter("size", "string"), parameter("zone", "string")];
    let mut new = facts(&[("a_box.dev", vec![agent(&["ide", "term"])])], &json!([]));
    new.parameters = vec![parameter("size", "number"), parameter("gpu|tpu", "bool")];

    let difference = Difference::of(&old, &new);

    let json = serde_json::to_value(&difference).unwrap();
    let named = |section: &str| -> Vec<(String, String)> {
        let all = json[section].as_array().unwrap().iter();
        let text = |it: &Value| it.as_str().unwrap().to_owned();
        all.map(|it| (text(&it["name"]), text(&it["change"])))
            .collect()
    };
    let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    assert_eq!(
        named("parameters"),
        of(&[
            ("gpu|tpu", "added"),
            ("size", "changed"),
            ("zone", "removed")
        ])
    );
    assert_eq!(
        json["parameters"][1]["fields"],
        json!({"type": {"old": "string", "new": "number"}})
    );
    assert_eq!(
        named("apps"),
        of(&[("main.docs", "removed"), ("main.term", "added")])
    );
    assert_eq!(named("agents"), []);
    assert!(!difference.loses());
    assert!(
        difference.markdown().contains("| gpu\\|tpu | added |"),
        "{}",
        difference.markdown()
    );
}

#[test]
fn a_required_parameter_gets_an_answer_that_it_allows() {
    let option = |value: &str| outpost_base::job::ParameterOption {
        value: value.to_owned(),
        ..Default::default()
    };
    let required = |kind: &str, options: &[&str]| Parameter {
        required: true,
        options: options.iter().map(|it| option(it)).collect(),
        ..parameter("p", kind)
    };
    let before = [ParameterValue {
        name: "p".to_owned(),
        value: "b".to_owned(),
    }];
    let value = |parameter: &Parameter, before: &[ParameterValue]| {
        answer(parameter, &[], before).map(|it| it.text())
    };

    assert_eq!(
        value(&required("string", &["a", "b"]), &before).as_deref(),
        Some("b")
    );
    assert_eq!(
        value(&required("string", &["a", "c"]), &before).as_deref(),
        Some("a")
    );
    assert_eq!(value(&required("number", &[]), &[]).as_deref(), Some("0"));
    assert_eq!(value(&parameter("p", "string"), &[]), None);
}
