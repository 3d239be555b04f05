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
    fetched::FetchOutcome,
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
        while let Some(part) = all.next().await {
            report.merge(part);
        }
    }

    async fn version(
        &self,
        before: &Generation,
        addr: ProviderAddr,
        version: Version,
        mut platforms: BTreeSet<Platform>,
    ) -> Report {
        let mut report = Report::default();
        let known = before
            .versions(&addr)
            .find(|provider| provider.version == version);
        // A version is replaced as a whole, because one signature covers all of its packages.
        let is_replacement = self.trust.accepts(&addr.to_string(), &version);
        let known = match is_replacement {
            false => known,
            true => {
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
        report.present = packages.len();
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
            let imported =
                self.import_from_mirror(before, mirror, &missing, &mut provider, &mut report);
            imported.await;
        } else if missing.is_empty() {
            self.check_unchanged(before, &provider, &mut report).await;
        } else {
            let signed = self.signed(before, &missing, &mut provider, &mut report);
            signed.await;
        }
        if is_replacement && report.failures.is_empty() {
            let (name, all) = (addr.to_string(), checksums(&provider));
            if let Err(error) = self.trust.replace_release(&name, &version, all).await {
                report.fail(name, error);
            }
        }
        let is_whole = !is_replacement || report.failures.is_empty();
        if is_whole && !provider.packages.is_empty() {
            if is_replacement {
                report.replaced.insert((addr, version));
            }
            report.have(vec![provider]);
        }
        report
    }

    /// Asks the registry about a package that the mirror has, which may have been replaced there.
    async fn check_unchanged(&self, before: &Generation, provider: &Provider, report: &mut Report) {
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
            report.fail_package(provider, platform, error);
        }
    }

    /// Brings the signed packages of a version into the store.
    async fn signed(
        &self,
        before: &Generation,
        missing: &[Platform],
        provider: &mut Provider,
        report: &mut Report,
    ) {
        let (addr, version) = (provider.addr.clone(), provider.version.clone());
        let found = missing
            .iter()
            .map(|platform| self.registries.package(&addr, &version, platform));
        let mut located = Vec::new();
        for (platform, found) in missing.iter().zip(join_all(found).await) {
            match found {
                Ok(found) => located.push((platform.clone(), found)),
                Err(error) => report.fail_package(provider, platform, error),
            }
        }
        let Some((platform, first)) = located.first() else {
            return;
        };
        let sums = match self.sums(before, &addr, &version, first).await {
            Ok(sums) => sums,
            Err(error) => return report.fail_package(provider, platform, error),
        };
        provider.protocols.clone_from(&first.protocols);
        provider.signed = sums.signed.clone();
        let fetched = located.iter().map(|(platform, found)| {
            self.package(before, &addr, &version, platform, found, &sums.content)
        });
        for ((platform, _), fetched) in located.iter().zip(join_all(fetched).await) {
            report.settle_package(provider, platform, fetched);
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

    /// Brings one package into the store.
    async fn package(
        &self,
        before: &Generation,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
        found: &Found,
        sums: &[u8],
    ) -> Result<FetchOutcome<Package>, Cause> {
        let archive = self.listed(found, sums)?;
        // If file names in the list are unusual, the package's platform is known only here.
        let now = Checksums::from([(platform.to_string(), archive)]);
        let name = addr.to_string();
        let same = self.trust.same_release(before, &name, version, now);
        same.await?;
        let fetched = self
            .fetch_into_store(&found.url, archive, &found.filename)
            .await?;
        if self.dry_run {
            return Ok((fetched, None));
        }
        let identity = Identity {
            addr: addr.clone(),
            platform: platform.clone(),
            filename: found.filename.clone(),
        };
        let package = self.examined(identity, archive).await?;
        Ok((fetched, Some(package)))
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

impl Report {
    /// Adds a package to its provider, or notes why it could not be got.
    pub(super) fn settle_package(
        &mut self,
        provider: &mut Provider,
        platform: &Platform,
        got: Result<FetchOutcome<Package>, Cause>,
    ) {
        let what = format!("{} {} {platform}", provider.addr, provider.version);
        let package = self.settle(what, got.map_err(unpublished));
        provider.packages.extend(package);
    }

    pub(super) fn fail_package(
        &mut self,
        provider: &Provider,
        platform: &Platform,
        error: impl Into<Cause>,
    ) {
        let what = format!("{} {} {platform}", provider.addr, provider.version);
        self.fail(what, unpublished(error.into()));
    }
}

/// Makes a missing package the registry's fault.
fn unpublished(error: Cause) -> Cause {
    match error {
        Cause::Fetch(FetchError::NotFound { url }) => {
            Cause::Unsatisfied(format!("the registry has no such package ({url})"))
        }
        error => error,
    }
}
