//! SSH client that started us as its proxy: when it is gone, we end as well.
//!
//! Its end closes our input, which is noticed even while nothing is read. If another process holds that open, the end of
//! our parent counts, unless a process of the same program has taken over: OpenSSH goes into the background as a master
//! (`ControlPersist`) by going on in a child.
//!
//! # Source
//! coder/coder issue 27954, and pull request 22000, which took a watch of the parent back because of masters.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use tokio::sync::oneshot;

/// Name of an open file as the system shows it: `pipe:[4711]`, or the path of a named pipe.
type Name = PathBuf;

/// Parent process that started us.
struct Parent {
    end: OwnedFd,
    program: PathBuf,
}

impl Parent {
    /// Opens the process with this id; `None` if it may not be examined, or is the one that adopts orphans.
    fn open(id: Pid) -> Option<Self> {
        if id.is_init() {
            return None;
        }
        let end = pidfd_open(id, PidfdFlags::empty()).ok()?;
        let program = fs::read_link(format!("/proc/{}/exe", id.as_raw_nonzero())).ok()?;
        Some(Self { end, program })
    }

    /// Returns a process of the same program that holds the other end of our input.
    fn heir(&self, input: &Name) -> Option<Self> {
        let own = std::process::id().to_string();
        let all = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
        all.filter(|entry| entry.file_name() != own.as_str())
            .filter(|entry| {
                let program = fs::read_link(entry.path().join("exe"));
                program.is_ok_and(|it| it == self.program) && holds(&entry.path(), input)
            })
            .find_map(|entry| {
                let id = entry.file_name().to_str()?.parse().ok()?;
                Self::open(Pid::from_raw(id)?)
            })
    }
}

/// Returns whether a process has this file open.
fn holds(process: &Path, name: &Name) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let mut names = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    names.any(|it| it == *name)
}

/// Returns a channel that receives once the client is gone; it closes without that if the system does not tell.
pub(super) fn gone() -> anyhow::Result<oneshot::Receiver<()>> {
    let (gone, is_gone) = oneshot::channel();
    let input = fs::read_link("/proc/self/fd/0").unwrap_or_default();
    // The other end of a socket has a different name, so its holder cannot be found.
    let is_pipe = fs::metadata("/proc/self/fd/0").is_ok_and(|it| it.file_type().is_fifo());
    let parent = getppid().filter(|_| is_pipe).and_then(Parent::open);
    let watching = move || {
        let mut parent = parent;
        loop {
            match wait(parent.as_ref()) {
                Ok(Ended::Pipe) => break,
                Ok(Ended::Parent) => {}
                Err(_) => return,
            }
            match parent.as_ref().and_then(|parent| parent.heir(&input)) {
                Some(heir) => parent = Some(heir),
                None => break,
            }
        }
        // The receiver may be gone: then we are ending already.
        let _ = gone.send(());
    };
    thread::Builder::new()
        .name("client".to_owned())
        .spawn(watching)
        .context("failed to start a thread that watches the SSH client")?;
    Ok(is_gone)
}

/// Process or pipe that ended.
enum Ended {
    Pipe,
    Parent,
}

/// Waits until nobody writes to our input or reads our output any more, or the parent has ended.
fn wait(parent: Option<&Parent>) -> Result<Ended, Errno> {
    let (input, output) = (io::stdin(), io::stdout());
    // With no events requested, poll reports only hang-ups and errors.
    let pipe = |fd| PollFd::new(fd, PollFlags::empty());
    let (input, output): (BorrowedFd<'_>, BorrowedFd<'_>) = (input.as_fd(), output.as_fd());
    let mut all = vec![pipe(input), pipe(output)];
    all.extend(parent.map(|parent| PollFd::new(parent.end.as_fd(), PollFlags::POLLIN)));
    loop {
        match poll(&mut all, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let has_ended = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let is_parent = !all[..2].iter().any(has_ended);
        return Ok(if is_parent {
            Ended::Parent
        } else {
            Ended::Pipe
        });
    }
}
