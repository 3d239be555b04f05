//! The engine's plugin caches, shared by sessions: one for each source of the `coder` provider, because a cache knows
//! a package by its version only.
//!
//! Engines take no care of each other: without a lock file in the template they install every provider into the
//! cache again, over what other engines run at that moment. So nothing that is there is ever written again, one
//! engine at a time fills the cache, and what one left half-done is removed before the next.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    files::{
        self,
        beneath::{DEADLINE, Dir, within},
        removal,
    },
    provision::StepFailure,
    stop::Stop,
};

/// The variable that names the cache.
pub(super) const DIR: &str = "TF_PLUGIN_CACHE_DIR";
/// The variable that lets the engine take a package that no lock file has the checksum of.
pub(super) const MAY_BREAK_LOCK: &str = "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE";

/// How long a package stays that nobody uses. The reference keeps them as long.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// `HOST/NAMESPACE/TYPE/VERSION/PLATFORM`, in a cache and in a session.
const DEPTH: usize = 5;
/// Packages that one template uses, at the most.
const MAX_PACKAGES: usize = 10_000;

/// The right to fill the caches below a directory.
#[derive(Debug)]
pub(super) struct Filling {
    caches: PathBuf,
    _lock: files::Lock,
}

impl Filling {
    /// Waits for the right to fill `cache`, one of `caches`, and removes what the engine before left half-done.
    pub(super) async fn begin(
        caches: &Path,
        cache: &Path,
        stop: &Stop,
    ) -> Result<Self, StepFailure> {
        let path = caches.with_extension("lock");
        let failed = |error: io::Error| {
            StepFailure::new(format!(
                "prepare the plugin caches in `{}`: {error}",
                caches.display()
            ))
        };
        fs::create_dir_all(cache).map_err(failed)?;
        let lock = files::Lock::acquire(&path, stop).await.map_err(failed)?;
        let lock = lock.ok_or_else(|| StepFailure::new("cancelled before it began"))?;
        clean(caches, SystemTime::now()).map_err(failed)?;
        File::create(marker(caches)).map_err(failed)?;
        Ok(Self {
            caches: caches.to_owned(),
            _lock: lock,
        })
    }

    /// All that was begun is whole, as the engine said. What the session in `dir` uses counts as used today.
    pub(super) async fn keep(self, dir: Dir) {
        let used = within(DEADLINE, move || {
            // A marker that stays costs a download, no more; and an age that nobody writes, too.
            let _ = fs::remove_file(marker(&self.caches));
            let caches = Dir::open(&self.caches)?;
            let names = [self.caches.as_path(), caches.path()];
            for package in used(&dir, names) {
                let _ = caches.touch(package);
            }
            io::Result::Ok(())
        });
        let _ = used.await;
    }
}

/// There while an engine fills the cache, and afterwards if it did not come to its end.
fn marker(caches: &Path) -> PathBuf {
    caches.with_extension("filling")
}

/// Removes packages that an engine left half-done, and those that nobody has used for long.
fn clean(caches: &Path, now: SystemTime) -> io::Result<()> {
    let begun = fs::symlink_metadata(marker(caches)).ok();
    let begun = begun.map(|marker| (marker.ctime(), marker.ctime_nsec()));
    for package in packages(caches, 1 + DEPTH) {
        let own = fs::symlink_metadata(&package)?;
        let is_suspect = begun.is_some_and(|begun| (own.ctime(), own.ctime_nsec()) > begun);
        let used = own.modified();
        let is_unused =
            used.is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age > UNUSED));
        if is_suspect || is_unused {
            removal::take_away(&package)?;
        }
    }
    Ok(())
}

/// The packages that a session has links to, relative to the caches, which have several names.
fn used(dir: &Dir, caches: [&Path; 2]) -> Vec<PathBuf> {
    let mut level = vec![PathBuf::from(".terraform/providers")];
    for _ in 0..DEPTH {
        let entries = level.iter().flat_map(|place| {
            let listed = dir.list(place).unwrap_or_default();
            listed.into_iter().map(|(name, _)| place.join(name))
        });
        level = entries.take(MAX_PACKAGES).collect();
    }
    let target = |link: &PathBuf| {
        let target = dir.read_link(link).ok().flatten()?;
        let mut below = caches.iter().filter_map(|it| target.strip_prefix(it).ok());
        below.next().map(Path::to_owned)
    };
    level.iter().filter_map(target).collect()
}

/// The packages below a directory, links among them.
fn packages(root: &Path, depth: usize) -> Vec<PathBuf> {
    let mut level = vec![root.to_owned()];
    for _ in 0..depth {
        let entries = level.iter().filter_map(|dir| fs::read_dir(dir).ok());
        level = entries
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(caches: &Path, name: &str) -> PathBuf {
        let package = caches
            .join("builtin/registry.example/acme")
            .join(name)
            .join("1.0.0/linux_amd64");
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("terraform-provider"), "a program").unwrap();
        package
    }

    /// Waits until what is made then is younger than a file of now: the system's clock for files ticks slowly.
    fn tick(dir: &Path) {
        let made = |name: &str| {
            let path = dir.join(name);
            let _ = fs::remove_file(&path);
            let file = File::create(path).and_then(|file| file.metadata()).unwrap();
            (file.ctime(), file.ctime_nsec())
        };
        let before = made("before");
        while made("after") <= before {}
    }

    async fn fill(caches: &Path) -> Filling {
        Filling::begin(caches, &caches.join("builtin"), &Stop::new())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_was_whole_stays_and_what_was_left_half_done_goes() {
        let dir = tempfile::tempdir().unwrap();
        let caches = dir.path().join("plugins");
        let filling = fill(&caches).await;
        let whole = add(&caches, "whole");
        filling.keep(Dir::open(dir.path()).unwrap()).await;
        tick(dir.path());

        let killed = fill(&caches).await;
        tick(dir.path());
        let half = add(&caches, "half");
        let link = half.parent().unwrap().join("linux_arm64");
        std::os::unix::fs::symlink("/mirror/half", &link).unwrap();
        drop(killed);
        let _next = fill(&caches).await;

        assert!(whole.is_dir());
        assert!(!half.exists());
        assert!(fs::symlink_metadata(link).is_err());
    }

    #[tokio::test]
    async fn a_package_that_nobody_used_for_long_goes_and_one_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let caches = dir.path().join("plugins");
        let (unused, used) = (add(&caches, "unused"), add(&caches, "used"));
        let long_ago = fs::FileTimes::new().set_modified(SystemTime::now() - 2 * UNUSED);
        for package in [&unused, &used] {
            File::open(package).unwrap().set_times(long_ago).unwrap();
        }
        let session = dir.path().join("session");
        let linked = session.join(".terraform/providers/registry.example/acme/used/1.0.0");
        fs::create_dir_all(&linked).unwrap();
        std::os::unix::fs::symlink(&used, linked.join("linux_amd64")).unwrap();

        let used_again = Filling {
            caches: caches.clone(),
            _lock: files::Lock::try_acquire(&caches.with_extension("lock"))
                .unwrap()
                .unwrap(),
        };
        used_again.keep(Dir::open(&session).unwrap()).await;
        let _next = fill(&caches).await;

        assert!(!unused.exists());
        assert!(used.is_dir());
    }

    #[tokio::test]
    async fn one_at_a_time_fills_a_cache() {
        let dir = tempfile::tempdir().unwrap();
        let caches = dir.path().join("plugins");
        let first = fill(&caches).await;
        let stop = Stop::new();
        let cache = caches.join("builtin");
        let second = Filling::begin(&caches, &cache, &stop);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());

        drop(first);

        assert!(second.await.is_ok());
    }
}
