//! Files, templates and their versions.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::{Sqlite as Db, Transaction, sqlite::SqliteRow};

use super::{
    super::{NewVersion, StoreError, TemplateStore},
    Sqlite,
    columns::{Columns, json},
    jobs, millis, unless_unique,
};
use crate::{
    crypt::Sealed,
    model::{
        File, FileId, FileKind, ImportOutput, OrganizationId, Template, TemplateId, Version,
        VersionId,
    },
};

fn template(row: &SqliteRow) -> Result<Template, StoreError> {
    let row = Columns::of("templates", row);
    Ok(Template {
        id: row.id("id")?,
        organization_id: row.id("organization_id")?,
        name: row.text("name")?,
        active_version: row.optional_id("active_version")?,
        created_by: row.id("created_by")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        deleted_at: row.optional_time("deleted_at")?,
    })
}

fn version(row: &SqliteRow) -> Result<Version, StoreError> {
    let row = Columns::of("versions", row);
    Ok(Version {
        id: row.id("id")?,
        template_id: row.id("template_id")?,
        name: row.text("name")?,
        message: row.text("message")?,
        file_id: row.id("file_id")?,
        job_id: row.id("job_id")?,
        activate: row.flag("activate")?,
        tags: row.tags("tags")?,
        created_by: row.id("created_by")?,
        created_at: row.time("created_at")?,
    })
}

fn file(row: &SqliteRow) -> Result<File, StoreError> {
    let row = Columns::of("files", row);
    Ok(File {
        id: row.id("id")?,
        kind: match row.text("kind")?.as_str() {
            "template" => FileKind::Template,
            _ => FileKind::Modules,
        },
        sha256: row.text("sha256")?,
        content: row.bytes("content")?.into(),
    })
}

/// Length of a file, without reading it.
fn bytes(row: &SqliteRow) -> Result<usize, StoreError> {
    let bytes = Columns::of("files", row).number("bytes")?;
    Ok(usize::try_from(bytes).unwrap_or_default())
}

impl FileKind {
    fn column(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Modules => "modules",
        }
    }
}

/// Adds a template that has no version yet.
async fn insert_template(
    change: &mut Transaction<'_, Db>,
    new: &Template,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO templates (id, organization_id, name, created_by, created_at, updated_at, deleted_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.id.to_string())
    .bind(new.organization_id.to_string())
    .bind(&new.name)
    .bind(new.created_by.to_string())
    .bind(millis(new.created_at))
    .bind(millis(new.updated_at))
    .bind(new.deleted_at.map(millis))
    .execute(&mut **change)
    .await
    .map_err(unless_unique(|| {
        format!("there is already a template `{}`", new.name)
    }))?;
    Ok(())
}

/// Makes a version the one that new workspaces use.
pub(super) async fn activate(
    change: &mut Transaction<'_, Db>,
    id: VersionId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE templates SET active_version = ?1, updated_at = ?2
         WHERE id = (SELECT template_id FROM versions WHERE id = ?1)",
    )
    .bind(id.to_string())
    .bind(millis(now))
    .execute(&mut **change)
    .await?;
    Ok(())
}

/// Stores the output of an import so far.
pub(super) async fn set_learned(
    change: &mut Transaction<'_, Db>,
    id: VersionId,
    import_output: &ImportOutput,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE versions SET learned = ? WHERE id = ?")
        .bind(json(import_output))
        .bind(id.to_string())
        .execute(&mut **change)
        .await?;
    Ok(())
}

#[async_trait]
impl TemplateStore for Sqlite {
    async fn insert_file(&self, kind: FileKind, content: Bytes) -> Result<FileId, StoreError> {
        let sha256 = hex::encode(Sha256::digest(&content));
        // SQLite hands out the row before it has written it, so that only the commit tells of a full disk.
        let mut change = self.begin().await?;
        let row = sqlx::query(
            "INSERT INTO files (id, kind, sha256, content) VALUES (?, ?, ?, ?)
             ON CONFLICT (kind, sha256) DO UPDATE SET kind = excluded.kind RETURNING id",
        )
        .bind(FileId::random().to_string())
        .bind(kind.column())
        .bind(sha256)
        .bind(content.as_ref())
        .fetch_one(&mut *change)
        .await?;
        change.commit().await?;
        Columns::of("files", &row).id("id")
    }

    async fn file(&self, id: FileId) -> Result<Option<File>, StoreError> {
        let row = sqlx::query("SELECT * FROM files WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(file).transpose()
    }

    async fn file_by_hash(&self, kind: FileKind, sha256: &str) -> Result<Option<File>, StoreError> {
        let row = sqlx::query("SELECT * FROM files WHERE kind = ? AND sha256 = ?")
            .bind(kind.column())
            .bind(sha256)
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(file).transpose()
    }

    async fn modules_bytes(
        &self,
        organization: OrganizationId,
        file: FileId,
    ) -> Result<Option<usize>, StoreError> {
        let row = sqlx::query(
            "SELECT length(content) AS bytes FROM files WHERE id = ? AND kind = 'modules' AND EXISTS
               (SELECT 1 FROM versions v JOIN templates t ON t.id = v.template_id
                WHERE t.organization_id = ? AND v.learned ->> '$.modules_file' = files.id)",
        )
        .bind(file.to_string())
        .bind(organization.to_string())
        .fetch_optional(&self.reader)
        .await?;
        row.as_ref().map(bytes).transpose()
    }

    async fn unused_modules(&self) -> Result<Vec<(String, usize)>, StoreError> {
        let rows = sqlx::query(
            "SELECT sha256, length(content) AS bytes FROM files WHERE kind = 'modules' AND id NOT IN
               (SELECT learned ->> '$.modules_file' FROM versions WHERE learned ->> '$.modules_file' IS NOT NULL)
             LIMIT 1000",
        )
        .fetch_all(&self.reader)
        .await?;
        let found = rows
            .iter()
            .map(|row| Ok((Columns::of("files", row).text("sha256")?, bytes(row)?)));
        found.collect()
    }

    async fn remove_unused_modules(&self, sha256: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "DELETE FROM files WHERE kind = 'modules' AND sha256 = ? AND NOT EXISTS
               (SELECT 1 FROM versions WHERE learned ->> '$.modules_file' = files.id)",
        )
        .bind(sha256)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn insert_version(&self, new: NewVersion) -> Result<(), StoreError> {
        let version = &new.version;
        let mut change = self.begin().await?;
        if let Some(template) = &new.template {
            insert_template(&mut change, template).await?;
        }
        sqlx::query(
            "INSERT INTO versions (id, template_id, name, message, file_id, job_id, activate, tags, created_by,
               created_at, variables, learned)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(version.id.to_string())
        .bind(version.template_id.to_string())
        .bind(&version.name)
        .bind(&version.message)
        .bind(version.file_id.to_string())
        .bind(version.job_id.to_string())
        .bind(version.activate)
        .bind(json(&version.tags))
        .bind(version.created_by.to_string())
        .bind(millis(version.created_at))
        .bind(&new.variables.0)
        .bind(json(&ImportOutput::default()))
        .execute(&mut *change)
        .await
        .map_err(unless_unique(|| {
            format!("the template already has a version `{}`", version.name)
        }))?;
        jobs::insert(&mut change, &new.job).await?;
        Ok(change.commit().await?)
    }

    async fn templates(&self) -> Result<Vec<Template>, StoreError> {
        let rows = sqlx::query("SELECT * FROM templates WHERE deleted_at IS NULL ORDER BY name")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(template).collect()
    }

    async fn template(&self, id: TemplateId) -> Result<Option<Template>, StoreError> {
        let row = sqlx::query("SELECT * FROM templates WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(template).transpose()
    }

    async fn rename_template(
        &self,
        id: TemplateId,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE templates SET name = ?, updated_at = ? WHERE id = ?")
            .bind(name)
            .bind(millis(now))
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map_err(unless_unique(|| {
                format!("there is already a template `{name}`")
            }))?;
        Ok(())
    }

    async fn delete_template(&self, id: TemplateId, now: Timestamp) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let used = sqlx::query(
            "SELECT name FROM workspaces WHERE template_id = ? AND deleted_at IS NULL LIMIT 1",
        )
        .bind(id.to_string())
        .fetch_optional(&mut *change)
        .await?;
        if let Some(row) = used {
            let name = Columns::of("workspaces", &row).text("name")?;
            return Err(StoreError::Conflict(format!(
                "the workspace `{name}` is made from this template; delete it first"
            )));
        }
        sqlx::query("UPDATE templates SET deleted_at = ? WHERE id = ?")
            .bind(millis(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    async fn name_draft(
        &self,
        id: TemplateId,
        draft: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let done = sqlx::query(
            "UPDATE templates SET name = ?, updated_at = ?, deleted_at = NULL
             WHERE id = ? AND name = ? AND deleted_at IS NOT NULL",
        )
        .bind(name)
        .bind(millis(now))
        .bind(id.to_string())
        .bind(draft)
        .execute(&mut *change)
        .await
        .map_err(unless_unique(|| {
            format!("there is already a template `{name}`")
        }))?;
        if done.rows_affected() == 0 {
            let why = "the version belongs to a template already";
            return Err(StoreError::Conflict(why.to_owned()));
        }
        Ok(change.commit().await?)
    }

    async fn versions(&self, template: TemplateId) -> Result<Vec<Version>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM versions WHERE template_id = ? ORDER BY created_at DESC, rowid DESC",
        )
        .bind(template.to_string())
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(version).collect()
    }

    async fn version(&self, id: VersionId) -> Result<Option<Version>, StoreError> {
        let row = sqlx::query("SELECT * FROM versions WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(version).transpose()
    }

    async fn import_output(&self, id: VersionId) -> Result<ImportOutput, StoreError> {
        let row = sqlx::query("SELECT learned FROM versions WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?
            .ok_or_else(|| missing(id))?;
        Columns::of("versions", &row).json("learned")
    }

    async fn version_variables(&self, id: VersionId) -> Result<Sealed, StoreError> {
        let row = sqlx::query("SELECT variables FROM versions WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?
            .ok_or_else(|| missing(id))?;
        Columns::of("versions", &row).sealed("variables")
    }

    async fn activate_version(&self, id: VersionId, now: Timestamp) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        activate(&mut change, id, now).await?;
        Ok(change.commit().await?)
    }
}

fn missing(id: VersionId) -> StoreError {
    StoreError::NotFound {
        what: "template version",
        id: id.to_string(),
    }
}
