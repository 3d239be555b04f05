//! Modules from their origins: each is requested once, however many templates call it.

mod unchanged;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use outpost_base::{
    error_chain::error_chain,
    registry::{DEFAULT_HOST, Hash},
};
use outpost_language::Constraint;
use semver::Version;
use tokio::sync::Mutex;
use url::Url;

pub(super) use self::unchanged::contents_of;
use super::{Cause, Report, Sync, config::ModuleEntry};
use crate::{
    Digest, Generation, StoreError,
    fetch::blocking,
    generation::{GitRepository, Module, StaticFile, is_package_dir},
    git::{GitError, Repository, full_names, place},
    resolve::Pick,
    scan::{
        Source, Tree,
        closure::{Absent, Modules, Package},
        is_archive,
        landing::{self, for_the_server},
        scan,
    },
};

/// Source of modules while a mirror is filled.
pub(super) struct Origins<'a> {
    sync: &'a Sync,
    before: &'a Generation,
    known: Mutex<Known>,
}

/// Entry of a generation with its files, or the reason why there is none.
type Outcome<T> = Result<(T, Arc<Tree>), String>;

/// Results of all requests so far.
#[derive(Default)]
struct Known {
    versions: HashMap<String, Result<Vec<Version>, String>>,
    modules: BTreeMap<(String, Version), Outcome<Module>>,
    /// Repositories by `HOST/OWNER/REPO`, whatever the form of their addresses.
    repositories: BTreeMap<String, Opened>,
    /// Errors of unreachable repositories, by their addresses.
    unreachable: BTreeMap<String, String>,
    kept: BTreeMap<String, GitRepository>,
    archives: BTreeMap<String, Outcome<StaticFile>>,
    /// Pages that announce the address of a module, with that address.
    landings: BTreeMap<String, Result<(StaticFile, String), String>>,
    downloads: (usize, u64),
    /// References of repositories as their origins list them, by `HOST/OWNER/REPO`.
    listed: HashMap<String, BTreeMap<String, String>>,
    /// Names of items that changed since the mirror first saw them.
    changed: Vec<(String, Cause)>,
}

/// A repository with the references of its origin.
#[derive(Clone)]
struct Opened {
    repository: Repository,
    origin: BTreeMap<String, String>,
    head: Option<String>,
}

/// Required part of a repository.
#[derive(Clone, Copy)]
enum Need<'a> {
    /// The references that `mirror.toml` names.
    Configured,
    /// A branch, a tag or a commit; the head if there is none.
    Reference(Option<&'a str>),
}

impl Need<'_> {
    /// Returns the branch or tag of the origin that is required.
    fn named(self, origin: &BTreeMap<String, String>, head: Option<&str>) -> Option<String> {
        match self {
            Self::Configured => None,
            Self::Reference(None) => head.map(str::to_owned),
            Self::Reference(Some(name)) => full_names(name)
                .into_iter()
                .find(|name| origin.contains_key(name)),
        }
    }
}

/// All results of the requests.
pub(super) struct FetchedModules {
    /// Results as a part of a generation.
    pub(super) generation: Generation,
    /// Number of files that were downloaded, and their total size in bytes.
    pub(super) downloads: (usize, u64),
    /// Names of items that changed since the mirror first saw them.
    pub(super) changed: Vec<(String, Cause)>,
}

/// The origin of a module, and its files.
struct Located {
    /// Address, with the commit if that is git.
    origin: String,
    tree: Tree,
    /// Directory of the module in the tree.
    dir: String,
}

impl<'a> Origins<'a> {
    pub(super) fn new(sync: &'a Sync, before: &'a Generation) -> Self {
        Self {
            sync,
            before,
            known: Mutex::default(),
        }
    }

    pub(super) fn finish(self) -> FetchedModules {
        let known = self.known.into_inner();
        let modules = known.modules.into_values().filter_map(Result::ok);
        let archives = known.archives.into_values().filter_map(Result::ok);
        let landings = known.landings.into_values().filter_map(Result::ok);
        let archives = archives.map(|(file, _)| file);
        let files = archives.chain(landings.map(|(file, _)| file));
        FetchedModules {
            generation: Generation {
                modules: modules.map(|(module, _)| module).collect(),
                files: files.collect(),
                git: known.kept.into_values().collect(),
                ..Generation::default()
            },
            downloads: known.downloads,
            changed: known.changed,
        }
    }

    /// Fetches the modules and repositories that `mirror.toml` names.
    pub(super) async fn fetch_configured(&self, report: &mut Report) {
        for entry in &self.sync.config.modules {
            if let Err(why) = self.fetch_configured_modules(entry).await {
                report.fail(entry.source.to_string(), Cause::Unsatisfied(why));
            }
        }
        for entry in &self.sync.config.git {
            let mut known = self.known.lock().await;
            let brought = self
                .repository(&entry.url, Need::Configured, &mut known)
                .await;
            if let Err(why) = brought {
                report.fail(&entry.url, Cause::Unsatisfied(why));
            }
        }
    }

    async fn fetch_configured_modules(&self, entry: &ModuleEntry) -> Result<(), String> {
        for engine in &self.sync.config.engines {
            let host = entry
                .source
                .host
                .as_deref()
                .unwrap_or(engine.default_host());
            let path = &entry.source.path;
            let versions = self.versions(host, path).await?;
            let newest = [Pick::default()];
            let picks = match entry.versions.as_slice() {
                [] => &newest[..],
                picks => picks,
            };
            for pick in picks {
                let chosen = pick.choose(&versions, entry.policy.count(entry.keep));
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

    /// Returns the versions of a module that its registry lists.
    pub(super) async fn versions(&self, host: &str, path: &str) -> Result<Vec<Version>, String> {
        let mut known = self.known.lock().await;
        let addr = format!("{host}/{path}");
        if let Some(versions) = known.versions.get(&addr) {
            return versions.clone();
        }
        let asked = self.sync.registries.module_versions(host, path).await;
        let asked = asked.map_err(|error| error_chain(&error));
        known.versions.insert(addr, asked.clone());
        asked
    }

    /// Returns one version of a module, from the mirror or from its origin.
    pub(super) async fn module(
        &self,
        host: &str,
        path: &str,
        version: &Version,
    ) -> Result<Package, String> {
        let package = |(module, tree): (Module, Arc<Tree>)| Package {
            tree,
            dir: module.dir,
        };
        let mut known = self.known.lock().await;
        let key = (format!("{host}/{path}"), version.clone());
        if let Some(module) = known.modules.get(&key) {
            return module.clone().map(package);
        }
        let stored = match self.sync.trust.accepts(&key.0, version) {
            true => None,
            false => self.stored(&key).await,
        };
        let got = match stored {
            Some(stored) => {
                self.check_unchanged(&stored.0, &mut known).await;
                Ok(stored)
            }
            None => self.fetch_module(host, path, version, &mut known).await,
        };
        known.modules.insert(key, got.clone());
        got.map(package)
    }

    async fn stored(&self, (addr, version): &(String, Version)) -> Option<(Module, Arc<Tree>)> {
        let mut modules = self.before.modules.iter();
        let module = modules.find(|m| m.addr == *addr && m.version == *version)?;
        let (store, archive) = (self.sync.store.clone(), module.archive);
        let tree = blocking(move || tree_of(&store, archive)).await.ok()?;
        (!was_cut(module, &tree)).then(|| (module.clone(), Arc::new(tree)))
    }

    async fn fetch_module(
        &self,
        host: &str,
        path: &str,
        version: &Version,
        known: &mut Known,
    ) -> Result<(Module, Arc<Tree>), String> {
        let source = self.location(host, path, version).await?;
        let located = self.located(&source, known).await?;
        let addr = format!("{host}/{path}");
        self.pin(&addr, version, &located.tree, known).await?;
        let Located { origin, tree, dir } = located;
        let packed = tree.pack().map_err(|error| error_chain(&error))?;
        let archive = self.put(&packed).await?;
        let module = Module {
            addr,
            version: version.clone(),
            archive,
            size: packed.len() as u64,
            origin,
            dir,
        };
        Ok((module, Arc::new(tree)))
    }

    /// Returns the source that a registry names for a module.
    async fn location(&self, host: &str, path: &str, version: &Version) -> Result<Source, String> {
        let location = self.sync.registries.module_location(host, path, version);
        let location = location.await.map_err(|error| error_chain(&error))?;
        Ok(Source::parse(&location))
    }

    /// Returns the package with a module, without what the module does not use.
    async fn located(&self, source: &Source, known: &mut Known) -> Result<Located, String> {
        let (origin, tree, dir) = match source {
            Source::Archive { url, dir } => {
                let (_, content) = self.download(url, known).await?;
                (source.to_string(), unpacked(content).await?, dir)
            }
            Source::Git {
                url,
                reference,
                dir,
            } => {
                let reference = reference.as_deref();
                let need = Need::Reference(reference);
                let repository = self.repository(url, need, known).await?;
                let (commit, tree) = repository
                    .tree(reference)
                    .await
                    .map_err(|error| error_chain(&error))?;
                (format!("{source} at {commit}"), tree, dir)
            }
            _ => {
                return Err(format!(
                    "the registry says it is at {source}, which cannot be fetched"
                ));
            }
        };
        let dir = tree.directory(dir).filter(|_| !tree.files.is_empty());
        let dir = dir.ok_or_else(|| format!("{source} is empty"))?;
        // A module may use what is beside it; then its whole package is kept.
        let (mut tree, mut dir) = tree.package_of(&dir);
        if !dir.is_empty() && !is_package_dir(&dir) {
            (tree, dir) = (tree.below(&dir), String::new());
        }
        Ok(Located { origin, tree, dir })
    }

    async fn put(&self, content: &[u8]) -> Result<Digest, String> {
        if self.sync.dry_run {
            return Ok(Digest::of(content));
        }
        let (store, content) = (self.sync.store.clone(), content.to_vec());
        let put = blocking(move || store.put(&content)).await;
        put.map_err(|error| error_chain(&error))
    }

    /// Downloads an archive, and returns its address without the parameters that the engine interprets.
    async fn download(&self, url: &str, known: &mut Known) -> Result<(Url, Vec<u8>), String> {
        let url = Url::parse(url).map_err(|error| format!("it is not a valid address: {error}"))?;
        if !is_archive(&url) {
            return Err("its address does not end in the name of an archive".to_owned());
        }
        let checksum = url.query_pairs().find(|(name, _)| name == "checksum");
        let checksum = checksum.map(|(_, value)| value.into_owned());
        let url = for_the_server(&url);
        let answer = self.sync.registries.file(&url).await;
        let answer = answer.map_err(|error| error_chain(&error))?;
        let content = answer.body;
        let expected = checksum
            .as_deref()
            .and_then(|value| value.strip_prefix("sha256:"));
        let found = Digest::of(&content).to_string();
        if let Some(expected) = expected.filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
            return Err(format!("it has the checksum {found}, not {expected}"));
        }
        if !answer.is_unchanged {
            known.downloads.0 += 1;
            known.downloads.1 += content.len() as u64;
        }
        Ok((url, content))
    }

    /// Returns a repository in its present state, with the required part. Nothing is fetched if the mirror already
    /// has that.
    async fn repository(
        &self,
        url: &str,
        need: Need<'_>,
        known: &mut Known,
    ) -> Result<Repository, String> {
        let place = place(url).to_owned();
        let opened = match known.repositories.get(&place) {
            Some(opened) => opened.clone(),
            None => {
                // By address and not by place: the same repository may be reachable by another form of its address.
                if let Some(why) = known.unreachable.get(url) {
                    return Err(why.clone());
                }
                let opened = self.open(url, need, known).await;
                let opened = opened.map_err(|error| error_chain(&error));
                let (opened, kept) = opened.inspect_err(|why| {
                    known.unreachable.insert(url.to_owned(), why.clone());
                })?;
                known.kept.extend(kept.map(|kept| (place.clone(), kept)));
                known.repositories.insert(place.clone(), opened.clone());
                opened
            }
        };
        let Some(wanted) = opened.wanted(need).await else {
            return Ok(opened.repository);
        };
        let moved = self.moved(&place, &wanted, None, known).await;
        if moved.map_err(|error| error_chain(&error))? {
            return Err(format!("a tag of {url} was moved"));
        }
        // References of `refs` are always fetched; those that templates name are fetched in addition.
        self.sync.watch.phase(&format!("fetching more of {url}"));
        let head = opened.head.clone();
        let head = head.filter(|head| wanted.contains_key(head));
        let more = opened
            .repository
            .with(url, &wanted, head, &self.sync.authorities)
            .await;
        let repository = more.map_err(|error| error_chain(&error))?;
        let kept = self
            .keep(&repository)
            .await
            .map_err(|error| error_chain(&error))?;
        known.kept.extend(kept.map(|kept| (place.clone(), kept)));
        let opened = Opened {
            repository: repository.clone(),
            ..opened
        };
        known.repositories.insert(place, opened);
        Ok(repository)
    }

    async fn open(
        &self,
        url: &str,
        need: Need<'_>,
        known: &mut Known,
    ) -> Result<(Opened, Option<GitRepository>), GitError> {
        let (mut origin, mut head) = Repository::remote(url, &self.sync.authorities).await?;
        let (store, place) = (&self.sync.store, place(url));
        let is_here = |git: &&GitRepository| {
            git.place() == place && store.has(git.pack) && store.has(git.index)
        };
        let before = self.before.git.iter().find(is_here);
        let config = self.sync.config.git.iter();
        let config: Vec<_> = config
            .filter(|entry| self::place(&entry.url) == place)
            .collect();
        let named = need.named(&origin, head.as_deref());
        // References in the mirror stay as long as the origin has them.
        let is_wanted = |name: &String| {
            config.is_empty()
                || config.iter().any(|entry| entry.wants(name))
                || named.as_ref() == Some(name)
                || before.is_some_and(|before| before.refs.contains_key(name))
        };
        let mut wanted = origin.clone();
        wanted.retain(|name, _| is_wanted(name));
        if wanted.is_empty() && matches!(need, Need::Reference(_)) {
            // A commit may be part of any branch.
            wanted.clone_from(&origin);
        }
        let moved = self.moved(place, &wanted, before, known).await?;
        if let Some(before) = before.filter(|_| moved) {
            // The mirror's copy of the repository stays unchanged.
            (origin, wanted) = (before.refs.clone(), before.refs.clone());
            head.clone_from(&before.head);
        } else if moved {
            return Err(GitError::Moved {
                url: url.to_owned(),
            });
        }
        let own_head = head.clone().filter(|head| wanted.contains_key(head));
        let opened = |repository| Opened {
            repository,
            origin,
            head,
        };
        if let Some(same) = before.filter(|git| git.refs == wanted && git.head == own_head) {
            let repository = Repository::stored(store, same)?;
            return Ok((opened(repository), Some(same.clone())));
        }
        self.sync.watch.phase(&format!("fetching {url}"));
        let repository =
            Repository::fetch(store, url, &wanted, own_head, &self.sync.authorities).await?;
        let kept = self.keep(&repository).await?;
        Ok((opened(repository), kept))
    }

    async fn keep(&self, repository: &Repository) -> Result<Option<GitRepository>, GitError> {
        match self.sync.dry_run {
            true => Ok(None),
            false => repository.keep(&self.sync.store).await.map(Some),
        }
    }
}

impl Opened {
    /// Returns the branches and tags that must be fetched; `None` if the required part is present.
    async fn wanted(&self, need: Need<'_>) -> Option<BTreeMap<String, String>> {
        let (Need::Reference(reference), here) = (need, self.repository.refs()) else {
            return None;
        };
        if let Some(name) = need.named(&self.origin, self.head.as_deref()) {
            if here.contains_key(&name) {
                return None;
            }
            let mut wanted = here.clone();
            wanted.extend(
                self.origin
                    .get_key_value(&name)
                    .map(|(n, c)| (n.clone(), c.clone())),
            );
            return Some(wanted);
        }
        let is_all_here = self.origin.keys().all(|name| here.contains_key(name));
        if is_all_here || self.repository.commit(reference).await.is_ok() {
            return None;
        }
        // The reference is a commit, which may be part of any branch that is still missing.
        Some(self.origin.clone())
    }
}

#[async_trait]
impl Modules for Origins<'_> {
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, Package), Absent> {
        let versions = self.versions(host, path).await?;
        let newest = version.newest(&versions).cloned();
        let newest = newest.ok_or_else(|| Absent::Unsatisfied(unsatisfied(version, &versions)))?;
        let package = self.module(host, path, &newest).await?;
        Ok((newest, package))
    }

    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent> {
        let mut known = self.known.lock().await;
        let need = Need::Reference(reference);
        let repository = self.repository(url, need, &mut known).await?;
        let (_, tree) = repository
            .tree(reference)
            .await
            .map_err(|error| error_chain(&error))?;
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

    async fn landing(&self, url: &str) -> Result<String, Absent> {
        let mut known = self.known.lock().await;
        if let Some(got) = known.landings.get(url) {
            return Ok(got.clone().map(|(_, target)| target)?);
        }
        let got = async {
            let url =
                Url::parse(url).map_err(|error| format!("it is not a valid address: {error}"))?;
            let place = landing::landing(&url);
            let target = self.sync.registries.landing(&place).await;
            let target = target.map_err(|error| error_chain(&error))?;
            let target = target
                .ok_or("it is not an archive, and its server does not say where the module is")?;
            // The mirror always sends engines a page, even if the origin used a header.
            let page = landing::page(&target).into_bytes();
            let file = StaticFile {
                url: place.into(),
                content: self.put(&page).await?,
                size: page.len() as u64,
            };
            Ok((file, target))
        };
        let got: Result<_, String> = got.await;
        known.landings.insert(url.to_owned(), got.clone());
        Ok(got.map(|(_, target)| target)?)
    }
}

/// Returns whether a module lacks files that it uses beside itself: older releases kept the module's own directory
/// alone.
fn was_cut(module: &Module, tree: &Tree) -> bool {
    let origin = Source::parse(&module.origin);
    let is_part = matches!(
        &origin,
        Source::Git { dir, .. } | Source::Archive { dir, .. } if !dir.is_empty()
    );
    let calls = || scan(tree, &module.dir, "", DEFAULT_HOST);
    is_part && module.dir.is_empty() && calls().is_ok_and(|found| !found.invalid.is_empty())
}

/// Returns the files of a module in a store.
///
/// # Errors
/// If it is missing or damaged.
pub fn tree_of(store: &crate::Store, archive: Digest) -> Result<Tree, StoreError> {
    let path = store.path(archive);
    let content = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
    Tree::of_archive(&content).map_err(|error| StoreError::Package {
        name: path.display().to_string(),
        why: error.to_string(),
    })
}

/// Returns a message with the newest existing version, for a constraint that no version satisfies.
pub fn unsatisfied(constraint: &Constraint, versions: &[Version]) -> String {
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
    tree.await.map_err(|error| error_chain(&error))
}

/// Returns whether a lock file has a hash of a scheme that can be compared.
pub(super) fn is_comparable(hashes: &[Hash]) -> bool {
    hashes
        .iter()
        .any(|hash| !matches!(hash, Hash::Other { .. }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Store, scan::tests::tree};

    fn module(origin: &str, dir: &str) -> Module {
        Module {
            addr: "registry.terraform.io/acme/ide/coder".to_owned(),
            version: Version::new(1, 0, 0),
            archive: Digest::of(b""),
            size: 0,
            origin: origin.to_owned(),
            dir: dir.to_owned(),
        }
    }

    #[test]
    fn a_module_that_was_kept_without_what_it_uses_beside_itself_is_fetched_again() {
        let part = "git::https://git.example.com/acme/modules.git//ide?ref=v1";
        let whole = "git::https://git.example.com/acme/modules.git?ref=v1";
        let outside = tree(&[("main.tf", "module \"base\" { source = \"../base\" }\n")]);
        let alone = tree(&[("main.tf", "resource \"terraform_data\" \"x\" {}\n")]);

        assert!(was_cut(&module(part, ""), &outside));
        assert!(!was_cut(&module(part, ""), &alone));
        assert!(
            !was_cut(&module(whole, ""), &outside),
            "its origin is as bad"
        );
        assert!(!was_cut(&module(part, "ide"), &outside), "all is there");
    }

    #[test]
    fn a_reference_is_a_tag_before_it_is_a_branch_and_without_one_the_head_counts() {
        let refs = ["refs/heads/main", "refs/heads/v1", "refs/tags/v1"];
        let origin = BTreeMap::from(refs.map(|name| (name.to_owned(), "object".to_owned())));
        let named = |need: Need<'_>| need.named(&origin, Some("refs/heads/main"));

        let reference = |name| named(Need::Reference(name));
        assert_eq!(reference(Some("v1")).as_deref(), Some("refs/tags/v1"));
        assert_eq!(reference(Some("main")).as_deref(), Some("refs/heads/main"));
        assert_eq!(reference(None).as_deref(), Some("refs/heads/main"));
        assert_eq!(reference(Some("0123abc")), None, "perhaps a commit");
        assert_eq!(named(Need::Configured), None);
    }

    #[test]
    fn a_module_of_a_store_that_is_damaged_or_missing_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let packed = tree(&[("main.tf", "# empty\n")]).pack().unwrap();
        let digest = store.put(&packed).unwrap();
        assert!(
            tree_of(&store, digest)
                .unwrap()
                .files
                .contains_key("main.tf")
        );

        let path = store.path(digest);
        fs::remove_file(&path).unwrap();
        let missing = tree_of(&store, digest).unwrap_err();
        fs::write(&path, &packed[..packed.len() / 2]).unwrap();
        let damaged = tree_of(&store, digest).unwrap_err();

        for error in [missing, damaged] {
            let error = error_chain(&error);
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_constraint_that_nothing_satisfies_is_named_with_the_newest_version() {
        let constraint = "~> 3.0".parse().unwrap();
        let versions = [Version::new(1, 9, 0), Version::new(1, 10, 0)];

        let why = unsatisfied(&constraint, &versions);
        assert_eq!(why, "no version satisfies `~> 3.0`; the newest is 1.10.0");
        assert_eq!(unsatisfied(&constraint, &[]), "it has no versions");
    }
}
