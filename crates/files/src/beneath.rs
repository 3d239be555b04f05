//! A directory in which somebody hostile may write, such as that of a job, and all access to what is in it.
//!
//! [`Dir`] holds the directory by a descriptor. Names are resolved beneath it, by the kernel where it can: no link is
//! followed, whoever exchanges names meanwhile, and no other file system is entered. What is read must be a regular
//! file with a single name that belongs to the directory's owner, and is read up to a limit: never a pipe, which would
//! not end, nor a file of another job, which the template may know by a second name.
//!
//! Calls block as long as the file system does. [`within`] runs them off the caller's thread, and bounds the wait.

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
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use tokio::{task::spawn_blocking, time::timeout};

/// Time that the file system has for one piece of work on a job's files. It is less than a killed job has to end.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Entries of a directory that are listed; one with more is no directory of a template.
const MAX_ENTRIES: usize = 100_000;

/// Runs blocking work off the caller's thread, and waits at most `limit` for it. Work that a file system does not let
/// go of keeps its thread, and nothing else.
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

/// Why something beneath a directory is neither read nor written. It is the inner error of an [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name on the way, or the last one, is a symbolic link.
    #[error("it is a symbolic link, or its path contains one")]
    Link,
    /// Such as a pipe.
    #[error("it is {0}, not a regular file")]
    Kind(&'static str),
    /// Hard links.
    #[error("it has {0} hard links, so it may be another user's file")]
    Names(u64),
    /// The file of somebody else.
    #[error("it belongs to user {found}, not to user {expected}")]
    Owner {
        /// Its owner.
        found: u32,
        /// The owner of the directory.
        expected: u32,
    },
    /// What nobody should read into memory.
    #[error("it is larger than the limit of {limit} bytes")]
    Size {
        /// In bytes.
        limit: u64,
    },
    /// A directory with too many entries.
    #[error("the directory has more entries than the limit of {limit}")]
    Entries {
        /// What is allowed.
        limit: usize,
    },
    /// The name leads out, or into another file system.
    #[error("it is outside the directory, or on another file system")]
    Outside,
}

impl Refusal {
    /// The refusal in an error, if it is one.
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

/// What a name stands for, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A pipe, a socket or a device.
    Other,
}

/// What there is to know of a name, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its kind.
    pub kind: Kind,
    /// The permission bits, with those for set-uid and the like.
    pub mode: u32,
    /// Its length in bytes.
    pub size: u64,
    /// Changes with the file and with its content, as far as its times tell: number, seconds, nanoseconds.
    pub version: (u64, i64, i64),
}

impl Dir {
    /// Holds the directory at `path`, which must not be a link. Links above it are followed.
    ///
    /// # Errors
    /// The system's reason.
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

    /// Where it was when it was opened: for processes and messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Holds a directory in it.
    ///
    /// # Errors
    /// [`Refusal`], or the system's reason.
    pub fn dir(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = local(name.as_ref())?;
        let fd = resolve::open(self.fd(), &name, DIRECTORY, Mode::empty())?;
        Self::held(fd, self.0.path.join(name))
    }

    /// Opens a file to read. `None` if there is none.
    fn file(&self, name: &Path) -> io::Result<Option<File>> {
        // Without NONBLOCK a pipe would wait for its writer here.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match resolve::open(self.fd(), &local(name)?, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        self.check(&file)?;
        Ok(Some(file))
    }

    /// Refuses what is no plain file of the directory's owner.
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

    /// The content of a file of at most `limit` bytes. `None` if there is none.
    ///
    /// # Errors
    /// [`Refusal`], or the system's reason.
    pub fn read(&self, name: impl AsRef<Path>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name.as_ref())? else {
            return Ok(None);
        };
        // One that is sparse has all its bytes as soon as they are read.
        if file.metadata()?.len() > limit {
            return Err(Refusal::Size { limit }.into());
        }
        let content = start_of(file, limit + 1)?;
        if content.len() as u64 > limit {
            return Err(Refusal::Size { limit }.into());
        }
        Ok(Some(content))
    }

    /// The first `limit` bytes of a file. `None` if there is none.
    ///
    /// # Errors
    /// [`Refusal`] but for the size, or the system's reason.
    pub fn read_start(&self, name: impl AsRef<Path>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = self.file(name.as_ref())?;
        file.map(|file| start_of(file, limit)).transpose()
    }

    /// What a name stands for. `None` if there is nothing, or something that is no directory on the way.
    ///
    /// # Errors
    /// [`Refusal`] for what is on the way, or the system's reason.
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

    /// Names in a directory, sorted, with what they stand for.
    ///
    /// # Errors
    /// [`Refusal`], or the system's reason.
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
                // Some file systems do not tell.
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

    /// The directory that a name is in.
    fn parent(&self, name: &Path) -> io::Result<OwnedFd> {
        let parent = name.parent().unwrap_or(Path::new(""));
        resolve::open(self.fd(), parent, PLACE, Mode::empty())
    }
}

/// The files of a template that was unpacked for a job.
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

/// A directory to read.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
/// A directory as the beginning of names, which needs no right to read it.
pub(super) const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// For calls that would follow a link otherwise.
const NO_LINK: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

fn start_of(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// A name without `.` and `..`, empty for the directory itself. `a/../b` is `b`: links are never followed, so nothing
/// else can stand at `a`.
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

/// Whether an error says that there is nothing at a name.
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
