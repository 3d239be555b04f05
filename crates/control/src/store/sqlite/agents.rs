//! Agents of workspaces, with their logs.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Sqlite as Db, Transaction, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    super::{AgentChange, AgentStore, NewAgent, StoreError},
    Sqlite,
    columns::Columns,
    jobs::condition,
    millis,
};
use crate::{
    agent_log,
    model::{AgentId, AgentRecord, BuildId, JobStatus, StoredAgentLine, UserId, WorkspaceId},
    snapshot::{WorkspaceSnapshot, WorkspaceSnapshots},
    tokens::Hashed,
};

const AGENT: &str =
    "SELECT a.*, b.workspace_id,
     COALESCE((SELECT made.completed_at FROM jobs made WHERE made.id = b.job_id), b.created_at) AS created_at
     FROM agents a JOIN builds b ON b.id = a.build_id
     JOIN workspaces w ON w.id = b.workspace_id";

/// Condition that an agent belongs to the workspace's newest build that succeeded. While another build is in
/// progress, that is the one before: a workspace that is stopping still runs its stop scripts.
const CURRENT: &str = "w.deleted_at IS NULL AND NOT EXISTS (SELECT 1 FROM builds l JOIN jobs j ON j.id = l.job_id
     WHERE l.workspace_id = b.workspace_id AND l.number > b.number AND j.completed_at IS NOT NULL AND j.error = '')";

fn agent(row: &SqliteRow) -> Result<AgentRecord, StoreError> {
    let row = Columns::of("agents", row);
    Ok(AgentRecord {
        id: row.id("id")?,
        build_id: row.id("build_id")?,
        workspace_id: row.id("workspace_id")?,
        name: row.text("name")?,
        lifecycle: row.word("lifecycle")?,
        version: row.text("version")?,
        directory: row.text("directory")?,
        created_at: row.time("created_at")?,
        first_connected_at: row.optional_time("first_connected_at")?,
        last_connected_at: row.optional_time("last_connected_at")?,
    })
}

pub(super) async fn insert(
    change: &mut Transaction<'_, Db>,
    build: BuildId,
    new: &NewAgent,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO agents (id, build_id, name, token_hash, lifecycle, version, directory)
         VALUES (?, ?, ?, ?, 'created', '', '')",
    )
    .bind(new.id.to_string())
    .bind(build.to_string())
    .bind(&new.name)
    .bind(new.token.as_ref().map(|token| token.0.as_slice()))
    .execute(&mut **change)
    .await?;
    Ok(())
}

/// Deletes the logs of the workspace's agents of other builds, once nobody can start or stop them any more.
pub(super) async fn drop_older_logs(
    change: &mut Transaction<'_, Db>,
    build: BuildId,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM agent_logs WHERE agent_id IN (SELECT a.id FROM agents a JOIN builds b ON b.id = a.build_id
           WHERE b.id <> ?1 AND b.workspace_id = (SELECT workspace_id FROM builds WHERE id = ?1))",
    )
    .bind(build.to_string())
    .execute(&mut **change)
    .await?;
    Ok(())
}

fn line(row: &SqliteRow) -> Result<StoredAgentLine, StoreError> {
    let row = Columns::of("agent_logs", row);
    Ok(StoredAgentLine {
        id: row.number("id")?,
        source: row.id("source")?,
        created_at: row.time("created_at")?,
        line: agent_log::Line {
            level: row.word("level")?,
            output: row.text("output")?,
        },
    })
}

#[async_trait]
impl AgentStore for Sqlite {
    async fn agent_by_token(&self, token: &Hashed) -> Result<Option<AgentRecord>, StoreError> {
        let query = format!("{AGENT} WHERE a.token_hash = ? AND {CURRENT} ORDER BY b.number DESC");
        let row = sqlx::query(&query)
            .bind(token.0.as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(agent).transpose()
    }

    async fn agent(&self, id: AgentId) -> Result<Option<AgentRecord>, StoreError> {
        let query = format!("{AGENT} WHERE a.id = ? AND {CURRENT}");
        let row = sqlx::query(&query)
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(agent).transpose()
    }

    async fn agents(&self, workspace: WorkspaceId) -> Result<Vec<AgentRecord>, StoreError> {
        let query = format!("{AGENT} WHERE b.workspace_id = ? AND {CURRENT} ORDER BY a.name");
        let rows = sqlx::query(&query)
            .bind(workspace.to_string())
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(agent).collect()
    }

    async fn any_agent(&self, id: AgentId) -> Result<Option<AgentRecord>, StoreError> {
        let row = sqlx::query(&format!("{AGENT} WHERE a.id = ?"))
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(agent).transpose()
    }

    async fn last_agents(&self, workspace: WorkspaceId) -> Result<Vec<AgentRecord>, StoreError> {
        let query = format!(
            "{AGENT} WHERE b.workspace_id = ?1 AND b.number = (SELECT MAX(l.number) FROM builds l
               JOIN agents o ON o.build_id = l.id WHERE l.workspace_id = ?1) ORDER BY a.name"
        );
        let rows = sqlx::query(&query)
            .bind(workspace.to_string())
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(agent).collect()
    }

    async fn snapshots(&self, owner: UserId) -> Result<WorkspaceSnapshots, StoreError> {
        let cases = JobStatus::ALL
            .map(|status| format!("WHEN {} THEN '{}'", condition(status), status.as_str()))
            .join(" ");
        let query = format!(
            "SELECT w.id, w.name, b.transition, CASE {cases} END AS status FROM workspaces w
             JOIN builds b ON b.workspace_id = w.id JOIN jobs j ON j.id = b.job_id
             WHERE w.owner_id = ? AND w.deleted_at IS NULL
               AND b.number = (SELECT MAX(number) FROM builds WHERE workspace_id = w.id)"
        );
        let rows = sqlx::query(&query)
            .bind(owner.to_string())
            .fetch_all(&self.reader)
            .await?;
        let mut snapshots = WorkspaceSnapshots::new();
        for row in &rows {
            let row = Columns::of("workspaces", row);
            let snapshot = WorkspaceSnapshot {
                name: row.text("name")?,
                transition: row.word("transition")?,
                status: row.word("status")?,
                agents: std::collections::BTreeMap::new(),
            };
            snapshots.insert(row.id("id")?, snapshot);
        }
        let rows = sqlx::query(&format!("{AGENT} WHERE w.owner_id = ? AND {CURRENT}"))
            .bind(owner.to_string())
            .fetch_all(&self.reader)
            .await?;
        for row in &rows {
            let agent = agent(row)?;
            // A workspace that was created after the first query is in the next snapshot.
            if let Some(snapshot) = snapshots.get_mut(&agent.workspace_id) {
                snapshot.agents.insert(agent.id, agent.name);
            }
        }
        Ok(snapshots)
    }

    async fn append_agent_log(
        &self,
        agent: AgentId,
        source: Uuid,
        lines: Vec<agent_log::Line>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut change = self.begin().await?;
        // An agent of an older build would leave lines that nothing removes.
        let row = sqlx::query(&format!("{AGENT} WHERE a.id = ? AND {CURRENT}"))
            .bind(agent.to_string())
            .fetch_optional(&mut *change)
            .await?
            .ok_or_else(|| StoreError::NotFound {
                what: "agent",
                id: agent.to_string(),
            })?;
        let row = Columns::of("agents", &row);
        if row.flag("log_full")? {
            return Ok(false);
        }
        let stored = usize::try_from(row.number("log_bytes")?).unwrap_or(usize::MAX);
        let admitted = agent_log::admit(stored, lines);
        for line in &admitted.lines {
            sqlx::query(
                "INSERT INTO agent_logs (agent_id, source, level, created_at, output) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(agent.to_string())
            .bind(source.to_string())
            .bind(line.level.as_str())
            .bind(millis(now))
            .bind(&line.output)
            .execute(&mut *change)
            .await?;
        }
        sqlx::query("UPDATE agents SET log_bytes = ?, log_full = ? WHERE id = ?")
            .bind(i64::try_from(admitted.stored_bytes).unwrap_or(i64::MAX))
            .bind(admitted.is_full)
            .bind(agent.to_string())
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(!admitted.is_full)
    }

    async fn agent_log(
        &self,
        agent: AgentId,
        after: i64,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredAgentLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM agent_logs WHERE agent_id = ? AND id > ? AND id < ? ORDER BY id LIMIT ?",
        )
        .bind(agent.to_string())
        .bind(after)
        .bind(before.unwrap_or(i64::MAX))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(line).collect()
    }

    async fn change_agent(
        &self,
        id: AgentId,
        change: AgentChange,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let query = match &change {
            AgentChange::Seen => {
                "UPDATE agents SET last_connected_at = ?1,
                   first_connected_at = COALESCE(first_connected_at, ?1) WHERE id = ?2"
            }
            AgentChange::Lifecycle(_) => {
                "UPDATE agents SET last_connected_at = ?1, lifecycle = ?3 WHERE id = ?2"
            }
            AgentChange::Startup { .. } => {
                "UPDATE agents SET last_connected_at = ?1, version = ?3, directory = ?4 WHERE id = ?2"
            }
        };
        let query = sqlx::query(query).bind(millis(now)).bind(id.to_string());
        let query = match &change {
            AgentChange::Seen => query,
            AgentChange::Lifecycle(state) => query.bind(state.as_str()),
            AgentChange::Startup { version, directory } => query.bind(version).bind(directory),
        };
        query.execute(&self.writer).await?;
        Ok(())
    }
}
