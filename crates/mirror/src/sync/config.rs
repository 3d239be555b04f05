//! `mirror.toml`: what a mirror should have.

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

/// Bytes of the file.
const MAX_BYTES: u64 = 4 << 20;

/// What a mirror should have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// Where providers and engines run, unless a wish says otherwise.
    #[serde(default = "here")]
    pub platforms: Vec<Platform>,
    /// Which engines are used; they decide which registry is meant where none is named.
    #[serde(default = "terraform")]
    pub engines: Vec<Engine>,
    /// Templates whose needs are to be met.
    #[serde(default)]
    pub templates: Vec<TemplateEntry>,
    /// Providers by name.
    #[serde(default)]
    pub providers: Vec<ProviderEntry>,
    /// Container images.
    #[serde(default)]
    pub images: Vec<ImageEntry>,
    /// Modules by name.
    #[serde(default)]
    pub modules: Vec<ModuleEntry>,
    /// Git repositories.
    #[serde(default)]
    pub git: Vec<GitEntry>,
    /// Engines, and this program.
    #[serde(default)]
    pub tools: Vec<ToolEntry>,
    /// Files by their address.
    #[serde(default)]
    pub files: Vec<FileEntry>,
    /// Whose keys are trusted, by `HOST/NAMESPACE`.
    #[serde(default)]
    pub trust: BTreeMap<String, Rule>,
    /// Where hosts have their services, as the `host` blocks of an engine's configuration say it.
    #[serde(default, deserialize_with = "hosts")]
    pub hosts: BTreeMap<String, Services>,
    /// Where the file is: paths in it begin there.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// Templates, and which versions of what they need.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "TemplateForm")]
pub struct TemplateEntry {
    /// Where they are.
    pub source: TemplateSource,
    /// Which versions of providers.
    pub versions: Versions,
    /// Where providers run.
    pub platforms: Option<Vec<Platform>>,
}

/// Where templates are.
#[derive(Clone, Debug)]
pub enum TemplateSource {
    /// A directory or a tar archive. A part may have `*` for anything in a name, or be `**` for any directories.
    Path(String),
    /// The active versions of all templates of a Coder server.
    Coder {
        /// The server.
        url: Url,
        /// File with a session token; without one it is in `CODER_SESSION_TOKEN`.
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

/// How many versions.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Which of those that a template accepts.
    #[serde(default = "locked_newest")]
    pub policy: Policy,
    /// How many `last-n` keeps.
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

/// A container image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEntry {
    /// Its name with its digest, and with the tag that it is to have: `ghcr.io/acme/base:v1@sha256:…`.
    #[serde(deserialize_with = "image")]
    pub reference: String,
    /// Who we are to its registry.
    #[serde(default)]
    pub username: Option<String>,
    /// File with the password, or a token in its place.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

impl ImageEntry {
    /// Who we are to the registry, with the password from its file.
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

    /// Whether its registry is on this machine, where plain HTTP is spoken.
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

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Terraform.
    Terraform,
    /// OpenTofu.
    Tofu,
}

impl Engine {
    /// The registry that it asks if an address names none.
    pub fn default_host(self) -> &'static str {
        match self {
            Self::Terraform => DEFAULT_HOST,
            Self::Tofu => OPENTOFU_HOST,
        }
    }
}

/// Versions of a provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderEntry {
    /// Its address. Without a host it is every engine's own registry.
    pub source: Source,
    /// Which versions; each entry counts for itself.
    #[serde(default)]
    pub versions: Vec<Pick>,
    /// How many of those that an entry allows.
    #[serde(default = "newest")]
    pub policy: Policy,
    /// How many `last-n` keeps.
    #[serde(default = "one")]
    pub keep: usize,
    /// Where it runs.
    #[serde(default)]
    pub platforms: Option<Vec<Platform>>,
}

impl ProviderEntry {
    /// One version of one provider; `None` if it cannot be named as a constraint.
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

/// The address of a provider, as somebody wrote it.
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
    /// The providers that it means, one for each engine.
    pub fn addrs(&self, engines: &[Engine]) -> Vec<ProviderAddr> {
        let of_engine = |engine: &Engine| ProviderAddr::parse(&self.0, engine.default_host()).ok();
        let mut addrs: Vec<_> = engines.iter().filter_map(of_engine).collect();
        addrs.sort();
        addrs.dedup();
        addrs
    }
}

/// Whose packages are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Those that one of these keys signed: fingerprints in upper case.
    Keys(Vec<String>),
    /// Those of whoever signed the first one that we saw.
    FirstUse,
    /// Any, also without a signature.
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

/// A fingerprint as we write it, from one with spaces or in lower case.
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

/// Why a `mirror.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MirrorConfigError {
    /// It cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("`{}` line {line}: {what}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl MirrorConfig {
    /// Reads a file.
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

    /// Reads the text of a file. An error is a line and what is wrong there.
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
