//! Template that `dev` builds: a directory, or the example in this program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use tempfile::TempDir;

use crate::{
    cli::{exit::UsageError, output},
    files::archive,
};

/// Example whose workspace is a local process, so that `dev` works wherever this program does.
const PROCESS: &[(&str, &str)] = &[
    (
        "main.tf",
        include_str!("../../../examples/templates/process/main.tf"),
    ),
    (
        "start.sh",
        include_str!("../../../examples/templates/process/start.sh"),
    ),
    (
        "stop.sh",
        include_str!("../../../examples/templates/process/stop.sh"),
    ),
    (
        "README.md",
        include_str!("../../../examples/templates/process/README.md"),
    ),
];

/// A template on disk.
pub(super) struct Template {
    /// Name of the template at the server.
    pub(super) name: String,
    directory: PathBuf,
    /// Directory of the unpacked example, removed when this is dropped.
    _unpacked: Option<TempDir>,
}

impl Template {
    /// Returns the template in `directory`, or the example if there is none.
    ///
    /// # Errors
    /// If the directory is not one, or the example cannot be unpacked.
    pub(super) fn find(directory: Option<&Path>) -> anyhow::Result<Self> {
        let Some(directory) = directory else {
            if has_source(Path::new(".")) {
                output::note(
                    "Building the example; `outpost dev .` builds the template in this directory.",
                );
            }
            let unpacked = unpack().context("failed to unpack the example")?;
            return Ok(Self {
                name: "process".into(),
                directory: unpacked.path().to_owned(),
                _unpacked: Some(unpacked),
            });
        };
        let found = directory.canonicalize();
        let directory = found
            .with_context(|| format!("failed to open the template `{}`", directory.display()))?;
        if !directory.is_dir() {
            return Err(UsageError(format!("`{}` is not a directory", directory.display())).into());
        }
        Ok(Self {
            name: slug(&directory),
            directory,
            _unpacked: None,
        })
    }

    /// Returns whether the template declares a Terraform variable of this name.
    pub(super) fn declares(&self, variable: &str) -> anyhow::Result<bool> {
        let mut files = fs::read_dir(&self.directory)?;
        let header = format!("variable \"{variable}\"");
        files.try_fold(false, |found, file| {
            let path = file?.path();
            let is_source = path.extension().is_some_and(|extension| extension == "tf");
            Ok(found
                || (is_source
                    && fs::read_to_string(&path)?
                        .lines()
                        .any(|line| line.starts_with(&header))))
        })
    }

    /// Packs the template for the server.
    pub(super) fn pack(&self) -> anyhow::Result<Bytes> {
        let packed = archive::pack_template(&self.directory);
        packed
            .with_context(|| format!("failed to pack the template `{}`", self.directory.display()))
    }
}

fn has_source(directory: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(directory) else {
        return false;
    };
    entries.any(|entry| entry.is_ok_and(|it| it.path().extension().is_some_and(|it| it == "tf")))
}

fn unpack() -> io::Result<TempDir> {
    let directory = TempDir::with_prefix("outpost-template-")?;
    for (name, text) in PROCESS {
        fs::write(directory.path().join(name), text)?;
    }
    Ok(directory)
}

/// Turns the directory's name into a valid template name: lower-case letters, digits and single hyphens.
fn slug(directory: &Path) -> String {
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let words = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let slug: String = words
        .collect::<Vec<_>>()
        .join("-")
        .chars()
        .take(32)
        .collect();
    match slug.trim_end_matches('-') {
        "" => "template".to_owned(),
        slug => slug.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_directory_has_a_name_that_servers_accept() {
        assert_eq!(slug(Path::new("/a/My_Template (2)")), "my-template-2");
        assert_eq!(slug(Path::new("/a/über.tf")), "ber-tf");
        assert_eq!(slug(Path::new("/")), "template");
    }
}
