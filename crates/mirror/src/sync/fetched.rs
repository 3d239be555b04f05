//! How a file comes into the store, and how its cost is counted: the same for packages, programs and files.

use url::Url;

use super::{
    Cause, Report, Sync,
    package::{self, Identity},
};
use crate::{Digest, StoreError, fetch::blocking, generation::Package};

/// Cost of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fetched {
    /// The store had it.
    Present,
    /// The bytes that were downloaded, or would be; `None` if nobody knows.
    Bytes(Option<u64>),
}

/// A file's cost, and what is known about it; nothing is known in a dry run.
pub(super) type FetchOutcome<T> = (Fetched, Option<T>);

impl Sync {
    /// Downloads a file, unless the store has it. A dry run asks for its length only.
    pub(super) async fn fetch_into_store(
        &self,
        url: &Url,
        digest: Digest,
        name: &str,
    ) -> Result<Fetched, Cause> {
        if self.store.has(digest) {
            return Ok(Fetched::Present);
        }
        if self.dry_run {
            return Ok(Fetched::Bytes(self.fetcher.length(url).await?));
        }
        let download = self.fetcher.download(&self.store, url, digest, name);
        let size = download.await?;
        self.watch.arrived(name, size);
        Ok(Fetched::Bytes(Some(size)))
    }

    /// Length of a file; 0 for one that the store lacks, as in a dry run.
    pub(super) async fn length(&self, digest: Digest) -> Result<u64, StoreError> {
        let path = self.store.path(digest);
        let length = move || Ok(std::fs::metadata(path).map_or(0, |file| file.len()));
        blocking(length).await
    }

    /// Examines a provider's package that the store has.
    pub(super) async fn examined(
        &self,
        identity: Identity,
        archive: Digest,
    ) -> Result<Package, StoreError> {
        let store = self.store.clone();
        blocking(move || {
            let path = store.path(archive);
            let length = std::fs::metadata(&path).map_err(StoreError::io("read", &path))?;
            package::examine(&store, identity, archive, length.len())
        })
        .await
    }
}

impl Report {
    /// Counts the cost of `what` and returns what is known about it, or notes why it could not be got.
    pub(super) fn settle<T>(
        &mut self,
        what: impl Into<String>,
        got: Result<FetchOutcome<T>, Cause>,
    ) -> Option<T> {
        let (fetched, known) = match got {
            Ok(got) => got,
            Err(error) => {
                self.fail(what, error);
                return None;
            }
        };
        match fetched {
            Fetched::Present => self.present += 1,
            Fetched::Bytes(bytes) => {
                self.files += 1;
                self.bytes += bytes.unwrap_or_default();
                self.unknown += usize::from(bytes.is_none());
            }
        }
        known
    }

    /// Adds what was done at the same time.
    pub(super) fn merge(&mut self, part: Self) {
        self.synced.absorb(part.synced);
        self.files += part.files;
        self.bytes += part.bytes;
        self.unknown += part.unknown;
        self.present += part.present;
        self.replaced.extend(part.replaced);
        self.failures.extend(part.failures);
    }
}
