//! What our agent gets from the owner of its workspace: their secrets, and a prebuilt workspace that becomes theirs.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Lab,
    agent::{Workspace, begin},
    api::text,
    variable,
};
use crate::support::{clients::Clients, skip::skipped};

/// Its start script says what it finds of the owner's secrets.
const WITH_SECRETS: &str = r#"
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
  startup_script = <<-EOT
    echo "variable: $OUTPOST_INTEROP_SECRET"
    echo "file: $(cat ~/secrets/outpost-interop) $(stat -c %a ~/secrets/outpost-interop)"
  EOT
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
}
"#;

/// One that waits for an owner is always to be at hand.
const WITH_PREBUILDS: &str = r#"
terraform {
  required_providers { coder = { source = "coder/coder" } }
}
variable "greeting" {}
data "coder_workspace" "me" {}
data "coder_workspace_preset" "ready" {
  name = "ready"
  prebuilds {
    instances = 1
  }
}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
  lifecycle {
    ignore_changes = all
  }
}
"#;

/// The first API version of servers that announce a claim to each process of an agent, not only when it is made.
const ANNOUNCED_AGAIN: u32 = 17;

fn clients(lab: &Lab) -> Option<Clients> {
    Clients::of(&variable("URL").unwrap(), &lab.api.token())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_owner_are_there_before_the_scripts() {
    let Some(lab) = Lab::open("secrets").await else {
        return;
    };
    let Some(clients) = clients(&lab) else { return };
    if !lab.api.has("users/me/secrets").await {
        return skipped("secrets of users", "the server keeps none");
    }
    for secret in [
        json!({ "name": "outpost-interop-variable", "env_name": "OUTPOST_INTEROP_SECRET", "value": "a $HOME \"b\"" }),
        json!({ "name": "outpost-interop-file", "file_path": "~/secrets/outpost-interop", "value": "in a file" }),
    ] {
        let path = format!("users/me/secrets/{}", secret["name"].as_str().unwrap());
        if !lab.api.has(&path).await {
            lab.api.ask(Method::POST, "users/me/secrets", secret).await;
        }
    }
    let workspace = lab.workspace(WITH_SECRETS).await;

    let agent = begin(clients.outpost(), &clients, &workspace);
    let is_ready = |agent: &Value| agent["lifecycle_state"] == "ready";
    let shown = lab.agent_that(&workspace, is_ready).await;

    let logs = format!("workspaceagents/{}/logs", text(&shown["id"]));
    let has_both = |lines: &Value| lines.as_array().unwrap().len() == 2;
    let lines = lab.api.until(&logs, has_both).await;
    let said: Vec<_> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["output"])
        .collect();
    assert_eq!(said, ["variable: a $HOME \"b\"", "file: in a file 600"]);
    agent.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_a_claimed_prebuild_begins_anew_once_however_often_it_starts() {
    let Some(lab) = Lab::open("prebuild").await else {
        return;
    };
    let Some(clients) = clients(&lab) else { return };
    let entitlements = lab.api.get("entitlements").await;
    if entitlements["features"]["workspace_prebuilds"]["enabled"] != true {
        return skipped("prebuilds", "the server's licence has none");
    }
    let Some(daemon) = lab.daemon() else { return };
    let version = lab.import(WITH_PREBUILDS).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let presets = format!("templateversions/{}/presets", version.id);
    let preset = lab.api.get(&presets).await[0]["ID"].clone();
    let prebuilt = format!("workspaces?q=owner:prebuilds%20template:{}", lab.tag);
    let built = |all: &Value| all["workspaces"][0]["latest_build"]["job"]["status"] == "succeeded";
    let prebuilt = lab.api.until(&prebuilt, built).await["workspaces"][0].clone();
    let build = text(&prebuilt["latest_build"]["id"]);
    let workspace = Workspace {
        name: lab.tag.clone(),
        id: text(&prebuilt["id"]),
        token: lab.agent_token(&build).await,
    };
    let mut agent = begin(clients.outpost(), &clients, &workspace);
    let is_ready = |agent: &Value| agent["lifecycle_state"] == "ready";
    lab.agent_that(&workspace, is_ready).await;

    let body = json!({
        "name": workspace.name,
        "template_version_id": version.id,
        "template_version_preset_id": preset,
    });
    let claimed = lab.api.ask(Method::POST, "users/me/workspaces", body).await;
    assert_eq!(text(&claimed["id"]), workspace.id, "{claimed}");
    let claim = text(&claimed["latest_build"]["id"]);
    assert_eq!(
        lab.api.ended_build(&claim).await["job"]["status"],
        "succeeded"
    );
    let about = lab.api.get("buildinfo").await;
    let version = text(&about["provisioner_api_version"]);
    let minor: u32 = version.rsplit('.').next().unwrap().parse().unwrap();
    tokio::task::block_in_place(|| {
        agent.wait_for("the server asked this agent to reinitialize");
        agent.kill();
        if minor < ANNOUNCED_AGAIN {
            let why = format!("a server of API {version} announces a claim once");
            return skipped("further processes of a claimed prebuild", why);
        }
        for _ in 0..2 {
            let mut again = begin(clients.outpost(), &clients, &workspace);
            // The server announces the claim to each process.
            let said =
                again.wait_for_any(&["already reinitialized", "asked this agent to reinitialize"]);
            assert!(
                said.contains("this agent has already reinitialized for its owner"),
                "{said}"
            );
            again.stop();
        }
    });

    lab.api.succeed(&workspace.id, "delete").await;
    // No further one is wanted.
    let over = json!({ "deprecation_message": "the test is over" });
    let path = format!("templates/{template}");
    lab.api.ask(Method::PATCH, &path, over).await;
    daemon.signal(Signal::SIGTERM);
}
