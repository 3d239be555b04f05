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

/// Redirects that are followed, as in Go.
const MAX_REDIRECTS: usize = 10;
/// Time until a connection stands, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is used twice in a row while we dial, and not again for hours.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's address. A path in it is kept.
    pub url: Url,
    /// Whom to trust, as whom to come.
    pub trust: Trust,
    /// Which way to go.
    pub proxies: Proxies,
    /// Added to every request.
    pub headers: HeaderMap,
    /// A shell command that prints more of them; it is run before each connection.
    pub header_command: Option<String>,
}

impl Config {
    /// A server that is reached as the system says, without further headers.
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

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A certificate is missing or wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A proxy's address is wrong.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The client cannot be made.
    #[error("failed to set up HTTP")]
    Build(#[source] reqwest::Error),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server cannot be reached.
    #[error("failed to reach {url}")]
    Unreachable {
        /// Where.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// The answer leads to another server, which is not meant to see the credential.
    #[error(
        "{from} redirects to {to}, and the credential is not sent there; if that is the right server, use its URL"
    )]
    Redirected {
        /// Who sends us away.
        from: Url,
        /// Where to.
        to: String,
    },
    /// TLS is asked for by a redirect, and cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The redirects do not end.
    #[error("{url} redirects more than {MAX_REDIRECTS} times")]
    Endless {
        /// Where it began.
        url: Url,
    },
}

/// Requests to one server. A clone shares connections.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Config>,
    plain: reqwest::Client,
    /// Made when it is needed: hundreds of authorities are not worth their memory where nobody asks them.
    secure: Arc<OnceLock<reqwest::Client>>,
}

impl Client {
    /// Reads the authorities if the server is reached by TLS; nothing is sent yet.
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

    /// The server's address.
    pub fn url(&self) -> &Url {
        &self.config.url
    }

    /// `path` below the server's address, with whatever path the address has.
    pub fn endpoint(&self, path: &str) -> Url {
        let mut url = self.config.url.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/{path}"));
        url.set_query(None);
        url
    }

    /// The operator's headers, for the requests of one connection.
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

    /// Sends a body as JSON to `url`; no redirect is followed. The caller bounds the time.
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

    /// Asks for `url` and follows redirects within the server. The caller bounds the time.
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

/// Whether a credential for `from` may be shown to `to`: the same place, or its encrypted door.
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

/// The beginning of an answer's body, and all of it if it is not longer than `limit` bytes.
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

/// What led to an error in the end, in words that tell a name from a server and from a certificate.
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(why) = tls::refused_certificate(error) {
        return why;
    }
    let all: Vec<String> = tls::links(error).map(ToString::to_string).collect();
    let last = all.last().cloned().unwrap_or_default();
    // What the HTTP library says where a name has no address.
    match all.iter().any(|text| text == "dns error") {
        true => format!("its name cannot be resolved ({last})"),
        false => last,
    }
}

/// An address as error texts show it: without a password and without a query.
pub fn bare(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    // Neither call can fail for an address that has a host.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url
}

/// An address without user and password.
pub fn without_credentials(url: &Url) -> Url {
    let mut clean = bare(url);
    clean.set_query(url.query());
    clean
}

/// An address as error texts show it, as text.
pub fn shown(url: &Url) -> String {
    bare(url).into()
}

#[cfg(test)]
mod tests;
