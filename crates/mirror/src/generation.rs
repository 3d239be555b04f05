//! Contents of a mirror: an index of files in the store that never changes once it is written.

use std::collections::{BTreeMap, BTreeSet};

use outpost_base::registry::{Hash, Platform, ProviderAddr};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::{Digest, git};

/// Complete contents of the mirror at one time. Lists are sorted, so that equal content gives equal text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// Providers in all their versions.
    pub providers: Vec<Provider>,
    /// Modules from registries in all their versions.
    pub modules: Vec<Module>,
    /// Git repositories, each as one pack.
    pub git: Vec<GitRepository>,
    /// Engines, and this program.
    pub tools: Vec<Tool>,
    /// Files with their addresses.
    pub files: Vec<StaticFile>,
    /// Container images with their manifests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
}

/// One version of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Source address of the provider.
    pub addr: ProviderAddr,
    /// Version of the provider.
    pub version: Version,
    /// Versions of the plugin protocol, such as `5.0`. Empty if the source does not list them.
    #[serde(default)]
    pub protocols: Vec<String>,
    /// The publisher's signed checksums; `None` if the source has none, as for network mirrors.
    #[serde(default)]
    pub signed: Option<Signed>,
    /// Packages, one for each platform.
    pub packages: Vec<Package>,
}

/// Checksums that a publisher signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The file `SHA256SUMS` as published.
    pub shasums: Digest,
    /// Detached OpenPGP signature of that file.
    pub signature: Digest,
    /// The publisher's keys, armored, as the registry gave them.
    pub keys: Vec<PublisherKey>,
}

/// A key that signs packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublisherKey {
    /// Id of the key as the registry writes it: 16 hexadecimal digits in upper case.
    pub id: String,
    /// The key in OpenPGP's armor.
    pub armored: Digest,
    /// A signature over the key by which the registry's operator vouches for it, armored. Engines show it as "partner".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trust_signature: String,
}

/// A provider's package for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Platform that the package is for.
    pub platform: Platform,
    /// Name under which the package was published: `terraform-provider-aws_5.100.0_linux_amd64.zip`.
    pub filename: String,
    /// Digest of the zip file.
    pub archive: Digest,
    /// Length of the file in bytes.
    pub size: u64,
    /// `h1:` checksum of the zip file.
    pub h1_zip: Hash,
    /// `h1:` checksum of the unpacked files. It differs if the zip file has entries for directories.
    pub h1_tree: Hash,
}

/// One version of a module from a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Address of the module: `HOST/NAMESPACE/NAME/SYSTEM`.
    pub addr: String,
    /// Version of the module.
    pub version: Version,
    /// Digest of a `tar.gz` of the package that contains the module.
    pub archive: Digest,
    /// Length of the file in bytes.
    pub size: u64,
    /// Address to which the registry referred, with the commit if that is git; without credentials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    /// Directory of the module in the archive, which contains more because the module may use what is beside it.
    /// Empty for the archive's top.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dir: String,
}

/// A git repository with the references that templates name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitRepository {
    /// Address without credentials: `https://HOST/OWNER/REPO.git`.
    pub url: String,
    /// Commits by full names of references, such as `refs/tags/v1.0.0`.
    pub refs: BTreeMap<String, String>,
    /// Default branch, if the repository has one.
    #[serde(default)]
    pub head: Option<String>,
    /// Digest of a pack with all objects.
    pub pack: Digest,
    /// Digest of the pack's index.
    pub index: Digest,
}

/// A program: an engine, or this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Name of the program: `terraform`, `tofu` or `outpost`.
    pub name: String,
    /// Version of the program.
    pub version: Version,
    /// Platform that the program is for.
    pub platform: Platform,
    /// Name under which the archive was published.
    pub filename: String,
    /// Digest of the archive as published.
    pub archive: Digest,
    /// Length of the file in bytes.
    pub size: u64,
    /// The publisher's signed checksums, if there are any.
    #[serde(default)]
    pub signed: Option<Signed>,
}

/// A file that templates or workspaces fetch by its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticFile {
    /// Address of the file, without credentials.
    pub url: String,
    /// Digest of the content.
    pub content: Digest,
    /// Length of the file in bytes.
    pub size: u64,
}

/// A container image as its registry has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Name with the digest, and with a tag if there is one: `ghcr.io/acme/base:v1@sha256:…`.
    pub reference: String,
    /// Manifests of the image. Those that another one lists come before it, so the last one is the image's own.
    pub manifests: Vec<ImageManifest>,
    /// Configurations and layers of all manifests.
    pub blobs: Vec<ImageBlob>,
}

/// A manifest of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// Digest of the manifest as published.
    pub digest: Digest,
    /// Media type of the manifest, for registries.
    pub media_type: String,
}

/// A configuration or a layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageBlob {
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the file in bytes.
    pub size: u64,
}

impl Image {
    /// Returns all files of the store that the image needs.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let manifests = self.manifests.iter().map(|manifest| manifest.digest);
        manifests.chain(self.blobs.iter().map(|blob| blob.digest))
    }
}

impl GitRepository {
    /// Returns the address without scheme and suffix: `HOST/OWNER/REPO`.
    pub fn place(&self) -> &str {
        git::place(&self.url)
    }

    /// Returns the name of the pack without its suffix, in git's form.
    pub(crate) fn pack_name(&self) -> String {
        format!("pack-{}", &self.pack.to_string()[..40])
    }
}

impl Generation {
    /// Sorts all lists and removes duplicates.
    pub(crate) fn normalize(&mut self) {
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
        self.images.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.images.dedup_by(|a, b| a.reference == b.reference);
    }

    /// Adds the contents of `other`, which replace existing entries; packages for different platforms are merged.
    pub(crate) fn absorb(&mut self, other: Self) {
        for mut new in other.providers {
            let same = |old: &Provider| (&old.addr, &old.version) == (&new.addr, &new.version);
            if let Some(index) = self.providers.iter().position(same) {
                let old = self.providers.swap_remove(index);
                new.signed = new.signed.or(old.signed);
                if new.protocols.is_empty() {
                    new.protocols = old.protocols;
                }
                // Of equal packages the first one stays.
                new.packages.extend(old.packages);
            }
            self.providers.push(new);
        }
        let Self {
            modules,
            git,
            tools,
            files,
            images,
            ..
        } = self;
        modules.splice(0..0, other.modules);
        tools.splice(0..0, other.tools);
        files.splice(0..0, other.files);
        images.splice(0..0, other.images);
        for mut new in other.git {
            // A pack contains only what its own references need, so two packs cannot be merged. The address may have
            // another form.
            let same = git.extract_if(.., |old| old.place() == new.place());
            let head = same.last().and_then(|old| old.head);
            new.head = new.head.or(head);
            git.push(new);
        }
        self.normalize();
    }

    /// Returns all files of the store that the generation needs.
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
        all.extend(self.images.iter().flat_map(Image::digests));
        all
    }

    /// Returns the lengths of files as the index has them.
    pub fn sizes(&self) -> Vec<(Digest, u64)> {
        let packages = self
            .providers
            .iter()
            .flat_map(|provider| &provider.packages);
        let mut sizes: Vec<_> = packages.map(|p| (p.archive, p.size)).collect();
        sizes.extend(
            self.modules
                .iter()
                .map(|module| (module.archive, module.size)),
        );
        sizes.extend(self.tools.iter().map(|tool| (tool.archive, tool.size)));
        sizes.extend(self.files.iter().map(|file| (file.content, file.size)));
        sizes
    }

    /// Returns descriptions of files that people understand.
    pub fn named(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<(Digest, String)> {
        let mut names = BTreeMap::new();
        let mut signed = |signed: &Option<Signed>, of: &str| {
            if let Some(signed) = signed {
                names.insert(signed.shasums, format!("checksums of {of}"));
                names.insert(signed.signature, format!("signature of {of}"));
                for key in &signed.keys {
                    names.insert(key.armored, format!("key {} of {of}", key.id));
                }
            }
        };
        for provider in &self.providers {
            signed(
                &provider.signed,
                &format!("{} {}", provider.addr, provider.version),
            );
        }
        for tool in &self.tools {
            signed(&tool.signed, &format!("{} {}", tool.name, tool.version));
        }
        for provider in &self.providers {
            for package in &provider.packages {
                let name = format!(
                    "{} {} {}",
                    provider.addr, provider.version, package.platform
                );
                names.insert(package.archive, name);
            }
        }
        for tool in &self.tools {
            let name = format!("{} {} {}", tool.name, tool.version, tool.platform);
            names.insert(tool.archive, name);
        }
        for module in &self.modules {
            names.insert(
                module.archive,
                format!("module {} {}", module.addr, module.version),
            );
        }
        for git in &self.git {
            names.insert(git.pack, format!("objects of {}", git.url));
            names.insert(git.index, format!("index of {}", git.url));
        }
        names.extend(
            self.files
                .iter()
                .map(|file| (file.content, file.url.clone())),
        );
        let name = |digest: &Digest| names.get(digest).cloned().unwrap_or_default();
        digests
            .into_iter()
            .map(|digest| (digest, name(&digest)))
            .collect()
    }

    /// Checks names that become paths and addresses. A generation from elsewhere is refused if a name in it could
    /// lead outside of the mirror, or if it is not in its normal order.
    ///
    /// # Errors
    /// The first invalid name.
    pub fn check(&self) -> Result<(), String> {
        let mut sorted = self.clone();
        sorted.normalize();
        if sorted != *self {
            return Err("has a generation with unsorted or duplicate entries".to_owned());
        }
        let packages = self
            .providers
            .iter()
            .flat_map(|provider| &provider.packages);
        let files = packages
            .map(|p| &p.filename)
            .chain(self.tools.iter().map(|t| &t.filename));
        for name in files.chain(self.tools.iter().map(|tool| &tool.name)) {
            refuse_unless(is_file_name(name), "file", name)?;
        }
        for protocol in self
            .providers
            .iter()
            .flat_map(|provider| &provider.protocols)
        {
            let is_good = !protocol.is_empty() && protocol.len() < 16;
            let is_good = is_good && protocol.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            refuse_unless(is_good, "protocol", protocol)?;
        }
        let of_providers = self.providers.iter().map(|provider| &provider.signed);
        let signed = of_providers.chain(self.tools.iter().map(|tool| &tool.signed));
        for key in signed.flatten().flat_map(|signed| &signed.keys) {
            let is_good = key.id.len() <= 64 && key.id.bytes().all(|b| b.is_ascii_hexdigit());
            refuse_unless(is_good, "key", &key.id)?;
        }
        for module in &self.modules {
            let parts: Vec<_> = module.addr.split('/').collect();
            let is_good = parts.len() == 4 && parts.iter().all(|part| is_file_name(part));
            refuse_unless(is_good, "module", &module.addr)?;
            let is_good = module.dir.is_empty() || is_package_dir(&module.dir);
            refuse_unless(is_good, "directory", &module.dir)?;
        }
        let urls = self
            .git
            .iter()
            .map(|git| &git.url)
            .chain(self.files.iter().map(|f| &f.url));
        for url in urls {
            refuse_unless(is_address(url), "address", url)?;
        }
        for git in &self.git {
            for name in git.refs.keys().chain(git.head.as_ref()) {
                let is_good = name.split('/').all(is_file_name) && name.len() <= 255;
                refuse_unless(is_good, "reference", name)?;
            }
            for commit in git.refs.values() {
                let is_good = matches!(commit.len(), 40 | 64);
                let is_good = is_good && commit.bytes().all(|b| b.is_ascii_hexdigit());
                refuse_unless(is_good, "commit", commit)?;
            }
        }
        Ok(())
    }

    /// Returns the package of a version for a platform.
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

    /// Returns the newest version of a program for a platform.
    pub fn newest_tool(&self, name: &str, platform: &Platform) -> Option<&Tool> {
        let fits = |tool: &&Tool| tool.name == name && tool.platform == *platform;
        self.tools
            .iter()
            .filter(fits)
            .max_by(|a, b| a.version.cmp(&b.version))
    }

    /// Returns all platforms for which there is any provider.
    pub fn platforms(&self) -> Vec<Platform> {
        let packages = self
            .providers
            .iter()
            .flat_map(|provider| &provider.packages);
        let platforms: BTreeSet<_> = packages.map(|package| package.platform.clone()).collect();
        platforms.into_iter().collect()
    }

    /// Returns the versions of providers that no publisher signed. Registries have no way to offer them.
    pub fn unsigned(&self) -> impl Iterator<Item = &Provider> {
        self.providers
            .iter()
            .filter(|provider| provider.signed.is_none())
    }

    /// Returns the versions of a provider, oldest first.
    pub fn versions<'a>(&'a self, addr: &'a ProviderAddr) -> impl Iterator<Item = &'a Provider> {
        self.providers
            .iter()
            .filter(move |provider| provider.addr == *addr)
    }
}

fn refuse_unless(is_good: bool, what: &str, name: &str) -> Result<(), String> {
    let short: String = name.chars().take(80).collect(); // A hostile name may have any length.
    is_good
        .then_some(())
        .ok_or_else(|| format!("has {short:?}, which is not a valid name for a {what}"))
}

/// Returns whether a name is a single part of a path that is not hidden, leads nowhere else, and contains no end of a
/// line.
fn is_file_name(name: &str) -> bool {
    let is_good = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':' | ' ');
    (1..=255).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_good)
}

/// Returns whether a directory of a package can be part of a module's address unchanged: nothing in it has to be
/// escaped, and it leads nowhere else.
pub(super) fn is_package_dir(dir: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+~@,".contains(c);
    let is_good =
        |part: &str| !part.is_empty() && !matches!(part, "." | "..") && part.chars().all(is_plain);
    dir.len() <= 1024 && dir.split('/').all(is_good)
}

/// Returns whether a text is an address without credentials that can be mapped to one below our own server.
fn is_address(text: &str) -> bool {
    let is_plain = text.len() <= 4096
        && !text
            .split(['/', '\\'])
            .any(|part| matches!(part, "." | ".."));
    let url = url::Url::parse(text).ok().filter(|_| is_plain);
    url.is_some_and(|url| {
        let is_known = matches!(url.scheme(), "https" | "http" | "ssh" | "git");
        is_known && url.has_host() && url.password().is_none() && !text.contains(char::is_control)
    })
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
    fn a_name_that_leads_elsewhere_is_refused() {
        let good = Generation {
            providers: vec![provider("1.9.0", &["linux_amd64"])],
            ..Default::default()
        };
        assert_eq!(good.check(), Ok(()));
        for name in [
            "",
            "..",
            ".hidden",
            "a/b",
            "a\\b",
            "a\nb",
            "C:evil",
            &"x".repeat(300),
        ] {
            let mut bad = good.clone();
            name.clone_into(&mut bad.providers[0].packages[0].filename);
            assert!(
                bad.check()
                    .unwrap_err()
                    .contains("not a valid name for a file"),
                "{name:?}"
            );
        }
        let mut twice = good.clone();
        twice.providers.extend(good.providers);
        assert!(twice.check().unwrap_err().contains("duplicate"));
        let module = |addr: &str| Module {
            addr: addr.to_owned(),
            version: "1.0.0".parse().unwrap(),
            archive: Digest::of(b""),
            size: 0,
            origin: String::new(),
            dir: String::new(),
        };
        for (addr, is_good) in [("host/a/b/c", true), ("host/../b/c", false), ("a/b", false)] {
            let modules = vec![module(addr)];
            let generation = Generation {
                modules,
                ..Default::default()
            };
            assert_eq!(generation.check().is_ok(), is_good, "{addr}");
        }
        for (dir, is_good) in [
            ("modules/vpc", true),
            (".hidden/v1.0", true),
            ("../vpc", false),
            ("a//b", false),
            ("/a", false),
            ("a?archive=zip", false),
            ("a%2e", false),
        ] {
            let mut module = module("host/a/b/c");
            dir.clone_into(&mut module.dir);
            let generation = Generation {
                modules: vec![module],
                ..Default::default()
            };
            assert_eq!(generation.check().is_ok(), is_good, "{dir}");
        }
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
