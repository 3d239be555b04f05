//! A directory in which a hostile program may write, such as that of a job, and all access to its contents.
//!
//! [`Dir`] holds the directory by a descriptor. Names are resolved beneath it, by the kernel where it supports that:
//! no link is followed, even if names are exchanged meanwhile, and no other file system is entered. Only a regular
//! file with a single name that belongs to the directory's owner is read, up to a limit: never a pipe, which would
//! not end, nor a file of another job, which the template may reach by a second name.
//!
//! Calls block as long as the file system does. [`within`] runs them off the caller's thread, and limits the wait.

pub(super) mod resolve;
mod write;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outpost_language::TemplateFiles;
use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat},
    io::Errno,
};
use tokio::{task::spawn_blocking, time::timeout};

/// Time limit for one piece of work on a job's files. It is shorter than the time in which a killed job must end.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Maximum number of entries of a directory that is listed; a template's directory has fewer.
const MAX_ENTRIES: usize = 100_000;

/// Runs blocking work off the caller's thread, and waits at most `limit` for it. Work that a file system blocks keeps
/// its thread, and nothing else.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], or the panic of the work.
pub async fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    match timeout(limit, spawn_blocking(work)).await {
        Ok(done) => done.map_err(io::Error::other),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the file system did not answer within {limit:?}"),
        )),
    }
}

/// Reason why something beneath a directory is neither read nor written. It is the inner error of an
/// [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A part of the path is a symbolic link.
    #[error("it is a symbolic link, or its path contains one")]
    Link,
    /// The path is of another kind, such as a pipe.
    #[error("it is {0}, not a regular file")]
    Kind(&'static str),
    /// The file has several hard links.
    #[error("it has {0} hard links, so it may be another user's file")]
    Names(u64),
    /// The file belongs to another user.
    #[error("it belongs to user {found}, not to user {expected}")]
    Owner {
        /// User id of its owner.
        found: u32,
        /// User id of the directory's owner.
        expected: u32,
    },
    /// The file is too large to be read into memory.
    #[error("it is larger than the limit of {limit} bytes")]
    Size {
        /// Maximum size in bytes.
        limit: u64,
    },
    /// The directory has too many entries.
    #[error("the directory has more entries than the limit of {limit}")]
    Entries {
        /// Maximum number of entries.
        limit: usize,
    },
    /// The name leads out of the directory, or into another file system.
    #[error("it is outside the directory, or on another file system")]
    Outside,
}

impl Refusal {
    /// Returns the refusal in an error, if there is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::other(refusal)
    }
}

/// A directory that is held by its descriptor. Clones share it.
#[derive(Clone, Debug)]
pub struct Dir(Arc<Held>);

#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    path: PathBuf,
    owner: u32,
}

/// Kind of what a name refers to; links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with content.
    File,
    /// A directory with entries.
    Directory,
    /// A symbolic link, not followed.
    Link,
    /// A pipe, a socket or a device.
    Other,
}

/// Properties of what a name refers to; links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Kind of the file.
    pub kind: Kind,
    /// Permission bits, including set-uid, set-gid and sticky.
    pub mode: u32,
    /// Length of the content in bytes.
    pub size: u64,
    /// Inode and time of the last change in seconds and nanoseconds, which change with the file and its content.
    pub version: (u64, i64, i64),
}

impl Dir {
    /// Opens the directory at `path`, which must not be a link. Links above it are followed.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let real = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
                fs::canonicalize(parent)?.join(name)
            }
            _ => fs::canonicalize(path)?,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&real, flags, Mode::empty())?;
        Self::held(fd, real)
    }

    fn held(fd: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let owner = rustix::fs::fstat(&fd)?.st_uid;
        Ok(Self(Arc::new(Held { fd, path, owner })))
    }

    /// Marks the directory as in use while this is held, so that [`removal::sweep`](crate::removal::sweep) leaves it
    /// alone however old it looks: a clock may be set forward, and a file server's clock may differ.
    pub fn mark_in_use(&self) {
        // Where the file system has no locks, only the age counts.
        let _ = rustix::fs::flock(self.fd(), FlockOperation::NonBlockingLockShared);
    }

    /// Returns whether a process has [marked](Self::mark_in_use) the directory at `path` as in use.
    pub fn is_in_use(path: &Path) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let locked =
            opened.map(|fd| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive));
        locked == Ok(Err(Errno::WOULDBLOCK))
    }

    /// Returns the path with which it was opened, for processes and messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn dir(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = local(name.as_ref())?;
        let fd = resolve::open(self.fd(), &name, DIRECTORY, Mode::empty())?;
        Self::held(fd, self.0.path.join(name))
    }

    /// Opens a file for reading. `None` if there is none.
    fn file(&self, name: &Path) -> io::Result<Option<File>> {
        // Without NONBLOCK opening a pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match resolve::open(self.fd(), &local(name)?, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        self.check(&file)?;
        Ok(Some(file))
    }

    /// Refuses everything but a regular file of the directory's owner.
    fn check(&self, file: &File) -> io::Result<()> {
        let found = file.metadata()?;
        if !found.is_file() {
            let kind = FileType::from_raw_mode(found.mode());
            return Err(Refusal::Kind(described(kind)).into());
        }
        if found.nlink() > 1 {
            return Err(Refusal::Names(found.nlink()).into());
        }
        let (found, expected) = (found.uid(), self.0.owner);
        if found != expected {
            return Err(Refusal::Owner { found, expected }.into());
        }
        Ok(())
    }

    /// Reads a file of at most `limit` bytes. `None` if there is none.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn read(&self, name: impl AsRef<Path>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name.as_ref())? else {
            return Ok(None);
        };
        // The length does not show how much is allocated: a sparse file has all its bytes once they are read.
        if file.metadata()?.len() > limit {
            return Err(Refusal::Size { limit }.into());
        }
        let content = start_of(file, limit + 1)?;
        if content.len() as u64 > limit {
            return Err(Refusal::Size { limit }.into());
        }
        Ok(Some(content))
    }

    /// Reads the first `limit` bytes of a file. `None` if there is none.
    ///
    /// # Errors
    /// [`Refusal`] except for the size, or the system's error.
    pub(crate) fn read_start(
        &self,
        name: impl AsRef<Path>,
        limit: u64,
    ) -> io::Result<Option<Vec<u8>>> {
        let file = self.file(name.as_ref())?;
        file.map(|file| start_of(file, limit)).transpose()
    }

    /// Returns the properties of what a name refers to. `None` if nothing exists there, or if a part of the path is
    /// not a directory.
    ///
    /// # Errors
    /// [`Refusal`] for a part of the path, or the system's error.
    pub fn find(&self, name: impl AsRef<Path>) -> io::Result<Option<Found>> {
        let name = local(name.as_ref())?;
        let found = match name.file_name() {
            Some(last) => self
                .parent(&name)
                .and_then(|dir| Ok(rustix::fs::statat(&dir, last, NO_LINK)?)),
            None => rustix::fs::fstat(&self.0.fd).map_err(io::Error::from),
        };
        match found {
            Ok(found) => Ok(Some(found_of(&found))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the names in a directory, sorted, with the kind of each.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn list(&self, name: impl AsRef<Path>) -> io::Result<Vec<(OsString, Kind)>> {
        let name = local(name.as_ref())?;
        let dir = resolve::open(self.fd(), &name, DIRECTORY, Mode::empty())?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if found.len() == MAX_ENTRIES {
                let limit = MAX_ENTRIES;
                return Err(Refusal::Entries { limit }.into());
            }
            let kind = match entry.file_type() {
                // Some file systems do not report the kind.
                FileType::Unknown => match rustix::fs::statat(&dir, name, NO_LINK) {
                    Ok(stat) => found_of(&stat).kind,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                known => kind_of(known),
            };
            found.push((OsString::from_vec(name.to_vec()), kind));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Opens the parent directory of a name.
    fn parent(&self, name: &Path) -> io::Result<OwnedFd> {
        let parent = name.parent().unwrap_or(Path::new(""));
        resolve::open(self.fd(), parent, PLACE, Mode::empty())
    }
}

/// Reads the files of a template that was unpacked for a job.
impl TemplateFiles for Dir {
    fn list(&self, dir: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let names = Self::list(self, dir)?.into_iter();
        let named = names.map(|(name, kind)| (name, kind == Kind::Directory));
        Ok(named.collect())
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.find(path)
            .is_ok_and(|found| found.is_some_and(|found| found.kind == Kind::Directory))
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let content = self.read_start(path, limit)?;
        content.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn place(&self) -> &Path {
        self.path()
    }
}

/// Flags for opening a directory that is read.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
/// Flags for opening a directory only to resolve names beneath it, which requires no permission to read it.
pub(super) const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// Flag for calls that would otherwise follow a link.
const NO_LINK: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

fn start_of(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// Returns a name without `.` and `..`, empty for the directory itself. `a/../b` is `b`: links are never followed, so
/// `a` makes no difference.
pub(crate) fn local(name: &Path) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::ParentDir if path.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Refusal::Outside.into());
            }
        }
    }
    Ok(path)
}

/// Returns whether an error means that nothing exists at a name.
fn is_absent(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::NotFound || kind == io::ErrorKind::NotADirectory
}

fn found_of(stat: &Stat) -> Found {
    Found {
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
        mode: stat.st_mode & 0o7777,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        version: (
            stat.st_ino,
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        ),
    }
}

fn kind_of(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Kind::Other,
    }
}

fn described(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile | FileType::Unknown => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests;
