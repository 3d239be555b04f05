//! What stands before the first file of a bundle, and whether to believe it.

use std::collections::{BTreeMap, BTreeSet};

use super::{BundleError, Manifest, tar_header::BLOCK, write::write_head};
use crate::{
    Digest,
    keys::{KeyId, PublicKey, Rotation, SecretKey, Signature},
};

/// What a signature says about itself. It tells no time, so that the same bundle is the same file.
const COMMENT: &str = "manifest of an outpost bundle";

/// The first part.
pub(super) const MANIFEST: &str = "manifest.json";
/// Who may sign one bundle; more is noise.
pub(super) const MAX_SIGNERS: usize = 16;

/// Whom a site believes.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Keys of those who may sign.
    pub keys: BTreeSet<PublicKey>,
    /// Keys that count for nothing, whoever says otherwise.
    pub revoked: BTreeSet<KeyId>,
    /// How many of them must have signed; one at least.
    pub threshold: usize,
}

impl Trust {
    /// The trusted key that a signer's key is, or came from by rotation.
    fn root(&self, signer: &Signer) -> Option<PublicKey> {
        let mut line = vec![signer.key];
        line.extend(signer.rotations.iter().rev().map(|rotation| rotation.key));
        let valid = line
            .into_iter()
            .take_while(|key| !self.revoked.contains(&key.id));
        valid.into_iter().find(|key| self.keys.contains(key))
    }
}

/// Somebody who signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key as the bundle has it, which says nothing about trust.
    pub key: PublicKey,
    /// The keys that it came from, oldest first, each with its signature over the next.
    pub rotations: Vec<Rotation>,
    /// The signature over the manifest.
    pub signature: Signature,
}

/// The manifest as it is signed, and who signed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// The text.
    pub manifest: Vec<u8>,
    /// Those who signed, by the names of their keys.
    pub signers: Vec<Signer>,
}

/// A manifest that is believed.
#[derive(Clone, Debug)]
pub struct Verified {
    /// It.
    pub manifest: Manifest,
    /// Trusted keys with the keys that came from them.
    pub rotated: BTreeMap<PublicKey, PublicKey>,
}

impl Head {
    /// Adds a signature. Who signed already signs anew. A key in `revoked`, or that the bundle itself revokes, does not.
    ///
    /// # Errors
    /// [`BundleError::Revoked`], and [`BundleError::Entry`] if the manifest makes no sense.
    pub fn sign_unless(
        &mut self,
        revoked: &BTreeSet<KeyId>,
        key: &SecretKey,
        rotations: Vec<Rotation>,
    ) -> Result<(), BundleError> {
        let id = key.public().id;
        if revoked.contains(&id) || self.unverified()?.revoked.contains(&id) {
            return Err(BundleError::Revoked { key: id });
        }
        self.sign(key, rotations);
        Ok(())
    }

    /// Adds a signature. Who signed already signs anew.
    pub fn sign(&mut self, key: &SecretKey, rotations: Vec<Rotation>) {
        let public = key.public();
        self.signers.retain(|other| other.key.id != public.id);
        self.signers.push(Signer {
            key: public,
            rotations,
            signature: Signature::new(key, &self.manifest, COMMENT),
        });
        self.signers.sort_by_key(|signer| signer.key.id);
    }

    /// The names of all signers, whose signatures hold for the keys in the bundle.
    ///
    /// # Errors
    /// [`BundleError::Key`] names the first that does not.
    pub fn signers(&self) -> Result<Vec<KeyId>, BundleError> {
        for signer in &self.signers {
            let id = signer.key.id;
            let verified = Rotation::verify(&signer.rotations, &signer.key);
            verified.map_err(|source| BundleError::Key {
                entry: rotations_name(id),
                source,
            })?;
            let verified = signer.signature.verify(&signer.key, &self.manifest);
            verified.map_err(|source| BundleError::Key {
                entry: format!("{MANIFEST}` or `{}", signature_name(id)),
                source,
            })?;
        }
        Ok(self.signers.iter().map(|signer| signer.key.id).collect())
    }

    /// The manifest, if enough of those who signed it are trusted. All signatures must hold, also those of others:
    /// otherwise the file was changed. Keys that came from the same one are one signer.
    ///
    /// # Errors
    /// [`BundleError::Key`], [`BundleError::Untrusted`], and [`BundleError::Entry`] if the manifest makes no sense.
    pub fn verify(&self, trust: &Trust) -> Result<Verified, BundleError> {
        let signers = self.signers()?;
        let enough = |trust: &Trust| {
            let roots = self
                .signers
                .iter()
                .map(|signer| (trust.root(signer), signer.key));
            let rotated: BTreeMap<_, _> =
                roots.filter_map(|(root, key)| Some((root?, key))).collect();
            match rotated.len() >= trust.threshold.max(1) {
                true => Ok(rotated),
                false => Err(BundleError::Untrusted {
                    trusted: rotated.len(),
                    signers: signers.clone(),
                    threshold: trust.threshold.max(1),
                }),
            }
        };
        enough(trust)?;
        let manifest = self.unverified()?;
        // A key that the bundle itself calls lost has no say in that.
        let mut trust = trust.clone();
        trust.revoked.extend(&manifest.revoked);
        let rotated = enough(&trust)?;
        Ok(Verified { manifest, rotated })
    }

    /// The manifest, whoever made it: to look at, not to believe.
    ///
    /// # Errors
    /// [`BundleError::Entry`] if it makes no sense.
    pub fn unverified(&self) -> Result<Manifest, BundleError> {
        Manifest::parse(&self.manifest).map_err(|why| BundleError::Entry {
            entry: MANIFEST.to_owned(),
            why,
        })
    }

    /// The digest that stands for the bundle.
    pub fn id(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// All of it, in the form of a bundle without files.
    ///
    /// # Errors
    /// Practically none: memory takes all.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        let mut bytes = Vec::new();
        write_head(self, &mut bytes)?;
        bytes.extend([0; 2 * BLOCK]);
        Ok(bytes)
    }

    /// The parts before the first file, in their order.
    pub(super) fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let mut parts = vec![(MANIFEST.to_owned(), self.manifest.clone())];
        for signer in &self.signers {
            let id = signer.key.id;
            parts.push((key_name(id), signer.key.to_file().into_bytes()));
            parts.push((
                rotations_name(id),
                Rotation::to_file(&signer.rotations).into_bytes(),
            ));
            parts.push((signature_name(id), signer.signature.to_file().into_bytes()));
        }
        parts
    }
}

pub(super) fn key_name(id: KeyId) -> String {
    format!("keys/{id}.pub")
}

pub(super) fn rotations_name(id: KeyId) -> String {
    format!("keys/{id}.rotations")
}

pub(super) fn signature_name(id: KeyId) -> String {
    format!("signatures/{id}.minisig")
}

pub(super) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}
