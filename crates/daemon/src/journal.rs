//! Journal of everything that must outlive a daemon: the state of each job whose apply has begun, until the server
//! has acknowledged it.
//!
//! ```text
//! STATE_DIR/journal/format            the number of this layout
//! STATE_DIR/journal/key               32 bytes, unless somebody else manages the key
//! STATE_DIR/journal/NAME-HASH/lock    held while a daemon of this name lives
//! STATE_DIR/journal/NAME-HASH/JOB     an entry, sealed to its job
//! ```
//!
//! Ownership of a job depends on the daemon's name, so each name at each server has a directory of its own, and a
//! daemon that finds its lock free may act under that name. Everything is readable for the daemon's user alone, and on
//! the disk before a call returns.

mod entry;
mod record;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outpost_base::{job::JobId, stop::Stop};
use outpost_files::{
    self as files, Lock,
    sealed::{Key, Sealed, Vault},
};
use outpost_provision::Identity;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::entry::{Begun, Entry};
pub(super) use self::record::Record;
use super::contact::Contact;

/// Version of the layout that this program writes and reads.
const FORMAT: &str = "1\n";
const FORMAT_FILE: &str = "format";
const KEY_FILE: &str = "key";
const ID_FILE: &str = "id";
const LOCK_FILE: &str = "lock";

/// Longest wait for a sibling that delivers what we left, after which our supervisor may try again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Size of an entry in bytes: the largest state that is accepted, and everything around it, such as the resources
/// that the job created.
const MAX_ENTRY_BYTES: u64 = (64 << 20) + (16 << 20);

/// Reasons why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file or directory that cannot be read or written.
    #[error("cannot {what} `{}`", .path.display())]
    Access {
        /// Operation that failed, such as `write`.
        what: &'static str,
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A journal that a newer version of this program wrote.
    #[error("journal `{}` has format {found:?}, this version knows format 1", .path.display())]
    Format {
        /// Path of the journal's directory.
        path: PathBuf,
        /// Content of the `format` file.
        found: String,
    },
    /// A key of the wrong length, by its path.
    #[error("key of the journal `{}` needs 32 bytes, or 64 hexadecimal digits", .0.display())]
    Key(PathBuf),
    /// A journal that another running daemon of the same name uses.
    #[error("daemon `{name}` is already running with the state directory of `{}`", .path.display())]
    InUse {
        /// Name of the daemon.
        name: String,
        /// Directory of its journal.
        path: PathBuf,
    },
    /// A file that is not a valid entry.
    #[error("`{}` is not a journal entry: {reason}", .path.display())]
    Entry {
        /// Path of the file.
        path: PathBuf,
        /// Reason why it is not valid.
        reason: String,
    },
}

impl JournalError {
    /// Returns what the operator can try next.
    pub fn hint(&self) -> String {
        match self {
            Self::Access { source, path, .. } if source.kind() == io::ErrorKind::StorageFull => {
                format!("free some space on the disk of `{}`", path.display())
            }
            Self::Access { .. } => {
                "make the state directory writable for this user, or choose another one".to_owned()
            }
            Self::Format { .. } => "use the newer version, or another state directory".to_owned(),
            Self::Key(_) | Self::Entry { .. } => {
                "restore the key that the entries were written with".to_owned()
            }
            Self::InUse { .. } => "give each daemon a name of its own".to_owned(),
        }
    }
}

fn access<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Access {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Journals of all daemons that share a state directory.
#[derive(Clone, Debug)]
pub struct Journals {
    root: PathBuf,
    vault: Arc<Vault>,
    id: Arc<str>,
}

impl Journals {
    /// Opens everything below `state_dir`, and creates it if it is missing. `key` is a file that somebody else
    /// manages.
    ///
    /// # Errors
    /// [`JournalError`] names the file.
    pub fn open(state_dir: &Path, key: Option<&Path>) -> Result<Self, JournalError> {
        let root = state_dir.join("journal");
        files::create_private_dir(&root).map_err(access("make", &root))?;
        let format = root.join(FORMAT_FILE);
        files::write_private_new(&format, FORMAT.as_bytes()).map_err(access("write", &format))?;
        let found = fs::read_to_string(&format).map_err(access("read", &format))?;
        if found != FORMAT {
            return Err(JournalError::Format { path: root, found });
        }
        let own = root.join(KEY_FILE);
        if key.is_none() && !own.exists() {
            // Of two daemons that start at the same time one creates the key first, and both read it.
            let made = files::write_private_new(&own, Key::generate().expose());
            made.map_err(access("write", &own))?;
        }
        let given = key.unwrap_or(&own);
        let content = Zeroizing::new(fs::read(given).map_err(access("read", given))?);
        let key = Key::parse(&content).ok_or_else(|| JournalError::Key(given.to_owned()))?;
        Ok(Self {
            id: id_of(&root)?.into(),
            root,
            vault: Arc::new(Vault::new(&key, &[])),
        })
    }

    /// Id that distinguishes this state directory from any other one.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Takes the journal of a daemon, waiting for a sibling that delivers from it.
    ///
    /// # Errors
    /// [`JournalError::InUse`] if another daemon keeps it.
    pub async fn take(&self, identity: &Identity, stop: &Stop) -> Result<Journal, JournalError> {
        let dir = self.root.join(directory(identity));
        let in_use = || JournalError::InUse {
            name: identity.name.clone(),
            path: dir.clone(),
        };
        let taken = async {
            loop {
                files::create_private_dir(&dir).map_err(access("make", &dir))?;
                let path = dir.join(LOCK_FILE);
                let lock = match Lock::acquire(&path, stop).await {
                    // A sibling may have removed the directory in the meantime.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    lock => lock.map_err(access("lock", &path))?,
                };
                match lock {
                    Some(lock) if lock.is_on(&path) => return Ok(self.journal(dir.clone(), lock)),
                    Some(_) => {}
                    None => return Err(in_use()),
                }
            }
        };
        timeout(LOCK_TIMEOUT, taken)
            .await
            .unwrap_or_else(|_| Err(in_use()))
    }

    /// Takes the journals of daemons that are not running.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(crate) fn abandoned(&self) -> Result<Vec<Journal>, JournalError> {
        let mut journals = Vec::new();
        for dir in self.directories()? {
            let path = dir.join(LOCK_FILE);
            match Lock::try_acquire(&path) {
                Ok(Some(lock)) if lock.is_on(&path) => journals.push(self.journal(dir, lock)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn!(%error, path = %path.display(), "cannot check a sibling daemon's journal")
                }
            }
        }
        Ok(journals)
    }

    /// Returns all entries, for tools that run beside daemons.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn entries(&self) -> Result<Vec<Found>, JournalError> {
        let mut entries = Vec::new();
        for dir in self.directories()? {
            let lock = dir.join(LOCK_FILE);
            let is_alive = matches!(Lock::try_acquire(&lock), Ok(None));
            for path in entry_files(&dir)? {
                let entry = read(&self.vault, &path);
                entries.push(Found {
                    path,
                    is_alive,
                    entry,
                });
            }
        }
        Ok(entries)
    }

    /// Returns the entries of a workspace at a server, including those of siblings. Unreadable ones are logged.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(super) fn of_workspace(
        &self,
        server: &str,
        workspace_id: &str,
    ) -> Result<Vec<Found<Entry>>, JournalError> {
        let mut found = self.readable()?;
        found.retain(|it| it.entry.server == server && it.entry.workspace_id == workspace_id);
        Ok(found)
    }

    /// Returns all readable entries.
    pub(super) fn readable(&self) -> Result<Vec<Found<Entry>>, JournalError> {
        let readable = |found: Found| match found.entry {
            Ok(entry) => Some(Found {
                path: found.path,
                is_alive: found.is_alive,
                entry,
            }),
            Err(error) => {
                unreadable(&error);
                None
            }
        };
        Ok(self.entries()?.into_iter().filter_map(readable).collect())
    }

    /// Rewrites an entry that no daemon is working on.
    ///
    /// # Errors
    /// [`JournalError::Access`]
    pub(super) fn rewrite(&self, found: &Found<Entry>) -> Result<(), JournalError> {
        write(&self.vault, &found.path, &found.entry)
    }

    /// Returns the names and ages of all entries' files: while these stay the same, so does their content.
    pub(super) fn versions(&self) -> Vec<(PathBuf, Option<SystemTime>)> {
        let dirs = self.directories().unwrap_or_default();
        let files = dirs
            .iter()
            .flat_map(|dir| entry_files(dir).unwrap_or_default());
        let version = |path: PathBuf| {
            let modified = fs::metadata(&path).and_then(|file| file.modified());
            (path, modified.ok())
        };
        files.map(version).collect()
    }

    fn directories(&self) -> Result<Vec<PathBuf>, JournalError> {
        let mut paths = list(&self.root)?;
        paths.retain(|path| path.is_dir());
        Ok(paths)
    }

    fn journal(&self, dir: PathBuf, lock: Lock) -> Journal {
        Journal {
            dir,
            vault: Arc::clone(&self.vault),
            _lock: lock,
        }
    }
}

/// An entry that was found on the disk.
#[derive(Debug)]
pub struct Found<T = Result<Entry, JournalError>> {
    /// Path of the entry's file.
    pub path: PathBuf,
    /// Set if its daemon is running.
    pub is_alive: bool,
    /// Content of the entry, or the reason why it cannot be read.
    pub entry: T,
}

fn unreadable(error: &JournalError) {
    let error = error as &dyn std::error::Error;
    warn!(error, "cannot read from the journal");
}

/// Journal of one daemon, which is ours until this is dropped.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    vault: Arc<Vault>,
    _lock: Lock,
}

impl Journal {
    /// Ids of jobs that have entries, readable or not.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(super) fn jobs(&self) -> Result<Vec<JobId>, JournalError> {
        let files = entry_files(&self.dir)?;
        let name = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(files.iter().filter_map(name).collect())
    }

    /// Writes the first version of an entry, which from then on follows what its [`Record`] is told. `contact` says
    /// when the server last answered about the job.
    pub(super) async fn begin(
        &self,
        entry: Entry,
        contact: Option<Contact>,
    ) -> Result<Record, JournalError> {
        let path = self.dir.join(entry.job.to_string());
        Record::begin(path, Arc::clone(&self.vault), entry, contact).await
    }

    /// Returns its entries. Unreadable ones are left alone and logged.
    pub fn entries(&self) -> Vec<Entry> {
        let paths = entry_files(&self.dir).unwrap_or_else(|error| {
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot list the journal"
            );
            Vec::new()
        });
        let read = paths
            .iter()
            .filter_map(|path| match read(&self.vault, path) {
                Ok(entry) => Some(entry),
                Err(error) => {
                    unreadable(&error);
                    None
                }
            });
        read.collect()
    }

    /// Replaces an entry.
    ///
    /// # Errors
    /// [`JournalError::Access`]
    pub fn write(&self, entry: &Entry) -> Result<(), JournalError> {
        write(&self.vault, &self.dir.join(entry.job.to_string()), entry)
    }

    /// Removes an entry permanently.
    ///
    /// # Errors
    /// [`JournalError::Access`]
    pub fn erase(&self, job: JobId) -> Result<(), JournalError> {
        erase(&self.dir.join(job.to_string()))
    }

    /// Removes the journal of a daemon that has ended, unless it has entries.
    #[expect(clippy::disallowed_methods, reason = "it has a lock and no entries")]
    pub(crate) fn remove_if_empty(self) {
        if entry_files(&self.dir).is_ok_and(|entries| entries.is_empty()) {
            // The lock is still held; a daemon that waits for it will see that its file is gone.
            if let Err(error) = fs::remove_dir_all(&self.dir) {
                warn!(%error, dir = %self.dir.display(), "cannot remove an empty journal");
            }
        }
    }
}

/// Removes an entry that no daemon holds, for `recover`.
///
/// # Errors
/// [`JournalError::Access`]
pub fn erase(path: &Path) -> Result<(), JournalError> {
    fs::remove_file(path).map_err(access("remove", path))?;
    let dir = files::directory_of(path);
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(access("sync", dir))
}

/// Removes the entries of `jobs` from all journals beside `path`, an entry whose state includes theirs.
fn erase_superseded(path: &Path, jobs: &[JobId]) {
    let root = path.parent().and_then(Path::parent);
    for dir in root.map(list).into_iter().flatten().flatten() {
        for job in jobs {
            let path = dir.join(job.to_string());
            match path.exists().then(|| erase(&path)) {
                None => {}
                Some(Ok(())) => {
                    info!(superseded = %job, "the server's state has everything that a kept state had")
                }
                // Somebody has removed the entry by hand.
                Some(Err(JournalError::Access { source, .. }))
                    if source.kind() == io::ErrorKind::NotFound => {}
                Some(Err(error)) => warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot remove a superseded journal entry"
                ),
            }
        }
    }
}

fn write(vault: &Vault, path: &Path, entry: &Entry) -> Result<(), JournalError> {
    let sealed = vault.seal(&place(entry.job), &entry.encode());
    files::write_private(path, &sealed.0).map_err(access("write", path))
}

fn read(vault: &Vault, path: &Path) -> Result<Entry, JournalError> {
    let wrong = |reason: &str| JournalError::Entry {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let size = fs::metadata(path).map_err(access("read", path))?.len();
    if size > MAX_ENTRY_BYTES {
        return Err(wrong("it is too large"));
    }
    let sealed = Sealed(fs::read(path).map_err(access("read", path))?);
    let name = path.file_name().and_then(|name| name.to_str());
    let job = name.and_then(|name| name.parse().ok());
    let job = job.ok_or_else(|| wrong("its name is not a job id"))?;
    let plain = vault.open(&place(job), &sealed);
    let plain = Zeroizing::new(plain.map_err(|error| wrong(&error.to_string()))?);
    Entry::decode(&plain).ok_or_else(|| wrong("it cannot be decoded"))
}

/// Place that an entry is sealed to.
fn place(job: JobId) -> String {
    format!("journal of job {job}")
}

/// Reads the id of the state directory, which is created with it.
fn id_of(root: &Path) -> Result<String, JournalError> {
    let path = root.join(ID_FILE);
    let new = Uuid::new_v4().to_string();
    files::write_private_new(&path, new.as_bytes()).map_err(access("write", &path))?;
    fs::read_to_string(&path).map_err(access("read", &path))
}

/// Returns the files of entries, whose names are ids of jobs.
fn entry_files(dir: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let mut paths = list(dir)?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.parse::<JobId>().is_ok())
    });
    paths.sort();
    Ok(paths)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(access("list", dir))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<Result<_, _>>().map_err(access("list", dir))
}

/// Returns a directory name that a person recognizes, and that is different for each daemon name and server.
fn directory(identity: &Identity) -> String {
    let readable = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = identity.name.chars().take(64).map(readable).collect();
    let digest = Sha256::new()
        .chain_update(&identity.server)
        .chain_update([0])
        .chain_update(&identity.name)
        .finalize();
    format!("{name}-{}", hex::encode(&digest[..6]))
}

#[cfg(test)]
mod tests;
