//! Signatures in minisign's format: `minisign -Vm FILE -x SIGNATURE -p KEY` verifies ours.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use blake2::{Blake2b512, Digest as _};

use super::{KeyError, KeyId, PublicKey, SecretKey, decoded};
use crate::inventory;

/// Minisign's identifier of a signature over a BLAKE2b-512 digest.
const HASHED: [u8; 2] = *b"ED";

const UNTRUSTED: &str = "untrusted comment: signature of an outpost ";
const TRUSTED: &str = "trusted comment: ";

/// A signature with a comment, which is signed as well.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// Id of the signer's key.
    pub key: KeyId,
    /// Signed comment: one line.
    pub comment: String,
    of_content: [u8; 64],
    of_comment: [u8; 64],
}

impl Signature {
    /// Signs a content. The same key, content and comment always give the same signature.
    pub fn new(key: &SecretKey, content: &[u8], comment: &str) -> Self {
        let of_content = key.sign(&Blake2b512::digest(content));
        Self {
            key: key.public().id,
            comment: comment.to_owned(),
            of_content,
            of_comment: key.sign(&[&of_content[..], comment.as_bytes()].concat()),
        }
    }

    /// Verifies the signature with a key and the content.
    ///
    /// # Errors
    /// [`KeyError::Forged`].
    pub fn verify(&self, key: &PublicKey, content: &[u8]) -> Result<(), KeyError> {
        if key.id != self.key {
            return Err(KeyError::Forged(self.key));
        }
        key.verify(&Blake2b512::digest(content), &self.of_content)?;
        let global = [&self.of_content[..], self.comment.as_bytes()].concat();
        key.verify(&global, &self.of_comment)
    }

    /// Returns the signature as a file.
    pub fn to_file(&self) -> String {
        let line = [&HASHED[..], &self.key.0, &self.of_content].concat();
        let what = match self.comment == inventory::COMMENT {
            true => "mirror",
            false => "bundle",
        };
        let mut text = format!("{UNTRUSTED}{what}\n");
        let _ = writeln!(text, "{}", STANDARD.encode(line)); // A write to a string does not fail.
        let _ = writeln!(text, "{TRUSTED}{}", self.comment);
        let _ = writeln!(text, "{}", STANDARD.encode(self.of_comment));
        text
    }

    /// Parses a file that [`to_file`](Self::to_file) made. An edited file is refused, even where minisign would
    /// ignore the change.
    ///
    /// # Errors
    /// [`KeyError::Format`].
    pub fn from_file(text: &str) -> Result<Self, KeyError> {
        let invalid = |why| KeyError::Format {
            what: "signature",
            why,
        };
        let mut lines = text.lines().skip(1);
        let mut line = || lines.next().unwrap_or_default();
        let all: [u8; 74] = decoded(line()).ok_or(invalid("expected 74 bytes in base64"))?;
        let comment = line().strip_prefix(TRUSTED);
        let comment = comment.ok_or(invalid("it has no trusted comment"))?;
        let of_comment = decoded(line()).ok_or(invalid("expected 64 bytes in base64"))?;
        let (mut id, mut of_content) = ([0; 8], [0; 64]);
        id.copy_from_slice(&all[2..10]);
        of_content.copy_from_slice(&all[10..]);
        let signature = Self {
            key: KeyId(id),
            comment: comment.to_owned(),
            of_content,
            of_comment,
        };
        match signature.to_file() == text {
            true => Ok(signature),
            false => Err(invalid("it was edited")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_content_and_comment_alone() {
        let (key, other) = (
            SecretKey::generate().unwrap(),
            SecretKey::generate().unwrap(),
        );
        let signature = Signature::new(&key, b"content", "made today");
        let file = signature.to_file();

        let read = Signature::from_file(&file).unwrap();

        assert_eq!(read.verify(&key.public(), b"content"), Ok(()));
        assert_eq!(
            Signature::new(&key, b"content", "made today").to_file(),
            file
        );
        assert!(read.verify(&key.public(), b"Content").is_err());
        assert!(read.verify(&other.public(), b"content").is_err());
        let later = file.replace("today", "later");
        let later = Signature::from_file(&later).unwrap();
        assert!(later.verify(&key.public(), b"content").is_err());
    }

    #[test]
    fn no_byte_of_a_signature_can_change_unnoticed() {
        let key = SecretKey::generate().unwrap();
        let file = Signature::new(&key, b"content", "made today").to_file();
        for at in 0..file.len() {
            let mut bytes = file.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };

            let verified = Signature::from_file(&text)
                .and_then(|signature| signature.verify(&key.public(), b"content"));

            assert!(verified.is_err(), "byte {at}: {text}");
        }
    }
}
