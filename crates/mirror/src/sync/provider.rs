//! Providers: the selection of versions, and the ways of their packages into the store.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, future::join_all, stream};
use http::HeaderMap;
use outpost_base::{
    error_chain::error_chain,
    registry::{Platform, ProviderAddr},
};
use semver::Version;
use url::Url;

use super::{
    Cause, Report, Sync, Wanted,
    package::{self, Identity},
    pins::Checksums,
    trust::{self, Signature, TrustError, listed, namespace},
};
use crate::{
    Digest, Generation, StoreError,
    fetch::{
        FetchError, blocking,
        registry::{Found, Offered},
    },
    generation::{Package, Provider, PublisherKey, Signed},
    resolve::Pick,
};

/// Maximum number of versions in progress; the number of requests has a limit of its own.
const AT_ONCE: usize = 16;

/// Wanted versions of one provider, and the origin of the demand.
pub(super) struct Demand {
    pub(super) addr: ProviderAddr,
    pub(super) pick: Pick,
    pub(super) count: usize,
    pub(super) platforms: Vec<Platform>,
    pub(super) by: String,
}

/// Result for one version.
#[derive(Default)]
pub(super) struct Outcome {
    provider: Option<Provider>,
    failures: Vec<(String, Cause)>,
    pub(super) present: usize,
    pub(super) fetched: Vec<Option<u64>>,
    /// `true` if it replaces the mirror's packages of the version.
    is_replacement: bool,
}

/// A signed list of checksums.
pub(super) struct Sums {
    pub(super) content: Vec<u8>,
    pub(super) signed: Option<Signed>,
}

impl Sync {
    /// Requests the versions from each registry once, and selects among them.
    pub(super) async fn resolve_providers(
        &self,
        of_templates: Vec<Demand>,
        report: &mut Report,
    ) -> Wanted {
        let mut demands = self.demands();
        demands.extend(of_templates);
        let addrs: BTreeSet<_> = demands.iter().map(|demand| &demand.addr).collect();
        let asked = stream::iter(addrs).map(|addr| async move {
            let offered = self.registries.versions(addr).await;
            (addr.clone(), offered)
        });
        let mut offered = BTreeMap::new();
        for (addr, versions) in asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            match versions {
                Ok(versions) => drop(offered.insert(addr, versions)),
                Err(error) => report.fail(addr.to_string(), error),
            }
        }
        let mut wanted = Wanted::new();
        for demand in &demands {
            if let Some(offered) = offered.get(&demand.addr) {
                self.choose(demand, offered, &mut wanted, report);
            }
        }
        wanted
    }

    fn demands(&self) -> Vec<Demand> {
        let mut demands = Vec::new();
        for entry in &self.config.providers {
            let picks = match entry.versions.as_slice() {
                [] => &[Pick::default()],
                picks => picks,
            };
            let platforms = entry.platforms.as_ref().unwrap_or(&self.config.platforms);
            for addr in entry.source.addrs(&self.config.engines) {
                demands.extend(picks.iter().map(|pick| Demand {
                    addr: addr.clone(),
                    pick: pick.clone(),
                    count: entry.policy.count(entry.keep),
                    platforms: platforms.clone(),
                    by: "mirror.toml".to_owned(),
                }));
            }
        }
        demands
    }

    fn choose(
        &self,
        demand: &Demand,
        offered: &[Offered],
        wanted: &mut Wanted,
        report: &mut Report,
    ) {
        let Demand { addr, pick, by, .. } = demand;
        let versions = offered.iter().map(|offered| &offered.version);
        let chosen = pick.choose(versions, demand.count);
        if chosen.is_empty() && demand.count > 0 {
            let newest = offered.last().map(|newest| newest.version.to_string());
            let newest = newest.unwrap_or_else(|| "none".to_owned());
            let why = format!("no version satisfies `{pick}` of {by}; the newest is {newest}");
            report.fail(addr.to_string(), Cause::Unsatisfied(why));
        }
        for version in chosen {
            let platforms = self.published(demand, version, offered);
            if platforms.is_empty() {
                let why = format!(
                    "version {version} is not published for any of the requested platforms"
                );
                report.fail(addr.to_string(), Cause::Unsatisfied(why));
                continue;
            }
            let key = (addr.clone(), version.clone());
            wanted.entry(key).or_default().extend(platforms);
        }
    }

    /// Returns the wanted platforms that a version is published for. Old versions often lack some.
    fn published(&self, demand: &Demand, version: &Version, offered: &[Offered]) -> Vec<Platform> {
        let offered = offered.iter().find(|offered| offered.version == *version);
        let all = offered
            .map(|offered| offered.platforms.as_slice())
            .unwrap_or_default();
        let (there, not): (Vec<_>, Vec<_>) = demand
            .platforms
            .iter()
            .cloned()
            // A registry need not list platforms.
            .partition(|platform| all.is_empty() || all.contains(platform));
        for platform in not.iter().filter(|_| !there.is_empty()) {
            let addr = &demand.addr;
            self.watch
                .note(&format!("{addr} {version} is not published for {platform}"));
        }
        there
    }

    /// Brings all wanted packages into the store.
    pub(super) async fn providers(&self, before: &Generation, wanted: Wanted, report: &mut Report) {
        let all = stream::iter(wanted).map(|((addr, version), platforms)| async move {
            self.version(before, addr, version, platforms).await
        });
        let mut all = all.buffer_unordered(AT_ONCE);
        while let Some(outcome) = all.next().await {
            if let Some(provider) = outcome.provider.as_ref().filter(|_| outcome.is_replacement) {
                let version = (provider.addr.clone(), provider.version.clone());
                report.replaced.insert(version);
            }
            report.have(outcome.provider.into_iter().collect());
            report.present += outcome.present;
            report.files += outcome.fetched.len();
            report.bytes += outcome.fetched.iter().flatten().sum::<u64>();
            report.unknown += outcome.fetched.iter().filter(|size| size.is_none()).count();
            for (what, error) in outcome.failures {
                report.fail(what, error);
            }
        }
    }

    async fn version(
        &self,
        before: &Generation,
        addr: ProviderAddr,
        version: Version,
        mut platforms: BTreeSet<Platform>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let known = before
            .versions(&addr)
            .find(|provider| provider.version == version);
        // A version is replaced as a whole, because one signature covers all of its packages.
        let known = match self.trust.accepts(&addr.to_string(), &version) {
            false => known,
            true => {
                outcome.is_replacement = true;
                let packages = known.into_iter().flat_map(|known| &known.packages);
                platforms.extend(packages.map(|package| package.platform.clone()));
                None
            }
        };
        let there = |platform: &Platform| {
            let mut packages = known?.packages.iter();
            let package = packages.find(|package| package.platform == *platform)?;
            self.store.has(package.archive).then(|| package.clone())
        };
        let (there, missing): (Vec<_>, Vec<_>) = platforms
            .into_iter()
            .partition(|platform| there(platform).is_some());
        let mut packages: Vec<Package> = Vec::new();
        if let Some(known) = known {
            packages.extend(
                known
                    .packages
                    .iter()
                    .filter(|p| there.contains(&p.platform))
                    .cloned(),
            );
        }
        outcome.present = packages.len();
        let mut provider = Provider {
            addr: addr.clone(),
            version: version.clone(),
            protocols: known
                .map(|known| known.protocols.clone())
                .unwrap_or_default(),
            signed: known.and_then(|known| known.signed.clone()),
            packages,
        };
        if let Some(mirror) = self.registries.mirror() {
            let vouched = self.vouched(before, mirror, &missing, &mut provider, &mut outcome);
            vouched.await;
        } else if missing.is_empty() {
            self.check_unchanged(before, &provider, &mut outcome).await;
        } else {
            let signed = self.signed(before, &missing, &mut provider, &mut outcome);
            signed.await;
        }
        if outcome.is_replacement && outcome.failures.is_empty() {
            let (name, all) = (addr.to_string(), checksums(&provider));
            if let Err(error) = self.trust.replace_release(&name, &version, all).await {
                outcome.failures.push((name, error.into()));
            }
        }
        let is_whole = !outcome.is_replacement || outcome.failures.is_empty();
        let is_there = is_whole && !provider.packages.is_empty();
        outcome.provider = is_there.then_some(provider);
        outcome
    }

    /// Asks the registry about a package that the mirror has, which may have been replaced there.
    async fn check_unchanged(
        &self,
        before: &Generation,
        provider: &Provider,
        outcome: &mut Outcome,
    ) {
        let Provider { addr, version, .. } = provider;
        let Some(package) = provider.packages.first() else {
            return;
        };
        let platform = &package.platform;
        let found = match self.registries.package(addr, version, platform).await {
            Ok(found) => found,
            Err(error) => {
                let error = error_chain(&error);
                return self.watch.note(&format!(
                    "{addr} {version}: cannot check with the registry whether it is unchanged: {error}"
                ));
            }
        };
        let now = Checksums::from([(platform.to_string(), found.digest)]);
        let name = addr.to_string();
        let same = self.trust.same_release(before, &name, version, now);
        if let Err(error) = same.await {
            outcome.fail(addr, version, platform, error);
        }
    }

    /// Brings the signed packages of a version into the store.
    async fn signed(
        &self,
        before: &Generation,
        missing: &[Platform],
        provider: &mut Provider,
        outcome: &mut Outcome,
    ) {
        let (addr, version) = (provider.addr.clone(), provider.version.clone());
        let found = missing
            .iter()
            .map(|platform| self.registries.package(&addr, &version, platform));
        let mut located = Vec::new();
        for (platform, found) in missing.iter().zip(join_all(found).await) {
            match found {
                Ok(found) => located.push((platform.clone(), found)),
                Err(error) => outcome.fail(&addr, &version, platform, error),
            }
        }
        let Some((platform, first)) = located.first() else {
            return;
        };
        let sums = match self.sums(before, &addr, &version, first).await {
            Ok(sums) => sums,
            Err(error) => return outcome.fail(&addr, &version, platform, error),
        };
        provider.protocols.clone_from(&first.protocols);
        provider.signed = sums.signed.clone();
        let fetched = located.iter().map(|(platform, found)| {
            self.package(before, &addr, &version, platform, found, &sums.content)
        });
        for ((platform, _), fetched) in located.iter().zip(join_all(fetched).await) {
            match fetched {
                Ok((size, package)) => {
                    outcome.fetched.extend(size);
                    outcome.present += usize::from(size.is_none());
                    provider.packages.extend(package);
                }
                Err(error) => outcome.fail(&addr, &version, platform, error),
            }
        }
        for remark in package::remarks(provider) {
            self.watch.note(&remark);
        }
    }

    /// Returns the checksums of a version after it has verified their signature, and pinned the key and the
    /// checksums.
    pub(super) async fn sums(
        &self,
        before: &Generation,
        addr: &ProviderAddr,
        version: &Version,
        found: &Found,
    ) -> Result<Sums, Cause> {
        let get = |url: Url| async move {
            let answer = self.fetcher.get(&url, &HeaderMap::new(), None).await;
            answer.map(|answer| answer.body)
        };
        let content = get(found.shasums.clone()).await?;
        let name = addr.to_string();
        let all = trust::packages(&content, addr.kind(), version);
        if self.trust.is_unsigned(addr) && found.keys.is_empty() {
            let same = self.trust.same_release(before, &name, version, all);
            same.await?;
            let signed = None;
            return Ok(Sums { content, signed });
        }
        let signature = get(found.signature.clone()).await?;
        let keys: Vec<_> = found
            .keys
            .iter()
            .map(|key| key.ascii_armor.clone())
            .collect();
        let what = format!("{addr} {version}");
        let signature_of_it = Signature {
            content: &content,
            signature: &signature,
            keys: &keys,
        };
        let namespace = namespace(addr);
        let checked = self.trust.check(before, &namespace, &what, signature_of_it);
        let by = checked.await?;
        let same = self.trust.same_release(before, &name, version, all);
        same.await?;
        if let Some(warning) = by.warning(jiff::Timestamp::now()) {
            self.watch.note(&format!("{what}: {warning}"));
        }
        if self.dry_run {
            let signed = None;
            return Ok(Sums { content, signed });
        }
        let (store, found, body) = (self.store.clone(), found.clone(), content.clone());
        let signed = blocking(move || {
            let key = |key: &crate::fetch::registry::Key| {
                Ok(PublisherKey {
                    id: key.key_id.clone(),
                    armored: store.put(key.ascii_armor.as_bytes())?,
                    trust_signature: key.trust_signature.clone(),
                })
            };
            Ok::<_, StoreError>(Signed {
                shasums: store.put(&body)?,
                signature: store.put(&signature)?,
                keys: found.keys.iter().map(key).collect::<Result<_, _>>()?,
            })
        });
        let signed = Some(signed.await?);
        Ok(Sums { content, signed })
    }

    /// Brings one package into the store. The first value is the length of the download, or of the download that
    /// would be made, if it is known; `None` without a download.
    async fn package(
        &self,
        before: &Generation,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
        found: &Found,
        sums: &[u8],
    ) -> Result<(Option<Option<u64>>, Option<Package>), Cause> {
        let archive = self.listed(found, sums)?;
        // If file names in the list are unusual, the package's platform is known only here.
        let now = Checksums::from([(platform.to_string(), archive)]);
        let name = addr.to_string();
        let same = self.trust.same_release(before, &name, version, now);
        same.await?;
        let is_there = self.store.has(archive);
        if self.dry_run {
            let size = match is_there {
                true => None,
                false => Some(self.fetcher.length(&found.url).await?),
            };
            return Ok((size, None));
        }
        let size = match is_there {
            true => None,
            false => {
                let download =
                    self.fetcher
                        .download(&self.store, &found.url, archive, &found.filename);
                Some(download.await?)
            }
        };
        let identity = Identity {
            addr: addr.clone(),
            platform: platform.clone(),
            filename: found.filename.clone(),
        };
        let store = self.store.clone();
        let package = blocking(move || {
            let path = store.path(archive);
            let length = std::fs::metadata(&path).map_err(|source| StoreError::Io {
                what: "read",
                path,
                source,
            })?;
            package::examine(&store, identity, archive, length.len())
        });
        let package = package.await?;
        if let Some(size) = size {
            self.watch.arrived(&found.filename, size);
        }
        Ok((size.map(Some), Some(package)))
    }

    /// Returns the digest that the publisher signed, and checks that the registry agrees.
    fn listed(&self, found: &Found, sums: &[u8]) -> Result<Digest, Cause> {
        let untrue = |why: String| TrustError::NotListed {
            filename: found.filename.clone(),
            why,
        };
        let signed = listed(sums, &found.filename);
        let signed =
            signed.ok_or_else(|| untrue("the signed checksums do not list it".to_owned()))?;
        if signed != found.digest {
            let why = format!(
                "the registry lists {}, the publisher signed {signed}",
                found.digest
            );
            return Err(untrue(why).into());
        }
        Ok(signed)
    }
}

/// Returns the checksums of the packages of a version, by platform.
pub(super) fn checksums(provider: &Provider) -> Checksums {
    let packages = provider.packages.iter();
    packages
        .map(|package| (package.platform.to_string(), package.archive))
        .collect()
}

impl Outcome {
    pub(super) fn fail(
        &mut self,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
        error: impl Into<Cause>,
    ) {
        let error = match error.into() {
            Cause::Fetch(FetchError::NotFound { url }) => {
                Cause::Unsatisfied(format!("the registry has no such package ({url})"))
            }
            error => error,
        };
        self.failures
            .push((format!("{addr} {version} {platform}"), error));
    }
}
