//! A workspace's life with each kind of credential, and what coderd shows of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Credential, Daemon, Lab,
    api::{has_line, text},
    given, variable,
};

/// An agent, an app, a parameter, a variable, and a resource that takes as long as it is told.
pub(super) const TEMPLATE: &str = r#"
terraform {
  required_providers { coder = { source = "coder/coder" } }
}
data "coder_workspace" "me" {}
data "coder_workspace_owner" "me" {}
data "coder_parameter" "seconds" {
  name        = "seconds"
  description = "How long it takes"
  type        = "number"
  default     = "0"
  mutable     = true
}
variable "greeting" {}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "coder_app" "web" {
  agent_id     = coder_agent.main.id
  slug         = "web"
  display_name = "Web"
  url          = "http://localhost:80"
}
resource "terraform_data" "first" {
  input = data.coder_workspace_owner.me.name
}
resource "terraform_data" "home" {
  count = data.coder_workspace.me.start_count
  input = "${coder_agent.main.arch} ${terraform_data.first.output} ${data.coder_parameter.seconds.value}"
  provisioner "local-exec" {
    command = "echo ${var.greeting} begins; sleep ${data.coder_parameter.seconds.value}; echo it ends"
  }
}
resource "coder_metadata" "home" {
  count       = data.coder_workspace.me.start_count
  resource_id = terraform_data.home[0].id
  daily_cost  = 0
  item {
    key   = "owner"
    value = data.coder_workspace_owner.me.name
  }
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_lives_with_a_pre_shared_key() {
    let Some(lab) = Lab::open("psk").await else {
        return;
    };
    let Some(psk) = given("PSK") else { return };
    let daemon = Daemon::start(&lab, "one", &Credential::Psk(psk));
    live(&lab, &daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_lives_with_a_users_token() {
    let Some(lab) = Lab::open("token").await else {
        return;
    };
    let daemon = Daemon::start(&lab, "one", &Credential::Token(lab.api.token()));
    live(&lab, &daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_workspace_lives_with_that_users_token() {
    let Some(mut lab) = Lab::open("own").await else {
        return;
    };
    lab.scope = "user";
    let daemon = Daemon::start(&lab, "one", &Credential::Token(lab.api.token()));
    live(&lab, &daemon).await;
}

/// A key has its own tags, so that one is made for the test unless the environment has one with the tag `test=key`.
#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_lives_with_a_provisioner_key() {
    let Some(mut lab) = Lab::open("key").await else {
        return;
    };
    let key = match variable("KEY") {
        Some(key) => {
            lab.tag = "key".to_owned();
            key
        }
        None => {
            let body = json!({ "name": lab.tag, "tags": { "test": lab.tag } });
            let path = "organizations/default/provisionerkeys";
            text(&lab.api.ask(Method::POST, path, body).await["key"])
        }
    };
    let daemon = Daemon::start(&lab, "one", &Credential::Key(key));
    live(&lab, &daemon).await;
}

async fn live(lab: &Lab, daemon: &Daemon) {
    let api = &lab.api;
    let version = lab.import(TEMPLATE).await;
    shows_the_import(lab, &version.id).await;
    shows_the_daemon(lab, daemon).await;
    dry_run(lab, &version.id).await;

    let name = format!("w-{}", uuid::Uuid::new_v4().simple());
    let template = api.template(&version, &name).await;
    let (workspace, build) = api.create(&template, &name, 1).await;
    let build = api.ended_build(&build).await;
    assert_eq!(build["job"]["status"], "succeeded", "{build}");
    shows_the_build(lab, &build).await;

    let stopped = api.succeed(&workspace, "stop").await;
    assert!(!has_resource(&stopped["resources"], "home"), "{stopped}");
    let started = api.succeed(&workspace, "start").await;
    assert!(has_resource(&started["resources"], "home"), "{started}");
    api.succeed(&workspace, "delete").await;
}

async fn shows_the_import(lab: &Lab, version: &str) {
    let of = |what: &str| format!("templateversions/{version}/{what}");
    let parameters = lab.api.get(&of("rich-parameters")).await;
    assert_eq!(parameters[0]["name"], "seconds");
    assert_eq!(parameters[0]["type"], "number");
    let variables = lab.api.get(&of("variables")).await;
    assert_eq!(variables[0]["name"], "greeting");
    assert_eq!(variables[0]["value"], "hello");
    let resources = lab.api.get(&of("resources")).await;
    assert!(has_resource(&resources, "home"), "{resources}");
    let logs = lab.api.get(&of("logs?after=0")).await;
    assert!(has_line(&logs, "Plan: "), "{logs}");
    let mut stages = logs.as_array().unwrap().iter().map(|line| &line["stage"]);
    assert_eq!(stages.clone().next().unwrap(), "Setting up");
    assert_eq!(stages.next_back().unwrap(), "Cleaning Up");
    let readme = lab.api.get(&format!("templateversions/{version}")).await;
    assert_eq!(readme["readme"], "# A test\n");
}

async fn shows_the_daemon(lab: &Lab, daemon: &Daemon) {
    let daemons = lab
        .api
        .get("organizations/default/provisionerdaemons")
        .await;
    let ours = daemons.as_array().unwrap().iter();
    let ours = ours.clone().find(|row| row["name"] == *daemon.name);
    let ours = ours.unwrap_or_else(|| panic!("no {} among {daemons}", daemon.name));
    assert_eq!(ours["tags"]["test"], *lab.tag);
    assert_eq!(ours["tags"]["scope"], lab.scope);
    assert_eq!(ours["status"], "idle");
    assert_eq!(ours["provisioners"], json!(["terraform"]));
    let info = lab.api.get("buildinfo").await;
    let server = api_minor(&info["provisioner_api_version"]);
    assert_eq!(api_minor(&ours["api_version"]), server.min(20));
    assert!(daemon.said().contains("successfully connected to coderd"));
}

fn api_minor(version: &Value) -> u32 {
    let version = version.as_str().unwrap();
    version.strip_prefix("1.").unwrap().parse().unwrap()
}

async fn dry_run(lab: &Lab, version: &str) {
    let body = json!({
        "workspace_name": "dry",
        "rich_parameter_values": [{ "name": "seconds", "value": "3" }],
    });
    let path = format!("templateversions/{version}/dry-run");
    let job = lab.api.ask(Method::POST, &path, body).await;
    let path = format!("{path}/{}", text(&job["id"]));
    let job = lab
        .api
        .until(&path, |job| job["completed_at"].is_string())
        .await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let resources = lab.api.get(&format!("{path}/resources")).await;
    assert!(has_resource(&resources, "home"), "{resources}");
    let logs = lab.api.get(&format!("{path}/logs?after=0")).await;
    assert!(has_line(&logs, "Plan: "), "{logs}");
}

async fn shows_the_build(lab: &Lab, build: &Value) {
    let of = |what: &str| format!("workspacebuilds/{}/{what}", text(&build["id"]));
    let agents = build["resources"].as_array().unwrap().iter();
    let agents = agents.filter_map(|resource| resource["agents"].as_array());
    let agents: Vec<_> = agents.flatten().collect();
    assert_eq!(agents.len(), 1, "{build}");
    assert_eq!(agents[0]["name"], "main");
    assert_eq!(agents[0]["apps"][0]["slug"], "web");

    let logs = lab.api.get(&of("logs?after=0")).await;
    for line in ["hello begins", "it ends", "Apply complete!"] {
        assert!(has_line(&logs, line), "{line} is missing in {logs}");
    }
    let timings = lab.api.get(&of("timings")).await;
    let timings = timings["provisioner_timings"].as_array().unwrap();
    for stage in ["init", "plan", "graph", "apply"] {
        assert!(
            timings.iter().any(|row| row["stage"] == stage),
            "{stage}: {timings:?}"
        );
    }
    let state = lab.api.get(&of("state")).await;
    assert_eq!(state["version"], 4, "{state}");
    let parameters = lab.api.get(&of("parameters")).await;
    assert_eq!(parameters, json!([{ "name": "seconds", "value": "1" }]));
}

fn has_resource(resources: &Value, name: &str) -> bool {
    let resources = resources.as_array().into_iter().flatten();
    resources
        .into_iter()
        .any(|resource| resource["name"] == name)
}
