//! Workspaces as Coder's clients read them on their way to an agent.
//!
//! # Source
//! coder `codersdk/workspaces.go`, `codersdk/workspaceagents.go`, `codersdk/users.go`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::get,
};
use serde_json::{Value, json};

use super::{admission, answer::Refusal, overlay};
use crate::{
    control::{
        model::{AgentRecord, Build, JobRecord, JobStatus, Organization, Workspace},
        plane::{AgentFacts, Caller, Plane, RequestError},
        store::WorkspaceFilter,
    },
    job::{Agent, Resource, Transition},
    tailnet::API_VERSION,
};

/// What leads a client to an agent.
pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/users/{user}", get(user))
        .route(
            "/api/v2/users/{user}/workspace/{workspace}",
            get(workspace_of),
        )
        .route("/api/v2/workspaces", get(workspaces))
        .route("/api/v2/workspaces/{workspace}", get(workspace))
        .route("/api/v2/workspaceagents/{agent}", get(agent))
        .route("/api/v2/workspaceagents/{agent}/logs", get(logs))
}

async fn user(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = admission::caller(&plane, &headers).await?;
    let name = if name == "me" { "" } else { &name };
    let user = plane.acting_for(&caller, name).await;
    let user = user.map_err(Refusal::unavailable)?;
    let organizations = plane.store().organizations().await;
    let organizations = organizations.map_err(|error| Refusal::unavailable(error.into()))?;
    let ids: Vec<_> = organizations.iter().map(|it| it.id).collect();
    Ok(Json(json!({
        "id": user.id,
        "username": user.name,
        "name": user.full_name,
        "email": user.email,
        "created_at": user.created_at,
        "updated_at": user.created_at,
        "status": "active",
        "login_type": "token",
        "organization_ids": ids,
        "roles": [],
    })))
}

/// Of all organizations, the first that has it: names of workspaces are told apart by their owners.
async fn workspace_of(
    State(plane): State<Arc<Plane>>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = admission::caller(&plane, &headers).await?;
    let named = match owner.as_str() {
        "me" => name,
        owner => format!("{owner}/{name}"),
    };
    described(&plane, &caller, &named).await
}

async fn workspace(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = admission::caller(&plane, &headers).await?;
    described(&plane, &caller, &id).await
}

async fn described(plane: &Plane, caller: &Caller, named: &str) -> Result<Json<Value>, Refusal> {
    let all = plane.store().organizations().await;
    let all = all.map_err(|error| Refusal::unavailable(error.into()))?;
    for organization in &all {
        match plane.workspace(caller, organization.id, named).await {
            Ok(found) => {
                let json = as_json(plane, organization, &found).await;
                return Ok(Json(json.map_err(Refusal::unavailable)?));
            }
            Err(RequestError::NotFound { .. }) => {}
            Err(error) => return Err(Refusal::unavailable(error)),
        }
    }
    Err(Refusal::not_found())
}

async fn workspaces(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = admission::caller(&plane, &headers).await?;
    let listed = async {
        let mut listed = Vec::new();
        for organization in plane.store().organizations().await? {
            let filter = WorkspaceFilter {
                organization: Some(organization.id),
                owner: Some(caller.user.id),
                deleted: false,
            };
            for workspace in plane.workspaces(&caller, filter).await? {
                listed.push(as_json(&plane, &organization, &workspace).await?);
            }
        }
        Ok(listed)
    };
    let listed = listed.await.map_err(Refusal::unavailable)?;
    Ok(Json(json!({ "count": listed.len(), "workspaces": listed })))
}

async fn as_json(
    plane: &Plane,
    organization: &Organization,
    workspace: &Workspace,
) -> Result<Value, RequestError> {
    let build = plane.store().latest_build(workspace.id).await?;
    let build = match build {
        Some(build) => build_as_json(plane, organization, workspace, &build).await?,
        None => Value::Null,
    };
    Ok(json!({
        "id": workspace.id,
        "name": workspace.name,
        "owner_id": workspace.owner_id,
        "owner_name": workspace.owner,
        "organization_id": organization.id,
        "organization_name": organization.name,
        "template_id": workspace.template_id,
        "created_at": workspace.created_at,
        "updated_at": workspace.updated_at,
        "last_used_at": workspace.updated_at,
        "automatic_updates": "never",
        "latest_build": build,
    }))
}

async fn build_as_json(
    plane: &Plane,
    organization: &Organization,
    workspace: &Workspace,
    build: &Build,
) -> Result<Value, RequestError> {
    let job = plane.store().job(build.job_id).await?;
    let job = job.ok_or_else(|| RequestError::NotFound {
        what: "job",
        name: build.job_id.to_string(),
    })?;
    let status = job.status();
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
                "type": resource.kind,
                "name": resource.name,
                "workspace_transition": transition(build.transition),
                "hide": resource.hide,
                "icon": resource.icon,
                "agents": of(resource),
            })
        })
        .collect();
    Ok(json!({
        "id": build.id,
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_owner_id": workspace.owner_id,
        "workspace_owner_name": workspace.owner,
        "template_version_id": build.version_id,
        "build_number": build.number,
        "transition": transition(build.transition),
        "status": status_of(build.transition, status),
        "job": job_as_json(organization, &job),
        "created_at": build.created_at,
        "updated_at": workspace.updated_at,
        "resources": resources,
    }))
}

/// Clients wait for a job as long as it has no `completed_at`.
fn job_as_json(organization: &Organization, job: &JobRecord) -> Value {
    json!({
        "id": job.id,
        "organization_id": organization.id,
        "initiator_id": job.initiator_id,
        "type": "workspace_build",
        "status": job_status(job.status()),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "canceled_at": job.canceled_at,
        "completed_at": job.completed_at,
        "worker_id": job.worker,
        "worker_name": job.worker_name,
        "error": job.error,
        "tags": job.tags,
        "input": {},
        "queue_position": 0,
        "queue_size": 0,
    })
}

fn transition(transition: Transition) -> &'static str {
    match transition {
        Transition::Start => "start",
        Transition::Stop => "stop",
        Transition::Destroy => "delete",
    }
}

fn job_status(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => "pending",
        JobStatus::Running => "running",
        JobStatus::Succeeded => "succeeded",
        JobStatus::Cancelling => "canceling",
        JobStatus::Cancelled => "canceled",
        JobStatus::Failed => "failed",
    }
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
        ) => job_status(status),
    }
}

async fn agent(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let AgentFacts { record, agent, .. } = overlay::find(&plane, &headers, &agent).await?;
    Ok(Json(agent_as_json(&plane, &record, &agent)))
}

/// None are kept beyond our own log.
async fn logs(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    overlay::find(&plane, &headers, &agent).await?;
    Ok(Json(json!([])))
}

fn agent_as_json(plane: &Plane, record: &AgentRecord, agent: &Agent) -> Value {
    let is_connected = plane.coordinator().is_connected(record.id.0);
    let status = match (is_connected, record.first_connected_at) {
        (true, _) => "connected",
        (false, Some(_)) => "disconnected",
        (false, None) => "connecting",
    };
    json!({
        "id": record.id,
        "name": record.name,
        "created_at": record.created_at,
        "status": status,
        "lifecycle_state": record.lifecycle.as_str(),
        "first_connected_at": record.first_connected_at,
        "last_connected_at": record.last_connected_at,
        "architecture": agent.architecture,
        "operating_system": agent.operating_system,
        "directory": agent.directory,
        "expanded_directory": record.directory,
        "version": record.version,
        "api_version": API_VERSION.to_string(),
        "connection_timeout_seconds": agent.connection_timeout_seconds,
        "troubleshooting_url": agent.troubleshooting_url,
        "subsystems": [],
        "display_apps": [],
        "apps": [],
        "scripts": [],
        "log_sources": [],
        "health": { "healthy": is_connected },
    })
}
