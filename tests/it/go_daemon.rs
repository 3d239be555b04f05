//! Coder's own daemon, a Go program, runs the jobs of our control plane, with the real `coder` provider.
//!
//! Opt-in: `OUTPOST_INTEROP_CODER=/path/to/coder cargo test --test it go_daemon`, where `coder` is a full build, as
//! its slim ones have no `provisioner start`. The provider is built by Go, Terraform is on the `PATH`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    cli::outpost,
    provider::lab::Provider,
    remote::{Server, Service},
    support::skip::skipped,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

struct Lab {
    server: Server,
    coder: PathBuf,
    provider: Provider,
}

impl Lab {
    /// `None`, with a note, where there is no Go daemon to try.
    fn start() -> Option<Self> {
        let Some(coder) = env::var_os("OUTPOST_INTEROP_CODER").map(PathBuf::from) else {
            skipped("Coder's daemon", "OUTPOST_INTEROP_CODER names no `coder`");
            return None;
        };
        let provider = Provider::real()?;
        let server = Server::start();
        Some(Self {
            server,
            coder,
            provider,
        })
    }

    /// A daemon that has connected.
    fn daemon(&self, name: &str) -> Service {
        let config = self.server.path("terraform.rc");
        fs::write(&config, self.provider.cli_config()).unwrap();
        let psk = fs::read_to_string(self.server.path("psk")).unwrap();
        let mut command = Command::new(&self.coder);
        command
            .args(["provisioner", "start", "--name", name, "--url"])
            .arg(&self.server.url)
            .arg("--cache-dir")
            .arg(self.server.path("cache"))
            .env("CODER_PROVISIONER_DAEMON_PSK", psk.trim())
            .env("CODER_CONFIG_DIR", self.server.path("coder-config"))
            .env("TF_CLI_CONFIG_FILE", config);
        let mut daemon = Service::start(&mut command);
        daemon.wait_for("successfully connected to coderd");
        daemon
    }

    fn template(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.server.path(name);
        for (path, text) in files {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn push(&self, name: &str, directory: &Path) -> Value {
        let directory = directory.to_str().unwrap();
        self.server.json(&["template", "push", name, directory])
    }

    fn jobs(&self) -> Vec<Value> {
        let jobs = self.server.json(&["job", "list"]);
        jobs.as_array().unwrap().clone()
    }
}

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
data "coder_parameter" "size" {
  name    = "size"
  type    = "number"
  default = 3
  mutable = true
}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
module "disk" {
  source = "./disk"
  size   = data.coder_parameter.size.value
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
}
"#;

const DISK: &str = r#"
variable "size" { type = number }
resource "terraform_data" "disk" { input = var.size }
"#;

#[test]
fn a_go_daemon_imports_a_template_and_makes_stops_starts_and_deletes_a_workspace() {
    let Some(lab) = Lab::start() else { return };
    let daemon = lab.daemon("go");
    let files = [
        ("main.tf", TEMPLATE),
        ("disk/main.tf", DISK),
        ("README.md", "Small."),
    ];
    let directory = lab.template("template", &files);

    let pushed = lab.push("small", &directory);
    assert_eq!(pushed["version"]["name"], "v1", "{pushed}");
    let created = lab.server.json(&[
        "workspace",
        "create",
        "mine",
        "--template",
        "small",
        "--parameter",
        "size=5",
    ]);
    assert_eq!(created["workspace"]["status"], "running", "{created}");
    let resources = created["resources"].as_array().unwrap();
    let mut named: Vec<&str> = resources
        .iter()
        .map(|it| it["address"].as_str().unwrap())
        .collect();
    named.sort_unstable(); // They come in any order.
    assert_eq!(
        named,
        ["module.disk.terraform_data.disk", "terraform_data.machine"],
        "{created}"
    );
    let stopped = lab.server.json(&["workspace", "stop", "mine"]);
    assert_eq!(stopped["workspace"]["status"], "stopped");
    let started = lab.server.json(&["workspace", "start", "mine"]);
    assert_eq!(started["workspace"]["status"], "running");
    let deleted = lab.server.json(&["workspace", "delete", "mine", "--yes"]);
    assert_eq!(deleted["workspace"]["status"], "deleted");

    let jobs = lab.jobs();
    assert!(
        jobs.len() == 5
            && jobs
                .iter()
                .all(|job| job["status"] == "succeeded" && job["worker"] == "go"),
        "{jobs:?}"
    );
    let logs = lab
        .server
        .ask(&["job", "logs", jobs[0]["id"].as_str().unwrap()]);
    let logs = String::from_utf8_lossy(&logs.stdout).into_owned();
    assert!(logs.contains("terraform_data.disk"), "{logs}");
    let daemons = lab.server.json(&["provisioner", "list"]);
    assert_eq!(daemons[0]["name"], "go");
    println!("daemon of API {}", daemons[0]["api_version"]);
    daemon.stop();
    lab.server.process.stop();
}

#[test]
fn a_go_daemon_hears_of_a_cancel_and_of_a_broken_template() {
    let Some(lab) = Lab::start() else { return };
    let daemon = lab.daemon("go");
    let mark = lab.server.path("mark");
    let slow = format!(
        "{TEMPLATE}\nresource \"terraform_data\" \"slow\" {{\n  provisioner \"local-exec\" {{ command = \"touch {} && exec sleep 100\" }}\n}}\n",
        mark.display()
    );
    let directory = lab.template("slow", &[("main.tf", &slow), ("disk/main.tf", DISK)]);
    lab.push("slow", &directory);

    let mut create = outpost();
    create
        .args(["workspace", "create", "mine", "--template", "slow", "--url"])
        .arg(&lab.server.url)
        .arg("--token-file")
        .arg(lab.server.path("data/admin.token"));
    let _create = Service::start(&mut create);
    wait_until(|| mark.exists());
    let job = lab.server.json(&["job", "list", "--status", "running"])[0]["id"].clone();
    let job = job.as_str().unwrap();
    assert!(lab.server.ask(&["job", "cancel", job]).status.success());
    let shown = || lab.server.json(&["job", "show", job])["job"].clone();
    wait_until(|| shown()["completed_at"] != json!(null));
    let ended = shown();
    assert!(
        ended["error"].as_str().unwrap().contains("terraform apply"),
        "{ended}"
    );

    let broken = lab.template("broken", &[("main.tf", "resource {")]);
    let output = lab
        .server
        .ask(&["template", "push", "broken", broken.to_str().unwrap()]);
    assert!(!output.status.success());
    let newest = &lab.jobs()[0];
    assert_eq!(newest["status"], "failed", "{newest}");
    daemon.stop();
    lab.server.process.stop();
}

#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never came");
        std::thread::sleep(Duration::from_millis(100));
    }
}
