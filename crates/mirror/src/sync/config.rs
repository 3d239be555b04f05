//! `mirror.toml`: the wanted contents of a mirror.

mod items;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use outpost_base::{
    registry::{AddrError, DEFAULT_HOST, OPENTOFU_HOST, Platform, ProviderAddr},
    secret::Secret,
};
use semver::Version;
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

use crate::{
    fetch::registry::{Services, base},
    images,
    resolve::{Pick, Policy},
};

pub use self::items::{
    FileEntry, GitEntry, ModuleEntry, ModuleSource, Program, ToolEntry, matches,
};

/// Maximum size of the file in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Wanted contents of a mirror.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// Platforms of providers and engines, unless an entry has its own.
    #[serde(default = "here")]
    pub platforms: Vec<Platform>,
    /// Engines in use; they decide which registry an address without a host refers to.
    #[serde(default = "terraform")]
    pub engines: Vec<Engine>,
    /// Templates whose needs are satisfied.
    #[serde(default)]
    pub templates: Vec<TemplateEntry>,
    /// Providers that are wanted by address.
    #[serde(default)]
    pub providers: Vec<ProviderEntry>,
    /// Container images that are wanted.
    #[serde(default)]
    pub images: Vec<ImageEntry>,
    /// Modules that are wanted by address.
    #[serde(default)]
    pub modules: Vec<ModuleEntry>,
    /// Git repositories that are wanted.
    #[serde(default)]
    pub git: Vec<GitEntry>,
    /// Engines, and this program.
    #[serde(default)]
    pub tools: Vec<ToolEntry>,
    /// Files with their addresses.
    #[serde(default)]
    pub files: Vec<FileEntry>,
    /// Trusted keys by `HOST/NAMESPACE`.
    #[serde(default)]
    pub trust: BTreeMap<String, Rule>,
    /// Services of hosts, as the `host` blocks of a CLI configuration define them.
    #[serde(default, deserialize_with = "hosts")]
    pub hosts: BTreeMap<String, Services>,
    /// Directory of the file, to which paths in it are relative.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// Templates, with a selection among the versions of their providers.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "TemplateForm")]
pub struct TemplateEntry {
    /// Location of the templates.
    pub source: TemplateSource,
    /// Selection among the versions of providers.
    pub versions: Versions,
    /// Platforms of the providers; `None` for the mirror's default.
    pub platforms: Option<Vec<Platform>>,
}

/// Location of some templates.
#[derive(Clone, Debug)]
pub enum TemplateSource {
    /// A directory or a tar archive. A part may contain `*` for any text in a name, or be `**` for any directories.
    Path(String),
    /// The active versions of all templates of a Coder server.
    Coder {
        /// Address of the server.
        url: Url,
        /// File with a session token; without one the token is in `CODER_SESSION_TOKEN`.
        token_file: Option<PathBuf>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateForm {
    path: Option<String>,
    coder: Option<String>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    versions: Versions,
    #[serde(default)]
    platforms: Option<Vec<Platform>>,
}

impl TryFrom<TemplateForm> for TemplateEntry {
    type Error = &'static str;

    fn try_from(form: TemplateForm) -> Result<Self, Self::Error> {
        let source = match (form.path, form.coder, form.token_file) {
            (Some(path), None, None) => TemplateSource::Path(path),
            (None, Some(text), token_file) => {
                let url = Url::parse(&text).ok();
                let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
                let url = url.ok_or("`coder` is not a server URL: it must begin with https://")?;
                TemplateSource::Coder { url, token_file }
            }
            _ => {
                return Err(
                    "templates need either a `path`, or a server in `coder` with a `token_file`",
                );
            }
        };
        Ok(Self {
            source,
            versions: form.versions,
            platforms: form.platforms,
        })
    }
}

/// Selection among the versions that a template accepts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Policy of the selection.
    #[serde(default = "locked_newest")]
    pub policy: Policy,
    /// Number of versions that `last-n` keeps.
    #[serde(default = "one")]
    pub keep: usize,
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            policy: locked_newest(),
            keep: one(),
        }
    }
}

/// A container image that is wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEntry {
    /// Name with the digest, and with the tag that the image should have: `ghcr.io/acme/base:v1@sha256:…`.
    #[serde(deserialize_with = "image")]
    pub reference: String,
    /// User name at the image's registry.
    #[serde(default)]
    pub username: Option<String>,
    /// File with the password or a token.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

impl ImageEntry {
    /// Returns the user name, with the password from its file; `None` without a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn login(&self) -> io::Result<Option<(String, Secret)>> {
        let Some(path) = &self.password_file else {
            return Ok(None);
        };
        let password = Secret::new(fs::read_to_string(path)?.trim());
        Ok(Some((self.username.clone().unwrap_or_default(), password)))
    }

    /// Returns whether the image's registry is on this machine, where HTTP without TLS is used.
    pub fn is_local(&self) -> bool {
        let local = ["127.0.0.1", "localhost", "[::1]"];
        let host = self.reference.split(['/', ':']).next().unwrap_or_default();
        local.contains(&host)
    }
}

fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    images::parse(&text).map_err(D::Error::custom)?;
    Ok(text)
}

/// An engine that templates are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// HashiCorp's engine, the program `terraform`.
    Terraform,
    /// The engine `tofu`, a fork of Terraform.
    Tofu,
}

impl Engine {
    /// Returns the registry of addresses without a host.
    pub fn default_host(self) -> &'static str {
        match self {
            Self::Terraform => DEFAULT_HOST,
            Self::Tofu => OPENTOFU_HOST,
        }
    }
}

/// Versions of a provider that are wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderEntry {
    /// Address of the provider. Without a host it refers to the registry of each engine.
    pub source: Source,
    /// Wanted versions; each element is resolved separately.
    #[serde(default)]
    pub versions: Vec<Pick>,
    /// Policy for the versions that an element permits.
    #[serde(default = "newest")]
    pub policy: Policy,
    /// Number of versions that `last-n` keeps.
    #[serde(default = "one")]
    pub keep: usize,
    /// Platforms of the provider; `None` for the mirror's default.
    #[serde(default)]
    pub platforms: Option<Vec<Platform>>,
}

impl ProviderEntry {
    /// Returns the entry for one version of one provider; `None` if the version cannot be expressed as a constraint.
    pub fn of(addr: &ProviderAddr, version: &Version) -> Option<Self> {
        Some(Self {
            source: Source(addr.to_string()),
            versions: vec![version.to_string().parse().ok()?],
            policy: newest(),
            keep: one(),
            platforms: None,
        })
    }
}

/// The address of a provider as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Source(String);

impl TryFrom<String> for Source {
    type Error = AddrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        ProviderAddr::parse(&text, DEFAULT_HOST).map(|_| Self(text))
    }
}

impl Source {
    /// Returns the providers that the address refers to, one for each engine.
    pub(crate) fn addrs(&self, engines: &[Engine]) -> Vec<ProviderAddr> {
        let of_engine = |engine: &Engine| ProviderAddr::parse(&self.0, engine.default_host()).ok();
        let mut addrs: Vec<_> = engines.iter().filter_map(of_engine).collect();
        addrs.sort();
        addrs.dedup();
        addrs
    }
}

/// Packages that are trusted in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Packages signed by one of these keys: fingerprints in upper case.
    Keys(Vec<String>),
    /// Packages signed by the key that signed the first one.
    FirstUse,
    /// All packages, even without a signature.
    Unsigned,
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Word(String),
            Keys(Vec<String>),
        }
        const EXPECTED: &str =
            "expected fingerprints, \"tofu\" (trust on first use) or \"unsigned\"";
        match Form::deserialize(deserializer).map_err(|_| D::Error::custom(EXPECTED))? {
            Form::Word(word) if word == "tofu" => Ok(Self::FirstUse),
            Form::Word(word) if word == "unsigned" => Ok(Self::Unsigned),
            Form::Word(_) => Err(D::Error::custom(EXPECTED)),
            Form::Keys(keys) => keys
                .iter()
                .map(|key| fingerprint(key).ok_or_else(|| D::Error::custom(wrong_fingerprint(key))))
                .collect::<Result<_, _>>()
                .map(Self::Keys),
        }
    }
}

fn wrong_fingerprint(text: &str) -> String {
    format!("{text:?} is not a fingerprint: expected 40 or 64 hexadecimal digits")
}

/// Normalizes a fingerprint with spaces or in lower case; `None` if it is not valid.
pub fn fingerprint(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
    (is_hex && matches!(digits.len(), 40 | 64)).then(|| digits.to_ascii_uppercase())
}

fn hosts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Services>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Host {
        #[serde(rename = "providers.v1")]
        providers: Option<String>,
        #[serde(rename = "modules.v1")]
        modules: Option<String>,
    }
    let hosts = BTreeMap::<String, Host>::deserialize(deserializer)?;
    let service = |text: Option<String>| match text {
        None => Ok(None),
        Some(text) => {
            let url = Url::parse(&text).ok().and_then(|url| base(&url, ""));
            let wrong = || D::Error::custom(format!("{text:?} is not a service URL"));
            url.map(Some).ok_or_else(wrong)
        }
    };
    let services = |(name, host): (String, Host)| {
        let (providers, modules) = (service(host.providers)?, service(host.modules)?);
        Ok((name.to_lowercase(), Services { providers, modules }))
    };
    hosts.into_iter().map(services).collect()
}

fn here() -> Vec<Platform> {
    vec![Platform::current()]
}

fn terraform() -> Vec<Engine> {
    vec![Engine::Terraform]
}

fn newest() -> Policy {
    Policy::Newest
}

fn locked_newest() -> Policy {
    Policy::LockedNewest
}

fn one() -> usize {
    1
}

impl Default for MirrorConfig {
    fn default() -> Self {
        toml::from_str("").expect("everything has a default")
    }
}

/// Reason why a `mirror.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MirrorConfigError {
    /// The file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The contents are not valid.
    #[error("`{}` line {line}: {what}", path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line, counted from 1.
        line: usize,
        /// Problem in this line.
        what: String,
    },
}

impl MirrorConfig {
    /// Reads a file and checks it.
    ///
    /// # Errors
    /// [`MirrorConfigError`] with the line.
    pub fn load(path: &Path) -> Result<Self, MirrorConfigError> {
        let read = || {
            if fs::metadata(path)?.len() > MAX_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            fs::read_to_string(path)
        };
        let text = read().map_err(|source| MirrorConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text).map_err(|(line, what)| MirrorConfigError::Invalid {
            path: path.to_owned(),
            line,
            what,
        })?;
        path.parent()
            .unwrap_or(Path::new(""))
            .clone_into(&mut config.dir);
        Ok(config)
    }

    /// Parses the text of a file. An error is a line and the problem in it.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..before].matches('\n').count() + 1;
            (line, error.message().trim_end().replace('\n', "; "))
        })?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_without_a_host_is_each_engines_own() {
        let config = MirrorConfig::parse(
            "engines = [\"terraform\", \"tofu\"]\n[[providers]]\nsource = \"coder/coder\"\n",
        )
        .unwrap();

        let addrs = config.providers[0].source.addrs(&config.engines);

        let texts: Vec<_> = addrs.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "registry.opentofu.org/coder/coder",
                "registry.terraform.io/coder/coder"
            ]
        );
    }

    #[test]
    fn templates_are_in_one_place() {
        for (text, is_good) in [
            ("path = \"a/**\"", true),
            ("coder = \"https://coder.example\"", true),
            (
                "coder = \"https://coder.example\"\ntoken_file = \"token\"",
                true,
            ),
            ("coder = \"ftp://coder.example\"", false),
            ("path = \"a\"\ncoder = \"https://coder.example\"", false),
            ("path = \"a\"\ntoken_file = \"token\"", false),
            ("versions = { keep = 1 }", false),
        ] {
            let parsed = MirrorConfig::parse(&format!("[[templates]]\n{text}\n"));
            assert_eq!(parsed.is_ok(), is_good, "{text}: {parsed:?}");
        }
    }

    #[test]
    fn an_error_names_its_line_and_what_would_be_right() {
        let cases = [
            ("platforms = [\"linux\"]", 1, "OS_ARCH"),
            (
                "\n\n[[providers]]\nsource = \"a/b/c/d\"",
                4,
                "[HOST/]NAMESPACE/TYPE",
            ),
            (
                "[[providers]]\nsource = \"a/b\"\nversions = [\"=> 1\"]",
                3,
                "=> 1",
            ),
            (
                "[[providers]]\nsource = \"a/b\"\npolicy = \"latest\"",
                3,
                "last-n",
            ),
            ("[trust]\n\"a/b\" = \"everybody\"", 2, "trust on first use"),
            ("[trust]\n\"a/b\" = [\"72D7468F\"]", 2, "40 or 64"),
            (
                "[hosts.\"a.example\"]\n\"providers.v1\" = \"ftp://x/\"",
                2,
                "service",
            ),
            ("[[provider]]", 1, "unknown field `provider`"),
            (
                "[[modules]]\nsource = \"./beside\"",
                2,
                "NAMESPACE/NAME/SYSTEM",
            ),
            ("[[tools]]\nname = \"pulumi\"", 2, "terraform"),
            ("[[files]]\nurl = \"https://files.example/x\"", 1, "sha256"),
        ];
        for (text, line, part) in cases {
            let (found, what) = MirrorConfig::parse(text).unwrap_err();
            assert!(what.contains(part), "{text}: {what}");
            assert!(found.abs_diff(line) <= 1, "{text}: line {found}");
        }
    }

    #[test]
    fn the_annotated_example_can_be_read() {
        let text = include_str!("../../../../examples/mirror.toml");

        let config = MirrorConfig::parse(text).unwrap();

        assert_eq!(config.providers.len(), 2);
        assert!(
            MirrorConfig::parse(
                &text
                    .replace("\n# [hosts", "\n[hosts")
                    .replace("# \"prov", "\"prov")
            )
            .is_ok()
        );
    }

    #[test]
    fn fingerprints_are_read_in_any_form() {
        let text = "c874 011f 0ab4 0511 0d02  1055 3436 5d94 72d7 468f";

        assert_eq!(
            fingerprint(text).as_deref(),
            Some("C874011F0AB405110D02105534365D9472D7468F")
        );
    }
}
