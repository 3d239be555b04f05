//! Agents: their description in the template, and their reports while they run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{super::output::Row, time};
use crate::proto::outpost::v1;

/// An agent, with its apps.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Agent {
    pub(in crate::cli) name: String,
    pub(in crate::cli) operating_system: String,
    pub(in crate::cli) architecture: String,
    pub(in crate::cli) apps: Vec<String>,
    /// Reports of the agent, unless the workspace does not have it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) running: Option<Running>,
}

/// Reports of an agent that runs, or should run.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Running {
    name: String,
    id: String,
    /// `connecting`, `connected`, `disconnected` or `timeout`.
    status: String,
    /// Lifecycle state, such as `starting` or `ready`.
    lifecycle: String,
    version: String,
    first_connected_at: Option<Timestamp>,
    last_connected_at: Option<Timestamp>,
    /// Health of apps that have a health check.
    health: BTreeMap<String, String>,
    metadata: Vec<Measurement>,
    scripts: Vec<ScriptEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
}

#[derive(Clone, Debug, Serialize)]
struct Measurement {
    key: String,
    display_name: String,
    value: String,
    error: String,
    collected_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
struct ScriptEnd {
    display_name: String,
    stage: String,
    status: String,
    exit_code: i32,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
struct Traffic {
    connections: i64,
    received_bytes: i64,
    sent_bytes: i64,
    ssh_sessions: i64,
    sessions: BTreeMap<String, i64>,
    reported_at: Option<Timestamp>,
}

impl From<v1::Agent> for Agent {
    fn from(agent: v1::Agent) -> Self {
        let apps = agent.apps.iter().map(|app| app.slug.clone()).collect();
        let running = (!agent.id.is_empty()).then(|| Running::from(agent.clone()));
        Self {
            name: agent.name,
            operating_system: agent.operating_system,
            architecture: agent.architecture,
            apps,
            running,
        }
    }
}

impl From<v1::Agent> for Running {
    fn from(agent: v1::Agent) -> Self {
        let watched = agent
            .apps
            .into_iter()
            .filter(|app| app.health != "disabled");
        let measurement = |it: v1::AgentMeasurement| Measurement {
            key: it.key,
            display_name: it.display_name,
            value: it.value,
            error: it.error,
            collected_at: time(it.collected_at),
        };
        let script_end = |it: v1::AgentScriptEnd| ScriptEnd {
            display_name: it.display_name,
            stage: it.stage,
            status: it.status,
            exit_code: it.exit_code,
            started_at: time(it.started_at),
            ended_at: time(it.ended_at),
        };
        Self {
            name: agent.name,
            id: agent.id,
            status: agent.status,
            lifecycle: agent.lifecycle,
            version: agent.version,
            first_connected_at: time(agent.first_connected_at),
            last_connected_at: time(agent.last_connected_at),
            health: watched.map(|app| (app.slug, app.health)).collect(),
            metadata: agent.measurements.into_iter().map(measurement).collect(),
            scripts: agent.script_ends.into_iter().map(script_end).collect(),
            traffic: agent.traffic.map(|it| Traffic {
                connections: it.connections,
                received_bytes: it.received_bytes,
                sent_bytes: it.sent_bytes,
                ssh_sessions: it.ssh_sessions,
                sessions: it.sessions,
                reported_at: time(it.reported_at),
            }),
        }
    }
}

impl Agent {
    pub(super) fn summary(&self) -> String {
        let platform = format!(
            "{} ({}/{})",
            self.name, self.operating_system, self.architecture
        );
        match self.apps.as_slice() {
            [] => platform,
            apps => format!("{platform}: {}", apps.join(", ")),
        }
    }
}

impl Measurement {
    /// Formats a value as `Load: 0.5`, or the reason why there is none.
    fn summary(&self) -> String {
        let name = match self.display_name.as_str() {
            "" => &self.key,
            name => name,
        };
        match (self.value.trim_end(), self.error.as_str()) {
            (value, "") => format!("{name}: {value}"),
            ("", error) => format!("{name}: ({error})"),
            (value, error) => format!("{name}: {value} ({error})"),
        }
    }
}

impl ScriptEnd {
    /// Describes how the script failed; `None` if it did not.
    fn complaint(&self) -> Option<String> {
        let name = &self.display_name;
        let what = match self.status.as_str() {
            "ok" => return None,
            "timed_out" => "took too long".to_owned(),
            "skipped" => "was skipped because one of its dependencies did not succeed".to_owned(),
            "pipes_left_open" => "ended, but left processes running".to_owned(),
            _ => format!("ended with status {}", self.exit_code),
        };
        Some(format!("script `{name}` {what}"))
    }
}

impl Row for Running {
    const COLUMNS: &'static [&'static str] =
        &["Agent", "Status", "Lifecycle", "Version", "Apps", "Facts"];

    fn cells(&self) -> Vec<String> {
        let apps = self
            .health
            .iter()
            .map(|(app, health)| format!("{app}: {health}"));
        let measured = self.metadata.iter().map(Measurement::summary);
        let complaints = self.scripts.iter().filter_map(ScriptEnd::complaint);
        let facts: Vec<String> = measured.chain(complaints).collect();
        vec![
            self.name.clone(),
            self.status.clone(),
            self.lifecycle.clone(),
            self.version.clone(),
            apps.collect::<Vec<_>>().join("\n"),
            facts.join("\n"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_shows_what_it_measured_and_what_went_wrong() {
        let agent = v1::Agent {
            name: "main".to_owned(),
            id: "1".to_owned(),
            status: "connected".to_owned(),
            lifecycle: "start_error".to_owned(),
            apps: vec![
                v1::App {
                    slug: "editor".to_owned(),
                    health: "unhealthy".to_owned(),
                    ..v1::App::default()
                },
                v1::App {
                    slug: "docs".to_owned(),
                    health: "disabled".to_owned(),
                    ..v1::App::default()
                },
            ],
            measurements: vec![v1::AgentMeasurement {
                key: "load".to_owned(),
                value: "0.5\n".to_owned(),
                error: "timed out".to_owned(),
                ..v1::AgentMeasurement::default()
            }],
            script_ends: vec![v1::AgentScriptEnd {
                display_name: "Install".to_owned(),
                status: "exit_failure".to_owned(),
                exit_code: 3,
                ..v1::AgentScriptEnd::default()
            }],
            ..v1::Agent::default()
        };

        let cells = Agent::from(agent).running.unwrap().cells();

        assert_eq!(cells[..3], ["main", "connected", "start_error"]);
        assert_eq!(cells[4], "editor: unhealthy");
        assert_eq!(
            cells[5],
            "load: 0.5 (timed out)\nscript `Install` ended with status 3"
        );
    }
}
