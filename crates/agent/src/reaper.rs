//! First process of a container: runs ourselves as a child, passes signals on, and reaps orphans.
//!
//! # Source
//! coder `agent/reaper/reaper_unix.go`.

use std::{env, io, os::unix::process::CommandExt as _, process::Command};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Option that tells the child not to do the same.
pub(crate) const OPTION: &str = "--no-reap";

/// Returns whether we are the first process, so that nobody else reaps.
pub fn is_needed() -> bool {
    std::process::id() == 1 && env::args().all(|argument| argument != OPTION)
}

/// Runs ourselves as a child and returns its exit status. No other thread may run yet.
///
/// # Errors
/// If we cannot be started again.
pub fn run() -> io::Result<u8> {
    let passed_on = [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ];
    let signals = SigSet::from_iter(passed_on);
    signals.thread_block()?;
    let mut command = Command::new(env::current_exe()?);
    let child = command
        .args(env::args_os().skip(1))
        .arg(OPTION)
        .process_group(0);
    // The signal mask is inherited, and the child must receive its signals.
    let child = {
        signals.thread_unblock()?;
        let child = child.spawn()?;
        signals.thread_block()?;
        child
    };
    let id = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    loop {
        if let Some(code) = reap(id)? {
            return Ok(code);
        }
        let signal = signals.wait()?;
        if signal != Signal::SIGCHLD {
            // It may have ended just now.
            let _ = kill(id, signal);
        }
    }
}

/// Reaps all processes that have ended; if our child is among them, returns its exit code.
fn reap(ours: Pid) -> io::Result<Option<u8>> {
    let code = |code: i32| u8::try_from(code).unwrap_or(u8::MAX);
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(id, status)) if id == ours => return Ok(Some(code(status))),
            Ok(WaitStatus::Signaled(id, signal, _)) if id == ours => {
                return Ok(Some(code(128 + signal as i32)));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
