//! Modules from their origins: each is asked for once, however many templates call it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use semver::Version;
use tokio::sync::Mutex;
use url::Url;

use super::{Cause, Report, Sync, wishes::ModuleWish};
use crate::{
    language::Constraint,
    mirror::{
        Digest, Generation, StoreError,
        fetch::blocking,
        generation::{GitRepository, Module, StaticFile},
        git::{GitError, Repository},
        resolve::Pick,
        scan::{
            Source, Tree,
            closure::{Absent, Modules},
            is_archive,
        },
    },
    registry::Hash,
};

/// Parts of an address that are for the engine, and not for the server.
const FOR_THE_ENGINE: [&str; 3] = ["archive", "checksum", "filename"];

/// Where modules come from while a mirror is filled.
pub(super) struct Origins<'a> {
    sync: &'a Sync,
    before: &'a Generation,
    known: Mutex<Known>,
}

/// What something is called in a generation, and its files; or why there is none.
type Outcome<T> = Result<(T, Arc<Tree>), String>;

/// What was got, or why it was not.
#[derive(Default)]
struct Known {
    versions: HashMap<String, Result<Vec<Version>, String>>,
    modules: BTreeMap<(String, Version), Outcome<Module>>,
    repositories: BTreeMap<String, Result<Arc<Repository>, String>>,
    kept: Vec<GitRepository>,
    archives: BTreeMap<String, Outcome<StaticFile>>,
    downloads: (usize, u64),
}

/// Everything that was got.
pub(super) struct Got {
    /// As a part of a generation.
    pub(super) generation: Generation,
    /// Files that were downloaded, and their bytes.
    pub(super) downloads: (usize, u64),
}

impl<'a> Origins<'a> {
    pub(super) fn new(sync: &'a Sync, before: &'a Generation) -> Self {
        Self {
            sync,
            before,
            known: Mutex::default(),
        }
    }

    /// What came of it.
    pub(super) fn finish(self) -> Got {
        let known = self.known.into_inner();
        let modules = known.modules.into_values().filter_map(Result::ok);
        let files = known.archives.into_values().filter_map(Result::ok);
        Got {
            generation: Generation {
                modules: modules.map(|(module, _)| module).collect(),
                files: files.map(|(file, _)| file).collect(),
                git: known.kept,
                ..Generation::default()
            },
            downloads: known.downloads,
        }
    }

    /// Brings modules and repositories that are wanted by name.
    pub(super) async fn wished(&self, report: &mut Report) {
        for wish in &self.sync.wishes.modules {
            if let Err(why) = self.wished_modules(wish).await {
                report.fail(wish.source.to_string(), Cause::Unsatisfied(why));
            }
        }
        for wish in &self.sync.wishes.git {
            let mut known = self.known.lock().await;
            if let Err(why) = self.repository(&wish.url, &mut known).await {
                report.fail(&wish.url, Cause::Unsatisfied(why));
            }
        }
    }

    async fn wished_modules(&self, wish: &ModuleWish) -> Result<(), String> {
        for engine in &self.sync.wishes.engines {
            let host = wish.source.host.as_deref().unwrap_or(engine.default_host());
            let path = &wish.source.path;
            let versions = self.versions(host, path).await?;
            let newest = [Pick::default()];
            let picks = match wish.versions.as_slice() {
                [] => &newest[..],
                picks => picks,
            };
            for pick in picks {
                let chosen = pick.choose(&versions, wish.policy.count(wish.keep));
                if chosen.is_empty() {
                    return Err(format!("no version satisfies `{pick}`"));
                }
                for version in chosen {
                    self.module(host, path, version).await?;
                }
            }
        }
        Ok(())
    }

    /// The versions of a module, as its registry lists them.
    pub(super) async fn versions(&self, host: &str, path: &str) -> Result<Vec<Version>, String> {
        let mut known = self.known.lock().await;
        let addr = format!("{host}/{path}");
        if let Some(versions) = known.versions.get(&addr) {
            return versions.clone();
        }
        let asked = self.sync.registries.module_versions(host, path).await;
        let asked = asked.map_err(|error| text(&error));
        known.versions.insert(addr, asked.clone());
        asked
    }

    /// One version of a module.
    pub(super) async fn module(
        &self,
        host: &str,
        path: &str,
        version: &Version,
    ) -> Result<Arc<Tree>, String> {
        let mut known = self.known.lock().await;
        let key = (format!("{host}/{path}"), version.clone());
        if let Some(module) = known.modules.get(&key) {
            return module.clone().map(|(_, tree)| tree);
        }
        let got = match self.stored(&key).await {
            Some(stored) => Ok(stored),
            None => self.fetch_module(host, path, version, &mut known).await,
        };
        known.modules.insert(key, got.clone());
        got.map(|(_, tree)| tree)
    }

    async fn stored(&self, (addr, version): &(String, Version)) -> Option<(Module, Arc<Tree>)> {
        let mut modules = self.before.modules.iter();
        let module = modules.find(|m| m.addr == *addr && m.version == *version)?;
        let (store, archive) = (self.sync.store.clone(), module.archive);
        let tree = blocking(move || tree_of(&store, archive)).await.ok()?;
        Some((module.clone(), Arc::new(tree)))
    }

    async fn fetch_module(
        &self,
        host: &str,
        path: &str,
        version: &Version,
        known: &mut Known,
    ) -> Result<(Module, Arc<Tree>), String> {
        let location = self
            .sync
            .registries
            .module_location(host, path, version)
            .await;
        let location = location.map_err(|error| text(&error))?;
        let source = Source::parse(&location);
        let (origin, tree) = match &source {
            Source::Archive { url, dir } => {
                let (_, content) = self.download(url, known).await?;
                let tree = unpacked(content).await?;
                (source.to_string(), tree.below(dir))
            }
            Source::Git {
                url,
                reference,
                dir,
            } => {
                let repository = self.repository(url, known).await?;
                let (commit, tree) = repository
                    .tree(reference.as_deref())
                    .await
                    .map_err(|error| text(&error))?;
                (format!("{source} at {commit}"), tree.below(dir))
            }
            _ => {
                return Err(format!(
                    "the registry says it is at {source}, which nobody can fetch"
                ));
            }
        };
        if tree.files.is_empty() {
            return Err(format!("there is nothing at {source}"));
        }
        let packed = tree.pack().map_err(|error| text(&error))?;
        let archive = self.put(&packed).await?;
        let module = Module {
            addr: format!("{host}/{path}"),
            version: version.clone(),
            archive,
            size: packed.len() as u64,
            origin,
        };
        Ok((module, Arc::new(tree)))
    }

    async fn put(&self, content: &[u8]) -> Result<Digest, String> {
        if self.sync.dry_run {
            return Ok(Digest::of(content));
        }
        let (store, content) = (self.sync.store.clone(), content.to_vec());
        let put = blocking(move || store.put(&content)).await;
        put.map_err(|error| text(&error))
    }

    /// What is at an address, which is returned without what only the engine looks at.
    async fn download(&self, url: &str, known: &mut Known) -> Result<(Url, Vec<u8>), String> {
        let url = Url::parse(url).map_err(|error| format!("it is no address: {error}"))?;
        if !is_archive(&url) {
            return Err("its address does not end in the name of an archive".to_owned());
        }
        let checksum = url.query_pairs().find(|(name, _)| name == "checksum");
        let checksum = checksum.map(|(_, value)| value.into_owned());
        let url = for_the_server(&url);
        let content = self.sync.registries.file(&url).await;
        let content = content.map_err(|error| text(&error))?;
        let expected = checksum
            .as_deref()
            .and_then(|value| value.strip_prefix("sha256:"));
        let found = Digest::of(&content).to_string();
        if let Some(expected) = expected.filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
            return Err(format!("it has the checksum {found}, not {expected}"));
        }
        known.downloads.0 += 1;
        known.downloads.1 += content.len() as u64;
        Ok((url, content))
    }

    /// A repository as it is now. If the mirror has it like that, nothing is fetched.
    async fn repository(&self, url: &str, known: &mut Known) -> Result<Arc<Repository>, String> {
        if let Some(repository) = known.repositories.get(url) {
            return repository.clone();
        }
        let got = self
            .fetch_repository(url)
            .await
            .map_err(|error| text(&error));
        let got = got.map(|(repository, kept)| {
            known.kept.extend(kept);
            Arc::new(repository)
        });
        known.repositories.insert(url.to_owned(), got.clone());
        got
    }

    async fn fetch_repository(
        &self,
        url: &str,
    ) -> Result<(Repository, Option<GitRepository>), GitError> {
        let (mut refs, head) = Repository::remote(url, &self.sync.authorities).await?;
        let wishes = &self.sync.wishes.git;
        if let Some(wish) = wishes.iter().find(|wish| wish.url == url) {
            refs.retain(|name, _| wish.wants(name));
        }
        let head = head.filter(|head| refs.contains_key(head));
        let store = &self.sync.store;
        let before = self.before.git.iter().find(|git| git.url == url);
        if let Some(same) = before.filter(|git| git.refs == refs && store.has(git.pack)) {
            let repository = Repository::stored(store, same).await?;
            return Ok((repository, Some(same.clone())));
        }
        self.sync.watch.phase(&format!("fetching {url}"));
        let repository = Repository::fetch(store, url, &refs, head, &self.sync.authorities).await?;
        let kept = match self.sync.dry_run {
            true => None,
            false => Some(repository.keep(store).await?),
        };
        Ok((repository, kept))
    }
}

#[async_trait]
impl Modules for Origins<'_> {
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, Arc<Tree>), Absent> {
        let versions = self.versions(host, path).await?;
        let newest = version.newest(&versions).cloned();
        let newest = newest.ok_or_else(|| Absent::Unsatisfied(unsatisfied(version, &versions)))?;
        let tree = self.module(host, path, &newest).await?;
        Ok((newest, tree))
    }

    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent> {
        let mut known = self.known.lock().await;
        let repository = self.repository(url, &mut known).await?;
        let (_, tree) = repository
            .tree(reference)
            .await
            .map_err(|error| text(&error))?;
        Ok(Arc::new(tree))
    }

    async fn archive(&self, url: &str) -> Result<Arc<Tree>, Absent> {
        let mut known = self.known.lock().await;
        if let Some(got) = known.archives.get(url) {
            return Ok(got.clone().map(|(_, tree)| tree)?);
        }
        let got = async {
            let (place, content) = self.download(url, &mut known).await?;
            let file = StaticFile {
                url: place.into(),
                content: self.put(&content).await?,
                size: content.len() as u64,
            };
            Ok((file, Arc::new(unpacked(content).await?)))
        };
        let got: Result<_, String> = got.await;
        known.archives.insert(url.to_owned(), got.clone());
        Ok(got.map(|(_, tree)| tree)?)
    }
}

/// The files of a module in a store.
///
/// # Errors
/// If it is not there, or damaged.
pub fn tree_of(store: &crate::mirror::Store, archive: Digest) -> Result<Tree, StoreError> {
    let path = store.path(archive);
    let content = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
    Tree::of_archive(&content).map_err(|error| StoreError::Package {
        name: path.display().to_string(),
        why: error.to_string(),
    })
}

/// What there is instead of what nobody has.
pub(super) fn unsatisfied(constraint: &Constraint, versions: &[Version]) -> String {
    match versions.iter().max() {
        Some(newest) => format!("no version satisfies `{constraint}`; the newest is {newest}"),
        None => "it has no versions".to_owned(),
    }
}

async fn unpacked(content: Vec<u8>) -> Result<Tree, String> {
    let name = || "the archive".to_owned();
    let tree = blocking(move || {
        Tree::of_archive(&content).map_err(|error| StoreError::Package {
            name: name(),
            why: error.to_string(),
        })
    });
    tree.await.map_err(|error| text(&error))
}

/// An address without what only the engine looks at.
pub fn for_the_server(url: &Url) -> Url {
    let mut clean = url.clone();
    let kept: Vec<_> = url
        .query_pairs()
        .filter(|(name, _)| !FOR_THE_ENGINE.contains(&name.as_ref()))
        .collect();
    clean.set_query(None);
    if !kept.is_empty() {
        clean.query_pairs_mut().extend_pairs(kept);
    }
    clean.set_fragment(None);
    clean
}

/// An error with everything that led to it.
pub(super) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

/// Whether some hash of a lock file is one that we could compare.
pub(super) fn is_comparable(hashes: &[Hash]) -> bool {
    hashes
        .iter()
        .any(|hash| !matches!(hash, Hash::Other { .. }))
}
