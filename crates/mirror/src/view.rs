//! A mirror as the engine of one session sees it: a directory in the layout of Terraform's filesystem mirror.
//!
//! It lists every package for this platform, so the engine itself selects the versions, as it would with a registry.
//! The likely selection is a link to files that are unpacked once for all sessions; everything else is a link to the
//! zip file, which the engine unpacks itself. No engine ever writes to any of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use outpost_base::{
    error_chain::error_chain,
    registry::{DEFAULT_HOST, OPENTOFU_HOST, Platform, ProviderAddr},
};
use outpost_provision::{
    LinkSink, ProviderStore, ProviderView, Services, UnmetTemplate, WantedProvider,
};
use url::Url;

use super::{
    Digest, Generation, Store, StoreError, doctor,
    generation::{GitRepository, Package, Provider},
    remote,
    serve::{self, Loopback},
    store::InUse,
};

/// Packages of a store for one platform.
#[derive(Clone, Debug)]
pub struct Packages {
    /// Store whose current generation a session gets.
    pub store: Store,
    /// Platform of the engine.
    pub platform: Platform,
    /// Server of the same store, for what engines take from servers only.
    pub server: Option<Arc<Loopback>>,
    /// Size of the unpacked packages in bytes, beyond which those that no session uses are evicted; `None` for no limit.
    pub max_unpacked_bytes: Option<u64>,
    /// `true` if the mirror replaces registries completely, so that none is asked for what the store lacks.
    pub is_sealed: bool,
}

#[async_trait]
impl ProviderStore for Packages {
    fn place(&self) -> String {
        self.store.dir().display().to_string()
    }

    fn view(
        &self,
        dir: &dyn LinkSink,
        wanted: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>> {
        let (lease, generation) = self.store.lease_newest()?;
        let mut view = ProviderView {
            providers: Vec::new(),
            services: Services::new(),
            unsigned: Vec::new(), // Like all others they are in the directory.
            network_mirror: None,
            repositories: BTreeMap::new(),
            token: None,
            init_proxy: self
                .server
                .as_ref()
                .and_then(|server| server.init_proxy().cloned()),
            checksums: BTreeMap::new(),
            hold: Arc::new(()),
        };
        let mut in_use = Vec::new();
        for of_one in generation.providers.chunk_by(|a, b| a.addr == b.addr) {
            let addr = &of_one[0].addr;
            let here: Vec<_> = of_one
                .iter()
                .filter_map(|p| Some((p, self.package(p)?)))
                .collect();
            if here.is_empty() {
                continue;
            }
            let chosen = wanted.get(addr).and_then(|wanted| {
                wanted.choose(here.iter().map(|(provider, _)| &provider.version))
            });
            for (provider, package) in here {
                let is_chosen = chosen == Some(&provider.version);
                let (name, target) = match self.unpacked(package, is_chosen)? {
                    Some(used) => {
                        let tree = used.tree.clone();
                        in_use.push(used);
                        (self.name_unpacked(provider), tree)
                    }
                    None => (self.name_packed(provider), self.store.path(package.archive)),
                };
                dir.link(&Path::new(&addr.to_string()).join(name), &target)?;
                let of_lock = [
                    package.archive.zh(),
                    package.h1_zip.clone(),
                    package.h1_tree.clone(),
                ];
                let key = (addr.clone(), provider.version.clone());
                view.checksums.insert(key, of_lock.to_vec());
            }
            view.providers.push(addr.clone());
        }
        if let Some(server) = &self.server {
            let git = generation.git.iter().map(GitRepository::place);
            view.services = self.services(server.url(), &generation);
            view.repositories = remote::repositories(server.url(), git);
        }
        view.hold = Arc::new((lease, in_use));
        self.evict(&generation);
        Ok(view)
    }

    async fn lacks(
        &self,
        template: UnmetTemplate,
    ) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        doctor::in_store(&self.store, &self.platform, template).await
    }
}

impl Packages {
    /// Returns the replaced services. Modules come from the server; providers are in the view, and from their
    /// registries unless that is forbidden.
    fn services(&self, server: &Url, generation: &Generation) -> Services {
        let mut services = remote::below(server, serve::services(generation));
        if self.is_sealed {
            return services;
        }
        services.retain(|_, of_host| of_host.contains_key("modules.v1"));
        for host in [DEFAULT_HOST, OPENTOFU_HOST] {
            // Replacing one service of a host replaces all of them.
            if let Some(of_host) = services.get_mut(host) {
                let elsewhere = format!("https://{host}/v1/providers/");
                of_host.insert("providers.v1".to_owned(), elsewhere);
            }
        }
        services
    }

    fn package<'a>(&self, provider: &'a Provider) -> Option<&'a Package> {
        let mut packages = provider.packages.iter();
        packages.find(|package| package.platform == self.platform)
    }

    /// Returns the unpacked files of a package if a session should get those. `is_chosen` is set for the likely
    /// selection of the engine.
    fn unpacked(&self, package: &Package, is_chosen: bool) -> Result<Option<InUse>, StoreError> {
        if is_chosen {
            return self.store.use_tree(package).map(Some);
        }
        // With a limit, a session keeps only what it is likely to use: otherwise each would keep everything.
        match self.max_unpacked_bytes {
            Some(_) => Ok(None),
            // Not worth reading the files of thousands of versions that only an older release unpacked.
            None => Ok(self.store.use_known_tree(package)),
        }
    }

    /// Returns the name of an unpacked package in the view, below its provider.
    fn name_unpacked(&self, provider: &Provider) -> PathBuf {
        PathBuf::from(provider.version.to_string()).join(self.platform.to_string())
    }

    /// Returns the name of a package's zip file in the view, below its provider.
    fn name_packed(&self, provider: &Provider) -> PathBuf {
        let (kind, version) = (provider.addr.kind(), &provider.version);
        format!("terraform-provider-{kind}_{version}_{}.zip", self.platform).into()
    }

    /// Evicts unpacked packages beyond the limit. A mirror in which this process may not write stays as it is.
    fn evict(&self, generation: &Generation) {
        let Some(max_bytes) = self.max_unpacked_bytes else {
            return;
        };
        let packages = generation.providers.iter().flat_map(|it| &it.packages);
        let packages: BTreeSet<Digest> = packages.map(|package| package.archive).collect();
        let evicted = self
            .store
            .evict_trees(&packages, max_bytes, SystemTime::now());
        if let Err(error) = evicted {
            tracing::warn!(
                error = error_chain(&error),
                "cannot evict unpacked packages of the mirror"
            );
        }
    }
}
