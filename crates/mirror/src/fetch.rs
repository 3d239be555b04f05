//! Getting things from origins: politely, again after a failure, from where a download broke off.

pub mod network_mirror;
pub mod registry;
mod retry;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use outpost_net::{
    http::shown,
    tls,
    web::{Web, WebError},
};
use reqwest::Response;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use url::Url;

pub use self::retry::Retry;
use super::{Digest, Store, StoreError, store::Incoming};

/// Bytes of an answer that is read into memory: the versions of a large provider take one million.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Bytes of a file; the largest provider has a few hundred million.
const MAX_FILE_BYTES: u64 = 8 << 30;
/// Times that one file is begun or continued; whoever sends it in more pieces does not want us to have it.
const MAX_PIECES: u32 = 100;

/// How to behave towards origins.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Requests at once.
    pub at_once: usize,
    /// Of those, to one server.
    pub per_host: usize,
    /// Bytes a second of all downloads together.
    pub bytes_per_second: Option<u64>,
    /// When to try again.
    pub retry: Retry,
    /// Time without a byte after which an answer counts as dead.
    pub silence: Duration,
    /// Bytes of one file.
    pub max_file_bytes: u64,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            at_once: 8,
            per_host: 4,
            bytes_per_second: None,
            retry: Retry::default(),
            silence: Duration::from_secs(30),
            max_file_bytes: MAX_FILE_BYTES,
        }
    }
}

/// Why something was not got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The server has no such thing.
    #[error("{url} does not exist (404)")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The server refuses.
    #[error("{url} answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// What came.
        status: StatusCode,
        /// What the server wants us to wait.
        after: Option<Duration>,
    },
    /// An answer broke off.
    #[error("{url} closed the connection after {got} bytes")]
    Broken {
        /// What was asked for.
        url: String,
        /// What came of it.
        got: u64,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer is shorter than it said.
    #[error("{url} sent {got} bytes instead of the {announced} bytes it announced")]
    Short {
        /// What was asked for.
        url: String,
        /// What came.
        got: u64,
        /// What should have come.
        announced: u64,
    },
    /// A server fell silent.
    #[error("{url} sent nothing for {after:?}")]
    Silent {
        /// What was asked for.
        url: String,
        /// How long we waited.
        after: Duration,
    },
    /// An answer is larger than such an answer should be.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// What is allowed.
        limit: u64,
    },
    /// An answer is not what it should be.
    #[error("{url} gave {why}")]
    Nonsense {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// An address names no host.
    #[error("{host:?} is not a registry host")]
    Host {
        /// What it names.
        host: String,
    },
    /// A host has no such service.
    #[error("{host} does not offer a registry of {what}")]
    NoService {
        /// The host.
        host: String,
        /// `providers` or `modules`.
        what: &'static str,
    },
    /// What came is not what was promised.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A server's certificate is refused. The same for whatever it is asked for.
    #[error("{host} is not trusted: {why}")]
    Untrusted {
        /// The server.
        host: String,
        /// Why.
        why: Arc<str>,
    },
    /// Somebody else downloads the same file.
    #[error("another process is downloading `{name}`; run the command again when it has finished")]
    Busy {
        /// Which file.
        name: String,
    },
}

impl FetchError {
    /// Whether the same request may succeed soon, and how long the server wants us to wait.
    fn passing(&self) -> Option<Option<Duration>> {
        match self {
            Self::Web(WebError::Unreachable { .. })
            | Self::Broken { .. }
            | Self::Short { .. }
            | Self::Silent { .. } => Some(None),
            Self::Status { status, after, .. } => {
                retry::is_passing(status.as_u16()).then_some(*after)
            }
            _ => None,
        }
    }

    /// Whether what came was not what its publisher signed.
    pub fn is_distrust(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Mismatch { .. } | StoreError::Package { .. })
        )
    }
}

/// Told how the work goes on.
pub trait Watch: Send + Sync {
    /// What happens from now on.
    fn phase(&self, what: &str);
    /// A file is there.
    fn arrived(&self, name: &str, bytes: u64);
    /// Something that people should know.
    fn note(&self, text: &str);
    /// So many bytes of `name` are there, of `total` if that is known.
    fn advanced(&self, name: &str, bytes: u64, total: Option<u64>);
    /// A try failed, and there will be another one after a pause.
    fn trying_again(&self, what: &str, error: &FetchError, pause: Duration);
}

/// How long somebody else may hold a file, and the pause between two looks.
const BUSY: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// How long a server is not asked again whose certificate was refused: a run does not ask it a hundred times, and a
/// mirror that is served finds out when somebody has mended it.
const DISTRUST: Duration = Duration::from_secs(60);

/// When a certificate was refused, and why.
type Distrust = (Instant, Arc<str>);

/// Asks origins. A clone shares connections and limits.
#[derive(Clone)]
pub struct Fetcher {
    web: Web,
    manners: Manners,
    all: Arc<Semaphore>,
    hosts: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    /// Servers whose certificate was refused, when that was, and why.
    untrusted: Arc<Mutex<HashMap<String, Distrust>>>,
    /// When the next bytes may be asked for, if there is a limit.
    next: Arc<tokio::sync::Mutex<Instant>>,
    watch: Arc<dyn Watch>,
}

impl Fetcher {
    /// One that nothing was asked of yet.
    pub fn new(web: Web, manners: Manners, watch: Arc<dyn Watch>) -> Self {
        Self {
            web,
            manners,
            all: Arc::new(Semaphore::new(manners.at_once)),
            hosts: Arc::default(),
            untrusted: Arc::default(),
            next: Arc::new(tokio::sync::Mutex::new(Instant::now())),
            watch,
        }
    }

    /// An answer as a whole, and where it came from.
    ///
    /// # Errors
    /// [`FetchError`] of the last try.
    pub async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, FetchError> {
        let mut failures = 0;
        loop {
            match self.get_once(url, headers, authorization).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failures = self.pause(url.as_str(), error, failures).await?,
            }
        }
    }

    async fn get_once(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, FetchError> {
        let _turn = self.turn(url).await;
        let mut response = self.ask(Method::GET, url, headers, authorization).await?;
        let place = response.url().clone();
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut response, body.len() as u64).await? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(FetchError::TooLarge {
                    url: shown(url),
                    limit: MAX_ANSWER_BYTES as u64,
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            place,
            status,
            headers,
            body,
        })
    }

    /// The length of a file in bytes, if its server tells.
    ///
    /// # Errors
    /// [`FetchError`] of the last try.
    pub async fn length(&self, url: &Url) -> Result<Option<u64>, FetchError> {
        let mut failures = 0;
        loop {
            let asked = {
                let _turn = self.turn(url).await;
                self.ask(Method::HEAD, url, &HeaderMap::new(), None).await
            };
            match asked {
                Ok(response) => return Ok(number(response.headers(), &header::CONTENT_LENGTH)),
                Err(FetchError::Status { status, .. }) if status == 405 => return Ok(None),
                Err(error) => failures = self.pause(url.as_str(), error, failures).await?,
            }
        }
    }

    /// Brings a file into the store, and returns its length in bytes. What is there of it already is not asked for.
    ///
    /// # Errors
    /// [`FetchError`] of the last try; what came until then is kept.
    pub async fn download(
        &self,
        store: &Store,
        url: &Url,
        expected: Digest,
        name: &str,
    ) -> Result<u64, FetchError> {
        let busy = || FetchError::Busy {
            name: name.to_owned(),
        };
        let waiting_since = Instant::now();
        let mut partial = loop {
            let opened = store.clone();
            match blocking(move || opened.partial(expected)).await? {
                Some(partial) => break partial,
                // A run that was stopped just now may still be about to write.
                None if waiting_since.elapsed() < BUSY => sleep(BUSY_PAUSE).await,
                None => return Err(busy()),
            }
        };
        let (mut failures, mut was_restarted) = (0, false);
        for _ in 0..MAX_PIECES {
            let before = partial.size();
            let tried = match before > 0 && partial.is_whole() {
                true => Ok(()),
                false => self.continue_once(&mut partial, url, name).await,
            };
            match tried {
                Ok(()) if !partial.is_whole() && before > 0 && !was_restarted => {
                    // What was there before may have been something else.
                    was_restarted = true;
                    partial.restart()?;
                }
                Ok(()) => {
                    let name = name.to_owned();
                    return Ok(blocking(move || partial.commit(&name)).await?);
                }
                Err(error) => {
                    if partial.size() > before {
                        failures = 0;
                    }
                    failures = self.pause(name, error, failures).await?;
                }
            }
        }
        Err(FetchError::Nonsense {
            url: shown(url),
            why: format!("`{name}` in more than {MAX_PIECES} pieces"),
        })
    }

    /// Brings a file into the store whose digest nobody tells, and returns that and its length in bytes. After a
    /// failure it begins anew, as nobody could say what the rest belongs to.
    ///
    /// # Errors
    /// [`FetchError`] of the last try.
    pub async fn take(
        &self,
        store: &Store,
        url: &Url,
        name: &str,
    ) -> Result<(Digest, u64), FetchError> {
        self.take_as(store, url, name, None).await
    }

    /// The same from a server that wants to know who asks.
    ///
    /// # Errors
    /// The same.
    pub async fn take_as(
        &self,
        store: &Store,
        url: &Url,
        name: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Digest, u64), FetchError> {
        let mut failures = 0;
        loop {
            match self.take_once(store, url, name, authorization).await {
                Ok(incoming) => return Ok(blocking(move || incoming.commit()).await?),
                Err(error) => failures = self.pause(name, error, failures).await?,
            }
        }
    }

    async fn take_once(
        &self,
        store: &Store,
        url: &Url,
        name: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Incoming, FetchError> {
        let _turn = self.turn(url).await;
        let mut incoming = store.incoming()?;
        let headers = HeaderMap::new();
        let mut response = self.ask(Method::GET, url, &headers, authorization).await?;
        let total = number(response.headers(), &header::CONTENT_LENGTH);
        self.check_size(url, total.unwrap_or_default())?;
        while let Some(piece) = self.piece(&mut response, incoming.size()).await? {
            self.check_size(url, incoming.size() + piece.len() as u64)?;
            self.slow_down(piece.len()).await;
            incoming.write(&piece)?;
            self.watch.advanced(name, incoming.size(), total);
        }
        match total {
            Some(announced) if announced != incoming.size() => Err(FetchError::Short {
                url: shown(url),
                got: incoming.size(),
                announced,
            }),
            _ => Ok(incoming),
        }
    }

    async fn continue_once(
        &self,
        partial: &mut super::store::Partial,
        url: &Url,
        name: &str,
    ) -> Result<(), FetchError> {
        let _turn = self.turn(url).await;
        let mut headers = HeaderMap::new();
        if partial.size() > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", partial.size()));
            headers.extend(range.ok().map(|range| (header::RANGE, range)));
        }
        let mut response = match self.ask(Method::GET, url, &headers, None).await {
            Ok(response) if goes_on_at(&response, partial.size()) => response,
            Ok(response) if response.status() == StatusCode::OK => {
                partial.restart()?;
                response
            }
            // It has another length, or the server does not understand: all of it, then.
            Ok(_)
            | Err(FetchError::Status {
                status: StatusCode::RANGE_NOT_SATISFIABLE,
                ..
            }) => {
                partial.restart()?;
                self.ask(Method::GET, url, &HeaderMap::new(), None).await?
            }
            Err(error) => return Err(error),
        };
        let rest = number(response.headers(), &header::CONTENT_LENGTH);
        let total = rest.map(|rest| partial.size().saturating_add(rest));
        self.check_size(url, total.unwrap_or_default())?;
        while let Some(piece) = self.piece(&mut response, partial.size()).await? {
            if let Err(error) = self.check_size(url, partial.size() + piece.len() as u64) {
                // Nobody will ever go on with it.
                partial.restart()?;
                return Err(error);
            }
            self.slow_down(piece.len()).await;
            // Pieces are small and go to the page cache; a thread for each would cost more than it spares.
            partial.write(&piece)?;
            self.watch.advanced(name, partial.size(), total);
        }
        match total {
            Some(announced) if announced != partial.size() => Err(FetchError::Short {
                url: shown(url),
                got: partial.size(),
                announced,
            }),
            _ => Ok(()),
        }
    }

    async fn ask(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, FetchError> {
        self.check_trust(url)?;
        let asked = self.web.ask(method, url, headers, authorization);
        let after = self.manners.silence;
        let silent = |_| FetchError::Silent {
            url: shown(url),
            after,
        };
        let asked = timeout(after, asked).await.map_err(silent)?;
        let response = asked.map_err(|error| self.distrust(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let url = shown(url);
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => FetchError::NotFound { url },
            _ => {
                let after = response.headers().get(header::RETRY_AFTER);
                let after = after.and_then(|value| retry::retry_after(value.to_str().ok()?));
                FetchError::Status { url, status, after }
            }
        })
    }

    /// Refuses what a server has whose certificate was refused just before.
    fn check_trust(&self, url: &Url) -> Result<(), FetchError> {
        let host = server_of(url);
        let untrusted = self
            .untrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match untrusted.get(&host) {
            Some((at, why)) if at.elapsed() < DISTRUST => Err(FetchError::Untrusted {
                host,
                why: why.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Remembers a server whose certificate is refused, which may be another one than was asked.
    fn distrust(&self, error: WebError) -> FetchError {
        let WebError::Unreachable { url, source } = &error else {
            return error.into();
        };
        let why = tls::refused_certificate(source);
        let (Some(why), Ok(url)) = (why, Url::parse(url)) else {
            return error.into();
        };
        let (host, why) = (server_of(&url), Arc::<str>::from(why));
        let mut untrusted = self
            .untrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        untrusted.insert(host.clone(), (Instant::now(), why.clone()));
        FetchError::Untrusted { host, why }
    }

    async fn piece(
        &self,
        response: &mut Response,
        got: u64,
    ) -> Result<Option<bytes::Bytes>, FetchError> {
        let url = shown(response.url());
        let after = self.manners.silence;
        match timeout(after, response.chunk()).await {
            Err(_) => Err(FetchError::Silent { url, after }),
            Ok(Err(source)) => Err(FetchError::Broken {
                url,
                got,
                source: source.without_url(),
            }),
            Ok(Ok(piece)) => Ok(piece),
        }
    }

    /// Waits before the next try and counts the failure, or gives up.
    async fn pause(&self, what: &str, error: FetchError, failures: u32) -> Result<u32, FetchError> {
        let failures = failures + 1;
        let pause = error.passing().and_then(|after| {
            let retry = self.manners.retry;
            retry.pause(failures, after, rand::random::<f64>())
        });
        let Some(pause) = pause else {
            return Err(error);
        };
        self.watch.trying_again(what, &error, pause);
        sleep(pause).await;
        Ok(failures)
    }

    /// Waits until there are few enough requests.
    async fn turn(&self, url: &Url) -> (OwnedSemaphorePermit, OwnedSemaphorePermit) {
        let host = url.host_str().unwrap_or_default().to_owned();
        let of_host = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Semaphore::new(self.manners.per_host));
            Arc::clone(hosts.entry(host).or_insert_with(fresh))
        };
        let permit =
            |of: Arc<Semaphore>| async { of.acquire_owned().await.expect("it is never closed") };
        let of_host = permit(of_host).await;
        (of_host, permit(Arc::clone(&self.all)).await)
    }

    /// Refuses a file that is too large.
    fn check_size(&self, url: &Url, bytes: u64) -> Result<(), FetchError> {
        let limit = self.manners.max_file_bytes;
        match bytes > limit {
            false => Ok(()),
            true => Err(FetchError::TooLarge {
                url: shown(url),
                limit,
            }),
        }
    }

    /// Keeps all downloads together below the limit.
    async fn slow_down(&self, bytes: usize) {
        let Some(limit) = self.manners.bytes_per_second.filter(|limit| *limit > 0) else {
            return;
        };
        let costs = Duration::from_secs_f64(bytes as f64 / limit as f64);
        let until = {
            let mut next = self.next.lock().await;
            *next = (*next).max(Instant::now()) + costs;
            *next
        };
        tokio::time::sleep_until(until).await;
    }
}

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    /// Where it came from in the end.
    pub place: Url,
    /// Its status, which is one of success.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`FetchError::Nonsense`].
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, FetchError> {
        serde_json::from_slice(&self.body).map_err(|error| FetchError::Nonsense {
            url: shown(&self.place),
            why: format!("an answer that is not understood: {error}"),
        })
    }
}

/// The server of an address, with its port if that is not the usual one.
fn server_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether an answer begins at this byte of the file.
fn goes_on_at(response: &Response, size: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    let begins = range
        .and_then(|range| range.strip_prefix("bytes ")?.split('-').next())
        .and_then(|begin| begin.parse::<u64>().ok());
    match response.status() {
        StatusCode::PARTIAL_CONTENT => begins == Some(size),
        _ => size == 0,
    }
}

fn number(headers: &HeaderMap, name: &header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Runs what waits for the disk where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
