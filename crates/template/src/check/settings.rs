//! `outpost-template.toml`: what a repository has decided about its templates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{finding::Severity, rules::rule, similar_rule};

/// The file's name, in the template's directory or above.
pub const FILE_NAME: &str = "outpost-template.toml";

/// The content of a settings file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Severities of rules by id.
    pub rules: BTreeMap<String, Level>,
    /// Files with schemas of providers, relative to this file.
    pub schemas: Vec<PathBuf>,
    /// Directories with policies in Rego, relative to this file.
    pub policies: Vec<PathBuf>,
    /// A mirror's directory, relative to this file.
    pub mirror: Option<PathBuf>,
    /// Arguments whose change replaces a resource: `aws_instance.ami`.
    pub force_new: BTreeSet<String>,
    /// Demands on every template: `cost`.
    pub require: BTreeSet<String>,
    /// Platforms that lock files must serve.
    pub platforms: Vec<String>,
    /// Values of variables of the root module.
    pub variables: BTreeMap<String, String>,
    /// The file's path; empty if there is none.
    #[serde(skip)]
    pub path: PathBuf,
}

/// The effect of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The rule does not apply.
    Off,
    /// Its findings are notes.
    Note,
    /// Its findings are warnings.
    Warning,
    /// Its findings are errors.
    Error,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Read {
        /// Path of the settings file.
        path: PathBuf,
        /// Reason that the system gives.
        source: io::Error,
    },
    /// The file is no TOML, or has keys that nobody knows.
    #[error("`{}` cannot be used", .path.display())]
    Toml {
        /// Path of the settings file.
        path: PathBuf,
        /// The parser's complaint with its place.
        source: Box<toml::de::Error>,
    },
    /// The file names something that does not exist.
    #[error("`{}` names {what}{}", .path.display(), suggestion(.near.as_deref()))]
    Unknown {
        /// Path of the settings file.
        path: PathBuf,
        /// The name, in a sentence.
        what: String,
        /// The name that may have been meant.
        near: Option<String>,
    },
}

fn suggestion(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

impl Level {
    /// The severity; `None` if the rule is off.
    pub fn severity(self) -> Option<Severity> {
        match self {
            Self::Off => None,
            Self::Note => Some(Severity::Note),
            Self::Warning => Some(Severity::Warning),
            Self::Error => Some(Severity::Error),
        }
    }
}

impl Settings {
    /// The settings of a template: those of the nearest file in its directory or above. None are the default.
    ///
    /// # Errors
    /// [`SettingsError`] if the file cannot be used.
    pub fn find(dir: &Path) -> Result<Self, SettingsError> {
        let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let found = whole
            .ancestors()
            .map(|dir| dir.join(FILE_NAME))
            .find(|path| path.is_file());
        found.map_or_else(|| Ok(Self::default()), |path| Self::read(&path))
    }

    fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut settings: Self = toml::from_str(&text).map_err(|source| SettingsError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        settings.path = path.to_owned();
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let unknown = |what: String, near| SettingsError::Unknown {
            path: self.path.clone(),
            what,
            near,
        };
        if let Some(id) = self.rules.keys().find(|id| rule(id).is_none()) {
            let near = similar_rule(id).map(str::to_owned);
            return Err(unknown(
                format!("the rule `{id}`, which does not exist"),
                near,
            ));
        }
        if let Some(what) = self.require.iter().find(|what| *what != "cost") {
            return Err(unknown(
                format!("`{what}` in `require`, which knows only `cost`"),
                None,
            ));
        }
        if let Some(path) = self.force_new.iter().find(|path| !path.contains('.')) {
            let what = format!(
                "`{path}` in `force_new`, which is no argument of a type, such as `aws_instance.ami`"
            );
            return Err(unknown(what, None));
        }
        Ok(())
    }

    /// A path that the file names, relative to itself.
    pub fn beside(&self, path: &Path) -> PathBuf {
        self.path
            .parent()
            .map_or_else(|| path.to_owned(), |dir| dir.join(path))
    }
}
