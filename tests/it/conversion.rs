//! Conversions, held against the reference's, and against our own golden files.
//!
//! The reference's cases lie beside the repository in `../shared/goldens` (or in `$OUTPOST_SHARED/goldens`); without
//! them the test says so. Our own are in `testdata/templates`: `UPDATE_GOLDEN=1` rewrites what is expected.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outpost::{
    job::Class,
    terraform::{
        graph::Graph,
        plan::Plan,
        reference_json,
        resources::{self, ConvertError, Converted},
        state::State,
    },
};
use serde_json::{Value, json};

use crate::support::skip::skipped;

#[test]
fn every_case_of_the_reference_converts_equally() {
    let shared = std::env::var_os("OUTPOST_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| repository().join("../shared"));
    let Ok(cases) = fs::read_dir(shared.join("goldens")) else {
        return skipped("cases of the reference", "none beside the repository");
    };
    let mut compared = 0;
    for case in cases.map(|case| case.unwrap().path()) {
        let name = case.file_name().unwrap().to_str().unwrap();
        for step in ["plan", "state"] {
            let expected = fs::read(case.join(format!("converted_state.{step}.golden"))).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            let files = [".json", ".dot"].map(|end| case.join(format!("{name}.tf{step}{end}")));
            let converted = reference_json::render(&convert(&files, step));
            assert_eq!(converted, expected, "{} {step}", case.display());
            compared += 1;
        }
    }
    assert_eq!(compared, 40, "twenty cases, plan and state each");
}

#[test]
fn every_template_converts_to_its_golden_resources() {
    for case in own_cases() {
        let golden = case.join("resources.golden");
        let converted = ["plan", "state"]
            .map(|step| reference_json::render(&convert(&files(&case, step), step)));
        let [plan, state] = converted;
        let converted = json!({"plan": plan, "state": state});
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&converted).unwrap();
            fs::write(&golden, text + "\n").unwrap();
            continue;
        }
        let expected: Value = serde_json::from_slice(&fs::read(&golden).unwrap()).unwrap();
        assert_eq!(converted, expected, "{}", case.display());
    }
}

#[test]
fn ten_conversions_are_equal_to_the_byte() {
    for case in own_cases() {
        for step in ["plan", "state"] {
            let files = files(&case, step);
            let once = || format!("{:?}", without_app_ids(convert(&files, step)));
            let first = once();
            (0..9).for_each(|_| assert_eq!(once(), first, "{} {step}", case.display()));
        }
    }
}

#[test]
fn agents_of_a_plan_stand_where_the_state_has_them() {
    let hosts = |case: &str, step: &str| -> Vec<String> {
        let converted = convert(&files(&templates().join(case), step), step).unwrap();
        let computational = converted.resources.into_iter();
        computational
            .filter(|resource| resource.class() == Class::Computational)
            .map(|resource| resource.address)
            .collect()
    };
    let cases = [
        ("chain", vec!["terraform_data.b"]),
        ("tie", vec!["terraform_data.early"]),
        (
            "counted",
            vec!["terraform_data.vm[0]", "terraform_data.vm[1]"],
        ),
        (
            "counted-module",
            vec!["module.machine[0].terraform_data.vm"],
        ),
        (
            "indexed",
            vec!["terraform_data.vm[0]", "terraform_data.vm[1]"],
        ),
        (
            "keyed-modules",
            vec![
                r#"module.machine["east"].terraform_data.vm"#,
                r#"module.machine["west"].terraform_data.vm"#,
            ],
        ),
        ("agent-in-module", vec!["terraform_data.deployment"]),
        ("external-agent", vec!["coder_external_agent.main"]),
        (
            "through-module",
            vec![
                r#"module.machine.terraform_data.vm["a.b"]"#,
                r#"module.machine.terraform_data.vm["c\"d"]"#,
            ],
        ),
    ];
    for (case, expected) in cases {
        assert_eq!(hosts(case, "plan"), expected, "{case}");
        assert_eq!(hosts(case, "state"), expected, "{case}");
    }
}

#[test]
fn instances_that_the_reference_refuses_have_what_is_theirs() {
    /// An address, and what the resource has.
    type Has<'a> = (&'a str, &'a [&'a str]);
    let made = |case: &str, step: &str| -> Vec<(String, Vec<String>)> {
        let converted = convert(&files(&templates().join(case), step), step).unwrap();
        let told = |resource: outpost::job::Resource| {
            let agents = resource.agents.iter().map(|agent| {
                let apps: Vec<_> = agent.apps.iter().map(|app| app.slug.as_str()).collect();
                format!("{}: {}", agent.name, apps.join(" "))
            });
            let facts = resource.metadata.iter();
            let facts = facts.map(|fact| format!("{}={}", fact.key, fact.value));
            (resource.address.clone(), agents.chain(facts).collect())
        };
        converted.resources.into_iter().map(told).collect()
    };
    let cases: [(&str, &[Has<'_>]); 3] = [
        (
            "indexed",
            &[
                ("terraform_data.password[0]", &["number=0"]),
                ("terraform_data.password[1]", &["number=1"]),
                ("terraform_data.password[2]", &["number=2"]),
                ("terraform_data.vm[0]", &["dev-0: ide"]),
                ("terraform_data.vm[1]", &["dev-1: ide"]),
            ],
        ),
        (
            "keyed-modules",
            &[
                (
                    r#"module.machine["east"].terraform_data.vm"#,
                    &["main-east: ide", "kind=machine"],
                ),
                (
                    r#"module.machine["west"].terraform_data.vm"#,
                    &["main-west: ide", "kind=machine"],
                ),
            ],
        ),
        (
            "app-of-one-agent",
            &[
                ("terraform_data.ad", &["ad: ", "master: studio"]),
                ("terraform_data.master", &[]),
            ],
        ),
    ];
    for (case, expected) in cases {
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(address, has)| {
                let has = has.iter().map(|text| (*text).to_owned());
                ((*address).to_owned(), has.collect())
            })
            .collect();
        for step in ["plan", "state"] {
            assert_eq!(made(case, step), expected, "{case} {step}");
        }
    }
}

#[test]
fn the_program_prints_the_same_conversion() {
    for (case, step) in [("containers", "plan"), ("metadata-twice", "state")] {
        let files = files(&templates().join(case), step);
        let printed = inspect(&files, "reference-json");
        assert!(printed.status.success(), "{printed:?}");
        let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
        assert_eq!(printed, reference_json::render(&convert(&files, step)));
    }
}

#[test]
fn a_malformed_graph_is_a_conversion_error_of_one_string() {
    let dir = tempfile::tempdir().unwrap();
    let graph = dir.path().join("graph.dot");
    fs::write(&graph, "digraph {\n  \"a\" ->\n}").unwrap();
    let plan = templates().join("chain/plan.json");

    let printed = inspect(&[plan, graph], "reference-json");

    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed, "parse graph: expected a node after `->` in line 3");
}

#[test]
fn a_file_that_is_no_plan_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.json");
    let graph = templates().join("chain/graph.dot");
    let cases = [
        ("{", "failed to read `"),
        (r#"{"format_version":"2.0"}"#, "format version `2.0`"),
    ];
    for (text, expected) in cases {
        fs::write(&file, text).unwrap();
        let printed = inspect(&[file.clone(), graph.clone()], "table");
        let said = String::from_utf8(printed.stderr).unwrap();
        assert!(!printed.status.success());
        assert!(
            said.contains(expected) && said.contains("wrong.json"),
            "{said}"
        );
    }
}

#[test]
fn pictures_of_a_plan_and_of_a_source_are_drawn_in_every_form() {
    let files = files(&templates().join("two-agents"), "plan");
    for (format, expected) in [
        ("table", "terraform_data.vm  computational"),
        ("json", "\"basis\": \"plan\""),
        ("mermaid", "-->|runs in|"),
        ("svg", "agent build · linux/arm64"),
    ] {
        let printed = inspect(&files, format);
        let text = String::from_utf8(printed.stdout).unwrap();
        assert!(text.contains(expected), "{format}: {text}");
    }
    let source = outpost(&["inspect", "--source-only", "--output", "json"])
        .arg(templates().join("counted"))
        .output()
        .unwrap();
    let picture: Value = serde_json::from_slice(&source.stdout).unwrap();
    let told: Vec<_> = picture["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| {
            (
                &resource["address"],
                &resource["class"],
                &resource["persistence"],
            )
        })
        .collect();
    let expected = [
        (
            &json!("terraform_data.disk"),
            &json!("peripheral"),
            &json!("persistent"),
        ),
        (
            &json!("terraform_data.vm"),
            &json!("computational"),
            &json!("ephemeral"),
        ),
    ];
    assert_eq!(told, expected);
}

#[test]
fn only_inspect_draws() {
    let printed = outpost(&["version", "--output", "svg"]).output().unwrap();

    assert_eq!(printed.status.code(), Some(2));
}

/// Before an apply apps have no ids, so they get random ones.
fn without_app_ids(converted: Result<Converted, ConvertError>) -> Result<Converted, ConvertError> {
    let mut converted = converted?;
    for agent in converted
        .resources
        .iter_mut()
        .flat_map(|resource| &mut resource.agents)
    {
        let inside = agent
            .devcontainers
            .iter_mut()
            .flat_map(|container| &mut container.apps);
        agent
            .apps
            .iter_mut()
            .chain(inside)
            .for_each(|app| app.id.clear());
    }
    Ok(converted)
}

fn convert(files: &[PathBuf; 2], step: &str) -> Result<Converted, ConvertError> {
    let json = fs::read(&files[0]).unwrap();
    let dot = fs::read_to_string(&files[1]).unwrap();
    let graph = Graph::parse(&dot).unwrap();
    match step {
        "plan" => {
            let plan = Plan::parse(&json).unwrap();
            resources::convert(plan.modules(), &graph, Some(plan.configuration()))
        }
        _ => resources::convert(State::parse(&json).unwrap().modules(), &graph, None),
    }
}

fn inspect(files: &[PathBuf; 2], format: &str) -> Output {
    let mut command = outpost(&["inspect", "--output", format, "--show-json"]);
    command.arg(&files[0]).arg("--graph").arg(&files[1]);
    command.output().unwrap()
}

fn outpost(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command.args(arguments);
    command
}

fn files(case: &Path, step: &str) -> [PathBuf; 2] {
    [case.join(format!("{step}.json")), case.join("graph.dot")]
}

fn own_cases() -> Vec<PathBuf> {
    let cases = fs::read_dir(templates()).unwrap();
    let mut cases: Vec<_> = cases.map(|case| case.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 10, "{cases:?}");
    cases
}

fn templates() -> PathBuf {
    repository().join("testdata/templates")
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
