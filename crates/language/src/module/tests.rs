use proptest::prelude::*;

use std::fs;

use super::*;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn error(name: &str, text: &str) -> Diagnostic {
    SourceFile::parse(name, text).unwrap_err()
}

#[test]
fn only_template_files_of_the_directory_itself_are_read() {
    let dir = directory(&[
        ("b.tf", ""),
        ("a.tf.json", "{}"),
        (".hidden.tf", ";"),
        ("backup.tf~", ";"),
        ("#lock.tf#", ";"),
        ("#x.tf", ""),
        ("README.md", ";"),
        ("a_override.tf", ""),
        ("override.tf.json", "{}"),
    ]);
    fs::create_dir(dir.path().join("dir.tf")).unwrap();

    let module = load(dir.path()).unwrap();

    let names: Vec<&str> = module.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "#x.tf",
            "a.tf.json",
            "b.tf",
            "a_override.tf",
            "override.tf.json"
        ]
    );
}

#[test]
fn a_directory_that_is_missing_is_an_error() {
    let error = load(Path::new("/nonexistent/template"))
        .unwrap_err()
        .to_string();

    assert!(
        error.starts_with("ERROR: Failed to read module directory (unknown location)"),
        "{error}"
    );
}

#[test]
fn all_files_are_checked_and_named() {
    let dir = directory(&[("a.tf", "a = ;"), ("b.tf", "x {"), ("ok.tf", "")]);
    fs::write(dir.path().join("c.tf"), [0xff, 0xfe]).unwrap();

    let diagnostics = load(dir.path()).unwrap_err().diagnostics;

    let files: Vec<&str> = diagnostics
        .iter()
        .map(|diagnostic| diagnostic.file.as_str())
        .collect();
    assert_eq!(files, ["a.tf", "b.tf", "c.tf"]);
    assert_eq!(diagnostics[2].summary, "Invalid character encoding");
}

#[test]
fn a_pipe_is_refused_instead_of_waited_for() {
    let dir = directory(&[]);
    nix::unistd::mkfifo(&dir.path().join("main.tf"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    let error = load(dir.path()).unwrap_err().to_string();

    assert!(error.contains("neither a file nor a link"), "{error}");
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let dir = directory(&[]);
    let file = fs::File::create(dir.path().join("main.tf")).unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();

    assert!(
        load(dir.path())
            .unwrap_err()
            .to_string()
            .contains("File too long")
    );
}

#[test]
fn errors_name_line_and_character() {
    let semicolon = error("main.tf", "variable \"a\" {}\n;asdf;");
    assert_eq!(
        (semicolon.summary.as_str(), semicolon.line),
        ("Invalid character", 2)
    );
    assert!(
        semicolon
            .detail
            .starts_with("The \";\" character is not valid.")
    );

    let cases = [
        ("a = 'x'", "Single quotes are not valid"),
        ("a = `x`", "\"`\" character is not valid"),
        ("x {\n a = 1\n a = 2\n}", "set twice"),
        ("a\n", "Argument or block definition required"),
        ("a = [1, 2", "The source cannot be parsed"),
    ];
    for (text, expected) in cases {
        let found = error("main.tf", text);
        assert!(found.detail.contains(expected), "{text:?}: {found}");
    }
}

#[test]
fn blocks_need_the_labels_of_their_kind() {
    let text = "resource \"a\" {}\nvariable {}\nlocals \"x\" {}\nmodule \"a\" \"b\" {}\nother {}\n";

    let error = Module::parse([("main.tf", text)]).unwrap_err();

    let summaries: Vec<&str> = error
        .diagnostics
        .iter()
        .map(|d| d.summary.as_str())
        .collect();
    let expected = [
        "Missing name for resource",
        "Missing name for variable",
        "Extraneous label for locals",
        "Extraneous label for module",
    ];
    assert_eq!(summaries, expected);
    assert_eq!(error.diagnostics[3].line, 4);
}

#[test]
fn a_mark_at_the_beginning_and_windows_line_ends_are_accepted() {
    let file = SourceFile::parse("main.tf", "\u{feff}a = 1\r\nb {\r\n}\r\n").unwrap();

    let block = file.body.blocks().next().unwrap();
    assert_eq!(file.line(block), 2);
}

#[test]
fn repeated_keys_of_objects_are_accepted() {
    let file = SourceFile::parse(
        "main.tf",
        "a = { key = 1, key = 2, \"k\" = 3, \"k\" = 4, x = 5 }\n",
    )
    .unwrap();

    let keys: Vec<&str> = file.repeated_keys.values().map(String::as_str).collect();
    assert_eq!(keys, ["key", "k"]);
}

#[test]
fn json_has_the_same_blocks() {
    let text = r#"{
      "//": "comment",
      "resource": {"docker_container": {"a": {"count": "${data.coder_workspace.me.start_count}", "b": ["x-${var.y}"]}}},
      "data": [{"coder_workspace": {"me": [{}]}}],
      "terraform": {"backend": {"s3": {}}},
      "unknown": 1
    }"#;
    let module = Module::parse([("main.tf.json", text)]).unwrap();

    let container = module.blocks("resource").next().unwrap();
    assert_eq!(
        (container.label(0), container.label(1)),
        ("docker_container", "a")
    );
    let count = &container.block.body.get_attribute("count").unwrap().value;
    assert_eq!(
        count.to_string().trim(),
        "data.coder_workspace.me.start_count"
    );
    assert_eq!(module.blocks("data").count(), 1);
}

#[test]
fn wrong_json_is_named() {
    let cases = [
        ("{\n x", "Invalid JSON", 2),
        ("[1]", "Invalid JSON structure", 1),
        (r#"{"resource": {"a": 1}}"#, "Invalid JSON structure", 1),
        (
            r#"{"variable": {"a": {"not an ident": 1}}}"#,
            "Invalid JSON structure",
            1,
        ),
        (r#"{"locals": {"a": "${"}}"#, "Invalid template", 1),
    ];
    for (text, summary, line) in cases {
        let found = error("main.tf.json", text);
        assert_eq!(
            (found.summary.as_str(), found.line),
            (summary, line),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_or_read(text in "\\PC{0,80}|[a-c\"{}=\n\\[\\](),.:;$%<>! #/*-]{0,60}") {
        let _ = Module::parse([("main.tf", text.as_str())]);
        let _ = Module::parse([("main.tf.json", text.as_str())]);
    }

    #[test]
    fn objects_with_any_repeated_keys_are_refused_or_read(keys in prop::collection::vec("[ab_0]{1,3}", 0..12)) {
        let items: Vec<String> = keys.iter().map(|key| format!("\"{key}\" = 1")).collect();
        let parsed = SourceFile::parse("main.tf", &format!("a = {{ {} }}\n", items.join(", ")));
        prop_assert!(parsed.is_ok());
    }
}
