//! Child processes: own group, own environment, pipes that are always drained, signals in order.
//!
//! A child gets SIGINT once when it should end, sent to it alone; its group is killed only on a forced stop.
//! After an ordinary end the group is left alone: what a template started in the background, on purpose, lives on.

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

/// Bytes read from a pipe at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Time between two looks at a group's memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Time that a child with too much memory has to end after SIGINT.
const EXCESS_TIMEOUT: Duration = Duration::from_secs(10);

/// What to run. The environment is complete: nothing of ours is inherited.
#[derive(Clone, Debug)]
pub struct Command {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments; they are no place for secrets.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub dir: PathBuf,
    /// What it is kept from; `None` for a child that may do all that we may.
    pub confinement: Option<Confinement>,
    /// Whether it goes on if we die; somebody may [`take_over`] then.
    pub outlives_us: bool,
    /// What stands between us and it, if something does.
    pub shim: Option<Shim>,
    /// What measures the memory of its group.
    pub memory: Memory,
}

/// This program again, as the parent of a child that outlives us. It passes one interrupt on, whoever sends more, and
/// writes down how the child ended.
#[derive(Clone, Debug)]
pub struct Shim {
    /// This program.
    pub launcher: PathBuf,
    /// The file for the end of the child, see [`isolation::launcher::ended_well`].
    pub report: PathBuf,
}

/// How long to wait for a child, and how much to take from it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time it has to end after SIGINT, before its group is killed.
    pub exit_timeout: Duration,
    /// Time its pipes are read after it is gone, while somebody else holds them.
    pub pipe_grace: Duration,
    /// Bytes of a line that are kept; of a longer line the rest is counted.
    pub line_bytes: usize,
    /// Bytes of a line that is kept for its content, such as a state. See [`Limits::is_precious`].
    pub precious_bytes: usize,
    /// Tells by its beginning whether a line is to be kept up to [`Limits::precious_bytes`].
    pub is_precious: fn(&[u8]) -> bool,
}

/// Which pipe a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a child could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("failed to start `{}`", .program.display())]
    Spawn {
        /// What.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was left to whoever takes it over.
    #[error("`{}` continues without this process", .0.display())]
    Left(PathBuf),
    /// It cannot be waited for.
    #[error("failed to wait for `{}`", .program.display())]
    Wait {
        /// What.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Its status.
    pub status: ExitStatus,
    /// Whether its group was killed by us.
    pub was_killed: bool,
    /// Whether somebody whom it left behind still held its pipes when we read no more.
    pub left_pipes_open: bool,
    /// What its group had, in bytes, when it was stopped for having more than it may.
    pub excess: Option<(u64, u64)>,
}

impl Exit {
    /// Whether it ended by itself with status 0.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// Whether somebody else killed it, such as a system without memory.
    pub fn was_killed_by_others(&self) -> bool {
        !self.was_killed && self.status.signal() == Some(Signal::SIGKILL as i32)
    }
}

impl std::fmt::Display for Exit {
    /// `exit status 1` or `signal: killed`, the words that people know from Coder.
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

/// Keeps everybody else's eyes from our memory and environment, children included.
///
/// # Errors
/// The kernel's reason.
pub fn protect_own_environment() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false).map_err(io::Error::from)
}

/// Runs a child to its end and hands each line that it prints to `on_line`.
///
/// `stop` cancelled interrupts it, `stop` killed kills its group, and so does dropping the returned future; one that
/// outlives us goes on if `stop` leaves. What is left of the group of a cancelled child is killed, too, if it holds the pipes beyond [`Limits::pipe_grace`].
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

/// What a child printed as a whole.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The first 64 KiB of its standard error.
    pub stderr: Vec<u8>,
    /// Whether `stdout` has been cut at the limit.
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

/// The group of a child, killed when nobody waits for the child any more.
struct Group {
    leader: Option<Pid>,
    /// Has also those who left the group of processes.
    control_group: Option<Arc<ControlGroup>>,
    /// Whether those who left it are killed along.
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
                close_at = Some(Instant::now() + limits.pipe_grace);
                if was_killed { group.kill(); }
                watch.ended(status);
                group.is_abandoned_when_dropped = false; // What it left behind on purpose is left alone.
            }
            () = stop.cancelled(), if !is_interrupted && status.is_none() => {
                is_interrupted = true;
                group.interrupt_leader();
                kill_at = Some(Instant::now() + limits.exit_timeout);
            }
            bytes = watch.excess(), if !was_killed && status.is_none() => {
                // Orderly at first: what it makes right now should get into its state.
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
                // Who was started on purpose does not hold the pipes of what was cancelled.
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
            on_bytes(pipe, None); // Whatever stands in the buffer is a line, too.
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

/// Looks at the memory of a group from time to time.
struct Watch<'a> {
    memory: &'a Memory,
    leader: Option<Pid>,
    control_group: Option<Arc<ControlGroup>>,
    next: Instant,
    /// The first time that it had too much: what it had, and what it may have.
    found: Option<(u64, u64)>,
    /// What the largest child of ours had so far, whoever waited for it.
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

    /// Measures until the group has too much, and returns what it has.
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

    /// A child whose life was too short to be looked at counts if it was larger than all before it; one that failed
    /// for want of memory had all that it may have.
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

/// A child and the pipes it writes into.
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

/// Bytes from a pipe; 0 at its end, for ever pending without a pipe. A pipe that cannot be read has ended.
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
