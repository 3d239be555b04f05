//! Tests against a server that has one workspace with one build, which is all that the routes need.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::HeaderMap,
    routing::{get, put},
};

use super::*;

const STATE: &[u8] = br#"{"lineage":"a","serial":3}"#;

#[derive(Default)]
struct Server {
    state: Mutex<Vec<u8>>,
    is_building: bool,
    is_deleted: bool,
}

async fn start(server: Arc<Server>) -> Coder {
    let build = |State(server): State<Arc<Server>>| async move { Json(build(&server)) };
    let workspace = |State(server): State<Arc<Server>>| async move {
        match server.is_deleted {
            true => (
                StatusCode::GONE,
                Json(json!({ "message": "Workspace \"dev\" was deleted." })),
            ),
            false => (
                StatusCode::OK,
                Json(json!({ "latest_build": self::build(&server) })),
            ),
        }
    };
    let read =
        |State(server): State<Arc<Server>>| async move { server.state.lock().unwrap().clone() };
    let write = |State(server): State<Arc<Server>>,
                 headers: HeaderMap,
                 body: Json<serde_json::Value>| async move {
        assert_eq!(headers["coder-session-token"], "token");
        let state = body.0["state"].as_str().unwrap().to_owned();
        *server.state.lock().unwrap() = BASE64_STANDARD.decode(state).unwrap();
    };
    let routes = Router::new()
        .route("/api/v2/workspacebuilds/old", get(build))
        .route("/api/v2/workspaces/w", get(workspace))
        .route("/api/v2/workspacebuilds/new/state", get(read))
        .route("/api/v2/workspacebuilds/new/state", put(write))
        .with_state(server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Coder::new(client, url.parse().unwrap(), Secret::new("token"))
}

fn build(server: &Server) -> serde_json::Value {
    let completed_at = (!server.is_building).then_some("2026-01-01T00:00:00Z");
    json!({ "id": "new", "workspace_id": "w", "build_number": 4, "job": { "completed_at": completed_at } })
}

#[tokio::test]
async fn a_newer_state_becomes_that_of_the_latest_build() {
    for before in [&b""[..], br#"{"lineage":"a","serial":2}"#] {
        let server = Arc::new(Server {
            state: Mutex::new(before.to_vec()),
            ..Server::default()
        });
        let coder = start(Arc::clone(&server)).await;

        assert_eq!(coder.push_state("old", STATE).await.unwrap(), 4);
        assert_eq!(*server.state.lock().unwrap(), STATE);
    }
}

#[tokio::test]
async fn anything_else_is_left_as_it_is() {
    let other = br#"{"lineage":"b","serial":1}"#;
    for (before, is_building) in [(STATE, false), (other, false), (b"", true)] {
        let server = Arc::new(Server {
            state: Mutex::new(before.to_vec()),
            is_building,
            ..Server::default()
        });
        let coder = start(Arc::clone(&server)).await;

        let error = coder.push_state("old", STATE).await.unwrap_err();

        assert!(
            matches!(
                error,
                PushError::NotNewer | PushError::Unrelated | PushError::UnderWay(4)
            ),
            "{error}"
        );
        assert_eq!(*server.state.lock().unwrap(), before);
    }
}

#[tokio::test]
async fn a_build_that_nobody_may_see_is_refused_with_a_hint() {
    let coder = start(Arc::default()).await;

    let error = coder.push_state("unknown", STATE).await.unwrap_err();

    assert!(matches!(
        error,
        PushError::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }
    ));
    assert!(error.hint().unwrap().contains("token of a user"));
}

#[tokio::test]
async fn a_deleted_workspace_is_said_in_words_with_what_to_do() {
    let server = Arc::new(Server {
        is_deleted: true,
        ..Server::default()
    });
    let coder = start(server).await;

    let error = coder.push_state("old", STATE).await.unwrap_err();

    let expected =
        "cannot read the workspace: the server answers 410 Gone: Workspace \"dev\" was deleted.";
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("outpost recover forget"));
}
