//! Agents: found, checked, and put on the resource that is nearest among those that depend on them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{ConvertError, decode::Attributes, index, index::Index};
use crate::{
    job::{
        Agent, AgentAuth, AgentMetadata, App, Devcontainer, DisplayApps, Env, MemoryMonitor,
        ResourcesMonitoring, Script, VolumeMonitor,
    },
    rules,
    terraform::{
        graph::{Direction, Graph},
        plan::ResourceValues,
    },
};

/// Agents by the label of their resource, and within it by address.
pub(super) struct Agents<'a> {
    by_label: BTreeMap<&'a str, Vec<Agent>>,
    /// Direct edges of the root module: what depends, and which agent or devcontainer it depends on.
    links: HashSet<(&'a str, &'a str)>,
}

/// Where something that names an agent belongs.
pub(super) enum Place<'p> {
    /// The agent itself.
    Agent(&'p mut Agent),
    /// A development container of it.
    Devcontainer(&'p mut Devcontainer),
}

impl<'a> Agents<'a> {
    /// Reads every `coder_agent` and finds its resource. One that no resource depends on is dropped.
    pub(super) fn collect(index: &Index<'a>, graph: &'a Graph) -> Result<Self, ConvertError> {
        let mut agents = Self {
            by_label: BTreeMap::new(),
            links: links(graph),
        };
        let mut names = BTreeSet::new();
        for resource in index.of_type("coder_agent") {
            check_name(&resource.name)?;
            if !names.insert(resource.name.to_lowercase()) {
                return Err(ConvertError::DuplicateAgent(resource.name.clone()));
            }
            let agent = read_agent(resource)?;
            let label = index::label(&resource.address);
            let node = graph
                .node_with_label(label)
                .ok_or_else(|| ConvertError::NotInGraph(label.to_owned()))?;
            let nearest =
                graph.nearest(node, Direction::Dependants, |label| index.is_target(label));
            if let Some(target) = nearest {
                agents.by_label.entry(target).or_default().push(agent);
            }
        }
        Ok(agents)
    }

    /// The agents of a resource, by its label.
    pub(super) fn of(&self, label: &str) -> Vec<Agent> {
        self.by_label.get(label).cloned().unwrap_or_default()
    }

    /// Puts each `coder_devcontainer` on every agent that it names.
    pub(super) fn attach_devcontainers(&mut self, index: &Index<'_>) -> Result<(), ConvertError> {
        for resource in index.of_type("coder_devcontainer") {
            let values = Attributes::new("decode devcontainer attributes", &resource.values);
            let container = Devcontainer {
                id: values.string("id")?,
                subagent_id: values.string("subagent_id")?,
                name: resource.name.clone(),
                workspace_folder: values.string("workspace_folder")?,
                config_path: values.string("config_path")?,
                ..Devcontainer::default()
            };
            let agent_id = values.string("agent_id")?;
            for agent in self.by_label.values_mut().flatten() {
                if depends_on_agent(&self.links, resource, &agent_id, agent) {
                    agent.devcontainers.push(container.clone());
                }
            }
        }
        Ok(())
    }

    /// Gives agents the ids that `coder_agent_instance` resources name. Agents with a token are left alone.
    pub(super) fn set_instance_ids(&mut self, index: &Index<'_>) {
        for resource in index.of_type("coder_agent_instance") {
            let text = |key: &str| resource.values.get(key).and_then(|value| value.as_str());
            let (Some(agent_id), Some(instance_id)) = (text("agent_id"), text("instance_id"))
            else {
                continue;
            };
            for group in self.by_label.values_mut() {
                let takes = |agent: &&mut Agent| {
                    agent.id == agent_id && matches!(agent.auth, AgentAuth::InstanceId(_))
                };
                if let Some(agent) = group.iter_mut().find(takes) {
                    agent.auth = AgentAuth::InstanceId(instance_id.to_owned());
                }
            }
        }
    }

    /// Gives the id of a cloud's machine to the agents on it that have neither a token nor an id.
    pub(super) fn apply_instance_id(&mut self, label: &str, id: &str) {
        for agent in self.by_label.get_mut(label).into_iter().flatten() {
            if let AgentAuth::Token(value) | AgentAuth::InstanceId(value) = &agent.auth
                && value.is_empty()
            {
                agent.auth = AgentAuth::InstanceId(id.to_owned());
            }
        }
    }

    /// Puts each `coder_env` where it belongs. Order and duplicates are kept.
    pub(super) fn attach_envs(&mut self, index: &Index<'_>) -> Result<(), ConvertError> {
        for resource in index.of_type("coder_env") {
            let values = Attributes::new("decode env attributes", &resource.values);
            let env = Env {
                name: values.string("name")?,
                value: values.string("value")?,
                merge_strategy: values.string("merge_strategy")?,
            };
            match self.place(resource, &values.string("agent_id")?) {
                Some(Place::Agent(agent)) => agent.extra_envs.push(env),
                Some(Place::Devcontainer(container)) => container.envs.push(env),
                None => {}
            }
        }
        Ok(())
    }

    /// Puts each `coder_script` where it belongs.
    pub(super) fn attach_scripts(&mut self, index: &Index<'_>) -> Result<(), ConvertError> {
        for resource in index.of_type("coder_script") {
            let values = Attributes::new("decode script attributes", &resource.values);
            let script = Script {
                display_name: values.string("display_name")?,
                icon: values.string("icon")?,
                script: values.string("script")?,
                cron: values.string("cron")?,
                start_blocks_login: values.bool("start_blocks_login")?,
                run_on_start: values.bool("run_on_start")?,
                run_on_stop: values.bool("run_on_stop")?,
                timeout_seconds: values.i32("timeout")?,
                log_path: values.string("log_path")?,
            };
            match self.place(resource, &values.string("agent_id")?) {
                Some(Place::Agent(agent)) => agent.scripts.push(script),
                Some(Place::Devcontainer(container)) => container.scripts.push(script),
                None => {}
            }
        }
        Ok(())
    }

    /// Puts an app where it belongs.
    pub(super) fn attach_app(&mut self, resource: &ResourceValues, agent_id: &str, app: App) {
        match self.place(resource, agent_id) {
            Some(Place::Agent(agent)) => agent.apps.push(app),
            Some(Place::Devcontainer(container)) => container.apps.push(app),
            None => {}
        }
    }

    /// The first agent that a resource names, or the first of an agent's containers.
    fn place(&mut self, resource: &ResourceValues, agent_id: &str) -> Option<Place<'_>> {
        for agent in self.by_label.values_mut().flatten() {
            if depends_on_agent(&self.links, resource, agent_id, agent) {
                return Some(Place::Agent(agent));
            }
            let links = &self.links;
            let names = |container: &&mut Devcontainer| {
                depends_on_devcontainer(links, resource, agent_id, container)
            };
            if let Some(container) = agent.devcontainers.iter_mut().find(names) {
                return Some(Place::Devcontainer(container));
            }
        }
        None
    }
}

/// Whether a resource belongs to an agent. Before an apply there are no ids, and a direct edge decides.
fn depends_on_agent(
    links: &HashSet<(&str, &str)>,
    resource: &ResourceValues,
    agent_id: &str,
    agent: &Agent,
) -> bool {
    if agent.id.is_empty() && agent_id.is_empty() {
        return is_linked(links, resource, "coder_agent", &agent.name);
    }
    agent.id == agent_id
}

fn depends_on_devcontainer(
    links: &HashSet<(&str, &str)>,
    resource: &ResourceValues,
    agent_id: &str,
    container: &Devcontainer,
) -> bool {
    if container.subagent_id.is_empty() && agent_id.is_empty() {
        return is_linked(links, resource, "coder_devcontainer", &container.name);
    }
    container.subagent_id == agent_id
}

fn is_linked(
    links: &HashSet<(&str, &str)>,
    resource: &ResourceValues,
    kind: &str,
    name: &str,
) -> bool {
    let from = format!("{}.{}", resource.kind, resource.name);
    let to = format!("{kind}.{name}");
    links.contains(&(from.as_str(), to.as_str()))
}

/// Direct edges between things of the root module. The reference compares ends of ids, which are
/// `] TYPE.NAME (expand)` there, and `module.….TYPE.NAME (expand)` in modules.
fn links(graph: &Graph) -> HashSet<(&str, &str)> {
    let name = |id: &'_ str| {
        id.strip_suffix(" (expand)")
            .and_then(|id| id.rfind("] ").map(|at| at + 2))
    };
    let edges = graph.edges().filter_map(|(from, to)| {
        let (from_name, to_name) = (
            &from[name(from)?..from.len() - 9],
            &to[name(to)?..to.len() - 9],
        );
        let is_link =
            to_name.starts_with("coder_agent.") || to_name.starts_with("coder_devcontainer.");
        is_link.then_some((from_name, to_name))
    });
    edges.collect()
}

fn check_name(name: &str) -> Result<(), ConvertError> {
    if name.is_empty() {
        return Err(ConvertError::AgentNameEmpty);
    }
    if rules::is_agent_name(name) {
        return Ok(());
    }
    Err(if name.contains('_') {
        ConvertError::AgentNameUnderscore(name.to_owned(), rules::AGENT_NAME)
    } else {
        ConvertError::AgentName(name.to_owned(), rules::AGENT_NAME)
    })
}

fn read_agent(resource: &ResourceValues) -> Result<Agent, ConvertError> {
    let values = Attributes::new("decode agent attributes", &resource.values);
    let is_token = values.string("auth")? == "token";
    let token = values.string("token")?;
    Ok(Agent {
        id: values.string("id")?,
        name: resource.name.clone(),
        env: values.strings("env")?,
        operating_system: values.string("os")?,
        architecture: values.string("arch")?,
        directory: values.string("dir")?,
        auth: if is_token {
            AgentAuth::Token(token)
        } else {
            AgentAuth::InstanceId(String::new())
        },
        connection_timeout_seconds: values.i32("connection_timeout")?,
        troubleshooting_url: values.string("troubleshooting_url")?,
        motd_file: values.string("motd_file")?,
        metadata: values
            .objects("metadata")?
            .iter()
            .map(read_metadata)
            .collect::<Result<_, _>>()?,
        display_apps: values
            .objects("display_apps")?
            .first()
            .map_or(Ok(DisplayApps::default()), read_display_apps)?,
        scripts: legacy_scripts(&values)?,
        order: values.i64("order")?,
        resources_monitoring: read_monitoring(&values)?,
        api_key_scope: values.string("api_key_scope")?,
        ..Agent::default()
    })
}

fn read_metadata(item: &Attributes<'_>) -> Result<AgentMetadata, ConvertError> {
    Ok(AgentMetadata {
        key: item.string("key")?,
        display_name: item.string("display_name")?,
        script: item.string("script")?,
        interval: item.i64("interval")?,
        timeout: item.i64("timeout")?,
        order: item.i64("order")?,
    })
}

fn read_display_apps(item: &Attributes<'_>) -> Result<DisplayApps, ConvertError> {
    Ok(DisplayApps {
        vscode: item.bool("vscode")?,
        vscode_insiders: item.bool("vscode_insiders")?,
        web_terminal: item.bool("web_terminal")?,
        ssh_helper: item.bool("ssh_helper")?,
        port_forwarding_helper: item.bool("port_forwarding_helper")?,
    })
}

/// The last memory block counts, and all volumes.
fn read_monitoring(values: &Attributes<'_>) -> Result<ResourcesMonitoring, ConvertError> {
    let mut monitoring = ResourcesMonitoring::default();
    for block in values.objects("resources_monitoring")? {
        for memory in block.objects("memory")? {
            let (enabled, threshold) = (memory.bool("enabled")?, memory.i32("threshold")?);
            monitoring.memory = Some(MemoryMonitor { enabled, threshold });
        }
        for volume in block.objects("volume")? {
            let path = volume.string("path")?;
            let (enabled, threshold) = (volume.bool("enabled")?, volume.i32("threshold")?);
            monitoring.volumes.push(VolumeMonitor {
                path,
                enabled,
                threshold,
            });
        }
    }
    Ok(monitoring)
}

/// The scripts that are attributes of the agent itself, from before there was `coder_script`.
fn legacy_scripts(values: &Attributes<'_>) -> Result<Vec<Script>, ConvertError> {
    let behavior = values.string("startup_script_behavior")?;
    let login_before_ready =
        !values.has("login_before_ready") || values.bool("login_before_ready")?;
    let is_blocking = if behavior.is_empty() {
        !login_before_ready
    } else {
        behavior == "blocking"
    };
    let startup = Script {
        display_name: "Startup Script".to_owned(),
        icon: "/emojis/25b6-fe0f.png".to_owned(),
        script: values.string("startup_script")?,
        start_blocks_login: is_blocking,
        run_on_start: true,
        log_path: "coder-startup-script.log".to_owned(),
        ..Script::default()
    };
    let shutdown = Script {
        display_name: "Shutdown Script".to_owned(),
        icon: "/emojis/25c0.png".to_owned(),
        script: values.string("shutdown_script")?,
        run_on_stop: true,
        log_path: "coder-shutdown-script.log".to_owned(),
        ..Script::default()
    };
    Ok([startup, shutdown]
        .into_iter()
        .filter(|script| !script.script.is_empty())
        .collect())
}
