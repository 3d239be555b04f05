//! Storage in one SQLite file, with one writer and a few readers.
//!
//! SQLite allows one writer at a time anyway; with a single connection for it, writers queue up here instead of
//! failing there. The journal is a write-ahead log, synced at every commit.

mod agents;
mod columns;
mod daemons;
mod format;
mod jobs;
mod people;
mod templates;
mod workspaces;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{
    Connection as _, Sqlite as Db, SqlitePool, Transaction,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use tracing::Instrument as _;
use uuid::Uuid;

use self::columns::Columns;
pub use self::format::{FORMAT, Facts, OpenError, copy, facts};
use super::{Store, StoreError};
use crate::model::AuditEntry;

/// Longest wait of a statement for another process, such as one that makes a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

/// A store in one SQLite file, or in memory.
#[derive(Clone, Debug)]
pub struct Sqlite {
    reader: SqlitePool,
    writer: SqlitePool,
}

impl Sqlite {
    /// Opens the file at `path`, creates it if it is missing, and migrates it to the newest format.
    ///
    /// Before an older format is changed, a copy is written into `backups`.
    ///
    /// # Errors
    /// [`OpenError`] names the file and what to do.
    pub async fn open(path: &Path, backups: &Path) -> Result<Self, OpenError> {
        format::create_private(path)?;
        let options = options().filename(path);
        let named = |source| OpenError::from_database(path, source);
        let writer = writer()
            .connect_with(options.clone())
            .await
            .map_err(named)?;
        format::check(path, &writer).await?;
        format::migrate(path, backups, &writer).await?;
        let reader = pool(READERS).connect_with(options).await.map_err(named)?;
        Ok(Self { reader, writer })
    }

    /// Opens an empty store that is lost when the process ends.
    ///
    /// # Errors
    /// [`OpenError`] if there is no memory.
    pub(crate) async fn in_memory() -> Result<Self, OpenError> {
        let path = PathBuf::from(":memory:");
        let named = |source| OpenError::from_database(&path, source);
        // A single connection, because each one would have a database of its own.
        let only = pool(1).connect_with(options().in_memory(true)).await;
        let only = only.map_err(named)?;
        format::migrate(&path, Path::new(""), &only).await?;
        Ok(Self {
            reader: only.clone(),
            writer: only,
        })
    }

    /// Returns a value of the table of facts about the database itself.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM meta WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| Columns::of("meta", &row).text("value"))
            .transpose()
    }

    /// Sets such a value.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) async fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value")
            .bind(key)
            .bind(value)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn begin(&self) -> Result<Transaction<'static, Db>, StoreError> {
        // A transaction that starts as a reader fails if another connection has written before its first write.
        let writer = self.writer.clone();
        let begin = async move { writer.begin_with("BEGIN IMMEDIATE").await };
        let begun = tokio::spawn(begin.in_current_span());
        // In a task of its own: if it were dropped half-way, the transaction would stay open and include later
        // statements.
        match begun.await {
            Ok(begun) => Ok(begun?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("trusted_schema", "OFF")
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(60))
        .idle_timeout(None)
        .max_lifetime(None)
}

/// Pool with the single writer.
///
/// On a full disk SQLite ends a transaction by itself, which sqlx does not notice: it then continues to count the
/// ended transaction, and refuses every other. Such a connection is replaced.
fn writer() -> SqlitePoolOptions {
    pool(1).before_acquire(|connection, _| {
        let is_clean = !connection.is_in_transaction();
        Box::pin(async move { Ok(is_clean) })
    })
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match format::code(&error) {
            Some(format::CODE_FULL) => Self::DiskFull,
            Some(format::CODE_CORRUPT | format::CODE_NOT_A_DATABASE) => Self::Corrupt(error.into()),
            Some(_) | None => Self::Database(error.into()),
        }
    }
}

/// Turns a violated unique constraint into the error that `conflict` makes.
fn unless_unique(conflict: impl FnOnce() -> String) -> impl FnOnce(sqlx::Error) -> StoreError {
    |error| match error.as_database_error() {
        Some(database) if database.is_unique_violation() => StoreError::Conflict(conflict()),
        Some(_) | None => error.into(),
    }
}

fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

fn entry(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    let row = Columns::of("audit", row);
    Ok(AuditEntry {
        id: row.number("id")?,
        at: row.time("at")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        target: row.text("target")?,
        detail: row.text("detail")?,
    })
}

#[async_trait]
impl Store for Sqlite {
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO audit (at, actor, action, target, detail) VALUES (?, ?, ?, ?, ?)")
            .bind(millis(entry.at))
            .bind(&entry.actor)
            .bind(&entry.action)
            .bind(&entry.target)
            .bind(&entry.detail)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn audit_entries(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query("SELECT * FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?")
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(entry).collect()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.reader).await?;
        // A new value each time, so that something is written.
        self.set_meta("written", &Uuid::new_v4().to_string()).await
    }

    async fn close(&self) {
        self.reader.close().await;
        // The database file then has everything; on a full disk the write-ahead log keeps it, and nothing is lost.
        let emptied = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&self.writer)
            .await;
        if let Err(error) = emptied {
            tracing::warn!(%error, "cannot truncate the database's write-ahead log");
        }
        self.writer.close().await;
    }
}
