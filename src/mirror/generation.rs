//! What a mirror has: an index over files of the store that never changes once it is written.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde::{Deserialize, Serialize};

use super::Digest;
use crate::registry::{Hash, Platform, ProviderAddr};

/// Everything that one state of the mirror has. Lists are sorted, so that equal content is equal text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// Versions of providers.
    pub providers: Vec<Provider>,
    /// Versions of modules from registries.
    pub modules: Vec<Module>,
    /// Git repositories, each as one pack.
    pub git: Vec<GitRepository>,
    /// Engines, and this program.
    pub tools: Vec<Tool>,
    /// Files by their address.
    pub files: Vec<StaticFile>,
}

/// One version of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Where it comes from.
    pub addr: ProviderAddr,
    /// Its version.
    pub version: Version,
    /// Versions of the plugin protocol, such as `5.0`. Empty if its source does not tell.
    #[serde(default)]
    pub protocols: Vec<String>,
    /// The publisher's `SHA256SUMS` and what belongs to it; `None` if its source has none, as network mirrors do.
    #[serde(default)]
    pub signed: Option<Signed>,
    /// One for each platform.
    pub packages: Vec<Package>,
}

/// Checksums that a publisher signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The file `SHA256SUMS` as published.
    pub shasums: Digest,
    /// Its detached OpenPGP signature.
    pub signature: Digest,
    /// The publisher's keys, armored, as the registry gave them.
    pub keys: Vec<PublisherKey>,
}

/// A key that signs packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublisherKey {
    /// As the registry writes it: 16 hexadecimal digits in upper case.
    pub id: String,
    /// The key, armored.
    pub armored: Digest,
    /// A signature over the key by which the registry's operator vouches for it, armored. Engines show it as "partner".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trust_signature: String,
}

/// A provider's package for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Where it runs.
    pub platform: Platform,
    /// The name under which it was published: `terraform-provider-aws_5.100.0_linux_amd64.zip`.
    pub filename: String,
    /// The zip file.
    pub archive: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The `h1:` checksum of the zip file.
    pub h1_zip: Hash,
    /// The same of its files once they are unpacked. It differs if the zip file has entries for directories.
    pub h1_tree: Hash,
}

/// One version of a module from a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// `HOST/NAMESPACE/NAME/SYSTEM`.
    pub addr: String,
    /// Its version.
    pub version: Version,
    /// A `tar.gz` with the module at its top.
    pub archive: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where the registry sent us for it, with the commit if that is git; without credentials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

/// A git repository with the references that templates name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitRepository {
    /// Its address without credentials: `https://HOST/OWNER/REPO.git`.
    pub url: String,
    /// Full names such as `refs/tags/v1.0.0`, with the commits they stand for.
    pub refs: BTreeMap<String, String>,
    /// The branch that is meant where none is named.
    #[serde(default)]
    pub head: Option<String>,
    /// A pack with all objects.
    pub pack: Digest,
    /// The index of the pack.
    pub index: Digest,
}

/// A program: an engine, or this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `terraform`, `tofu` or `outpost`.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Where it runs.
    pub platform: Platform,
    /// The name under which it was published.
    pub filename: String,
    /// The archive as published.
    pub archive: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The publisher's checksums, if it was published with some.
    #[serde(default)]
    pub signed: Option<Signed>,
}

/// A file that templates or workspaces fetch by its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticFile {
    /// Its address without credentials.
    pub url: String,
    /// Its content.
    pub content: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl GitRepository {
    /// Its address without scheme and ending: `HOST/OWNER/REPO`.
    pub fn place(&self) -> &str {
        let place = self
            .url
            .split_once("://")
            .map_or(&*self.url, |(_, rest)| rest);
        place.trim_end_matches('/').trim_end_matches(".git")
    }

    /// The name of the pack, without an ending, as git expects names of packs to be.
    pub fn pack_name(&self) -> String {
        format!("pack-{}", &self.pack.to_string()[..40])
    }
}

impl Generation {
    /// Sorts all lists and drops what is there twice.
    pub fn normalize(&mut self) {
        self.providers
            .sort_by(|a, b| (&a.addr, &a.version).cmp(&(&b.addr, &b.version)));
        self.providers
            .dedup_by(|a, b| (&a.addr, &a.version) == (&b.addr, &b.version));
        for provider in &mut self.providers {
            provider
                .packages
                .sort_by(|a, b| a.platform.cmp(&b.platform));
            provider.packages.dedup_by(|a, b| a.platform == b.platform);
        }
        self.modules
            .sort_by(|a, b| (&a.addr, &a.version).cmp(&(&b.addr, &b.version)));
        self.modules
            .dedup_by(|a, b| (&a.addr, &a.version) == (&b.addr, &b.version));
        self.git.sort_by(|a, b| a.url.cmp(&b.url));
        self.git.dedup_by(|a, b| a.url == b.url);
        let tool = |tool: &Tool| {
            (
                tool.name.clone(),
                tool.version.clone(),
                tool.platform.clone(),
            )
        };
        self.tools.sort_by_key(tool);
        self.tools.dedup_by_key(|t| tool(t));
        self.files.sort_by(|a, b| a.url.cmp(&b.url));
        self.files.dedup_by(|a, b| a.url == b.url);
    }

    /// Adds what `other` has. Of what both have, `other` counts; packages for platforms add up.
    pub fn absorb(&mut self, other: Self) {
        for mut new in other.providers {
            let same = |old: &Provider| (&old.addr, &old.version) == (&new.addr, &new.version);
            if let Some(index) = self.providers.iter().position(same) {
                let old = self.providers.swap_remove(index);
                new.signed = new.signed.or(old.signed);
                if new.protocols.is_empty() {
                    new.protocols = old.protocols;
                }
                // Of equal ones the first stays.
                new.packages.extend(old.packages);
            }
            self.providers.push(new);
        }
        let Self {
            modules,
            git,
            tools,
            files,
            ..
        } = self;
        modules.splice(0..0, other.modules);
        tools.splice(0..0, other.tools);
        files.splice(0..0, other.files);
        for mut new in other.git {
            if let Some(index) = git.iter().position(|old| old.url == new.url) {
                // One pack has what its references need, so two of them cannot add up.
                new.head = new.head.or(git.swap_remove(index).head);
            }
            git.push(new);
        }
        self.normalize();
    }

    /// All files of the store that it needs.
    pub fn digests(&self) -> BTreeSet<Digest> {
        let mut all = BTreeSet::new();
        let signed = |signed: &Option<Signed>, all: &mut BTreeSet<Digest>| {
            if let Some(signed) = signed {
                all.extend([signed.shasums, signed.signature]);
                all.extend(signed.keys.iter().map(|key| key.armored));
            }
        };
        for provider in &self.providers {
            signed(&provider.signed, &mut all);
            all.extend(provider.packages.iter().map(|package| package.archive));
        }
        for tool in &self.tools {
            signed(&tool.signed, &mut all);
            all.insert(tool.archive);
        }
        all.extend(self.modules.iter().map(|module| module.archive));
        all.extend(self.git.iter().flat_map(|git| [git.pack, git.index]));
        all.extend(self.files.iter().map(|file| file.content));
        all
    }

    /// The package of a version for a platform.
    pub fn package(
        &self,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
    ) -> Option<&Package> {
        let mut providers = self.providers.iter();
        let provider = providers.find(|p| p.addr == *addr && p.version == *version)?;
        provider.packages.iter().find(|p| p.platform == *platform)
    }

    /// The newest version of a program that is there for a platform.
    pub fn newest_tool(&self, name: &str, platform: &Platform) -> Option<&Tool> {
        let fits = |tool: &&Tool| tool.name == name && tool.platform == *platform;
        self.tools
            .iter()
            .filter(fits)
            .max_by(|a, b| a.version.cmp(&b.version))
    }

    /// The versions of a provider, oldest first.
    pub fn versions<'a>(&'a self, addr: &'a ProviderAddr) -> impl Iterator<Item = &'a Provider> {
        self.providers
            .iter()
            .filter(move |provider| provider.addr == *addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(version: &str, platforms: &[&str]) -> Provider {
        let package = |platform: &&str| Package {
            platform: platform.parse().unwrap(),
            filename: format!("terraform-provider-demo_{version}_{platform}.zip"),
            archive: Digest::of(format!("{version} {platform}").as_bytes()),
            size: 1,
            h1_zip: Hash::H1([1; 32]),
            h1_tree: Hash::H1([1; 32]),
        };
        Provider {
            addr: "registry.example/acme/demo".to_owned().try_into().unwrap(),
            version: version.parse().unwrap(),
            protocols: vec!["5.0".to_owned()],
            signed: None,
            packages: platforms.iter().map(package).collect(),
        }
    }

    #[test]
    fn equal_content_is_equal_text_in_whatever_order_it_came() {
        let [old, new] = ["1.9.0", "1.10.0"].map(|v| provider(v, &["linux_arm64", "linux_amd64"]));
        let mut one = Generation {
            providers: vec![old.clone(), new.clone()],
            ..Default::default()
        };
        let mut two = Generation {
            providers: vec![new.clone(), old, new],
            ..Default::default()
        };

        one.normalize();
        two.normalize();

        assert_eq!(
            serde_json::to_string(&one).unwrap(),
            serde_json::to_string(&two).unwrap()
        );
        assert_eq!(one.digests().len(), 4);
        let versions: Vec<_> = one
            .versions(&one.providers[0].addr)
            .map(|p| p.version.to_string())
            .collect();
        assert_eq!(versions, ["1.9.0", "1.10.0"]);
    }

    #[test]
    fn an_index_with_what_we_do_not_know_is_refused() {
        let text = r#"{"providers": [], "gadgets": []}"#;

        let error = serde_json::from_str::<Generation>(text)
            .unwrap_err()
            .to_string();

        assert!(error.contains("unknown field `gadgets`"), "{error}");
    }
}
