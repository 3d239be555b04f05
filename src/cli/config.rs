//! `outpost config`.

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
    let rows = all.into_iter().map(|setting| Shown {
        key: setting.key,
        values: setting.values,
        origin: setting.origin.to_string(),
        environment: setting.environment,
        help: setting.help,
    });
    if origin {
        output.list(&rows.map(WithOrigin).collect::<Vec<_>>())?;
    } else {
        output.list(&rows.collect::<Vec<_>>())?;
    }
    Ok(())
}
