//! Policies in Rego: their findings in a check, and their own tests.

use super::{Bench, of_rule};

const TEMPLATE: &str = "resource \"docker_image\" \"main\" {\n  name = \"ubuntu\"\n}\n\nresource \"docker_volume\" \"home\" {\n  name = \"home\"\n}\n\nmodule \"ide\" {\n  source = \"./ide\"\n}\n";

const POLICY: &str = "package outpost.template

deny contains result if {
  some resource in input.resources
  resource.type == \"docker_volume\"
  result := {\"id\": \"no-volumes\", \"message\": \"volumes stay on one host\", \"address\": resource.address}
}

warn contains result if {
  some module in input.modules
  module.version == \"\"
  result := {\"id\": \"versions\", \"message\": \"a module needs a version\", \"address\": module.address}
}
";

fn bench() -> Bench {
    Bench::new(&[
        ("t/main.tf", TEMPLATE),
        ("t/ide/main.tf", ""),
        ("policies/volumes.rego", POLICY),
    ])
}

#[test]
fn a_policy_finds_blocks_of_the_template_and_of_its_modules() {
    let bench = bench();

    for options in [
        &["--policy", "policies", "t"][..],
        &["--source-only", "--policy", "policies", "t"],
    ] {
        let (result, code) = bench.check(options);

        assert_eq!(
            of_rule(&result, "policy/no-volumes"),
            [("main.tf".to_owned(), 5)],
            "{result}"
        );
        assert_eq!(
            of_rule(&result, "policy/versions"),
            [("main.tf".to_owned(), 9)],
            "{result}"
        );
        assert_eq!(code, 1);
        let findings = result["templates"][0]["findings"].as_array().unwrap();
        let denied = findings
            .iter()
            .find(|it| it["rule"] == "policy/no-volumes")
            .unwrap();
        assert_eq!(
            (&denied["severity"], &denied["address"]),
            (&"error".into(), &"docker_volume.home".into())
        );
    }
}

#[test]
fn settings_name_policies_their_severities_and_comments_accept_one() {
    let bench = bench();
    bench.write(
        "outpost-template.toml",
        "policies = [\"policies\"]\n\n[rules]\n\"policy/versions\" = \"off\"\n",
    );
    let accepted = TEMPLATE.replace(
        "resource \"docker_volume\"",
        "# outpost:ignore policy/no-volumes One host is all we have.\nresource \"docker_volume\"",
    );
    bench.write("t/main.tf", &accepted);

    let (result, code) = bench.check(&["t"]);

    assert_eq!(of_rule(&result, "policy/no-volumes"), [], "{result}");
    assert_eq!(of_rule(&result, "policy/versions"), [], "{result}");
    assert_eq!(
        (&result["summary"]["suppressed"], code),
        (&1.into(), 0),
        "{result}"
    );
}

#[test]
fn a_broken_policy_is_wrong_usage_that_names_its_line() {
    let bench = bench();
    bench.write(
        "policies/volumes.rego",
        "package outpost.template\n\ndeny contains {\n",
    );

    let output = bench.run(&["check", "--policy", "policies", "t"]);

    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("volumes.rego"), "{stderr}");
}

#[test]
fn tests_of_policies_are_run_and_counted() {
    let bench = bench();
    let passing = "package outpost.template_test\n\nimport data.outpost.template\n\ntest_denies if count(template.deny) == 1 with input as {\"resources\": [{\"type\": \"docker_volume\", \"address\": \"a\"}]}\n";
    bench.write("policies/volumes_test.rego", passing);

    let passed = bench.run(&["policy", "test", "policies"]);
    assert!(passed.status.success(), "{passed:?}");

    bench.write(
        "policies/volumes_test.rego",
        &passing.replace("== 1", "== 2"),
    );
    let failed = bench.run(&["policy", "test", "--output", "json", "policies"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let tests: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(tests[0]["name"], "outpost.template_test.test_denies");
    assert_eq!(tests[0]["outcome"], "failed");

    let none = bench.run(&["policy", "test", "t"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}
