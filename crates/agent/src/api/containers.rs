//! Dev containers, of which our agents have none: Coder's servers and clients are told so without an error.
//!
//! # Source
//! coder `agent/agentcontainers/api.go`, `coderd/workspaceagents.go`: a dashboard lists the containers and then watches
//! them, and coderd logs an error of its own if the agent refuses the watch.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::{SinkExt as _, StreamExt as _};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use outpost_net::{listener::Upgraded, websocket};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use tracing::debug;

use super::message;

/// Number of open dashboards at the same time: half of the connections, so that other requests are answered as well.
const WATCHERS: usize = 32;

pub(super) fn routes() -> Router {
    Router::new()
        .route("/api/v0/containers", get(|| async { Json(none()) }))
        .route("/api/v0/containers/watch", get(watch))
        .with_state(Arc::new(Semaphore::new(WATCHERS)))
}

fn none() -> Value {
    json!({ "devcontainers": [], "containers": [] })
}

/// Switches to a WebSocket that reports once that there are none, and stays open until the client closes it.
async fn watch(
    State(watchers): State<Arc<Semaphore>>,
    Extension(upgraded): Extension<Upgraded>,
    mut request: Request,
) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        let why = message("This endpoint needs a WebSocket.", "");
        return (StatusCode::UPGRADE_REQUIRED, why).into_response();
    };
    let accepted = derive_accept_key(key.as_bytes());
    let Ok(place) = watchers.try_acquire_owned() else {
        let why = message("Too many clients watch this agent's containers.", "");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let connection = hyper::upgrade::on(&mut request);
    upgraded.set(async move {
        match connection.await {
            Ok(io) => tell(TokioIo::new(io)).await,
            Err(error) => {
                debug!(%error, "a client that watches containers disconnected before the upgrade")
            }
        }
        drop(place);
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accepted)
        .body(Body::empty());
    response.expect("these headers are valid")
}

async fn tell(io: impl AsyncRead + AsyncWrite + Unpin) {
    let config = Some(websocket::config());
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, config).await;
    if let Err(error) = socket.send(Message::text(none().to_string())).await {
        return debug!(%error, "a client that watched containers disconnected");
    }
    // Reading answers pings and the close message; other messages have no meaning here.
    while let Some(Ok(_)) = socket.next().await {}
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio_tungstenite::client_async;

    use super::super::{answer, tests::ask};
    use super::*;

    #[tokio::test]
    async fn no_containers_are_an_empty_list_and_no_error() {
        let (status, body) = ask("/api/v0/containers").await;
        assert_eq!((status, body), (StatusCode::OK, none()));
    }

    #[tokio::test]
    async fn a_watcher_hears_of_none_and_keeps_its_connection_until_it_closes_it() {
        let (near, far) = duplex(64 << 10);
        let answering = tokio::spawn(answer(far, super::super::routes()));

        let watched = client_async("ws://agent/api/v0/containers/watch", near).await;
        let (mut socket, _) = watched.unwrap();
        let told = socket.next().await.unwrap().unwrap();
        let told: Value = serde_json::from_str(told.to_text().unwrap()).unwrap();
        assert_eq!(told, none());
        socket.send(Message::Ping("still".into())).await.unwrap();
        let pong = socket.next().await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong("still".into()));

        socket.close(None).await.unwrap();
        answering.await.unwrap();
    }

    #[tokio::test]
    async fn a_watch_without_a_websocket_is_refused() {
        let (status, body) = ask("/api/v0/containers/watch").await;
        assert_eq!(status, StatusCode::UPGRADE_REQUIRED, "{body}");
    }
}
