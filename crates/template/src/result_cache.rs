//! ResultCache of earlier runs, kept on disk under a digest of all that led to them.
//!
//! ```text
//! DIR/DIGEST    a header, the digest of the rest, and the rest: JSON
//! ```
//!
//! Nothing here is needed: an entry that is missing, damaged or not ours is a result that nobody has yet.

use std::{
    fs::{self, DirEntry, File, FileTimes, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// The first line of an entry. Another number means another shape.
const HEADER: &[u8] = b"outpost result 1\n";

/// The limit of one entry in bytes; a larger result is not kept.
const MAX_ENTRY: u64 = 8 << 20;

/// Limits of all entries; the oldest ones make room.
const MAX_BYTES: u64 = 64 << 20;
const MAX_ENTRIES: usize = 4096;

/// Age at which an incomplete file counts as left by a process that died.
const UNFINISHED: Duration = Duration::from_secs(24 * 3600);

/// Digest of all that a result depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// A digest that is being computed. Parts are told apart by their lengths.
#[derive(Clone, Debug, Default)]
pub struct KeyParts(Sha256);

impl KeyParts {
    /// Adds one part.
    #[must_use]
    pub fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds the number of some parts, and then each of them.
    #[must_use]
    pub fn with_all<T: AsRef<[u8]>>(self, parts: impl IntoIterator<Item = T>) -> Self {
        let parts: Vec<T> = parts.into_iter().collect();
        let counted = self.with(parts.len().to_le_bytes());
        parts.into_iter().fold(counted, Self::with)
    }

    /// The digest of all parts.
    pub fn key(self) -> Key {
        Key(self.0.finalize().into())
    }
}

/// The directory with results.
#[derive(Clone, Debug)]
pub struct ResultCache {
    dir: PathBuf,
    max_bytes: u64,
    max_entries: usize,
}

impl ResultCache {
    /// ResultCache in a directory, which is made when there is one to keep.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            max_bytes: MAX_BYTES,
            max_entries: MAX_ENTRIES,
        }
    }

    /// The result of an earlier run; `None` if there is none that can be used. It counts as used now.
    pub fn get<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(self.path(key))
            .ok()?;
        let about = file.metadata().ok()?;
        // Only what this user wrote is believed.
        let is_ours = about.is_file() && about.uid() == nix::unistd::geteuid().as_raw();
        if !is_ours || about.len() > MAX_ENTRY {
            return None;
        }
        let mut content = Vec::new();
        (&mut file)
            .take(MAX_ENTRY + 1)
            .read_to_end(&mut content)
            .ok()?;
        let payload = verified(key, &content)?;
        let result = serde_json::from_slice(payload).ok()?;
        // What was used last is removed last.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        Some(result)
    }

    /// Keeps a result, and removes the oldest ones beyond the limits.
    ///
    /// # Errors
    /// The system's error. Nothing depends on a result that is not kept.
    pub fn put(&self, key: &Key, result: &impl Serialize) -> io::Result<()> {
        let payload = serde_json::to_vec(result)?;
        let digest = digest(key, &payload);
        let content = [HEADER, digest.as_bytes(), b"\n", &payload].concat();
        if content.len() as u64 > MAX_ENTRY.min(self.max_bytes) {
            return Ok(());
        }
        outpost_files::create_private_dir(&self.dir)?;
        outpost_files::write_private(&self.path(key), &content)?;
        self.make_room()
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(hex::encode(key.0))
    }

    fn make_room(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another process may have removed it.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let modified = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if is_entry(&entry) {
                entries.push((modified, about.len(), entry.path()));
            } else if modified + UNFINISHED < SystemTime::now() && about.is_file() {
                let _ = fs::remove_file(entry.path());
            }
        }
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        let mut count = entries.len();
        for (_, size, path) in entries {
            if bytes <= self.max_bytes && count <= self.max_entries {
                break;
            }
            let _ = fs::remove_file(path);
            (bytes, count) = (bytes - size, count - 1);
        }
        Ok(())
    }
}

fn is_entry(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.as_encoded_bytes();
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
}

/// The key is part of it, so that an entry under another's name is not used.
fn digest(key: &Key, payload: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(key.0);
    hash.update(payload);
    hex::encode(hash.finalize())
}

fn verified<'a>(key: &Key, content: &'a [u8]) -> Option<&'a [u8]> {
    let rest = content.strip_prefix(HEADER)?;
    let (written, payload) = rest.split_at_checked(64)?;
    let payload = payload.strip_prefix(b"\n")?;
    (written == digest(key, payload).as_bytes()).then_some(payload)
}

/// Something to identify a file by without reading it: its place, its size and when it was changed.
///
/// # Errors
/// The system's error.
pub fn appearance(path: &std::path::Path) -> io::Result<String> {
    let path = fs::canonicalize(path)?;
    let about = File::open(&path)?.metadata()?;
    Ok(format!(
        "{} {} {} {}.{} {}.{}",
        path.display(),
        about.ino(),
        about.len(),
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        KeyParts::default().with(text).key()
    }

    fn results(dir: &tempfile::TempDir) -> ResultCache {
        ResultCache::new(dir.path().join("results"))
    }

    #[test]
    fn a_result_is_found_by_its_key_and_by_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let results = results(&dir);

        results.put(&key("a"), &vec![1, 2]).unwrap();

        assert_eq!(results.get(&key("a")), Some(vec![1, 2]));
        assert_eq!(results.get::<Vec<i32>>(&key("b")), None);
        let mode = fs::metadata(results.path(&key("a"))).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn parts_are_told_apart() {
        let parts = KeyParts::default;
        let keys = [
            parts().with("ab").with("c"),
            parts().with("a").with("bc"),
            parts().with_all(["ab", "c"]),
            parts().with_all(["ab"]).with_all(["c"]),
        ];
        let keys: std::collections::HashSet<_> = keys.into_iter().map(KeyParts::key).collect();
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn a_damaged_or_foreign_entry_is_none_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let results = results(&dir);
        results.put(&key("a"), &"kept").unwrap();
        results.put(&key("b"), &"other").unwrap();
        let path = results.path(&key("a"));
        let whole = fs::read(&path).unwrap();
        let get = || results.get::<String>(&key("a"));

        let mut turned = whole.clone();
        *turned.last_mut().unwrap() ^= 1;
        let cut = whole[..whole.len() - 1].to_vec();
        let older = [b"outpost result 0\n", &whole[HEADER.len()..]].concat();
        let under_another_name = fs::read(results.path(&key("b"))).unwrap();
        for content in [turned, cut, older, under_another_name, Vec::new()] {
            fs::write(&path, content).unwrap();
            assert_eq!(get(), None);
        }
        // Of another type.
        results.put(&key("a"), &1).unwrap();
        assert_eq!(get(), None);
        fs::remove_file(&path).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, &whole).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(get(), None);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(get(), None);

        results.put(&key("a"), &"again").unwrap();
        assert_eq!(get().as_deref(), Some("again"));
    }

    #[test]
    fn the_entry_that_was_used_least_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let results = ResultCache {
            max_entries: 2,
            ..results(&dir)
        };
        let date = |text: &str, seconds| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let file = File::options()
                .write(true)
                .open(results.path(&key(text)))
                .unwrap();
            file.set_modified(time).unwrap();
        };
        results.put(&key("a"), &1).unwrap();
        results.put(&key("b"), &2).unwrap();
        date("a", 1000);
        date("b", 2000);
        assert_eq!(results.get(&key("a")), Some(1));
        let unfinished = results.dir.join(".tmpx");
        fs::write(&unfinished, "").unwrap();
        let file = File::options().write(true).open(&unfinished).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();

        results.put(&key("c"), &3).unwrap();

        assert_eq!(results.get::<i32>(&key("b")), None);
        assert_eq!(results.get(&key("a")), Some(1));
        assert_eq!(results.get(&key("c")), Some(3));
        assert!(!unfinished.exists());
    }

    #[test]
    fn bytes_are_bounded_and_a_result_beyond_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let results = ResultCache {
            max_bytes: 400,
            ..results(&dir)
        };
        let text = "x".repeat(150);
        for name in ["a", "b", "c"] {
            results.put(&key(name), &text).unwrap();
        }
        let all = || fs::read_dir(&results.dir).unwrap().map(Result::unwrap);
        let bytes: u64 = all().map(|it| it.metadata().unwrap().len()).sum();
        assert!(bytes <= 400, "{bytes}");

        results.put(&key("d"), &"x".repeat(500)).unwrap();
        assert_eq!(results.get::<String>(&key("d")), None);
    }
}
