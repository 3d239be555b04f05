//! Every task has an owner and a span.
//!
//! The owner is whoever has its handle or its `JoinSet`: then a task ends with what it was begun for, and its panics are
//! noticed. One that nobody owns has a comment above it that begins with `Detached:` and says what ends it. By the span a
//! log line tells which connection, peer or job it is about.

use std::fs;

use super::{code, is_test, path_of, sources, without_tests};

/// Crates that serve many at a time. All others have no more than a task or two of each kind.
const MANY: &[&str] = &[
    "agent",
    "connect",
    "control",
    "daemon",
    "files",
    "mirror",
    "net",
    "tailnet",
    "terraform",
    "transport",
];

#[test]
fn every_task_has_an_owner_and_a_span() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in sources().into_iter().filter(|file| !is_test(file)) {
        let text = fs::read_to_string(path_of(&file)).unwrap();
        let text = without_tests(&text);
        let serves_many = MANY.iter().any(|krate| file.starts_with(krate));
        for task in tasks(&text) {
            count += 1;
            let place = format!("{}:{}", file.display(), task.line);
            if serves_many && task.kind != Kind::Blocking && !task.has_span {
                wrong.push(format!(
                    "{place}: no span: `.instrument(debug_span!(…))` or `.in_current_span()`"
                ));
            }
            if task.is_dropped && !task.has_reason {
                wrong.push(format!("{place}: no owner, and no comment `Detached: …`"));
            }
        }
    }
    assert!(count > 80, "only {count} tasks were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tasks_are_found_in_every_form() {
    let text = "
fn f() {
    tokio::spawn(run());
    // Detached: ends with the process,
    // as nothing else does.
    tokio::spawn(run().in_current_span());
    let task =
        tokio::spawn(run());
    set.spawn(run(\")\").instrument(span));
    spawn_blocking(work).await?;
    drop(runtime.spawn_blocking(work));
    command.spawn()?;
    scope.spawn(work);
}
";
    let found: Vec<_> = tasks(text)
        .into_iter()
        .map(|it| (it.line, it.kind, it.has_span, it.is_dropped, it.has_reason))
        .collect();

    assert_eq!(
        found,
        [
            (3, Kind::Detachable, false, true, false),
            (6, Kind::Detachable, true, true, true),
            (8, Kind::Detachable, false, false, false),
            (9, Kind::InSet, true, false, false),
            (10, Kind::Blocking, false, false, false),
            (11, Kind::Blocking, false, true, false),
        ]
    );
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `tokio::spawn`, which returns a handle.
    Detachable,
    /// `JoinSet::spawn`.
    InSet,
    /// `spawn_blocking`.
    Blocking,
}

struct Task {
    line: usize,
    kind: Kind,
    has_span: bool,
    /// Whether nobody takes the handle.
    is_dropped: bool,
    has_reason: bool,
}

fn tasks(text: &str) -> Vec<Task> {
    let lines: Vec<_> = text.lines().collect();
    let code = code(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("spawn") {
        let rest = &code[at..];
        let is_path = |letter: char| letter.is_alphanumeric() || "_:.".contains(letter);
        let start = code[..at].trim_end_matches(is_path).len();
        let (path, name) = (&code[start..at], rest.split('(').next().unwrap_or_default());
        let Some(arguments) = arguments(&rest[name.len()..]) else {
            continue;
        };
        let Some(kind) = kind(path, name, arguments) else {
            continue;
        };
        let line = code[..start].matches('\n').count();
        let end = at + name.len() + arguments.len() + 2;
        found.push(Task {
            line: line + 1,
            kind,
            has_span: ["instrument(", "in_current_span("]
                .iter()
                .any(|it| arguments.contains(it)),
            is_dropped: kind != Kind::InSet && is_dropped(&code[..start], &code[end..]),
            has_reason: comment_above(&lines[..line]).contains("Detached: "),
        });
    }
    found
}

/// `None` for processes, threads and functions of that name.
fn kind(path: &str, name: &str, arguments: &str) -> Option<Kind> {
    let receiver = path.strip_suffix('.');
    let is_other = |it: &str| ["scope", "child"].contains(&it) || it.is_empty();
    match name {
        "spawn_blocking" => Some(Kind::Blocking),
        "spawn" if path.ends_with("tokio::") || path == "task::" => Some(Kind::Detachable),
        "spawn" if !arguments.is_empty() && receiver.is_some_and(|it| !is_other(it)) => {
            Some(Kind::InSet)
        }
        _ => None,
    }
}

/// What is between a parenthesis that the text begins with and its counterpart.
fn arguments(text: &str) -> Option<&str> {
    let (mut depth, mut is_text) = (0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text[..at].strip_prefix('(');
        }
    }
    None
}

fn is_dropped(before: &str, after: &str) -> bool {
    let before = before.trim_end();
    before.ends_with("drop(")
        || before.ends_with(['{', '}', ';']) && after.trim_start().starts_with(';')
}

fn comment_above(lines: &[&str]) -> String {
    let comment = lines
        .iter()
        .rev()
        .map_while(|line| line.trim_start().strip_prefix("//"));
    let mut comment: Vec<_> = comment.collect();
    comment.reverse();
    comment.join(" ")
}
