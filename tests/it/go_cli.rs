//! The everyday commands of Coder's own CLI, a Go program, at our control plane, with a daemon of ours.
//!
//! Opt-in: `OUTPOST_INTEROP_CODER=/path/to/coder cargo test --test it go_cli`. Terraform is on the `PATH`.

use std::{fs, process::Output};

use crate::{
    remote::{Server, Service},
    support::{clients::Clients, skip::skipped},
};

/// Needs a variable and has a question, a resource that a stop removes and one that it keeps.
const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
variable "region" { type = string }
data "coder_workspace" "me" {}
data "coder_parameter" "size" {
  name    = "size"
  type    = "number"
  default = 3
  mutable = true
}
resource "terraform_data" "disk" { input = "${var.region}-${data.coder_parameter.size.value}" }
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = terraform_data.disk.id
}
"#;

struct Cli(Clients);

impl Cli {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.0.coder();
        command.current_dir(self.0.path(""));
        command.args(arguments).output().unwrap()
    }

    /// What a command that works prints.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        told
    }

    #[track_caller]
    fn says(&self, arguments: &[&str], expected: &[&str]) {
        let told = self.ok(arguments);
        for text in expected {
            assert!(told.contains(text), "{arguments:?}: {told}");
        }
    }
}

#[test]
fn coder_s_everyday_commands_do_their_work_here() {
    let server = Server::start();
    let token = fs::read_to_string(server.path("data/admin.token")).unwrap();
    let Some(clients) = Clients::of(&server.url, &token) else {
        return;
    };
    let cli = Cli(clients);
    let further = ["--isolation", "none"];
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &further));
    daemon.wait_for("registered at the control plane");
    let directory = server.path("template");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("main.tf"), TEMPLATE).unwrap();
    let directory = directory.to_str().unwrap();

    let unknown = ["CODER_URL", "CODER_SESSION_TOKEN"];
    let mut login = cli.0.coder();
    unknown.iter().for_each(|name| {
        login.env_remove(name);
    });
    // The token is exchanged for one of the CLI's own, which a logout revokes.
    login.args(["login", &server.url, "--token", token.trim()]);
    let output = login.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let push = |name: &'static str| {
        let variable = ["--variable", "region=eu", "--name", name, "--yes"];
        [
            &["templates", "push", "small", "-d", directory][..],
            &variable,
        ]
        .concat()
    };
    cli.says(
        &push("one"),
        &["template has been created", "Updated version"],
    );
    cli.says(&push("two"), &["Updated version"]);
    cli.says(&["templates", "list"], &["small"]);
    cli.says(
        &["templates", "versions", "list", "small"],
        &["one", "two", "Active"],
    );
    let pulled = cli.0.path("pulled");
    cli.ok(&[
        "templates",
        "pull",
        "small",
        pulled.to_str().unwrap(),
        "--yes",
    ]);
    assert_eq!(
        fs::read_to_string(pulled.join("main.tf")).unwrap(),
        TEMPLATE
    );

    let edit = |option, value| cli.run(&["templates", "edit", "small", "--yes", option, value]);
    let edited = edit("--name", "smaller");
    assert!(edited.status.success(), "{edited:?}");
    cli.says(&["templates", "list"], &["smaller"]);
    cli.ok(&["templates", "edit", "smaller", "--name", "small", "--yes"]);
    let refused = edit("--display-name", "Small");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("cannot change display_name"),
        "{told}"
    );

    let create = [
        "create",
        "dev",
        "-t",
        "small",
        "--parameter",
        "size=5",
        "--yes",
    ];
    cli.says(
        &create,
        &["terraform_data", "dev workspace has been created"],
    );
    cli.says(&["list"], &["admin/dev", "small", "Started"]);
    cli.says(&["show", "dev"], &["terraform_data.disk"]);
    cli.says(&["provisioner", "list"], &["one", "idle"]);
    cli.says(
        &["provisioner", "jobs", "list"],
        &["workspace_build", "succeeded"],
    );
    cli.says(&["stop", "dev", "--yes"], &["has been stopped"]);
    cli.says(&["list"], &["Stopped"]);
    cli.says(&["start", "dev", "--yes"], &["has been started"]);
    cli.says(&["restart", "dev", "--yes"], &["has been restarted"]);

    let state = cli.ok(&["state", "pull", "dev"]);
    assert!(state.contains("eu-5"), "{state}");
    let file = cli.0.path("state");
    fs::write(&file, state).unwrap();
    let file = file.to_str().unwrap();
    cli.ok(&["state", "push", "dev", file, "--no-build"]);
    cli.ok(&["state", "push", "dev", file]);
    cli.says(&["delete", "dev", "--yes"], &["has been deleted"]);
    assert!(!cli.ok(&["list"]).contains("dev"));
    cli.ok(&["templates", "delete", "small", "--yes"]);

    let report: serde_json::Value = serde_json::from_str(&cli.ok(&["netcheck"])).unwrap();
    let regions = report["derp"]["regions"].as_object().unwrap();
    assert!(
        regions.values().all(|region| region["healthy"] == true),
        "{report}"
    );

    let secrets = cli.run(&["secret", "list"]);
    let why = String::from_utf8_lossy(&secrets.stderr);
    assert!(!secrets.status.success());
    match why.contains("unrecognized subcommand") {
        true => skipped("secrets", "this `coder` has no command for them"),
        false => assert!(why.contains("user secrets are not supported"), "{why}"),
    }
    daemon.stop();
    server.process.stop();
}
