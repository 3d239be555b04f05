//! A template that names another way to the server than the server's own: `provider "coder" { url = … }`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    cli::outpost,
    remote::{Server, Service},
    support::skip::skipped,
};

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
provider "coder" {
  url = "URL"
}
data "coder_workspace" "me" {}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "ARCH"
}
resource "coder_script" "greeting" {
  agent_id     = coder_agent.main.id
  display_name = "Greeting"
  script       = "echo welcome"
  run_on_start = true
}
resource "terraform_data" "machine" {
  count = data.coder_workspace.me.start_count
  input = coder_agent.main.id
}
resource "coder_metadata" "machine" {
  count       = data.coder_workspace.me.start_count
  resource_id = terraform_data.machine[0].id
  item {
    key   = "script"
    value = coder_agent.main.init_script
  }
  item {
    key   = "token"
    value = coder_agent.main.token
  }
  item {
    key   = "url"
    value = data.coder_workspace.me.access_url
  }
}
"#;

/// Counts those who come to an address where nobody answers.
fn count_visits() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let visits = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&visits);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, visits)
}

#[test]
fn an_agent_comes_and_is_reached_by_the_url_that_its_template_names() {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => return skipped("a downloaded agent", format!("none for {other}")),
    };
    if which::which("curl").is_err() && which::which("wget").is_err() {
        return skipped("a downloaded agent", "neither curl nor wget");
    }
    let (usual, visits) = count_visits();
    let server = Server::at("127.0.0.2:0", &["--access-url", &usual]);
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    let text = TEMPLATE.replace("URL", &server.url).replace("ARCH", arch);
    fs::write(template.join("main.tf"), text).unwrap();
    let mut daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &[]));
    daemon.wait_for("registered at the control plane");
    server.json(&["template", "push", "small", template.to_str().unwrap()]);
    let created = server.json(&["workspace", "create", "mine", "--template", "small"]);
    let resources = created["resources"].as_array().unwrap();
    let facts = resources
        .iter()
        .map(|it| &it["facts"])
        .find(|facts| facts["script"].is_string())
        .unwrap();
    assert_eq!(facts["url"], server.url.as_str());

    let home = server.path("home");
    fs::create_dir(&home).unwrap();
    let mut agent = Command::new("sh");
    agent
        .args(["-c", facts["script"].as_str().unwrap()])
        .env("CODER_AGENT_TOKEN", facts["token"].as_str().unwrap())
        .env("BINARY_DIR", &home)
        .env("HOME", &home)
        .stdout(Stdio::null());
    let mut agent = Service::start(&mut agent);
    let line = agent.wait_for("connected");
    assert!(line.contains(&server.url), "{line}");
    let reached = outpost()
        .args(["ssh", "mine", "--wait", "2m", "--url", &server.url])
        .arg("--token-file")
        .arg(server.path("data/admin.token"))
        .args(["--", "echo $CODER_AGENT_URL"])
        .output()
        .unwrap();

    let stderr = String::from_utf8_lossy(&reached.stderr);
    let stdout = String::from_utf8_lossy(&reached.stdout);
    assert!(reached.status.success(), "{stderr}");
    assert_eq!(stdout.trim(), server.url, "{stderr}");
    let mut logs = outpost();
    logs.args([
        "workspace",
        "logs",
        "mine",
        "--follow",
        "--url",
        &server.url,
    ])
    .arg("--token-file")
    .arg(server.path("data/admin.token"));
    let mut logs = logs.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    assert!(lines.any(|line| line == "Greeting: welcome"));
    logs.kill().unwrap();
    logs.wait().unwrap();
    let shown = server.json(&["workspace", "show", "mine"]);
    let agents = &shown["resources"].to_string();
    assert!(agents.contains(r#""status":"connected""#), "{agents}");
    assert_eq!(
        visits.load(Ordering::Relaxed),
        0,
        "somebody came by {usual}"
    );
}
