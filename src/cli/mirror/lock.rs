//! `outpost mirror lock`: lock files of templates, merged with what a mirror has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    super::{
        exit::ChecksFailed,
        output::{Output, Row},
    },
    doctor::{ItemRow, View, fail_if_missing},
};
use crate::{
    language::lock::FILE_NAME,
    mirror::{Generation, lock, scan::closure::Closure},
    registry::Platform,
};

/// Write lock files that match the mirror, without downloading anything
///
/// Versions in a template's lock file stay. Checksums of all platforms in the mirror are added, so that a lock file made
/// on one machine works on all others.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Lock {
    #[command(flatten)]
    view: View,
    /// Change nothing; fail if a file would change
    #[arg(long)]
    check: bool,
    /// Directories of the templates
    #[arg(value_name = "DIR", default_value = ".")]
    templates: Vec<PathBuf>,
}

/// Result for a lock file.
#[derive(Serialize)]
struct LockRow {
    template: String,
    providers: usize,
    changed: bool,
}

impl Row for LockRow {
    const COLUMNS: &'static [&'static str] = &["Template", "Providers", "Changed"];

    fn cells(&self) -> Vec<String> {
        let changed = if self.changed { "yes" } else { "no" };
        vec![
            self.template.clone(),
            self.providers.to_string(),
            changed.to_owned(),
        ]
    }
}

impl Lock {
    pub(super) async fn exec(self, output: Output) -> anyhow::Result<()> {
        let (store, generation) = self.view.open()?;
        let platforms = match self.view.platform.is_empty() {
            true => generation.platforms(),
            false => self.view.platform.clone(),
        };
        let (mut rows, mut wrong) = (Vec::new(), Vec::new());
        for path in &self.templates {
            let closure = self.view.closure(path, &store, &generation).await?;
            let template = path.display().to_string();
            let here = of_template(&closure, &generation, &platforms);
            match lock::lock(&store, &closure, &generation, &here) {
                Ok(lock) => rows.push(LockRow {
                    providers: lock.providers.len(),
                    changed: replace(&path.join(FILE_NAME), &lock.to_string(), self.check)?,
                    template,
                }),
                Err(items) => wrong.extend(items.into_iter().map(|item| ItemRow::new(path, item))),
            }
        }
        if !wrong.is_empty() {
            output.list(&wrong)?;
            return fail_if_missing(wrong.iter().map(|row| &row.item));
        }
        output.list(&rows)?;
        let changed = rows.iter().filter(|row| row.changed).count();
        match (self.check, changed) {
            (true, 1..) => Err(ChecksFailed(changed).into()),
            _ => Ok(()),
        }
    }
}

/// Platforms that every provider of a template is available for. A provider that is published for few does not keep
/// the others from being locked.
fn of_template(
    closure: &Closure,
    generation: &Generation,
    platforms: &[Platform],
) -> Vec<Platform> {
    let is_there = |platform: &&Platform| {
        closure.providers.keys().all(|addr| {
            let mut versions = generation.versions(addr);
            versions.any(|provider| provider.packages.iter().any(|p| p.platform == **platform))
        })
    };
    platforms.iter().filter(is_there).cloned().collect()
}

/// Replaces a file if its text changes, and returns whether it does.
fn replace(path: &Path, text: &str, only_check: bool) -> anyhow::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    if !only_check {
        let failed = || format!("failed to write `{}`", path.display());
        fs::write(path, text).with_context(failed)?;
    }
    Ok(true)
}
