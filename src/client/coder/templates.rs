//! Templates of a real coderd: their files, versions and imports.
//!
//! # Source
//! coder `codersdk/files.go`, `codersdk/organizations.go`, `codersdk/templates.go`, `codersdk/templateversions.go`,
//! `coderd/files.go`.

use std::collections::BTreeMap;

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Body, Coder, PushError};

/// Organization of templates whose organization is not named; every server has it.
pub const DEFAULT_ORGANIZATION: &str = "default";

/// Largest archive that coderd takes, in bytes.
const MAX_ARCHIVE_BYTES: usize = 100 << 20;

/// A new version of a template.
#[derive(Clone, Debug, Default)]
pub struct NewVersion {
    /// Name of the version; empty if the server makes one up.
    pub name: String,
    /// Tells people what is new.
    pub message: String,
    /// The template, as an uncompressed tar archive.
    pub archive: Bytes,
    /// Values of variables, by name.
    pub variables: Vec<(String, String)>,
    /// Tags that a daemon must have.
    pub tags: BTreeMap<String, String>,
}

/// A template.
#[derive(Clone, Debug, Deserialize)]
pub struct Template {
    /// Id of the template.
    pub id: String,
    /// Id of the version that new workspaces get.
    pub active_version_id: String,
}

/// A version of a template, and its import.
#[derive(Clone, Debug, Deserialize)]
pub struct Version {
    /// Id of the version.
    pub id: String,
    /// Name of the version.
    pub name: String,
    /// The job that imports it.
    pub job: Import,
}

/// The job that imports a version.
#[derive(Clone, Debug, Deserialize)]
pub struct Import {
    /// `pending`, `running`, `succeeded`, `canceling`, `canceled` or `failed`.
    pub status: String,
    /// Reason of a failure; empty for none.
    #[serde(default)]
    pub error: String,
    /// Code of a known failure, such as `REQUIRED_TEMPLATE_VARIABLES`.
    #[serde(default)]
    pub error_code: String,
    /// The archive of the version.
    #[serde(default)]
    pub file_id: String,
}

impl Import {
    /// Returns whether the job has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "canceled")
    }
}

/// A line of an import's log.
#[derive(Clone, Debug, Deserialize)]
pub struct ImportLine {
    /// Number of the line; those of later lines are larger.
    pub id: i64,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    #[serde(rename = "log_level")]
    pub level: String,
    /// The stage, such as `Planning infrastructure`.
    #[serde(default)]
    pub stage: String,
    /// Text of the line.
    pub output: String,
}

#[derive(Deserialize)]
struct Uploaded {
    hash: String,
}

#[derive(Serialize)]
struct Variable<'a> {
    name: &'a str,
    value: &'a str,
}

impl Coder {
    /// Returns a template by its name; `None` if there is none.
    ///
    /// # Errors
    /// [`PushError::Call`], [`PushError::Refused`] or [`PushError::Invalid`], as for all calls here.
    pub async fn template(
        &self,
        organization: &str,
        name: &str,
    ) -> Result<Option<Template>, PushError> {
        let path = ["organizations", organization, "templates", name];
        match self.json("read the template", &path).await {
            Err(PushError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
            found => found.map(Some),
        }
    }

    /// Uploads an archive and creates a version of it, of a template that does not exist yet if `template` is `None`.
    ///
    /// # Errors
    /// The same.
    pub async fn create_version(
        &self,
        organization: &str,
        template: Option<&Template>,
        version: &NewVersion,
    ) -> Result<Version, PushError> {
        const UPLOAD: &str = "upload the template";
        if version.archive.len() > MAX_ARCHIVE_BYTES {
            let reason = format!(
                "it has {} MiB, and the server takes {}",
                version.archive.len() >> 20,
                MAX_ARCHIVE_BYTES >> 20
            );
            return Err(PushError::Invalid {
                what: UPLOAD,
                reason,
            });
        }
        let archive = Body::Tar(version.archive.clone());
        let uploaded = self
            .call(UPLOAD, Method::POST, &["files"], &[], Some(archive))
            .await?;
        let uploaded: Uploaded = super::parsed(UPLOAD, &uploaded)?;
        let variable = |(name, value): &(String, String)| json!(Variable { name, value });
        let mut asked = json!({
            "name": version.name,
            "message": version.message,
            "storage_method": "file",
            "file_id": uploaded.hash,
            "provisioner": "terraform",
            "tags": version.tags,
            "user_variable_values": version.variables.iter().map(variable).collect::<Vec<_>>(),
        });
        if let Some(template) = template {
            asked["template_id"] = template.id.clone().into();
        }
        let path = ["organizations", organization, "templateversions"];
        self.send("create the version", Method::POST, &path, &asked)
            .await
    }

    /// Returns a version by its id.
    ///
    /// # Errors
    /// The same.
    pub async fn version(&self, id: &str) -> Result<Version, PushError> {
        self.json("read the version", &["templateversions", id])
            .await
    }

    /// Returns the lines of an import's log whose numbers are larger than `after`.
    ///
    /// # Errors
    /// The same.
    pub async fn import_log(
        &self,
        version: &str,
        after: i64,
    ) -> Result<Vec<ImportLine>, PushError> {
        const READ: &str = "read the log";
        let path = ["templateversions", version, "logs"];
        let after = after.to_string();
        let query = [("after", after.as_str())];
        let lines = self.call(READ, Method::GET, &path, &query, None).await?;
        super::parsed(READ, &lines)
    }

    /// Cancels an import.
    ///
    /// # Errors
    /// The same.
    pub async fn cancel_import(&self, version: &str) -> Result<(), PushError> {
        let path = ["templateversions", version, "cancel"];
        let cancelled = self.call("cancel the import", Method::PATCH, &path, &[], None);
        cancelled.await.map(drop)
    }

    /// Creates a template whose active version is one that was imported for none.
    ///
    /// # Errors
    /// The same.
    pub async fn create_template(
        &self,
        organization: &str,
        name: &str,
        version: &str,
    ) -> Result<Template, PushError> {
        let path = ["organizations", organization, "templates"];
        let asked = json!({ "name": name, "template_version_id": version });
        self.send("create the template", Method::POST, &path, &asked)
            .await
    }

    /// Makes a version the one that new workspaces get.
    ///
    /// # Errors
    /// The same.
    pub async fn activate(&self, template: &Template, version: &str) -> Result<(), PushError> {
        let path = ["templates", template.id.as_str(), "versions"];
        let asked = json!({ "id": version });
        let answer: Result<Value, _> = self
            .send("activate the version", Method::PATCH, &path, &asked)
            .await;
        answer.map(drop)
    }

    /// Returns the archive of a template's active version.
    ///
    /// # Errors
    /// The same; [`PushError::NoTemplate`] if there is none of that name.
    pub async fn active_files(&self, name: &str) -> Result<Bytes, PushError> {
        let template = self.template(DEFAULT_ORGANIZATION, name).await?;
        let template = template.ok_or_else(|| PushError::NoTemplate(name.to_owned()))?;
        let version = self.version(&template.active_version_id).await?;
        let path = ["files", version.job.file_id.as_str()];
        let read = self.call("download the template", Method::GET, &path, &[], None);
        Ok(read.await?.into())
    }
}
