//! Workspaces as Coder's clients read them on their way to an agent.
//!
//! # Source
//! coder `codersdk/workspaces.go`, `codersdk/workspaceagents.go`, `codersdk/users.go`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use outpost_base::job::{Agent, App, DisplayApps, Script};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    answer::Refusal,
    authentication,
    bodies::Bodies,
    builds::{self, Answer},
    jobs::not_found,
    logs, overlay, query, search, versions,
};
use crate::{
    agent_ids::{app_id, log_source_id, script_id},
    agent_reports::{AgentReports, LogSource},
    model::{AgentRecord, Lifecycle, Organization, Template, TemplateId, Version, Workspace},
    plane::{AgentFacts, AgentStatus, Caller, Plane, RequestError, WorkspaceRequest},
    services::gate::Sender,
    store::WorkspaceFilter,
};

/// Routes that lead a client to an agent.
pub(super) fn routes() -> Router<Arc<Plane>> {
    Router::new()
        .route("/api/v2/users/{user}", get(user))
        .route(
            "/api/v2/users/{user}/workspace/{workspace}",
            get(workspace_of),
        )
        .route("/api/v2/users/{user}/workspaces", post(create))
        .route(
            "/api/v2/organizations/{organization}/members/{user}/workspaces",
            post(create_in),
        )
        .route("/api/v2/workspaces", get(workspaces))
        .route(
            "/api/v2/workspaces/{workspace}",
            get(workspace).patch(rename),
        )
        .route("/api/v2/workspaces/{workspace}/usage", post(used))
        .route("/api/v2/workspaceagents/{agent}", get(agent))
        .route(
            "/api/v2/workspaceagents/{agent}/listening-ports",
            get(listening_ports),
        )
        .route(
            "/api/v2/workspaceagents/{agent}/containers",
            get(containers),
        )
        .route("/api/v2/workspaceagents/{agent}/logs", get(logs::of_agent))
}

async fn user(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let name = if name == "me" { "" } else { &name };
    let user = plane.acting_for(&caller, name).await;
    let user = user.map_err(Refusal::unavailable)?;
    let organizations = plane.store().organizations().await;
    let organizations = organizations.map_err(|error| Refusal::unavailable(error.into()))?;
    let ids: Vec<_> = organizations.iter().map(|it| it.id).collect();
    Ok(Json(json!({
        "id": user.id,
        "username": user.name,
        "name": user.full_name,
        "email": user.email,
        "created_at": user.created_at,
        "updated_at": user.created_at,
        "status": if user.suspended_at.is_some() { "suspended" } else { "active" },
        "login_type": "token",
        "organization_ids": ids,
        "roles": [],
    })))
}

/// Finds a workspace in all organizations. The first match counts: an owner's workspaces have different names.
async fn workspace_of(
    State(plane): State<Arc<Plane>>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    described(&plane, &caller, &named(&owner, name)).await
}

/// Workspace name as the control plane expects it, from its owner, or `me`, and its name.
pub(super) fn named(owner: &str, name: String) -> String {
    match owner {
        "me" => name,
        owner => format!("{owner}/{name}"),
    }
}

async fn workspace(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    described(&plane, &caller, &id).await
}

/// Renames a workspace, the only property that the request can change.
async fn rename(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    #[derive(Deserialize)]
    struct Asked {
        name: String,
    }
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: Asked = bodies.json(Sender::Person(caller.user.id), request).await?;
    let renamed = async {
        let (_, found) = find(&plane, &caller, &id).await?;
        plane.rename_workspace(&caller, &found, &asked.name).await
    };
    renamed.await.map_err(Refusal::unavailable)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts the report that a client is using a workspace. Nothing here stops unused workspaces.
async fn used(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    let caller = authentication::caller(&plane, &headers).await?;
    let found = find(&plane, &caller, &id).await;
    found.map_err(Refusal::unavailable)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn described(plane: &Plane, caller: &Caller, named: &str) -> Result<Json<Value>, Refusal> {
    let described = describe(plane, caller, named).await;
    Ok(Json(described.map_err(Refusal::unavailable)?))
}

/// Describes a workspace, by its id or name, as Coder's clients read it.
pub(super) async fn describe(
    plane: &Plane,
    caller: &Caller,
    named: &str,
) -> Result<Value, RequestError> {
    let (organization, workspace) = find(plane, caller, named).await?;
    as_json(plane, &organization, &workspace).await
}

pub(super) async fn find(
    plane: &Plane,
    caller: &Caller,
    named: &str,
) -> Result<(Organization, Workspace), RequestError> {
    for organization in plane.store().organizations().await? {
        match plane.workspace(caller, organization.id, named).await {
            Ok(found) => return Ok((organization, found)),
            Err(RequestError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(RequestError::NotFound {
        what: "workspace",
        name: named.to_owned(),
    })
}

/// Request for a workspace.
#[derive(Deserialize)]
struct NewWorkspace {
    name: String,
    #[serde(default)]
    template_id: Uuid,
    #[serde(default)]
    template_version_id: Uuid,
    #[serde(default)]
    rich_parameter_values: Option<Vec<Answer>>,
    #[serde(default)]
    template_version_preset_id: Uuid,
    #[serde(default)]
    autostart_schedule: Option<String>,
    #[serde(default)]
    ttl_ms: Option<i64>,
    #[serde(default)]
    automatic_updates: String,
}

impl NewWorkspace {
    /// Refuses options that this server does not support, because they must not be ignored silently.
    fn check(&self) -> Result<(), RequestError> {
        let start = self.autostart_schedule.as_deref().unwrap_or_default();
        if !start.is_empty() || self.ttl_ms.unwrap_or_default() != 0 {
            let why = "this server does not support schedules: omit --start-at and --stop-after";
            return Err(RequestError::Invalid(why.to_owned()));
        }
        if self.automatic_updates == "always" {
            let why =
                "this server does not update workspaces automatically: omit --automatic-updates";
            return Err(RequestError::Invalid(why.to_owned()));
        }
        Ok(())
    }
}

async fn create_in(
    State(plane): State<Arc<Plane>>,
    Path((_organization, owner)): Path<(String, String)>,
    bodies: Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    create(State(plane), Path(owner), bodies, request).await
}

async fn create(
    State(plane): State<Arc<Plane>>,
    Path(owner): Path<String>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Result<Response, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let asked: NewWorkspace = bodies.json(Sender::Person(caller.user.id), request).await?;
    let made = async {
        asked.check()?;
        let (template, version) = what_it_is_made_from(&plane, &asked).await?;
        let preset = builds::preset(&plane, version.id, asked.template_version_preset_id).await?;
        let request = WorkspaceRequest {
            name: asked.name,
            owner: if owner == "me" { String::new() } else { owner },
            parameters: Answer::values(asked.rich_parameter_values),
            preset: preset.map(|preset| preset.name).unwrap_or_default(),
            log_level: String::new(),
        };
        let made = plane.create_workspace(&caller, &template, &version, request);
        describe(&plane, &caller, &made.await?.id.to_string()).await
    };
    let made = made.await.map_err(Refusal::unavailable)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn what_it_is_made_from(
    plane: &Plane,
    asked: &NewWorkspace,
) -> Result<(Template, Version), RequestError> {
    let template = async |id: TemplateId| {
        let template = plane.store().template(id).await?;
        let template = template.filter(|it| it.deleted_at.is_none());
        template.ok_or_else(|| not_found("template", id))
    };
    if asked.template_version_id.is_nil() {
        let template = template(TemplateId(asked.template_id)).await?;
        let version = plane.version(&template, "").await?;
        return Ok((template, version));
    }
    let version = versions::find(plane, &asked.template_version_id.to_string()).await?;
    Ok((template(version.template_id).await?, version))
}

/// Workspaces that match a search and that the caller may see, and their total number.
async fn workspaces(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let caller = authentication::caller(&plane, request.headers()).await?;
    let query = request.uri().query().unwrap_or_default();
    let search = query::parameter(query, "q").unwrap_or_default();
    let known = ["owner", "name", "template", "status", "organization", "id"];
    let terms = search::terms(&search, &known)?;
    let number = |name| query::parameter(query, name).and_then(|it| it.parse::<usize>().ok());
    let limit = number("limit")
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let found = searched(&plane, &caller, &terms).await;
    let found = found.map_err(Refusal::unavailable)?;
    let page = found.iter().skip(number("offset").unwrap_or_default());
    let page: Vec<_> = page.take(limit).collect();
    Ok(Json(json!({ "count": found.len(), "workspaces": page })))
}

async fn searched(
    plane: &Plane,
    caller: &Caller,
    terms: &[(String, String)],
) -> Result<Vec<Value>, RequestError> {
    let mut filter = WorkspaceFilter::default();
    for (name, value) in terms {
        if name == "owner" {
            let owner = if value == "me" { "" } else { value };
            filter.owner = Some(plane.acting_for(caller, owner).await?.id);
        }
    }
    let organizations = plane.store().organizations().await?;
    let mut found = Vec::new();
    for workspace in plane.workspaces(caller, filter).await? {
        let of = |it: &&Organization| it.id == workspace.organization_id;
        let Some(organization) = organizations.iter().find(of) else {
            continue;
        };
        let described = as_json(plane, organization, &workspace).await?;
        if terms
            .iter()
            .all(|(name, value)| fits(&described, name, value))
        {
            found.push(described);
        }
    }
    Ok(found)
}

fn fits(workspace: &Value, name: &str, value: &str) -> bool {
    let text = |it: &Value| it.as_str().unwrap_or_default().to_lowercase();
    let value = value.to_lowercase();
    match name {
        "name" => text(&workspace["name"]).contains(&value),
        "template" => text(&workspace["template_name"]) == value,
        "status" => text(&workspace["latest_build"]["status"]) == value,
        "organization" => [
            text(&workspace["organization_name"]),
            text(&workspace["organization_id"]),
        ]
        .contains(&value),
        "id" => text(&workspace["id"]) == value,
        // The owner was checked before.
        _ => true,
    }
}

async fn as_json(
    plane: &Plane,
    organization: &Organization,
    workspace: &Workspace,
) -> Result<Value, RequestError> {
    let template = plane.store().template(workspace.template_id).await?;
    let active = template.as_ref().and_then(|it| it.active_version);
    let build = plane.store().latest_build(workspace.id).await?;
    let is_outdated = build
        .as_ref()
        .is_some_and(|it| Some(it.version_id) != active);
    let build = match build {
        Some(build) => builds::as_json(plane, workspace, &build).await?,
        None => Value::Null,
    };
    let failing = failing_agents(&build);
    Ok(json!({
        "id": workspace.id,
        "name": workspace.name,
        "owner_id": workspace.owner_id,
        "owner_name": workspace.owner,
        "organization_id": organization.id,
        "organization_name": organization.name,
        "template_id": workspace.template_id,
        "template_name": template.map(|it| it.name),
        "template_display_name": "",
        "template_icon": "",
        "template_active_version_id": active,
        "template_allow_user_cancel_workspace_jobs": true,
        "template_require_active_version": false,
        "template_use_classic_parameter_flow": true,
        "outdated": is_outdated,
        "health": { "healthy": failing.is_empty(), "failing_agents": failing },
        "created_at": workspace.created_at,
        "updated_at": workspace.updated_at,
        "last_used_at": workspace.updated_at,
        "automatic_updates": "never",
        "allow_renames": false,
        "favorite": false,
        "latest_build": build,
    }))
}

/// Ids of a build's agents that are unhealthy.
fn failing_agents(build: &Value) -> Vec<Value> {
    let resources = build["resources"].as_array().into_iter().flatten();
    let agents = resources.flat_map(|it| it["agents"].as_array().into_iter().flatten());
    let failing = agents.filter(|it| it["health"]["healthy"] == false);
    failing.map(|it| it["id"].clone()).collect()
}

async fn agent(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let (_, facts) = overlay::find(&plane, &headers, &agent).await?;
    let AgentFacts { record, agent, .. } = facts;
    Ok(Json(agent_as_json(&plane, &record, &agent)))
}

/// Listening ports in the workspace: none, because this server does not look into workspaces.
async fn listening_ports(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    overlay::find(&plane, &headers, &agent).await?;
    Ok(Json(json!({ "ports": [] })))
}

/// Dev containers in the workspace: none, because they have no agents of their own here.
async fn containers(
    State(plane): State<Arc<Plane>>,
    Path(agent): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    overlay::find(&plane, &headers, &agent).await?;
    Ok(Json(
        json!({ "containers": [], "devcontainers": [], "warnings": [] }),
    ))
}

pub(super) fn agent_as_json(plane: &Plane, record: &AgentRecord, agent: &Agent) -> Value {
    let (status, reports) = (plane.agent_status(record, agent), plane.reports(record.id));
    let scripts = || agent.scripts.iter().enumerate();
    let sources = scripts().map(|(at, it)| source_as_json(record, at, it));
    let made = reports.log_sources.iter();
    let when = |is_so: bool, at: Option<Timestamp>| {
        is_so.then(|| at.or(record.first_connected_at)).flatten()
    };
    let sources = sources.chain(made.map(|(id, it)| made_source_as_json(record, *id, it)));
    json!({
        "id": record.id,
        "name": record.name,
        "created_at": record.created_at,
        "status": status.as_str(),
        "lifecycle_state": record.lifecycle.as_str(),
        // Clients subtract these times. After a restart of this server only the time of the connection is known.
        "started_at": when(record.lifecycle > Lifecycle::Created, reports.started_at),
        "ready_at": when(record.lifecycle > Lifecycle::Starting, reports.ready_at),
        "first_connected_at": record.first_connected_at,
        "last_connected_at": record.last_connected_at,
        // Go's clients dereference this without a check.
        "disconnected_at": (status == AgentStatus::Disconnected).then_some(record.last_connected_at),
        "architecture": agent.architecture,
        "operating_system": agent.operating_system,
        "directory": agent.directory,
        "expanded_directory": record.directory,
        "version": record.version,
        "api_version": reports.api_version,
        "connection_timeout_seconds": agent.connection_timeout_seconds,
        "troubleshooting_url": agent.troubleshooting_url,
        "subsystems": [],
        "display_apps": display_apps(&agent.display_apps),
        "apps": agent.apps.iter().map(|app| app_as_json(record, &reports, app)).collect::<Vec<_>>(),
        "scripts": scripts().map(|(at, it)| script_as_json(record, at, it)).collect::<Vec<_>>(),
        "log_sources": sources.collect::<Vec<_>>(),
        "latency": latency(plane, record),
        "session_counts": reports.traffic.as_ref().map(|it| &it.sessions),
        "metadata": metadata_as_json(agent, &reports),
        "health": { "healthy": status == AgentStatus::Connected, "reason": ill(status, record) },
    })
}

/// Returns the reason why an agent is unhealthy, in the reference's words; empty if it is healthy.
fn ill(status: AgentStatus, record: &AgentRecord) -> &'static str {
    match (status, record.lifecycle) {
        (AgentStatus::Connected, _) => "",
        (_, Lifecycle::Off) => "agent is not running",
        (AgentStatus::Connecting, _) => "agent has not yet connected",
        (AgentStatus::Timeout, _) => "agent is taking too long to connect",
        (AgentStatus::Disconnected, _) => "agent has lost connection",
    }
}

pub(super) fn display_apps(offered: &DisplayApps) -> Vec<&'static str> {
    let all = [
        ("vscode", offered.vscode),
        ("vscode_insiders", offered.vscode_insiders),
        ("web_terminal", offered.web_terminal),
        ("port_forwarding_helper", offered.port_forwarding_helper),
        ("ssh_helper", offered.ssh_helper),
    ];
    let offered = all.into_iter().filter(|(_, is_offered)| *is_offered);
    offered.map(|(name, _)| name).collect()
}

fn app_as_json(record: &AgentRecord, reports: &AgentReports, app: &App) -> Value {
    let id = app_id(record.id, app);
    let check = app.healthcheck.clone().unwrap_or_default();
    json!({
        "id": id,
        "url": app.url,
        "external": app.external,
        "slug": app.slug,
        "display_name": app.display_name,
        "command": app.command,
        "icon": app.icon,
        "subdomain": app.subdomain,
        "sharing_level": app.sharing_level,
        "healthcheck": {
            "url": check.url,
            "interval": check.interval,
            "threshold": check.threshold,
        },
        "health": reports.health_of(record.id, app).as_str(),
        "group": app.group,
        "hidden": app.hidden,
        "open_in": app.open_in,
        "tooltip": app.tooltip,
        "statuses": reports.app_statuses.get(&id).map(|it| json!([{
            "id": it.id,
            "created_at": it.created_at,
            "agent_id": record.id,
            "app_id": id,
            "workspace_id": record.workspace_id,
            "state": it.state,
            "message": it.message,
            "uri": it.uri,
            "icon": "",
            "needs_user_attention": false,
        }])).unwrap_or_else(|| json!([])),
    })
}

fn script_as_json(record: &AgentRecord, at: usize, script: &Script) -> Value {
    json!({
        "id": script_id(record.id, at),
        "log_source_id": log_source_id(record.id, at),
        "log_path": script.log_path,
        "script": script.script,
        "cron": script.cron,
        "run_on_start": script.run_on_start,
        "run_on_stop": script.run_on_stop,
        "start_blocks_login": script.start_blocks_login,
        // Go encodes durations in nanoseconds.
        "timeout": i64::from(script.timeout_seconds) * 1_000_000_000,
        "display_name": script.display_name,
    })
}

fn source_as_json(record: &AgentRecord, at: usize, script: &Script) -> Value {
    json!({
        "workspace_agent_id": record.id,
        "id": log_source_id(record.id, at),
        "display_name": script.display_name,
        "icon": script.icon,
    })
}

pub(super) fn made_source_as_json(record: &AgentRecord, id: Uuid, source: &LogSource) -> Value {
    json!({
        "workspace_agent_id": record.id,
        "id": id,
        "created_at": source.created_at,
        "display_name": source.display_name,
        "icon": source.icon,
    })
}

/// Latencies from an agent to the relays by its own measurement, by the names of their regions.
fn latency(plane: &Plane, record: &AgentRecord) -> Value {
    let Some(node) = plane.coordinator().node(record.id.0) else {
        return json!({});
    };
    let map = plane.derp_map();
    // Go's clients measure `999-v4` and `999-v6` separately; the smaller latency counts.
    let mut by_region = BTreeMap::<i32, f64>::new();
    for (region, seconds) in &node.derp_latency {
        let id = region.split('-').next().and_then(|id| id.parse().ok());
        if let (Some(id), true) = (id, seconds.is_finite()) {
            let nearest = by_region.entry(id).or_insert(f64::MAX);
            *nearest = nearest.min(*seconds);
        }
    }
    let described = by_region.iter().map(|(id, seconds)| {
        let known = map.regions.get(id).map(|region| region.name.clone());
        let name = known.unwrap_or_else(|| format!("Unnamed {id}"));
        let latency =
            json!({ "preferred": node.preferred_derp == *id, "latency_ms": seconds * 1000.0 });
        (name, latency)
    });
    Value::Object(described.collect())
}

/// Metadata of an agent as JSON. Coder's clients ask for it elsewhere; ours read it here.
fn metadata_as_json(agent: &Agent, reports: &AgentReports) -> Vec<Value> {
    let measured = agent.metadata.iter().map(|described| {
        let result = reports.measured.get(&described.key);
        json!({
            "description": {
                "key": described.key,
                "display_name": described.display_name,
                "script": described.script,
                "interval": described.interval,
                "timeout": described.timeout,
            },
            "result": result.map(|it| json!({
                "collected_at": it.collected_at,
                "value": it.value,
                "error": it.error,
            })),
        })
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AgentId, BuildId, WorkspaceId};

    fn record(lifecycle: Lifecycle) -> AgentRecord {
        AgentRecord {
            id: AgentId::random(),
            build_id: BuildId::random(),
            workspace_id: WorkspaceId::random(),
            name: "main".to_owned(),
            lifecycle,
            version: String::new(),
            directory: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            first_connected_at: None,
            last_connected_at: None,
        }
    }

    #[test]
    fn options_that_would_be_ignored_are_refused_and_their_absence_is_not() {
        let check = |more: Value| {
            let mut asked = json!({ "name": "w" });
            let asked_fields = asked.as_object_mut().unwrap();
            asked_fields.extend(more.as_object().unwrap().clone());
            let asked: NewWorkspace = serde_json::from_value(asked).unwrap();
            asked.check().map_err(|error| error.to_string())
        };

        for absent in [
            json!({}),
            json!({ "autostart_schedule": null, "ttl_ms": null }),
            json!({ "autostart_schedule": "", "ttl_ms": 0, "automatic_updates": "never" }),
        ] {
            assert_eq!(check(absent.clone()), Ok(()), "{absent}");
        }
        for (asked, option) in [
            (json!({ "autostart_schedule": "0 9 * * 1" }), "--start-at"),
            (json!({ "ttl_ms": 1 }), "--stop-after"),
            (
                json!({ "automatic_updates": "always" }),
                "--automatic-updates",
            ),
        ] {
            let why = check(asked).unwrap_err();
            assert!(why.contains(option), "{why}");
        }
    }

    #[test]
    fn a_search_ignores_case_and_only_names_match_in_part() {
        let workspace = json!({
            "id": "0A", "name": "My-Dev", "template_name": "Docker",
            "organization_name": "Acme", "organization_id": "1f",
            "latest_build": { "status": "running" },
        });
        let fits = |name, value| fits(&workspace, name, value);

        for (name, value) in [
            ("name", "y-d"),
            ("template", "DOCKER"),
            ("status", "Running"),
            ("organization", "acme"),
            ("organization", "1F"),
            ("id", "0a"),
        ] {
            assert!(fits(name, value), "{name}:{value}");
        }
        for (name, value) in [
            ("name", "prod"),
            ("template", "dock"),
            ("status", "run"),
            ("organization", "ac"),
            ("id", "0"),
        ] {
            assert!(!fits(name, value), "{name}:{value}");
        }
    }

    #[test]
    fn a_workspace_fails_with_the_agents_that_say_so_and_without_a_build_none_does() {
        let agent =
            |id: &str, healthy: Value| json!({ "id": id, "health": { "healthy": healthy } });
        let build = json!({ "resources": [
            { "agents": [agent("a", json!(true)), agent("b", json!(false))] },
            { "agents": null },
            { "agents": [agent("c", json!(false)), agent("d", Value::Null)] },
        ] });

        assert_eq!(failing_agents(&build), [json!("b"), json!("c")]);
        assert!(failing_agents(&Value::Null).is_empty());
    }

    #[test]
    fn an_unhealthy_agent_has_a_reason_and_one_that_was_stopped_has_that_first() {
        let ready = record(Lifecycle::Ready);

        assert_eq!(ill(AgentStatus::Connected, &ready), "");
        let lost = ill(AgentStatus::Disconnected, &ready);
        assert_eq!(lost, "agent has lost connection");
        let stopped = ill(AgentStatus::Disconnected, &record(Lifecycle::Off));
        assert_eq!(stopped, "agent is not running");
        let late = ill(AgentStatus::Timeout, &record(Lifecycle::Created));
        assert_eq!(late, "agent is taking too long to connect");
    }

    #[test]
    fn the_owner_is_part_of_a_name_unless_it_is_the_caller() {
        assert_eq!(named("me", "dev".to_owned()), "dev");
        assert_eq!(named("amy", "dev".to_owned()), "amy/dev");
    }

    #[test]
    fn only_the_offered_apps_are_listed() {
        let none = DisplayApps {
            vscode: false,
            vscode_insiders: false,
            web_terminal: false,
            ssh_helper: false,
            port_forwarding_helper: false,
        };

        assert_eq!(display_apps(&none), [""; 0]);
        let one = DisplayApps {
            ssh_helper: true,
            ..none
        };
        assert_eq!(display_apps(&one), ["ssh_helper"]);
    }
}
