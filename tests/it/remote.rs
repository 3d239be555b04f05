//! A server, daemons and a person, each a process of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::outpost;

/// A server that runs until it is dropped.
pub struct Server {
    directory: TempDir,
    /// More than what each server is told.
    further: Vec<String>,
    pub url: String,
    pub process: Service,
}

/// A process that gets SIGTERM and must then end well.
pub struct Service(Child);

impl Service {
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    /// The first line on stderr that has `text`. What follows is read, and dropped, until the end.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_any(&[text])
    }

    /// The first line on stderr that has one of `texts`.
    pub fn wait_for_any(&mut self, texts: &[&str]) -> String {
        let mut lines = BufReader::new(self.0.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let mut seen = Vec::new();
        let found = lines.by_ref().find(|line| {
            seen.push(line.clone());
            texts.iter().any(|text| line.contains(text))
        });
        std::thread::spawn(move || lines.for_each(drop));
        found.unwrap_or_else(|| panic!("{texts:?} was never said:\n{}", seen.join("\n")))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn stop(mut self) {
        kill(
            Pid::from_raw(self.0.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn a_server_says_that_it_asks_nobody_where_coders_settings_expect_otherwise() {
    let directory = TempDir::new().unwrap();
    let said = |settings: &[(&str, &str)]| {
        let mut command = outpost();
        command.args([
            "server",
            "--sealed",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
        ]);
        command.arg(directory.path()).envs(settings.iter().copied());
        let mut server = Service(command.stderr(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
        let lines = lines.map(Result::unwrap);
        let until = |line: &String| !line.contains("Listening at ");
        lines.take_while(until).collect::<Vec<_>>().join("\n")
    };

    let as_it_is = said(&[
        ("CODER_TELEMETRY_ENABLE", "false"),
        ("CODER_UPDATE_CHECK", "false"),
        ("CODER_DERP_SERVER_STUN_ADDRESSES", "disable"),
        ("CODER_BLOCK_DIRECT", "true"),
    ]);
    let otherwise = said(&[
        ("CODER_TELEMETRY_ENABLE", "true"),
        ("CODER_UPDATE_CHECK", "true"),
    ]);

    assert!(!as_it_is.contains("warning"), "{as_it_is}");
    for name in ["TELEMETRY", "UPDATE_CHECK"] {
        assert!(otherwise.contains(name), "{name}: {otherwise}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0", &[])
    }

    pub fn at(listen: &str, further: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let psk = directory.path().join("psk");
        assert!(
            outpost()
                .args(["psk", "generate", "--file"])
                .arg(&psk)
                .status()
                .unwrap()
                .success()
        );
        let further = further.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let (process, url) = Self::serve(directory.path(), listen, &further);
        Self {
            directory,
            further,
            url,
            process,
        }
    }

    /// A server with the data of this directory, and where it is reached.
    fn serve(directory: &Path, address: &str, further: &[String]) -> (Service, String) {
        let mut command = outpost();
        command
            .args(["server", "--listen", address, "--data-dir"])
            .arg(directory.join("data"))
            .args(further);
        command.arg("--psk-file").arg(directory.join("psk"));
        let mut process = Service::start(&mut command);
        let line = process.wait_for("Listening at ");
        let url = line
            .split("Listening at ")
            .nth(1)
            .unwrap()
            .split(". ")
            .next()
            .unwrap()
            .to_owned();
        (process, url)
    }

    /// Dies at once, and comes back where it was.
    pub fn restart(&mut self) {
        self.process.kill();
        let address = url::Url::parse(&self.url).unwrap();
        let address = address.socket_addrs(|| None).unwrap()[0].to_string();
        (self.process, _) = Self::serve(self.directory.path(), &address, &self.further);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command of an administrator.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = outpost();
        command
            .args(arguments)
            .args(["--output", "json", "--url", &self.url, "--token-file"])
            .arg(self.path("data/admin.token"));
        command
    }

    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ask(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}:\n{stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub fn daemon(&self, name: &str, psk: &Path, further: &[&str]) -> Command {
        let mut command = outpost();
        command.args([
            "provisioner",
            "start",
            "--server",
            "outpost",
            "--coder-provider",
            "builtin",
            "--url",
            &self.url,
            "--name",
            name,
        ]);
        command.arg("--psk-file").arg(psk).args(further);
        command
            .arg("--state-dir")
            .arg(self.path(&format!("state-{name}")));
        command.arg("--cache-dir").arg(self.path("cache"));
        command
    }
}

pub const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "terraform_data" "disk" {}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
}
"#;

#[test]
fn a_template_goes_from_a_directory_to_a_workspace_and_away_again() {
    let server = Server::start();
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), TEMPLATE).unwrap();
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &[]));
    daemon.wait_for("registered at the control plane");

    let pushed = server.json(&["template", "push", "small", template.to_str().unwrap()]);
    assert_eq!(pushed["version"]["name"], "v1");
    let created = server.json(&["workspace", "create", "mine", "--template", "small"]);
    assert_eq!(created["workspace"]["status"], "running");
    assert_eq!(created["resources"].as_array().unwrap().len(), 2);

    let daemons = server.json(&["provisioner", "list"]);
    assert_eq!(daemons[0]["name"], "one");
    let jobs = server.json(&["job", "list"]);
    let jobs = jobs.as_array().unwrap();
    assert!(
        jobs.len() == 2
            && jobs
                .iter()
                .all(|job| job["status"] == "succeeded" && job["worker"] == "one")
    );
    let log = server.ask(&["job", "logs", jobs[0]["id"].as_str().unwrap()]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("Starting workspace"));

    let stopped = server.json(&["workspace", "stop", "mine"]);
    assert_eq!(stopped["workspace"]["status"], "stopped");
    let kept: Vec<&str> = stopped["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["address"].as_str().unwrap())
        .collect();
    assert_eq!(kept, ["terraform_data.disk"]);
    let deleted = server.json(&["workspace", "delete", "mine", "--yes"]);
    assert_eq!(deleted["workspace"]["status"], "deleted");
    assert_eq!(server.json(&["workspace", "list"]), serde_json::json!([]));
    daemon.stop();
    server.process.stop();
}

#[test]
fn a_daemon_with_a_wrong_key_ends_with_one_error_that_says_so() {
    let server = Server::start();
    let wrong = server.path("wrong");
    assert!(
        outpost()
            .args(["psk", "generate", "--file"])
            .arg(&wrong)
            .status()
            .unwrap()
            .success()
    );

    let output = server.daemon("one", &wrong, &[]).output().unwrap();

    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{stderr}");
    assert!(
        stderr.contains("error: cannot take jobs: server does not accept the credentials"),
        "{stderr}"
    );
    assert!(
        !stderr.contains(fs::read_to_string(&wrong).unwrap().trim()),
        "{stderr}"
    );
}

#[test]
fn a_job_that_waits_tells_which_tag_excludes_each_daemon() {
    let server = Server::start();
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), TEMPLATE).unwrap();
    let mut daemon =
        Service::start(&mut server.daemon("west", &server.path("psk"), &["--tag", "region=us"]));
    daemon.wait_for("registered at the control plane");
    let mut push = outpost();
    push.args([
        "template",
        "push",
        "small",
        template.to_str().unwrap(),
        "--tag",
        "region=eu",
        "--url",
        &server.url,
    ]);
    push.arg("--token-file")
        .arg(server.path("data/admin.token"));
    let _push = Service::start(&mut push);

    let job = loop {
        let jobs = server.json(&["job", "list", "--status", "queued"]);
        if let Some(job) = jobs.as_array().unwrap().first() {
            break job["id"].as_str().unwrap().to_owned();
        }
    };
    let shown = server.json(&["job", "show", &job]);
    assert_eq!(
        (&shown["queue_position"], &shown["queue_length"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (
            &shown["daemons"][0]["daemon"],
            &shown["daemons"][0]["eligible"]
        ),
        (&"west".into(), &false.into())
    );
    assert!(
        shown["daemons"][0]["reasons"]
            .to_string()
            .contains("region"),
        "{shown}"
    );

    assert!(server.ask(&["job", "cancel", &job]).status.success());
    assert_eq!(
        server.json(&["job", "show", &job])["job"]["status"],
        "cancelled"
    );
}

#[test]
fn a_backup_of_a_running_server_restores_into_another_directory() {
    let server = Server::start();
    let (backup, restored) = (server.path("backup.tar"), server.path("restored"));
    let data = server.path("data");

    let made = outpost()
        .args(["server", "backup"])
        .arg(&backup)
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    assert_eq!(
        fs::metadata(&backup).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let restore = || {
        outpost()
            .args(["server", "restore"])
            .arg(&backup)
            .arg("--data-dir")
            .arg(&restored)
            .output()
            .unwrap()
    };
    let first = restore();
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );

    let again = restore();
    assert_eq!(
        again.status.code(),
        Some(1),
        "a directory with data is not overwritten"
    );
    assert!(String::from_utf8_lossy(&again.stderr).contains("restored"));
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_with_a_remedy() {
    let server = Server::start();
    let mut second = outpost();
    second
        .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(server.path("data"));

    let output = second.output().unwrap();

    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(server.path("data").to_str().unwrap()) && stderr.contains("\nhint: "),
        "{stderr}"
    );
}

#[test]
fn an_unknown_token_is_refused_without_being_shown() {
    let server = Server::start();

    let output = outpost()
        .args(["template", "list", "--url", &server.url])
        .env("OUTPOST_TOKEN", "hunter2hunter2")
        .output()
        .unwrap();

    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("does not accept the token") && stderr.contains("\nhint: "),
        "{stderr}"
    );
    assert!(!stderr.contains("hunter2"), "{stderr}");
}
