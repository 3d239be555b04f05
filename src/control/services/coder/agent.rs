//! What an agent asks of its server, and what it reports.
//!
//! # Source
//! coder `coderd/agentapi`.

use std::collections::BTreeMap;

use prost_types::Duration;
use sha2::{Digest as _, Sha256};
use tracing::{debug, info};
use uuid::Uuid;

use super::peer::{Question, unary, unknown};
use crate::{
    control::{
        model::{AgentId, AgentRecord, Lifecycle},
        plane::{AgentFacts, Plane, RequestError},
        store::AgentChange,
    },
    job::{Agent, AgentMetadata, App, Env, Script, SharingLevel},
    proto::{
        coder::agent::v2::{self as wire, lifecycle::State, workspace_app},
        provisionerd::Empty,
    },
    transport::drpc::CallError,
};

/// How often an agent says how it is, in seconds.
const REPORT: i64 = 300;
/// Bytes of a text that an agent sends, in our log.
const MAX_TEXT: usize = 4096;

/// Answers one call.
pub(super) async fn answer(
    plane: &Plane,
    agent: &AgentRecord,
    name: &str,
    answer: Question,
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
            unary(answer, |_: wire::UpdateStatsRequest| async {
                let report_interval = Some(seconds(REPORT));
                Ok(wire::UpdateStatsResponse { report_interval })
            })
            .await
        }
        "BatchUpdateAppHealths" => {
            unary(answer, |_: wire::BatchUpdateAppHealthRequest| async {
                Ok(wire::BatchUpdateAppHealthResponse {})
            })
            .await
        }
        "BatchUpdateMetadata" => {
            unary(answer, |_: wire::BatchUpdateMetadataRequest| async {
                Ok(wire::BatchUpdateMetadataResponse {})
            })
            .await
        }
        "BatchCreateLogs" => unary(answer, |request| async move { Ok(logs(id, request)) }).await,
        "ScriptCompleted" => {
            unary(answer, |request: wire::WorkspaceAgentScriptCompletedRequest| async {
                let timing = request.timing.unwrap_or_default();
                info!(%id, exit_code = timing.exit_code, stage = ?timing.stage(), "a script of an agent ended");
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
                info!(%id, action = ?connection.action(), kind = ?connection.r#type(), ip = connection.ip, "a connection to an agent");
                Ok(Empty {})
            })
            .await
        }
        _ => unknown(answer).await,
    }
}

async fn startup(
    plane: &Plane,
    id: AgentId,
    request: wire::UpdateStartupRequest,
) -> Result<wire::Startup, RequestError> {
    let startup = request.startup.unwrap_or_default();
    let cut = |text: &str| text.chars().take(MAX_TEXT).collect();
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
    info!(%id, state = state.as_str(), "an agent came this far");
    plane
        .change_agent(id, AgentChange::Lifecycle(state))
        .await?;
    Ok(lifecycle)
}

fn logs(id: AgentId, request: wire::BatchCreateLogsRequest) -> wire::BatchCreateLogsResponse {
    for log in request.logs {
        let line: String = log.output.chars().take(MAX_TEXT).collect();
        debug!(%id, line, "an agent says");
    }
    wire::BatchCreateLogsResponse::default()
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// Agents read this interval as a count of nanoseconds, and take it for seconds.
fn as_nanoseconds(seconds: i64) -> Duration {
    Duration {
        seconds: seconds / 1_000_000_000,
        nanos: i32::try_from(seconds % 1_000_000_000).unwrap_or_default(),
    }
}

fn bytes(id: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}

/// Ids of what has none: the same whenever it is asked for.
fn derived(agent: AgentId, what: &str) -> bytes::Bytes {
    let digest = Sha256::new()
        .chain_update(agent.0.as_bytes())
        .chain_update(what)
        .finalize();
    let first: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    bytes(uuid::Builder::from_custom_bytes(first).into_uuid())
}

fn manifest(plane: &Plane, facts: AgentFacts) -> wire::Manifest {
    let AgentFacts {
        record,
        agent,
        workspace,
    } = facts;
    let id = record.id;
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
        disable_direct_connections: true,
        derp_force_websockets: false,
        parent_id: None,
        derp_map: Some(plane.derp_map().to_wire()),
        scripts: scripts.map(|(at, it)| script(id, at, it)).collect(),
        apps: agent.apps.iter().map(|it| app(id, it)).collect(),
        metadata: agent.metadata.iter().map(description).collect(),
        devcontainers: Vec::new(),
        secrets: Vec::new(),
    }
}

/// What an agent puts into the environment of all that it starts.
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
        log_source_id: derived(agent, &format!("log source {at}")),
        log_path: script.log_path.clone(),
        script: script.script.clone(),
        cron: script.cron.clone(),
        run_on_start: script.run_on_start,
        run_on_stop: script.run_on_stop,
        start_blocks_login: script.start_blocks_login,
        timeout: Some(seconds(script.timeout_seconds.into())),
        display_name: script.display_name.clone(),
        id: derived(agent, &format!("script {at}")),
    }
}

fn app(agent: AgentId, app: &App) -> wire::WorkspaceApp {
    let healthcheck = app.healthcheck.as_ref();
    let health = match healthcheck {
        Some(_) => workspace_app::Health::Initializing,
        None => workspace_app::Health::Disabled,
    };
    let sharing_level = match app.sharing_level {
        SharingLevel::Owner => workspace_app::SharingLevel::Owner,
        SharingLevel::Authenticated => workspace_app::SharingLevel::Authenticated,
        SharingLevel::Public => workspace_app::SharingLevel::Public,
    };
    wire::WorkspaceApp {
        id: app
            .id
            .parse()
            .map_or_else(|_| derived(agent, &app.slug), bytes),
        url: app.url.clone(),
        external: app.external,
        slug: app.slug.clone(),
        display_name: app.display_name.clone(),
        command: app.command.clone(),
        icon: app.icon.clone(),
        subdomain: app.subdomain,
        subdomain_name: String::new(),
        sharing_level: sharing_level.into(),
        healthcheck: healthcheck.map(|check| workspace_app::Healthcheck {
            url: check.url.clone(),
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
