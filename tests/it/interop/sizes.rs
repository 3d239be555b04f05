//! States near the limit of what coderd takes, and above it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{Daemon, Lab, PATIENCE, Version};
use crate::cli::outpost;

/// A resource of as many thousand bytes as `seconds` says that stands in the state twice, as input and as output.
const TEMPLATE: &str = r#"
terraform {
  required_providers { coder = { source = "coder/coder" } }
}
data "coder_workspace" "me" {}
data "coder_parameter" "seconds" {
  name    = "seconds"
  type    = "number"
  default = "1"
  mutable = true
}
resource "terraform_data" "large" {
  input = join("", [for i in range(1000) : format("%0${data.coder_parameter.seconds.value}d", i)])
}
variable "greeting" {}
"#;

/// A workspace whose state has about `2 * kilobytes` thousand bytes; its first build, ended.
async fn workspace(lab: &Lab, kilobytes: u32) -> (String, Value) {
    let version: Version = lab.import(TEMPLATE).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (workspace, build) = lab.api.create(&template, &lab.tag, kilobytes).await;
    (workspace, lab.api.ended_build(&build).await)
}

/// In Go such a workspace can neither be stopped nor deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_a_state_just_below_the_limit_is_stopped_started_and_deleted() {
    let Some(lab) = Lab::open("large").await else {
        return;
    };
    let Some(_daemon) = lab.daemon() else { return };

    let (workspace, build) = workspace(&lab, 1600).await;
    assert_eq!(build["job"]["status"], "succeeded", "{build}");
    assert!(size(&lab, &build).await > 3_200_000);
    lab.api.succeed(&workspace, "stop").await;
    lab.api.succeed(&workspace, "start").await;
    lab.api.succeed(&workspace, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_over_the_limit_is_kept_and_pushed_and_no_later_build_loses_it() {
    let Some(lab) = Lab::open("huge").await else {
        return;
    };
    let Some(daemon) = lab.daemon() else { return };

    let (workspace, build) = workspace(&lab, 2500).await;
    assert_eq!(build["job"]["status"], "failed", "{build}");
    let error = build["job"]["error"].as_str().unwrap();
    assert!(error.contains("too large"), "{error}");
    assert!(error.contains("outpost recover"), "{error}");

    assert_eq!(size(&lab, &build).await, 0);
    let said = recover(&lab, &daemon, build["job"]["id"].as_str().unwrap()).await;
    assert!(said.contains("4194304"), "{said}");
    assert!(size(&lab, &build).await > 5_000_000);

    let delete = lab.api.build(&workspace, "delete").await;
    let ended = lab.api.ended_build(&delete).await;
    // coderd's own words: it does not even hand the job out.
    let error = ended["job"]["error"].as_str().unwrap();
    assert!(error.starts_with("payload was too big"), "{ended}");
    assert!(size(&lab, &ended).await > 5_000_000);
}

async fn size(lab: &Lab, build: &Value) -> usize {
    let path = format!("workspacebuilds/{}/state", build["id"].as_str().unwrap());
    match lab.api.get(&path).await {
        Value::Null => 0,
        state => state.to_string().len(),
    }
}

/// Pushes, once the daemon has let go of the job, which the server shows as ended a moment before.
async fn recover(lab: &Lab, daemon: &Daemon, job: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = outpost()
            .args(["recover", "push", job])
            .env("OUTPOST_STATE_DIR", daemon.state_dir())
            .env("CODER_SESSION_TOKEN", lab.api.token())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            return said;
        }
        assert!(said.contains("is running and works on this job"), "{said}");
        assert!(Instant::now() < deadline, "{said}");
        sleep(Duration::from_millis(100)).await;
    }
}
