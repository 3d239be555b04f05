//! Agents and clients that reach each other by UDP, and those that must not.

use std::time::Instant;

use serde_json::Value;

use super::lab::{self, Lab, ended, text};
use crate::control::PATIENCE;

/// How the agent is reached: what `outpost ping` says of its last answer.
async fn ping(lab: &Lab, options: &[&str]) -> Value {
    let arguments = [
        &["ping", "dev", "--count", "2", "--output", "json"],
        options,
    ]
    .concat();
    let output = ended(lab.ours(&arguments)).await;
    let stderr = text(&output.stderr);
    let answers: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    answers.as_array().unwrap().last().unwrap().clone()
}

/// Pings until the answer comes directly.
async fn until_direct(lab: &Lab) {
    let begun = Instant::now();
    while ping(lab, &[]).await["endpoint"].is_null() {
        assert!(begun.elapsed() < PATIENCE, "never direct");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_reached_directly_unless_the_client_or_the_agent_or_the_server_forbids_it() {
    let mut lab = Lab::with_direct_paths().await;
    let agent = lab::agent("main");
    lab.workspace("dev", vec![agent.clone()]).await;
    let running = lab.run(&agent, &[]);

    until_direct(&lab).await;
    let large = ended(lab.ours(&["ssh", "dev", "--", "head -c 8388608 /dev/zero"])).await;
    assert_eq!(large.stdout.len(), 8 << 20);

    let relayed = ping(&lab, &["--disable-direct-connections"]).await;
    assert!(relayed["endpoint"].is_null(), "{relayed}");
    assert_eq!(relayed["region"], 999);

    running.kill().await;
    let running = lab.run(&agent, &[("OUTPOST_SEALED", "true")]);
    let relayed = ping(&lab, &["--timeout", "30s"]).await;
    assert!(relayed["endpoint"].is_null(), "{relayed}");
    assert_eq!(relayed["region"], 999);
    running.kill().await;

    let (lab, running) = Lab::with_agent(agent, &[]).await;
    let relayed = ping(&lab, &[]).await;
    assert!(relayed["endpoint"].is_null(), "{relayed}");
    drop(running);
}
