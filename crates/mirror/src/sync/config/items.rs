//! Entries of a `mirror.toml` other than templates and providers.

use std::fmt;

use outpost_base::registry::{DEFAULT_HOST, Platform};
use semver::Version;
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

use crate::{
    Digest,
    resolve::{Pick, Policy},
    scan,
};

/// Versions of a module that are wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleEntry {
    /// Address of the module. Without a host it refers to the registry of each engine.
    pub source: ModuleSource,
    /// Wanted versions; each element is resolved separately.
    #[serde(default)]
    pub versions: Vec<Pick>,
    /// Policy for the versions that an element permits.
    #[serde(default = "super::newest")]
    pub policy: Policy,
    /// Number of versions that `last-n` keeps.
    #[serde(default = "super::one")]
    pub keep: usize,
}

impl ModuleEntry {
    /// Returns the entry for one version of a module by its address with the host; `None` if the address is not
    /// valid.
    pub fn of(address: &str, version: &Version) -> Option<Self> {
        Some(Self {
            source: address.to_owned().try_into().ok()?,
            versions: vec![version.to_string().parse().ok()?],
            policy: super::newest(),
            keep: super::one(),
        })
    }
}

/// The address of a module in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ModuleSource {
    /// Host of the registry, if one is named.
    pub host: Option<String>,
    /// Path of the module: `NAMESPACE/NAME/SYSTEM`.
    pub path: String,
}

impl TryFrom<String> for ModuleSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match scan::Source::parse(&text) {
            scan::Source::Registry { host, path, dir } if dir.is_empty() => Ok(Self { host, path }),
            _ => Err(format!(
                "{text:?} is not a registry module: expected [HOST/]NAMESPACE/NAME/SYSTEM"
            )),
        }
    }
}

impl fmt::Display for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or(DEFAULT_HOST);
        write!(f, "{host}/{}", self.path)
    }
}

/// A git repository that is wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitEntry {
    /// Address without credentials, in any form that templates use.
    #[serde(deserialize_with = "repository")]
    pub url: String,
    /// Branches and tags, with `*` for any text, in addition to those that templates name. Empty for all.
    #[serde(default)]
    pub refs: Vec<String>,
}

fn repository<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    scan::repository(&text).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is not a repository URL: expected https://HOST/PATH or git@HOST:PATH, with `refs` beside it"
        ))
    })
}

impl GitEntry {
    /// Returns whether a reference such as `refs/tags/v1` is wanted.
    pub fn wants(&self, name: &str) -> bool {
        let short = ["refs/heads/", "refs/tags/"]
            .iter()
            .find_map(|kind| name.strip_prefix(kind));
        let fits = |pattern: &String| matches(pattern, short.unwrap_or(name));
        self.refs.is_empty() || self.refs.iter().any(fits)
    }
}

/// Returns whether a name matches a pattern in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let rest = name.strip_prefix(before);
    rest.is_some_and(|rest| {
        (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
    })
}

/// A program from its publisher's releases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// Name of the program.
    pub name: Program,
    /// Wanted versions; each element is resolved separately. Empty for the newest one.
    #[serde(default)]
    pub versions: Vec<Pick>,
    /// Platforms of the program; `None` for the mirror's default.
    #[serde(default)]
    pub platforms: Option<Vec<Platform>>,
    /// Address of the releases, if not the publisher's own.
    #[serde(default)]
    pub url: Option<Address>,
    /// File with the publisher's key, if not the one that is built in.
    #[serde(default)]
    pub key: Option<String>,
    /// File that is used for `outpost`, if not the running program.
    #[serde(default)]
    pub path: Option<String>,
}

/// A program that a mirror can provide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// HashiCorp's engine, the program `terraform`.
    Terraform,
    /// The engine `tofu`, a fork of Terraform.
    Tofu,
    /// This program itself, `outpost`.
    Outpost,
}

impl Program {
    /// Returns the name of the program's file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terraform => "terraform",
            Self::Tofu => "tofu",
            Self::Outpost => "outpost",
        }
    }
}

/// A file that is wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Address of the file.
    pub url: Address,
    /// Digest that the file must have.
    pub(crate) sha256: Digest,
}

/// An `http` or `https` address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(pub Url);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        url.map(Self)
            .ok_or_else(|| "expected a URL that begins with https://".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_wanted_by_pattern_or_all() {
        let entry = |refs: &[&str]| GitEntry {
            url: String::new(),
            refs: refs.iter().map(|text| (*text).to_owned()).collect(),
        };

        assert!(entry(&[]).wants("refs/heads/any"));
        let some = entry(&["v1.*", "main"]);
        assert!(some.wants("refs/tags/v1.2") && some.wants("refs/heads/main"));
        assert!(!some.wants("refs/tags/v2.0") && !some.wants("refs/heads/maintenance"));
    }
}
