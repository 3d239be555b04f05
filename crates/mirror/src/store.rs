//! The store: files by their digest, unpacked packages, and generations that list what belongs together.
//!
//! Nothing is ever changed in place. A file gets its name when it is complete and its digest is right, so a crash
//! leaves only a file in `incoming/`; that is what makes it safe to run programs from the store.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{Context, SHA256};
use outpost_base::stop::Stop;
use outpost_files as files;
use tempfile::NamedTempFile;

use super::Digest;

mod generations;
mod in_use;
mod inventories;
mod partial;
mod trees;

pub use self::{generations::Lease, in_use::InUse, inventories::NamedSignature, partial::Partial};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Directory of files that are about to be removed, in subdirectories named by the second of their collection.
pub(super) const TRASH: &str = "trash";

/// Age at which an unchanged temporary file counts as abandoned, whatever the grace period.
pub(super) const LEFTOVER: Duration = Duration::from_secs(60 * 60);

/// Directory of the checksums of unpacked packages, by the digest of their archive.
pub(super) const RECORDS: &str = "records";

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// Reason why an operation on a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system reported an error.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The disk is full, or the user's quota of it.
    #[error(
        "no space left for the mirror (free some space, or shrink the mirror with `outpost mirror prune` and \
         `outpost mirror gc --grace 0s`): failed to {what} `{}`",
        path.display()
    )]
    Full {
        /// The operation that failed.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// A file does not match its digest.
    #[error(
        "`{name}` has the digest {found}, not {expected}: it is damaged, or it is not the requested file"
    )]
    Mismatch {
        /// Name of the expected file.
        name: String,
        /// Digest of the expected file.
        expected: Digest,
        /// Digest of the actual file.
        found: Digest,
    },
    /// A file is longer than announced.
    #[error("`{name}` is longer than the {limit} bytes that were announced")]
    TooLong {
        /// Name of the expected file.
        name: String,
        /// Number of bytes that were announced.
        limit: u64,
    },
    /// A generation needs files that are missing.
    #[error("{} files are missing, such as {first}: {hint}", count)]
    Incomplete {
        /// Number of missing files.
        count: usize,
        /// Digest of one of them.
        first: Digest,
        /// Suggestion for the next step.
        hint: &'static str,
    },
    /// The store is still empty.
    #[error("the mirror in `{}` is empty: run `outpost mirror sync` or `outpost mirror import`", dir.display())]
    Empty {
        /// Directory of the store.
        dir: PathBuf,
    },
    /// An index cannot be parsed.
    #[error("`{}` is not a mirror index", path.display())]
    Index {
        /// Path of the index.
        path: PathBuf,
        /// Error from the parser.
        source: serde_json::Error,
    },
    /// An index was changed after it was written.
    #[error("generation {number} of the mirror does not match its inventory: `{}` was modified", path.display())]
    Altered {
        /// Number of the generation.
        number: u64,
        /// Path of its index.
        path: PathBuf,
    },
    /// A package cannot be unpacked.
    #[error("the package `{name}` is refused: {why}")]
    Package {
        /// Name of the package.
        name: String,
        /// Problem with the package.
        why: String,
    },
    /// A file of pins cannot be read, so nothing is trusted.
    #[error("`{}` cannot be read: {why}; restore it from a backup, or remove it to trust on first use again", path.display())]
    Pins {
        /// Path of the file.
        path: PathBuf,
        /// Problem with the file.
        why: String,
    },
    /// Another process changed the store in the meantime.
    #[error("another process changed the mirror in `{}` in the meantime; run the command again", dir.display())]
    Raced {
        /// Directory of the store.
        dir: PathBuf,
    },
    /// The wait for the lock was cancelled.
    #[error("stopped before it was complete")]
    Stopped,
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { what, path, source }
            }
            _ => Self::Io { what, path, source },
        }
    }

    /// Returns a suggestion for the operator.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Altered { .. } => Some(
                "`outpost mirror verify` names what was changed; `outpost mirror rollback` makes an earlier generation the current one, `outpost mirror verify --repair` removes this one",
            ),
            _ => None,
        }
    }
}

impl Store {
    /// Opens the store in `dir` for reading.
    ///
    /// # Errors
    /// [`StoreError::Empty`] if there is none.
    pub fn existing(dir: &Path) -> Result<Self, StoreError> {
        let empty = || StoreError::Empty {
            dir: dir.to_owned(),
        };
        let found = fs::canonicalize(dir)
            .ok()
            .filter(|dir| dir.join("generations").is_dir());
        found.map(|dir| Self { dir }).ok_or_else(empty)
    }

    /// Opens the store in `dir` for writing, and creates it if it is missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        for part in ["blobs/sha256", "trees", "generations", "incoming"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(StoreError::io("make", &path))?;
        }
        let dir = fs::canonicalize(dir).map_err(StoreError::io("find", dir))?;
        Ok(Self { dir })
    }

    /// Returns the store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of a file, whether it exists or not.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join("blobs/sha256").join(&name[..2]).join(name)
    }

    /// Returns whether a file exists.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's error, such as that the file does not exist.
    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(StoreError::io("open", &path))
    }

    /// Reads a small file completely.
    ///
    /// # Errors
    /// If it is missing, damaged, or longer than `limit` bytes.
    pub fn read(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        let mut file = self.open_blob(digest)?.take(limit + 1);
        file.read_to_end(&mut content)
            .map_err(StoreError::io("read", &self.path(digest)))?;
        let name = digest.to_string();
        match Digest::of(&content) {
            _ if content.len() as u64 > limit => Err(StoreError::TooLong { name, limit }),
            found if found != digest => Err(StoreError::Mismatch {
                name,
                expected: digest,
                found,
            }),
            _ => Ok(content),
        }
    }

    /// Begins a new file, whose digest may be unknown until its end.
    ///
    /// # Errors
    /// The system's error.
    pub fn incoming(&self) -> Result<Incoming, StoreError> {
        let dir = self.dir.join("incoming");
        let file = NamedTempFile::new_in(&dir).map_err(StoreError::io("write in", &dir))?;
        Ok(Incoming {
            store: self.clone(),
            file,
            digest: Context::new(&SHA256),
            size: 0,
        })
    }

    /// Stores bytes from memory.
    ///
    /// # Errors
    /// The system's error.
    pub fn put(&self, content: &[u8]) -> Result<Digest, StoreError> {
        let mut incoming = self.incoming()?;
        incoming.write(content)?;
        incoming.commit().map(|(digest, _)| digest)
    }

    /// Stores the bytes of a reader, and returns their digest and length. `name` describes the file in errors; more
    /// than `limit` bytes are refused.
    ///
    /// # Errors
    /// Those of the reader and of the system, and [`StoreError::TooLong`].
    pub(crate) fn put_from(
        &self,
        name: &str,
        mut reader: impl io::Read,
        limit: u64,
    ) -> Result<(Digest, u64), StoreError> {
        let mut incoming = self.incoming()?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = reader
                .read(&mut piece)
                .map_err(StoreError::io("read", Path::new(name)))?;
            if count == 0 {
                return incoming.commit();
            }
            incoming.write(&piece[..count])?;
            if incoming.size > limit {
                let name = name.to_owned();
                return Err(StoreError::TooLong { name, limit });
            }
        }
    }

    /// Reads a file again, compares it with its digest, and returns its length.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is damaged, [`StoreError::Io`] if it is missing.
    pub fn verify(&self, digest: Digest) -> Result<u64, StoreError> {
        self.verify_open(&self.open_blob(digest)?, digest)
    }

    /// Does the same with an open file, from its beginning.
    ///
    /// # Errors
    /// Those of [`verify`](Self::verify).
    pub(crate) fn verify_open(&self, mut file: &File, digest: Digest) -> Result<u64, StoreError> {
        let path = self.path(digest);
        let (mut context, mut size) = (Context::new(&SHA256), 0);
        let mut piece = vec![0; PIECE_BYTES];
        file.rewind().map_err(StoreError::io("read", &path))?;
        loop {
            let count = file
                .read(&mut piece)
                .map_err(StoreError::io("read", &path))?;
            if count == 0 {
                break;
            }
            context.update(&piece[..count]);
            size += count as u64;
        }
        match Digest::finish(context) {
            found if found == digest => Ok(size),
            found => Err(StoreError::Mismatch {
                name: path.display().to_string(),
                expected: digest,
                found,
            }),
        }
    }

    /// Returns the digests of all files.
    ///
    /// # Errors
    /// The system's error.
    pub fn blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let root = self.dir.join("blobs/sha256");
        let mut found = Vec::new();
        for dir in fs::read_dir(&root).map_err(StoreError::io("list", &root))? {
            let dir = dir.map_err(StoreError::io("list", &root))?.path();
            for file in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
                let name = file.map_err(StoreError::io("list", &dir))?.file_name();
                found.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Moves a file, an unpacked package or a file of a generation to the trash.
    ///
    /// # Errors
    /// The system's error.
    pub fn put_aside(&self, path: &Path, now: SystemTime) -> Result<(), StoreError> {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let above = |name: &str| path.starts_with(self.dir.join(name));
        let kind = match (above("generations"), path.is_dir()) {
            (true, _) => "generations",
            (_, true) => "trees",
            (_, false) => "blobs",
        };
        let dir = self.dir.join(TRASH).join(second.to_string()).join(kind);
        fs::create_dir_all(&dir).map_err(StoreError::io("make", &dir))?;
        let name = path.file_name().unwrap_or_default();
        fs::rename(path, dir.join(name)).map_err(StoreError::io("put aside", path))
    }

    /// Acquires the exclusive right to change the store, held until the lock is dropped. Readers need none.
    ///
    /// # Errors
    /// The system's error, and [`StoreError::Stopped`].
    pub async fn lock(&self, stop: &Stop) -> Result<files::Lock, StoreError> {
        let path = self.dir.join("lock");
        let lock = files::Lock::acquire(&path, stop).await;
        lock.map_err(StoreError::io("lock", &path))?
            .ok_or(StoreError::Stopped)
    }
}

/// A file that is being stored. Dropping it early leaves nothing.
pub struct Incoming {
    store: Store,
    file: NamedTempFile,
    digest: Context,
    size: u64,
}

impl Incoming {
    /// Appends bytes to the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all(bytes);
        written.map_err(StoreError::io("write", self.file.path()))?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Returns the number of bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the temporary path, for those who must read the bytes before the end.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives the file its name, and returns its digest and length. From then on it survives a crash.
    ///
    /// # Errors
    /// The system's error.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let digest = Digest::finish(self.digest);
        let path = self.store.path(digest);
        if path.is_file() {
            return Ok((digest, self.size));
        }
        let file = self.file.as_file();
        // The content must be on the disk before its name is, or a crash could leave a name for a damaged file.
        let mode = fs::Permissions::from_mode(0o444);
        let ready = file.set_permissions(mode).and_then(|()| file.sync_all());
        ready.map_err(StoreError::io("write", self.file.path()))?;
        let dir = path.parent().unwrap_or(&self.store.dir);
        fs::create_dir_all(dir).map_err(StoreError::io("make", dir))?;
        let named = self.file.persist(&path).map_err(|error| error.error);
        named.map_err(StoreError::io("write", &path))?;
        sync_dir(dir)?;
        Ok((digest, self.size))
    }

    /// Does the same if the digest is the expected one, and returns the length.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`]; the store is unchanged then.
    pub(crate) fn commit_as(self, expected: Digest, name: &str) -> Result<u64, StoreError> {
        match Digest::finish(self.digest.clone()) {
            found if found == expected => self.commit().map(|(_, size)| size),
            found => Err(StoreError::Mismatch {
                name: name.to_owned(),
                expected,
                found,
            }),
        }
    }
}

/// Makes the names in a directory survive a crash.
fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io("write", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn left_over(store: &Store) -> usize {
        fs::read_dir(store.dir().join("incoming")).unwrap().count()
    }

    #[test]
    fn a_file_is_there_under_its_digest_and_nobody_can_change_it() {
        let (_dir, store) = store();

        let digest = store.put(b"a package").unwrap();

        assert_eq!(digest, Digest::of(b"a package"));
        assert_eq!(store.verify(digest).unwrap(), 9);
        assert_eq!(store.blobs().unwrap(), [digest]);
        let mode = fs::metadata(store.path(digest))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o444);
        assert_eq!(left_over(&store), 0);
    }

    #[test]
    fn what_is_not_as_expected_leaves_nothing() {
        let (_dir, store) = store();
        let mut incoming = store.incoming().unwrap();
        incoming.write(b"not the package").unwrap();

        let error = incoming
            .commit_as(Digest::of(b"a package"), "demo.zip")
            .unwrap_err();

        assert!(error.to_string().contains("`demo.zip`"), "{error}");
        let endless = store.put_from("endless", io::repeat(7), 1000).unwrap_err();
        assert!(matches!(endless, StoreError::TooLong { limit: 1000, .. }));
        assert!(store.blobs().unwrap().is_empty());
        assert_eq!(left_over(&store), 0);
    }

    #[test]
    fn a_damaged_file_is_found() {
        let (_dir, store) = store();
        let digest = store.put(b"a package").unwrap();
        let path = store.path(digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"a packagf").unwrap();

        let error = store.verify(digest).unwrap_err();

        assert!(matches!(error, StoreError::Mismatch { expected, .. } if expected == digest));
    }
}
