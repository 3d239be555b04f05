//! What agents say, for those who wait for them.
//!
//! # Source
//! coder `coderd/workspaceagents.go`, `codersdk/workspaceagents.go`.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use futures::{SinkExt as _, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::{
    Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tracing::debug;

use super::{admission, answer::Refusal, overlay::agent_id, upgrade};
use crate::{
    control::{
        model::StoredAgentLine,
        plane::{Plane, RequestError},
    },
    net::listener::Upgraded,
};

/// A client that takes nothing for so long is cut off.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a client that hears nothing else is asked whether it is there.
const BEAT: Duration = Duration::from_secs(15);

/// The lines of an agent between two ids; with `follow` over a WebSocket, and those to come.
pub(super) async fn logs(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    Extension(upgraded): Extension<Upgraded>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = admission::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let range = (
        number(query, "after")?.unwrap_or_default(),
        number(query, "before")?,
    );
    let follow = admission::has_parameter(query, "follow");
    let log = plane.agent_log(&caller, agent_id(&agent)?, range, follow);
    let mut batches = Box::pin(log.await.map_err(Refusal::unavailable)?);
    if !follow {
        let mut lines = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(Refusal::unavailable)?;
            lines.extend(batch.into_iter().map(as_json));
        }
        return Ok(Json(lines).into_response());
    }
    let limit = plane.limits().header_timeout;
    let (response, socket) = upgrade::accept(request)?;
    upgraded.set(async move {
        match timeout(limit, socket.open_messages()).await {
            Ok(Ok(socket)) => tell(socket, batches).await,
            Ok(Err(error)) => debug!(%error, "who follows a log went away before they came in"),
            Err(_) => debug!("connection of who follows a log was not handed over in time"),
        }
    });
    Ok(response)
}

/// Sends batches until there are no more, or nobody takes them. There is always a first one, be it empty.
async fn tell(
    mut socket: upgrade::Messages,
    batches: impl Stream<Item = Result<Vec<StoredAgentLine>, RequestError>>,
) {
    let first = futures::stream::iter([Ok(Vec::new())]);
    let mut batches = pin!(first.chain(batches));
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let code = loop {
        let message = tokio::select! {
            batch = batches.next() => match batch {
                Some(Ok(batch)) => {
                    let lines: Vec<Value> = batch.into_iter().map(as_json).collect();
                    Message::text(Value::from(lines).to_string())
                }
                None => break CloseCode::Normal,
                Some(Err(error)) => {
                    debug!(%error, "a log cannot be followed any more");
                    break CloseCode::Away;
                }
            },
            heard = socket.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                // Nothing that they say changes anything.
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
    // Who does not hear it sees the end of the connection.
    let _ = timeout(SEND_TIMEOUT, farewell).await;
}

fn number(query: &str, name: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(text) = admission::parameter(query, name) else {
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

fn as_json(stored: StoredAgentLine) -> Value {
    json!({
        "id": stored.id,
        "created_at": stored.created_at,
        "output": stored.line.output,
        "level": stored.line.level.as_str(),
        "source_id": stored.source,
    })
}
