//! Results for people and for programs, and how the command ends.

use std::fs;

use serde_json::Value;

use super::{AGENT, Bench, PROVIDERS};

/// A template whose only error is a processor that does not exist.
fn bad() -> Bench {
    let machine = "data \"coder_workspace\" \"me\" {}\nresource \"terraform_data\" \"machine\" {\n  count = data.coder_workspace.me.start_count\n  input = coder_agent.main.init_script\n}\nresource \"terraform_data\" \"home\" {}\n";
    let agent = AGENT.replace("amd64", "x86_64");
    let text = format!("{PROVIDERS}\n{agent}{machine}");
    Bench::new(&[("t/main.tf", &text)])
}

#[test]
fn people_see_the_line_with_carets() {
    let output = bad().run(&["check", "--source-only", "t"]);

    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "error[agent-arch-mismatch]: expected arch to be one of [\"amd64\" \"armv7\" \"arm64\"], got x86_64\n  \
                    --> t/main.tf:12:3\n   |\n12 |   arch = \"x86_64\"\n   |   ^^^^^^^^^^^^^^^\n   = remedy: ";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("1 error, "), "{text}");
    assert!(!text.contains('\u{1b}'), "no terminal, no colours: {text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_exit_code_follows_the_severity_that_was_asked_for() {
    let bench = Bench::new(&[(
        "t/main.tf",
        &format!(
            "{PROVIDERS}\ndata \"coder_parameter\" \"a\" {{\n  name    = \"a\"\n  default = \"x\"\n}}\n"
        ),
    )]);
    let code = |on: &str| {
        let output = bench.run(&["check", "--source-only", "--fail-on", on, "t"]);
        output.status.code().unwrap()
    };

    // A note about a description, warnings about lock file and agent.
    assert_eq!(
        [code("error"), code("warning"), code("note"), code("never")],
        [0, 1, 1, 0]
    );
}

#[test]
fn the_json_result_has_the_keys_that_pipelines_read() {
    let (result, code) = bad().check(&["--source-only", "t"]);

    assert_eq!(code, 1);
    assert_eq!(result["version"], 1);
    let template = &result["templates"][0];
    assert_eq!(template["directory"], "t");
    assert!(template["engine"]["name"].is_string() && template["engine"]["version"].is_string());
    assert!(template["mocked_providers"].is_array() && template["seconds"].is_number());
    let finding = template["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["rule"] == "agent-arch-mismatch");
    let finding = finding.unwrap();
    for key in ["severity", "message", "remedy", "file", "address"] {
        assert!(finding[key].is_string(), "{key}: {finding}");
    }
    let place =
        ["line", "column", "end_line", "end_column"].map(|key| finding[key].as_u64().unwrap());
    assert_eq!(place, [12, 3, 12, 18]);
    let summary = &result["summary"];
    assert_eq!(
        (&summary["error"], &summary["suppressed"]),
        (&Value::from(1), &Value::from(0))
    );
    assert!(summary["warning"].is_number() && summary["note"].is_number());
}

#[test]
fn one_run_writes_several_reports() {
    let bench = bad();
    let reports = [
        "sarif=r.sarif",
        "junit=r.xml",
        "gitlab=r.json",
        "github=r.txt",
        "json=j.json",
        "table=t.txt",
    ];
    let mut arguments = vec!["check", "--source-only"];
    arguments.extend(reports.iter().flat_map(|report| ["--report", report]));
    arguments.push("t");

    assert_eq!(bench.run(&arguments).status.code(), Some(1));

    let json = |name: &str| -> Value { serde_json::from_str(&bench.read(name)).unwrap() };
    let sarif = json("r.sarif");
    let run = &sarif["runs"][0];
    let result = run["results"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["ruleId"] == "agent-arch-mismatch")
        .unwrap();
    let location = &result["locations"][0]["physicalLocation"];
    assert_eq!(location["artifactLocation"]["uri"], "t/main.tf");
    assert_eq!(location["region"]["startLine"], 12);
    let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(
        run["tool"]["driver"]["rules"][index]["id"],
        "agent-arch-mismatch"
    );
    assert!(
        run["tool"]["driver"]["rules"][index]["help"]["markdown"]
            .as_str()
            .unwrap()
            .contains("x86_64")
    );
    assert!(result["partialFingerprints"]["outpost/v1"].is_string());
    let issue = json("r.json");
    let issue = issue
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["check_name"] == "agent-arch-mismatch")
        .unwrap()
        .clone();
    assert_eq!(
        (
            &issue["location"]["path"],
            &issue["location"]["lines"]["begin"]
        ),
        (&"t/main.tf".into(), &12.into())
    );
    assert_eq!(issue["severity"], "major");
    let xml = bench.read("r.xml");
    assert!(
        xml.contains("<testsuite name=\"t\"")
            && xml.contains("failures=\"1\"")
            && xml.contains("&quot;amd64&quot;"),
        "{xml}"
    );
    let annotations = bench.read("r.txt");
    assert!(annotations.contains("::error file=t/main.tf,line=12,endLine=12,col=3,endColumn=18,title=agent-arch-mismatch::"), "{annotations}");
    assert!(bench.read("t.txt").contains("error[agent-arch-mismatch]"));
    assert_eq!(json("j.json")["version"], 1);
}

#[test]
fn reports_are_there_if_the_very_first_file_does_not_parse() {
    let bench = Bench::new(&[("t/a.tf", "resource {{{\n")]);

    let output = bench.run(&[
        "check",
        "--source-only",
        "--output",
        "sarif",
        "--report",
        "junit=r.xml",
        "t",
    ]);

    let sarif: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results[0]["ruleId"], "syntax");
    assert_eq!(
        results[0]["locations"][0]["physicalLocation"]["region"]["startLine"],
        1
    );
    assert!(bench.read("r.xml").contains("syntax at t/a.tf:1:"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_job_of_githubs_gets_annotations_and_a_summary() {
    let bench = bad();
    let summary = bench.path("summary.md");
    let output = crate::cli::outpost()
        .args([
            "--output",
            "github",
            "template",
            "check",
            "--source-only",
            "t",
        ])
        .env("GITHUB_STEP_SUMMARY", &summary)
        .current_dir(bench.path(""))
        .output()
        .unwrap();

    assert!(
        String::from_utf8_lossy(&output.stdout).starts_with("::"),
        "{output:?}"
    );
    let text = fs::read_to_string(summary).unwrap();
    assert!(
        text.contains("| error | `agent-arch-mismatch` | `t/main.tf:12` |"),
        "{text}"
    );
}

#[test]
fn rules_are_listed_and_explained() {
    let bench = Bench::new(&[("t/main.tf", "")]);
    let text = |arguments: &[&str]| String::from_utf8(bench.run(arguments).stdout).unwrap();

    let list = text(&["rules"]);
    assert!(
        list.lines().count() > 50 && list.contains("agent-arch-mismatch"),
        "{list}"
    );
    let page = text(&["rules", "app-slug-invalid"]);
    for part in [
        "app-slug-invalid (error)",
        "Bad, main.tf:",
        "Code_Server",
        "Good, main.tf:",
        "# outpost:ignore app-slug-invalid REASON",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let output = bench.run(&["rules", "app-slug-invalit"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("no rule `app-slug-invalit`")
            && said.contains("did you mean `app-slug-invalid`?"),
        "{said}"
    );
}
