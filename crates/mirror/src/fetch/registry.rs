//! The protocols of registries: where a host has its services, what versions there are, where a package is.
//!
//! # Source
//! Terraform's documentation of service discovery and of the provider registry protocol.

mod modules;

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

/// Where a host has its services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// The provider registry.
    pub providers: Option<Url>,
    /// The module registry.
    pub modules: Option<Url>,
}

/// The header that shows who asks, for a host that wants to know.
pub type Tokens = Arc<dyn Fn(&str) -> Option<HeaderValue> + Send + Sync>;

/// Registries by their hosts. Each host is asked once where its services are.
#[derive(Clone)]
pub struct Registries {
    fetcher: Fetcher,
    tokens: Tokens,
    known: Arc<Mutex<HashMap<String, Arc<OnceCell<Services>>>>>,
    /// Hosts whose services are where we were told.
    told: Arc<BTreeSet<String>>,
    mirror: Option<NetworkMirror>,
}

/// A version of a provider that a registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The version.
    pub version: Version,
    /// Versions of the plugin protocol.
    pub protocols: Vec<String>,
    /// Where it runs; empty if the registry does not tell.
    pub platforms: Vec<Platform>,
}

/// Where a package is, and who vouches for it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Versions of the plugin protocol.
    pub protocols: Vec<String>,
    /// Its name.
    pub filename: String,
    /// The zip file.
    pub url: Url,
    /// What the registry says that it is.
    pub digest: Digest,
    /// The checksums of all packages of the version.
    pub shasums: Url,
    /// The signature over them.
    pub signature: Url,
    /// The publisher's keys.
    pub keys: Vec<Key>,
}

/// A key that a registry names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Key {
    /// 16 hexadecimal digits.
    #[serde(default)]
    pub key_id: String,
    /// The key.
    pub ascii_armor: String,
    /// By which the registry's operator vouches for it.
    #[serde(default)]
    pub trust_signature: String,
}

impl Offered {
    /// Reads what a registry says of a provider's versions, oldest first.
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
                version: entry.version.parse().ok()?, // Engines skip what they cannot read.
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
    /// Reads what a registry says of a package for `platform`. Its addresses are those of the web, its name is one.
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
            // An empty text would be the answer's own address.
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
    /// Registries that are found by discovery, except those in `known`.
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

    /// The same, with a network mirror that is asked for all providers in the registries' place.
    pub fn with_mirror(mut self, mirror: Option<NetworkMirror>) -> Self {
        self.mirror = mirror;
        self
    }

    /// Who is asked for providers in the registries' place.
    pub fn mirror(&self) -> Option<&NetworkMirror> {
        self.mirror.as_ref()
    }

    /// Where a host has its services.
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
        // What replaces a host, such as a mirror, is not to see the token for that host, but its own.
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

    /// The versions of a provider, oldest first.
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

    /// Where a package is.
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

/// A service's address, which others are resolved against: it ends in a slash.
pub fn base(from: &Url, text: &str) -> Option<Url> {
    let mut url = from.join(text).ok()?;
    let is_usable = matches!(url.scheme(), "http" | "https") && url.username().is_empty();
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    is_usable.then_some(url)
}

/// Whether a name is one file's, in whatever directory.
pub fn is_plain_name(name: &str) -> bool {
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
