//! A mirror that somebody serves: engines ask it as they would ask the registries that it stands in for.

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

/// Time to say for whom it stands in.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for some thousand hosts.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Things that it is told to lack, in one request.
const REPORTED_AT_ONCE: usize = 100;

/// A mirror at an address.
#[derive(Clone)]
pub struct Remote {
    client: Client,
    token: Option<Secret>,
    /// How it is asked what templates lack; `None` if it is not.
    fetcher: Option<Fetcher>,
}

/// Why a mirror is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It cannot be reached.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// What was asked.
        url: Url,
        /// Why, as far as this machine knows.
        why: String,
    },
    /// It leads elsewhere.
    #[error(transparent)]
    Request(RequestError),
    /// It does not know us.
    #[error("{url} {}", match has_token {
        true => "refuses the mirror's token, which was revoked or belongs to another mirror: put a new one into the file of --mirror-token-file",
        false => "requires a token: name a file that holds one with --mirror-token-file",
    })]
    Unauthorized {
        /// What was asked.
        url: Url,
        /// Whether it was shown a token.
        has_token: bool,
    },
    /// The connection ends before the answer does.
    #[error("read the answer of {url}")]
    Broken {
        /// What was asked.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// Something answers that is no mirror.
    #[error("{url} is not served by `outpost mirror serve`: {reason}")]
    Answer {
        /// What was asked.
        url: Url,
        /// What is wrong.
        reason: String,
    },
    /// The token has characters that a header cannot have.
    #[error("the mirror's token contains characters that a token cannot contain")]
    Token,
    /// It says nothing.
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

/// What it says for whom it stands in.
#[derive(Deserialize)]
struct Hosts {
    hosts: Services,
    /// Places of repositories: `HOST/OWNER/REPO`.
    #[serde(default)]
    git: Vec<String>,
    /// Providers that registries cannot hand out.
    #[serde(default)]
    unsigned: Vec<ProviderAddr>,
}

/// What a mirror offers, at its address.
#[derive(Debug)]
pub struct Offer {
    /// The registries that it stands in for.
    pub services: Services,
    /// Beginnings of the addresses of git repositories, and what git takes in their place.
    pub repositories: BTreeMap<String, String>,
    /// The hosts of these repositories.
    pub git_hosts: BTreeSet<String>,
    /// Providers that no publisher signed: only the network mirror has them.
    pub unsigned: Vec<ProviderAddr>,
}

/// Services whose addresses are paths, at a server.
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

/// All forms in which templates name repositories, and what a server has in their place.
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

/// How addresses of repositories of a host begin, in all forms in which templates have them.
pub(super) fn forms(host: &str, path: &str) -> Vec<String> {
    let schemes = ["https://", "http://", "ssh://git@", "ssh://"];
    let mut forms: Vec<_> = schemes
        .iter()
        .map(|scheme| format!("{scheme}{host}/{path}"))
        .collect();
    // The short form of ssh has no room for a port.
    if !host.contains(':') {
        forms.push(format!("git@{host}:{path}"));
    }
    forms
}

impl Remote {
    /// The mirror at the address of `client`, which may want a token.
    pub fn new(client: Client, token: Option<Secret>) -> Self {
        let fetcher = None;
        Self {
            client,
            token,
            fetcher,
        }
    }

    /// The same, asked by `fetcher` for all that a template needs if its init failed.
    #[must_use]
    pub fn with_fetcher(mut self, fetcher: Fetcher) -> Self {
        self.fetcher = Some(fetcher);
        self
    }

    /// What it offers now.
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

    /// Where the network mirror is; `None` without TLS, as engines refuse it then.
    fn network_mirror(&self) -> Option<Url> {
        let base = self.client.url().as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/mirror/")).ok();
        url.filter(|url| url.scheme() == "https")
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        self.client.url()
    }

    /// The header that shows it who asks, if it wants to know.
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

    /// Tells it what a template needs and it does not have, so that its list of misses says so.
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

    /// Nothing is on this machine, so nothing is laid out. Blocks, so it must not be called where tasks run.
    fn view(
        &self,
        _: &dyn LinkSink,
        _: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>> {
        let offer = Handle::try_current()?.block_on(self.hosts())?;
        Ok(ProviderView {
            detour: None,
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
