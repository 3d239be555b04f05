//! The proxy that OpenSSH starts, and its end.

use std::{fs, process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use tokio::{process::Command, time::timeout};

use super::lab::{self, Lab, ended, has_ssh, text};
use crate::control::PATIENCE;

/// Within this a proxy follows its client.
const FOLLOWS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// The processes that carry SSH to this lab's server.
fn proxies(lab: &Lab) -> usize {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let words = all.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    let ours = words.filter(|words| {
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        let program = words.first().is_some_and(|it| it.ends_with(b"outpost"));
        program && words.contains(&&b"--stdio"[..]) && words.contains(&lab.url().as_bytes())
    });
    ours.count()
}

/// Waits until there are so many.
async fn there_are(lab: &Lab, count: usize, within: Duration) {
    let waiting = async {
        while proxies(lab) != count {
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = timeout(within, waiting).await;
    assert!(waited.is_ok(), "{} proxies, not {count}", proxies(lab));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_lives_as_long_as_the_master_that_went_into_the_background() {
    if !has_ssh() {
        return;
    }
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let path = format!("ControlPath={}", lab.path("master").display());
    let words = [
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=60",
        "-o",
        &path,
    ];
    let with = |rest: &[&'static str]| {
        let words = words.iter().copied().map(str::to_owned);
        words
            .chain(rest.iter().copied().map(str::to_owned))
            .chain(["dev.outpost".to_owned()])
            .collect::<Vec<_>>()
    };
    let run = async |mut words: Vec<String>, script: &str| {
        words.extend((!script.is_empty()).then(|| script.to_owned()));
        let mut command = lab.open("ssh").await;
        // A master holds the standard error that it was born with.
        command.args(words).stderr(Stdio::null());
        ended(command).await
    };

    for round in ["first\n", "second\n", "third\n"] {
        let said = run(with(&[]), &format!("echo {}", round.trim())).await;
        assert_eq!(text(&said.stdout), round);
        // Longer than the proxy gives itself once its client is gone.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(proxies(&lab), 1);
    }

    run(with(&["-O", "exit"]), "").await;
    there_are(&lab, 0, FOLLOWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_waits_for_an_agent_goes_with_its_client() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    assert_eq!(lab.there("echo up").await, "up\n");
    running.signal(Signal::SIGSTOP);
    let mut command = lab.open("ssh").await;
    let mut client = command
        .args(["dev.outpost", "true"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    there_are(&lab, 1, PATIENCE).await;

    client.kill().await.unwrap();

    there_are(&lab, 0, FOLLOWS).await;
    running.signal(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_goes_with_its_client_though_somebody_else_holds_its_input() {
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let fifo = lab.path("input");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut holder = Command::new("sh")
        .args(["-c", "exec 3<>\"$0\"; exec sleep 1000"])
        .arg(&fifo)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The shell stays, as there is something to do behind the proxy.
    let script = "\"$0\" ssh --stdio --url \"$1\" --token-file \"$2\" dev <\"$3\"; true";
    let mut client = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_outpost"), lab.url()])
        .args([lab.path("data/admin.token"), fifo])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    there_are(&lab, 1, PATIENCE).await;
    let mut said = client.stdout.take().unwrap();
    let mut greeting = [0; 4];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut said, &mut greeting);
    timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert_eq!(&greeting, b"SSH-");

    client.kill().await.unwrap();

    there_are(&lab, 0, FOLLOWS).await;
    holder.kill().await.unwrap();
}
