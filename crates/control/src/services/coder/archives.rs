//! Archives of templates, which Coder's clients upload before they create a version, and download.
//!
//! # Source
//! coder `codersdk/files.go`, `coderd/files.go`.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::json;

use super::{answer::Refusal, authentication, bodies::Bodies, jobs::not_found, query};
use crate::{
    model::{File, FileId, FileKind},
    plane::{Caller, Plane, RequestError},
};

const TAR: &str = "application/x-tar";

pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/files", post(upload))
        .route("/api/v2/files/{file}", get(download))
}

/// Stores an archive and returns its id, which clients call a hash.
async fn upload(
    State(plane): State<Arc<Plane>>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind != TAR {
        let why =
            format!("Unsupported content type header {kind:?}: this server takes {TAR} only.");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    let body = bodies.read(&caller, request).await?;
    let kept = plane.upload_template(&caller, body.content.clone()).await;
    let id = kept.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(json!({ "hash": id }))).into_response())
}

async fn download(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    if let Some(format) = query::parameter(query, "format") {
        let why =
            format!("Unsupported conversion type {format:?}: this server gives tar archives only.");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    let found = find(&plane, &caller, &id).await;
    let file = found.map_err(Refusal::unavailable)?;
    Ok(([(header::CONTENT_TYPE, TAR)], file.content).into_response())
}

/// Returns a template's archive by its id.
pub(super) async fn find(plane: &Plane, caller: &Caller, id: &str) -> Result<File, RequestError> {
    let unknown = || not_found("file", id);
    let id: FileId = id.parse().map_err(|_| unknown())?;
    let file = plane.template_file(caller, id).await?;
    file.filter(|file| file.kind == FileKind::Template)
        .ok_or_else(unknown)
}
