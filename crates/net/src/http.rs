//! HTTP requests that carry a credential: to one server, through its proxy, and nowhere else.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use reqwest::Response;
use url::Url;

use super::{
    headers::{self, HeaderError},
    proxy::{Proxies, ProxyError},
    tls::{self, TlsError, Trust},
};

/// Number of redirects that are followed, as in Go.
const MAX_REDIRECTS: usize = 10;
/// Longest time until a connection is established, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which an idle connection is closed. It is used twice in a row while we dial, and not again for hours.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the connection to a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// URL of the server, whose path is kept.
    pub url: Url,
    /// Trusted authorities, and our own certificate.
    pub trust: Trust,
    /// Proxies to connect through.
    pub proxies: Proxies,
    /// Headers that are added to every request.
    pub headers: HeaderMap,
    /// Shell command that prints further headers; it is run before each connection.
    pub header_command: Option<String>,
}

impl Config {
    /// Returns the settings for a server that is reached as the system says, without further headers.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            trust: Trust::default(),
            proxies: Proxies::default(),
            headers: HeaderMap::new(),
            header_command: None,
        }
    }
}

/// Reasons why a client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A certificate that is missing or invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An invalid URL of a proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A failure to build the client.
    #[error("failed to set up HTTP")]
    Build(#[source] reqwest::Error),
}

/// Reasons why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A server that cannot be reached.
    #[error("failed to reach {url}")]
    Unreachable {
        /// URL of the request.
        url: Url,
        /// Error of the HTTP library.
        source: reqwest::Error,
    },
    /// A redirect to another server, which must not see the credential.
    #[error(
        "{from} redirects to {to}, and the credential is not sent there; if that is the right server, use its URL"
    )]
    Redirected {
        /// URL that answered with the redirect.
        from: Url,
        /// Target of the redirect.
        to: String,
    },
    /// A redirect to TLS, which cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A chain of redirects that does not end.
    #[error("{url} redirects more than {MAX_REDIRECTS} times")]
    Endless {
        /// URL of the original request.
        url: Url,
    },
}

/// HTTP client for one server. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Config>,
    plain: reqwest::Client,
    /// Client for TLS, created when it is needed: hundreds of authorities are not worth their memory otherwise.
    secure: Arc<OnceLock<reqwest::Client>>,
}

impl Client {
    /// Creates a client, and reads the authorities if the server is reached by TLS; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError`] names the file or the variable.
    pub fn new(config: Config) -> Result<Self, ClientError> {
        let client = Self {
            plain: build(&config, tls::trusting_nobody())?,
            config: Arc::new(config),
            secure: Arc::default(),
        };
        client.client_for(&client.config.url)?;
        Ok(client)
    }

    fn client_for(&self, url: &Url) -> Result<&reqwest::Client, ClientError> {
        if url.scheme() != "https" && self.config.proxies.http.is_none() {
            return Ok(&self.plain);
        }
        if let Some(secure) = self.secure.get() {
            return Ok(secure);
        }
        let secure = build(&self.config, tls::client_config(&self.config.trust)?)?;
        Ok(self.secure.get_or_init(|| secure))
    }

    /// URL of the server.
    pub fn url(&self) -> &Url {
        &self.config.url
    }

    /// Returns the URL of `path` below the server's URL, including the path of that.
    pub fn endpoint(&self, path: &str) -> Url {
        let mut url = self.config.url.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/{path}"));
        url.set_query(None);
        url
    }

    /// Returns the operator's headers, for the requests of one connection.
    ///
    /// # Errors
    /// [`HeaderError`] if the command fails.
    pub async fn headers(&self) -> Result<HeaderMap, HeaderError> {
        let mut all = self.config.headers.clone();
        if let Some(command) = &self.config.header_command {
            all.extend(headers::from_command(command, &self.config.url).await?);
        }
        Ok(all)
    }

    /// Posts a body as JSON to `url`; no redirect is followed. The caller bounds the time.
    ///
    /// # Errors
    /// [`RequestError`]; an answer of any status is an answer.
    pub async fn post(
        &self,
        url: &Url,
        headers: &HeaderMap,
        body: &impl serde::Serialize,
    ) -> Result<Response, RequestError> {
        let request = self.client_for(url)?.post(url.clone());
        let sent = request.headers(headers.clone()).json(body).send().await;
        sent.map_err(|source| RequestError::Unreachable {
            url: bare(url),
            source: source.without_url(),
        })
    }

    /// Fetches `url` and follows redirects within the server. The caller bounds the time.
    ///
    /// # Errors
    /// [`RequestError`]; an answer of any other status is an answer.
    pub async fn get(&self, url: &Url, headers: &HeaderMap) -> Result<Response, RequestError> {
        let mut place = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client_for(&place)?;
            let response = client
                .get(place.clone())
                .headers(headers.clone())
                .send()
                .await
                .map_err(|source| RequestError::Unreachable {
                    url: bare(&place),
                    source: source.without_url(),
                })?;
            let Some(location) = location(&response) else {
                return Ok(response);
            };
            place = match place.join(&location) {
                Ok(next) if is_same_server(&place, &next) => next,
                next => {
                    return Err(RequestError::Redirected {
                        from: bare(&place),
                        to: next.map_or(location, |url| bare(&url).into()),
                    });
                }
            };
        }
        Err(RequestError::Endless { url: bare(url) })
    }
}

fn build(config: &Config, tls: rustls::ClientConfig) -> Result<reqwest::Client, ClientError> {
    let builder = reqwest::Client::builder()
        .http1_only() // An upgrade needs it.
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .user_agent(concat!("outpost/", env!("CARGO_PKG_VERSION")));
    let builder = config.proxies.apply(builder, &config.url)?;
    builder.build().map_err(ClientError::Build)
}

pub(super) fn location(response: &Response) -> Option<String> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|place| HeaderValue::to_str(place).ok());
    location.filter(|_| is_redirect).map(str::to_owned)
}

/// Returns whether a credential for `from` may be shown to `to`: the same server, or its HTTPS port.
pub(super) fn is_same_server(from: &Url, to: &Url) -> bool {
    let is_upgrade = from.scheme() == "http"
        && to.scheme() == "https"
        && from.port().is_none()
        && to.port().is_none();
    from.host() == to.host()
        && (is_upgrade
            || from.scheme() == to.scheme()
                && from.port_or_known_default() == to.port_or_known_default())
}

/// Reads the beginning of a response's body, and all of it if it is not longer than `limit` bytes.
pub async fn read_limited(mut response: Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
        if body.len() == limit {
            break;
        }
    }
    body
}

/// Returns the root cause of an error, in words that distinguish problems of a name, a server and a certificate.
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(why) = tls::refused_certificate(error) {
        return why;
    }
    let all: Vec<String> = tls::links(error).map(ToString::to_string).collect();
    let last = all.last().cloned().unwrap_or_default();
    // The HTTP library's message for a name without an address.
    match all.iter().any(|text| text == "dns error") {
        true => format!("its name cannot be resolved ({last})"),
        false => last,
    }
}

/// Returns a URL as messages show it: without a password and without a query.
pub fn bare(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    // Neither call can fail for an address that has a host.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url
}

/// Returns a URL without user and password.
pub fn without_credentials(url: &Url) -> Url {
    let mut clean = bare(url);
    clean.set_query(url.query());
    clean
}

/// Formats a URL as messages show it.
pub fn shown(url: &Url) -> String {
    bare(url).into()
}

#[cfg(test)]
mod tests;
