//! Addresses of providers, platforms and checksums. Pure.

mod addr;
mod h1;
mod hash;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::{
    addr::{AddrError, DEFAULT_HOST, OPENTOFU_HOST, ProviderAddr},
    h1::{H1Error, h1_of_dir, h1_of_names, h1_of_zip},
    hash::{Hash, HashError},
};

/// The armored key that signs Terraform's releases, re-issued in 2026: fingerprint C874 011F 0AB4 0511 0D02 1055 3436 5D94
/// 72D7 468F.
pub const HASHICORP_KEY: &str = include_str!("registry/hashicorp.asc");

/// An operating system and a processor, in Go's words: `linux_amd64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// Operating system, such as `linux`, `darwin` or `windows`.
    pub os: String,
    /// Processor architecture, such as `amd64`, `arm64` or `arm`.
    pub arch: String,
}

impl Platform {
    /// Returns the platform that this program was built for.
    pub fn current() -> Self {
        Self {
            os: go_os(std::env::consts::OS).to_owned(),
            arch: go_arch(std::env::consts::ARCH).to_owned(),
        }
    }
}

fn go_os(os: &str) -> &str {
    match os {
        "macos" => "darwin",
        other => other,
    }
}

fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.os, self.arch)
    }
}

/// Returned if a text is not a platform.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: expected OS_ARCH, such as linux_amd64")]
pub struct PlatformError {
    text: String,
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_word = |word: &str| {
            let mut bytes = word.bytes();
            !word.is_empty() && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('_') {
            Some((os, arch)) if is_word(os) && is_word(arch) => Ok(Self {
                os: os.to_owned(),
                arch: arch.to_owned(),
            }),
            _ => Err(PlatformError {
                text: text.to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_written_as_it_is_read() {
        for text in ["linux_amd64", "darwin_arm64", "windows_386"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "linux",
            "linux_",
            "_amd64",
            "linux_amd64_extra",
            "../x_y",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn our_own_platform_is_in_the_words_of_go() {
        let current = Platform::current();

        assert_eq!(current.to_string().parse(), Ok(current.clone()));
        assert_ne!(current.arch, "x86_64");
    }
}
