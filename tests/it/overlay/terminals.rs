//! Sessions with a terminal.

use std::{fs, process::ExitStatus};

use pty_process::{Pty, Size};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Child,
    time::timeout,
};

use super::lab::{self, Lab, environment, has_ssh, text};
use crate::control::PATIENCE;

/// A client of OpenSSH at a terminal, and all that it has shown.
struct Desk {
    pty: Pty,
    child: Child,
    shown: String,
}

impl Desk {
    async fn open(lab: &Lab, words: &[&str]) -> Self {
        let config = lab.open("ssh").await;
        let (pty, pts) = pty_process::open().unwrap();
        pty.resize(Size::new(40, 100)).unwrap();
        let child = pty_process::Command::new("ssh")
            .args(config.as_std().get_args())
            .args(words)
            .env("TERM", "xterm-odd")
            .kill_on_drop(true)
            .spawn(pts)
            .unwrap();
        Self {
            pty,
            child,
            shown: String::new(),
        }
    }

    async fn say(&mut self, what: &str) {
        self.pty.write_all(what.as_bytes()).await.unwrap();
    }

    /// Waits until this is shown, and forgets it with all before.
    async fn until(&mut self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.shown.find(wanted) {
                let rest = self.shown.split_off(at + wanted.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let read = timeout(PATIENCE, self.pty.read(&mut buffer)).await;
            match read.unwrap_or_else(|_| panic!("no `{wanted}` in {:?}", self.shown)) {
                Ok(length) if length > 0 => self.shown += &text(&buffer[..length]),
                _ => panic!("ended without `{wanted}`: {:?}", self.shown),
            }
        }
    }

    /// All that is shown until the end, and how that was.
    async fn end(mut self) -> (String, ExitStatus) {
        let mut rest = Vec::new();
        // The other side of a terminal that is gone is an error.
        let _ = timeout(PATIENCE, self.pty.read_to_end(&mut rest))
            .await
            .unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap();
        (self.shown + &text(&rest), status.unwrap())
    }
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
    let mut desk = Desk::open(&lab, &["-tt", "dev.outpost", script]).await;
    let shown = desk.until("ready").await;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..2], ["40 100", "xterm-odd"], "{shown:?}");
    let (told, tty) = lines[2].split_once(" = ").unwrap();
    assert!(told == tty && tty.starts_with("/dev/pts/"), "{shown:?}");
    desk.pty.resize(Size::new(24, 80)).unwrap();
    desk.until("resized").await;
    desk.say("hello\n").await;
    let (shown, status) = desk.end().await;
    assert!(shown.contains("got hello\r\n"), "{shown:?}");
    assert_eq!(status.code(), Some(9), "{shown:?}");

    let waiting = "echo ready; sleep 1000; echo no";
    let mut desk = Desk::open(&lab, &["-tt", "dev.outpost", waiting]).await;
    desk.until("ready").await;
    desk.say("\u{3}").await;
    let (shown, status) = desk.end().await;
    assert!(!shown.contains("no\r\n"), "{shown:?}");
    assert_eq!(status.code(), Some(255), "{shown:?}");

    let desk = Desk::open(&lab, &["-tt", "dev.outpost", "no-such-command-here"]).await;
    let (shown, status) = desk.end().await;
    assert_eq!(status.code(), Some(127), "{shown:?}");
    assert!(shown.contains("not found"), "{shown:?}");

    // The whole output is there, however fast it ends.
    for _ in 0..5 {
        let desk = Desk::open(&lab, &["-tt", "dev.outpost", "seq 20000; echo last"]).await;
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

    let mut desk = Desk::open(&lab, &["dev.outpost"]).await;
    let shown = desk.until("to dev\r\n").await;
    assert_eq!(shown, "Welcome\r\nto dev\r\n");
    desk.say("shopt -q login_shell && echo log''in\nexit 5\n")
        .await;
    let (shown, status) = desk.end().await;
    assert!(shown.contains("login\r\n"), "{shown:?}");
    assert_eq!(status.code(), Some(5));

    let desk = Desk::open(&lab, &["-tt", "dev.outpost", "echo only this"]).await;
    assert_eq!(desk.end().await.0, "only this\r\n");

    fs::write(running.home.join(".hushlogin"), "").unwrap();
    let mut desk = Desk::open(&lab, &["dev.outpost"]).await;
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
    let mut desk = Desk::open(&lab, &["-tt", "dev.outpost", script]).await;
    desk.until("ready").await;

    desk.child.kill().await.unwrap();

    let ended = running.home.join("ended");
    assert_eq!(lab::appears(&ended).await, "hung up\n");
}
