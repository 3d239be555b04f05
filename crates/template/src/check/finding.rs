//! Findings of a check, and how many there are.

use std::borrow::Cow;

use serde::Serialize;

use super::place::Place;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that an author may want to know.
    Note,
    /// People will run into it.
    Warning,
    /// The server or the engine would refuse the template, or people could not get in.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding: a rule, a place and a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Id of the rule, such as `app-slug-invalid`; of a policy `policy/ID`.
    pub rule: Cow<'static, str>,
    /// The severity, by the rule or by the settings.
    pub severity: Severity,
    /// The problem, with names.
    pub message: String,
    /// The remedy for the problem.
    pub remedy: String,
    /// The place of the problem.
    #[serde(flatten)]
    pub place: Place,
    /// The address of the resource it is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The fetched module in whose files the place is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub module: String,
    /// The first line of the place as it stands in the file; empty if the file is not at hand.
    #[serde(skip)]
    pub source: String,
}

/// A finding that somebody accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// Finding that was suppressed, in full.
    pub finding: Finding,
    /// The reason why it is accepted; empty for one of a baseline.
    pub reason: String,
    /// Tells whether a comment says so, and not a baseline.
    pub(crate) is_in_source: bool,
}

/// Numbers of findings of each severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of errors that are not suppressed.
    pub error: usize,
    /// Number of warnings that are not suppressed.
    pub warning: usize,
    /// Number of notes that are not suppressed.
    pub note: usize,
    /// Those that a comment or a baseline accepts.
    pub suppressed: usize,
}

impl Summary {
    /// Counts findings by their severity.
    pub fn of<'a>(findings: impl IntoIterator<Item = &'a Finding>, suppressed: usize) -> Self {
        let mut summary = Self {
            suppressed,
            ..Self::default()
        };
        for finding in findings {
            match finding.severity {
                Severity::Error => summary.error += 1,
                Severity::Warning => summary.warning += 1,
                Severity::Note => summary.note += 1,
            }
        }
        summary
    }

    /// Tells whether anything is at `least` or worse.
    pub fn reaches(&self, least: Severity) -> bool {
        match least {
            Severity::Error => self.error > 0,
            Severity::Warning => self.error + self.warning > 0,
            Severity::Note => self.error + self.warning + self.note > 0,
        }
    }
}
