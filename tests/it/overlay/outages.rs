//! Sessions whose ends or relays are away for a while.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::{sleep, timeout},
};

use super::lab::{self, Lab, Running, ended, text};
use crate::control::PATIENCE;

/// Longer than a connection used to bear silence.
const FROZEN: Duration = Duration::from_secs(40);
/// Time for a client that comes for the first time after the server's return, with its own start.
const FOUND: Duration = Duration::from_secs(5);

/// A session that answers each line.
struct Session {
    child: Child,
    stdin: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Session {
    async fn begin(lab: &Lab) -> Self {
        let script = "while read line; do echo \"got $line\"; done; exit 4";
        let mut command = lab.ours(&["ssh", "dev", "--", script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut session = Self { child, stdin, said };
        session.asks("before").await;
        session
    }

    async fn says(&mut self, word: &str) {
        let line = format!("{word}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, word: &str) {
        let line = timeout(PATIENCE, self.said.next_line()).await;
        let line = line.unwrap().unwrap();
        assert_eq!(line.as_deref(), Some(&*format!("got {word}")));
    }

    async fn asks(&mut self, word: &str) {
        self.says(word).await;
        self.hears(word).await;
    }

    fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    async fn end(self) {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(4));
    }
}

/// Who is frozen for a while.
#[derive(Clone, Copy, Debug)]
enum Frozen {
    Client,
    Agent,
    Server,
}

async fn outlasts(who: Frozen) {
    let (lab, running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let mut session = Session::begin(&lab).await;
    let id = match who {
        Frozen::Client => session.id(),
        Frozen::Agent => running.id(),
        Frozen::Server => lab.server.child.id().unwrap(),
    };
    let id = Pid::from_raw(id.try_into().unwrap());

    kill(id, Signal::SIGSTOP).unwrap();
    // What is said meanwhile arrives afterwards.
    session.says("meanwhile").await;
    sleep(FROZEN).await;
    kill(id, Signal::SIGCONT).unwrap();

    let begun = Instant::now();
    session.hears("meanwhile").await;
    println!(
        "measured: with the {who:?} frozen for {FROZEN:?}, the session went on after {:?}",
        begun.elapsed()
    );
    session.asks("after").await;
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlasts_a_client_an_agent_and_a_server_that_are_frozen() {
    tokio::join!(
        outlasts(Frozen::Client),
        outlasts(Frozen::Agent),
        outlasts(Frozen::Server),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_first_after_the_server_s_return_finds_the_agent() {
    let (mut lab, _running) = Lab::with_agent(lab::agent("main"), &[]).await;
    let mut session = Session::begin(&lab).await;

    for round in 0..3 {
        lab.kill_server().await;
        let begun = Instant::now();
        let found = ended(lab.ours(&["ssh", "dev", "--", "echo found"])).await;

        assert_eq!(text(&found.stdout), "found\n", "{}", text(&found.stderr));
        assert!(begun.elapsed() < FOUND, "{round}: {:?}", begun.elapsed());
        session.asks(&format!("after {round}")).await;
    }
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_workspace_went_while_its_agent_was_away_is_told_so() {
    let agent = lab::agent("main");
    let (mut lab, running): (Lab, Running) = Lab::with_agent(agent, &[]).await;
    let session = Session::begin(&lab).await;
    running.signal(Signal::SIGSTOP);
    lab.change("dev", "stop", Vec::new()).await;

    let ended = timeout(PATIENCE, session.child.wait_with_output()).await;

    assert_eq!(ended.unwrap().unwrap().status.code(), Some(1));
    running.signal(Signal::SIGCONT);
}
