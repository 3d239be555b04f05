//! TOML file: reading it, checking it against the commands, and passing its values to them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Section, find, is_named, is_secret, is_setting};

/// A file that parsed. Its keys and values are checked by [`File::apply`].
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Section that contains the key; empty at the top.
    pub section: String,
    /// Name of the key: an option's long name.
    pub name: String,
    /// Value of the key, or the elements of an array. A table becomes `key=value` texts.
    pub values: Vec<String>,
    /// Line of the key, from 1.
    pub line: usize,
}

/// Reasons why a configuration file cannot be used. Each names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that is missing or unreadable.
    #[error("failed to read the configuration file `{}`", .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file that is not TOML.
    #[error("{}:{line}: {message}", .path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// Message of the TOML parser.
        message: String,
    },
    /// A key that no option has as its name.
    #[error("{}:{line}: unknown key `{key}`{}", .path.display(), did_you_mean(.near))]
    Unknown {
        /// Path of the file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// Key, with its section.
        key: String,
        /// Existing key that resembles it most; `None` if none does.
        near: Option<String>,
    },
    /// A value that the option does not accept. It is not shown, because it may be a secret.
    #[error("{}:{line}: `{key}`: {reason}", .path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// Key, with its section.
        key: String,
        /// Values that the option expects.
        reason: String,
    },
    /// A secret in a file that others can read.
    #[error("{}:{line}: `{key}` is a secret, and other users can read this file", .path.display())]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Line of the secret, from 1.
        line: usize,
        /// Key, with its section.
        key: String,
    },
}

impl ConfigError {
    /// Returns what to try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some("name another file with `--config`".into()),
            Self::Syntax { .. } => None,
            Self::Unknown { .. } | Self::Invalid { .. } => {
                Some("`outpost config show` lists every key with its meaning".into())
            }
            Self::Exposed { path, .. } => Some(format!(
                "run `chmod 600 {}`, or put the secret into a file of its own and name that",
                path.display()
            )),
        }
    }
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref()
        .map(|near| format!(", did you mean `{near}`?"))
        .unwrap_or_default()
}

impl File {
    /// Reads and parses `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Syntax`], or [`ConfigError::Invalid`] for a value that no option has.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Parses `text`; `path` is for error texts, and for the check of who can read it.
    ///
    /// # Errors
    /// As [`File::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut file = Self {
            path: path.to_owned(),
            entries: Vec::new(),
        };
        for (key, value) in table.get_ref() {
            match value.get_ref() {
                DeValue::Table(section) => {
                    for (name, value) in section {
                        file.add(text, key.get_ref(), name, value)?;
                    }
                }
                _ => file.add(text, "", key, value)?,
            }
        }
        file.entries.sort_by_key(|entry| entry.line);
        Ok(file)
    }

    /// Returns the keys in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Path that the file was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn add(
        &mut self,
        text: &str,
        section: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let line = line_of(text, name.span().start);
        let values = texts(value.get_ref()).ok_or_else(|| ConfigError::Invalid {
            path: self.path.clone(),
            line,
            key: joined(section, name.get_ref()),
            reason: "expected a string, a number, a boolean, or an array or table of strings"
                .into(),
        })?;
        self.entries.push(Entry {
            section: section.to_owned(),
            name: name.get_ref().to_string(),
            values,
            line,
        });
        Ok(())
    }

    /// Checks every key and value against the options of `root`, and makes the values their defaults.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], [`ConfigError::Invalid`] or [`ConfigError::Exposed`], for the first line that has one.
    pub fn apply(&self, mut root: Command, sections: &[Section]) -> Result<Command, ConfigError> {
        for entry in &self.entries {
            let section = sections
                .iter()
                .find(|section| section.name == entry.section);
            let commands = section.map_or(&[] as &[&[&str]], |section| section.commands);
            let mut known = false;
            for path in commands {
                let Some(arg) = find(&root, path).and_then(|command| option(command, &entry.name))
                else {
                    continue;
                };
                known = true;
                self.check(entry, arg)?;
                let (id, values) = (arg.get_id().clone(), entry.values.clone());
                root = at(root, path, |command| {
                    command.mut_arg(id, |arg| arg.default_values(values))
                });
            }
            if !known {
                return Err(self.unknown(entry, &root, sections));
            }
        }
        Ok(root)
    }

    /// Checks a value with the option's own parser, in a command that has no other option.
    fn check(&self, entry: &Entry, arg: &Arg) -> Result<(), ConfigError> {
        let (path, line, key) = (
            self.path.clone(),
            entry.line,
            joined(&entry.section, &entry.name),
        );
        if is_secret(arg) && readable_by_others(&self.path) {
            return Err(ConfigError::Exposed { path, line, key });
        }
        if entry.values.len() > 1 && !matches!(arg.get_action(), ArgAction::Append) {
            let reason = "expected one value, not an array".into();
            return Err(ConfigError::Invalid {
                path,
                line,
                key,
                reason,
            });
        }
        let alone = Arg::new("value")
            .long("value")
            .action(ArgAction::Set)
            .allow_hyphen_values(true)
            .value_parser(arg.get_value_parser().clone());
        for value in &entry.values {
            let parsed = Command::new("check")
                .no_binary_name(true)
                .arg(alone.clone())
                .try_get_matches_from([format!("--value={value}")]);
            if let Err(error) = parsed {
                let reason = reason_of(&error, is_secret(arg));
                return Err(ConfigError::Invalid {
                    path,
                    line,
                    key,
                    reason,
                });
            }
        }
        Ok(())
    }

    fn unknown(&self, entry: &Entry, root: &Command, sections: &[Section]) -> ConfigError {
        let key = joined(&entry.section, &entry.name);
        let near = sections
            .iter()
            .flat_map(|section| {
                section
                    .commands
                    .iter()
                    .map(move |path| (section.name, path))
            })
            .filter_map(|(section, path)| Some((section, find(root, path)?)))
            .flat_map(|(section, command)| {
                let settings = command.get_arguments().filter(|arg| is_setting(arg));
                settings.filter_map(move |arg| Some(joined(section, arg.get_long()?)))
            })
            .map(|known| (distance(&known, &key), known))
            .filter(|(distance, _)| *distance <= 3)
            .min()
            .map(|(_, known)| known);
        ConfigError::Unknown {
            path: self.path.clone(),
            line: entry.line,
            key,
            near,
        }
    }
}

fn option<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| is_setting(arg) && is_named(arg, name))
}

/// Changes the command at `path` below `command`.
fn at(command: Command, path: &[&str], change: impl FnOnce(Command) -> Command) -> Command {
    match path {
        [] => change(command),
        [first, rest @ ..] => command.mut_subcommand(*first, |sub| at(sub, rest, change)),
    }
}

fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    if let DeValue::Array(array) = value {
        return array.iter().map(|item| text(item.get_ref())).collect();
    }
    if let DeValue::Table(table) = value {
        return table
            .iter()
            .map(|(key, value)| Some(format!("{}={}", key.get_ref(), text(value.get_ref())?)))
            .collect();
    }
    text(value).map(|text| vec![text])
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is another crate's; these are all that fit in one text"
)]
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Returns clap's message, without the name of the made-up option, and without the value if that is a secret.
fn reason_of(error: &clap::Error, secret: bool) -> String {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue) {
        return format!("expected one of {}", allowed.join(", "));
    }
    let value = error
        .get(ContextKind::InvalidValue)
        .map(ToString::to_string);
    let source = std::error::Error::source(error).map(ToString::to_string);
    match (value, source) {
        (Some(value), Some(source)) if !secret => format!("invalid value `{value}`: {source}"),
        (_, Some(source)) => source,
        (_, None) => "invalid value".into(),
    }
}

fn joined(section: &str, name: &str) -> String {
    match section {
        "" => name.to_owned(),
        section => format!("{section}.{name}"),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}

#[cfg(unix)]
fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &Path) -> bool {
    false
}

/// Number of letters to add, drop or change (Levenshtein distance).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in right.chars().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
