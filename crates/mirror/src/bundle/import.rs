//! Imports a bundle into a store while reading it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use outpost_base::registry::Platform;
use outpost_files as files;

use super::{BundleError, Manifest, Reader, Receipt, Records, Step, Trust, Watch};
use crate::{Digest, Generation, Store, StoreError, generation::Package, pulled::Ledger};

/// Conditions under which a site imports a bundle.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Signers that the site trusts.
    pub trust: Trust,
    /// `true` if the bundle may be older than an imported one.
    pub allow_rollback: bool,
    /// Current time, for bundles that expire.
    pub now: Timestamp,
    /// Platform whose packages are unpacked at once.
    pub platform: Platform,
}

/// Result of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Number of the generation in this store.
    pub generation: u64,
    /// Manifest of the bundle.
    pub manifest: Manifest,
    /// Number of files that the store did not have before.
    pub fresh: usize,
    /// Receipt for the maker of the next bundle.
    pub receipt: Receipt,
}

/// Imports a bundle. Nothing is trusted before its signatures are verified, and the store's current generation stays
/// the old one until everything is stored and verified. The holder of `lock` is the only one to change the store.
///
/// # Errors
/// The bundle is not imported, and nothing of it is used; its valid files stay for the next attempt.
pub fn import(
    store: &Store,
    lock: &files::Lock,
    input: impl Read,
    guard: &Guard,
    watch: Watch<'_>,
) -> Result<Imported, BundleError> {
    let mut reader = Reader::new(input);
    let head = reader.head()?;
    let (bundle, verified) = (head.id(), head.verify(&guard.trust)?);
    let manifest = verified.manifest.clone();
    let mut records = Records::of(store)?;
    admit(&manifest, bundle, guard, &records)?;
    has_base(store, &manifest)?;
    has_room(store, &manifest)?;
    (watch.hear)(Step::Begun(manifest.bytes()));
    let mut fresh = BTreeSet::new();
    for (digest, blob) in &manifest.blobs {
        if take(store, &mut reader, *digest, blob.size, watch)? {
            fresh.insert(*digest);
        }
    }
    reader.end()?;
    (watch.hear)(Step::Unpacking);
    check_packages(store, &manifest.generation, &guard.platform, watch)?;
    // Save the records before the generation that they protect: after a crash between the two, the same bundle can be
    // imported again.
    records.learn(&guard.trust, &verified, bundle);
    records.save(store)?;
    Ledger::of(store).keep(&manifest.generation)?;
    let generation = commit(store, &manifest.generation, lock)?;
    store.keep_bundle_head(generation, &head.to_bytes()?, lock)?;
    let have = manifest.generation.digests();
    Ok(Imported {
        generation,
        fresh: fresh.len(),
        receipt: Receipt::new(&manifest.channel, manifest.sequence, bundle, have),
        manifest,
    })
}

/// Checks whether a bundle may be imported at this time, after the earlier imports.
fn admit(
    manifest: &Manifest,
    bundle: Digest,
    guard: &Guard,
    records: &Records,
) -> Result<(), BundleError> {
    manifest.check_time(guard.now)?;
    let Some(last) = records.channels.get(&manifest.channel) else {
        return Ok(());
    };
    let is_same = last.bundle == bundle;
    if manifest.sequence > last.sequence || is_same || guard.allow_rollback {
        return Ok(());
    }
    Err(BundleError::Replayed {
        channel: manifest.channel.clone(),
        sequence: manifest.sequence,
        last: last.sequence,
    })
}

fn has_base(store: &Store, manifest: &Manifest) -> Result<(), BundleError> {
    let missing: Vec<_> = manifest
        .omitted
        .iter()
        .copied()
        .filter(|d| !store.has(*d))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(BundleError::Missing {
            missing: manifest.generation.named(missing),
        }),
    }
}

fn has_room(store: &Store, manifest: &Manifest) -> Result<(), BundleError> {
    let missing = manifest
        .blobs
        .iter()
        .filter(|(digest, _)| !store.has(**digest));
    let needed = missing.fold(0_u64, |sum, (_, blob)| sum.saturating_add(blob.size));
    let system = statvfs(store.dir()).map_err(|e| StoreError::io("read", store.dir())(e.into()))?;
    let free = system
        .blocks_available()
        .saturating_mul(system.fragment_size());
    match needed <= free {
        true => Ok(()),
        false => Err(BundleError::Full {
            dir: store.dir().to_owned(),
            needed,
            free,
        }),
    }
}

/// Reads one file of the bundle; returns whether it is new to the store.
fn take<R: Read>(
    store: &Store,
    reader: &mut Reader<R>,
    digest: Digest,
    size: u64,
    watch: Watch<'_>,
) -> Result<bool, BundleError> {
    if store.has(digest) {
        reader.blob(digest, size, watch, &mut |_| Ok(()))?;
        return Ok(false);
    }
    let mut incoming = store.incoming()?;
    reader.blob(digest, size, watch, &mut |piece| Ok(incoming.write(piece)?))?;
    incoming.commit_as(digest, &digest.to_string())?;
    Ok(true)
}

/// Unpacks the packages of this platform, and checks that those of all others can be unpacked. Packages of the
/// current generation were checked when they were imported.
fn check_packages(
    store: &Store,
    generation: &Generation,
    platform: &Platform,
    watch: Watch<'_>,
) -> Result<(), BundleError> {
    let known = match store.current()? {
        Some(number) => store.generation(number)?,
        None => Generation::default(),
    };
    let known: BTreeMap<_, _> = packages(&known)
        .map(|package| (package.archive, package))
        .collect();
    for package in packages(generation) {
        watch.advance(0)?;
        if known.get(&package.archive) != Some(&package) {
            store.check_package(package)?;
        }
        if package.platform == *platform {
            store.tree(package)?;
        }
    }
    for tool in generation
        .tools
        .iter()
        .filter(|tool| tool.platform == *platform)
    {
        watch.advance(0)?;
        store.tool(tool)?;
    }
    Ok(())
}

fn packages(generation: &Generation) -> impl Iterator<Item = &Package> {
    let providers = generation.providers.iter();
    providers.flat_map(|provider| &provider.packages)
}

fn commit(store: &Store, generation: &Generation, lock: &files::Lock) -> Result<u64, StoreError> {
    let current = store.current()?;
    if let Some(number) = current
        && store.generation(number)? == *generation
    {
        store.take_inventory(number, lock)?;
        return Ok(number);
    }
    store.commit(generation.clone(), current, lock)
}
