//! Agents of workspaces.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Sqlite as Db, Transaction, sqlite::SqliteRow};

use super::{
    super::{AgentChange, AgentStore, NewAgent, StoreError},
    Sqlite,
    columns::Columns,
    millis,
};
use crate::control::{
    model::{AgentId, AgentRecord, BuildId, WorkspaceId},
    tokens::Hashed,
};

const AGENT: &str =
    "SELECT a.*, b.workspace_id, b.created_at FROM agents a JOIN builds b ON b.id = a.build_id
     JOIN workspaces w ON w.id = b.workspace_id";

/// It is of the workspace's newest build that succeeded. While another one goes on, that is the one before: a workspace
/// that stops still runs what is to run at its end.
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
