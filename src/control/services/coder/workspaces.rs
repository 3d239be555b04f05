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

use super::{admission, answer::Refusal, logs, overlay};
use crate::{
    control::{
        agent_ids::{app_id, log_source_id, script_id},
        board::Said,
        model::{AgentRecord, Build, JobRecord, JobStatus, Organization, Workspace},
        plane::{AgentFacts, AgentStatus, Caller, Plane, RequestError},
        store::WorkspaceFilter,
    },
    job::{Agent, App, DisplayApps, Resource, Script, Transition},
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
        .route("/api/v2/workspaceagents/{agent}/logs", get(logs::logs))
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
    let (_, facts) = overlay::find(&plane, &headers, &agent).await?;
    let AgentFacts { record, agent, .. } = facts;
    Ok(Json(agent_as_json(&plane, &record, &agent)))
}

fn agent_as_json(plane: &Plane, record: &AgentRecord, agent: &Agent) -> Value {
    let (status, said) = (plane.agent_status(record), plane.said(record.id));
    let scripts = || agent.scripts.iter().enumerate();
    json!({
        "id": record.id,
        "name": record.name,
        "created_at": record.created_at,
        "status": status.as_str(),
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
        "display_apps": display_apps(&agent.display_apps),
        "apps": agent.apps.iter().map(|app| app_as_json(record, &said, app)).collect::<Vec<_>>(),
        "scripts": scripts().map(|(at, it)| script_as_json(record, at, it)).collect::<Vec<_>>(),
        "log_sources": scripts().map(|(at, it)| source_as_json(record, at, it)).collect::<Vec<_>>(),
        "metadata": metadata_as_json(agent, &said),
        "health": { "healthy": status == AgentStatus::Connected },
    })
}

fn display_apps(offered: &DisplayApps) -> Vec<&'static str> {
    let all = [
        ("vscode", offered.vscode),
        ("vscode_insiders", offered.vscode_insiders),
        ("web_terminal", offered.web_terminal),
        ("port_forwarding_helper", offered.port_forwarding_helper),
        ("ssh_helper", offered.ssh_helper),
    ];
    let offered = all.into_iter().filter(|(_, is_offered)| *is_offered);
    offered.map(|(name, _)| name).collect()
}

fn app_as_json(record: &AgentRecord, said: &Said, app: &App) -> Value {
    let id = app_id(record.id, app);
    let check = app.healthcheck.clone().unwrap_or_default();
    json!({
        "id": id,
        "url": app.url,
        "external": app.external,
        "slug": app.slug,
        "display_name": app.display_name,
        "command": app.command,
        "icon": app.icon,
        "subdomain": app.subdomain,
        "sharing_level": app.sharing_level,
        "healthcheck": {
            "url": check.url,
            "interval": check.interval,
            "threshold": check.threshold,
        },
        "health": said.health_of(record.id, app).as_str(),
        "group": app.group,
        "hidden": app.hidden,
        "open_in": app.open_in,
        "tooltip": app.tooltip,
        "statuses": [],
    })
}

fn script_as_json(record: &AgentRecord, at: usize, script: &Script) -> Value {
    json!({
        "id": script_id(record.id, at),
        "log_source_id": log_source_id(record.id, at),
        "log_path": script.log_path,
        "script": script.script,
        "cron": script.cron,
        "run_on_start": script.run_on_start,
        "run_on_stop": script.run_on_stop,
        "start_blocks_login": script.start_blocks_login,
        // Go has durations in nanoseconds.
        "timeout": i64::from(script.timeout_seconds) * 1_000_000_000,
        "display_name": script.display_name,
    })
}

fn source_as_json(record: &AgentRecord, at: usize, script: &Script) -> Value {
    json!({
        "workspace_agent_id": record.id,
        "id": log_source_id(record.id, at),
        "display_name": script.display_name,
        "icon": script.icon,
    })
}

/// Coder's clients ask for it elsewhere; ours read it here.
fn metadata_as_json(agent: &Agent, said: &Said) -> Vec<Value> {
    let measured = agent.metadata.iter().map(|described| {
        let result = said.measured.get(&described.key);
        json!({
            "description": {
                "key": described.key,
                "display_name": described.display_name,
                "script": described.script,
                "interval": described.interval,
                "timeout": described.timeout,
            },
            "result": result.map(|it| json!({
                "collected_at": it.collected_at,
                "value": it.value,
                "error": it.error,
            })),
        })
    });
    measured.collect()
}
