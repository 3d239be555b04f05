//! Templates, their versions, and dry runs of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use outpost_base::{
    job::{DryRunResult, JobId, Module, ParameterValue, Resource, Transition, VariableValue},
    secret::Secret,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Caller, Plane, RequestError, check_name, is_called, not_found};
use crate::{
    model::{
        File, FileId, FileKind, ImportOutput, JobRecord, JobStatus, OrganizationId, Task, Template,
        TemplateId, Version, VersionId,
    },
    parameters::{Answers, resolve},
    queue::Tags,
    store::NewVersion,
    workspace_tags,
};

/// The type of provisioner that all our jobs need.
const PROVISIONER: &str = "terraform";

/// Request for a version to import.
#[derive(Clone, Debug)]
pub struct VersionRequest {
    /// Name of the template, which is created if there is none of that name.
    pub template: String,
    /// Uncompressed tar archive with the template's files.
    pub archive: Bytes,
    /// Name of the version; empty for the next of `v1`, `v2`, and so on.
    pub name: String,
    /// Message that its author wrote; may be empty.
    pub message: String,
    /// Values of Terraform variables.
    pub variables: Vec<VariableValue>,
    /// Tags of the version's jobs.
    pub tags: BTreeMap<String, String>,
    /// Set if the version becomes active once it is imported.
    pub activate: bool,
}

/// Stored form of a variable's value; it exists only inside sealed values.
#[derive(Serialize, Deserialize)]
struct StoredVariable {
    name: String,
    value: String,
    sensitive: bool,
}

/// Stored form of a dry run's result.
#[derive(Default, Serialize, Deserialize)]
struct StoredDryRun {
    resources: Vec<Resource>,
    modules: Vec<Module>,
}

fn variables_place(id: VersionId) -> String {
    format!("variables of template version {id}")
}

/// Name of a template that has none yet: one that nobody may choose.
fn draft_name(id: TemplateId) -> String {
    format!("draft:{id}")
}

fn dry_run_place(id: JobId) -> String {
    format!("dry run {id}")
}

impl Plane {
    /// Returns the templates of an organization, by name.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn templates(
        &self,
        organization: OrganizationId,
    ) -> Result<Vec<Template>, RequestError> {
        let mut templates = self.store.templates().await?;
        templates.retain(|template| template.organization_id == organization);
        Ok(templates)
    }

    /// Finds a template by name or id.
    ///
    /// # Errors
    /// [`RequestError::NotFound`]
    pub async fn template(
        &self,
        organization: OrganizationId,
        named: &str,
    ) -> Result<Template, RequestError> {
        let templates = self.templates(organization).await?;
        templates
            .into_iter()
            .find(|template| is_called(named, &template.name, template.id))
            .ok_or_else(|| not_found("template", named))
    }

    /// Finds a version by name or id; an empty text means the active one.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if there is no active one yet.
    pub async fn version(&self, template: &Template, named: &str) -> Result<Version, RequestError> {
        let versions = self.store.versions(template.id).await?;
        let found = versions.into_iter().find(|version| match named {
            "" => Some(version.id) == template.active_version,
            _ => is_called(named, &version.name, version.id),
        });
        found.ok_or_else(|| match named {
            "" => not_found("active version of the template", &template.name),
            _ => not_found("template version", named),
        })
    }

    /// Adds a version, and its template if there is none, and queues its import.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_version(
        &self,
        caller: &Caller,
        organization: OrganizationId,
        request: VersionRequest,
    ) -> Result<Version, RequestError> {
        caller.need_admin("adding a template version")?;
        check_name("template", &request.template)?;
        let templates = self.templates(organization).await?;
        let existing = templates
            .into_iter()
            .find(|template| is_called(&request.template, &template.name, template.id));
        let is_new = existing.is_none();
        let template =
            existing.unwrap_or_else(|| self.new_template(caller, organization, &request.template));
        self.add_version(caller, template, is_new, request).await
    }

    /// Adds a version of a template that has no name yet, and queues its import. The template cannot be found before
    /// [`Self::name_draft`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn create_draft(
        &self,
        caller: &Caller,
        organization: OrganizationId,
        request: VersionRequest,
    ) -> Result<Version, RequestError> {
        caller.need_admin("adding a template version")?;
        let mut template = self.new_template(caller, organization, "");
        template.name = draft_name(template.id);
        template.deleted_at = Some(template.created_at);
        let request = VersionRequest {
            activate: true,
            ..request
        };
        self.add_version(caller, template, true, request).await
    }

    /// Gives the template of a draft its name, under which it is found from now on.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] if there is a template of that name, or the version belongs to one already.
    pub(crate) async fn name_draft(
        &self,
        caller: &Caller,
        version: &Version,
        name: &str,
    ) -> Result<Template, RequestError> {
        caller.need_admin("making a template")?;
        check_name("template", name)?;
        let id = version.template_id;
        let now = self.now();
        self.store
            .name_draft(id, &draft_name(id), name, now)
            .await?;
        let template = self.store.template(id).await?;
        template.ok_or_else(|| not_found("template", id.to_string()))
    }

    /// Stores an archive that a version may be created from, and returns its id.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn upload_template(
        &self,
        caller: &Caller,
        content: Bytes,
    ) -> Result<FileId, RequestError> {
        caller.need_admin("sending a template")?;
        if content.is_empty() {
            let why = "template archive is empty".to_owned();
            return Err(RequestError::Invalid(why));
        }
        Ok(self.store.insert_file(FileKind::Template, content).await?)
    }

    /// Returns a file that a version was, or may be, created from.
    ///
    /// # Errors
    /// [`RequestError`]
    pub(crate) async fn template_file(
        &self,
        caller: &Caller,
        id: FileId,
    ) -> Result<Option<File>, RequestError> {
        caller.need_admin("reading a template's files")?;
        Ok(self.store.file(id).await?)
    }

    async fn add_version(
        &self,
        caller: &Caller,
        template: Template,
        is_new: bool,
        request: VersionRequest,
    ) -> Result<Version, RequestError> {
        if request.archive.is_empty() {
            return Err(RequestError::Invalid(
                "template archive is empty".to_owned(),
            ));
        }
        let name = match request.name.as_str() {
            "" => format!("v{}", self.store.versions(template.id).await?.len() + 1),
            name => name.to_owned(),
        };
        let file_id = self
            .store
            .insert_file(FileKind::Template, request.archive)
            .await?;
        let tags = Tags::from_given(Some(caller.user.id), request.tags)?;
        let id = VersionId::random();
        let job = self.new_job(
            caller,
            template.organization_id,
            Task::TemplateImport { version_id: id },
            tags.clone(),
            template.name.clone(),
        );
        let version = Version {
            id,
            template_id: template.id,
            name,
            message: request.message,
            file_id,
            job_id: job.id,
            activate: request.activate,
            tags,
            created_by: caller.user.id,
            created_at: self.now(),
        };
        let new = NewVersion {
            template: is_new.then_some(template),
            version: version.clone(),
            variables: self.seal_variables(id, &request.variables),
            job,
        };
        self.store.insert_version(new).await?;
        self.posted.notify_waiters();
        Ok(version)
    }

    fn new_template(
        &self,
        caller: &Caller,
        organization_id: OrganizationId,
        name: &str,
    ) -> Template {
        let now = self.now();
        Template {
            id: TemplateId::random(),
            organization_id,
            name: name.to_owned(),
            active_version: None,
            created_by: caller.user.id,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        }
    }

    /// Returns a new job, which no daemon has taken yet.
    pub(super) fn new_job(
        &self,
        caller: &Caller,
        organization_id: OrganizationId,
        task: Task,
        tags: Tags,
        subject: String,
    ) -> JobRecord {
        let now = self.now();
        JobRecord {
            id: JobId(Uuid::new_v4()),
            organization_id,
            initiator_id: caller.user.id,
            task,
            provisioner: PROVISIONER.to_owned(),
            tags,
            prebuild: false,
            created_at: now,
            updated_at: now,
            heard: self.uptime(),
            started_at: None,
            canceled_at: None,
            completed_at: None,
            worker: None,
            worker_name: String::new(),
            subject,
            error: String::new(),
            error_code: None,
            log_truncated: false,
            ended_by: None,
        }
    }

    fn seal_variables(&self, id: VersionId, variables: &[VariableValue]) -> crate::crypt::Sealed {
        let stored: Vec<_> = variables
            .iter()
            .map(|variable| StoredVariable {
                name: variable.name.clone(),
                value: variable.value.expose().to_owned(),
                sensitive: variable.sensitive,
            })
            .collect();
        let json = serde_json::to_vec(&stored).expect("text and flags have a JSON form");
        self.vault.seal(&variables_place(id), &json)
    }

    /// Returns the values of Terraform variables that a version's author gave.
    pub(super) async fn given_variables(
        &self,
        id: VersionId,
    ) -> Result<Vec<VariableValue>, RequestError> {
        let sealed = self.store.version_variables(id).await?;
        let stored: Vec<StoredVariable> = self.open_json(variables_place(id), &sealed)?;
        Ok(stored
            .into_iter()
            .map(|variable| VariableValue {
                name: variable.name,
                value: Secret::new(variable.value),
                sensitive: variable.sensitive,
            })
            .collect())
    }

    /// Returns the values of all Terraform variables that a version declares.
    pub(super) async fn variables(
        &self,
        id: VersionId,
        import_output: &ImportOutput,
    ) -> Result<Vec<VariableValue>, RequestError> {
        let given = self.given_variables(id).await?;
        Ok(super::outcome::variable_values(
            &import_output.variables,
            &given,
        ))
    }

    /// Decrypts a sealed value that is JSON.
    pub(super) fn open_json<T: serde::de::DeserializeOwned>(
        &self,
        place: String,
        sealed: &crate::crypt::Sealed,
    ) -> Result<T, RequestError> {
        let plain = self.open(place.clone(), sealed)?;
        serde_json::from_slice(&plain).map_err(|error| {
            RequestError::Store(crate::store::StoreError::Row {
                table: "sealed values",
                reason: format!("{place}: {error}"),
            })
        })
    }

    /// Returns the output of a version's import.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] if it has not ended, or failed.
    pub(super) async fn imported(&self, version: &Version) -> Result<ImportOutput, RequestError> {
        let job = self.store.job(version.job_id).await?;
        let job = job.ok_or_else(|| not_found("job", version.job_id.to_string()))?;
        match job.status() {
            JobStatus::Succeeded => Ok(self.store.import_output(version.id).await?),
            status => Err(RequestError::Conflict(format!(
                "the template version `{}` cannot be used: its import is {status}",
                version.name
            ))),
        }
    }

    /// Makes a version the one that new workspaces use.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn activate_version(
        &self,
        caller: &Caller,
        template: &Template,
        version: &Version,
    ) -> Result<Template, RequestError> {
        caller.need_admin("activating a template version")?;
        self.imported(version).await?;
        self.store.activate_version(version.id, self.now()).await?;
        let template = self.store.template(template.id).await?;
        template.ok_or_else(|| not_found("template", version.template_id.to_string()))
    }

    /// Renames a template.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] if another one has this name.
    pub async fn rename_template(
        &self,
        caller: &Caller,
        template: &Template,
        name: &str,
    ) -> Result<Template, RequestError> {
        caller.need_admin("renaming a template")?;
        check_name("template", name)?;
        let actor = &caller.user.name;
        self.audit(actor, "template.rename", &template.name, name)
            .await?;
        self.store
            .rename_template(template.id, name, self.now())
            .await?;
        let renamed = self.store.template(template.id).await?;
        renamed.ok_or_else(|| not_found("template", name))
    }

    /// Deletes a template that no workspace is made from.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn delete_template(
        &self,
        caller: &Caller,
        template: &Template,
    ) -> Result<(), RequestError> {
        caller.need_admin("deleting a template")?;
        self.audit(&caller.user.name, "template.delete", &template.name, "")
            .await?;
        Ok(self.store.delete_template(template.id, self.now()).await?)
    }

    /// Queues a plan of a version with the given parameter values.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_dry_run(
        &self,
        caller: &Caller,
        template: &Template,
        version: &Version,
        given: &[ParameterValue],
        workspace_name: String,
    ) -> Result<JobRecord, RequestError> {
        let import_output = self.imported(version).await?;
        let answers = Answers {
            given,
            preset: None,
            previous: None,
        };
        let parameters = resolve(&import_output.parameters, answers, Transition::Start)
            .map_err(RequestError::Parameters)?;
        let tags = self
            .build_tags(version, &import_output, &parameters, caller.user.id)
            .await?;
        let task = Task::TemplateDryRun {
            version_id: version.id,
            parameters,
            workspace_name,
        };
        let subject = template.name.clone();
        let job = self.new_job(caller, template.organization_id, task, tags, subject);
        self.store.insert_job(&job).await?;
        self.posted.notify_waiters();
        Ok(job)
    }

    /// Returns the tags of a version's jobs: its author's, and those that the template computes.
    pub(super) async fn build_tags(
        &self,
        version: &Version,
        import_output: &ImportOutput,
        parameters: &[ParameterValue],
        owner: crate::model::UserId,
    ) -> Result<Tags, RequestError> {
        let variables = self.variables(version.id, import_output).await?;
        let variables = variables
            .into_iter()
            .map(|variable| (variable.name, variable.value.expose().to_owned()))
            .collect();
        let computed =
            workspace_tags::evaluate(&import_output.workspace_tags, parameters, &variables)?;
        Ok(version.tags.merged(Some(owner), computed)?)
    }

    /// Returns the result of a dry run.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] if it has not succeeded.
    pub async fn dry_run(&self, caller: &Caller, id: JobId) -> Result<DryRunResult, RequestError> {
        let job = self.job(caller, id).await?;
        let Some(sealed) = self.store.dry_run(id).await? else {
            return Err(RequestError::Conflict(format!(
                "the job {id} has no result of a dry run: it is a {} and {}",
                job.task.name(),
                job.status()
            )));
        };
        let stored: StoredDryRun = self.open_json(dry_run_place(id), &sealed)?;
        Ok(DryRunResult {
            resources: stored.resources,
            modules: stored.modules,
        })
    }

    pub(super) fn seal_dry_run(&self, id: JobId, result: DryRunResult) -> crate::crypt::Sealed {
        let stored = StoredDryRun {
            resources: result.resources,
            modules: result.modules,
        };
        let json = serde_json::to_vec(&stored).expect("resources have a JSON form");
        self.vault.seal(&dry_run_place(id), &json)
    }
}
