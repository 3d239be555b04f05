//! Files that other processes rely on: written completely or not at all, private, locked, and removed for good.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod appearance;
pub mod archive;
pub mod beneath;
pub mod mapped;
pub mod module_archive;
pub mod removal;
pub mod sealed;

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::Path,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use outpost_base::stop::Stop;
use tokio::time::sleep;

/// Time between two attempts to get a lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Replaces `path` by a file with `content` that only the owner can read. It appears complete or not at all, and
/// survives a crash. The directory must exist.
///
/// # Errors
/// The system's error; `path` is unchanged then.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, 0o600)
}

/// Replaces `path` by a file that everybody can read, otherwise as [`write_private`] does.
///
/// # Errors
/// The system's error; `path` is unchanged then.
pub fn write_public(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, 0o644)
}

/// Returns the directory of a file; that of a bare name is the current one.
pub fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = directory_of(path);
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// Writes a file as [`write_private`] does, unless it exists. Returns whether it did.
///
/// # Errors
/// The system's error.
pub fn write_private_new(path: &Path, content: &[u8]) -> io::Result<bool> {
    let dir = directory_of(path);
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(dir)?.sync_all().map(|()| true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Creates a directory, with its parents, that only the owner can enter. An existing one is left unchanged.
///
/// # Errors
/// The system's error.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Acquires the lock on `path`, which is created if it is missing. `None` if another process has it.
    ///
    /// Dropping it unlocks explicitly: closing the file would not be enough while a child between fork and exec holds
    /// a copy of the descriptor.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Returns whether the lock is on the file that `path` names now, because the locked one may have been removed.
    pub fn is_on(&self, path: &Path) -> bool {
        let ours = self.0.metadata().map(|file| (file.dev(), file.ino()));
        let named = fs::metadata(path).map(|file| (file.dev(), file.ino()));
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    /// Waits for the lock on `path`; `None` if `stop` was cancelled before.
    ///
    /// # Errors
    /// The system's error.
    pub async fn acquire(path: &Path, stop: &Stop) -> io::Result<Option<Self>> {
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(Some(lock));
            }
            tokio::select! {
                () = sleep(LOCK_POLL) => {} // The system does not report that a lock is released.
                () = stop.cancelled() => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");

        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        for (path, directory) in [("a/b", "a"), ("b", "."), ("/b", "/"), ("**", ".")] {
            assert_eq!(directory_of(Path::new(path)), Path::new(directory));
        }
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");

        let first = Lock::try_acquire(&path).unwrap();
        assert!(first.is_some() && Lock::try_acquire(&path).unwrap().is_none());

        drop(first);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }
}
