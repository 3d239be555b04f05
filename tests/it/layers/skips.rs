//! A test that ends early says so: by `skipped`, or through a helper that calls it.

use std::{collections::BTreeSet, fs, path::Path};

use super::{below, code, root};

#[test]
fn no_test_ends_early_in_silence() {
    let top = root().join("tests/it");
    let files = below(&top, Path::new(""))
        .into_iter()
        .filter(|file| !file.starts_with("layers"));
    let texts: Vec<_> = files
        .map(|file| {
            (
                file.clone(),
                code(&fs::read_to_string(top.join(&file)).unwrap()),
            )
        })
        .collect();
    let tell = helpers_that_tell(texts.iter().map(|(_, text)| text.as_str()));
    assert!(tell.contains("has_ssh"), "helpers are found: {tell:?}");

    let wrong: Vec<_> = texts
        .iter()
        .flat_map(|(file, text)| {
            silent_ends(text, &tell)
                .into_iter()
                .map(move |line| format!("{}:{line}", file.display()))
        })
        .collect();

    assert!(
        wrong.is_empty(),
        "end a test with `support::skip::skipped`:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn notes_of_what_is_skipped_go_where_they_are_listed() {
    let top = root().join("tests/it");
    let prints = |text: &str| {
        let mut prints = text
            .match_indices("println!(")
            .map(|(at, name)| text[at + name.len()..].trim_start());
        prints.any(|rest| rest.starts_with("\"skipped"))
    };
    let wrong: Vec<_> = below(&top, Path::new(""))
        .into_iter()
        .filter(|file| !file.starts_with("layers"))
        .filter(|file| prints(&fs::read_to_string(top.join(file)).unwrap()))
        .collect();

    assert!(
        wrong.is_empty(),
        "call `support::skip::skipped` instead of printing it: {wrong:?}"
    );
}

#[test]
fn ends_are_found() {
    let text = "
fn program() -> Option<PathBuf> {
    skipped(\"x\", \"y\");
    None
}

fn started() -> Option<Child> {
    Some(program()?.start())
}

#[test]
fn says_so() {
    let Some(child) = started() else {
        return;
    };
}

#[test]
fn is_silent() {
    if which(\"ssh\").is_err() {
        return;
    }
    let told = || { return 1 };
}
";
    let tell = helpers_that_tell([text].into_iter());

    assert_eq!(tell.into_iter().collect::<Vec<_>>(), ["program", "started"]);
    assert_eq!(
        silent_ends(text, &helpers_that_tell([text].into_iter())),
        [21]
    );
}

/// Names of functions that return an `Option` or a `bool` and call `skipped`, or another such function.
fn helpers_that_tell<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let functions: Vec<_> = texts
        .flat_map(functions)
        .filter(|it| it.text.contains("-> Option<") || it.text.contains("-> bool"))
        .collect();
    let mut tell = BTreeSet::<String>::new();
    loop {
        let calls = |text: &str, name: &str| text.contains(&format!("{name}("));
        let more: Vec<_> = functions
            .iter()
            .filter(|it| !tell.contains(&it.name))
            .filter(|it| {
                calls(&it.text, "skipped")
                    || tell
                        .iter()
                        .any(|name| *name != it.name && calls(&it.text, name))
            })
            .map(|it| it.name.clone())
            .collect();
        if more.is_empty() {
            return tell;
        }
        tell.extend(more);
    }
}

/// Lines at which a test returns without having called anything that tells.
fn silent_ends(text: &str, tell: &BTreeSet<String>) -> Vec<usize> {
    let mut found = Vec::new();
    for test in functions(text).into_iter().filter(|it| it.is_test) {
        let lines: Vec<_> = test.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_bare = line.contains("return;") || line.contains("return }");
            if is_bare && !tells(condition(&lines[..=at]), tell) {
                found.push(test.line + at);
            }
        }
    }
    found
}

/// The lines from the `let` or `if` on that the last line belongs to.
fn condition<'a, 'b>(lines: &'b [&'a str]) -> &'b [&'a str] {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let last = lines.len() - 1;
    let begins = |at: &usize| {
        let line = lines[*at].trim_start();
        let is_around = *at == last || indent(lines[*at]) < indent(lines[last]);
        is_around && ["let ", "if "].iter().any(|word| line.starts_with(word))
    };
    &lines[(0..=last).rev().find(begins).unwrap_or(0)..]
}

fn tells(condition: &[&str], tell: &BTreeSet<String>) -> bool {
    let condition = condition.join(" ");
    // What rewrites an expectation is no test.
    condition.contains("UPDATE")
        || tell
            .iter()
            .any(|name| condition.contains(&format!("{name}(")))
}

struct Function {
    name: String,
    /// The number of its first line, from one.
    line: usize,
    text: String,
    is_test: bool,
}

/// Functions as rustfmt lays them out: the closing brace is under the first letter.
fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = name_of(line.trim_start()) else {
            continue;
        };
        let close = format!("{}}}", &line[..indent]);
        let Some(length) = lines[at..].iter().position(|line| *line == close) else {
            continue;
        };
        let attributes = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.trim_start().starts_with("#["));
        found.push(Function {
            name: name.to_owned(),
            line: at + 1,
            text: lines[at..=at + length].join("\n"),
            is_test: attributes.into_iter().any(|line| line.contains("test")),
        });
    }
    found
}

fn name_of(line: &str) -> Option<&str> {
    let mut rest = line;
    for word in ["pub ", "pub(crate) ", "pub(super) ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}
