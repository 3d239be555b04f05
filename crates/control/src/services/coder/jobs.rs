//! Jobs as Coder's clients read them.
//!
//! # Source
//! coder `codersdk/provisionerdaemons.go`, `coderd/provisionerjobs.go`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::HeaderMap,
    routing::get,
};
use outpost_base::job::{JobId, Transition};
use serde_json::{Value, json};

use super::{answer::Refusal, authentication, organizations, query};
use crate::{
    model::{Build, JobRecord, JobStatus, OrganizationId, Task, Version, Workspace},
    plane::{Caller, Plane, RequestError},
    queue::{self, Reason},
    store::JobFilter,
};

/// Number of jobs in a list by default, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1000;

pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route(
            "/api/v2/organizations/{organization}/provisionerjobs",
            get(jobs),
        )
        .route(
            "/api/v2/organizations/{organization}/provisionerjobs/{job}",
            get(job),
        )
}

async fn jobs(
    State(plane): State<Arc<Plane>>,
    Path(organization): Path<String>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let listed = async {
        let organization = organizations::find(&plane, &organization).await?;
        let filter = filter(&plane, &caller, organization.id, query).await?;
        let mut listed = Vec::new();
        for job in plane.jobs(&caller, filter).await? {
            listed.push(described(&plane, &job).await?);
        }
        Ok(Value::Array(listed))
    };
    listed.await.map(Json).map_err(Refusal::unavailable)
}

async fn filter(
    plane: &Plane,
    caller: &Caller,
    organization: OrganizationId,
    query: &str,
) -> Result<JobFilter, RequestError> {
    let initiator = match query::parameter(query, "initiator").as_deref() {
        None => None,
        Some("me") => Some(caller.user.id),
        Some(name) => Some(plane.acting_for(caller, name).await?.id),
    };
    let statuses = query::parameter(query, "status").unwrap_or_default();
    let statuses = statuses.split(',').filter(|name| !name.is_empty());
    let statuses: Result<_, _> = statuses.map(status_named).collect();
    let limit = query::parameter(query, "limit").and_then(|limit| limit.parse().ok());
    Ok(JobFilter {
        organization: Some(organization),
        initiator,
        statuses: statuses?,
        limit: limit.unwrap_or(PAGE).min(LARGEST_PAGE),
    })
}

fn status_named(name: &str) -> Result<JobStatus, RequestError> {
    let mut all = JobStatus::ALL.into_iter();
    all.find(|known| status(*known) == name).ok_or_else(|| {
        let known = JobStatus::ALL.map(status).join(", ");
        RequestError::Invalid(format!("job status {name:?} is not one of {known}"))
    })
}

async fn job(
    State(plane): State<Arc<Plane>>,
    Path((_, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = async { described(&plane, &plane.job(&caller, parse(&id)?).await?).await };
    found.await.map(Json).map_err(Refusal::unavailable)
}

/// Parses a job's id from a URL.
pub(super) fn parse(id: &str) -> Result<JobId, RequestError> {
    id.parse().map_err(|_| not_found("job", id))
}

pub(super) fn not_found(what: &'static str, id: impl ToString) -> RequestError {
    let name = id.to_string();
    RequestError::NotFound { what, name }
}

pub(super) async fn find(plane: &Plane, id: JobId) -> Result<JobRecord, RequestError> {
    let job = plane.store().job(id).await?;
    job.ok_or_else(|| not_found("job", id))
}

/// Cancels a job of the caller's, and returns the message that clients expect.
pub(super) async fn cancel(
    plane: &Plane,
    caller: &Caller,
    id: JobId,
) -> Result<Json<Value>, Refusal> {
    let cancelled = plane.cancel_job(caller, id).await;
    cancelled.map_err(Refusal::unavailable)?;
    Ok(Json(
        json!({ "message": "Job has been marked as canceled." }),
    ))
}

/// Subject of a job.
struct Subject {
    version: Option<Version>,
    build: Option<(Build, Option<Workspace>)>,
}

impl Subject {
    async fn of(plane: &Plane, task: &Task) -> Result<Self, RequestError> {
        let store = plane.store();
        let build = match task {
            Task::WorkspaceBuild { build_id } => store.build(*build_id).await?,
            Task::TemplateImport { .. } | Task::TemplateDryRun { .. } => None,
        };
        let version = match (task, &build) {
            (Task::TemplateImport { version_id } | Task::TemplateDryRun { version_id, .. }, _) => {
                store.version(*version_id).await?
            }
            (Task::WorkspaceBuild { .. }, Some(build)) => store.version(build.version_id).await?,
            (Task::WorkspaceBuild { .. }, None) => None,
        };
        let build = match build {
            Some(build) => {
                let workspace = store.workspace(build.workspace_id).await?;
                Some((build, workspace))
            }
            None => None,
        };
        Ok(Self { version, build })
    }

    fn input(&self, task: &Task) -> Value {
        match (&self.build, task) {
            (Some((build, _)), _) => json!({ "workspace_build_id": build.id }),
            (
                None,
                Task::TemplateImport { version_id } | Task::TemplateDryRun { version_id, .. },
            ) => {
                json!({ "template_version_id": version_id })
            }
            (None, Task::WorkspaceBuild { .. }) => json!({}),
        }
    }

    async fn metadata(&self, plane: &Plane) -> Result<Value, RequestError> {
        let template = match &self.version {
            Some(version) => plane.store().template(version.template_id).await?,
            None => None,
        };
        let template = template.filter(|template| template.deleted_at.is_none());
        let workspace = self.build.as_ref().and_then(|(_, it)| it.as_ref());
        Ok(json!({
            "template_version_name": self.version.as_ref().map(|it| &it.name),
            "template_id": template.as_ref().map(|it| it.id),
            "template_name": template.as_ref().map(|it| &it.name),
            "template_display_name": "",
            "template_icon": "",
            "workspace_id": workspace.map(|it| it.id),
            "workspace_name": workspace.map(|it| &it.name),
            "workspace_build_transition": self.build.as_ref().map(|(it, _)| transition(it.transition)),
        }))
    }
}

/// Describes a job with its subject. Clients wait for a job for as long as it has no `completed_at`.
pub(super) async fn described(plane: &Plane, job: &JobRecord) -> Result<Value, RequestError> {
    let subject = Subject::of(plane, &job.task).await?;
    let (position, size) = match job.status() {
        JobStatus::Queued => {
            let waiting = plane.store().waiting().await?;
            (queue::position(&waiting, job.id), waiting.len())
        }
        JobStatus::Running
        | JobStatus::Cancelling
        | JobStatus::Succeeded
        | JobStatus::Failed
        | JobStatus::Cancelled => (0, 0),
    };
    Ok(json!({
        "id": job.id,
        "organization_id": job.organization_id,
        "initiator_id": job.initiator_id,
        "type": kind(&job.task),
        "status": status(job.status()),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "canceled_at": job.canceled_at,
        "completed_at": job.completed_at,
        "worker_id": job.worker,
        "worker_name": job.worker_name,
        "error": job.error,
        "error_code": job.error_code.map_or("", |code| code.as_str()),
        "file_id": subject.version.as_ref().map(|it| it.file_id),
        "tags": job.tags,
        "input": subject.input(&job.task),
        "metadata": subject.metadata(plane).await?,
        "logs_overflowed": job.log_truncated,
        "queue_position": position,
        "queue_size": size,
    }))
}

/// Counts the daemons that may take a waiting job, so that clients can warn whoever waits in vain.
pub(super) async fn matched_daemons(plane: &Plane, job: &JobRecord) -> Result<Value, RequestError> {
    let mut eligible = plane.verdicts(job).await?;
    eligible.retain(|verdict| verdict.eligible);
    let is_there = |reasons: &[Reason]| !reasons.iter().any(|it| matches!(it, Reason::Offline(_)));
    let available = eligible.iter().filter(|it| is_there(&it.reasons)).count();
    let daemons = plane.store().daemons().await?;
    let last = daemons
        .iter()
        .filter(|daemon| eligible.iter().any(|it| it.daemon_id == daemon.id));
    let last = last.map(|daemon| daemon.last_seen_at).max();
    Ok(json!({
        "count": eligible.len(),
        "available": available,
        "most_recently_seen": last,
    }))
}

fn kind(task: &Task) -> &'static str {
    match task {
        Task::TemplateImport { .. } => "template_version_import",
        Task::TemplateDryRun { .. } => "template_version_dry_run",
        Task::WorkspaceBuild { .. } => "workspace_build",
    }
}

pub(super) fn transition(transition: Transition) -> &'static str {
    match transition {
        Transition::Start => "start",
        Transition::Stop => "stop",
        Transition::Destroy => "delete",
    }
}

/// Returns a job's status in Coder's words.
pub(super) fn status(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => "pending",
        JobStatus::Running => "running",
        JobStatus::Succeeded => "succeeded",
        JobStatus::Cancelling => "canceling",
        JobStatus::Cancelled => "canceled",
        JobStatus::Failed => "failed",
    }
}
