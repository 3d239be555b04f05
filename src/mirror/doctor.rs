//! Whether a mirror has what a template needs, item by item, before anybody sits in front of a failed build.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use semver::Version;
use serde::Serialize;
use tokio::sync::Mutex;

use super::{
    Generation, Store,
    fetch::blocking,
    generation::{Package, Provider},
    git::Repository,
    scan::{
        Tree,
        closure::{Absent, Closure, FindingKind, Modules, close},
    },
    sync::{for_the_server, tree_of},
    tend::Needed,
};
use crate::{
    language::{
        Constraint,
        lock::{Lock, LockedProvider},
    },
    registry::{Hash, Platform, ProviderAddr},
};

/// How an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is there.
    Present,
    /// It is not.
    Missing,
    /// There are other versions of it.
    #[serde(rename = "version-unsatisfiable")]
    Unsatisfiable,
    /// It is there, and the lock file wants another package.
    LockMismatch,
    /// No mirror can have it.
    NotMirrorable,
    /// Only an engine knows what it is.
    Unclear,
}

impl Verdict {
    /// Whether a build would work all the same, as far as anybody knows.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Present | Self::Unclear)
    }
}

/// One thing that a template needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub item: String,
    /// Which versions are acceptable.
    pub wanted: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What there is, or what to do.
    pub detail: String,
}

/// What a template needs, found out with the modules that a mirror has.
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

/// Compares what a template needs with what there is, for some platforms.
pub fn examine(closure: &Closure, generation: &Generation, platforms: &[Platform]) -> Vec<Item> {
    let mut items = Vec::new();
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
    });
    items.extend(found);
    items.extend(closure.findings.iter().map(|finding| {
        let (verdict, detail) = match &finding.kind {
            FindingKind::Missing(why) => (Verdict::Missing, why.clone()),
            FindingKind::Unsatisfied(why) => (Verdict::Unsatisfiable, why.clone()),
            FindingKind::NotMirrorable(why) => (Verdict::NotMirrorable, (*why).to_owned()),
            FindingKind::Unclear(why) => (Verdict::Unclear, why.clone()),
        };
        Item {
            item: finding.place.clone(),
            wanted: finding.what.clone(),
            verdict,
            detail,
        }
    }));
    items
}

/// The versions that a template's builds take from a mirror, on whichever of its platforms.
pub fn needed(closure: &Closure, generation: &Generation) -> Needed {
    let mut needed = Needed::default();
    for (addr, constraint) in &closure.providers {
        let locked = closure.locked.get(addr);
        let chosen = choose(addr, constraint, locked, generation).ok();
        let mut versions: Vec<_> = chosen.map(|it| &it.version).into_iter().collect();
        if locked.is_none() {
            // Daemons of another platform may have to take an older one.
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

/// One item, or one for each platform that something is wrong with.
fn provider(
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
            let detail = format!("{version} is not there for {platform}");
            Some(item(Verdict::Missing, detail))
        }
        Some(package) if !fits(package, locked) => {
            let detail = format!(
                "the lock file does not fit {version} for {platform}; `outpost mirror lock` adds what is missing"
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

/// What there is to say of a version that is there.
fn present(provider: &Provider) -> String {
    match &provider.signed {
        Some(_) => provider.version.to_string(),
        None => format!(
            "{}, without a publisher's signature: other machines get it by the network mirror alone, with https://",
            provider.version
        ),
    }
}

/// The version that an engine would choose.
fn choose<'a>(
    addr: &ProviderAddr,
    constraint: &Constraint,
    locked: Option<&LockedProvider>,
    generation: &'a Generation,
) -> Result<&'a Provider, (Verdict, String)> {
    let all = generation.providers.iter();
    let versions: Vec<_> = all.filter(|provider| provider.addr == *addr).collect();
    let Some(newest) = versions.last() else {
        let detail = match (addr.namespace(), addr.kind()) {
            ("coder", "coder") => "the mirror has none; --coder-provider builtin needs none",
            _ => "the mirror has none",
        };
        return Err((Verdict::Missing, detail.to_owned()));
    };
    if let Some(LockedProvider { version, .. }) = locked {
        if !constraint.matches(version) {
            let detail = format!("the lock file names {version}, the template wants {constraint}");
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
    let there = versions.iter().map(|provider| provider.version.to_string());
    let there = there.collect::<Vec<_>>().join(", ");
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

fn own_hashes(package: &Package) -> Vec<Hash> {
    let mut hashes = vec![package.h1_zip.clone(), package.h1_tree.clone()];
    hashes.dedup();
    hashes.push(package.archive.zh());
    hashes
}

/// The lock file that a template should have, with checksums for all of these platforms. What its own says of the same
/// version stays. The checksums of all other platforms are those that the publisher signed.
///
/// # Errors
/// For each provider that the mirror does not have as it should.
pub fn lock(
    store: &Store,
    closure: &Closure,
    generation: &Generation,
    platforms: &[Platform],
) -> Result<Lock, Vec<Item>> {
    let (mut lock, mut wrong) = (Lock::default(), Vec::new());
    for (addr, constraint) in &closure.providers {
        let locked = closure.locked.get(addr);
        // A wrong checksum is what this is for.
        let without = locked.map(|locked| LockedProvider {
            hashes: Vec::new(),
            ..locked.clone()
        });
        let items = provider(addr, constraint, without.as_ref(), generation, platforms);
        wrong.extend(items.into_iter().filter(|item| !item.verdict.is_good()));
        let Ok(chosen) = choose(addr, constraint, locked, generation) else {
            continue;
        };
        let mut hashes = locked
            .map(|locked| locked.hashes.clone())
            .unwrap_or_default();
        let packages = chosen.packages.iter();
        for package in packages.filter(|package| platforms.contains(&package.platform)) {
            hashes.extend(own_hashes(package));
        }
        hashes.extend(signed(store, chosen));
        lock.providers.insert(
            addr.clone(),
            LockedProvider {
                version: chosen.version.clone(),
                constraints: constraint.to_string(),
                hashes,
            },
        );
    }
    match wrong.is_empty() {
        true => Ok(lock),
        false => Err(wrong),
    }
}

/// What the publisher signed for a version; nothing if nobody did.
fn signed(store: &Store, provider: &Provider) -> Vec<Hash> {
    let list = provider.signed.as_ref();
    let list = list.and_then(|signed| std::fs::read_to_string(store.path(signed.shasums)).ok());
    let hash = |line: &str| {
        let (digest, name) = line.split_once("  ")?;
        // There are manifests beside the packages.
        let is_package = name.ends_with(".zip");
        is_package.then(|| format!("zh:{}", digest.to_ascii_lowercase()).parse().ok())?
    };
    list.unwrap_or_default().lines().filter_map(hash).collect()
}

/// Modules as a mirror has them.
struct Mirrored<'a> {
    store: &'a Store,
    generation: &'a Generation,
    repositories: Mutex<HashMap<String, Arc<Repository>>>,
}

#[async_trait]
impl Modules for Mirrored<'_> {
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, Arc<Tree>), Absent> {
        let addr = format!("{host}/{path}");
        let modules = self.generation.modules.iter();
        let versions: BTreeMap<_, _> = modules
            .filter(|module| module.addr == addr)
            .map(|module| (module.version.clone(), module.archive))
            .collect();
        if versions.is_empty() {
            return Err(Absent::Missing("the mirror has none".to_owned()));
        }
        let there = || {
            let all: Vec<_> = versions.keys().map(Version::to_string).collect();
            Absent::Unsatisfied(format!(
                "`{version}` is wanted, and there is {}",
                all.join(", ")
            ))
        };
        let newest = version.newest(versions.keys()).ok_or_else(there)?;
        let (store, archive) = (self.store.clone(), versions[newest]);
        let tree = blocking(move || tree_of(&store, archive)).await;
        let tree = tree.map_err(|error| Absent::Missing(error.to_string()))?;
        Ok((newest.clone(), Arc::new(tree)))
    }

    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent> {
        let missing = |error: &dyn std::fmt::Display| Absent::Missing(error.to_string());
        let mut known = self.generation.git.iter();
        let known = known.find(|git| git.url == url);
        let known = known.ok_or_else(|| missing(&"the mirror does not have the repository"))?;
        let mut repositories = self.repositories.lock().await;
        let repository = match repositories.get(url) {
            Some(repository) => Arc::clone(repository),
            None => {
                let opened = Repository::stored(self.store, known).await;
                let opened = Arc::new(opened.map_err(|error| missing(&error))?);
                repositories.insert(url.to_owned(), Arc::clone(&opened));
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
        let place = url::Url::parse(url).map(|url| for_the_server(&url));
        let mut files = self.generation.files.iter();
        let file = files.find(|file| place.as_ref().is_ok_and(|place| place.as_str() == file.url));
        let file = file.ok_or_else(|| Absent::Missing("the mirror does not have it".to_owned()))?;
        let (store, content) = (self.store.clone(), file.content);
        let tree = blocking(move || tree_of(&store, content)).await;
        tree.map(Arc::new)
            .map_err(|error| Absent::Missing(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
