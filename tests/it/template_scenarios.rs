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
        "docker",
        "kubernetes",
        "aws",
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
        stdout(&output).ends_with("29 passed\n"),
        "{}",
        stdout(&output)
    );
    let xml = fs::read_to_string(report).unwrap();
    assert!(
        xml.contains("tests=\"29\" failures=\"0\" errors=\"0\" time="),
        "{xml}"
    );
    assert_eq!(xml.matches("<testsuite ").count(), 7, "{xml}");
    assert_eq!(xml.matches("<testcase ").count(), 29, "{xml}");
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
fn neither_data_sources_nor_providers_of_a_template_run_without_apply() {
    use std::os::unix::fs::PermissionsExt as _;
    let source = "terraform {\n  required_providers {\n    fake = {\n      source  = \"acme/fake\"\n      version = \"~> 1.0\"\n    }\n  }\n  \
        backend \"http\" {\n    address = \"http://127.0.0.1:1/\"\n  }\n}\n\
        data \"external\" \"x\" {\n  program = [\"touch\", \"MADE\"]\n}\nresource \"fake_thing\" \"x\" {\n  \
        input = data.external.x.result.a\n  provisioner \"local-exec\" {\n    command = \"touch MADE\"\n  }\n}\n";
    let template = Template::new(
        source,
        "run \"a\" {}\nrun \"b\" { transition = \"stop\" }\nrun \"c\" { transition = \"delete\" }\nrun \"d\" {}\n",
    );
    for place in [".terraform/providers", "terraform.d/plugins"] {
        let name = format!(
            "{place}/registry.terraform.io/acme/fake/1.0.0/linux_amd64/terraform-provider-fake_v1.0.0"
        );
        let program = format!("#!/bin/sh\ntouch '{}'\n", template.made().display());
        template.write(&name, &program);
        let path = template.0.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

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
fn commands_run_at_agents_of_a_workspace_that_was_really_built() {
    let process = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates/process");
    let main = fs::read_to_string(process.join("main.tf")).unwrap();
    let scenario = "variables = { workspaces_directory = \"PLACE\" }\n\
        run \"start\" {\n  apply   = true\n  connect = true\n  \
        ssh {\n    command = \"printf 'in %s' \\\"$CODER_WORKSPACE_NAME\\\"; exit 7\"\n    stdout  = \"^in test$\"\n    status  = 7\n  }\n  \
        ssh {\n    command = \"echo wrong\"\n    stdout  = \"right\"\n  }\n}\n\
        run \"stop\" {\n  apply      = true\n  transition = \"stop\"\n}\n";
    let template = Template::new(&main, "");
    let work = template.0.path().join("work");
    template.write(
        "a.coder.hcl",
        &scenario.replace("PLACE", work.to_str().unwrap()),
    );
    for name in ["start.sh", "stop.sh"] {
        template.write(name, &fs::read_to_string(process.join(name)).unwrap());
    }

    let output = template.test(&["--output", "json"]).output().unwrap();

    assert_ends(&output, 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["scenarios"][0]["runs"].as_array().unwrap();
    let failures = runs[0]["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{report}");
    let message = failures[0]["message"].as_str().unwrap();
    assert!(message.contains("matches `right`, but: wrong"), "{message}");
    assert_eq!(
        (&failures[0]["line"], &runs[1]["outcome"]),
        (&10.into(), &"passed".into()),
        "{report}"
    );
    // What was made is gone, the directory of the workspace with it.
    assert_eq!(fs::read_dir(&work).map_or(0, Iterator::count), 0);
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
fn a_module_that_would_have_to_be_fetched_ends_with_3() {
    let source = "module \"m\" {\n  source = \"acme/m/coder\"\n}\n";
    let template = Template::new(source, "run \"a\" {}\n");

    let output = template.test(&["--output", "json"]).output().unwrap();

    assert_ends(&output, 3);
    assert!(
        failures(&output)[0]["message"]
            .as_str()
            .unwrap()
            .contains("`module.m` would have to be fetched from `acme/m/coder`")
    );
}

/// Clouds and clusters of others, without any of them: resources, classes and persistence are in golden tables.
#[test]
fn templates_of_foreign_providers_live_on_mocks() {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/shapes");
    let directories = ["google", "azure"].map(|name| shapes.join(name));
    let cache = TempDir::new().unwrap();

    let output = outpost()
        .args(["template", "test", "--sealed", "--cache-dir"])
        .arg(cache.path())
        .args(&directories)
        .output()
        .unwrap();

    assert_ends(&output, 0);
    assert!(
        stdout(&output).ends_with("8 passed\n"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn values_of_mocks_follow_from_addresses_and_outlive_a_stop() {
    let source = r#"
variable "n" {
  default = 2
}
resource "acme_vm" "x" {
  count = var.n
  size  = "small"
}
data "acme_image" "x" {
  for_each = toset(["a", "b"])
  family   = "same"
}
module "m" {
  source   = "./m"
  for_each = toset(["a", "b"])
}
output "ids" {
  value = concat(acme_vm.x[*].id, [for key, it in data.acme_image.x : it.id], [for key, it in module.m : it.id])
}
output "port" {
  value = acme_vm.x[0].port + 1
}
output "ip" {
  value = acme_vm.x[1].net[0].ip
}
"#;
    let scenario = r#"
mock_data "acme_image" "x[\"b\"]" { values = { id = "ami-b" } }
mock_resource "acme_vm" { values = { net = [{ ip = "10.0.0.1" }] } }
run "a" { assert {
  condition     = length(distinct(output.ids)) == 6 && alltrue([for id in output.ids : length(id) == 8 || id == "ami-b"]) && contains(output.ids, "ami-b")
  error_message = "ids: ${jsonencode(output.ids)}"
} }
run "b" { transition = "stop" }
run "c" { assert {
  condition     = resource["acme_vm.x[0]"].change == "no-op" && output.port == 1 && output.ip == "10.0.0.1"
  error_message = "${resource["acme_vm.x[0]"].change} ${output.port} ${output.ip}"
} }
"#;
    let ids = || {
        let template = Template::new(source, scenario);
        template.write(
            "m/main.tf",
            "resource \"acme_vm\" \"x\" {\n}\noutput \"id\" {\n  value = acme_vm.x.id\n}\n",
        );
        template.write(
            "b.coder.hcl",
            "run \"a\" { assert {\n  condition     = false\n  error_message = jsonencode(output.ids)\n} }\n",
        );
        let output = template.test(&["--output", "json"]).output().unwrap();
        assert_ends(&output, 1);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["summary"]["passed"], 3, "{report}");
        report["scenarios"][1]["runs"][0]["failures"][0]["message"].clone()
    };

    assert_eq!(ids(), ids());
}

#[test]
fn wrong_values_for_mocks_are_mistakes_with_places() {
    let source = "resource \"acme_vm\" \"x\" {\n  size  = \"small\"\n  count = 1\n}\ndata \"acme_image\" \"base\" {\n}\n\
        output \"ip\" {\n  value = \"${acme_vm.x[0].private_ip}${data.acme_image.base.arn}\"\n}\n";
    for (scenario, message) in [
        (
            "mock_resource \"acme_vm\" { values = { id = [1] } }\nrun \"a\" {}\n",
            "a.coder.hcl:1:38: the value of `id` does not fit: must be a string, not a list",
        ),
        (
            "mock_resource \"acme_vm\" { values = { privat_ip = \"10.0.0.1\" } }\nrun \"a\" {}\n",
            "a.coder.hcl:1:38: `acme_vm` has no attribute `privat_ip`; did you mean `private_ip`?",
        ),
        (
            "mock_data \"acme_image\" \"bsae\" { values = {} }\nrun \"a\" {}\n",
            "a.coder.hcl:1:1: the template has no `acme_image` \"bsae\"; did you mean `base`?",
        ),
        (
            "mock_data \"acme_imag\" { values = {} }\nrun \"a\" {}\n",
            "a.coder.hcl:1:1: `acme_imag` is of no mocked provider of this template; did you mean `acme_image`?",
        ),
    ] {
        let template = Template::new(source, scenario);

        let output = template.test(&[]).output().unwrap();

        assert_ends(&output, 2);
        assert!(stdout(&output).contains(message), "{}", stdout(&output));
    }
}

#[test]
fn a_schema_from_a_file_decides_what_is_computed() {
    let schema = r#"{"provider_schemas": {"registry.terraform.io/hashicorp/acme": {"resource_schemas": {"acme_vm": {"block": {"attributes": {
        "id": {"type": "string", "computed": true}, "size": {"type": "string", "optional": true},
        "tags": {"type": ["list", "string"], "computed": true}, "port": {"type": "number", "computed": true}}}}}}}}"#;
    let source = "resource \"acme_vm\" \"x\" {\n  size = \"small\"\n}\noutput \"x\" {\n  value = acme_vm.x\n}\n";
    let scenario = "mock_resource \"acme_vm\" { values = { port = \"22\" } }\nrun \"a\" { assert {\n  condition     = output.x.port == 22 && \
        output.x.tags == [] && length(output.x.id) == 8\n  error_message = jsonencode(output.x)\n} }\n";
    let template = Template::new(source, scenario);
    template.write("schemas.json", schema);
    let file = template.0.path().join("schemas.json");
    let options = ["--schema", file.to_str().unwrap()];

    assert_ends(&template.test(&options).output().unwrap(), 0);

    template.write(
        "a.coder.hcl",
        "mock_resource \"acme_vm\" { values = { size = \"large\" } }\nrun \"a\" {}\n",
    );
    let output = template.test(&options).output().unwrap();
    assert_ends(&output, 2);
    assert!(
        stdout(&output).contains("`size` of `acme_vm` is never computed"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_forced_replacement_of_the_settings_is_seen() {
    let source = format!(
        "{CODER}{QUESTION}resource \"acme_vm\" \"x\" {{\n  size = data.coder_parameter.size.value\n}}\n"
    )
    .replace("mutable = false", "mutable = true");
    let scenario = "run \"a\" {}\nrun \"b\" {\n  parameters = { size = \"large\" }\n  assert {\n    \
        condition     = resource[\"acme_vm.x\"].change == \"replace\"\n    error_message = resource[\"acme_vm.x\"].change\n  }\n}\n";
    let template = Template::new(&source, scenario);
    assert_ends(&template.test(&[]).output().unwrap(), 1);

    template.write("outpost-template.toml", "force_new = [\"acme_vm.size\"]\n");

    assert_ends(&template.test(&[]).output().unwrap(), 0);
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

/// A real provider wrote the state: with versions of schemas, attributes that the template does not show, and a resource that
/// the template no longer has.
#[test]
fn a_state_of_real_providers_is_where_runs_on_mocks_begin() {
    let resource = |kind: &str, name: &str, attributes: &str| {
        format!(
            r#"{{"mode": "managed", "type": "{kind}", "name": "{name}", "provider": "provider[\"registry.terraform.io/hashicorp/acme\"]",
            "instances": [{{"schema_version": 2, "attributes": {attributes}, "private": "bnVsbA=="}}]}}"#
        )
    };
    let state = format!(
        r#"{{"version": 4, "terraform_version": "1.5.0", "serial": 3, "lineage": "a", "outputs": {{}}, "check_results": null, "resources": [{}, {}, {}]}}"#,
        resource(
            "acme_vm",
            "kept",
            r#"{"id": "i-1", "size": "small", "env": ["A=b"], "net": [{"ip": "10.0.0.1"}], "more": {"x": 1}, "disk": [{"gib": 3, "kind": "ssd"}]}"#
        ),
        resource(
            "acme_vm",
            "renamed",
            r#"{"id": "i-2", "size": "small", "env": null, "net": [], "more": null, "disk": []}"#
        ),
        resource("acme_disk", "old", r#"{"id": "d-1"}"#),
    );
    let source = "resource \"acme_vm\" \"kept\" {\n  size = \"small\"\n  env  = [\"A=b\"]\n  disk {\n    gib = 3\n  }\n}\n\
        resource \"acme_vm\" \"renamed\" {\n  size = \"large\"\n}\noutput \"ip\" {\n  value = acme_vm.kept.net[0].ip\n}\n";
    let scenario = r#"run "a" { assert {
  condition     = resource["acme_vm.kept"].change == "no-op" && output.ip == "10.0.0.1"
  error_message = "${resource["acme_vm.kept"].change} ${output.ip}"
}
assert {
  condition     = resource["acme_vm.renamed"].change == "replace" && resource["acme_disk.old"].change == "delete"
  error_message = "${resource["acme_vm.renamed"].change} ${resource["acme_disk.old"].change}"
} }
"#;
    let template = Template::new(source, scenario);
    template.write("outpost-template.toml", "force_new = [\"acme_vm.size\"]\n");
    template.write("old.tfstate", &state);
    let file = template.0.path().join("old.tfstate");

    let output = template
        .test(&["--state", file.to_str().unwrap()])
        .output()
        .unwrap();

    assert_ends(&output, 0);
}

/// So many resources have their state at a server, which an engine asks less often than a file.
#[test]
fn hundreds_of_resources_carry_their_state_over() {
    let source = format!(
        "{CODER}data \"coder_workspace\" \"me\" {{\n}}\nresource \"terraform_data\" \"kept\" {{\n  count = 250\n}}\n\
        resource \"acme_vm\" \"x\" {{\n  count = data.coder_workspace.me.start_count\n}}\n"
    );
    let scenario = r#"run "a" {}
run "b" {
  transition = "stop"
  assert {
    condition     = resource["terraform_data.kept[249]"].change == "no-op" && resource["acme_vm.x[0]"].change == "delete"
    error_message = "the state is lost"
  }
}
run "c" { transition = "delete" }
run "d" { assert {
  condition     = resource["terraform_data.kept[0]"].change == "create"
  error_message = "the state is still there"
} }
"#;
    let template = Template::new(&source, scenario);

    let output = template.test(&[]).output().unwrap();

    assert_ends(&output, 0);
}

#[test]
fn several_engines_are_compared() {
    use std::os::unix::fs::PermissionsExt as _;
    let source = "variable \"zone\" {\n  default = \"a\"\n}\nresource \"terraform_data\" \"x\" {\n  \
        count = var.zone == \"a\" ? 2 : 1\n}\n";
    let template = Template::new(source, "run \"start\" {}\n");
    let path = std::env::var_os("PATH").unwrap();
    let engine = ::outpost::terraform::binary::find(&path).unwrap();
    let other = template.0.path().join("terraform");
    let script = format!(
        "#!/bin/sh\nexport TF_VAR_zone=b\nexec '{}' \"$@\"\n",
        engine.display()
    );
    template.write("terraform", &script);
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    let both = format!("{},{}", engine.display(), other.display());

    let output = template.test(&["--engine", &both]).output().unwrap();

    assert_ends(&output, 0);
    let text = stdout(&output);
    let line = text
        .lines()
        .find(|line| line.contains("terraform_data.x[1]"));
    let cells: Vec<_> = line
        .unwrap_or_else(|| panic!("{text}"))
        .split_whitespace()
        .collect();
    assert_eq!(cells[1..], ["terraform_data.x[1]", "create", "-"], "{text}");
    assert!(!text.contains("terraform_data.x[0]"), "{text}");

    let same = format!("{0},{0}", engine.display());
    let output = template
        .test(&["--engine", &same, "--output", "json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["differences"], serde_json::json!([]));
    assert_eq!(report["scenarios"].as_array().unwrap().len(), 2);
}

#[test]
fn no_scenario_at_all_is_wrong_usage() {
    let empty = TempDir::new().unwrap();
    let output = test(&[empty.path()], &[]).output().unwrap();

    assert_ends(&output, 2);
}
