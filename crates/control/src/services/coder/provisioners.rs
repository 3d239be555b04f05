//! Provisioner daemons as Coder's clients read them.
//!
//! # Source
//! coder `codersdk/provisionerdaemons.go`, `enterprise/coderd/provisionerdaemons.go`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    routing::get,
};
use serde_json::{Value, json};

use super::{answer::Refusal, authentication, jobs, organizations, query};
use crate::{
    model::{Daemon, JobRecord},
    plane::{Plane, RequestError},
};

/// Number of daemons in a list by default.
const PAGE: usize = 50;

pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new().route(
        "/api/v2/organizations/{organization}/provisionerdaemons",
        get(daemons),
    )
}

async fn daemons(
    State(plane): State<Arc<Plane>>,
    Path(organization): Path<String>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let listed = listed(&plane, &organization, query).await;
    listed.map(Json).map_err(Refusal::unavailable)
}

/// Lists daemons that are online; with `offline` or a status the others, too.
async fn listed(plane: &Plane, organization: &str, query: &str) -> Result<Value, RequestError> {
    let organization = organizations::find(plane, organization).await?.id;
    let asked = |name| query::parameter(query, name);
    let statuses = asked("status").unwrap_or_default();
    let with_offline = asked("offline").is_some_and(|it| it == "true");
    let limit = asked("limit").and_then(|limit| limit.parse().ok());
    let open = plane.store().open_jobs().await?;
    let mut listed = Vec::new();
    for daemon in plane.store().daemons().await? {
        let status = status(plane, &open, &daemon);
        let is_asked_for = match statuses.as_str() {
            "" => with_offline || status != "offline",
            statuses => statuses.split(',').any(|it| it == status),
        };
        if daemon.organization_id == organization && is_asked_for {
            listed.push(described(plane, &open, daemon, status).await?);
        }
    }
    listed.truncate(limit.unwrap_or(PAGE));
    Ok(Value::Array(listed))
}

fn job_of<'a>(open: &'a [JobRecord], daemon: &Daemon) -> Option<&'a JobRecord> {
    open.iter().find(|job| job.worker == Some(daemon.id))
}

fn status(plane: &Plane, open: &[JobRecord], daemon: &Daemon) -> &'static str {
    let silent = plane.now().duration_since(daemon.last_seen_at);
    match job_of(open, daemon) {
        _ if silent.unsigned_abs() > plane.limits().offline => "offline",
        Some(_) => "busy",
        None => "idle",
    }
}

async fn described(
    plane: &Plane,
    open: &[JobRecord],
    daemon: Daemon,
    status: &str,
) -> Result<Value, RequestError> {
    let job = match job_of(open, &daemon) {
        Some(job) => {
            let described = jobs::described(plane, job).await?;
            json!({
                "id": job.id,
                "status": described["status"],
                "template_name": described["metadata"]["template_name"],
            })
        }
        None => Value::Null,
    };
    let keys = plane.store().keys().await?;
    let key = keys.into_iter().find(|key| Some(key.id) == daemon.key_id());
    Ok(json!({
        "id": daemon.id,
        "organization_id": daemon.organization_id,
        "key_id": daemon.key_id(),
        "key_name": key.map(|key| key.name),
        "created_at": daemon.created_at,
        "last_seen_at": daemon.last_seen_at,
        "name": daemon.name,
        "version": daemon.version,
        "api_version": daemon.api_version,
        "provisioners": daemon.provisioners,
        "tags": daemon.tags,
        "status": status,
        "current_job": job,
        "previous_job": null,
    }))
}
