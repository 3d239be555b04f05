//! README, CONTRIBUTING and the pages of `docs/`: their first examples run, and their links lead somewhere.

mod sources;

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::{Output, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use regex::Regex;
use tempfile::TempDir;

use crate::{cli::outpost, support::skip::skipped};

/// An example takes ten seconds on an idle machine, and must take less than a minute there.
const PATIENCE: Duration = Duration::from_secs(240);
/// Ports that the examples write down; a test takes free ones instead.
const PORTS: [&str; 2] = ["7080", "2113"];
/// What the examples find in their directory, as in a clone of the repository.
const BESIDE: [&str; 2] = ["examples", "testdata"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first `sh` block of a page.
fn example(page: &str) -> String {
    let text = read(page);
    let (_, rest) = text
        .split_once("\n```sh\n")
        .unwrap_or_else(|| panic!("{page} has no example: its first `sh` block is run"));
    rest.split("```").next().unwrap().to_owned()
}

/// Runs an example as it is written, in a home of its own and on free ports, until all that it started has ended.
async fn run(block: &str) -> Output {
    let home = TempDir::new().unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_outpost"), bin.join("outpost")).unwrap();
    for name in BESIDE {
        symlink(root().join(name), home.path().join(name)).unwrap();
    }
    // Held together, so that no two ports are the same.
    let free = PORTS.map(|port| (port, TcpListener::bind("127.0.0.1:0").unwrap()));
    let block = free.iter().fold(block.to_owned(), |block, (port, free)| {
        block.replace(port, &free.local_addr().unwrap().port().to_string())
    });
    drop(free);
    let path = std::env::var("PATH").unwrap();
    let mut command: tokio::process::Command = outpost_environment("bash").into();
    command
        .args(["-euo", "pipefail", "-c", &block])
        .env("HOME", home.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .current_dir(home.path())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let group = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    // Both pipes are read to their ends, which come only once no process of the example holds them.
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    killpg(group, Signal::SIGKILL).ok();
    ended
        .expect("the example and all processes that it started end")
        .unwrap()
}

/// `program` in the environment of [`outpost`].
fn outpost_environment(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for (name, value) in outpost().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Runs the first example of a page and returns what it printed on stdout.
async fn first_example(page: &str) -> String {
    let block = example(page);
    if block.contains("curl ") && which::which("curl").is_err() {
        skipped(page, "its example needs curl");
        return String::new();
    }
    let output = run(&block).await;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{page}: {}\n{out}\n{err}",
        output.status
    );
    out
}

/// Whether the example of `page` could run here and printed each of `expected`.
async fn shows(page: &str, expected: &[&str]) {
    let out = first_example(page).await;
    for text in expected {
        assert!(
            out.is_empty() || out.contains(text),
            "{page}: no {text:?} in\n{out}"
        );
    }
}

#[tokio::test]
async fn the_example_for_template_authors_runs() {
    let expected = [
        "builder (linux/",
        "flowchart LR",
        "deleted, no resource, no process, no files",
    ];
    shows("docs/templates.md", &expected).await;
}

#[tokio::test]
async fn the_example_for_operators_of_a_fleet_runs() {
    shows("docs/fleet.md", &["pre-shared key is accepted", "idle"]).await;
}

#[tokio::test]
async fn the_example_for_operators_of_a_control_plane_runs() {
    shows("docs/server.md", &["Linux", "deleted"]).await;
}

#[tokio::test]
async fn the_example_for_operators_of_a_sealed_site_runs() {
    let expected = [
        "deleted, no resource, no process, no files",
        "mirror.example.internal",
    ];
    shows("docs/sealed-site.md", &expected).await;
}

#[tokio::test]
async fn the_example_for_contributors_runs() {
    shows("CONTRIBUTING.md", &["\"first\"", "\"second\""]).await;
}

#[test]
fn every_page_has_a_test_of_its_example() {
    let tests = read("tests/it/documents.rs");
    for page in pages() {
        assert!(
            !page.starts_with("docs/") || tests.contains(&format!("(\"{page}\", ")),
            "no test runs the example of {page}"
        );
    }
}

/// Paths of the documents that people read, from the root.
fn pages() -> Vec<String> {
    let mut found: Vec<_> = [
        "README",
        "CONTRIBUTING",
        "ARCHITECTURE",
        "SECURITY",
        "CHANGELOG",
    ]
    .iter()
    .map(|name| format!("{name}.md"))
    .collect();
    for dir in ["docs", "deploy", "tests/it/interop"] {
        let entries = fs::read_dir(root().join(dir)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        found.extend(
            names
                .filter(|name| name.ends_with(".md"))
                .map(|name| format!("{dir}/{name}")),
        );
    }
    found
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\(([^)\s]+)\)").unwrap());
    let mut broken = Vec::new();
    for page in pages() {
        for found in LINK.captures_iter(&read(&page)) {
            let (path, anchor) = found[1].split_once('#').unwrap_or((&found[1], ""));
            if path.contains("://") {
                continue;
            }
            let here = root().join(&page);
            let target = match path {
                "" => here,
                path => here.parent().unwrap().join(path),
            };
            let anchors = fs::read_to_string(&target).map(|text| anchors(&text));
            let leads = target.exists()
                && (anchor.is_empty() || anchors.is_ok_and(|it| it.contains(anchor)));
            if !leads {
                broken.push(format!("{page}: {}", &found[1]));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}

/// The anchors that a page's headings have on GitHub and GitLab.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| {
            line.trim_start_matches('#')
                .strip_prefix(' ')
                .filter(|_| line.starts_with('#'))
        })
        .map(|heading| {
            heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}
