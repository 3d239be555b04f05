//! Keys that sign bundles, and their signatures, in minisign's formats, so that a site can verify a bundle with
//! standard tools.
//!
//! The crate `minisign` is not used: it has Ed25519, SHA-512 and BLAKE2b of its own, and all signatures here are aws-lc-rs's.

mod rotation;
mod secret;
mod signature;

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

pub use self::{rotation::Rotation, secret::SecretKey, signature::Signature};

/// Maximum size of a file of keys or signatures in bytes; the longest, a chain of rotated keys, has five thousand.
pub const MAX_BYTES: u64 = 16 * 1024;

/// Minisign's identifier of Ed25519 keys.
const ED25519_KEY: [u8; 2] = *b"Ed";

/// Reason why a key or a signature is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A file has another format.
    #[error("not a {what} in minisign's format: {why}")]
    Format {
        /// Kind of file that was expected.
        what: &'static str,
        /// Problem with the file.
        why: &'static str,
    },
    /// The key is encrypted, and no passphrase was given.
    #[error("the key is encrypted: name a file with its passphrase by --passphrase-file")]
    Locked,
    /// The key cannot be decrypted with the passphrase.
    #[error("the pass phrase is wrong, or the key is damaged")]
    Passphrase,
    /// The signature does not match this key and the content.
    #[error("the signature of key {0} does not match: the content or the signature was modified")]
    Forged(KeyId),
    /// The system provides no random numbers.
    #[error("the system's random number generator failed")]
    Random,
}

/// The id of a key: a random number, printed as minisign prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        let number = (text.len() == 16 && text.bytes().all(is_hex))
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten();
        number
            .map(|n| Self(n.to_le_bytes()))
            .ok_or(KeyError::Format {
                what: "name of a key",
                why: "expected 16 hexadecimal digits in upper case",
            })
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// The public half of a key. As text it is one line of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    /// Id of the key.
    pub id: KeyId,
    bytes: [u8; 32],
}

impl PublicKey {
    /// Returns the key as a file in minisign's format.
    pub fn to_file(self) -> String {
        format!(
            "untrusted comment: minisign public key {}\n{self}\n",
            self.id
        )
    }

    /// Parses a file, or the one line of base64 that matters in it.
    ///
    /// # Errors
    /// [`KeyError::Format`].
    pub fn from_file(text: &str) -> Result<Self, KeyError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let line = match first.starts_with("untrusted comment:") {
            true => lines.next().unwrap_or_default(),
            false => first,
        };
        match lines.next() {
            None => line.parse(),
            Some(_) => Err(public("it contains more than one key")),
        }
    }

    fn verify(&self, content: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.bytes);
        key.verify(content, signature)
            .map_err(|_| KeyError::Forged(self.id))
    }
}

fn public(why: &'static str) -> KeyError {
    KeyError::Format {
        what: "public key",
        why,
    }
}

/// Decodes a line of base64 that has exactly `N` bytes.
fn decoded<const N: usize>(line: &str) -> Option<[u8; N]> {
    // Longer text is not even decoded.
    let line = Some(line).filter(|line| line.len() <= MAX_BYTES as usize);
    STANDARD.decode(line?).ok()?.try_into().ok()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&ED25519_KEY[..], &self.id.0, &self.bytes].concat();
        f.write_str(&STANDARD.encode(bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all: [u8; 42] = decoded(text).ok_or(public("expected 42 bytes in base64"))?;
        let (kind, rest) = all.split_at(2);
        let (id, bytes) = rest.split_at(8);
        if kind != ED25519_KEY {
            return Err(public("it is not for Ed25519"));
        }
        let (mut key, mut name) = ([0; 32], [0; 8]);
        key.copy_from_slice(bytes);
        name.copy_from_slice(id);
        Ok(Self {
            id: KeyId(name),
            bytes: key,
        })
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public key in minisign's README, which signs its releases.
    const PUBLISHED: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn a_key_of_minisign_is_read_and_named_as_minisign_does() {
        let file = format!("untrusted comment: a key\n{PUBLISHED}\n");

        let key = PublicKey::from_file(&file).unwrap();

        assert_eq!(key, PublicKey::from_file(PUBLISHED).unwrap());
        assert_eq!(key.to_string(), PUBLISHED);
        assert_eq!(key.id.to_string(), "E7620F1842B4E81F");
        assert_eq!(key.id.to_string().parse(), Ok(key.id));
        assert_eq!(PublicKey::from_file(&key.to_file()), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let other_kind = STANDARD.encode([b'X'; 42]);
        let two = format!("{PUBLISHED}\n{PUBLISHED}\n");
        for text in ["", "Zm9v", &PUBLISHED[4..], &other_kind, &two] {
            assert!(PublicKey::from_file(text).is_err(), "{text}");
        }
        for text in [
            "",
            "e7620f1842b4e81f",
            "../../../../etc/p",
            "+7620F1842B4E81F",
        ] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }
}
