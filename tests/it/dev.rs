//! `outpost dev` with a real engine: what it says, and what it leaves behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::outpost;

/// One run, with directories and a mark of its own. All processes that it starts inherit the mark.
struct Run {
    temporary: TempDir,
    cache: TempDir,
    mark: String,
}

/// How a run ended.
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Run {
    fn new() -> Self {
        Self {
            temporary: TempDir::new().unwrap(),
            cache: TempDir::new().unwrap(),
            mark: uuid::Uuid::new_v4().to_string(),
        }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        outpost()
            .arg("dev")
            .args(arguments)
            .arg("--cache-dir")
            .arg(self.cache.path())
            .env("TMPDIR", self.temporary.path())
            .env("TEST_MARK", &self.mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs to the end. Each time a stage of `interrupts` begins, in their order, a Ctrl-C is sent.
    fn run(&self, arguments: &[&str], interrupts: &[&str]) -> Ended {
        let mut child = self.start(arguments);
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (mut stderr, mut wanted) = (String::new(), interrupts.iter());
        let mut next = wanted.next();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if next.is_some_and(|stage| line.contains(stage)) {
                kill(pid, Signal::SIGINT).unwrap();
                next = wanted.next();
            }
            stderr.push_str(&line);
            stderr.push('\n');
        }
        assert_eq!(next, None, "this stage never came:\n{stderr}");
        let mut stdout = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut stdout)
            .unwrap();
        let status = child.wait().unwrap();
        Ended {
            status,
            stdout,
            stderr,
        }
    }

    /// Command lines of processes that have our mark.
    fn processes(&self) -> Vec<String> {
        let is_ours = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment
                .windows(self.mark.len())
                .any(|window| window == self.mark.as_bytes())
        };
        let processes = fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let ours = processes.filter(|process| is_ours(process));
        ours.map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default())
            .collect()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.temporary.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self, ended: &Ended) {
        assert_eq!(
            self.processes(),
            [""; 0],
            "processes are left:\n{}",
            ended.stderr
        );
        assert_eq!(self.files(), [""; 0], "files are left:\n{}", ended.stderr);
    }
}

#[test]
fn the_check_of_the_example_finds_its_process_and_leaves_nothing() {
    let run = Run::new();

    let ended = run.run(&["--check", "--output", "json"], &[]);

    assert!(ended.status.success(), "{}", ended.stderr);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let kinds: Vec<[&str; 3]> = report["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| {
            ["address", "class", "persistence"].map(|key| resource[key].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ["terraform_data.home", "peripheral", "persistent"],
            ["terraform_data.process[0]", "computational", "ephemeral"],
            ["terraform_data.runtime[0]", "peripheral", "ephemeral"],
        ]
    );
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["create", "ssh", "stop", "start", "ssh", "delete"]);
    assert!(
        steps
            .iter()
            .all(|step| step["problems"] == serde_json::json!([]))
    );
    assert!(
        steps[0]["seen"].as_str().unwrap().contains(" runs"),
        "{}",
        ended.stdout
    );
    // The workspace's name is known to nothing but the agent.
    assert_eq!(
        steps[1]["seen"], "agent main printed `in dev`, status 7",
        "{}",
        ended.stdout
    );
    run.assert_nothing_is_left(&ended);
}

#[test]
fn ctrl_c_at_any_stage_ends_with_code_130_and_leaves_nothing() {
    for stage in [
        "==> Setting up",
        "==> Initializing Terraform Directory",
        "==> Detecting persistent resources",
        "==> Detecting ephemeral resources",
        "==> Planning Infrastructure",
        "==> Starting workspace",
        "==> Stopping workspace",
        "==> Destroying workspace",
    ] {
        let run = Run::new();

        let ended = run.run(&["--check"], &[stage]);

        assert_eq!(
            ended.status.code(),
            Some(130),
            "at {stage}:\n{}",
            ended.stderr
        );
        run.assert_nothing_is_left(&ended);
    }
}

#[test]
fn ctrl_c_at_a_workspace_that_runs_stops_and_deletes_it() {
    let run = Run::new();

    let ended = run.run(&[], &["The workspace runs. Press Ctrl-C"]);

    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("==> Stopping workspace"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("Deleted the workspace dev."),
        "{}",
        ended.stderr
    );
    run.assert_nothing_is_left(&ended);
}

#[test]
fn a_second_ctrl_c_ends_everything_at_once() {
    let run = Run::new();

    let ended = run.run(&["--check"], &["==> Planning Infrastructure", ""]);

    assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
    assert_eq!(run.processes(), [""; 0], "{}", ended.stderr);
}

#[test]
fn a_workspace_that_is_kept_goes_on_in_the_next_run() {
    let (run, data) = (Run::new(), TempDir::new().unwrap());
    let data_dir = data.path().join("data");
    let data_dir = data_dir.to_str().unwrap();

    let kept = run.run(
        &["--data-dir", data_dir, "--keep"],
        &["The workspace runs. Press Ctrl-C"],
    );
    assert!(kept.status.success(), "{}", kept.stderr);
    assert!(
        kept.stderr
            .contains("Kept. Go on with: outpost dev --data-dir"),
        "{}",
        kept.stderr
    );
    let alive = run.processes();
    assert!(
        alive.iter().any(|process| process.contains("init.sh")),
        "the workspace's process outlives us: {alive:?}"
    );

    let ended = run.run(
        &["--data-dir", data_dir],
        &["The workspace runs. Press Ctrl-C"],
    );
    assert!(ended.status.success(), "{}", ended.stderr);
    run.assert_nothing_is_left(&ended);
}

#[test]
fn examples_that_need_no_cloud_pass_their_check() {
    for (example, further) in [
        ("devcontainer", &[][..]),
        ("multi-agent", &[]),
        (
            "parameters-and-presets",
            &[
                "--preset",
                "Large, in Europe",
                "--parameter",
                "dotfiles=https://example.com/d",
            ],
        ),
    ] {
        let run = Run::new();
        let directory = format!(
            "{}/examples/templates/{example}",
            env!("CARGO_MANIFEST_DIR")
        );

        let ended = run.run(
            &[
                &[directory.as_str(), "--check", "--output", "json"],
                further,
            ]
            .concat(),
            &[],
        );

        assert!(
            ended.status.success(),
            "{example}:\n{}{}",
            ended.stderr,
            ended.stdout
        );
        if example == "parameters-and-presets" {
            let report: Value = serde_json::from_str(&ended.stdout).unwrap();
            let value = |name: &str| {
                let mut parameters = report["parameters"].as_array().unwrap().iter();
                parameters
                    .find(|parameter| parameter["name"] == name)
                    .unwrap()["value"]
                    .clone()
            };
            assert_eq!(
                [value("cores"), value("dotfiles")],
                ["16", "https://example.com/d"]
            );
        }
        run.assert_nothing_is_left(&ended);
    }
}

#[test]
fn what_is_wrong_with_a_template_is_said_with_its_place() {
    let template = TempDir::new().unwrap();
    let directory = template.path().to_str().unwrap();
    for (source, expected) in [
        ("resource \"terraform_data\" {\n", "main.tf line 1"),
        ("variable \"size\" {}\n", "need values: size"),
        (
            "terraform {\n  required_providers {\n    x = { source = \"outpost.invalid/no/such\" }\n  }\n}\nprovider \"x\" {}\n",
            "outpost.invalid/no/such",
        ),
    ] {
        fs::write(template.path().join("main.tf"), source).unwrap();
        let run = Run::new();

        let ended = run.run(&[directory], &[]);

        assert_eq!(ended.status.code(), Some(1), "{source}:\n{}", ended.stderr);
        assert!(
            ended.stderr.contains("error: failed to import version"),
            "{source}:\n{}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains(expected),
            "no `{expected}` in:\n{}",
            ended.stderr
        );
        run.assert_nothing_is_left(&ended);
    }
}

#[test]
fn a_sealed_run_builds_without_any_network() {
    let template = TempDir::new().unwrap();
    let source = r#"
resource "terraform_data" "look" {
  provisioner "local-exec" {
    command = "echo devices: $(tail -n +3 /proc/net/dev | cut -d: -f1), routes: $(tail -n +2 /proc/net/route)."
  }
}
"#;
    fs::write(template.path().join("main.tf"), source).unwrap();
    let run = Run::new();

    let ended = run.run(
        &["--sealed", "--check", template.path().to_str().unwrap()],
        &[],
    );

    assert!(ended.status.success(), "{}", ended.stderr);
    let without_network = "devices: lo, routes: .";
    assert_eq!(
        ended.stderr.contains("nothing of this run has a network"),
        ended.stderr.contains(without_network),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains(without_network) || ended.stderr.contains("gives no namespace"),
        "{}",
        ended.stderr
    );
    run.assert_nothing_is_left(&ended);
}
