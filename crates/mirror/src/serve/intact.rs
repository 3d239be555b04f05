//! Files of the store that were read completely and match their names, so that no others are served.
//!
//! A file is read when it is requested for the first time, and again when the system reports a change. Changes while
//! it is sent are detected by [`FilePart`](outpost_net::listener::FilePart).

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use outpost_net::listener::FileStamp;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::{Digest, Store, StoreError, fetch::blocking};

/// Maximum number of files that are remembered; the largest mirrors have some ten thousand. A forgotten file is read
/// again.
const LIMIT: usize = 65_536;

/// State of a file when it was read, with its change time, which nobody can set back.
type Seen = (FileStamp, (i64, i64));

/// A lock for each file, so that it is read once, however many clients request it at the same time.
type Known = Arc<AsyncMutex<Option<Seen>>>;

/// Verified files of one store.
#[derive(Debug)]
pub(super) struct Intact {
    known: Mutex<HashMap<Digest, Known>>,
    /// Limits concurrent reads to the number of processors, because more are not faster.
    turns: Semaphore,
}

impl Intact {
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            known: Mutex::default(),
            turns: Semaphore::new(processors),
        }
    }

    /// Returns the state of an open file if it matches `digest`.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is damaged, and the system's error.
    pub(super) async fn check(
        &self,
        store: &Store,
        file: &Arc<File>,
        digest: Digest,
    ) -> Result<FileStamp, StoreError> {
        let look = |file: &File| look(file).map_err(StoreError::io("read", &store.path(digest)));
        let known = self.of(digest);
        let mut known = known.lock().await;
        let now = look(file)?;
        if *known == Some(now) {
            return Ok(now.0);
        }
        *known = None;
        let turn = self.turns.acquire().await;
        let _turn = turn.expect("it is never closed");
        let (of_thread, read) = (store.clone(), file.clone());
        blocking(move || of_thread.verify_open(&read, digest)).await?;
        // A change during the read is detected by the next check.
        *known = Some(now);
        Ok(now.0)
    }

    fn of(&self, digest: Digest) -> Known {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= LIMIT && !all.contains_key(&digest) {
            all.clear();
        }
        all.entry(digest).or_default().clone()
    }
}

fn look(file: &File) -> io::Result<Seen> {
    let found = file.metadata()?;
    Ok((FileStamp::of(file)?, (found.ctime(), found.ctime_nsec())))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_again_only_if_it_was_changed_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.put(b"a package").unwrap();
        let path = store.path(digest);
        let intact = Intact::new();
        let open = || Arc::new(store.open_blob(digest).unwrap());
        let stamp = intact.check(&store, &open(), digest).await.unwrap();
        assert_eq!(stamp.size(), 9);

        // Another mode changes the change time, so the same content is read again.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(intact.check(&store, &open(), digest).await.unwrap(), stamp);
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, b"a packagf").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(written)
            .unwrap();

        let refused = intact.check(&store, &open(), digest).await.unwrap_err();

        assert!(matches!(refused, StoreError::Mismatch { .. }), "{refused}");
        fs::write(&path, b"a package").unwrap();
        intact.check(&store, &open(), digest).await.unwrap();
    }
}
