//! One signed file that carries a generation over a gap in the network.
//!
//! A bundle is a tar file of fixed form: `manifest.json`, the keys that signed it and their signatures, then the files
//! of the store by digest. Whoever reads it knows each header before it comes, byte for byte, from the signed
//! manifest; so there is nothing in it that a forger could choose: no name, no link, no size, no order.

mod check;
mod compare;
mod encryption;
mod head;
mod import;
mod manifest;
mod read;
mod receipt;
mod sbom;
mod tar_header;
mod volumes;
mod write;

use std::{io, path::PathBuf};

use jiff::Timestamp;
use outpost_base::stop::Stop;

use super::{
    Digest, StoreError,
    keys::{KeyError, KeyId},
};

pub use self::{
    check::{check, check_file},
    compare::{Change, Difference, compare},
    encryption::{EncryptionError, Opened, decrypted, encrypted},
    head::{Head, Signer, Trust, Verified},
    import::{Guard, Imported, import},
    manifest::{Blob, MAX_MANIFEST_BYTES, Manifest},
    read::Reader,
    receipt::{Receipt, Records},
    sbom::{Inside, look as look_inside, reference, sbom},
    volumes::{
        MIN_BYTES as MIN_VOLUME_BYTES, VolumeError, Volumes, Writer as VolumeWriter,
        find as find_volumes,
    },
    write::{Wanted, plan, rewrite, write},
};

/// Why a bundle was not written, not read or not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file could not be read.
    #[error("failed to read the bundle at `{entry}`")]
    Read {
        /// What was read.
        entry: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("failed to write the bundle")]
    Write(#[source] io::Error),
    /// A part of it is not what it must be.
    #[error("the bundle is refused: `{entry}` {why}")]
    Entry {
        /// The part.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key or a signature does not fit.
    #[error("the bundle is refused: `{entry}`")]
    Key {
        /// The part.
        entry: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// Not enough of those who signed are trusted.
    #[error(
        "the bundle is refused: {} of its signers are trusted, but {threshold} are required; it is signed by {}",
        trusted,
        names(signers)
    )]
    Untrusted {
        /// Signers that are trusted.
        trusted: usize,
        /// All signers.
        signers: Vec<KeyId>,
        /// How many must be trusted.
        threshold: usize,
    },
    /// Something newer was imported before.
    #[error(
        "the bundle is refused: it is number {sequence} of channel `{channel}`, and number {last} has already been imported"
    )]
    Replayed {
        /// Whose numbers they are.
        channel: String,
        /// The bundle's number.
        sequence: u64,
        /// The highest number so far.
        last: u64,
    },
    /// A key that is to sign counts for nothing.
    #[error("key {key} is revoked and cannot sign")]
    Revoked {
        /// The key.
        key: KeyId,
    },
    /// Its time is over.
    #[error("the bundle is refused: it expired at {0}")]
    Expired(Timestamp),
    /// It builds on what is not in the store.
    #[error("the bundle needs {} files that neither it nor the mirror has:\n{}", missing.len(), listed(missing))]
    Missing {
        /// Their digests, and what they are.
        missing: Vec<(Digest, String)>,
    },
    /// There is not enough room.
    #[error(
        "no space left for the bundle: it needs {needed} bytes, and {free} bytes are free for the mirror in `{}`",
        dir.display()
    )]
    Full {
        /// The directory of the mirror.
        dir: PathBuf,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The store refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was not encrypted.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// Somebody stopped it.
    #[error("stopped before the import was complete; run the same command again to resume it")]
    Stopped,
}

impl BundleError {
    /// What to try next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Untrusted { .. } => Some(
                "compare the key names with those that their owners gave you, then name their files with --trust",
            ),
            Self::Replayed { .. } => {
                Some("to go back deliberately, use `outpost mirror rollback` or --allow-rollback")
            }
            Self::Missing { .. } => Some(
                "first import the bundle that this one builds on, or have one made with --since this site's receipt",
            ),
            Self::Expired(_) => Some(
                "have it made again with a later --expires, or without one; if this machine's clock is wrong, set it",
            ),
            Self::Revoked { .. } => Some(
                "sign with a key that is not revoked: sites accept nothing that this one signs",
            ),
            Self::Entry { .. } | Self::Key { .. } => {
                Some("copy the file again and compare it with the original")
            }
            Self::Store(error) => error.hint(),
            Self::Full { .. } => Some(
                "free some space, or shrink the mirror with `outpost mirror prune` and `outpost mirror gc --grace 0s`",
            ),
            Self::Write(error) if error.kind() == io::ErrorKind::StorageFull => {
                Some("free some space where --out is, or write elsewhere")
            }
            _ => None,
        }
    }
}

fn names(keys: &[KeyId]) -> String {
    match keys {
        [] => "nobody".to_owned(),
        keys => keys
            .iter()
            .map(KeyId::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Lines of a list that are shown.
const SHOWN: usize = 50;

fn listed(missing: &[(Digest, String)]) -> String {
    let mut lines: Vec<_> = missing
        .iter()
        .take(SHOWN)
        .map(|(digest, name)| format!("  {name} ({digest})"))
        .collect();
    if missing.len() > SHOWN {
        lines.push(format!("  and {} more", missing.len() - SHOWN));
    }
    lines.join("\n")
}

/// What goes on while a bundle is worked on: who may stop it, and who wants to know.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// It ends early once this is cancelled.
    pub stop: &'a Stop,
    /// Hears how far it is.
    pub hear: &'a (dyn Fn(Step) + Sync),
}

/// How far the work on a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of files are to be dealt with.
    Begun(u64),
    /// So many more of them are.
    Advanced(u64),
    /// All are; packages are unpacked and checked now.
    Unpacking,
}

impl Watch<'_> {
    pub(crate) fn advance(&self, bytes: usize) -> Result<(), BundleError> {
        (self.hear)(Step::Advanced(bytes as u64));
        match self.stop.is_cancelled() {
            true => Err(BundleError::Stopped),
            false => Ok(()),
        }
    }
}
