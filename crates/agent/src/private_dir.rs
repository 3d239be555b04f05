//! Directories and files of an agent whose names others can guess, such as those below `/tmp`.
//!
//! Programs of scripts run with the agent's token, so their directory must belong to this user alone: another user of
//! the machine may have created it first, as a directory, a link or a pipe.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, unistd::Uid};
use tracing::warn;

/// Returns the directory `name` in `base`: mode 0700, and of this user. It is created if it is missing. If another
/// user created it, or may write to it, it is `name-UID`, and if that was taken as well, one whose name nobody can
/// guess.
///
/// # Errors
/// An I/O error.
pub(super) fn open(base: &Path, name: &str) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(base)?;
    let wanted = base.join(name);
    let Err(error) = own(&wanted) else {
        return Ok(wanted);
    };
    let second = base.join(format!("{name}-{}", Uid::effective()));
    let instead = match own(&second) {
        Ok(()) => second,
        Err(_) => tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base)?
            .keep(),
    };
    warn!(
        directory = %wanted.display(),
        %error,
        instead = %instead.display(),
        "another user can write to this directory; using a different one"
    );
    Ok(instead)
}

/// Creates `directory`, mode 0700, if it is missing, and checks that only this user can write to it.
///
/// # Errors
/// An I/O error, or that it is another user's.
pub(super) fn own(directory: &Path) -> io::Result<()> {
    owned_by(directory, Uid::effective())
}

fn owned_by(directory: &Path, user: Uid) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(directory)?;
    let found = opened.metadata()?;
    check_owner(&found, user)?;
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write to it"));
    }
    if found.mode() & 0o077 != 0 {
        opened.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Opens the file `name` in `base` for appending: a regular file of this user, mode 0600 if it is new. Whatever
/// another user may have put there instead is refused, never followed, and never waited for.
///
/// # Errors
/// An I/O error.
pub(super) fn append(base: &Path, name: &str) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(flags.bits())
        .open(base.join(name))?;
    let found = file.metadata()?;
    check_owner(&found, Uid::effective())?;
    match found.is_file() && found.nlink() == 1 {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file with one name")),
    }
}

fn check_owner(found: &fs::Metadata, user: Uid) -> io::Result<()> {
    match found.uid() {
        uid if uid == user.as_raw() => Ok(()),
        uid => Err(io::Error::other(format!("it belongs to user {uid}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_directory_is_made_once_and_closed_to_others() {
        let base = TempDir::new().unwrap();
        let made = open(base.path(), "data").unwrap();
        assert_eq!(
            (made.clone(), mode(&made)),
            (base.path().join("data"), 0o700)
        );

        fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(open(base.path(), "data").unwrap(), made);
        assert_eq!(mode(&made), 0o700);
    }

    #[test]
    fn what_others_can_write_to_is_not_used() {
        let base = TempDir::new().unwrap();
        let elsewhere = TempDir::new().unwrap();
        let second = base.path().join(format!("data-{}", Uid::effective()));
        let planted = base.path().join("data");

        fs::create_dir(&planted).unwrap();
        fs::set_permissions(&planted, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(open(base.path(), "data").unwrap(), second);

        fs::remove_dir(&planted).unwrap();
        symlink(elsewhere.path(), &planted).unwrap();
        assert_eq!(open(base.path(), "data").unwrap(), second);

        fs::remove_dir(&second).unwrap();
        mkfifo(&second, Mode::S_IRWXU).unwrap();
        let third = open(base.path(), "data").unwrap();
        assert!(third.starts_with(base.path()) && third != planted && third != second);
        assert_eq!(mode(&third), 0o700);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_of_another_user_is_not_used() {
        let base = TempDir::new().unwrap();
        let other = Uid::from_raw(Uid::effective().as_raw() + 1);

        let refused = owned_by(base.path(), other).unwrap_err();

        let owner = format!("it belongs to user {}", Uid::effective());
        assert_eq!(refused.to_string(), owner);
        own(base.path()).unwrap();
    }

    #[test]
    fn a_log_is_a_file_of_our_own_or_refused_at_once() {
        let base = TempDir::new().unwrap();
        for text in ["one\n", "two\n"] {
            let mut file = append(base.path(), "log").unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        let log = base.path().join("log");
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
        assert_eq!(mode(&log), 0o600);

        symlink(&log, base.path().join("link")).unwrap();
        mkfifo(&base.path().join("pipe"), Mode::S_IRWXU).unwrap();
        fs::hard_link(&log, base.path().join("twin")).unwrap();
        for planted in ["link", "pipe", "twin"] {
            assert!(append(base.path(), planted).is_err(), "{planted}");
        }
    }
}
