//! The protocols of registries: service discovery, lists of versions, and addresses of packages.
//!
//! # Source
//! Terraform's documentation of service discovery and of the provider registry protocol.

mod modules;

pub(super) use self::modules::LOCATION;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderValue, header};
use outpost_base::registry::{Platform, ProviderAddr};
use outpost_net::http::shown;
use semver::Version;
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use super::{Answer, FetchError, Fetcher, network_mirror::NetworkMirror};
use crate::Digest;

/// Addresses of a host's services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Address of the provider registry.
    pub providers: Option<Url>,
    /// Address of the module registry.
    pub modules: Option<Url>,
}

/// Function that returns the `Authorization` header for a host that requires one.
pub type Tokens = Arc<dyn Fn(&str) -> Option<HeaderValue> + Send + Sync>;

/// Registries by their hosts. Services of a host are discovered once.
#[derive(Clone)]
pub struct Registries {
    fetcher: Fetcher,
    tokens: Tokens,
    known: Arc<Mutex<HashMap<String, Arc<OnceCell<Services>>>>>,
    /// Hosts whose services were configured.
    told: Arc<BTreeSet<String>>,
    mirror: Option<NetworkMirror>,
}

/// A version of a provider that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Version of the provider.
    pub version: Version,
    /// Versions of the plugin protocol.
    pub protocols: Vec<String>,
    /// Platforms of the version; empty if the registry does not list them.
    pub platforms: Vec<Platform>,
}

/// Address of a package, with its publisher's signature.
#[derive(Clone, Debug)]
pub struct Found {
    /// Versions of the plugin protocol.
    pub protocols: Vec<String>,
    /// Name of the zip file.
    pub filename: String,
    /// Address of the zip file.
    pub url: Url,
    /// Digest according to the registry.
    pub digest: Digest,
    /// Address of the checksums of all packages of the version.
    pub shasums: Url,
    /// Address of the signature over the checksums.
    pub signature: Url,
    /// Keys of the publisher.
    pub keys: Vec<Key>,
}

/// A key that a registry lists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Key {
    /// Id of the key: 16 hexadecimal digits.
    #[serde(default)]
    pub key_id: String,
    /// The key in OpenPGP's armor.
    pub(crate) ascii_armor: String,
    /// Signature by which the registry's operator vouches for the key.
    #[serde(default)]
    pub trust_signature: String,
}

impl Offered {
    /// Parses a registry's list of a provider's versions, oldest first.
    ///
    /// # Errors
    /// [`FetchError::Nonsense`].
    pub fn read(answer: &Answer) -> Result<Vec<Self>, FetchError> {
        #[derive(Deserialize)]
        struct Versions {
            versions: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            version: String,
            #[serde(default)]
            protocols: Option<Vec<String>>,
            #[serde(default)]
            platforms: Option<Vec<Platform>>,
        }
        #[derive(Deserialize)]
        struct Platform {
            os: String,
            arch: String,
        }
        let all: Versions = answer.json()?;
        let offered = |entry: Entry| {
            let platforms = entry.platforms.unwrap_or_default();
            let platform = |p: &Platform| format!("{}_{}", p.os, p.arch).parse().ok();
            Some(Self {
                version: entry.version.parse().ok()?, // Engines skip versions that they cannot parse.
                protocols: entry.protocols.unwrap_or_default(),
                platforms: platforms.iter().filter_map(platform).collect(),
            })
        };
        let mut offered: Vec<_> = all.versions.into_iter().filter_map(offered).collect();
        offered.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(offered)
    }
}

impl Found {
    /// Parses a registry's answer about a package for `platform`. Checks that addresses are HTTP addresses and that
    /// the name is a file name.
    ///
    /// # Errors
    /// [`FetchError::Nonsense`].
    pub fn read(answer: &Answer, platform: &Platform) -> Result<Self, FetchError> {
        #[derive(Deserialize)]
        struct Package {
            #[serde(default)]
            protocols: Option<Vec<String>>,
            os: String,
            arch: String,
            filename: String,
            download_url: String,
            shasum: String,
            shasums_url: String,
            shasums_signature_url: String,
            #[serde(default)]
            signing_keys: Keys,
        }
        #[derive(Deserialize, Default)]
        struct Keys {
            #[serde(default)]
            gpg_public_keys: Vec<Key>,
        }
        let package: Package = answer.json()?;
        let nonsense = |why: String| FetchError::Nonsense {
            url: shown(&answer.place),
            why,
        };
        if (&package.os, &package.arch) != (&platform.os, &platform.arch) {
            let why = format!("a package for {}_{}", package.os, package.arch);
            return Err(nonsense(why));
        }
        if !is_plain_name(&package.filename) {
            return Err(nonsense(format!("the file name {:?}", package.filename)));
        }
        let digest = package.shasum.to_ascii_lowercase().parse();
        let digest = digest.map_err(|error| nonsense(format!("a wrong `shasum`: {error}")))?;
        let join = |text: &str| {
            // An empty text would resolve to the answer's own address.
            let joined = answer.place.join(text).ok().filter(|_| !text.is_empty());
            let joined = joined.filter(|url| matches!(url.scheme(), "http" | "https"));
            joined.ok_or_else(|| nonsense(format!("the address {text:?}")))
        };
        Ok(Self {
            protocols: package.protocols.unwrap_or_default(),
            url: join(&package.download_url)?,
            shasums: join(&package.shasums_url)?,
            signature: join(&package.shasums_signature_url)?,
            filename: package.filename,
            digest,
            keys: package.signing_keys.gpg_public_keys,
        })
    }
}

impl Registries {
    /// Returns registries whose services are discovered, except those in `known`.
    pub fn new(fetcher: Fetcher, known: &BTreeMap<String, Services>, tokens: Tokens) -> Self {
        let told = |(host, services): (&String, &Services)| {
            let cell = OnceCell::new_with(Some(services.clone()));
            (host.clone(), Arc::new(cell))
        };
        Self {
            fetcher,
            tokens,
            known: Arc::new(Mutex::new(known.iter().map(told).collect())),
            told: Arc::new(known.keys().cloned().collect()),
            mirror: None,
        }
    }

    /// Adds a network mirror that replaces the registries for all providers.
    pub fn with_mirror(mut self, mirror: Option<NetworkMirror>) -> Self {
        self.mirror = mirror;
        self
    }

    /// Returns the network mirror that replaces the registries for providers.
    pub fn mirror(&self) -> Option<&NetworkMirror> {
        self.mirror.as_ref()
    }

    /// Returns the addresses of a host's services.
    ///
    /// # Errors
    /// [`FetchError`]; the next call asks again.
    pub async fn services(&self, host: &str) -> Result<Services, FetchError> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(host.to_owned()).or_default())
        };
        let found = cell.get_or_try_init(|| self.discover(host)).await?;
        Ok(found.clone())
    }

    async fn discover(&self, host: &str) -> Result<Services, FetchError> {
        let url = format!("https://{host}/.well-known/terraform.json");
        let url: Url = url.parse().map_err(|_| FetchError::Host {
            host: host.to_owned(),
        })?;
        let answer = match self.ask(host, &url).await {
            Err(FetchError::NotFound { .. }) => return Ok(Services::default()),
            answer => answer?,
        };
        let services: serde_json::Map<String, serde_json::Value> = answer.json()?;
        let place = |name: &str| {
            let text = services.get(name)?.as_str()?;
            base(&answer.place, text)
        };
        Ok(Services {
            providers: place("providers.v1"),
            modules: place("modules.v1"),
        })
    }

    async fn ask(&self, host: &str, url: &Url) -> Result<Answer, FetchError> {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json);
        // A server that replaces a host, such as a mirror, must not get the token for that host, but its own.
        let whose = match url.host_str() {
            Some(place) if self.told.contains(host) => place,
            Some(_) | None => host,
        };
        let token = (self.tokens)(whose);
        self.fetcher.get(url, &headers, token.as_ref()).await
    }

    async fn provider_url(&self, addr: &ProviderAddr, path: &str) -> Result<Url, FetchError> {
        let host = addr.host();
        let providers = self.services(host).await?.providers;
        let providers = providers.ok_or_else(|| no_service(host, "providers"))?;
        let path = format!("{}/{}/{path}", addr.namespace(), addr.kind());
        let url = providers.join(&path);
        url.map_err(|_| no_service(host, "providers"))
    }

    /// Returns the versions of a provider, oldest first.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NotFound`] if the registry does not know it.
    pub async fn versions(&self, addr: &ProviderAddr) -> Result<Vec<Offered>, FetchError> {
        if let Some(mirror) = &self.mirror {
            return mirror.versions(addr).await;
        }
        let url = self.provider_url(addr, "versions").await?;
        Offered::read(&self.ask(addr.host(), &url).await?)
    }

    /// Returns the address of a package.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NotFound`] if there is none for the platform.
    pub async fn package(
        &self,
        addr: &ProviderAddr,
        version: &Version,
        platform: &Platform,
    ) -> Result<Found, FetchError> {
        let path = format!("{version}/download/{}/{}", platform.os, platform.arch);
        let url = self.provider_url(addr, &path).await?;
        Found::read(&self.ask(addr.host(), &url).await?, platform)
    }
}

/// Returns a service's address, which ends in a slash so that others can be resolved against it.
pub fn base(from: &Url, text: &str) -> Option<Url> {
    let mut url = from.join(text).ok()?;
    let is_usable = matches!(url.scheme(), "http" | "https") && url.username().is_empty();
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    is_usable.then_some(url)
}

/// Returns whether a name is a plain file name without a directory.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(is_good)
}

fn no_service(host: &str, what: &'static str) -> FetchError {
    FetchError::NoService {
        host: host.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_resolved_as_terraform_resolves_them() {
        let from: Url = "https://registry.example/.well-known/terraform.json"
            .parse()
            .unwrap();
        let at = |text| base(&from, text).map(String::from);

        assert_eq!(
            at("/v1/providers").as_deref(),
            Some("https://registry.example/v1/providers/")
        );
        assert_eq!(
            at("http://127.0.0.1:1/v1/").as_deref(),
            Some("http://127.0.0.1:1/v1/")
        );
        assert_eq!(at("ftp://registry.example/"), None);
        assert_eq!(at("https://user:secret@registry.example/"), None);
    }

    #[test]
    fn a_file_name_never_leads_elsewhere() {
        assert!(is_plain_name(
            "terraform-provider-aws_5.0.0_linux_amd64.zip"
        ));
        for name in ["", "../x.zip", "a/b.zip", ".hidden", "a\\b", "a b"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
