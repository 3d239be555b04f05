//! The module registry's protocol: lists of versions, and addresses of modules.

use http::{HeaderMap, HeaderName, header};
use outpost_net::http::shown;
use semver::Version;
use serde::Deserialize;
use url::Url;

use super::{Registries, no_service};
use crate::{
    fetch::{Answer, FetchError},
    scan::landing::target,
};

/// Header with the module's address, in the form that a `module` block has.
pub(in crate::fetch) const LOCATION: HeaderName = HeaderName::from_static("x-terraform-get");

impl Registries {
    async fn module_url(&self, host: &str, path: &str) -> Result<Url, FetchError> {
        let modules = self.services(host).await?.modules;
        let modules = modules.ok_or_else(|| no_service(host, "modules"))?;
        modules.join(path).map_err(|_| no_service(host, "modules"))
    }

    /// Returns the versions of `NAMESPACE/NAME/SYSTEM`.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NotFound`] if the registry does not know it.
    pub(crate) async fn module_versions(
        &self,
        host: &str,
        path: &str,
    ) -> Result<Vec<Version>, FetchError> {
        #[derive(Deserialize)]
        struct Answer {
            modules: Vec<Versions>,
        }
        #[derive(Deserialize)]
        struct Versions {
            #[serde(default)]
            versions: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            version: String,
        }
        let url = self.module_url(host, &format!("{path}/versions")).await?;
        let answer: Answer = self.ask(host, &url).await?.json()?;
        let first = answer.modules.into_iter().next();
        let versions = first.map(|first| first.versions).unwrap_or_default();
        // Engines skip versions that they cannot parse.
        let parsed = versions
            .iter()
            .filter_map(|entry| entry.version.parse().ok());
        Ok(parsed.collect())
    }

    /// Returns the address of a version of `NAMESPACE/NAME/SYSTEM`, in the form of a `module` block.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn module_location(
        &self,
        host: &str,
        path: &str,
        version: &Version,
    ) -> Result<String, FetchError> {
        #[derive(Deserialize)]
        struct Body {
            location: String,
        }
        let url = self
            .module_url(host, &format!("{path}/{version}/download"))
            .await?;
        let answer = self.ask(host, &url).await?;
        let named = answer
            .headers
            .get(&LOCATION)
            .and_then(|value| value.to_str().ok());
        // Newer registries also send it in the body.
        let in_body = || serde_json::from_slice::<Body>(&answer.body).ok();
        let location = match named {
            Some(location) => Some(location.to_owned()),
            None => in_body().map(|body| body.location),
        };
        let location = location.filter(|location| !location.is_empty());
        let location = location.ok_or_else(|| FetchError::Nonsense {
            url: shown(&url),
            why: "no place of the module".to_owned(),
        })?;
        Ok(absolute(&answer.place, &location))
    }

    /// Returns the module address that the server at `url` announces; `None` if it announces none.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn landing(&self, url: &Url) -> Result<Option<String>, FetchError> {
        let answer = self.fetcher.get(url, &HeaderMap::new(), None).await?;
        let named = answer.headers.get(&LOCATION);
        let named = named.and_then(|value| value.to_str().ok());
        let named = named.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(named.or_else(|| target(&String::from_utf8_lossy(&answer.body))))
    }

    /// Fetches an address that a registry named, with the registry's own credentials if it is on the same server.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn file(&self, url: &Url) -> Result<Answer, FetchError> {
        let mut headers = HeaderMap::new();
        let any = header::HeaderValue::from_static("*/*");
        headers.insert(header::ACCEPT, any);
        self.fetcher.get(url, &headers, None).await
    }
}

/// Resolves a location. It is relative to the answer only if it begins like a path.
fn absolute(place: &Url, location: &str) -> String {
    let is_relative = ["/", "./", "../"]
        .iter()
        .any(|begin| location.starts_with(begin));
    match is_relative {
        // The double slash before a directory is not part of the path.
        true => {
            let (path, dir) = match location.find("//") {
                Some(at) => location.split_at(at),
                None => (location, ""),
            };
            let (dir, query) = match dir.split_once('?') {
                Some((dir, query)) => (dir, format!("?{query}")),
                None => (dir, String::new()),
            };
            match place.join(&format!("{path}{query}")) {
                Ok(mut url) => {
                    url.set_path(&format!("{}{dir}", url.path()));
                    url.into()
                }
                Err(_) => location.to_owned(),
            }
        }
        false => location.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_path_is_relative() {
        let place: Url = "https://registry.example/v1/modules/a/b/c/1.0.0/download"
            .parse()
            .unwrap();
        let cases = [
            (
                "./archive.tar.gz",
                "https://registry.example/v1/modules/a/b/c/1.0.0/archive.tar.gz",
            ),
            (
                "/files/x.zip?archive=zip",
                "https://registry.example/files/x.zip?archive=zip",
            ),
            (
                "/files/x.tgz//sub?checksum=md5:0",
                "https://registry.example/files/x.tgz//sub?checksum=md5:0",
            ),
            (
                "git::https://git.example/x?ref=v1",
                "git::https://git.example/x?ref=v1",
            ),
        ];
        for (location, expected) in cases {
            assert_eq!(absolute(&place, location), expected);
        }
    }
}
