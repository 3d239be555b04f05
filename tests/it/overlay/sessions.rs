//! Commands without a terminal.

use std::{process::Stdio, time::Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::mirror::Digest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use super::lab::{self, Lab, appears, ended, environment, has_ssh, outpost, succeed, text};
use crate::{control::PATIENCE, support::wait::until};

/// Bytes that go through, either way.
const MUCH: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_its_status_its_two_outputs_its_input_and_its_environment() {
    if !has_ssh() {
        return;
    }
    let mut agent = lab::agent("main");
    agent.env = environment(&[
        ("FROM_TEMPLATE", "$HOME/x"),
        ("GREETING", "a b\"c"),
        ("CODER_AGENT_NAME", "kept"),
    ]);
    let (lab, running) = Lab::with_agent(agent.clone(), &[("INHERITED", "yes")]).await;

    let output = lab
        .ssh(&["dev.outpost", "echo out; echo err >&2; exit 7"])
        .await;
    assert_eq!(
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr)
        ),
        (Some(7), "out\n".to_owned(), "err\n".to_owned())
    );

    let killed = lab.ssh(&["dev.outpost", "kill -9 $$"]).await;
    assert_eq!(killed.status.code(), Some(255));

    let mut counting = lab.open("ssh").await;
    counting
        .args(["dev.outpost", "cat; echo then; exit 3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut counting = counting.spawn().unwrap();
    let mut stdin = counting.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    let counted = timeout(PATIENCE, counting.wait_with_output()).await;
    let counted = counted.unwrap().unwrap();
    assert_eq!(
        (counted.status.code(), text(&counted.stdout)),
        (Some(3), "one\ntwo\nthen\n".to_owned())
    );

    let mut asking = lab.open("ssh").await;
    asking
        .args(["-o", "SendEnv=SENT_*", "-o", "SetEnv=SET=here"])
        .args(["dev.outpost", "env"])
        .env("SENT_A", "1");
    let all = succeed(asking).await;
    let home = running.home.display();
    let program = outpost().as_std().get_program().to_owned();
    let program = program.display();
    let token = lab::token(&agent);
    for expected in [
        "SENT_A=1".to_owned(),
        "SET=here".to_owned(),
        "INHERITED=yes".to_owned(),
        format!("FROM_TEMPLATE={home}/x"),
        "GREETING=a b\"c".to_owned(),
        "CODER=true".to_owned(),
        "CODER_WORKSPACE_NAME=dev".to_owned(),
        "CODER_WORKSPACE_AGENT_NAME=main".to_owned(),
        "CODER_WORKSPACE_OWNER_NAME=admin".to_owned(),
        format!("CODER_AGENT_TOKEN={token}"),
        format!("CODER_AGENT_URL={}", lab.url()),
        format!("GIT_SSH_COMMAND={program} gitssh --"),
        format!("GIT_ASKPASS={program}"),
        "CS_DISABLE_GETTING_STARTED_OVERRIDE=true".to_owned(),
        "SSH_CONNECTION=0.0.0.0 0 0.0.0.0 0".to_owned(),
        format!("HOME={home}"),
        format!("PWD={home}"),
    ] {
        assert!(
            all.lines().any(|line| line == expected),
            "no `{expected}` in:\n{all}"
        );
    }
    assert!(!all.contains("SSH_TTY="), "{all}");
    assert!(!running.log().contains(token), "{}", running.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_through_complete_either_way() {
    if !has_ssh() {
        return;
    }
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    lab.there("true").await;
    let script = format!(
        "openssl enc -aes-128-ctr -nosalt -pass pass:x </dev/zero 2>/dev/null | head -c {MUCH}"
    );
    let sum = lab.there(&format!("{script} | sha256sum")).await;

    let begun = Instant::now();
    let mut reading = lab.open("ssh").await;
    reading.args(["dev.outpost", &script]);
    let read = ended(reading).await;
    println!(
        "measured: {MUCH} bytes from an agent in {:?}",
        begun.elapsed()
    );
    assert_eq!(read.stdout.len(), MUCH);
    assert!(sum.starts_with(&Digest::of(&read.stdout).to_string()));

    let begun = Instant::now();
    let mut writing = lab.open("ssh").await;
    writing
        .args(["dev.outpost", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut writing = writing.spawn().unwrap();
    let mut stdin = writing.stdin.take().unwrap();
    let sent = async {
        stdin.write_all(&read.stdout).await.unwrap();
        drop(stdin);
        let mut said = String::new();
        let mut stdout = writing.stdout.take().unwrap();
        stdout.read_to_string(&mut said).await.unwrap();
        said
    };
    let said = timeout(PATIENCE, sent).await.unwrap();
    println!(
        "measured: {MUCH} bytes to an agent in {:?}",
        begun.elapsed()
    );
    assert_eq!(said, sum);
}

/// Sends all of this to a program and reads all that it prints meanwhile.
async fn through(mut command: Command, sent: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut printed = Vec::new();
    let both = async {
        let sending = async {
            // A command that has ended reads no more.
            let _ = stdin.write_all(sent).await;
            drop(stdin);
        };
        let (read, ()) = tokio::join!(stdout.read_to_end(&mut printed), sending);
        read.unwrap();
    };
    timeout(PATIENCE, both).await.unwrap();
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_through_complete_both_ways_at_once() {
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let sent: Vec<u8> = (0..MUCH / 4)
        .flat_map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();

    let printed = through(lab.ours(&["ssh", "dev", "--", "cat"]), &sent).await;
    assert!(printed == sent, "{} bytes came back", printed.len());
    if has_ssh() {
        let mut command = lab.open("ssh").await;
        command.args(["dev.outpost", "cat"]);
        let printed = through(command, &sent).await;
        assert!(printed == sent, "{} bytes came back", printed.len());
    }

    // What a command prints arrives although it reads nothing.
    let script = format!("head -c {MUCH} /dev/zero; exec sleep 0");
    let command = lab.ours(&["ssh", "dev", "--", &script]);
    let printed = through(command, &sent[..8 << 20]).await;
    assert_eq!(printed.len(), MUCH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_lives_on_when_its_client_goes_and_hears_the_signals_that_it_is_sent() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let script =
        "trap '' HUP; echo up > begun; while ! [ -e go ]; do sleep 0.1; done; echo done > ended";

    let mut command = lab.open("ssh").await;
    let mut client = command.args(["dev.outpost", script]).spawn().unwrap();
    appears(&running.home.join("begun")).await;
    client.kill().await.unwrap();
    std::fs::write(running.home.join("go"), "").unwrap();

    assert_eq!(appears(&running.home.join("ended")).await, "done\n");
}

/// Our own client is told to leave, and takes what it runs there along: the shell and what that started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_client_hangs_up_on_what_it_runs_when_it_is_told_to_leave() {
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let begun = running.home.join("begun");
        let script = "sleep 4323 & echo $$ $! > begun; wait";
        let mut client = lab.ours(&["ssh", "dev", "--", script]).spawn().unwrap();
        let ids = appears(&begun).await;

        let id = Pid::from_raw(client.id().unwrap().try_into().unwrap());
        kill(id, signal).unwrap();
        let status = timeout(PATIENCE, client.wait()).await.unwrap().unwrap();

        assert_eq!(status.code(), Some(130), "{signal}");
        for id in ids.split_whitespace() {
            let what = format!("{id} ends after {signal}");
            until(what, async || is_gone(id)).await;
        }
        std::fs::remove_file(begun).unwrap();
    }
}

/// Whether a process has ended; nobody may have asked yet how.
pub fn is_gone(id: &str) -> bool {
    match std::fs::read_to_string(format!("/proc/{id}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_commands_lead_there_too_and_to_the_agent_that_is_named() {
    let mut lab = Lab::start().await;
    let (main, gpu) = (lab::agent("main"), lab::agent("gpu"));
    lab.workspace("dev", vec![main.clone(), gpu.clone()]).await;
    let _running = [lab.run(&main, &[]), lab.run(&gpu, &[])];

    // As `rsync -e 'outpost ssh'` calls it.
    let called = ended(lab.ours(&["ssh", "dev.main", "echo", "--server", "-l", "--", "x"])).await;
    assert_eq!(
        text(&called.stdout),
        "--server -l -- x\n",
        "{}",
        text(&called.stderr)
    );

    for name in ["main", "gpu"] {
        let to = format!("dev.{name}");
        let script = "echo $CODER_WORKSPACE_AGENT_NAME; exit 7";
        let output = ended(lab.ours(&["ssh", &to, "--", script])).await;
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(7), format!("{name}\n")),
            "{}",
            text(&output.stderr)
        );
        if has_ssh() {
            let said = lab.ssh(&[&format!("{to}.outpost"), script]).await;
            assert_eq!(text(&said.stdout), format!("{name}\n"));
        }
    }
    let unnamed = ended(lab.ours(&["ssh", "dev", "--", "true"])).await;
    assert_eq!(unnamed.status.code(), Some(1));
    assert!(text(&unnamed.stderr).contains("use dev.AGENT, where AGENT is one of main, gpu"));

    let pinged = succeed(lab.ours(&["ping", "dev.gpu", "-n", "2", "--output", "json"])).await;
    let answers: serde_json::Value = serde_json::from_str(&pinged).unwrap();
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 2, "{pinged}");
    assert!(answers.iter().all(|it| it["milliseconds"].is_number()));

    lab.change("dev", "stop", Vec::new()).await;
    let stopped = ended(lab.ours(&["ssh", "dev.gpu", "--", "true"])).await;
    assert_eq!(stopped.status.code(), Some(1));
    let said = text(&stopped.stderr);
    assert!(said.contains("outpost workspace start dev"), "{said}");
}
