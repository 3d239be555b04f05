//! The parent of an engine that outlives its daemon: it passes one interrupt on, and writes down how the engine ended.
//!
//! An engine takes a second interrupt as an order to drop everything, so a daemon that takes over must not send one
//! after its predecessor did; and nobody but a parent learns how a process ended. The shim is bound by the same policy
//! as the engine, and the engine dies with it.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, ExitStatus},
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal, kill, raise},
    },
    unistd::{Pid, getppid},
};

use super::launcher::BOUND;
use crate::files::beneath::Dir;

/// What the report of an engine that succeeded says.
const WELL: &str = "0";

/// Starts `program` and stays until it has ended; then ends in the same way, with `report` written.
pub(super) fn run(program: &OsStr, args: &[OsString], report: &Path) -> io::Result<Infallible> {
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
    let mut child = Command::new(super::own_launcher())
        .args([super::launcher::COMMAND, BOUND])
        .arg(std::process::id().to_string())
        .arg(program)
        .args(args)
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let mut was_told = false;
    let status = loop {
        if signals.wait()? != Signal::SIGCHLD && !was_told {
            was_told = true;
            // It may be gone already, and then there is nobody to tell.
            let _ = kill(pid, Signal::SIGINT);
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
    };
    // Without a report the job counts as failed, which its state survives.
    let _ = write(report, status);
    signals.thread_unblock()?;
    if let Some(signal) = status.signal().and_then(|it| Signal::try_from(it).ok()) {
        raise(signal)?;
    }
    std::process::exit(status.code().unwrap_or(1))
}

/// Becomes `program`, which dies with its parent, the process `parent`.
pub(super) fn bind(parent: &OsStr, program: &OsStr, args: &[OsString]) -> io::Error {
    // The mask of the shim comes along, and an engine must hear what is sent to it.
    let prepared = SigSet::empty()
        .thread_set_mask()
        .and_then(|()| set_pdeathsig(Signal::SIGKILL));
    if let Err(error) = prepared {
        return error.into();
    }
    // A parent that died before that is told of by nobody.
    if parent.to_str() != Some(&getppid().to_string()) {
        return io::Error::other("the parent is gone");
    }
    Command::new(program).args(args).exec()
}

/// Whether the engine that has this report ended by itself with status 0.
pub fn ended_well(report: &[u8]) -> bool {
    report == WELL.as_bytes()
}

fn write(report: &Path, status: ExitStatus) -> io::Result<()> {
    let text = match status.code() {
        Some(code) => code.to_string(),
        None => status.to_string(),
    };
    let (Some(dir), Some(name)) = (report.parent(), report.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A template may have put something in its place, which would keep us for ever.
    Dir::open(dir)?.write_private(name, text.as_bytes())
}
