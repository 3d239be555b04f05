//! Scenarios of a template: `*.coder.hcl` files with runs that follow each other on one workspace.
//!
//! [`parse()`] reads a file, [`play()`] builds its runs one after the other through a session of an engine, and
//! [`context`] is what conditions may refer to.

mod agents;
mod cached;
mod columns;
mod compare;
mod condition;
pub mod context;
mod fields;
mod golden;
mod inert;
mod lines;
mod mocks;
mod parse;
mod place;
mod play;
mod reader;
mod references;
mod relaxed;
pub mod report;
mod verdict;
mod workspace;

use std::{io, path::Path};

use outpost_base::job::Transition;
use outpost_language::TemplateFiles;
use regex::Regex;
use serde_json::Value;

pub use self::{
    agents::{Agents, CommandOutput},
    cached::CachedRuns,
    compare::{Difference, NotBuilt, build_version},
    condition::{Failure, check},
    context::Facts,
    mocks::give_values,
    parse::{MAX_BYTES, parse},
    place::{Place, Problem},
    play::{Engines, Outcome, Played, PlayedRun, PreparedEngine, Refusal, Settings, play},
    references::Reference,
};

/// The end of the names of scenario files.
pub const SUFFIX: &str = ".coder.hcl";

/// The directory below a template's that may have scenarios, too.
const TESTS: &str = "tests";

/// A directory with more scenario files is refused.
const MAX_FILES: usize = 1000;

/// Content of one scenario file.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    /// The file, relative to the template's directory and separated by `/`.
    pub file: String,
    /// Owner of the workspace, as templates see it.
    pub owner: Owner,
    /// Name of the workspace, as templates see it.
    pub workspace: String,
    /// Values of the template's variables.
    pub variables: Vec<Given>,
    /// Answers for all runs.
    pub parameters: Vec<Given>,
    /// Values for mocked providers.
    pub mocks: Vec<Mock>,
    /// Builds of one workspace, in order.
    pub runs: Vec<Run>,
}

/// The owner of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User name, as in Coder's addresses.
    pub name: String,
    /// The name for people; that of the user if it is empty.
    pub full_name: String,
    /// E-mail address, by default one of `example.com`.
    pub email: String,
    /// Groups in the organization.
    pub groups: Vec<String>,
}

impl Default for Owner {
    fn default() -> Self {
        Self::named("tester")
    }
}

impl Owner {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            full_name: String::new(),
            email: format!("{name}@example.com"),
            groups: Vec::new(),
        }
    }
}

/// A value that has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Name of a variable, a parameter or an attribute.
    pub name: String,
    /// Value of any type, as JSON.
    pub value: Value,
    /// The place of the name.
    pub place: Place,
}

impl Given {
    /// A value that no file has.
    pub fn of_command_line(name: String, value: String) -> Self {
        let place = Place {
            file: String::new(),
            line: 1,
            column: 1,
        };
        Self {
            name,
            value: value.into(),
            place,
        }
    }

    /// The value as Terraform and Coder take it: text as it is, collections as JSON.
    pub fn text(&self) -> String {
        outpost_language::primitive_text(&self.value).unwrap_or_else(|| self.value.to_string())
    }
}

/// Values that a mocked provider returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Mock {
    /// True for a data source, false for a resource.
    pub(crate) is_data: bool,
    /// Type, such as `aws_ami`.
    pub kind: String,
    /// The name in the configuration; `None` for the whole type.
    pub name: Option<String>,
    /// The values, by attribute.
    pub values: Vec<Given>,
    /// The place of the block.
    pub place: Place,
}

/// One build of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Unique in the file.
    pub name: String,
    /// The place of the block.
    pub place: Place,
    /// Transition of the build; start by default.
    pub transition: Transition,
    /// The preset, and its place.
    pub preset: Option<(String, Place)>,
    /// Answers for this run.
    pub parameters: Vec<Given>,
    /// Conditions on what the build gave.
    pub asserts: Vec<Assert>,
    /// Pattern that the failure must match; `None` if the build must succeed.
    pub(crate) expect_error: Option<Regex>,
    /// True if it is applied with real providers.
    pub apply: bool,
    /// Place of `connect = true`, if agents must connect.
    pub connect: Option<Place>,
    /// Commands to run at agents.
    pub ssh: Vec<Ssh>,
    /// The file with the expected table of resources, relative to the scenario's, and its place.
    pub golden: Option<(String, Place)>,
}

/// Something that must be true after a run.
#[derive(Clone, Debug)]
pub struct Assert {
    /// The condition as its author wrote it.
    pub condition: String,
    /// The place of the condition.
    pub place: Place,
    /// References in the condition, in its order.
    pub references: Vec<Reference>,
    /// The message as its author wrote it: an expression.
    pub(crate) error_message: String,
}

/// A command to run at an agent.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// The agent; `None` for the only one.
    pub agent: Option<String>,
    /// Command for the user's shell.
    pub command: String,
    /// Pattern that its output must match.
    pub stdout: Option<Regex>,
    /// The status that it must exit with.
    pub status: i64,
    /// The place of the block.
    pub place: Place,
}

/// The scenario files of a template, sorted, relative to `dir`.
///
/// # Errors
/// An I/O error, or that there are too many.
pub fn files(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = names(dir, Path::new(""))?;
    if TemplateFiles::is_dir(dir, Path::new(TESTS)) {
        let below = names(dir, Path::new(TESTS))?;
        found.extend(below.into_iter().map(|name| format!("{TESTS}/{name}")));
    }
    if found.len() > MAX_FILES {
        return Err(io::Error::other(format!(
            "more than {MAX_FILES} scenario files"
        )));
    }
    found.sort();
    Ok(found)
}

fn names(dir: &Path, below: &Path) -> io::Result<Vec<String>> {
    let entries = dir.list(below)?.into_iter();
    let names = entries.filter(|(_, is_dir)| !is_dir);
    let names = names.filter_map(|(name, _)| name.into_string().ok());
    Ok(names
        .filter(|name| name.ends_with(SUFFIX) && !name.starts_with('.'))
        .collect())
}

/// Reads one scenario file of a template.
///
/// # Errors
/// All mistakes in it, or an I/O error as one of them.
pub fn read(dir: &Path, file: &str) -> Result<Scenario, Vec<Problem>> {
    let failed = |reason: String| {
        let place = Place {
            file: file.to_owned(),
            line: 1,
            column: 1,
        };
        vec![Problem::new(place, reason)]
    };
    // One byte more than allowed tells `parse` that there is more.
    let bytes = TemplateFiles::read(dir, Path::new(file), MAX_BYTES as u64 + 1)
        .map_err(|error| failed(format!("the file cannot be read: {error}")))?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains('\u{fffd}') && std::str::from_utf8(&bytes).is_err() && bytes.len() <= MAX_BYTES
    {
        return Err(failed("the file is not UTF-8".to_owned()));
    }
    parse(file, &text)
}

#[cfg(test)]
mod tests;
