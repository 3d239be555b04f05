//! Workspaces, their builds and states, and their costs.

use async_trait::async_trait;
use jiff::Timestamp;
use outpost_provision::Quota;
use sqlx::{Sqlite as Db, Transaction, sqlite::SqliteRow};

use super::{
    super::{
        LateState, NewBuild, NewState, StateChange, StoreError, WorkspaceFilter, WorkspaceStore,
    },
    Sqlite,
    columns::{Columns, json},
    jobs, millis, unless_unique,
};
use crate::{
    crypt::Sealed,
    model::{Build, BuildId, OrganizationId, StateVersion, UserId, Workspace, WorkspaceId},
};

const WORKSPACE: &str =
    "SELECT w.*, u.name AS owner FROM workspaces w JOIN users u ON u.id = w.owner_id";

/// Sum of the latest builds' costs of `?1`'s workspaces in the organization `?2`, without the build `?3`.
const CONSUMED: &str = "SELECT COALESCE(SUM(b.daily_cost), 0) AS consumed
     FROM workspaces w JOIN builds b ON b.workspace_id = w.id
       AND b.number = (SELECT MAX(number) FROM builds WHERE workspace_id = w.id)
     WHERE w.owner_id = ?1 AND w.organization_id = ?2 AND w.deleted_at IS NULL AND b.id <> ?3";

fn workspace(row: &SqliteRow) -> Result<Workspace, StoreError> {
    let row = Columns::of("workspaces", row);
    Ok(Workspace {
        id: row.id("id")?,
        organization_id: row.id("organization_id")?,
        owner_id: row.id("owner_id")?,
        owner: row.text("owner")?,
        template_id: row.id("template_id")?,
        name: row.text("name")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        deleted_at: row.optional_time("deleted_at")?,
    })
}

fn build(row: &SqliteRow) -> Result<Build, StoreError> {
    let columns = Columns::of("builds", row);
    Ok(Build {
        id: columns.id("id")?,
        workspace_id: columns.id("workspace_id")?,
        number: columns.small("number")?,
        transition: columns.word("transition")?,
        version_id: columns.id("version_id")?,
        job_id: columns.id("job_id")?,
        parameters: columns.json("parameters")?,
        preset: columns.text("preset")?,
        log_level: columns.text("log_level")?,
        daily_cost: columns.small("daily_cost")?,
        has_state: columns.flag("has_state")?,
        initiator_id: columns.id("initiator_id")?,
        created_at: columns.time("created_at")?,
    })
}

/// Query for all columns of a build but the large one.
const BUILD: &str = "SELECT id, workspace_id, number, transition, version_id, job_id, parameters, preset, log_level,
     daily_cost, state_id IS NOT NULL AS has_state, initiator_id, created_at FROM builds";

async fn insert_workspace(
    change: &mut Transaction<'_, Db>,
    new: &Workspace,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO workspaces (id, organization_id, owner_id, template_id, name, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.id.to_string())
    .bind(new.organization_id.to_string())
    .bind(new.owner_id.to_string())
    .bind(new.template_id.to_string())
    .bind(&new.name)
    .bind(millis(new.created_at))
    .bind(millis(new.updated_at))
    .execute(&mut **change)
    .await
    .map_err(unless_unique(|| {
        format!("{} already has a workspace `{}`", new.owner, new.name)
    }))?;
    Ok(())
}

/// Refuses a build of a workspace that is deleted or already being built.
async fn check_free(change: &mut Transaction<'_, Db>, id: WorkspaceId) -> Result<(), StoreError> {
    let row = sqlx::query(
        "SELECT w.deleted_at, (SELECT j.id FROM builds b JOIN jobs j ON j.id = b.job_id
           WHERE b.workspace_id = w.id AND j.completed_at IS NULL LIMIT 1) AS active
         FROM workspaces w WHERE w.id = ?",
    )
    .bind(id.to_string())
    .fetch_optional(&mut **change)
    .await?
    .ok_or_else(|| StoreError::NotFound {
        what: "workspace",
        id: id.to_string(),
    })?;
    let row = Columns::of("workspaces", &row);
    if row.optional_time("deleted_at")?.is_some() {
        return Err(StoreError::Conflict("the workspace is deleted".to_owned()));
    }
    match row.optional_id::<outpost_base::job::JobId>("active")? {
        Some(job) => Err(StoreError::Conflict(format!(
            "a build of the workspace is in progress; wait for the job {job} or cancel it"
        ))),
        None => Ok(()),
    }
}

/// Adds a state to the history and returns its number; one that is there already is not added again.
async fn insert_state(
    change: &mut Transaction<'_, Db>,
    build: BuildId,
    state: &NewState,
    now: Timestamp,
) -> Result<(i64, bool), StoreError> {
    let known = sqlx::query("SELECT id FROM states WHERE build_id = ? AND digest = ?")
        .bind(build.to_string())
        .bind(state.digest.as_slice())
        .fetch_optional(&mut **change)
        .await?;
    if let Some(row) = known {
        return Ok((Columns::of("states", &row).number("id")?, false));
    }
    let done = sqlx::query(
        "INSERT INTO states (build_id, digest, content, created_at) VALUES (?, ?, ?, ?)",
    )
    .bind(build.to_string())
    .bind(state.digest.as_slice())
    .bind(&state.sealed.0)
    .bind(millis(now))
    .execute(&mut **change)
    .await?;
    Ok((done.last_insert_rowid(), true))
}

async fn point_at_state(
    change: &mut Transaction<'_, Db>,
    build: BuildId,
    state: Option<i64>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE builds SET state_id = ? WHERE id = ?")
        .bind(state)
        .bind(build.to_string())
        .execute(&mut **change)
        .await?;
    Ok(())
}

/// Returns whether a build is the newest one of its workspace, and nobody has given it another state than `state`.
pub(super) async fn is_untouched_since(
    change: &mut Transaction<'_, Db>,
    id: BuildId,
    state: &StateChange,
) -> Result<bool, StoreError> {
    let digest = match state {
        StateChange::Set(new) => Some(new.digest.as_slice()),
        StateChange::Keep | StateChange::Clear => None,
    };
    let row = sqlx::query(
        "SELECT NOT EXISTS (SELECT 1 FROM builds n WHERE n.workspace_id = b.workspace_id AND n.number > b.number)
           AND NOT EXISTS (SELECT 1 FROM states s WHERE s.build_id = b.id AND s.digest IS NOT ?) AS untouched
         FROM builds b WHERE b.id = ?",
    )
    .bind(digest)
    .bind(id.to_string())
    .fetch_optional(&mut **change)
    .await?
    .ok_or_else(|| gone(id))?;
    Columns::of("builds", &row).flag("untouched")
}

/// Stores the effects of a build.
pub(super) async fn finish_build(
    change: &mut Transaction<'_, Db>,
    id: BuildId,
    state: &StateChange,
    made: Option<&Sealed>,
    deleted: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    match state {
        StateChange::Keep => {}
        StateChange::Clear => point_at_state(change, id, None).await?,
        StateChange::Set(new) => {
            let (state, _) = insert_state(change, id, new, now).await?;
            point_at_state(change, id, Some(state)).await?;
        }
    }
    if let Some(made) = made {
        sqlx::query("UPDATE builds SET made = ? WHERE id = ?")
            .bind(&made.0)
            .bind(id.to_string())
            .execute(&mut **change)
            .await?;
    }
    sqlx::query(
        "UPDATE workspaces SET updated_at = ?1, deleted_at = CASE WHEN ?2 THEN ?1 ELSE deleted_at END
         WHERE id = (SELECT workspace_id FROM builds WHERE id = ?3)",
    )
    .bind(millis(now))
    .bind(deleted)
    .bind(id.to_string())
    .execute(&mut **change)
    .await?;
    Ok(())
}

#[async_trait]
impl WorkspaceStore for Sqlite {
    async fn insert_build(&self, new: NewBuild) -> Result<Build, StoreError> {
        let build = new.build;
        let mut change = self.begin().await?;
        if let Some(workspace) = &new.workspace {
            insert_workspace(&mut change, workspace).await?;
        }
        check_free(&mut change, build.workspace_id).await?;
        sqlx::query(
            "INSERT INTO builds (id, workspace_id, number, transition, version_id, job_id, parameters, preset,
               log_level, daily_cost, state_id, initiator_id, created_at)
             VALUES (?1, ?2, (SELECT COALESCE(MAX(number), 0) + 1 FROM builds WHERE workspace_id = ?2), ?3, ?4, ?5,
               ?6, ?7, ?8, 0, (SELECT state_id FROM builds WHERE workspace_id = ?2 ORDER BY number DESC LIMIT 1),
               ?9, ?10)",
        )
        .bind(build.id.to_string())
        .bind(build.workspace_id.to_string())
        .bind(build.transition.as_str())
        .bind(build.version_id.to_string())
        .bind(build.job_id.to_string())
        .bind(json(&build.parameters))
        .bind(&build.preset)
        .bind(&build.log_level)
        .bind(build.initiator_id.to_string())
        .bind(millis(build.created_at))
        .execute(&mut *change)
        .await?;
        jobs::insert(&mut change, &new.job).await?;
        sqlx::query("UPDATE workspaces SET updated_at = ? WHERE id = ?")
            .bind(millis(build.created_at))
            .bind(build.workspace_id.to_string())
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        self.build(build.id).await?.ok_or_else(|| gone(build.id))
    }

    async fn workspaces(&self, filter: &WorkspaceFilter) -> Result<Vec<Workspace>, StoreError> {
        let query = format!(
            "{WORKSPACE} WHERE (?1 IS NULL OR w.organization_id = ?1) AND (?2 IS NULL OR w.owner_id = ?2)
             AND (?3 OR w.deleted_at IS NULL) ORDER BY owner, w.name, w.created_at"
        );
        let rows = sqlx::query(&query)
            .bind(filter.organization.map(|id| id.to_string()))
            .bind(filter.owner.map(|id| id.to_string()))
            .bind(filter.deleted)
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(workspace).collect()
    }

    async fn workspace(&self, id: WorkspaceId) -> Result<Option<Workspace>, StoreError> {
        let row = sqlx::query(&format!("{WORKSPACE} WHERE w.id = ?"))
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(workspace).transpose()
    }

    async fn rename_workspace(
        &self,
        id: WorkspaceId,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        check_free(&mut change, id).await?;
        sqlx::query("UPDATE workspaces SET name = ?, updated_at = ? WHERE id = ?")
            .bind(name)
            .bind(millis(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await
            .map_err(unless_unique(|| {
                format!("the owner already has a workspace `{name}`")
            }))?;
        Ok(change.commit().await?)
    }

    async fn builds(&self, workspace: WorkspaceId) -> Result<Vec<Build>, StoreError> {
        let query = format!("{BUILD} WHERE workspace_id = ? ORDER BY number DESC");
        let rows = sqlx::query(&query)
            .bind(workspace.to_string())
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(build).collect()
    }

    async fn build(&self, id: BuildId) -> Result<Option<Build>, StoreError> {
        let row = sqlx::query(&format!("{BUILD} WHERE id = ?"))
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(build).transpose()
    }

    async fn latest_build(&self, workspace: WorkspaceId) -> Result<Option<Build>, StoreError> {
        let query = format!("{BUILD} WHERE workspace_id = ? ORDER BY number DESC LIMIT 1");
        let row = sqlx::query(&query)
            .bind(workspace.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(build).transpose()
    }

    async fn made(&self, build: BuildId) -> Result<Option<Sealed>, StoreError> {
        let row = sqlx::query("SELECT made FROM builds WHERE id = ?")
            .bind(build.to_string())
            .fetch_optional(&self.reader)
            .await?
            .ok_or_else(|| gone(build))?;
        Columns::of("builds", &row).optional_sealed("made")
    }

    async fn state(&self, build: BuildId) -> Result<Option<(BuildId, Sealed)>, StoreError> {
        let row = sqlx::query(
            "SELECT s.build_id, s.content FROM builds b JOIN states s ON s.id = b.state_id WHERE b.id = ?",
        )
        .bind(build.to_string())
        .fetch_optional(&self.reader)
        .await?;
        row.map(|row| {
            let row = Columns::of("states", &row);
            Ok((row.id("build_id")?, row.sealed("content")?))
        })
        .transpose()
    }

    async fn states(&self, workspace: WorkspaceId) -> Result<Vec<StateVersion>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.id, s.build_id, s.created_at, b.state_id IS s.id AS adopted
             FROM states s JOIN builds b ON b.id = s.build_id WHERE b.workspace_id = ? ORDER BY s.id",
        )
        .bind(workspace.to_string())
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                let row = Columns::of("states", row);
                Ok(StateVersion {
                    id: row.number("id")?,
                    build_id: row.id("build_id")?,
                    created_at: row.time("created_at")?,
                    adopted: row.flag("adopted")?,
                })
            })
            .collect()
    }

    async fn insert_late_state(
        &self,
        build: BuildId,
        state: NewState,
        now: Timestamp,
    ) -> Result<LateState, StoreError> {
        let mut change = self.begin().await?;
        let (id, is_new) = insert_state(&mut change, build, &state, now).await?;
        if !is_new {
            return Ok(LateState::Known);
        }
        // A daemon's own terminal message takes precedence over a later repetition; so does a newer build.
        let counts = sqlx::query(
            "SELECT j.ended_by <> 'daemon' AND NOT EXISTS (SELECT 1 FROM builds n
               WHERE n.workspace_id = b.workspace_id AND n.number > b.number) AS counts
             FROM builds b JOIN jobs j ON j.id = b.job_id WHERE b.id = ?",
        )
        .bind(build.to_string())
        .fetch_optional(&mut *change)
        .await?
        .ok_or_else(|| gone(build))?;
        let counts = Columns::of("builds", &counts).flag("counts")?;
        if counts {
            point_at_state(&mut change, build, Some(id)).await?;
        }
        change.commit().await?;
        Ok(if counts {
            LateState::Adopted
        } else {
            LateState::Kept
        })
    }

    async fn replace_state(
        &self,
        build: BuildId,
        state: NewState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut change = self.begin().await?;
        let counts = sqlx::query(
            "SELECT j.completed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM builds n
               WHERE n.workspace_id = b.workspace_id AND n.number > b.number) AS counts
             FROM builds b JOIN jobs j ON j.id = b.job_id WHERE b.id = ?",
        )
        .bind(build.to_string())
        .fetch_optional(&mut *change)
        .await?
        .ok_or_else(|| gone(build))?;
        if !Columns::of("builds", &counts).flag("counts")? {
            return Ok(false);
        }
        let (id, _) = insert_state(&mut change, build, &state, now).await?;
        point_at_state(&mut change, build, Some(id)).await?;
        change.commit().await?;
        Ok(true)
    }

    async fn commit_quota(&self, build: BuildId, daily_cost: i32) -> Result<Quota, StoreError> {
        let mut change = self.begin().await?;
        let row = sqlx::query(
            "SELECT w.owner_id, w.organization_id, u.budget, COALESCE((SELECT p.daily_cost FROM builds p
               WHERE p.workspace_id = b.workspace_id AND p.number = b.number - 1), 0) AS previous
             FROM builds b JOIN workspaces w ON w.id = b.workspace_id JOIN users u ON u.id = w.owner_id
             WHERE b.id = ?",
        )
        .bind(build.to_string())
        .fetch_optional(&mut *change)
        .await?
        .ok_or_else(|| gone(build))?;
        let row = Columns::of("builds", &row);
        let others = sqlx::query(CONSUMED)
            .bind(row.text("owner_id")?)
            .bind(row.text("organization_id")?)
            .bind(build.to_string())
            .fetch_one(&mut *change)
            .await?;
        let others = Columns::of("builds", &others).small("consumed")?;
        let (budget, with_this) = (
            row.optional_small("budget")?,
            others.saturating_add(daily_cost),
        );
        let ok = budget.is_none_or(|budget| with_this <= budget)
            || daily_cost < row.small("previous")?;
        if ok {
            sqlx::query("UPDATE builds SET daily_cost = ? WHERE id = ?")
                .bind(daily_cost)
                .bind(build.to_string())
                .execute(&mut *change)
                .await?;
            change.commit().await?;
        }
        Ok(Quota {
            ok,
            consumed: if ok { with_this } else { others },
            budget: budget.unwrap_or(-1),
        })
    }

    async fn consumed(
        &self,
        user: UserId,
        organization: OrganizationId,
    ) -> Result<i32, StoreError> {
        let row = sqlx::query(CONSUMED)
            .bind(user.to_string())
            .bind(organization.to_string())
            .bind("")
            .fetch_one(&self.reader)
            .await?;
        Columns::of("builds", &row).small("consumed")
    }
}

fn gone(build: BuildId) -> StoreError {
    StoreError::NotFound {
        what: "build",
        id: build.to_string(),
    }
}
