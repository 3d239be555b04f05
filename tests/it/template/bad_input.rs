//! Wrong input: the error names the thing and the place, and says what to do.

use super::{AGENT, Bench, of_rule};

/// The exit code and what is said on stderr.
fn refused(bench: &Bench, arguments: &[&str]) -> (i32, String) {
    let output = bench.run(&[&["check"], arguments].concat());
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let bench = Bench::new(&[
        ("t/main.tf", AGENT),
        ("empty/README.md", ""),
        ("base.json", "{\"version\": 2, \"findings\": []}"),
        ("bad.json", "{"),
    ]);
    for (arguments, parts) in [
        (&["nowhere"][..], &["`nowhere` is no directory"][..]),
        (&["empty"], &["`empty` is not a template"]),
        (&["--report", "pdf=x", "t"], &["unknown format", "sarif"]),
        (&["--report", "sarif", "t"], &["FORMAT=FILE"]),
        (&["--fail-on", "sometimes", "t"], &["sometimes", "warning"]),
        (&["--variable", "nope=1", "t"], &["no variable `nope`"]),
        (
            &["--baseline", "missing.json", "t"],
            &["--baseline missing.json", "--write-baseline"],
        ),
        (
            &["--baseline", "base.json", "t"],
            &["base.json", "version 2"],
        ),
        (&["--baseline", "bad.json", "t"], &["bad.json", "line 1"]),
        (
            &["--schema", "bad.json", "t"],
            &["bad.json", "terraform providers schema -json"],
        ),
        (&["--platform", "linux", "t"], &["linux"]),
        (&["--output", "mermaid", "t"], &["--output"]),
    ] {
        let (code, said) = refused(&bench, arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {part}: {said}");
        }
    }
}

#[test]
fn wrong_settings_name_the_file_and_what_was_meant() {
    for (text, parts) in [
        (
            "[rules]\nagent-arch-mismach = \"off\"\n",
            &["agent-arch-mismach", "did you mean `agent-arch-mismatch`?"][..],
        ),
        ("[rules]\nsyntax = \"loud\"\n", &["line 2", "loud"]),
        ("ruls = 1\n", &["line 1", "ruls"]),
        ("require = [\"money\"]\n", &["money", "cost"]),
        ("force_new = [\"ami\"]\n", &["`ami`", "aws_instance.ami"]),
        ("platforms = [\"linux\"]\n", &["linux"]),
    ] {
        let bench = Bench::new(&[("t/main.tf", AGENT), ("t/outpost-template.toml", text)]);
        let (code, said) = refused(&bench, &["--source-only", "t"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("outpost-template.toml"), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

#[test]
fn files_that_do_not_parse_are_findings_beside_those_of_others() {
    let bench = Bench::new(&[
        (
            "t/a.tf",
            "resource \"coder_agent\" \"a_b\" {\n  os = \"linux\"\n  arch = \n}\n",
        ),
        (
            "t/b.tf",
            "resource \"coder_agent\" \"c_d\" {\n  os = \"linux\"\n  arch = \"amd64\"\n}\n",
        ),
        ("t/c.tf.json", "{\n  \"locals\": {,}\n}\n"),
        ("t/d.tf", "resource \"one\" {}\n"),
    ]);

    let (result, code) = bench.check(&["t"]);

    assert_eq!(code, 1);
    let file = |name: &str, line| (name.to_owned(), line);
    assert_eq!(
        of_rule(&result, "syntax"),
        [file("a.tf", 3), file("c.tf.json", 2), file("d.tf", 1)]
    );
    assert_eq!(of_rule(&result, "agent-name-invalid"), [file("b.tf", 1)]);
}

#[test]
fn modules_that_cannot_be_are_named_at_their_source() {
    let main = "module \"loop\" {\n  source = \"./m\"\n}\nmodule \"out\" {\n  source = \"../x\"\n}\nmodule \"none\" {\n  source = \"./none\"\n}\nmodule \"bare\" {\n}\n";
    let bench = Bench::new(&[
        ("t/main.tf", main),
        ("t/m/main.tf", "module \"back\" {\n  source = \"../m\"\n}\n"),
        ("x/main.tf", ""),
    ]);

    let (result, _) = bench.check(&["--source-only", "t"]);

    let file = |name: &str, line| (name.to_owned(), line);
    assert_eq!(
        of_rule(&result, "invalid"),
        [
            file("m/main.tf", 2),
            file("main.tf", 5),
            file("main.tf", 8),
            file("main.tf", 10)
        ]
        .as_slice()
    );
}

#[test]
fn a_module_that_is_not_at_hand_is_no_success() {
    let bench = Bench::new(&[(
        "t/main.tf",
        &format!(
            "{AGENT}module \"code\" {{\n  source  = \"registry.coder.com/coder/code-server/coder\"\n  version = \"1.0.0\"\n}}\n"
        ),
    )]);

    let output = bench.run(&["check", "t"]);

    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("registry.coder.com/coder/code-server/coder") && text.contains("not at hand"),
        "{text}"
    );
    // What is wrong all the same is still there.
    assert!(text.contains("coder-provider-missing"), "{text}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_file_that_is_too_long_and_five_thousand_resources_are_no_trouble() {
    let many: String = (0..5000).map(|index| format!("resource \"null_resource\" \"r{index}\" {{\n  triggers = {{ a = \"{index}\" }}\n}}\n")).collect();
    let bench = Bench::new(&[("t/main.tf", &many)]);
    let huge = std::fs::File::create(bench.path("t/huge.tf")).unwrap();
    huge.set_len(100 << 20).unwrap();

    let (result, code) = bench.check(&["--source-only", "t"]);

    assert_eq!(of_rule(&result, "syntax"), [("huge.tf".to_owned(), 1)]);
    assert_eq!(code, 1);
}
