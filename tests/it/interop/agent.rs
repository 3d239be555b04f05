//! Agents of either make in workspaces of a real coderd, and people who come to them with either client.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Credential, Daemon, Lab, Version, api::text, restart_server, variable};
use crate::{
    remote::Service,
    support::{
        clients::{Clients, Proxy},
        skip::skipped,
    },
};

/// An agent with everything that it reports.
const TEMPLATE: &str = r#"
terraform {
  required_providers { coder = { source = "coder/coder" } }
}
variable "greeting" {}
data "coder_workspace" "me" {}
data "coder_parameter" "seconds" {
  name    = "seconds"
  type    = "number"
  default = "0"
  mutable = true
}
resource "coder_agent" "main" {
  os             = "linux"
  arch           = "amd64"
  startup_script = "echo it begins; echo and warns >&2"
  env            = { GREETING = var.greeting }
  metadata {
    key          = "answer"
    display_name = "Answer"
    script       = "echo 42"
    interval     = 1
    timeout      = 1
  }
}
resource "coder_app" "web" {
  agent_id = coder_agent.main.id
  slug     = "web"
  url      = "http://127.0.0.1:1"
  healthcheck {
    url       = "http://127.0.0.1:1"
    interval  = 1
    threshold = 1
  }
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
}
"#;

/// A workspace that is built, and the token of its agent.
pub(super) struct Workspace {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) token: String,
}

impl Lab {
    /// Our daemon builds it where the server takes daemons from outside, else the server's own does.
    pub(super) async fn workspace(&self, template: &str) -> Workspace {
        let psk = variable("PSK").map(Credential::Psk);
        let daemon = psk.map(|psk| Daemon::start(self, "one", &psk));
        let tags = match daemon {
            Some(_) => json!({ "test": self.tag, "scope": self.scope }),
            None => json!({}),
        };
        let version = self.api.import(template, tags).await;
        let job = self.api.ended_import(&version.id).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        let name = format!("a-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let template = self.api.template(&Version { id: version.id }, &name).await;
        let (id, build) = self.api.create(&template, &name, 0).await;
        let ended = self.api.ended_build(&build).await;
        assert_eq!(ended["job"]["status"], "succeeded", "{ended}");
        let token = self.agent_token(&build).await;
        Workspace { name, id, token }
    }

    /// The token of the only agent that a build made.
    pub(super) async fn agent_token(&self, build: &str) -> String {
        let state = self
            .api
            .get(&format!("workspacebuilds/{build}/state"))
            .await;
        let resources = state["resources"].as_array().unwrap();
        let agent = resources.iter().find(|it| it["type"] == "coder_agent");
        text(&agent.unwrap()["instances"][0]["attributes"]["token"])
    }

    /// The workspace's only agent, once it is what is wanted.
    pub(super) async fn agent_that(
        &self,
        workspace: &Workspace,
        is_so: impl Fn(&Value) -> bool,
    ) -> Value {
        let path = format!("workspaces/{}", workspace.id);
        let found = |all: &Value| -> Option<Value> {
            let resources = all["latest_build"]["resources"].as_array()?.iter();
            let mut agents = resources.filter_map(|it| it["agents"].as_array()?.first().cloned());
            agents.next().filter(&is_so)
        };
        let all = self.api.until(&path, |all| found(all).is_some()).await;
        found(&all).unwrap()
    }
}

/// Starts `command` as the agent of the workspace, which says `begun`.
fn start(command: Command, begun: &str, clients: &Clients, workspace: &Workspace) -> Service {
    let mut agent = begin(command, clients, workspace);
    agent.wait_for(begun);
    agent
}

/// Starts `command` as the agent of the workspace; the server itself is what it dials, as a restart changes the wire.
pub(super) fn begin(mut command: Command, clients: &Clients, workspace: &Workspace) -> Service {
    command
        .arg("agent")
        .env("CODER_AGENT_URL", variable("URL").unwrap())
        .env("CODER_AGENT_TOKEN", &workspace.token)
        .env("CODER_AGENT_LOG_DIR", clients.path(""))
        .env("CODER_AGENT_SCRIPT_DATA_DIR", clients.path(""))
        .env("HOME", clients.path(""))
        .stdout(Stdio::null());
    Service::start(&mut command)
}

fn outlast(clients: &Clients, proxies: &[Proxy], workspace: &Workspace) {
    let Some(command) = variable("RESTART") else {
        return skipped("a restart of coderd", "OUTPOST_INTEROP_RESTART is not set");
    };
    for proxy in proxies {
        clients.outlast(*proxy, &workspace.name, || {
            let moved = restart_server(&command);
            assert_eq!(
                moved, None,
                "agents and clients look for the server where it was"
            );
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_is_reached_by_coder_s_client_and_by_ours() {
    let Some(lab) = Lab::open("agent").await else {
        return;
    };
    let Some(clients) = Clients::of(&variable("URL").unwrap(), &lab.api.token()) else {
        return;
    };
    let workspace = lab.workspace(TEMPLATE).await;
    let agent = start(clients.outpost(), "connected", &clients, &workspace);
    let is_ready = |agent: &Value| agent["lifecycle_state"] == "ready";
    let shown = lab.agent_that(&workspace, is_ready).await;
    assert_eq!(shown["status"], "connected", "{shown}");
    let id = text(&shown["id"]);
    let logs = format!("workspaceagents/{id}/logs");
    let lines = lab
        .api
        .until(&logs, |lines| lines.as_array().unwrap().len() == 2);
    let lines = lines.await;
    let levels: Vec<_> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["output"], &it["level"]))
        .collect();
    assert!(
        levels.contains(&(&json!("it begins"), &json!("info"))),
        "{lines}"
    );
    assert!(
        levels.contains(&(&json!("and warns"), &json!("error"))),
        "{lines}"
    );
    let is_unhealthy = |agent: &Value| agent["apps"][0]["health"] == "unhealthy";
    lab.agent_that(&workspace, is_unhealthy).await;

    tokio::task::block_in_place(|| {
        let both = [Proxy::Outpost, Proxy::Coder];
        clients.do_everything(&both, &workspace.name);
        let mut ssh = clients.outpost();
        let greeted = ssh
            .args(["ssh", &workspace.name, "--", "echo $GREETING"])
            .output();
        assert_eq!(greeted.unwrap().stdout, b"hello\n");
        outlast(&clients, &both, &workspace);
        agent.stop();
    });
    let is_off = |agent: &Value| agent["lifecycle_state"] == "off";
    lab.agent_that(&workspace, is_off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coder_s_agent_is_reached_by_our_client() {
    let Some(lab) = Lab::open("go-agent").await else {
        return;
    };
    let Some(clients) = Clients::of(&variable("URL").unwrap(), &lab.api.token()) else {
        return;
    };
    let workspace = lab.workspace(TEMPLATE).await;
    let agent = start(
        clients.coder(),
        "agent is starting now",
        &clients,
        &workspace,
    );
    let is_ready = |agent: &Value| agent["lifecycle_state"] == "ready";
    lab.agent_that(&workspace, is_ready).await;

    tokio::task::block_in_place(|| {
        // What Coder's client and agent do with each other is not ours to test.
        let ours = [Proxy::Outpost];
        clients.do_everything(&ours, &workspace.name);
        outlast(&clients, &ours, &workspace);
        drop(agent);
    });
}
