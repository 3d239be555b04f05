//! Policies and their tests, as files of a directory.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const POLICY: &str = "package outpost.template

deny contains result if {
  some resource in input.resources
  resource.type == \"aws_instance\"
  resource.daily_cost == 0
  result := {\"id\": \"cost\", \"message\": sprintf(\"%s has no cost\", [resource.address]), \"address\": resource.address}
}

warn contains {\"id\": \"unpinned\", \"message\": \"a module without a version\"} if {
  some module in input.modules
  module.version == \"\"
}
";

fn policies(files: &[(&str, &str)]) -> (TempDir, Result<Policies, PolicyError>) {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let policies = Policies::read(dir.path());
    (dir, policies)
}

fn error(files: &[(&str, &str)]) -> String {
    let (_dir, policies) = policies(files);
    let judged = policies.and_then(|mut policies| policies.judge(&json!({})));
    judged.unwrap_err().to_string()
}

#[test]
fn what_a_policy_denies_or_warns_of_names_its_id_and_its_address() {
    let (_dir, policies) = policies(&[("a.rego", POLICY)]);
    let mut policies = policies.unwrap();
    let input = |cost: i32| json!({"resources": [{"type": "aws_instance", "address": "aws_instance.vm", "daily_cost": cost}], "modules": [{"version": ""}]});

    let verdicts = policies.judge(&input(0)).unwrap();

    let found: Vec<_> = verdicts
        .iter()
        .map(|it| (it.severity, it.id.as_str(), it.address.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Severity::Error, "cost", "aws_instance.vm"),
            (Severity::Warning, "unpinned", "")
        ]
    );
    assert_eq!(verdicts[0].message, "aws_instance.vm has no cost");
    // The next template is judged by itself.
    assert_eq!(policies.judge(&input(3)).unwrap().len(), 1);
    assert_eq!(policies.judge(&json!({})).unwrap(), []);
}

#[test]
fn tests_of_policies_pass_fail_and_are_undefined() {
    let tests = "package outpost.template_test

import data.outpost.template

test_denies if count(template.deny) == 1 with input as {\"resources\": [{\"type\": \"aws_instance\", \"address\": \"a\", \"daily_cost\": 0}]}

test_undefined if count(template.deny) == 7

test_false := false
";
    let (_dir, policies) = policies(&[("a.rego", POLICY), ("a_test.rego", tests)]);

    let tested = policies.unwrap().test().unwrap();

    let failed: Vec<_> = tested
        .iter()
        .map(|it| (it.name.as_str(), it.failure.is_some()))
        .collect();
    assert_eq!(
        failed,
        [
            ("outpost.template_test.test_denies", false),
            ("outpost.template_test.test_false", true),
            ("outpost.template_test.test_undefined", true)
        ]
    );
    let (_dir, untested) = self::policies(&[("a.rego", POLICY)]);
    assert!(matches!(
        untested.unwrap().test(),
        Err(PolicyError::NoTests(_))
    ));
}

#[test]
fn mistakes_in_policies_name_the_directory_and_what_is_wrong() {
    assert!(error(&[("x.txt", "")]).contains("has no policy"));
    assert!(error(&[("a.rego", "package other\n")]).contains("package outpost.template"));
    let broken = error(&[("a.rego", "package outpost.template\n\ndeny contains {\n")]);
    assert!(broken.contains("a.rego"), "{broken}");
    let form = error(&[(
        "a.rego",
        "package outpost.template\n\ndeny contains \"no\" if true\n",
    )]);
    assert!(form.contains("`deny`") && form.contains("`id`"), "{form}");
    let id = error(&[(
        "a.rego",
        "package outpost.template\n\ndeny contains {\"id\": \"a b\", \"message\": \"m\"} if true\n",
    )]);
    assert!(id.contains("\"a b\""), "{id}");
}

#[test]
fn a_policy_has_no_way_out_of_its_interpreter() {
    for call in [
        "http.send({\"method\": \"get\", \"url\": \"http://localhost\"})",
        "opa.runtime()",
        "net.lookup_ip_addr(\"localhost\")",
    ] {
        let text = format!(
            "package outpost.template\n\ndeny contains {{\"id\": \"a\", \"message\": \"m\"}} if {call}\n"
        );
        let said = error(&[("a.rego", &text)]);
        assert!(said.contains("cannot be used"), "{call}: {said}");
    }
}
