//! Logs of agents and builds, for clients that follow them.
//!
//! # Source
//! coder `coderd/workspaceagents.go`, `codersdk/workspaceagents.go`, `codersdk/provisionerdaemons.go`.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use futures::{SinkExt as _, Stream, StreamExt as _, TryStreamExt as _, stream};
use outpost_base::job::JobId;
use outpost_net::listener::Upgraded;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::{
    Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tracing::debug;

use super::{
    answer::Refusal, authentication, dry_runs, overlay::agent_id, query, upgrade, versions,
};
use crate::{
    model::{StoredAgentLine, StoredLine},
    plane::{Caller, Plane, RequestError},
};

/// Time after which a client that reads nothing is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval of pings to a client that receives nothing else.
const BEAT: Duration = Duration::from_secs(15);

/// The lines of an agent between two ids, as one array or, with `follow`, several over a WebSocket: always a first one,
/// be it empty, and those to come.
pub(super) async fn of_agent(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let range = (
        number(query, "after")?.unwrap_or_default(),
        number(query, "before")?,
    );
    let follow = query::has_parameter(query, "follow");
    let log = plane.agent_log(&caller, agent_id(&agent)?, range, follow);
    let batches = log.await.map_err(Refusal::unavailable)?;
    let batches = batches.map_ok(|batch| batch.into_iter().map(agent_line).collect());
    if !follow {
        return all(batches).await;
    }
    let first = stream::iter([Ok(Vec::new())]);
    let arrays = first.chain(batches).map_ok(Value::Array);
    tell(&plane, &upgraded, request, arrays)
}

/// Returns the log of a build.
pub(super) async fn of_build(
    State(plane): State<Arc<Plane>>,
    Path(build): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let found = plane.build(&caller, &build).await;
    let (_, build) = found.map_err(Refusal::unavailable)?;
    of_job(&plane, &caller, build.job_id, &upgraded, request).await
}

/// Returns the log of a template version's import.
pub(super) async fn of_version(
    State(plane): State<Arc<Plane>>,
    Path(version): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let found = versions::find(&plane, &version).await;
    let version = found.map_err(Refusal::unavailable)?;
    of_job(&plane, &caller, version.job_id, &upgraded, request).await
}

/// Returns the log of a dry run.
pub(super) async fn of_dry_run(
    State(plane): State<Arc<Plane>>,
    Path((version, job)): Path<(String, String)>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let found = dry_runs::find(&plane, &caller, &version, &job).await;
    let id = found.map_err(Refusal::unavailable)?.id;
    of_job(&plane, &caller, id, &upgraded, request).await
}

/// The lines of a job after an id, as an array or, with `follow`, each for itself over a WebSocket, and those to come
/// until the job has ended.
async fn of_job(
    plane: &Arc<Plane>,
    caller: &Caller,
    job: JobId,
    upgraded: &Upgraded,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let after = number(query, "after")?.unwrap_or_default();
    let follow = query::has_parameter(query, "follow");
    let log = plane.logs(caller, job, after, follow).await;
    let batches = log.map_err(Refusal::unavailable)?;
    let batches = batches.map_ok(|batch| batch.into_iter().map(build_line).collect::<Vec<_>>());
    if !follow {
        return all(batches).await;
    }
    let lines = batches.map_ok(|batch| stream::iter(batch.into_iter().map(Ok)));
    tell(plane, upgraded, request, lines.try_flatten())
}

async fn all(
    batches: impl Stream<Item = Result<Vec<Value>, RequestError>>,
) -> Result<Response, Refusal> {
    let lines: Vec<Value> = batches.try_concat().await.map_err(Refusal::unavailable)?;
    Ok(Json(lines).into_response())
}

/// Switches to a WebSocket, and sends `messages` on it.
fn tell(
    plane: &Plane,
    upgraded: &Upgraded,
    request: Request,
    messages: impl Stream<Item = Result<Value, RequestError>> + Send + 'static,
) -> Result<Response, Refusal> {
    let limit = plane.limits().header_timeout;
    let (response, socket) = upgrade::accept(request)?;
    upgraded.set(async move {
        match timeout(limit, socket.open_messages()).await {
            Ok(Ok(socket)) => send(socket, messages).await,
            Ok(Err(error)) => debug!(%error, "a log follower disconnected before the upgrade"),
            Err(_) => debug!("upgrade of a log follower's connection timed out"),
        }
    });
    Ok(response)
}

/// Sends messages until there are no more or the client stops reading.
async fn send(
    mut socket: upgrade::Messages,
    messages: impl Stream<Item = Result<Value, RequestError>>,
) {
    let mut messages = pin!(messages);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let code = loop {
        let message = tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) => Message::text(message.to_string()),
                None => break CloseCode::Normal,
                Some(Err(error)) => {
                    debug!(%error, "cannot continue to follow a log");
                    break CloseCode::Away;
                }
            },
            heard = socket.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                // Messages of clients have no meaning here.
                Some(Ok(_)) => continue,
            },
            _ = beat.tick() => Message::Ping(Default::default()),
        };
        match timeout(SEND_TIMEOUT, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    };
    let reason = Utf8Bytes::default();
    let farewell = socket.close(Some(CloseFrame { code, reason }));
    // A client that misses the close message sees the end of the connection.
    let _ = timeout(SEND_TIMEOUT, farewell).await;
}

fn number(query: &str, name: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(text) = query::parameter(query, name) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.map(Some).ok_or_else(|| {
        let why = "must be an integer that is not negative";
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("Query parameter {name:?} {why}."),
        )
        .at(name, why)
    })
}

fn agent_line(stored: StoredAgentLine) -> Value {
    json!({
        "id": stored.id,
        "created_at": stored.created_at,
        "output": stored.line.output,
        "level": stored.line.level.as_str(),
        "source_id": stored.source,
    })
}

fn build_line(stored: StoredLine) -> Value {
    json!({
        "id": stored.id,
        "created_at": stored.line.created_at,
        "log_source": stored.line.source.as_str(),
        "log_level": stored.line.level.as_str(),
        "stage": stored.line.stage,
        "output": stored.line.output,
    })
}
