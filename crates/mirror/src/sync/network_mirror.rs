//! Providers from a network mirror, which vouches for them instead of their publishers.

use std::collections::BTreeMap;

use outpost_base::{
    error_chain::error_chain,
    registry::{Hash, Platform, ProviderAddr},
};
use semver::Version;

use super::{
    Cause, Report, Sync,
    fetched::{FetchOutcome, Fetched},
    package::{self, Identity},
    pins::Checksums,
    trust::{TrustError, packages, release_name, signed_list},
};
use crate::{
    Digest, Generation, StoreError,
    fetch::network_mirror::{Archive, NetworkMirror},
    generation::{Package, Provider},
};

impl Sync {
    /// Imports packages of a version that the network mirror vouches for.
    pub(super) async fn import_from_mirror(
        &self,
        before: &Generation,
        mirror: &NetworkMirror,
        missing: &[Platform],
        provider: &mut Provider,
        report: &mut Report,
    ) {
        let archives = match missing {
            [] => return self.check_vouched(mirror, provider, report).await,
            [first, ..] => match self.archives(mirror, provider).await {
                Ok(archives) => archives,
                Err(error) => return report.fail_package(provider, first, error),
            },
        };
        for platform in missing {
            let taken = match archives.get(platform) {
                Some(archive) => {
                    let taken = self.vouched_package(before, provider, platform, archive);
                    taken.await
                }
                None => {
                    let why = "the mirror has no such package".to_owned();
                    Err(Cause::Unsatisfied(why))
                }
            };
            report.settle_package(provider, platform, taken);
        }
    }

    /// Asks the network mirror for the checksums of packages that the store has, which may have been replaced there.
    async fn check_vouched(
        &self,
        mirror: &NetworkMirror,
        provider: &Provider,
        report: &mut Report,
    ) {
        let Provider { addr, version, .. } = provider;
        let archives = match mirror.archives(addr, version).await {
            Ok(archives) => archives,
            Err(error) => {
                let error = error_chain(&error);
                return self.watch.note(&format!(
                    "{addr} {version}: cannot check with the mirror whether it is unchanged: {error}"
                ));
            }
        };
        for package in &provider.packages {
            let Some(archive) = archives.get(&package.platform) else {
                continue;
            };
            if !package::satisfies(package, &archive.hashes) {
                let now = archive.hashes.first().map(Hash::to_string);
                let error = TrustError::Changed {
                    release: release_name(&addr.to_string(), version),
                    platform: package.platform.to_string(),
                    first: package.archive.to_string(),
                    now: now.unwrap_or_default(),
                };
                report.fail_package(provider, &package.platform, error);
            }
        }
    }

    /// Checks a package that does not come from its publisher: it must match the mirror's pins, and the publisher's
    /// signed checksums if the mirror has them.
    pub(super) async fn check_local(
        &self,
        before: &Generation,
        addr: &ProviderAddr,
        version: &Version,
        package: &Package,
    ) -> Result<(), Cause> {
        let (name, platform) = (addr.to_string(), package.platform.to_string());
        let mut known = before.versions(addr);
        let known = known.find(|provider| provider.version == *version);
        let signed = known.and_then(|known| known.signed.as_ref());
        if let Some(list) = signed_list(&self.store, signed).await?
            && !self.trust.accepts(&name, version)
            && !packages(&list, addr.kind(), version).contains_key(&platform)
            && !has_digest(&list, package.archive)
        {
            return Err(TrustError::NotListed {
                filename: package.filename.clone(),
                why: "the checksums that its publisher signed for this version do not list it"
                    .to_owned(),
            }
            .into());
        }
        let now = Checksums::from([(platform, package.archive)]);
        self.trust.same_release(before, &name, version, now).await
    }

    async fn archives(
        &self,
        mirror: &NetworkMirror,
        provider: &Provider,
    ) -> Result<BTreeMap<Platform, Archive>, Cause> {
        if self.trust.is_pinned(&provider.addr) {
            return Err(TrustError::NoSignature(provider.addr.clone()).into());
        }
        Ok(mirror.archives(&provider.addr, &provider.version).await?)
    }

    async fn vouched_package(
        &self,
        before: &Generation,
        provider: &Provider,
        platform: &Platform,
        archive: &Archive,
    ) -> Result<FetchOutcome<Package>, Cause> {
        let Provider { addr, version, .. } = provider;
        // Use the publisher's file name, because a mirror may use any.
        let kind = addr.kind();
        let filename = format!("terraform-provider-{kind}_{version}_{platform}.zip");
        let expected = archive.hashes.iter().find_map(|hash| match hash {
            Hash::Zh(digest) => Some(Digest(*digest)),
            Hash::H1(_) | Hash::Other { .. } => None,
        });
        let (digest, fetched) = match expected {
            Some(digest) => (
                digest,
                self.fetch_into_store(&archive.url, digest, &filename)
                    .await?,
            ),
            None if self.dry_run => {
                let length = self.fetcher.length(&archive.url).await?;
                return Ok((Fetched::Bytes(length), None));
            }
            None => {
                let taken = self.fetcher.take(&self.store, &archive.url, &filename);
                let (digest, size) = taken.await?;
                self.watch.arrived(&filename, size);
                (digest, Fetched::Bytes(Some(size)))
            }
        };
        if self.dry_run {
            return Ok((fetched, None));
        }
        if archive.hashes.is_empty() {
            let text = format!("`{filename}` has no checksum");
            self.watch.note(&text);
        }
        let identity = Identity {
            addr: addr.clone(),
            platform: platform.clone(),
            filename: filename.clone(),
        };
        let package = self.examined(identity, digest).await?;
        if !package::satisfies(&package, &archive.hashes) {
            return Err(Cause::Store(StoreError::Package {
                name: package.filename,
                why: "it has none of the checksums that the mirror lists".to_owned(),
            }));
        }
        self.check_local(before, addr, version, &package).await?;
        Ok((fetched, Some(package)))
    }
}

/// Returns whether a list of checksums contains a digest, under any name.
fn has_digest(list: &[u8], digest: Digest) -> bool {
    let list = String::from_utf8_lossy(list).to_ascii_lowercase();
    list.contains(&digest.to_string())
}
