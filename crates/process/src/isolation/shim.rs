//! Parent of an engine: forwards one interrupt, and records how the engine ended.
//!
//! An engine takes a second interrupt as an order to stop immediately, so a daemon that takes over must not send one
//! after its predecessor did; and only a parent learns how a process ended. The engine dies with its shim, which is
//! outside of the engine's confinement. Where nothing may outlive the engine, the shim adopts its orphans and ends
//! them.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl::{set_child_subreaper, set_pdeathsig},
        signal::{SigSet, Signal, kill, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpid, getppid},
};
use outpost_files::beneath::Dir;

use super::capabilities;
use crate::tree;

/// Content of the report for an engine that succeeded.
const WELL: &str = "0";

/// Longest time for ending the processes that the engine left behind. Without a control group, a process that forks
/// faster than that escapes.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Time that a process left behind has to end by itself, as a plugin does that was told to end, and the pause between
/// two checks.
const LEAVE_LIMIT: Duration = Duration::from_millis(200);
const LEAVE_PAUSE: Duration = Duration::from_millis(5);

/// Message in a job's log when background processes of a template are ended.
const ORPHANS_END: &str = "Ended processes that this step left in the background. If the \
    workspace is a process on this machine, its daemon needs --background-processes keep.";

/// Offset of exit codes for signals: the first process of a namespace cannot send a signal to itself.
const SIGNAL_BASE: i32 = 128;

/// Parent of an engine, with its tasks besides waiting.
pub(super) struct Shim<'a> {
    /// File for the exit status of the child.
    pub(super) report: Option<&'a Path>,
    /// Set if processes left behind are ended.
    pub(super) ends_all: bool,
    /// Set if the child is the first process of a namespace, with which all in it end.
    pub(super) is_apart: bool,
}

/// End of a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(Signal),
}

impl Shim<'_> {
    /// Starts `child` and stays until it has ended; then ends in the same way.
    pub(super) fn run(&self, child: &mut Command) -> io::Result<Infallible> {
        let signals = block()?;
        if self.ends_all && !self.is_apart {
            // Orphans become children of this process, which can then end them.
            set_child_subreaper(true)?;
        }
        let pid = start(child)?;
        if self.is_apart {
            // The child had to inherit the capabilities for mounting; the shim itself no longer needs them.
            capabilities::drop_all().map_err(io::Error::other)?;
        }
        let mut end = follow(pid, &signals)?;
        match (self.is_apart, end) {
            (true, End::Code(code)) => end = End::of_namespace(code),
            (false, _) if self.ends_all => {
                log_orphans(end);
                end_orphans();
            }
            _ => {}
        }
        if let Some(report) = self.report {
            // Without a report the job counts as failed, but its state is kept.
            let _ = write(report, end);
        }
        if let End::Signal(signal) = end {
            // End by the same signal, so that our parent sees the engine's status. Others stay blocked: one that
            // arrived as the engine ended would replace that status.
            SigSet::from(signal).thread_unblock()?;
            raise(signal)?;
        }
        std::process::exit(end.code())
    }
}

impl End {
    /// Returns the exit code, which may stand for a signal.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => SIGNAL_BASE + signal as i32,
        }
    }

    fn of_namespace(code: i32) -> Self {
        match Signal::try_from(code - SIGNAL_BASE) {
            Ok(signal) => Self::Signal(signal),
            Err(_) => Self::Code(code),
        }
    }
}

/// Blocks the signals that [`follow`] waits for.
pub(super) fn block() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}

/// Starts a child, for which only [`follow`] may wait.
pub(super) fn start(child: &mut Command) -> io::Result<Pid> {
    let id = child.spawn()?.id();
    Ok(Pid::from_raw(i32::try_from(id).map_err(io::Error::other)?))
}

/// Waits until `child` has ended, and forwards one interrupt to it. Other children that end meanwhile are forgotten.
pub(super) fn follow(child: Pid, signals: &SigSet) -> io::Result<End> {
    let mut was_told = false;
    loop {
        if signals.wait()? != Signal::SIGCHLD && !was_told {
            was_told = true;
            // It may be gone already, and then there is nobody to tell.
            let _ = kill(child, Signal::SIGINT);
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(End::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    return Ok(End::Signal(signal));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Logs, in the engine's format, that a successful engine left processes behind, which are now ended.
pub(super) fn log_orphans(end: End) {
    if end == End::Code(0) && are_left() {
        // A line as engines log it. A failed write means that nobody reads.
        let line = format!(r#"{{"@level":"warn","@message":"{ORPHANS_END}"}}"#);
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Returns whether a child of this process, which adopts orphans, stays alive.
fn are_left() -> bool {
    let late = Instant::now() + LEAVE_LIMIT;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < late => std::thread::sleep(LEAVE_PAUSE),
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Ends all descendants of this process, which adopts orphans.
fn end_orphans() {
    let late = Instant::now() + END_LIMIT;
    while Instant::now() < late {
        tree::kill_descendants(getpid());
        // Dead children are reaped, and their orphans are reparented to us.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}

/// Executes `program` in place of this process. With a `parent` it dies with that one.
pub(super) fn execute(parent: Option<&OsStr>, program: &OsStr, args: &[OsString]) -> io::Error {
    if let Some(parent) = parent
        && let Err(error) = bind(parent)
    {
        return error;
    }
    Command::new(program).args(args).exec()
}

/// Makes this process die with `parent`.
pub(super) fn bind(parent: &OsStr) -> io::Result<()> {
    // The shim's signal mask is inherited, and an engine must receive signals.
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    // A parent that died before this call would go unnoticed.
    match parent.to_str() == Some(&getppid().to_string()) {
        true => Ok(()),
        false => Err(io::Error::other("the parent is gone")),
    }
}

/// Returns whether the engine with this report ended by itself with status 0.
pub fn ended_well(report: &[u8]) -> bool {
    report == WELL.as_bytes()
}

fn write(report: &Path, end: End) -> io::Result<()> {
    let text = match end {
        End::Code(code) => code.to_string(),
        End::Signal(signal) => format!("signal: {signal}"),
    };
    let (Some(dir), Some(name)) = (report.parent(), report.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A template may have replaced the file by something that would block us forever, such as a pipe.
    Dir::open(dir)?.write_private(name, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_tells_signals_as_shells_do() {
        for end in [
            End::Code(0),
            End::Code(1),
            End::Code(125),
            End::Signal(Signal::SIGKILL),
        ] {
            assert_eq!(End::of_namespace(end.code()), end);
        }
    }
}
