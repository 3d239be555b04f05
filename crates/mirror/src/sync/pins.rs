//! Pins, which were trusted on first use and are valid from then on: the keys that sign for a namespace, the
//! checksums of a version, and the commits of a repository's tags.
//!
//! They are part of the mirror and are written before a package is used, so every process that fills the mirror knows
//! them: a sync that was incomplete or killed before, another process, and a server that pulls through.
//!
//! ```text
//! MIRROR/trust/keys.toml                     fingerprints by namespace, written as in `mirror.lock`
//! MIRROR/trust/releases/NAME/VERSION.json    checksums by platform, or that of a module
//! MIRROR/trust/tags/DIGEST.json              commits by tag; the digest is that of `HOST/OWNER/REPO`
//! MIRROR/trust/lock                          held during a change of one of them
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outpost_base::stop::Stop;
use outpost_files as files;
use semver::Version;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::Mutex, time::timeout};

use super::{
    review::{keys_of, keys_table},
    trust::Keys,
};
use crate::{Digest, Store, StoreError, fetch::blocking};

const HEADER: &str = "# The keys that this mirror trusts since it first saw a signature of theirs. `outpost mirror sync --accept-key` adds one.\n";

/// Time limit for the lock. A change takes one small write.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum size of a file in bytes. A version has some twenty platforms, a site some hundred namespaces, a repository
/// up to some ten thousand tags.
const MAX_BYTES: u64 = 16 << 20;

/// Checksums of packages by platform; that of a module by [`MODULE`].
pub(super) type Checksums = BTreeMap<String, Digest>;

/// Key of a module's checksum in place of a platform, because its files are the same for all.
pub(super) const MODULE: &str = "module";

/// Objects that tags refer to, by the names of the tags.
pub(super) type Tags = BTreeMap<String, String>;

/// The tags of one repository in a file.
#[derive(Default, Deserialize, Serialize)]
struct Tagged {
    /// Repository `HOST/OWNER/REPO`, for people.
    repository: String,
    tags: Tags,
}

/// The pins of one mirror. Clones share the same files.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    /// Lock for tasks of this process, which would otherwise poll for the lock on the file.
    turn: Arc<Mutex<()>>,
}

impl Pins {
    pub(super) fn of(store: &Store) -> Self {
        Self {
            dir: store.dir().join("trust"),
            turn: Arc::default(),
        }
    }

    /// Returns all pinned keys. Blocks.
    pub(super) fn keys(&self) -> Result<Keys, StoreError> {
        let path = self.dir.join("keys.toml");
        let Some(text) = read(&path)? else {
            return Ok(Keys::new());
        };
        keys_of(&text).map_err(|error| unreadable(&path, &error))
    }

    /// Changes the keys under the lock. Nothing is written if `change` modifies nothing.
    pub(super) async fn change_keys<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Keys) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.alone(move |this| {
            let before = this.keys()?;
            let mut keys = before.clone();
            let result = change(&mut keys);
            if keys != before {
                let text = format!("{HEADER}{}", keys_table(&keys));
                write(&this.dir.join("keys.toml"), text.as_bytes())?;
            }
            Ok(result)
        })
        .await
    }

    /// Returns the pinned checksums of a version; none if it was never seen. Blocks.
    pub(super) fn release(&self, name: &str, version: &Version) -> Result<Checksums, StoreError> {
        parsed(&self.release_path(name, version))
    }

    /// Returns the pinned tags of a repository. Blocks.
    pub(super) fn tags(&self, place: &str) -> Result<Tags, StoreError> {
        Ok(parsed::<Tagged>(&self.tags_path(place))?.tags)
    }

    /// Changes the tags of a repository under the lock.
    pub(super) async fn change_tags<T: Send + 'static>(
        &self,
        place: &str,
        change: impl FnOnce(&mut Tags) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let repository = place.to_owned();
        self.alone(move |this| {
            let before = this.tags(&repository)?;
            let mut tags = before.clone();
            let result = change(&mut tags);
            if tags != before {
                let path = this.tags_path(&repository);
                write_json(&path, &Tagged { repository, tags })?;
            }
            Ok(result)
        })
        .await
    }

    /// Changes the checksums of a version under the lock.
    pub(super) async fn change_release<T: Send + 'static>(
        &self,
        name: &str,
        version: &Version,
        change: impl FnOnce(&mut Checksums) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (name, version) = (name.to_owned(), version.clone());
        self.alone(move |this| {
            let before = this.release(&name, &version)?;
            let mut checksums = before.clone();
            let result = change(&mut checksums);
            if checksums != before {
                write_json(&this.release_path(&name, &version), &checksums)?;
            }
            Ok(result)
        })
        .await
    }

    /// Returns the path for a version. `name` is the address of a provider or module, or the name of a program, so it
    /// is safe as a path.
    fn release_path(&self, name: &str, version: &Version) -> PathBuf {
        let releases = self.dir.join("releases");
        releases.join(name).join(format!("{version}.json"))
    }

    /// Returns the path for a repository's tags, named by a digest because templates choose the repository's address.
    fn tags_path(&self, place: &str) -> PathBuf {
        let name = format!("{}.json", Digest::of(place.as_bytes()));
        self.dir.join("tags").join(name)
    }

    async fn alone<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let this = self.clone();
        let path = blocking(move || {
            create_dirs(&this.dir).map_err(StoreError::io("make", &this.dir))?;
            Ok(this.dir.join("lock"))
        });
        let path = path.await?;
        let locked = timeout(PATIENCE, files::Lock::acquire(&path, &Stop::new())).await;
        let locked = locked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let lock = locked.map_err(StoreError::io("lock", &path))?;
        let this = self.clone();
        // If the task is dropped, the work continues with the locks.
        blocking(move || {
            let _held = (turn, lock);
            work(&this)
        })
        .await
    }
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Pins {
        path: path.to_owned(),
        why: why.to_string().trim_end().replace('\n', "; "),
    }
}

fn read(path: &Path) -> Result<Option<String>, StoreError> {
    let text = match fs::metadata(path) {
        Ok(found) if found.len() > MAX_BYTES => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => fs::read_to_string(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    text.map(Some).map_err(StoreError::io("read", path))
}

/// Reads and parses a file; the default value if it does not exist.
fn parsed<T: DeserializeOwned + Default>(path: &Path) -> Result<T, StoreError> {
    let Some(text) = read(path)? else {
        return Ok(T::default());
    };
    serde_json::from_str(&text).map_err(|error| unreadable(path, &error))
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<(), StoreError> {
    let text = serde_json::to_vec_pretty(content);
    write(path, &text.map_err(|error| unreadable(path, &error))?)
}

/// Writes pins to the disk, with all directories above the file.
fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let written = create_dirs(files::directory_of(path));
    let written = written.and_then(|()| files::write_public(path, content));
    written.map_err(StoreError::io("write", path))
}

fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = files::directory_of(dir);
    create_dirs(above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| File::open(above)?.sync_all()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pins_of_two_processes_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // Two independent values behave as two processes.
        let (one, two) = (Pins::of(&store), Pins::of(&store));
        let pin = |pins: &Pins, number: usize| {
            let pins = pins.clone();
            async move {
                let change = move |keys: &mut Keys| {
                    keys.insert(format!("h.example/{number}"), ["A".to_owned()].into());
                };
                pins.change_keys(change).await.unwrap();
            }
        };

        let all = (0..8).map(|number| pin(if number % 2 == 0 { &one } else { &two }, number));
        futures::future::join_all(all).await;

        assert_eq!(one.keys().unwrap().len(), 8);
        assert_eq!(one.keys().unwrap(), two.keys().unwrap());
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_nothing_is_trusted_instead() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pins = Pins::of(&store);
        let version: Version = "1.0.0".parse().unwrap();
        pins.change_keys(|keys| keys.insert("h.example/a".to_owned(), [].into()))
            .await
            .unwrap();
        let release = |checksums: &mut Checksums| {
            checksums.insert("linux_amd64".to_owned(), Digest::of(b"1"));
        };
        pins.change_release("h.example/a/b", &version, release)
            .await
            .unwrap();
        let place = "git.example/../../a";
        let tag = |tags: &mut Tags| drop(tags.insert("v1".to_owned(), "1".to_owned()));
        pins.change_tags(place, tag).await.unwrap();
        assert_eq!(pins.tags(place).unwrap()["v1"], "1");
        let of_tags = pins.tags_path(place);
        assert!(of_tags.starts_with(dir.path().join("trust/tags")));
        for file in ["keys.toml", "releases/h.example/a/b/1.0.0.json"] {
            fs::write(dir.path().join("trust").join(file), "rubbish").unwrap();
        }
        fs::write(&of_tags, "rubbish").unwrap();

        let keys = pins.keys().unwrap_err().to_string();
        let release = pins.release("h.example/a/b", &version).unwrap_err();

        assert!(keys.contains("trust/keys.toml"), "{keys}");
        assert!(release.to_string().contains("1.0.0.json"), "{release}");
        assert!(pins.tags(place).is_err());
    }
}
