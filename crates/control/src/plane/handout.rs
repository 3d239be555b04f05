//! Job as its daemon gets it, assembled from everything that the store knows.

use std::{collections::BTreeMap, time::Duration};

use outpost_base::{
    job::{
        Job, Metadata, ParameterValue, Role, TemplateDryRun, TemplateImport, Transition, Work,
        WorkspaceBuild,
    },
    secret::Secret,
};
use url::Url;

use super::{Plane, RequestError, access::Proof, full_name, not_found};
use crate::model::{
    Build, BuildId, ImportOutput, JobRecord, Task, Template, User, Version, VersionId, Workspace,
};

/// Name of the group that everybody belongs to, as in Coder.
const EVERYONE: &str = "Everyone";
/// Lifetime of a workspace's session token; Coder's default for sessions of workspaces.
const SESSION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Returns an address without its final slash, because modules continue it: `${access_url}/api/v2/…`.
fn base_of(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

impl Plane {
    /// Assembles the job that `record`'s daemon gets.
    pub(super) async fn hand_out(&self, record: &JobRecord) -> Result<Job, RequestError> {
        let (version, work) = match &record.task {
            Task::TemplateImport { version_id } => self.import(*version_id).await?,
            Task::TemplateDryRun {
                version_id,
                parameters,
                workspace_name,
            } => {
                self.dry_run_work(record, *version_id, parameters, workspace_name)
                    .await?
            }
            Task::WorkspaceBuild { build_id } => self.build_work(*build_id).await?,
        };
        let file = self.store.file(version.file_id).await?;
        let file = file.ok_or_else(|| not_found("file", version.file_id.to_string()))?;
        let initiator = self.user(&record.initiator_id.to_string()).await?;
        Ok(Job {
            id: record.id,
            created_at: record.created_at,
            provisioner: record.provisioner.clone(),
            user_name: initiator.name,
            template_archive: file.content,
            work,
            trace: BTreeMap::new(),
        })
    }

    async fn find_version(&self, id: VersionId) -> Result<(Version, Template), RequestError> {
        let version = self.store.version(id).await?;
        let version = version.ok_or_else(|| not_found("template version", id.to_string()))?;
        let template = self.store.template(version.template_id).await?;
        let named = version.template_id.to_string();
        let template = template.ok_or_else(|| not_found("template", named))?;
        Ok((version, template))
    }

    /// Returns the metadata that all jobs share.
    fn metadata(&self, version: &Version) -> Metadata {
        Metadata {
            coder_url: self.access_url.get().map(base_of).unwrap_or_default(),
            owner_groups: vec![EVERYONE.to_owned()],
            template_id: version.template_id.to_string(),
            template_version_id: version.id.to_string(),
            ..Metadata::default()
        }
    }

    async fn import(&self, id: VersionId) -> Result<(Version, Work), RequestError> {
        let (version, _) = self.find_version(id).await?;
        let mut user_variables = self.given_variables(id).await?;
        for variable in &mut user_variables {
            variable.sensitive = true; // Which of them are sensitive is not known yet.
        }
        let work = Work::TemplateImport(TemplateImport {
            metadata: self.metadata(&version),
            user_variables,
        });
        Ok((version, work))
    }

    async fn dry_run_work(
        &self,
        record: &JobRecord,
        id: VersionId,
        parameters: &[ParameterValue],
        workspace_name: &str,
    ) -> Result<(Version, Work), RequestError> {
        let (version, _) = self.find_version(id).await?;
        let import_output = self.store.import_output(id).await?;
        let initiator = self.user(&record.initiator_id.to_string()).await?;
        let metadata = Metadata {
            workspace_name: workspace_name.to_owned(),
            workspace_owner: initiator.name,
            ..self.metadata(&version)
        };
        let work = Work::TemplateDryRun(TemplateDryRun {
            metadata,
            parameters: parameters.to_vec(),
            variables: self.variables(id, &import_output).await?,
        });
        Ok((version, work))
    }

    async fn build_work(&self, id: BuildId) -> Result<(Version, Work), RequestError> {
        let build = self.store.build(id).await?;
        let build = build.ok_or_else(|| not_found("build", id.to_string()))?;
        let workspace = self.store.workspace(build.workspace_id).await?;
        let named = build.workspace_id.to_string();
        let workspace = workspace.ok_or_else(|| not_found("workspace", named))?;
        let owner = self.user(&workspace.owner_id.to_string()).await?;
        let (version, template) = self.find_version(build.version_id).await?;
        let import_output = self.store.import_output(version.id).await?;
        let builds = self.store.builds(workspace.id).await?;
        let previous = builds
            .into_iter()
            .find(|other| other.number == build.number - 1);
        let session = self.session(&workspace, &owner, build.transition).await?;
        let state = self.state(build.id).await?;
        if !state.is_empty() {
            let detail = format!("build {}", build.number);
            self.audit("server", "state.hand-out", &full_name(&workspace), detail)
                .await?;
        }
        let work = Work::WorkspaceBuild(WorkspaceBuild {
            build_id: build.id.to_string(),
            workspace_name: workspace.name.clone(),
            previous_parameters: previous.map(|build| build.parameters).unwrap_or_default(),
            variables: self.variables(version.id, &import_output).await?,
            external_auth: Vec::new(),
            state: state.into(),
            log_level: build.log_level.clone(),
            metadata: Metadata {
                owner_session_token: session,
                ..self.build_metadata(
                    &build,
                    &workspace,
                    &owner,
                    &version,
                    &template,
                    &import_output,
                )
            },
            parameters: build.parameters,
        });
        Ok((version, work))
    }

    fn build_metadata(
        &self,
        build: &Build,
        workspace: &Workspace,
        owner: &User,
        version: &Version,
        template: &Template,
        import_output: &ImportOutput,
    ) -> Metadata {
        Metadata {
            transition: build.transition,
            workspace_name: workspace.name.clone(),
            workspace_owner: owner.name.clone(),
            workspace_id: workspace.id.to_string(),
            workspace_owner_id: owner.id.to_string(),
            workspace_owner_email: owner.email.clone(),
            workspace_owner_name: owner.full_name.clone(),
            template_name: template.name.clone(),
            template_version: version.name.clone(),
            build_id: build.id.to_string(),
            owner_login_type: "token".to_owned(),
            owner_roles: roles(owner, workspace),
            template_version_modules_file: import_output
                .modules_file
                .map(|file| file.to_string())
                .unwrap_or_default(),
            ..self.metadata(version)
        }
    }

    /// Issues the token with which a started workspace acts for its owner. It replaces that of the previous start.
    async fn session(
        &self,
        workspace: &Workspace,
        owner: &User,
        transition: Transition,
    ) -> Result<Secret, RequestError> {
        let name = format!("session of workspace {}", workspace.id);
        let mut replaced = self.store.tokens(Some(owner.id)).await?;
        replaced.retain(|token| token.name == name);
        self.store.delete_tokens_named(owner.id, &name).await?;
        for token in replaced {
            self.revoke(Proof::Token(token.id));
        }
        match transition {
            Transition::Start => {
                let (_, value) = self
                    .issue_token("server", owner, &name, Some(SESSION))
                    .await?;
                Ok(value)
            }
            Transition::Stop | Transition::Destroy => Ok(Secret::default()),
        }
    }
}

/// Returns the owner's roles under Coder's names.
fn roles(owner: &User, workspace: &Workspace) -> Vec<Role> {
    let site = |name: &str| Role {
        name: name.to_owned(),
        organization_id: String::new(),
    };
    let mut roles = vec![
        site("member"),
        Role {
            name: "organization-member".to_owned(),
            organization_id: workspace.organization_id.to_string(),
        },
    ];
    if owner.admin {
        roles.push(site("owner"));
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_continue_the_address_with_a_slash_of_their_own() {
        for (url, expected) in [
            ("http://127.0.0.1:7080/", "http://127.0.0.1:7080"),
            ("https://example.com/coder/", "https://example.com/coder"),
        ] {
            assert_eq!(base_of(&url.parse().unwrap()), expected);
        }
    }
}
