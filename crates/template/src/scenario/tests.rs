use std::collections::BTreeMap;

use outpost_base::job::{
    Agent, AgentAuth, App, Persistence, Preset, Resource, ResourceMetadata, SharingLevel,
    Transition,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The example of the specification, with several arguments on one line.
const EXAMPLE: &str = r#"
owner      { name = "ada"  groups = ["dev"] }        # defaults
workspace  { name = "w" }
variables  = { zone = "a" }
parameters = { size = "small" }
mock_data "aws_ami" "ubuntu" { values = { id = "ami-1" } }
mock_resource "aws_instance" { values = { private_ip = "10.0.0.1" } }

run "first_start" {
  transition = "start"                               # start (default) | stop | delete
  preset     = "Large"
  parameters = { size = "large" }
  assert {
    condition     = agent.main.apps["code-server"].url == "http://localhost:8080" && resource["aws_instance.vm[0]"].class == "computational"
    error_message = "code-server must listen at 8080"
  }
}
run "restart_keeps_home" { assert { condition = resource["docker_volume.home"].change == "no-op"  error_message = "home is lost" } }
run "too_big" { parameters = { size = "huge" }  expect_error = "size" }
"#;

#[test]
fn everything_that_a_scenario_can_say_is_read() {
    let scenario = parse("a.coder.hcl", EXAMPLE).unwrap();

    let owner = Owner {
        groups: vec!["dev".to_owned()],
        ..Owner::named("ada")
    };
    assert_eq!((scenario.owner, scenario.workspace.as_str()), (owner, "w"));
    assert_eq!(
        (scenario.variables[0].text(), scenario.parameters[0].text()),
        ("a".to_owned(), "small".to_owned())
    );
    let mocks: Vec<_> = scenario
        .mocks
        .iter()
        .map(|it| (it.is_data, it.kind.as_str(), it.name.as_deref()))
        .collect();
    assert_eq!(
        mocks,
        [
            (true, "aws_ami", Some("ubuntu")),
            (false, "aws_instance", None)
        ]
    );
    let [first, restart, big] = scenario.runs.as_slice() else {
        panic!("{:?}", scenario.runs);
    };
    assert_eq!(first.preset.as_ref().unwrap().0, "Large");
    assert_eq!(first.parameters[0].name, "size");
    let roots: Vec<_> = first.asserts[0]
        .references
        .iter()
        .map(|it| it.source.as_str())
        .collect();
    assert_eq!(
        roots,
        [
            "agent.main.apps[\"code-server\"].url",
            "resource[\"aws_instance.vm[0]\"].class"
        ]
    );
    assert_eq!(
        restart.asserts[0].condition,
        "resource[\"docker_volume.home\"].change == \"no-op\""
    );
    assert_eq!(
        (restart.place.line, restart.asserts[0].place.column),
        (18, 49)
    );
    assert!(big.expect_error.as_ref().unwrap().is_match("size"));
}

#[test]
fn transitions_and_values_of_every_type_are_read() {
    let text = "variables = {\n  n = 1\n  b = true\n  l = [\"x\"]\n  f = upper(\"u\")\n}\nrun \"a\" {\n  transition = \"delete\"\n  apply = true\n}\n";

    let scenario = parse("a", text).unwrap();

    let texts: Vec<_> = scenario.variables.iter().map(Given::text).collect();
    assert_eq!(texts, ["1", "true", "[\"x\"]", "U"]);
    assert_eq!(
        (scenario.runs[0].transition, scenario.runs[0].apply),
        (Transition::Destroy, true)
    );
}

/// Each mistake, its place, and what the message must have.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "runn \"a\" {}",
        "1:1",
        "unknown block `runn` in a scenario; did you mean `run`?",
    ),
    (
        "paramters = {}\nrun \"a\" {}",
        "1:1",
        "did you mean `parameters`?",
    ),
    (
        "run \"a\" {\n  transitoin = \"stop\"\n}",
        "2:3",
        "did you mean `transition`?",
    ),
    (
        "run \"a\" {\n  transition = \"stopp\"\n}",
        "2:16",
        "did you mean `stop`?",
    ),
    (
        "run \"a\" {}\nrun \"a\" {}",
        "2:1",
        "there is a run \"a\" already",
    ),
    ("run {}", "1:1", "takes one label, not 0"),
    (
        "owner {}\nowner {}\nrun \"a\" {}",
        "2:1",
        "there is a block `owner` already",
    ),
    (
        "owner { nmae = \"x\" }\nrun \"a\" {}",
        "1:9",
        "did you mean `name`?",
    ),
    (
        "owner { name = \"a b\" }\nrun \"a\" {}",
        "1:16",
        "1 to 32 letters",
    ),
    (
        "owner = { name = \"x\" }\nrun \"a\" {}",
        "1:1",
        "`owner` is a block",
    ),
    (
        "variables { a = 1 }\nrun \"a\" {}",
        "1:1",
        "`variables` is an argument",
    ),
    ("variables = [1]\nrun \"a\" {}", "1:13", "must be an object"),
    (
        "run \"a\" {\n  parameters = { size = var.x }\n}",
        "2:25",
        "nothing can be referred to",
    ),
    (
        "run \"a\" {\n  expect_error = \"(\"\n}",
        "2:18",
        "not a regular expression",
    ),
    (
        "run \"a\" {\n  apply = \"x\"\n}",
        "2:11",
        "must be true or false",
    ),
    (
        "run \"a\" {\n  connect = true\n}",
        "2:13",
        "needs `apply = true`",
    ),
    (
        "run \"a\" {\n  ssh { command = \"x\" }\n}",
        "2:3",
        "needs `connect = true`",
    ),
    (
        "run \"a\" {\n  expect_error = \"x\"\n  golden = \"y\"\n}",
        "2:3",
        "makes nothing",
    ),
    (
        "run \"a\" {\n  assert { condition = true }\n}",
        "2:3",
        "`error_message` is missing",
    ),
    (
        "run \"a\" { assert { condition = agnet.main.os == \"\"  error_message = \"\" } }",
        "1:32",
        "did you mean `agent`?",
    ),
    (
        "run \"a\" { assert { condition = agent.main.oss == \"\"  error_message = \"\" } }",
        "1:42",
        "did you mean `os`?",
    ),
    (
        "run \"a\" { assert { condition = true error_message = \"${agnt.x}\" } }",
        "1:56",
        "did you mean `agent`?",
    ),
    ("mock_data {}\nrun \"a\" {}", "1:1", "1 or 2 labels"),
    (
        "mock_data \"a\" {}\nrun \"a\" {}",
        "1:1",
        "`values` is missing",
    ),
    ("run \"a\" {\n  x = \n}", "2:7", "syntax error"),
    ("", "1:1", "there is no `run` block"),
];

#[test]
fn every_mistake_has_a_place_and_a_remedy() {
    for (text, place, message) in WRONG {
        let problems = parse("a.coder.hcl", text).unwrap_err();

        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let place = format!("a.coder.hcl:{place}: ");
        let is_said = said
            .iter()
            .any(|it| it.starts_with(&place) && it.contains(message));
        assert!(
            is_said,
            "{text}\nexpected {place}{message}\nfound {said:#?}"
        );
    }
}

#[test]
fn names_that_for_binds_are_no_mistakes() {
    let text = r#"run "a" { assert {
  condition = alltrue([for name, it in resource : it.hide == false if name != ""]) && "%{for x in tags}${x}%{endfor}" == ""
  error_message = "x"
} }"#;

    let scenario = parse("a", text).unwrap();

    let found: Vec<_> = scenario.runs[0].asserts[0]
        .references
        .iter()
        .map(|it| it.source.as_str())
        .collect();
    assert_eq!(found, ["resource", "tags"]);
}

#[test]
fn what_is_too_large_is_refused() {
    let long = "#".repeat(MAX_BYTES + 1);
    let many: String = (0..501).map(|n| format!("run \"r{n}\" {{}}\n")).collect();
    let deep = format!(
        "variables = {{ x = {}1{} }}\nrun \"a\" {{}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );

    for (text, reason) in [
        (long, "more than"),
        (many, "at most 500 runs"),
        (deep, "syntax error"),
    ] {
        let problems = parse("a", &text).unwrap_err();
        assert!(problems[0].message.contains(reason), "{problems:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(run|assert|owner|\"a\"|\\{|\\}|=|\\[|\\]|<<E|E|\n| |\\$\\{|\"|\\\\|ö|#|/\\*|true|x){0,60}") {
        let _ = parse("a", &text);
    }

    #[test]
    fn a_place_is_never_behind_the_end(text in "[a-z{}=\" \n]{0,80}") {
        if let Err(problems) = parse("a", &text) {
            let lines = text.split('\n').count();
            prop_assert!(problems.iter().all(|it| (1..=lines).contains(&it.place.line)));
        }
    }
}

fn facts() -> Facts {
    let app = App {
        slug: "code-server".to_owned(),
        url: "http://localhost:8080".to_owned(),
        sharing_level: SharingLevel::Authenticated,
        ..App::default()
    };
    let agent = Agent {
        name: "main".to_owned(),
        operating_system: "linux".to_owned(),
        auth: AgentAuth::Token("secret-token".to_owned()),
        apps: vec![app],
        env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        extra_envs: vec![outpost_base::job::Env {
            name: "PATH".to_owned(),
            value: "/opt".to_owned(),
            merge_strategy: "append".to_owned(),
        }],
        ..Agent::default()
    };
    let vm = Resource {
        address: "aws_instance.vm[0]".to_owned(),
        kind: "aws_instance".to_owned(),
        name: "vm".to_owned(),
        agents: vec![agent],
        daily_cost: 3,
        metadata: vec![ResourceMetadata {
            key: "size".to_owned(),
            value: "large".to_owned(),
            ..ResourceMetadata::default()
        }],
        ..Resource::default()
    };
    let gone = Resource {
        address: "aws_ebs_volume.old".to_owned(),
        ..Resource::default()
    };
    Facts {
        plan: json!({
            "variables": {"zone": {"value": "a"}},
            "planned_values": {"outputs": {"ip": {"value": "10.0.0.1"}}, "root_module": {"resources": [
                {"mode": "data", "type": "coder_parameter", "values": {"name": "size", "value": "large"}},
            ]}},
            "prior_state": {"values": {"root_module": {"child_modules": [{"resources": [
                {"mode": "data", "type": "coder_workspace_tags", "values": {"tags": {"zone": "eu"}}},
            ]}]}}},
            "resource_changes": [
                {"address": "aws_instance.vm[0]", "change": {"actions": ["delete", "create"]}},
                {"address": "aws_ebs_volume.old", "change": {"actions": ["delete"]}},
            ],
        }),
        state: json!({"resources": [
            {"mode": "managed", "type": "aws_instance", "name": "vm", "instances": [
                // `secret-token` in base64.
                {"index_key": 0, "attributes": {"user_data": ["IyEvYmluL3NoCnNlY3JldC10b2tlbgo="]}},
            ]},
            {"mode": "managed", "type": "aws_ebs_volume", "name": "home", "instances": [{"attributes": {"id": "x"}}]},
        ]}),
        resources: vec![vm],
        before: vec![gone],
        persistence: BTreeMap::from([("aws_instance.vm[0]".to_owned(), Persistence::Ephemeral)]),
        parameters: vec![outpost_base::job::Parameter {
            name: "size".to_owned(),
            default_value: "small".to_owned(),
            options: vec![outpost_base::job::ParameterOption {
                value: "small".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }],
        presets: vec![Preset {
            name: "Large one".to_owned(),
            default: true,
            ..Preset::default()
        }],
        daily_cost: 3,
        ..Facts::default()
    }
}

fn check_one(condition: &str) -> Option<Failure> {
    let text = format!(
        "run \"a\" {{ assert {{ condition = {condition}  error_message = \"costs ${{daily_cost}}\" }} }}"
    );
    let scenario = parse("a.coder.hcl", &text).unwrap();
    condition::check(&scenario.runs[0].asserts[0], &facts().context())
}

#[test]
fn conditions_see_all_of_a_build() {
    for condition in [
        "agent.main.apps[\"code-server\"].url == \"http://localhost:8080\"",
        "agent.main.apps.code-server.share == \"authenticated\" && agent.main.apps.code-server.healthcheck == null",
        "agent.main.os == \"linux\" && agent.main.resource == \"aws_instance.vm[0]\"",
        "agent.main.token_reaches == [\"aws_instance.vm[0]\"]",
        "agent.main.env.PATH == \"/bin:/opt\"",
        "resource[\"aws_instance.vm[0]\"].class == \"computational\"",
        "resource[\"aws_instance.vm[0]\"].persistence == \"ephemeral\"",
        "resource[\"aws_instance.vm[0]\"].change == \"replace\"",
        "resource[\"aws_instance.vm[0]\"].metadata.size == \"large\"",
        "resource[\"aws_ebs_volume.old\"].change == \"delete\"",
        "parameter.size.value == \"large\" && parameter.size.default == \"small\"",
        "contains(parameter.size.options, \"small\")",
        "preset[\"Large one\"].default && tags.zone == \"eu\" && daily_cost == 3",
        "variable.zone == \"a\" && output.ip == \"10.0.0.1\"",
        "length([for r in values(resource) : r if r.class == \"computational\"]) == 1",
    ] {
        assert_eq!(check_one(condition), None, "{condition}");
    }
}

#[test]
fn a_failed_condition_tells_its_source_the_values_and_the_message() {
    let failure = check_one("daily_cost < 2 && agent.main.os == \"linux\"").unwrap();

    assert_eq!(failure.message, "costs 3");
    assert_eq!(
        failure.condition.as_deref(),
        Some("daily_cost < 2 && agent.main.os == \"linux\"")
    );
    let values: Vec<_> = failure
        .values
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        values,
        [("agent.main.os", "\"linux\""), ("daily_cost", "3")]
    );
    assert_eq!(failure.place.to_string(), "a.coder.hcl:1:32");
}

#[test]
fn a_name_that_the_build_does_not_have_is_told_with_a_suggestion() {
    let failure = check_one("agent.mian.os == \"linux\"").unwrap();
    assert!(
        failure.message.contains("did you mean `main`?"),
        "{}",
        failure.message
    );
    assert_eq!(failure.place.column, 37);

    let failure = check_one("resource[\"aws_instance.vm\"].hide").unwrap();
    assert!(
        failure
            .message
            .contains("did you mean `aws_instance.vm[0]`?"),
        "{}",
        failure.message
    );
    assert_eq!(check_one("!can(agent.mian.os)"), None);
}

#[test]
fn a_table_of_resources_is_compared_line_by_line() {
    let table = golden::table(&facts());

    let lines: Vec<_> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "Resource Class Persistence Change Agents Cost per day",
        "aws_ebs_volume.old peripheral - delete - -",
        "aws_instance.vm[0] computational ephemeral replace main 3",
    ];
    assert_eq!(lines, expected);
    assert_eq!(golden::difference(&table, &table), Vec::<String>::new());
    let other = table.replace("replace", "update");
    let difference = golden::difference(&other, &table);
    assert!(difference[0].starts_with("- aws_instance.vm[0]") && difference[0].contains("update"));
    assert!(difference[1].starts_with("+ aws_instance.vm[0]") && difference[1].contains("replace"));
}

#[test]
fn reports_count_escape_and_name_places() {
    let run = PlayedRun {
        name: "a<b".to_owned(),
        outcome: Outcome::Failed,
        seconds: 1.5,
        failures: vec![check_one("daily_cost < 2").unwrap()],
        resources: Default::default(),
    };
    let skipped = PlayedRun {
        outcome: Outcome::Skipped,
        ..run.clone()
    };
    let played = [Played {
        directory: "dir".to_owned(),
        file: "tests/a.coder.hcl".to_owned(),
        variant: String::new(),
        runs: vec![run, skipped],
        problems: Vec::new(),
        left: None,
        seconds: 2.0,
        is_cached: false,
    }];

    let xml = report::junit(&played);
    assert!(xml.contains("<testsuite name=\"dir/tests/a.coder.hcl\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"1\""));
    assert!(
        xml.contains("name=\"a&lt;b\"") && xml.contains("condition: daily_cost &lt; 2"),
        "{xml}"
    );
    let value = report::json(&played);
    let failure = &value["scenarios"][0]["runs"][0]["failures"][0];
    assert_eq!(
        (&failure["line"], &failure["values"]["daily_cost"]),
        (&Value::from(1), &Value::from("3"))
    );
    assert_eq!(value["summary"]["failed"], 1);
    let table = report::table(&played);
    assert!(
        table.contains("FAILED   a<b (1.5 s)\n    a.coder.hcl:1:32: costs 3\n"),
        "{table}"
    );
    assert!(table.ends_with("0 passed, 1 failed, 1 skipped"), "{table}");
}

#[test]
fn many_resources_take_no_time_for_each_pair_of_them() {
    let resource = |index: usize| Resource {
        address: format!("terraform_data.x[{index}]"),
        ..Resource::default()
    };
    let changes: Vec<_> = (0..20_000)
        .map(|index| json!({"address": resource(index).address, "change": {"actions": ["create"]}}))
        .collect();
    let facts = Facts {
        plan: json!({ "resource_changes": changes }),
        resources: (0..20_000).map(resource).collect(),
        before: (20_000..40_000).map(resource).collect(),
        ..Facts::default()
    };

    let began = std::time::Instant::now();
    let context = facts.context();

    assert_eq!(
        context["resource"]["terraform_data.x[19999]"]["change"],
        "create"
    );
    assert_eq!(context["resource"].as_object().unwrap().len(), 20_000);
    // Two thousand times as long if each resource looked at all others.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
