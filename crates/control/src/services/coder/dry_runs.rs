//! Dry runs of template versions, which Coder's clients make before they create a workspace.
//!
//! # Source
//! coder `coderd/templateversions.go`.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, patch, post},
};
use outpost_base::job::Transition;
use serde::Deserialize;
use serde_json::Value;

use super::{
    answer::Refusal,
    authentication,
    bodies::Bodies,
    builds::Answer,
    jobs::{self, matched_daemons, not_found},
    logs, resources, versions,
};
use crate::{
    model::{JobRecord, Task},
    plane::{Caller, Plane, RequestError},
    services::gate::Sender,
};

pub(super) fn routes() -> Router<Arc<Plane>> {
    const ALL: &str = "/api/v2/templateversions/{version}/dry-run";
    let one = format!("{ALL}/{{job}}");
    Router::new()
        .route(ALL, post(create))
        .route(&one, get(describe))
        .route(&format!("{one}/cancel"), patch(cancel))
        .route(&format!("{one}/logs"), get(logs::of_dry_run))
        .route(&format!("{one}/resources"), get(resources_of))
        .route(&format!("{one}/matched-provisioners"), get(matched))
}

#[derive(Deserialize)]
struct NewDryRun {
    #[serde(default)]
    workspace_name: String,
    #[serde(default)]
    rich_parameter_values: Option<Vec<Answer>>,
}

async fn create(
    State(plane): State<Arc<Plane>>,
    Path(version): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: NewDryRun = bodies.json(Sender::Person(caller.user.id), request).await?;
    let given = Answer::values(asked.rich_parameter_values);
    let made = async {
        let version = versions::find(&plane, &version).await?;
        let template = plane.store().template(version.template_id).await?;
        let template = template.ok_or_else(|| not_found("template", version.template_id))?;
        let name = asked.workspace_name;
        let job = plane.create_dry_run(&caller, &template, &version, &given, name);
        jobs::described(&plane, &job.await?).await
    };
    let made = made.await.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Returns the job of a dry run of this version.
pub(super) async fn find(
    plane: &Plane,
    caller: &Caller,
    version: &str,
    job: &str,
) -> Result<JobRecord, RequestError> {
    let found = plane.job(caller, jobs::parse(job)?).await?;
    match &found.task {
        Task::TemplateDryRun { version_id, .. } if version_id.to_string() == version => Ok(found),
        Task::TemplateDryRun { .. } | Task::TemplateImport { .. } | Task::WorkspaceBuild { .. } => {
            Err(not_found("dry run", job))
        }
    }
}

async fn describe(
    State(plane): State<Arc<Plane>>,
    Path((version, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = async {
        let job = find(&plane, &caller, &version, &job).await?;
        jobs::described(&plane, &job).await
    };
    found.await.map(Json).map_err(Refusal::unavailable)
}

async fn cancel(
    State(plane): State<Arc<Plane>>,
    Path((version, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = find(&plane, &caller, &version, &job).await;
    let id = found.map_err(Refusal::unavailable)?.id;
    jobs::cancel(&plane, &caller, id).await
}

async fn resources_of(
    State(plane): State<Arc<Plane>>,
    Path((version, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = async {
        let job = find(&plane, &caller, &version, &job).await?;
        let result = plane.dry_run(&caller, job.id).await?;
        Ok(resources::planned(
            job.id.0,
            &result.resources,
            Transition::Start,
        ))
    };
    let found = found.await.map_err(Refusal::unavailable)?;
    Ok(Json(Value::Array(found)))
}

async fn matched(
    State(plane): State<Arc<Plane>>,
    Path((version, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = async {
        let job = find(&plane, &caller, &version, &job).await?;
        matched_daemons(&plane, &job).await
    };
    found.await.map(Json).map_err(Refusal::unavailable)
}
