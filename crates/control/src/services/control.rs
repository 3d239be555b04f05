//! Service for people and their commands.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use outpost_base::{
    error_chain::error_chain,
    job::{ParameterValue, VariableValue},
    secret::Secret,
};
use outpost_wire::proto::outpost::v1::{self as wire, control_service_server::ControlService};
use tonic::{Request, Response, Status};

use super::{caller::bearer, convert, gate::known, names::Names, status::status};
use crate::{
    backup,
    data_dir::DataDir,
    model::{JobStatus, Template, Token, Version},
    plane::{BuildRequest, Caller, NewUser, Plane, RequestError, VersionRequest, WorkspaceRequest},
    store::{JobFilter, WorkspaceFilter},
    tokens,
};

/// Number of entries in a list by default.
const PAGE: usize = 100;
/// Largest number of entries in a list.
const LARGEST_PAGE: usize = 10_000;

/// Service for people and their commands.
pub(super) struct Control {
    plane: Arc<Plane>,
    data_dir: Option<Arc<DataDir>>,
}

type Answer<T> = Result<Response<T>, Status>;

fn page(limit: i32) -> usize {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => PAGE,
        Ok(limit) => limit.min(LARGEST_PAGE),
    }
}

fn budget(budget: i32) -> Option<i32> {
    (budget >= 0).then_some(budget)
}

fn parameters(values: Vec<wire::ParameterValue>) -> Vec<ParameterValue> {
    values
        .into_iter()
        .map(|value| ParameterValue {
            name: value.name,
            value: value.value,
        })
        .collect()
}

fn job_status(name: &str) -> Result<JobStatus, RequestError> {
    JobStatus::ALL
        .into_iter()
        .find(|status| status.as_str() == name)
        .ok_or_else(|| {
            let known = JobStatus::ALL.map(JobStatus::as_str).join(", ");
            RequestError::Invalid(format!("job status `{name}` is not one of {known}"))
        })
}

impl Control {
    pub(super) fn new(plane: Arc<Plane>, data_dir: Option<Arc<DataDir>>) -> Self {
        Self { plane, data_dir }
    }

    fn caller<T>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        let caller = known::<Caller>(request.extensions())?;
        Ok((caller, request.into_inner()))
    }

    async fn names(&self) -> Result<Names<'_>, RequestError> {
        Names::load(&self.plane).await
    }

    /// Writes the value of the first user's token into the data directory before it counts: if the store then fails,
    /// the next start makes another one.
    async fn keep_admin_token(&self, token: &Token, value: &Secret) -> Result<(), RequestError> {
        let Some(data_dir) = self.data_dir.as_deref() else {
            return Ok(());
        };
        let Ok(Some(kept)) = data_dir.admin_token() else {
            return Ok(());
        };
        match self.plane.token_of(&kept).await {
            Ok(kept) if kept.id == token.id => {}
            Ok(_) | Err(RequestError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        let written = data_dir.set_admin_token(value);
        written.map_err(|error| {
            RequestError::Conflict(format!(
                "the token was not changed: {}",
                error_chain(&error)
            ))
        })
    }

    async fn find(
        &self,
        organization: &str,
        template: &str,
        version: &str,
    ) -> Result<(Template, Version), RequestError> {
        let organization = self.plane.organization(organization).await?;
        let template = self.plane.template(organization.id, template).await?;
        let version = self.plane.version(&template, version).await?;
        Ok((template, version))
    }
}

/// Handles one call: finds the caller, does the work, and turns an error into a status.
macro_rules! call {
    ($self:ident, $request:ident, |$caller:ident, $asked:ident| $work:block) => {{
        let ($caller, $asked) = $self.caller($request)?;
        let work = async { Ok::<_, RequestError>($work) };
        work.await.map(Response::new).map_err(status)
    }};
}

#[tonic::async_trait]
impl ControlService for Control {
    async fn who_am_i(&self, request: Request<wire::WhoAmIRequest>) -> Answer<wire::User> {
        call!(self, request, |caller, _asked| {
            convert::user(caller.user)
        })
    }

    async fn list_organizations(
        &self,
        request: Request<wire::ListOrganizationsRequest>,
    ) -> Answer<wire::ListOrganizationsResponse> {
        call!(self, request, |_caller, _asked| {
            let all = self.plane.store().organizations().await?;
            wire::ListOrganizationsResponse {
                organizations: all.into_iter().map(convert::organization).collect(),
            }
        })
    }

    async fn create_organization(
        &self,
        request: Request<wire::CreateOrganizationRequest>,
    ) -> Answer<wire::Organization> {
        call!(self, request, |caller, asked| {
            convert::organization(self.plane.create_organization(&caller, &asked.name).await?)
        })
    }

    async fn delete_organization(
        &self,
        request: Request<wire::DeleteOrganizationRequest>,
    ) -> Answer<wire::Nothing> {
        call!(self, request, |caller, asked| {
            let named = &asked.organization;
            self.plane.delete_organization(&caller, named).await?;
            wire::Nothing {}
        })
    }

    async fn list_users(
        &self,
        request: Request<wire::ListUsersRequest>,
    ) -> Answer<wire::ListUsersResponse> {
        call!(self, request, |caller, _asked| {
            let mut all = self.plane.store().users().await?;
            all.retain(|user| caller.user.admin || user.id == caller.user.id);
            wire::ListUsersResponse {
                users: all.into_iter().map(convert::user).collect(),
            }
        })
    }

    async fn create_user(&self, request: Request<wire::CreateUserRequest>) -> Answer<wire::User> {
        call!(self, request, |caller, asked| {
            let new = NewUser {
                name: asked.name,
                email: asked.email,
                full_name: asked.full_name,
                admin: asked.admin,
                budget: budget(asked.budget),
            };
            convert::user(self.plane.create_user(&caller, new).await?)
        })
    }

    async fn set_user_budget(
        &self,
        request: Request<wire::SetUserBudgetRequest>,
    ) -> Answer<wire::User> {
        call!(self, request, |caller, asked| {
            let budget = budget(asked.budget);
            convert::user(self.plane.set_budget(&caller, &asked.user, budget).await?)
        })
    }

    async fn set_user_role(
        &self,
        request: Request<wire::SetUserRoleRequest>,
    ) -> Answer<wire::User> {
        call!(self, request, |caller, asked| {
            let user = self.plane.set_admin(&caller, &asked.user, asked.admin);
            convert::user(user.await?)
        })
    }

    async fn set_user_suspended(
        &self,
        request: Request<wire::SetUserSuspendedRequest>,
    ) -> Answer<wire::User> {
        call!(self, request, |caller, asked| {
            let user = self
                .plane
                .set_suspended(&caller, &asked.user, asked.suspended);
            convert::user(user.await?)
        })
    }

    async fn delete_user(
        &self,
        request: Request<wire::DeleteUserRequest>,
    ) -> Answer<wire::Nothing> {
        call!(self, request, |caller, asked| {
            self.plane.delete_user(&caller, &asked.user).await?;
            wire::Nothing {}
        })
    }

    async fn show_quota(
        &self,
        request: Request<wire::ShowQuotaRequest>,
    ) -> Answer<wire::QuotaReport> {
        call!(self, request, |caller, asked| {
            let (user, consumed) = self
                .plane
                .quota(&caller, &asked.user, &asked.organization)
                .await?;
            wire::QuotaReport {
                user: user.name,
                consumed,
                budget: user.budget.unwrap_or(-1),
            }
        })
    }

    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Answer<wire::CreateTokenResponse> {
        call!(self, request, |caller, asked| {
            let lifetime = match u64::try_from(asked.lifetime_seconds) {
                Ok(0) => None,
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => {
                    let reason = "a token's lifetime cannot be negative".to_owned();
                    return Err(RequestError::Invalid(reason));
                }
            };
            let (token, value) = self
                .plane
                .create_token(&caller, &asked.user, &asked.name, lifetime)
                .await?;
            let names = self.names().await?;
            wire::CreateTokenResponse {
                token: Some(convert::token(&names, token)),
                value: value.expose().to_owned(),
            }
        })
    }

    async fn list_tokens(
        &self,
        request: Request<wire::ListTokensRequest>,
    ) -> Answer<wire::ListTokensResponse> {
        call!(self, request, |caller, asked| {
            let tokens = self.plane.tokens(&caller, &asked.user).await?.into_iter();
            let names = self.names().await?;
            wire::ListTokensResponse {
                tokens: tokens.map(|token| convert::token(&names, token)).collect(),
            }
        })
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Answer<wire::Nothing> {
        call!(self, request, |caller, asked| {
            self.plane.revoke_token(&caller, &asked.id).await?;
            wire::Nothing {}
        })
    }

    async fn rotate_token(
        &self,
        request: Request<wire::RotateTokenRequest>,
    ) -> Answer<wire::CreateTokenResponse> {
        let bearer = bearer(request.metadata());
        let (caller, asked) = self.caller(request)?;
        let rotated = async {
            let token = match asked.id.as_str() {
                "" => self.plane.token_of(&bearer.unwrap_or_default()).await?,
                named => self.plane.token(&caller, named).await?,
            };
            let value = tokens::generate();
            self.keep_admin_token(&token, &value).await?;
            let token = self.plane.rotate_token(&caller, token, &value).await?;
            let names = self.names().await?;
            Ok(wire::CreateTokenResponse {
                token: Some(convert::token(&names, token)),
                value: value.expose().to_owned(),
            })
        };
        rotated.await.map(Response::new).map_err(status)
    }

    async fn create_provisioner_key(
        &self,
        request: Request<wire::CreateProvisionerKeyRequest>,
    ) -> Answer<wire::CreateProvisionerKeyResponse> {
        call!(self, request, |caller, asked| {
            let (key, value) = self
                .plane
                .create_key(&caller, &asked.organization, &asked.name, asked.tags)
                .await?;
            let names = self.names().await?;
            wire::CreateProvisionerKeyResponse {
                key: Some(convert::key(&names, key)),
                value: value.expose().to_owned(),
            }
        })
    }

    async fn list_provisioner_keys(
        &self,
        request: Request<wire::ListProvisionerKeysRequest>,
    ) -> Answer<wire::ListProvisionerKeysResponse> {
        call!(self, request, |caller, asked| {
            let keys = self.plane.keys(&caller, &asked.organization).await?;
            let names = self.names().await?;
            wire::ListProvisionerKeysResponse {
                keys: keys
                    .into_iter()
                    .map(|key| convert::key(&names, key))
                    .collect(),
            }
        })
    }

    async fn delete_provisioner_key(
        &self,
        request: Request<wire::DeleteProvisionerKeyRequest>,
    ) -> Answer<wire::Nothing> {
        call!(self, request, |caller, asked| {
            self.plane
                .delete_key(&caller, &asked.organization, &asked.name)
                .await?;
            wire::Nothing {}
        })
    }

    async fn show_pre_shared_keys(
        &self,
        request: Request<wire::ShowPreSharedKeysRequest>,
    ) -> Answer<wire::ShowPreSharedKeysResponse> {
        call!(self, request, |caller, _asked| {
            wire::ShowPreSharedKeysResponse {
                fingerprints: self.plane.psk_fingerprints(&caller)?,
            }
        })
    }

    async fn list_daemons(
        &self,
        request: Request<wire::ListDaemonsRequest>,
    ) -> Answer<wire::ListDaemonsResponse> {
        call!(self, request, |_caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?.id;
            let mut all = self.plane.store().daemons().await?;
            all.retain(|daemon| daemon.organization_id == organization);
            let open = self.plane.store().open_jobs().await?;
            let names = self.names().await?;
            let daemon = |found| convert::daemon(&self.plane, &names, &open, found);
            wire::ListDaemonsResponse {
                daemons: all.into_iter().map(daemon).collect(),
            }
        })
    }

    async fn delete_daemon(
        &self,
        request: Request<wire::DeleteDaemonRequest>,
    ) -> Answer<wire::Nothing> {
        call!(self, request, |caller, asked| {
            let (organization, daemon) = (&asked.organization, &asked.daemon);
            self.plane
                .delete_daemon(&caller, organization, daemon)
                .await?;
            wire::Nothing {}
        })
    }

    async fn list_templates(
        &self,
        request: Request<wire::ListTemplatesRequest>,
    ) -> Answer<wire::ListTemplatesResponse> {
        call!(self, request, |_caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let mut names = self.names().await?;
            let mut templates = Vec::new();
            for template in self.plane.templates(organization.id).await? {
                templates.push(convert::template(&mut names, template).await?);
            }
            wire::ListTemplatesResponse { templates }
        })
    }

    async fn show_template(
        &self,
        request: Request<wire::ShowTemplateRequest>,
    ) -> Answer<wire::Template> {
        call!(self, request, |_caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let template = self
                .plane
                .template(organization.id, &asked.template)
                .await?;
            convert::template(&mut self.names().await?, template).await?
        })
    }

    async fn rename_template(
        &self,
        request: Request<wire::RenameTemplateRequest>,
    ) -> Answer<wire::Template> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let template = self
                .plane
                .template(organization.id, &asked.template)
                .await?;
            let renamed = self.plane.rename_template(&caller, &template, &asked.name);
            convert::template(&mut self.names().await?, renamed.await?).await?
        })
    }

    async fn delete_template(
        &self,
        request: Request<wire::DeleteTemplateRequest>,
    ) -> Answer<wire::Nothing> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let template = self
                .plane
                .template(organization.id, &asked.template)
                .await?;
            self.plane.delete_template(&caller, &template).await?;
            wire::Nothing {}
        })
    }

    async fn create_version(
        &self,
        request: Request<wire::CreateVersionRequest>,
    ) -> Answer<wire::Version> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let request = VersionRequest {
                template: asked.template,
                archive: asked.archive,
                name: asked.name,
                message: asked.message,
                variables: asked
                    .variables
                    .into_iter()
                    .map(VariableValue::from)
                    .collect(),
                tags: asked.tags,
                activate: asked.activate,
            };
            let version = self
                .plane
                .create_version(&caller, organization.id, request)
                .await?;
            convert::version(&self.plane, &mut self.names().await?, version).await?
        })
    }

    async fn list_versions(
        &self,
        request: Request<wire::ListVersionsRequest>,
    ) -> Answer<wire::ListVersionsResponse> {
        call!(self, request, |_caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let template = self
                .plane
                .template(organization.id, &asked.template)
                .await?;
            let mut names = self.names().await?;
            let mut versions = Vec::new();
            for version in self.plane.store().versions(template.id).await? {
                versions.push(convert::version(&self.plane, &mut names, version).await?);
            }
            wire::ListVersionsResponse { versions }
        })
    }

    async fn show_version(
        &self,
        request: Request<wire::ShowVersionRequest>,
    ) -> Answer<wire::VersionDetails> {
        call!(self, request, |_caller, asked| {
            let (_, version) = self
                .find(&asked.organization, &asked.template, &asked.version)
                .await?;
            convert::version_details(&self.plane, &mut self.names().await?, version).await?
        })
    }

    async fn activate_version(
        &self,
        request: Request<wire::ActivateVersionRequest>,
    ) -> Answer<wire::Template> {
        call!(self, request, |caller, asked| {
            let (template, version) = self
                .find(&asked.organization, &asked.template, &asked.version)
                .await?;
            let template = self
                .plane
                .activate_version(&caller, &template, &version)
                .await?;
            convert::template(&mut self.names().await?, template).await?
        })
    }

    async fn create_dry_run(
        &self,
        request: Request<wire::CreateDryRunRequest>,
    ) -> Answer<wire::Job> {
        call!(self, request, |caller, asked| {
            let (template, version) = self
                .find(&asked.organization, &asked.template, &asked.version)
                .await?;
            let given = parameters(asked.parameters);
            let job = self
                .plane
                .create_dry_run(&caller, &template, &version, &given, asked.workspace_name)
                .await?;
            convert::job(&self.names().await?, job)
        })
    }

    async fn show_dry_run(
        &self,
        request: Request<wire::ShowDryRunRequest>,
    ) -> Answer<wire::ShowDryRunResponse> {
        call!(self, request, |caller, asked| {
            let id = self.plane.job_id(&caller, &asked.job_id).await?;
            let result = self.plane.dry_run(&caller, id).await?;
            let none = std::collections::BTreeMap::new();
            let resources = result.resources.iter();
            wire::ShowDryRunResponse {
                resources: resources
                    .map(|found| convert::resource(&none, found))
                    .collect(),
                modules: result.modules.into_iter().map(Into::into).collect(),
            }
        })
    }

    async fn list_workspaces(
        &self,
        request: Request<wire::ListWorkspacesRequest>,
    ) -> Answer<wire::ListWorkspacesResponse> {
        call!(self, request, |caller, asked| {
            let owner = match asked.owner.as_str() {
                "" => None,
                owner => Some(self.plane.acting_for(&caller, owner).await?.id),
            };
            let filter = WorkspaceFilter {
                organization: Some(self.plane.organization(&asked.organization).await?.id),
                owner,
                deleted: asked.include_deleted,
            };
            let mut names = self.names().await?;
            let mut workspaces = Vec::new();
            for workspace in self.plane.workspaces(&caller, filter).await? {
                workspaces.push(convert::workspace(&self.plane, &mut names, workspace).await?);
            }
            wire::ListWorkspacesResponse { workspaces }
        })
    }

    async fn show_workspace(
        &self,
        request: Request<wire::ShowWorkspaceRequest>,
    ) -> Answer<wire::Workspace> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let workspace = self
                .plane
                .workspace(&caller, organization.id, &asked.workspace)
                .await?;
            convert::workspace(&self.plane, &mut self.names().await?, workspace).await?
        })
    }

    async fn create_workspace(
        &self,
        request: Request<wire::CreateWorkspaceRequest>,
    ) -> Answer<wire::Workspace> {
        call!(self, request, |caller, asked| {
            let (template, version) = self
                .find(&asked.organization, &asked.template, &asked.version)
                .await?;
            let request = WorkspaceRequest {
                name: asked.name,
                owner: asked.owner,
                parameters: parameters(asked.parameters),
                preset: asked.preset,
                log_level: asked.log_level,
            };
            let workspace = self
                .plane
                .create_workspace(&caller, &template, &version, request)
                .await?;
            convert::workspace(&self.plane, &mut self.names().await?, workspace).await?
        })
    }

    async fn rename_workspace(
        &self,
        request: Request<wire::RenameWorkspaceRequest>,
    ) -> Answer<wire::Workspace> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let workspace = self
                .plane
                .workspace(&caller, organization.id, &asked.workspace)
                .await?;
            let renamed = self
                .plane
                .rename_workspace(&caller, &workspace, &asked.name);
            let renamed = renamed.await?;
            convert::workspace(&self.plane, &mut self.names().await?, renamed).await?
        })
    }

    async fn create_build(
        &self,
        request: Request<wire::CreateBuildRequest>,
    ) -> Answer<wire::Build> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let workspace = self
                .plane
                .workspace(&caller, organization.id, &asked.workspace)
                .await?;
            let request = BuildRequest {
                transition: convert::transition(&asked.transition)?,
                version: asked.version,
                parameters: parameters(asked.parameters),
                log_level: asked.log_level,
            };
            let build = self
                .plane
                .create_build(&caller, &workspace, request)
                .await?;
            convert::build(&self.plane, &mut self.names().await?, &workspace, build).await?
        })
    }

    async fn list_builds(
        &self,
        request: Request<wire::ListBuildsRequest>,
    ) -> Answer<wire::ListBuildsResponse> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let workspace = self
                .plane
                .workspace(&caller, organization.id, &asked.workspace)
                .await?;
            let mut names = self.names().await?;
            let mut builds = Vec::new();
            for build in self.plane.store().builds(workspace.id).await? {
                builds.push(convert::build(&self.plane, &mut names, &workspace, build).await?);
            }
            wire::ListBuildsResponse { builds }
        })
    }

    async fn show_build(
        &self,
        request: Request<wire::ShowBuildRequest>,
    ) -> Answer<wire::BuildDetails> {
        call!(self, request, |caller, asked| {
            let (workspace, build) = self.plane.build(&caller, &asked.build).await?;
            let mut names = self.names().await?;
            convert::build_details(&self.plane, &mut names, &workspace, build).await?
        })
    }

    async fn pull_state(
        &self,
        request: Request<wire::PullStateRequest>,
    ) -> Answer<wire::PullStateResponse> {
        call!(self, request, |caller, asked| {
            let organization = self.plane.organization(&asked.organization).await?;
            let workspace = self
                .plane
                .workspace(&caller, organization.id, &asked.workspace)
                .await?;
            let state = self
                .plane
                .pull_state(&caller, &workspace, asked.number)
                .await?;
            wire::PullStateResponse {
                state: state.into(),
            }
        })
    }

    async fn push_state(
        &self,
        request: Request<wire::PushStateRequest>,
    ) -> Answer<wire::PushStateResponse> {
        call!(self, request, |caller, asked| {
            let (workspace, _) = self.plane.build(&caller, &asked.build).await?;
            let number = self
                .plane
                .push_state(&caller, &workspace, &asked.state)
                .await?;
            wire::PushStateResponse { number }
        })
    }

    async fn list_jobs(
        &self,
        request: Request<wire::ListJobsRequest>,
    ) -> Answer<wire::ListJobsResponse> {
        call!(self, request, |caller, asked| {
            let statuses: Result<_, _> =
                asked.statuses.iter().map(|name| job_status(name)).collect();
            let filter = JobFilter {
                organization: Some(self.plane.organization(&asked.organization).await?.id),
                initiator: None,
                statuses: statuses?,
                limit: page(asked.limit),
            };
            let jobs = self.plane.jobs(&caller, filter).await?;
            let names = self.names().await?;
            wire::ListJobsResponse {
                jobs: jobs
                    .into_iter()
                    .map(|job| convert::job(&names, job))
                    .collect(),
            }
        })
    }

    async fn show_job(&self, request: Request<wire::ShowJobRequest>) -> Answer<wire::JobDetails> {
        call!(self, request, |caller, asked| {
            let id = self.plane.job_id(&caller, &asked.id).await?;
            let explained = self.plane.explain_job(&caller, id).await?;
            convert::explained(&self.names().await?, explained)
        })
    }

    async fn cancel_job(&self, request: Request<wire::CancelJobRequest>) -> Answer<wire::Job> {
        call!(self, request, |caller, asked| {
            let id = self.plane.job_id(&caller, &asked.id).await?;
            let job = self.plane.cancel_job(&caller, id).await?;
            convert::job(&self.names().await?, job)
        })
    }

    type StreamLogsStream = Pin<Box<dyn Stream<Item = Result<wire::LogBatch, Status>> + Send>>;

    async fn stream_logs(
        &self,
        request: Request<wire::StreamLogsRequest>,
    ) -> Answer<Self::StreamLogsStream> {
        let (caller, asked) = self.caller(request)?;
        let found = async {
            let id = self.plane.job_id(&caller, &asked.job_id).await?;
            let (after, follow) = (asked.after, asked.follow);
            self.plane.logs(&caller, id, after, follow).await
        };
        let batches = found.await.map_err(status)?;
        let batches = batches.map(|batch| {
            let lines = batch.map_err(status)?;
            let lines = lines.into_iter().map(convert::line).collect();
            Ok(wire::LogBatch { lines })
        });
        Ok(Response::new(batches.boxed()))
    }

    type StreamAgentLogsStream =
        Pin<Box<dyn Stream<Item = Result<wire::AgentLogBatch, Status>> + Send>>;

    async fn stream_agent_logs(
        &self,
        request: Request<wire::StreamAgentLogsRequest>,
    ) -> Answer<Self::StreamAgentLogsStream> {
        let (caller, asked) = self.caller(request)?;
        let plane = &self.plane;
        let found = async {
            let organization = plane.organization(&asked.organization).await?;
            let workspace = plane.workspace(&caller, organization.id, &asked.workspace);
            let facts = plane.last_agent(workspace.await?.id, &asked.agent).await?;
            let (id, range) = (facts.record.id, (asked.after, None));
            let batches = plane.agent_log(&caller, id, range, asked.follow).await?;
            Ok((facts, batches))
        };
        let (facts, batches) = found.await.map_err(status)?;
        let batches = batches.map(move |batch| {
            let lines = batch.map_err(status)?.into_iter();
            let lines = lines
                .map(|line| convert::agent_line(&facts, line))
                .collect();
            Ok(wire::AgentLogBatch { lines })
        });
        Ok(Response::new(batches.boxed()))
    }

    async fn list_audit(
        &self,
        request: Request<wire::ListAuditRequest>,
    ) -> Answer<wire::ListAuditResponse> {
        call!(self, request, |caller, asked| {
            let before = (asked.before > 0).then_some(asked.before);
            let limit = page(asked.limit);
            let entries = self.plane.audit_log(&caller, before, limit).await?;
            wire::ListAuditResponse {
                entries: entries.into_iter().map(convert::audit_entry).collect(),
            }
        })
    }

    async fn create_backup(
        &self,
        request: Request<wire::CreateBackupRequest>,
    ) -> Answer<wire::CreateBackupResponse> {
        let (caller, _) = self.caller(request)?;
        let Some(data_dir) = &self.data_dir else {
            return Err(Status::failed_precondition(
                "this server keeps everything in memory and cannot be backed up",
            ));
        };
        let target = backup::next_path(&data_dir.backups(), self.plane.now());
        let shown = target.display().to_string();
        self.plane
            .audit_backup(&caller, &shown)
            .await
            .map_err(status)?;
        backup::create(data_dir.path(), &target)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(wire::CreateBackupResponse { path: shown }))
    }
}
