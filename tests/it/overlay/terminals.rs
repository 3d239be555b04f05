//! Sessions with a terminal.

use std::fs;

use pty_process::Size;

use super::lab::{self, Lab, environment, has_ssh};
use crate::support::terminal::Terminal;

/// A client of OpenSSH at a terminal.
async fn open(lab: &Lab, words: &[&str]) -> Terminal {
    let config = lab.open("ssh").await;
    let client = pty_process::Command::new("ssh")
        .args(config.as_std().get_args())
        .args(words)
        .env("TERM", "xterm-odd");
    Terminal::open(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_its_size_its_keys_and_the_status_of_what_ran_in_it() {
    if !has_ssh() {
        return;
    }
    let (lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;

    let script = "stty size; echo $TERM; test -t 0 -a -t 1 -a -t 2 && echo $SSH_TTY = $(tty); echo ready; \
                  until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; echo resized; read line; \
                  echo got $line; exit 9";
    let mut desk = open(&lab, &["-tt", "dev.outpost", script]).await;
    let shown = desk.until("ready").await;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], ["40 100", "xterm-odd"], "{shown:?}");
    let (told, tty) = lines[2].split_once(" = ").unwrap();
    assert!(told == tty && tty.starts_with("/dev/pts/"), "{shown:?}");
    desk.resize(Size::new(24, 80));
    desk.until("resized").await;
    desk.say("hello\n").await;
    let (shown, status) = desk.end().await;
    assert!(shown.contains("got hello\r\n"), "{shown:?}");
    assert_eq!(status.code(), Some(9), "{shown:?}");

    let waiting = "echo ready; sleep 1000; echo no";
    let mut desk = open(&lab, &["-tt", "dev.outpost", waiting]).await;
    desk.until("ready").await;
    desk.say("\u{3}").await;
    let (shown, status) = desk.end().await;
    assert!(!shown.contains("no\r\n"), "{shown:?}");
    assert_eq!(status.code(), Some(255), "{shown:?}");

    let desk = open(&lab, &["-tt", "dev.outpost", "no-such-command-here"]).await;
    let (shown, status) = desk.end().await;
    assert_eq!(status.code(), Some(127), "{shown:?}");
    assert!(shown.contains("not found"), "{shown:?}");

    // The whole output is there, however fast it ends.
    for _ in 0..5 {
        let desk = open(&lab, &["-tt", "dev.outpost", "seq 20000; echo last"]).await;
        let (shown, status) = desk.end().await;
        assert!(status.success(), "{status}");
        assert!(shown.contains("20000\r\nlast\r\n"), "{} bytes", shown.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_shell_begins_with_the_template_s_message_unless_somebody_wants_none() {
    if !has_ssh() {
        return;
    }
    let mut agent = lab::agent("main");
    agent.motd_file = "~/motd".to_owned();
    agent.env = environment(&[("PS1", "prompt$ ")]);
    let (lab, running) = Lab::with_agent(agent, &[]).await;
    fs::write(running.home.join("motd"), "Welcome\nto dev\n").unwrap();

    let mut desk = open(&lab, &["dev.outpost"]).await;
    let shown = desk.until("to dev\r\n").await;
    assert_eq!(shown, "Welcome\r\nto dev\r\n");
    desk.say("shopt -q login_shell && echo log''in\nexit 5\n")
        .await;
    let (shown, status) = desk.end().await;
    assert!(shown.contains("login\r\n"), "{shown:?}");
    assert_eq!(status.code(), Some(5));

    let desk = open(&lab, &["-tt", "dev.outpost", "echo only this"]).await;
    assert_eq!(desk.end().await.0, "only this\r\n");

    fs::write(running.home.join(".hushlogin"), "").unwrap();
    let mut desk = open(&lab, &["dev.outpost"]).await;
    desk.say("exit\n").await;
    let (shown, _) = desk.end().await;
    assert!(!shown.contains("Welcome"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_in_a_terminal_is_hung_up_on_when_its_client_goes() {
    if !has_ssh() {
        return;
    }
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let script = "trap 'echo hung up > ended; exit' HUP; echo ready; while :; do sleep 0.1; done";
    let mut desk = open(&lab, &["-tt", "dev.outpost", script]).await;
    desk.until("ready").await;

    desk.kill().await;

    let ended = running.home.join("ended");
    assert_eq!(lab::appears(&ended).await, "hung up\n");
}
