//! A served mirror: engines request from it what they would request from the registries that it replaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, StatusCode, header::AUTHORIZATION};
use async_trait::async_trait;
use outpost_base::{registry::ProviderAddr, secret::Secret};
use outpost_net::http::{self, Client, RequestError};
use outpost_provision::{
    LinkSink, ProviderStore, ProviderView, Services, UnmetTemplate, WantedProvider,
};
use serde::Deserialize;
use tokio::{runtime::Handle, time::timeout};
use url::Url;

use super::{doctor, fetch::Fetcher, serve::Item};

/// Time limit for the list of replaced hosts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of that list in bytes: room for some thousand hosts.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Maximum number of missing items that are reported in one request.
const REPORTED_AT_ONCE: usize = 100;

/// A mirror at an address.
#[derive(Clone)]
pub struct Remote {
    client: Client,
    token: Option<Secret>,
    /// Client for finding out what templates lack; `None` to leave that out.
    fetcher: Option<Fetcher>,
}

/// Reason why a mirror is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The mirror cannot be reached.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// Address of the request.
        url: Url,
        /// Reason, as far as this machine knows it.
        why: String,
    },
    /// A request failed, for example because of a redirect to another server.
    #[error(transparent)]
    Request(RequestError),
    /// The mirror does not accept the token, or requires one.
    #[error("{url} {}", match has_token {
        true => "refuses the mirror's token, which was revoked or belongs to another mirror: put a new one into the file of --mirror-token-file",
        false => "requires a token: name a file that holds one with --mirror-token-file",
    })]
    Unauthorized {
        /// Address of the request.
        url: Url,
        /// `true` if a token was sent.
        has_token: bool,
    },
    /// The connection ended before the answer was complete.
    #[error("read the answer of {url}")]
    Broken {
        /// Address of the request.
        url: Url,
        /// Error from the HTTP client.
        source: reqwest::Error,
    },
    /// The answer is not that of a mirror.
    #[error("{url} is not served by `outpost mirror serve`: {reason}")]
    Answer {
        /// Address of the request.
        url: Url,
        /// Problem with the answer.
        reason: String,
    },
    /// The token contains characters that a header cannot contain.
    #[error("the mirror's token contains characters that a token cannot contain")]
    Token,
    /// The mirror did not answer in time.
    #[error("{0} did not answer within {ANSWER_TIMEOUT:?}")]
    Silent(Url),
}

impl From<RequestError> for RemoteError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Unreachable { url, source } => {
                let why = http::cause(&source);
                Self::Unreachable { url, why }
            }
            error => Self::Request(error),
        }
    }
}

/// Answer of a mirror: the hosts that it replaces.
#[derive(Deserialize)]
struct Hosts {
    hosts: Services,
    /// Repositories in the form `HOST/OWNER/REPO`.
    #[serde(default)]
    git: Vec<String>,
    /// Providers that registries cannot offer, because no publisher signed them.
    #[serde(default)]
    unsigned: Vec<ProviderAddr>,
}

/// Contents of a mirror, with addresses below its own.
#[derive(Debug)]
pub struct Offer {
    /// Registries that the mirror replaces, with their services.
    pub services: Services,
    /// Replacements for the addresses of git repositories: the beginning of an address, and what git uses instead of
    /// it.
    pub repositories: BTreeMap<String, String>,
    /// Hosts of these repositories.
    pub(crate) git_hosts: BTreeSet<String>,
    /// Providers that no publisher signed; only the network mirror has them.
    pub unsigned: Vec<ProviderAddr>,
}

/// Resolves services whose addresses are paths against a server's address.
pub(super) fn below(server: &Url, services: Services) -> Services {
    let base = server.as_str().trim_end_matches('/');
    let absolute = |of_host: BTreeMap<String, String>| {
        let of_host = of_host.into_iter();
        of_host
            .map(|(name, path)| (name, format!("{base}{path}")))
            .collect()
    };
    let services = services.into_iter();
    services
        .map(|(host, of_host)| (host, absolute(of_host)))
        .collect()
}

/// Returns replacements for all forms in which templates name repositories.
pub(super) fn repositories<'a>(
    server: &Url,
    places: impl Iterator<Item = &'a str>,
) -> BTreeMap<String, String> {
    let base = server.as_str().trim_end_matches('/');
    let mut all = BTreeMap::new();
    for place in places {
        let Some((host, path)) = place.split_once('/') else {
            continue;
        };
        let to = format!("{base}/git/{place}");
        all.extend(forms(host, path).into_iter().map(|from| (from, to.clone())));
    }
    all
}

/// Returns the beginnings of a repository's addresses, in all forms that templates use.
pub(super) fn forms(host: &str, path: &str) -> Vec<String> {
    let schemes = ["https://", "http://", "ssh://git@", "ssh://"];
    let mut forms: Vec<_> = schemes
        .iter()
        .map(|scheme| format!("{scheme}{host}/{path}"))
        .collect();
    // The short form for SSH cannot contain a port.
    if !host.contains(':') {
        forms.push(format!("git@{host}:{path}"));
    }
    forms
}

impl Remote {
    /// Returns the mirror at the address of `client`, with a token if it requires one.
    pub fn new(client: Client, token: Option<Secret>) -> Self {
        let fetcher = None;
        Self {
            client,
            token,
            fetcher,
        }
    }

    /// Adds a `fetcher` that finds out what a template lacks if its init failed.
    #[must_use]
    pub fn with_fetcher(mut self, fetcher: Fetcher) -> Self {
        self.fetcher = Some(fetcher);
        self
    }

    /// Requests the mirror's present contents.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn hosts(&self) -> Result<Offer, RemoteError> {
        let url = self.client.endpoint("v1/hosts");
        let asked = timeout(ANSWER_TIMEOUT, self.ask(&url)).await;
        let said = asked.map_err(|_| RemoteError::Silent(url))??;
        let git = said.git.iter().map(String::as_str);
        let git_hosts = git.clone().filter_map(|place| place.split('/').next());
        Ok(Offer {
            services: below(self.client.url(), said.hosts),
            git_hosts: git_hosts.map(str::to_owned).collect(),
            repositories: repositories(self.client.url(), git),
            unsigned: said.unsigned,
        })
    }

    /// Returns the address of the network mirror; `None` without TLS, because engines refuse it then.
    fn network_mirror(&self) -> Option<Url> {
        let base = self.client.url().as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/mirror/")).ok();
        url.filter(|url| url.scheme() == "https")
    }

    /// Returns the mirror's own address.
    pub fn url(&self) -> &Url {
        self.client.url()
    }

    /// Returns the header that authenticates us, if there is a token.
    ///
    /// # Errors
    /// [`RemoteError::Token`].
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, RemoteError> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| RemoteError::Token)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Reports what a template needs and the mirror lacks, for its list of misses.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn report(&self, missing: &[Item]) -> Result<(), RemoteError> {
        for part in missing.chunks(REPORTED_AT_ONCE) {
            self.report_part(part).await?;
        }
        Ok(())
    }

    async fn report_part(&self, missing: &[Item]) -> Result<(), RemoteError> {
        let url = self.client.endpoint("api/missing");
        let mut headers = HeaderMap::new();
        headers.extend(self.authorization()?.map(|value| (AUTHORIZATION, value)));
        let body = serde_json::json!({ "missing": missing });
        let answer = timeout(ANSWER_TIMEOUT, self.client.post(&url, &headers, &body));
        let answer = answer
            .await
            .map_err(|_| RemoteError::Silent(url.clone()))??;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(RemoteError::Answer {
                reason: format!("it answers {}", answer.status()),
                url,
            }),
        }
    }

    async fn ask(&self, url: &Url) -> Result<Hosts, RemoteError> {
        let wrong = |reason: String| RemoteError::Answer {
            url: url.clone(),
            reason,
        };
        let mut headers = HeaderMap::new();
        headers.extend(self.authorization()?.map(|value| (AUTHORIZATION, value)));
        let mut answer = self.client.get(url, &headers).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(RemoteError::Unauthorized {
                url: url.clone(),
                has_token: self.token.is_some(),
            });
        }
        if !answer.status().is_success() {
            return Err(wrong(format!("it answers {}", answer.status())));
        }
        let mut text = Vec::new();
        let broken = |source: reqwest::Error| RemoteError::Broken {
            url: url.clone(),
            source: source.without_url(),
        };
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if text.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(wrong(format!(
                    "its answer is larger than {MAX_ANSWER_BYTES} bytes"
                )));
            }
            text.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
    }
}

#[async_trait]
impl ProviderStore for Remote {
    fn place(&self) -> String {
        http::bare(self.client.url()).into()
    }

    /// Returns a view without any files, because nothing is on this machine. Blocks, so it must not be called on a
    /// thread that runs tasks.
    fn view(
        &self,
        _: &dyn LinkSink,
        _: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>> {
        let offer = Handle::try_current()?.block_on(self.hosts())?;
        Ok(ProviderView {
            init_proxy: None,
            providers: Vec::new(),
            services: offer.services,
            unsigned: offer.unsigned,
            network_mirror: self.network_mirror(),
            repositories: offer.repositories,
            token: self.token.clone(),
            checksums: BTreeMap::new(),
            hold: Arc::new(()),
        })
    }

    async fn lacks(
        &self,
        template: UnmetTemplate,
    ) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        match &self.fetcher {
            Some(fetcher) => doctor::at_server(self, fetcher.clone(), template).await,
            None => Ok(Vec::new()),
        }
    }
}
