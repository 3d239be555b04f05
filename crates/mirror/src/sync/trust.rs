//! Whose signature counts for which namespace: what the operator pinned, else whoever signed first. And what a version
//! is: the bytes that it was first seen with.

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

/// Fingerprints by `HOST/NAMESPACE`, or by a program's name.
pub type Keys = BTreeMap<String, BTreeSet<String>>;

/// Bytes of a list of checksums, a signature or a key in the store.
const MAX_BYTES: u64 = 16 << 20;

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
    #[error("{what} is signed by the key {found}, but {namespace} is trusted only with {}", expected.join(" and "))]
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
    #[error("{0} must have its publisher's signature, which a network mirror does not provide")]
    NoSignature(ProviderAddr),
    /// What was signed does not list the package, or with another checksum.
    #[error("`{filename}` is not what its publisher signed: {why}")]
    NotListed {
        /// The package.
        filename: String,
        /// What is wrong.
        why: String,
    },
    /// A version has other bytes than before.
    #[error(
        "{release}{} has the checksum {now}, but had {first} when this mirror first saw it: its publisher replaced it, or \
         it comes from somebody else",
        for_platform(platform)
    )]
    Changed {
        /// The version: `ADDRESS@VERSION`.
        release: String,
        /// The package's platform; `module` for a module.
        platform: String,
        /// The checksum that is pinned.
        first: String,
        /// The checksum that it has now.
        now: String,
    },
    /// A tag stands for something else than before.
    #[error(
        "the tag {tag} of {place} is {now}, but was {first} when this mirror first saw it: its publisher moved it, or it \
         comes from somebody else"
    )]
    Moved {
        /// The repository: `HOST/OWNER/REPO`.
        place: String,
        /// The tag.
        tag: String,
        /// The object that is pinned.
        first: String,
        /// The object that it is now.
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
    /// What the operator can do.
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

/// What the operator accepts although it is not what was trusted first.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Fingerprints of keys that may sign for any namespace from now on.
    pub keys: BTreeSet<String>,
    /// Fingerprints of keys whose end does not count.
    pub expired: Vec<String>,
    /// Versions whose packages may be other ones than before: `ADDRESS@VERSION`; and tags: `HOST/OWNER/REPO@TAG`.
    pub releases: BTreeSet<String>,
}

/// Decides about signatures and checksums, and remembers in the mirror what it trusted.
pub struct Trust {
    rules: BTreeMap<String, Rule>,
    known: Keys,
    accepted: Accepted,
    store: Store,
    pins: Pins,
    /// Whether nothing is written.
    is_dry: bool,
    /// Keys by which signatures were found good that the operator's rules name.
    seen: Mutex<Keys>,
}

impl Trust {
    /// For the mirror `store`. `known` are the keys in its lock file.
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

    /// The same with what the operator accepts.
    #[must_use]
    pub fn accepting(mut self, accepted: Accepted) -> Self {
        self.accepted = accepted;
        self
    }

    /// The same, writing nothing if `is_dry`.
    #[must_use]
    pub fn dry(mut self, is_dry: bool) -> Self {
        self.is_dry = is_dry;
        self
    }

    /// Trusts keys from now on that the operator names for a namespace.
    ///
    /// # Errors
    /// If that cannot be written.
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
                // Adding one must not make it the only one.
                let of_namespace = pinned
                    .entry(namespace)
                    .or_insert_with(|| signers(&store, signed));
                of_namespace.extend(fingerprints);
            }
        };
        self.pins.change_keys(change).await
    }

    /// Whether a provider needs no signature.
    pub fn is_unsigned(&self, addr: &ProviderAddr) -> bool {
        self.rules.get(&namespace(addr)) == Some(&Rule::Unsigned)
    }

    /// Whether only signatures of certain keys count, which the operator named.
    pub fn is_pinned(&self, addr: &ProviderAddr) -> bool {
        matches!(self.rules.get(&namespace(addr)), Some(Rule::Keys(_)))
    }

    /// Checks who signed `content`, which belongs to `what` of a namespace. The first key that signs is pinned when this
    /// returns. `before` is what the mirror has.
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

    /// Pins a key, unless others are trusted: those are returned.
    async fn pin(
        &self,
        before: &Generation,
        namespace: &str,
        found: &str,
        is_accepted: bool,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let pins = self.pins.clone();
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
            // Of a mirror that is older than its pins, or came from a bundle, those are trusted who signed what it has.
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

    /// Whether the operator accepts that a version has other bytes than before.
    pub(super) fn accepts(&self, name: &str, version: &Version) -> bool {
        let release = release_name(name, version);
        self.accepted.releases.contains(&release)
    }

    /// Whether the operator accepts that a tag stands for something else than before.
    pub(super) fn accepts_tag(&self, place: &str, tag: &str) -> bool {
        self.accepted.releases.contains(&tag_name(place, tag))
    }

    /// Compares checksums of a version with those that it was first seen with, and pins what is new. `before` is what
    /// the mirror has.
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

    /// Pins what a version has from now on.
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

    /// Compares the tags of a repository with what they were first seen as, and pins new ones. `has` are those that the
    /// mirror has of it. Returns an error for each tag that was moved.
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

    /// The checksums of a version that the mirror has: those of its packages, and what its publisher signed.
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

    /// The keys that are trusted from now on for what `generation` has, and those of the lock file.
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

/// Something that is signed, its signature, and the keys that may have made it, armored.
pub(super) struct Signature<'a> {
    pub(super) content: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) keys: &'a [String],
}

/// What a mirror has now; nothing if it is empty.
pub(super) async fn newest(store: &Store) -> Result<Generation, StoreError> {
    let store = store.clone();
    let newest = move || match store.newest() {
        Err(StoreError::Empty { .. }) => Ok(Generation::default()),
        newest => newest.map(|(_, generation)| generation),
    };
    blocking(newest).await
}

/// The list of checksums that a publisher signed, if there is one in the mirror.
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

/// `ADDRESS@VERSION`, as the operator names it.
pub(super) fn release_name(name: &str, version: &Version) -> String {
    format!("{name}@{version}")
}

/// `HOST/OWNER/REPO@TAG`, likewise.
fn tag_name(place: &str, tag: &str) -> String {
    format!("{place}@{tag}")
}

/// What was signed of a namespace in a mirror.
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

/// The keys that made these signatures. What the store lacks or does not hold good tells nothing. Blocks.
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
            // It is in the mirror because the operator accepted that.
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

/// Who publishes a provider: `HOST/NAMESPACE`.
pub(super) fn namespace(addr: &ProviderAddr) -> String {
    format!("{}/{}", addr.host(), addr.namespace())
}

/// The checksum of a file in a list of lines such as `HASH  NAME`.
pub(super) fn listed(list: &[u8], name: &str) -> Option<Digest> {
    let list = std::str::from_utf8(list).ok()?;
    list.lines().find_map(|line| {
        let (hash, file) = line.split_once("  ")?;
        let is_it = file.strip_prefix('*').unwrap_or(file) == name;
        is_it.then(|| hash.to_ascii_lowercase().parse().ok())?
    })
}

/// The packages of a version in such a list, by platform: file name and checksum. What is named otherwise is no package.
pub(super) fn listed_packages(
    list: &[u8],
    kind: &str,
    version: &Version,
) -> BTreeMap<Platform, (String, Digest)> {
    listed_files(list, &format!("terraform-provider-{kind}_{version}_"))
}

/// The checksums of the packages of a version in such a list.
pub(super) fn packages(list: &[u8], kind: &str, version: &Version) -> Checksums {
    checksums(listed_packages(list, kind, version))
}

/// The checksums of a version of a program in such a list.
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
