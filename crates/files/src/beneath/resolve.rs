//! Opens a name beneath a directory without following a link: by the kernel, or component by component where it lacks
//! the call.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io::{Errno, retry_on_intr},
};

use super::{NO_LINK, PLACE, Refusal};

/// `true` once the call was refused: Linux before 5.6, and some sandboxes, do not support it.
static LACKS_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens `name`, which contains no `.` or `..`, beneath `dir`. The empty name is `dir` itself.
pub(crate) fn open(
    dir: BorrowedFd<'_>,
    name: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if name.as_os_str().is_empty() {
        return Ok(openat(dir, ".", flags, mode)?);
    }
    if !LACKS_OPENAT2.load(Ordering::Relaxed) {
        match by_kernel(dir, name, flags, mode) {
            Err(Errno::NOSYS) => LACKS_OPENAT2.store(true, Ordering::Relaxed),
            // Filters of system calls return this for calls that they do not know.
            Err(Errno::PERM) => {}
            opened => return opened.map_err(explained),
        }
    }
    step_by_step(dir, name, flags, mode)
}

fn by_kernel(
    dir: BorrowedFd<'_>,
    name: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    // With the flag, a link in place of a directory would give the error for other files.
    let flags = flags - OFlags::NOFOLLOW;
    retry_on_intr(|| openat2(dir, name, flags, mode, resolve))
}

/// Does the same for one component at a time. The only difference: mounted file systems are entered.
pub(super) fn step_by_step(
    dir: BorrowedFd<'_>,
    name: &Path,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut components = name.components().peekable();
    while let Some(component) = components.next() {
        let at = held.as_ref().map_or(dir, |fd| fd.as_fd());
        let part = component.as_os_str();
        let (flags, mode) = match components.peek() {
            Some(_) => (PLACE | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()),
            None => (flags, mode),
        };
        let opened = retry_on_intr(|| openat(at, part, flags, mode));
        let opened = opened.map_err(|error| {
            // The system's error for a link where a directory is requested.
            let is_link = error == Errno::NOTDIR
                && statat(at, part, NO_LINK)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            explained(if is_link { Errno::LOOP } else { error })
        })?;
        held = Some(opened);
    }
    held.ok_or_else(|| Refusal::Outside.into())
}

fn explained(error: Errno) -> io::Error {
    match error {
        Errno::LOOP => Refusal::Link.into(),
        Errno::XDEV => Refusal::Outside.into(),
        // Opening without waiting fails for a socket, or for a pipe without a reader.
        Errno::NXIO => Refusal::Kind("a socket or a named pipe").into(),
        Errno::WOULDBLOCK => io::Error::other("a process holds a lease on it"),
        other => other.into(),
    }
}
