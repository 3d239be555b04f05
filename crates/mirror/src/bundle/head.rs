//! The parts before the first file of a bundle, and the decision whether to trust them.

use std::collections::{BTreeMap, BTreeSet};

use super::{BundleError, Manifest, tar_header::BLOCK, write::write_head};
use crate::{
    Digest,
    keys::{KeyId, PublicKey, Rotation, SecretKey, Signature},
};

/// Comment of signatures over manifests. It contains no time, so that the same bundle always gives the same file.
const COMMENT: &str = "manifest of an outpost bundle";

/// Name of a bundle's first part.
pub(super) const MANIFEST: &str = "manifest.json";
/// Maximum number of signers of one bundle.
pub(super) const MAX_SIGNERS: usize = 16;

/// Keys that a site trusts.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Keys of trusted signers.
    pub keys: BTreeSet<PublicKey>,
    /// Keys that are never trusted, even if they are in `keys`.
    pub revoked: BTreeSet<KeyId>,
    /// Number of trusted keys that must have signed; at least one.
    pub threshold: usize,
}

impl Trust {
    /// Returns the trusted key that is the signer's key or was rotated to it.
    fn root(&self, signer: &Signer) -> Option<PublicKey> {
        let mut line = vec![signer.key];
        line.extend(signer.rotations.iter().rev().map(|rotation| rotation.key));
        let valid = line
            .into_iter()
            .take_while(|key| !self.revoked.contains(&key.id));
        valid.into_iter().find(|key| self.keys.contains(key))
    }
}

/// A signer of a bundle.
#[derive(Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key as the bundle contains it, which says nothing about trust.
    pub key: PublicKey,
    /// Earlier keys of the signer, oldest first, each with its signature over the next one.
    pub(crate) rotations: Vec<Rotation>,
    /// Signature over the manifest.
    pub signature: Signature,
}

/// A manifest in its signed form, with its signers.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// Text of the manifest.
    pub manifest: Vec<u8>,
    /// Signers, sorted by the names of their keys.
    pub signers: Vec<Signer>,
}

/// A manifest that is trusted.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The trusted manifest itself.
    pub manifest: Manifest,
    /// Trusted keys, with the keys that they were rotated to.
    pub rotated: BTreeMap<PublicKey, PublicKey>,
}

impl Head {
    /// Adds a signature, and replaces an earlier one by the same key. A key in `revoked`, or one that the bundle
    /// itself revokes, cannot sign.
    ///
    /// # Errors
    /// [`BundleError::Revoked`], and [`BundleError::Entry`] if the manifest is not valid.
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

    /// Adds a signature, and replaces an earlier one by the same key.
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

    /// Returns the names of all signers, after it has verified their signatures with the keys in the bundle.
    ///
    /// # Errors
    /// [`BundleError::Key`] names the first one that is not valid.
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

    /// Returns the manifest if enough of its signers are trusted. All signatures must be valid, including those of
    /// others: otherwise the file was changed. Keys that were rotated from the same one count as one signer.
    ///
    /// # Errors
    /// [`BundleError::Key`], [`BundleError::Untrusted`], and [`BundleError::Entry`] if the manifest is not valid.
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
        // A key that the bundle itself revokes must not decide about that.
        let mut trust = trust.clone();
        trust.revoked.extend(&manifest.revoked);
        let rotated = enough(&trust)?;
        Ok(Verified { manifest, rotated })
    }

    /// Returns the manifest without any verification: for display, not for use.
    ///
    /// # Errors
    /// [`BundleError::Entry`] if it is not valid.
    pub fn unverified(&self) -> Result<Manifest, BundleError> {
        Manifest::parse(&self.manifest).map_err(|why| BundleError::Entry {
            entry: MANIFEST.to_owned(),
            why,
        })
    }

    /// Returns the digest that identifies the bundle.
    pub fn id(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Returns all parts in the form of a bundle without files.
    ///
    /// # Errors
    /// None in practice, because a write to memory does not fail.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        let mut bytes = Vec::new();
        write_head(self, &mut bytes)?;
        bytes.extend([0; 2 * BLOCK]);
        Ok(bytes)
    }

    /// Returns the parts before the first file, in their order.
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
