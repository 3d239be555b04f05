//! One signed file that carries a generation across an air gap.
//!
//! A bundle is a tar file of fixed form: `manifest.json`, the keys that signed it and their signatures, then the
//! files of the store by digest. A reader derives each header from the signed manifest, byte for byte, before it
//! reads the header; so a forger can choose nothing: no name, no link, no size, no order.

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

/// Reason why a bundle was not written, read or imported.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file could not be read.
    #[error("failed to read the bundle at `{entry}`")]
    Read {
        /// Part of the bundle that was read.
        entry: String,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("failed to write the bundle")]
    Write(#[source] io::Error),
    /// A part of the bundle is not valid.
    #[error("the bundle is refused: `{entry}` {why}")]
    Entry {
        /// Name of the part.
        entry: String,
        /// Problem with the part.
        why: String,
    },
    /// A key or a signature is not valid.
    #[error("the bundle is refused: `{entry}`")]
    Key {
        /// Name of the part.
        entry: String,
        /// Problem with the key or the signature.
        source: KeyError,
    },
    /// Too few of the signers are trusted.
    #[error(
        "the bundle is refused: {} of its signers are trusted, but {threshold} are required; it is signed by {}",
        trusted,
        names(signers)
    )]
    Untrusted {
        /// Number of signers that are trusted.
        trusted: usize,
        /// Keys of all signers.
        signers: Vec<KeyId>,
        /// Number of signers that must be trusted.
        threshold: usize,
    },
    /// A newer bundle was imported before.
    #[error(
        "the bundle is refused: it is number {sequence} of channel `{channel}`, and number {last} has already been imported"
    )]
    Replayed {
        /// Channel of the bundle.
        channel: String,
        /// Number of the bundle in its channel.
        sequence: u64,
        /// Highest number that was imported.
        last: u64,
    },
    /// A key that is to sign is revoked.
    #[error("key {key} is revoked and cannot sign")]
    Revoked {
        /// Id of the revoked key.
        key: KeyId,
    },
    /// The bundle has expired at this time.
    #[error("the bundle is refused: it expired at {0}")]
    Expired(Timestamp),
    /// The bundle builds on files that are not in the store.
    #[error("the bundle needs {} files that neither it nor the mirror has:\n{}", missing.len(), listed(missing))]
    Missing {
        /// Digests of the files, with descriptions of them.
        missing: Vec<(Digest, String)>,
    },
    /// There is not enough free space.
    #[error(
        "no space left for the bundle: it needs {needed} bytes, and {free} bytes are free for the mirror in `{}`",
        dir.display()
    )]
    Full {
        /// Directory of the mirror.
        dir: PathBuf,
        /// Bytes that the bundle needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The store reports an error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Encryption or decryption failed.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The user stopped the work.
    #[error("stopped before the import was complete; run the same command again to resume it")]
    Stopped,
}

impl BundleError {
    /// Returns a suggestion for the next step.
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

/// Maximum number of list entries in a message.
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

/// Control and progress of work on a bundle.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Stop handle; the work ends early once it is cancelled.
    pub stop: &'a Stop,
    /// Callback that receives the progress.
    pub hear: &'a (dyn Fn(Step) + Sync),
}

/// Progress of the work on a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The files to process have this many bytes in total.
    Begun(u64),
    /// This many more bytes are processed.
    Advanced(u64),
    /// All files are processed; packages are unpacked and verified now.
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
