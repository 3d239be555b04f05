//! Many who come at once, and the first one after a build.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::lab::{self, Lab, ended, succeed, text};

/// Sessions that begin together, with two connections to the server each: more than a listener, or one address at the server,
/// once had room for.
const TOGETHER: usize = 140;
/// WireGuard's own pause after a lost handshake, which nobody waits for.
const LOST: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_begin_together_all_get_in() {
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    lab.until(|agent| agent.status == "connected").await;

    let mut sessions = JoinSet::new();
    for number in 0..TOGETHER {
        let script = format!("echo {number}");
        sessions.spawn(ended(lab.ours(&["ssh", "dev", "--", &script])));
    }

    let mut said = Vec::new();
    while let Some(output) = sessions.join_next().await {
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        said.push(text(&output.stdout).trim().parse::<usize>().unwrap());
    }
    said.sort_unstable();
    assert_eq!(said, (0..TOGETHER).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_first_after_a_build_does_not_wait_for_a_lost_handshake() {
    let mut lab = Lab::start().await;
    for round in 0..6 {
        let (workspace, agent) = (format!("dev{round}"), lab::agent("main"));
        lab.workspace(&workspace, vec![agent.clone()]).await;
        let _running = lab.run(&agent, &[]);

        // Set out before the agent has come up, as a script does right behind a build.
        let session = lab.ours(&["ssh", &workspace, "--", "true"]);
        let begun = Instant::now();
        succeed(session).await;

        assert!(begun.elapsed() < LOST, "{round}: {:?}", begun.elapsed());
    }
}
