//! Daemons.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;

use super::{
    super::{DaemonStore, StoreError},
    Sqlite,
    columns::{Columns, json},
    millis,
};
use crate::control::model::{Daemon, DaemonId};

fn daemon(row: &SqliteRow) -> Result<Daemon, StoreError> {
    let row = Columns::of("daemons", row);
    Ok(Daemon {
        id: row.id("id")?,
        organization_id: row.id("organization_id")?,
        key_id: row.optional_id("key_id")?,
        name: row.text("name")?,
        tags: row.tags("tags")?,
        provisioners: row.json("provisioners")?,
        version: row.text("version")?,
        api_version: row.text("api_version")?,
        created_at: row.time("created_at")?,
        last_seen_at: row.time("last_seen_at")?,
    })
}

#[async_trait]
impl DaemonStore for Sqlite {
    async fn upsert_daemon(&self, new: &Daemon) -> Result<Daemon, StoreError> {
        let row = sqlx::query(
            "INSERT INTO daemons (id, organization_id, key_id, name, owner, tags, provisioners, version,
               api_version, created_at, last_seen_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (organization_id, name, owner) DO UPDATE SET key_id = excluded.key_id,
               tags = excluded.tags, provisioners = excluded.provisioners, version = excluded.version,
               api_version = excluded.api_version, last_seen_at = excluded.last_seen_at
             RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(new.organization_id.to_string())
        .bind(new.key_id.map(|key| key.to_string()))
        .bind(&new.name)
        .bind(new.tags.owner())
        .bind(json(&new.tags))
        .bind(json(&new.provisioners))
        .bind(&new.version)
        .bind(&new.api_version)
        .bind(millis(new.created_at))
        .bind(millis(new.last_seen_at))
        .fetch_one(&self.writer)
        .await?;
        daemon(&row)
    }

    async fn daemon(&self, id: DaemonId) -> Result<Option<Daemon>, StoreError> {
        let row = sqlx::query("SELECT * FROM daemons WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(daemon).transpose()
    }

    async fn daemons(&self) -> Result<Vec<Daemon>, StoreError> {
        let rows = sqlx::query("SELECT * FROM daemons ORDER BY name, id")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(daemon).collect()
    }

    async fn touch_daemon(&self, id: DaemonId, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE daemons SET last_seen_at = ? WHERE id = ?")
            .bind(millis(now))
            .bind(id.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn delete_daemon(&self, id: DaemonId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM daemons WHERE id = ?")
            .bind(id.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn forget_daemons(&self, unseen_since: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM daemons WHERE last_seen_at < ?")
            .bind(millis(unseen_since))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }
}
