//! Two versions of a template, compared by the real program.

use std::process::Command;

use outpost::{control::Storage, provision::JobSource as _, stop::Stop};
use serde_json::Value;
use tokio::task::block_in_place;

use super::Bench;
use crate::{
    control::{Lab, imported, version_request},
    engine::tar,
};

const OLD: &str = r#"terraform {
  required_providers {
    coder  = { source = "coder/coder" }
    docker = { source = "kreuzwerker/docker" }
  }
}
data "coder_workspace" "me" {}
data "coder_parameter" "size" {
  name    = "size"
  type    = "string"
  default = "1"
  mutable = true
}
resource "coder_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "coder_app" "ide" {
  agent_id = coder_agent.main.id
  slug     = "ide"
  url      = "http://localhost:1"
}
resource "docker_volume" "home" {
  name = "home"
}
resource "docker_container" "dev" {
  count = data.coder_workspace.me.start_count
  name  = "dev"
  image = "one"
  env   = ["TOKEN=${coder_agent.main.token}"]
  volumes {
    container_path = "/home"
    volume_name    = docker_volume.home.name
  }
}
"#;

/// The old version with another volume, another image, another app and another type of a parameter.
fn new() -> String {
    let renamed = OLD.replace("name = \"home\"", "name = \"home-2\"");
    let renamed = renamed.replace("\"ide\"\n  url", "\"code\"\n  url");
    renamed
        .replace("image = \"one\"", "image = \"two\"")
        .replace("type    = \"string\"", "type    = \"number\"")
}

fn diff(bench: &Bench, arguments: &[&str]) -> (Value, i32) {
    let output = bench.run(&[&["diff", "--output", "json"], arguments].concat());
    let value = serde_json::from_slice(&output.stdout);
    let value = value.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (value, output.status.code().unwrap())
}

fn resource<'a>(difference: &'a Value, address: &str) -> &'a Value {
    let mut resources = difference["resources"].as_array().unwrap().iter();
    resources.find(|it| it["address"] == address).unwrap()
}

#[test]
fn a_version_that_replaces_a_volume_of_running_workspaces_loses_something() {
    let bench = Bench::new(&[("old/main.tf", OLD), ("new/main.tf", &new())]);

    let (difference, code) = diff(&bench, &["old", "new"]);

    let home = resource(&difference, "docker_volume.home");
    assert_eq!(
        (&home["change"], &home["persistence"]),
        (&"replaced".into(), &"persistent".into()),
        "{difference}"
    );
    assert_eq!(
        (&home["because"], &home["lost"]),
        (&serde_json::json!(["name"]), &true.into()),
        "{difference}"
    );
    let dev = resource(&difference, "docker_container.dev[0]");
    assert_eq!(
        (&dev["change"], &dev["lost"]),
        (&"replaced".into(), &false.into()),
        "{difference}"
    );
    assert_eq!(
        difference["parameters"][0]["fields"]["type"]["new"],
        "number"
    );
    let apps = difference["apps"].as_array().unwrap().iter();
    let apps: Vec<_> = apps
        .map(|it| (it["name"].as_str().unwrap(), it["change"].as_str().unwrap()))
        .collect();
    assert_eq!(apps, [("main.code", "added"), ("main.ide", "removed")]);
    assert_eq!((&difference["summary"]["lost"], code), (&1.into(), 1));

    let output = bench.run(&["diff", "--output", "markdown", "old", "new"]);
    let markdown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        markdown
            .contains("| docker_volume.home | replaced | what it keeps is lost, because of name |"),
        "{markdown}"
    );
}

#[test]
fn a_version_is_compared_with_itself_in_a_commit_and_in_an_archive() {
    let bench = Bench::new(&[("repository/t/main.tf", OLD)]);
    let repository = bench.path("repository");
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command
            .current_dir(&repository)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run("git", &["init", "--quiet"]);
    run("git", &["add", "."]);
    run(
        "git",
        &[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "commit",
            "--quiet",
            "-m",
            "first",
        ],
    );
    run("tar", &["-czf", "../old.tar.gz", "-C", "t", "main.tf"]);

    for old in ["HEAD", "old.tar.gz"] {
        let (difference, code) = diff(&bench, &[old, "repository/t"]);

        assert_eq!(code, 0, "{old}: {difference}");
        assert_eq!(difference["parameters"], serde_json::json!([]));
        // An agent has another token after each start, and that is all that the container is replaced for.
        let resource = |address: &str| {
            let resources = difference["resources"].as_array().unwrap();
            let found = resources.iter().find(|it| it["address"] == address);
            let found = found.unwrap_or_else(|| panic!("{address}: {difference}"));
            (found["change"].clone(), found["because"].clone())
        };
        assert_eq!(
            resource("docker_volume.home"),
            ("kept".into(), serde_json::json!([]))
        );
        assert_eq!(
            resource("docker_container.dev[0]"),
            ("replaced".into(), serde_json::json!(["env"]))
        );
        assert_eq!(difference["summary"]["lost"], 0, "{old}: {difference}");
    }
    bench.write("repository/t/main.tf", &new());
    let (_, code) = diff(&bench, &["HEAD", "repository/t"]);
    assert_eq!(code, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_active_version_of_our_own_server_is_compared() {
    let mut lab = Lab::start(Storage::Memory).await;
    let mut request = version_request("demo");
    request.archive = tar(&[("main.tf", OLD)]);
    lab.api.create_version(request).await.unwrap();
    let daemon = lab.daemon("d");
    let job = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    daemon.complete(imported(job.id)).await.unwrap();
    let bench = Bench::new(&[
        ("new/main.tf", &new()),
        ("token", lab.server.admin_token().expose()),
    ]);

    let active = format!("active@{}demo", lab.server.url());
    let (difference, code) =
        block_in_place(|| diff(&bench, &["--server-token-file", "token", &active, "new"]));

    let home = resource(&difference, "docker_volume.home");
    assert_eq!((&home["change"], code), (&"replaced".into(), 1));
}

#[test]
fn a_version_that_is_nowhere_or_cannot_be_built_is_named() {
    let broken = OLD.replace("data.coder_workspace.me.start_count", "data.nothing.me");
    let bench = Bench::new(&[("old/main.tf", OLD), ("broken/main.tf", &broken)]);

    let output = bench.run(&["diff", "no-such-place", "old"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("`no-such-place` is neither"), "{stderr}");

    let output = bench.run(&["diff", "old", "broken"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("NEW cannot be built"), "{stderr}");
}
