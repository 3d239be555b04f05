//! What goes wrong around a build, and what coderd has in the end.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout},
};

use super::{Credential, Lab, PATIENCE, given, life::TEMPLATE, restart_server};
use crate::support::skip::skipped;

/// The daemon of each of these is begun with the pre-shared key.
async fn lab(test: &str) -> Option<(Lab, super::Daemon)> {
    let lab = Lab::open(test).await?;
    let daemon = lab.daemon()?;
    Some((lab, daemon))
}

async fn state(lab: &Lab, build: &str) -> Value {
    lab.api.get(&format!("workspacebuilds/{build}/state")).await
}

/// The addresses of all resources in a state.
fn built(state: &Value) -> Vec<String> {
    let resources = state["resources"].as_array().into_iter().flatten();
    resources
        .filter(|resource| resource["mode"] == "managed")
        .map(|resource| {
            format!(
                "{}.{}",
                resource["type"].as_str().unwrap(),
                resource["name"].as_str().unwrap()
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_over_the_budget_is_refused_before_anything_is_made() {
    let Some((lab, _daemon)) = lab("quota").await else {
        return;
    };
    let entitlements = lab.api.get("entitlements").await;
    if entitlements["features"]["template_rbac"]["enabled"] != true {
        return skipped("quotas", "the server's licence has none");
    }
    let dear = TEMPLATE.replace("daily_cost  = 0", "daily_cost  = 1000000");
    let version = lab.import(&dear).await;
    let template = lab.api.template(&version, &lab.tag).await;

    let (_, build) = lab.api.create(&template, &lab.tag, 0).await;
    let ended = lab.api.ended_build(&build).await;

    assert_eq!(ended["job"]["status"], "failed", "{ended}");
    let error = ended["job"]["error"].as_str().unwrap();
    assert!(error.contains("insufficient quota"), "{error}");
    let logs = format!("workspacebuilds/{build}/logs?after=0");
    let logs = lab.api.get(&logs).await;
    assert!(!super::api::has_line(&logs, "Creating..."), "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cancelled_while_it_plans_makes_nothing() {
    let Some((lab, _daemon)) = lab("cancel-plan").await else {
        return;
    };
    let slow = SlowAnswer::begin().await;
    // The import asks for `/0`, which is answered; the build for `/100`, which is not until it is let go.
    let template = format!(
        r#"{TEMPLATE}
data "terraform_remote_state" "slow" {{
  backend = "http"
  config  = {{ address = "http://{}/${{data.coder_parameter.seconds.value}}" }}
}}"#,
        slow.address
    );
    let version = lab.import(&template).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (_, build) = lab.api.create(&template, &lab.tag, 100).await;
    slow.asked().await;

    lab.api.cancel(&build).await;
    lab.api.logged(&build, "nterrupt").await;
    slow.let_go();
    let ended = lab.api.ended_build(&build).await;

    // coderd calls a job with an error failed, cancelled or not.
    assert_eq!(ended["job"]["status"], "failed", "{ended}");
    let error = ended["job"]["error"].as_str().unwrap();
    assert!(
        error.starts_with("job was cancelled: terraform plan"),
        "{error}"
    );
    assert_eq!(state(&lab, &build).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cancelled_while_it_applies_keeps_what_was_made() {
    let Some((lab, _daemon)) = lab("cancel-apply").await else {
        return;
    };
    let version = lab.import(TEMPLATE).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (workspace, build) = lab.api.create(&template, &lab.tag, 100).await;
    lab.api.logged(&build, "hello begins").await;

    let begun = Instant::now();
    lab.api.cancel(&build).await;
    let ended = lab.api.ended_build(&build).await;

    assert!(begun.elapsed().as_secs() < 30);
    assert_eq!(ended["job"]["status"], "failed", "{ended}");
    let error = ended["job"]["error"].as_str().unwrap();
    assert!(
        error.starts_with("job was cancelled: terraform apply"),
        "{error}"
    );
    // coderd ends a job that failed, and stores its state then.
    let path = format!("workspacebuilds/{build}/state");
    let has_first = |state: &Value| built(state).contains(&"terraform_data.first".to_owned());
    lab.api.until(&path, has_first).await;
    lab.api.succeed(&workspace, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_asked_to_end_finishes_its_build_and_another_goes_on() {
    let Some((lab, mut daemon)) = lab("restart").await else {
        return;
    };
    let version = lab.import(TEMPLATE).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (workspace, build) = lab.api.create(&template, &lab.tag, 3).await;
    lab.api.logged(&build, "hello begins").await;

    daemon.signal(Signal::SIGTERM);
    let ended = lab.api.ended_build(&build).await;
    assert_eq!(ended["job"]["status"], "succeeded", "{ended}");
    assert!(daemon.ended_well(), "{}", daemon.said());

    let psk = Credential::Psk(given("PSK").unwrap());
    let _again = daemon.start_again(&lab, &psk);
    lab.api.succeed(&workspace, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_build_of_a_killed_daemon_is_ended_by_the_next_with_all_that_was_made() {
    let Some((lab, daemon)) = lab("killed").await else {
        return;
    };
    let version = lab.import(TEMPLATE).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (workspace, build) = lab.api.create(&template, &lab.tag, 5).await;
    lab.api.logged(&build, "hello begins").await;

    daemon.signal(Signal::SIGKILL);
    let psk = Credential::Psk(given("PSK").unwrap());
    let _again = daemon.start_again(&lab, &psk);
    let ended = lab.api.ended_build(&build).await;

    assert_eq!(ended["job"]["status"], "failed", "{ended}");
    let error = ended["job"]["error"].as_str().unwrap();
    println!("the next daemon says: {error}");
    let path = format!("workspacebuilds/{build}/state");
    lab.api.until(&path, |state| !built(state).is_empty()).await;
    lab.api.succeed(&workspace, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_for_seconds_costs_nothing() {
    let Some((lab, daemon)) = lab("cut").await else {
        return;
    };
    let version = lab.import(TEMPLATE).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (workspace, build) = lab.api.create(&template, &lab.tag, 8).await;
    lab.api.logged(&build, "hello begins").await;

    lab.wire.cut();
    tokio::time::sleep(std::time::Duration::from_secs(4)).await; // The outage itself.
    lab.wire.mend();
    let ended = lab.api.ended_build(&build).await;

    assert_eq!(ended["job"]["status"], "succeeded", "{ended}");
    lab.api.logged(&build, "it ends").await;
    assert!(daemon.said().contains("connection to coderd closed"));
    assert_eq!(built(&state(&lab, &build).await).len(), 5);
    lab.api.succeed(&workspace, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_gets_the_end_of_the_build() {
    let Some((lab, _daemon)) = lab("server").await else {
        return;
    };
    let Some(hook) = given("RESTART") else { return };
    let version = lab.import(TEMPLATE).await;
    let template = lab.api.template(&version, &lab.tag).await;
    let (workspace, build) = lab.api.create(&template, &lab.tag, 8).await;
    lab.api.logged(&build, "hello begins").await;

    let restarted = tokio::task::spawn_blocking(move || restart_server(&hook));
    if let Some(url) = restarted.await.unwrap() {
        lab.wire.lead_to(&url);
    }
    let ended = lab.api.ended_build(&build).await;

    assert_eq!(ended["job"]["status"], "succeeded", "{ended}");
    assert_eq!(built(&state(&lab, &build).await).len(), 5);
    lab.api.succeed(&workspace, "delete").await;
}

/// An HTTP server that has an empty state for everybody, and takes its time to send it unless it is asked for `/0`.
struct SlowAnswer {
    address: SocketAddr,
    asked: watch::Sender<bool>,
    is_free: watch::Sender<bool>,
}

impl SlowAnswer {
    async fn begin() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, is_free) = (watch::Sender::new(false), watch::Sender::new(false));
        let (asking, freeing) = (asked.clone(), is_free.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, mut is_free) = (asking.clone(), freeing.subscribe());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if !line.starts_with("GET /0 ") {
                        asked.send_replace(true);
                        let _ = is_free.wait_for(|is_free| *is_free).await;
                    }
                    let state = r#"{"version":4,"terraform_version":"1.0.0","serial":1,"lineage":"a","outputs":{},"resources":[]}"#;
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{state}",
                        state.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await; // The engine may be gone.
                });
            }
        });
        Self {
            address,
            asked,
            is_free,
        }
    }

    async fn asked(&self) {
        let mut asked = self.asked.subscribe();
        let asked = timeout(PATIENCE, asked.wait_for(|asked| *asked)).await;
        asked.expect("the engine reads the state").unwrap();
    }

    fn let_go(&self) {
        self.is_free.send_replace(true);
    }
}
