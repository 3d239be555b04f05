//! Secrets at rest: AES-256-GCM, each sealed to its place, with keys that have ids so that they can be rotated.
//!
//! A sealed value is one byte of format (1), eight bytes of key id, twelve of nonce, the ciphertext, and a tag of
//! sixteen bytes. The place, such as a build's id, is authenticated with it: a value that was copied to another place
//! does not open.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac::{self, HMAC_SHA256},
    rand,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Length of a key in bytes.
pub(crate) const KEY_BYTES: usize = 32;
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + NONCE_LEN;

/// A key for secrets at rest.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// Generates a random key.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut()).expect("the operating system has random numbers");
        Self(bytes)
    }

    /// Returns the key with exactly these 32 bytes; `None` for another length.
    pub fn try_new(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Parses a file's content: the bytes, or 64 hexadecimal digits with an optional line break.
    pub fn parse(content: &[u8]) -> Option<Self> {
        Self::try_new(content).or_else(|| {
            let digits = std::str::from_utf8(content).ok()?.trim();
            Self::try_new(&Zeroizing::new(hex::decode(digits).ok()?))
        })
    }

    /// Returns the bytes, to store them.
    pub fn expose(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Returns an id that distinguishes keys without revealing anything about them.
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.0.as_ref());
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        KeyId(id)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

/// Id of a key: the first eight bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A secret in its stored form.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// Seals and opens secrets.
#[derive(Debug)]
pub struct Vault {
    current: KeyId,
    root: hmac::Key,
    keys: BTreeMap<KeyId, RandomizedNonceKey>,
}

impl Vault {
    /// Returns a vault that seals with `current`, and opens with it and with `earlier` keys.
    pub fn new(current: &Key, earlier: &[Key]) -> Self {
        let keys = earlier.iter().chain([current]).map(|key| {
            let cipher = RandomizedNonceKey::new(&AES_256_GCM, key.expose());
            (key.id(), cipher.expect("a key has the cipher's length"))
        });
        Self {
            current: current.id(),
            root: hmac::Key::new(HMAC_SHA256, current.expose()),
            keys: keys.collect(),
        }
    }

    /// Derives a secret for one purpose: it is the same as long as the current key is, and cannot be computed without
    /// the key.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let tag = hmac::sign(&self.root, purpose.as_bytes());
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(tag.as_ref());
        secret
    }

    /// Returns the id of the key for new secrets.
    pub fn current(&self) -> KeyId {
        self.current
    }

    /// Seals `plain` to `place`.
    ///
    /// # Panics
    /// If the operating system has no random numbers, or `plain` is larger than 64 GiB.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Sealed {
        let cipher = &self.keys[&self.current];
        let mut body = plain.to_vec();
        let nonce = cipher
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut body)
            .expect("the operating system has random numbers and the text is shorter than 64 GiB");
        let mut sealed = Vec::with_capacity(HEADER_BYTES + body.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.current.0);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        Sealed(sealed)
    }

    /// Opens a secret that was sealed to `place`.
    ///
    /// # Errors
    /// [`OpenError`] if it is not valid, needs another key, belongs elsewhere, or was changed.
    pub fn open(&self, place: &str, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        let (header, body) = sealed
            .0
            .split_at_checked(HEADER_BYTES)
            .ok_or(OpenError::Truncated)?;
        let [format, header @ ..] = header else {
            return Err(OpenError::Truncated);
        };
        if *format != FORMAT {
            return Err(OpenError::Format(*format));
        }
        let (id, nonce) = header.split_at(8);
        let id = KeyId(id.try_into().map_err(|_| OpenError::Truncated)?);
        let cipher = self.keys.get(&id).ok_or(OpenError::Key(id))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Truncated)?;
        let mut body = body.to_vec();
        let plain = cipher
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut body)
            .map_err(|_| OpenError::Changed)?;
        let length = plain.len();
        body.truncate(length);
        Ok(body)
    }
}

/// Reason why a secret cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The value is too short.
    #[error("sealed value is truncated")]
    Truncated,
    /// A newer version wrote it.
    #[error("sealed value has format {0}, this version knows format 1")]
    Format(u8),
    /// The value was sealed with another key.
    #[error("sealed value needs the key {0}, which is not available")]
    Key(KeyId),
    /// The value was changed, or copied from another place.
    #[error("sealed value was modified, or was copied from another place")]
    Changed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_at_its_place_only() {
        let vault = Vault::new(&Key::generate(), &[]);

        let sealed = vault.seal("build 1", b"state");

        assert_eq!(vault.open("build 1", &sealed).as_deref(), Ok(&b"state"[..]));
        assert_eq!(vault.open("build 2", &sealed), Err(OpenError::Changed));
    }

    #[test]
    fn a_derived_secret_depends_on_key_and_purpose_alone() {
        let key = Key::generate();
        let derived = |key: &Key, purpose| Vault::new(key, &[]).derive(purpose);

        assert_eq!(derived(&key, "a"), derived(&key, "a"));
        assert_ne!(derived(&key, "a"), derived(&key, "b"));
        assert_ne!(derived(&key, "a"), derived(&Key::generate(), "a"));
    }

    #[test]
    fn equal_secrets_look_different() {
        let vault = Vault::new(&Key::generate(), &[]);

        assert_ne!(vault.seal("x", b"state"), vault.seal("x", b"state"));
    }

    #[test]
    fn an_earlier_key_still_opens_and_a_missing_one_is_named() {
        let (old, new) = (Key::generate(), Key::generate());
        let sealed = Vault::new(&old, &[]).seal("x", b"state");

        let rotated = Vault::new(&new, std::slice::from_ref(&old));
        assert_eq!(rotated.open("x", &sealed).as_deref(), Ok(&b"state"[..]));
        let without = Vault::new(&new, &[]);
        assert_eq!(without.open("x", &sealed), Err(OpenError::Key(old.id())));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let vault = Vault::new(&Key::generate(), &[]);
        let sealed = vault.seal("x", b"state");

        for index in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[index] ^= 1;
            assert!(vault.open("x", &changed).is_err(), "byte {index}");
            let short = Sealed(sealed.0[..index].to_vec());
            assert!(vault.open("x", &short).is_err(), "length {index}");
        }
    }
}
