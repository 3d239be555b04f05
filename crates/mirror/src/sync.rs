//! `outpost mirror sync`: from the needs of templates to a generation that satisfies them.
//!
//! The steps are: resolve, fetch, verify, commit. Each verified file enters the store at once, so an interrupted run
//! requests nothing twice; the generation comes last. It also has all contents of the previous one: only `prune`
//! removes anything.

mod adopt;
mod coder_templates;
pub mod config;
mod fetched;
pub mod missed;
mod modules;
mod network_mirror;
mod package;
mod pins;
mod provider;
mod pull;
mod review;
mod templates;
mod tools;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use outpost_base::{
    error_chain::error_chain,
    registry::{Platform, ProviderAddr},
    secret::Secret,
    stop::Stop,
};
use semver::Version;

pub use self::{
    config::{MirrorConfig, MirrorConfigError},
    modules::{tree_of, unsatisfied},
    pull::{Counts, PullError, Release, Upstream},
    review::{ReviewError, read_keys, write as write_review, write_keys as write_reviewed_keys},
    templates::load,
    trust::{Accepted, Keys, Trust, TrustError},
};
use super::{
    Generation, Store, StoreError,
    fetch::{FetchError, Fetcher, Watch, blocking, registry::Registries},
    generation,
    images::{self, Access, ImageError},
    pulled::Ledger,
};

/// One run of a sync.
pub struct Sync {
    /// Store that receives the files.
    pub store: Store,
    /// Wanted contents of the mirror.
    pub config: MirrorConfig,
    /// Decides which signatures are trusted.
    pub trust: Trust,
    /// Client for downloads from origins.
    pub fetcher: Fetcher,
    /// Registries of providers and modules.
    pub registries: Registries,
    /// Receiver of the progress.
    pub watch: Arc<dyn Watch>,
    /// Authorities in addition to the system's, in PEM, for git and for registries of images.
    pub authorities: Vec<Vec<u8>>,
    /// Directories with packages that are imported.
    pub import_dirs: Vec<PathBuf>,
    /// Token for servers with templates that name no `token_file`.
    pub session_token: Option<Secret>,
    /// `true` to report only what would be done.
    pub dry_run: bool,
}

/// Result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Wanted contents that the store has after the run.
    pub synced: Generation,
    /// Number of the current generation, if there is one.
    pub generation: Option<u64>,
    /// `true` if the run made this generation.
    pub is_new: bool,
    /// Number of files that were downloaded, or would be.
    pub files: usize,
    /// Total size of these files in bytes, as far as it is known.
    pub bytes: u64,
    /// Number of files whose length is unknown.
    pub unknown: usize,
    /// Number of packages that were already present.
    pub present: usize,
    /// Versions that replace those in the mirror, because the operator accepts that.
    replaced: BTreeSet<(ProviderAddr, Version)>,
    /// Wanted contents that are missing after the run.
    pub failures: Vec<Failure>,
}

/// Something that is wanted and could not be provided.
#[derive(Debug)]
pub struct Failure {
    /// Name of the missing item.
    pub what: String,
    /// Reason for the failure.
    pub error: Cause,
}

/// Reason why an item could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The item could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The item is not trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The store refused the item or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A directory cannot be read.
    #[error("failed to read it")]
    Read(#[from] std::io::Error),
    /// The image cannot be fetched, or is not valid.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No version satisfies the constraints.
    #[error("{0}")]
    Unsatisfied(String),
}

impl Failure {
    /// Returns whether a person should examine the failure before any further attempt.
    pub fn is_untrusted(&self) -> bool {
        match &self.error {
            Cause::Trust(_) => true,
            Cause::Store(StoreError::Mismatch { .. } | StoreError::Package { .. }) => true,
            Cause::Fetch(error) => error.is_untrusted(),
            Cause::Image(ImageError::Invalid { .. }) => true,
            Cause::Store(_) | Cause::Image(_) | Cause::Read(_) | Cause::Unsatisfied(_) => false,
        }
    }

    /// Returns whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(
            &self.error,
            Cause::Store(StoreError::Full { .. })
                | Cause::Fetch(FetchError::Store(StoreError::Full { .. }))
                | Cause::Image(ImageError::Store(StoreError::Full { .. }))
        )
    }

    /// Returns a suggestion for the operator.
    pub fn hint(&self) -> Option<String> {
        match &self.error {
            Cause::Trust(error) => error.hint(),
            Cause::Store(error) | Cause::Fetch(FetchError::Store(error)) => {
                error.hint().map(str::to_owned)
            }
            _ => None,
        }
    }

    /// Returns the error with all its causes.
    pub fn reason(&self) -> String {
        error_chain(&self.error)
    }
}

/// Versions of providers, with the platforms for which they are wanted.
type Wanted = BTreeMap<(ProviderAddr, Version), BTreeSet<Platform>>;

impl Sync {
    /// Runs the sync. A failure of one item does not prevent the others.
    ///
    /// # Errors
    /// If the store cannot be used, or if the user stops the run. What was fetched until then stays in the store.
    pub async fn run(&self, stop: &Stop) -> Result<Report, StoreError> {
        tokio::select! {
            () = stop.cancelled() => Err(StoreError::Stopped),
            report = self.work(stop) => report,
        }
    }

    async fn work(&self, stop: &Stop) -> Result<Report, StoreError> {
        let answers = self.fetcher.keep_answers(&self.store, self.dry_run);
        answers.await?;
        let before = trust::newest(&self.store).await?;
        let mut report = Report::default();
        if !self.dry_run {
            self.adopt(&before, &mut report).await?;
        }
        let origins = modules::Origins::new(self, &before);
        let (demands, needed) = self.templates(&origins, &mut report).await?;
        origins.fetch_configured(&mut report).await;
        let got = origins.finish();
        report.files += got.downloads.0;
        report.bytes += got.downloads.1;
        report.synced.absorb(got.generation);
        for (what, why) in got.changed {
            report.fail(what, why);
        }
        self.watch.phase("resolving versions");
        let wanted = self.resolve_providers(demands, &mut report).await;
        self.watch.phase("fetching");
        self.providers(&before, wanted, &mut report).await;
        self.tools(&before, &mut report).await;
        self.files(&mut report).await;
        self.check_locks(&needed, &report);
        self.images(&before, &mut report).await;
        self.fetcher.tidy_answers().await?;
        report.stop_if_full()?;
        report.synced.normalize();
        report.failures.sort_by(|a, b| a.what.cmp(&b.what));
        if self.dry_run {
            return Ok(report);
        }
        self.commit(&mut report, stop).await?;
        Ok(report)
    }

    async fn adopt(&self, before: &Generation, report: &mut Report) -> Result<(), StoreError> {
        for dir in &self.import_dirs {
            self.watch
                .phase(&format!("taking over `{}`", dir.display()));
            let (store, from) = (self.store.clone(), dir.clone());
            let adopted = blocking(move || Ok(adopt::adopt(&store, &from))).await?;
            match adopted {
                Err(error) => report.fail(dir.display().to_string(), error),
                Ok(adopted) => {
                    for (name, result) in adopted {
                        let taken = match result {
                            Ok(provider) => self.take_over(before, provider, report).await,
                            Err(error) => Err(error.into()),
                        };
                        if let Err(error) = taken {
                            report.fail(name, error);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Imports a provider with one package, unless the mirror has a different one under the same name.
    async fn take_over(
        &self,
        before: &Generation,
        provider: generation::Provider,
        report: &mut Report,
    ) -> Result<(), Cause> {
        let generation::Provider {
            addr,
            version,
            packages,
            ..
        } = &provider;
        for new in packages {
            let old = before.package(addr, version, &new.platform);
            // A package that was imported unpacked is a different file with the same content.
            let is_same = |old: &&generation::Package| {
                old.h1_tree == new.h1_tree && self.store.has(old.archive)
            };
            if old.filter(is_same).is_some() {
                report.present += 1;
                return Ok(());
            }
            self.check_local(before, addr, version, new).await?;
        }
        let (addr, version) = (addr.clone(), version.clone());
        report.have(vec![provider]);
        let name = addr.to_string();
        if self.trust.accepts(&name, &version) {
            let all = report
                .synced
                .versions(&addr)
                .find(|provider| provider.version == version)
                .map(provider::checksums)
                .unwrap_or_default();
            self.trust.replace_release(&name, &version, all).await?;
            report.replaced.insert((addr, version));
        }
        Ok(())
    }

    async fn images(&self, before: &Generation, report: &mut Report) {
        for entry in &self.config.images {
            let mut known = before.images.iter();
            let known = known.find(|image| image.reference == entry.reference);
            if let Some(image) = known.filter(|image| image.digests().all(|it| self.store.has(it)))
            {
                report.present += 1;
                report.synced.images.push(image.clone());
                continue;
            }
            if self.dry_run {
                report.files += 1;
                report.unknown += 1;
                continue;
            }
            let fetched = async {
                let access = Access {
                    login: entry.login()?,
                    authorities: self.authorities.clone(),
                    is_plain: entry.is_local(),
                };
                let registry = images::Registry::new(access);
                let fetched = registry.fetch(&entry.reference, &self.store, &self.watch);
                Ok::<_, Cause>(fetched.await?)
            };
            match fetched.await {
                Ok(image) => report.synced.images.push(image),
                Err(error) => report.fail(entry.reference.clone(), error),
            }
        }
    }

    /// Commits the contents as a generation, unless the current one already has all of them.
    async fn commit(&self, report: &mut Report, stop: &Stop) -> Result<(), StoreError> {
        let lock = self.store.lock(stop).await?;
        let (store, synced) = (self.store.clone(), report.synced.clone());
        let replaced = report.replaced.clone();
        let committed = blocking(move || {
            // A pulled archive that is wanted now must not be removed any more.
            Ledger::of(&store).keep(&synced)?;
            // Another process may have changed the mirror in the meantime.
            let current = store.current()?;
            let old = match current {
                Some(number) => store.generation(number)?,
                None => Generation::default(),
            };
            let mut new = old.clone();
            let is_replaced = |provider: &generation::Provider| {
                replaced.contains(&(provider.addr.clone(), provider.version.clone()))
            };
            new.providers.retain(|provider| !is_replaced(provider));
            new.absorb(synced);
            match current {
                Some(number) if new == old => {
                    store.take_inventory(number, &lock)?;
                    Ok((Some(number), false))
                }
                None if new == Generation::default() => Ok((None, false)),
                _ => Ok((Some(store.commit(new, current, &lock)?), true)),
            }
        });
        (report.generation, report.is_new) = committed.await?;
        Ok(())
    }
}

impl Report {
    /// Replaces all errors by one if the disk is full, because the others have the same cause.
    fn stop_if_full(&mut self) -> Result<(), StoreError> {
        let Some(index) = self.failures.iter().position(Failure::is_full) else {
            return Ok(());
        };
        match self.failures.swap_remove(index).error {
            Cause::Store(error)
            | Cause::Fetch(FetchError::Store(error))
            | Cause::Image(ImageError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, what: impl Into<String>, error: impl Into<Cause>) {
        self.failures.push(Failure {
            what: what.into(),
            error: error.into(),
        });
    }

    fn have(&mut self, providers: Vec<generation::Provider>) {
        self.synced.absorb(Generation {
            providers,
            ..Generation::default()
        });
    }
}
