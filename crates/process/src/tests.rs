use std::{path::Path, sync::Mutex};

use nix::{sys::stat::Mode, unistd::mkfifo};
use outpost_base::stop::Stop;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::Notify, time::timeout};

use super::{
    run::{Spawned, spawn},
    *,
};

/// Time in which anything happens that should happen at once, even on a busy machine.
const SOON: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_secs(3600);

const LIMITS: Limits = Limits {
    request: Request::Interrupt,
    exit_timeout: NEVER,
    pipe_grace: NEVER,
    line_bytes: 1024,
    precious_bytes: 1024,
    must_keep_whole: |_| false,
};

/// A directory with a pipe `alive`, which living processes of a script hold open.
struct Bench {
    dir: tempfile::TempDir,
    alive: pipe::Receiver,
    lines: Mutex<Vec<String>>,
    ready: Notify,
    stop: Stop,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alive");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self {
            alive: pipe::OpenOptions::new().open_receiver(path).unwrap(),
            dir,
            lines: Mutex::default(),
            ready: Notify::new(),
            stop: Stop::new(),
        }
    }

    /// Runs a script and collects its lines; `ready` is notified of the line `ready`.
    async fn run(&self, script: &str, limits: &Limits) -> Exit {
        let on_line = |_, line: Line| {
            let text = line.into_text();
            if text == "ready" {
                self.ready.notify_one();
            }
            self.lines.lock().unwrap().push(text);
        };
        let command = shell(&format!("exec 3> alive\n{script}"), self.dir.path());
        run(&command, limits, &self.stop, on_line).await.unwrap()
    }

    /// Waits until the last process of the script is gone.
    async fn all_gone(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(SOON, self.alive.read_to_end(&mut rest)).await;
        read.expect("a process is left").unwrap();
    }
}

fn shell(script: &str, dir: &Path) -> Command {
    Command {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
        dir: dir.to_owned(),
        confinement: None,
        outlives_us: false,
        shim: None,
        memory: Memory::default(),
    }
}

#[tokio::test]
async fn a_child_that_nobody_waits_for_is_killed_with_its_group() {
    let mut bench = Bench::new();

    tokio::select! {
        exit = bench.run("sleep 3600 & echo ready; wait", &LIMITS) => panic!("{exit}"),
        () = bench.ready.notified() => {}
    }

    bench.all_gone().await;
}

#[tokio::test]
async fn a_child_that_ignores_its_interrupt_is_killed_with_its_group() {
    let mut bench = Bench::new();
    let limits = Limits {
        exit_timeout: Duration::from_millis(50),
        ..LIMITS
    };

    let cancel = async {
        bench.ready.notified().await;
        bench.stop.cancel();
    };
    let script = "trap '' INT; sleep 3600 & echo ready; wait";
    let (exit, ()) = tokio::join!(bench.run(script, &limits), cancel);

    assert_eq!(
        (exit.to_string(), exit.was_killed),
        ("signal: killed".to_owned(), true)
    );
    bench.all_gone().await;
}

#[tokio::test]
async fn a_group_that_is_hung_up_hears_of_it_at_once_and_is_killed_if_it_does_not_care() {
    for (script, how, was_killed) in [
        (
            "sh -c 'echo ready; while :; do sleep 3600; done'; :",
            "signal: 1",
            false,
        ),
        (
            "trap '' HUP; sleep 3600 & echo ready; wait",
            "signal: killed",
            true,
        ),
    ] {
        let mut bench = Bench::new();
        let limits = Limits {
            request: Request::HangUp,
            exit_timeout: if was_killed {
                Duration::from_millis(50)
            } else {
                NEVER
            },
            ..LIMITS
        };

        let cancel = async {
            bench.ready.notified().await;
            bench.stop.cancel();
        };
        let (exit, ()) = tokio::join!(bench.run(script, &limits), cancel);

        assert_eq!((&*exit.to_string(), exit.was_killed), (how, was_killed));
        bench.all_gone().await;
    }
}

#[tokio::test]
async fn what_a_cancelled_child_leaves_at_its_pipes_is_killed() {
    let mut bench = Bench::new();
    let limits = Limits {
        exit_timeout: SOON,
        pipe_grace: Duration::from_millis(50),
        ..LIMITS
    };

    let cancel = async {
        bench.ready.notified().await;
        bench.stop.cancel();
    };
    // Not `wait`: a shell that is interrupted right before it would wait forever.
    let script =
        "trap 'echo bye; exit 3' INT; sleep 3600 & echo ready; while :; do sleep 0.05; done";
    let (exit, ()) = tokio::join!(bench.run(script, &limits), cancel);

    assert_eq!(
        (exit.to_string(), exit.was_killed),
        ("exit status 3".to_owned(), false)
    );
    assert_eq!(*bench.lines.lock().unwrap(), ["ready", "bye"]);
    bench.all_gone().await;
}

#[tokio::test]
async fn a_forced_stop_does_not_wait_for_who_holds_the_pipes() {
    let mut bench = Bench::new();

    let kill = async {
        bench.ready.notified().await;
        bench.stop.kill();
    };
    let ran = async { tokio::join!(bench.run("sleep 3600 & echo ready", &LIMITS), kill) };
    timeout(SOON, ran).await.unwrap();

    bench.all_gone().await;
}

#[tokio::test]
async fn an_answer_is_cut_at_its_limit_and_the_pipe_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let command = shell(
        "head -c 1000000 /dev/zero; echo oops >&2; exit 4",
        dir.path(),
    );

    let captured = capture(&command, &LIMITS, &Stop::new(), 10).await.unwrap();

    assert!(captured.is_cut && captured.stdout == [0; 10]);
    assert_eq!(captured.stderr, b"oops\n");
    assert_eq!(captured.exit.to_string(), "exit status 4");
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let command = Command {
        program: "/no/such/engine".into(),
        ..shell("", Path::new("/"))
    };

    let error = capture(&command, &LIMITS, &Stop::new(), 10)
        .await
        .unwrap_err();

    assert_eq!(error.to_string(), "failed to start `/no/such/engine`");
}

#[tokio::test]
async fn a_child_that_outlives_us_can_go_on_writing_and_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    mkfifo(&ready, Mode::S_IRWXU).unwrap();
    let script = "trap 'echo interrupted; exit 3' INT; echo one; : > ready; \
        while :; do echo more; sleep 0.02; done";
    let command = Command {
        outlives_us: true,
        ..shell(script, dir.path())
    };
    let Spawned { child, stdout, .. } = spawn(&command).unwrap();
    let is_ready = tokio::task::spawn_blocking(move || std::fs::read(ready));
    timeout(SOON, is_ready).await.unwrap().unwrap().unwrap();
    drop((stdout, child)); // As our death would.

    let mut lines = Vec::new();
    let on_line = |_, line: Line| lines.push(line.into_text());
    let found = take_over(dir.path(), &LIMITS, &Stop::new(), on_line).await;

    assert!(found.unwrap());
    assert_eq!(lines.first().map(String::as_str), Some("one"));
    assert_eq!(lines.last().map(String::as_str), Some("interrupted"));
    let again = take_over(dir.path(), &LIMITS, &Stop::new(), |_, _| {}).await;
    assert!(!again.unwrap());
}

#[tokio::test]
async fn a_child_that_outlives_us_is_left_and_not_killed_when_we_are_in_a_hurry() {
    let dir = tempfile::tempdir().unwrap();
    let (stop, ready) = (Stop::new(), Notify::new());
    let command = Command {
        outlives_us: true,
        ..shell("trap '' INT; echo ready; sleep 3600", dir.path())
    };

    let on_line = |_, _: Line| ready.notify_one();
    let leave = async {
        ready.notified().await;
        stop.leave();
    };
    let (left, ()) = tokio::join!(run(&command, &LIMITS, &stop, on_line), leave);

    assert!(matches!(left, Err(ProcessError::Left(_))), "{left:?}");
    let limits = Limits {
        exit_timeout: Duration::from_millis(50),
        pipe_grace: Duration::from_millis(50),
        ..LIMITS
    };
    let found = take_over(dir.path(), &limits, &Stop::new(), |_, _| {}).await;
    assert!(found.unwrap(), "it went on");
}

#[tokio::test]
async fn a_child_with_too_much_memory_is_stopped_with_a_text_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::watched(Some(20 << 20));
    let command = Command {
        memory: memory.clone(),
        // Holds 40 MiB, and waits.
        ..shell(
            "x=$(head -c 41943040 /dev/zero | tr '\\0' x); sleep 3600",
            dir.path(),
        )
    };

    let exit = run(&command, &LIMITS, &Stop::new(), |_, _| {})
        .await
        .unwrap();

    let text = exit.to_string();
    assert!(text.contains("the limit for a job is 20 MiB"), "{text}");
    assert!(memory.peak() > 20 << 20);
}

#[tokio::test]
async fn a_child_with_little_memory_is_left_alone_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::watched(Some(1 << 40));
    let command = Command {
        memory: memory.clone(),
        ..shell("read line < fifo", dir.path())
    };
    mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
    let fifo = dir.path().join("fifo");
    let measured = async {
        assert!(memory.changed().await > 0);
        tokio::fs::write(fifo, "go\n").await.unwrap();
    };

    let stop = Stop::new();
    let (exit, ()) = tokio::join!(run(&command, &LIMITS, &stop, |_, _| {}), measured);

    assert!(exit.unwrap().is_success() && memory.peak() > 0);
}
