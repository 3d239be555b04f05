//! Backups: everything that a server needs, in one file, made while the server runs.
//!
//! A backup is a tar archive of `manifest.json`, `outpost.db` and `key`, for the server's user alone. A key that
//! somebody else manages is not included; `KEY-IS-ELSEWHERE.txt` then says which one is needed.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use outpost_files as files;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{
    data_dir::{self, DATABASE, DataDirError, KEY},
    store::sqlite::{self, OpenError},
};

/// The form of backups that this version writes.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const NOTE: &str = "KEY-IS-ELSEWHERE.txt";
/// A manifest is some hundred bytes.
const MANIFEST_LIMIT: u64 = 64 << 10;

/// Description of a backup, stored inside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version of the backup.
    pub(crate) backup_format: u32,
    /// Format version of the database.
    pub(crate) database_format: u32,
    /// Time when the backup was made.
    pub created_at: Timestamp,
    /// Id of the key that encrypts the secrets in the backup.
    pub key_id: String,
    /// Set if the backup contains that key.
    pub key_included: bool,
}

/// Reasons why a backup cannot be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file that cannot be read or written.
    #[error("cannot {what} `{}`", .path.display())]
    Access {
        /// Operation that failed, such as `write`.
        what: &'static str,
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A directory that contains no server's data.
    #[error("`{}` is not a data directory: it has no {DATABASE}", .0.display())]
    NoData(PathBuf),
    /// A target that already exists.
    #[error("`{}` exists already", .0.display())]
    Exists(PathBuf),
    /// A target directory of a restore that is not empty.
    #[error("data directory `{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A file that is not a backup made by this program.
    #[error("`{}` is not a backup: {reason}", .path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// Reason why the file was rejected.
        reason: String,
    },
    /// A backup that a newer version of this program wrote.
    #[error("backup `{}` has format {found}, this version of outpost knows formats up to {FORMAT}", .path.display())]
    Newer {
        /// Path of the file.
        path: PathBuf,
        /// Format version of the backup.
        found: u32,
    },
    /// The database cannot be copied or read.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] DataDirError),
}

impl BackupError {
    /// Returns what the operator can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoData(_) => {
                Some("name the directory that the server was started with".to_owned())
            }
            Self::Exists(_) => Some("choose another file".to_owned()),
            Self::NotEmpty(_) => {
                Some("restore into a new directory, or move the old one away".to_owned())
            }
            Self::Invalid { .. } => Some("try an older backup".to_owned()),
            Self::Newer { .. } => Some("restore it with the version that wrote it".to_owned()),
            Self::Database(error) => error.hint(),
            Self::Key(error) => error.hint(),
            Self::Access { .. } => None,
        }
    }
}

fn access(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Access { what, path, source }
}

/// Returns a file name in `directory` that contains the time of the backup.
pub fn next_path(directory: &Path, now: Timestamp) -> PathBuf {
    let time = now.strftime("%Y%m%dT%H%M%S");
    let millis = now.as_millisecond().rem_euclid(1000);
    directory.join(format!("outpost-{time}.{millis:03}Z.tar"))
}

/// Writes a backup of `data_dir` into the new file `target`, while a server may work with it.
///
/// The file appears under its name once it is complete, and only its owner can read it.
///
/// # Errors
/// [`BackupError`] names the file. Nothing is left behind.
pub async fn create(data_dir: &Path, target: &Path) -> Result<Manifest, BackupError> {
    let database = data_dir.join(DATABASE);
    if !database.exists() {
        return Err(BackupError::NoData(data_dir.to_owned()));
    }
    if target.exists() {
        return Err(BackupError::Exists(target.to_owned()));
    }
    let parent = files::directory_of(target);
    let staging = TempDir::with_prefix_in(".outpost-backup-", parent)
        .map_err(access("write into", parent))?;
    let copy = staging.path().join(DATABASE);
    sqlite::copy(&database, &copy).await?;
    let facts = sqlite::facts(&copy).await?;
    let key_path = data_dir.join(KEY);
    let key = key_path
        .exists()
        .then(|| data_dir::read_key(&key_path))
        .transpose()?;
    let manifest = Manifest {
        backup_format: FORMAT,
        database_format: facts.format,
        created_at: Timestamp::now(),
        key_included: key
            .as_ref()
            .is_some_and(|key| key.id().to_string() == facts.key_id),
        key_id: facts.key_id,
    };
    let key = key.filter(|_| manifest.key_included);
    let (packed, target) = (staging.path().join("backup.tar"), target.to_owned());
    let written = manifest.clone();
    let work = move || {
        let key = key.as_ref().map(|key| key.expose());
        pack(&packed, &copy, key, &written)?;
        // A hard link, unlike a rename, never replaces a file that appeared meanwhile.
        fs::hard_link(&packed, &target).map_err(access("write", &target))?;
        drop(staging);
        Ok(())
    };
    blocking(work).await?;
    Ok(manifest)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn pack(
    path: &Path,
    database: &Path,
    key: Option<&[u8]>,
    manifest: &Manifest,
) -> Result<(), BackupError> {
    let file = private_file(path)?;
    let write = || -> io::Result<()> {
        let mut archive = tar::Builder::new(&file);
        archive.mode(tar::HeaderMode::Deterministic);
        let json = serde_json::to_vec_pretty(manifest)?;
        append(&mut archive, MANIFEST, &json)?;
        let mut database = File::open(database)?;
        let mut header = header(database.metadata()?.len());
        archive.append_data(&mut header, DATABASE, &mut database)?;
        match key {
            Some(key) => append(&mut archive, KEY, key)?,
            None => append(&mut archive, NOTE, note(manifest).as_bytes())?,
        }
        archive.into_inner()?;
        (&file).flush()?;
        file.sync_all()
    };
    write().map_err(access("write", path))
}

fn note(manifest: &Manifest) -> String {
    format!(
        "The state key is not in this backup, because it is managed elsewhere.\n\
         Start the restored server with the key whose id is {}.\n",
        manifest.key_id
    )
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header
}

fn append(archive: &mut tar::Builder<&File>, name: &str, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(content.len() as u64), name, content)
}

fn private_file(path: &Path) -> Result<File, BackupError> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(access("write", path))
}

/// Unpacks a backup into `data_dir`, which must be missing or empty.
///
/// # Errors
/// [`BackupError`] names the file. What was unpacked before is removed.
pub async fn restore(archive: &Path, data_dir: &Path) -> Result<Manifest, BackupError> {
    let (from, to) = (archive.to_owned(), data_dir.to_owned());
    let manifest = blocking(move || unpack(&from, &to)).await?;
    match verify(archive, data_dir, &manifest).await {
        Ok(()) => Ok(manifest),
        Err(error) => {
            discard(data_dir);
            Err(error)
        }
    }
}

fn unpack(from: &Path, to: &Path) -> Result<Manifest, BackupError> {
    let file = File::open(from).map_err(access("read", from))?;
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::NotEmpty(to.to_owned()));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .map_err(access("make", to))?;
    let manifest = unpack_entries(from, file, to);
    if manifest.is_err() {
        discard(to);
    }
    manifest
}

fn unpack_entries(from: &Path, file: File, to: &Path) -> Result<Manifest, BackupError> {
    let invalid = |reason: String| BackupError::Invalid {
        path: from.to_owned(),
        reason,
    };
    let mut manifest = None;
    let mut archive = tar::Archive::new(file);
    let entries = archive
        .entries()
        .map_err(|error| invalid(error.to_string()))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| invalid(error.to_string()))?;
        let name = entry.path_bytes().into_owned();
        // Unpack only the files that we write ourselves, under fixed names: the archive may come from anywhere.
        match name.as_slice() {
            b"manifest.json" => {
                let read = read_manifest(&mut entry).map_err(invalid)?;
                if read.backup_format > FORMAT {
                    return Err(BackupError::Newer {
                        path: from.to_owned(),
                        found: read.backup_format,
                    });
                }
                manifest = Some(read);
            }
            b"outpost.db" => write(&mut entry, &to.join(DATABASE))?,
            b"key" => write(&mut entry, &to.join(KEY))?,
            b"KEY-IS-ELSEWHERE.txt" => {}
            other => {
                let name = String::from_utf8_lossy(other).into_owned();
                return Err(invalid(format!("it has an unknown entry `{name}`")));
            }
        }
    }
    manifest.ok_or_else(|| invalid(format!("it has no {MANIFEST}")))
}

fn read_manifest(entry: &mut impl Read) -> Result<Manifest, String> {
    let mut json = Vec::new();
    entry
        .take(MANIFEST_LIMIT)
        .read_to_end(&mut json)
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| format!("{MANIFEST}: {error}"))
}

fn write(entry: &mut impl Read, path: &Path) -> Result<(), BackupError> {
    let mut file = private_file(path)?;
    io::copy(entry, &mut file)
        .and_then(|_| file.sync_all())
        .map_err(access("write", path))
}

async fn verify(archive: &Path, data_dir: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let invalid = |reason: String| BackupError::Invalid {
        path: archive.to_owned(),
        reason,
    };
    let database = data_dir.join(DATABASE);
    if !database.exists() {
        return Err(invalid(format!("it has no {DATABASE}")));
    }
    let facts = sqlite::facts(&database).await?;
    if facts.key_id != manifest.key_id {
        return Err(invalid(format!(
            "its database needs the key {}",
            facts.key_id
        )));
    }
    if manifest.key_included {
        let key = data_dir::read_key(&data_dir.join(KEY))?;
        if key.id().to_string() != manifest.key_id {
            return Err(invalid("its key does not match its database".to_owned()));
        }
    }
    Ok(())
}

/// Removes the files of a failed restore: our own ones, and the directory if it contains nothing else.
fn discard(data_dir: &Path) {
    for name in [DATABASE, "outpost.db-wal", "outpost.db-shm", KEY] {
        fs::remove_file(data_dir.join(name)).ok();
    }
    fs::remove_dir(data_dir).ok();
}
