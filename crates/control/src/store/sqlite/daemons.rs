//! Provisioner daemons, and the credentials that their names belong to.

use async_trait::async_trait;
use jiff::Timestamp;
use outpost_base::job::JobId;
use sqlx::{Sqlite as Db, Transaction, sqlite::SqliteRow};

use super::{
    super::{DaemonStore, Registered, StoreError},
    Sqlite,
    columns::{Columns, json},
    millis,
};
use crate::model::{Daemon, DaemonId};

fn daemon(row: &SqliteRow) -> Result<Daemon, StoreError> {
    let row = Columns::of("daemons", row);
    Ok(Daemon {
        id: row.id("id")?,
        organization_id: row.id("organization_id")?,
        holder: row.parsed("holder")?,
        name: row.text("name")?,
        tags: row.tags("tags")?,
        provisioners: row.json("provisioners")?,
        version: row.text("version")?,
        api_version: row.text("api_version")?,
        created_at: row.time("created_at")?,
        last_seen_at: row.time("last_seen_at")?,
        state_id: String::new(),
    })
}

/// Returns the daemon that has the name of `new`, whatever its credential.
async fn named_alike(
    change: &mut Transaction<'_, Db>,
    new: &Daemon,
) -> Result<Option<Daemon>, StoreError> {
    let row =
        sqlx::query("SELECT * FROM daemons WHERE organization_id = ? AND name = ? AND owner = ?")
            .bind(new.organization_id.to_string())
            .bind(&new.name)
            .bind(new.tags.owner())
            .fetch_optional(&mut **change)
            .await?;
    row.as_ref().map(daemon).transpose()
}

/// Jobs of a daemon of which it may still bring something: those that run, and builds that the reaper gave up, whose
/// state may be in its journal.
async fn held_jobs(change: &mut Transaction<'_, Db>, id: DaemonId) -> Result<usize, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS held FROM jobs WHERE worker = ? AND (completed_at IS NULL
           OR (ended_by = 'reaper' AND EXISTS (SELECT 1 FROM builds WHERE builds.job_id = jobs.id
             AND NOT EXISTS (SELECT 1 FROM states WHERE states.build_id = builds.id))))",
    )
    .bind(id.to_string())
    .fetch_one(&mut **change)
    .await?;
    let held = Columns::of("jobs", &row).number("held")?;
    Ok(usize::try_from(held).unwrap_or(usize::MAX))
}

#[async_trait]
impl DaemonStore for Sqlite {
    async fn register_daemon(
        &self,
        new: &Daemon,
        is_offline: &(dyn Fn(DaemonId) -> bool + Send + Sync),
    ) -> Result<Registered, StoreError> {
        let mut change = self.begin().await?;
        if let Some(before) = named_alike(&mut change, new).await?
            && !before.holder.is_also(new.holder)
        {
            let jobs = held_jobs(&mut change, before.id).await?;
            if jobs > 0 || !is_offline(before.id) {
                return Ok(Registered::Held { by: before, jobs });
            }
            // The old daemon's jobs do not belong to the new one, so the id must change as well.
            sqlx::query("DELETE FROM daemons WHERE id = ?")
                .bind(before.id.to_string())
                .execute(&mut *change)
                .await?;
        }
        let row = sqlx::query(
            "INSERT INTO daemons (id, organization_id, key_id, holder, name, owner, tags, provisioners, version,
               api_version, created_at, last_seen_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (organization_id, name, owner) DO UPDATE SET holder = excluded.holder,
               tags = excluded.tags, provisioners = excluded.provisioners, version = excluded.version,
               api_version = excluded.api_version, last_seen_at = excluded.last_seen_at
             RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(new.organization_id.to_string())
        .bind(new.key_id().map(|key| key.to_string()))
        .bind(new.holder.to_string())
        .bind(&new.name)
        .bind(new.tags.owner())
        .bind(json(&new.tags))
        .bind(json(&new.provisioners))
        .bind(&new.version)
        .bind(&new.api_version)
        .bind(millis(new.created_at))
        .bind(millis(new.last_seen_at))
        .fetch_one(&mut *change)
        .await?;
        let mut registered = daemon(&row)?;
        registered.state_id.clone_from(&new.state_id);
        change.commit().await?;
        Ok(Registered::As(registered))
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

    async fn jobs_of_state(&self, id: DaemonId, state_id: &str) -> Result<Vec<JobId>, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM jobs WHERE worker = ? AND worker_state_id = ? AND worker_state_id <> ''
               AND completed_at IS NULL",
        )
        .bind(id.to_string())
        .bind(state_id)
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| Columns::of("jobs", row).id("id"))
            .collect()
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

    async fn forget_daemons(
        &self,
        unseen_since: Timestamp,
        present: &[DaemonId],
    ) -> Result<u64, StoreError> {
        let present: Vec<String> = present.iter().map(DaemonId::to_string).collect();
        let done = sqlx::query(
            "DELETE FROM daemons WHERE last_seen_at < ? AND id NOT IN (SELECT value FROM json_each(?))
               AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.worker = daemons.id AND completed_at IS NULL)",
        )
            .bind(millis(unseen_since))
            .bind(json(&present))
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected())
    }
}
