//! Downloads from origins: with limits, with retries, and from the byte at which a download broke off.

pub(crate) mod answers;
pub mod network_mirror;
pub mod registry;
mod retry;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
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

use self::answers::{Answers, Kept};
pub use self::retry::Retry;
use super::{Digest, Store, StoreError, store::Incoming};

/// Maximum size of an answer that is read into memory; the versions of a large provider take one million bytes.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Maximum size of a file in bytes; the largest provider has a few hundred million.
const MAX_FILE_BYTES: u64 = 8 << 30;
/// Maximum number of requests for one file, with all continuations; a server that sends more pieces does not want us
/// to have it.
const MAX_PIECES: u32 = 100;

/// Limits for requests to origins.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Number of concurrent requests to all servers.
    pub at_once: usize,
    /// Number of concurrent requests to one server.
    pub per_host: usize,
    /// Bytes a second of all downloads together; `None` for no limit.
    pub bytes_per_second: Option<u64>,
    /// Number of attempts and pauses between them.
    pub retry: Retry,
    /// Time without a byte after which an answer counts as dead.
    pub silence: Duration,
    /// Maximum size of one file in bytes.
    pub max_file_bytes: u64,
}

impl Default for RequestLimits {
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

/// Reason why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request failed without an answer.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The server does not have the file.
    #[error("{url} does not exist (404)")]
    NotFound {
        /// Address of the request.
        url: String,
    },
    /// The server answered with an error.
    #[error("{url} answers {status}")]
    Status {
        /// Address of the request.
        url: String,
        /// Status of the answer.
        status: StatusCode,
        /// Pause that the server demands before the next attempt.
        after: Option<Duration>,
    },
    /// An answer broke off.
    #[error("{url} closed the connection after {got} bytes")]
    Broken {
        /// Address of the request.
        url: String,
        /// Bytes that arrived until then.
        got: u64,
        /// Error from the HTTP client.
        source: reqwest::Error,
    },
    /// An answer is shorter than announced.
    #[error("{url} sent {got} bytes instead of the {announced} bytes it announced")]
    Short {
        /// Address of the request.
        url: String,
        /// Number of bytes that arrived.
        got: u64,
        /// Bytes that were announced.
        announced: u64,
    },
    /// A server stopped sending.
    #[error("{url} sent nothing for {after:?}")]
    Silent {
        /// Address of the request.
        url: String,
        /// Time that we waited.
        after: Duration,
    },
    /// An answer exceeds the limit.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// Address of the request.
        url: String,
        /// Maximum size in bytes.
        limit: u64,
    },
    /// An answer is not valid.
    #[error("{url} gave {why}")]
    Nonsense {
        /// Address of the request.
        url: String,
        /// Problem with the answer.
        why: String,
    },
    /// An address has no valid host.
    #[error("{host:?} is not a registry host")]
    Host {
        /// The text in place of the host.
        host: String,
    },
    /// A host does not offer this service.
    #[error("{host} does not offer a registry of {what}")]
    NoService {
        /// Name of the host.
        host: String,
        /// Name of the service: `providers` or `modules`.
        what: &'static str,
    },
    /// The store refused a file, for example because of a wrong checksum.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A server's certificate is refused, which is the same for all requests.
    #[error("{host} is not trusted: {why}")]
    Untrusted {
        /// Name of the server.
        host: String,
        /// Reason why the certificate is refused.
        why: Arc<str>,
    },
    /// Another process downloads the same file.
    #[error("another process is downloading `{name}`; run the command again when it has finished")]
    Busy {
        /// Name of the file.
        name: String,
    },
}

impl FetchError {
    /// Returns whether the same request may succeed soon, with the pause that the server demands.
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

    /// Returns whether a file differs from the one that its publisher signed.
    pub fn is_untrusted(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Mismatch { .. } | StoreError::Package { .. })
        )
    }
}

/// Receiver of progress messages.
pub trait Watch: Send + Sync {
    /// Reports the beginning of a phase.
    fn phase(&self, what: &str);
    /// Reports a complete file.
    fn arrived(&self, name: &str, bytes: u64);
    /// Reports a text for people.
    fn note(&self, text: &str);
    /// Reports that this many bytes of `name` have arrived, of `total` if that is known.
    fn advanced(&self, name: &str, bytes: u64, total: Option<u64>);
    /// Reports a failed attempt that is repeated after a pause.
    fn trying_again(&self, what: &str, error: &FetchError, pause: Duration);
}

/// Time for which another process may hold a file, and the pause between two checks.
const BUSY: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Time for which a server is not asked again after its certificate was refused: long enough that one run does not
/// ask it a hundred times, and short enough that a served mirror notices when the certificate is fixed.
const DISTRUST: Duration = Duration::from_secs(60);

/// Time and reason of a refused certificate.
type Distrust = (Instant, Arc<str>);

/// Client for origins. Clones share connections and limits.
#[derive(Clone)]
pub struct Fetcher {
    web: Web,
    limits: RequestLimits,
    all: Arc<Semaphore>,
    hosts: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    /// Servers whose certificate was refused, with the time and the reason.
    untrusted: Arc<Mutex<HashMap<String, Distrust>>>,
    /// Time at which the next bytes may be requested, if there is a limit.
    next: Arc<tokio::sync::Mutex<Instant>>,
    watch: Arc<dyn Watch>,
    /// Earlier answers that can be validated, once a store for them is named.
    answers: Arc<OnceLock<Answers>>,
}

impl Fetcher {
    /// Returns a client that has sent no request.
    pub fn new(web: Web, limits: RequestLimits, watch: Arc<dyn Watch>) -> Self {
        Self {
            web,
            limits,
            all: Arc::new(Semaphore::new(limits.at_once)),
            hosts: Arc::default(),
            untrusted: Arc::default(),
            next: Arc::new(tokio::sync::Mutex::new(Instant::now())),
            watch,
            answers: Arc::default(),
        }
    }

    /// Keeps answers in a store from now on, also for all clones, and asks origins whether they are unchanged before
    /// they are downloaded again. With `is_read_only` no new ones are kept.
    pub(super) async fn keep_answers(
        &self,
        store: &Store,
        is_read_only: bool,
    ) -> Result<(), StoreError> {
        let (answers, store) = (Arc::clone(&self.answers), store.clone());
        blocking(move || {
            answers.get_or_init(|| Answers::of(&store, is_read_only));
            Ok(())
        })
        .await
    }

    /// Removes kept answers that nobody has used for long.
    pub(super) async fn tidy_answers(&self) -> Result<(), StoreError> {
        let Some(answers) = self.answers.get().cloned() else {
            return Ok(());
        };
        blocking(move || {
            answers.tidy(SystemTime::now());
            Ok(())
        })
        .await
    }

    /// Returns a complete answer and its final address. An answer that the origin calls unchanged is the kept one.
    ///
    /// # Errors
    /// [`FetchError`] of the last attempt.
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
        // Held until the whole answer is read: the limits are for running requests, not for connections.
        let _turn = self.turn(url).await;
        let has_secrets =
            authorization.is_some() || headers.values().any(HeaderValue::is_sensitive);
        let answers = self.answers.get().filter(|_| !has_secrets).cloned();
        let Some(answers) = answers else {
            let response = self.ask(Method::GET, url, headers, authorization).await?;
            return self.whole(url, response).await;
        };
        let request = (url.clone(), headers.clone());
        let (find, (place, wanted)) = (answers.clone(), request.clone());
        let kept = blocking(move || Ok(find.find(&place, &wanted))).await?;
        let answer = match kept {
            Some(kept) => self.validated(url, headers, kept).await?,
            None => None,
        };
        let answer = match answer {
            Some(answer) => answer,
            None => {
                let response = self.ask(Method::GET, url, headers, None).await?;
                self.whole(url, response).await?
            }
        };
        let kept = blocking(move || {
            answers.keep(&request.0, &request.1, &answer);
            Ok(answer)
        });
        Ok(kept.await?)
    }

    /// Asks whether a kept answer is unchanged, and returns it, or the new one; `None` if the whole answer must be
    /// requested.
    async fn validated(
        &self,
        url: &Url,
        headers: &HeaderMap,
        kept: Kept,
    ) -> Result<Option<Answer>, FetchError> {
        let conditions = kept.conditions(headers);
        let response = self.ask(Method::GET, url, &conditions, None).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(kept.into_answer(response.url(), response.headers())),
            _ => self.whole(url, response).await.map(Some),
        }
    }

    async fn whole(&self, url: &Url, mut response: Response) -> Result<Answer, FetchError> {
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
            is_unchanged: false,
        })
    }

    /// Returns the length of a file in bytes, if its server announces it.
    ///
    /// # Errors
    /// [`FetchError`] of the last attempt.
    pub async fn length(&self, url: &Url) -> Result<Option<u64>, FetchError> {
        let mut failures = 0;
        loop {
            let asked = {
                let _turn = self.turn(url).await;
                self.ask(Method::HEAD, url, &HeaderMap::new(), None).await
            };
            match asked {
                Ok(response) => return Ok(number(response.headers(), &header::CONTENT_LENGTH)),
                // Some servers do not support HEAD, and the length is not important enough for a failure.
                Err(FetchError::Status { status, .. }) if status == 405 => return Ok(None),
                Err(error) => failures = self.pause(url.as_str(), error, failures).await?,
            }
        }
    }

    /// Downloads a file into the store, and returns its length in bytes. Bytes that are already in the store are not
    /// requested again.
    ///
    /// # Errors
    /// [`FetchError`] of the last attempt; the bytes that arrived are kept.
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
                // A run that was just stopped may still write its last bytes.
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
                    // The bytes from before may belong to another file.
                    was_restarted = true;
                    partial.restart()?;
                }
                Ok(()) => {
                    let name = name.to_owned();
                    return Ok(blocking(move || partial.commit(&name)).await?);
                }
                Err(error) => {
                    // Any progress shows that the server works, so that only failures in a row count.
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

    /// Downloads a file with an unknown digest into the store, and returns its digest and its length in bytes. After
    /// a failure it begins anew, because nothing shows that the rest would belong to the same file.
    ///
    /// # Errors
    /// [`FetchError`] of the last attempt.
    pub async fn take(
        &self,
        store: &Store,
        url: &Url,
        name: &str,
    ) -> Result<(Digest, u64), FetchError> {
        self.take_as(store, url, name, None).await
    }

    /// Does the same for a server that requires authentication.
    ///
    /// # Errors
    /// [`FetchError`] of the last attempt.
    pub(crate) async fn take_as(
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
            // The file has another length, or the server does not support ranges: request all of it.
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
                // No later attempt will continue this file.
                partial.restart()?;
                return Err(error);
            }
            self.slow_down(piece.len()).await;
            // Pieces are small and go to the page cache; a blocking task for each would cost more than it saves.
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
        let after = self.limits.silence;
        let silent = |_| FetchError::Silent {
            url: shown(url),
            after,
        };
        let asked = timeout(after, asked).await.map_err(silent)?;
        let response = asked.map_err(|error| self.distrust(error))?;
        let status = response.status();
        let is_conditional = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE]
            .iter()
            .any(|name| headers.contains_key(name));
        if status.is_success() || is_conditional && status == StatusCode::NOT_MODIFIED {
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

    /// Refuses a request to a server whose certificate was refused shortly before.
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

    /// Records a server whose certificate is refused, which after a redirect is not the requested one.
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
        let after = self.limits.silence;
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

    /// Waits before the next attempt and counts the failure, or gives up.
    async fn pause(&self, what: &str, error: FetchError, failures: u32) -> Result<u32, FetchError> {
        let failures = failures + 1;
        let pause = error.passing().and_then(|after| {
            let retry = self.limits.retry;
            retry.pause(failures, after, rand::random::<f64>())
        });
        let Some(pause) = pause else {
            return Err(error);
        };
        self.watch.trying_again(what, &error, pause);
        sleep(pause).await;
        Ok(failures)
    }

    /// Waits until the number of concurrent requests permits another one.
    async fn turn(&self, url: &Url) -> (OwnedSemaphorePermit, OwnedSemaphorePermit) {
        let host = url.host_str().unwrap_or_default().to_owned();
        let of_host = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Semaphore::new(self.limits.per_host));
            Arc::clone(hosts.entry(host).or_insert_with(fresh))
        };
        let permit =
            |of: Arc<Semaphore>| async { of.acquire_owned().await.expect("it is never closed") };
        let of_host = permit(of_host).await;
        (of_host, permit(Arc::clone(&self.all)).await)
    }

    /// Refuses a file that is too large.
    fn check_size(&self, url: &Url, bytes: u64) -> Result<(), FetchError> {
        let limit = self.limits.max_file_bytes;
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
        let Some(limit) = self.limits.bytes_per_second.filter(|limit| *limit > 0) else {
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

/// Answer of a server.
#[derive(Debug)]
pub struct Answer {
    /// Final address, after redirects.
    pub place: Url,
    /// Status of the answer, always a success.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// Complete body of the answer.
    pub body: Vec<u8>,
    /// `true` if the origin only said that an earlier answer is still valid.
    pub is_unchanged: bool,
}

impl Answer {
    /// Parses the body as JSON.
    ///
    /// # Errors
    /// [`FetchError::Nonsense`].
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, FetchError> {
        serde_json::from_slice(&self.body).map_err(|error| FetchError::Nonsense {
            url: shown(&self.place),
            why: format!("unexpected response: {error}"),
        })
    }
}

/// Returns the server of an address, with its port if that is not the default one.
fn server_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Returns whether an answer begins at this byte of the file.
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

/// Runs blocking file operations on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Router, http::HeaderMap as Headers, response::IntoResponse as _, routing::get};
    use outpost_net::proxy::Proxies;

    use super::*;

    struct Deaf;

    impl Watch for Deaf {
        fn phase(&self, _: &str) {}
        fn arrived(&self, _: &str, _: u64) {}
        fn note(&self, _: &str) {}
        fn advanced(&self, _: &str, _: u64, _: Option<u64>) {}
        fn trying_again(&self, _: &str, _: &FetchError, _: Duration) {}
    }

    /// A server whose file has this tag, and the number of times that it sent the file.
    async fn origin(tag: Arc<Mutex<&'static str>>) -> (Url, Arc<AtomicUsize>) {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let answer = move |headers: Headers| {
            let (tag, count) = (*tag.lock().unwrap(), Arc::clone(&count));
            async move {
                let asked = headers.get(header::IF_NONE_MATCH);
                if asked.is_some_and(|asked| asked == tag) {
                    return StatusCode::NOT_MODIFIED.into_response();
                }
                count.fetch_add(1, Ordering::Relaxed);
                ([(header::ETAG, tag)], tag).into_response()
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a.zip", listener.local_addr().unwrap());
        let routes = Router::new().route("/a.zip", get(answer));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (url.parse().unwrap(), sent)
    }

    fn fetcher() -> Fetcher {
        outpost_net::install_crypto_provider();
        let web = Web::new(&tls::Trust::default(), Proxies::default()).unwrap();
        Fetcher::new(web, RequestLimits::default(), Arc::new(Deaf))
    }

    #[tokio::test]
    async fn what_an_origin_calls_unchanged_is_not_downloaded_again_and_what_changed_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let tag = Arc::new(Mutex::new("\"one\""));
        let (url, sent) = origin(Arc::clone(&tag)).await;
        // Each is a run of its own.
        let run = async || {
            let fetcher = fetcher();
            fetcher.keep_answers(&store, false).await.unwrap();
            let clone = fetcher.clone();
            let answer = clone.get(&url, &HeaderMap::new(), None).await.unwrap();
            (
                answer.body,
                answer.is_unchanged,
                sent.load(Ordering::Relaxed),
            )
        };
        let body = |text: &str| text.as_bytes().to_vec();

        assert_eq!(run().await, (body("\"one\""), false, 1));
        assert_eq!(run().await, (body("\"one\""), true, 1));
        *tag.lock().unwrap() = "\"two\"";
        assert_eq!(run().await, (body("\"two\""), false, 2));
        assert_eq!(run().await, (body("\"two\""), true, 2));

        // A damaged copy is as good as none.
        for entry in std::fs::read_dir(dir.path().join(answers::NAME)).unwrap() {
            let path = entry.unwrap().path();
            let mut content = std::fs::read(&path).unwrap();
            content.pop();
            std::fs::write(path, content).unwrap();
        }
        assert_eq!(run().await, (body("\"two\""), false, 3));
        let fetcher = fetcher();
        let whole = fetcher.get(&url, &HeaderMap::new(), None).await.unwrap();
        assert!(!whole.is_unchanged, "nothing is kept without a store");
    }

    #[tokio::test]
    async fn what_is_for_a_token_only_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (url, sent) = origin(Arc::new(Mutex::new("\"one\""))).await;
        let mut secret = HeaderValue::from_static("Bearer hunter2");
        secret.set_sensitive(true);
        let token = HeaderMap::from_iter([(header::COOKIE, secret.clone())]);
        let fetcher = fetcher();
        fetcher.keep_answers(&store, false).await.unwrap();

        for _ in 0..2 {
            let answer = fetcher.get(&url, &token, None).await.unwrap();
            assert!(!answer.is_unchanged);
            let answer = fetcher.get(&url, &HeaderMap::new(), Some(&secret)).await;
            assert!(!answer.unwrap().is_unchanged);
        }

        assert_eq!(sent.load(Ordering::Relaxed), 4);
        assert!(!dir.path().join(answers::NAME).exists());
    }

    #[tokio::test]
    async fn a_server_that_calls_unchanged_what_nobody_has_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a.zip", listener.local_addr().unwrap());
        let routes = Router::new().route("/a.zip", get(|| async { StatusCode::NOT_MODIFIED }));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let fetcher = fetcher();
        fetcher.keep_answers(&store, false).await.unwrap();

        let url = url.parse().unwrap();
        let error = fetcher.get(&url, &HeaderMap::new(), None).await;

        let error = error.unwrap_err().to_string();
        assert!(error.contains("304"), "{error}");
    }
}
