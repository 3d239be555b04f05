//! Responses of the server as rows and JSON objects.

mod age;
mod agent;
mod build;
mod parameter;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

pub(super) use self::{
    age::{age, ago, time, time_until},
    agent::{Agent, Running},
    build::Build,
    parameter::{AnsweredParameter, ParameterRow, Preset},
};
use super::output::Row;
use crate::proto::outpost::v1;

/// Prefix of an id that commands accept in its place.
pub(super) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// Shortens the ids in a text, for tables.
pub(super) fn with_short_ids(text: &str) -> String {
    let words = text.split(' ').map(|word| match Uuid::parse_str(word) {
        Ok(_) => short(word),
        Err(_) => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Formats a map as `a=b, c=d`, in the order of names.
pub(super) fn pairs(map: &BTreeMap<String, String>) -> String {
    let pairs = map.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join(", ")
}

/// Formats tags as [`pairs`] does, without those that every daemon has: `owner=` and `scope=organization`.
pub(super) fn tags(tags: &BTreeMap<String, String>) -> String {
    let mut special = tags.clone();
    special.retain(|name, value| {
        !matches!(
            (name.as_str(), value.as_str()),
            ("owner", "") | ("scope", "organization")
        )
    });
    pairs(&special)
}

#[derive(Debug, Serialize)]
pub(super) struct Template {
    name: String,
    id: String,
    organization: String,
    active_version: String,
    created_by: String,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl From<v1::Template> for Template {
    fn from(template: v1::Template) -> Self {
        Self {
            name: template.name,
            id: template.id,
            organization: template.organization,
            active_version: template.active_version,
            created_by: template.created_by,
            created_at: time(template.created_at),
            updated_at: time(template.updated_at),
        }
    }
}

impl Row for Template {
    const COLUMNS: &'static [&'static str] =
        &["Template", "Active version", "Created by", "Updated"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.active_version.clone(),
            self.created_by.clone(),
            age(self.updated_at),
        ]
    }
}

/// A version of a template.
#[derive(Debug, Serialize)]
pub(super) struct Version {
    name: String,
    id: String,
    template: String,
    message: String,
    active: bool,
    created_by: String,
    created_at: Option<Timestamp>,
    job: Option<Job>,
}

impl From<v1::Version> for Version {
    fn from(version: v1::Version) -> Self {
        Self {
            name: version.name,
            id: version.id,
            template: version.template,
            message: version.message,
            active: version.active,
            created_by: version.created_by,
            created_at: time(version.created_at),
            job: version.job.map(Job::from),
        }
    }
}

impl Row for Version {
    const COLUMNS: &'static [&'static str] = &[
        "Version",
        "Active",
        "Import",
        "Message",
        "Created by",
        "Age",
    ];

    fn cells(&self) -> Vec<String> {
        let active = if self.active { "yes" } else { "" };
        let status = self
            .job
            .as_ref()
            .map(|job| job.status.clone())
            .unwrap_or_default();
        vec![
            self.name.clone(),
            active.into(),
            status,
            self.message.clone(),
            self.created_by.clone(),
            age(self.created_at),
        ]
    }
}

/// A resource, without its secrets.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Resource {
    pub(super) address: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Either `computational` or `peripheral`.
    pub(super) class: String,
    /// `persistent`, `ephemeral` or `stop-only`; empty if unknown.
    pub(super) persistence: String,
    pub(super) agents: Vec<Agent>,
    pub(super) facts: BTreeMap<String, Option<String>>,
    pub(super) daily_cost: i32,
}

impl From<v1::Resource> for Resource {
    fn from(resource: v1::Resource) -> Self {
        let fact = |fact: v1::ResourceFact| (fact.key, (!fact.sensitive).then_some(fact.value));
        Self {
            address: resource.address,
            kind: resource.r#type,
            class: resource.class,
            persistence: resource.persistence,
            agents: resource.agents.into_iter().map(Agent::from).collect(),
            facts: resource.facts.into_iter().map(fact).collect(),
            daily_cost: resource.daily_cost,
        }
    }
}

impl Row for Resource {
    const COLUMNS: &'static [&'static str] = &[
        "Resource",
        "Class",
        "Persistence",
        "Agents and apps",
        "Facts",
    ];

    fn cells(&self) -> Vec<String> {
        let agents: Vec<String> = self.agents.iter().map(Agent::summary).collect();
        let fact = |(key, value): (&String, &Option<String>)| {
            format!("{key}: {}", value.as_deref().unwrap_or("(hidden)"))
        };
        let cost = (self.daily_cost != 0).then(|| format!("daily cost: {}", self.daily_cost));
        let facts: Vec<String> = self.facts.iter().map(fact).chain(cost).collect();
        vec![
            self.address.clone(),
            self.class.clone(),
            self.persistence.clone(),
            agents.join("\n"),
            facts.join("\n"),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Workspace {
    pub(super) name: String,
    pub(super) owner: String,
    id: String,
    template: String,
    version: String,
    pub(super) status: String,
    outdated: bool,
    build: i32,
    daily_cost: i32,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
}

impl From<v1::Workspace> for Workspace {
    fn from(workspace: v1::Workspace) -> Self {
        let build = workspace.latest_build.unwrap_or_default();
        Self {
            name: workspace.name,
            owner: workspace.owner,
            id: workspace.id,
            template: workspace.template,
            status: status(&build).to_owned(),
            version: build.version,
            outdated: workspace.outdated,
            build: build.number,
            daily_cost: build.daily_cost,
            created_at: time(workspace.created_at),
            updated_at: time(workspace.updated_at),
        }
    }
}

/// Returns the status of a workspace after, or during, its latest build, in Coder's words.
pub(super) fn status(build: &v1::Build) -> &'static str {
    let job = build.job.as_ref().map_or("", |job| job.status.as_str());
    match (build.transition.as_str(), job) {
        (_, "queued") => "pending",
        (_, "failed") => "failed",
        (_, "cancelled") => "cancelled",
        (_, "cancelling") => "cancelling",
        ("start", "running") => "starting",
        ("start", "succeeded") => "running",
        ("stop", "running") => "stopping",
        ("stop", "succeeded") => "stopped",
        ("destroy", "running") => "deleting",
        ("destroy", "succeeded") => "deleted",
        _ => "unknown",
    }
}

impl Row for Workspace {
    const COLUMNS: &'static [&'static str] = &[
        "Workspace",
        "Template",
        "Version",
        "Status",
        "Build",
        "Updated",
    ];

    fn cells(&self) -> Vec<String> {
        let outdated = if self.outdated { " (outdated)" } else { "" };
        vec![
            format!("{}/{}", self.owner, self.name),
            self.template.clone(),
            format!("{}{outdated}", self.version),
            self.status.clone(),
            self.build.to_string(),
            age(self.updated_at),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) subject: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) worker: String,
    pub(super) error: String,
    pub(super) error_code: String,
    pub(super) created_at: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) completed_at: Option<Timestamp>,
}

impl From<v1::Job> for Job {
    fn from(job: v1::Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            status: job.status,
            subject: job.subject,
            tags: job.tags.into_iter().collect(),
            worker: job.worker,
            error: job.error,
            error_code: job.error_code,
            created_at: time(job.created_at),
            started_at: time(job.started_at),
            completed_at: time(job.completed_at),
        }
    }
}

impl Row for Job {
    const COLUMNS: &'static [&'static str] =
        &["Job", "Kind", "Subject", "Status", "Daemon", "Age", "Error"];

    fn cells(&self) -> Vec<String> {
        let kind = match self.kind.as_str() {
            "template_import" => "import",
            "template_dry_run" => "dry run",
            "workspace_build" => "build",
            kind => kind,
        };
        vec![
            short(&self.id),
            kind.to_owned(),
            self.subject.clone(),
            self.status.clone(),
            self.worker.clone(),
            age(self.created_at),
            self.error.clone(),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Daemon {
    name: String,
    id: String,
    status: String,
    tags: BTreeMap<String, String>,
    version: String,
    api_version: String,
    key: String,
    job: String,
    last_seen_at: Option<Timestamp>,
}

impl From<v1::Daemon> for Daemon {
    fn from(daemon: v1::Daemon) -> Self {
        Self {
            name: daemon.name,
            id: daemon.id,
            status: daemon.status,
            tags: daemon.tags.into_iter().collect(),
            version: daemon.version,
            api_version: daemon.api_version,
            key: daemon.key,
            job: daemon.job_id,
            last_seen_at: time(daemon.last_seen_at),
        }
    }
}

impl Row for Daemon {
    const COLUMNS: &'static [&'static str] =
        &["Daemon", "Status", "Tags", "Version", "Key", "Last seen"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.status.clone(),
            tags(&self.tags),
            self.version.clone(),
            self.key.clone(),
            age(self.last_seen_at),
        ]
    }
}

/// Verdict of one daemon on a waiting job.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    daemon: String,
    eligible: bool,
    reasons: Vec<String>,
}

impl From<v1::DaemonVerdict> for Verdict {
    fn from(verdict: v1::DaemonVerdict) -> Self {
        Self {
            daemon: verdict.daemon,
            eligible: verdict.eligible,
            reasons: verdict.reasons,
        }
    }
}

impl Row for Verdict {
    const COLUMNS: &'static [&'static str] = &["Daemon", "Takes it", "Why"];

    fn cells(&self) -> Vec<String> {
        let takes = if self.eligible { "yes" } else { "no" };
        vec![self.daemon.clone(), takes.into(), self.reasons.join("\n")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_every_daemon_has_are_not_shown() {
        let all = [("owner", ""), ("scope", "organization"), ("zone", "west")];
        let all = all.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let of_a_user = [("owner".to_owned(), "amy".to_owned())];

        assert_eq!(tags(&all.into()), "zone=west");
        assert_eq!(tags(&of_a_user.into()), "owner=amy");
    }

    #[test]
    fn only_ids_are_cut_short() {
        let text = "session of workspace 70534b66-69cf-4ad9-a1fd-72894739af43 of admin";

        assert_eq!(
            with_short_ids(text),
            "session of workspace 70534b66 of admin"
        );
    }
}
