//! The first part of a bundle: what it is, what it brings, and what must be there already.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BundleError;
use crate::{Digest, Generation, keys::KeyId};

/// What a manifest may have, in bytes; the one of ten thousand packages has six million.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// How often one name of a channel may be long.
const MAX_CHANNEL: usize = 64;

/// The form of a bundle. It is in what is signed, so a signature over something else is none over a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// The only one so far.
    #[serde(rename = "outpost-bundle/1")]
    One,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its form.
    pub format: Format,
    /// Whose bundles follow each other.
    pub channel: String,
    /// Its place among them: a site takes no lower one than it had.
    pub sequence: u64,
    /// When the generation was made.
    pub created: Timestamp,
    /// When a site must not take it any more.
    pub expires: Option<Timestamp>,
    /// Keys that sites must not believe any more.
    pub revoked: BTreeSet<KeyId>,
    /// The version of the program that made it.
    pub producer: String,
    /// All that a site has after the import.
    pub generation: Generation,
    /// The files in the bundle.
    pub blobs: BTreeMap<Digest, Blob>,
    /// Files that the site has already.
    pub omitted: BTreeSet<Digest>,
}

/// A file in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Its length in bytes.
    pub size: u64,
}

impl Manifest {
    /// The manifest as it is signed.
    ///
    /// # Errors
    /// None for what a store can have.
    pub fn to_text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a manifest whose signatures were verified, and checks that its parts agree.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(text).map_err(|e| format!("is none: {e}"))?;
        manifest.check()?;
        // Then nothing is in it twice, nothing is left out, and nobody else reads something else in it.
        match manifest.to_text() {
            Ok(again) if again == text => Ok(manifest),
            _ => Err("is not in canonical form".to_owned()),
        }
    }

    fn check(&self) -> Result<(), String> {
        if !is_channel(&self.channel) {
            return Err(format!(
                "has a channel that is not 1 to {MAX_CHANNEL} letters, digits, `.`, `-` or `_`"
            ));
        }
        self.generation.check()?;
        let needed = self.generation.digests();
        let given = self.blobs.keys().copied();
        let mut there = self.omitted.clone();
        for digest in given {
            if !there.insert(digest) {
                return Err(format!("lists {digest} both as included and as omitted"));
            }
        }
        if let Some(digest) = needed.difference(&there).next() {
            return Err(format!(
                "gives no position for {digest} and does not list it as omitted"
            ));
        }
        if let Some(digest) = there.difference(&needed).next() {
            return Err(format!("contains {digest}, which nothing in it needs"));
        }
        for (digest, size) in self.generation.sizes() {
            let blob = self.blobs.get(&digest).filter(|blob| blob.size != size);
            if let Some(blob) = blob {
                return Err(format!(
                    "gives two sizes for {digest}, {} and {size} bytes",
                    blob.size
                ));
            }
        }
        Ok(())
    }

    /// Refuses a bundle whose time is over at `now`.
    ///
    /// # Errors
    /// [`BundleError::Expired`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), BundleError> {
        match self.expires.filter(|expires| *expires <= now) {
            Some(expires) => Err(BundleError::Expired(expires)),
            None => Ok(()),
        }
    }

    /// Bytes of all files in it.
    pub fn bytes(&self) -> u64 {
        self.blobs
            .values()
            .fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

/// Whether a text can name a channel.
pub(super) fn is_channel(text: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    (1..=MAX_CHANNEL).contains(&text.len()) && text.bytes().all(is_good)
}
