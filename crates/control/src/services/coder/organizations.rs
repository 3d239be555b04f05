//! Organizations as Coder's clients read them: all of them, as everybody here is a member of each.
//!
//! # Source
//! coder `codersdk/organizations.go`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::get,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{answer::Refusal, authentication};
use crate::{
    model::Organization,
    plane::{Plane, RequestError},
};

pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/organizations", get(all))
        .route("/api/v2/organizations/{organization}", get(one))
        .route("/api/v2/users/{user}/organizations", get(of_user))
        .route(
            "/api/v2/users/{user}/organizations/{organization}",
            get(one_of_user),
        )
}

async fn all(State(plane): State<Arc<Plane>>, headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    listed(&plane).await
}

async fn of_user(
    State(plane): State<Arc<Plane>>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let user = if user == "me" { "" } else { &user };
    let acting = plane.acting_for(&caller, user).await;
    acting.map_err(Refusal::unavailable)?;
    listed(&plane).await
}

async fn listed(plane: &Plane) -> Result<Json<Value>, Refusal> {
    let all = plane.store().organizations().await;
    let all = all.map_err(|error| Refusal::unavailable(error.into()))?;
    Ok(Json(all.iter().map(described).collect()))
}

async fn one(
    State(plane): State<Arc<Plane>>,
    Path(named): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    let found = find(&plane, &named).await;
    Ok(Json(described(&found.map_err(Refusal::unavailable)?)))
}

async fn one_of_user(
    State(plane): State<Arc<Plane>>,
    Path((_, named)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    one(State(plane), Path(named), headers).await
}

/// Finds an organization by id or name; `default` and the nil UUID mean the default one, whatever its name.
pub(super) async fn find(plane: &Plane, named: &str) -> Result<Organization, RequestError> {
    let is_default = named == "default" || named.parse() == Ok(Uuid::nil());
    plane
        .organization(if is_default { "" } else { named })
        .await
}

pub(super) fn described(organization: &Organization) -> Value {
    json!({
        "id": organization.id,
        "name": organization.name,
        "display_name": organization.name,
        "description": "",
        "icon": "",
        "created_at": organization.created_at,
        "updated_at": organization.created_at,
        "is_default": organization.is_default,
    })
}
