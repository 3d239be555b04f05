//! Plain HTTP: health, readiness and version of the server.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use outpost_transport::coder::ApiVersion;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use tonic::Status;
use tracing::warn;

use crate::{config::Config, data_dir::DataDir, plane::Plane, store::StoreError};

/// Page for a browser that `coder login` opens.
const LOGIN: &str = "\
This server has no web login. Create a token on a machine that is logged in:

    outpost token create --name NAME --file FILE

and paste it where `coder login` waits for it, or log in with `outpost login URL --token-file FILE`.
The server's first token is in its data directory, in `admin.token`.
";

/// Routes that need no token: health, versions, and what `coder login` asks before it has one.
pub(super) fn routes(plane: Arc<Plane>, config: &Config, data_dir: Option<Arc<DataDir>>) -> Router {
    let readiness = Readiness {
        plane,
        data_dir,
        last: Arc::default(),
    };
    let info = json!({
        "version": config.version,
        "external_url": "",
        "dashboard_url": "",
        "provisioner_api_version": ApiVersion::NEWEST.to_string(),
    });
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(readiness)
        .route("/api/v2/buildinfo", get(move || async move { Json(info) }))
        .route("/api/v2/appearance", get(|| async { Json(appearance()) }))
        .route("/api/v2/users/first", get(|| async { Json(first_user()) }))
        .route("/cli-auth", get(|| async { LOGIN }))
}

/// Appearance of Coder's clients: the default one.
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

/// Answer to whether there is a user yet, without whom `coder login` would create one: the server itself did.
fn first_user() -> Value {
    json!({ "message": "the server has an administrator, whose token is in its data directory" })
}

/// Parts of Coder's API that this server does not have, by what their paths contain, and what to do instead.
const ABSENT: [(&str, &str); 21] = [
    (
        "/secrets",
        "user secrets are not supported: pass values as template variables or parameters",
    ),
    ("/external-auth", "external authentication is not supported"),
    ("/gitsshkey", "SSH keys for users are not supported"),
    ("/autostart", NO_SCHEDULES),
    ("/ttl", NO_SCHEDULES),
    ("/extend", NO_SCHEDULES),
    ("/dormant", NO_SCHEDULES),
    (
        "/autoupdates",
        "workspaces are not updated by themselves: use `coder update`",
    ),
    (
        "/dynamic-parameters",
        "parameters are validated when a build is requested",
    ),
    ("/favorite", "favorites are not supported"),
    ("/acl", "workspaces and templates cannot be shared"),
    (
        "/provisionerkeys",
        "keys are managed with `outpost provisioner key`",
    ),
    ("/groups", "groups are not supported"),
    ("/tasks", "tasks are not supported"),
    ("/licenses", "this server needs no license"),
    ("/notifications", "notifications are not supported"),
    (
        "/regions",
        "this server has no proxies for apps of workspaces",
    ),
    (
        "/archive",
        "versions are not archived; `outpost template delete` deletes a template",
    ),
    (
        "/users",
        "users and their tokens are managed with `outpost user` and `outpost token`",
    ),
    (
        "/members",
        "users are managed with `outpost user`; they belong to all organizations",
    ),
    (
        "/organizations",
        "organizations are managed with `outpost organization`",
    ),
];

const NO_SCHEDULES: &str = "schedules are not supported: a workspace runs until it is stopped";

/// Response for an unknown route, in the form that the client understands.
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
        "`outpost --help` lists the other commands",
        |(_, detail)| *detail,
    );
    let message =
        format!("This server is outpost, which does not implement {method} {path} of Coder's API.");
    let why = json!({ "message": message, "detail": detail });
    (StatusCode::NOT_FOUND, Json(why)).into_response()
}

/// Validity of a result about the storage: anybody may ask, and each check writes to the disk. A failure counts for less
/// time, so that whoever has freed some space sees at once that it was enough.
const GOOD_FOR: Duration = Duration::from_secs(5);
const BAD_FOR: Duration = Duration::from_millis(500);

/// Result of a write to the storage, with the line that `/readyz` returns on failure.
type Storage = Result<(), &'static str>;

/// Latest result of a write to the storage, with its time.
#[derive(Clone)]
struct Readiness {
    plane: Arc<Plane>,
    data_dir: Option<Arc<DataDir>>,
    last: Arc<Mutex<Option<(Instant, Storage)>>>,
}

fn still_counts(answer: Storage, age: Duration) -> bool {
    age < if answer.is_ok() { GOOD_FOR } else { BAD_FOR }
}

impl Readiness {
    /// Checks the storage. Concurrent callers wait for one result.
    async fn storage(&self) -> Storage {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = *last
            && still_counts(answer, at.elapsed())
        {
            return answer;
        }
        let answer = self.write().await;
        *last = Some((Instant::now(), answer));
        answer
    }

    async fn write(&self) -> Storage {
        match self.plane.store().ping().await {
            Ok(()) => {}
            Err(StoreError::DiskFull) => return Err("disk with the database is full\n"),
            Err(_) => return Err("database does not answer\n"),
        }
        let Some(data_dir) = self.data_dir.clone() else {
            return Ok(());
        };
        let probed = tokio::task::spawn_blocking(move || data_dir.probe()).await;
        match probed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "not ready");
                Err("data directory cannot be written\n")
            }
            Err(_) => Err("data directory was not checked\n"),
        }
    }
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.plane.stop().is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match readiness.storage().await {
        Ok(()) => (StatusCode::OK, "ok\n"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_looked_into_again_within_a_second_and_a_success_is_not() {
        let full = Err("disk with the database is full\n");
        for (answer, milliseconds, counts) in [
            (full, 100, true),
            (full, 900, false),
            (Ok(()), 900, true),
            (Ok(()), 5000, false),
        ] {
            let age = Duration::from_millis(milliseconds);
            assert_eq!(
                still_counts(answer, age),
                counts,
                "{answer:?} {milliseconds}"
            );
        }
    }
}
