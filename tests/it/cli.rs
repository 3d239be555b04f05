//! What people touch: help, settings, errors and exit codes of the real program.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// The program, in an environment that has nothing of ours.
pub fn outpost() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["OUTPOST_", "CODER_", "XDG_", "TF_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    // An operator's file must not change what tests see.
    command.env("HOME", "/proc/nonexistent");
    command
}

fn run(arguments: &[&str]) -> Output {
    outpost().args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(text: &str) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("outpost.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

/// The paths of all commands that are not hidden.
fn commands(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
    found.push(path.to_vec());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = [path, &[sub.get_name().to_owned()]].concat();
        commands(sub, &path, found);
    }
}

#[test]
fn every_command_has_help_that_tells_its_exit_codes() {
    let mut all = Vec::new();
    commands(&outpost::cli::command(), &[], &mut all);
    assert!(all.len() > 25, "{all:?}");
    for path in all {
        let output = outpost().args(&path).arg("--help").output().unwrap();

        assert_eq!(
            output.status.code(),
            Some(0),
            "{path:?}: {}",
            stderr(&output)
        );
        assert!(stdout(&output).contains("Exit codes: 0 "), "{path:?}");
    }
}

#[test]
fn wrong_usage_ends_with_code_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["dev", "--parameter", "no-equals-sign"],
        &["server", "--listen", "nowhere"],
        &["dev", "--coder-provider", "elsewhere"],
        &["version", "--output", "xml"],
        &["template", "list"],
        &["--log", "outpost=loud", "job", "list"],
    ] {
        let output = run(arguments);

        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_daemon_says_which_credential_is_missing_or_too_much() {
    let url = ["provisioner", "start", "--url", "http://127.0.0.1:9"];
    for (further, expected) in [
        (&[][..], "must provide a pre-shared key or provisioner key"),
        (
            &["--psk", "a", "--key", "b"],
            "cannot provide both provisioner key --key and pre-shared key --psk",
        ),
        (
            &["--key", "b", "--tag", "a=b"],
            "cannot provide tags when using provisioner key",
        ),
        (
            &["--psk", "a", "--name", "under_score"],
            "`under_score` cannot be a daemon's name",
        ),
        (
            &["--psk-file", "/nonexistent/psk"],
            "failed to read the secret in `/nonexistent/psk`",
        ),
    ] {
        let output = run(&[&url, further].concat());

        assert_eq!(
            output.status.code(),
            Some(1),
            "{further:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(expected),
            "{further:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line() {
    for (text, expected) in [
        (
            "log = \"info\"\n[provisioner]\nnaem = \"x\"\n",
            ":3: unknown key `provisioner.naem`, did you mean `provisioner.name`?",
        ),
        (
            "[provisioner]\nconcurrency = \"many\"\n",
            ":2: `provisioner.concurrency`: invalid value `many`: ",
        ),
        (
            "[server]\n\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n",
            ":3: `server.listen`: expected one value, not an array",
        ),
        (
            "[dev]\ncoder-provider = \"elsewhere\"\n",
            ":2: `dev.coder-provider`: expected one of builtin, registry, auto",
        ),
        ("[provisioner\n", ":1: "),
        (
            "output = 2020-01-01\n",
            ":1: `output`: expected a string, a number, a boolean, or an array or table of strings",
        ),
    ] {
        let (_directory, path) = config(text);

        let output = run(&["--config", &path, "config", "check"]);

        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            stderr(&output).contains(&format!("{path}{expected}")),
            "{text}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_secret_in_a_file_that_others_can_read_is_refused_and_not_shown() {
    let (_directory, path) = config("[provisioner]\npsk = \"hunter2hunter2\"\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();

    let output = run(&["--config", &path, "config", "check"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output)
            .contains(":2: `provisioner.psk` is a secret, and other users can read this file")
    );
    assert!(
        stderr(&output).contains("hint: run `chmod 600"),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains("hunter2"));
}

#[test]
fn a_flag_counts_more_than_the_environment_and_that_more_than_the_file() {
    let (_directory, path) =
        config("[provisioner]\nname = \"of-the-file\"\nconcurrency = 3\npsk = \"hunter2\"\n");
    let show = |environment: &[(&str, &str)], arguments: &[&str]| {
        let mut command = outpost();
        command.envs(environment.iter().copied());
        command.args([
            "--config", &path, "--output", "json", "config", "show", "--origin",
        ]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!stdout(&output).contains("hunter2"));
        let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        move |key: &str| {
            let setting = all.iter().find(|setting| setting["key"] == key).unwrap();
            (
                setting["values"].to_string(),
                setting["origin"].as_str().unwrap().to_owned(),
            )
        }
    };

    let file = show(&[], &[]);
    assert_eq!(
        file("provisioner.name"),
        (r#"["of-the-file"]"#.into(), format!("{path}:2"))
    );
    assert_eq!(
        file("provisioner.psk"),
        (r#"["[redacted]"]"#.into(), format!("{path}:4"))
    );
    assert_eq!(
        file("provisioner.concurrency"),
        (r#"["3"]"#.into(), format!("{path}:3"))
    );
    assert_eq!(
        file("server.listen"),
        (r#"["127.0.0.1:7080"]"#.into(), "default".into())
    );
    assert_eq!(file("server.access-url"), ("[]".into(), "not set".into()));

    let name = ("CODER_PROVISIONER_DAEMON_NAME", "of-the-environment");
    let environment = show(&[name], &[]);
    let origin = "environment CODER_PROVISIONER_DAEMON_NAME".to_owned();
    assert_eq!(
        environment("provisioner.name"),
        (r#"["of-the-environment"]"#.into(), origin)
    );

    let flag = show(
        &[name],
        &["--", "provisioner", "start", "--name", "of-the-flag"],
    );
    assert_eq!(
        flag("provisioner.name"),
        (r#"["of-the-flag"]"#.into(), "flag".into())
    );
}

#[test]
fn the_annotated_example_has_every_setting_and_is_good() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/outpost.toml");
    let text = fs::read_to_string(&example).unwrap();
    let (_directory, path) = config(&text);

    let checked = run(&["--config", &path, "config", "check"]);
    assert!(checked.status.success(), "{}", stderr(&checked));

    // Settings that are commented out are good, too: the same file without the marks.
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
        .collect();
    let (_directory, path) = config(&uncommented);
    let checked = run(&["--config", &path, "config", "check"]);
    assert!(checked.status.success(), "{}", stderr(&checked));

    let shown = run(&["--config", &path, "--output", "json", "config", "show"]);
    let settings: Vec<serde_json::Value> = serde_json::from_slice(&shown.stdout).unwrap();
    let missing: Vec<_> = settings
        .iter()
        .filter(|setting| !setting["origin"].as_str().unwrap().starts_with(&path))
        .map(|setting| setting["key"].as_str().unwrap().to_owned())
        .collect();
    assert!(missing.is_empty(), "not in the example: {missing:?}");
}

#[test]
fn a_key_is_random_and_goes_into_a_file_that_only_its_owner_can_read() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("psk");
    let path = path.to_str().unwrap();

    let output = run(&["psk", "generate", "--file", path]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let key = fs::read_to_string(path).unwrap();
    assert!(key.trim().len() >= 43 && !stdout(&output).contains(key.trim()));

    let again = run(&["psk", "generate", "--file", path]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(fs::read_to_string(path).unwrap(), key);
    assert_ne!(
        stdout(&run(&["psk", "generate"])),
        stdout(&run(&["psk", "generate"]))
    );
}

#[test]
fn every_shell_has_a_script_that_asks_this_program() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);

        assert!(output.status.success());
        let script = stdout(&output);
        assert!(
            script.contains("COMPLETE") && script.contains("outpost"),
            "{shell}"
        );
    }
}

#[test]
fn the_check_counts_what_the_file_has_and_names_what_the_environment_sets() {
    let (_directory, path) = config("[server]\nlisten = \"127.0.0.1:7080\"\n[dev]\nkeep = true\n");
    let check = |environment: &[(&str, &str)]| {
        let mut command = outpost();
        command.args(["--config", &path, "config", "check"]);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).trim_end().to_owned()
    };

    assert_eq!(check(&[]), format!("{path} is valid: 2 settings"));
    assert_eq!(
        check(&[
            ("OUTPOST_TLS_CA_FILE", "/ca.pem"),
            ("OUTPOST_URL", "http://x")
        ]),
        format!(
            "{path} is valid: 2 settings; the environment sets OUTPOST_TLS_CA_FILE, OUTPOST_URL"
        )
    );
}

#[test]
fn an_error_of_the_command_line_is_said_once_and_the_url_holds_for_every_command() {
    let wrong = run(&["config", "show", "--", "provisioner", "start", "--no-such"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        stderr(&wrong).starts_with("error: unexpected argument"),
        "{}",
        stderr(&wrong)
    );

    let mut shown = outpost();
    shown.args(["--output", "json", "config", "show", "--origin"]);
    let output = shown
        .env("OUTPOST_URL", "http://lab.example")
        .output()
        .unwrap();
    let settings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let url = |key: &str| {
        let setting = settings.iter().find(|it| it["key"] == key).unwrap();
        (setting["values"][0].clone(), setting["origin"].clone())
    };
    for key in ["client.url", "provisioner.url"] {
        let expected = (
            "http://lab.example".into(),
            "environment OUTPOST_URL".into(),
        );
        assert_eq!(url(key), expected, "{key}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named_with_a_hint() {
    let output = outpost()
        .args(["template", "list", "--url", "http://127.0.0.1:9"])
        .env("OUTPOST_TOKEN", "hunter2")
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.starts_with("error: cannot reach the server at http://127.0.0.1:9/: "),
        "{text}"
    );
    assert!(
        text.contains("\nhint: ") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_configuration_for_a_mirror_is_printed_and_passes_its_own_check() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("terraform.rc");
    let path = path.to_str().unwrap();
    let url = "https://mirror.example/";

    let rc = run(&["mirror", "config", url, "--mode", "network"]);
    assert!(rc.status.success(), "{}", stderr(&rc));
    fs::write(path, stdout(&rc)).unwrap();
    let check = run(&["mirror", "config", "--check", path]);
    assert!(check.status.success(), "{}", stdout(&check));

    fs::write(path, stdout(&rc).replace("/mirror/\"", "/mirror\"")).unwrap();
    let check = run(&["mirror", "config", "--check", path]);
    assert_eq!(check.status.code(), Some(1));
    assert!(
        stdout(&check).contains("does not end in a slash"),
        "{}",
        stdout(&check)
    );

    for (arguments, reason) in [
        (
            &["http://mirror.example/", "--mode", "network"][..],
            "https:// only",
        ),
        (&["ftp://mirror.example/"], "must begin with https://"),
        (&[], "<URL>"),
    ] {
        let output = run(&[&["mirror", "config"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}
