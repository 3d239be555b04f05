//! Connections of agents and their clients, the relay, and the agent's binary.
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
    routing::{get, post},
};
use hyper_util::rt::TokioIo;
use outpost_net::{
    listener::{self, Upgraded},
    network,
};
use outpost_tailnet::{API_VERSION, Guest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::debug;
use uuid::Uuid;

use super::{
    answer::Refusal,
    api_version, authentication,
    bodies::Bodies,
    connection_limits::{ConnectionLimits, Holder},
    peer::{Client, Peer, Who},
    query, upgrade,
    workspaces::made_source_as_json,
};
use crate::{
    agent_reports::LogSource,
    model::AgentId,
    plane::{AgentFacts, Caller, Plane},
    services::gate::{Sender, Shares},
};

/// Longest text about a log source, in characters.
const MAX_SOURCE_TEXT: usize = 256;

/// Routes of connections of agents and clients, and of the relay between them.
pub(super) fn dials() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/workspaceagents/me/rpc", get(rpc))
        .route(
            "/api/v2/workspaceagents/{agent}/coordinate",
            get(coordinate),
        )
        .route("/api/v2/tailnet", get(tailnet))
        .route("/derp", get(derp))
}

/// Routes of the requests that come before a connection.
pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/workspaceagents/me/reinit", get(reinit))
        .route("/api/v2/workspaceagents/me/log-source", post(log_source))
        .route("/api/v2/workspaceagents/connection", get(connection))
        .route(
            "/api/v2/workspaceagents/{agent}/connection",
            get(connection_of),
        )
        .route("/derp/latency-check", get(|| async { StatusCode::OK }))
}

/// Returns the version that a peer speaks, which may be newer than ours: recent agents do not fall back to an older
/// one, are told that a call is not implemented, and send fields that may be ignored.
fn check_version(query: &str, default: &str) -> Result<String, Refusal> {
    let asked = query::parameter(query, "version");
    let asked = asked.unwrap_or_else(|| default.to_owned());
    match api_version::check_major(&asked, API_VERSION) {
        Ok(_) => Ok(asked),
        Err(why) => {
            let message = "Unknown or unsupported API version";
            Err(Refusal::new(StatusCode::BAD_REQUEST, message).at("version", why))
        }
    }
}

async fn rpc(
    State(plane): State<Arc<Plane>>,
    Extension(upgraded): Extension<Upgraded>,
    Extension(limits): Extension<ConnectionLimits>,
    Extension(shares): Extension<Shares>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let version = check_version(query, "2.0")?;
    let agent = authentication::agent(&plane, request.headers()).await?;
    // Old agents do not name their role.
    let role = query::parameter(query, "role");
    let who = match role.as_deref() {
        None | Some("agent") => {
            plane.record_report(agent.id, |reports| reports.api_version = version);
            Who::Agent(agent)
        }
        Some(role) => {
            debug!(agent = agent.name, id = %agent.id, role, "a program connected with an agent's token");
            Who::Helper(agent)
        }
    };
    let share = shares.of(who.sender());
    become_peer(Peer { plane, who, share }, &limits, &upgraded, request)
}

/// Reinitialization after a claim: there are no prebuilt workspaces here, and an agent that gets this answer does not
/// ask again.
async fn reinit(State(plane): State<Arc<Plane>>, headers: HeaderMap) -> Result<Response, Refusal> {
    authentication::agent(&plane, &headers).await?;
    let why = "This workspace is not a prebuilt workspace.";
    Err(Refusal::new(StatusCode::CONFLICT, why))
}

/// Description of a log source.
#[derive(Deserialize)]
struct NewSource {
    id: Uuid,
    #[serde(default)]
    display_name: String,
    #[serde(default)]
    icon: String,
}

/// Registers a log source for a program beside an agent.
async fn log_source(
    State(plane): State<Arc<Plane>>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let agent = authentication::agent(&plane, request.headers()).await?;
    let asked: NewSource = bodies.json(Sender::Agent(agent.id), request).await?;
    let cut = |text: String| text.chars().take(MAX_SOURCE_TEXT).collect();
    let source = LogSource {
        display_name: cut(asked.display_name),
        icon: cut(asked.icon),
        created_at: plane.now(),
    };
    let kept = plane.record_report(agent.id, |reports| {
        reports.has_source(asked.id, source).clone()
    });
    let json = made_source_as_json(&agent, asked.id, &kept);
    Ok((StatusCode::CREATED, Json(json)).into_response())
}

async fn coordinate(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    Extension(limits): Extension<ConnectionLimits>,
    Extension(shares): Extension<Shares>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    check_version(query, "1.0")?;
    let (caller, facts) = find(&plane, request.headers(), &agent).await?;
    let who = Who::Client(Client {
        id: peer_id(&plane, &caller, query)?,
        caller,
        agent: Some(facts.record.id),
    });
    let share = shares.of(who.sender());
    become_peer(Peer { plane, who, share }, &limits, &upgraded, request)
}

/// Connects a client that reaches all agents of its user.
async fn tailnet(
    State(plane): State<Arc<Plane>>,
    Extension(upgraded): Extension<Upgraded>,
    Extension(limits): Extension<ConnectionLimits>,
    Extension(shares): Extension<Shares>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    check_version(query, "2.0")?;
    let caller = authentication::caller(&plane, request.headers()).await?;
    let who = Who::Client(Client {
        id: peer_id(&plane, &caller, query)?,
        caller,
        agent: None,
    });
    let share = shares.of(who.sender());
    become_peer(Peer { plane, who, share }, &limits, &upgraded, request)
}

/// Returns a client's id: its former one if a resume token proves it, else a new one.
fn peer_id(plane: &Plane, caller: &Caller, query: &str) -> Result<Uuid, Refusal> {
    let Some(token) = query::parameter(query, "resume_token") else {
        return Ok(Uuid::new_v4());
    };
    let resumed = plane.resumed(caller, &token).map_err(|why| {
        // Clients recognize this field, and reconnect without a token.
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            "The resume token is not accepted.",
        )
        .at("resume_token", why.to_string())
    })?;
    Ok(resumed.unwrap_or_else(Uuid::new_v4))
}

fn become_peer(
    peer: Peer,
    limits: &ConnectionLimits,
    upgraded: &Upgraded,
    request: Request,
) -> Result<Response, Refusal> {
    let place = limits.take(match &peer.who {
        Who::Agent(agent) => Holder::Agent(agent.id),
        Who::Helper(agent) => Holder::Helper(agent.id),
        Who::Client(client) => Holder::Person(client.caller.user.id),
    })?;
    let (response, socket) = upgrade::accept(request)?;
    upgraded.set(async move {
        let _place = place;
        peer.run(socket).await;
    });
    Ok(response)
}

/// Returns the agent if the caller may see it.
pub(super) async fn find(
    plane: &Plane,
    headers: &HeaderMap,
    agent: &str,
) -> Result<(Caller, AgentFacts), Refusal> {
    let caller = authentication::caller(plane, headers).await?;
    let facts = plane.agent(&caller, agent_id(agent)?).await;
    let facts = facts.map_err(Refusal::unavailable)?;
    Ok((caller, facts))
}

/// Parses an agent's id from a URL.
pub(super) fn agent_id(text: &str) -> Result<AgentId, Refusal> {
    text.parse().map_err(|_| {
        let message = format!("Invalid UUID {text:?}.");
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })
}

async fn connection(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
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
        "disable_direct_connections": plane.blocks_direct_paths(),
        "hostname_suffix": "coder",
    })
}

/// Connects a client of the relay: by an upgrade to the relay's protocol, or by a WebSocket where nothing else gets
/// through.
async fn derp(
    State(plane): State<Arc<Plane>>,
    Extension(upgraded): Extension<Upgraded>,
    Extension(shares): Extension<Shares>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let (relay, stop) = (plane.relay().clone(), plane.stop().clone());
    let is_known = authentication::is_known(&plane, request.headers()).await;
    let address = request.extensions().get::<listener::Peer>();
    let guest = Guest {
        is_known,
        address: address.map(|peer| network::sender(peer.0)),
    };
    let limit = plane.limits().header_timeout;
    if upgrade::has(request.headers(), header::UPGRADE, "websocket") {
        let (response, socket) = upgrade::accept_with(request, Some("derp"))?;
        let places = shares.at_relay(is_known);
        upgraded.set(async move {
            match timeout(limit, socket.open(places)).await {
                Ok(Ok(socket)) => {
                    ended(relay.serve_guest(socket, guest, stop).await);
                }
                Ok(Err(error)) => debug!(%error, "a relay client disconnected before the upgrade"),
                Err(_) => debug!("upgrade of a relay client's connection timed out"),
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
            Ok(Ok(io)) => {
                ended(relay.serve_guest(TokioIo::new(io), guest, stop).await);
            }
            Ok(Err(error)) => debug!(%error, "a relay client disconnected before the upgrade"),
            Err(_) => debug!("upgrade of a relay client's connection timed out"),
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
        debug!(%error, "relay client disconnected");
    }
}
