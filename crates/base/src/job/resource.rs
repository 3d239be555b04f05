//! Resources of a workspace, the agents in them, and the two classifications of resources.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A resource of a workspace, converted from Terraform's plan or state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// The full instance address. Coder's wire has no field for it, so it is empty after a round trip there.
    pub address: String,
    /// The name in the configuration.
    pub name: String,
    /// The resource's type, such as `docker_container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The module part of the address; empty for the root module.
    pub module_path: String,
    /// Agents that run in the resource.
    pub agents: Vec<Agent>,
    /// Facts that user interfaces show with the resource.
    pub metadata: Vec<ResourceMetadata>,
    /// `true` if user interfaces should not show the resource.
    pub hide: bool,
    /// URL of the resource's icon.
    pub icon: String,
    /// Instance type such as `t3.large`; empty if the resource's type has none.
    pub instance_type: String,
    /// Cost in whole units a day.
    pub daily_cost: i32,
}

/// Division of resources by whether they run agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The resource has at least one agent.
    Computational,
    /// The resource has no agent: disks, networks, secrets.
    Peripheral,
}

/// Division of resources by whether they survive a stop of their workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// The resource also exists while the workspace is stopped.
    Persistent,
    /// The resource exists only while the workspace is started.
    Ephemeral,
    /// The resource exists only while the workspace is stopped; allowed, and rare.
    StopOnly,
}

impl Class {
    /// Returns the class's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Computational => "computational",
            Self::Peripheral => "peripheral",
        }
    }
}

impl Persistence {
    /// Returns the name that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
            Self::StopOnly => "stop-only",
        }
    }
}

impl Resource {
    /// Returns *computational* for a resource with agents, else *peripheral*.
    pub fn class(&self) -> Class {
        if self.agents.is_empty() {
            Class::Peripheral
        } else {
            Class::Computational
        }
    }
}

/// Determines for each address whether the resource survives a stop.
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

/// A fact that user interfaces show with a resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceMetadata {
    /// Name of the fact.
    pub key: String,
    /// Value of the fact, as text.
    pub value: String,
    /// `true` if user interfaces show the value only on demand.
    pub sensitive: bool,
    /// `true` if there is no value at all, which differs from an empty one.
    pub is_null: bool,
}

/// An agent: the program in a computational resource through which people reach the workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// A UUID from the provider; empty at plan time. Servers assign another one.
    pub id: String,
    /// Name of the agent, unique in the workspace regardless of case.
    pub name: String,
    /// Environment of all processes that the agent starts.
    pub env: BTreeMap<String, String>,
    /// Operating system: `linux`, `darwin` or `windows`.
    pub operating_system: String,
    /// Processor architecture: `amd64`, `arm64` or `armv7`.
    pub architecture: String,
    /// Directory in which sessions begin.
    pub directory: String,
    /// Apps that the agent serves.
    pub apps: Vec<App>,
    /// Method by which the agent authenticates.
    pub auth: AgentAuth,
    /// Seconds after which user interfaces show a silent agent as lost.
    pub connection_timeout_seconds: i32,
    /// URL of a page that helps when the agent does not connect.
    pub troubleshooting_url: String,
    /// Path of a file that is shown at login.
    pub motd_file: String,
    /// Values that the agent measures by running scripts.
    pub metadata: Vec<AgentMetadata>,
    /// Built-in apps that are offered for the agent.
    pub display_apps: DisplayApps,
    /// Scripts that the agent runs.
    pub scripts: Vec<Script>,
    /// Additional environment variables, in the order in which they apply.
    pub extra_envs: Vec<Env>,
    /// Position among the workspace's agents.
    pub order: i64,
    /// Thresholds that the agent monitors.
    pub resources_monitoring: ResourcesMonitoring,
    /// Development containers that the agent starts.
    pub devcontainers: Vec<Devcontainer>,
    /// Scope of the API key: `all` or `no_user_data`; empty if the provider does not know the attribute.
    pub api_key_scope: String,
}

/// Method by which an agent authenticates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentAuth {
    /// A token, which is empty at plan time. It is a secret that is valid while the workspace runs.
    Token(String),
    /// A document signed by the agent's cloud; the id is empty until the cloud has assigned it.
    InstanceId(String),
}

impl Default for AgentAuth {
    fn default() -> Self {
        Self::Token(String::new())
    }
}

/// A value that an agent measures by running a script.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentMetadata {
    /// Key of the value, unique in the agent.
    pub key: String,
    /// Name that people read.
    pub display_name: String,
    /// Script whose output is the value.
    pub script: String,
    /// Seconds between two runs.
    pub interval: i64,
    /// Maximum duration of a run in seconds.
    pub timeout: i64,
    /// Position among the agent's values.
    pub order: i64,
}

/// Built-in apps that are offered for an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each is the name of an application")]
pub struct DisplayApps {
    pub vscode: bool,
    pub vscode_insiders: bool,
    pub web_terminal: bool,
    pub ssh_helper: bool,
    pub port_forwarding_helper: bool,
}

impl Default for DisplayApps {
    /// Returns the apps of an agent that does not configure them.
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

/// Thresholds that an agent monitors, in percent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesMonitoring {
    /// Threshold of memory; `None` if it is not monitored.
    pub memory: Option<MemoryMonitor>,
    /// Thresholds of volumes, in the template's order.
    pub volumes: Vec<VolumeMonitor>,
}

/// A threshold of memory in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryMonitor {
    /// `true` if the threshold is monitored.
    pub enabled: bool,
    /// Used part of the memory, in percent.
    pub threshold: i32,
}

/// A threshold of a volume in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMonitor {
    /// Mount point of the volume.
    pub path: String,
    /// `true` if the threshold is monitored.
    pub enabled: bool,
    /// Used part of the volume, in percent.
    pub threshold: i32,
}

/// An application that an agent serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    /// A UUID; a new one at plan time.
    pub id: String,
    /// The app's name in URLs, unique in the template.
    pub slug: String,
    /// Name that people read.
    pub display_name: String,
    /// Command that is run in a terminal; excludes `url`.
    pub command: String,
    /// Address of the app as seen from the agent.
    pub url: String,
    /// URL of the app's icon.
    pub icon: String,
    /// `true` if the app has a host name of its own.
    pub subdomain: bool,
    /// Check by which the agent finds out whether the app is up.
    pub healthcheck: Option<Healthcheck>,
    /// Users who may open the app.
    pub sharing_level: SharingLevel,
    /// `true` if clients open `url` directly.
    pub external: bool,
    /// Position among the agent's apps.
    pub order: i64,
    /// `true` if user interfaces should not show the app.
    pub hidden: bool,
    /// Kind of browser window in which the app opens.
    pub open_in: OpenIn,
    /// Heading under which the app is shown.
    pub group: String,
    /// Markdown that is shown on hover.
    pub tooltip: String,
}

/// Check by which an agent finds out whether an app is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// URL that the agent requests with GET; a status below 500 is healthy.
    pub url: String,
    /// Seconds between two checks.
    pub interval: i32,
    /// Number of consecutive failures after which the app counts as down.
    pub threshold: i32,
}

/// Users who may open an app. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharingLevel {
    /// Only the workspace's owner.
    #[default]
    Owner = 0,
    /// All users with an account.
    Authenticated = 1,
    /// Everybody, even without authentication.
    Public = 2,
}

/// Kind of browser window in which an app opens. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenIn {
    /// A window; only old servers send this value.
    Window = 0,
    /// A window without browser controls.
    #[default]
    SlimWindow = 1,
    /// A tab of the browser.
    Tab = 2,
}

/// A script that an agent runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Script {
    /// Name that people read.
    pub display_name: String,
    /// URL of the script's icon.
    pub icon: String,
    /// Source text of the script.
    pub script: String,
    /// Schedule of the script in six fields, beginning with seconds; empty for never.
    pub cron: String,
    /// `true` if logins wait for the script.
    pub start_blocks_login: bool,
    /// `true` if the script runs when the workspace starts.
    pub run_on_start: bool,
    /// `true` if the script runs when the workspace stops.
    pub run_on_stop: bool,
    /// Maximum duration in seconds; 0 for no limit.
    pub timeout_seconds: i32,
    /// Path of the file that receives the output.
    pub log_path: String,
    /// Terraform address of the script; empty if nothing depends on it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_address: String,
    /// Scripts that must have ended before this one starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<ScriptDependency>,
}

/// A script that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptDependency {
    /// Terraform address of the script that runs first.
    pub prerequisite: String,
    /// Result that the first script must have.
    pub requirement: ScriptRequirement,
}

/// Result that a script must have before one that waits for it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScriptRequirement {
    /// No requirement is given; servers refuse this value.
    Unspecified,
    /// The script ended with exit code 0.
    Success,
    /// The script ended with any exit code.
    Completion,
}

/// A variable in an agent's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Env {
    /// Name of the environment variable.
    pub name: String,
    /// Value of the environment variable.
    pub value: String,
    /// One of `replace`, `append`, `prepend` and `error`; empty if the provider does not know the attribute.
    pub merge_strategy: String,
}

/// A development container that an agent starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Devcontainer {
    /// A UUID; empty at plan time.
    pub id: String,
    /// Id of the agent in the container; empty at plan time.
    pub subagent_id: String,
    /// The name in the configuration.
    pub name: String,
    /// Folder to open in the container.
    pub workspace_folder: String,
    /// Path of its `devcontainer.json`; empty for the usual places.
    pub config_path: String,
    /// Apps inside the container.
    pub apps: Vec<App>,
    /// Scripts that run inside the container.
    pub scripts: Vec<Script>,
    /// Environment variables inside the container.
    pub envs: Vec<Env>,
}

/// A task for an AI agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AiTask {
    /// UUID of the task.
    pub id: String,
    /// Id of the app that shows the task.
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
