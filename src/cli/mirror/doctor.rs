//! `outpost mirror doctor`: templates against a mirror.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use semver::Version;
use serde::Serialize;
use url::Url;

use super::{
    super::{
        engine::host_environment,
        exit::{ChecksFailed, UsageError},
        output::{Output, Row, note},
        remote::{Authorities, Revoked, secret_file, trust},
    },
    Place, pull,
};
use crate::{
    mirror::{
        Generation, Remote, Store,
        doctor::{self, Item, JobEngine, Served},
        scan::{Tree, closure::Closure},
        sync::{config::Engine, load},
    },
    net::{http, proxy::Proxies},
    registry::Platform,
    stop::Stop,
    terraform::binary::{Binary, Kind},
};

/// Mirror to examine, and the part of it.
#[derive(Debug, clap::Args)]
pub(super) struct View {
    #[command(flatten)]
    place: Place,
    /// Platform that providers run on; repeatable [default: this machine's platform]
    #[arg(long, value_name = "OS_ARCH")]
    pub(super) platform: Vec<Platform>,
    /// Engine whose registry is the default for sources without a host: terraform or tofu
    #[arg(long, value_name = "ENGINE", default_value = "terraform", value_parser = engine)]
    engine: Engine,
}

/// Check whether the mirror has what templates need
///
/// With --mirror URL a served mirror is queried the way jobs query it, and missing items are added to its list of misses.
///
/// Each provider and module is reported as present, missing, present in other versions only, present with a package that does not
/// match the lock file, impossible to mirror, invalid for every engine, or unclear because only an engine could
/// evaluate it. If modules have a `required_version`, the engine is an item, too. The exit code is 1 unless everything is
/// present.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Doctor {
    #[command(flatten)]
    view: View,
    /// Version of the engine that jobs use; repeatable [default: those in the mirror, or else the engine on PATH]
    #[arg(long, value_name = "VERSION")]
    engine_version: Vec<Version>,
    /// File with the token for a served mirror
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_TOKEN_FILE")]
    mirror_token_file: Option<PathBuf>,
    #[command(flatten)]
    authorities: Authorities,
    #[command(flatten)]
    revoked: Revoked,
    /// Do not add to a served mirror's list of misses
    #[arg(long)]
    no_report: bool,
    /// Directories or tar archives of templates
    #[arg(value_name = "TEMPLATE", required = true)]
    templates: Vec<PathBuf>,
}

/// An item that a template needs.
#[derive(Serialize)]
pub(super) struct ItemRow {
    template: String,
    #[serde(flatten)]
    pub(super) item: Item,
}

impl ItemRow {
    pub(super) fn new(path: &Path, item: Item) -> Self {
        Self {
            template: path.display().to_string(),
            item,
        }
    }
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

impl View {
    /// Opens the mirror in a directory, with its newest generation.
    pub(super) fn open(&self) -> anyhow::Result<(Store, Generation)> {
        if let Some(url) = self.place.url()? {
            let text = format!(
                "`--mirror {url}` is a served mirror, but this command needs the mirror's directory"
            );
            return Err(UsageError(text).into());
        }
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

    /// Determines what a template needs, with the modules of the mirror.
    pub(super) async fn closure(
        &self,
        path: &Path,
        store: &Store,
        generation: &Generation,
    ) -> anyhow::Result<Closure> {
        let tree = template(path)?;
        Ok(doctor::closure(store, generation, tree, self.engine.default_host()).await)
    }
}

/// Reads the files of a template.
///
/// # Errors
/// If they cannot be read, or are not a template.
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
            let text = format!(
                "`{}` is not a template: it has no .tf files",
                path.display()
            );
            Err(UsageError(text).into())
        }
    }
}

impl Doctor {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let rows = match self.view.place.url()? {
            Some(url) => self.served(&url, &stop).await?,
            None => self.stored(&stop).await?,
        };
        output.list(&rows)?;
        fail_if_missing(rows.iter().map(|row| &row.item))
    }

    /// Examines the templates against a mirror in a directory.
    async fn stored(&self, stop: &Stop) -> anyhow::Result<Vec<ItemRow>> {
        let (store, generation) = self.view.open()?;
        let engine = self.job_engine(&generation, stop).await;
        let mut rows = Vec::new();
        for path in &self.templates {
            let closure = self.view.closure(path, &store, &generation).await?;
            let items = doctor::examine(&closure, &generation, &self.view.platforms(), &engine);
            rows.extend(items.into_iter().map(|item| ItemRow::new(path, item)));
        }
        Ok(rows)
    }

    /// Examines the templates against a served mirror, which records what it lacks as misses.
    async fn served(&self, url: &Url, stop: &Stop) -> anyhow::Result<Vec<ItemRow>> {
        let trust = trust(
            self.authorities.ca_file.clone(),
            self.revoked.crl_file.clone(),
        );
        let mut config = http::Config::new(url.clone());
        config.proxies = Proxies::from_env();
        config.trust = trust.clone();
        let token = self.mirror_token_file.as_deref().map(secret_file);
        let remote = Remote::new(http::Client::new(config)?, token.transpose()?);
        let served = Served::new(&remote, pull::fetcher(&trust)?).await?;
        // A served mirror does not provide jobs with an engine.
        let engine = self.job_engine(&Generation::default(), stop).await;
        let platforms = self.view.platforms();
        let mut rows = Vec::new();
        for path in &self.templates {
            let tree = template(path)?;
            let closure = served.closure(tree, self.view.engine.default_host());
            let closure = closure.await;
            let generation = served.generation(&closure, &platforms).await?;
            let items = doctor::examine(&closure, &generation, &platforms, &engine);
            rows.extend(items.into_iter().map(|item| ItemRow::new(path, item)));
        }
        let missing = doctor::missing(rows.iter().map(|row| &row.item));
        if !self.no_report
            && let Err(error) = remote.report(&missing).await
        {
            let error = anyhow::Error::from(error);
            note(&format!(
                "cannot report the missing items to the mirror: {error:#}"
            ));
        }
        Ok(rows)
    }

    /// Returns the engine that jobs use, as far as it is known here: the operator's choice, one in the mirror, or one
    /// on this machine.
    async fn job_engine(&self, generation: &Generation, stop: &Stop) -> JobEngine {
        let (name, kind) = match self.view.engine {
            Engine::Terraform => ("terraform", Kind::Terraform),
            Engine::Tofu => ("tofu", Kind::OpenTofu),
        };
        let mut versions = self.engine_version.clone();
        let is_mirrored = generation.tools.iter().any(|tool| tool.name == name);
        if versions.is_empty()
            && !is_mirrored
            && let Ok(path) = which::which(name)
        {
            let probed = Binary::probe(&path, host_environment().to_vec(), stop).await;
            let probed = probed.ok().filter(|binary| binary.kind == kind);
            versions.extend(probed.map(|binary| binary.version));
        }
        JobEngine { name, versions }
    }
}

/// Fails with the number of items that a build would lack.
pub(super) fn fail_if_missing<'a>(items: impl Iterator<Item = &'a Item>) -> anyhow::Result<()> {
    match items.filter(|item| !item.verdict.is_good()).count() {
        0 => Ok(()),
        count => Err(ChecksFailed(count).into()),
    }
}

fn engine(text: &str) -> Result<Engine, String> {
    match text {
        "terraform" => Ok(Engine::Terraform),
        "tofu" => Ok(Engine::Tofu),
        _ => Err("expected terraform or tofu".to_owned()),
    }
}
