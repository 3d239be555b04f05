//! A comparison of a mirror with what a template needs, item by item, before a build fails.

mod served;
mod unmet;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use outpost_base::registry::{Hash, Platform, ProviderAddr};
use outpost_language::{Constraint, lock::LockedProvider};
use semver::Version;
use serde::Serialize;
use tokio::sync::Mutex;
use url::Url;

use super::{
    Digest, Generation, Store,
    fetch::blocking,
    generation::{Package, Provider},
    git::{Repository, place},
    scan::{
        Call, Source, Tree,
        closure::{self, Absent, Closure, FindingKind, Modules, close},
        landing::{for_the_server, landing, same_query, target},
    },
    serve,
    sync::tree_of,
    tend::Needed,
};

pub(super) use self::unmet::{at_server, in_store};
pub use self::{
    served::{Served, ServedError},
    unmet::missing,
};

/// Maximum size of a page that tells where a module is.
const MAX_PAGE_BYTES: u64 = 64 << 10;

/// Result for one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The mirror has the item.
    Present,
    /// The mirror lacks the item.
    Missing,
    /// The mirror has only unsuitable versions of the item.
    #[serde(rename = "version-unsatisfiable")]
    Unsatisfiable,
    /// The mirror has the item, but the lock file requires another package.
    LockMismatch,
    /// No mirror can contain the item.
    NotMirrorable,
    /// Every engine refuses the item, whatever the mirror contains.
    Invalid,
    /// Only an engine can determine what the item is.
    Unclear,
}

impl Verdict {
    /// Returns whether a build certainly gets the item.
    pub fn is_good(self) -> bool {
        self == Self::Present
    }
}

/// An item that a template needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Kind and name of the item.
    pub item: String,
    /// Versions that are acceptable.
    pub wanted: String,
    /// Result for the item.
    pub verdict: Verdict,
    /// The existing versions, or a remedy.
    pub detail: String,
    /// Entry for the mirror's list of misses, if the mirror lacks the item.
    #[serde(skip)]
    pub missing: Option<serve::Item>,
}

/// Determines what a template needs, with the modules of a mirror.
pub async fn closure(
    store: &Store,
    generation: &Generation,
    template: Tree,
    default_host: &str,
) -> Closure {
    let modules = Mirrored {
        store,
        generation,
        repositories: Mutex::default(),
    };
    close(Arc::new(template), default_host, &modules).await
}

/// The engine that runs the jobs.
#[derive(Clone, Debug)]
pub struct JobEngine {
    /// Name of the engine: `terraform` or `tofu`.
    pub name: &'static str,
    /// Versions of the engine that the operator named or that are installed here. Empty if only the mirror can have
    /// it.
    pub versions: Vec<Version>,
}

/// Compares what a template needs with a mirror's contents, for some platforms.
pub fn examine(
    closure: &Closure,
    generation: &Generation,
    platforms: &[Platform],
    engine: &JobEngine,
) -> Vec<Item> {
    let mut items = Vec::from_iter(required_version(closure, generation, platforms, engine));
    for (addr, constraint) in &closure.providers {
        let locked = closure.locked.get(addr);
        items.extend(provider(addr, constraint, locked, generation, platforms));
    }
    let found = closure.modules.iter().map(|module| Item {
        item: format!("module {}", module.source),
        wanted: String::new(),
        verdict: Verdict::Present,
        detail: module
            .version
            .as_ref()
            .map(Version::to_string)
            .unwrap_or_default(),
        missing: None,
    });
    items.extend(found);
    items.extend(closure.findings.iter().map(|finding| {
        let (verdict, detail) = match &finding.kind {
            FindingKind::Missing(why) => (Verdict::Missing, why.clone()),
            FindingKind::Unsatisfied(why) => (Verdict::Unsatisfiable, why.clone()),
            FindingKind::NotMirrorable(why) => (Verdict::NotMirrorable, (*why).to_owned()),
            FindingKind::Invalid(why) => (Verdict::Invalid, why.clone()),
            FindingKind::Unclear(why) => (Verdict::Unclear, why.clone()),
        };
        let lacks = matches!(verdict, Verdict::Missing | Verdict::Unsatisfiable);
        let call = finding.call.as_ref().filter(|_| lacks);
        Item {
            item: finding.place.clone(),
            wanted: finding.what.clone(),
            verdict,
            detail,
            missing: call.and_then(missing_module),
        }
    }));
    items
}

/// Returns the versions that a template's builds take from a mirror, on any of its platforms.
pub fn needed(closure: &Closure, generation: &Generation) -> Needed {
    let mut needed = Needed::default();
    for (addr, constraint) in &closure.providers {
        let locked = closure.locked.get(addr);
        let chosen = choose(addr, constraint, locked, generation).ok();
        let mut versions: Vec<_> = chosen.map(|it| &it.version).into_iter().collect();
        if locked.is_none() {
            // Daemons of another platform may have to take an older version.
            versions.extend(generation.platforms().iter().filter_map(|platform| {
                let there = generation.versions(addr);
                let there = there.filter(|it| package(it, platform).is_some());
                constraint.newest(there.map(|it| &it.version))
            }));
        }
        let versions = versions.into_iter().cloned();
        needed
            .providers
            .extend(versions.map(|version| (addr.clone(), version)));
    }
    let modules = closure.modules.iter();
    needed.modules.extend(
        modules.filter_map(|module| Some((module.source.clone(), module.version.clone()?))),
    );
    needed
}

/// Returns a module, repository or file that a mirror lacks.
fn missing_module(call: &Call) -> Option<serve::Item> {
    let with = |item: serve::Item, version: &str| match version {
        "" => item,
        version => item.version(version),
    };
    Some(match &call.source {
        Source::Registry { host, path, .. } => {
            let name = format!("{}/{path}", host.as_ref()?);
            with(serve::Item::new("module", name), &call.version.to_string())
        }
        Source::Git { url, reference, .. } => with(
            serve::Item::new("git", place(url)),
            reference.as_deref().unwrap_or_default(),
        ),
        Source::Archive { url, .. } => {
            let url = for_the_server(&Url::parse(url).ok()?);
            let (_, place) = url.as_str().split_once("://")?;
            serve::Item::new("file", place)
        }
        Source::Local(_) | Source::Foreign { .. } => return None,
    })
}

/// Checks whether all modules accept the engine; returns `None` if they accept any.
fn required_version(
    closure: &Closure,
    generation: &Generation,
    platforms: &[Platform],
    engine: &JobEngine,
) -> Option<Item> {
    let wanted = closure.engines.iter();
    let wanted = wanted.fold(Constraint::default(), |all, (_, one)| all.and(one));
    let item = |verdict, detail| {
        Some(Item {
            item: format!("engine {}", engine.name),
            wanted: wanted.to_string(),
            missing: (!matches!(verdict, Verdict::Present))
                .then(|| serve::Item::new("tool", engine.name).version(&wanted.to_string())),
            verdict,
            detail,
        })
    };
    if closure.engines.is_empty() {
        return None;
    }
    let refusals = |version: &Version| {
        let refusals = closure
            .engines
            .iter()
            .filter(|(_, it)| !it.matches(version));
        let refusals = refusals.map(|(place, it)| format!("{place} requires {it}"));
        refusals.collect::<Vec<_>>().join(", ")
    };
    if let Some(wrong) = engine.versions.iter().find(|it| !wanted.matches(it)) {
        let detail = format!("jobs have {wrong}; {}", refusals(wrong));
        return item(Verdict::Unsatisfiable, detail);
    }
    if !engine.versions.is_empty() {
        return item(Verdict::Present, listed(&engine.versions));
    }
    let is_there = |version: &&Version| {
        platforms.iter().all(|platform| {
            let mut tools = generation.tools.iter();
            tools.any(|it| {
                it.name == engine.name && it.version == **version && it.platform == *platform
            })
        })
    };
    let tools = generation.tools.iter().map(|tool| &tool.version);
    let there: BTreeSet<Version> = tools.filter(is_there).cloned().collect();
    let Some(newest) = there.last() else {
        let detail = format!(
            "neither the mirror nor this machine has {}; name the version that jobs use with --engine-version",
            engine.name
        );
        return item(Verdict::Missing, detail);
    };
    match wanted.newest(there.iter()) {
        None => item(
            Verdict::Unsatisfiable,
            format!("there is {}; {}", listed(&there), refusals(newest)),
        ),
        Some(found) if found == newest => item(Verdict::Present, found.to_string()),
        Some(found) => item(
            Verdict::Present,
            format!(
                "{found}; jobs use {newest}, which is newer, unless --engine selects another one"
            ),
        ),
    }
}

fn listed<'a>(versions: impl IntoIterator<Item = &'a Version>) -> String {
    let versions = versions.into_iter().map(Version::to_string);
    versions.collect::<Vec<_>>().join(", ")
}

/// Compares a provider with a mirror's contents. Returns one item, or one for each platform that has a problem.
pub(crate) fn provider(
    addr: &ProviderAddr,
    constraint: &Constraint,
    locked: Option<&LockedProvider>,
    generation: &Generation,
    platforms: &[Platform],
) -> Vec<Item> {
    let item = |verdict, detail: String| Item {
        item: format!("provider {addr}"),
        wanted: match locked {
            Some(locked) => format!("{} (locked)", locked.version),
            None => constraint.to_string(),
        },
        missing: missing_version(addr, constraint, locked, verdict),
        verdict,
        detail,
    };
    let chosen = match choose(addr, constraint, locked, generation) {
        Ok(chosen) => chosen,
        Err((verdict, detail)) => return vec![item(verdict, detail)],
    };
    let version = &chosen.version;
    let wrong = |platform: &Platform| match package(chosen, platform) {
        None => {
            let detail = format!("{version} is missing for {platform}");
            let mut item = item(Verdict::Missing, detail);
            let missing = serve::Item::new("provider", addr.to_string());
            item.missing = Some(missing.version(&version.to_string()).platform(platform));
            Some(item)
        }
        Some(package) if !fits(package, locked) => {
            let detail = format!(
                "the lock file does not match {version} for {platform}; `outpost mirror lock` adds what is missing"
            );
            Some(item(Verdict::LockMismatch, detail))
        }
        Some(_) => None,
    };
    let wrong: Vec<_> = platforms.iter().filter_map(wrong).collect();
    match wrong.is_empty() {
        true => vec![item(Verdict::Present, present(chosen))],
        false => wrong,
    }
}

/// Describes a version that the mirror has.
fn present(provider: &Provider) -> String {
    match &provider.signed {
        Some(_) => provider.version.to_string(),
        None => format!(
            "{}, without a publisher's signature: other machines can get it only from the network mirror, over https://",
            provider.version
        ),
    }
}

/// Returns the versions of a provider that a mirror lacks.
fn missing_version(
    addr: &ProviderAddr,
    constraint: &Constraint,
    locked: Option<&LockedProvider>,
    verdict: Verdict,
) -> Option<serve::Item> {
    let item = serve::Item::new("provider", addr.to_string());
    // The version in a lock file is missing, whatever else the template accepts.
    let version = match locked.filter(|locked| constraint.matches(&locked.version)) {
        Some(locked) => locked.version.to_string(),
        None => constraint.to_string(),
    };
    let lacks = match verdict {
        Verdict::Missing => true,
        // A lock file that contradicts its own template must be fixed there.
        Verdict::Unsatisfiable => locked.is_none(),
        _ => false,
    };
    lacks.then(|| match version.as_str() {
        "" => item,
        version => item.version(version),
    })
}

/// Returns the version that an engine would select.
pub(crate) fn choose<'a>(
    addr: &ProviderAddr,
    constraint: &Constraint,
    locked: Option<&LockedProvider>,
    generation: &'a Generation,
) -> Result<&'a Provider, (Verdict, String)> {
    let all = generation.providers.iter();
    let versions: Vec<_> = all.filter(|provider| provider.addr == *addr).collect();
    let Some(newest) = versions.last() else {
        let detail = match (addr.namespace(), addr.kind()) {
            ("coder", "coder") => "not in the mirror; --coder-provider builtin does not need it",
            _ => "not in the mirror",
        };
        return Err((Verdict::Missing, detail.to_owned()));
    };
    if let Some(LockedProvider { version, .. }) = locked {
        if !constraint.matches(version) {
            let detail =
                format!("the lock file has {version}, but the template requires {constraint}");
            return Err((Verdict::Unsatisfiable, detail));
        }
        let same = versions
            .iter()
            .find(|provider| provider.version == *version);
        let missing = || {
            (
                Verdict::Missing,
                format!("the newest there is {}", newest.version),
            )
        };
        return same.copied().ok_or_else(missing);
    }
    let chosen = constraint.newest(versions.iter().map(|provider| &provider.version));
    let chosen = chosen.and_then(|version| versions.iter().find(|p| p.version == *version));
    let there = listed(versions.iter().map(|provider| &provider.version));
    chosen
        .copied()
        .ok_or((Verdict::Unsatisfiable, format!("there is {there}")))
}

fn package<'a>(provider: &'a Provider, platform: &Platform) -> Option<&'a Package> {
    let mut packages = provider.packages.iter();
    packages.find(|package| package.platform == *platform)
}

fn fits(package: &Package, locked: Option<&LockedProvider>) -> bool {
    let own = own_hashes(package);
    locked.is_none_or(|locked| {
        locked.hashes.is_empty() || locked.hashes.iter().any(|hash| own.contains(hash))
    })
}

/// Returns all checksums by which a lock file can name a package.
pub(crate) fn own_hashes(package: &Package) -> Vec<Hash> {
    let mut hashes = vec![package.h1_zip.clone(), package.h1_tree.clone()];
    hashes.dedup();
    hashes.push(package.archive.zh());
    hashes
}

/// Modules from the mirror's store.
struct Mirrored<'a> {
    store: &'a Store,
    generation: &'a Generation,
    repositories: Mutex<HashMap<String, Repository>>,
}

#[async_trait]
impl Modules for Mirrored<'_> {
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, closure::Package), Absent> {
        let addr = format!("{host}/{path}");
        let modules = self.generation.modules.iter();
        let versions: BTreeMap<_, _> = modules
            .filter(|module| module.addr == addr)
            .map(|module| (module.version.clone(), module))
            .collect();
        if versions.is_empty() {
            return Err(Absent::Missing("not in the mirror".to_owned()));
        }
        let there = || {
            let all: Vec<_> = versions.keys().map(Version::to_string).collect();
            Absent::Unsatisfied(format!(
                "`{version}` is required, but the mirror has {}",
                all.join(", ")
            ))
        };
        let newest = version.newest(versions.keys()).ok_or_else(there)?;
        let module = versions[newest];
        let (store, archive) = (self.store.clone(), module.archive);
        let tree = blocking(move || tree_of(&store, archive)).await;
        let tree = tree.map_err(|error| Absent::Missing(error.to_string()))?;
        let package = closure::Package {
            tree: Arc::new(tree),
            dir: module.dir.clone(),
        };
        Ok((newest.clone(), package))
    }

    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent> {
        let missing = |error: &dyn std::fmt::Display| Absent::Missing(error.to_string());
        let mut known = self.generation.git.iter();
        let known = known.find(|git| git.place() == place(url));
        let known = known.ok_or_else(|| missing(&"the mirror does not have the repository"))?;
        let mut repositories = self.repositories.lock().await;
        let repository = match repositories.get(&known.url) {
            Some(repository) => repository.clone(),
            None => {
                let opened = Repository::stored(self.store, known);
                let opened = opened.map_err(|error| missing(&error))?;
                repositories.insert(known.url.clone(), opened.clone());
                opened
            }
        };
        let (_, tree) = repository
            .tree(reference)
            .await
            .map_err(|error| missing(&error))?;
        Ok(Arc::new(tree))
    }

    async fn archive(&self, url: &str) -> Result<Arc<Tree>, Absent> {
        let content = self.file(url, for_the_server)?;
        let store = self.store.clone();
        let tree = blocking(move || tree_of(&store, content)).await;
        tree.map(Arc::new)
            .map_err(|error| Absent::Missing(error.to_string()))
    }
    async fn landing(&self, url: &str) -> Result<String, Absent> {
        let content = self.file(url, landing)?;
        let store = self.store.clone();
        let page = blocking(move || store.read(content, MAX_PAGE_BYTES)).await;
        let page = page.map_err(|error| Absent::Missing(error.to_string()))?;
        let target = target(&String::from_utf8_lossy(&page));
        target.ok_or_else(|| {
            Absent::Missing("its page in the mirror does not link to a module".to_owned())
        })
    }
}

impl Mirrored<'_> {
    /// Returns a file by the address at which an engine requests it.
    fn file(&self, url: &str, asked: fn(&Url) -> Url) -> Result<Digest, Absent> {
        let place = Url::parse(url).ok().map(|url| asked(&url));
        let mut files = self.generation.files.iter();
        let file = files.find(|file| place.as_ref().is_some_and(|it| same_query(it, &file.url)));
        let file = file.ok_or_else(|| Absent::Missing("the mirror does not have it".to_owned()))?;
        Ok(file.content)
    }
}

#[cfg(test)]
mod tests;
