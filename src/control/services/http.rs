//! Plain HTTP: whether the server lives, whether it is ready, and what it is.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;
use tonic::Status;

use crate::{
    control::{config::Config, plane::Plane},
    transport::coder::ApiVersion,
};

/// `/healthz`, `/readyz` and `/api/v2/buildinfo`, which need no token.
pub(super) fn routes(plane: Arc<Plane>, config: &Config) -> Router {
    let info = json!({
        "version": config.version,
        "external_url": "",
        "dashboard_url": "",
        "provisioner_api_version": ApiVersion::NEWEST.to_string(),
    });
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(plane)
        .route("/api/v2/buildinfo", get(move || async move { Json(info) }))
}

/// What is not here, said as whoever asks understands it.
pub(super) async fn unknown(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::unimplemented("no such method here").into_http::<Body>();
    }
    let why = json!({ "message": "Route not found." });
    (StatusCode::NOT_FOUND, Json(why)).into_response()
}

async fn ready(State(plane): State<Arc<Plane>>) -> (StatusCode, &'static str) {
    if plane.stop().is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match plane.store().ping().await {
        Ok(()) => (StatusCode::OK, "ok\n"),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "database does not answer\n",
        ),
    }
}
