//! Lock files that match a mirror: the checksums in a template's own file, merged with those of the mirror's packages and
//! with those that the publishers signed for other platforms.
//!
//! The lock file of a running job is completed by the engine's session, in `terraform/providers/lock_file.rs`.

use outpost_base::registry::{Hash, Platform};
use outpost_language::lock::{Lock, LockedProvider};

use super::{
    Generation, Store,
    doctor::{Item, choose, own_hashes, provider},
    generation::Provider,
    scan::closure::Closure,
};

/// Returns the lock file that a template should have, with checksums for all of these platforms. Existing checksums
/// of the same version are kept. The checksums of all other platforms are those that the publisher signed.
///
/// # Errors
/// One for each provider that the mirror lacks or has with the wrong content.
pub fn lock(
    store: &Store,
    closure: &Closure,
    generation: &Generation,
    platforms: &[Platform],
) -> Result<Lock, Vec<Item>> {
    let (mut lock, mut wrong) = (Lock::default(), Vec::new());
    for (addr, constraint) in &closure.providers {
        let locked = closure.locked.get(addr);
        // Wrong checksums are what this command replaces.
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

/// Returns the checksums that the publisher signed for a version; none if it is not signed.
fn signed(store: &Store, provider: &Provider) -> Vec<Hash> {
    let list = provider.signed.as_ref();
    let list = list.and_then(|signed| std::fs::read_to_string(store.path(signed.shasums)).ok());
    let hash = |line: &str| {
        let (digest, name) = line.split_once("  ")?;
        // The list also contains manifests.
        let is_package = name.ends_with(".zip");
        is_package.then(|| format!("zh:{}", digest.to_ascii_lowercase()).parse().ok())?
    };
    list.unwrap_or_default().lines().filter_map(hash).collect()
}
