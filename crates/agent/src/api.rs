//! HTTP API of an agent, inside the overlay: everything that Coder's servers and clients ask an agent for besides
//! SSH.
//!
//! We answer what `coder show`, `coder ping` and dashboards need. Other questions get a 404 in the form in which servers pass it on.
//!
//! # Source
//! coder `agent/api.go`, `codersdk/workspacesdk/agentconn.go`.

mod containers;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use outpost_base::stop::Stop;
use outpost_net::listener::Upgraded;
use outpost_tailnet::Listener;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
};
use tracing::{Instrument as _, debug, debug_span};

use super::ports;

/// Port in the overlay at which the API listens.
pub(super) const PORT: u16 = 4;
/// Number of connections at the same time; further ones wait.
const CONNECTIONS: usize = 64;
/// Longest wait for a client's next request.
const QUESTION: Duration = Duration::from_secs(30);
/// Lowest port that can be a user's web server.
const LOWEST_PORT: u16 = 9;

/// Serves the API until `stop` drains.
pub(super) async fn serve(mut listener: Listener, stop: Stop) {
    let routes = routes();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut running = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned();
        tokio::select! {
            Some((stream, peer)) = listener.accept() => {
                let Ok(place) = place.await else { return };
                let routes = routes.clone();
                let answering = async move {
                    answer(stream, routes).await;
                    drop(place);
                };
                running.spawn(answering.instrument(debug_span!("api", %peer)));
            }
            Some(_) = running.join_next() => {}
            () = stop.draining() => return,
        }
    }
}

/// Serves one connection, including a WebSocket that it becomes.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router) {
    let (upgraded, mut becomes) = Upgraded::channel();
    let routes = routes.layer(Extension(upgraded));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .with_upgrades();
    match connection.await {
        Ok(()) => becomes.run().await,
        Err(error) => debug!(%error, "connection to the agent's API failed"),
    }
}

fn routes() -> Router {
    containers::routes()
        .route(
            "/",
            get(|| async { message("This is an agent of outpost.", "") }),
        )
        .route("/api/v0/listening-ports", get(listening_ports))
        .route("/api/v0/netcheck", get(|| async { Json(netcheck()) }))
        .fallback(|| async {
            let answer = message(
                "The agent has no such endpoint.",
                "It is an agent of outpost.",
            );
            (StatusCode::NOT_FOUND, answer)
        })
}

fn message(message: &str, detail: &str) -> Json<Value> {
    Json(json!({ "message": message, "detail": detail }))
}

/// Returns an empty report of the network, which is not checked: we only use relays.
fn netcheck() -> Value {
    let base = json!({ "error": null, "severity": "ok", "warnings": [], "dismissed": false });
    let mut interfaces = base.clone();
    interfaces["interfaces"] = json!([]);
    let mut report = base;
    report["net_info"] = Value::Null;
    report["interfaces"] = interfaces;
    report
}

async fn listening_ports() -> Response {
    let looked = spawn_blocking(|| in_use(Path::new("/proc"))).await;
    match looked.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
        Ok(ports) => Json(json!({ "ports": ports })).into_response(),
        Err(error) => {
            let answer = message("Could not scan for listening ports.", &error.to_string());
            (StatusCode::INTERNAL_SERVER_ERROR, answer).into_response()
        }
    }
}

fn in_use(proc: &Path) -> std::io::Result<Vec<Value>> {
    let ports = ports::listening(proc)?;
    let mut names = BTreeMap::new();
    ports::each_holder(proc, |process, socket| {
        if ports.values().any(|it| *it == socket) {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            names.entry(socket).or_insert(name.trim_end().to_owned());
        }
    });
    let shown = ports.iter().filter(|(port, _)| **port >= LOWEST_PORT);
    let shown = shown.map(|(port, socket)| {
        let name = names.get(socket).map_or("", String::as_str);
        json!({ "process_name": name, "network": "tcp", "port": port })
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    pub(super) async fn ask(path: &str) -> (StatusCode, Value) {
        let request = http::Request::get(path).body(axum::body::Body::empty());
        let (upgraded, _becomes) = Upgraded::channel();
        let answer = routes()
            .layer(Extension(upgraded))
            .oneshot(request.unwrap())
            .await
            .unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
        (status, serde_json::from_slice(&body.unwrap()).unwrap())
    }

    #[tokio::test]
    async fn a_port_of_our_own_is_listed_with_our_name() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        let (status, body) = ask("/api/v0/listening-ports").await;

        assert_eq!(status, StatusCode::OK);
        let ports = body["ports"].as_array().unwrap();
        let ours = ports.iter().find(|it| it["port"] == port).unwrap();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(ours["process_name"], name.trim_end());
        assert_eq!(ours["network"], "tcp");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_that_a_server_of_coder_passes_on() {
        let (status, body) = ask("/api/v0/desktop/vnc").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(!body["message"].as_str().unwrap().is_empty(), "{body}");
    }

    #[tokio::test]
    async fn a_network_that_was_not_checked_is_no_warning() {
        let (status, body) = ask("/api/v0/netcheck").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["net_info"], Value::Null);
        assert_eq!(body["interfaces"]["warnings"], json!([]));
    }
}
