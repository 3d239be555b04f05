//! Settings from a file, beneath the environment and the command line.
//!
//! There is one list of settings: the options of the commands themselves. A [`File`] gives options other defaults,
//! so that clap's own order holds: flag, environment variable, file, built-in default. A section of the file
//! stands for one or more commands, and a key in it is the long name of an option. Whoever adds an option has
//! added the key.

pub mod contexts;
mod file;
mod show;

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

pub use self::{
    file::{ConfigError, Entry, File},
    show::{Origin, Setting, settings},
};

/// A part of the file, and the commands whose options stand in it. The empty name is the top of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name in the file.
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

/// Where the file is looked for if nobody names one: the user's directory, then the machine's.
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

/// Whether an option is a setting: it has a long name and a value that makes sense in a file, and is not hidden.
pub(crate) fn is_setting(arg: &Arg) -> bool {
    let acts = matches!(
        arg.get_action(),
        ArgAction::Set | ArgAction::Append | ArgAction::SetTrue
    );
    acts && !arg.is_hide_set() && arg.get_long().is_some_and(|name| name != "config")
}

/// Whether an option has this name, or had it once: files keep working.
pub(crate) fn is_named(arg: &Arg, name: &str) -> bool {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long() == Some(name) || aliases.contains(&name)
}

/// Whether people must not see an option's value.
pub(crate) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// The command at `path` below `root`.
pub(crate) fn find<'a>(root: &'a Command, path: &[&str]) -> Option<&'a Command> {
    path.iter()
        .try_fold(root, |command, name| command.find_subcommand(name))
}
