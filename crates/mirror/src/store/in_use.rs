//! Unpacked packages that sessions use, and the limit for the size of all of them.
//!
//! A session holds a shared lock on the directory of each unpacked package that it was given, and records the time.
//! Eviction needs the exclusive lock, and moves the directory away under it, so that a session either gets a package
//! that stays, or unpacks it again.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{Store, StoreError};
use crate::{Digest, generation::Package};

/// Time since its last use for which an unpacked package stays in any case. The apply of a daemon that was killed goes
/// on without a lock, until the next daemon finishes the job.
const GRACE: Duration = Duration::from_secs(60 * 60);

/// Number of attempts to get a package that is evicted again and again.
const ATTEMPTS: usize = 10;

/// An unpacked package in use: it stays until this is dropped, or its process ends.
#[derive(Debug)]
pub struct InUse {
    /// Directory of the package.
    pub tree: PathBuf,
    /// `None` on a file system without locks, on which nothing is evicted either.
    _lock: Option<Flock<File>>,
}

/// Unpacked package that may be evicted.
struct Idle {
    tree: PathBuf,
    digest: Digest,
    bytes: u64,
    used: SystemTime,
}

impl Store {
    /// Returns a package for use, which is unpacked if necessary.
    ///
    /// # Errors
    /// Those of [`tree`](Self::tree), and the system's error.
    pub fn use_tree(&self, package: &Package) -> Result<InUse, StoreError> {
        for _ in 0..ATTEMPTS {
            let tree = self.tree(package)?;
            if let Some(used) = hold(&tree).map_err(StoreError::io("lock", &tree))? {
                return Ok(used);
            }
        }
        let tree = self.dir.join("trees").join(package.archive.to_string());
        Err(StoreError::io("lock", &tree)(
            io::ErrorKind::TimedOut.into(),
        ))
    }

    /// Returns a package for use if it is unpacked, and no file has to be read to be sure of it.
    pub fn use_known_tree(&self, package: &Package) -> Option<InUse> {
        hold(&self.known_tree(package)?).ok().flatten()
    }

    /// Evicts the least recently used of the unpacked `packages` until they have at most `max_bytes`, and returns the
    /// evicted ones. Those in use stay, and those that were used within the last hour.
    ///
    /// # Errors
    /// The system's error.
    pub fn evict_trees(
        &self,
        packages: &BTreeSet<Digest>,
        max_bytes: u64,
        now: SystemTime,
    ) -> Result<Vec<Digest>, StoreError> {
        let (mut used_bytes, mut idle) = (0, Vec::new());
        for digest in packages {
            let Some(tree) = self.unpacked(*digest) else {
                continue;
            };
            let read = measure(&tree).and_then(|bytes| Ok((bytes, tree.metadata()?.modified()?)));
            let (bytes, used) = match read {
                Ok(found) => found,
                // Somebody else evicts it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("read", &tree)(error)),
            };
            used_bytes += bytes;
            let digest = *digest;
            idle.push(Idle {
                tree,
                digest,
                bytes,
                used,
            });
        }
        idle.retain(|it| now.duration_since(it.used).is_ok_and(|age| age >= GRACE));
        idle.sort_by_key(|it| (it.used, it.digest));
        let mut evicted = Vec::new();
        for it in idle {
            if used_bytes <= max_bytes {
                break;
            }
            if self.evict(&it)? {
                used_bytes -= it.bytes;
                evicted.push(it.digest);
            }
        }
        Ok(evicted)
    }

    /// Removes an unpacked package unless it is in use; returns whether it did.
    fn evict(&self, idle: &Idle) -> Result<bool, StoreError> {
        let tree = &idle.tree;
        let Ok(dir) = File::open(tree) else {
            return Ok(false);
        };
        // Held until the name is gone.
        let Ok(held) = Flock::lock(dir, FlockArg::LockExclusiveNonblock) else {
            return Ok(false);
        };
        let is_still_idle = held.metadata().and_then(|it| it.modified());
        if !is_still_idle.is_ok_and(|used| used == idle.used) {
            return Ok(false);
        }
        let incoming = self.dir.join("incoming");
        let away = tempfile::tempdir_in(&incoming);
        let away = away.map_err(StoreError::io("write in", &incoming))?;
        let moved = fs::rename(tree, away.path().join("tree"));
        moved.map_err(StoreError::io("evict", tree))?;
        drop(held);
        away.close().map_err(StoreError::io("remove", tree))?;
        tracing::info!(tree = %tree.display(), bytes = idle.bytes, "evicted an unpacked package; it is unpacked again when a job needs it");
        Ok(true)
    }
}

/// Locks a directory for use, unless it is being evicted or already gone.
#[expect(
    clippy::disallowed_methods,
    reason = "the other side only renames a directory meanwhile"
)]
fn hold(tree: &Path) -> io::Result<Option<InUse>> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let dir = match File::open(tree) {
        Err(error) if is_gone(&error) => return Ok(None),
        dir => dir?,
    };
    let lock = match Flock::lock(dir, FlockArg::LockSharedNonblock) {
        Ok(lock) => Some(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            // The other side only renames it.
            std::thread::sleep(Duration::from_millis(20));
            return Ok(None);
        }
        Err(_) => None,
    };
    if let Some(dir) = &lock {
        match tree.metadata() {
            Ok(named) if named.ino() == dir.metadata()?.ino() => {}
            Ok(_) => return Ok(None),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        // A mirror that only others may write to shows when it was unpacked.
        let _ = dir.set_modified(SystemTime::now());
    }
    Ok(Some(InUse {
        tree: tree.to_owned(),
        _lock: lock,
    }))
}

/// Returns the total size of the files in a directory, in bytes.
fn measure(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut level = vec![dir.to_owned()];
    while let Some(dir) = level.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let found = entry.metadata()?;
            match found.is_dir() {
                true => level.push(entry.path()),
                false => bytes += found.len(),
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::trees::tests::packed, *};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Returns a store with three packages of 100 bytes each.
    fn store() -> (tempfile::TempDir, Store, Vec<Package>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let packages = [b'a', b'b', b'c'].map(|kind| packed(&store, &[kind; 100]));
        (dir, store, packages.into())
    }

    fn digests(packages: &[Package]) -> BTreeSet<Digest> {
        packages.iter().map(|package| package.archive).collect()
    }

    /// Records that a package was last used so long ago.
    fn age(store: &Store, package: &Package, age: Duration) {
        let tree = File::open(store.unpacked(package.archive).unwrap()).unwrap();
        tree.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn the_least_recently_used_package_goes_and_is_unpacked_again_when_needed() {
        let (_dir, store, packages) = store();
        for (package, days) in packages.iter().zip([2, 3, 1]) {
            drop(store.use_tree(package).unwrap());
            age(&store, package, days * DAY);
        }
        let all = digests(&packages);
        let now = SystemTime::now();

        assert_eq!(store.evict_trees(&all, 300, now).unwrap(), []);
        let evicted = store.evict_trees(&all, 250, now).unwrap();
        assert_eq!(evicted, [packages[1].archive]);
        assert!(store.unpacked(packages[1].archive).is_none());
        assert_eq!(
            fs::read_dir(store.dir().join("incoming")).unwrap().count(),
            0
        );

        let again = store.use_tree(&packages[1]).unwrap();
        assert_eq!(fs::read(again.tree.join("program")).unwrap(), [b'b'; 100]);
        let evicted = store.evict_trees(&all, 100, now).unwrap();
        assert_eq!(evicted, [packages[0].archive, packages[2].archive]);
    }

    #[test]
    fn what_a_session_uses_stays_however_little_room_there_is() {
        let (_dir, store, packages) = store();
        let all = digests(&packages);
        let mut used: Vec<InUse> = packages[..2]
            .iter()
            .map(|package| store.use_tree(package).unwrap())
            .collect();
        // Two sessions may use the same one.
        let second = store.use_known_tree(&packages[0]).unwrap();
        drop(store.use_tree(&packages[2]).unwrap());
        for package in &packages {
            age(&store, package, DAY);
        }
        let now = SystemTime::now();

        let evicted = store.evict_trees(&all, 0, now).unwrap();
        assert_eq!(evicted, [packages[2].archive]);
        used.remove(0);
        assert_eq!(store.evict_trees(&all, 0, now).unwrap(), []);
        drop(second);
        let evicted = store.evict_trees(&all, 0, now).unwrap();
        assert_eq!(evicted, [packages[0].archive]);
        assert!(used[0].tree.is_dir());
    }

    #[test]
    fn what_was_used_lately_stays_for_jobs_whose_daemon_was_killed() {
        let (_dir, store, packages) = store();
        let all = digests(&packages);
        drop(store.use_tree(&packages[0]).unwrap());
        let now = SystemTime::now();

        assert_eq!(store.evict_trees(&all, 0, now + GRACE / 2).unwrap(), []);
        let evicted = store.evict_trees(&all, 0, now + 2 * GRACE).unwrap();
        assert_eq!(evicted, [packages[0].archive]);
    }

    #[test]
    fn a_directory_that_was_evicted_before_it_was_locked_is_not_used() {
        let (_dir, store, packages) = store();
        let tree = store.tree(&packages[0]).unwrap();
        assert!(hold(&tree).unwrap().is_some());

        let evicting = Flock::lock(File::open(&tree).unwrap(), FlockArg::LockExclusiveNonblock);
        let evicting = evicting.unwrap();
        assert!(hold(&tree).unwrap().is_none());
        drop(evicting);
        fs::remove_dir_all(&tree).unwrap();
        assert!(hold(&tree).unwrap().is_none());
    }
}
