//! Policies in Rego: what an organization demands of its templates.

use std::{num::NonZeroU32, path::Path, sync::LazyLock, time::Duration};

use outpost_language::TemplateFiles;
use regex::Regex;
use regorus::{Engine, Value as Rego, utils::limits::ExecutionTimerConfig};
use serde::Deserialize;
use serde_json::Value;

use crate::check::Severity;

/// The package whose rules judge templates.
const PACKAGE: &str = "data.outpost.template";
/// The end of the names of files with policies, and with tests of them.
const SUFFIX: &str = ".rego";

/// Largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// A directory with more files is refused.
const MAX_FILES: usize = 1000;
/// Longest time that a rule or a test may take: those of a template take a millisecond.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Work between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::new(1000).expect("is not zero");

/// A test: a rule whose name begins so, as OPA has it.
static TEST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)^(test_\w+)").expect("is valid"));
/// The ids of policies: they stand in comments that suppress a finding.
static ID: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[\w.-]+$").expect("is valid"));

/// Policies that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A directory or a file of it cannot be read.
    #[error("failed to read `{path}`: {reason}")]
    Read {
        /// Path of the directory or the file.
        path: String,
        /// Reason that the system gives.
        reason: String,
    },
    /// There is nothing that could judge a template.
    #[error(
        "`{0}` has no policy: no file `*.rego` with a rule `deny` or `warn` in `package outpost.template`"
    )]
    Empty(String),
    /// There are no tests.
    #[error("`{0}` has no tests: no rule `test_…` in a file `*.rego`")]
    NoTests(String),
    /// A file is no Rego, or a rule fails.
    #[error("the policies in `{dir}` cannot be used: {reason}")]
    Rego {
        /// Path of the directory.
        dir: String,
        /// Complaint of the interpreter, with file and line.
        reason: String,
    },
    /// A result is not of the form that results have.
    #[error(
        "the policies in `{dir}`: a result of `{rule}` must be an object with the texts `id` and `message`, and perhaps `address`: {reason}"
    )]
    Form {
        /// Path of the directory.
        dir: String,
        /// `deny` or `warn`.
        rule: &'static str,
        /// Detail of what is wrong with it.
        reason: String,
    },
}

/// The policies of a directory.
pub struct Policies {
    dir: String,
    engine: Engine,
    /// Files with their packages, for tests.
    files: Vec<(String, String)>,
}

/// What a policy says of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Error for `deny`, warning for `warn`.
    pub severity: Severity,
    /// The policy's own id.
    pub id: String,
    /// The problem, in the policy's words.
    pub message: String,
    /// The resource, data source or module that it is about; empty for the template.
    pub address: String,
}

/// The result of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// `PACKAGE.test_NAME`.
    pub name: String,
    /// Reason why it failed; `None` if it passed.
    pub failure: Option<String>,
}

/// A result of `deny` or `warn`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    id: String,
    message: String,
    #[serde(default)]
    address: String,
}

impl Policies {
    /// Reads the files `*.rego` of a directory.
    ///
    /// # Errors
    /// [`PolicyError`] if there is none, or one of them is no Rego.
    pub fn read(dir: &Path) -> Result<Self, PolicyError> {
        let shown = dir.display().to_string();
        let (mut engine, mut files) = (Engine::new(), Vec::new());
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: MAX_TIME,
            check_interval: STEPS,
        });
        for (name, text) in Self::texts(dir)? {
            let package = engine.add_policy(name, text.clone());
            let package = package.map_err(|error| PolicyError::Rego {
                dir: shown.clone(),
                reason: error.to_string().trim().to_owned(),
            })?;
            files.push((package, text));
        }
        Ok(Self {
            dir: shown,
            engine,
            files,
        })
    }

    /// Names and texts of the files `*.rego` of a directory: all that its verdicts depend on besides the template.
    ///
    /// # Errors
    /// [`PolicyError`] if there is none, or one cannot be read.
    pub fn texts(dir: &Path) -> Result<Vec<(String, String)>, PolicyError> {
        let shown = dir.display().to_string();
        let unreadable = |path: String, reason: std::io::Error| PolicyError::Read {
            path,
            reason: reason.to_string(),
        };
        let entries = dir.list(Path::new(""));
        let entries = entries.map_err(|error| unreadable(shown.clone(), error))?;
        let names = entries.into_iter().filter(|(_, is_dir)| !is_dir);
        let names = names.filter_map(|(name, _)| name.into_string().ok());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(SUFFIX)).collect();
        names.sort();
        if names.is_empty() || names.len() > MAX_FILES {
            return Err(PolicyError::Empty(shown));
        }
        let mut texts = Vec::new();
        for name in names {
            let text = TemplateFiles::read(dir, Path::new(&name), MAX_BYTES);
            let text = text.map_err(|error| unreadable(format!("{shown}/{name}"), error))?;
            texts.push((name, String::from_utf8_lossy(&text).into_owned()));
        }
        Ok(texts)
    }

    /// Judges a template: `input` is what `outpost inspect --output json` prints, and its modules.
    ///
    /// # Errors
    /// [`PolicyError`] if a rule fails, or gives something else than results.
    pub fn judge(&mut self, input: &Value) -> Result<Vec<Verdict>, PolicyError> {
        let input = Rego::from_json_str(&input.to_string()).map_err(|error| self.wrong(&error))?;
        self.engine.set_input(input);
        let (mut verdicts, mut has_rule) = (Vec::new(), false);
        for (rule, severity) in [("deny", Severity::Error), ("warn", Severity::Warning)] {
            if !self.has(rule) {
                continue;
            }
            has_rule = true;
            for result in self.results(rule)? {
                verdicts.push(Verdict {
                    severity,
                    id: result.id,
                    message: result.message,
                    address: result.address,
                });
            }
        }
        match has_rule {
            true => Ok(verdicts),
            false => Err(PolicyError::Empty(self.dir.clone())),
        }
    }

    fn has(&self, rule: &str) -> bool {
        let defined = Regex::new(&format!(r"(?m)^(default\s+)?{rule}\b")).expect("is valid");
        let mut files = self.files.iter();
        files.any(|(package, text)| package == PACKAGE && defined.is_match(text))
    }

    fn results(&mut self, rule: &'static str) -> Result<Vec<Finding>, PolicyError> {
        let value = self.engine.eval_rule(format!("{PACKAGE}.{rule}"));
        let value = value.map_err(|error| self.wrong(&error))?;
        if value == Rego::Undefined {
            return Ok(Vec::new());
        }
        let form = |reason: String| PolicyError::Form {
            dir: self.dir.clone(),
            rule,
            reason,
        };
        let json = value.to_json_str().map_err(|error| self.wrong(&error))?;
        let results: Vec<Finding> =
            serde_json::from_str(&json).map_err(|error| form(error.to_string()))?;
        match results.iter().find(|result| !ID.is_match(&result.id)) {
            None => Ok(results),
            Some(result) => Err(form(format!(
                "the id {:?} may have letters, digits, `_`, `.` and `-`",
                result.id
            ))),
        }
    }

    /// Runs the tests: rules `test_…`, which must be true.
    ///
    /// # Errors
    /// [`PolicyError::NoTests`] if there are none.
    pub fn test(&mut self) -> Result<Vec<Tested>, PolicyError> {
        let mut names = Vec::new();
        for (package, text) in &self.files {
            let found = TEST.captures_iter(text);
            names.extend(found.map(|found| format!("{package}.{}", &found[1])));
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(PolicyError::NoTests(self.dir.clone()));
        }
        Ok(names.into_iter().map(|name| self.run(name)).collect())
    }

    fn run(&mut self, name: String) -> Tested {
        let failure = match self.engine.eval_rule(name.clone()) {
            Ok(Rego::Bool(true)) => None,
            Ok(Rego::Undefined) => {
                Some("it is undefined: one of its conditions does not hold".to_owned())
            }
            Ok(value) => Some(format!("it is {value}, not true")),
            Err(error) => Some(error.to_string().trim().to_owned()),
        };
        Tested {
            name: name.trim_start_matches("data.").to_owned(),
            failure,
        }
    }

    fn wrong(&self, error: &impl ToString) -> PolicyError {
        PolicyError::Rego {
            dir: self.dir.clone(),
            reason: error.to_string().trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
