//! Run of one child process, an apply for example: its output, its end, and what a cancel does to it.
//!
//! A child that is cancelled gets one signal, see [`super::Request`]; its group is killed if it does not end in time, and on a
//! forced stop. After an ordinary end the group is left alone: what a template started in the background, on purpose,
//! lives on. One that goes on without us is cancelled by whoever took it over, see [`super::take_over`].

use std::{io, process::Stdio, time::Duration};

use outpost_base::stop::Stop;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::unix::pipe,
    process::Child,
    time::{Instant, sleep_until},
};

use super::{
    CHUNK_BYTES, Command, Exit, Limits, Line, LineBuffer, Pipe, ProcessError, group::Group,
    isolation, outlive, watch::Watch,
};

/// Time that a child with too much memory has to end after SIGINT.
const EXCESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a child to its end and passes each line that it prints to `on_line`.
///
/// Cancelling `stop` asks the child to end, killing `stop` kills its group, and so does dropping the returned future;
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
                group.request_end(limits.request);
                kill_at = Some(Instant::now() + limits.exit_timeout);
            }
            bytes = watch.excess(), if !was_killed && status.is_none() => {
                // Interrupt at first, so that resources that are being created get into the state.
                if is_interrupted || bytes > watch.limit() / 4 * 5 {
                    was_killed = true;
                    group.kill();
                } else {
                    is_interrupted = true;
                    group.request_end(limits.request);
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

/// A child with the pipes that it writes into.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

pub(super) fn spawn(command: &Command) -> io::Result<Spawned> {
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
pub(super) async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
