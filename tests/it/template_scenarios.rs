//! Scenarios of templates, played by the real program: with an engine, without a network.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cli::outpost, support::wait::until};

const CODER: &str =
    "terraform {\n  required_providers {\n    coder = { source = \"coder/coder\" }\n  }\n}\n";

/// A template in a directory of its own, whose provisioners write to `made` below it.
struct Template(TempDir);

impl Template {
    fn new(source: &str, scenario: &str) -> Self {
        let template = Self(TempDir::new().unwrap());
        template.write(
            "main.tf",
            &source.replace("MADE", template.made().to_str().unwrap()),
        );
        template.write("a.coder.hcl", scenario);
        template
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn made(&self) -> PathBuf {
        self.0.path().join("made")
    }

    fn test(&self, options: &[&str]) -> Command {
        test(&[self.0.path()], options)
    }
}

/// A cache of its own, so that tests do not wait for each other.
fn test(directories: &[&Path], options: &[&str]) -> Command {
    let mut command = outpost();
    let cache = directories[0].join(".cache");
    command
        .args(["template", "test", "--sealed", "--cache-dir"])
        .arg(cache)
        .args(options)
        .args(directories);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}\n{stderr}",
        stdout(output)
    );
}

/// The only run's failures, as JSON.
fn failures(output: &Output) -> Value {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    report["scenarios"][0]["runs"][0]["failures"].clone()
}

#[test]
fn scenarios_of_the_example_templates_pass() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates");
    let names = [
        "process",
        "multi-agent",
        "parameters-and-presets",
        "devcontainer",
    ];
    let directories = names.map(|name| examples.join(name));
    let cache = TempDir::new().unwrap();
    let report = cache.path().join("report.xml");

    let output = outpost()
        .args(["template", "test", "--sealed", "--cache-dir"])
        .arg(cache.path())
        .arg(format!("--report=junit={}", report.display()))
        .args(&directories)
        .output()
        .unwrap();

    assert_ends(&output, 0);
    assert!(
        stdout(&output).ends_with("14 passed\n"),
        "{}",
        stdout(&output)
    );
    let xml = fs::read_to_string(report).unwrap();
    assert!(
        xml.contains("tests=\"14\" failures=\"0\" errors=\"0\" time="),
        "{xml}"
    );
    assert_eq!(xml.matches("<testsuite ").count(), 4, "{xml}");
    assert_eq!(xml.matches("<testcase ").count(), 14, "{xml}");
}

/// Two builds of the same thing, one of which leaves a file.
const EFFECT: &str = "resource \"terraform_data\" \"x\" {\n  provisioner \"local-exec\" {\n    command = \"touch MADE\"\n  }\n}\n";

#[test]
fn nothing_of_a_template_runs_without_apply() {
    let source = format!("{EFFECT}module \"inner\" {{\n  source = \"./inner\"\n}}\n");
    let template = Template::new(
        &source,
        "run \"a\" {}\nrun \"b\" { transition = \"delete\" }\n",
    );
    let inner = r#"{"resource": {"terraform_data": {"y": {"provisioner": [{"local-exec": {"command": "touch MADE"}}]}}}}"#;
    template.write(
        "inner/main.tf.json",
        &inner.replace("MADE", template.made().to_str().unwrap()),
    );

    let output = template.test(&[]).output().unwrap();

    assert_ends(&output, 0);
    assert!(!template.made().exists());
}

#[test]
fn what_apply_made_is_destroyed_even_after_a_failure() {
    let source = "resource \"terraform_data\" \"x\" {\n  provisioner \"local-exec\" {\n    command = \"touch MADE\"\n  }\n  \
        provisioner \"local-exec\" {\n    when    = destroy\n    command = \"mv MADE MADE.gone\"\n  }\n}\n";
    let scenario = "run \"a\" {\n  apply = true\n  assert {\n    condition     = daily_cost == 1\n    error_message = \"no\"\n  }\n}\n";
    let template = Template::new(source, scenario);

    let output = template.test(&[]).output().unwrap();

    assert_ends(&output, 1);
    assert!(!template.made().exists());
    assert!(
        template.0.path().join("made.gone").exists(),
        "{}",
        stdout(&output)
    );
}

#[tokio::test]
async fn what_apply_made_is_destroyed_after_ctrl_c() {
    let source = "resource \"terraform_data\" \"x\" {\n  provisioner \"local-exec\" {\n    when    = destroy\n    \
        command = \"touch MADE.gone\"\n  }\n}\nresource \"terraform_data\" \"slow\" {\n  depends_on = [terraform_data.x]\n  \
        provisioner \"local-exec\" {\n    command = \"touch MADE; exec sleep 100\"\n  }\n}\n";
    let template = Template::new(
        source,
        "run \"a\" { apply = true }\nrun \"b\" { apply = true }\n",
    );
    let mut command = template.test(&["--engine-exit-timeout", "20s"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();

    until("the slow resource is being made", async || {
        template.made().exists()
    })
    .await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();

    assert_ends(&output, 130);
    assert!(
        template.0.path().join("made.gone").exists(),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_failed_condition_tells_place_source_and_values() {
    let scenario = "run \"a\" {\n  assert {\n    condition     = resource[\"terraform_data.x\"].change == \"update\"\n    \
        error_message = \"it is ${resource[\"terraform_data.x\"].change}\"\n  }\n}\n";
    let template = Template::new(EFFECT, scenario);

    let output = template.test(&["--output", "json"]).output().unwrap();

    assert_ends(&output, 1);
    let failure = &failures(&output)[0];
    assert_eq!(
        (&failure["message"], &failure["line"], &failure["column"]),
        (&"it is create".into(), &3.into(), &21.into())
    );
    assert_eq!(
        failure["values"]["resource[\"terraform_data.x\"].change"],
        "\"create\""
    );
}

#[test]
fn a_mistake_ends_with_2_before_anything_is_built() {
    let template = Template::new(EFFECT, "run \"a\" { apply = true }\n");
    template.write(
        "tests/b.coder.hcl",
        "run \"a\" {\n  transitoin = \"stop\"\n}\n",
    );

    let output = template.test(&[]).output().unwrap();

    assert_ends(&output, 2);
    assert!(!template.made().exists());
    let said = stdout(&output);
    assert!(said.contains("tests/b.coder.hcl:2:3: unknown argument `transitoin` in a run; did you mean `transition`?"), "{said}");
}

const QUESTION: &str = "data \"coder_parameter\" \"size\" {\n  name    = \"size\"\n  default = \"small\"\n  mutable = false\n  \
    option {\n    name  = \"Small\"\n    value = \"small\"\n  }\n  option {\n    name  = \"Large\"\n    value = \"large\"\n  }\n}\n\
    data \"coder_workspace_preset\" \"large\" {\n  name       = \"Large\"\n  parameters = { size = \"large\" }\n}\n\
    variable \"zone\" {\n  default = \"a\"\n}\noutput \"zone\" {\n  value = upper(var.zone)\n}\n";

#[test]
fn names_that_the_template_does_not_have_are_mistakes_with_suggestions() {
    let source = format!("{CODER}{QUESTION}");
    for (scenario, message) in [
        (
            "variables = { zonne = \"b\" }\nrun \"a\" {}\n",
            "a.coder.hcl:1:15: the template has no variable `zonne`; did you mean `zone`?",
        ),
        (
            "run \"a\" { parameters = { sise = \"small\" } }\n",
            "a.coder.hcl:1:26: the template has no parameter `sise`; did you mean `size`?",
        ),
        (
            "run \"a\" { preset = \"Lage\" }\n",
            "a.coder.hcl:1:20: the template has no preset \"Lage\"; did you mean `Large`?",
        ),
        (
            "mock_resource \"aws_vm\" { values = {} }\nrun \"a\" {}\n",
            "a.coder.hcl:1:1: `aws_vm` is of no mocked provider",
        ),
    ] {
        let template = Template::new(&source, scenario);

        let output = template.test(&[]).output().unwrap();

        assert_ends(&output, 2);
        assert!(stdout(&output).contains(message), "{}", stdout(&output));
    }
}

#[test]
fn answers_come_from_run_preset_file_and_the_build_before() {
    let scenario = r#"
variables  = { zone = "b" }
parameters = { size = "small" }
run "run" {
  preset     = "Large"
  parameters = { size = "small" }
  assert {
    condition     = parameter.size.value == "small" && preset.Large.parameters.size == "large"
    error_message = "the run's answer counts"
  }
  assert {
    condition     = variable.zone == "b" && output.zone == "B"
    error_message = "variables reach outputs"
  }
}
run "immutable" { preset = "Large"  expect_error = "size.*cannot change" }
run "not_an_option" { parameters = { size = "huge" }  expect_error = "size" }
run "delete" { transition = "delete" }
run "preset" {
  preset = "Large"
  assert { condition = parameter.size.value == "large"  error_message = "the preset's answer counts over the file's" }
}
"#;
    let template = Template::new(&format!("{CODER}{QUESTION}"), scenario);

    let output = template.test(&[]).output().unwrap();

    assert_ends(&output, 0);
}

#[test]
fn an_expected_error_that_does_not_come_is_a_failure() {
    let template = Template::new(EFFECT, "run \"a\" { expect_error = \"x\" }\n");
    let output = template.test(&["--output", "json"]).output().unwrap();
    assert_ends(&output, 1);
    assert!(
        failures(&output)[0]["message"]
            .as_str()
            .unwrap()
            .contains("the run succeeded")
    );

    let template = Template::new(
        "resource \"terraform_data\" \"x\" {\n  input = var.nope\n}\n",
        "run \"a\" {}\n",
    );
    let output = template.test(&["--output", "json"]).output().unwrap();
    assert_ends(&output, 1);
    assert!(
        stdout(&output).contains("undeclared input variable"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn what_would_need_a_mock_ends_with_3() {
    let template = Template::new("resource \"docker_volume\" \"home\" {}\n", "run \"a\" {}\n");

    let output = template.test(&["--output", "json"]).output().unwrap();

    assert_ends(&output, 3);
    assert!(
        failures(&output)[0]["message"]
            .as_str()
            .unwrap()
            .contains("hashicorp/docker")
    );
}

#[test]
fn a_table_is_written_by_update_and_compared_without() {
    let template = Template::new(EFFECT, "run \"a\" { golden = \"a.txt\" }\n");
    assert_ends(&template.test(&[]).output().unwrap(), 1);

    assert_ends(&template.test(&["--update"]).output().unwrap(), 0);
    assert_ends(&template.test(&[]).output().unwrap(), 0);

    let table = fs::read_to_string(template.0.path().join("a.txt")).unwrap();
    assert!(
        table.contains("terraform_data.x  peripheral  persistent   create  -       -"),
        "{table}"
    );
    template.write("a.txt", &table.replace("persistent", "ephemeral"));
    let output = template.test(&[]).output().unwrap();
    assert_ends(&output, 1);
    assert!(
        stdout(&output).contains("+ terraform_data.x  peripheral  persistent"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn filters_shards_and_failing_fast_choose_runs() {
    let scenario = "run \"one\" {}\nrun \"two\" { expect_error = \"x\" }\nrun \"three\" {}\n";
    let template = Template::new(EFFECT, scenario);
    template.write("tests/b.coder.hcl", "run \"other\" {}\n");
    let summary = |options: &[&str]| {
        let output = template
            .test(&[&["--output", "json", "--jobs", "1"], options].concat())
            .output()
            .unwrap();
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let count = |name: &str| report["summary"][name].as_u64().unwrap();
        (count("passed"), count("failed"), count("skipped"))
    };

    assert_eq!(summary(&[]), (3, 1, 0));
    assert_eq!(summary(&["--fail-fast"]), (1, 1, 2));
    assert_eq!(summary(&["--filter", "a.coder.hcl/one$"]), (1, 0, 0));
    assert_eq!(summary(&["--shard", "2/2"]), (1, 0, 0));
    assert_ends(
        &template.test(&["--filter", "nothing"]).output().unwrap(),
        2,
    );
    assert_ends(&template.test(&["--shard", "3/2"]).output().unwrap(), 2);
}

#[test]
fn a_state_of_a_workspace_is_where_runs_begin() {
    let state = r#"{"version": 4, "terraform_version": "1.5.0", "serial": 3, "lineage": "a", "outputs": {}, "resources": [
        {"mode": "managed", "type": "terraform_data", "name": "old", "provider": "provider[\"terraform.io/builtin/terraform\"]",
         "instances": [{"schema_version": 0, "attributes": {"id": "x", "input": null, "output": null, "triggers_replace": null}}]},
        {"mode": "managed", "type": "terraform_data", "name": "x", "provider": "provider[\"terraform.io/builtin/terraform\"]",
         "instances": [{"schema_version": 0, "attributes": {"id": "y", "input": null, "output": null, "triggers_replace": null}}]}
    ], "check_results": null}"#;
    let scenario = "run \"a\" { assert {\n  condition     = resource[\"terraform_data.x\"].change == \"no-op\" && \
        resource[\"terraform_data.old\"].change == \"delete\"\n  error_message = \"the state does not count\"\n} }\n";
    let template = Template::new(EFFECT, scenario);
    template.write("old.tfstate", state);
    let file = template.0.path().join("old.tfstate");

    let output = template
        .test(&["--state", file.to_str().unwrap()])
        .output()
        .unwrap();

    assert_ends(&output, 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), state);
    template.write("old.tfstate", "{}");
    assert_ends(
        &template
            .test(&["--state", file.to_str().unwrap()])
            .output()
            .unwrap(),
        2,
    );
}

#[test]
fn no_scenario_at_all_is_wrong_usage() {
    let empty = TempDir::new().unwrap();
    let output = test(&[empty.path()], &[]).output().unwrap();

    assert_ends(&output, 2);
}
