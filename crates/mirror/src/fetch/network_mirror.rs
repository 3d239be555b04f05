//! The protocol of network mirrors: providers with checksums for which only the mirror itself vouches.
//!
//! # Source
//! Terraform's documentation of the provider network mirror protocol.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, header};
use outpost_base::registry::{Hash, Platform, ProviderAddr};
use outpost_net::http::shown;
use semver::Version;
use serde::Deserialize;
use url::Url;

use super::{
    Answer, FetchError, Fetcher,
    registry::{Offered, Tokens, base},
};

/// Client of a network mirror.
#[derive(Clone)]
pub struct NetworkMirror {
    base: Url,
    fetcher: Fetcher,
    tokens: Tokens,
}

/// A package that a mirror offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Address of the zip file.
    pub url: Url,
    /// Checksums, one of which must match. Empty if the mirror has none.
    pub hashes: Vec<Hash>,
}

impl NetworkMirror {
    /// Returns the mirror at an HTTP address; `None` for any other kind of address.
    pub fn new(url: &Url, fetcher: Fetcher, tokens: Tokens) -> Option<Self> {
        let base = base(url, "")?;
        Some(Self {
            base,
            fetcher,
            tokens,
        })
    }

    async fn document(&self, addr: &ProviderAddr, name: &str) -> Result<Answer, FetchError> {
        let (host, namespace, kind) = (addr.host(), addr.namespace(), addr.kind());
        let url = self.base.join(&format!("{host}/{namespace}/{kind}/{name}"));
        let url = url.map_err(|_| FetchError::Host {
            host: host.to_owned(),
        })?;
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json);
        let token = (self.tokens)(self.base.host_str().unwrap_or_default());
        self.fetcher.get(&url, &headers, token.as_ref()).await
    }

    /// Returns the versions of a provider, oldest first.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NotFound`] if the mirror does not have it.
    pub async fn versions(&self, addr: &ProviderAddr) -> Result<Vec<Offered>, FetchError> {
        #[derive(Deserialize)]
        struct Index {
            versions: BTreeMap<String, serde::de::IgnoredAny>,
        }
        let index: Index = self.document(addr, "index.json").await?.json()?;
        let offered = |version: &String| {
            Some(Offered {
                version: version.parse().ok()?, // Engines skip versions that they cannot parse.
                protocols: Vec::new(),
                platforms: Vec::new(),
            })
        };
        let mut offered: Vec<_> = index.versions.keys().filter_map(offered).collect();
        offered.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(offered)
    }

    /// Returns the packages of a version.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn archives(
        &self,
        addr: &ProviderAddr,
        version: &Version,
    ) -> Result<BTreeMap<Platform, Archive>, FetchError> {
        let answer = self.document(addr, &format!("{version}.json")).await?;
        archives(&answer)
    }
}

/// Parses a mirror's answer for a version.
fn archives(answer: &Answer) -> Result<BTreeMap<Platform, Archive>, FetchError> {
    #[derive(Deserialize)]
    struct Packages {
        archives: BTreeMap<String, Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        url: String,
        #[serde(default)]
        hashes: Option<Vec<String>>,
    }
    let nonsense = |why: String| FetchError::Nonsense {
        url: shown(&answer.place),
        why,
    };
    let packages: Packages = answer.json()?;
    let mut archives = BTreeMap::new();
    for (platform, package) in packages.archives {
        let Ok(platform) = platform.parse::<Platform>() else {
            continue;
        };
        let url = answer.place.join(&package.url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| nonsense(format!("the address {:?}", package.url)))?;
        let told = package.hashes.unwrap_or_default();
        let known = |hash: &Hash| matches!(hash, Hash::H1(_) | Hash::Zh(_));
        let hashes = told.iter().filter_map(|it| it.parse().ok());
        let hashes: Vec<Hash> = hashes.filter(known).collect();
        if hashes.is_empty() && !told.is_empty() {
            let why = format!("no checksum of a known kind: {}", told.join(", "));
            return Err(nonsense(why));
        }
        archives.insert(platform, Archive { url, hashes });
    }
    Ok(archives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer {
            place: "https://mirror.example/p/registry.example/acme/demo/1.0.0.json"
                .parse()
                .unwrap(),
            status: http::StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
            is_unchanged: false,
        }
    }

    #[test]
    fn packages_are_read_with_the_checksums_that_are_known() {
        let zh = format!("zh:{}", "7".repeat(64));
        let body = format!(
            r#"{{"archives": {{"linux_amd64": {{"url": "x.zip?s=1", "hashes": ["h9:new", "{zh}"]}}, "odd": {{"url": "y"}}}}}}"#
        );

        let archives = archives(&answer(&body)).unwrap();

        let [(platform, archive)] = &archives.into_iter().collect::<Vec<_>>()[..] else {
            panic!("one package is for a platform");
        };
        assert_eq!(platform.to_string(), "linux_amd64");
        let place = "https://mirror.example/p/registry.example/acme/demo/x.zip?s=1";
        assert_eq!(archive.url.as_str(), place);
        assert_eq!(archive.hashes, [zh.parse().unwrap()]);
    }

    #[test]
    fn checksums_that_nobody_can_compare_and_addresses_off_the_web_are_refused() {
        for package in [
            r#"{"url": "x.zip", "hashes": ["h9:new"]}"#,
            r#"{"url": "file:///etc/passwd"}"#,
        ] {
            let body = format!(r#"{{"archives": {{"linux_amd64": {package}}}}}"#);
            let error = archives(&answer(&body)).unwrap_err();
            assert!(matches!(error, FetchError::Nonsense { .. }), "{error}");
        }
    }
}
