//! Results of earlier runs: used again while nothing changed, and never where something else decides.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use super::{AGENT, Bench, PROVIDERS};

const HOME: &str = "resource \"terraform_data\" \"home\" {\n  input = coder_agent.main.id\n}\n";

const SCENARIO: &str = "run \"a\" {\n  assert {\n    condition     = agent.main.os == \"linux\"\n    error_message = \"no\"\n  }\n}\n";

/// A template with a scenario, and an engine that writes down how it is called.
fn bench(source: &str) -> Bench {
    let bench = Bench::new(&[
        ("t/main.tf", &format!("{PROVIDERS}{AGENT}{HOME}{source}")),
        ("t/a.coder.hcl", SCENARIO),
    ]);
    let calls = bench.path("calls").display().to_string();
    let engine = ::outpost::terraform::binary::find(&std::env::var_os("PATH").unwrap()).unwrap();
    let text = format!(
        "#!/bin/sh\necho \"$1\" >> '{calls}'\nexec '{}' \"$@\"\n",
        engine.display()
    );
    bench.write("engine", &text);
    fs::set_permissions(bench.path("engine"), fs::Permissions::from_mode(0o755)).unwrap();
    bench
}

/// Runs a command on the template. Returns what it prints, and whether the engine planned anything.
fn run(bench: &Bench, command: &str, options: &[&str]) -> (String, bool) {
    bench.write("calls", "");
    let output: Output =
        bench.run(&[&[command, "t", "--sealed", "--engine", "./engine"], options].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let is_planned = bench.read("calls").lines().any(|call| call == "plan");
    (String::from_utf8(output.stdout).unwrap(), is_planned)
}

fn entries(bench: &Bench) -> Vec<std::path::PathBuf> {
    let dir = bench.path("../home/.cache/outpost/results");
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_second_check_plans_nothing_and_says_the_same() {
    let bench = bench("");
    let without_seconds = |text: &str| {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["templates"][0]["seconds"] = 0.into();
        value
    };

    let (first, is_planned) = run(&bench, "check", &["--output", "json"]);
    assert!(is_planned);
    let (second, is_planned) = run(&bench, "check", &["--output", "json"]);
    assert!(!is_planned);
    assert_eq!(without_seconds(&first), without_seconds(&second));
    assert!(first.contains("\"rule\""), "{first}");

    let (table, _) = run(&bench, "check", &[]);
    assert!(
        table.contains("unchanged since an earlier check"),
        "{table}"
    );
    let (table, is_planned) = run(&bench, "check", &["--no-cache"]);
    assert!(is_planned && !table.contains("unchanged"), "{table}");
}

#[test]
fn whatever_changes_is_checked_again() {
    let bench = bench("variable \"v\" {\n  default = \"\"\n}\n");
    let is_planned = |options: &[&str]| run(&bench, "check", options).1;
    assert!(is_planned(&[]) && !is_planned(&[]));

    assert!(is_planned(&["--variable", "v=1"]));
    assert!(is_planned(&["--require", "cost"]));
    bench.write("outpost-template.toml", "[rules]\nno-agent = \"off\"\n");
    assert!(is_planned(&[]) && !is_planned(&[]));
    bench.write("t/start.sh", "true\n");
    assert!(is_planned(&[]) && !is_planned(&[]));
    bench.write("schema.json", "{}");
    let schema = ["--schema", "schema.json"];
    assert!(is_planned(&schema) && !is_planned(&schema));
    bench.write("schema.json", "{\"provider_schemas\": {}}");
    assert!(is_planned(&schema));
    let text = bench.read("engine").replace("exec", "X=1 exec");
    bench.write("engine", &text);
    assert!(is_planned(&[]));
}

#[test]
fn a_policy_that_changes_is_asked_again() {
    let bench = bench("");
    let says = |message: &str| {
        let result = format!("{{\"id\": \"p\", \"message\": \"{message}\"}}");
        let text = format!(
            "package outpost.template\n\nwarn contains result if {{\n  result := {result}\n}}\n"
        );
        bench.write("policies/p.rego", &text);
    };
    for options in [&["--policy", "policies"][..], &[]] {
        says("first words");
        assert!(run(&bench, "check", options).1);
        let (known, is_planned) = run(&bench, "check", options);
        assert!(!is_planned && known.contains("first words"), "{known}");
        says("other words");
        let (again, is_planned) = run(&bench, "check", options);
        assert!(is_planned && again.contains("other words"), "{again}");
        bench.write("outpost-template.toml", "policies = [\"policies\"]\n");
    }
}

#[test]
fn results_with_providers_of_a_directory_are_not_kept() {
    let bench = bench("");
    let package = format!(
        "plugins/registry.terraform.io/acme/demo/1.0.0/{}",
        ::outpost::registry::Platform::current()
    );
    bench.write(&format!("{package}/terraform-provider-demo_v1.0.0"), "");
    for command in ["check", "test"] {
        let options = ["--plugin-dir", "plugins"];
        assert!(run(&bench, command, &options).1);
        assert!(run(&bench, command, &options).1);
    }
    assert_eq!(entries(&bench), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_damaged_result_is_found_again() {
    let bench = bench("");
    run(&bench, "check", &[]);
    let [entry] = entries(&bench).try_into().unwrap();
    let mut content = fs::read(&entry).unwrap();
    let last = content.len() - 3;
    content[last] ^= 1;
    fs::write(&entry, content).unwrap();

    assert!(run(&bench, "check", &[]).1);
    assert!(!run(&bench, "check", &[]).1);
}

#[test]
fn what_a_clock_or_another_file_decides_is_not_kept() {
    for value in ["timestamp()", "fileexists(\"/etc/hostname\")", "uuid()"] {
        let bench = bench(&format!("output \"o\" {{\n  value = {value}\n}}\n"));
        run(&bench, "check", &[]);
        run(&bench, "test", &[]);
        assert_eq!(entries(&bench), Vec::<std::path::PathBuf>::new(), "{value}");
    }
}

#[test]
fn a_check_that_is_incomplete_is_not_kept() {
    let bench = bench("module \"m\" {\n  source = \"acme/m/coder\"\n  version = \"1.0.0\"\n}\n");
    let output = bench.run(&["check", "t", "--sealed", "--engine", "./engine"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(entries(&bench), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_scenario_that_passed_is_played_again_only_after_a_change() {
    let bench = bench("");
    let (first, is_planned) = run(&bench, "test", &[]);
    assert!(is_planned && first.ends_with("1 passed\n"), "{first}");

    let (second, is_planned) = run(&bench, "test", &[]);
    assert!(!is_planned);
    assert!(second.contains("unchanged since it passed"), "{second}");
    assert!(second.ends_with("1 passed\n"), "{second}");

    assert!(run(&bench, "test", &["--no-cache"]).1);
    assert!(run(&bench, "test", &["--filter", "a"]).1);
    bench.write(
        "t/a.coder.hcl",
        &SCENARIO.replace("== \"linux\"", "!= \"windows\""),
    );
    assert!(run(&bench, "test", &[]).1);
}

#[test]
fn a_scenario_that_failed_is_played_again() {
    let bench = bench("");
    bench.write("t/a.coder.hcl", &SCENARIO.replace("linux", "windows"));
    for _ in 0..2 {
        bench.write("calls", "");
        let output = bench.run(&["test", "t", "--sealed", "--engine", "./engine"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(bench.read("calls").contains("plan"));
    }
}

#[test]
fn several_templates_are_reported_in_the_order_of_the_command_line() {
    let names = ["c", "a", "d", "b"];
    let files: Vec<_> = names.iter().map(|name| format!("{name}/main.tf")).collect();
    let text = format!("{PROVIDERS}{AGENT}{HOME}");
    let files: Vec<_> = files
        .iter()
        .map(|name| (name.as_str(), text.as_str()))
        .collect();
    let bench = Bench::new(&files);
    // One is known already, and so is ready before those before it.
    assert_eq!(bench.check(&["d"]).1, 0);

    let (result, code) = bench.check(&[&names[..], &["--jobs", "3"]].concat());

    assert_eq!(code, 0);
    let reported = result["templates"].as_array().unwrap().iter();
    let reported: Vec<_> = reported
        .map(|it| it["directory"].as_str().unwrap())
        .collect();
    assert_eq!(reported, names);
}
