//! Archives that were pulled into a mirror because a client requested them, and may be removed again: a ledger with a
//! file for each archive.
//!
//! ```text
//! MIRROR/pulled/DIGEST.json     identity, length and state of the archive; its modification time is the last use
//! ```
//!
//! An entry is written before the generation that has its archive, so that a pulled archive is never mistaken for one
//! from a sync or an import. An archive that those bring loses its entry, and stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use outpost_base::registry::{Platform, ProviderAddr};
use outpost_files as files;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::{Digest, Generation, Store, StoreError};

/// Maximum size of an entry in bytes; the names in it have some hundred.
const MAX_BYTES: u64 = 64 << 10;

/// Identity of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PulledArchive {
    /// A package of a provider.
    Provider {
        /// Address of the provider.
        addr: ProviderAddr,
        /// Version of the provider.
        version: Version,
        /// Platform of the package.
        platform: Platform,
    },
    /// A module from a registry.
    Module {
        /// Address of the module: `HOST/NAMESPACE/NAME/SYSTEM`.
        addr: String,
        /// Version of the module.
        version: Version,
    },
}

impl std::fmt::Display for PulledArchive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider {
                addr,
                version,
                platform,
            } => write!(f, "{addr} {version} {platform}"),
            Self::Module { addr, version } => write!(f, "module {addr} {version}"),
        }
    }
}

/// State of an archive between being pulled and being removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The archive is in the mirror.
    Here,
    /// The archive will be removed once the current generation does not name it.
    Leaving,
    /// The archive was removed. Earlier generations still name it.
    Gone,
}

/// An archive that was pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Identity of the archive.
    pub(crate) thing: PulledArchive,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// State of the archive.
    pub state: State,
}

/// An entry with the time at which its archive was last used.
#[derive(Clone, Debug)]
pub struct Known {
    /// Entry of the ledger.
    pub entry: Entry,
    /// Time at which a client last fetched the archive, or at which it was pulled.
    pub used: SystemTime,
}

/// The ledger of a store. Clones use the same files.
#[derive(Clone, Debug)]
pub struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// Name of the ledger's directory in a store.
    pub(crate) const NAME: &'static str = "pulled";

    /// Returns the ledger of `store`.
    pub fn of(store: &Store) -> Self {
        Self {
            dir: store.dir().join(Self::NAME),
        }
    }

    /// Returns all entries. Blocks.
    ///
    /// # Errors
    /// The system's error, and [`StoreError::Index`] if an entry is damaged: otherwise its archive would never be
    /// removed.
    pub fn all(&self) -> Result<BTreeMap<Digest, Known>, StoreError> {
        let mut all = BTreeMap::new();
        for digest in self.digests()? {
            if let Some(known) = self.known(digest)? {
                all.insert(digest, known);
            }
        }
        Ok(all)
    }

    /// Returns the archives that were removed, or were to be removed when a process was killed. Blocks.
    ///
    /// # Errors
    /// Those of [`all`](Self::all).
    pub fn gone(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut all = self.all()?;
        all.retain(|_, known| known.entry.state != State::Here);
        Ok(all.into_keys().collect())
    }

    /// Writes an entry durably; its archive counts as used now. Blocks.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&self, digest: Digest, entry: &Entry) -> Result<(), StoreError> {
        let path = self.path(digest);
        fs::create_dir_all(&self.dir).map_err(StoreError::io("make", &self.dir))?;
        let text = serde_json::to_vec(entry);
        let text = text.map_err(|source| StoreError::Index {
            path: path.clone(),
            source,
        })?;
        files::write_public(&path, &text).map_err(StoreError::io("write", &path))
    }

    /// Writes another state, without changing the time of the last use. Blocks.
    ///
    /// # Errors
    /// The system's error.
    pub fn set(&self, digest: Digest, known: &Known, state: State) -> Result<(), StoreError> {
        let entry = Entry {
            state,
            ..known.entry.clone()
        };
        self.write(digest, &entry)?;
        self.set_used(digest, known.used);
        Ok(())
    }

    /// Removes the entries of archives that a sync or an import brought as well. Blocks.
    ///
    /// # Errors
    /// The system's error.
    pub fn keep(&self, brought: &Generation) -> Result<(), StoreError> {
        let known = self.digests()?;
        if known.is_empty() {
            return Ok(());
        }
        let brought = brought.digests();
        for digest in known.iter().filter(|digest| brought.contains(digest)) {
            self.remove(*digest)?;
        }
        Ok(())
    }

    /// Removes the entry of an archive. Blocks.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Records that an archive is used now, if it was pulled. Blocks.
    pub(crate) fn touch(&self, digest: Digest) {
        self.set_used(digest, SystemTime::now());
    }

    fn set_used(&self, digest: Digest, at: SystemTime) {
        let path = self.path(digest);
        let set = File::open(&path).and_then(|file| file.set_modified(at));
        match set {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The archive is then removed too early, and pulled again.
                tracing::debug!(%error, path = %path.display(), "the use of a package cannot be noted");
            }
            _ => {}
        }
    }

    /// Returns the archives that have an entry, whatever their state. Blocks.
    ///
    /// # Errors
    /// The system's error.
    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(StoreError::io("list", &self.dir))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry
                .map_err(StoreError::io("list", &self.dir))?
                .file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(".json"));
            found.extend(digest.and_then(|digest| digest.parse::<Digest>().ok()));
        }
        Ok(found)
    }

    fn known(&self, digest: Digest) -> Result<Option<Known>, StoreError> {
        let path = self.path(digest);
        let read = || {
            let file = fs::metadata(&path)?;
            match file.len() > MAX_BYTES {
                true => Ok((file.modified()?, Vec::new())),
                false => Ok((file.modified()?, fs::read(&path)?)),
            }
        };
        let (used, text) = match read() {
            Err(error) if is_gone(&error) => return Ok(None),
            read => read.map_err(StoreError::io("read", &path))?,
        };
        let entry = serde_json::from_slice(&text);
        let entry = entry.map_err(|source| StoreError::Index { path, source })?;
        Ok(Some(Known { entry, used }))
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.json"))
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Removes archives from a generation, and providers that have no package left.
pub fn leave_out(generation: &mut Generation, archives: &BTreeSet<Digest>) {
    for provider in &mut generation.providers {
        provider
            .packages
            .retain(|package| !archives.contains(&package.archive));
    }
    generation
        .providers
        .retain(|provider| !provider.packages.is_empty());
    generation
        .modules
        .retain(|module| !archives.contains(&module.archive));
}

/// Returns the archives of a generation that may have been pulled.
pub fn archives(generation: &Generation) -> BTreeMap<Digest, Entry> {
    let mut all = BTreeMap::new();
    let mut add = |digest: Digest, bytes: u64, thing: PulledArchive| {
        let state = State::Here;
        all.insert(
            digest,
            Entry {
                thing,
                bytes,
                state,
            },
        );
    };
    for provider in &generation.providers {
        for package in &provider.packages {
            let thing = PulledArchive::Provider {
                addr: provider.addr.clone(),
                version: provider.version.clone(),
                platform: package.platform.clone(),
            };
            add(package.archive, package.size, thing);
        }
    }
    for module in &generation.modules {
        let thing = PulledArchive::Module {
            addr: module.addr.clone(),
            version: module.version.clone(),
        };
        add(module.archive, module.size, thing);
    }
    all
}

/// Removes a file; a missing file is not an error.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if !is_gone(&error) => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
