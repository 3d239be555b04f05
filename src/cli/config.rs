//! `outpost config`.

use std::ffi::OsString;

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
    /// A value on the command line counts most, then the environment, then the file, then the default.
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

#[derive(Serialize)]
struct Checked {
    file: Option<String>,
    settings: usize,
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

/// The same with its origin.
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

/// Every setting as JSON, with what is secret hidden.
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
    let set = |setting: &&Setting| !matches!(setting.origin, Origin::Default | Origin::Unset);
    let checked = Checked {
        file: file.map(|file| file.path().display().to_string()),
        settings: all.iter().filter(set).count(),
    };
    output.item(&checked, |checked| match &checked.file {
        Some(file) => format!(
            "{file} is good; {} settings differ from the defaults",
            checked.settings
        ),
        None => format!(
            "there is no file; {} settings come from the environment",
            checked.settings
        ),
    })?;
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
