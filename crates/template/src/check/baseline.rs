//! A file of findings that are accepted for now: those of a template from before it was checked.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{
    finding::{Finding, Suppressed},
    place::Place,
    rules::{Spot, finding},
};

/// Numbers in messages change with every line that is added.
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d+").expect("is valid"));
static BLANKS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\s+").expect("is valid"));

/// The findings of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Of the format: 1.
    version: u32,
    findings: BTreeSet<Entry>,
}

/// One finding, without its line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    rule: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    address: String,
    message: String,
}

/// A baseline that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The text is not what `--write-baseline` writes.
    #[error("the baseline is no JSON that `--write-baseline` wrote")]
    Json(#[from] serde_json::Error),
    /// The format is another one.
    #[error("the baseline has the version {0}, and only 1 is known")]
    Version(u32),
}

impl Entry {
    fn of(finding: &Finding) -> Self {
        let message = NUMBERS.replace_all(&finding.message, "0");
        Self {
            rule: finding.rule.to_string(),
            address: finding.address.clone(),
            message: BLANKS.replace_all(&message, " ").trim().to_owned(),
        }
    }
}

impl Baseline {
    /// A baseline that accepts these findings.
    pub fn of<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        let kept = findings
            .into_iter()
            .filter(|finding| !is_about_suppressions(finding));
        Self {
            version: 1,
            findings: kept.map(Entry::of).collect(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`BaselineError`] with the line of what is wrong.
    pub fn parse(text: &str) -> Result<Self, BaselineError> {
        let baseline: Self = serde_json::from_str(text)?;
        match baseline.version {
            1 => Ok(baseline),
            other => Err(BaselineError::Version(other)),
        }
    }

    /// Returns the file's content: JSON, sorted, with a line break at its end.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("keys are texts") + "\n"
    }

    /// Separates what it accepts from what remains; notes what it accepts in `used`.
    pub fn apply(
        &self,
        findings: Vec<Finding>,
        used: &mut BTreeSet<Entry>,
    ) -> (Vec<Finding>, Vec<Suppressed>) {
        let (mut remaining, mut accepted) = (Vec::new(), Vec::new());
        for finding in findings {
            let entry = Entry::of(&finding);
            if !self.findings.contains(&entry) || is_about_suppressions(&finding) {
                remaining.push(finding);
                continue;
            }
            used.insert(entry);
            accepted.push(Suppressed {
                finding,
                reason: String::new(),
                is_in_source: false,
            });
        }
        (remaining, accepted)
    }

    /// Notes about what it accepts and nothing has. `file` and `text` are the baseline's own.
    pub fn unused(&self, used: &BTreeSet<Entry>, file: &str, text: &str) -> Vec<Finding> {
        let unused = self.findings.difference(used);
        let note = |entry: &Entry| {
            let quoted = serde_json::to_string(&entry.message).unwrap_or_default();
            let line = text
                .lines()
                .position(|line| line.contains(&quoted))
                .map_or(1, |index| index + 1);
            let length = text
                .lines()
                .nth(line - 1)
                .map_or(0, |line| line.chars().count());
            let spot = Spot {
                place: Place {
                    file: file.to_owned(),
                    line,
                    column: 1,
                    end_line: line,
                    end_column: length + 1,
                },
                address: entry.address.clone(),
                module: String::new(),
            };
            let message = format!(
                "the baseline accepts a finding of `{}` that is gone",
                entry.rule
            );
            finding(
                "suppression-unused",
                spot,
                message,
                "write the baseline again with `--write-baseline`",
            )
        };
        unused.map(note).collect()
    }
}

fn is_about_suppressions(finding: &Finding) -> bool {
    finding.rule.starts_with("suppression-")
}
