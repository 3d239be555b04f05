//! Newest reports of agents, for whoever views their workspaces. Pure; lost when the process ends.
//!
//! # Source
//! coder `coderd/agentapi/metadata.go`: limits, and the treatment of values that exceed them.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use outpost_base::job::App;
use uuid::Uuid;

use crate::{
    agent_ids::app_id,
    model::{AgentId, Lifecycle},
};

/// Number of agents whose reports are cached at the same time.
const MAX_AGENTS: usize = 4096;
/// Number of values, apps and scripts that are kept of one agent.
const MAX_ENTRIES: usize = 256;
/// Bytes of the keys in one report, and of one value.
const MAX_KEYS: usize = 6144;
const MAX_VALUE: usize = 2048;

/// A value that an agent measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Output of the metadata script.
    pub value: String,
    /// Error of the latest run; empty if it succeeded.
    pub error: String,
    /// Time when the server received the value.
    pub collected_at: Timestamp,
}

/// Health of an app, in Coder's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is Coder's word for it")]
pub enum Health {
    Disabled,
    Initializing,
    Healthy,
    Unhealthy,
}

impl Health {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Initializing => "initializing",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Result of one run of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptEnd {
    /// `start`, `stop` or `cron`.
    pub stage: &'static str,
    /// `ok`, `exit_failure`, `timed_out`, `pipes_left_open` or `skipped`.
    pub status: &'static str,
    /// Exit code of the script's process.
    pub exit_code: i32,
    /// Start of the run, by the agent's clock.
    pub started_at: Timestamp,
    /// End of the run, by the agent's clock.
    pub ended_at: Timestamp,
}

/// Traffic of an agent since its previous report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Number of connections that were open.
    pub connections: i64,
    /// Bytes that the agent received.
    pub received_bytes: i64,
    /// Bytes that the agent sent.
    pub sent_bytes: i64,
    /// Open sessions by app, see `sessions::by_app`.
    pub sessions: BTreeMap<String, i64>,
    /// Time when the server received the report.
    pub reported_at: Timestamp,
}

/// A source of log lines that a program beside the agent registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// Name that people see.
    pub display_name: String,
    /// URL of an icon; may be empty.
    pub icon: String,
    /// Time when the server registered it.
    pub created_at: Timestamp,
}

/// A status that an app reported of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppStatus {
    /// Unique id of the status.
    pub id: Uuid,
    /// `working`, `idle`, `complete` or `failure`.
    pub state: &'static str,
    /// Message that people see.
    pub message: String,
    /// Link to further details; may be empty.
    pub uri: String,
    /// Time when the server received the status.
    pub created_at: Timestamp,
}

/// Newest reports of one agent.
#[derive(Clone, Debug, Default)]
pub struct AgentReports {
    /// Values by their keys.
    pub measured: BTreeMap<String, Measured>,
    /// Health of apps by their ids.
    pub health: BTreeMap<Uuid, Health>,
    /// Ends of scripts by their ids.
    pub scripts: BTreeMap<Uuid, ScriptEnd>,
    /// Newest report of the agent's connections; `None` before the first one.
    pub traffic: Option<Traffic>,
    /// Version of the agents' API that its connection speaks.
    pub api_version: String,
    /// Sources of log lines besides its scripts, by their ids.
    pub(crate) log_sources: BTreeMap<Uuid, LogSource>,
    /// Statuses of apps by their ids.
    pub(crate) app_statuses: BTreeMap<Uuid, AppStatus>,
    /// Time when the start scripts began; `None` before that.
    pub started_at: Option<Timestamp>,
    /// Time when the start scripts ended, with or without success; `None` before that.
    pub(crate) ready_at: Option<Timestamp>,
}

impl AgentReports {
    /// Records that the agent reached `state` at this time.
    pub(crate) fn record_lifecycle(&mut self, state: Lifecycle, at: Timestamp) {
        if state > Lifecycle::Created {
            self.started_at.get_or_insert(at);
        }
        if state > Lifecycle::Starting {
            self.ready_at.get_or_insert(at);
        }
    }
}

/// Error for a report with more entries or longer keys than are kept; those that fit are kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the report has more than {MAX_ENTRIES} entries, or its keys are longer than {MAX_KEYS} bytes in total"
)]
pub struct ReportTooLarge;

/// Cache of all agents' newest reports, bounded in size.
#[derive(Debug, Default)]
pub struct ReportCache(HashMap<AgentId, AgentReports>);

impl ReportCache {
    /// Returns the reports of an agent; empty if the agent is not known.
    pub fn reports(&self, agent: AgentId) -> AgentReports {
        self.0.get(&agent).cloned().unwrap_or_default()
    }

    /// Returns the entry of an agent, for recording a report. If the cache is full, agents that are not connected are
    /// removed first, then all others.
    pub fn of(
        &mut self,
        agent: AgentId,
        is_connected: impl Fn(AgentId) -> bool,
    ) -> &mut AgentReports {
        if self.0.len() >= MAX_AGENTS && !self.0.contains_key(&agent) {
            self.0.retain(|id, _| is_connected(*id));
        }
        if self.0.len() >= MAX_AGENTS && !self.0.contains_key(&agent) {
            self.0.clear();
        }
        self.0.entry(agent).or_default()
    }

    /// Removes an agent that another one has replaced.
    pub(crate) fn forget(&mut self, agent: AgentId) {
        self.0.remove(&agent);
    }
}

impl AgentReports {
    /// Stores values with their errors; texts that are too long are cut, with a note.
    ///
    /// # Errors
    /// [`ReportTooLarge`]
    pub fn measure(
        &mut self,
        report: impl IntoIterator<Item = (String, String, String)>,
        now: Timestamp,
    ) -> Result<(), ReportTooLarge> {
        let mut keys = 0;
        for (key, mut value, mut error) in report {
            keys += key.len();
            if keys > MAX_KEYS || !has_room(&self.measured, &key) {
                return Err(ReportTooLarge);
            }
            if value.len() > MAX_VALUE {
                error = format!("value has {} bytes, more than {MAX_VALUE}", value.len());
                value.truncate(value.floor_char_boundary(MAX_VALUE));
            }
            if error.len() > MAX_VALUE {
                error = format!("error has {} bytes, more than {MAX_VALUE}", error.len());
            }
            let measured = Measured {
                value,
                error,
                collected_at: now,
            };
            self.measured.insert(key, measured);
        }
        Ok(())
    }

    /// Returns the health of an app of `agent`; before the first report, the one that the template implies.
    pub(crate) fn health_of(&self, agent: AgentId, app: &App) -> Health {
        match (self.health.get(&app_id(agent, app)), &app.healthcheck) {
            (_, None) => Health::Disabled,
            (Some(health), Some(_)) => *health,
            (None, Some(_)) => Health::Initializing,
        }
    }

    /// Records the health of an app.
    pub(crate) fn is_healthy(&mut self, app: Uuid, health: Health) {
        if has_room(&self.health, &app) {
            self.health.insert(app, health);
        }
    }

    /// Records a source of log lines. One that is known already keeps its first description.
    pub(crate) fn has_source(&mut self, id: Uuid, source: LogSource) -> &LogSource {
        if !has_room(&self.log_sources, &id) {
            self.log_sources.pop_first();
        }
        self.log_sources.entry(id).or_insert(source)
    }

    /// Records the newest status of an app.
    pub(crate) fn has_status(&mut self, app: Uuid, status: AppStatus) {
        if has_room(&self.app_statuses, &app) {
            self.app_statuses.insert(app, status);
        }
    }

    /// Records the end of a script.
    pub fn has_ended(&mut self, script: Uuid, end: ScriptEnd) {
        if has_room(&self.scripts, &script) {
            self.scripts.insert(script, end);
        }
    }
}

fn has_room<K: Ord, V>(map: &BTreeMap<K, V>, key: &K) -> bool {
    map.len() < MAX_ENTRIES || map.contains_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn report(key: &str, value: &str) -> [(String, String, String); 1] {
        [(key.to_owned(), value.to_owned(), String::new())]
    }

    #[test]
    fn an_agent_starts_once_and_is_ready_once_whatever_it_says_again() {
        let mut reports = AgentReports::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        reports.record_lifecycle(Lifecycle::Created, at(1));
        assert_eq!((reports.started_at, reports.ready_at), (None, None));
        reports.record_lifecycle(Lifecycle::Starting, at(2));
        reports.record_lifecycle(Lifecycle::Starting, at(3));
        assert_eq!((reports.started_at, reports.ready_at), (Some(at(2)), None));
        reports.record_lifecycle(Lifecycle::StartError, at(4));
        reports.record_lifecycle(Lifecycle::Off, at(5));
        assert_eq!(reports.ready_at, Some(at(4)));
    }

    #[test]
    fn the_newest_value_of_a_key_counts_and_a_long_one_is_cut() {
        let mut reports = AgentReports::default();
        reports.measure(report("load", "1"), NOW).unwrap();

        reports
            .measure(report("load", &"é".repeat(MAX_VALUE)), NOW)
            .unwrap();

        let load = &reports.measured["load"];
        assert_eq!(load.value.len(), MAX_VALUE);
        assert_eq!(load.error, "value has 4096 bytes, more than 2048");
    }

    #[test]
    fn keys_are_bounded_and_what_came_before_them_is_kept() {
        let mut reports = AgentReports::default();
        let long = "k".repeat(MAX_KEYS);
        let values = report("a", "1").into_iter().chain(report(&long, "2"));
        assert_eq!(reports.measure(values, NOW), Err(ReportTooLarge));
        assert_eq!(reports.measured.len(), 1);

        let many = (0..=MAX_ENTRIES).flat_map(|n| report(&n.to_string(), ""));
        assert_eq!(reports.measure(many, NOW), Err(ReportTooLarge));
        assert_eq!(reports.measured.len(), MAX_ENTRIES);
        assert_eq!(reports.measure(report("a", "3"), NOW), Ok(()));
    }

    #[test]
    fn of_too_many_agents_those_go_that_are_not_connected() {
        let mut cache = ReportCache::default();
        let kept = AgentId::random();
        let is_kept = |id| id == kept;
        cache
            .of(kept, is_kept)
            .is_healthy(Uuid::nil(), Health::Healthy);
        for _ in 1..MAX_AGENTS {
            cache.of(AgentId::random(), is_kept);
        }

        cache.of(AgentId::random(), is_kept);

        assert_eq!(cache.0.len(), 2);
        assert_eq!(cache.reports(kept).health.len(), 1);
        cache.forget(kept);
        assert!(cache.reports(kept).health.is_empty());
    }
}
