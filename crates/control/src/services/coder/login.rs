//! Sessions of Coder's CLI: `coder login` exchanges the token that it is given for one of its own.
//!
//! # Source
//! coder `coderd/apikey.go`, `cli/login.go`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Value, json};

use super::{answer::Refusal, authentication};
use crate::plane::{Plane, RequestError};

/// Name of the tokens that are made here.
const SESSION: &str = "coder login";
/// Lifetime of such a token, Coder's default.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/users/{user}/keys", post(log_in))
        .route("/api/v2/users/logout", post(log_out))
}

async fn log_in(
    State(plane): State<Arc<Plane>>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let user = if user == "me" { "" } else { &user };
    let made = plane.create_token(&caller, user, SESSION, Some(LIFETIME));
    let (_, value) = made.await.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(json!({ "key": value.expose() }))))
}

/// Revokes the token of the request if it was made here. Others, such as the administrator's first one, may be in use
/// elsewhere: that a CLI forgets them is enough.
async fn log_out(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let ended = async {
        let Some(value) = authentication::session_token(&headers) else {
            return Ok(());
        };
        let token = plane.token_of(&value).await?;
        match token.name == SESSION {
            true => plane.revoke_token(&caller, &token.id.to_string()).await,
            false => Ok::<(), RequestError>(()),
        }
    };
    ended.await.map_err(Refusal::unavailable)?;
    Ok(Json(json!({ "message": "Logged out!" })))
}
