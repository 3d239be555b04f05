//! Workspaces and their builds.

use outpost_base::{
    job::{LogLevel, ParameterValue, Transition},
    rules::state::{Outline, Relation},
};

use super::{Caller, Plane, RequestError, check_name, full_name, is_called, not_found};
use crate::{
    model::{
        Build, BuildId, BuildOutput, OrganizationId, Task, Template, User, Version, Workspace,
        WorkspaceId,
    },
    parameters::{Answers, resolve},
    store::{NewBuild, WorkspaceFilter},
};

/// Request for a workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceRequest {
    /// Name of the workspace.
    pub name: String,
    /// Owner of the workspace; empty for the caller.
    pub owner: String,
    /// Values of the template's parameters.
    pub parameters: Vec<ParameterValue>,
    /// Name of a preset; empty for none.
    pub preset: String,
    /// Lowest level of log lines to keep; empty for all.
    pub log_level: String,
}

/// Request for a build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Transition that the build carries out.
    pub transition: Transition,
    /// Name or id of a version; empty for that of the latest build.
    pub version: String,
    /// New values of the template's parameters.
    pub parameters: Vec<ParameterValue>,
    /// Lowest level of log lines to keep; empty for all.
    pub log_level: String,
}

/// Place that the state after a build is sealed to.
pub(super) fn state_place(build: BuildId) -> String {
    format!("state of build {build}")
}

/// Place that the resources of a build are sealed to.
pub(super) fn made_place(build: BuildId) -> String {
    format!("resources of build {build}")
}

fn check_log_level(level: &str) -> Result<(), RequestError> {
    let levels = [
        LogLevel::Trace,
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
    ];
    if level.is_empty() || levels.iter().any(|known| known.as_str() == level) {
        return Ok(());
    }
    Err(RequestError::Invalid(format!(
        "log level `{level}` is not one of trace, debug, info, warn, error"
    )))
}

impl Plane {
    /// Returns the workspaces that the caller may see.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn workspaces(
        &self,
        caller: &Caller,
        mut filter: WorkspaceFilter,
    ) -> Result<Vec<Workspace>, RequestError> {
        if !caller.user.admin {
            filter.owner = Some(caller.user.id);
        }
        Ok(self.store.workspaces(&filter).await?)
    }

    /// Finds a workspace by `name`, `owner/name` or id. Deleted workspaces are not found by name.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if the caller may not see it.
    pub async fn workspace(
        &self,
        caller: &Caller,
        organization: OrganizationId,
        named: &str,
    ) -> Result<Workspace, RequestError> {
        if let Ok(id) = named.parse::<WorkspaceId>() {
            let found = self.store.workspace(id).await?;
            let visible = found.filter(|workspace| caller.may_act_for(workspace.owner_id));
            return visible.ok_or_else(|| not_found("workspace", named));
        }
        let (owner, name) = match named.split_once('/') {
            Some((owner, name)) => (self.acting_for(caller, owner).await?, name),
            None => (caller.user.clone(), named),
        };
        let filter = WorkspaceFilter {
            organization: Some(organization),
            owner: Some(owner.id),
            deleted: false,
        };
        let workspaces = self.store.workspaces(&filter).await?;
        workspaces
            .into_iter()
            .find(|workspace| is_called(name, &workspace.name, workspace.id))
            .ok_or_else(|| not_found("workspace", named))
    }

    /// Creates a workspace and queues its first build.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_workspace(
        &self,
        caller: &Caller,
        template: &Template,
        version: &Version,
        request: WorkspaceRequest,
    ) -> Result<Workspace, RequestError> {
        check_name("workspace", &request.name)?;
        let owner = self.acting_for(caller, &request.owner).await?;
        let now = self.now();
        let workspace = Workspace {
            id: WorkspaceId::random(),
            organization_id: template.organization_id,
            owner_id: owner.id,
            owner: owner.name.clone(),
            template_id: template.id,
            name: request.name,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        };
        let build = Plan {
            workspace: &workspace,
            owner: &owner,
            version,
            transition: Transition::Start,
            given: &request.parameters,
            preset: &request.preset,
            previous: None,
            log_level: request.log_level,
            is_new: true,
        };
        self.queue_build(caller, build).await?;
        Ok(workspace)
    }

    /// Queues a build of a workspace.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] while another one goes on.
    pub async fn create_build(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        request: BuildRequest,
    ) -> Result<Build, RequestError> {
        let latest = self.store.latest_build(workspace.id).await?;
        let latest = latest.ok_or_else(|| not_found("build of", full_name(workspace)))?;
        let version = match request.version.as_str() {
            "" => {
                let version = self.store.version(latest.version_id).await?;
                version.ok_or_else(|| not_found("version", latest.version_id.to_string()))?
            }
            named => {
                let template = self.store.template(workspace.template_id).await?;
                let id = workspace.template_id.to_string();
                let template = template.ok_or_else(|| not_found("template", id))?;
                match named {
                    "active" => self.version(&template, "").await?,
                    named => self.version(&template, named).await?,
                }
            }
        };
        let owner = self.user(&workspace.owner_id.to_string()).await?;
        let build = Plan {
            workspace,
            owner: &owner,
            version: &version,
            transition: request.transition,
            given: &request.parameters,
            preset: "",
            previous: Some(&latest.parameters),
            log_level: request.log_level,
            is_new: false,
        };
        self.queue_build(caller, build).await
    }

    /// Renames a workspace, between two builds.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] while a build goes on, or if the owner has another one of this name.
    pub async fn rename_workspace(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        name: &str,
    ) -> Result<Workspace, RequestError> {
        check_name("workspace", name)?;
        let (actor, before) = (&caller.user.name, full_name(workspace));
        self.audit(actor, "workspace.rename", &before, name).await?;
        self.store
            .rename_workspace(workspace.id, name, self.now())
            .await?;
        self.job_moved();
        let renamed = self.store.workspace(workspace.id).await?;
        renamed.ok_or_else(|| not_found("workspace", name))
    }

    async fn queue_build(&self, caller: &Caller, plan: Plan<'_>) -> Result<Build, RequestError> {
        check_log_level(&plan.log_level)?;
        let import_output = self.imported(plan.version).await?;
        let preset = match plan.preset {
            "" => None,
            name => Some(
                import_output
                    .presets
                    .iter()
                    .find(|preset| preset.name == name)
                    .ok_or_else(|| not_found("preset", name))?,
            ),
        };
        let answers = Answers {
            given: plan.given,
            preset,
            previous: plan.previous,
        };
        let parameters = resolve(&import_output.parameters, answers, plan.transition)
            .map_err(RequestError::Parameters)?;
        let tags = self
            .build_tags(plan.version, &import_output, &parameters, plan.owner.id)
            .await?;
        let id = BuildId::random();
        let job = self.new_job(
            caller,
            plan.workspace.organization_id,
            Task::WorkspaceBuild { build_id: id },
            tags,
            full_name(plan.workspace),
        );
        let build = Build {
            id,
            workspace_id: plan.workspace.id,
            number: 0,
            transition: plan.transition,
            version_id: plan.version.id,
            job_id: job.id,
            parameters,
            preset: plan.preset.to_owned(),
            log_level: plan.log_level,
            daily_cost: 0,
            has_state: false,
            initiator_id: caller.user.id,
            created_at: self.now(),
        };
        let new = NewBuild {
            workspace: plan.is_new.then(|| plan.workspace.clone()),
            build,
            job,
        };
        let build = self.store.insert_build(new).await?;
        self.posted.notify_waiters();
        self.job_moved();
        Ok(build)
    }

    /// Finds a build by id, with its workspace.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], also if the caller may not see it.
    pub async fn build(
        &self,
        caller: &Caller,
        named: &str,
    ) -> Result<(Workspace, Build), RequestError> {
        let unknown = || not_found("build", named);
        let id: BuildId = named.parse().map_err(|_| unknown())?;
        let build = self.store.build(id).await?.ok_or_else(unknown)?;
        let workspace = self.store.workspace(build.workspace_id).await?;
        let workspace = workspace
            .filter(|workspace| caller.may_act_for(workspace.owner_id))
            .ok_or_else(unknown)?;
        Ok((workspace, build))
    }

    /// Returns the output of a build; empty if it did not succeed.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn made(&self, build: BuildId) -> Result<BuildOutput, RequestError> {
        match self.store.made(build).await? {
            Some(sealed) => self.open_json(made_place(build), &sealed),
            None => Ok(BuildOutput::default()),
        }
    }

    /// Returns the state after a build, empty if there is none. The access is recorded in the audit log first.
    ///
    /// As in Coder it takes the rights over templates: a state may hold values that owners of workspaces must not see.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn pull_state(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        number: i32,
    ) -> Result<Vec<u8>, RequestError> {
        caller.need_admin("reading a state")?;
        let builds = self.store.builds(workspace.id).await?;
        let build = builds
            .into_iter()
            .find(|build| number == 0 || build.number == number)
            .ok_or_else(|| not_found("build number", number.to_string()))?;
        let detail = format!("build {}", build.number);
        let target = full_name(workspace);
        self.audit(&caller.user.name, "state.read", &target, detail)
            .await?;
        self.state(build.id).await
    }

    /// Makes a recovered state the one after the latest build, and returns the build's number.
    ///
    /// # Errors
    /// [`RequestError::Conflict`] unless it is newer than what is known, or while a build runs.
    pub async fn push_state(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        state: &[u8],
    ) -> Result<i32, RequestError> {
        // The next build acts on whatever is in a state, with the daemon's credentials.
        caller.need_admin("pushing a state")?;
        let conflict = |text: &str| Err(RequestError::Conflict(text.to_owned()));
        let outline = Outline::read(state);
        let outline =
            outline.ok_or_else(|| RequestError::Invalid("not a Terraform state".to_owned()))?;
        let builds = self.store.builds(workspace.id).await?;
        let build = builds.into_iter().next();
        let build = build.ok_or_else(|| not_found("build of workspace", full_name(workspace)))?;
        match outline.relation(&self.state(build.id).await?) {
            Relation::Newer => {}
            Relation::NotNewer => {
                return conflict("the server has this state already, or a newer one");
            }
            Relation::Unrelated => {
                return conflict("the state's lineage differs from that of the server's state");
            }
        }
        let detail = format!("build {}, serial {}", build.number, outline.serial);
        let target = full_name(workspace);
        self.audit(&caller.user.name, "state.push", &target, detail)
            .await?;
        let state = self.new_state(build.id, state);
        match self
            .store
            .replace_state(build.id, state, self.now())
            .await?
        {
            true => Ok(build.number),
            false => conflict(
                "a build of the workspace is in progress; push the state when it has ended",
            ),
        }
    }

    /// Returns whether these bytes are the state after a build, ignoring white space around it.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn has_state(&self, build: &Build, state: &[u8]) -> Result<bool, RequestError> {
        Ok(self.state(build.id).await?.trim_ascii() == state.trim_ascii())
    }

    /// Returns the state after a build; empty if there is none.
    pub(super) async fn state(&self, build: BuildId) -> Result<Vec<u8>, RequestError> {
        match self.store.state(build).await? {
            Some((made_by, sealed)) => self.open(state_place(made_by), &sealed),
            None => Ok(Vec::new()),
        }
    }
}

/// Decisions about a build before it is queued.
struct Plan<'a> {
    workspace: &'a Workspace,
    owner: &'a User,
    version: &'a Version,
    transition: Transition,
    given: &'a [ParameterValue],
    preset: &'a str,
    previous: Option<&'a [ParameterValue]>,
    log_level: String,
    is_new: bool,
}
