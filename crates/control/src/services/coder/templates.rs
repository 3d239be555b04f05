//! Templates as Coder's clients read and create them.
//!
//! # Source
//! coder `codersdk/templates.go`, `coderd/templates.go`.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    answer::Refusal, authentication, bodies::Bodies, jobs::not_found, organizations, query, search,
    template_settings::unsupported, versions,
};
use crate::{
    model::{Template, TemplateId, Version},
    plane::{Plane, RequestError},
    services::gate::Sender,
    store::WorkspaceFilter,
};

pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/templates", get(all))
        .route(
            "/api/v2/templates/{template}",
            get(one).patch(edit).delete(delete),
        )
        .route(
            "/api/v2/templates/{template}/versions",
            get(versions_of).patch(activate),
        )
        .route(
            "/api/v2/templates/{template}/versions/{version}",
            get(version_of),
        )
        .route(
            "/api/v2/organizations/{organization}/templates",
            get(of_organization).post(create),
        )
        .route(
            "/api/v2/organizations/{organization}/templates/{template}",
            get(named),
        )
        .route(
            "/api/v2/organizations/{organization}/templates/{template}/versions/{version}",
            get(version_named),
        )
}

/// Templates of all organizations that match a search.
async fn all(State(plane): State<Arc<Plane>>, request: Request) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let search = query::parameter(query, "q").unwrap_or_default();
    let known = ["name", "exact_name", "organization", "author", "deprecated"];
    let terms = search::terms(&search, &known)?;
    let mut found = everything(&plane).await?;
    for (name, value) in &terms {
        let value = value.to_lowercase();
        let value = match (name.as_str(), value.as_str()) {
            ("author", "me") => caller.user.name.to_lowercase(),
            (_, value) => value.to_owned(),
        };
        let has = |field: &str, of: &Value| of[field].as_str().unwrap_or_default().to_lowercase();
        found.retain(|template| match name.as_str() {
            "exact_name" => has("name", template) == value,
            "organization" => [
                has("organization_id", template),
                has("organization_name", template),
            ]
            .contains(&value),
            "author" => has("created_by_name", template) == value,
            "deprecated" => value == "false",
            _ => has("name", template).contains(&value),
        });
    }
    Ok(Json(Value::Array(found)))
}

async fn everything(plane: &Plane) -> Result<Vec<Value>, Refusal> {
    let described = async {
        let mut described = Vec::new();
        for template in plane.store().templates().await? {
            described.push(as_json(plane, &template).await?);
        }
        Ok(described)
    };
    described.await.map_err(Refusal::unavailable)
}

async fn of_organization(
    State(plane): State<Arc<Plane>>,
    Path(organization): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    let organization = organizations::find(&plane, &organization).await;
    let id = json!(organization.map_err(Refusal::unavailable)?.id);
    let mut found = everything(&plane).await?;
    found.retain(|template| template["organization_id"] == id);
    Ok(Json(Value::Array(found)))
}

async fn one(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    let described = async { as_json(&plane, &find(&plane, &id).await?).await };
    described.await.map(Json).map_err(Refusal::unavailable)
}

async fn named(
    State(plane): State<Arc<Plane>>,
    Path((organization, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    let described = async {
        let organization = organizations::find(&plane, &organization).await?;
        as_json(&plane, &plane.template(organization.id, &name).await?).await
    };
    described.await.map(Json).map_err(Refusal::unavailable)
}

/// Finds a template by its id, including one that is deleted or has no name yet.
async fn find(plane: &Plane, id: &str) -> Result<Template, RequestError> {
    let unknown = || not_found("template", id);
    let id: TemplateId = id.parse().map_err(|_| unknown())?;
    plane.store().template(id).await?.ok_or_else(unknown)
}

async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let deleted = async {
        plane
            .delete_template(&caller, &find(&plane, &id).await?)
            .await
    };
    deleted.await.map_err(Refusal::unavailable)?;
    Ok(Json(json!({ "message": "Template has been deleted!" })))
}

/// Renames a template. Other settings cannot be changed, and a client that changes one is told.
async fn edit(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: Map<String, Value> = bodies.json(Sender::Person(caller.user.id), request).await?;
    let edited = async {
        let template = find(&plane, &id).await?;
        let unsupported = unsupported(&asked, &as_json(&plane, &template).await?);
        if !unsupported.is_empty() {
            return Err(RequestError::Invalid(format!(
                "This server is outpost, whose templates have a name and no other settings; it cannot change {}.",
                unsupported.join(", ")
            )));
        }
        let name = asked.get("name").and_then(Value::as_str);
        let template = match name.filter(|name| *name != template.name) {
            Some(name) => plane.rename_template(&caller, &template, name).await?,
            None => template,
        };
        as_json(&plane, &template).await
    };
    edited.await.map(Json).map_err(Refusal::unavailable)
}

/// Versions, newest first; one page of them if the client asks for a page.
async fn versions_of(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let number = |name| query::parameter(query, name).and_then(|it| it.parse::<usize>().ok());
    let limit = number("limit")
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let offset = number("offset").unwrap_or_default();
    let described = async {
        let template = find(&plane, &id).await?;
        let all = plane.store().versions(template.id).await?;
        let mut described = Vec::new();
        for version in all.iter().skip(offset).take(limit) {
            described.push(versions::as_json(&plane, version).await?);
        }
        Ok(Value::Array(described))
    };
    described.await.map(Json).map_err(Refusal::unavailable)
}

async fn version_of(
    State(plane): State<Arc<Plane>>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    let described = async { described_version(&plane, &find(&plane, &id).await?, &name).await };
    described.await.map(Json).map_err(Refusal::unavailable)
}

async fn version_named(
    State(plane): State<Arc<Plane>>,
    Path((organization, template, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(&plane, &headers).await?;
    let described = async {
        let organization = organizations::find(&plane, &organization).await?;
        let template = plane.template(organization.id, &template).await?;
        described_version(&plane, &template, &name).await
    };
    described.await.map(Json).map_err(Refusal::unavailable)
}

async fn described_version(
    plane: &Plane,
    template: &Template,
    name: &str,
) -> Result<Value, RequestError> {
    let version: Version = plane.version(template, name).await?;
    versions::as_json(plane, &version).await
}

#[derive(Deserialize)]
struct ActiveVersion {
    id: Uuid,
}

async fn activate(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: ActiveVersion = bodies.json(Sender::Person(caller.user.id), request).await?;
    let activated = async {
        let template = find(&plane, &id).await?;
        let version = plane.version(&template, &asked.id.to_string()).await?;
        plane.activate_version(&caller, &template, &version).await
    };
    activated.await.map_err(Refusal::unavailable)?;
    Ok(Json(
        json!({ "message": "Updated the active template version!" }),
    ))
}

#[derive(Deserialize)]
struct NewTemplate {
    name: String,
    template_version_id: Uuid,
}

/// Names the template of a version that was created before.
async fn create(
    State(plane): State<Arc<Plane>>,
    Path(_organization): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: NewTemplate = bodies.json(Sender::Person(caller.user.id), request).await?;
    let made = async {
        let version = versions::find(&plane, &asked.template_version_id.to_string()).await?;
        let template = plane.name_draft(&caller, &version, &asked.name).await?;
        as_json(&plane, &template).await
    };
    let made = made.await.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn as_json(plane: &Plane, template: &Template) -> Result<Value, RequestError> {
    let store = plane.store();
    let organizations = store.organizations().await?;
    let organization = organizations
        .iter()
        .find(|it| it.id == template.organization_id);
    let organization = organization.map(|it| it.name.as_str()).unwrap_or_default();
    let users = store.users().await?;
    let author = users.iter().find(|it| it.id == template.created_by);
    let filter = WorkspaceFilter {
        organization: Some(template.organization_id),
        ..WorkspaceFilter::default()
    };
    let workspaces = store.workspaces(&filter).await?;
    let made = workspaces.iter().filter(|it| it.template_id == template.id);
    let owners: BTreeSet<String> = made.map(|it| it.owner.clone()).collect();
    Ok(json!({
        "id": template.id,
        "created_at": template.created_at,
        "updated_at": template.updated_at,
        "organization_id": template.organization_id,
        "organization_name": organization,
        "organization_display_name": organization,
        "organization_icon": "",
        "name": template.name,
        "display_name": "",
        "provisioner": "terraform",
        "active_version_id": template.active_version,
        "active_user_count": owners.len(),
        "build_time_stats": {},
        "description": "",
        "deprecated": false,
        "deprecation_message": "",
        "deleted": template.deleted_at.is_some(),
        "icon": "",
        "default_ttl_ms": 0,
        "activity_bump_ms": 0,
        "autostop_requirement": { "days_of_week": [], "weeks": 0 },
        "autostart_requirement": { "days_of_week": [] },
        "created_by_id": template.created_by,
        "created_by_name": author.map(|it| &it.name),
        "allow_user_autostart": false,
        "allow_user_autostop": false,
        "allow_user_cancel_workspace_jobs": true,
        "require_active_version": false,
        "max_port_share_level": "owner",
        "cors_behavior": "simple",
        // Parameter values are checked when a build is requested, not while they are typed.
        "use_classic_parameter_flow": true,
        "disable_module_cache": false,
    }))
}
