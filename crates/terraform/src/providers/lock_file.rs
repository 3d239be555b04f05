//! Lock file of a session: merged with the checksums of the packages in a mirror, and without those of `coder/coder`
//! where the built-in provider runs in its place.
//!
//! `language/lock.rs` has the format; `mirror/lock.rs` makes the lock file of a template.

use std::{collections::BTreeMap, io};

use outpost_base::registry::{Hash, ProviderAddr};
use outpost_files::beneath::Dir;
use outpost_language::lock::{FILE_NAME, Lock};
use outpost_provision::StepFailure;
use semver::Version;

/// Maximum size of a lock file in bytes; one entry has some hundred.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// Result of dropping checksums.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Relaxed {
    /// Version that the lock file requires.
    pub(super) version: Option<Version>,
    /// Warning for the author, if checksums were dropped.
    pub(super) warning: Option<String>,
}

/// Drops the checksums of `coder/coder` from the session's copy of the lock file; the version stays.
///
/// A file that cannot be parsed is left unchanged: the engine reports that better.
pub(super) fn relax(dir: &Dir, hosts: &[&str]) -> Result<Relaxed, StepFailure> {
    let failed = |error: io::Error| StepFailure::new(format!("change {FILE_NAME}: {error}"));
    let Some(mut lock) = parsed(dir).map_err(failed)? else {
        return Ok(Relaxed::default());
    };
    let (relaxed, has_changed) = relax_entries(&mut lock, hosts);
    if has_changed {
        dir.write_private(FILE_NAME, lock.to_string().as_bytes())
            .map_err(failed)?;
    }
    Ok(relaxed)
}

/// Compares the session's lock file with the packages of a mirror, and adds the checksums that the engine requires: a
/// file from another platform, or from a machine with access to a registry, lacks them.
///
/// Terraform accepts an unpacked package whatever its `zh:` checksum, so the comparison is ours. A file that cannot
/// be parsed is left unchanged: the engine reports that better.
pub(super) fn augment(
    dir: &Dir,
    checksums: &BTreeMap<(ProviderAddr, Version), Vec<Hash>>,
) -> Result<(), StepFailure> {
    let Some(mut lock) = read(dir) else {
        return Ok(());
    };
    let mut has_changed = false;
    for (addr, locked) in &mut lock.providers {
        let key = (addr.clone(), locked.version.clone());
        let Some(known) = checksums.get(&key).filter(|_| !locked.hashes.is_empty()) else {
            continue;
        };
        if !known.iter().any(|hash| locked.hashes.contains(hash)) {
            return Err(other_package(addr, &locked.version, known));
        }
        for hash in known {
            if !locked.hashes.contains(hash) {
                locked.hashes.push(hash.clone());
                has_changed = true;
            }
        }
    }
    if has_changed {
        let failed = |error| StepFailure::new(format!("change {FILE_NAME}: {error}"));
        dir.write_private(FILE_NAME, lock.to_string().as_bytes())
            .map_err(failed)?;
    }
    Ok(())
}

fn other_package(addr: &ProviderAddr, version: &Version, known: &[Hash]) -> StepFailure {
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    StepFailure::new(format!(
        "{addr} {version} in the mirror matches none of the checksums in the template's {FILE_NAME}; it has {}. If \
         the mirror is right, run `terraform init -upgrade` where the template is developed; if the lock file is right, fetch the package into the mirror again",
        known.join(", ")
    ))
}

/// Returns the lock file of a template, if there is one that can be parsed.
pub(super) fn read(dir: &Dir) -> Option<Lock> {
    parsed(dir).ok().flatten()
}

/// Does the same, but returns an error if the file cannot be read.
fn parsed(dir: &Dir) -> io::Result<Option<Lock>> {
    let Some(content) = dir.read(FILE_NAME, MAX_BYTES)? else {
        return Ok(None);
    };
    let text = String::from_utf8(content).map_err(io::Error::other)?;
    Ok(Lock::parse(&text).ok())
}

fn relax_entries(lock: &mut Lock, hosts: &[&str]) -> (Relaxed, bool) {
    let mut relaxed = Relaxed::default();
    let mut has_changed = false;
    for (addr, provider) in &mut lock.providers {
        if !is_coder(addr, hosts) {
            continue;
        }
        relaxed.version = Some(provider.version.clone());
        if !provider.hashes.is_empty() {
            provider.hashes.clear();
            has_changed = true;
            relaxed.warning = Some(warning(addr, &provider.version));
        }
    }
    (relaxed, has_changed)
}

fn warning(addr: &ProviderAddr, version: &Version) -> String {
    format!(
        "checksums of {addr} {version} in {FILE_NAME} are not checked in this job: it runs with the built-in coder \
         provider instead of the published package (with --coder-provider=registry they are)"
    )
}

fn is_coder(addr: &ProviderAddr, hosts: &[&str]) -> bool {
    (addr.namespace(), addr.kind()) == ("coder", "coder") && hosts.contains(&addr.host())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(dir: &tempfile::TempDir) -> Dir {
        Dir::open(dir.path()).unwrap()
    }

    const HOSTS: [&str; 1] = ["registry.terraform.io"];
    const HASH: &str = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn relaxed(text: &str) -> (Relaxed, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, text).unwrap();
        let relaxed = relax(&open(&dir), &HOSTS).unwrap();
        (relaxed, fs::read_to_string(path).unwrap())
    }

    fn entry(addr: &str, hashes: &str) -> String {
        format!("provider \"{addr}\" {{\n  version = \"2.1.0\"\n{hashes}}}\n")
    }

    #[test]
    fn only_the_checksums_of_our_provider_go() {
        let hashes = format!("  hashes = [\n    \"{HASH}\",\n  ]\n");
        let text = entry("registry.terraform.io/coder/coder", &hashes)
            + &entry("registry.terraform.io/hashicorp/null", &hashes);

        let (relaxed, text) = relaxed(&text);

        assert_eq!(relaxed.version, Some(Version::new(2, 1, 0)));
        assert!(relaxed.warning.unwrap().contains("coder/coder 2.1.0"));
        assert_eq!(text.matches(HASH).count(), 1);
        assert!(text.contains("registry.terraform.io/coder/coder"));
    }

    #[test]
    fn a_lock_learns_the_checksums_of_the_same_package_and_refuses_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let hashes = format!("  hashes = [\n    \"{HASH}\",\n  ]\n");
        fs::write(&path, entry("registry.terraform.io/acme/demo", &hashes)).unwrap();
        let addr: ProviderAddr = "registry.terraform.io/acme/demo".parse().unwrap();
        let known = |known: &[Hash]| {
            BTreeMap::from([((addr.clone(), Version::new(2, 1, 0)), known.to_vec())])
        };
        let zh = Hash::Zh([1; 32]);

        augment(&open(&dir), &known(&[zh.clone(), HASH.parse().unwrap()])).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let other = augment(&open(&dir), &known(&[Hash::H1([2; 32])])).unwrap_err();

        assert!(
            text.contains(&zh.to_string()) && text.contains(HASH),
            "{text}"
        );
        assert!(other.error.contains("acme/demo 2.1.0"), "{}", other.error);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn without_checksums_nothing_changes() {
        let text = entry("registry.terraform.io/coder/coder", "");

        let (relaxed, after) = relaxed(&text);

        assert_eq!(
            (relaxed.version, relaxed.warning),
            (Some(Version::new(2, 1, 0)), None)
        );
        assert_eq!(after, text);
    }

    #[test]
    fn another_registrys_provider_of_that_name_is_not_ours() {
        let text = entry("registry.example.com/coder/coder", "");

        assert_eq!(relaxed(&text).0, Relaxed::default());
    }

    #[test]
    fn no_file_and_a_broken_file_lock_nothing() {
        let dir = tempfile::tempdir().unwrap();

        assert_eq!(relax(&open(&dir), &HOSTS).unwrap(), Relaxed::default());
        assert_eq!(relaxed("provider {").0, Relaxed::default());
    }
}
