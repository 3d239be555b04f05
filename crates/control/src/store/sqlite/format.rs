//! Database file: its format number, migrations, copies, and errors.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sqlx::{Connection as _, Row as _, SqliteConnection, SqlitePool};

use super::{BUSY_TIMEOUT, options};

/// Format that this version writes: the number of the newest migration.
pub const FORMAT: u32 = MIGRATIONS.len() as u32;

/// Migration `n` leads from format `n` to format `n + 1`.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("0001.sql"),
    include_str!("0002.sql"),
    include_str!("0003.sql"),
    include_str!("0004.sql"),
    include_str!("0005.sql"),
    include_str!("0006.sql"),
    include_str!("0007.sql"),
    include_str!("0008.sql"),
    include_str!("0009.sql"),
];

// Result codes of SQLite, https://www.sqlite.org/rescode.html
pub(super) const CODE_CORRUPT: i32 = 11;
pub(super) const CODE_FULL: i32 = 13;
pub(super) const CODE_NOT_A_DATABASE: i32 = 26;
const CODE_READ_ONLY: i32 = 8;
const CODE_CANNOT_OPEN: i32 = 14;
const CODE_IO: i32 = 10;

/// Reasons why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that cannot be read or written.
    #[error("cannot open the database `{}`", .path.display())]
    Access {
        /// Path of the database.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A database that a newer version of this program wrote.
    #[error("database `{}` has format {found}, this version of outpost knows formats up to {known}", .path.display())]
    Newer {
        /// Path of the database.
        path: PathBuf,
        /// Format of the database.
        found: u32,
        /// Newest format that this version knows.
        known: u32,
    },
    /// A damaged database, or a file that is not a database.
    #[error("database `{}` is damaged: {reason}", .path.display())]
    Corrupt {
        /// Path of the database.
        path: PathBuf,
        /// Description of the damage.
        reason: String,
    },
    /// A disk without free space.
    #[error("disk with the database `{}` is full", .path.display())]
    DiskFull {
        /// Path of the database.
        path: PathBuf,
    },
    /// A failed copy before a migration.
    #[error("cannot back up the database `{}` before its format changes from {from} to {to}", .path.display())]
    Backup {
        /// Path of the database.
        path: PathBuf,
        /// Format of the database.
        from: u32,
        /// Format that it should be migrated to.
        to: u32,
        /// Reason why the copy failed.
        source: Box<OpenError>,
    },
    /// Any other error of SQLite.
    #[error("unexpected error from the database `{}`", .path.display())]
    Database {
        /// Path of the database.
        path: PathBuf,
        /// Error that SQLite returned.
        source: sqlx::Error,
    },
}

impl OpenError {
    pub(super) fn from_database(path: &Path, source: sqlx::Error) -> Self {
        let path = path.to_owned();
        match code(&source) {
            Some(CODE_CORRUPT | CODE_NOT_A_DATABASE) => Self::Corrupt {
                path,
                reason: source
                    .as_database_error()
                    .map_or_else(|| source.to_string(), |error| error.message().to_owned()),
            },
            Some(CODE_FULL) => Self::DiskFull { path },
            Some(CODE_READ_ONLY) => Self::Access {
                path,
                source: io::ErrorKind::ReadOnlyFilesystem.into(),
            },
            Some(CODE_CANNOT_OPEN | CODE_IO) => Self::Access {
                path,
                source: io::Error::other(source),
            },
            Some(_) | None => Self::Database { path, source },
        }
    }

    /// Returns what the operator can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { path, .. } => Some(format!(
                "move `{}` away and restore the newest backup with `outpost server restore`",
                path.parent().unwrap_or(path).display()
            )),
            Self::Newer { .. } => Some(
                "start the version that wrote it, or restore a backup that is older".to_owned(),
            ),
            Self::Access { path, .. } => Some(format!(
                "make `{}` writable for this user, or choose another data directory",
                path.parent().unwrap_or(path).display()
            )),
            Self::DiskFull { .. } => Some("free some space and start again".to_owned()),
            Self::Backup { source, .. } => source.hint(),
            Self::Database { .. } => None,
        }
    }
}

/// SQLite's result code without its extension, if the error is one of SQLite's.
pub(super) fn code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// Creates an empty file that only we can read, unless there is one; SQLite gives its other files the same mode.
pub(super) fn create_private(path: &Path) -> Result<(), OpenError> {
    let made = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(OpenError::DiskFull {
            path: path.to_owned(),
        }),
        Err(source) => Err(OpenError::Access {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Checks that the file is not damaged.
pub(super) async fn check(path: &Path, pool: &SqlitePool) -> Result<(), OpenError> {
    let first = sqlx::query("PRAGMA quick_check(1)")
        .fetch_one(pool)
        .await
        .and_then(|row| row.try_get::<String, _>(0))
        .map_err(|source| OpenError::from_database(path, source))?;
    match first.as_str() {
        "ok" => Ok(()),
        _ => Err(OpenError::Corrupt {
            path: path.to_owned(),
            reason: first,
        }),
    }
}

async fn format_of(
    path: &Path,
    connection: impl sqlx::SqliteExecutor<'_>,
) -> Result<u32, OpenError> {
    sqlx::query("PRAGMA user_version")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get::<u32, _>(0))
        .map_err(|source| OpenError::from_database(path, source))
}

/// Migrates the database to [`FORMAT`], after a copy if it had an older one.
pub(super) async fn migrate(
    path: &Path,
    backups: &Path,
    pool: &SqlitePool,
) -> Result<(), OpenError> {
    migrate_with(MIGRATIONS, path, backups, pool).await
}

/// As [`migrate`], with given migrations, so that tests can use those of a future version.
pub(super) async fn migrate_with(
    migrations: &[&'static str],
    path: &Path,
    backups: &Path,
    pool: &SqlitePool,
) -> Result<(), OpenError> {
    let found = format_of(path, pool).await?;
    let newest = migrations.len() as u32;
    if found > newest {
        return Err(newer(path, found));
    }
    if found > 0 && found < newest {
        back_up(path, backups, found, newest).await?;
    }
    for format in found..newest {
        step(pool, format, migrations[format as usize])
            .await
            .map_err(|source| OpenError::from_database(path, source))?;
    }
    Ok(())
}

/// Changes the format from `from` to the next, as a whole or not at all.
async fn step(pool: &SqlitePool, from: u32, migration: &'static str) -> Result<(), sqlx::Error> {
    let mut change = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(migration).execute(&mut *change).await?;
    sqlx::raw_sql(&format!("PRAGMA user_version = {}", from + 1))
        .execute(&mut *change)
        .await?;
    change.commit().await
}

async fn back_up(path: &Path, backups: &Path, from: u32, to: u32) -> Result<(), OpenError> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let target = backups.join(format!("outpost-format-{from}-{time}.db"));
    copy(path, &target)
        .await
        .map_err(|source| OpenError::Backup {
            path: path.to_owned(),
            from,
            to,
            source: Box::new(source),
        })
}

/// Writes a consistent copy of the database at `from` into the new file `to`, even while a server works with it.
///
/// # Errors
/// [`OpenError`] names the file that is to blame.
pub async fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
    // Otherwise SQLite would create the file with the process's umask, and for a moment other users could open it.
    let taken = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to);
    if let Err(source) = taken {
        let path = to.to_owned();
        return Err(OpenError::Access { path, source });
    }
    let copied = copy_into(from, to).await;
    if copied.is_err() {
        fs::remove_file(to).ok();
    }
    copied
}

async fn copy_into(from: &Path, to: &Path) -> Result<(), OpenError> {
    let options = options()
        .filename(from)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(|source| OpenError::from_database(from, source))?;
    let copied = sqlx::query("VACUUM INTO ?")
        .bind(to.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await
        .map_err(|source| OpenError::from_database(to, source));
    connection.close().await.ok();
    copied?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::File::open(to)?.sync_all())
        .map_err(|source| OpenError::Access {
            path: to.to_owned(),
            source,
        })
}

/// Facts that a database stores about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Format of the database.
    pub format: u32,
    /// Id of the key that its secrets are sealed with; empty if it was never used.
    pub key_id: String,
}

/// Reads the facts of the database at `path`, which must be undamaged and not newer than this version.
///
/// # Errors
/// [`OpenError`] if it is missing, damaged, newer or no database.
pub async fn facts(path: &Path) -> Result<Facts, OpenError> {
    let named = |source| OpenError::from_database(path, source);
    let options = options().filename(path).create_if_missing(false);
    let pool = super::pool(1).connect_with(options).await.map_err(named)?;
    let facts = read_facts(path, &pool).await;
    pool.close().await;
    facts
}

async fn read_facts(path: &Path, pool: &SqlitePool) -> Result<Facts, OpenError> {
    check(path, pool).await?;
    let format = format_of(path, pool).await?;
    if format > FORMAT {
        return Err(newer(path, format));
    }
    let row = sqlx::query("SELECT value FROM meta WHERE key = 'key_id'")
        .fetch_optional(pool)
        .await
        .and_then(|row| row.map(|row| row.try_get::<String, _>(0)).transpose())
        .map_err(|source| OpenError::from_database(path, source))?;
    Ok(Facts {
        format,
        key_id: row.unwrap_or_default(),
    })
}

fn newer(path: &Path, found: u32) -> OpenError {
    OpenError::Newer {
        path: path.to_owned(),
        found,
        known: FORMAT,
    }
}
