//! The results of a scenario in a form that can be kept and read again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Outcome, Played, PlayedRun};

/// Runs of a scenario that all passed. Others are played again, as whoever mends them wants to see.
#[derive(Debug, Serialize, Deserialize)]
pub struct CachedRuns {
    runs: Vec<CachedRun>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CachedRun {
    name: String,
    resources: BTreeMap<String, String>,
}

impl CachedRuns {
    /// The runs of a scenario; `None` unless all passed.
    pub fn of(played: &Played) -> Option<Self> {
        let has_passed = |run: &PlayedRun| run.outcome == Outcome::Passed;
        let is_good = played.problems.is_empty() && played.left.is_none();
        if !is_good || played.runs.is_empty() || !played.runs.iter().all(has_passed) {
            return None;
        }
        let runs = played.runs.iter().map(|run| CachedRun {
            name: run.name.clone(),
            resources: run.resources.clone(),
        });
        Some(Self {
            runs: runs.collect(),
        })
    }

    /// The same results for a scenario with the same content. Nothing was built for them now.
    pub fn played(self, directory: String, file: String) -> Played {
        let runs = self.runs.into_iter().map(|run| PlayedRun {
            name: run.name,
            outcome: Outcome::Passed,
            seconds: 0.0,
            failures: Vec::new(),
            resources: run.resources,
        });
        Played {
            directory,
            file,
            runs: runs.collect(),
            is_cached: true,
            ..Played::default()
        }
    }
}
