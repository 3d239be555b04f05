//! What agents said last of themselves, for whoever looks at their workspaces. Pure; it is gone with the process.
//!
//! # Source
//! coder `coderd/agentapi/metadata.go`: limits, and what becomes of what is over them.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use outpost_base::job::App;
use uuid::Uuid;

use crate::{
    agent_ids::app_id,
    model::{AgentId, Lifecycle},
};

/// Agents that are remembered at a time.
const MAX_AGENTS: usize = 4096;
/// Values, apps and scripts of one agent.
const MAX_ENTRIES: usize = 256;
/// Bytes of the keys in one report, and of one value.
const MAX_KEYS: usize = 6144;
const MAX_VALUE: usize = 2048;

/// A value that an agent measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What its script printed.
    pub value: String,
    /// Why there is no newer one.
    pub error: String,
    /// When it came here.
    pub collected_at: Timestamp,
}

/// How an app is.
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

/// How a script ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptEnd {
    /// `start`, `stop` or `cron`.
    pub stage: &'static str,
    /// `ok`, `exit_failure`, `timed_out`, `pipes_left_open` or `skipped`.
    pub status: &'static str,
    /// What it ended with.
    pub exit_code: i32,
    /// By the agent's clock.
    pub started_at: Timestamp,
    /// By the agent's clock.
    pub ended_at: Timestamp,
}

/// What an agent carried since its report before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were open.
    pub connections: i64,
    /// Bytes that came to it.
    pub received_bytes: i64,
    /// Bytes that it sent.
    pub sent_bytes: i64,
    /// Open sessions by app, see [`sessions::by_app`](super::sessions::by_app).
    pub sessions: BTreeMap<String, i64>,
    /// When it came here.
    pub reported_at: Timestamp,
}

/// A place that lines of an agent's log come from, made by a program beside the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// A name for people.
    pub display_name: String,
    /// The URL of a picture, or empty.
    pub icon: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The status that an app says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppStatus {
    /// Identifies the status.
    pub id: Uuid,
    /// `working`, `idle`, `complete` or `failure`.
    pub state: &'static str,
    /// A text for people.
    pub message: String,
    /// A place with more of it, or empty.
    pub uri: String,
    /// When it came here.
    pub created_at: Timestamp,
}

/// What one agent said last.
#[derive(Clone, Debug, Default)]
pub struct AgentReports {
    /// Values by their keys.
    pub measured: BTreeMap<String, Measured>,
    /// Health of apps by their ids.
    pub health: BTreeMap<Uuid, Health>,
    /// Ends of scripts by their ids.
    pub scripts: BTreeMap<Uuid, ScriptEnd>,
    /// Its last report.
    pub traffic: Option<Traffic>,
    /// Version of the agents' API that its connection speaks.
    pub api_version: String,
    /// Sources of log lines beside its scripts, by their ids.
    pub log_sources: BTreeMap<Uuid, LogSource>,
    /// Statuses of apps by their ids.
    pub app_statuses: BTreeMap<Uuid, AppStatus>,
    /// When its start scripts began.
    pub started_at: Option<Timestamp>,
    /// When they ended, however that was.
    pub ready_at: Option<Timestamp>,
}

impl AgentReports {
    /// The agent came as far as `state` at this time.
    pub fn comes_to(&mut self, state: Lifecycle, at: Timestamp) {
        if state > Lifecycle::Created {
            self.started_at.get_or_insert(at);
        }
        if state > Lifecycle::Starting {
            self.ready_at.get_or_insert(at);
        }
    }
}

/// A report had more than is kept; the rest of it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the report has more than {MAX_ENTRIES} entries, or its keys are longer than {MAX_KEYS} bytes in total"
)]
pub struct TooMuch;

/// What all agents said last.
#[derive(Debug, Default)]
pub struct ReportCache(HashMap<AgentId, AgentReports>);

impl ReportCache {
    /// What an agent said; nothing if it is not known.
    pub fn reports(&self, agent: AgentId) -> AgentReports {
        self.0.get(&agent).cloned().unwrap_or_default()
    }

    /// Where to write down what an agent says. Where there are too many, those that are not `connected` go.
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

    /// Forgets one whose place another took.
    pub fn forget(&mut self, agent: AgentId) {
        self.0.remove(&agent);
    }
}

impl AgentReports {
    /// Takes values with their errors; what is too long is cut, and says so.
    ///
    /// # Errors
    /// [`TooMuch`]
    pub fn measure(
        &mut self,
        report: impl IntoIterator<Item = (String, String, String)>,
        now: Timestamp,
    ) -> Result<(), TooMuch> {
        let mut keys = 0;
        for (key, mut value, mut error) in report {
            keys += key.len();
            if keys > MAX_KEYS || !has_room(&self.measured, &key) {
                return Err(TooMuch);
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

    /// How an app of `agent` is; until it was heard of, as far as the template says.
    pub fn health_of(&self, agent: AgentId, app: &App) -> Health {
        match (self.health.get(&app_id(agent, app)), &app.healthcheck) {
            (_, None) => Health::Disabled,
            (Some(health), Some(_)) => *health,
            (None, Some(_)) => Health::Initializing,
        }
    }

    /// Takes the health of an app.
    pub fn is_healthy(&mut self, app: Uuid, health: Health) {
        if has_room(&self.health, &app) {
            self.health.insert(app, health);
        }
    }

    /// Takes a source of log lines. One that is known already keeps what was said of it first.
    pub fn has_source(&mut self, id: Uuid, source: LogSource) -> &LogSource {
        if !has_room(&self.log_sources, &id) {
            self.log_sources.pop_first();
        }
        self.log_sources.entry(id).or_insert(source)
    }

    /// Takes the newest status of an app.
    pub fn has_status(&mut self, app: Uuid, status: AppStatus) {
        if has_room(&self.app_statuses, &app) {
            self.app_statuses.insert(app, status);
        }
    }

    /// Takes the end of a script.
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
        reports.comes_to(Lifecycle::Created, at(1));
        assert_eq!((reports.started_at, reports.ready_at), (None, None));
        reports.comes_to(Lifecycle::Starting, at(2));
        reports.comes_to(Lifecycle::Starting, at(3));
        assert_eq!((reports.started_at, reports.ready_at), (Some(at(2)), None));
        reports.comes_to(Lifecycle::StartError, at(4));
        reports.comes_to(Lifecycle::Off, at(5));
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
        assert_eq!(reports.measure(values, NOW), Err(TooMuch));
        assert_eq!(reports.measured.len(), 1);

        let many = (0..=MAX_ENTRIES).flat_map(|n| report(&n.to_string(), ""));
        assert_eq!(reports.measure(many, NOW), Err(TooMuch));
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
