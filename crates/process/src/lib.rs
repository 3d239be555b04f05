//! Child processes: process group, environment, pipes that are always drained, signals in order.
//!
//! A child gets SIGINT once when it should end, sent to it alone; its group is killed only on a forced stop.
//! After an ordinary end the group is left alone: what a template started in the background, on purpose, lives on.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod control_group;
pub mod isolation;
mod line;
pub mod memory;
pub mod open_files;
mod outlive;
pub mod program_text;
mod tree;
pub mod uptime;
pub mod usage;

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use outpost_base::stop::Stop;
use outpost_provision::Memory;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::unix::pipe,
    process::Child,
    time::{Instant, sleep_until},
};

use self::{
    control_group::ControlGroup,
    isolation::{Background, Confinement},
};
pub use self::{
    line::{Line, LineBuffer},
    outlive::take_over,
};

/// Bytes that are read from a pipe at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Interval at which a group's memory is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Time that a child with too much memory has to end after SIGINT.
const EXCESS_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Time that it has to end after SIGINT, before its group is killed.
    pub exit_timeout: Duration,
    /// Time for which its pipes are read after it has ended, while another process holds them.
    pub pipe_grace: Duration,
    /// Bytes of a line that are kept; the rest of a longer line is only counted.
    pub line_bytes: usize,
    /// Bytes of a line that is kept for its content, such as a state. See [`Limits::is_precious`].
    pub precious_bytes: usize,
    /// Decides by its beginning whether a line is kept up to [`Limits::precious_bytes`].
    pub is_precious: fn(&[u8]) -> bool,
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
    pub was_killed: bool,
    /// Set if a process that it left behind still held its pipes when we stopped reading.
    pub left_pipes_open: bool,
    /// Memory of its group and the limit, in bytes, if it was stopped for exceeding that.
    pub excess: Option<(u64, u64)>,
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

/// Runs a child to its end and passes each line that it prints to `on_line`.
///
/// Cancelling `stop` interrupts the child, killing `stop` kills its group, and so does dropping the returned future;
/// a child that outlives us goes on if `stop` leaves. The rest of a cancelled child's group is killed as well if it
/// holds the pipes beyond [`Limits::pipe_grace`].
///
/// # Errors
/// [`ProcessError`] if it cannot be started, or was left.
pub async fn run(
    command: &Command,
    limits: &Limits,
    stop: &Stop,
    mut on_line: impl FnMut(Pipe, Line) + Send,
) -> Result<Exit, ProcessError> {
    let mut out = LineBuffer::new(limits);
    let mut err = LineBuffer::new(limits);
    let mut on_bytes = |pipe: Pipe, bytes: Option<&[u8]>| {
        let buffer = if pipe == Pipe::Stdout {
            &mut out
        } else {
            &mut err
        };
        match bytes {
            Some(bytes) => buffer.push(bytes, |line| on_line(pipe, line)),
            None => buffer.finish(|line| on_line(pipe, line)),
        }
    };
    supervise(command, limits, stop, &mut on_bytes).await
}

/// Complete output of a child.
#[derive(Debug)]
pub struct Captured {
    /// Result of the process.
    pub exit: Exit,
    /// Bytes of its standard output.
    pub stdout: Vec<u8>,
    /// First 64 KiB of its standard error.
    pub stderr: Vec<u8>,
    /// Set if `stdout` has been cut at the limit.
    pub is_cut: bool,
}

/// Runs a child to its end and keeps what it prints, up to `stdout_bytes`.
///
/// # Errors
/// [`ProcessError`] if it cannot be started.
pub async fn capture(
    command: &Command,
    limits: &Limits,
    stop: &Stop,
    stdout_bytes: usize,
) -> Result<Captured, ProcessError> {
    let (mut stdout, mut stderr, mut is_cut) = (Vec::new(), Vec::new(), false);
    let mut on_bytes = |pipe: Pipe, bytes: Option<&[u8]>| {
        let (buffer, limit) = match pipe {
            Pipe::Stdout => (&mut stdout, stdout_bytes),
            Pipe::Stderr => (&mut stderr, CHUNK_BYTES),
        };
        let bytes = bytes.unwrap_or_default();
        let kept = bytes.len().min(limit - buffer.len());
        is_cut |= pipe == Pipe::Stdout && kept < bytes.len();
        buffer.extend_from_slice(&bytes[..kept]);
    };
    let exit = supervise(command, limits, stop, &mut on_bytes).await?;
    Ok(Captured {
        exit,
        stdout,
        stderr,
        is_cut,
    })
}

/// Group of a child, killed when nobody waits for the child any more.
struct Group {
    leader: Option<Pid>,
    /// Control group, which also contains processes that left the process group.
    control_group: Option<Arc<ControlGroup>>,
    /// Set if processes that left it are killed as well.
    is_whole: bool,
    is_abandoned_when_dropped: bool,
}

impl Group {
    fn of(child: &Child, command: &Command) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let confinement = command.confinement.as_ref();
        Self {
            leader: id.map(Pid::from_raw),
            control_group: confinement.and_then(|it| it.control_group.clone()),
            is_whole: confinement.is_some_and(|it| it.background == Background::Ends),
            is_abandoned_when_dropped: true,
        }
    }

    fn interrupt_leader(&self) {
        if let Some(leader) = self.leader {
            // It may be gone already, and then there is nobody to tell.
            let _ = kill(leader, Signal::SIGINT);
        }
    }

    fn kill(&self) {
        if let Some(control_group) = &self.control_group {
            control_group.kill();
        }
        match self.leader {
            Some(leader) if self.is_whole => tree::kill(leader),
            Some(leader) => {
                let _ = killpg(leader, Signal::SIGKILL);
            }
            None => {}
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_abandoned_when_dropped {
            self.kill();
        }
    }
}

async fn supervise(
    command: &Command,
    limits: &Limits,
    stop: &Stop,
    on_bytes: &mut (dyn FnMut(Pipe, Option<&[u8]>) + Send),
) -> Result<Exit, ProcessError> {
    let Spawned {
        mut child,
        mut stdout,
        mut stderr,
    } = spawn(command).map_err(|source| ProcessError::Spawn {
        program: command.program.clone(),
        source,
    })?;
    let mut group = Group::of(&child, command);
    let (mut out_bytes, mut err_bytes) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut status, mut kill_at, mut close_at) = (None, None, None);
    let (mut is_interrupted, mut was_killed) = (false, false);
    let mut watch = Watch::new(&command.memory, &group);
    while status.is_none() || (stdout.is_some() || stderr.is_some()) {
        tokio::select! {
            length = read(&mut stdout, &mut out_bytes) => {
                if length == 0 { stdout = None; }
                on_bytes(Pipe::Stdout, (length > 0).then_some(&out_bytes[..length]));
            }
            length = read(&mut stderr, &mut err_bytes) => {
                if length == 0 { stderr = None; }
                on_bytes(Pipe::Stderr, (length > 0).then_some(&err_bytes[..length]));
            }
            ended = child.wait(), if status.is_none() => {
                let wait_error = |source| ProcessError::Wait { program: command.program.clone(), source };
                status = Some(ended.map_err(wait_error)?);
                // Other processes may hold the pipes for as long as they live, so do not wait for their end.
                close_at = Some(Instant::now() + limits.pipe_grace);
                // Once more, because a process may have forked during the first kill.
                if was_killed { group.kill(); }
                watch.ended(status);
                group.is_abandoned_when_dropped = false; // Processes left behind on purpose are left alone.
            }
            () = stop.cancelled(), if !is_interrupted && status.is_none() => {
                is_interrupted = true;
                group.interrupt_leader();
                kill_at = Some(Instant::now() + limits.exit_timeout);
            }
            bytes = watch.excess(), if !was_killed && status.is_none() => {
                // Interrupt at first, so that resources that are being created get into the state.
                if is_interrupted || bytes > watch.limit() / 4 * 5 {
                    was_killed = true;
                    group.kill();
                } else {
                    is_interrupted = true;
                    group.interrupt_leader();
                    kill_at = Some(Instant::now() + EXCESS_TIMEOUT);
                }
            }
            () = stop.killed(), if !was_killed => {
                // The child goes on without us: dropping its group must not kill it.
                if command.outlives_us && stop.is_leaving() && status.is_none() {
                    group.is_abandoned_when_dropped = false;
                    return Err(ProcessError::Left(command.program.clone()));
                }
                was_killed = true;
                group.kill();
            }
            () = at(kill_at), if !was_killed && status.is_none() => {
                was_killed = true;
                group.kill();
            }
            () = at(close_at) => {
                // Processes that should survive do not hold the pipes of a cancelled step.
                if stop.is_cancelled() { group.kill(); }
                break;
            }
        }
    }
    for (pipe, is_open) in [
        (Pipe::Stdout, stdout.is_some()),
        (Pipe::Stderr, stderr.is_some()),
    ] {
        if is_open {
            on_bytes(pipe, None); // The rest of the buffer is a line, too.
        }
    }
    let status = status.expect("the loop ends only after the child has");
    Ok(Exit {
        status,
        was_killed,
        left_pipes_open: stdout.is_some() || stderr.is_some(),
        excess: watch.found,
    })
}

/// Watch over the memory of a group, which is measured at intervals.
struct Watch<'a> {
    memory: &'a Memory,
    leader: Option<Pid>,
    control_group: Option<Arc<ControlGroup>>,
    next: Instant,
    /// Memory and limit when the limit was first exceeded.
    found: Option<(u64, u64)>,
    /// Memory of the largest of our children so far, whoever waited for it.
    largest_child: u64,
}

impl<'a> Watch<'a> {
    fn new(memory: &'a Memory, group: &Group) -> Self {
        let is_watched = memory.is_watched();
        Self {
            memory,
            leader: group.leader.filter(|_| is_watched),
            control_group: group.control_group.clone(),
            next: Instant::now() + LOOK_INTERVAL,
            found: None,
            largest_child: memory::largest_child(),
        }
    }

    fn limit(&self) -> u64 {
        self.memory.limit().unwrap_or(u64::MAX)
    }

    /// Measures until the group exceeds its limit, and returns its memory.
    async fn excess(&mut self) -> u64 {
        let Some(leader) = self.leader else {
            return std::future::pending().await;
        };
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + LOOK_INTERVAL;
            self.largest_child = memory::largest_child();
            let counted = self.control_group.as_ref().and_then(|it| it.memory());
            let bytes = counted.unwrap_or_else(|| memory::of_job(leader.as_raw()));
            self.memory.note(bytes);
            if bytes > self.limit() {
                self.found.get_or_insert((bytes, self.limit()));
                return bytes;
            }
        }
    }

    /// Counts a child that ended before it was measured if it was larger than all before it; one that failed for lack
    /// of memory counts with its limit.
    fn ended(&mut self, status: Option<ExitStatus>) {
        let has_failed = status.is_some_and(|status| !status.success());
        let control_group = self.control_group.as_ref().filter(|_| has_failed);
        if let Some(limit) = self.memory.limit()
            && control_group.is_some_and(|it| it.ran_out_of_memory())
        {
            self.memory.note(limit);
            self.found.get_or_insert((limit, limit));
        }
        let largest = memory::largest_child();
        if largest > self.largest_child {
            self.memory.note(largest);
        }
    }
}

/// A child with the pipes that it writes into.
struct Spawned {
    child: Child,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

fn spawn(command: &Command) -> io::Result<Spawned> {
    let (program, args) = isolation::wrap(command);
    let mut child = tokio::process::Command::new(program);
    child
        .args(args)
        .env_clear()
        .envs(command.env.iter().map(|(name, value)| (name, value)));
    child.current_dir(&command.dir).process_group(0);
    let ((stdout, out), (stderr, err)) = (io::pipe()?, io::pipe()?);
    let stdin = match command.outlives_us {
        true => outlive::stdin_holding([&stdout, &stderr])?,
        false => Stdio::null(),
    };
    child.stdin(stdin).stdout(out).stderr(err);
    let spawned = child.spawn();
    drop(child); // With our own copies of the writing ends.
    Ok(Spawned {
        child: spawned?,
        stdout: Some(pipe::Receiver::from_owned_fd(stdout.into())?),
        stderr: Some(pipe::Receiver::from_owned_fd(stderr.into())?),
    })
}

/// Reads bytes from a pipe; 0 at its end, and pending forever without a pipe. A pipe that cannot be read has ended.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
