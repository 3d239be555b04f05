//! The SSH client that started us as its proxy: when it is gone, so are we.
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

/// What a process has open, as the system names it: `pipe:[4711]`, or the path of a named one.
type Name = PathBuf;

/// Whoever started us.
struct Parent {
    end: OwnedFd,
    program: PathBuf,
}

impl Parent {
    /// The process with this id; `None` if it may not be looked at, or is what adopts orphans.
    fn open(id: Pid) -> Option<Self> {
        if id.is_init() {
            return None;
        }
        let end = pidfd_open(id, PidfdFlags::empty()).ok()?;
        let program = fs::read_link(format!("/proc/{}/exe", id.as_raw_nonzero())).ok()?;
        Some(Self { end, program })
    }

    /// A process of the same program that holds the other end of our input.
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

/// Whether a process has this open.
fn holds(process: &Path, name: &Name) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let mut names = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    names.any(|it| it == *name)
}

/// Receives once the client is gone; closed without that if the system does not say.
pub(super) fn gone() -> anyhow::Result<oneshot::Receiver<()>> {
    let (gone, is_gone) = oneshot::channel();
    let input = fs::read_link("/proc/self/fd/0").unwrap_or_default();
    // Of a socket the other end has another name, so that nobody could be told to hold it.
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
        // Whoever does not wait for it ends already.
        let _ = gone.send(());
    };
    thread::Builder::new()
        .name("client".to_owned())
        .spawn(watching)
        .context("failed to start a thread that watches the SSH client")?;
    Ok(is_gone)
}

/// What ended.
enum Ended {
    Pipe,
    Parent,
}

/// Waits until nobody writes into our input or reads our output any more, or the parent has ended.
fn wait(parent: Option<&Parent>) -> Result<Ended, Errno> {
    let (input, output) = (io::stdin(), io::stdout());
    // Without events only hang-ups and errors are told.
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
