//! What a site has: for whoever makes its next bundle, and for itself, so that it takes no older one.

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

/// What a file of ours may have, in bytes; a receipt over ten thousand files has less than one million.
const MAX_BYTES: u64 = 64 << 20;

/// The form of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "outpost-receipt/1")]
    One,
}

/// What a site has after an import. It is not signed: who changes it makes a bundle too large, or one that the site
/// refuses because files are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    format: Format,
    /// Whose bundle was imported.
    pub channel: String,
    /// Its number.
    pub sequence: u64,
    /// The digest of its manifest.
    pub bundle: Digest,
    /// Files of its generation, which the site keeps.
    pub have: BTreeSet<Digest>,
}

impl Receipt {
    /// What a site has once a bundle is imported.
    pub fn new(channel: &str, sequence: u64, bundle: Digest, have: BTreeSet<Digest>) -> Self {
        Self {
            format: Format::One,
            channel: channel.to_owned(),
            sequence,
            bundle,
            have,
        }
    }

    /// Reads a receipt.
    ///
    /// # Errors
    /// The system's reason, and [`StoreError::Index`] if it is none.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        read_json(path)
    }
}

/// What a store remembers of the bundles that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// The newest bundle of each channel.
    pub channels: BTreeMap<String, Taken>,
    /// Keys that are trusted.
    pub keys: BTreeSet<PublicKey>,
    /// Keys that are not, whoever says otherwise.
    pub revoked: BTreeSet<KeyId>,
    /// How many of the trusted ones must have signed a bundle.
    pub threshold: usize,
}

/// A bundle that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Its number.
    pub sequence: u64,
    /// The digest of its manifest.
    pub bundle: Digest,
}

impl Records {
    const NAME: &'static str = "imports.json";

    /// Reads what a store remembers.
    ///
    /// # Errors
    /// The system's reason, and [`StoreError::Index`] if the file is damaged: it is not taken for an empty one.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let path = store.dir().join(Self::NAME);
        match read_json(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            other => other,
        }
    }

    /// Whom it trusts.
    pub fn trust(&self) -> Trust {
        Trust {
            keys: self.keys.clone(),
            revoked: self.revoked.clone(),
            threshold: self.threshold,
        }
    }

    /// Takes over what a bundle, which was verified for `trust`, says about itself and about keys.
    pub(super) fn learn(&mut self, trust: &Trust, verified: &Verified, bundle: Digest) {
        let manifest = &verified.manifest;
        self.revoked
            .extend(trust.revoked.iter().chain(&manifest.revoked));
        let current = |key: &PublicKey| *verified.rotated.get(key).unwrap_or(key);
        self.keys = trust.keys.iter().map(current).collect();
        let revoked = &self.revoked;
        self.keys.retain(|key| !revoked.contains(&key.id));
        self.threshold = trust.threshold.max(1);
        let taken = Taken {
            sequence: manifest.sequence,
            bundle,
        };
        self.channels.insert(manifest.channel.clone(), taken);
    }

    /// Writes it.
    ///
    /// # Errors
    /// The system's reason.
    pub fn save(&self, store: &Store) -> Result<(), StoreError> {
        let path = store.dir().join(Self::NAME);
        let text = serde_json::to_vec_pretty(self).map_err(|source| StoreError::Index {
            path: path.clone(),
            source,
        })?;
        files::write_private(&path, &text).map_err(StoreError::io("write", &path))
    }
}

/// Reads a file of ours.
///
/// # Errors
/// [`StoreError::Index`] if it is none, [`StoreError::TooLong`], and the system's reason.
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
