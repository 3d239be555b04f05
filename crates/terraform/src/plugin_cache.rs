//! Providers that sessions share: whole packages, which only the daemon writes, and which are taken from a session
//! only if its engine got them from their registry with a signature.
//!
//! An engine writes what it installs into its plugin cache, and uses whatever it finds there. So each session has a
//! plugin cache of its own, with links to shared packages, which no job can write. What a template brings along, such
//! as a package in its `terraform.d`, stays in its session.
//!
//! A cache identifies a package by its version only, so there is a cache for each source of the `coder` provider.
//!
//! ```text
//! CACHES/SOURCE/HOST/NAMESPACE/TYPE/VERSION/PLATFORM/package/   files that the engine runs
//!                                                   /record     their checksum, and their attributes at that time
//! CACHES/.incoming/                                             incomplete packages
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "entries are made in a staging directory and renamed, and have a bounded depth"
)]

use std::{
    fs::{self, File, FileTimes},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outpost_base::registry::{Hash, Platform, ProviderAddr};
use outpost_files::{
    self as files,
    appearance::{MAX_FILES, Record},
};
use outpost_language::lock::{Lock, LockedProvider};
use tracing::{info, warn};

/// Environment variable with the cache's directory.
pub(super) const DIR: &str = "TF_PLUGIN_CACHE_DIR";
/// Environment variable that lets the engine use a package whose checksum is in no lock file.
pub(super) const MAY_BREAK_LOCK: &str = "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE";

/// Time for which an unused package is kept, as in the reference.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Age at which an incomplete package counts as left by a daemon that died.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);
/// Levels of directories in `HOST/NAMESPACE/TYPE/VERSION/PLATFORM`.
const DEPTH: usize = 5;
/// Maximum depth of a file in a package.
const MAX_DEPTH: usize = 16;

const PACKAGE: &str = "package";
const RECORD: &str = "record";
const INCOMING: &str = ".incoming";

/// Packages that sessions with one source of the `coder` provider share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    caches: PathBuf,
    source: PathBuf,
}

impl Shared {
    /// Returns the packages below `caches` for a source, which is one part of a path.
    pub(super) fn new(caches: &Path, source: &str) -> Self {
        Self {
            caches: caches.to_owned(),
            source: caches.join(source),
        }
    }

    /// Creates a session's own plugin cache at `own`, with links to all unchanged shared packages, and to those in
    /// `further` caches, which the operator fills. A `coder` provider there is left out if the built-in one is used.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn lay_out(
        &self,
        own: &Path,
        further: &[PathBuf],
        is_coder_builtin: bool,
    ) -> io::Result<()> {
        files::create_private_dir(own)?;
        self.clean(SystemTime::now());
        for cache in further {
            for package in entries(cache, DEPTH) {
                // An engine fails at a dangling link, which earlier releases left in such caches.
                if package.is_dir() && !(is_coder_builtin && is_coder(cache, &package)) {
                    link(own, cache, &package, &package)?;
                }
            }
        }
        for entry in entries(&self.source, DEPTH) {
            let package = entry.join(PACKAGE);
            match is_intact(&entry) {
                Ok(true) => {}
                Ok(false) => {
                    warn!(package = %package.display(), "removing a shared provider that was modified after its installation");
                    remove(&entry);
                    continue;
                }
                Err(_) => continue, // From an older release, or another process is removing it.
            }
            link(own, &self.source, &entry, &package)?;
        }
        Ok(())
    }

    /// Takes from a session's plugin cache what its engine installed from registries with their signatures, according
    /// to `lock`, the lock file that the engine wrote because there was none. Marks existing packages as used.
    /// Returns the new ones.
    pub(super) fn take_in(&self, own: &Path, lock: &Lock) -> Vec<ProviderAddr> {
        let mut taken = Vec::new();
        for (addr, locked) in &lock.providers {
            let below = place(addr, locked);
            let entry = self.source.join(&below);
            if fs::exists(entry.join(RECORD)).unwrap_or(false) {
                touch(&entry);
            } else if is_signed(locked) {
                match self.take(&own.join(&below), &entry, &locked.hashes) {
                    Ok(true) => taken.push(addr.clone()),
                    Ok(false) => {}
                    // The next session installs it again.
                    Err(error) => {
                        warn!(%error, provider = %addr, "cannot share a provider between sessions")
                    }
                }
            }
        }
        if !taken.is_empty() {
            info!(providers = ?taken.iter().map(ToString::to_string).collect::<Vec<_>>(), "sharing new providers between sessions");
        }
        taken
    }

    /// Copies a package, unless it is a link and thus from elsewhere.
    fn take(&self, package: &Path, entry: &Path, hashes: &[Hash]) -> io::Result<bool> {
        if !fs::symlink_metadata(package).is_ok_and(|it| it.is_dir()) {
            return Ok(false);
        }
        let incoming = self.caches.join(INCOMING);
        files::create_private_dir(&incoming)?;
        let fresh = tempfile::TempDir::new_in(&incoming)?;
        let copy = fresh.path().join(PACKAGE);
        copy_tree(package, &copy, &mut 0, 0)?;
        // The copy is compared and not the original, which could change after the comparison.
        let record = Record::of(&copy)?;
        if !hashes.iter().any(|hash| hash.to_string() == record.h1) {
            return Err(io::Error::other("it does not match its lock file"));
        }
        fs::write(fresh.path().join(RECORD), record.to_text()?)?;
        fs::create_dir_all(entry.parent().unwrap_or(entry))?;
        match fs::rename(fresh.path(), entry) {
            // Another process was faster.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Ok(false);
            }
            renamed => renamed?,
        }
        let _ = fresh.keep(); // The directory has been moved.
        Ok(true)
    }

    /// Removes packages that were unused for long, and incomplete ones.
    fn clean(&self, now: SystemTime) {
        let is_older = |path: &PathBuf, age: Duration| {
            let modified = fs::symlink_metadata(path).and_then(|it| it.modified());
            modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|it| it > age))
        };
        let unfinished = entries(&self.caches.join(INCOMING), 1);
        let unfinished = unfinished.into_iter().filter(|it| is_older(it, UNFINISHED));
        let unused = entries(&self.caches, 1 + DEPTH);
        let unused = unused.into_iter().filter(|it| is_older(it, UNUSED));
        unfinished.chain(unused).for_each(|path| remove(&path));
    }
}

/// Returns whether an entry of a cache is a package of the `coder` provider, from any registry.
fn is_coder(cache: &Path, entry: &Path) -> bool {
    let place = entry.strip_prefix(cache).unwrap_or(entry);
    let mut parts = place.components().map(|part| part.as_os_str());
    parts.nth(1).is_some_and(|part| part == "coder")
        && parts.next().is_some_and(|part| part == "coder")
}

/// Links the `package` of an `entry` in another cache into a session's cache, unless it has one.
fn link(own: &Path, cache: &Path, entry: &Path, package: &Path) -> io::Result<()> {
    let place = entry.strip_prefix(cache).map_err(io::Error::other)?;
    let place = own.join(place);
    files::create_private_dir(place.parent().unwrap_or(own))?;
    match symlink(package, place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Returns whether the engine got the provider from its registry and verified the signature: only then it writes the
/// checksums of all platforms into the lock file.
fn is_signed(locked: &LockedProvider) -> bool {
    locked.hashes.iter().any(|hash| matches!(hash, Hash::Zh(_)))
}

fn place(addr: &ProviderAddr, locked: &LockedProvider) -> PathBuf {
    let platform = Platform::current();
    PathBuf::from(addr.to_string())
        .join(locked.version.to_string())
        .join(platform.to_string())
}

/// Returns whether a shared package is unchanged since it was stored.
fn is_intact(entry: &Path) -> io::Result<bool> {
    let record = Record::read(&entry.join(RECORD))?;
    let package = entry.join(PACKAGE);
    if record.looks_like(&package) {
        return Ok(true);
    }
    // A copy of the directory has other attributes, but may have the same content.
    let found = Record::of(&package)?;
    let is_same = found.h1 == record.h1;
    if is_same {
        // If this fails, the next session computes the checksum again.
        let _ = files::write_private(&entry.join(RECORD), &found.to_text()?);
    }
    Ok(is_same)
}

fn copy_tree(from: &Path, to: &Path, count: &mut usize, depth: usize) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        *count += 1;
        if *count > MAX_FILES || depth > MAX_DEPTH {
            return Err(too_large());
        }
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => copy_tree(&entry.path(), &target, count, depth + 1)?,
            (_, true) => drop(fs::copy(entry.path(), target)?),
            _ => {
                return Err(io::Error::other(
                    "it has entries other than files and directories",
                ));
            }
        }
    }
    Ok(())
}

fn too_large() -> io::Error {
    io::Error::other("it has too many files")
}

fn touch(entry: &Path) {
    let times = FileTimes::new().set_modified(SystemTime::now());
    // If the time cannot be written, the package is removed too early and downloaded again.
    let _ = File::open(entry).and_then(|entry| entry.set_times(times));
}

/// Removes an entry; it is moved away before its first file is deleted.
fn remove(entry: &Path) {
    let aside = entry.with_extension("removed");
    if fs::rename(entry, &aside).is_ok() {
        let removed = match fs::symlink_metadata(&aside) {
            Ok(it) if it.is_dir() => fs::remove_dir_all(&aside),
            _ => fs::remove_file(&aside),
        };
        if let Err(error) = removed {
            warn!(%error, path = %aside.display(), "cannot remove a shared provider");
        }
    }
}

/// Returns the entries this many levels below a directory, including links.
fn entries(root: &Path, depth: usize) -> Vec<PathBuf> {
    let mut level = vec![root.to_owned()];
    for _ in 0..depth {
        let listed = level.iter().filter_map(|dir| fs::read_dir(dir).ok());
        level = listed
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
    }
    level
}

#[cfg(test)]
mod tests {
    use outpost_base::registry::h1_of_dir;

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        shared: Shared,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let shared = Shared::new(&dir.path().join("plugins"), "builtin");
            Self { dir, shared }
        }

        /// Returns a session's cache with the packages that are shared by now.
        fn session(&self, name: &str) -> PathBuf {
            let own = self.dir.path().join(name);
            self.shared.lay_out(&own, &[], false).unwrap();
            own
        }

        /// Does what an engine does: installs a package, and writes its entry of the lock file.
        fn install(&self, own: &Path, name: &str, is_signed: bool) -> Lock {
            let addr: ProviderAddr = format!("registry.example/acme/{name}").parse().unwrap();
            let mut locked = LockedProvider {
                version: "1.0.0".parse().unwrap(),
                constraints: String::new(),
                hashes: Vec::new(),
            };
            let package = own.join(place(&addr, &locked));
            fs::create_dir_all(package.join("doc")).unwrap();
            fs::write(package.join("terraform-provider"), "a program").unwrap();
            fs::write(package.join("doc/readme"), "text").unwrap();
            locked.hashes.push(h1_of_dir(&package).unwrap());
            if is_signed {
                locked
                    .hashes
                    .push(format!("zh:{}", "0".repeat(64)).parse().unwrap());
            }
            Lock {
                providers: [(addr, locked)].into(),
            }
        }

        fn links(&self, own: &Path) -> Vec<PathBuf> {
            entries(own, DEPTH)
        }
    }

    #[test]
    fn what_a_registry_signed_is_shared_and_nothing_else() {
        let bench = Bench::new();
        let own = bench.session("one");
        let (signed, unsigned) = (
            bench.install(&own, "signed", true),
            bench.install(&own, "unsigned", false),
        );

        assert_eq!(bench.shared.take_in(&own, &signed).len(), 1);
        assert!(bench.shared.take_in(&own, &unsigned).is_empty());
        assert!(
            bench.shared.take_in(&own, &signed).is_empty(),
            "it is there"
        );

        let links = bench.links(&bench.session("two"));
        assert_eq!(links.len(), 1);
        let program = fs::read_to_string(links[0].join("terraform-provider")).unwrap();
        assert_eq!(program, "a program");
        assert!(fs::symlink_metadata(&links[0]).unwrap().is_symlink());
    }

    #[test]
    fn a_package_that_its_lock_file_does_not_know_is_not_shared() {
        let bench = Bench::new();
        let own = bench.session("one");
        let lock = bench.install(&own, "other", true);
        for package in bench.links(&own) {
            fs::write(package.join("terraform-provider"), "another program").unwrap();
        }

        assert!(bench.shared.take_in(&own, &lock).is_empty());
        assert!(bench.links(&bench.session("two")).is_empty());
    }

    #[test]
    fn a_link_to_elsewhere_is_not_shared() {
        let bench = Bench::new();
        let own = bench.session("one");
        let lock = bench.install(&own, "linked", true);
        let package = bench.links(&own).remove(0);
        fs::rename(&package, bench.dir.path().join("elsewhere")).unwrap();
        symlink(bench.dir.path().join("elsewhere"), &package).unwrap();

        assert!(bench.shared.take_in(&own, &lock).is_empty());
    }

    #[test]
    fn what_has_changed_since_is_not_run_by_the_next() {
        let bench = Bench::new();
        let own = bench.session("one");
        let lock = bench.install(&own, "changed", true);
        bench.shared.take_in(&own, &lock);
        let shared = entries(&bench.shared.source, DEPTH).remove(0);
        let program = shared.join(PACKAGE).join("terraform-provider");

        // The same bytes written again, as from a backup, count as unchanged.
        fs::write(&program, "a program").unwrap();
        let record = || fs::read(shared.join(RECORD)).unwrap();
        let before = record();
        assert_eq!(bench.links(&bench.session("two")).len(), 1);
        let known = record();
        assert_ne!(known, before, "its checksum need not be computed again");
        assert_eq!(bench.links(&bench.session("two again")).len(), 1);
        assert_eq!(record(), known);
        fs::write(&program, "a Program").unwrap();
        assert!(bench.links(&bench.session("three")).is_empty());
        assert!(!shared.exists());
    }

    #[test]
    fn of_the_operators_cache_is_taken_what_is_there_and_not_what_is_built_in() {
        let bench = Bench::new();
        let operators = bench.dir.path().join("operators");
        let platform = Platform::current().to_string();
        for name in ["acme/demo", "coder/coder"] {
            let package = operators.join("registry.example").join(name).join("1.0.0");
            fs::create_dir_all(package.join(&platform)).unwrap();
        }
        let gone = operators.join("registry.example/acme/gone/1.0.0");
        fs::create_dir_all(&gone).unwrap();
        symlink(bench.dir.path().join("nowhere"), gone.join(&platform)).unwrap();

        let links = |name: &str, is_coder_builtin: bool| {
            let own = bench.dir.path().join(name);
            let further = [operators.clone()];
            bench
                .shared
                .lay_out(&own, &further, is_coder_builtin)
                .unwrap();
            let names = bench.links(&own).into_iter().map(|link| {
                let place = link.strip_prefix(&own).unwrap();
                place.iter().nth(2).unwrap().to_string_lossy().into_owned()
            });
            let mut names: Vec<_> = names.collect();
            names.sort_unstable();
            names
        };

        assert_eq!(links("builtin", true), ["demo"]);
        assert_eq!(links("registry", false), ["coder", "demo"]);
    }

    #[test]
    fn a_package_that_nobody_used_for_long_goes_and_one_in_use_stays() {
        let bench = Bench::new();
        let own = bench.session("one");
        let (unused, used) = (
            bench.install(&own, "unused", true),
            bench.install(&own, "used", true),
        );
        for lock in [&unused, &used] {
            bench.shared.take_in(&own, lock);
        }
        let long_ago = FileTimes::new().set_modified(SystemTime::now() - 2 * UNUSED);
        for entry in entries(&bench.shared.source, DEPTH) {
            File::open(entry).unwrap().set_times(long_ago).unwrap();
        }

        bench.shared.take_in(&own, &used);

        let links = bench.links(&bench.session("two"));
        assert_eq!(links.len(), 1);
        assert!(links[0].to_string_lossy().contains("acme/used"));
    }
}
