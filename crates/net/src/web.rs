//! HTTP requests to any server: redirects may lead anywhere, a credential never does.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Response;
use url::Url;

use super::{
    http::{ClientError, is_same_server, location, shown},
    proxy::Proxies,
    tls::{self, Trust},
};

/// Number of redirects that are followed, as in Go.
const MAX_REDIRECTS: usize = 10;
/// Longest time until a connection is established, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which an idle connection is closed. A registry, and the place where it keeps its files, get many
/// requests in a row.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reasons why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A server that cannot be reached.
    #[error("failed to reach {url}")]
    Unreachable {
        /// URL of the request.
        url: String,
        /// Error of the HTTP library.
        source: reqwest::Error,
    },
    /// A redirect from HTTPS to plain HTTP.
    #[error("{from} redirects to {to}, which is not encrypted")]
    Downgraded {
        /// URL that answered with the redirect.
        from: String,
        /// Target of the redirect.
        to: String,
    },
    /// A redirect whose target is not a valid URL.
    #[error("{from} redirects to an invalid URL")]
    Misled {
        /// URL that answered with the redirect.
        from: String,
    },
    /// A chain of redirects that does not end.
    #[error("{url} redirects more than {MAX_REDIRECTS} times")]
    Endless {
        /// URL of the original request.
        url: String,
    },
}

/// HTTP client for any server. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Web {
    direct: reqwest::Client,
    proxied: reqwest::Client,
    proxies: Proxies,
}

impl Web {
    /// Creates a client and reads the authorities; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError`] names the file or the variable.
    pub fn new(trust: &Trust, proxies: Proxies) -> Result<Self, ClientError> {
        let tls = tls::client_config(trust)?;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .user_agent(concat!("outpost/", env!("CARGO_PKG_VERSION")))
        };
        let direct = builder().no_proxy().build().map_err(ClientError::Build)?;
        let proxied = proxies.apply_always(builder())?;
        Ok(Self {
            direct,
            proxied: proxied.build().map_err(ClientError::Build)?,
            proxies,
        })
    }

    /// Fetches `url`. `authorization`, and headers that are sensitive, are sent to its server and to no other. The
    /// response knows the URL that it came from. The caller bounds the time.
    ///
    /// # Errors
    /// [`WebError`]; an answer of any other status is an answer.
    pub async fn ask(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, WebError> {
        let mut place = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = match self.proxies.bypasses(&place) {
                true => &self.direct,
                false => &self.proxied,
            };
            let mut request = client.request(method.clone(), place.clone());
            let is_same = is_same_server(url, &place);
            let told = headers
                .iter()
                .filter(|(_, value)| is_same || !value.is_sensitive());
            request = request.headers(
                told.map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            );
            if let Some(value) = authorization.filter(|_| is_same) {
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = request
                .send()
                .await
                .map_err(|source| WebError::Unreachable {
                    url: shown(&place),
                    source: source.without_url(),
                })?;
            let Some(location) = location(&response) else {
                return Ok(response);
            };
            place = next(&place, &location)?;
        }
        Err(WebError::Endless { url: shown(url) })
    }
}

/// Returns the target of a redirect.
fn next(from: &Url, location: &str) -> Result<Url, WebError> {
    let to = from.join(location).ok();
    let to = to.filter(|to| matches!(to.scheme(), "http" | "https"));
    let to = to.ok_or_else(|| WebError::Misled { from: shown(from) })?;
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(WebError::Downgraded {
            from: shown(from),
            to: shown(&to),
        });
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_redirect_never_leaves_encryption_or_the_web() {
        let from = url("https://user:hunter2@registry.example/a?token=hunter2");

        let down = next(&from, "http://registry.example/a").unwrap_err();
        let file = next(&from, "file:///etc/passwd").unwrap_err();

        assert!(matches!(down, WebError::Downgraded { .. }));
        assert!(matches!(file, WebError::Misled { .. }));
        assert!(!format!("{down} {file}").contains("hunter2"));
    }

    #[test]
    fn a_redirect_leads_to_another_server_or_to_a_relative_place() {
        let from = url("http://registry.example/a/b");

        assert_eq!(
            next(&from, "https://files.example/x").unwrap(),
            url("https://files.example/x")
        );
        assert_eq!(
            next(&from, "../x").unwrap(),
            url("http://registry.example/x")
        );
    }
}
