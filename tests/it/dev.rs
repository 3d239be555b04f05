//! `outpost dev` with a real engine: what it says, and what it leaves behind.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cli::outpost, support::terminal::Terminal};

/// The last line before a run waits for its end.
const RUNS: &str = "The agent main is connected.";

/// One run, with a directory of its own for all that it has. Whatever it starts knows that directory's name.
struct Run {
    root: TempDir,
}

/// How a run ended.
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Run {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = outpost();
        command
            .arg("dev")
            .args(arguments)
            .arg("--cache-dir")
            .arg(self.path("cache"))
            .env("TMPDIR", self.path("tmp"));
        command
    }

    /// A run at a terminal of its own.
    fn at_a_terminal(&self, arguments: &[&str]) -> Terminal {
        let command = self.command(arguments);
        let mut program = pty_process::Command::new(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            program = match value {
                Some(value) => program.env(name, value),
                None => program.env_remove(name),
            };
        }
        Terminal::open(program)
    }

    /// Runs to the end. Each time a stage of `interrupts` begins, in their order, a Ctrl-C is sent.
    fn run(&self, arguments: &[&str], interrupts: &[&str]) -> Ended {
        let interrupts: Vec<_> = interrupts.iter().map(|it| (*it, Signal::SIGINT)).collect();
        self.run_with(arguments, &interrupts)
    }

    /// Runs to the end. Each time a stage of `signals` begins, in their order, its signal is sent.
    fn run_with(&self, arguments: &[&str], signals: &[(&str, Signal)]) -> Ended {
        self.follow(self.command(arguments).stdin(Stdio::null()), signals)
    }

    fn follow(&self, command: &mut std::process::Command, signals: &[(&str, Signal)]) -> Ended {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (mut stderr, mut wanted) = (String::new(), signals.iter());
        let mut next = wanted.next();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, signal)) = next.filter(|(stage, _)| line.contains(stage)) {
                kill(pid, *signal).unwrap();
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

    /// Command lines of processes that our directory is named to.
    fn processes(&self) -> Vec<String> {
        let root = self.root.path().to_str().unwrap().as_bytes();
        let is_ours = |process: &Path| {
            let told = ["environ", "cmdline"].map(|file| fs::read(process.join(file)));
            let mut told = told.into_iter().flatten();
            told.any(|told| told.windows(root.len()).any(|window| window == root))
        };
        let processes = fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let ours = processes.filter(|process| is_ours(process));
        ours.map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default())
            .collect()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("tmp")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Paths of the workspaces' homes below the data directory, which a stop leaves and a delete does not.
    fn homes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/workspaces")).unwrap();
        entries
            .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
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
        steps[0]["seen"].as_str().unwrap().contains("is running"),
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

    let ended = run.run(&[], &[RUNS]);

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
    // However late the signals come, no apply of this engine starts the agent, which would rightly go on after them.
    let engine = run.path("engine");
    let script =
        "#!/bin/sh\nif [ \"$1\" = apply ]; then exec sleep 600; fi\nexec terraform \"$@\"\n";
    fs::write(&engine, script).unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o700)).unwrap();

    let arguments = ["--check", "--engine", &engine];
    let ended = run.run(&arguments, &["==> Planning Infrastructure", ""]);

    assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
    assert_eq!(run.processes(), [""; 0], "{}", ended.stderr);
}

#[test]
fn a_workspace_that_is_kept_goes_on_in_the_next_run() {
    let run = Run::new();
    let data_dir = &run.path("data");

    let kept = run.run(&["--data-dir", data_dir, "--keep"], &[RUNS]);
    assert!(kept.status.success(), "{}", kept.stderr);
    assert!(
        kept.stderr
            .contains("Kept. Continue with: outpost dev --data-dir"),
        "{}",
        kept.stderr
    );
    let alive = run.processes();
    assert!(
        alive.iter().any(|process| process.contains("init.sh")),
        "the workspace's process outlives us: {alive:?}"
    );

    // A version of another template is no version of this one's.
    let other = run.path("other");
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates/process"),
        Path::new(&other),
    );
    let refused = run.run(&[&other, "--data-dir", data_dir], &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    let why = "was created from the template `process`, not from `other`";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    assert_eq!(run.processes().len(), alive.len(), "{}", refused.stderr);

    let ended = run.run(&["--data-dir", data_dir, "--delete"], &[RUNS]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("Deleted the workspace dev."),
        "{}",
        ended.stderr
    );
    run.assert_nothing_is_left(&ended);
    assert_eq!(run.homes(), [""; 0], "{}", ended.stderr);
}

#[test]
fn what_a_data_directory_has_outlives_every_way_to_end_a_run() {
    let run = Run::new();
    let (template, directory) = (run.path("process"), run.path("data"));
    let template = Path::new(&template);
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates/process"),
        template,
    );
    let arguments = [template.to_str().unwrap(), "--data-dir", &directory];
    let first = run.run(&arguments, &[RUNS]);
    assert!(first.status.success(), "{}", first.stderr);
    let home = run.homes().pop().unwrap();
    let mine = Path::new(&home).join("mine.txt");
    fs::write(&mine, "work").unwrap();

    let check = |ended: &Ended, what: &str| {
        assert_eq!(
            fs::read_to_string(&mine).unwrap(),
            "work",
            "{what}:\n{}",
            ended.stderr
        );
        assert!(
            !ended.stderr.contains("Deleted"),
            "{what}:\n{}",
            ended.stderr
        );
        run.assert_nothing_is_left(ended);
    };
    check(&first, "an ordinary end");
    for (stage, signal) in [
        ("==> Setting up", Signal::SIGINT),
        ("==> Planning Infrastructure", Signal::SIGINT),
        ("==> Starting workspace", Signal::SIGINT),
        ("==> Starting workspace", Signal::SIGTERM),
        ("==> Starting workspace", Signal::SIGHUP),
        (RUNS, Signal::SIGTERM),
        (RUNS, Signal::SIGHUP),
    ] {
        let ended = run.run_with(&arguments, &[(stage, signal)]);

        check(&ended, &format!("{signal} at {stage}"));
    }
    let checked = run.run(&[&arguments[..], &["--check"]].concat(), &[]);
    assert_eq!(checked.status.code(), Some(2), "{}", checked.stderr);
    assert!(
        checked.stderr.contains(
            "there is already a workspace dev, and `--check` deletes the workspace that it creates"
        ),
        "{}",
        checked.stderr
    );
    check(&checked, "a check");
    let main = template.join("main.tf");
    let failing = "resource \"terraform_data\" \"no\" {\n  count = data.coder_workspace.me.start_count\n  \
                   provisioner \"local-exec\" {\n    command = \"exit 3\"\n  }\n}\n";
    fs::write(&main, fs::read_to_string(&main).unwrap() + failing).unwrap();
    let failed = run.run(&arguments, &[]);
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stderr);
    check(&failed, "a failing template");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

#[test]
fn without_a_data_directory_everything_goes_whatever_ends_the_run() {
    for (stage, signal) in [
        ("==> Starting workspace", Signal::SIGTERM),
        ("==> Starting workspace", Signal::SIGHUP),
        (RUNS, Signal::SIGTERM),
        (RUNS, Signal::SIGHUP),
    ] {
        let run = Run::new();

        // A closed terminal and its shell both say SIGHUP.
        let ended = run.run_with(&[], &[(stage, signal), ("==> Destroying", signal)]);

        assert!(
            ended.stderr.contains("Deleted the workspace dev."),
            "{signal} at {stage}:\n{}",
            ended.stderr
        );
        run.assert_nothing_is_left(&ended);
    }
}

#[tokio::test]
async fn only_a_yes_at_the_terminal_deletes_what_a_run_made() {
    let run = Run::new();
    let directory = run.path("data");
    let arguments = ["--data-dir", directory.as_str()];
    let mut terminal = run.at_a_terminal(&arguments);
    terminal
        .until("Connect from another terminal: outpost ssh dev")
        .await;
    terminal.say("\u{3}").await;
    terminal.until("[y/N]").await;
    terminal.say("quit\n").await;
    terminal.until("[y/N]").await;
    terminal.say("\u{4}").await;
    let (shown, status) = terminal.end().await;
    assert!(
        status.success() && shown.contains("Kept. Continue with"),
        "{shown}"
    );
    let home = run.homes().pop().expect("the home is kept");

    // It is not this run's any more, so nothing is asked.
    let mut terminal = run.at_a_terminal(&arguments);
    terminal.until(RUNS).await;
    terminal.say("\u{3}").await;
    let (shown, status) = terminal.end().await;
    assert!(status.success() && !shown.contains("[y/N]"), "{shown}");
    assert_eq!(run.homes(), [home]);

    let run = Run::new();
    let mut terminal = run.at_a_terminal(&[]);
    terminal.until(RUNS).await;
    terminal.say("\u{3}").await;
    terminal.until("[y/N]").await;
    terminal.say("y\n").await;
    let (shown, status) = terminal.end().await;
    assert!(
        status.success() && shown.contains("Deleted the workspace dev."),
        "{shown}"
    );
    assert_eq!(
        (run.processes(), run.files()),
        (Vec::new(), Vec::new()),
        "{shown}"
    );
}

#[tokio::test]
async fn a_terminal_that_is_closed_leaves_no_process_and_no_file() {
    let run = Run::new();
    let mut terminal = run.at_a_terminal(&[]);
    terminal.until(RUNS).await;

    terminal.close().await;

    assert_eq!(
        (run.processes(), run.files()),
        (Vec::<String>::new(), Vec::<String>::new())
    );
}

#[test]
fn a_workspace_of_the_example_knows_nothing_of_the_host() {
    let run = Run::new();
    let mut command = run.command(&["--data-dir", &run.path("data"), "--keep"]);
    command
        .env("TMUX", "/tmp/tmux")
        .env("TF_LOG_PROVIDER", "off");
    let ended = run.follow(command.stdin(Stdio::null()), &[(RUNS, Signal::SIGINT)]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let home = run.homes().pop().unwrap();
    let pid = fs::read_to_string(format!("{home}/run/agent.pid")).unwrap();

    let process = format!("/proc/{}", pid.trim());
    let environment = fs::read_to_string(format!("{process}/environ")).unwrap();
    let status = fs::read_to_string(format!("{process}/status")).unwrap();

    let names: Vec<&str> = environment
        .split('\0')
        .filter_map(|it| it.split_once('='))
        .map(|it| it.0)
        .collect();
    let is_foreign = |name: &&&str| {
        name.starts_with("TF_") || name.starts_with("TMUX") || name.contains("OWNER")
    };
    assert_eq!(names.iter().find(is_foreign), None, "{names:?}");
    assert!(
        names.contains(&"CODER_AGENT_TOKEN") && names.contains(&"PATH"),
        "{names:?}"
    );
    assert!(status.contains("Umask:\t0022"), "{status}");
    let ended = run.run(&["--data-dir", &run.path("data"), "--delete"], &[RUNS]);
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
fn what_both_plans_of_an_import_warn_of_is_said_once() {
    let (template, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
resource "coder_agent" "lost" {
  os   = "linux"
  arch = "amd64"
}
"#;
    fs::write(template.path().join("main.tf"), source).unwrap();

    let drawn = outpost()
        .args(["inspect", "--output", "json", "--cache-dir"])
        .arg(cache.path())
        .arg(template.path())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&drawn.stderr);
    let picture: serde_json::Value = serde_json::from_slice(&drawn.stdout).expect(&said);
    let notes = picture["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0]
            .as_str()
            .unwrap()
            .contains("belongs to no resource")
    );
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
        &[
            "--sealed",
            "--check",
            "--verbose",
            template.path().to_str().unwrap(),
        ],
        &[],
    );

    assert!(ended.status.success(), "{}", ended.stderr);
    let without_network = "devices: lo, routes: .";
    assert_eq!(
        ended.stderr.contains("this run has no network access"),
        ended.stderr.contains(without_network),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains(without_network)
            || ended.stderr.contains("allows no network namespace"),
        "{}",
        ended.stderr
    );
    run.assert_nothing_is_left(&ended);
}
