//! Results of scenarios: for people, for programs, and for tools that show tests.

mod differences;
mod json;
mod junit;
mod table;

use super::{Outcome, Played};

pub use self::{
    differences::{Difference, differences},
    json::json,
    junit::junit,
    table::table,
};

/// Number of runs by their ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Runs that ended as expected.
    pub(crate) passed: usize,
    /// Runs that did not, and scenarios that left something behind.
    pub failed: usize,
    /// Runs and files with mistakes of their own.
    pub invalid: usize,
    /// Runs for which something was missing.
    pub unable: usize,
    /// Runs that were not reached.
    pub skipped: usize,
}

impl Summary {
    /// Counts all runs, and a file that cannot be read as one.
    pub fn of(played: &[Played]) -> Self {
        let mut summary = Self::default();
        for scenario in played {
            summary.invalid += usize::from(!scenario.problems.is_empty());
            summary.failed += usize::from(scenario.left.is_some());
            for run in &scenario.runs {
                *match run.outcome {
                    Outcome::Passed => &mut summary.passed,
                    Outcome::Failed => &mut summary.failed,
                    Outcome::Invalid => &mut summary.invalid,
                    Outcome::Unable => &mut summary.unable,
                    Outcome::Skipped => &mut summary.skipped,
                } += 1;
            }
        }
        summary
    }
}

/// The name of a scenario's file with the directory as it was given, and the variant if there are several.
fn title(scenario: &Played) -> String {
    let file = title_of_file(scenario);
    match scenario.variant.as_str() {
        "" => file,
        variant => format!("{file} ({variant})"),
    }
}

fn title_of_file(scenario: &Played) -> String {
    match scenario.directory.as_str() {
        "." => scenario.file.clone(),
        directory => format!("{}/{}", directory.trim_end_matches('/'), scenario.file),
    }
}
