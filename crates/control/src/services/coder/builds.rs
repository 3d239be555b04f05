//! Builds as Coder's clients read and create them.
//!
//! # Source
//! coder `codersdk/workspacebuilds.go`, `coderd/workspacebuilds.go`.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, patch},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use outpost_base::job::{Agent, ParameterValue, Preset, Resource, Transition};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    answer::Refusal,
    authentication,
    bodies::{self, Bodies},
    jobs::{self, matched_daemons, not_found, transition},
    logs,
    resources::facts,
    workspaces::{self, agent_as_json},
};
use crate::{
    agent_ids::preset_id,
    model::{Build, JobStatus, VersionId, Workspace},
    plane::{BuildRequest, Caller, Plane, RequestError},
};

/// Routes of builds: reading them, and requesting new ones.
pub(super) fn routes() -> Router<Arc<Plane>> {
    const ONE: &str = "/api/v2/workspacebuilds/{build}";
    Router::new()
        .route(
            "/api/v2/workspaces/{workspace}/builds",
            get(of_workspace).post(create),
        )
        .route(
            "/api/v2/users/{user}/workspace/{workspace}/builds/{number}",
            get(numbered),
        )
        .route(ONE, get(build))
        .route(&format!("{ONE}/cancel"), patch(cancel))
        .route(&format!("{ONE}/logs"), get(logs::of_build))
        .route(&format!("{ONE}/parameters"), get(parameters))
        .route(&format!("{ONE}/resources"), get(resources))
        .route(&format!("{ONE}/state"), get(state).put(replace_state))
}

async fn build(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let described = async {
        let (workspace, build) = plane.build(&caller, &id).await?;
        as_json(&plane, &workspace, &build).await
    };
    described.await.map(Json).map_err(Refusal::unavailable)
}

/// Builds of a workspace, newest first.
async fn of_workspace(
    State(plane): State<Arc<Plane>>,
    Path(workspace): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let described = async {
        let (_, workspace) = workspaces::find(&plane, &caller, &workspace).await?;
        let mut described = Vec::new();
        for build in plane.store().builds(workspace.id).await? {
            described.push(as_json(&plane, &workspace, &build).await?);
        }
        Ok(Value::Array(described))
    };
    described.await.map(Json).map_err(Refusal::unavailable)
}

async fn numbered(
    State(plane): State<Arc<Plane>>,
    Path((owner, name, number)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let described = async {
        let named = workspaces::named(&owner, name);
        let (_, workspace) = workspaces::find(&plane, &caller, &named).await?;
        let builds = plane.store().builds(workspace.id).await?;
        let mut builds = builds.into_iter();
        let build = builds.find(|build| build.number.to_string() == number);
        let build = build.ok_or_else(|| not_found("build", &number))?;
        as_json(&plane, &workspace, &build).await
    };
    described.await.map(Json).map_err(Refusal::unavailable)
}

/// A value of a parameter.
#[derive(Deserialize)]
pub(super) struct Answer {
    name: String,
    value: String,
}

impl Answer {
    pub(super) fn values(given: Option<Vec<Self>>) -> Vec<ParameterValue> {
        let given = given.unwrap_or_default().into_iter();
        let values = given.map(|it| ParameterValue {
            name: it.name,
            value: it.value,
        });
        values.collect()
    }
}

/// Returns the preset that a client chose; `None` for the nil id.
pub(super) async fn preset(
    plane: &Plane,
    version: VersionId,
    id: Uuid,
) -> Result<Option<Preset>, RequestError> {
    if id.is_nil() {
        return Ok(None);
    }
    let mut presets = plane
        .store()
        .import_output(version)
        .await?
        .presets
        .into_iter();
    let found = presets.find(|preset| preset_id(version, &preset.name) == id);
    found.map(Some).ok_or_else(|| not_found("preset", id))
}

#[derive(Deserialize)]
struct NewBuild {
    transition: String,
    #[serde(default)]
    template_version_id: Uuid,
    #[serde(default)]
    rich_parameter_values: Option<Vec<Answer>>,
    #[serde(default)]
    log_level: String,
    #[serde(default)]
    template_version_preset_id: Uuid,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    orphan: bool,
    /// Initial state of the workspace, in base64.
    #[serde(default)]
    state: Option<String>,
}

async fn create(
    State(plane): State<Arc<Plane>>,
    Path(workspace): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let body = bodies.read(&caller, request).await?;
    let asked: NewBuild = bodies::parse(&body.content)?;
    let made = async {
        let (_, workspace) = workspaces::find(&plane, &caller, &workspace).await?;
        let build = queue(&plane, &caller, &workspace, asked).await?;
        as_json(&plane, &workspace, &build).await
    };
    let made = made.await.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn queue(
    plane: &Plane,
    caller: &Caller,
    workspace: &Workspace,
    asked: NewBuild,
) -> Result<Build, RequestError> {
    let invalid = |why: &str| Err(RequestError::Invalid(why.to_owned()));
    let transition = match asked.transition.as_str() {
        "start" => Transition::Start,
        "stop" => Transition::Stop,
        "delete" => Transition::Destroy,
        other => {
            let why = format!("transition {other:?} is not one of start, stop, delete");
            return Err(RequestError::Invalid(why));
        }
    };
    if asked.orphan {
        return invalid(
            "this server cannot delete a workspace without its resources: omit --orphan; if the template can no \
             longer delete it, push a version that can and update the workspace",
        );
    }
    if asked.dry_run {
        return invalid(
            "this server supports dry runs of template versions, not of workspace builds",
        );
    }
    let latest = latest(plane, workspace).await?;
    let version = match asked.template_version_id {
        id if id.is_nil() => latest.version_id,
        id => VersionId(id),
    };
    let mut parameters = Answer::values(asked.rich_parameter_values);
    if let Some(preset) = preset(plane, version, asked.template_version_preset_id).await? {
        let is_given = |name: &str| parameters.iter().any(|it| it.name == name);
        let mut further = preset.parameters;
        further.retain(|it| !is_given(&it.name));
        parameters.extend(further);
    }
    if let Some(state) = asked.state.filter(|state| !state.is_empty()) {
        push(plane, caller, workspace, &latest, &state).await?;
    }
    let request = BuildRequest {
        transition,
        version: version.to_string(),
        parameters,
        log_level: asked.log_level,
    };
    plane.create_build(caller, workspace, request).await
}

async fn latest(plane: &Plane, workspace: &Workspace) -> Result<Build, RequestError> {
    let latest = plane.store().latest_build(workspace.id).await?;
    latest.ok_or_else(|| not_found("build of workspace", &workspace.name))
}

async fn cancel(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = plane.build(&caller, &id).await;
    let (_, build) = found.map_err(Refusal::unavailable)?;
    jobs::cancel(&plane, &caller, build.job_id).await
}

async fn parameters(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = plane.build(&caller, &id).await;
    let (_, build) = found.map_err(Refusal::unavailable)?;
    let answers = build.parameters.iter();
    let answers = answers.map(|it| json!({ "name": it.name, "value": it.value }));
    Ok(Json(answers.collect()))
}

async fn resources(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let Json(mut described) = build(State(plane), Path(id), headers).await?;
    Ok(Json(described["resources"].take()))
}

/// Terraform state after a build, unchanged; empty for a build without one.
async fn state(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let state = async {
        let (workspace, build) = plane.build(&caller, &id).await?;
        plane.pull_state(&caller, &workspace, build.number).await
    };
    let state = state.await.map_err(Refusal::unavailable)?;
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, state).into_response())
}

#[derive(Deserialize)]
struct NewState {
    state: String,
}

async fn replace_state(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let body = bodies.read(&caller, request).await?;
    let asked: NewState = bodies::parse(&body.content)?;
    let replaced = async {
        let (workspace, build) = plane.build(&caller, &id).await?;
        push(&plane, &caller, &workspace, &build, &asked.state).await
    };
    replaced.await.map_err(Refusal::unavailable)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a state the one after the latest build. Pushing the same state again changes nothing.
async fn push(
    plane: &Plane,
    caller: &Caller,
    workspace: &Workspace,
    build: &Build,
    state: &str,
) -> Result<(), RequestError> {
    let state = BASE64_STANDARD
        .decode(state)
        .map_err(|error| RequestError::Invalid(format!("the state is not in base64: {error}")))?;
    let latest = latest(plane, workspace).await?;
    if latest.id != build.id {
        let why = format!(
            "only the state of the latest build, number {}, can be replaced, not that of build {}",
            latest.number, build.number
        );
        return Err(RequestError::Conflict(why));
    }
    if plane.has_state(&latest, &state).await? {
        return Ok(());
    }
    plane.push_state(caller, workspace, &state).await.map(drop)
}

/// Formats a build with the agents of its workspace.
pub(super) async fn as_json(
    plane: &Plane,
    workspace: &Workspace,
    build: &Build,
) -> Result<Value, RequestError> {
    let job = jobs::find(plane, build.job_id).await?;
    let status = job.status();
    let version = plane.store().version(build.version_id).await?;
    let made = plane.made(build.id).await?;
    let agents = plane.store().agents(workspace.id).await?;
    let of = |resource: &Resource| -> Vec<Value> {
        let record = |agent: &Agent| agents.iter().find(|it| it.name == agent.name);
        let all = resource.agents.iter();
        all.filter_map(|agent| Some(agent_as_json(plane, record(agent)?, agent)))
            .collect()
    };
    let resources: Vec<Value> = made
        .resources
        .iter()
        .map(|resource| {
            json!({
                "id": build.id,
                "job_id": job.id,
                "type": resource.kind,
                "name": resource.name,
                "workspace_transition": transition(build.transition),
                "hide": resource.hide,
                "icon": resource.icon,
                "daily_cost": resource.daily_cost,
                "agents": of(resource),
                "metadata": facts(&resource.metadata),
            })
        })
        .collect();
    let matched = match status {
        JobStatus::Queued => matched_daemons(plane, &job).await?,
        JobStatus::Running
        | JobStatus::Cancelling
        | JobStatus::Succeeded
        | JobStatus::Failed
        | JobStatus::Cancelled => Value::Null,
    };
    let preset = (!build.preset.is_empty()).then(|| preset_id(build.version_id, &build.preset));
    Ok(json!({
        "id": build.id,
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_owner_id": workspace.owner_id,
        "workspace_owner_name": workspace.owner,
        "template_version_id": build.version_id,
        "template_version_name": version.map(|it| it.name),
        "build_number": build.number,
        "transition": transition(build.transition),
        "initiator_id": build.initiator_id,
        "reason": "initiator",
        "status": status_of(build.transition, status),
        "job": jobs::described(plane, &job).await?,
        "daily_cost": build.daily_cost,
        "created_at": build.created_at,
        "updated_at": workspace.updated_at,
        "resources": resources,
        "matched_provisioners": matched,
        "template_version_preset_id": preset,
    }))
}

fn status_of(transition: Transition, status: JobStatus) -> &'static str {
    match (status, transition) {
        (JobStatus::Running, Transition::Start) => "starting",
        (JobStatus::Running, Transition::Stop) => "stopping",
        (JobStatus::Running, Transition::Destroy) => "deleting",
        (JobStatus::Succeeded, Transition::Start) => "running",
        (JobStatus::Succeeded, Transition::Stop) => "stopped",
        (JobStatus::Succeeded, Transition::Destroy) => "deleted",
        (
            JobStatus::Queued | JobStatus::Cancelling | JobStatus::Cancelled | JobStatus::Failed,
            _,
        ) => jobs::status(status),
    }
}
