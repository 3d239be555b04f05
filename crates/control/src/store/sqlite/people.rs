//! Organizations, users, tokens and keys.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;

use super::{
    super::{PeopleStore, StoreError},
    Sqlite,
    columns::{Columns, json},
    millis, unless_unique,
};
use crate::{
    model::{KeyId, Organization, OrganizationId, ProvisionerKey, Token, TokenId, User, UserId},
    tokens::Hashed,
};

/// Mark in the names of deleted rows, and in no others, so that the name is free again.
const DELETED: char = '~';

/// Name of a row that may be deleted.
fn name(row: &Columns<'_>) -> Result<String, StoreError> {
    let name = row.text("name")?;
    let deleted = row.optional_time("deleted_at")?.is_some();
    Ok(match name.split_once(DELETED) {
        Some((name, _)) if deleted => format!("{name} (deleted)"),
        Some(_) | None => name,
    })
}

fn organization(row: &SqliteRow) -> Result<Organization, StoreError> {
    let row = Columns::of("organizations", row);
    Ok(Organization {
        id: row.id("id")?,
        name: name(&row)?,
        is_default: row.flag("is_default")?,
        created_at: row.time("created_at")?,
    })
}

fn user(row: &SqliteRow) -> Result<User, StoreError> {
    let row = Columns::of("users", row);
    Ok(User {
        id: row.id("id")?,
        name: name(&row)?,
        email: row.text("email")?,
        full_name: row.text("full_name")?,
        admin: row.flag("admin")?,
        suspended_at: row.optional_time("suspended_at")?,
        budget: row.optional_small("budget")?,
        created_at: row.time("created_at")?,
    })
}

fn token(row: &SqliteRow) -> Result<Token, StoreError> {
    let row = Columns::of("tokens", row);
    Ok(Token {
        id: row.id("id")?,
        user_id: row.id("user_id")?,
        name: row.text("name")?,
        created_at: row.time("created_at")?,
        expires_at: row.optional_time("expires_at")?,
        last_used_at: row.optional_time("last_used_at")?,
    })
}

fn key(row: &SqliteRow) -> Result<ProvisionerKey, StoreError> {
    let row = Columns::of("provisioner_keys", row);
    Ok(ProvisionerKey {
        id: row.id("id")?,
        organization_id: row.id("organization_id")?,
        name: row.text("name")?,
        tags: row.tags("tags")?,
        created_at: row.time("created_at")?,
    })
}

#[async_trait]
impl PeopleStore for Sqlite {
    async fn organizations(&self) -> Result<Vec<Organization>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM organizations WHERE deleted_at IS NULL ORDER BY name")
                .fetch_all(&self.reader)
                .await?;
        rows.iter().map(organization).collect()
    }

    async fn organizations_ever(&self) -> Result<Vec<Organization>, StoreError> {
        let rows = sqlx::query("SELECT * FROM organizations ORDER BY name")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(organization).collect()
    }

    async fn delete_organization(
        &self,
        id: OrganizationId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        for (what, query) in [
            (
                "a workspace",
                "SELECT name FROM workspaces WHERE organization_id = ? AND deleted_at IS NULL LIMIT 1",
            ),
            (
                "a template",
                "SELECT name FROM templates WHERE organization_id = ? AND deleted_at IS NULL LIMIT 1",
            ),
            (
                "a job that has not ended",
                "SELECT id AS name FROM jobs WHERE organization_id = ? AND completed_at IS NULL LIMIT 1",
            ),
        ] {
            let found = sqlx::query(query)
                .bind(id.to_string())
                .fetch_optional(&mut *change)
                .await?;
            if let Some(row) = found {
                let name = Columns::of("organizations", &row).text("name")?;
                return Err(StoreError::Conflict(format!(
                    "the organization still has {what}: `{name}`"
                )));
            }
        }
        for query in [
            "DELETE FROM daemons WHERE organization_id = ?",
            "DELETE FROM provisioner_keys WHERE organization_id = ?",
        ] {
            sqlx::query(query)
                .bind(id.to_string())
                .execute(&mut *change)
                .await?;
        }
        sqlx::query(
            "UPDATE organizations SET name = name || ?1 || substr(id, 1, 8), deleted_at = ?2
             WHERE id = ?3 AND deleted_at IS NULL",
        )
        .bind(DELETED.to_string())
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    async fn insert_organization(&self, new: &Organization) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO organizations (id, name, is_default, created_at) VALUES (?, ?, ?, ?)",
        )
        .bind(new.id.to_string())
        .bind(&new.name)
        .bind(new.is_default)
        .bind(millis(new.created_at))
        .execute(&self.writer)
        .await
        .map_err(unless_unique(|| {
            format!("there is already an organization `{}`", new.name)
        }))?;
        Ok(())
    }

    async fn users(&self) -> Result<Vec<User>, StoreError> {
        let rows = sqlx::query("SELECT * FROM users WHERE deleted_at IS NULL ORDER BY name")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(user).collect()
    }

    async fn users_ever(&self) -> Result<Vec<User>, StoreError> {
        let rows = sqlx::query("SELECT * FROM users ORDER BY name")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(user).collect()
    }

    async fn insert_user(&self, new: &User) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO users (id, name, email, full_name, admin, budget, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(new.id.to_string())
        .bind(&new.name)
        .bind(&new.email)
        .bind(&new.full_name)
        .bind(new.admin)
        .bind(new.budget)
        .bind(millis(new.created_at))
        .execute(&self.writer)
        .await
        .map_err(unless_unique(|| {
            format!("there is already a user `{}`", new.name)
        }))?;
        Ok(())
    }

    async fn set_budget(&self, user: UserId, budget: Option<i32>) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET budget = ? WHERE id = ?")
            .bind(budget)
            .bind(user.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn set_admin(&self, user: UserId, admin: bool) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET admin = ? WHERE id = ?")
            .bind(admin)
            .bind(user.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn set_suspended(
        &self,
        user: UserId,
        since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET suspended_at = ? WHERE id = ?")
            .bind(since.map(millis))
            .bind(user.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let owned = sqlx::query(
            "SELECT name FROM workspaces WHERE owner_id = ? AND deleted_at IS NULL LIMIT 1",
        )
        .bind(id.to_string())
        .fetch_optional(&mut *change)
        .await?;
        if let Some(row) = owned {
            let name = Columns::of("workspaces", &row).text("name")?;
            return Err(StoreError::Conflict(format!(
                "the user has workspaces, such as `{name}`; delete them first"
            )));
        }
        sqlx::query("DELETE FROM tokens WHERE user_id = ?")
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "UPDATE users SET name = name || ?1 || substr(id, 1, 8), deleted_at = ?2
             WHERE id = ?3 AND deleted_at IS NULL",
        )
        .bind(DELETED.to_string())
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    async fn insert_token(&self, new: &Token, value: &Hashed) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tokens (id, user_id, name, hash, created_at, expires_at)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(new.id.to_string())
        .bind(new.user_id.to_string())
        .bind(&new.name)
        .bind(value.0.as_slice())
        .bind(millis(new.created_at))
        .bind(new.expires_at.map(millis))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn token(&self, value: &Hashed) -> Result<Option<(Token, User)>, StoreError> {
        // What is looked up is a hash, so the time this takes tells nothing about the value.
        let Some(row) = sqlx::query("SELECT * FROM tokens WHERE hash = ?")
            .bind(value.0.as_slice())
            .fetch_optional(&self.reader)
            .await?
        else {
            return Ok(None);
        };
        let token = token(&row)?;
        let row = sqlx::query("SELECT * FROM users WHERE id = ?")
            .bind(token.user_id.to_string())
            .fetch_one(&self.reader)
            .await?;
        Ok(Some((token, user(&row)?)))
    }

    async fn tokens(&self, user: Option<UserId>) -> Result<Vec<Token>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM tokens WHERE ?1 IS NULL OR user_id = ?1 ORDER BY created_at, id",
        )
        .bind(user.map(|user| user.to_string()))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(token).collect()
    }

    async fn touch_token(&self, token: TokenId, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE tokens SET last_used_at = ? WHERE id = ?")
            .bind(millis(now))
            .bind(token.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn replace_token(&self, new: &Token, value: &Hashed) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE tokens SET hash = ?, created_at = ?, expires_at = ?, last_used_at = NULL WHERE id = ?",
        )
        .bind(value.0.as_slice())
        .bind(millis(new.created_at))
        .bind(new.expires_at.map(millis))
        .bind(new.id.to_string())
        .execute(&self.writer)
        .await?;
        match done.rows_affected() {
            0 => Err(StoreError::NotFound {
                what: "token",
                id: new.id.to_string(),
            }),
            _ => Ok(()),
        }
    }

    async fn delete_token(&self, token: TokenId) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM tokens WHERE id = ?")
            .bind(token.to_string())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn delete_tokens_named(&self, user: UserId, name: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM tokens WHERE user_id = ? AND name = ?")
            .bind(user.to_string())
            .bind(name)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn insert_key(&self, new: &ProvisionerKey, value: &Hashed) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO provisioner_keys (id, organization_id, name, hash, tags, created_at)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(new.id.to_string())
        .bind(new.organization_id.to_string())
        .bind(&new.name)
        .bind(value.0.as_slice())
        .bind(json(&new.tags))
        .bind(millis(new.created_at))
        .execute(&self.writer)
        .await
        .map_err(unless_unique(|| {
            format!("there is already a provisioner key `{}`", new.name)
        }))?;
        Ok(())
    }

    async fn key(&self, value: &Hashed) -> Result<Option<ProvisionerKey>, StoreError> {
        let row = sqlx::query("SELECT * FROM provisioner_keys WHERE hash = ?")
            .bind(value.0.as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(key).transpose()
    }

    async fn keys(&self) -> Result<Vec<ProvisionerKey>, StoreError> {
        let rows = sqlx::query("SELECT * FROM provisioner_keys ORDER BY name")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(key).collect()
    }

    async fn delete_key(&self, key: KeyId) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM provisioner_keys WHERE id = ?")
            .bind(key.to_string())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }
}
