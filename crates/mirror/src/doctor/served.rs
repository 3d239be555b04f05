//! A served mirror, which is asked for what a job would request.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ::http::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use outpost_base::{
    error_chain::error_chain,
    registry::{Hash, Platform, ProviderAddr},
};
use outpost_language::Constraint;
use outpost_net::http::shown;
use outpost_provision::{Services, WantedProvider};
use semver::Version;
use tempfile::TempDir;
use tokio::sync::Mutex;
use url::Url;

use crate::{
    Digest, Generation, Remote, RemoteError, Store, StoreError,
    fetch::{
        FetchError, Fetcher, blocking,
        network_mirror::NetworkMirror,
        registry::{self, Registries, Tokens},
    },
    generation::{GitRepository, Package, Provider, Signed},
    git::{Repository, place},
    scan::{
        Source, Tree,
        closure::{self, Absent, Closure, Modules, close},
        landing::{for_the_server, landing, target},
    },
    sync::{tree_of, unsatisfied},
};

/// Reason why a served mirror cannot be examined.
#[derive(Debug, thiserror::Error)]
pub enum ServedError {
    /// The mirror does not list its contents.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A request to the mirror failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No temporary directory can be created.
    #[error("failed to create a directory for the mirror's files")]
    Directory(#[source] std::io::Error),
    /// The temporary store reports an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A served mirror, with the files that were fetched so far.
pub struct Served {
    base: Url,
    fetcher: Fetcher,
    token: Option<HeaderValue>,
    services: Services,
    registries: Registries,
    packages: Option<NetworkMirror>,
    store: Store,
    repositories: Mutex<HashMap<String, Result<Repository, Absent>>>,
    /// Dropped last, because the store is inside.
    _dir: TempDir,
}

impl Served {
    /// Asks a mirror which hosts it replaces.
    ///
    /// # Errors
    /// [`ServedError`].
    pub async fn new(remote: &Remote, fetcher: Fetcher) -> Result<Self, ServedError> {
        let services = remote.hosts().await?.services;
        let token = remote.authorization()?;
        let dir = tempfile::tempdir().map_err(ServedError::Directory)?;
        let of_host = |of_host: &BTreeMap<String, String>| {
            let service = |name: &str| of_host.get(name)?.parse::<Url>().ok();
            registry::Services {
                providers: service("providers.v1"),
                modules: service("modules.v1"),
            }
        };
        let known: BTreeMap<_, _> = services
            .iter()
            .map(|(host, services)| (host.clone(), of_host(services)))
            .collect();
        let shown_token = token.clone();
        let base = registry::base(remote.url(), "").unwrap_or_else(|| remote.url().clone());
        let tokens: Tokens = Arc::new(move |_: &str| shown_token.clone());
        let packages = base.join("mirror/").ok();
        let packages =
            packages.and_then(|url| NetworkMirror::new(&url, fetcher.clone(), tokens.clone()));
        Ok(Self {
            registries: Registries::new(fetcher.clone(), &known, tokens),
            store: Store::open(dir.path())?,
            base,
            fetcher,
            token,
            services,
            packages,
            repositories: Mutex::default(),
            _dir: dir,
        })
    }

    /// Determines what a template needs, with the modules that the mirror serves.
    pub async fn closure(&self, template: Tree, default_host: &str) -> Closure {
        close(Arc::new(template), default_host, self).await
    }

    /// Returns the providers of a template as the mirror serves them: all versions, with packages for those that an
    /// engine would select.
    ///
    /// # Errors
    /// [`FetchError`] of the failed request.
    pub async fn generation(
        &self,
        closure: &Closure,
        platforms: &[Platform],
    ) -> Result<Generation, FetchError> {
        let mut generation = Generation::default();
        for (addr, constraint) in &closure.providers {
            if !self.replaces(addr.host(), "providers.v1") {
                continue;
            }
            let offered = match self.registries.versions(addr).await {
                Err(FetchError::NotFound { .. }) => continue,
                offered => offered?,
            };
            let wanted = WantedProvider {
                locked: closure.locked.get(addr).map(|it| it.version.clone()),
                constraint: constraint.clone(),
            };
            let chosen = wanted.choose(offered.iter().map(|it| &it.version)).cloned();
            for offered in offered {
                let packages = match chosen.as_ref() == Some(&offered.version) {
                    true => self.packages(addr, &offered.version, platforms).await?,
                    false => Vec::new(),
                };
                generation.providers.push(Provider {
                    addr: addr.clone(),
                    version: offered.version,
                    protocols: offered.protocols,
                    // Providers from the registry's protocol are signed; the engine checks the signer.
                    signed: Some(Signed {
                        shasums: Digest::of(b""),
                        signature: Digest::of(b""),
                        keys: Vec::new(),
                    }),
                    packages,
                });
            }
        }
        generation.normalize();
        Ok(generation)
    }

    async fn packages(
        &self,
        addr: &ProviderAddr,
        version: &Version,
        platforms: &[Platform],
    ) -> Result<Vec<Package>, FetchError> {
        // The registry's protocol has no `h1:` checksums, but a lock file may have no others.
        let archives = match &self.packages {
            Some(packages) => match packages.archives(addr, version).await {
                Err(FetchError::NotFound { .. }) => BTreeMap::new(),
                archives => archives?,
            },
            None => BTreeMap::new(),
        };
        let mut packages = Vec::new();
        for platform in platforms {
            let found = match self.registries.package(addr, version, platform).await {
                Err(FetchError::NotFound { .. }) => continue,
                found => found?,
            };
            let hashes = archives.get(platform).map(|it| it.hashes.as_slice());
            let mut hashes = hashes.unwrap_or_default().iter();
            let h1 = hashes.find(|hash| matches!(hash, Hash::H1(_))).cloned();
            let h1 = h1.unwrap_or_else(|| found.digest.zh());
            packages.push(Package {
                platform: platform.clone(),
                filename: found.filename,
                archive: found.digest,
                size: 0,
                h1_zip: h1.clone(),
                h1_tree: h1,
            });
        }
        Ok(packages)
    }

    fn replaces(&self, host: &str, service: &str) -> bool {
        let services = self.services.get(host);
        services.is_some_and(|services| services.contains_key(service))
    }

    /// Fetches a file of the mirror into the temporary store.
    async fn take(&self, url: &Url, token: Option<&HeaderValue>) -> Result<Digest, Absent> {
        let name = shown(url);
        let taken = self.fetcher.take_as(&self.store, url, &name, token);
        Ok(taken.await.map_err(absent)?.0)
    }

    async fn tree(&self, url: &Url, token: Option<&HeaderValue>) -> Result<Tree, Absent> {
        let (archive, store) = (self.take(url, token).await?, self.store.clone());
        let tree = blocking(move || tree_of(&store, archive)).await;
        tree.map_err(|error| Absent::Missing(error_chain(&error)))
    }

    async fn text(&self, url: &Url) -> Result<String, Absent> {
        let headers = HeaderMap::new();
        let answer = self.fetcher.get(url, &headers, self.token.as_ref());
        let answer = answer.await.map_err(absent)?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    fn below(&self, path: &str) -> Result<Url, Absent> {
        let url = self.base.join(path);
        url.map_err(|_| Absent::Missing("it is not a valid address".to_owned()))
    }

    /// Returns the address at which the mirror serves a file that engines request at `url`.
    fn file(&self, url: &str, asked: fn(&Url) -> Url) -> Result<Url, Absent> {
        let url: Url = url
            .parse()
            .map_err(|_| Absent::Missing("it is not a valid address".to_owned()))?;
        let asked = asked(&url);
        let rest = asked.as_str().split_once("://").map(|(_, rest)| rest);
        self.below(&format!("files/{}", rest.unwrap_or_default()))
    }

    /// Fetches a repository with git's dumb HTTP protocol, which works the same with every kind of authentication.
    async fn repository(&self, url: &str) -> Result<Repository, Absent> {
        let of = |file: &str| self.below(&format!("git/{}.git/{file}", place(url)));
        let refs = self.text(&of("info/refs")?).await?;
        let refs = refs.lines().filter_map(|line| {
            let (commit, name) = line.split_once('\t')?;
            Some((name.to_owned(), commit.to_owned()))
        });
        let head = self.text(&of("HEAD")?).await?;
        let packs = self.text(&of("objects/info/packs")?).await?;
        let pack = packs.lines().find_map(|line| line.strip_prefix("P "));
        let pack = pack.and_then(|name| name.strip_suffix(".pack"));
        let pack =
            pack.ok_or_else(|| Absent::Missing("the mirror has no pack of it".to_owned()))?;
        let file = |end: &str| of(&format!("objects/pack/{pack}.{end}"));
        let known = GitRepository {
            url: url.to_owned(),
            refs: refs.collect(),
            head: head.trim().strip_prefix("ref: ").map(str::to_owned),
            pack: self.take(&file("pack")?, self.token.as_ref()).await?,
            index: self.take(&file("idx")?, self.token.as_ref()).await?,
        };
        let stored = Repository::stored(&self.store, &known);
        stored.map_err(|error| Absent::Missing(error_chain(&error)))
    }
}

fn absent(error: FetchError) -> Absent {
    Absent::Missing(match error {
        FetchError::NotFound { .. } => "the mirror does not have it".to_owned(),
        error => error_chain(&error),
    })
}

#[async_trait]
impl Modules for Served {
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, closure::Package), Absent> {
        if !self.replaces(host, "modules.v1") {
            let why = format!("the mirror has no modules of {host}");
            return Err(Absent::Missing(why));
        }
        let versions = self.registries.module_versions(host, path).await;
        let versions = versions.map_err(absent)?;
        let newest = version.newest(&versions).cloned();
        let newest = newest.ok_or_else(|| Absent::Unsatisfied(unsatisfied(version, &versions)))?;
        let location = self.registries.module_location(host, path, &newest).await;
        let location = Source::parse(&location.map_err(absent)?);
        let Source::Archive { url, dir } = &location else {
            let why = format!("the mirror redirects to {location}");
            return Err(Absent::Missing(why));
        };
        let url: Url = url
            .parse()
            .map_err(|_| Absent::Missing("it is not a valid address".to_owned()))?;
        let tree = self.tree(&for_the_server(&url), None).await?;
        let package = closure::Package {
            dir: tree.directory(dir).unwrap_or_else(|| dir.clone()),
            tree: Arc::new(tree),
        };
        Ok((newest, package))
    }

    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent> {
        let mut repositories = self.repositories.lock().await;
        let key = place(url).to_owned();
        let repository = match repositories.get(&key) {
            Some(repository) => repository.clone(),
            None => {
                let repository = self.repository(url).await;
                repositories.insert(key, repository.clone());
                repository
            }
        };
        let tree = repository?.tree(reference).await;
        let (_, tree) = tree.map_err(|error| Absent::Missing(error_chain(&error)))?;
        Ok(Arc::new(tree))
    }

    async fn archive(&self, url: &str) -> Result<Arc<Tree>, Absent> {
        let url = self.file(url, for_the_server)?;
        self.tree(&url, self.token.as_ref()).await.map(Arc::new)
    }

    async fn landing(&self, url: &str) -> Result<String, Absent> {
        let page = self.text(&self.file(url, landing)?).await?;
        let nothing =
            || Absent::Missing("its page in the mirror does not link to a module".to_owned());
        target(&page).ok_or_else(nothing)
    }
}
