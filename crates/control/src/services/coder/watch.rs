//! Changes of a workspace as server-sent events, each with the whole workspace.
//!
//! # Source
//! coder `codersdk/serversentevents.go`, `codersdk/workspaces.go`.

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::HeaderMap,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use futures::{Stream, StreamExt as _, stream};
use serde_json::Value;
use tracing::warn;

use super::{
    answer::Refusal,
    authentication,
    connection_limits::{ConnectionLimits, Holder, Place},
    workspaces::describe,
};
use crate::plane::{Caller, Plane, RequestError};

/// Interval of keep-alive events while nothing changes.
const BEAT: Duration = Duration::from_secs(15);

/// Routes of watchers; each takes a place.
pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new().route("/api/v2/workspaces/{workspace}/watch", get(watch))
}

struct Watcher {
    plane: Arc<Plane>,
    caller: Caller,
    workspace: String,
    moves: Pin<Box<dyn Stream<Item = ()> + Send>>,
    shown: Value,
    _place: Place,
}

async fn watch(
    State(plane): State<Arc<Plane>>,
    Path(workspace): Path<String>,
    Extension(limits): Extension<ConnectionLimits>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    // A caller without permission gets an error before the stream begins.
    let found = describe(&plane, &caller, &workspace).await;
    found.map_err(Refusal::unavailable)?;
    let watcher = Watcher {
        moves: Box::pin(plane.moves()),
        _place: limits.take(Holder::Person(caller.user.id))?,
        plane,
        caller,
        workspace,
        shown: Value::Null,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let json = watcher.next().await?;
        let event = Event::default().event("data").json_data(json);
        Some((event, watcher))
    });
    let beat = KeepAlive::new().event(Event::default().event("ping"));
    let events = Sse::new(events).keep_alive(beat.interval(BEAT));
    Ok(events.into_response())
}

impl Watcher {
    /// Returns the workspace when it looks different, and at once the first time; `None` once it or the server is
    /// gone.
    async fn next(&mut self) -> Option<Value> {
        loop {
            self.moves.next().await?;
            match describe(&self.plane, &self.caller, &self.workspace).await {
                Ok(json) if json == self.shown => {}
                Ok(json) => {
                    self.shown.clone_from(&json);
                    return Some(json);
                }
                Err(RequestError::NotFound { .. }) => return None,
                // The watcher keeps its copy, and gets the rest with the next query.
                Err(error) => warn!(%error, "cannot read a workspace for clients that watch it"),
            }
        }
    }
}
