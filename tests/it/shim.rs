//! The parent of an engine that outlives its daemon.

use std::{
    io::{BufRead as _, BufReader, Lines},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::process::isolation::launcher::{COMMAND, ended_well};

use crate::control::PATIENCE;

struct Shim {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    report: PathBuf,
}

impl Shim {
    fn start(dir: &Path, script: &str) -> Self {
        let report = dir.join("apply.end");
        let mut child = Command::new(env!("CARGO_BIN_EXE_outpost"))
            .args([COMMAND, "none", "--report"])
            .arg(&report)
            .args(["--", "/bin/sh", "-c", script])
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            report,
        }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

#[test]
fn a_shim_ends_as_its_engine_does_and_writes_it_down() {
    for (script, code, is_well) in [("exit 0", 0, true), ("exit 3", 3, false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut shim = Shim::start(dir.path(), script);

        assert_eq!(shim.end().code(), Some(code), "{script}");
        let report = std::fs::read(&shim.report).unwrap();
        assert_eq!(ended_well(&report), is_well, "{script}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut shim = Shim::start(dir.path(), "kill -TERM $$");

    assert_eq!(shim.end().signal(), Some(Signal::SIGTERM as i32));
    assert!(!ended_well(&std::fs::read(&shim.report).unwrap()));
}

#[test]
fn an_engine_hears_of_one_interrupt_whoever_sends_more() {
    let dir = tempfile::tempdir().unwrap();
    let script = "n=0; trap 'n=$((n+1)); echo heard' INT; echo ready; \
        until [ -e go ]; do sleep 0.02; done; exit $((10+n))";
    let mut shim = Shim::start(dir.path(), script);
    assert_eq!(shim.line(), "ready");

    shim.signal(Signal::SIGINT);
    assert_eq!(shim.line(), "heard");
    shim.signal(Signal::SIGINT);
    shim.signal(Signal::SIGTERM);
    std::fs::write(dir.path().join("go"), "").unwrap();

    assert_eq!(shim.end().code(), Some(11));
}

#[test]
fn signals_that_arrive_as_the_engine_ends_do_not_replace_its_status() {
    let succeeds: fn(ExitStatus) = |status| assert_eq!(status.code(), Some(0));
    let dies: fn(ExitStatus) = |status| assert_eq!(status.signal(), Some(Signal::SIGQUIT as i32));
    for (end, check) in [("exit 0", succeeds), ("kill -QUIT $$", dies)] {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("ulimit -c 0; echo $$; until [ -e go ]; do sleep 0.02; done; {end}");
        let mut shim = Shim::start(dir.path(), &script);
        let engine = shim.line();

        // A shim that gets no processor finds the signals and the end of its engine at the same time.
        shim.signal(Signal::SIGSTOP);
        std::fs::write(dir.path().join("go"), "").unwrap();
        wait_until_dead(&engine);
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            shim.signal(signal);
        }
        shim.signal(Signal::SIGCONT);

        check(shim.end());
    }
}

#[test]
fn an_engine_dies_with_its_shim() {
    let dir = tempfile::tempdir().unwrap();
    let mut shim = Shim::start(dir.path(), "echo $$; exec sleep 3600");
    let engine = shim.line();
    assert!(Path::new("/proc").join(&engine).exists());

    shim.signal(Signal::SIGKILL);
    shim.end();

    wait_until_dead(&engine);
}

/// Waits until this process has ended; its parent may not have noticed.
fn wait_until_dead(process: &str) {
    let deadline = Instant::now() + PATIENCE;
    let cmdline = format!("/proc/{process}/cmdline");
    while std::fs::read_to_string(&cmdline).is_ok_and(|it| !it.is_empty()) {
        assert!(Instant::now() < deadline, "the engine goes on");
        std::thread::sleep(Duration::from_millis(5)); // Nobody tells of the end of another's child.
    }
}
