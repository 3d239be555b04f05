//! A provider's package on its way into the mirror: what it must be to be of use.

use crate::{
    mirror::{
        Digest, Store, StoreError,
        generation::{Package, Provider},
    },
    registry::{Hash, Platform, ProviderAddr},
};

/// Whose package it is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) addr: ProviderAddr,
    pub(super) platform: Platform,
    pub(super) filename: String,
}

/// Looks into a package that is in the store.
///
/// # Errors
/// [`StoreError::Package`] if it cannot be unpacked or has no program of the provider's.
pub(super) fn examine(
    store: &Store,
    identity: Identity,
    archive: Digest,
    size: u64,
) -> Result<Package, StoreError> {
    let filename = identity.filename;
    let refused = |why: String| StoreError::Package {
        name: filename.clone(),
        why,
    };
    let mut zip = zip::ZipArchive::new(store.open_blob(archive)?)
        .map_err(|error| refused(error.to_string()))?;
    let wanted = format!("terraform-provider-{}", identity.addr.kind());
    let mut programs = 0;
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .map_err(|error| refused(error.to_string()))?;
        let name = entry.name().map_err(|error| refused(error.to_string()))?;
        programs += usize::from(is_program(&name, &wanted));
    }
    if programs == 0 {
        return Err(refused(format!("it has no program `{wanted}`")));
    }
    let (h1_zip, h1_tree) = store.checksums(archive, &filename)?;
    Ok(Package {
        platform: identity.platform,
        filename,
        archive,
        size,
        h1_zip,
        h1_tree,
    })
}

/// As engines look for it: at the top, with anything behind the name that does not prolong it.
fn is_program(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.']) && !rest.contains('/'))
}

/// Whether a package has one of the checksums of a lock file, as far as that has any that can be compared.
pub(super) fn satisfies(package: &Package, hashes: &[Hash]) -> bool {
    let own = [
        package.archive.zh(),
        package.h1_zip.clone(),
        package.h1_tree.clone(),
    ];
    hashes.is_empty() || hashes.iter().any(|hash| own.contains(hash))
}

/// What is the matter with packages that are there, for people.
pub(super) fn remarks(provider: &Provider) -> Vec<String> {
    let odd = provider.packages.iter().filter(|p| p.h1_zip != p.h1_tree);
    odd.map(|package| {
        format!(
            "`{}` has entries for directories: a lock file made from the zip file does not fit the unpacked one",
            package.filename
        )
    })
    .collect()
}
