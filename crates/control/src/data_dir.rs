//! Data directory of a server: access to it, and its files.
//!
//! - `lock`: held while a server runs, so that no second one starts on the same data.
//! - `outpost.db` and SQLite's files beside it.
//! - `key`: 32 bytes for secrets at rest, unless somebody else manages the key.
//! - `admin.token`: the token of the first user, for commands on this machine.
//! - `backups/`: copies from before a change of format, and those that `outpost server backup` makes.
//!
//! Only the server's user can read any of it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use outpost_base::secret::Secret;
use outpost_files::{self as files, Lock, write_private};
use zeroize::Zeroizing;

use super::{config::StateKey, crypt::Key};

/// Name of the database in the directory.
pub(crate) const DATABASE: &str = "outpost.db";
/// Name of the key in the directory.
pub const KEY: &str = "key";
/// Name of the first user's token in the directory.
pub const ADMIN_TOKEN: &str = "admin.token";
const LOCK: &str = "lock";
const BACKUPS: &str = "backups";
const PROBE: &str = "probe";
/// Bytes of the probe: about as much as the database grows by at once.
const PROBE_BYTES: usize = 64 << 10;

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Lock,
}

/// Reasons why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file in it that cannot be read or written.
    #[error("cannot {what} `{}`", .path.display())]
    Access {
        /// Operation that failed, such as `write`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A directory that another server is using.
    #[error("data directory `{}` is in use by another server", .0.display())]
    InUse(PathBuf),
    /// A key of the wrong length.
    #[error("state key `{}` has {length} bytes; it needs 32, or 64 hexadecimal digits", .path.display())]
    KeyLength {
        /// Path of the key file.
        path: PathBuf,
        /// Length of the file in bytes.
        length: usize,
    },
    /// Files that a server left, without their database.
    #[error(
        "database `{}` is {state}, although `{}` beside it shows that there was one",
        .database.display(),
        .beside.display()
    )]
    DatabaseMissing {
        /// Path of the database.
        database: PathBuf,
        /// Either `missing` or `empty`.
        state: &'static str,
        /// Path of a file that a server left.
        beside: PathBuf,
        /// Newest copy in the backup directory; `None` without one.
        newest: Option<PathBuf>,
    },
    /// A database whose key is missing.
    #[error("state key `{}` is missing, and the database beside it cannot be read without it", .0.display())]
    KeyMissing(PathBuf),
}

impl DataDirError {
    /// Returns what the operator can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Access { source, path, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some(format!(
                    "free some space on the disk of `{}`",
                    path.display()
                ))
            }
            Self::Access { path, .. } => Some(format!(
                "make `{}` writable for this user, or choose another data directory",
                path.parent().unwrap_or(path).display()
            )),
            Self::InUse(_) => {
                Some("stop the other server, or choose another data directory".to_owned())
            }
            Self::DatabaseMissing {
                database, newest, ..
            } => {
                let directory = database.parent().unwrap_or(database).display();
                let back = match newest {
                    Some(newest) => format!("put back the newest copy, `{}`", newest.display()),
                    None => "put it back from a backup".to_owned(),
                };
                Some(format!(
                    "{back} (a backup with `outpost server restore`, into an empty directory); to start over, move `{directory}` away"
                ))
            }
            Self::KeyLength { .. } | Self::KeyMissing(_) => Some(
                "put the key back from a backup; `outpost server restore` brings both".to_owned(),
            ),
        }
    }
}

fn access<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + 'a {
    move |source| DataDirError::Access {
        what,
        path: path.to_owned(),
        source,
    }
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// [`DataDirError`] names the file.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        create_dir(path)?;
        create_dir(&path.join(BACKUPS))?;
        let lock_path = path.join(LOCK);
        match Lock::try_acquire(&lock_path).map_err(access("lock", &lock_path))? {
            Some(lock) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            None => Err(DataDirError::InUse(path.to_owned())),
        }
    }

    /// Path of the data directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the database file.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Directory that receives copies of the database.
    pub(crate) fn backups(&self) -> PathBuf {
        self.path.join(BACKUPS)
    }

    /// Returns whether there is a database that is not empty.
    pub(crate) fn has_database(&self) -> bool {
        fs::metadata(self.database()).is_ok_and(|file| file.len() > 0)
    }

    /// Checks, where there is no database, that there never was one.
    ///
    /// # Errors
    /// [`DataDirError::DatabaseMissing`] names what a server left, and the newest copy.
    pub(crate) fn check_unused(&self) -> Result<(), DataDirError> {
        let backups = self.backups();
        let copies = fs::read_dir(&backups).map_err(access("list", &backups))?;
        let copies = copies.filter_map(|entry| {
            let path = entry.ok()?.path();
            let changed = path.metadata().and_then(|file| file.modified()).ok()?;
            Some((changed, path))
        });
        let newest = copies.max().map(|(_, path)| path);
        let log = format!("{DATABASE}-wal");
        let left = [KEY, ADMIN_TOKEN, &log].map(|name| self.path.join(name));
        let left = left.into_iter().find(|path| path.exists());
        match left.or_else(|| newest.clone()) {
            None => Ok(()),
            Some(beside) => Err(DataDirError::DatabaseMissing {
                state: match self.database().exists() {
                    true => "empty",
                    false => "missing",
                },
                database: self.database(),
                beside,
                newest,
            }),
        }
    }

    /// Returns whether the key would have to be created.
    pub(crate) fn lacks_key(&self, source: &StateKey) -> bool {
        *source == StateKey::Own && !self.path.join(KEY).exists()
    }

    /// Reads the key, or creates one if the database `is_new`.
    ///
    /// # Errors
    /// [`DataDirError`] names the file.
    pub fn key(&self, source: &StateKey, is_new: bool) -> Result<Key, DataDirError> {
        let path = match source {
            StateKey::Given(path) => return read_key(path),
            StateKey::Own => self.path.join(KEY),
        };
        if path.exists() {
            return read_key(&path);
        }
        if !is_new {
            return Err(DataDirError::KeyMissing(path));
        }
        let key = Key::generate();
        write_new(&path, key.expose())?;
        Ok(key)
    }

    /// Checks that a file can be written beside the database, which may have free space in its own files when the
    /// disk has none.
    ///
    /// # Errors
    /// [`DataDirError`] names the file.
    pub fn probe(&self) -> Result<(), DataDirError> {
        let path = self.path.join(PROBE);
        let written = write_private(&path, &[0x5a; PROBE_BYTES]);
        fs::remove_file(&path).ok();
        written.map_err(access("write", &path))
    }

    /// Returns the first user's token, if its file exists.
    ///
    /// # Errors
    /// [`DataDirError`] names the file.
    pub fn admin_token(&self) -> Result<Option<Secret>, DataDirError> {
        let path = self.path.join(ADMIN_TOKEN);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Secret::new(text.trim()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(access("read", &path)(error)),
        }
    }

    /// Replaces that token.
    ///
    /// # Errors
    /// [`DataDirError`] names the file.
    pub(crate) fn set_admin_token(&self, token: &Secret) -> Result<(), DataDirError> {
        let path = self.path.join(ADMIN_TOKEN);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(access("replace", &path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let text = Zeroizing::new(format!("{}\n", token.expose()));
        write_new(&path, text.as_bytes())
    }
}

fn create_dir(path: &Path) -> Result<(), DataDirError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(access("make", path))
}

/// Reads a key: 32 bytes, or 64 hexadecimal digits and perhaps a line break.
pub(super) fn read_key(path: &Path) -> Result<Key, DataDirError> {
    let mut content = Zeroizing::new(Vec::with_capacity(256));
    File::open(path)
        .and_then(|file| file.take(256).read_to_end(&mut content))
        .map_err(access("read", path))?;
    Key::parse(&content).ok_or(DataDirError::KeyLength {
        path: path.to_owned(),
        length: content.len(),
    })
}

/// Writes a new file that only we can read, and makes sure that it is on the disk.
///
/// A failure leaves no file behind: half a key would be worse than none.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<(), DataDirError> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            let written = file.write_all(content).and_then(|()| file.sync_all());
            if written.is_err() {
                fs::remove_file(path).ok();
            }
            written
        });
    written.map_err(access("write", path))?;
    let parent = files::directory_of(path);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(access("sync", parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_directory_and_its_secrets_are_for_one_user_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");

        let dir = DataDir::open(&path).unwrap();
        dir.key(&StateKey::Own, true).unwrap();
        dir.set_admin_token(&Secret::new("token")).unwrap();

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(KEY)), 0o600);
        assert_eq!(mode(&path.join(ADMIN_TOKEN)), 0o600);
        assert_eq!(mode(&dir.backups()), 0o700);
    }

    #[test]
    fn a_second_server_is_told_that_the_directory_is_in_use() {
        let temp = tempfile::tempdir().unwrap();
        let first = DataDir::open(temp.path()).unwrap();

        let second = DataDir::open(temp.path());
        assert!(matches!(second, Err(DataDirError::InUse(path)) if path == temp.path()));

        drop(first);
        assert!(DataDir::open(temp.path()).is_ok());
    }

    #[test]
    fn the_key_stays_the_same_and_is_never_made_anew_beside_a_database() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let key = dir.key(&StateKey::Own, true).unwrap();
        assert_eq!(dir.key(&StateKey::Own, false).unwrap().id(), key.id());

        fs::remove_file(temp.path().join(KEY)).unwrap();
        assert!(dir.lacks_key(&StateKey::Own));
        let missing = dir.key(&StateKey::Own, false);
        assert!(matches!(missing, Err(DataDirError::KeyMissing(_))));
    }

    #[test]
    fn a_database_that_is_missing_beside_what_a_server_left_is_not_made_anew() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        // The database of a server that ended before it wrote anything.
        fs::write(dir.database(), b"").unwrap();
        dir.check_unused().unwrap();

        for left in [KEY, ADMIN_TOKEN, "outpost.db-wal"] {
            let left = temp.path().join(left);
            fs::write(&left, b"something").unwrap();
            let refused = dir.check_unused().unwrap_err();
            assert!(refused.to_string().contains("is empty"), "{refused}");
            assert!(refused.hint().unwrap().contains("from a backup"));
            fs::remove_file(left).unwrap();
        }
        fs::remove_file(dir.database()).unwrap();
        fs::write(dir.backups().join("outpost-1.tar"), b"backup").unwrap();
        let refused = dir.check_unused().unwrap_err();
        assert!(refused.to_string().contains("is missing"), "{refused}");
        assert!(refused.hint().unwrap().contains("outpost-1.tar"));
    }

    #[test]
    fn a_directory_that_can_be_written_is_left_as_it_was() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();

        dir.probe().unwrap();
        assert!(!temp.path().join(PROBE).exists());
    }

    #[test]
    fn a_given_key_may_be_bytes_or_digits() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("credential");
        fs::write(&path, [7; 32]).unwrap();
        let bytes = read_key(&path).unwrap();

        fs::write(&path, "07".repeat(32) + "\n").unwrap();
        assert_eq!(read_key(&path).unwrap().id(), bytes.id());

        fs::write(&path, "short").unwrap();
        let error = read_key(&path).unwrap_err();
        assert!(matches!(error, DataDirError::KeyLength { length: 5, .. }));
    }
}
