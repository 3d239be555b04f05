//! `outpost mirror sync`: from what templates want to a generation that has it.
//!
//! Resolve, fetch, verify, commit. Whatever is whole and right goes into the store at once, so whoever is interrupted
//! asks for nothing twice; the generation comes last. It has what the one before had, too: only `prune` removes.

mod adopt;
mod coder_templates;
pub mod config;
pub mod missed;
mod modules;
mod package;
mod pins;
mod provider;
mod pull;
mod review;
mod templates;
mod tools;
mod trust;
mod vouched;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use outpost_base::{
    registry::{Platform, ProviderAddr},
    stop::Stop,
};
use semver::Version;

pub use self::{
    config::{MirrorConfig, MirrorConfigError},
    modules::{text, tree_of, unsatisfied},
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

/// One run.
pub struct Sync {
    /// Where everything goes.
    pub store: Store,
    /// What is wanted.
    pub config: MirrorConfig,
    /// Whose signatures count.
    pub trust: Trust,
    /// How to ask.
    pub fetcher: Fetcher,
    /// Whom to ask.
    pub registries: Registries,
    /// Who wants to know how it goes.
    pub watch: Arc<dyn Watch>,
    /// Authorities beside the system's, in PEM, for git and for registries of images.
    pub authorities: Vec<Vec<u8>>,
    /// Directories with packages that are taken over.
    pub import_dirs: Vec<PathBuf>,
    /// Whether only to tell what would be done.
    pub dry_run: bool,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wanted and there.
    pub synced: Generation,
    /// The current generation, if there is one.
    pub generation: Option<u64>,
    /// Whether it is new.
    pub is_new: bool,
    /// Files that were downloaded, or would be.
    pub files: usize,
    /// Their bytes, as far as they are known.
    pub bytes: u64,
    /// Files whose length nobody told.
    pub unknown: usize,
    /// Packages that were there already.
    pub present: usize,
    /// Versions that take the place of what the mirror had of them, as the operator accepts that.
    replaced: BTreeSet<(ProviderAddr, Version)>,
    /// What could not be got.
    pub failures: Vec<Failure>,
}

/// Something that could not be got.
#[derive(Debug)]
pub struct Failure {
    /// What.
    pub what: String,
    /// Why.
    pub error: Cause,
}

/// Why something could not be got.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is not trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It is not what it should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A directory cannot be read.
    #[error("failed to read it")]
    Read(#[from] std::io::Error),
    /// It is no image that we can have.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is none.
    #[error("{0}")]
    Unsatisfied(String),
}

impl Failure {
    /// Whether somebody should look at it before anything is tried again.
    pub fn is_distrust(&self) -> bool {
        match &self.error {
            Cause::Trust(_) => true,
            Cause::Store(StoreError::Mismatch { .. } | StoreError::Package { .. }) => true,
            Cause::Fetch(error) => error.is_distrust(),
            Cause::Image(ImageError::Invalid { .. }) => true,
            Cause::Store(_) | Cause::Image(_) | Cause::Read(_) | Cause::Unsatisfied(_) => false,
        }
    }

    /// Whether there was no room for it.
    pub fn is_full(&self) -> bool {
        matches!(
            &self.error,
            Cause::Store(StoreError::Full { .. })
                | Cause::Fetch(FetchError::Store(StoreError::Full { .. }))
                | Cause::Image(ImageError::Store(StoreError::Full { .. }))
        )
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match &self.error {
            Cause::Trust(error) => error.hint(),
            Cause::Store(error) | Cause::Fetch(FetchError::Store(error)) => {
                error.hint().map(str::to_owned)
            }
            _ => None,
        }
    }

    /// Why, with everything that led to it.
    pub fn reason(&self) -> String {
        modules::text(&self.error)
    }
}

/// Versions of providers, with the platforms for which they are wanted.
type Wanted = BTreeMap<(ProviderAddr, Version), BTreeSet<Platform>>;

impl Sync {
    /// Does it all. What fails does not keep the rest from being done.
    ///
    /// # Errors
    /// If the store cannot be used, or somebody stops it. What came until then stays in the store.
    pub async fn run(&self, stop: &Stop) -> Result<Report, StoreError> {
        tokio::select! {
            () = stop.cancelled() => Err(StoreError::Stopped),
            report = self.work(stop) => report,
        }
    }

    async fn work(&self, stop: &Stop) -> Result<Report, StoreError> {
        let before = trust::newest(&self.store).await?;
        let mut report = Report::default();
        if !self.dry_run {
            self.adopt(&before, &mut report).await?;
        }
        let origins = modules::Origins::new(self, &before);
        let (demands, needed) = self.templates(&origins, &mut report).await?;
        origins.wished(&mut report).await;
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

    /// Takes over a provider with one package, unless the mirror has another one in its place.
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
            // A package that was unpacked is another file, with the same content.
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

    /// Makes what is there a generation, unless the current one has it all.
    async fn commit(&self, report: &mut Report, stop: &Stop) -> Result<(), StoreError> {
        let lock = self.store.lock(stop).await?;
        let (store, synced) = (self.store.clone(), report.synced.clone());
        let replaced = report.replaced.clone();
        let committed = blocking(move || {
            // What a client asked for first is no less wanted than the rest.
            Ledger::of(&store).keep(&synced)?;
            // Somebody else may have added to it in the meantime.
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
    /// One error if there was no room for something: the rest would only say the same.
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
