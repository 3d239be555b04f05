//! Reduction of a mirror: a generation with fewer versions, and fewer old generations.

use std::collections::{BTreeMap, BTreeSet};

use outpost_base::registry::ProviderAddr;
use outpost_files as files;
use semver::Version;
use serde::Serialize;

use crate::{Generation, Store, StoreError};

/// Contents that a prune keeps.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Number of generations, including the current one. Generations in use stay as well.
    pub generations: usize,
    /// Number of the newest versions of each provider, module and tool; `None` for all. Versions of a provider are
    /// counted for each platform, and releases are preferred to pre-releases, so that a template without a constraint
    /// finds one.
    pub versions: Option<usize>,
    /// Versions that stay in any case.
    pub needed: Needed,
}

/// Versions that templates need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Addresses and versions of providers.
    pub providers: BTreeSet<(ProviderAddr, Version)>,
    /// Versions of modules, by `HOST/NAMESPACE/NAME/SYSTEM`.
    pub modules: BTreeSet<(String, Version)>,
}

/// Result of a prune.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Number of the current generation.
    pub generation: u64,
    /// Versions that were removed from it.
    pub versions: Vec<String>,
    /// Generations that were removed. Their files stay until they are collected.
    pub generations: Vec<u64>,
    /// Generations that stay because they are in use.
    pub in_use: Vec<u64>,
}

/// Prunes a store. The holder of `lock` is the only one to change it.
///
/// # Errors
/// The system's error, and [`StoreError::Empty`].
pub fn prune(store: &Store, keep: &Keep, lock: &files::Lock) -> Result<Pruned, StoreError> {
    let (mut current, mut generation) = store.newest()?;
    let versions = match keep.versions {
        Some(count) => thin_out(&mut generation, count.max(1), &keep.needed),
        None => Vec::new(),
    };
    if !versions.is_empty() {
        current = store.commit(generation, Some(current), lock)?;
    }
    let mut others = store.generations()?;
    others.retain(|number| *number != current);
    let count = others.len().saturating_sub(keep.generations.max(1) - 1);
    let (mut generations, mut in_use) = (Vec::new(), Vec::new());
    for number in others.into_iter().take(count) {
        match store.forget(number, lock)? {
            true => generations.push(number),
            false => in_use.push(number),
        }
    }
    Ok(Pruned {
        generation: current,
        versions,
        generations,
        in_use,
    })
}

/// Keeps the newest versions of everything and those that are needed; returns the removed ones.
fn thin_out(generation: &mut Generation, count: usize, needed: &Needed) -> Vec<String> {
    let mut removed = Vec::new();
    newest(&mut generation.providers, count, &mut removed, |provider| {
        let platforms = provider.packages.iter().map(|it| it.platform.to_string());
        Item {
            name: provider.addr.to_string(),
            groups: platforms.collect(),
            version: provider.version.clone(),
            is_needed: needed
                .providers
                .contains(&(provider.addr.clone(), provider.version.clone())),
        }
    });
    newest(&mut generation.modules, count, &mut removed, |module| {
        Item {
            name: module.addr.clone(),
            groups: vec![String::new()],
            version: module.version.clone(),
            is_needed: needed
                .modules
                .contains(&(module.addr.clone(), module.version.clone())),
        }
    });
    newest(&mut generation.tools, count, &mut removed, |tool| Item {
        name: format!("{} for {}", tool.name, tool.platform),
        groups: vec![String::new()],
        version: tool.version.clone(),
        is_needed: false,
    });
    removed
}

/// A version that may be removed.
struct Item {
    /// Kind and name of the item.
    name: String,
    /// Groups in which it is ranked; a high rank in one of them is enough.
    groups: Vec<String>,
    version: Version,
    is_needed: bool,
}

/// Rank of a version: releases in their order before all pre-releases, which engines install only if they are named.
type Rank = (bool, Version);

impl Item {
    fn rank(&self) -> Rank {
        (self.version.pre.is_empty(), self.version.clone())
    }
}

fn newest<T>(
    things: &mut Vec<T>,
    count: usize,
    removed: &mut Vec<String>,
    item: impl Fn(&T) -> Item,
) {
    let mut kept: BTreeMap<(String, String), BTreeSet<Rank>> = BTreeMap::new();
    for item in things.iter().map(&item) {
        for group in &item.groups {
            let of_one = kept.entry((item.name.clone(), group.clone())).or_default();
            of_one.insert(item.rank());
            if of_one.len() > count {
                of_one.pop_first();
            }
        }
    }
    things.retain(|thing| {
        let item = item(thing);
        let is_kept = |group: &String| {
            let of_one = kept.get(&(item.name.clone(), group.clone()));
            of_one.is_some_and(|kept| kept.contains(&item.rank()))
        };
        let stays = item.is_needed || item.groups.iter().any(is_kept);
        if !stays {
            removed.push(format!("{} {}", item.name, item.version));
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use outpost_base::{registry::Hash, stop::Stop};

    use super::*;
    use crate::{
        Digest,
        generation::{Module, Package, Provider},
    };

    fn module(store: &Store, version: &str) -> Module {
        Module {
            addr: "registry.example/acme/demo/coder".to_owned(),
            version: version.parse().unwrap(),
            archive: store.put(version.as_bytes()).unwrap(),
            size: version.len() as u64,
            origin: String::new(),
            dir: String::new(),
        }
    }

    #[tokio::test]
    async fn the_newest_versions_stay_and_so_do_generations_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();
        let versions = ["1.9.0", "1.10.0", "1.2.0"];
        let modules: Vec<_> = versions
            .iter()
            .map(|version| module(&store, version))
            .collect();
        for count in 1..=3 {
            let modules = modules[..count].to_vec();
            let generation = Generation {
                modules,
                ..Generation::default()
            };
            store
                .commit(generation, store.current().unwrap(), &lock)
                .unwrap();
        }
        let lease = store.lease(1).unwrap();
        let keep = Keep {
            generations: 2,
            versions: Some(2),
            ..Keep::default()
        };

        let pruned = prune(&store, &keep, &lock).unwrap();

        assert_eq!(pruned.versions, ["registry.example/acme/demo/coder 1.2.0"]);
        assert_eq!(
            (pruned.generation, pruned.generations, pruned.in_use),
            (4, vec![2], vec![1])
        );
        assert_eq!(store.generations().unwrap(), [1, 3, 4]);
        assert_eq!(store.newest().unwrap().1.modules.len(), 2);
        assert!(
            store.has(Digest::of(b"1.2.0")),
            "files are for the collector"
        );
        drop(lease);
        assert_eq!(prune(&store, &keep, &lock).unwrap().generations, [1]);
    }

    fn provider(store: &Store, version: &str, platforms: &[&str]) -> Provider {
        let package = |platform: &&str| Package {
            platform: platform.parse().unwrap(),
            filename: format!("terraform-provider-demo_{version}_{platform}.zip"),
            archive: store
                .put(format!("{version} {platform}").as_bytes())
                .unwrap(),
            size: 1,
            h1_zip: Hash::H1([1; 32]),
            h1_tree: Hash::H1([1; 32]),
        };
        Provider {
            addr: "registry.example/acme/demo".parse().unwrap(),
            version: version.parse().unwrap(),
            protocols: Vec::new(),
            signed: None,
            packages: platforms.iter().map(package).collect(),
        }
    }

    #[tokio::test]
    async fn whoever_asks_for_any_version_still_finds_one_and_so_do_templates_that_name_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();
        let both = ["linux_amd64", "darwin_arm64"];
        let generation = Generation {
            providers: vec![
                provider(&store, "1.0.0", &both),
                provider(&store, "1.1.0", &both),
                provider(&store, "1.2.0", &both[..1]),
                provider(&store, "2.0.0-beta1", &both),
                provider(&store, "2.0.0-beta2", &both),
            ],
            modules: vec![module(&store, "1.0.0"), module(&store, "2.0.0-rc1")],
            ..Generation::default()
        };
        store.commit(generation, None, &lock).unwrap();
        let addr: ProviderAddr = "registry.example/acme/demo".parse().unwrap();
        let needed = Needed {
            providers: [(addr, "2.0.0-beta1".parse().unwrap())].into(),
            modules: BTreeSet::new(),
        };
        let keep = Keep {
            generations: 1,
            versions: Some(1),
            needed,
        };

        let pruned = prune(&store, &keep, &lock).unwrap();

        assert_eq!(
            pruned.versions,
            [
                "registry.example/acme/demo 1.0.0",
                "registry.example/acme/demo 2.0.0-beta2",
                "registry.example/acme/demo/coder 2.0.0-rc1",
            ]
        );
        let kept = store.newest().unwrap().1.providers;
        let kept: Vec<_> = kept.iter().map(|it| it.version.to_string()).collect();
        assert_eq!(kept, ["1.1.0", "1.2.0", "2.0.0-beta1"]);
    }
}
