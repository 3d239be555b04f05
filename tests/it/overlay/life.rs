//! Agents through the ends of servers, connections and themselves.

use std::{process::Stdio, time::Instant};

use nix::sys::signal::Signal;
use outpost::job::{Agent, Script};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use super::lab::{self, Lab, Running, appears, has_ssh};
use crate::{
    control::PATIENCE,
    support::{skip::skipped, wait::until},
};

fn script(name: &str, text: &str) -> Script {
    Script {
        display_name: name.to_owned(),
        script: text.to_owned(),
        ..Script::default()
    }
}

fn with_scripts() -> Agent {
    let mut agent = lab::agent("main");
    agent.scripts = vec![
        Script {
            run_on_start: true,
            ..script("start", "echo x >> started")
        },
        Script {
            run_on_stop: true,
            ..script("stop", "echo y >> stopped")
        },
    ];
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_while_the_server_is_killed_and_comes_back() {
    if !has_ssh() {
        return;
    }
    let (mut lab, running) = Lab::with_agent(with_scripts(), &[]).await;
    lab.until(|agent| agent.lifecycle_state == "ready").await;
    let mut command = lab.open("ssh").await;
    let mut client = command
        .args([
            "dev.outpost",
            "while read line; do echo \"got $line\"; done; exit 4",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut ask = async |word: &str| {
        stdin
            .write_all(format!("{word}\n").as_bytes())
            .await
            .unwrap();
        let line = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        assert_eq!(line.as_deref(), Some(&*format!("got {word}")));
    };
    ask("before").await;

    for round in 0..2 {
        lab.kill_server().await;
        let begun = Instant::now();
        ask(&format!("after {round}")).await;
        println!(
            "measured: the session went on {:?} after the server was back",
            begun.elapsed()
        );
        assert_eq!(lab.there("echo new").await, "new\n");
    }
    lab.until(|agent| agent.status == "connected").await;

    drop(stdin);
    let status = timeout(PATIENCE, client.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(4));
    assert_eq!(lab.seen("dev", "").await.lifecycle_state, "ready");
    let started = std::fs::read_to_string(running.home.join("started")).unwrap();
    assert_eq!(started, "x\n", "start scripts run once in an agent's life");
    assert_eq!(running.log().matches("state=Ready").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_told_to_end_ends_its_sessions_runs_its_stop_scripts_and_says_so() {
    if !has_ssh() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let (lab, running) = Lab::with_agent(with_scripts(), &[]).await;
        lab.until(|agent| agent.lifecycle_state == "ready").await;
        let mut command = lab.open("ssh").await;
        let mut client = command
            .args(["dev.outpost", "sleep 1000 & echo $$ $! > up; wait"])
            .spawn()
            .unwrap();
        let ids = appears(&running.home.join("up")).await;
        let home = running.home.clone();

        running.signal(signal);
        let status = timeout(PATIENCE, client.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(255));
        assert_eq!(running.end().await, 0);
        assert_eq!(appears(&home.join("stopped")).await, "y\n");
        assert_eq!(lab.seen("dev", "").await.lifecycle_state, "off");
        for id in ids.split_whitespace() {
            let what = format!("{id} goes with the agent");
            until(what, async || super::sessions::is_gone(id)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_fail_or_take_too_long_are_told_apart() {
    let cases = [
        ("start_error", "echo no >&2; exit 3", 0),
        ("start_timeout", "sleep 1000", 1),
    ];
    for (state, text, timeout_seconds) in cases {
        let mut agent = lab::agent("main");
        let failing = Script {
            run_on_start: true,
            timeout_seconds,
            ..script("failing", text)
        };
        let stopping = Script {
            run_on_stop: true,
            ..script("stopping", "exit 1")
        };
        agent.scripts = vec![failing, stopping];
        let (lab, running) = Lab::with_agent(agent, &[]).await;

        lab.until(|agent| agent.lifecycle_state == state).await;
        running.signal(Signal::SIGTERM);
        assert_eq!(running.end().await, 0);
        let seen = lab.seen("dev", "").await;
        assert_eq!(seen.lifecycle_state, "shutdown_error");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_the_first_process_it_reaps_orphans_and_passes_signals_on() {
    let may = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--kill-child", "true"])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        return skipped("an agent as the first process", "no process namespaces");
    }
    let mut lab = Lab::start().await;
    let mut agent = lab::agent("main");
    // Its child is nobody's once it has ended.
    agent.scripts = vec![
        Script {
            run_on_start: true,
            ..script(
                "orphan",
                "(sleep 0.2 & ) ; (sleep 0.1; true) & sleep 0.5; ps -o pid=,stat=,comm= -A > processes; echo done > looked",
            )
        },
        Script {
            run_on_stop: true,
            ..script("stop", "echo y > stopped")
        },
    ];
    lab.workspace("dev", vec![agent.clone()]).await;
    let (inner, home) = lab.command(&agent, &[]);
    let mut command = tokio::process::Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(inner.as_std().get_program())
        .args(inner.as_std().get_args())
        .current_dir(&home)
        .kill_on_drop(true);
    for (name, value) in inner.as_std().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let running = Running::start(command, home.clone());
    lab.until(|agent| agent.lifecycle_state == "ready").await;
    appears(&home.join("looked")).await;
    let processes = std::fs::read_to_string(home.join("processes")).unwrap();
    assert!(!processes.contains(" Z"), "{processes}");
    let ours = processes
        .lines()
        .filter(|line| line.contains("outpost"))
        .count();
    assert_eq!(ours, 2, "the reaper and the agent:\n{processes}");

    let first =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.id())).unwrap();
    let first = nix::unistd::Pid::from_raw(first.trim().parse().unwrap());
    nix::sys::signal::kill(first, Signal::SIGTERM).unwrap();
    assert_eq!(running.end().await, 0);
    assert_eq!(appears(&home.join("stopped")).await, "y\n");
    assert_eq!(lab.seen("dev", "").await.lifecycle_state, "off");
}
