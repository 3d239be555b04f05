//! Pull-through: what clients request and a server lacks is fetched from the registries, once for all clients.
//!
//! A document needs only what a publisher signed, because engines give up on documents after ten seconds, but never
//! on packages. A package is fetched on request. It is served once it is complete, verified and part of a generation,
//! so that no client ever receives a byte that its publisher did not sign.

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
use tracing::{Instrument as _, debug_span};

use self::quota::{Quota, QuotaError};
use super::{Cause, Report, Sync, trust};
use crate::{
    Digest, Generation, StoreError,
    fetch::{FetchError, blocking, registry::Offered},
    generation::Signed,
    pulled::{Entry, Ledger, PulledArchive, archives, leave_out},
};

/// Time for which a registry's list of versions is cached.
const FRESH: Duration = Duration::from_secs(60);

/// Time limit for a document: engines give up after ten seconds.
const DOCUMENT: Duration = Duration::from_secs(8);

/// Time limit for a package as a whole.
const FLIGHT: Duration = Duration::from_secs(60 * 60);

/// Minimum time between two records of an archive's use.
const USE_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of entries of each cache, so that clients that request nonsense cannot fill our memory.
const LIMIT: usize = 4096;

/// Reason why a registry provides nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The registry lacks the item, or must not be asked.
    #[error("none of the configured registries has it")]
    Missing,
    /// The item could not be fetched.
    #[error("{0}")]
    Failed(Arc<str>),
    /// The item is not trusted, with a suggestion for the operator.
    #[error("{0}")]
    Untrusted(Arc<str>),
    /// The mirror's disk is full.
    #[error("{0}")]
    Full(Arc<str>),
    /// The operator's limit for pulled packages leaves no room.
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
        match (failure.is_untrusted(), failure.is_full()) {
            (true, _) => Self::Untrusted(text.into()),
            (_, true) => Self::Full(text.into()),
            _ => Self::Failed(text.into()),
        }
    }
}

/// Signed checksums of one version.
#[derive(Clone, Debug)]
pub struct Release {
    /// Versions of the plugin protocol.
    pub protocols: Vec<String>,
    /// Checksums with their signature; `None` if they are not signed and that is allowed.
    pub signed: Option<Signed>,
    /// Armored keys of `signed`, in the same order.
    pub keys: Vec<String>,
    /// File name and digest of each package, by platform.
    pub packages: BTreeMap<Platform, (String, Digest)>,
}

/// A cache with a limit. Removed entries are requested again.
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

/// A list of versions, with the time of the request. Only one task at a time requests it.
type Listing = Arc<AsyncMutex<Option<(Instant, Result<Arc<Vec<Offered>>, PullError>)>>>;
type Releasing = Arc<AsyncMutex<Option<Arc<Release>>>>;
type Flight = Shared<BoxFuture<'static, Result<(), PullError>>>;

/// Identity of a package to be fetched.
type PackageId = (ProviderAddr, Version, Platform);

/// Kind of a file that is brought into the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FileKind {
    Package(Digest),
    /// Address `HOST/NAMESPACE/NAME/SYSTEM` and version of a module.
    Module(String, Version),
}

/// Registry of Coder's modules, which Coder's templates call.
const CODER_HOST: &str = "registry.coder.com";

/// Registries behind a server. Clones share all caches.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    sync: Sync,
    hosts: Services,
    listings: Memory<ProviderAddr, Listing>,
    releases: Memory<(ProviderAddr, Version), Releasing>,
    promises: Memory<Digest, PackageId>,
    flights: Memory<FileKind, Flight>,
    modules: Memory<String, modules::Listing>,
    quota: Quota,
    /// Time at which the use of an archive was last recorded.
    uses: Mutex<HashMap<Digest, Instant>>,
}

impl Upstream {
    /// Returns an upstream that fetches as `sync` would, only from the hosts that its configuration names, the
    /// engines' own, and Coder's.
    pub fn new(sync: Sync) -> Self {
        Self::with_limit(sync, None)
    }

    /// Returns the same with a limit for pulled packages in bytes: the least recently used ones are removed.
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

    /// Updates the metrics of pulled packages. Blocks.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub fn count(&self) -> Result<(), StoreError> {
        self.0.quota.count(&self.0.sync.store)
    }

    /// Returns the counts of pulled and evicted packages for metrics, with the limit.
    pub(crate) fn counts(&self) -> (Arc<Counts>, Option<u64>) {
        (self.0.quota.counts.clone(), self.0.quota.max_bytes)
    }

    /// Records that a client downloads an archive through `file`: it counts as used, and is not removed meanwhile.
    pub(crate) async fn serve(&self, digest: Digest, file: &Arc<File>) {
        self.0.quota.serve(digest, file);
        if self.is_new_use(digest) {
            let ledger = Ledger::of(&self.0.sync.store);
            // A failure is logged, and is not a reason to refuse the client.
            let _ = tokio::task::spawn_blocking(move || ledger.touch(digest)).await;
        }
    }

    /// Returns whether the use of an archive should be recorded: once a minute is enough.
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

    /// Returns the services of the hosts behind this server, as paths below it.
    pub fn services(&self) -> &Services {
        &self.0.hosts
    }

    /// Returns the versions that a registry has. They are cached for a minute; after a failure an earlier list is
    /// used.
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

    /// Returns the signed checksums of a version. They are requested once, with the package for `platform`.
    ///
    /// # Errors
    /// [`PullError`], also if the signature is not valid.
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

    /// Brings a package into the store that a document has named before. Further callers wait for the first; a caller
    /// that leaves does not stop it.
    ///
    /// # Errors
    /// [`PullError::Missing`] if no document named it.
    pub(crate) async fn fetch_into_store(&self, digest: Digest) -> Result<(), PullError> {
        let Some(promise) = self.0.promises.get(&digest) else {
            return Err(PullError::Missing);
        };
        let (this, of) = (self.clone(), (promise.0.clone(), promise.1.clone()));
        let pull = async move {
            let pulled = this.pull(promise, digest).await;
            if matches!(pulled, Err(PullError::Untrusted(_))) {
                // The next request must get the registry's present answer instead of the earlier one.
                this.0.releases.remove(&of);
                this.0.promises.remove(&digest);
            }
            pulled
        };
        self.fly(FileKind::Package(digest), pull).await
    }

    /// Starts `work` unless it is already running. It continues if its callers leave.
    fn fly(
        &self,
        cargo: FileKind,
        work: impl Future<Output = Result<(), PullError>> + Send + 'static,
    ) -> Flight {
        let (this, key) = (self.clone(), cargo.clone());
        self.0.flights.get_or(cargo, || {
            let span = debug_span!("pull", ?key);
            let flight = async move {
                let ended = timeout(FLIGHT, work).await;
                this.0.flights.remove(&key);
                ended.unwrap_or_else(|_| Err(PullError::late("all of it", FLIGHT)))
            };
            let task = tokio::spawn(flight.instrument(span));
            let ended = task.map(|ended| {
                ended.unwrap_or_else(|error| Err(PullError::Failed(error.to_string().into())))
            });
            ended.boxed().shared()
        })
    }

    /// Fetches a package, which must have this digest.
    async fn pull(
        &self,
        (addr, version, platform): PackageId,
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

    /// Adds pulled packages to the current generation, in place of the least recently used ones if there is no other
    /// room.
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
            // Files that existed when the work began may have been removed since.
            let archives = archives(&pulled).into_keys();
            let gone = archives.filter(|digest| !store.has(*digest)).collect();
            leave_out(&mut pulled, &gone);
            let is_pinned = |thing: &PulledArchive| quota::is_pinned(&this.sync.config, thing);
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

    /// Remembers an evicted archive that is named by documents which clients have, so that it can be pulled again.
    fn promise(&self, digest: Digest, entry: Entry) {
        if let PulledArchive::Provider {
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
    /// Brings wanted packages into the store.
    async fn pull(&self, wanted: super::Wanted) -> Result<Report, StoreError> {
        let before = trust::newest(&self.store).await?;
        let mut report = Report::default();
        self.providers(&before, wanted, &mut report).await;
        Ok(report)
    }
}
