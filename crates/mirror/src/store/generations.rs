//! Generations in the store: numbered indexes, one of which is current.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::PathBuf,
    time::UNIX_EPOCH,
};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use outpost_files as files;

use super::{Store, StoreError, sync_dir};
use crate::Generation;

/// Maximum size of an index in bytes; that of a registry with ten thousand packages has three million.
pub(super) const MAX_INDEX_BYTES: u64 = 256 << 20;

/// A generation that is in use: it and its files are kept until the lease is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Number of the generation.
    pub number: u64,
    _lock: Flock<File>,
}

impl Store {
    /// Returns the path of a generation's index, whether it exists or not.
    pub fn index_path(&self, number: u64) -> PathBuf {
        self.dir
            .join("generations")
            .join(format!("{number:06}.json"))
    }

    /// Returns the numbers of all generations, oldest first.
    ///
    /// # Errors
    /// The system's error.
    pub fn generations(&self) -> Result<Vec<u64>, StoreError> {
        let dir = self.dir.join("generations");
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let name = entry.map_err(StoreError::io("list", &dir))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns the number of the current generation; `None` if there is none yet.
    ///
    /// # Errors
    /// The system's error.
    pub fn current(&self) -> Result<Option<u64>, StoreError> {
        let link = self.dir.join("current");
        match fs::read_link(&link) {
            Ok(target) => {
                let number = target.file_stem().and_then(|stem| stem.to_str());
                Ok(number.and_then(|number| number.parse().ok()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &link)(error)),
        }
    }

    /// Reads a generation and checks its index.
    ///
    /// # Errors
    /// The system's error, [`StoreError::Index`], and [`StoreError::Altered`] if its index was changed after it was
    /// written.
    pub fn generation(&self, number: u64) -> Result<Generation, StoreError> {
        let text = self.index_text(number)?;
        self.check_index(number, &text)?;
        self.parsed(number, &text)
    }

    /// Reads a generation with the text of its index, without a comparison with its inventory.
    ///
    /// # Errors
    /// The system's error, and [`StoreError::Index`].
    pub fn unchecked(&self, number: u64) -> Result<(Vec<u8>, Generation), StoreError> {
        let text = self.index_text(number)?;
        let generation = self.parsed(number, &text)?;
        Ok((text, generation))
    }

    fn parsed(&self, number: u64, text: &[u8]) -> Result<Generation, StoreError> {
        serde_json::from_slice(text).map_err(|source| StoreError::Index {
            path: self.index_path(number),
            source,
        })
    }

    fn index_text(&self, number: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.index_path(number);
        let size = fs::metadata(&path)
            .map_err(StoreError::io("read", &path))?
            .len();
        if size > MAX_INDEX_BYTES {
            let name = path.display().to_string();
            return Err(StoreError::TooLong {
                name,
                limit: MAX_INDEX_BYTES,
            });
        }
        fs::read(&path).map_err(StoreError::io("read", &path))
    }

    /// Returns the time at which a generation was written, to the second.
    ///
    /// # Errors
    /// The system's error.
    pub fn made(&self, number: u64) -> Result<Timestamp, StoreError> {
        let path = self.index_path(number);
        let modified = fs::metadata(&path).and_then(|file| file.modified());
        let modified = modified.map_err(StoreError::io("read", &path))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Ok(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
    }

    /// Reads the current generation.
    ///
    /// # Errors
    /// Those of [`generation`](Self::generation), and [`StoreError::Empty`].
    pub fn newest(&self) -> Result<(u64, Generation), StoreError> {
        let number = self.current()?.ok_or_else(|| StoreError::Empty {
            dir: self.dir.clone(),
        })?;
        Ok((number, self.generation(number)?))
    }

    /// Writes a generation and makes it the current one. The caller holds the store's lock, and has read the
    /// generation `after` before.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if a file of it is missing, [`StoreError::Raced`] if `after` is not the current
    /// one, and the system's error. The current generation stays the old one then.
    pub fn commit(
        &self,
        mut generation: Generation,
        after: Option<u64>,
        _lock: &files::Lock,
    ) -> Result<u64, StoreError> {
        let missing: Vec<_> = generation
            .digests()
            .into_iter()
            .filter(|d| !self.has(*d))
            .collect();
        if let [first, ..] = missing[..] {
            return Err(StoreError::Incomplete {
                count: missing.len(),
                first,
                hint: "the generation was not written",
            });
        }
        if self.current()? != after {
            return Err(StoreError::Raced {
                dir: self.dir.clone(),
            });
        }
        generation.normalize();
        let number = self.generations()?.last().map_or(1, |last| last + 1);
        let path = self.index_path(number);
        let text = serde_json::to_vec_pretty(&generation).map_err(|source| StoreError::Index {
            path: path.clone(),
            source,
        })?;
        // Write the inventory before the index, so that a crash between the two leaves no generation.
        self.write_inventory(number, &text, &generation, after)?;
        // The index is not secret, and daemons of other users read it.
        files::write_public(&path, &text).map_err(StoreError::io("write", &path))?;
        self.switch(number)?;
        Ok(number)
    }

    /// Makes another generation the current one, such as the previous one.
    ///
    /// # Errors
    /// If there is no such generation, and the system's error.
    pub fn switch(&self, number: u64) -> Result<(), StoreError> {
        let path = self.index_path(number);
        fs::metadata(&path).map_err(StoreError::io("find", &path))?;
        let (link, fresh) = (self.dir.join("current"), self.dir.join("incoming/current"));
        // A crash may have left one here, and `symlink` does not replace it.
        let _ = fs::remove_file(&fresh);
        let target = PathBuf::from("generations").join(format!("{number:06}.json"));
        symlink(target, &fresh).map_err(StoreError::io("write", &fresh))?;
        // The rename replaces the link atomically, so that readers find either the old generation or the new one.
        fs::rename(&fresh, &link).map_err(StoreError::io("write", &link))?;
        sync_dir(&self.dir)
    }

    /// Leaves the store without a current generation.
    pub(super) fn unset_current(&self) -> Result<(), StoreError> {
        let link = self.dir.join("current");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &link)(error))
            }
            _ => sync_dir(&self.dir),
        }
    }

    /// Removes a generation that is not the current one, unless it is in use; returns whether it did. Its files stay.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn forget(&self, number: u64, _lock: &files::Lock) -> Result<bool, StoreError> {
        let path = self.index_path(number);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        // Held until the name is gone, so that nobody gets a lease on a generation that is being removed.
        let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            return Ok(false);
        };
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        self.remove_beside(number)?;
        Ok(true)
    }

    /// Keeps a generation for as long as the lease lives; the end of the process ends it as well. Read access to the
    /// store is enough.
    ///
    /// # Errors
    /// The system's error.
    pub fn lease(&self, number: u64) -> Result<Lease, StoreError> {
        let path = self.index_path(number);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockShared);
        let lock = lock.map_err(|(_, error)| StoreError::io("lock", &path)(error.into()))?;
        Ok(Lease {
            number,
            _lock: lock,
        })
    }

    /// Reads the current generation and returns it with a lease.
    ///
    /// # Errors
    /// Those of [`newest`](Self::newest).
    pub fn lease_newest(&self) -> Result<(Lease, Generation), StoreError> {
        loop {
            let number = self.current()?.ok_or_else(|| StoreError::Empty {
                dir: self.dir.clone(),
            })?;
            // The generation may have been replaced and removed between the two steps.
            let lease = match self.lease(number) {
                Err(_) if self.current()? != Some(number) => continue,
                lease => lease?,
            };
            if self.current()? == Some(number) {
                return Ok((lease, self.generation(number)?));
            }
        }
    }

    /// Returns whether a generation is in use.
    ///
    /// # Errors
    /// The system's error.
    pub fn is_leased(&self, number: u64) -> Result<bool, StoreError> {
        let path = self.index_path(number);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
    }
}

#[cfg(test)]
mod tests {
    use outpost_base::stop::Stop;

    use super::*;
    use crate::{Digest, generation::StaticFile};

    fn with_file(content: Digest) -> Generation {
        let file = StaticFile {
            url: "https://files.example/a".to_owned(),
            content,
            size: 1,
        };
        Generation {
            files: vec![file],
            ..Generation::default()
        }
    }

    #[tokio::test]
    async fn generations_follow_each_other_and_the_one_before_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(matches!(store.newest(), Err(StoreError::Empty { .. })));
        let lock = store.lock(&Stop::new()).await.unwrap();
        let [one, two] = [b"1", b"2"].map(|content| with_file(store.put(content).unwrap()));

        assert_eq!(store.commit(one.clone(), None, &lock).unwrap(), 1);
        assert_eq!(store.commit(two.clone(), Some(1), &lock).unwrap(), 2);

        assert_eq!(store.newest().unwrap(), (2, two));
        let raced = store.commit(one.clone(), Some(1), &lock).unwrap_err();
        assert!(matches!(raced, StoreError::Raced { .. }));
        store.switch(1).unwrap();
        assert_eq!(store.newest().unwrap(), (1, one));
        assert!(store.switch(7).is_err());
    }

    #[tokio::test]
    async fn a_generation_whose_files_are_missing_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();

        let error = store
            .commit(with_file(Digest::of(b"gone")), None, &lock)
            .unwrap_err();

        assert!(
            matches!(error, StoreError::Incomplete { count: 1, .. }),
            "{error}"
        );
        assert!(store.generations().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_generation_is_leased_until_its_last_user_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();
        store.commit(Generation::default(), None, &lock).unwrap();
        let (one, two) = (store.lease(1).unwrap(), store.lease(1).unwrap());

        drop(one);
        assert!(store.is_leased(1).unwrap());
        drop(two);

        assert!(!store.is_leased(1).unwrap());
        assert!(store.lease(2).is_err());
    }
}
