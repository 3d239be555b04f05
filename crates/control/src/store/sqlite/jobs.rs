//! Jobs and their logs.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use outpost_base::job::{JobId, LogLine, LogSource};
use outpost_process::uptime::Uptime;
use sqlx::{Sqlite as Db, Transaction, sqlite::SqliteRow};

use super::{
    super::{Cancelled, Effect, End, Ended, JobChange, JobFilter, JobStore, StoreError},
    Sqlite, agents,
    columns::{Columns, json},
    millis, templates, workspaces,
};
use crate::{
    crypt::Sealed,
    job_log,
    model::{Daemon, EndedBy, JobRecord, JobStatus, StoredLine, UserId},
    queue::Waiting,
};

fn job(row: &SqliteRow) -> Result<JobRecord, StoreError> {
    let row = Columns::of("jobs", row);
    Ok(JobRecord {
        id: row.id("id")?,
        organization_id: row.id("organization_id")?,
        initiator_id: row.id("initiator_id")?,
        task: row.json("task")?,
        provisioner: row.text("provisioner")?,
        tags: row.tags("tags")?,
        prebuild: row.flag("prebuild")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        heard: heard(&row)?,
        started_at: row.optional_time("started_at")?,
        canceled_at: row.optional_time("canceled_at")?,
        completed_at: row.optional_time("completed_at")?,
        worker: row.optional_id("worker")?,
        worker_name: row.text("worker_name")?,
        subject: row.text("subject")?,
        error: row.text("error")?,
        error_code: row.optional_word("error_code")?,
        log_truncated: row.flag("log_truncated")?,
        ended_by: row.optional_word("ended_by")?,
    })
}

fn heard(row: &Columns<'_>) -> Result<Uptime, StoreError> {
    let at = u64::try_from(row.number("heard_ms")?).unwrap_or_default();
    Ok(Uptime {
        boot: row.text("heard_boot")?,
        at: Duration::from_millis(at),
    })
}

fn heard_ms(heard: &Uptime) -> i64 {
    i64::try_from(heard.at.as_millis()).unwrap_or(i64::MAX)
}

/// Query for all columns of a job but the large one.
const JOB: &str = "SELECT id, organization_id, initiator_id, task, provisioner, tags, prebuild, subject, created_at,
     updated_at, heard_boot, heard_ms, started_at, canceled_at, completed_at, worker, worker_name, error, error_code, ended_by,
     log_truncated FROM jobs";

/// Adds a job that no daemon has taken yet.
pub(super) async fn insert(
    change: &mut Transaction<'_, Db>,
    new: &JobRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO jobs (id, organization_id, initiator_id, task, provisioner, tags, prebuild, subject, created_at,
           updated_at, heard_boot, heard_ms, worker_name, error, log_bytes, log_truncated)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', 0, 0)",
    )
    .bind(new.id.to_string())
    .bind(new.organization_id.to_string())
    .bind(new.initiator_id.to_string())
    .bind(json(&new.task))
    .bind(&new.provisioner)
    .bind(json(&new.tags))
    .bind(new.prebuild)
    .bind(&new.subject)
    .bind(millis(new.created_at))
    .bind(millis(new.updated_at))
    .bind(&new.heard.boot)
    .bind(heard_ms(&new.heard))
    .execute(&mut **change)
    .await?;
    Ok(())
}

async fn insert_lines(
    change: &mut Transaction<'_, Db>,
    job: JobId,
    lines: &[LogLine],
) -> Result<(), StoreError> {
    for line in lines {
        sqlx::query(
            "INSERT INTO job_logs (job_id, source, level, created_at, stage, output) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(job.to_string())
        .bind(source(line.source))
        .bind(line.level.as_str())
        .bind(millis(line.created_at))
        .bind(&line.stage)
        .bind(&line.output)
        .execute(&mut **change)
        .await?;
    }
    Ok(())
}

fn source(source: LogSource) -> &'static str {
    match source {
        LogSource::ProvisionerDaemon => "provisioner_daemon",
        LogSource::Provisioner => "provisioner",
    }
}

fn gone(job: JobId) -> StoreError {
    StoreError::NotFound {
        what: "job",
        id: job.to_string(),
    }
}

/// SQL condition under which a job has a status; the same as [`JobRecord::status`].
pub(super) fn condition(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => {
            "(completed_at IS NULL AND error = '' AND canceled_at IS NULL AND started_at IS NULL)"
        }
        JobStatus::Running => {
            "(completed_at IS NULL AND error = '' AND canceled_at IS NULL AND started_at IS NOT NULL)"
        }
        JobStatus::Cancelling => {
            "(completed_at IS NULL AND error = '' AND canceled_at IS NOT NULL)"
        }
        JobStatus::Succeeded => "(completed_at IS NOT NULL AND error = '' AND canceled_at IS NULL)",
        JobStatus::Failed => "(error <> '' AND (completed_at IS NULL OR canceled_at IS NULL))",
        JobStatus::Cancelled => "(completed_at IS NOT NULL AND canceled_at IS NOT NULL)",
    }
}

async fn apply(change: &mut Transaction<'_, Db>, end: &End) -> Result<(), StoreError> {
    match &end.effect {
        Effect::None => Ok(()),
        Effect::Build {
            build,
            state,
            made,
            agents,
            deleted,
        } => {
            for new in agents {
                agents::insert(change, *build, new).await?;
            }
            if *deleted || !agents.is_empty() {
                agents::drop_older_logs(change, *build).await?;
            }
            workspaces::finish_build(change, *build, state, made.as_ref(), *deleted, end.now).await
        }
        Effect::Import {
            version,
            import_output,
            plan,
        } => {
            templates::set_learned(change, *version, import_output).await?;
            let row = sqlx::query("UPDATE versions SET plan = ? WHERE id = ? RETURNING activate")
                .bind(plan.as_ref().map(|plan| plan.0.as_slice()))
                .bind(version.to_string())
                .fetch_one(&mut **change)
                .await?;
            if Columns::of("versions", &row).flag("activate")? {
                templates::activate(change, *version, end.now).await?;
            }
            Ok(())
        }
        Effect::DryRun(result) => {
            sqlx::query("UPDATE jobs SET result = ? WHERE id = ?")
                .bind(&result.0)
                .bind(end.job.to_string())
                .execute(&mut **change)
                .await?;
            Ok(())
        }
    }
}

/// Returns whether this is the success of a build whose workspace is as the build left it. Other jobs have made nothing
/// that would be lost.
async fn is_late_success(change: &mut Transaction<'_, Db>, end: &End) -> Result<bool, StoreError> {
    let Effect::Build { build, state, .. } = &end.effect else {
        return Ok(false);
    };
    let is_success = end.by == EndedBy::Daemon && end.error.is_empty();
    Ok(is_success && workspaces::is_untouched_since(change, *build, state).await?)
}

#[async_trait]
impl JobStore for Sqlite {
    async fn insert_job(&self, new: &JobRecord) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        insert(&mut change, new).await?;
        Ok(change.commit().await?)
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        let row = sqlx::query(&format!("{JOB} WHERE id = ?"))
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(job).transpose()
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        let conditions: Vec<_> = filter.statuses.iter().copied().map(condition).collect();
        let any = if conditions.is_empty() {
            "TRUE".to_owned()
        } else {
            conditions.join(" OR ")
        };
        let query = format!(
            "{JOB} WHERE (?1 IS NULL OR organization_id = ?1) AND (?2 IS NULL OR initiator_id = ?2) AND ({any})
             ORDER BY created_at DESC, rowid DESC LIMIT ?3"
        );
        let rows = sqlx::query(&query)
            .bind(filter.organization.map(|id| id.to_string()))
            .bind(filter.initiator.map(|id| id.to_string()))
            .bind(i64::try_from(filter.limit).unwrap_or(i64::MAX))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(job).collect()
    }

    async fn jobs_beginning(
        &self,
        prefix: &str,
        initiator: Option<UserId>,
    ) -> Result<Vec<JobId>, StoreError> {
        // Digits and hyphens all sort before `g`.
        let rows = sqlx::query(
            "SELECT id FROM jobs WHERE id >= ?1 AND id < ?1 || 'g' AND (?2 IS NULL OR initiator_id = ?2) LIMIT 2",
        )
        .bind(prefix)
        .bind(initiator.map(|id| id.to_string()))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| Columns::of("jobs", row).id("id"))
            .collect()
    }

    async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, organization_id, provisioner, tags, prebuild, created_at FROM jobs
             WHERE completed_at IS NULL AND started_at IS NULL AND canceled_at IS NULL",
        )
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                let row = Columns::of("jobs", row);
                Ok(Waiting {
                    id: row.id("id")?,
                    organization_id: row.id("organization_id")?,
                    provisioner: row.text("provisioner")?,
                    tags: row.tags("tags")?,
                    prebuild: row.flag("prebuild")?,
                    created_at: row.time("created_at")?,
                })
            })
            .collect()
    }

    async fn count_anew(&self, now: &Uptime) -> Result<(), StoreError> {
        let mut write = self.begin().await?;
        sqlx::query(
            "UPDATE jobs SET heard_boot = ?1, heard_ms = ?2 WHERE completed_at IS NULL AND heard_boot <> ?1",
        )
        .bind(&now.boot)
        .bind(heard_ms(now))
        .execute(&mut *write)
        .await?;
        Ok(write.commit().await?)
    }

    async fn open_jobs(&self) -> Result<Vec<JobRecord>, StoreError> {
        let query = format!("{JOB} WHERE completed_at IS NULL ORDER BY created_at");
        let rows = sqlx::query(&query).fetch_all(&self.reader).await?;
        rows.iter().map(job).collect()
    }

    async fn start_job(
        &self,
        job: JobId,
        daemon: &Daemon,
        now: Timestamp,
        heard: &Uptime,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE jobs SET started_at = ?1, updated_at = ?1, worker = ?2, worker_name = ?3, heard_boot = ?5,
               heard_ms = ?6, worker_state_id = ?7
             WHERE id = ?4 AND started_at IS NULL AND canceled_at IS NULL AND completed_at IS NULL",
        )
        .bind(millis(now))
        .bind(daemon.id.to_string())
        .bind(&daemon.name)
        .bind(job.to_string())
        .bind(&heard.boot)
        .bind(heard_ms(heard))
        .bind(&daemon.state_id)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn update_job(&self, change: JobChange) -> Result<bool, StoreError> {
        let mut write = self.begin().await?;
        let row = sqlx::query(
            "UPDATE jobs SET updated_at = ?, heard_boot = ?, heard_ms = ? WHERE id = ?
             RETURNING log_bytes, log_truncated, canceled_at",
        )
        .bind(millis(change.now))
        .bind(&change.heard.boot)
        .bind(heard_ms(&change.heard))
        .bind(change.job.to_string())
        .fetch_optional(&mut *write)
        .await?
        .ok_or_else(|| gone(change.job))?;
        sqlx::query("UPDATE daemons SET last_seen_at = ?1 WHERE id = (SELECT worker FROM jobs WHERE id = ?2)")
            .bind(millis(change.now))
            .bind(change.job.to_string())
            .execute(&mut *write)
            .await?;
        let row = Columns::of("jobs", &row);
        if !change.lines.is_empty() && !row.flag("log_truncated")? {
            let stored = usize::try_from(row.number("log_bytes")?).unwrap_or(usize::MAX);
            let admitted = job_log::admit(stored, change.lines);
            insert_lines(&mut write, change.job, &admitted.lines).await?;
            sqlx::query("UPDATE jobs SET log_bytes = ?, log_truncated = ? WHERE id = ?")
                .bind(i64::try_from(admitted.stored_bytes).unwrap_or(i64::MAX))
                .bind(admitted.truncated)
                .bind(change.job.to_string())
                .execute(&mut *write)
                .await?;
        }
        if let Some((version, import_output)) = &change.import_output {
            templates::set_learned(&mut write, *version, import_output).await?;
        }
        write.commit().await?;
        Ok(row.optional_time("canceled_at")?.is_some())
    }

    async fn cancel_job(&self, id: JobId, now: Timestamp) -> Result<Cancelled, StoreError> {
        let mut change = self.begin().await?;
        let row = sqlx::query(&format!("{JOB} WHERE id = ?"))
            .bind(id.to_string())
            .fetch_optional(&mut *change)
            .await?
            .ok_or_else(|| gone(id))?;
        let found = job(&row)?;
        let (query, outcome) = match (found.status(), found.started_at) {
            (JobStatus::Queued, _) => (
                "UPDATE jobs SET canceled_at = ?1, updated_at = ?1, completed_at = ?1, ended_by = 'person' WHERE id = ?2",
                Cancelled::Ended,
            ),
            (JobStatus::Running, Some(_)) => (
                "UPDATE jobs SET canceled_at = ?1 WHERE id = ?2",
                Cancelled::Asked,
            ),
            (_, _) => return Ok(Cancelled::Before),
        };
        sqlx::query(query)
            .bind(millis(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(outcome)
    }

    async fn end_job(&self, end: End) -> Result<Ended, StoreError> {
        let mut change = self.begin().await?;
        let row = sqlx::query("SELECT ended_by, heard_boot, heard_ms FROM jobs WHERE id = ?")
            .bind(end.job.to_string())
            .fetch_optional(&mut *change)
            .await?
            .ok_or_else(|| gone(end.job))?;
        let row = Columns::of("jobs", &row);
        let before = row.optional_word::<EndedBy>("ended_by")?;
        if let Some(by) = before
            && !(by == EndedBy::Reaper && is_late_success(&mut change, &end).await?)
        {
            return Ok(Ended::Before(by));
        }
        let heard = heard(&row)?;
        if end
            .silent_since
            .as_ref()
            .is_some_and(|since| *since != heard)
        {
            return Ok(Ended::Alive);
        }
        insert_lines(&mut change, end.job, &end.lines).await?;
        apply(&mut change, &end).await?;
        sqlx::query(
            "UPDATE jobs SET completed_at = ?1, updated_at = ?1, error = ?2, error_code = ?3, ended_by = ?4
             WHERE id = ?5",
        )
        .bind(millis(end.now))
        .bind(&end.error)
        .bind(end.error_code.map(|code| code.as_str()))
        .bind(end.by.as_str())
        .bind(end.job.to_string())
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        Ok(match before {
            None => Ended::Now,
            Some(_) => Ended::Late,
        })
    }

    async fn last_stage(&self, job: JobId) -> Result<String, StoreError> {
        let row =
            sqlx::query("SELECT stage FROM job_logs WHERE job_id = ? ORDER BY id DESC LIMIT 1")
                .bind(job.to_string())
                .fetch_optional(&self.reader)
                .await?;
        row.map_or(Ok(String::new()), |row| {
            Columns::of("job_logs", &row).text("stage")
        })
    }

    async fn dry_run(&self, job: JobId) -> Result<Option<Sealed>, StoreError> {
        let row = sqlx::query("SELECT result FROM jobs WHERE id = ?")
            .bind(job.to_string())
            .fetch_optional(&self.reader)
            .await?
            .ok_or_else(|| gone(job))?;
        Columns::of("jobs", &row).optional_sealed("result")
    }

    async fn log_lines(
        &self,
        job: JobId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredLine>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM job_logs WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?")
                .bind(job.to_string())
                .bind(after)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&self.reader)
                .await?;
        rows.iter()
            .map(|row| {
                let row = Columns::of("job_logs", row);
                Ok(StoredLine {
                    id: row.number("id")?,
                    line: LogLine {
                        source: row.word("source")?,
                        level: row.word("level")?,
                        created_at: row.time("created_at")?,
                        stage: row.text("stage")?,
                        output: row.text("output")?,
                    },
                })
            })
            .collect()
    }
}
