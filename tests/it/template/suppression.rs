//! What people accept: comments, baselines, settings, and templates that did not change.

use std::process::Command;

use super::{AGENT, Bench, PROVIDERS, found, of_rule};

fn bad(comment: &str) -> Bench {
    Bench::new(&[(
        "t/main.tf",
        &format!("{PROVIDERS}{comment}{}", AGENT.replace("amd64", "x86_64")),
    )])
}

#[test]
fn a_comment_with_a_reason_accepts_a_finding_of_its_block() {
    let (result, code) =
        bad("# outpost:ignore agent-arch-mismatch,agent-without-resource Our own build.\n")
            .check(&["--source-only", "t"]);

    assert_eq!(of_rule(&result, "agent-arch-mismatch"), []);
    assert_eq!(result["summary"]["suppressed"], 2);
    assert_eq!((code, of_rule(&result, "suppression-unused").len()), (0, 0));
}

#[test]
fn a_comment_on_the_line_accepts_what_is_on_it() {
    let text = format!(
        "{PROVIDERS}{}",
        AGENT.replace(
            "\"amd64\"",
            "\"x86_64\" // outpost:ignore agent-arch-mismatch Ours."
        )
    );
    let bench = Bench::new(&[("t/main.tf", &text)]);

    let (result, _) = bench.check(&["--source-only", "t"]);

    assert_eq!(of_rule(&result, "agent-arch-mismatch"), []);
    assert_eq!(result["summary"]["suppressed"], 1);
}

#[test]
fn comments_without_a_reason_or_a_use_are_reported_at_their_line() {
    let (result, _) = bad("# outpost:ignore agent-arch-mismatch\n").check(&["--source-only", "t"]);
    assert_eq!(
        of_rule(&result, "suppression-without-reason"),
        [("main.tf".to_owned(), 9)]
    );
    assert_eq!(of_rule(&result, "agent-arch-mismatch").len(), 1);

    let (result, _) =
        bad("# outpost:ignore app-slug-invalid Because.\n").check(&["--source-only", "t"]);
    assert_eq!(
        of_rule(&result, "suppression-unused"),
        [("main.tf".to_owned(), 9)]
    );

    let (result, _) =
        bad("# outpost:ignore no-such-rule Because.\n").check(&["--source-only", "t"]);
    assert_eq!(
        of_rule(&result, "suppression-unused"),
        [("main.tf".to_owned(), 9)]
    );
}

#[test]
fn a_text_that_looks_like_a_comment_is_none() {
    let text = format!(
        "{PROVIDERS}locals {{\n  a = \"see outpost:ignore agent-arch-mismatch here\"\n}}\n"
    );
    let (result, _) = Bench::new(&[("t/main.tf", &text)]).check(&["--source-only", "t"]);

    assert!(
        found(&result)
            .iter()
            .all(|(rule, ..)| !rule.starts_with("suppression")),
        "{result}"
    );
}

#[test]
fn a_baseline_accepts_what_moved_and_notes_what_is_gone() {
    let bench = bad("");
    let written = bench.run(&[
        "check",
        "--source-only",
        "--write-baseline",
        "base.json",
        "t",
    ]);
    assert_eq!(written.status.code(), Some(0), "{written:?}");

    let (result, code) = bench.check(&["--source-only", "--baseline", "base.json", "t"]);
    assert_eq!((found(&result), code), (vec![], 0));

    let moved = format!("# One\n# more.\n{}", bench.read("t/main.tf"));
    bench.write("t/main.tf", &moved);
    let (result, _) = bench.check(&["--source-only", "--baseline", "base.json", "t"]);
    assert_eq!(found(&result), []);

    bench.write("t/main.tf", &moved.replace("x86_64", "amd64"));
    let (result, _) = bench.check(&["--source-only", "--baseline", "base.json", "t"]);
    let unused = of_rule(&result, "suppression-unused");
    assert_eq!(unused.len(), 1, "{result}");
    assert_eq!(unused[0].0, "base.json");
}

#[test]
fn settings_above_the_template_decide_about_severities() {
    let bench = bad("");
    bench.write("outpost-template.toml", "[rules]\nagent-arch-mismatch = \"note\"\nlock-missing = \"off\"\nagent-without-resource = \"off\"\n");

    let (result, code) = bench.check(&["--source-only", "t"]);

    assert_eq!(code, 0);
    let findings = result["templates"][0]["findings"].as_array().unwrap();
    let arch = findings
        .iter()
        .find(|it| it["rule"] == "agent-arch-mismatch")
        .unwrap();
    assert_eq!(arch["severity"], "note");
    assert_eq!(of_rule(&result, "lock-missing"), []);
}

fn git(bench: &Bench, arguments: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
        .args(arguments)
        .current_dir(bench.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn only_templates_that_changed_are_checked() {
    let bench = Bench::new(&[
        ("a/main.tf", AGENT),
        ("a/m/main.tf", ""),
        ("b/main.tf", AGENT),
        ("README", "x"),
    ]);
    git(&bench, &["init", "-q"]);
    git(&bench, &["add", "."]);
    git(&bench, &["commit", "-qm", "one"]);
    let checked = |bench: &Bench| -> Vec<String> {
        let (result, _) = bench.check(&["--source-only", "--changed-since", "HEAD", "a", "b"]);
        let all = result["templates"].as_array().unwrap().iter();
        all.map(|it| it["directory"].as_str().unwrap().to_owned())
            .collect()
    };

    assert_eq!(checked(&bench), [""; 0]);
    bench.write("README", "y");
    assert_eq!(checked(&bench), [""; 0]);
    bench.write("a/m/main.tf", "locals {}\n");
    assert_eq!(checked(&bench), ["a"]);
    bench.write("b/new.tf", "locals {}\n");
    assert_eq!(checked(&bench), ["a", "b"]);

    let output = bench.run(&["check", "--changed-since", "nothing", "a"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--changed-since nothing"), "{said}");
}
