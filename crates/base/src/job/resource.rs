//! Resources of a workspace, the agents that run in them, and the two ways to tell resources apart.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A resource of a workspace, converted from Terraform's plan or state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// The full instance address. Coder's wire has no field for it, so it is empty after a round trip there.
    pub address: String,
    /// The name in the configuration.
    pub name: String,
    /// The type, such as `docker_container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The module part of the address, empty for the root module.
    pub module_path: String,
    /// Agents that run in it.
    pub agents: Vec<Agent>,
    /// Facts to show beside it.
    pub metadata: Vec<ResourceMetadata>,
    /// Whether a user interface should leave it out.
    pub hide: bool,
    /// URL of a picture.
    pub icon: String,
    /// Such as `t3.large`, where the resource's type has such a thing.
    pub instance_type: String,
    /// Whole units a day.
    pub daily_cost: i32,
}

/// Whether a resource runs something of the workspace itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It has at least one agent.
    Computational,
    /// It has none: disks, networks, secrets.
    Peripheral,
}

/// Whether a resource outlives a stop of its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// It exists while the workspace is stopped, too.
    Persistent,
    /// It exists only while the workspace is started.
    Ephemeral,
    /// It exists only while the workspace is stopped; allowed, and rare.
    StopOnly,
}

impl Class {
    /// The class's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Computational => "computational",
            Self::Peripheral => "peripheral",
        }
    }
}

impl Persistence {
    /// The name as people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
            Self::StopOnly => "stop-only",
        }
    }
}

impl Resource {
    /// *Computational* if it runs an agent, else *peripheral*.
    pub fn class(&self) -> Class {
        if self.agents.is_empty() {
            Class::Peripheral
        } else {
            Class::Computational
        }
    }
}

/// Tells, for each address, whether the resource outlives a stop.
///
/// `start` and `stop` are the resources of one template planned with either transition; their addresses must
/// be filled. Names and types do not suffice: a counted resource has one name and several addresses.
pub fn classify(start: &[Resource], stop: &[Resource]) -> BTreeMap<String, Persistence> {
    let addresses = |resources: &[Resource]| -> BTreeSet<String> {
        resources
            .iter()
            .map(|resource| resource.address.clone())
            .collect()
    };
    let (start, stop) = (addresses(start), addresses(stop));
    start
        .union(&stop)
        .map(|address| {
            let persistence = match (start.contains(address), stop.contains(address)) {
                (true, true) => Persistence::Persistent,
                (true, false) => Persistence::Ephemeral,
                (false, _) => Persistence::StopOnly,
            };
            (address.clone(), persistence)
        })
        .collect()
}

/// A fact to show beside a resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceMetadata {
    /// What it is.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Whether people see it only on demand.
    pub sensitive: bool,
    /// Whether it has no value at all, which differs from an empty one.
    pub is_null: bool,
}

/// An agent: the program in a computational resource through which people reach the workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// A UUID from the provider; empty at plan time. Servers give it another one.
    pub id: String,
    /// Unique in the workspace, whatever the case of its letters.
    pub name: String,
    /// Environment of everything it starts.
    pub env: BTreeMap<String, String>,
    /// `linux`, `darwin` or `windows`.
    pub operating_system: String,
    /// `amd64`, `arm64` or `armv7`.
    pub architecture: String,
    /// Where sessions begin.
    pub directory: String,
    /// Applications it serves.
    pub apps: Vec<App>,
    /// How it proves who it is.
    pub auth: AgentAuth,
    /// Seconds until a user interface calls it lost.
    pub connection_timeout_seconds: i32,
    /// Where to look when it does not connect.
    pub troubleshooting_url: String,
    /// A file to show at login.
    pub motd_file: String,
    /// Values that it measures by running scripts.
    pub metadata: Vec<AgentMetadata>,
    /// Which built-in applications are offered.
    pub display_apps: DisplayApps,
    /// Scripts it runs.
    pub scripts: Vec<Script>,
    /// Further environment, in the order in which it applies.
    pub extra_envs: Vec<Env>,
    /// Its place among agents.
    pub order: i64,
    /// Thresholds that it watches.
    pub resources_monitoring: ResourcesMonitoring,
    /// Development containers it starts.
    pub devcontainers: Vec<Devcontainer>,
    /// `all` or `no_user_data`; empty from providers that do not know it.
    pub api_key_scope: String,
}

/// How an agent proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentAuth {
    /// By a token, which is empty at plan time. It is a secret that lives as long as the workspace runs.
    Token(String),
    /// By a document that its cloud signs; the id is empty until the cloud has given it.
    InstanceId(String),
}

impl Default for AgentAuth {
    fn default() -> Self {
        Self::Token(String::new())
    }
}

/// A value that an agent measures by running a script.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentMetadata {
    /// Unique in the agent.
    pub key: String,
    /// What people read.
    pub display_name: String,
    /// What to run.
    pub script: String,
    /// Seconds between two runs.
    pub interval: i64,
    /// Seconds a run may take.
    pub timeout: i64,
    /// Its place among the agent's values.
    pub order: i64,
}

/// Which built-in applications are offered for an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the name of an application")]
pub struct DisplayApps {
    pub vscode: bool,
    pub vscode_insiders: bool,
    pub web_terminal: bool,
    pub ssh_helper: bool,
    pub port_forwarding_helper: bool,
}

impl Default for DisplayApps {
    /// What an agent that says nothing offers.
    fn default() -> Self {
        Self {
            vscode: true,
            vscode_insiders: false,
            web_terminal: true,
            ssh_helper: true,
            port_forwarding_helper: true,
        }
    }
}

/// Thresholds that an agent watches, in percent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcesMonitoring {
    /// Memory, if it is watched.
    pub memory: Option<MemoryMonitor>,
    /// Volumes in the author's order.
    pub volumes: Vec<VolumeMonitor>,
}

/// A threshold of memory in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMonitor {
    /// Whether it is watched.
    pub enabled: bool,
    /// Percent.
    pub threshold: i32,
}

/// A threshold of a volume in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMonitor {
    /// Where it is mounted.
    pub path: String,
    /// Whether it is watched.
    pub enabled: bool,
    /// Percent.
    pub threshold: i32,
}

/// An application that an agent serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// A UUID; fresh at plan time.
    pub id: String,
    /// Its name in URLs, unique in the template.
    pub slug: String,
    /// What people read.
    pub display_name: String,
    /// What to run in a terminal; excludes `url`.
    pub command: String,
    /// Where it listens, as the agent sees it.
    pub url: String,
    /// URL of a picture.
    pub icon: String,
    /// Whether it is served on a host name of its own.
    pub subdomain: bool,
    /// How the agent tells that it is up.
    pub healthcheck: Option<Healthcheck>,
    /// Who may use it.
    pub sharing_level: SharingLevel,
    /// Whether `url` is opened as it is.
    pub external: bool,
    /// Its place among apps.
    pub order: i64,
    /// Whether a user interface should leave it out.
    pub hidden: bool,
    /// Where it opens.
    pub open_in: OpenIn,
    /// A heading to show it under.
    pub group: String,
    /// Markdown to show on hover.
    pub tooltip: String,
}

/// How an agent tells that an app is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// Asked with GET; below 500 is healthy.
    pub url: String,
    /// Seconds between two questions.
    pub interval: i32,
    /// Failures in a row before it counts as down.
    pub threshold: i32,
}

/// Who may use an app. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharingLevel {
    /// The workspace's owner.
    #[default]
    Owner = 0,
    /// Everybody with an account.
    Authenticated = 1,
    /// Everybody.
    Public = 2,
}

/// Where an app opens. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenIn {
    /// A window; only old servers send it.
    Window = 0,
    /// A window without controls.
    #[default]
    SlimWindow = 1,
    /// A tab.
    Tab = 2,
}

/// A script that an agent runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// What people read.
    pub display_name: String,
    /// URL of a picture.
    pub icon: String,
    /// What to run.
    pub script: String,
    /// When to run it: six fields, seconds first; empty for never.
    pub cron: String,
    /// Whether logins wait for it.
    pub start_blocks_login: bool,
    /// Whether it runs when the workspace starts.
    pub run_on_start: bool,
    /// Whether it runs when the workspace stops.
    pub run_on_stop: bool,
    /// Seconds it may take; 0 for no limit.
    pub timeout_seconds: i32,
    /// Where its output goes.
    pub log_path: String,
    /// Terraform's address of it; empty where nothing depends on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_address: String,
    /// What must have ended before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<ScriptDependency>,
}

/// A script that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptDependency {
    /// Terraform's address of the script that runs first.
    pub prerequisite: String,
    /// How it has to end.
    pub requirement: ScriptRequirement,
}

/// How a script has to end before one that waits for it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScriptRequirement {
    /// Not said; servers refuse it.
    Unspecified,
    /// With exit code 0.
    Success,
    /// However it ends.
    Completion,
}

/// A variable in an agent's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Env {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// `replace`, `append`, `prepend` or `error`; empty from providers that do not know it.
    pub merge_strategy: String,
}

/// A development container that an agent starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Devcontainer {
    /// A UUID; empty at plan time.
    pub id: String,
    /// Id of the agent inside; empty at plan time.
    pub subagent_id: String,
    /// The name in the configuration.
    pub name: String,
    /// The folder to open.
    pub workspace_folder: String,
    /// Its `devcontainer.json`; empty for the usual places.
    pub config_path: String,
    /// Applications inside.
    pub apps: Vec<App>,
    /// Scripts to run inside.
    pub scripts: Vec<Script>,
    /// Environment inside.
    pub envs: Vec<Env>,
}

/// A task for an AI agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AiTask {
    /// A UUID.
    pub id: String,
    /// Id of the app that shows it.
    pub app_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(address: &str) -> Resource {
        Resource {
            address: address.to_owned(),
            ..Resource::default()
        }
    }

    #[test]
    fn persistence_is_decided_by_address() {
        let start = [resource("a.disk"), resource("a.vm[0]"), resource("a.vm[1]")];
        let stop = [
            resource("a.disk"),
            resource("a.vm[1]"),
            resource("a.notice"),
        ];

        let classes = classify(&start, &stop);

        let expected = [
            ("a.disk", Persistence::Persistent),
            ("a.notice", Persistence::StopOnly),
            ("a.vm[0]", Persistence::Ephemeral),
            ("a.vm[1]", Persistence::Persistent),
        ];
        assert_eq!(
            classes,
            expected
                .map(|(address, class)| (address.to_owned(), class))
                .into()
        );
    }
}
