//! What a `mirror.toml` names besides templates and providers.

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

/// Versions of a module.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleEntry {
    /// Its address. Without a host it is every engine's own registry.
    pub source: ModuleSource,
    /// Which versions; each entry counts for itself.
    #[serde(default)]
    pub versions: Vec<Pick>,
    /// How many of those that an entry allows.
    #[serde(default = "super::newest")]
    pub policy: Policy,
    /// How many `last-n` keeps.
    #[serde(default = "super::one")]
    pub keep: usize,
}

impl ModuleEntry {
    /// One version of a module by its address with the host; `None` if it is no such address.
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
    /// The registry, if one is named.
    pub host: Option<String>,
    /// `NAMESPACE/NAME/SYSTEM`.
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

/// A git repository.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitEntry {
    /// Its address without credentials, in any form in which templates name it.
    #[serde(deserialize_with = "repository")]
    pub url: String,
    /// Branches and tags, with `*` for anything; what templates name comes, too. Without it all of them.
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
    /// Whether a reference is wanted: `refs/tags/v1`.
    pub fn wants(&self, name: &str) -> bool {
        let short = ["refs/heads/", "refs/tags/"]
            .iter()
            .find_map(|kind| name.strip_prefix(kind));
        let fits = |pattern: &String| matches(pattern, short.unwrap_or(name));
        self.refs.is_empty() || self.refs.iter().any(fits)
    }
}

/// Whether a name fits a pattern in which `*` stands for anything.
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
    /// Which one.
    pub name: Program,
    /// Which versions; each entry counts for itself. Without it the newest.
    #[serde(default)]
    pub versions: Vec<Pick>,
    /// Where it runs.
    #[serde(default)]
    pub platforms: Option<Vec<Platform>>,
    /// The releases site, if not the publisher's own.
    #[serde(default)]
    pub url: Option<Address>,
    /// A file with the publisher's key, if not the one that is known.
    #[serde(default)]
    pub key: Option<String>,
    /// A file that is taken for `outpost`, if not the program that runs.
    #[serde(default)]
    pub path: Option<String>,
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// Terraform.
    Terraform,
    /// OpenTofu.
    Tofu,
    /// This one.
    Outpost,
}

impl Program {
    /// As its file is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terraform => "terraform",
            Self::Tofu => "tofu",
            Self::Outpost => "outpost",
        }
    }
}

/// A file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its address.
    pub url: Address,
    /// What it must be.
    pub sha256: Digest,
}

/// An address on the web.
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
