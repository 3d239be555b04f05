//! Checks of a provider's package before it enters the mirror.

use std::collections::BTreeMap;

use outpost_base::registry::{Hash, Platform, ProviderAddr};

use crate::{
    Digest, Store, StoreError,
    generation::{Package, Provider},
};

/// Provider, platform and file name of a package.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) addr: ProviderAddr,
    pub(super) platform: Platform,
    pub(super) filename: String,
}

/// Examines a package in the store.
///
/// # Errors
/// [`StoreError::Package`] if it cannot be unpacked, lacks the provider's program, or has one without permission to
/// execute: an engine would install it, and fail at the first plan. Packages for Windows have no such permissions.
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
    let mut programs = BTreeMap::new();
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .map_err(|error| refused(error.to_string()))?;
        let name = entry.name().map_err(|error| refused(error.to_string()))?;
        if is_program(&name, &wanted) {
            programs.insert(name.into_owned(), entry.unix_mode().unwrap_or_default());
        }
    }
    // Engines use the first one by name.
    let Some((program, mode)) = programs.first_key_value() else {
        return Err(refused(format!("it has no executable `{wanted}`")));
    };
    if mode & 0o111 == 0 && identity.platform.os != "windows" {
        let why = format!(
            "its executable `{program}` cannot be run because its mode is {:o}",
            mode & 0o777
        );
        return Err(refused(why));
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

/// Returns whether a file is the provider's program, as engines search for it: at the top, with a suffix that does
/// not make its name a longer word.
fn is_program(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.']) && !rest.contains('/'))
}

/// Returns whether a package has one of the checksums of a lock file, or the lock file has none.
pub(super) fn satisfies(package: &Package, hashes: &[Hash]) -> bool {
    let own = [
        package.archive.zh(),
        package.h1_zip.clone(),
        package.h1_tree.clone(),
    ];
    hashes.is_empty() || hashes.iter().any(|hash| own.contains(hash))
}

/// Returns remarks about unusual packages of a provider.
pub(super) fn remarks(provider: &Provider) -> Vec<String> {
    let odd = provider.packages.iter().filter(|p| p.h1_zip != p.h1_tree);
    odd.map(|package| {
        format!(
            "`{}` has directory entries: a lock file made from the zip file does not match the unpacked package",
            package.filename
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn examined(platform: &str, files: &[(&str, u32)]) -> Result<Package, StoreError> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, mode) in files {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            zip.start_file(*name, options).unwrap();
        }
        let content = zip.finish().unwrap().into_inner();
        let archive = store.put(&content).unwrap();
        let identity = Identity {
            addr: "registry.example/acme/demo".parse().unwrap(),
            platform: platform.parse().unwrap(),
            filename: "demo.zip".to_owned(),
        };
        examine(&store, identity, archive, content.len() as u64)
    }

    #[test]
    fn a_program_that_nobody_may_run_is_refused_except_for_windows() {
        let good = [("README", 0o644), ("terraform-provider-demo_v1.0.0", 0o755)];
        let bad = [("terraform-provider-demo_v1.0.0", 0o644)];

        assert!(examined("linux_amd64", &good).is_ok());
        assert!(examined("windows_amd64", &bad).is_ok());
        for platform in ["linux_amd64", "darwin_arm64"] {
            let error = examined(platform, &bad).unwrap_err().to_string();
            assert!(error.contains("its mode is 644"), "{error}");
        }
        let none = examined("linux_amd64", &[("README", 0o755)]).unwrap_err();
        assert!(none.to_string().contains("no executable"), "{none}");
    }
}
