//! Modules behind a server: a registry is asked for versions, and the archive that it names is fetched once and
//! packed anew.

use std::sync::Arc;

use semver::Version;
use tokio::{sync::Mutex, time::Instant};

use super::{FRESH, FileKind, PullError, Upstream};
use crate::sync::{Cause, modules::Origins, trust};

/// Versions of a module, with the time of the request.
pub(super) type Listing = Arc<Mutex<Option<(Instant, Result<Arc<Vec<Version>>, PullError>)>>>;

impl Upstream {
    /// Returns the versions of `HOST/NAMESPACE/NAME/SYSTEM`, cached like those of providers.
    ///
    /// # Errors
    /// [`PullError`].
    pub(crate) async fn module_versions(&self, addr: &str) -> Result<Arc<Vec<Version>>, PullError> {
        let (host, path) = addr.split_once('/').ok_or(PullError::Missing)?;
        self.check_service(host, "modules.v1")?;
        let listing = self.0.modules.get_or(addr.to_owned(), Listing::default);
        let mut listing = listing.lock().await;
        if let Some((at, known)) = &*listing
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let asked = self.0.sync.registries.module_versions(host, path);
        let asked = match (self.in_time(asked).await, &*listing) {
            (Err(PullError::Failed(why)), Some((_, Ok(known)))) => {
                tracing::warn!(addr, %why, "no answer from the registry; using its last known versions");
                Ok(known.clone())
            }
            (asked, _) => asked.map(Arc::new),
        };
        *listing = Some((Instant::now(), asked.clone()));
        asked
    }

    /// Brings a module into the current generation. The call returns before the client's own timeout; the work
    /// continues, and the next request gets its result.
    ///
    /// # Errors
    /// [`PullError::Missing`] if the registry does not list that version.
    pub(crate) async fn bring_module(
        &self,
        addr: &str,
        version: &Version,
    ) -> Result<(), PullError> {
        if !self.module_versions(addr).await?.contains(version) {
            return Err(PullError::Missing);
        }
        let (this, name, wanted) = (self.clone(), addr.to_owned(), version.clone());
        let flight = self.fly(
            FileKind::Module(addr.to_owned(), version.clone()),
            async move { this.pull_module(&name, &wanted).await },
        );
        self.in_time(flight).await
    }

    async fn pull_module(&self, addr: &str, version: &Version) -> Result<(), PullError> {
        let (host, path) = addr.split_once('/').ok_or(PullError::Missing)?;
        let sync = &self.0.sync;
        // The mirror's copy of a repository has the former targets of its tags.
        let before = trust::newest(&sync.store).await.map_err(Cause::from)?;
        let origins = Origins::new(sync, &before);
        let brought = origins.module(host, path, version).await;
        let got = origins.finish();
        if let Some((_, why)) = got.changed.into_iter().next() {
            return Err(why.into());
        }
        brought.map_err(|why| PullError::Failed(why.into()))?;
        self.commit(got.generation).await?;
        tracing::info!(addr, %version, "pulled from the registry");
        Ok(())
    }
}
