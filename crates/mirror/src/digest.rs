//! The name of a file in the store: its SHA-256, which is also its `zh:` checksum and its OCI digest.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{Context, SHA256, digest};
use outpost_base::registry::Hash;
use serde::{Deserialize, Serialize};

/// SHA-256 of a file. As text it is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of bytes in memory.
    pub fn of(content: &[u8]) -> Self {
        Self::from_output(digest(&SHA256, content).as_ref())
    }

    /// Returns the digest of the bytes that `context` was fed.
    pub fn finish(context: Context) -> Self {
        Self::from_output(context.finish().as_ref())
    }

    /// Returns the checksum of a package as lock files contain it.
    pub fn zh(self) -> Hash {
        Hash::Zh(self.0)
    }

    fn from_output(output: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(output); // SHA-256 has 32 bytes.
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Returned if a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid SHA-256 digest {0:?}: expected 64 lower-case hexadecimal digits")]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_lower = text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bytes = hex::decode(text).ok().filter(|_| is_lower);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        // The text may be hostile, and of any length.
        bytes
            .map(Self)
            .ok_or_else(|| DigestError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of an empty message, from FIPS 180-4's examples.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        let json = serde_json::to_string(&Digest::of(b"")).unwrap();
        assert_eq!(
            serde_json::from_str::<Digest>(&json).unwrap(),
            Digest::of(b"")
        );
    }

    #[test]
    fn a_name_that_is_no_digest_never_becomes_a_path() {
        let upper = EMPTY.to_uppercase();
        for text in [
            "",
            "../../etc/passwd",
            &EMPTY[1..],
            upper.as_str(),
            &format!("{EMPTY}00"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
