//! Providers from a network mirror, which vouches for them instead of their publishers.

use std::collections::BTreeMap;

use outpost_base::{
    error_chain::error_chain,
    registry::{Hash, Platform, ProviderAddr},
};
use semver::Version;

use super::{
    Cause, Sync,
    package::{self, Identity},
    pins::Checksums,
    provider::Outcome,
    trust::{TrustError, packages, release_name, signed_list},
};
use crate::{
    Digest, Generation, StoreError,
    fetch::{
        blocking,
        network_mirror::{Archive, NetworkMirror},
    },
    generation::{Package, Provider},
};

/// Result for a package: the length of the download, or of the download that would be made, if it is known; `None`
/// without a download.
type Taken = (Option<Option<u64>>, Option<Package>);

impl Sync {
    /// Brings packages of a version into the store.
    pub(super) async fn vouched(
        &self,
        before: &Generation,
        mirror: &NetworkMirror,
        missing: &[Platform],
        provider: &mut Provider,
        outcome: &mut Outcome,
    ) {
        let (addr, version) = (provider.addr.clone(), provider.version.clone());
        let archives = match missing {
            [] => return self.check_vouched(mirror, provider, outcome).await,
            [first, ..] => match self.archives(mirror, provider).await {
                Ok(archives) => archives,
                Err(error) => return outcome.fail(&addr, &version, first, error),
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
            match taken {
                Ok((size, package)) => {
                    outcome.fetched.extend(size);
                    outcome.present += usize::from(size.is_none());
                    provider.packages.extend(package);
                }
                Err(error) => outcome.fail(&addr, &version, platform, error),
            }
        }
    }

    /// Asks the network mirror for the checksums of packages that the store has, which may have been replaced there.
    async fn check_vouched(
        &self,
        mirror: &NetworkMirror,
        provider: &Provider,
        outcome: &mut Outcome,
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
                outcome.fail(addr, version, &package.platform, error);
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
    ) -> Result<Taken, Cause> {
        let Provider { addr, version, .. } = provider;
        // Use the publisher's file name, because a mirror may use any.
        let kind = addr.kind();
        let filename = format!("terraform-provider-{kind}_{version}_{platform}.zip");
        let expected = archive.hashes.iter().find_map(|hash| match hash {
            Hash::Zh(digest) => Some(Digest(*digest)),
            Hash::H1(_) | Hash::Other { .. } => None,
        });
        let is_there = expected.is_some_and(|digest| self.store.has(digest));
        if self.dry_run {
            let size = match is_there {
                true => None,
                false => Some(self.fetcher.length(&archive.url).await?),
            };
            return Ok((size, None));
        }
        let fetched = match expected {
            Some(digest) if is_there => (digest, None),
            Some(digest) => {
                let download = self
                    .fetcher
                    .download(&self.store, &archive.url, digest, &filename);
                (digest, Some(download.await?))
            }
            None => {
                let (digest, size) =
                    (self.fetcher.take(&self.store, &archive.url, &filename)).await?;
                (digest, Some(size))
            }
        };
        if archive.hashes.is_empty() {
            let text = format!("`{filename}` has no checksum");
            self.watch.note(&text);
        }
        let identity = Identity {
            addr: addr.clone(),
            platform: platform.clone(),
            filename: filename.clone(),
        };
        let (digest, size) = fetched;
        let (store, hashes) = (self.store.clone(), archive.hashes.clone());
        let package = blocking(move || {
            let path = store.path(digest);
            let length = std::fs::metadata(&path).map_err(StoreError::io("read", &path))?;
            let package = package::examine(&store, identity, digest, length.len())?;
            match package::satisfies(&package, &hashes) {
                true => Ok(package),
                false => Err(StoreError::Package {
                    name: package.filename,
                    why: "it has none of the checksums that the mirror lists".to_owned(),
                }),
            }
        });
        let package = package.await?;
        self.check_local(before, addr, version, &package).await?;
        if let Some(size) = size {
            self.watch.arrived(&filename, size);
        }
        Ok((size.map(Some), Some(package)))
    }
}

/// Returns whether a list of checksums contains a digest, under any name.
fn has_digest(list: &[u8], digest: Digest) -> bool {
    let list = String::from_utf8_lossy(list).to_ascii_lowercase();
    list.contains(&digest.to_string())
}
