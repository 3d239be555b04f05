//! Whose signature counts for which namespace: what the operator pinned, else whoever signed first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::wishes::Rule;
use crate::{
    mirror::publisher::{self, SignatureError, SignedBy},
    registry::{Platform, ProviderAddr},
};

/// Fingerprints by `HOST/NAMESPACE`.
pub type Keys = BTreeMap<String, BTreeSet<String>>;

/// Why packages are not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The signature is not good.
    #[error("the checksums of {what} are not trusted")]
    Signature {
        /// Of what.
        what: String,
        /// Why.
        source: SignatureError,
    },
    /// Another key signed.
    #[error("{what} is signed by the key {found}, and {namespace} is trusted by {}", expected.join(" and "))]
    OtherKey {
        /// What is signed.
        what: String,
        /// Whose it should be.
        namespace: String,
        /// The keys that are trusted.
        expected: Vec<String>,
        /// The key that signed.
        found: String,
    },
    /// Signatures of certain keys are wanted, and where it comes from there are none.
    #[error("{0} is wanted with its publisher's signature, and a network mirror has none")]
    NoSignature(ProviderAddr),
    /// What was signed does not list the package, or with another checksum.
    #[error("`{filename}` is not what its publisher signed: {why}")]
    NotListed {
        /// The package.
        filename: String,
        /// What is wrong.
        why: String,
    },
}

impl TrustError {
    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Signature {
                source: SignatureError::Expired { fingerprint, .. },
                ..
            } => Some(format!(
                "ask the publisher for a release that is signed by a valid key, or accept what this key signs with \
                 --allow-expired {fingerprint}"
            )),
            Self::OtherKey { found, .. } => Some(format!(
                "if the publisher announced this key, accept it with --accept-key {found}"
            )),
            Self::NoSignature(addr) => Some(format!(
                "read it from a registry: `[hosts.\"{}\"]` in mirror.toml may name a mirror's one, such as `outpost mirror serve` has",
                addr.host()
            )),
            Self::Signature { .. } | Self::NotListed { .. } => None,
        }
    }
}

/// Decides about signatures, and remembers who signed.
pub struct Trust {
    rules: BTreeMap<String, Rule>,
    known: Keys,
    accepted: BTreeSet<String>,
    allow_expired: Vec<String>,
    seen: Mutex<Keys>,
}

impl Trust {
    /// `known` are the keys that signed before, `accepted` and `allow_expired` fingerprints that the operator names.
    pub fn new(
        rules: BTreeMap<String, Rule>,
        known: Keys,
        accepted: BTreeSet<String>,
        allow_expired: Vec<String>,
    ) -> Self {
        Self {
            rules,
            known,
            accepted,
            allow_expired,
            seen: Mutex::default(),
        }
    }

    /// Whether a provider needs no signature.
    pub fn is_unsigned(&self, addr: &ProviderAddr) -> bool {
        self.rules.get(&namespace(addr)) == Some(&Rule::Unsigned)
    }

    /// Whether only signatures of certain keys count, which the operator named.
    pub fn is_pinned(&self, addr: &ProviderAddr) -> bool {
        matches!(self.rules.get(&namespace(addr)), Some(Rule::Keys(_)))
    }

    /// Checks who signed `content`, which belongs to `what` of a namespace.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn check(
        &self,
        namespace: &str,
        what: &str,
        content: &[u8],
        signature: &[u8],
        keys: &[String],
    ) -> Result<SignedBy, TrustError> {
        let by = publisher::verify(content, signature, keys, &self.allow_expired);
        let by = by.map_err(|source| TrustError::Signature {
            what: what.to_owned(),
            source,
        })?;
        let expected: Option<Vec<String>> = match self.rules.get(namespace) {
            Some(Rule::Keys(keys)) => Some(keys.clone()),
            Some(Rule::FirstUse | Rule::Unsigned) | None => {
                let known = self.known.get(namespace);
                known.map(|keys| keys.iter().cloned().collect())
            }
        };
        let found = &by.fingerprint;
        if let Some(expected) = expected
            && !expected.contains(found)
            && !self.accepted.contains(found)
        {
            return Err(TrustError::OtherKey {
                what: what.to_owned(),
                namespace: namespace.to_owned(),
                expected,
                found: found.clone(),
            });
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_namespace = seen.entry(namespace.to_owned()).or_default();
        of_namespace.insert(found.clone());
        Ok(by)
    }

    /// All keys that are trusted from now on.
    pub fn keys(&self) -> Keys {
        let mut keys = self.known.clone();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (namespace, fingerprints) in &*seen {
            let known = keys.entry(namespace.clone()).or_default();
            known.extend(fingerprints.iter().cloned());
        }
        keys
    }
}

/// Who publishes a provider: `HOST/NAMESPACE`.
pub(super) fn namespace(addr: &ProviderAddr) -> String {
    format!("{}/{}", addr.host(), addr.namespace())
}

/// The checksum of a file in a list of lines such as `HASH  NAME`.
pub(super) fn listed(list: &[u8], name: &str) -> Option<crate::mirror::Digest> {
    let list = std::str::from_utf8(list).ok()?;
    list.lines().find_map(|line| {
        let (hash, file) = line.split_once("  ")?;
        let is_it = file.strip_prefix('*').unwrap_or(file) == name;
        is_it.then(|| hash.to_ascii_lowercase().parse().ok())?
    })
}

/// The packages of a version in such a list, by platform. What is named otherwise is no package.
pub(super) fn packages(
    list: &[u8],
    kind: &str,
    version: &semver::Version,
) -> BTreeMap<Platform, (String, crate::mirror::Digest)> {
    let begin = format!("terraform-provider-{kind}_{version}_");
    let list = std::str::from_utf8(list).unwrap_or_default();
    let package = |line: &str| {
        let (hash, file) = line.split_once("  ")?;
        let file = file.strip_prefix('*').unwrap_or(file);
        let platform = file.strip_prefix(&begin)?.strip_suffix(".zip")?;
        let digest = hash.to_ascii_lowercase().parse().ok()?;
        Some((platform.parse().ok()?, (file.to_owned(), digest)))
    };
    list.lines().filter_map(package).collect()
}
