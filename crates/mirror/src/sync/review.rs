//! `mirror.lock`: the result of a sync, one line for each fact, so that a change of the mirror can be reviewed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use outpost_files as files;
use serde::Deserialize;

use super::trust::Keys;
use crate::{Generation, generation::Signed};

const HEADER: &str = "# Made by `outpost mirror sync`. Commit it: it shows what changed, and whose keys are trusted.\n";
/// Maximum size of the file in bytes; ten thousand packages have four million.
const MAX_BYTES: u64 = 256 << 20;

/// Reason why a `mirror.lock` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The file cannot be read or written.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The contents are not valid.
    #[error("`{}` cannot be read; restore it, or remove it: the next complete sync writes it again", path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// Error from the parser.
        source: Box<toml::de::Error>,
    },
}

/// Reads the keys that a lock file trusts; none if it does not exist.
///
/// # Errors
/// [`ReviewError`].
pub fn read_keys(path: &Path) -> Result<Keys, ReviewError> {
    let failed = |source| ReviewError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    };
    let text = match fs::metadata(path) {
        Ok(found) if found.len() > MAX_BYTES => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => fs::read_to_string(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Keys::new()),
        Err(error) => Err(error),
    };
    keys_of(&text.map_err(failed)?).map_err(|source| ReviewError::Invalid {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Returns the keys in the text of such a file.
pub(super) fn keys_of(text: &str) -> Result<Keys, toml::de::Error> {
    #[derive(Deserialize)]
    struct Keyring {
        #[serde(default)]
        keys: Keys,
    }
    Ok(toml::from_str::<Keyring>(text)?.keys)
}

/// Replaces a lock file if its text changes, and returns whether it did.
///
/// # Errors
/// [`ReviewError::Io`].
pub fn write(path: &Path, generation: &Generation, keys: &Keys) -> Result<bool, ReviewError> {
    replace(path, &text(generation, keys))
}

/// Replaces only the keys in a lock file: an incomplete sync has no result to review, but has trusted keys
/// nevertheless.
///
/// # Errors
/// [`ReviewError::Io`].
pub fn write_keys(path: &Path, keys: &Keys) -> Result<bool, ReviewError> {
    let old = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        old => old.map_err(|source| ReviewError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        })?,
    };
    let rest = old.find("\n[[").map_or("", |start| &old[start..]);
    replace(path, &format!("{HEADER}{}{rest}", keys_table(keys)))
}

fn replace(path: &Path, text: &str) -> Result<bool, ReviewError> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let failed = |source| ReviewError::Io {
        what: "write",
        path: path.to_owned(),
        source,
    };
    // The file is for review, so everybody may read it.
    files::write_public(path, text.as_bytes()).map_err(failed)?;
    Ok(true)
}

/// Returns the text of a lock file. Equal contents give equal text.
fn text(generation: &Generation, keys: &Keys) -> String {
    let mut text = format!("{HEADER}{}", keys_table(keys));
    for provider in &generation.providers {
        table(
            &mut text,
            "[[provider]]",
            &[
                ("source", provider.addr.to_string()),
                ("version", provider.version.to_string()),
                ("key", key(provider.signed.as_ref())),
            ],
        );
        for package in &provider.packages {
            table(
                &mut text,
                "[[provider.package]]",
                &[
                    ("platform", package.platform.to_string()),
                    ("zh", package.archive.to_string()),
                    ("h1", package.h1_zip.to_string()),
                    // They differ only for a zip file with entries for directories.
                    (
                        "h1-unpacked",
                        match package.h1_zip == package.h1_tree {
                            true => String::new(),
                            false => package.h1_tree.to_string(),
                        },
                    ),
                ],
            );
        }
    }
    for module in &generation.modules {
        table(
            &mut text,
            "[[module]]",
            &[
                ("source", module.addr.clone()),
                ("version", module.version.to_string()),
                ("origin", module.origin.clone()),
                ("sha256", module.archive.to_string()),
            ],
        );
    }
    for git in &generation.git {
        table(&mut text, "[[git]]", &[("url", git.url.clone())]);
        for (name, commit) in &git.refs {
            table(
                &mut text,
                "[[git.ref]]",
                &[("name", name.clone()), ("commit", commit.clone())],
            );
        }
    }
    for tool in &generation.tools {
        table(
            &mut text,
            "[[tool]]",
            &[
                ("name", tool.name.clone()),
                ("version", tool.version.to_string()),
                ("platform", tool.platform.to_string()),
                ("key", key(tool.signed.as_ref())),
                ("sha256", tool.archive.to_string()),
            ],
        );
    }
    for file in &generation.files {
        table(
            &mut text,
            "[[file]]",
            &[
                ("url", file.url.clone()),
                ("sha256", file.content.to_string()),
            ],
        );
    }
    text
}

/// Returns the table of trusted keys, with an empty line before it; nothing if there are none.
pub(super) fn keys_table(keys: &Keys) -> String {
    let mut text = String::new();
    if !keys.is_empty() {
        text.push_str("\n[keys]\n");
    }
    for (namespace, fingerprints) in keys {
        let all: Vec<_> = fingerprints.iter().map(|key| quoted(key)).collect();
        let _ = writeln!(text, "{} = [{}]", quoted(namespace), all.join(", "));
    }
    text
}

fn key(signed: Option<&Signed>) -> String {
    let keys = signed
        .map(|signed| signed.keys.as_slice())
        .unwrap_or_default();
    let ids: Vec<_> = keys.iter().map(|key| key.id.as_str()).collect();
    ids.join(" ")
}

/// Adds a table without its empty values.
fn table(text: &mut String, heading: &str, values: &[(&str, String)]) {
    let _ = write!(text, "\n{heading}\n");
    let values: BTreeMap<usize, _> = values.iter().enumerate().collect();
    for (name, value) in values.into_values().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
