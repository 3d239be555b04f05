//! Records of a site's contents: for the maker of its next bundle, and for the site itself, so that it imports no
//! older one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{Trust, Verified};

use outpost_files as files;

use crate::{
    Digest, Store, StoreError,
    keys::{KeyId, PublicKey},
};

/// Maximum size of such a file in bytes; a receipt for ten thousand files has less than one million.
const MAX_BYTES: u64 = 64 << 20;

/// Format of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "outpost-receipt/1")]
    One,
}

/// Contents of a site after an import. It is not signed: a forged one results only in a bundle that is too large, or
/// in one that the site refuses because files are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    format: Format,
    /// Channel of the imported bundle.
    pub channel: String,
    /// Number of the bundle in its channel.
    pub sequence: u64,
    /// Digest of the bundle's manifest.
    pub bundle: Digest,
    /// Files of the generation, which the site keeps.
    pub have: BTreeSet<Digest>,
}

impl Receipt {
    /// Returns the receipt of a site after the import of a bundle.
    pub fn new(channel: &str, sequence: u64, bundle: Digest, have: BTreeSet<Digest>) -> Self {
        Self {
            format: Format::One,
            channel: channel.to_owned(),
            sequence,
            bundle,
            have,
        }
    }

    /// Reads a receipt from a file.
    ///
    /// # Errors
    /// The system's error, and [`StoreError::Index`] if it is not a receipt.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        read_json(path)
    }
}

/// Records of a store about imported bundles and trusted keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Newest bundle of each channel.
    pub(crate) channels: BTreeMap<String, ImportedBundle>,
    /// Keys that are trusted.
    pub keys: BTreeSet<PublicKey>,
    /// Keys that are never trusted, even if they are in `keys`.
    pub revoked: BTreeSet<KeyId>,
    /// Number of trusted keys that must have signed a bundle.
    pub threshold: usize,
}

/// A bundle that was imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportedBundle {
    /// Number of the bundle in its channel.
    pub sequence: u64,
    /// Digest of the bundle's manifest.
    pub bundle: Digest,
}

impl Records {
    const NAME: &'static str = "imports.json";

    /// Reads the records of a store.
    ///
    /// # Errors
    /// The system's error, and [`StoreError::Index`] if the file is damaged: it is not treated as empty.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let path = store.dir().join(Self::NAME);
        match read_json(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            other => other,
        }
    }

    /// Returns the trusted and the revoked keys.
    pub fn trust(&self) -> Trust {
        Trust {
            keys: self.keys.clone(),
            revoked: self.revoked.clone(),
            threshold: self.threshold,
        }
    }

    /// Records a bundle that was verified with `trust`, with the keys that it rotates and revokes.
    pub(super) fn learn(&mut self, trust: &Trust, verified: &Verified, bundle: Digest) {
        let manifest = &verified.manifest;
        self.revoked
            .extend(trust.revoked.iter().chain(&manifest.revoked));
        let current = |key: &PublicKey| *verified.rotated.get(key).unwrap_or(key);
        self.keys = trust.keys.iter().map(current).collect();
        let revoked = &self.revoked;
        self.keys.retain(|key| !revoked.contains(&key.id));
        self.threshold = trust.threshold.max(1);
        let taken = ImportedBundle {
            sequence: manifest.sequence,
            bundle,
        };
        self.channels.insert(manifest.channel.clone(), taken);
    }

    /// Writes the records into the store's directory.
    ///
    /// # Errors
    /// The system's error.
    pub fn save(&self, store: &Store) -> Result<(), StoreError> {
        let path = store.dir().join(Self::NAME);
        let text = serde_json::to_vec_pretty(self).map_err(|source| StoreError::Index {
            path: path.clone(),
            source,
        })?;
        files::write_private(&path, &text).map_err(StoreError::io("write", &path))
    }
}

/// Reads one of our JSON files.
///
/// # Errors
/// [`StoreError::Index`] if it does not parse, [`StoreError::TooLong`], and the system's error.
pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, StoreError> {
    let file = fs::File::open(path).map_err(StoreError::io("open", path))?;
    let mut text = Vec::new();
    let read = file.take(MAX_BYTES + 1).read_to_end(&mut text);
    read.map_err(StoreError::io("read", path))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(StoreError::TooLong {
            name: path.display().to_string(),
            limit: MAX_BYTES,
        });
    }
    serde_json::from_slice(&text).map_err(|source| StoreError::Index {
        path: path.to_owned(),
        source,
    })
}
