//! Plain HTTP: whether the server lives, whether it is ready, and what it is.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    control::{config::Config, plane::Plane},
    transport::coder::ApiVersion,
};

/// `/healthz`, `/readyz`, `/api/v2/buildinfo` and `/api/v2/appearance`, which need no token.
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
        .route("/api/v2/appearance", get(|| async { Json(appearance()) }))
}

/// How Coder's clients look: as they are.
fn appearance() -> Value {
    json!({
        "application_name": "",
        "logo_url": "",
        "docs_url": "",
        "service_banner": { "enabled": false },
        "announcement_banners": [],
        "support_links": [],
    })
}

/// Parts of Coder's API that this server does not have, by what their paths contain, and what to do instead.
const ABSENT: [(&str, &str); 9] = [
    (
        "/secrets",
        "it stores no user secrets: give values as variables of a template or as parameters",
    ),
    ("/external-auth", "it is logged in to no external service"),
    ("/gitsshkey", "it makes no SSH keys for people"),
    (
        "/autostart",
        "it has no schedules: a workspace runs until it is stopped",
    ),
    (
        "/ttl",
        "it has no schedules: a workspace runs until it is stopped",
    ),
    (
        "/extend",
        "it has no schedules: a workspace runs until it is stopped",
    ),
    (
        "/dormant",
        "it has no schedules: a workspace runs until it is stopped",
    ),
    (
        "/dynamic-parameters",
        "answers are checked when a build is asked for",
    ),
    (
        "/users",
        "people and their tokens are administered with `outpost`",
    ),
];

/// What is not here, said as whoever asks understands it.
pub(super) async fn unknown(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::unimplemented("no such method here").into_http::<Body>();
    }
    let path = uri.path();
    if !path.starts_with("/api/") {
        let why = json!({ "message": "Route not found." });
        return (StatusCode::NOT_FOUND, Json(why)).into_response();
    }
    let reason = ABSENT.iter().find(|(part, _)| path.contains(part));
    let detail = reason.map_or(
        "`outpost --help` lists what there is beside Coder's commands",
        |(_, detail)| *detail,
    );
    let message = format!("This server is outpost, and has no {method} {path} of Coder's API.");
    let why = json!({ "message": message, "detail": detail });
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
