//! Coder's own wire protocol: a daemon dials a WebSocket, opens a yamux stream for each call, and speaks dRPC on it.
//!
//! [`authentication`] finds out whose a request is: an agent's, a person's or a daemon's. [`registration`] decides
//! which daemons are accepted, in the reference's order of checks and with its answers;
//! [`upgrade`] opens the WebSocket, [`session`] serves the streams on it, [`rpc`] translates one call. No state of a
//! job belongs to a connection: a daemon that reconnects under its name continues where it was.
//!
//! # Source
//! coder `enterprise/coderd/provisionerdaemons.go`, `enterprise/coderd/provisionerkeys.go`.

mod agent;
mod answer;
mod answers;
mod api_version;
mod archives;
mod authentication;
mod bodies;
mod builds;
mod connection_limits;
mod dry_runs;
mod files;
mod jobs;
mod login;
mod logs;
mod organizations;
mod overlay;
mod peer;
mod provisioners;
mod query;
mod rate;
mod registration;
mod resources;
mod rpc;
mod search;
mod session;
mod template_settings;
mod templates;
mod updates;
mod upgrade;
mod versions;
mod watch;
mod workspaces;

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::{Next, from_fn, from_fn_with_state, map_response},
    response::{IntoResponse as _, Response},
    routing::get,
};
use outpost_net::{
    listener::{Peer, Upgraded},
    network,
};
use serde_json::json;

use self::{
    answer::Refusal, answers::Answers, bodies::Bodies, connection_limits::ConnectionLimits,
    rate::Rates, session::Session,
};
use super::{
    calls::Calls,
    gate::{Sender, Shares},
};
use crate::{config::Config, plane::Plane};

const BUILD_VERSION: HeaderName = HeaderName::from_static("x-coder-build-version");

#[derive(Clone)]
struct Coder {
    plane: Arc<Plane>,
    shares: Shares,
    uploads: files::Uploads,
}

/// Routes of Coder's daemons, agents and clients: their connections, and the requests that come before.
pub(super) fn routes(plane: &Arc<Plane>, config: &Config, shares: Shares) -> Router {
    let coder = Coder {
        plane: plane.clone(),
        shares: shares.clone(),
        uploads: files::Uploads::new(shares.refusals()),
    };
    let rates = Arc::new(Mutex::new(Rates::default()));
    let routes = Router::new()
        .route(
            "/api/v2/organizations/{organization}/provisionerdaemons/serve",
            get(serve),
        )
        .route("/api/v2/users/me/organizations", get(organizations))
        .route("/api/v2/provisionerkeys/{key}", get(key))
        .with_state(coder)
        .merge(overlay::dials().with_state(plane.clone()))
        .layer(from_fn(move |request: Request, next: Next| {
            let refusal = too_many(&rates, &request);
            async move {
                match refusal {
                    Some(refusal) => refusal.into_response(),
                    None => next.run(request).await,
                }
            }
        }));
    let answered = workspaces::routes()
        .merge(builds::routes())
        .merge(organizations::routes())
        .merge(login::routes())
        .merge(templates::routes())
        .merge(versions::routes())
        .merge(dry_runs::routes())
        .merge(jobs::routes())
        .merge(provisioners::routes())
        .layer(from_fn_with_state(Answers::default(), answers::limited));
    let routes = routes.merge(
        answered
            .merge(overlay::routes())
            .merge(watch::routes())
            .merge(archives::routes())
            .with_state(plane.clone()),
    );
    let routes = routes
        .layer(Extension(ConnectionLimits::default()))
        .layer(Extension(shares.clone()))
        .layer(Extension(Bodies::new(config.limits.message_bytes, shares)));
    let Ok(version) = HeaderValue::from_str(&config.version) else {
        return routes;
    };
    routes.layer(map_response(move |mut response: Response| {
        let headers = response.headers_mut();
        headers.insert(BUILD_VERSION, version.clone());
        std::future::ready(response)
    }))
}

/// Refuses whoever asks too often, before looking at anything else, as the reference does.
fn too_many(rates: &Mutex<Rates>, request: &Request) -> Option<Refusal> {
    let Peer(peer) = *request.extensions().get()?;
    let path = request.uri().path();
    let (endpoint, limit) = [
        ("/serve", rate::REQUESTS),
        ("/organizations", rate::REQUESTS),
        ("/rpc", rate::REQUESTS),
        ("/coordinate", rate::DIALS),
        ("/tailnet", rate::DIALS),
        ("/derp", rate::DIALS),
    ]
    .into_iter()
    .find(|(end, _)| path.ends_with(end))
    .unwrap_or(("key", rate::REQUESTS));
    // Counts are consistent even after a panic, so a poisoned lock can be used.
    let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = network::sender(peer);
    if rates.allow(
        sender,
        (endpoint, limit),
        tokio::time::Instant::now().into_std(),
    ) {
        return None;
    }
    Some(Refusal::too_many(limit))
}

async fn serve(
    State(coder): State<Coder>,
    Path(organization): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Response {
    match take_in(coder, &organization, &upgraded, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn take_in(
    coder: Coder,
    organization: &str,
    upgraded: &Upgraded,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let daemon = registration::admit(&coder.plane, organization, query, request.headers()).await?;
    let (response, socket) = upgrade::accept(request)?;
    let share = coder.shares.of(Sender::Daemon(daemon.id));
    let calls = Calls {
        plane: coder.plane,
        daemon,
    };
    let session = Session {
        calls,
        share,
        uploads: coder.uploads,
    };
    upgraded.set(session.run(socket));
    Ok(response)
}

/// Organizations, whose ids daemons with a person's token ask for.
async fn organizations(
    State(Coder { plane, .. }): State<Coder>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    authentication::person(&plane, &headers)
        .await?
        .ok_or_else(Refusal::unauthenticated)?;
    let all = plane.store().organizations().await;
    let all = all.map_err(|error| Refusal::internal(error.into()))?;
    let all: Vec<_> = all.iter().map(organizations::described).collect();
    Ok(Json(all).into_response())
}

/// Tags of a provisioner key, which daemons with that key ask for to show them.
async fn key(
    State(Coder { plane, .. }): State<Coder>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let key = authentication::key(&plane, &headers).await?;
    let tags = key.tags.as_map();
    let body = json!({
        "id": key.id,
        "created_at": key.created_at,
        "organization": key.organization_id,
        "name": key.name,
        "tags": tags,
    });
    Ok(Json(body).into_response())
}
