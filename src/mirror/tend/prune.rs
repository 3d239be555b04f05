//! Makes a mirror smaller: a generation with fewer versions, and no generations from long ago.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde::Serialize;

use crate::{
    files,
    mirror::{Generation, Store, StoreError},
};

/// What stays.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// So many generations, the current one among them. Those that are in use stay as well.
    pub generations: usize,
    /// So many of the newest versions of each provider, module and tool; `None` for all.
    pub versions: Option<usize>,
}

/// What was pruned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The number of the current generation.
    pub generation: u64,
    /// Versions that it does not have any more.
    pub versions: Vec<String>,
    /// Generations that are gone. Their files stay until they are collected.
    pub generations: Vec<u64>,
    /// Generations that would be gone, but somebody uses them.
    pub in_use: Vec<u64>,
}

/// Prunes a store. Whoever holds `lock` is the only one to change it.
///
/// # Errors
/// The system's reason, and [`StoreError::Empty`].
pub fn prune(store: &Store, keep: Keep, lock: &files::Lock) -> Result<Pruned, StoreError> {
    let (mut current, mut generation) = store.newest()?;
    let versions = match keep.versions {
        Some(count) => thin_out(&mut generation, count.max(1)),
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

/// Leaves the newest versions of everything; what it removed.
fn thin_out(generation: &mut Generation, count: usize) -> Vec<String> {
    let mut removed = Vec::new();
    newest(&mut generation.providers, count, &mut removed, |provider| {
        (provider.addr.to_string(), provider.version.clone())
    });
    newest(&mut generation.modules, count, &mut removed, |module| {
        (module.addr.clone(), module.version.clone())
    });
    newest(&mut generation.tools, count, &mut removed, |tool| {
        (
            format!("{} for {}", tool.name, tool.platform),
            tool.version.clone(),
        )
    });
    removed
}

fn newest<T>(
    things: &mut Vec<T>,
    count: usize,
    removed: &mut Vec<String>,
    named: impl Fn(&T) -> (String, Version),
) {
    let mut versions: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
    for (name, version) in things.iter().map(&named) {
        let of_one = versions.entry(name).or_default();
        of_one.insert(version);
        if of_one.len() > count {
            of_one.pop_first();
        }
    }
    things.retain(|thing| {
        let (name, version) = named(thing);
        let stays = versions
            .get(&name)
            .is_some_and(|kept| kept.contains(&version));
        if !stays {
            removed.push(format!("{name} {version}"));
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mirror::{Digest, generation::Module},
        stop::Stop,
    };

    fn module(store: &Store, version: &str) -> Module {
        Module {
            addr: "registry.example/acme/demo/coder".to_owned(),
            version: version.parse().unwrap(),
            archive: store.put(version.as_bytes()).unwrap(),
            size: version.len() as u64,
            origin: String::new(),
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
        };

        let pruned = prune(&store, keep, &lock).unwrap();

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
        assert_eq!(prune(&store, keep, &lock).unwrap().generations, [1]);
    }
}
