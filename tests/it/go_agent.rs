//! Coder's own agent, a Go program, in a workspace of our control plane; Coder's client and ours come to it.
//!
//! Opt-in: `OUTPOST_INTEROP_CODER=/path/to/coder cargo test --test it go_agent`. Terraform is on the `PATH`, and so are
//! OpenSSH's programs.

use std::{fs, process::Command};

use crate::{
    remote::{Server, Service},
    support::clients::{Clients, Proxy},
};

/// Its build writes down what its agent needs.
const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
variable "token_file" {}
data "coder_workspace" "me" {}
resource "coder_agent" "main" {
  os             = "linux"
  arch           = "amd64"
  startup_script = "echo it begins; echo and warns >&2"
  env            = { GREETING = "hello" }
  metadata {
    key          = "answer"
    display_name = "Answer"
    script       = "echo 42"
    interval     = 1
    timeout      = 1
  }
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
  provisioner "local-exec" {
    command     = "umask 077; printf %s \"$TOKEN\" > \"$FILE\""
    environment = { TOKEN = coder_agent.main.token, FILE = var.token_file }
  }
}
"#;

/// A workspace `dev` whose agent nobody has started yet.
fn workspace(server: &Server) {
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), TEMPLATE).unwrap();
    let further = ["--isolation", "none"];
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &further));
    daemon.wait_for("registered at the control plane");
    let token_file = format!("token_file={}", server.path("agent-token").display());
    let directory = template.to_str().unwrap();
    server.json(&[
        "template",
        "push",
        "small",
        directory,
        "--variable",
        &token_file,
    ]);
    let created = server.json(&["workspace", "create", "dev", "--template", "small"]);
    assert_eq!(created["workspace"]["status"], "running");
    daemon.stop();
}

fn agent(server: &Server, clients: &Clients) -> Command {
    let mut command = clients.coder();
    command
        .arg("agent")
        .env("CODER_AGENT_URL", &server.url)
        .env("CODER_AGENT_TOKEN_FILE", server.path("agent-token"))
        .env("CODER_AGENT_LOG_DIR", clients.path(""))
        .env("HOME", clients.path(""));
    command
}

#[test]
fn coder_s_agent_is_reached_by_coder_s_client_and_by_ours() {
    let mut server = Server::start();
    let token = fs::read_to_string(server.path("data/admin.token")).unwrap();
    let Some(clients) = Clients::of(&server.url, &token) else {
        return;
    };
    workspace(&server);
    let mut agent = Service::start(&mut agent(&server, &clients));
    agent.wait_for("agent is starting now");

    let both = [Proxy::Outpost, Proxy::Coder];
    clients.do_everything(&both, "dev");
    let greeted = clients
        .outpost()
        .args(["ssh", "dev", "--", "echo $GREETING"])
        .output();
    assert_eq!(greeted.unwrap().stdout, b"hello\n");
    for question in [&["list"][..], &["show", "dev"]] {
        let output = clients.coder().args(question).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{question:?}: {output:?}");
        assert!(told.contains("dev"), "{question:?}: {told}");
    }

    for proxy in both {
        clients.outlast(proxy, "dev", || server.restart());
    }
    agent.stop();
}
