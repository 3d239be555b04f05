//! Providers from a network mirror, which vouches for them in their publishers' place.

use std::collections::BTreeMap;

use super::{
    Cause, Sync,
    package::{self, Identity},
    provider::Outcome,
    trust::TrustError,
};
use crate::{
    mirror::{
        Digest, StoreError,
        fetch::{
            blocking,
            network_mirror::{Archive, NetworkMirror},
        },
        generation::{Package, Provider},
    },
    registry::{Hash, Platform},
};

/// What became of a package: the length of what was downloaded, or would be if that is known, `None` if nothing was.
type Taken = (Option<Option<u64>>, Option<Package>);

impl Sync {
    /// Brings packages of a version into the store.
    pub(super) async fn vouched(
        &self,
        mirror: &NetworkMirror,
        missing: &[Platform],
        provider: &mut Provider,
        outcome: &mut Outcome,
    ) {
        let (addr, version) = (provider.addr.clone(), provider.version.clone());
        let archives = match missing {
            [] => return,
            [first, ..] => match self.archives(mirror, provider).await {
                Ok(archives) => archives,
                Err(error) => return outcome.fail(&addr, &version, first, error),
            },
        };
        for platform in missing {
            let taken = match archives.get(platform) {
                Some(archive) => self.vouched_package(provider, platform, archive).await,
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
        provider: &Provider,
        platform: &Platform,
        archive: &Archive,
    ) -> Result<Taken, Cause> {
        let Provider { addr, version, .. } = provider;
        // As publishers call it: a mirror may call it anything.
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
            let text = format!("`{filename}` came without any checksum");
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
        if let Some(size) = size {
            self.watch.arrived(&filename, size);
        }
        Ok((size.map(Some), Some(package)))
    }
}
