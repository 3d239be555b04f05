//! The first part of a bundle: its identity, its contents, and the files that must already be present.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BundleError;
use crate::{Digest, Generation, keys::KeyId};

/// Maximum size of a manifest in bytes; with ten thousand packages it has six million.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// Maximum length of a channel's name.
const MAX_CHANNEL: usize = 64;

/// Format of a bundle. It is part of what is signed, so that a signature over something else is not valid for a
/// bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// The only format so far.
    #[serde(rename = "outpost-bundle/1")]
    One,
}

/// The signed description of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the bundle.
    pub format: Format,
    /// Sequence of bundles that this one belongs to.
    pub channel: String,
    /// Number in the channel: a site does not import a lower one than the last.
    pub sequence: u64,
    /// Time at which the generation was made.
    pub created: Timestamp,
    /// Time after which a site must not import the bundle.
    pub expires: Option<Timestamp>,
    /// Keys that sites must no longer trust.
    pub revoked: BTreeSet<KeyId>,
    /// Version of the program that made the bundle.
    pub producer: String,
    /// Contents of the site's mirror after the import.
    pub generation: Generation,
    /// Files in the bundle.
    pub blobs: BTreeMap<Digest, Blob>,
    /// Files that the site already has.
    pub omitted: BTreeSet<Digest>,
}

/// A file in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Length of the file in bytes.
    pub size: u64,
}

impl Manifest {
    /// Returns the manifest in the form that is signed.
    ///
    /// # Errors
    /// None for a generation of a store.
    pub fn to_text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Parses a manifest whose signatures were verified, and checks that its parts are consistent.
    ///
    /// # Errors
    /// The first problem.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(text).map_err(|e| format!("is none: {e}"))?;
        manifest.check()?;
        // If the text is in our own form, nothing occurs twice or is left out, and no other parser reads it
        // differently.
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

    /// Refuses a bundle that has expired at `now`.
    ///
    /// # Errors
    /// [`BundleError::Expired`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), BundleError> {
        match self.expires.filter(|expires| *expires <= now) {
            Some(expires) => Err(BundleError::Expired(expires)),
            None => Ok(()),
        }
    }

    /// Returns the total length of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs
            .values()
            .fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

/// Returns whether a text is a valid channel name.
pub(super) fn is_channel(text: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    (1..=MAX_CHANNEL).contains(&text.len()) && text.bytes().all(is_good)
}
