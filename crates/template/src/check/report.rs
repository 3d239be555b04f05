//! Results in the forms that people and other programs read.

mod github;
mod gitlab;
mod junit;
mod sarif;
mod table;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::finding::{Finding, Severity, Summary, Suppressed};

pub use self::github::job_summary;

/// The results of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    version: u32,
    /// One for each directory.
    pub templates: Vec<TemplateReport>,
    /// Numbers over all templates.
    pub summary: Summary,
}

/// The results of one template.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TemplateReport {
    /// As it was named, separated by `/`.
    pub directory: String,
    /// The engine that planned it; empty if none did.
    pub engine: EngineReport,
    /// By file and line.
    pub findings: Vec<Finding>,
    /// Providers that were replaced.
    pub mocked_providers: Vec<Mocked>,
    /// Of a started workspace.
    pub resources: usize,
    /// Of a started workspace.
    pub agents: usize,
    /// Time that the check took, in seconds.
    pub seconds: f64,
    /// Findings that comments and baselines accept.
    #[serde(skip)]
    pub suppressed: Vec<Suppressed>,
    /// Reasons why it could not be checked to the end; empty if it was.
    #[serde(skip)]
    pub incomplete: Vec<String>,
    /// Tells whether it is that of an earlier run on the same content.
    #[serde(skip)]
    pub is_cached: bool,
}

/// Engine that a template was planned with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Name: `terraform` or `tofu`.
    pub name: String,
    /// Version of the engine.
    pub version: String,
}

/// A provider that was replaced by a mock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mocked {
    /// Address of the provider, such as `registry.terraform.io/kreuzwerker/docker`.
    pub source: String,
    /// The source of the mock's schema.
    pub schema: SchemaSource,
}

/// The source of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaSource {
    /// The provider itself, which was asked.
    Store,
    /// File that was given, with `--schema` or in the settings.
    File,
    /// The template's use of it.
    Inferred,
}

/// A form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text with source lines, for people.
    Table,
    /// Our own JSON, version 1.
    Json,
    /// SARIF 2.1, for code scanning.
    Sarif,
    /// JUnit's XML, for test reports.
    Junit,
    /// Report of GitLab's code quality.
    Gitlab,
    /// Annotations of GitHub's actions.
    Github,
}

/// All forms, by name.
pub(crate) const FORMATS: [(&str, Format); 6] = [
    ("table", Format::Table),
    ("json", Format::Json),
    ("sarif", Format::Sarif),
    ("junit", Format::Junit),
    ("gitlab", Format::Gitlab),
    ("github", Format::Github),
];

/// A word that is no form of a report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {word:?}: expected {}", names())]
pub struct FormatError {
    word: String,
}

fn names() -> String {
    let names: Vec<_> = FORMATS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = FORMATS.iter().find(|(name, _)| *name == word);
        found.map(|(_, format)| *format).ok_or_else(|| FormatError {
            word: word.to_owned(),
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = FORMATS.iter().find(|(_, format)| format == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

impl Report {
    /// Counts what the templates have.
    pub fn new(templates: Vec<TemplateReport>) -> Self {
        let findings = templates.iter().flat_map(|template| &template.findings);
        let suppressed = templates
            .iter()
            .map(|template| template.suppressed.len())
            .sum();
        Self {
            version: 1,
            summary: Summary::of(findings, suppressed),
            templates,
        }
    }

    /// The report in a form. `fails` is the least severity that makes the run fail, `is_coloured` whether a terminal shows
    /// it.
    pub fn render(&self, format: Format, fails: Option<Severity>, is_coloured: bool) -> String {
        match format {
            Format::Table => table::render(self, is_coloured),
            Format::Json => pretty(self),
            Format::Sarif => pretty(&sarif::document(self)),
            Format::Junit => junit::document(self, fails),
            Format::Gitlab => pretty(&gitlab::document(self)),
            Format::Github => github::annotations(self),
        }
    }
}

impl TemplateReport {
    /// The path of a finding's file from where the run began. One of a fetched module begins with the module's address, so
    /// that nobody takes it for a file of the template.
    fn path(&self, finding: &Finding) -> String {
        let file = &finding.place.file;
        match (self.directory.as_str(), finding.module.as_str()) {
            ("" | ".", "") => file.clone(),
            (directory, "") if !file.starts_with('/') => {
                format!("{}/{file}", directory.trim_end_matches('/'))
            }
            (_, "") => file.clone(),
            (_, module) => format!("{module}/{file}"),
        }
    }
}

fn pretty(value: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(value);
    json.expect("keys are texts") + "\n"
}

/// The same for a finding that moved to another line.
fn fingerprint(path: &str, finding: &Finding) -> String {
    let mut hash = Sha256::new();
    for part in [path, &finding.rule, &finding.address, &finding.message] {
        hash.update(part);
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..16])
}
