//! Pull-through: what a server is asked for and does not have comes from the registries, once, whoever asks for it.
//!
//! A document needs what a publisher signed, and no more: engines give up on documents after ten seconds, on packages
//! never. A package is asked for when somebody fetches it. It is handed on when it is whole, checked and part of a
//! generation, so that no client ever sees a byte that its publisher did not sign.

mod modules;
mod quota;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use semver::Version;
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};

pub use self::quota::Counts;

use outpost_base::{
    registry::{Platform, ProviderAddr},
    stop::Stop,
};
use outpost_provision::Services;

use self::quota::{Quota, QuotaError};
use super::{Cause, Report, Sync, trust};
use crate::{
    Digest, Generation, StoreError,
    fetch::{FetchError, blocking, registry::Offered},
    generation::Signed,
    pulled::{Entry, Ledger, Thing, archives, leave_out},
};

/// How long a registry's list of versions is taken as it is.
const FRESH: Duration = Duration::from_secs(60);

/// How long a client is kept waiting for a document: engines give up after ten seconds.
const DOCUMENT: Duration = Duration::from_secs(8);

/// How long a package may take altogether.
const FLIGHT: Duration = Duration::from_secs(60 * 60);

/// How often the use of an archive is written down at most.
const USE_INTERVAL: Duration = Duration::from_secs(60);

/// Entries of each memory: whoever asks for nonsense must not fill ours.
const LIMIT: usize = 4096;

/// Why something does not come from a registry.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not have it, or may not be asked.
    #[error("none of the configured registries has it")]
    Missing,
    /// It could not be had.
    #[error("{0}")]
    Failed(Arc<str>),
    /// It is not to be believed, and with what the operator can do about it.
    #[error("{0}")]
    Untrusted(Arc<str>),
    /// The mirror's disk is full.
    #[error("{0}")]
    Full(Arc<str>),
    /// It has no room in what the operator allows for such things.
    #[error("{0}")]
    NoRoom(Arc<str>),
}

impl From<QuotaError> for PullError {
    fn from(error: QuotaError) -> Self {
        Self::NoRoom(error.to_string().into())
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Cause::from(error).into()
    }
}

impl From<Cause> for PullError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Fetch(FetchError::NotFound { .. } | FetchError::NoService { .. }) => {
                Self::Missing
            }
            cause => Self::failed(&super::Failure {
                what: String::new(),
                error: cause,
            }),
        }
    }
}

impl From<FetchError> for PullError {
    fn from(error: FetchError) -> Self {
        Cause::from(error).into()
    }
}

impl PullError {
    fn late(what: &str, limit: Duration) -> Self {
        Self::Failed(format!("the registry did not deliver {what} within {limit:?}").into())
    }

    fn failed(failure: &super::Failure) -> Self {
        let text = match failure.hint() {
            Some(hint) => format!("{}; {hint}", failure.reason()),
            None => failure.reason(),
        };
        if let Cause::Fetch(FetchError::TooLarge { .. }) = failure.error {
            let why = "more than may be pulled through (`--pull-through-max-size`)";
            return Self::NoRoom(format!("{text}, {why}").into());
        }
        match (failure.is_distrust(), failure.is_full()) {
            (true, _) => Self::Untrusted(text.into()),
            (_, true) => Self::Full(text.into()),
            _ => Self::Failed(text.into()),
        }
    }
}

/// What a publisher signed of one version.
#[derive(Clone, Debug)]
pub struct Release {
    /// Versions of the plugin protocol.
    pub protocols: Vec<String>,
    /// The checksums with their signature; `None` if nobody signed and that is allowed.
    pub signed: Option<Signed>,
    /// The keys of `signed`, armored, in the same order.
    pub keys: Vec<String>,
    /// Packages by platform: the file's name and its digest.
    pub packages: BTreeMap<Platform, (String, Digest)>,
}

/// A memory with a limit. What is forgotten is asked for again.
struct Memory<K, V>(Mutex<HashMap<K, V>>);

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).cloned()
    }

    fn get_or(&self, key: K, make: impl FnOnce() -> V) -> V {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= LIMIT && !all.contains_key(&key) {
            all.clear();
        }
        all.entry(key).or_insert_with(make).clone()
    }

    fn remove(&self, key: &K) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key);
    }
}

/// A list of versions, and when it was asked for. One task at a time asks.
type Listing = Arc<AsyncMutex<Option<(Instant, Result<Arc<Vec<Offered>>, PullError>)>>>;
type Releasing = Arc<AsyncMutex<Option<Arc<Release>>>>;
type Flight = Shared<BoxFuture<'static, Result<(), PullError>>>;

/// Whose package a file will be.
type Promise = (ProviderAddr, Version, Platform);

/// What is brought into the store.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Cargo {
    Package(Digest),
    /// `HOST/NAMESPACE/NAME/SYSTEM` and the version.
    Module(String, Version),
}

/// Coder's modules, which templates for it call.
const CODER_HOST: &str = "registry.coder.com";

/// Registries behind a server. A clone is the same.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    sync: Sync,
    hosts: Services,
    listings: Memory<ProviderAddr, Listing>,
    releases: Memory<(ProviderAddr, Version), Releasing>,
    promises: Memory<Digest, Promise>,
    flights: Memory<Cargo, Flight>,
    modules: Memory<String, modules::Listing>,
    quota: Quota,
    /// When the use of an archive was last written down.
    uses: Mutex<HashMap<Digest, Instant>>,
}

impl Upstream {
    /// Pulls as `sync` would, from no other hosts than those its wishes name, the engines' own, and Coder's.
    pub fn new(sync: Sync) -> Self {
        Self::with_limit(sync, None)
    }

    /// The same, with at most so many bytes of what was pulled: what was not used for the longest time goes.
    pub fn with_limit(sync: Sync, max_bytes: Option<u64>) -> Self {
        let config = &sync.config;
        let mut hosts = Services::new();
        let mut add = |host: &str, kind: &str| {
            let services = hosts.entry(host.to_owned()).or_default();
            services.insert(format!("{kind}.v1"), format!("/v1/{kind}/{host}/"));
        };
        for engine in &config.engines {
            for kind in ["modules", "providers"] {
                add(engine.default_host(), kind);
            }
        }
        add(CODER_HOST, "modules");
        for entry in &config.providers {
            for addr in entry.source.addrs(&config.engines) {
                add(addr.host(), "providers");
            }
        }
        for (host, known) in &config.hosts {
            for (kind, place) in [("modules", &known.modules), ("providers", &known.providers)] {
                if place.is_some() {
                    add(host, kind);
                }
            }
        }
        Self(Arc::new(Inner {
            sync,
            hosts,
            listings: Memory::new(),
            releases: Memory::new(),
            promises: Memory::new(),
            flights: Memory::new(),
            modules: Memory::new(),
            quota: Quota::new(max_bytes),
            uses: Mutex::default(),
        }))
    }

    /// What its metrics say, and how many bytes may be there. Blocks.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub fn count(&self) -> Result<(), StoreError> {
        self.0.quota.count(&self.0.sync.store)
    }

    /// What was pulled and what had to go, for metrics.
    pub(crate) fn counts(&self) -> (Arc<Counts>, Option<u64>) {
        (self.0.quota.counts.clone(), self.0.quota.max_bytes)
    }

    /// Says that a client downloads an archive by way of `file`: it does not go meanwhile, and counts as used.
    pub(crate) async fn serve(&self, digest: Digest, file: &Arc<File>) {
        self.0.quota.serve(digest, file);
        if self.is_new_use(digest) {
            let ledger = Ledger::of(&self.0.sync.store);
            // What fails there is logged, and no reason to refuse a client.
            let _ = tokio::task::spawn_blocking(move || ledger.touch(digest)).await;
        }
    }

    /// Whether the use of an archive is to be written down: once a minute is enough.
    fn is_new_use(&self, digest: Digest) -> bool {
        let mut uses = self.0.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = uses.get(&digest);
        if last.is_some_and(|at| now.duration_since(*at) < USE_INTERVAL) {
            return false;
        }
        if uses.len() >= LIMIT {
            uses.clear();
        }
        uses.insert(digest, now);
        true
    }

    /// The services of the hosts that are asked, as paths below a server.
    pub fn services(&self) -> &Services {
        &self.0.hosts
    }

    /// The versions that a registry has. For a minute nobody asks it again; a list from before is better than none.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn versions(&self, addr: &ProviderAddr) -> Result<Arc<Vec<Offered>>, PullError> {
        self.check_host(addr)?;
        let listing = self.0.listings.get_or(addr.clone(), Listing::default);
        let mut listing = listing.lock().await;
        if let Some((at, known)) = &*listing
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let asked = self.in_time(self.0.sync.registries.versions(addr)).await;
        let asked = match (asked, &*listing) {
            (Ok(offered), _) => Ok(Arc::new(offered)),
            (Err(PullError::Failed(why)), Some((_, Ok(known)))) => {
                tracing::warn!(%addr, %why, "no answer from the registry; using its last known versions");
                Ok(known.clone())
            }
            (Err(error), _) => Err(error),
        };
        *listing = Some((Instant::now(), asked.clone()));
        asked
    }

    /// What a publisher signed of a version. It is asked for once, by way of the package for `platform`.
    ///
    /// # Errors
    /// [`PullError`]; a signature that is not good is one.
    pub async fn release(
        &self,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
    ) -> Result<Arc<Release>, PullError> {
        self.check_host(addr)?;
        let key = (addr.clone(), version.clone());
        let releasing = self.0.releases.get_or(key, Releasing::default);
        let mut known = releasing.lock().await;
        if let Some(release) = &*known {
            return Ok(release.clone());
        }
        let release = self.in_time(self.ask(addr, version, platform)).await?;
        for (platform, (_, digest)) in &release.packages {
            let promise = (addr.clone(), version.clone(), platform.clone());
            self.0.promises.get_or(*digest, || promise);
        }
        let release = Arc::new(release);
        *known = Some(release.clone());
        Ok(release)
    }

    async fn ask(
        &self,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
    ) -> Result<Release, Cause> {
        let sync = &self.0.sync;
        let found = sync.registries.package(addr, version, platform).await?;
        let before = trust::newest(&sync.store).await?;
        let sums = sync.sums(&before, addr, version, &found).await?;
        Ok(Release {
            packages: trust::listed_packages(&sums.content, addr.kind(), version),
            keys: found.keys.into_iter().map(|key| key.ascii_armor).collect(),
            protocols: found.protocols,
            signed: sums.signed,
        })
    }

    /// Brings a package into the store that a document has named before. Whoever comes second waits for the first;
    /// whoever leaves does not stop it.
    ///
    /// # Errors
    /// [`PullError::Missing`] if no document named it.
    pub async fn bring(&self, digest: Digest) -> Result<(), PullError> {
        let Some(promise) = self.0.promises.get(&digest) else {
            return Err(PullError::Missing);
        };
        let (this, of) = (self.clone(), (promise.0.clone(), promise.1.clone()));
        let pull = async move {
            let pulled = this.pull(promise, digest).await;
            if matches!(pulled, Err(PullError::Untrusted(_))) {
                // Whoever asks next gets what the registry says then, not what it said before.
                this.0.releases.remove(&of);
                this.0.promises.remove(&digest);
            }
            pulled
        };
        self.fly(Cargo::Package(digest), pull).await
    }

    /// Does `work`, unless somebody is at it already. It goes on without whoever waits for it.
    fn fly(
        &self,
        cargo: Cargo,
        work: impl Future<Output = Result<(), PullError>> + Send + 'static,
    ) -> Flight {
        let (this, key) = (self.clone(), cargo.clone());
        self.0.flights.get_or(cargo, || {
            let task = tokio::spawn(async move {
                let ended = timeout(FLIGHT, work).await;
                this.0.flights.remove(&key);
                ended.unwrap_or_else(|_| Err(PullError::late("all of it", FLIGHT)))
            });
            let ended = task.map(|ended| {
                ended.unwrap_or_else(|error| Err(PullError::Failed(error.to_string().into())))
            });
            ended.boxed().shared()
        })
    }

    /// Brings a package, which must be the one with this digest.
    async fn pull(
        &self,
        (addr, version, platform): Promise,
        digest: Digest,
    ) -> Result<(), PullError> {
        let what = format!("{addr} {version} {platform}");
        let wanted = BTreeMap::from([((addr, version), BTreeSet::from([platform]))]);
        let report = self.0.sync.pull(wanted).await?;
        if let Some(failure) = report.failures.first() {
            return Err(PullError::failed(failure));
        }
        let bytes = report.bytes;
        let is_it = archives(&report.synced).contains_key(&digest);
        self.commit(report.synced).await?;
        tracing::info!(what, bytes, "pulled from the registry");
        match is_it {
            true => Ok(()),
            false => {
                let text = "the registry's package no longer matches its checksums";
                Err(PullError::Untrusted(text.into()))
            }
        }
    }

    /// Adds what was pulled to the current generation, in the place of what was not used for longest if there is no
    /// other.
    async fn commit(&self, mut pulled: Generation) -> Result<(), PullError> {
        let this = self.0.clone();
        let lock = this.sync.store.lock(&Stop::new()).await?;
        let committed = blocking(move || {
            let (store, quota) = (&this.sync.store, &this.quota);
            let current = store.current()?;
            let old = match current {
                Some(number) => store.generation(number)?,
                None => Generation::default(),
            };
            // What was there when the work began may have gone meanwhile.
            let archives = archives(&pulled).into_keys();
            let gone = archives.filter(|digest| !store.has(*digest)).collect();
            leave_out(&mut pulled, &gone);
            let is_pinned = |thing: &Thing| quota::is_pinned(&this.sync.config, thing);
            let room = quota.make_room(store, [&old, &pulled], is_pinned, &lock)?;
            let room = match room {
                Ok(room) => room,
                Err(error) => return Ok::<_, StoreError>(Err(error)),
            };
            let mut new = old.clone();
            new.absorb(pulled);
            room.leave_out(&mut new);
            if new != old {
                store.commit(new, current, &lock)?;
            }
            Ok(Ok(room.finish(store, &quota.counts)?))
        });
        for (digest, entry) in committed.await?? {
            self.promise(digest, entry);
        }
        Ok(())
    }

    /// Documents that clients have name an archive that has gone: who fetches it gets it anew.
    fn promise(&self, digest: Digest, entry: Entry) {
        if let Thing::Provider {
            addr,
            version,
            platform,
        } = entry.thing
        {
            let promise = (addr, version, platform);
            self.0.promises.get_or(digest, || promise);
        }
    }

    fn check_host(&self, addr: &ProviderAddr) -> Result<(), PullError> {
        self.check_service(addr.host(), "providers.v1")
    }

    fn check_service(&self, host: &str, service: &str) -> Result<(), PullError> {
        let services = self.0.hosts.get(host);
        match services.is_some_and(|services| services.contains_key(service)) {
            true => Ok(()),
            false => Err(PullError::Missing),
        }
    }

    async fn in_time<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, PullError>
    where
        PullError: From<E>,
    {
        match timeout(DOCUMENT, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(PullError::late("an answer", DOCUMENT)),
        }
    }
}

impl Sync {
    /// Brings what is wanted into the store.
    async fn pull(&self, wanted: super::Wanted) -> Result<Report, StoreError> {
        let before = trust::newest(&self.store).await?;
        let mut report = Report::default();
        self.providers(&before, wanted, &mut report).await;
        Ok(report)
    }
}
