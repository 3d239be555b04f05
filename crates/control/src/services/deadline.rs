//! Deadline of every call, except those that wait or follow on purpose.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tonic::Status;

/// Calls without a deadline; each ends when its client or the server goes away.
const ENDLESS: [&str; 6] = [
    "/outpost.v1.DaemonService/AcquireJob",
    "/outpost.v1.ControlService/StreamLogs",
    "/outpost.v1.ControlService/StreamAgentLogs",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/outpost.v1.DaemonService/DownloadFile",
];

/// Answers within the limit, whatever the call does.
pub(super) async fn enforce(limit: Duration, request: Request, next: Next) -> Response {
    if ENDLESS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) if is_grpc => Status::deadline_exceeded("the server took too long").into_http(),
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}
