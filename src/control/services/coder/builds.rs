//! Builds, and the versions of templates that they use, as Coder's clients read them.
//!
//! # Source
//! coder `codersdk/workspacebuilds.go`, `codersdk/templateversions.go`, `codersdk/provisionerdaemons.go`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::get,
};
use serde_json::{Value, json};

use super::{admission, answer::Refusal, logs, workspaces::agent_as_json};
use crate::{
    control::{
        model::{Build, JobRecord, JobStatus, Task, VersionId, Workspace},
        plane::{Plane, RequestError},
    },
    job::{Agent, JobId, Resource, Transition},
};

/// What a client asks while a workspace comes up.
pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/templateversions/{version}", get(version))
        .route("/api/v2/workspacebuilds/{build}", get(build))
        .route("/api/v2/workspacebuilds/{build}/logs", get(logs::of_build))
}

async fn version(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    admission::caller(&plane, &headers).await?;
    let id = id.parse().map_err(|_| Refusal::not_found())?;
    let version = version_as_json(&plane, id).await;
    Ok(Json(version.map_err(Refusal::unavailable)?))
}

async fn version_as_json(plane: &Plane, id: VersionId) -> Result<Value, RequestError> {
    let version = plane.store().version(id).await?;
    let version = version.ok_or_else(|| not_found("template version", id))?;
    let job = find_job(plane, version.job_id).await?;
    let users = plane.store().users().await?;
    let author = users.into_iter().find(|it| it.id == version.created_by);
    Ok(json!({
        "id": version.id,
        "template_id": version.template_id,
        "organization_id": job.organization_id,
        "created_at": version.created_at,
        "updated_at": version.created_at,
        "name": version.name,
        "message": version.message,
        "job": job_as_json(&job),
        "readme": "",
        "created_by": {
            "id": version.created_by,
            "username": author.map(|it| it.name),
        },
        "archived": false,
        "has_external_agent": false,
    }))
}

async fn build(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = admission::caller(&plane, &headers).await?;
    let described = async {
        let (workspace, build) = plane.build(&caller, &id).await?;
        as_json(&plane, &workspace, &build).await
    };
    Ok(Json(described.await.map_err(Refusal::unavailable)?))
}

/// A build with the agents that its workspace has.
pub(super) async fn as_json(
    plane: &Plane,
    workspace: &Workspace,
    build: &Build,
) -> Result<Value, RequestError> {
    let job = find_job(plane, build.job_id).await?;
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
        "template_version_name": version.map(|it| it.name),
        "build_number": build.number,
        "transition": transition(build.transition),
        "initiator_id": build.initiator_id,
        "reason": "initiator",
        "status": status_of(build.transition, status),
        "job": job_as_json(&job),
        "daily_cost": build.daily_cost,
        "created_at": build.created_at,
        "updated_at": workspace.updated_at,
        "resources": resources,
    }))
}

async fn find_job(plane: &Plane, id: JobId) -> Result<JobRecord, RequestError> {
    let job = plane.store().job(id).await?;
    job.ok_or_else(|| not_found("job", id))
}

fn not_found(what: &'static str, id: impl ToString) -> RequestError {
    let name = id.to_string();
    RequestError::NotFound { what, name }
}

/// Clients wait for a job as long as it has no `completed_at`.
fn job_as_json(job: &JobRecord) -> Value {
    json!({
        "id": job.id,
        "organization_id": job.organization_id,
        "initiator_id": job.initiator_id,
        "type": kind(&job.task),
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
        "logs_overflowed": job.log_truncated,
        "queue_position": 0,
        "queue_size": 0,
    })
}

fn kind(task: &Task) -> &'static str {
    match task {
        Task::TemplateImport { .. } => "template_version_import",
        Task::TemplateDryRun { .. } => "template_version_dry_run",
        Task::WorkspaceBuild { .. } => "workspace_build",
    }
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
