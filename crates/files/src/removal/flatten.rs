//! One turn of a removal: a directory is flattened as far as there is time.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use rustix::{
    fs::{AtFlags, Mode, chmod, fchmod, renameat, unlinkat},
    io::Errno,
};

use crate::beneath::{DIRECTORY, PLACE, Refusal, resolve};

/// Number of names that are read from a directory at a time.
const NAMES_AT_A_TIME: usize = 1024;

/// Result of a turn.
pub(super) enum Turn {
    /// The directory is removed.
    Done,
    /// Time ran out before the end.
    More,
    /// None of the remaining entries can be removed.
    Stuck(io::Error),
}

/// Removes as much of `name` in `parent` as there is time for. Anything but a directory is just unlinked.
pub(super) fn turn(parent: BorrowedFd<'_>, name: &OsStr, end: Instant) -> io::Result<Turn> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Turn::Done),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Ok(Turn::Stuck(error.into())),
    }
    let root = match enter(parent, name) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Turn::Done),
        Err(error) => return Ok(Turn::Stuck(error)),
    };
    let mut flattening = Flattening {
        root,
        end,
        progress: 0,
        error: None,
    };
    let turn = flattening.run()?;
    match turn {
        Turn::Done => match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(Turn::Done),
            // Another process created an entry meanwhile.
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Turn::More),
            Err(error) => Ok(Turn::Stuck(error.into())),
        },
        turn => Ok(turn),
    }
}

/// Number for the names of directories that are moved up.
static MOVED: AtomicU64 = AtomicU64::new(0);

/// A directory that is being emptied.
struct Flattening {
    root: OwnedFd,
    end: Instant,
    /// Number of entries that were removed or moved up.
    progress: u64,
    /// First error of the turn.
    error: Option<io::Error>,
}

impl Flattening {
    fn run(&mut self) -> io::Result<Turn> {
        loop {
            let names = names(self.root.as_fd())?;
            if names.is_empty() {
                return Ok(Turn::Done);
            }
            let before = self.progress;
            for name in names {
                if self.is_over() {
                    return Ok(Turn::More);
                }
                if !self.unlink(None, &name) {
                    self.flatten(&name);
                }
            }
            if self.is_over() {
                return Ok(Turn::More);
            }
            if self.progress == before {
                let unknown = || io::Error::other("something in it cannot be removed");
                return Ok(Turn::Stuck(self.error.take().unwrap_or_else(unknown)));
            }
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Removes an entry of `dir`, or of the root; returns `false` for a directory that is not empty.
    fn unlink(&mut self, dir: Option<BorrowedFd<'_>>, name: &OsStr) -> bool {
        let dir = dir.unwrap_or(self.root.as_fd());
        let unlinked = match unlinkat(dir, name, AtFlags::empty()) {
            // Which of the two errors a directory gives depends on the file system.
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(dir, name, AtFlags::REMOVEDIR),
            unlinked => unlinked,
        };
        match unlinked {
            Ok(()) | Err(Errno::NOENT) => self.progress += 1,
            Err(Errno::NOTEMPTY | Errno::EXIST) => return false,
            Err(error) => self.failed(error.into()),
        }
        true
    }

    fn failed(&mut self, error: io::Error) {
        self.error.get_or_insert(error);
    }

    /// Empties a directory of the root, and removes it.
    fn flatten(&mut self, name: &OsStr) {
        let inner = match enter(self.root.as_fd(), name) {
            Ok(inner) => inner,
            Err(error) => return self.failed(error),
        };
        loop {
            let names = match names(inner.as_fd()) {
                Ok(names) => names,
                Err(error) => return self.failed(error),
            };
            let before = self.progress;
            for name in &names {
                if self.is_over() {
                    return;
                }
                if !self.unlink(Some(inner.as_fd()), name) {
                    self.lift(inner.as_fd(), name);
                }
            }
            if names.is_empty() || self.progress == before {
                break;
            }
        }
        match unlinkat(&self.root, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => self.progress += 1,
            Err(error) => self.failed(error.into()),
        }
    }

    /// Moves a directory up into the root.
    fn lift(&mut self, from: BorrowedFd<'_>, name: &OsStr) {
        let number = MOVED.fetch_add(1, Ordering::Relaxed);
        let new = format!(".{}-{number}", std::process::id());
        let mut moved = renameat(from, name, &self.root, &new);
        // Moving a directory requires permission to write to it, too.
        if moved == Err(Errno::ACCESS) && permit(from, name).is_ok() {
            moved = renameat(from, name, &self.root, &new);
        }
        match moved {
            Ok(()) | Err(Errno::NOENT) => self.progress += 1,
            Err(error) => self.failed(error.into()),
        }
    }
}

/// Opens a directory for listing and changing, with permissions that its owner may have removed. A mount point must
/// not be emptied, and is an error.
fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let open = || resolve::open(parent, Path::new(name), DIRECTORY, Mode::empty());
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(parent, name)?;
            open()?
        }
        opened => opened?,
    };
    let (outer, inner) = (rustix::fs::fstat(parent)?, rustix::fs::fstat(&opened)?);
    if outer.st_dev != inner.st_dev {
        return Err(Refusal::Outside.into());
    }
    if !Mode::from_raw_mode(inner.st_mode).contains(Mode::RWXU) {
        // If the directory belongs to another user, the following calls fail.
        let _ = fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

/// Gives the owner of a directory all permissions.
fn permit(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let held = resolve::open(parent, Path::new(name), PLACE, Mode::empty())?;
    // A descriptor opened with `O_PATH` cannot change modes; this path refers to the same directory and can.
    let name = format!("/proc/self/fd/{}", held.as_raw_fd());
    Ok(chmod(name, Mode::RWXU)?)
}

/// Returns some of the names in a directory.
fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(OsString::from_vec(name));
        }
        if names.len() == NAMES_AT_A_TIME {
            break;
        }
    }
    Ok(names)
}
