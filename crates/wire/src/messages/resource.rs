//! Resources, agents and their parts.

use outpost_base::job::{
    Agent, AgentAuth, AgentMetadata, AiTask, App, Devcontainer, DisplayApps, Env, Healthcheck,
    MemoryMonitor, OpenIn, Resource, ResourceMetadata, ResourcesMonitoring, Script,
    ScriptDependency, ScriptRequirement, SharingLevel, VolumeMonitor,
};

use super::{FieldError, all, into_all, job::same_enum, known};
use crate::proto::provisioner as wire;

same_enum!(
    SharingLevel,
    wire::AppSharingLevel,
    Owner = Owner,
    Authenticated = Authenticated,
    Public = Public
);
same_enum!(
    OpenIn,
    wire::AppOpenIn,
    Window = Window,
    SlimWindow = SlimWindow,
    Tab = Tab
);
same_enum!(
    ScriptRequirement,
    wire::ScriptDependencyRequirement,
    Unspecified = Unspecified,
    Success = Success,
    Completion = Completion
);

impl TryFrom<wire::Resource> for Resource {
    type Error = FieldError;

    fn try_from(resource: wire::Resource) -> Result<Self, FieldError> {
        Ok(Self {
            address: String::new(),
            name: resource.name,
            kind: resource.r#type,
            module_path: resource.module_path,
            agents: all(resource.agents, Agent::try_from)?,
            metadata: into_all(resource.metadata),
            hide: resource.hide,
            icon: resource.icon,
            instance_type: resource.instance_type,
            daily_cost: resource.daily_cost,
        })
    }
}

impl From<Resource> for wire::Resource {
    fn from(resource: Resource) -> Self {
        Self {
            name: resource.name,
            r#type: resource.kind,
            agents: into_all(resource.agents),
            metadata: into_all(resource.metadata),
            hide: resource.hide,
            icon: resource.icon,
            instance_type: resource.instance_type,
            daily_cost: resource.daily_cost,
            module_path: resource.module_path,
        }
    }
}

impl From<wire::resource::Metadata> for ResourceMetadata {
    fn from(item: wire::resource::Metadata) -> Self {
        Self {
            key: item.key,
            value: item.value,
            sensitive: item.sensitive,
            is_null: item.is_null,
        }
    }
}

impl From<ResourceMetadata> for wire::resource::Metadata {
    fn from(item: ResourceMetadata) -> Self {
        Self {
            key: item.key,
            value: item.value,
            sensitive: item.sensitive,
            is_null: item.is_null,
        }
    }
}

impl TryFrom<wire::Agent> for Agent {
    type Error = FieldError;

    fn try_from(agent: wire::Agent) -> Result<Self, FieldError> {
        Ok(Self {
            id: agent.id,
            name: agent.name,
            env: agent.env,
            operating_system: agent.operating_system,
            architecture: agent.architecture,
            directory: agent.directory,
            apps: all(agent.apps, App::try_from)?,
            auth: match agent.auth {
                Some(wire::agent::Auth::InstanceId(id)) => AgentAuth::InstanceId(id),
                Some(wire::agent::Auth::Token(token)) => AgentAuth::Token(token),
                None => AgentAuth::default(),
            },
            connection_timeout_seconds: agent.connection_timeout_seconds,
            troubleshooting_url: agent.troubleshooting_url,
            motd_file: agent.motd_file,
            metadata: into_all(agent.metadata),
            display_apps: agent.display_apps.unwrap_or_default().into(),
            scripts: all(agent.scripts, Script::try_from)?,
            extra_envs: into_all(agent.extra_envs),
            order: agent.order,
            resources_monitoring: agent.resources_monitoring.unwrap_or_default().into(),
            devcontainers: all(agent.devcontainers, Devcontainer::try_from)?,
            api_key_scope: agent.api_key_scope,
        })
    }
}

impl From<Agent> for wire::Agent {
    fn from(agent: Agent) -> Self {
        Self {
            id: agent.id,
            name: agent.name,
            env: agent.env,
            operating_system: agent.operating_system,
            architecture: agent.architecture,
            directory: agent.directory,
            apps: into_all(agent.apps),
            connection_timeout_seconds: agent.connection_timeout_seconds,
            troubleshooting_url: agent.troubleshooting_url,
            motd_file: agent.motd_file,
            metadata: into_all(agent.metadata),
            display_apps: Some(agent.display_apps.into()),
            scripts: into_all(agent.scripts),
            extra_envs: into_all(agent.extra_envs),
            order: agent.order,
            resources_monitoring: Some(agent.resources_monitoring.into()),
            devcontainers: into_all(agent.devcontainers),
            api_key_scope: agent.api_key_scope,
            auth: Some(match agent.auth {
                AgentAuth::Token(token) => wire::agent::Auth::Token(token),
                AgentAuth::InstanceId(id) => wire::agent::Auth::InstanceId(id),
            }),
        }
    }
}

impl From<wire::agent::Metadata> for AgentMetadata {
    fn from(item: wire::agent::Metadata) -> Self {
        let wire::agent::Metadata {
            key,
            display_name,
            script,
            interval,
            timeout,
            order,
        } = item;
        Self {
            key,
            display_name,
            script,
            interval,
            timeout,
            order,
        }
    }
}

impl From<AgentMetadata> for wire::agent::Metadata {
    fn from(item: AgentMetadata) -> Self {
        let AgentMetadata {
            key,
            display_name,
            script,
            interval,
            timeout,
            order,
        } = item;
        Self {
            key,
            display_name,
            script,
            interval,
            timeout,
            order,
        }
    }
}

impl From<wire::DisplayApps> for DisplayApps {
    fn from(apps: wire::DisplayApps) -> Self {
        let wire::DisplayApps {
            vscode,
            vscode_insiders,
            web_terminal,
            ssh_helper,
            port_forwarding_helper,
        } = apps;
        Self {
            vscode,
            vscode_insiders,
            web_terminal,
            ssh_helper,
            port_forwarding_helper,
        }
    }
}

impl From<DisplayApps> for wire::DisplayApps {
    fn from(apps: DisplayApps) -> Self {
        let DisplayApps {
            vscode,
            vscode_insiders,
            web_terminal,
            ssh_helper,
            port_forwarding_helper,
        } = apps;
        Self {
            vscode,
            vscode_insiders,
            web_terminal,
            ssh_helper,
            port_forwarding_helper,
        }
    }
}

impl From<wire::ResourcesMonitoring> for ResourcesMonitoring {
    fn from(monitoring: wire::ResourcesMonitoring) -> Self {
        let memory = |memory: wire::MemoryResourceMonitor| MemoryMonitor {
            enabled: memory.enabled,
            threshold: memory.threshold,
        };
        let volume = |volume: wire::VolumeResourceMonitor| VolumeMonitor {
            path: volume.path,
            enabled: volume.enabled,
            threshold: volume.threshold,
        };
        Self {
            memory: monitoring.memory.map(memory),
            volumes: monitoring.volumes.into_iter().map(volume).collect(),
        }
    }
}

impl From<ResourcesMonitoring> for wire::ResourcesMonitoring {
    fn from(monitoring: ResourcesMonitoring) -> Self {
        let memory = |memory: MemoryMonitor| wire::MemoryResourceMonitor {
            enabled: memory.enabled,
            threshold: memory.threshold,
        };
        let volume = |volume: VolumeMonitor| wire::VolumeResourceMonitor {
            path: volume.path,
            enabled: volume.enabled,
            threshold: volume.threshold,
        };
        Self {
            memory: monitoring.memory.map(memory),
            volumes: monitoring.volumes.into_iter().map(volume).collect(),
        }
    }
}

impl TryFrom<wire::App> for App {
    type Error = FieldError;

    fn try_from(app: wire::App) -> Result<Self, FieldError> {
        let check = |check: wire::Healthcheck| Healthcheck {
            url: check.url,
            interval: check.interval,
            threshold: check.threshold,
        };
        Ok(Self {
            id: app.id,
            slug: app.slug,
            display_name: app.display_name,
            command: app.command,
            url: app.url,
            icon: app.icon,
            subdomain: app.subdomain,
            healthcheck: app.healthcheck.map(check),
            sharing_level: known::<wire::AppSharingLevel>("app.sharing_level", app.sharing_level)?
                .into(),
            external: app.external,
            order: app.order,
            hidden: app.hidden,
            open_in: known::<wire::AppOpenIn>("app.open_in", app.open_in)?.into(),
            group: app.group,
            tooltip: app.tooltip,
        })
    }
}

impl From<App> for wire::App {
    fn from(app: App) -> Self {
        let check = |check: Healthcheck| wire::Healthcheck {
            url: check.url,
            interval: check.interval,
            threshold: check.threshold,
        };
        Self {
            slug: app.slug,
            display_name: app.display_name,
            command: app.command,
            url: app.url,
            icon: app.icon,
            subdomain: app.subdomain,
            healthcheck: app.healthcheck.map(check),
            sharing_level: wire::AppSharingLevel::from(app.sharing_level).into(),
            external: app.external,
            order: app.order,
            hidden: app.hidden,
            open_in: wire::AppOpenIn::from(app.open_in).into(),
            group: app.group,
            id: app.id,
            tooltip: app.tooltip,
        }
    }
}

impl TryFrom<wire::Script> for Script {
    type Error = FieldError;

    fn try_from(script: wire::Script) -> Result<Self, FieldError> {
        Ok(Self {
            display_name: script.display_name,
            icon: script.icon,
            script: script.script,
            cron: script.cron,
            start_blocks_login: script.start_blocks_login,
            run_on_start: script.run_on_start,
            run_on_stop: script.run_on_stop,
            timeout_seconds: script.timeout_seconds,
            log_path: script.log_path,
            resource_address: script.resource_address,
            dependencies: all(script.dependencies, ScriptDependency::try_from)?,
        })
    }
}

impl From<Script> for wire::Script {
    fn from(script: Script) -> Self {
        Self {
            display_name: script.display_name,
            icon: script.icon,
            script: script.script,
            cron: script.cron,
            start_blocks_login: script.start_blocks_login,
            run_on_start: script.run_on_start,
            run_on_stop: script.run_on_stop,
            timeout_seconds: script.timeout_seconds,
            log_path: script.log_path,
            resource_address: script.resource_address,
            dependencies: into_all(script.dependencies),
        }
    }
}

impl TryFrom<wire::ScriptDependency> for ScriptDependency {
    type Error = FieldError;

    fn try_from(dependency: wire::ScriptDependency) -> Result<Self, FieldError> {
        Ok(Self {
            requirement: known::<wire::ScriptDependencyRequirement>(
                "requirement",
                dependency.requirement,
            )?
            .into(),
            prerequisite: dependency.prerequisite_resource_address,
        })
    }
}

impl From<ScriptDependency> for wire::ScriptDependency {
    fn from(dependency: ScriptDependency) -> Self {
        Self {
            prerequisite_resource_address: dependency.prerequisite,
            requirement: wire::ScriptDependencyRequirement::from(dependency.requirement).into(),
        }
    }
}

impl From<wire::Env> for Env {
    fn from(env: wire::Env) -> Self {
        Self {
            name: env.name,
            value: env.value,
            merge_strategy: env.merge_strategy,
        }
    }
}

impl From<Env> for wire::Env {
    fn from(env: Env) -> Self {
        Self {
            name: env.name,
            value: env.value,
            merge_strategy: env.merge_strategy,
        }
    }
}

impl TryFrom<wire::Devcontainer> for Devcontainer {
    type Error = FieldError;

    fn try_from(container: wire::Devcontainer) -> Result<Self, FieldError> {
        Ok(Self {
            id: container.id,
            subagent_id: container.subagent_id,
            name: container.name,
            workspace_folder: container.workspace_folder,
            config_path: container.config_path,
            apps: all(container.apps, App::try_from)?,
            scripts: all(container.scripts, Script::try_from)?,
            envs: into_all(container.envs),
        })
    }
}

impl From<Devcontainer> for wire::Devcontainer {
    fn from(container: Devcontainer) -> Self {
        Self {
            workspace_folder: container.workspace_folder,
            config_path: container.config_path,
            name: container.name,
            id: container.id,
            subagent_id: container.subagent_id,
            apps: into_all(container.apps),
            scripts: into_all(container.scripts),
            envs: into_all(container.envs),
        }
    }
}

impl From<wire::AiTask> for AiTask {
    fn from(task: wire::AiTask) -> Self {
        let sidebar_app = task.sidebar_app.map(|app| app.id).unwrap_or_default();
        Self {
            id: task.id,
            app_id: if task.app_id.is_empty() {
                sidebar_app
            } else {
                task.app_id
            },
        }
    }
}

impl From<AiTask> for wire::AiTask {
    /// Fills both fields: old servers read the sidebar app, newer ones `app_id`.
    fn from(task: AiTask) -> Self {
        let sidebar_app = Some(wire::AiTaskSidebarApp {
            id: task.app_id.clone(),
        });
        Self {
            id: task.id,
            sidebar_app,
            app_id: task.app_id,
        }
    }
}
