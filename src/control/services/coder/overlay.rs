//! Where agents and those who go to them come in: their connections, the relay, and the agent's binary.
//!
//! # Source
//! coder `coderd/workspaceagents.go`, `coderd/workspaceagentsrpc.go`; coder/tailscale `derp/derphttp/derphttp_server.go`.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::debug;
use uuid::Uuid;

use super::{
    admission,
    answer::Refusal,
    peer::{Peer, Who},
    upgrade,
};
use crate::{
    control::{
        model::AgentId,
        plane::{AgentFacts, Plane},
    },
    net::listener::Upgraded,
    tailnet::API_VERSION,
};

/// Connections of agents and clients, and the relay between them.
pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/workspaceagents/me/rpc", get(rpc))
        .route("/api/v2/workspaceagents/me/{what}", get(not_kept))
        .route("/api/v2/workspaceagents/connection", get(connection))
        .route(
            "/api/v2/workspaceagents/{agent}/connection",
            get(connection_of),
        )
        .route(
            "/api/v2/workspaceagents/{agent}/coordinate",
            get(coordinate),
        )
        .route("/derp", get(derp))
        .route("/derp/latency-check", get(|| async { StatusCode::OK }))
}

fn check_version(query: &str, default: &str) -> Result<(), Refusal> {
    let asked = admission::parameter(query, "version");
    let asked = asked.as_deref().unwrap_or(default);
    admission::check_version(asked, API_VERSION).map_err(|why| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "Unknown or unsupported API version",
        )
        .at("version", why)
    })
}

async fn rpc(
    State(plane): State<Arc<Plane>>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    check_version(request.uri().query().unwrap_or_default(), "2.0")?;
    let agent = admission::agent(&plane, request.headers()).await?;
    let who = Who::Agent(agent);
    become_peer(Peer { plane, who }, &upgraded, request)
}

/// Keys and logins for git, and claims of prebuilt workspaces: agents do without where there are none.
async fn not_kept() -> Refusal {
    Refusal::not_found()
}

async fn coordinate(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    check_version(request.uri().query().unwrap_or_default(), "1.0")?;
    let facts = find(&plane, request.headers(), &agent).await?;
    let who = Who::Client(Uuid::new_v4(), facts.record.id);
    become_peer(Peer { plane, who }, &upgraded, request)
}

fn become_peer(peer: Peer, upgraded: &Upgraded, request: Request) -> Result<Response, Refusal> {
    let (response, socket) = upgrade::accept(request)?;
    upgraded.set(peer.run(socket));
    Ok(response)
}

/// The agent, if it is there for whoever asks.
pub(super) async fn find(
    plane: &Plane,
    headers: &HeaderMap,
    agent: &str,
) -> Result<AgentFacts, Refusal> {
    let caller = admission::caller(plane, headers).await?;
    let id: AgentId = agent.parse().map_err(|_| {
        let message = format!("Invalid UUID {agent:?}.");
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })?;
    plane.agent(&caller, id).await.map_err(Refusal::unavailable)
}

async fn connection(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    admission::caller(&plane, &headers).await?;
    Ok(Json(connection_info(&plane)))
}

async fn connection_of(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    find(&plane, &headers, &agent).await?;
    Ok(Json(connection_info(&plane)))
}

fn connection_info(plane: &Plane) -> Value {
    json!({
        "derp_map": plane.derp_map(),
        "derp_force_websockets": false,
        "disable_direct_connections": true,
        "hostname_suffix": "coder",
    })
}

/// A relay's client: it asks for the protocol itself, or for a WebSocket where nothing else comes through.
async fn derp(
    State(plane): State<Arc<Plane>>,
    Extension(upgraded): Extension<Upgraded>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let (relay, stop) = (plane.relay().clone(), plane.stop().clone());
    let limit = plane.limits().header_timeout;
    if upgrade::has(request.headers(), header::UPGRADE, "websocket") {
        let (response, socket) = upgrade::accept_with(request, Some("derp"))?;
        upgraded.set(async move {
            match timeout(limit, socket.open()).await {
                Ok(Ok(socket)) => ended(relay.serve(socket, stop).await),
                Ok(Err(error)) => debug!(%error, "a relay's client went away before it came in"),
                Err(_) => debug!("connection of a relay's client was not handed over in time"),
            }
        });
        return Ok(response);
    }
    if !upgrade::has(request.headers(), header::UPGRADE, "derp") {
        let why = "DERP requires connection upgrade";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, why)
            .with(header::CONNECTION, "Upgrade")
            .with(header::UPGRADE, "DERP"));
    }
    let connection = hyper::upgrade::on(&mut request);
    upgraded.set(async move {
        match timeout(limit, connection).await {
            Ok(Ok(io)) => ended(relay.serve(TokioIo::new(io), stop).await),
            Ok(Err(error)) => debug!(%error, "a relay's client went away before it came in"),
            Err(_) => debug!("connection of a relay's client was not handed over in time"),
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "DERP")
        .body(Body::empty());
    Ok(response.expect("these headers are valid").into_response())
}

fn ended(served: std::io::Result<()>) {
    if let Err(error) = served {
        debug!(%error, "a relay's client has gone");
    }
}
