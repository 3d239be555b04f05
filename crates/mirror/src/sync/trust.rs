//! Decisions about trust: which key may sign for which namespace (the ones that the operator pinned, else the one
//! that signed first), and which bytes a version has (those that were seen first).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use outpost_base::registry::{Platform, ProviderAddr};
use semver::Version;

use super::{
    Cause,
    config::Rule,
    modules::contents_of,
    pins::{Checksums, MODULE, Pins, Tags},
};
use crate::{
    Digest, Generation, Store, StoreError,
    fetch::blocking,
    generation::Signed,
    publisher::{self, SignatureError, SignedBy},
};

/// Fingerprints of keys by `HOST/NAMESPACE`, or by a program's name.
pub type Keys = BTreeMap<String, BTreeSet<String>>;

/// Maximum size of a list of checksums, a signature or a key in the store, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Reason why packages are not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The signature is not valid.
    #[error("the checksums of {what} are not trusted")]
    Signature {
        /// Name of what is signed.
        what: String,
        /// Problem with the signature.
        source: SignatureError,
    },
    /// A key that is not trusted made the signature.
    #[error("{what} is signed by the key {found}, but {namespace} is trusted only with {}", expected.join(" and "))]
    OtherKey {
        /// Name of what is signed.
        what: String,
        /// Namespace that the trusted keys belong to.
        namespace: String,
        /// Fingerprints of the trusted keys.
        expected: Vec<String>,
        /// Fingerprint of the key that signed.
        found: String,
    },
    /// Signatures of certain keys are required, but the source has no signatures.
    #[error("{0} must have its publisher's signature, which a network mirror does not provide")]
    NoSignature(ProviderAddr),
    /// The signed checksums do not contain the package, or have another checksum of it.
    #[error("`{filename}` is not what its publisher signed: {why}")]
    NotListed {
        /// File name of the package.
        filename: String,
        /// Difference between the two.
        why: String,
    },
    /// A version has other bytes than its pin.
    #[error(
        "{release}{} has the checksum {now}, but had {first} when this mirror first saw it: its publisher replaced it, or \
         it comes from somebody else",
        for_platform(platform)
    )]
    Changed {
        /// Name of the version: `ADDRESS@VERSION`.
        release: String,
        /// Platform of the package; `module` for a module.
        platform: String,
        /// Checksum in the pin.
        first: String,
        /// Checksum of the present package.
        now: String,
    },
    /// A tag refers to another object than its pin.
    #[error(
        "the tag {tag} of {place} is {now}, but was {first} when this mirror first saw it: its publisher moved it, or it \
         comes from somebody else"
    )]
    Moved {
        /// Name of the repository: `HOST/OWNER/REPO`.
        place: String,
        /// Name of the tag.
        tag: String,
        /// Object in the pin.
        first: String,
        /// Present object of the tag.
        now: String,
    },
}

fn for_platform(platform: &str) -> String {
    match platform {
        MODULE => String::new(),
        platform => format!(" for {platform}"),
    }
}

impl TrustError {
    /// Returns a suggestion for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Signature {
                source: SignatureError::Expired { fingerprint, .. },
                ..
            } => Some(format!(
                "ask the publisher for a release that is signed by a valid key, or accept this key's signatures with \
                 --allow-expired {fingerprint}"
            )),
            Self::OtherKey {
                namespace, found, ..
            } => Some(format!(
                "if the publisher has announced this key, accept it: `outpost mirror sync --accept-key {namespace}={found}`"
            )),
            Self::Changed { release, .. } => Some(format!(
                "the mirror keeps what it has; if the publisher has announced the replacement, accept it: `outpost mirror sync \
                 --accept-changed {release}`"
            )),
            Self::Moved { place, tag, .. } => Some(format!(
                "the mirror keeps the repository as it is; if the publisher has announced that the tag was moved, accept it: `outpost mirror \
                 sync --accept-changed {}`",
                tag_name(place, tag)
            )),
            Self::NoSignature(addr) => Some(format!(
                "take it from a registry: `[hosts.\"{}\"]` in mirror.toml can name one that a mirror serves, such as `outpost mirror serve`",
                addr.host()
            )),
            Self::Signature { .. } | Self::NotListed { .. } => None,
        }
    }
}

/// Differences from the pins that the operator accepts.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Fingerprints of keys that may sign for any namespace from now on.
    pub keys: BTreeSet<String>,
    /// Fingerprints of keys whose expiry is ignored.
    pub expired: Vec<String>,
    /// Versions whose packages may have changed: `ADDRESS@VERSION`; and tags: `HOST/OWNER/REPO@TAG`.
    pub releases: BTreeSet<String>,
}

/// Decides about signatures and checksums, and pins in the mirror what it trusts.
pub struct Trust {
    rules: BTreeMap<String, Rule>,
    known: Keys,
    accepted: Accepted,
    store: Store,
    pins: Pins,
    /// `true` if nothing must be written.
    is_dry: bool,
    /// Keys that the operator's rules name and that made valid signatures.
    seen: Mutex<Keys>,
}

impl Trust {
    /// Returns the trust of the mirror `store`. `known` are the keys in its lock file.
    pub fn new(rules: BTreeMap<String, Rule>, known: Keys, store: &Store) -> Self {
        Self {
            rules,
            known,
            accepted: Accepted::default(),
            store: store.clone(),
            pins: Pins::of(store),
            is_dry: false,
            seen: Mutex::default(),
        }
    }

    /// Adds the differences that the operator accepts.
    #[must_use]
    pub fn accepting(mut self, accepted: Accepted) -> Self {
        self.accepted = accepted;
        self
    }

    /// Prevents all writing if `is_dry`.
    #[must_use]
    pub fn dry(mut self, is_dry: bool) -> Self {
        self.is_dry = is_dry;
        self
    }

    /// Pins further keys that the operator names for a namespace.
    ///
    /// # Errors
    /// If they cannot be written.
    pub async fn add(&self, keys: Keys) -> Result<(), StoreError> {
        if keys.is_empty() || self.is_dry {
            return Ok(());
        }
        let signed: BTreeMap<_, _> = {
            let before = newest(&self.store).await?;
            let of = |namespace: &String| (namespace.clone(), signed_of(&before, namespace));
            keys.keys().map(of).collect()
        };
        let store = self.store.clone();
        let change = move |pinned: &mut Keys| {
            for (namespace, fingerprints) in keys {
                let signed = &signed[&namespace];
                // Keep the existing keys: the added one must not become the only one.
                let of_namespace = pinned
                    .entry(namespace)
                    .or_insert_with(|| signers(&store, signed));
                of_namespace.extend(fingerprints);
            }
        };
        self.pins.change_keys(change).await
    }

    /// Returns whether a provider needs no signature.
    pub(crate) fn is_unsigned(&self, addr: &ProviderAddr) -> bool {
        self.rules.get(&namespace(addr)) == Some(&Rule::Unsigned)
    }

    /// Returns whether only signatures of keys that the operator named are accepted.
    pub(crate) fn is_pinned(&self, addr: &ProviderAddr) -> bool {
        matches!(self.rules.get(&namespace(addr)), Some(Rule::Keys(_)))
    }

    /// Checks the signature over `content`, which belongs to `what` of a namespace. The first key that signs is
    /// pinned before this returns. `before` is the mirror's current generation.
    ///
    /// # Errors
    /// [`TrustError`], and if the pins cannot be read or written.
    pub(super) async fn check(
        &self,
        before: &Generation,
        namespace: &str,
        what: &str,
        signature: Signature<'_>,
    ) -> Result<SignedBy, Cause> {
        let Signature {
            content,
            signature,
            keys,
        } = signature;
        let by = publisher::verify(content, signature, keys, &self.accepted.expired);
        let by = by.map_err(|source| TrustError::Signature {
            what: what.to_owned(),
            source,
        })?;
        let found = &by.fingerprint;
        let is_accepted = self.accepted.keys.contains(found);
        let refused = match self.rules.get(namespace) {
            Some(Rule::Keys(keys)) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let is_good = is_accepted || keys.contains(found);
                if is_good {
                    let of_namespace = seen.entry(namespace.to_owned()).or_default();
                    of_namespace.insert(found.clone());
                }
                (!is_good).then(|| keys.clone())
            }
            Some(Rule::FirstUse | Rule::Unsigned) | None => {
                self.pin(before, namespace, found, is_accepted).await?
            }
        };
        match refused {
            None => Ok(by),
            Some(expected) => Err(TrustError::OtherKey {
                what: what.to_owned(),
                namespace: namespace.to_owned(),
                expected,
                found: found.clone(),
            }
            .into()),
        }
    }

    /// Pins a key, unless other keys are trusted: then returns those.
    async fn pin(
        &self,
        before: &Generation,
        namespace: &str,
        found: &str,
        is_accepted: bool,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let pins = self.pins.clone();
        // Usually the key is pinned already, and finding that out needs no lock.
        let mut pinned = blocking(move || pins.keys()).await?;
        if pinned
            .get(namespace)
            .is_some_and(|keys| keys.contains(found))
        {
            return Ok(None);
        }
        let signed = match pinned.contains_key(namespace) {
            true => Vec::new(),
            false => signed_of(before, namespace),
        };
        let of_lock_file = self.known.get(namespace).cloned().unwrap_or_default();
        let (namespace, found, store) =
            (namespace.to_owned(), found.to_owned(), self.store.clone());
        let judge = move |keys: &mut Keys| {
            // If a mirror is older than its pins, or came from a bundle, the signers of its contents are trusted.
            let first = || signers(&store, &signed);
            let mut trusted = keys.get(&namespace).cloned().unwrap_or_else(first);
            let expected: BTreeSet<_> = trusted.union(&of_lock_file).cloned().collect();
            if !is_accepted && !expected.is_empty() && !expected.contains(&found) {
                return Some(expected.into_iter().collect());
            }
            trusted.insert(found);
            keys.insert(namespace, trusted);
            None
        };
        match self.is_dry {
            true => blocking(move || Ok(judge(&mut pinned))).await,
            false => self.pins.change_keys(judge).await,
        }
    }

    /// Returns whether the operator accepts that a version has changed.
    pub(super) fn accepts(&self, name: &str, version: &Version) -> bool {
        let release = release_name(name, version);
        self.accepted.releases.contains(&release)
    }

    /// Returns whether the operator accepts that a tag has moved.
    pub(super) fn accepts_tag(&self, place: &str, tag: &str) -> bool {
        self.accepted.releases.contains(&tag_name(place, tag))
    }

    /// Compares checksums of a version with its pins, and pins new ones. `before` is the mirror's current generation.
    ///
    /// # Errors
    /// [`TrustError::Changed`], and if the pins cannot be read or written.
    pub(super) async fn same_release(
        &self,
        before: &Generation,
        name: &str,
        version: &Version,
        now: Checksums,
    ) -> Result<(), Cause> {
        if self.accepts(name, version) {
            return Ok(());
        }
        let (pins, of) = (self.pins.clone(), (name.to_owned(), version.clone()));
        let mut pinned = blocking(move || pins.release(&of.0, &of.1)).await?;
        let is_known =
            |(platform, digest): (&String, &Digest)| pinned.get(platform) == Some(digest);
        // Usually all checksums are pinned already, and finding that out needs no lock.
        if now.iter().all(is_known) {
            return Ok(());
        }
        let first = match pinned.is_empty() {
            true => self.checksums(before, name, version).await?,
            false => Checksums::new(),
        };
        let release = release_name(name, version);
        let judge = move |pinned: &mut Checksums| {
            let mut all = match pinned.is_empty() {
                true => first,
                false => pinned.clone(),
            };
            for (platform, now) in now {
                let first = *all.entry(platform.clone()).or_insert(now);
                if first != now {
                    return Err(TrustError::Changed {
                        release,
                        platform,
                        first: first.to_string(),
                        now: now.to_string(),
                    });
                }
            }
            *pinned = all;
            Ok(())
        };
        let judged = match self.is_dry {
            true => judge(&mut pinned),
            false => self.pins.change_release(name, version, judge).await?,
        };
        Ok(judged?)
    }

    /// Replaces the pins of a version.
    pub(super) async fn replace_release(
        &self,
        name: &str,
        version: &Version,
        now: Checksums,
    ) -> Result<(), StoreError> {
        let replace = move |pinned: &mut Checksums| *pinned = now;
        match self.is_dry {
            true => Ok(()),
            false => self.pins.change_release(name, version, replace).await,
        }
    }

    /// Compares the tags of a repository with their pins, and pins new ones. `has` are the tags of the mirror's copy.
    /// Returns an error for each tag that was moved.
    ///
    /// # Errors
    /// If the pins cannot be read or written.
    pub(super) async fn moved_tags(
        &self,
        place: &str,
        has: Tags,
        now: Tags,
    ) -> Result<Vec<TrustError>, StoreError> {
        let (pins, of) = (self.pins.clone(), place.to_owned());
        let mut pinned = blocking(move || pins.tags(&of)).await?;
        if now.iter().all(|(tag, now)| pinned.get(tag) == Some(now)) {
            return Ok(Vec::new());
        }
        let (accepted, of) = (self.accepted.releases.clone(), place.to_owned());
        let judge = move |pinned: &mut Tags| {
            if pinned.is_empty() {
                *pinned = has;
            }
            let mut moved = Vec::new();
            for (tag, now) in now {
                let is_accepted = accepted.contains(&tag_name(&of, &tag));
                let first = pinned.entry(tag.clone()).or_insert_with(|| now.clone());
                if *first != now && is_accepted {
                    *first = now;
                } else if *first != now {
                    let (place, first) = (of.clone(), first.clone());
                    moved.push(TrustError::Moved {
                        place,
                        tag,
                        first,
                        now,
                    });
                }
            }
            moved
        };
        match self.is_dry {
            true => Ok(judge(&mut pinned)),
            false => self.pins.change_tags(place, judge).await,
        }
    }

    /// Returns the mirror's checksums of a version: those of its packages, and those that its publisher signed.
    async fn checksums(
        &self,
        before: &Generation,
        name: &str,
        version: &Version,
    ) -> Result<Checksums, StoreError> {
        let mut all = Checksums::new();
        let tools = before.tools.iter();
        let tools = tools.filter(|tool| tool.name == name && tool.version == *version);
        all.extend(tools.map(|tool| (tool.platform.to_string(), tool.archive)));
        let mut modules = before.modules.iter();
        if let Some(module) = modules.find(|m| m.version == *version && m.addr == name) {
            let (store, module) = (self.store.clone(), module.clone());
            let contents = blocking(move || Ok(contents_of(&store, &module))).await?;
            all.extend(contents.map(|contents| (MODULE.to_owned(), contents)));
        }
        let mut providers = before.providers.iter();
        let provider = providers.find(|p| p.version == *version && p.addr.to_string() == name);
        let Some(provider) = provider else {
            return Ok(all);
        };
        if let Some(list) = signed_list(&self.store, provider.signed.as_ref()).await? {
            all.extend(packages(&list, provider.addr.kind(), version));
        }
        let packages = provider.packages.iter();
        all.extend(packages.map(|package| (package.platform.to_string(), package.archive)));
        Ok(all)
    }

    /// Returns the keys that are trusted from now on for the contents of `generation`, and those of the lock file.
    ///
    /// # Errors
    /// If the pins cannot be read.
    pub fn keys(&self, generation: &Generation) -> Result<Keys, StoreError> {
        let mut keys = self.known.clone();
        let mut add = |namespace: &str, fingerprints: &BTreeSet<String>| {
            let known = keys.entry(namespace.to_owned()).or_default();
            known.extend(fingerprints.iter().cloned());
        };
        let pinned = self.pins.keys()?;
        let providers = generation.providers.iter();
        let providers = providers.filter(|provider| provider.signed.is_some());
        let tools = generation.tools.iter().filter(|tool| tool.signed.is_some());
        let of_tools = tools.map(|tool| tool.name.clone());
        let namespaces: BTreeSet<_> = providers
            .map(|p| namespace(&p.addr))
            .chain(of_tools)
            .collect();
        for namespace in namespaces {
            if let Some(fingerprints) = pinned.get(&namespace) {
                add(&namespace, fingerprints);
            }
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .for_each(|(namespace, fingerprints)| add(namespace, fingerprints));
        Ok(keys)
    }
}

/// Signed content, its signature, and the armored keys that may have made it.
pub(super) struct Signature<'a> {
    pub(super) content: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) keys: &'a [String],
}

/// Returns the current generation; an empty one if there is none.
pub(super) async fn newest(store: &Store) -> Result<Generation, StoreError> {
    let store = store.clone();
    let newest = move || match store.newest() {
        Err(StoreError::Empty { .. }) => Ok(Generation::default()),
        newest => newest.map(|(_, generation)| generation),
    };
    blocking(newest).await
}

/// Returns the signed list of checksums, if the mirror has one.
pub(super) async fn signed_list(
    store: &Store,
    signed: Option<&Signed>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(shasums) = signed.map(|signed| signed.shasums) else {
        return Ok(None);
    };
    let store = store.clone();
    blocking(move || match store.has(shasums) {
        true => store.read(shasums, MAX_BYTES).map(Some),
        false => Ok(None),
    })
    .await
}

/// Returns `ADDRESS@VERSION`, the form that the operator uses.
pub(super) fn release_name(name: &str, version: &Version) -> String {
    format!("{name}@{version}")
}

/// Returns `HOST/OWNER/REPO@TAG`, the form that the operator uses.
fn tag_name(place: &str, tag: &str) -> String {
    format!("{place}@{tag}")
}

/// Returns all signed lists of a namespace in a mirror.
fn signed_of(generation: &Generation, namespace: &str) -> Vec<Signed> {
    let providers = generation.providers.iter();
    let providers = providers.filter(|provider| self::namespace(&provider.addr) == namespace);
    let tools = generation.tools.iter();
    let tools = tools.filter(|tool| tool.name == namespace);
    let signed = providers
        .map(|provider| &provider.signed)
        .chain(tools.map(|tool| &tool.signed));
    signed.flatten().cloned().collect()
}

/// Returns the keys that made these signatures. Signatures that are missing or not valid are skipped. Blocks.
fn signers(store: &Store, signed: &[Signed]) -> BTreeSet<String> {
    let signer = |signed: &Signed| {
        let read = |digest| store.read(digest, MAX_BYTES).ok();
        let (content, signature) = (read(signed.shasums)?, read(signed.signature)?);
        let keys = signed.keys.iter().filter_map(|key| read(key.armored));
        let keys: Vec<_> = keys
            .filter_map(|armored| String::from_utf8(armored).ok())
            .collect();
        match publisher::verify(&content, &signature, &keys, &[]) {
            Ok(SignedBy { fingerprint, .. }) => Some(fingerprint),
            // The operator accepted the expired key when the signature entered the mirror.
            Err(SignatureError::Expired { fingerprint, .. }) => Some(fingerprint),
            Err(
                SignatureError::Unreadable(_)
                | SignatureError::Unknown { .. }
                | SignatureError::Revoked { .. },
            ) => None,
        }
    };
    signed.iter().filter_map(signer).collect()
}

/// Returns the namespace of a provider's publisher: `HOST/NAMESPACE`.
pub(super) fn namespace(addr: &ProviderAddr) -> String {
    format!("{}/{}", addr.host(), addr.namespace())
}

/// Returns the checksum of a file in a list of lines such as `HASH  NAME`.
pub(super) fn listed(list: &[u8], name: &str) -> Option<Digest> {
    let list = std::str::from_utf8(list).ok()?;
    list.lines().find_map(|line| {
        let (hash, file) = line.split_once("  ")?;
        let is_it = file.strip_prefix('*').unwrap_or(file) == name;
        is_it.then(|| hash.to_ascii_lowercase().parse().ok())?
    })
}

/// Returns the packages of a version in such a list, by platform: file name and checksum. Other file names are
/// skipped.
pub(super) fn listed_packages(
    list: &[u8],
    kind: &str,
    version: &Version,
) -> BTreeMap<Platform, (String, Digest)> {
    listed_files(list, &format!("terraform-provider-{kind}_{version}_"))
}

/// Returns the checksums of the packages of a version in such a list.
pub(super) fn packages(list: &[u8], kind: &str, version: &Version) -> Checksums {
    checksums(listed_packages(list, kind, version))
}

/// Returns the checksums of a version of a program in such a list.
pub(super) fn programs(list: &[u8], name: &str, version: &Version) -> Checksums {
    checksums(listed_files(list, &format!("{name}_{version}_")))
}

fn checksums(files: BTreeMap<Platform, (String, Digest)>) -> Checksums {
    let files = files.into_iter();
    files
        .map(|(platform, (_, digest))| (platform.to_string(), digest))
        .collect()
}

fn listed_files(list: &[u8], begin: &str) -> BTreeMap<Platform, (String, Digest)> {
    let list = std::str::from_utf8(list).unwrap_or_default();
    let package = |line: &str| {
        let (hash, file) = line.split_once("  ")?;
        let file = file.strip_prefix('*').unwrap_or(file);
        let platform = file.strip_prefix(begin)?.strip_suffix(".zip")?;
        let digest = hash.to_ascii_lowercase().parse().ok()?;
        Some((platform.parse().ok()?, (file.to_owned(), digest)))
    };
    list.lines().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: &str = "registry.terraform.io/acme";
    const DEMO: &str = "registry.terraform.io/acme/demo";

    fn mirror() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn trust(store: &Store) -> Trust {
        Trust::new(BTreeMap::new(), Keys::new(), store)
    }

    /// Keys that are trusted instead of `found`; none if that is.
    async fn refused(trust: &Trust, namespace: &str, found: &str) -> Vec<String> {
        let before = Generation::default();
        let is_accepted = trust.accepted.keys.contains(found);
        let pinned = trust.pin(&before, namespace, found, is_accepted).await;
        pinned.unwrap().unwrap_or_default()
    }

    fn version() -> Version {
        Version::new(1, 0, 0)
    }

    fn checksums(content: &[u8]) -> Checksums {
        Checksums::from([("linux_amd64".to_owned(), Digest::of(content))])
    }

    async fn release(trust: &Trust, content: &[u8]) -> Result<(), String> {
        let (before, version) = (Generation::default(), version());
        let same = trust.same_release(&before, DEMO, &version, checksums(content));
        same.await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_first_key_of_a_namespace_is_trusted_and_another_one_only_if_it_is_accepted() {
        let (_dir, store) = mirror();

        assert!(refused(&trust(&store), NAMESPACE, "A").await.is_empty());
        assert_eq!(refused(&trust(&store), NAMESPACE, "B").await, ["A"]);
        assert!(refused(&trust(&store), "other", "B").await.is_empty());

        let accepting = trust(&store).accepting(Accepted {
            keys: BTreeSet::from(["B".to_owned()]),
            ..Accepted::default()
        });
        assert!(refused(&accepting, NAMESPACE, "B").await.is_empty());
        assert!(refused(&trust(&store), NAMESPACE, "B").await.is_empty());
        assert_eq!(refused(&trust(&store), NAMESPACE, "C").await, ["A", "B"]);
    }

    #[tokio::test]
    async fn a_dry_run_decides_about_keys_and_checksums_and_pins_none() {
        let (_dir, store) = mirror();
        let dry = trust(&store).dry(true);

        assert!(refused(&dry, NAMESPACE, "A").await.is_empty());
        assert!(refused(&dry, NAMESPACE, "B").await.is_empty());
        let keys = Keys::from([(NAMESPACE.to_owned(), BTreeSet::from(["C".to_owned()]))]);
        dry.add(keys).await.unwrap();
        assert_eq!(dry.pins.keys().unwrap(), Keys::new());
        assert_eq!(release(&dry, b"one").await, Ok(()));
        assert_eq!(release(&dry, b"two").await, Ok(()));

        assert_eq!(release(&trust(&store), b"one").await, Ok(()));
        assert!(release(&dry, b"two").await.is_err());
    }

    #[tokio::test]
    async fn keys_of_a_lock_file_are_the_only_ones_that_may_come_first() {
        let (_dir, store) = mirror();
        let known = Keys::from([(NAMESPACE.to_owned(), BTreeSet::from(["A".to_owned()]))]);
        let trust = Trust::new(BTreeMap::new(), known, &store);

        assert_eq!(refused(&trust, NAMESPACE, "B").await, ["A"]);
        assert!(refused(&trust, NAMESPACE, "A").await.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_the_operator_adds_does_not_displace_the_one_that_came_first() {
        let (_dir, store) = mirror();
        refused(&trust(&store), NAMESPACE, "A").await;

        let keys = Keys::from([(NAMESPACE.to_owned(), BTreeSet::from(["B".to_owned()]))]);
        trust(&store).add(keys).await.unwrap();

        assert_eq!(refused(&trust(&store), NAMESPACE, "C").await, ["A", "B"]);
    }

    #[tokio::test]
    async fn a_version_keeps_its_bytes_until_the_operator_accepts_others() {
        let (_dir, store) = mirror();
        assert_eq!(release(&trust(&store), b"one").await, Ok(()));

        let why = release(&trust(&store), b"two").await.unwrap_err();
        let expected = [
            format!("{DEMO}@1.0.0 for linux_amd64"),
            Digest::of(b"one").to_string(),
            Digest::of(b"two").to_string(),
        ];
        assert!(expected.iter().all(|text| why.contains(text)), "{why}");

        let accepting = trust(&store).accepting(Accepted {
            releases: BTreeSet::from([format!("{DEMO}@1.0.0")]),
            ..Accepted::default()
        });
        assert_eq!(release(&accepting, b"two").await, Ok(()));
        // Only what was fetched replaces the pin.
        assert!(release(&trust(&store), b"two").await.is_err());
        accepting
            .replace_release(DEMO, &version(), checksums(b"two"))
            .await
            .unwrap();
        assert_eq!(release(&trust(&store), b"two").await, Ok(()));
        assert!(release(&trust(&store), b"one").await.is_err());
    }

    #[tokio::test]
    async fn a_tag_that_the_mirrors_copy_has_otherwise_was_moved() {
        let (_dir, store) = mirror();
        let tags = |object: &str| Tags::from([("v1".to_owned(), object.to_owned())]);

        let strict = trust(&store);
        let moved = strict.moved_tags("host/a/b", tags("one"), tags("two"));
        let moved = moved.await.unwrap();
        let [error] = &moved[..] else {
            panic!("{moved:?}")
        };
        assert!(
            error
                .to_string()
                .contains("v1 of host/a/b is two, but was one")
        );
        let hint = error.hint().unwrap();
        assert!(hint.ends_with("--accept-changed host/a/b@v1`"), "{hint}");

        let accepting = trust(&store).accepting(Accepted {
            releases: BTreeSet::from(["host/a/b@v1".to_owned()]),
            ..Accepted::default()
        });
        let moved = accepting.moved_tags("host/a/b", Tags::new(), tags("two"));
        assert!(moved.await.unwrap().is_empty());
        let moved = strict.moved_tags("host/a/b", Tags::new(), tags("one"));
        assert_eq!(
            moved.await.unwrap().len(),
            1,
            "the accepted object is pinned"
        );
    }

    #[test]
    fn lists_of_checksums_name_packages_in_both_forms_and_nothing_else_counts() {
        let hash = Digest::of(b"x").to_string().to_uppercase();
        let list = format!(
            "{hash}  terraform-provider-demo_1.0.0_linux_amd64.zip\n\
             {hash} *not_two_spaces.zip\n\
             {hash}  *terraform-provider-demo_1.0.0_darwin_arm64.zip\n\
             {hash}  terraform-provider-demo_1.0.0_manifest.json\n\
             nothing  terraform-provider-demo_1.0.0_linux_arm64.zip\n\
             {hash}  tool_1.0.0_linux_amd64.zip\n"
        );
        let list = list.as_bytes();

        let found = packages(list, "demo", &version());
        assert!(
            found.keys().eq(["darwin_arm64", "linux_amd64"]),
            "{found:?}"
        );
        assert!(
            programs(list, "tool", &version())
                .keys()
                .eq(["linux_amd64"])
        );
        assert_eq!(
            listed(list, "tool_1.0.0_linux_amd64.zip"),
            Some(Digest::of(b"x"))
        );
        assert_eq!(
            listed(list, "terraform-provider-demo_1.0.0_linux_arm64.zip"),
            None
        );
        assert_eq!(listed(b"\xff", "x"), None);
    }
}
