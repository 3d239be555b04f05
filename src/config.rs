//! Settings from a file, beneath the environment and the command line.
//!
//! There is one list of settings: the options of the commands themselves. A [`File`] gives options other defaults, so
//! that clap's own order applies: flag, environment variable, file, built-in default. A section of the file stands
//! for one or more commands, and a key in it is the long name of an option. Adding an option adds the key.

#![allow(
    clippy::disallowed_methods,
    reason = "the environment comes in here, and commands measure for people"
)]

pub mod contexts;
mod file;
mod show;

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

pub use self::{
    file::{ConfigError, Entry, File},
    show::{Origin, Setting, settings},
};

/// A section of the file, and the commands whose options it contains. The empty name is the top of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Name of the section.
    pub name: &'static str,
    /// Paths of commands below the root, such as `["provisioner", "start"]`.
    pub commands: &'static [&'static [&'static str]],
}

/// The user's own directory for settings and saved logins, if there is a home.
pub fn user_dir() -> Option<PathBuf> {
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(user.join("outpost"))
}

/// Paths where the file is looked for if none is named: in the user's directory, then in the machine's.
pub fn default_paths() -> Vec<PathBuf> {
    let directories = user_dir()
        .into_iter()
        .chain([PathBuf::from("/etc/outpost")]);
    directories
        .map(|directory| directory.join("outpost.toml"))
        .collect()
}

/// Reads the file that `named` names, else the first of [`default_paths`] that exists.
///
/// # Errors
/// [`ConfigError`] if a named file is missing, or what was found cannot be read or is not TOML.
pub fn load(named: Option<&Path>) -> Result<Option<File>, ConfigError> {
    let found = match named {
        Some(path) => Some(path.to_owned()),
        None => default_paths().into_iter().find(|path| path.is_file()),
    };
    found.map(|path| File::load(&path)).transpose()
}

/// Returns whether an option is a setting: it has a long name and a value that makes sense in a file, and is not
/// hidden.
pub(crate) fn is_setting(arg: &Arg) -> bool {
    let acts = matches!(
        arg.get_action(),
        ArgAction::Set | ArgAction::Append | ArgAction::SetTrue
    );
    acts && !arg.is_hide_set() && arg.get_long().is_some_and(|name| name != "config")
}

/// Returns whether an option has this name, or once had it: existing files keep working.
pub(crate) fn is_named(arg: &Arg, name: &str) -> bool {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long() == Some(name) || aliases.contains(&name)
}

/// Returns whether people must not see an option's value.
pub(crate) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// The command at `path` below `root`.
pub(crate) fn find<'a>(root: &'a Command, path: &[&str]) -> Option<&'a Command> {
    path.iter()
        .try_fold(root, |command, name| command.find_subcommand(name))
}
