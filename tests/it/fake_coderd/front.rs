//! The handshake: versions and refusals, and the way through to the real server.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper_util::rt::TokioIo;
use outpost::{
    net::websocket::{self, ByteStream},
    transport::yamux::{self, Connection, Role},
};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{client::IntoClientRequest as _, handshake::derive_accept_key, protocol},
};

use super::{Faults, relay};

#[derive(Clone)]
struct Front {
    upstream: SocketAddr,
    faults: Arc<Faults>,
}

pub fn routes(upstream: SocketAddr, faults: Arc<Faults>) -> Router {
    Router::new()
        .route("/api/v2/buildinfo", get(build_info))
        .fallback(serve)
        .with_state(Front { upstream, faults })
}

async fn build_info(State(front): State<Front>) -> Response {
    if !*front.faults.tells_version.lock().unwrap() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let version = *front.faults.version.lock().unwrap();
    Json(json!({ "version": "v2.99.0", "provisioner_api_version": version })).into_response()
}

async fn serve(State(front): State<Front>, mut request: Request) -> Response {
    if let Some((status, (name, value), body)) = front.faults.refusal.lock().unwrap().clone() {
        let headers = [(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )];
        let status = StatusCode::from_u16(status).unwrap();
        return (status, headers, body).into_response();
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let asked = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("version="));
    let ours = *front.faults.version.lock().unwrap();
    if minor(asked.unwrap_or("1.0")) > minor(ours) {
        return version_refused(ours, asked.unwrap_or_default());
    }
    let upstream = match dial(front.upstream, request.uri(), request.headers()).await {
        Ok(upstream) => upstream,
        Err(response) => return *response,
    };
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].clone();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgrade.await.unwrap());
        let config = Some(websocket::config());
        let socket = WebSocketStream::from_raw_socket(io, protocol::Role::Server, config).await;
        let (daemon, incoming) = Connection::start(
            ByteStream::new(socket),
            Role::Server,
            yamux::Config::default(),
        );
        relay::run(daemon, incoming, upstream, front.faults).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(
            header::SEC_WEBSOCKET_ACCEPT,
            derive_accept_key(key.as_bytes()),
        )
        .body(Body::empty())
        .unwrap()
}

fn minor(version: &str) -> u16 {
    version.split_once('.').unwrap().1.parse().unwrap()
}

fn version_refused(ours: &str, asked: &str) -> Response {
    let detail = format!("server is at version {ours}, behind requested minor version {asked}");
    let body = json!({
        "message": "Incompatible or unparsable version",
        "validations": [{ "field": "version", "detail": detail }],
    });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

/// Asks the real server as the daemon asked us, and hands on its refusal if there is one.
async fn dial(
    upstream: SocketAddr,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Connection, Box<Response>> {
    let path = uri.path_and_query().unwrap();
    let mut asked = format!("ws://{upstream}{path}")
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        if name.as_str().starts_with("coder-") || name == "x-coder-build-version" {
            asked.headers_mut().insert(name, value.clone());
        }
    }
    let gone = |_| Box::new(StatusCode::BAD_GATEWAY.into_response());
    let stream = TcpStream::connect(upstream).await.map_err(gone)?;
    match tokio_tungstenite::client_async(asked, stream).await {
        Ok((socket, _)) => {
            let config = yamux::Config::default();
            Ok(Connection::start(ByteStream::new(socket), Role::Client, config).0)
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(refused)) => {
            let body = refused.body().clone().unwrap_or_default();
            Err(Box::new((refused.status(), body).into_response()))
        }
        Err(error) => {
            let body = error.to_string();
            Err(Box::new((StatusCode::BAD_GATEWAY, body).into_response()))
        }
    }
}
