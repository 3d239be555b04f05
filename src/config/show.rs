//! Every setting with its value and its origin. Pure.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, parser::ValueSource};

use super::{File, Section, find, is_named, is_secret, is_setting};

/// An option of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Key in the file, such as `provisioner.name`.
    pub key: String,
    /// Environment variable that sets it, if there is one.
    pub environment: Option<String>,
    /// Purpose of the setting: the first sentence of its help.
    pub help: String,
    /// Values of the setting; empty if it is not set. Those of a secret are `[redacted]`.
    pub values: Vec<String>,
    /// Origin of the values.
    pub origin: Origin,
}

/// Origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An option on the command line.
    Flag,
    /// An environment variable, by its name.
    Environment(String),
    /// A file, with the line.
    File(PathBuf, usize),
    /// Default of the program.
    Default,
    /// No origin: there is no value.
    Unset,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Unset => f.write_str("not set"),
        }
    }
}

/// Returns all settings of `root`, to which `file` was applied, as a run with `arguments` would see them.
///
/// `arguments` is a command line without the program's name, such as `["provisioner", "start", "--name", "x"]`,
/// or empty: then only the environment, the file and the defaults count.
///
/// # Errors
/// clap's, if an environment variable or an argument does not parse.
pub fn settings(
    root: &Command,
    sections: &[Section],
    file: Option<&File>,
    arguments: &[String],
) -> Result<Vec<Setting>, clap::Error> {
    let mut all = Vec::new();
    for section in sections {
        let Some(path) = section.commands.first() else {
            continue;
        };
        let Some(command) = find(root, path) else {
            continue;
        };
        let typed = section
            .commands
            .iter()
            .any(|path| !path.is_empty() && arguments.iter().take(path.len()).eq(path.iter()));
        let line: Vec<&str> = match typed {
            true => arguments.iter().map(String::as_str).collect(),
            false => path.to_vec(),
        };
        let matches = root
            .clone()
            .no_binary_name(true)
            .subcommand_required(false)
            .arg_required_else_help(false)
            .try_get_matches_from(line)?;
        let matches = innermost(&matches);
        for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
            all.push(setting(section.name, arg, matches, file));
        }
    }
    Ok(all)
}

fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches
        .subcommand()
        .map_or(matches, |(_, matches)| innermost(matches))
}

fn setting(section: &str, arg: &Arg, matches: &ArgMatches, file: Option<&File>) -> Setting {
    let (id, name) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
    let values: Vec<String> = matches
        .try_get_raw(id)
        .ok()
        .flatten()
        .into_iter()
        .flatten()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let environment = arg
        .get_env()
        .map(|name| name.to_string_lossy().into_owned());
    let in_file = file.and_then(|file| {
        let mut entries = file.entries().iter();
        let entry = entries.find(|entry| entry.section == section && is_named(arg, &entry.name))?;
        Some(Origin::File(file.path().to_owned(), entry.line))
    });
    let origin = match matches
        .try_get_raw(id)
        .ok()
        .flatten()
        .and(matches.value_source(id))
    {
        Some(ValueSource::CommandLine) => Origin::Flag,
        Some(ValueSource::EnvVariable) => {
            Origin::Environment(environment.clone().unwrap_or_default())
        }
        Some(_) => in_file.unwrap_or(Origin::Default),
        None => Origin::Unset,
    };
    Setting {
        key: if section.is_empty() {
            name.to_owned()
        } else {
            format!("{section}.{name}")
        },
        environment,
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        values: if is_secret(arg) {
            values.iter().map(|_| "[redacted]".to_owned()).collect()
        } else {
            values
        },
        origin,
    }
}
