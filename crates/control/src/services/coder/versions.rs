//! Versions of templates as Coder's clients read and create them.
//!
//! # Source
//! coder `codersdk/templateversions.go`, `codersdk/presets.go`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, patch, post},
};
use outpost_base::{
    job::{Parameter, Preset, Transition, VariableValue},
    secret::Secret,
};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    answer::Refusal,
    archives, authentication,
    bodies::Bodies,
    jobs::{self, matched_daemons, not_found},
    logs, organizations, resources,
};
use crate::{
    agent_ids::preset_id,
    model::{ImportOutput, JobStatus, TemplateId, Version, VersionId},
    plane::{Plane, RequestError, VersionRequest},
    services::gate::Sender,
};

pub(super) fn routes() -> Router<Arc<Plane>> {
    const ONE: &str = "/api/v2/templateversions/{version}";
    Router::new()
        .route(
            "/api/v2/organizations/{organization}/templateversions",
            post(create),
        )
        .route(ONE, get(one))
        .route(&format!("{ONE}/cancel"), patch(cancel))
        .route(&format!("{ONE}/logs"), get(logs::of_version))
        .route(&format!("{ONE}/resources"), get(resources_of))
        .route(&format!("{ONE}/rich-parameters"), get(parameters))
        .route(&format!("{ONE}/variables"), get(variables))
        .route(&format!("{ONE}/presets"), get(presets))
        .route(&format!("{ONE}/external-auth"), get(external_auth))
}

/// Finds a version by its id.
pub(super) async fn find(plane: &Plane, id: &str) -> Result<Version, RequestError> {
    let unknown = || not_found("template version", id);
    let id: VersionId = id.parse().map_err(|_| unknown())?;
    plane.store().version(id).await?.ok_or_else(unknown)
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

pub(super) async fn as_json(plane: &Plane, version: &Version) -> Result<Value, RequestError> {
    let store = plane.store();
    let job = jobs::find(plane, version.job_id).await?;
    let users = store.users().await?;
    let author = users.into_iter().find(|it| it.id == version.created_by);
    let template = store.template(version.template_id).await?;
    // A version that was uploaded before its template was created has no template yet.
    let template = template.filter(|it| it.active_version.is_some() || it.deleted_at.is_none());
    let import_output = store.import_output(version.id).await?;
    let matched = match job.status() {
        JobStatus::Queued => matched_daemons(plane, &job).await?,
        JobStatus::Running
        | JobStatus::Cancelling
        | JobStatus::Succeeded
        | JobStatus::Failed
        | JobStatus::Cancelled => Value::Null,
    };
    Ok(json!({
        "id": version.id,
        "template_id": template.map(|it| it.id),
        "organization_id": job.organization_id,
        "created_at": version.created_at,
        "updated_at": version.created_at,
        "name": version.name,
        "message": version.message,
        "job": jobs::described(plane, &job).await?,
        "readme": import_output.readme,
        "created_by": {
            "id": version.created_by,
            "username": author.map(|it| it.name),
        },
        "archived": false,
        "matched_provisioners": matched,
        "has_external_agent": import_output.has_external_agents,
    }))
}

#[derive(Deserialize)]
struct NewVersion {
    #[serde(default)]
    name: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    template_id: Uuid,
    #[serde(default)]
    file_id: Uuid,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    user_variable_values: Option<Vec<Variable>>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// Imports an archive that was uploaded before, as a version of a template or of one that is named afterwards.
async fn create(
    State(plane): State<Arc<Plane>>,
    Path(organization): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: NewVersion = bodies.json(Sender::Person(caller.user.id), request).await?;
    let made = async {
        let organization = organizations::find(&plane, &organization).await?;
        let file = archives::find(&plane, &caller, &asked.file_id.to_string()).await?;
        let variables = asked.user_variable_values.unwrap_or_default().into_iter();
        let variables = variables.map(|it| VariableValue {
            name: it.name,
            value: Secret::new(it.value),
            sensitive: false,
        });
        let mut request = VersionRequest {
            template: String::new(),
            archive: file.content,
            name: asked.name,
            message: asked.message,
            variables: variables.collect(),
            tags: asked.tags.unwrap_or_default(),
            activate: false,
        };
        let version = if asked.template_id.is_nil() {
            let made = plane.create_draft(&caller, organization.id, request);
            made.await?
        } else {
            let id = TemplateId(asked.template_id);
            let template = plane.store().template(id).await?;
            let template = template.ok_or_else(|| not_found("template", id))?;
            request.template = template.name;
            let made = plane.create_version(&caller, template.organization_id, request);
            made.await?
        };
        as_json(&plane, &version).await
    };
    let made = made.await.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn cancel(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let version = find(&plane, &id).await.map_err(Refusal::unavailable)?;
    jobs::cancel(&plane, &caller, version.job_id).await
}

/// Formats a list that is part of an import's output.
async fn learned_list(
    plane: &Plane,
    headers: &HeaderMap,
    id: &str,
    list: impl FnOnce(VersionId, ImportOutput) -> Vec<Value>,
) -> Result<Json<Value>, Refusal> {
    authentication::caller(plane, headers).await?;
    let import_output = async {
        let version = find(plane, id).await?;
        let import_output = plane.store().import_output(version.id).await?;
        Ok(Value::Array(list(version.id, import_output)))
    };
    import_output.await.map(Json).map_err(Refusal::unavailable)
}

/// Resources of a started workspace, and those that a stopped one keeps.
async fn resources_of(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    learned_list(&plane, &headers, &id, |id, import_output| {
        let of = |all: &[_], transition| resources::planned(id.0, all, transition);
        let mut all = of(&import_output.start_resources, Transition::Start);
        all.extend(of(&import_output.stop_resources, Transition::Stop));
        all
    })
    .await
}

async fn parameters(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    learned_list(&plane, &headers, &id, |_, import_output| {
        import_output.parameters.iter().map(parameter).collect()
    })
    .await
}

fn parameter(parameter: &Parameter) -> Value {
    let option = |it: &outpost_base::job::ParameterOption| {
        json!({
            "name": it.name,
            "description": it.description,
            "value": it.value,
            "icon": it.icon,
        })
    };
    json!({
        "name": parameter.name,
        "display_name": parameter.display_name,
        "description": parameter.description,
        "description_plaintext": parameter.description,
        "type": parameter.kind,
        "form_type": parameter.form_type,
        "mutable": parameter.mutable,
        "default_value": parameter.default_value,
        "icon": parameter.icon,
        "options": parameter.options.iter().map(option).collect::<Vec<_>>(),
        "validation_error": parameter.validation_error,
        "validation_regex": parameter.validation_regex,
        "validation_min": parameter.validation_min,
        "validation_max": parameter.validation_max,
        "validation_monotonic": parameter.validation_monotonic,
        "required": parameter.required,
        "ephemeral": parameter.ephemeral,
    })
}

/// Terraform variables that a version declares, without the values that its author set.
async fn variables(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    learned_list(&plane, &headers, &id, |_, import_output| {
        let all = import_output.variables.iter().map(|it| {
            let default = if it.sensitive { "" } else { &it.default_value };
            json!({
                "name": it.name,
                "description": it.description,
                "type": it.kind,
                "value": default,
                "default_value": default,
                "required": it.required,
                "sensitive": it.sensitive,
            })
        });
        all.collect()
    })
    .await
}

async fn presets(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    learned_list(&plane, &headers, &id, |id, import_output| {
        import_output
            .presets
            .iter()
            .map(|it| preset(id, it))
            .collect()
    })
    .await
}

fn preset(version: VersionId, preset: &Preset) -> Value {
    let answers = preset.parameters.iter();
    let answers = answers.map(|it| json!({ "Name": it.name, "Value": it.value }));
    // The field names of Go's struct, which has no JSON tags.
    json!({
        "ID": preset_id(version, &preset.name),
        "Name": preset.name,
        "Parameters": answers.collect::<Vec<_>>(),
        "Default": preset.default,
        "DesiredPrebuildInstances": null,
        "Description": preset.description,
        "Icon": preset.icon,
    })
}

/// Services that a client must log in to first: none, because builds here get no tokens of external services.
async fn external_auth(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    learned_list(&plane, &headers, &id, |_, _| Vec::new()).await
}
