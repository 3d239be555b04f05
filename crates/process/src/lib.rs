//! Child processes: process group, environment, pipes that are always drained, signals in order.
//!
//! [`run()`] runs one to its end, and interrupts it when it is cancelled: a running apply, too.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod control_group;
mod group;
pub mod isolation;
mod line;
pub mod memory;
pub mod open_files;
mod outlive;
pub mod program_text;
mod run;
mod tree;
pub mod uptime;
pub mod usage;
mod watch;

use std::{
    ffi::OsString, io, os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus,
    time::Duration,
};

use nix::sys::signal::Signal;
use outpost_provision::Memory;

use self::isolation::Confinement;
pub use self::{
    line::{Line, LineBuffer},
    outlive::take_over,
    run::{Captured, capture, run},
};

/// Bytes that are read from a pipe at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Command to run. The environment is complete: nothing of ours is inherited.
#[derive(Clone, Debug)]
pub struct Command {
    /// Path of the executable.
    pub program: PathBuf,
    /// Arguments of the program; they are no place for secrets.
    pub args: Vec<OsString>,
    /// Complete environment of the process.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory of the process.
    pub dir: PathBuf,
    /// Confinement of the child; `None` for one that may do everything that we may.
    pub confinement: Option<Confinement>,
    /// Set if the child goes on when we die; another process may then [`take_over`].
    pub outlives_us: bool,
    /// Parent between us and the child, if there is one.
    pub shim: Option<Shim>,
    /// Meter of its group's memory.
    pub memory: Memory,
}

/// This program again, as the parent of a child that outlives us. It forwards one interrupt, however many are sent,
/// and records how the child ended.
#[derive(Clone, Debug)]
pub struct Shim {
    /// Path of this program.
    pub launcher: PathBuf,
    /// File for the end of the child, see [`isolation::launcher::ended_well`].
    pub report: PathBuf,
}

/// Limits on the wait for a child, and on its output.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Signal that a cancel sends.
    pub request: Request,
    /// Time that it has to end after that signal, before its group is killed.
    pub exit_timeout: Duration,
    /// Time for which its pipes are read after it has ended, while another process holds them.
    pub pipe_grace: Duration,
    /// Bytes of a line that are kept; the rest of a longer line is only counted.
    pub line_bytes: usize,
    /// Bytes of a line that is kept for its content, such as a state. See [`Limits::must_keep_whole`].
    pub precious_bytes: usize,
    /// Decides by its beginning whether a line is kept up to [`Limits::precious_bytes`].
    pub must_keep_whole: fn(&[u8]) -> bool,
}

/// Signal that asks a child to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGINT, to the child alone: an engine tells its own children.
    Interrupt,
    /// SIGHUP, to its whole group: a shell does not pass a signal on to what it waits for.
    HangUp,
}

/// Pipe that a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Standard output of the process.
    Stdout,
    /// Standard error of the process.
    Stderr,
}

/// Reasons why a child could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A child that did not start.
    #[error("failed to start `{}`", .program.display())]
    Spawn {
        /// Path of the program.
        program: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A child that was left to the process that takes it over.
    #[error("`{}` continues without this process", .0.display())]
    Left(PathBuf),
    /// A child that cannot be waited for.
    #[error("failed to wait for `{}`", .program.display())]
    Wait {
        /// Path of the program.
        program: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// Result of a child process.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Exit status of the process.
    pub status: ExitStatus,
    /// Set if we killed its group.
    pub(crate) was_killed: bool,
    /// Set if a process that it left behind still held its pipes when we stopped reading.
    pub left_pipes_open: bool,
    /// Memory of its group and the limit, in bytes, if it was stopped for exceeding that.
    pub(crate) excess: Option<(u64, u64)>,
}

impl Exit {
    /// Returns whether it ended by itself with status 0.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// Returns whether somebody else killed it, such as a system without memory.
    pub fn was_killed_by_others(&self) -> bool {
        !self.was_killed && self.status.signal() == Some(Signal::SIGKILL as i32)
    }
}

impl std::fmt::Display for Exit {
    /// Formats the result as `exit status 1` or `signal: killed`, the words that people know from Coder.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((bytes, limit)) = self.excess {
            let (mib, limit) = (bytes >> 20, limit >> 20);
            return write!(
                f,
                "stopped because its processes used {mib} MiB of memory; the limit for a job is {limit} MiB"
            );
        }
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(9)) => f.write_str("signal: killed"),
            (None, Some(2)) => f.write_str("signal: interrupt"),
            (None, Some(15)) => f.write_str("signal: terminated"),
            (None, signal) => write!(f, "signal: {}", signal.unwrap_or_default()),
        }
    }
}

/// Protects our memory and environment from being read by other processes, including children.
///
/// # Errors
/// The kernel's reason.
pub fn protect_own_environment() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;
