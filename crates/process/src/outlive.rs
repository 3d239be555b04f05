//! Children that outlive us: nothing they do may depend on a reader of their pipes.
//!
//! A write into a pipe that nobody has open for reading kills the writer, unless it handles SIGPIPE, which Go
//! programs do not for their standard output. So such a child also gets the reading ends of its own pipes: they are
//! in an unread message in the socket that is its standard input. Our successor finds the child by its working
//! directory, continues to read where we stopped, and asks it to end.

use std::{
    fs, io,
    io::{IoSlice, PipeReader},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
    unistd::{Pid, getpgid},
};
use outpost_base::stop::Stop;
use tokio::{
    net::unix::pipe,
    time::{Instant, sleep_until},
};

use super::{
    CHUNK_BYTES, Limits, Line, Pipe,
    line::LineBuffer,
    run::{at, read},
    tree,
};

/// Interval of checks whether a process that is not our child is gone: nobody notifies us.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Returns a standard input that has nothing to read and keeps `readers` open as long as the child lives.
pub(super) fn stdin_holding(readers: [&PipeReader; 2]) -> io::Result<Stdio> {
    let (ours, theirs) = UnixStream::pair()?;
    let ends = readers.map(|reader| reader.as_raw_fd());
    let byte = [IoSlice::new(&[0])];
    let held = [ControlMessage::ScmRights(&ends)];
    sendmsg::<()>(ours.as_raw_fd(), &byte, &held, MsgFlags::empty(), None)?;
    Ok(Stdio::from(OwnedFd::from(theirs)))
}

/// Ends the process that works in `dir` and leads a group, if there is one: interrupts it, continues to read its
/// output, and kills its group if it does not end in time or `stop` kills. Returns whether there was one.
///
/// # Errors
/// If `/proc` cannot be read.
pub async fn take_over(
    dir: &Path,
    limits: &Limits,
    stop: &Stop,
    mut on_line: impl FnMut(Pipe, Line) + Send,
) -> io::Result<bool> {
    let dir = match fs::canonicalize(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        dir => dir?,
    };
    let Some(leader) = leader_in(&dir)? else {
        return Ok(false);
    };
    let (mut stdout, mut stderr) = (pipe_of(leader, 1), pipe_of(leader, 2));
    let (mut out_bytes, mut err_bytes) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut out, mut err) = (LineBuffer::new(limits), LineBuffer::new(limits));
    // It may be gone already, and then there is nobody to tell.
    let _ = kill(leader, Signal::SIGINT);
    let kill_at = Instant::now() + limits.exit_timeout;
    let (mut is_gone, mut was_killed, mut close_at) = (false, false, None);
    let mut look_at = Instant::now();
    while !is_gone || stdout.is_some() || stderr.is_some() {
        tokio::select! {
            length = read(&mut stdout, &mut out_bytes) => match length {
                0 => stdout = None,
                _ => out.push(&out_bytes[..length], |line| on_line(Pipe::Stdout, line)),
            },
            length = read(&mut stderr, &mut err_bytes) => match length {
                0 => stderr = None,
                _ => err.push(&err_bytes[..length], |line| on_line(Pipe::Stderr, line)),
            },
            () = sleep_until(look_at), if !is_gone => {
                look_at = Instant::now() + LOOK_EVERY;
                is_gone = leader_in(&dir)? != Some(leader);
                if is_gone { close_at = Some(Instant::now() + limits.pipe_grace); }
            }
            () = stop.killed(), if !was_killed => {
                was_killed = true;
                tree::kill(leader);
            }
            () = sleep_until(kill_at), if !was_killed && !is_gone => {
                was_killed = true;
                tree::kill(leader);
            }
            () = at(close_at) => break,
        }
    }
    out.finish(|line| on_line(Pipe::Stdout, line));
    err.finish(|line| on_line(Pipe::Stderr, line));
    Ok(true)
}

/// Finds the process that leads a group and works in `dir`.
fn leader_in(dir: &Path) -> io::Result<Option<Pid>> {
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = id.map(Pid::from_raw) else {
            continue;
        };
        // Processes that are gone, dead or another user's have no directory that we can read.
        let works_here = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir);
        if works_here && getpgid(Some(pid)).is_ok_and(|group| group == pid) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Opens another reading end of a pipe into which a process writes.
fn pipe_of(process: Pid, descriptor: u8) -> Option<pipe::Receiver> {
    let path = format!("/proc/{process}/fd/{descriptor}");
    pipe::OpenOptions::new().open_receiver(path).ok()
}
