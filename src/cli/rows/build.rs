//! Builds of workspaces, as rows.

use jiff::Timestamp;
use serde::Serialize;

use super::{super::output::Row, age, short, time};
use crate::proto::outpost::v1;

/// A build of a workspace.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Build {
    number: i32,
    id: String,
    transition: String,
    version: String,
    status: String,
    initiator: String,
    job: String,
    has_state: bool,
    daily_cost: i32,
    error: String,
    created_at: Option<Timestamp>,
}

impl From<v1::Build> for Build {
    fn from(build: v1::Build) -> Self {
        let job = build.job.unwrap_or_default();
        Self {
            number: build.number,
            id: build.id,
            transition: build.transition,
            version: build.version,
            status: job.status,
            initiator: build.initiator,
            job: job.id,
            has_state: build.has_state,
            daily_cost: build.daily_cost,
            error: job.error,
            created_at: time(build.created_at),
        }
    }
}

impl Row for Build {
    const COLUMNS: &'static [&'static str] = &[
        "Build",
        "Transition",
        "Version",
        "Status",
        "By",
        "Job",
        "Age",
        "Error",
    ];

    fn cells(&self) -> Vec<String> {
        let transition = match self.transition.as_str() {
            "destroy" => "delete",
            transition => transition,
        };
        vec![
            self.number.to_string(),
            transition.to_owned(),
            self.version.clone(),
            self.status.clone(),
            self.initiator.clone(),
            short(&self.job),
            age(self.created_at),
            self.error.clone(),
        ]
    }
}
