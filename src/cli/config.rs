//! `outpost config`: the configuration file, and settings with their origin.

use std::{collections::BTreeSet, ffi::OsString};

use serde::Serialize;

use super::{
    SECTIONS, Settings,
    output::{Output, Row},
};
use crate::config::{self, Origin, Setting};

/// Check or show the configuration
#[derive(Debug, clap::Subcommand)]
pub(super) enum Config {
    /// Check the configuration file and the environment
    ///
    /// The command line takes precedence, then the environment, then the file, then the default.
    Check,
    /// Show every setting, with secrets hidden
    Show {
        /// Also show where each value comes from
        #[arg(long)]
        origin: bool,
        /// Show what this command line would see, such as `-- provisioner start --name x`
        #[arg(last = true, value_name = "COMMAND")]
        arguments: Vec<String>,
    },
}

/// Result of a check: the settings that are made, and where.
#[derive(Serialize)]
struct Checked {
    file: Option<String>,
    /// Number of keys in the file.
    settings: usize,
    /// Names of variables that set something.
    environment: BTreeSet<String>,
}

impl Checked {
    fn human(&self) -> String {
        let keys = match self.settings {
            1 => "1 setting".to_owned(),
            count => format!("{count} settings"),
        };
        let file = match &self.file {
            Some(file) => format!("{file} is valid: {keys}"),
            None => "no configuration file; looked for ~/.config/outpost/outpost.toml and /etc/outpost/outpost.toml".to_owned(),
        };
        let names: Vec<&str> = self.environment.iter().map(String::as_str).collect();
        match names.as_slice() {
            [] => file,
            names => format!("{file}; the environment sets {}", names.join(", ")),
        }
    }
}

#[derive(Serialize)]
struct Shown {
    key: String,
    values: Vec<String>,
    origin: String,
    environment: Option<String>,
    help: String,
}

impl From<Setting> for Shown {
    fn from(setting: Setting) -> Self {
        Self {
            key: setting.key,
            values: setting.values,
            origin: setting.origin.to_string(),
            environment: setting.environment,
            help: setting.help,
        }
    }
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &["Key", "Value", "Meaning"];

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), self.values.join(", "), self.help.clone()]
    }
}

/// A setting, with its origin.
#[derive(Serialize)]
#[serde(transparent)]
struct WithOrigin(Shown);

impl Row for WithOrigin {
    const COLUMNS: &'static [&'static str] = &["Key", "Value", "Origin", "Environment"];

    fn cells(&self) -> Vec<String> {
        let Shown {
            key,
            values,
            origin,
            environment,
            ..
        } = &self.0;
        let environment = environment.clone().unwrap_or_default();
        vec![key.clone(), values.join(", "), origin.clone(), environment]
    }
}

impl Config {
    pub(super) fn exec(self, settings: Settings, output: Output) -> anyhow::Result<()> {
        match self {
            Self::Check => check(settings, output),
            Self::Show { origin, arguments } => show(settings, origin, &arguments, output),
        }
    }
}

/// Shows the options of the one command that `arguments` call, with the program's name in front.
pub(super) fn options(
    settings: Settings,
    arguments: &[OsString],
    output: Output,
) -> anyhow::Result<()> {
    let arguments = arguments.iter().skip(1);
    let arguments: Vec<String> = arguments
        .map(|it| it.to_string_lossy().into_owned())
        .collect();
    show(settings, true, &arguments, output)
}

/// Formats every setting as JSON, without the values of secret ones.
///
/// # Errors
/// clap's, if a variable does not parse.
pub(super) fn without_secrets(settings: &Settings) -> anyhow::Result<String> {
    let file = settings.file.as_ref().ok().and_then(Option::as_ref);
    let all = config::settings(&settings.root, SECTIONS, file, &[])?;
    let rows: Vec<Shown> = all.into_iter().map(Shown::from).collect();
    Ok(serde_json::to_string_pretty(&rows)?)
}

fn check(settings: Settings, output: Output) -> anyhow::Result<()> {
    let file = settings.file?;
    let all = config::settings(&settings.root, SECTIONS, file.as_ref(), &[])?;
    let variable = |setting: Setting| match setting.origin {
        Origin::Environment(name) => Some(name),
        Origin::Flag | Origin::File(..) | Origin::Default | Origin::Unset => None,
    };
    let checked = Checked {
        settings: file.as_ref().map_or(0, |file| file.entries().len()),
        file: file.map(|file| file.path().display().to_string()),
        environment: all.into_iter().filter_map(variable).collect(),
    };
    output.item(&checked, Checked::human)?;
    Ok(())
}

fn show(
    settings: Settings,
    origin: bool,
    arguments: &[String],
    output: Output,
) -> anyhow::Result<()> {
    let file = settings.file?;
    let all = config::settings(&settings.root, SECTIONS, file.as_ref(), arguments)?;
    let rows = all.into_iter().map(Shown::from);
    if origin {
        output.list(&rows.map(WithOrigin).collect::<Vec<_>>())?;
    } else {
        output.list(&rows.collect::<Vec<_>>())?;
    }
    Ok(())
}
