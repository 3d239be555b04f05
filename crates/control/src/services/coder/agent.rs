//! Calls of an agent to its server: requests and reports.
//!
//! # Source
//! coder `coderd/agentapi`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use outpost_base::job::{
    Agent, AgentMetadata, App, Env, LogLevel, Script, ScriptDependency, ScriptRequirement,
    SharingLevel,
};
use outpost_transport::drpc::{CallError, UNIMPLEMENTED};
use outpost_wire::proto::{
    coder::agent::v2::{
        self as wire,
        lifecycle::State,
        log::Level,
        timing::{Stage, Status},
        workspace_agent_script_dependency::Requirement,
        workspace_app,
    },
    provisionerd::Empty,
};
use prost_types::Duration;
use tracing::{debug, info};
use uuid::Uuid;

use super::peer::{IncomingCall, bytes, unary};
use crate::{
    agent_ids::{app_id, log_source_id, script_id},
    agent_log,
    agent_reports::{AppStatus, Health, ScriptEnd, Traffic},
    model::{AgentId, AgentRecord, Lifecycle},
    plane::{AgentFacts, Plane, RequestError},
    sessions,
    store::AgentChange,
};

/// Interval at which an agent should report its statistics, in seconds.
const REPORT: i64 = 300;
/// Longest text of an agent that appears in our log, in bytes.
const MAX_TEXT: usize = 4096;

/// Longest message of an app's status, in characters.
const MAX_STATUS: usize = 160;
/// Number of log entries in one report of a sandbox; the reference's limit.
const MAX_BOUNDARY_LOGS: usize = 1000;

/// Returns whether a call reports on the agent itself, so that nobody else may make it.
pub(super) fn is_of_itself(name: &str) -> bool {
    ["UpdateLifecycle", "UpdateStartup", "UpdateStats"].contains(&name)
}

/// Answers one call of an agent.
pub(super) async fn answer(
    plane: &Plane,
    agent: &AgentRecord,
    name: &str,
    answer: IncomingCall,
) -> Result<(), CallError> {
    let id = agent.id;
    match name {
        "GetManifest" => {
            unary(answer, |_: wire::GetManifestRequest| async {
                let facts = plane.agent_facts(agent.clone()).await?;
                Ok(manifest(plane, facts))
            })
            .await
        }
        "UpdateStartup" => {
            unary(answer, |request: wire::UpdateStartupRequest| startup(plane, id, request)).await
        }
        "UpdateLifecycle" => {
            unary(answer, |request: wire::UpdateLifecycleRequest| {
                lifecycle(plane, id, request)
            })
            .await
        }
        "UpdateStats" => {
            unary(answer, |request: wire::UpdateStatsRequest| async {
                if let Some(stats) = request.stats {
                    let traffic = traffic(plane, &stats);
                    plane.record_report(id, |reports| reports.traffic = Some(traffic));
                }
                let report_interval = Some(seconds(REPORT));
                Ok(wire::UpdateStatsResponse { report_interval })
            })
            .await
        }
        "BatchUpdateAppHealths" => {
            unary(answer, |request| health(plane, agent, request)).await
        }
        "BatchUpdateMetadata" => {
            unary(answer, |request| async move { Ok(metadata(plane, id, request)) }).await
        }
        "BatchCreateLogs" => unary(answer, |request| logs(plane, id, request)).await,
        "ScriptCompleted" => {
            unary(answer, |request: wire::WorkspaceAgentScriptCompletedRequest| async {
                script_ended(plane, id, &request.timing.unwrap_or_default())?;
                Ok(wire::WorkspaceAgentScriptCompletedResponse {})
            })
            .await
        }
        "GetServiceBanner" => {
            unary(answer, |_: wire::GetServiceBannerRequest| async {
                Ok(wire::ServiceBanner::default())
            })
            .await
        }
        "GetAnnouncementBanners" => {
            unary(answer, |_: wire::GetAnnouncementBannersRequest| async {
                Ok(wire::GetAnnouncementBannersResponse::default())
            })
            .await
        }
        "GetResourcesMonitoringConfiguration" => {
            unary(answer, |_: wire::GetResourcesMonitoringConfigurationRequest| async {
                Ok(monitoring(&plane.agent_facts(agent.clone()).await?.agent))
            })
            .await
        }
        "PushResourcesMonitoringUsage" => {
            unary(answer, |_: wire::PushResourcesMonitoringUsageRequest| async {
                Ok(wire::PushResourcesMonitoringUsageResponse {})
            })
            .await
        }
        "ReportConnection" => {
            unary(answer, |request: wire::ReportConnectionRequest| async {
                let connection = request.connection.unwrap_or_default();
                let app = sessions::normalized(&connection.app_name).unwrap_or_default();
                info!(%id, action = ?connection.action(), kind = ?connection.r#type(), app, ip = connection.ip, "agent reported a connection");
                Ok(Empty {})
            })
            .await
        }
        "ListSubAgents" => {
            unary(answer, |_: wire::ListSubAgentsRequest| async {
                Ok(wire::ListSubAgentsResponse::default())
            })
            .await
        }
        "ReportBoundaryLogs" => {
            unary(answer, |request| async move { boundary_logs(id, &request) }).await
        }
        "UpdateAppStatus" => unary(answer, |request| app_status(plane, agent, request)).await,
        "CreateSubAgent" | "DeleteSubAgent" => {
            let why = "sub-agents are not supported: a dev container has no agent of its own on this server";
            answer.fail_with(UNIMPLEMENTED, why).await
        }
        "PushContextState" => {
            let why = "workspace context is not supported by this server";
            answer.fail_with(UNIMPLEMENTED, why).await
        }
        _ => answer.unimplemented().await,
    }
}

async fn startup(
    plane: &Plane,
    id: AgentId,
    request: wire::UpdateStartupRequest,
) -> Result<wire::Startup, RequestError> {
    let startup = request.startup.unwrap_or_default();
    let change = AgentChange::Startup {
        version: cut(&startup.version),
        directory: cut(&startup.expanded_directory),
    };
    plane.change_agent(id, change).await?;
    Ok(startup)
}

async fn lifecycle(
    plane: &Plane,
    id: AgentId,
    request: wire::UpdateLifecycleRequest,
) -> Result<wire::Lifecycle, RequestError> {
    let lifecycle = request.lifecycle.unwrap_or_default();
    let state = match lifecycle.state() {
        State::Created => Lifecycle::Created,
        State::Starting => Lifecycle::Starting,
        State::StartTimeout => Lifecycle::StartTimeout,
        State::StartError => Lifecycle::StartError,
        State::Ready => Lifecycle::Ready,
        State::ShuttingDown => Lifecycle::ShuttingDown,
        State::ShutdownTimeout => Lifecycle::ShutdownTimeout,
        State::ShutdownError => Lifecycle::ShutdownError,
        State::Off => Lifecycle::Off,
        State::Unspecified => {
            let why = format!("unknown lifecycle state: {}", lifecycle.state);
            return Err(RequestError::Invalid(why));
        }
    };
    info!(%id, state = state.as_str(), "agent reported its lifecycle state");
    plane
        .change_agent(id, AgentChange::Lifecycle(state))
        .await?;
    plane.record_report(id, |reports| reports.record_lifecycle(state, plane.now()));
    Ok(lifecycle)
}

async fn logs(
    plane: &Plane,
    id: AgentId,
    request: wire::BatchCreateLogsRequest,
) -> Result<wire::BatchCreateLogsResponse, RequestError> {
    if request.logs.is_empty() {
        return Ok(wire::BatchCreateLogsResponse::default());
    }
    let source = uuid(&request.log_source_id, "log source")?;
    let line = |log: wire::Log| agent_log::Line {
        level: match log.level() {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            // Old agents send no level.
            Level::Unspecified | Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        },
        output: log.output,
    };
    let lines = request.logs.into_iter().map(line).collect();
    let is_kept = plane.keep_agent_log(id, source, lines).await?;
    Ok(wire::BatchCreateLogsResponse {
        log_limit_exceeded: !is_kept,
    })
}

/// Stores a report of metadata. Never fails, because an agent that got an error here would hang up.
fn metadata(
    plane: &Plane,
    id: AgentId,
    request: wire::BatchUpdateMetadataRequest,
) -> wire::BatchUpdateMetadataResponse {
    let values = request.metadata.into_iter().map(|measured| {
        let result = measured.result.unwrap_or_default();
        (measured.key, result.value, result.error)
    });
    let now = plane.now();
    if let Err(error) = plane.record_report(id, |reports| reports.measure(values, now)) {
        debug!(%id, %error, "not all of an agent's metadata is stored");
    }
    wire::BatchUpdateMetadataResponse {}
}

async fn health(
    plane: &Plane,
    agent: &AgentRecord,
    request: wire::BatchUpdateAppHealthRequest,
) -> Result<wire::BatchUpdateAppHealthResponse, RequestError> {
    let facts = plane.agent_facts(agent.clone()).await?;
    let mut heard = Vec::new();
    for update in request.updates {
        let id = uuid(&update.id, "app")?;
        let mut watched = facts.agent.apps.iter();
        if !watched.any(|app| app.healthcheck.is_some() && app_id(agent.id, app) == id) {
            let why = format!("there is no app {id} with a health check");
            return Err(RequestError::Invalid(why));
        }
        let health = match update.health() {
            wire::AppHealth::Disabled => Health::Disabled,
            wire::AppHealth::Initializing => Health::Initializing,
            wire::AppHealth::Healthy => Health::Healthy,
            wire::AppHealth::Unhealthy => Health::Unhealthy,
            wire::AppHealth::Unspecified => {
                let why = format!("unknown health {}", update.health);
                return Err(RequestError::Invalid(why));
            }
        };
        heard.push((id, health));
    }
    plane.record_report(agent.id, |reports| {
        for (app, health) in heard {
            reports.is_healthy(app, health);
        }
    });
    Ok(wire::BatchUpdateAppHealthResponse {})
}

/// Logs which requests a sandbox in a workspace allowed and denied. Other servers store them.
fn boundary_logs(
    id: AgentId,
    request: &wire::ReportBoundaryLogsRequest,
) -> Result<wire::ReportBoundaryLogsResponse, RequestError> {
    let count = request.logs.len();
    if count > MAX_BOUNDARY_LOGS {
        let why = format!("batch size {count} exceeds maximum of {MAX_BOUNDARY_LOGS}");
        return Err(RequestError::Invalid(why));
    }
    let process = cut(&request.confined_process_name);
    for log in &request.logs {
        let Some(wire::boundary_log::Resource::HttpRequest(asked)) = &log.resource else {
            continue;
        };
        let (method, url) = (cut(&asked.method), cut(&asked.url));
        info!(%id, process, allowed = log.allowed, method, url, "agent reported a decision of its sandbox");
    }
    Ok(wire::ReportBoundaryLogsResponse {})
}

async fn app_status(
    plane: &Plane,
    agent: &AgentRecord,
    request: wire::UpdateAppStatusRequest,
) -> Result<wire::UpdateAppStatusResponse, RequestError> {
    use wire::update_app_status_request::AppStatusState as State;
    if request.message.len() > MAX_STATUS {
        let why = format!("Message must be less than {MAX_STATUS} characters.");
        return Err(RequestError::Invalid(why));
    }
    let state = match State::try_from(request.state) {
        Ok(State::Working) => "working",
        Ok(State::Idle) => "idle",
        Ok(State::Complete) => "complete",
        Ok(State::Failure) => "failure",
        Err(_) => {
            let why = "State must be one of: complete, failure, working, idle.";
            return Err(RequestError::Invalid(why.to_owned()));
        }
    };
    let facts = plane.agent_facts(agent.clone()).await?;
    let mut apps = facts.agent.apps.iter();
    let Some(app) = apps.find(|app| app.slug == request.slug) else {
        let why = format!("No app found with slug {:?}", request.slug);
        return Err(RequestError::Invalid(why));
    };
    let status = AppStatus {
        id: Uuid::new_v4(),
        state,
        message: request.message.replace(char::is_control, " "),
        uri: cut(&request.uri),
        created_at: plane.now(),
    };
    plane.record_report(agent.id, |reports| {
        reports.has_status(app_id(agent.id, app), status)
    });
    Ok(wire::UpdateAppStatusResponse {})
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn traffic(plane: &Plane, stats: &wire::Stats) -> Traffic {
    let counts = stats.session_counts.iter();
    let fixed = [
        ("vscode", stats.session_count_vscode),
        ("jetbrains", stats.session_count_jetbrains),
        ("reconnecting_pty", stats.session_count_reconnecting_pty),
        ("ssh", stats.session_count_ssh),
    ];
    Traffic {
        connections: stats.connection_count,
        received_bytes: stats.rx_bytes,
        sent_bytes: stats.tx_bytes,
        sessions: sessions::by_app(counts.map(|(app, count)| (app.as_str(), *count)), fixed),
        reported_at: plane.now(),
    }
}

fn script_ended(plane: &Plane, id: AgentId, timing: &wire::Timing) -> Result<(), RequestError> {
    let script = uuid(&timing.script_id, "script")?;
    let end = ScriptEnd {
        stage: match timing.stage() {
            Stage::Start => "start",
            Stage::Stop => "stop",
            Stage::Cron => "cron",
        },
        status: match timing.status() {
            Status::Ok => "ok",
            Status::ExitFailure => "exit_failure",
            Status::TimedOut => "timed_out",
            Status::PipesLeftOpen => "pipes_left_open",
            Status::Skipped => "skipped",
        },
        exit_code: timing.exit_code,
        started_at: time(timing.start.as_ref(), "start")?,
        ended_at: time(timing.end.as_ref(), "end")?,
    };
    if end.started_at > end.ended_at {
        let why = "a script ended before it started".to_owned();
        return Err(RequestError::Invalid(why));
    }
    info!(%id, exit_code = end.exit_code, end.stage, end.status, "agent reported the end of a script");
    plane.record_report(id, |reports| reports.has_ended(script, end));
    Ok(())
}

fn uuid(bytes: &[u8], what: &str) -> Result<Uuid, RequestError> {
    let malformed = |_| RequestError::Invalid(format!("id of a {what} is not a UUID"));
    Uuid::from_slice(bytes).map_err(malformed)
}

fn time(at: Option<&prost_types::Timestamp>, what: &str) -> Result<Timestamp, RequestError> {
    let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    at.ok_or_else(|| RequestError::Invalid(format!("a script's {what} is not a timestamp")))
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// Encodes an interval whose number agents read as nanoseconds but take for seconds.
fn as_nanoseconds(seconds: i64) -> Duration {
    Duration {
        seconds: seconds / 1_000_000_000,
        nanos: i32::try_from(seconds % 1_000_000_000).unwrap_or_default(),
    }
}

fn manifest(plane: &Plane, facts: AgentFacts) -> wire::Manifest {
    let AgentFacts {
        record,
        agent,
        workspace,
    } = facts;
    let id = record.id;
    let host_key = plane.ssh_host_key_seed(&workspace.owner, &workspace.name, &agent.name);
    let scripts = agent.scripts.iter().enumerate();
    wire::Manifest {
        agent_id: bytes(id.0),
        agent_name: agent.name.clone(),
        owner_username: workspace.owner,
        workspace_id: bytes(workspace.id.0),
        workspace_name: workspace.name,
        git_auth_configs: 0,
        environment_variables: environment(&agent).into_iter().collect(),
        directory: agent.directory.clone(),
        vs_code_port_proxy_uri: String::new(),
        motd_path: agent.motd_file.clone(),
        disable_direct_connections: plane.blocks_direct_paths(),
        derp_force_websockets: false,
        parent_id: None,
        derp_map: Some(plane.derp_map().to_wire()),
        scripts: scripts.map(|(at, it)| script(id, at, it)).collect(),
        apps: agent.apps.iter().map(|it| app(id, it)).collect(),
        metadata: agent.metadata.iter().map(description).collect(),
        devcontainers: Vec::new(),
        secrets: Vec::new(),
        ssh_host_key_seed: host_key.to_vec().into(),
    }
}

/// Environment variables that an agent sets for everything that it starts.
///
/// # Source
/// coder `coderd/provisionerdserver`: how values of one name come together.
fn environment(agent: &Agent) -> BTreeMap<String, String> {
    let mut all = agent.env.clone();
    for Env {
        name,
        value,
        merge_strategy,
    } in &agent.extra_envs
    {
        let old = all.remove(name).filter(|old| !old.is_empty());
        let value = match (merge_strategy.as_str(), old) {
            ("append", Some(old)) => format!("{old}:{value}"),
            ("prepend", Some(old)) => format!("{value}:{old}"),
            (_, _) => value.clone(),
        };
        all.insert(name.clone(), value);
    }
    all
}

fn script(agent: AgentId, at: usize, script: &Script) -> wire::WorkspaceAgentScript {
    wire::WorkspaceAgentScript {
        log_source_id: bytes(log_source_id(agent, at)),
        log_path: script.log_path.clone(),
        script: script.script.clone(),
        cron: script.cron.clone(),
        run_on_start: script.run_on_start,
        run_on_stop: script.run_on_stop,
        start_blocks_login: script.start_blocks_login,
        timeout: Some(seconds(script.timeout_seconds.into())),
        display_name: script.display_name.clone(),
        id: bytes(script_id(agent, at)),
        resource_address: script.resource_address.clone(),
        dependencies: script.dependencies.iter().map(dependency).collect(),
    }
}

fn dependency(dependency: &ScriptDependency) -> wire::WorkspaceAgentScriptDependency {
    let requirement = match dependency.requirement {
        ScriptRequirement::Unspecified => Requirement::Unspecified,
        ScriptRequirement::Success => Requirement::Success,
        ScriptRequirement::Completion => Requirement::Completion,
    };
    wire::WorkspaceAgentScriptDependency {
        prerequisite_resource_address: dependency.prerequisite.clone(),
        requirement: requirement.into(),
    }
}

fn app(agent: AgentId, app: &App) -> wire::WorkspaceApp {
    let check = app.healthcheck.clone().unwrap_or_default();
    let health = match app.healthcheck {
        Some(_) => workspace_app::Health::Initializing,
        None => workspace_app::Health::Disabled,
    };
    let sharing_level = match app.sharing_level {
        SharingLevel::Owner => workspace_app::SharingLevel::Owner,
        SharingLevel::Authenticated => workspace_app::SharingLevel::Authenticated,
        SharingLevel::Public => workspace_app::SharingLevel::Public,
    };
    wire::WorkspaceApp {
        id: bytes(app_id(agent, app)),
        url: app.url.clone(),
        external: app.external,
        slug: app.slug.clone(),
        display_name: app.display_name.clone(),
        command: app.command.clone(),
        icon: app.icon.clone(),
        subdomain: app.subdomain,
        subdomain_name: String::new(),
        sharing_level: sharing_level.into(),
        // Go agents dereference this without a check, and crash if it is missing.
        healthcheck: Some(workspace_app::Healthcheck {
            url: check.url,
            interval: Some(seconds(check.interval.into())),
            threshold: check.threshold,
        }),
        health: health.into(),
        hidden: app.hidden,
    }
}

fn description(metadata: &AgentMetadata) -> wire::workspace_agent_metadata::Description {
    wire::workspace_agent_metadata::Description {
        display_name: metadata.display_name.clone(),
        key: metadata.key.clone(),
        script: metadata.script.clone(),
        interval: Some(as_nanoseconds(metadata.interval)),
        timeout: Some(as_nanoseconds(metadata.timeout)),
    }
}

fn monitoring(agent: &Agent) -> wire::GetResourcesMonitoringConfigurationResponse {
    use wire::get_resources_monitoring_configuration_response::{Config, Memory, Volume};
    let watched = &agent.resources_monitoring;
    wire::GetResourcesMonitoringConfigurationResponse {
        config: Some(Config {
            num_datapoints: 20,
            collection_interval_seconds: 10,
        }),
        memory: watched.memory.as_ref().map(|memory| Memory {
            enabled: memory.enabled,
        }),
        volumes: watched
            .volumes
            .iter()
            .map(|volume| Volume {
                enabled: volume.enabled,
                path: volume.path.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_in_seconds_is_sent_as_so_many_nanoseconds() {
        let ten = as_nanoseconds(10);

        assert_eq!((ten.seconds, ten.nanos), (0, 10));
        assert_eq!(as_nanoseconds(3_000_000_007).seconds, 3);
    }

    #[test]
    fn an_order_of_scripts_is_sent_and_a_script_without_one_stays_as_it_was() {
        let id = AgentId(Uuid::nil());
        let ordered = Script {
            resource_address: "coder_script.install".to_owned(),
            dependencies: vec![ScriptDependency {
                prerequisite: "coder_script.clone".to_owned(),
                requirement: ScriptRequirement::Completion,
            }],
            ..Script::default()
        };

        let sent = script(id, 0, &ordered);

        assert_eq!(sent.resource_address, "coder_script.install");
        let dependency = &sent.dependencies[0];
        assert_eq!(
            dependency.prerequisite_resource_address,
            "coder_script.clone"
        );
        assert_eq!(dependency.requirement(), Requirement::Completion);
        let plain = script(id, 0, &Script::default());
        assert!(plain.resource_address.is_empty() && plain.dependencies.is_empty());
    }

    #[test]
    fn values_of_one_name_come_together_as_the_template_says() {
        let env = |value: &str, merge_strategy: &str| Env {
            name: "PATH".to_owned(),
            value: value.to_owned(),
            merge_strategy: merge_strategy.to_owned(),
        };
        let agent = Agent {
            env: [("PATH".to_owned(), "/a".to_owned())].into(),
            extra_envs: vec![env("/b", "append"), env("/c", "prepend")],
            ..Agent::default()
        };

        assert_eq!(environment(&agent)["PATH"], "/c:/a:/b");
        let replaced = Agent {
            extra_envs: vec![env("/d", "replace")],
            ..agent
        };
        assert_eq!(environment(&replaced)["PATH"], "/d");
    }
}
