//! `outpost mirror doctor` and `outpost mirror lock`: templates against a mirror.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    super::{
        exit::{Unwell, UsageError},
        output::{Output, Row},
    },
    Place,
};
use crate::{
    language::lock::FILE_NAME,
    mirror::{
        Generation, Store,
        doctor::{self, Item},
        scan::{Tree, closure::Closure},
        sync::{load, wishes::Engine},
    },
    registry::Platform,
};

/// What of which mirror is looked at.
#[derive(Debug, clap::Args)]
struct View {
    #[command(flatten)]
    place: Place,
    /// Platform that providers run on; repeatable [default: this machine's platform]
    #[arg(long, value_name = "OS_ARCH")]
    platform: Vec<Platform>,
    /// Engine whose registry is the default for sources without a host: terraform or tofu
    #[arg(long, value_name = "ENGINE", default_value = "terraform", value_parser = engine)]
    engine: Engine,
}

/// Check whether the mirror has what templates need
///
/// Each provider and module is present, missing, present in other versions only, present with a package that does not
/// match the lock file, or nothing that a mirror can hold. The exit code is 1 unless everything is present.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Doctor {
    #[command(flatten)]
    view: View,
    /// Directories or tar archives of templates
    #[arg(value_name = "TEMPLATE", required = true)]
    templates: Vec<PathBuf>,
}

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
    /// Directories of templates
    #[arg(value_name = "DIR", default_value = ".")]
    templates: Vec<PathBuf>,
}

/// One item of one template.
#[derive(Serialize)]
struct ItemRow {
    template: String,
    #[serde(flatten)]
    item: Item,
}

impl Row for ItemRow {
    const COLUMNS: &'static [&'static str] = &["Template", "Item", "Wanted", "Result", "Detail"];

    fn cells(&self) -> Vec<String> {
        let verdict = serde_json::to_value(self.item.verdict).unwrap_or_default();
        vec![
            self.template.clone(),
            self.item.item.clone(),
            self.item.wanted.clone(),
            verdict.as_str().unwrap_or_default().replace('-', " "),
            self.item.detail.clone(),
        ]
    }
}

/// What became of a lock file.
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

impl View {
    /// The mirror as it is now. `None` is an empty one.
    fn open(&self) -> anyhow::Result<(Store, Generation)> {
        let store = Store::existing(&self.place.dir()?)?;
        let (_, generation) = store.newest()?;
        Ok((store, generation))
    }

    fn platforms(&self) -> Vec<Platform> {
        match self.platform.is_empty() {
            true => vec![Platform::current()],
            false => self.platform.clone(),
        }
    }

    async fn closure(
        &self,
        path: &Path,
        store: &Store,
        generation: &Generation,
    ) -> anyhow::Result<Closure> {
        let tree = template(path)?;
        Ok(doctor::closure(store, generation, tree, self.engine.default_host()).await)
    }
}

/// Reads a template's files.
///
/// # Errors
/// If they cannot be read, or are no template.
pub(super) fn template(path: &Path) -> anyhow::Result<Tree> {
    let failed = || format!("failed to read the template `{}`", path.display());
    let tree: Tree = load(path).with_context(failed)?;
    let is_template = tree
        .files
        .keys()
        .any(|name| name.ends_with(".tf") || name.ends_with(".tf.json"));
    match is_template {
        true => Ok(tree),
        false => {
            let text = format!("`{}` is no template: it has no .tf files", path.display());
            Err(UsageError(text).into())
        }
    }
}

impl Doctor {
    pub(super) async fn exec(self, output: Output) -> anyhow::Result<()> {
        let (store, generation) = self.view.open()?;
        let mut rows = Vec::new();
        for path in &self.templates {
            let closure = self.view.closure(path, &store, &generation).await?;
            let items = doctor::examine(&closure, &generation, &self.view.platforms());
            let template = path.display().to_string();
            rows.extend(items.into_iter().map(|item| ItemRow {
                template: template.clone(),
                item,
            }));
        }
        output.list(&rows)?;
        unwell(rows.iter().map(|row| &row.item))
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
            match doctor::lock(&store, &closure, &generation, &here) {
                Ok(lock) => rows.push(LockRow {
                    providers: lock.providers.len(),
                    changed: replace(&path.join(FILE_NAME), &lock.to_string(), self.check)?,
                    template,
                }),
                Err(items) => wrong.extend(items.into_iter().map(|item| ItemRow {
                    template: template.clone(),
                    item,
                })),
            }
        }
        if !wrong.is_empty() {
            output.list(&wrong)?;
            return unwell(wrong.iter().map(|row| &row.item));
        }
        output.list(&rows)?;
        let changed = rows.iter().filter(|row| row.changed).count();
        match (self.check, changed) {
            (true, 1..) => Err(Unwell(changed).into()),
            _ => Ok(()),
        }
    }
}

/// Platforms that every provider of a template is there for; a provider that is published for few does not keep the
/// others from being locked.
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

fn unwell<'a>(items: impl Iterator<Item = &'a Item>) -> anyhow::Result<()> {
    match items.filter(|item| !item.verdict.is_good()).count() {
        0 => Ok(()),
        count => Err(Unwell(count).into()),
    }
}

/// Replaces a file, if it would change; tells whether it would.
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

fn engine(text: &str) -> Result<Engine, String> {
    match text {
        "terraform" => Ok(Engine::Terraform),
        "tofu" => Ok(Engine::Tofu),
        _ => Err("expected terraform or tofu".to_owned()),
    }
}
