//! Checksums of provider packages, in the notation of lock files.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A checksum of a provider package.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Hash {
    /// SHA-256 over the names and digests of the files inside. The hash of a zip file equals that of its unpacked
    /// tree if the zip file has no entries for directories.
    H1([u8; 32]),
    /// SHA-256 of the zip file as published.
    Zh([u8; 32]),
    /// A scheme that this version does not know. Lock files keep such lines.
    Other {
        /// Text before the colon.
        scheme: String,
        /// Text after the colon.
        value: String,
    },
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::H1(digest) => write!(f, "h1:{}", STANDARD.encode(digest)),
            Self::Zh(digest) => write!(f, "zh:{}", hex::encode(digest)),
            Self::Other { scheme, value } => write!(f, "{scheme}:{value}"),
        }
    }
}

/// Sorts hashes by their text, as lock files do.
impl Ord for Hash {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for Hash {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| HashError {
            text: text.to_owned(),
            reason,
        };
        let digest = |bytes: Option<Vec<u8>>, reason| {
            let digest = bytes.and_then(|bytes| bytes.try_into().ok());
            digest.ok_or_else(|| invalid(reason))
        };
        match text.split_once(':') {
            Some(("h1", value)) => Ok(Self::H1(digest(
                STANDARD.decode(value).ok(),
                "h1 takes 32 bytes in base64 with padding",
            )?)),
            Some(("zh", value)) => Ok(Self::Zh(digest(
                hex::decode(value).ok(),
                "zh takes 64 hexadecimal digits",
            )?)),
            Some((scheme, value)) if !scheme.is_empty() => Ok(Self::Other {
                scheme: scheme.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(invalid("expected SCHEME:VALUE, such as h1:…")),
        }
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// Returned if a text is not a checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid hash {text:?}: {reason}")]
pub struct HashError {
    text: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_written_as_they_are_read() {
        let zh = format!("zh:{}", "0f".repeat(32));
        for text in [
            "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            zh.as_str(),
            "h9:anything",
        ] {
            assert_eq!(text.parse::<Hash>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_known_scheme_with_a_wrong_value_is_refused() {
        for text in [
            "h1:",
            "h1:AAAA",
            "h1:47DEQpj8",
            "zh:0f",
            "zh:xyz",
            "no-colon",
            ":x",
        ] {
            assert!(text.parse::<Hash>().is_err(), "{text}");
        }
    }
}
