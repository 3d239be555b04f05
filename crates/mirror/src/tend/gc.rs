//! Removal of files that no generation needs, in two steps, so that a mistake can be undone.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outpost_files as files;
use serde::Serialize;

use crate::{
    Digest, Store, StoreError,
    fetch::answers,
    pulled::Ledger,
    store::{LEFTOVER, RECORDS, TRASH},
};

/// Result of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Number of files that no generation needs.
    pub files: usize,
    /// Total size of these files in bytes.
    pub bytes: u64,
    /// Number of unpacked packages that no generation needs.
    pub trees: usize,
    /// Number of temporary files that killed processes left, and of answers of origins that no sync has used for long.
    pub leftovers: usize,
    /// Number of earlier collections that were deleted from the trash.
    pub removed: usize,
}

/// Moves files to the trash that no generation needs and that were not changed for `grace`, and deletes what has been
/// in the trash for that long. The holder of `lock` is the only one to make generations meanwhile. With `dry_run` it
/// only counts.
///
/// # Errors
/// The system's error, [`StoreError::Index`] and [`StoreError::Altered`]: if an index cannot be read nothing is
/// collected, because its needs are unknown.
pub fn collect(
    store: &Store,
    grace: Duration,
    now: SystemTime,
    dry_run: bool,
    _lock: &files::Lock,
) -> Result<Collected, StoreError> {
    let mut needed = BTreeSet::new();
    for number in store.generations()? {
        needed.extend(store.generation(number)?.digests());
    }
    let collection = Collection {
        store,
        grace,
        now,
        dry_run,
    };
    let mut collected = Collected::default();
    for digest in store.blobs()? {
        let path = store.path(digest);
        if !needed.contains(&digest) && collection.is_old(&path) {
            collected.files += 1;
            collected.bytes += fs::metadata(&path).map_or(0, |found| found.len());
            collection.put_aside(&path)?;
        }
    }
    for path in entries(&store.dir().join("trees"))? {
        let name = path.file_name().and_then(|name| name.to_str());
        let digest = name.and_then(|name| name.parse::<Digest>().ok());
        let is_needed = digest.is_some_and(|digest| needed.contains(&digest));
        if !is_needed && collection.is_old(&path) {
            collected.trees += 1;
            collection.put_aside(&path)?;
        }
    }
    for path in entries(&store.dir().join(RECORDS))? {
        let name = path.file_name().and_then(|name| name.to_str());
        let digest = name.and_then(|name| name.parse::<Digest>().ok());
        if digest.is_none_or(|digest| store.unpacked(digest).is_none()) && collection.is_old(&path)
        {
            collected.leftovers += 1;
            collection.remove(&path)?;
        }
    }
    let ledger = Ledger::of(store);
    for digest in ledger.digests()? {
        if !needed.contains(&digest) && !store.has(digest) {
            collected.leftovers += 1;
            if !dry_run {
                ledger.remove(digest)?;
            }
        }
    }
    let incoming = store.dir().join("incoming");
    let partial = incoming.join("partial");
    for path in entries(&incoming)?.into_iter().chain(entries(&partial)?) {
        let is_old = collection.is_old(&path) && collection.age(&path) >= Some(LEFTOVER);
        if path != partial && is_old {
            collected.leftovers += 1;
            collection.remove(&path)?;
        }
    }
    for path in entries(&store.dir().join(answers::NAME))? {
        let age = collection.age(&path).unwrap_or_default();
        if collection.is_old(&path) && answers::is_abandoned(&path, age) {
            collected.leftovers += 1;
            collection.remove(&path)?;
        }
    }
    for path in entries(&store.dir().join(TRASH))? {
        if collection.is_over(&path) {
            collected.removed += 1;
            collection.remove(&path)?;
        }
    }
    Ok(collected)
}

struct Collection<'a> {
    store: &'a Store,
    grace: Duration,
    now: SystemTime,
    dry_run: bool,
}

impl Collection<'_> {
    fn is_old(&self, path: &Path) -> bool {
        self.age(path).is_some_and(|age| age >= self.grace)
    }

    /// Returns the time since a file was changed; `None` if it no longer exists, or has a time in the future.
    fn age(&self, path: &Path) -> Option<Duration> {
        let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
        self.now.duration_since(modified.ok()?).ok()
    }

    /// Returns whether an earlier collection has been in the trash long enough.
    fn is_over(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        let second = name.and_then(|name| name.parse::<u64>().ok());
        let at = second.map(|second| UNIX_EPOCH + Duration::from_secs(second));
        at.and_then(|at| self.now.duration_since(at).ok())
            .is_some_and(|age| age >= Duration::from_secs(1) && age >= self.grace)
    }

    fn put_aside(&self, path: &Path) -> Result<(), StoreError> {
        match self.dry_run {
            true => Ok(()),
            false => self.store.put_aside(path, self.now),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "trees of the store's own, under its lock"
    )]
    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        if self.dry_run {
            return Ok(());
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        removed
            .or_else(gone_is_fine)
            .map_err(StoreError::io("remove", path))
    }
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Returns the contents of a directory; nothing if it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) => {
            gone_is_fine(error).map_err(StoreError::io("list", dir))?;
            return Ok(Vec::new());
        }
    };
    let path = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.path());
    list.map(path)
        .collect::<io::Result<_>>()
        .map_err(StoreError::io("list", dir))
}

#[cfg(test)]
mod tests {
    use outpost_base::stop::Stop;

    use super::*;
    use crate::{Generation, generation::StaticFile};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn with_file(store: &Store, content: &[u8]) -> Generation {
        let file = StaticFile {
            url: "https://files.example/a".to_owned(),
            content: store.put(content).unwrap(),
            size: content.len() as u64,
        };
        Generation {
            files: vec![file],
            ..Generation::default()
        }
    }

    #[tokio::test]
    async fn what_nobody_needs_goes_in_two_steps_and_never_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();
        let kept = with_file(&store, b"kept");
        store.commit(kept.clone(), None, &lock).unwrap();
        let lost = store.put(b"lost").unwrap();
        fs::write(dir.path().join("incoming/leftover"), b"x").unwrap();
        let answers = dir.path().join(answers::NAME);
        fs::create_dir(&answers).unwrap();
        fs::write(answers.join(".tmp"), b"x").unwrap();
        let answer = answers.join(Digest::of(b"a request").to_string());
        fs::write(&answer, b"x").unwrap();
        let now = SystemTime::now();

        let fresh = collect(&store, DAY, now, false, &lock).unwrap();
        let counted = collect(&store, DAY, now + 2 * DAY, true, &lock).unwrap();
        assert_eq!(fresh, Collected::default());
        assert!(store.has(lost));
        let first = collect(&store, DAY, now + 2 * DAY, false, &lock).unwrap();
        assert_eq!(counted, first);
        assert_eq!(
            (first.files, first.bytes, first.leftovers, first.removed),
            (1, 4, 2, 0)
        );
        assert!(answer.exists());
        assert!(!store.has(lost));
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 1);
        let second = collect(&store, DAY, now + 4 * DAY, false, &lock).unwrap();

        assert_eq!(second.removed, 1);
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
        assert_eq!(store.newest().unwrap().1, kept);
        assert!(kept.digests().iter().all(|digest| store.has(*digest)));
    }

    #[tokio::test]
    async fn nothing_is_collected_while_an_index_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();
        store
            .commit(with_file(&store, b"kept"), None, &lock)
            .unwrap();
        fs::write(dir.path().join("generations/000001.json"), b"{").unwrap();

        let refused = collect(
            &store,
            Duration::ZERO,
            SystemTime::now() + DAY,
            false,
            &lock,
        );

        assert!(matches!(refused, Err(StoreError::Altered { .. })));
        assert_eq!(store.blobs().unwrap().len(), 1);
    }
}
