//! Creation and removal beneath a directory: never through a link, and never over an existing file.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use outpost_provision::LinkSink;
use rustix::{
    fs::{
        AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, mkdirat, openat, readlinkat,
        renameat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use uuid::Uuid;

use super::{Dir, Kind, NO_LINK, Refusal, local};
use crate::removal;

/// Flags for creating a file that must not exist.
const NEW: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Dir {
    /// Replaces a file by one with `content` that only the owner can read. It appears complete or not at all, and
    /// survives a crash. A link with its name is replaced, not followed. The parent directory must exist.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error; the old file stays then.
    pub fn write_private(&self, name: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
        let (parent, last) = self.place(name.as_ref())?;
        let fresh = format!(".{}.new", Uuid::new_v4());
        let file = openat(&parent, &fresh, NEW, Mode::RUSR | Mode::WUSR)?;
        let written = fill(File::from(file), content)
            .and_then(|()| Ok(renameat(&parent, &fresh, &parent, &last)?));
        if let Err(error) = written {
            // The first error is the one to report.
            let _ = unlinkat(&parent, &fresh, AtFlags::empty());
            return Err(error);
        }
        Ok(rustix::fs::fsync(openat(
            &parent,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)?)
    }

    /// Creates a file for writing, in place of an existing one.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error, for example if a directory has the name.
    pub fn create(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let (parent, last) = self.place(name.as_ref())?;
        // Replaced instead of truncated: an existing file may have other names, or be open in another process.
        match unlinkat(&parent, &last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let file = openat(&parent, &last, NEW, Mode::from_raw_mode(mode))?;
        Ok(file.into())
    }

    /// Creates a new directory.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error; if the name exists, [`io::ErrorKind::AlreadyExists`].
    pub fn create_dir(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let (parent, last) = self.place(name.as_ref())?;
        Ok(mkdirat(&parent, &last, Mode::from_raw_mode(mode))?)
    }

    /// Creates a directory and its parents for the owner alone, as far as they are missing.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn create_dirs(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let mut made = PathBuf::new();
        for part in &local(name.as_ref())? {
            made.push(part);
            match self.create_dir(&made, 0o700) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Creates a symbolic link, with its parent directories.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn symlink(&self, name: impl AsRef<Path>, target: &Path) -> io::Result<()> {
        let name = local(name.as_ref())?;
        if let Some(parent) = name.parent() {
            self.create_dirs(parent)?;
        }
        let (parent, last) = self.place(&name)?;
        Ok(symlinkat(target, &parent, &last)?)
    }

    /// Returns the target of a symbolic link. `None` if there is no link with that name.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn read_link(&self, name: impl AsRef<Path>) -> io::Result<Option<PathBuf>> {
        use std::os::unix::ffi::OsStringExt as _;
        if self.find(&name)?.map(|found| found.kind) != Some(Kind::Link) {
            return Ok(None);
        }
        let (parent, last) = self.place(name.as_ref())?;
        let target = readlinkat(&parent, &last, Vec::new())?.into_bytes();
        Ok(Some(std::ffi::OsString::from_vec(target).into()))
    }

    /// Sets the modification time of a file or directory to now; for a link, that of the link itself.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn touch(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let (parent, last) = self.place(name.as_ref())?;
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        Ok(utimensat(&parent, &last, &times, NO_LINK)?)
    }

    /// Removes a directory with all its contents, or a file, if it exists.
    ///
    /// # Errors
    /// [`Refusal`], or the system's error.
    pub fn remove_dir(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let (parent, last) = match self.place(name.as_ref()) {
            Err(error) if super::is_absent(&error) => return Ok(()),
            place => place?,
        };
        removal::remove_now(parent.as_fd(), &last)
    }

    /// Opens the parent directory of a name, and returns it with the last part.
    fn place(&self, name: &Path) -> io::Result<(OwnedFd, std::ffi::OsString)> {
        let name = local(name)?;
        let last = name.file_name().map(OsStr::to_owned);
        let last = last.ok_or(Refusal::Outside)?;
        Ok((self.parent(&name)?, last))
    }
}

fn fill(mut file: File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

/// Makes links to a mirror's packages.
impl LinkSink for Dir {
    fn link(&self, name: &Path, target: &Path) -> io::Result<()> {
        self.symlink(name, target)
    }
}
