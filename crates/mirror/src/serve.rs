//! A mirror over HTTP: it replaces registries of providers and modules, and is a network mirror as well.
//!
//! | path | what |
//! |---|---|
//! | `/` | its contents, as a page for people, or as JSON |
//! | `/v1/hosts` | the hosts it replaces, with the services for `host` blocks of a CLI configuration; the git repositories; the providers without signatures |
//! | `/v1/providers/HOST/…` | the provider registry protocol, with the publishers' own checksums and signatures |
//! | `/v1/modules/HOST/…` | the module registry protocol |
//! | `/mirror/HOST/…` | the network mirror protocol |
//! | `/releases/NAME/…` | engines, in the shape of `releases.hashicorp.com`, for hc-install and the like |
//! | `/git/HOST/OWNER/REPO.git/…` | repositories, by git's smart protocol, or by its dumb one where there is no git |
//! | `/files/HOST/PATH` | files by their address |
//! | `/blobs/DIGEST/NAME` | files of the store |
//! | `/api/missing` | the list of misses; clients may add what they would have requested |
//! | `/healthz`, `/readyz`, `/metrics` | whether it runs, whether it has something to serve, and its metrics |

mod audit;
mod blob;
mod documents;
mod intact;
mod landing;
mod links;
mod loopback;
mod metrics;
mod misses;
mod oci;
mod proxy;
mod smart;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::{Body, HttpBody as _},
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use self::{
    documents::Asked,
    intact::Intact,
    landing::Landing,
    links::Client,
    metrics::Metrics,
    misses::Misses,
    smart::{Ask, Backend, SmartError},
};

use outpost_base::{
    error_chain::error_chain,
    registry::{Platform, ProviderAddr},
    stop::Stop,
};
use outpost_files as files;
use outpost_net::{
    budget::{Account, Reserved},
    listener::{Listener, mark_authenticated},
};
use outpost_provision::Services;

pub use self::{
    audit::{Audit, Writer as AuditWriter},
    links::Access,
    loopback::{Loopback, LoopbackError},
    misses::{Item, Miss},
    proxy::Proxy,
};
use super::{
    Digest, Generation, Store, StoreError,
    fetch::registry::Offered,
    generation::{GitRepository, Provider},
    git::{directory as git_directory, lay_out},
    store::Lease,
    sync::{PullError, Release, Upstream},
};

/// Maximum size of a publisher's key in bytes; those of registries have some ten thousand.
const MAX_KEY_BYTES: u64 = 1 << 20;

/// Maximum size of a report about missing items in bytes.
const MAX_REPORT_BYTES: usize = 256 << 10;
/// Budget for the bodies of all concurrent requests in bytes, apart from those of up to 64 KiB.
const SMALL_BODIES_BYTES: usize = 4 << 20;
const BODIES_BYTES: usize = 64 << 20;
/// Time limit for the body of a request, because others wait for its part of the budget.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Minimum time between two writes of the list of misses.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);

/// Serves the current generation of a store, as of each request.
#[derive(Clone)]
pub struct Server(Arc<Mirror>);

impl Server {
    /// Returns a server of `store` for the clients that `access` admits.
    pub fn new(store: Store, access: Access) -> Self {
        Self::with(store, access, None, None)
    }

    /// Adds an `upstream` that provides what the store lacks.
    #[must_use]
    pub fn with_upstream(self, upstream: Upstream) -> Self {
        let Mirror {
            store,
            access,
            audit,
            ..
        } = &*self.0;
        let (store, access, audit) = (store.clone(), access.clone(), audit.clone());
        Self::with(store, access, Some(upstream), audit)
    }

    /// Adds an audit log of all files that clients fetch.
    #[must_use]
    pub fn with_audit(self, audit: Audit) -> Self {
        let Mirror {
            store,
            access,
            upstream,
            ..
        } = &*self.0;
        let (store, access, upstream) = (store.clone(), access.clone(), upstream.clone());
        Self::with(store, access, upstream, Some(audit))
    }

    fn with(
        store: Store,
        access: Access,
        upstream: Option<Upstream>,
        audit: Option<Audit>,
    ) -> Self {
        let pulled = upstream.as_ref().map(Upstream::counts);
        Self(Arc::new(Mirror {
            store,
            access,
            upstream,
            newest: Mutex::default(),
            intact: Intact::new(),
            misses: Misses::default(),
            metrics: Metrics::new(pulled),
            audit,
            git: Backend::default(),
            landing: Landing::default(),
            is_encrypted: OnceLock::new(),
            bodies: Account::new(SMALL_BODIES_BYTES, BODIES_BYTES),
        }))
    }

    /// Adds the connections of `listener` to the metrics, and notes whether it uses TLS.
    pub fn watch(&self, listener: &Listener) {
        self.0.metrics.watch(listener);
        let _ = self.0.is_encrypted.set(listener.url().scheme() == "https");
    }

    /// Returns the router of all endpoints.
    pub fn router(&self) -> Router {
        let documents = Router::new()
            .route("/", get(landing::show))
            .route("/v1/hosts", get(hosts))
            .route(
                "/v1/providers/{host}/{namespace}/{kind}/versions",
                get(provider_versions),
            )
            .route(
                "/v1/providers/{host}/{namespace}/{kind}/{version}/download/{os}/{arch}",
                get(download),
            )
            .route(
                "/v1/modules/{host}/{namespace}/{name}/{system}/versions",
                get(module_versions),
            )
            .route(
                "/v1/modules/{host}/{namespace}/{name}/{system}/{version}/download",
                get(module),
            )
            .route("/mirror/{host}/{namespace}/{kind}/{document}", get(mirror))
            .route("/releases/{name}/index.json", get(releases))
            .route("/releases/{name}/{version}/{file}", get(release))
            .route("/{name}/{version}/{file}", get(release_of_server))
            .route("/v2/", get(async || Json(json!({}))))
            .route("/v2/{host}/{namespace}/{kind}/tags/list", get(oci_tags))
            .route(
                "/v2/{host}/{namespace}/{kind}/manifests/{reference}",
                get(oci_manifest),
            )
            .route(
                "/v2/{host}/{namespace}/{kind}/blobs/{digest}",
                get(oci_blob),
            )
            .route("/git/{*path}", get(git).post(upload_pack))
            .route("/files/{*place}", get(file))
            .route("/api/missing", get(missing).post(report_missing))
            .route("/metrics", get(show_metrics))
            .layer(middleware::from_fn_with_state(self.0.clone(), admit));
        documents
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/blobs/{digest}/{name}", get(blob))
            .layer(middleware::from_fn_with_state(self.0.clone(), count))
            .with_state(self.0.clone())
    }

    /// Returns addresses and versions of the providers that registries cannot offer, because no publisher signed
    /// them. Blocks.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub fn unsigned(&self) -> Result<Vec<String>, StoreError> {
        let name = |provider: &Provider| format!("{} {}", provider.addr, provider.version);
        match self.0.snapshot() {
            Err(StoreError::Empty { .. }) => Ok(Vec::new()),
            snapshot => Ok(snapshot?.generation.unsigned().map(name).collect()),
        }
    }

    /// Returns the list of misses.
    pub fn misses(&self) -> Vec<Miss> {
        self.0.misses.list()
    }

    /// Writes the list of misses to `path` whenever it has changed, until `stop` drains.
    pub async fn keep_misses(&self, path: PathBuf, stop: &Stop) {
        loop {
            let is_over = tokio::select! {
                () = stop.draining() => true,
                () = self.0.misses.changed.notified() => false,
            };
            let (path_too, list) = (path.clone(), self.misses());
            let write = move || {
                let text = serde_json::to_vec_pretty(&json!({ "missing": list }))?;
                files::write_private(&path_too, &text)
            };
            let written = tokio::task::spawn_blocking(write).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, path = %path.display(), "cannot write the list of misses");
            }
            if is_over {
                return;
            }
            tokio::select! {
                () = stop.draining() => {}
                () = tokio::time::sleep(WRITE_INTERVAL) => {}
            }
        }
    }
}

/// Returns the services of the registries that a generation replaces, as paths below a server.
pub(super) fn services(generation: &Generation) -> Services {
    documents::services(generation)
}

struct Mirror {
    store: Store,
    access: Access,
    upstream: Option<Upstream>,
    newest: Mutex<Option<Arc<Snapshot>>>,
    intact: Intact,
    misses: Misses,
    metrics: Metrics,
    audit: Option<Audit>,
    git: Backend,
    landing: Landing,
    /// `true` if the listener uses TLS; unset without a listener.
    is_encrypted: OnceLock<bool>,
    /// Budget for the bodies of requests.
    bodies: Account,
}

/// A generation, held while somebody reads from it.
struct Snapshot {
    lease: Lease,
    generation: Generation,
    /// Repositories that are laid out for git, by `HOST/OWNER/REPO`.
    repositories: Mutex<HashMap<String, Arc<TempDir>>>,
}

impl Snapshot {
    /// Returns a repository in the form that git reads. It is laid out once. Blocks.
    fn laid_out(
        &self,
        store: &Store,
        repository: &GitRepository,
    ) -> Result<Arc<TempDir>, SmartError> {
        let known = &self.repositories;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = known.get(repository.place()) {
            return Ok(dir.clone());
        }
        let dir = git_directory(&std::env::temp_dir()).map_err(SmartError::Layout)?;
        lay_out(dir.path(), store, repository).map_err(SmartError::Layout)?;
        let dir = Arc::new(dir);
        known.insert(repository.place().to_owned(), dir.clone());
        Ok(dir)
    }
}

impl Mirror {
    /// Returns the current generation. It is read again only after another one became current. Blocks.
    fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        if let Some(known) = self.known()? {
            return Ok(known);
        }
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let (lease, generation) = self.store.lease_newest()?;
        let fresh = Arc::new(Snapshot {
            lease,
            generation,
            repositories: Mutex::default(),
        });
        *newest = Some(fresh.clone());
        Ok(fresh)
    }

    /// Returns the current generation if it was read before.
    fn known(&self) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let current = self.store.current()?;
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.as_ref();
        Ok(known.filter(|s| Some(s.lease.number) == current).cloned())
    }

    /// Makes a document. A generation is read on a blocking thread; the link that names the current one is in the
    /// system's cache, and a thread for it would cost more than the document.
    async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&Self, &Generation) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        if let Some(known) = self.known()? {
            return make(self, &known.generation);
        }
        let this = self.clone();
        let task = move || match this.snapshot() {
            // An empty store is not an error if there is a registry behind it.
            Err(StoreError::Empty { .. }) if this.upstream.is_some() => {
                make(&this, &Generation::default())
            }
            snapshot => make(&this, &snapshot?.generation),
        };
        let made = tokio::task::spawn_blocking(task).await;
        made.unwrap_or(Err(Refused::Broken))
    }

    /// Returns git's answer about a repository, with the repository's references; `None` if the mirror lacks it.
    async fn upload_pack(
        self: &Arc<Self>,
        place: &str,
        ask: Ask,
        protocol: Option<&str>,
    ) -> Result<Option<Body>, Refused> {
        let (this, wanted) = (self.clone(), place.to_owned());
        let find = move || -> Result<_, Refused> {
            let snapshot = this.snapshot()?;
            let Some(repository) = documents::repository(&snapshot.generation, &wanted) else {
                return Ok(None);
            };
            let dir = snapshot.laid_out(&this.store, repository)?;
            let repository = repository.clone();
            Ok(Some((snapshot, repository, dir)))
        };
        let found = tokio::task::spawn_blocking(find).await;
        let found = match found.unwrap_or(Err(Refused::Broken)) {
            Err(Refused::Empty) if self.upstream.is_some() => None,
            found => found?,
        };
        let Some((snapshot, repository, dir)) = found else {
            return Ok(None);
        };
        if let Ask::Request(request) = &ask
            && let Some(name) = smart::missed_reference(request, &repository)
        {
            self.misses.add(Item::new("git", place).version(&name));
        }
        let answer = self.git.answer(snapshot, dir, ask, protocol).await;
        Ok(Some(answer?))
    }

    /// Makes a document as [`look`](Self::look) does; if there is none, `item` becomes a miss.
    async fn document<T: Send + 'static>(
        self: &Arc<Self>,
        item: Item,
        make: impl FnOnce(&Self, &Generation) -> Option<T> + Send + 'static,
    ) -> Result<T, Refused> {
        let made = self.look(move |mirror, all| Ok(make(mirror, all))).await?;
        made.ok_or_else(|| self.miss(item))
    }

    /// Returns the versions that a registry offers; none without an upstream.
    async fn offered(&self, name: &str) -> Result<Arc<Vec<Offered>>, PullError> {
        match (&self.upstream, name.parse::<ProviderAddr>()) {
            (Some(upstream), Ok(addr)) => upstream.versions(&addr).await,
            _ => Err(PullError::Missing),
        }
    }

    /// Returns the signed checksums that an upstream registry has for a version.
    async fn release(
        &self,
        name: &str,
        version: &str,
        platform: &Platform,
    ) -> Result<Option<Arc<Release>>, PullError> {
        match (
            &self.upstream,
            name.parse::<ProviderAddr>(),
            version.parse(),
        ) {
            (Some(upstream), Ok(addr), Ok(version)) => {
                upstream.release(&addr, &version, platform).await.map(Some)
            }
            _ => Err(PullError::Missing),
        }
    }

    /// Reads the body of a request; its part of the budget is held until the second result is dropped.
    async fn body(&self, body: Body, limit: usize) -> Result<(Bytes, Reserved), Refused> {
        // A body without an announced length may need the whole limit.
        let announced = body.size_hint().upper().unwrap_or(limit as u64);
        let bytes = usize::try_from(announced).unwrap_or(usize::MAX);
        if bytes > limit {
            return Err(Refused::Invalid);
        }
        let reserved = self.bodies.reserve(bytes).await;
        let reserved = reserved.map_err(|_| Refused::Busy)?;
        match timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await {
            Ok(Ok(body)) => Ok((body, reserved)),
            Ok(Err(_)) | Err(_) => Err(Refused::Invalid),
        }
    }

    /// Logs the damage to a file of the store and returns the refusal.
    fn damaged(&self, digest: Digest, error: StoreError) -> Refused {
        let StoreError::Mismatch { .. } = error else {
            return error.into();
        };
        self.metrics.found_damaged();
        tracing::error!(
            path = %self.store.path(digest).display(),
            "refusing to serve a damaged file of the mirror; `outpost mirror verify --repair` moves it aside, and the next sync or import replaces it"
        );
        Refused::Damaged
    }

    fn miss(&self, item: Item) -> Refused {
        self.misses.add(item);
        Refused::Missing
    }

    /// Refuses what a registry cannot serve. A package that the mirror has without a signature is not a miss: engines
    /// find it with the network mirror.
    fn lacks(&self, item: Item, is_there: bool) -> Refused {
        if !is_there {
            return self.miss(item);
        }
        tracing::debug!(
            name = item.name,
            version = item.version,
            "a client asked the registry for a package without a publisher's signature, which a registry cannot serve"
        );
        Refused::Unsigned
    }

    /// Returns a file of the store, even if only an earlier generation has it, because its documents may have been
    /// read shortly before.
    async fn blob(
        self: &Arc<Self>,
        digest: Digest,
        kind: &'static str,
        headers: &HeaderMap,
    ) -> Answer {
        let this = self.clone();
        let open = move || match this.store.has(digest) {
            true => this.store.open_blob(digest).map_err(Refused::from),
            false => Err(Refused::Missing),
        };
        let open = async || {
            let opened = tokio::task::spawn_blocking(open.clone()).await;
            opened.unwrap_or(Err(Refused::Broken))
        };
        let file = match (open().await, &self.upstream) {
            (Err(Refused::Missing), Some(upstream)) => {
                upstream
                    .fetch_into_store(digest)
                    .await
                    .map_err(Refused::from)?;
                open().await?
            }
            (opened, _) => opened?,
        };
        let file = Arc::new(file);
        if let Some(upstream) = &self.upstream {
            // Before anything is sent, so that the archive is not evicted while a client downloads it.
            upstream.serve(digest, &file).await;
        }
        let stamp = self.intact.check(&self.store, &file, digest).await;
        let stamp = stamp.map_err(|error| self.damaged(digest, error))?;
        let answer = blob::answer(file, stamp, digest, kind, headers);
        answer.map_err(|error| {
            tracing::error!(%digest, %error, "cannot read a file of the mirror");
            Refused::Broken
        })
    }
}

/// Authenticates the clients that request documents.
async fn admit(State(mirror): Shared, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    let Some(client) = mirror.access.admits(given) else {
        return match landing::is_page(&request) {
            true => landing::refuse(&Refused::Unknown),
            false => Refused::Unknown.into_response(),
        };
    };
    // From now on a flood of unauthenticated connections cannot end a download on this one.
    mark_authenticated(None);
    request.extensions_mut().insert(client.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(client);
    response
}

async fn count(State(mirror): Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let asked = mirror.audit.as_ref().map(|_| audit::Asked::of(&request));
    let response = next.run(request).await;
    if let (Some(audit), Some(asked)) = (&mirror.audit, asked) {
        audit.add(asked, &response);
    }
    let length = response.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    mirror
        .metrics
        .count(&path, response.status().as_u16(), length.unwrap_or(0));
    response
}

/// Reason why a request is refused.
enum Refused {
    /// The mirror does not have the item.
    Missing,
    /// The mirror has the item, but no publisher signed it.
    Unsigned,
    /// The mirror is still empty.
    Empty,
    /// The store cannot be read; the log has the reason.
    Broken,
    /// A file no longer matches its digest.
    Damaged,
    /// The disk has no room for a file to be fetched.
    Full,
    /// The operator's limit for pulled files is reached.
    NoRoom(Arc<str>),
    /// The client has no valid token.
    Unknown,
    /// The registry behind the mirror cannot be reached; the log has the reason.
    Upstream,
    /// The answer of the registry behind the mirror is not trusted.
    Untrusted(Arc<str>),
    /// Too many other requests are served.
    Busy,
    /// The server has no git program.
    NoGit,
    /// The request is not valid, or is too long.
    Invalid,
}

impl From<SmartError> for Refused {
    fn from(error: SmartError) -> Self {
        match error {
            SmartError::Busy => Self::Busy,
            SmartError::Spawn(_) => Self::NoGit,
            SmartError::Layout(why) => {
                tracing::error!(%why, "cannot unpack a repository for git");
                Self::Broken
            }
        }
    }
}

impl From<PullError> for Refused {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Missing => Self::Missing,
            PullError::Failed(why) => {
                tracing::warn!(%why, "the registry did not deliver");
                Self::Upstream
            }
            PullError::Untrusted(why) => {
                tracing::error!(%why, "the registry's package is not trusted");
                Self::Untrusted(why)
            }
            PullError::NoRoom(why) => {
                tracing::warn!(%why, "the mirror has no room for what the registry has");
                Self::NoRoom(why)
            }
            PullError::Full(why) => {
                tracing::error!(%why, "no space left in the mirror for the registry's package");
                Self::Full
            }
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Empty { .. } => Self::Empty,
            error => {
                let error = error_chain(&error);
                tracing::error!(error, "the mirror cannot be read");
                Self::Broken
            }
        }
    }
}

/// Returns a registry's result; after a failure nothing, and the refusal if no other source has it. `None` is an
/// ordinary miss.
fn or_nothing<T: Default>(pulled: Result<T, PullError>) -> (T, Option<Refused>) {
    match pulled {
        Ok(it) => (it, None),
        Err(PullError::Missing) => (T::default(), None),
        Err(error) => (T::default(), Some(error.into())),
    }
}

impl Refused {
    /// Returns the status and a reason for people.
    fn words(&self) -> (StatusCode, &str) {
        match self {
            Self::Missing => (StatusCode::NOT_FOUND, "the mirror does not have this"),
            Self::Unsigned => (
                StatusCode::NOT_FOUND,
                "this has no publisher's signature, so a registry cannot serve it: `outpost mirror config` prints a CLI \
                 configuration that takes it from the network mirror",
            ),
            Self::Empty => (StatusCode::SERVICE_UNAVAILABLE, "the mirror is empty"),
            Self::Broken => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the mirror cannot be read",
            ),
            Self::Damaged => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the mirror's copy of this file is damaged: its operator can replace it with `outpost mirror verify --repair` and a sync or import",
            ),
            Self::Full => (
                StatusCode::INSUFFICIENT_STORAGE,
                "no space left in the mirror to download this: its operator can free some, and the log says where",
            ),
            Self::NoRoom(why) => (StatusCode::INSUFFICIENT_STORAGE, &**why),
            Self::Upstream => (
                StatusCode::BAD_GATEWAY,
                "the mirror does not have this, and its registry did not deliver it",
            ),
            Self::Untrusted(why) => (StatusCode::BAD_GATEWAY, &**why),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests of this kind at once; try again",
            ),
            Self::NoGit => (
                StatusCode::NOT_IMPLEMENTED,
                "this needs `git`, which is not installed on the mirror's machine",
            ),
            Self::Invalid => (
                StatusCode::BAD_REQUEST,
                "invalid request, or request too long",
            ),
            Self::Unknown => (
                StatusCode::UNAUTHORIZED,
                "this mirror requires a token: put one into a `credentials` block of the CLI configuration",
            ),
        }
    }

    /// Adds the headers that clients need to try again.
    fn challenge(&self, response: &mut Response) {
        if matches!(self, Self::Unknown) {
            // Clients of OCI registries, and browsers, send credentials only after a challenge.
            let challenge = HeaderValue::from_static("Basic realm=\"outpost mirror\"");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, why) = self.words();
        let mut response = (status, Json(json!({ "errors": [why] }))).into_response();
        self.challenge(&mut response);
        response
    }
}

/// Returns a document that changes with the generation, with an `ETag` so that clients can keep and revalidate it.
fn respond(document: &Value, asked: &HeaderMap) -> Response {
    let body = document.to_string();
    let etag = format!("\"{}\"", Digest::of(body.as_bytes()));
    let known = asked
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok());
    let is_known = known.is_some_and(|tags| blob::matches(tags, &etag));
    let headers = [
        (header::ETAG, etag.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_TYPE, "application/json"),
    ];
    match is_known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, body).into_response(),
    }
}

/// Header from which clients of OCI registries learn the digest of a body.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

type Shared = State<Arc<Mirror>>;
type Answer = Result<Response, Refused>;

async fn ready(State(mirror): Shared) -> Result<&'static str, Refused> {
    mirror.look(|_, _| Ok("ok\n")).await
}

async fn missing(State(mirror): Shared) -> Json<Value> {
    Json(json!({ "missing": mirror.misses.list() }))
}

/// Records what a client found missing without a request for it: a version that is not listed, a branch that does not
/// exist.
async fn report_missing(State(mirror): Shared, body: Body) -> Result<StatusCode, Refused> {
    let (body, _reserved) = mirror.body(body, MAX_REPORT_BYTES).await?;
    let items = misses::reported(&body);
    for item in items.ok_or(Refused::Invalid)? {
        mirror.misses.add(item);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn show_metrics(State(mirror): Shared) -> impl IntoResponse {
    let this = mirror.clone();
    let current = tokio::task::spawn_blocking(move || this.store.current()).await;
    let generation = current.ok().and_then(Result::ok).flatten().unwrap_or(0);
    let text = mirror.metrics.text(mirror.misses.count(), generation);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

async fn hosts(State(mirror): Shared, headers: HeaderMap) -> Answer {
    let make = |mirror: &Mirror, all: &Generation| {
        let git: Vec<_> = all.git.iter().map(GitRepository::place).collect();
        let mut hosts = documents::services(all);
        for (host, services) in mirror.upstream.iter().flat_map(|it| it.services()) {
            hosts
                .entry(host.clone())
                .or_default()
                .extend(services.clone());
        }
        let unsigned: BTreeSet<_> = all.unsigned().map(|provider| &provider.addr).collect();
        Ok(json!({ "hosts": hosts, "git": git, "unsigned": unsigned }))
    };
    Ok(respond(&mirror.look(make).await?, &headers))
}

type ProviderPath = (String, String, String);

async fn provider_versions(
    State(mirror): Shared,
    Path((host, namespace, kind)): Path<ProviderPath>,
    headers: HeaderMap,
) -> Answer {
    let item = Item::new("provider", format!("{host}/{namespace}/{kind}"));
    let offered = mirror.offered(&item.name).await;
    let (offered, otherwise) = or_nothing(offered);
    let make = move |_: &Mirror, all: &Generation| {
        let asked = Asked(&host, &namespace, &kind);
        let document = documents::provider_versions(all, &asked, &offered);
        Ok((document, asked.of(all).next().is_some()))
    };
    let (made, is_there) = mirror.look(make).await?;
    let document = made.ok_or_else(|| otherwise.unwrap_or_else(|| mirror.lacks(item, is_there)))?;
    Ok(respond(&document, &headers))
}

type PackagePath = (String, String, String, String, String, String);

async fn download(
    State(mirror): Shared,
    Extension(client): Extension<Client>,
    Path((host, namespace, kind, version, os, arch)): Path<PackagePath>,
    headers: HeaderMap,
) -> Answer {
    let platform = Platform { os, arch };
    let (asked_version, asked_platform) = (version.clone(), platform.clone());
    let of_document = client.clone();
    let item = Item::new("provider", format!("{host}/{namespace}/{kind}"))
        .version(&version)
        .platform(&platform);
    let make = move |mirror: &Mirror, all: &Generation| {
        let asked = Asked(&host, &namespace, &kind);
        let found = documents::find_package(all, &asked, &version, &platform);
        let Some((provider, package)) = found else {
            return Ok(Err(false));
        };
        let Some(signed) = &provider.signed else {
            return Ok(Err(true));
        };
        let keys = signed.keys.iter();
        let keys = keys.map(|key| read_text(&mirror.store, key.armored));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let links = mirror.access.links(&of_document);
        Ok(Ok(documents::download(
            provider, signed, package, &keys, &links,
        )))
    };
    let document = match mirror.look(make).await? {
        Ok(document) => document,
        Err(is_there) => {
            let release = mirror
                .release(&item.name, &asked_version, &asked_platform)
                .await;
            let (release, otherwise) = or_nothing(release);
            let made = release.and_then(|release| {
                documents::pulled(&release, &asked_platform, &mirror.access.links(&client))
            });
            made.ok_or_else(|| otherwise.unwrap_or_else(|| mirror.lacks(item, is_there)))?
        }
    };
    Ok(respond(&document, &headers))
}

fn read_text(store: &Store, digest: Digest) -> Result<String, Refused> {
    String::from_utf8(store.read(digest, MAX_KEY_BYTES)?).map_err(|error| {
        tracing::error!(%digest, %error, "a publisher's key is not UTF-8");
        Refused::Broken
    })
}

async fn mirror(
    State(mirror): Shared,
    Extension(client): Extension<Client>,
    Path((host, namespace, kind, document)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Answer {
    let Some(version) = document.strip_suffix(".json").map(str::to_owned) else {
        return Err(Refused::Missing);
    };
    let mut item = Item::new("provider", format!("{host}/{namespace}/{kind}"));
    if version != "index" {
        item = item.version(&version);
    }
    let (offered, mut otherwise) = or_nothing(mirror.offered(&item.name).await);
    let mut release = None;
    if version != "index" {
        // The supported protocols and platforms decide for which package the registry is asked.
        let of_version = offered
            .iter()
            .find(|offered| offered.version.to_string() == version);
        let platform = of_version.map(|it| {
            it.platforms
                .first()
                .cloned()
                .unwrap_or_else(Platform::current)
        });
        if let Some(platform) = platform {
            let found = or_nothing(mirror.release(&item.name, &version, &platform).await);
            (release, otherwise) = (found.0, found.1.or(otherwise));
        }
    }
    let make = move |mirror: &Mirror, all: &Generation| {
        let asked = Asked(&host, &namespace, &kind);
        Ok(match version.as_str() {
            "index" => documents::mirror_index(all, &asked, &offered),
            version => {
                let release = release.as_deref();
                let links = mirror.access.links(&client);
                documents::mirror_version(all, &asked, version, release, &links)
            }
        })
    };
    let made = mirror.look(make).await?;
    let document = made.ok_or_else(|| otherwise.unwrap_or_else(|| mirror.miss(item)))?;
    Ok(respond(&document, &headers))
}

async fn module_versions(
    State(mirror): Shared,
    Path((host, namespace, name, system)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Answer {
    let addr = format!("{host}/{namespace}/{name}/{system}");
    let item = Item::new("module", addr.clone());
    let offered = match &mirror.upstream {
        Some(upstream) => upstream.module_versions(&addr).await,
        None => Err(PullError::Missing),
    };
    let (offered, otherwise) = or_nothing(offered);
    let make =
        move |_: &Mirror, all: &Generation| Ok(documents::module_versions(all, &addr, &offered));
    let made = mirror.look(make).await?;
    let document = made.ok_or_else(|| otherwise.unwrap_or_else(|| mirror.miss(item)))?;
    Ok(respond(&document, &headers))
}

/// Answers both engines: Terraform reads the header whatever the body is, OpenTofu reads it if the body is empty.
async fn module(
    State(mirror): Shared,
    Extension(client): Extension<Client>,
    Path((host, namespace, name, system, version)): Path<(String, String, String, String, String)>,
) -> Answer {
    let addr = format!("{host}/{namespace}/{name}/{system}");
    let item = Item::new("module", addr.clone()).version(&version);
    let locate = |mirror: &Arc<Mirror>| {
        let (addr, version, client) = (addr.clone(), version.clone(), client.clone());
        let mirror = mirror.clone();
        async move {
            let make = move |mirror: &Mirror, all: &Generation| {
                Ok(documents::module_location(
                    all,
                    &addr,
                    &version,
                    &mirror.access.links(&client),
                ))
            };
            mirror.look(make).await
        }
    };
    let mut location = locate(&mirror).await?;
    if let (None, Some(upstream), Ok(wanted)) = (&location, &mirror.upstream, version.parse()) {
        match upstream.bring_module(&addr, &wanted).await {
            Ok(()) => location = locate(&mirror).await?,
            Err(PullError::Missing) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let location = location.ok_or_else(|| mirror.miss(item))?;
    let headers = [
        ("x-terraform-get", location),
        ("cache-control", "no-cache".to_owned()),
    ];
    Ok((headers, Json(json!({}))).into_response())
}

async fn releases(State(mirror): Shared, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let item = Item::new("tool", name.clone());
    let make = move |_: &Mirror, all: &Generation| documents::releases(all, &name);
    Ok(respond(&mirror.document(item, make).await?, &headers))
}

async fn release(
    State(mirror): Shared,
    Path((name, version, file)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Answer {
    let item = Item::new("tool", name.clone()).version(&version);
    if file == "index.json" {
        let make = move |_: &Mirror, all: &Generation| documents::release(all, &name, &version);
        return Ok(respond(&mirror.document(item, make).await?, &headers));
    }
    let kind = match file.ends_with(".zip") {
        true => "application/zip",
        false => blob::OCTETS,
    };
    let make =
        move |_: &Mirror, all: &Generation| documents::release_file(all, &name, &version, &file);
    let digest = mirror.document(item, make).await?;
    mirror.blob(digest, kind, &headers).await
}

/// Returns a file of a release for clients that resolve the paths in an index against the server's root.
async fn release_of_server(
    state: Shared,
    Path((name, version, file)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Answer {
    match name.as_str() {
        "terraform" | "tofu" | "outpost" => {
            release(state, Path((name, version, file)), headers).await
        }
        // Clients may request any path here, so a failure is not a miss.
        _ => Err(Refused::Missing),
    }
}

async fn oci_tags(
    State(mirror): Shared,
    Path((host, namespace, kind)): Path<ProviderPath>,
    headers: HeaderMap,
) -> Answer {
    let name = format!("{host}/{namespace}/{kind}");
    let item = Item::new("provider", name.clone());
    let make =
        move |_: &Mirror, all: &Generation| oci::tags(all, &Asked(&host, &namespace, &kind), &name);
    Ok(respond(&mirror.document(item, make).await?, &headers))
}

type OciPath = (String, String, String, String);

async fn oci_manifest(
    State(mirror): Shared,
    Path((host, namespace, kind, reference)): Path<OciPath>,
) -> Answer {
    let item = Item::new("provider", format!("{host}/{namespace}/{kind}")).version(&reference);
    let make = move |_: &Mirror, all: &Generation| {
        oci::manifest(all, &Asked(&host, &namespace, &kind), &reference)
    };
    let manifest = mirror.document(item, make).await?;
    let digest = format!("sha256:{}", manifest.digest());
    let headers = [
        (header::CONTENT_TYPE, manifest.kind),
        (CONTENT_DIGEST, digest.as_str()),
    ];
    Ok((headers, manifest.content).into_response())
}

async fn oci_blob(
    State(mirror): Shared,
    Path((host, namespace, kind, digest)): Path<OciPath>,
    headers: HeaderMap,
) -> Answer {
    let digest = oci::digest(&digest).ok_or(Refused::Missing)?;
    if digest == Digest::of(oci::EMPTY) {
        return Ok(oci::EMPTY.into_response());
    }
    let make = move |_: &Mirror, all: &Generation| match oci::has(
        all,
        &Asked(&host, &namespace, &kind),
        digest,
    ) {
        true => Ok(()),
        false => Err(Refused::Missing),
    };
    mirror.look(make).await?;
    mirror.blob(digest, blob::OCTETS, &headers).await
}

async fn git(
    State(mirror): Shared,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let is_smart = query.as_deref() == Some("service=git-upload-pack");
    if let Some((place, "info/refs")) = documents::split_git(&path).filter(|_| is_smart) {
        let asked = mirror.upload_pack(place, Ask::Advertisement, protocol(&headers));
        match asked.await {
            Ok(Some(body)) => return Ok((git_headers("advertisement"), body).into_response()),
            // Clients fall back to the files of the dumb protocol.
            Ok(None) | Err(Refused::NoGit) => {}
            Err(refused) => return Err(refused),
        }
    }
    let make = move |_: &Mirror, all: &Generation| Ok(documents::git(all, &path));
    match mirror.look(make).await? {
        Ok(documents::GitAnswer::Text(text)) => {
            let headers = [(header::CACHE_CONTROL, "no-cache")];
            Ok((headers, text).into_response())
        }
        Ok(documents::GitAnswer::Blob(digest)) => mirror.blob(digest, blob::OCTETS, &headers).await,
        Err(repository) if repository.is_empty() => Err(Refused::Missing),
        Err(repository) => Err(mirror.miss(Item::new("git", repository))),
    }
}

/// Answers the requests of git's smart protocol that follow the references.
async fn upload_pack(
    State(mirror): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Some((place, "git-upload-pack")) = documents::split_git(&path) else {
        return Err(Refused::Missing);
    };
    let encoding = headers.get(header::CONTENT_ENCODING);
    let is_packed = match encoding.map(HeaderValue::as_bytes) {
        None => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => return Err(Refused::Invalid),
    };
    let (body, _reserved) = mirror.body(body, smart::MAX_REQUEST_BYTES).await?;
    let request = smart::unpacked(&body, is_packed).ok_or(Refused::Invalid)?;
    let asked = mirror.upload_pack(place, Ask::Request(request), protocol(&headers));
    match asked.await? {
        Some(body) => Ok((git_headers("result"), body).into_response()),
        None => Err(mirror.miss(Item::new("git", place))),
    }
}

fn protocol(headers: &HeaderMap) -> Option<&str> {
    headers.get("git-protocol")?.to_str().ok()
}

fn git_headers(what: &str) -> [(HeaderName, String); 2] {
    let kind = format!("application/x-git-upload-pack-{what}");
    [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ]
}

async fn file(
    State(mirror): Shared,
    Path(place): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let place = match query {
        Some(query) => format!("{place}?{query}"),
        None => place,
    };
    let item = Item::new("file", place.clone());
    let make = move |_: &Mirror, all: &Generation| documents::file(all, &place);
    let digest = mirror.document(item, make).await?;
    mirror.blob(digest, blob::OCTETS, &headers).await
}

async fn blob(
    State(mirror): Shared,
    Path((digest, _name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let digest: Digest = digest.parse().map_err(|_| Refused::Missing)?;
    let client = mirror.access.admits_link(digest, query.as_deref());
    let client = client.ok_or(Refused::Unknown)?;
    mark_authenticated(None);
    let mut response = mirror.blob(digest, blob::OCTETS, &headers).await?;
    response.extensions_mut().insert(client);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::{FutureExt as _, future::join_all, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn unfinished_bodies_take_one_budget_and_end_while_small_ones_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mirror = Server::new(store, Access::tokens(Vec::new())).0;
        let limit = smart::MAX_REQUEST_BYTES;
        let unfinished = || Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let most = BODIES_BYTES / limit;
        let mut reading: Vec<_> = (0..=most)
            .map(|_| Box::pin(mirror.body(unfinished(), limit)))
            .collect();
        assert!(reading.iter_mut().all(|it| it.now_or_never().is_none()));

        let small = mirror.body(Body::from("want"), limit).await;
        assert!(small.is_ok_and(|(body, _)| &body[..] == b"want"));
        let long = mirror.body(Body::from(vec![0; 11]), 10).await;
        assert!(matches!(long, Err(Refused::Invalid)));
        for read in join_all(reading).await {
            assert!(matches!(read, Err(Refused::Invalid)));
        }
        let again = mirror.body(Body::from(vec![0; limit]), limit);
        assert!(again.now_or_never().is_some(), "all was given back");
    }

    fn server(dir: &tempfile::TempDir) -> Server {
        Server::new(Store::open(dir.path()).unwrap(), Access::tokens(Vec::new()))
    }

    fn status(refused: Refused) -> u16 {
        refused.into_response().status().as_u16()
    }

    async fn file_of(server: &Server, place: &str) -> Answer {
        let (state, path) = (State(server.0.clone()), Path(place.to_owned()));
        file(state, path, RawQuery(None), HeaderMap::new()).await
    }

    #[tokio::test]
    async fn an_empty_mirror_is_not_ready_and_an_empty_generation_is() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir);

        assert_eq!(
            ready(State(server.0.clone())).await.map_err(status),
            Err(503)
        );
        assert_eq!(server.unsigned().unwrap(), [""; 0]);

        let store = Store::open(dir.path()).unwrap();
        let lock = store.lock(&Stop::new()).await.unwrap();
        store.commit(Generation::default(), None, &lock).unwrap();
        assert_eq!(
            ready(State(server.0.clone())).await.map_err(status),
            Ok("ok\n")
        );
    }

    #[tokio::test]
    async fn what_clients_lack_is_a_miss_unless_any_path_may_lead_there() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir);
        let lock = server.0.store.lock(&Stop::new()).await.unwrap();
        let empty = Generation::default();
        server.0.store.commit(empty, None, &lock).unwrap();

        let parts = |name: &str| Path((name.to_owned(), "1.0.0".to_owned(), "x.zip".to_owned()));
        let state = || State(server.0.clone());
        for (name, misses) in [("favicon", 0), ("terraform", 1)] {
            let asked = release_of_server(state(), parts(name), HeaderMap::new());
            assert_eq!(asked.await.err().map(status), Some(404));
            assert_eq!(server.misses().len(), misses, "{name}");
        }
        let asked = file_of(&server, "example.com/a.zip").await;
        assert_eq!(asked.err().map(status), Some(404));
        let asked = git(
            state(),
            Path("example.com/a/b.git/HEAD".to_owned()),
            RawQuery(None),
            HeaderMap::new(),
        );
        assert_eq!(asked.await.err().map(status), Some(404));
        let names: Vec<String> = server.misses().into_iter().map(|it| it.item.name).collect();
        assert_eq!(names, ["example.com/a.zip", "example.com/a/b", "terraform"]);
    }

    #[tokio::test]
    async fn the_list_of_misses_is_written_at_the_latest_when_the_server_stops() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir);
        let path = dir.path().join("missing.json");
        server.0.misses.add(Item::new("tool", "terraform"));
        let stop = Stop::new();
        stop.drain();

        server.keep_misses(path.clone(), &stop).await;

        let written: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(written["missing"][0]["name"], "terraform");
    }

    #[tokio::test]
    async fn a_report_that_is_no_list_or_too_long_adds_no_miss() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir);
        let report = async |text: Vec<u8>| {
            let reported = report_missing(State(server.0.clone()), Body::from(text)).await;
            reported.map(|status| status.as_u16()).map_err(status)
        };

        assert_eq!(report(b"[]".to_vec()).await, Err(400));
        assert_eq!(report(vec![b' '; MAX_REPORT_BYTES + 1]).await, Err(400));
        assert_eq!(server.misses().len(), 0);
        let good = br#"{"missing":[{"kind":"git","name":"host/a/b","version":"v9"}]}"#;
        assert_eq!(report(good.to_vec()).await, Ok(204));
        assert_eq!(server.misses()[0].item.version.as_deref(), Some("v9"));
    }

    #[test]
    fn a_client_that_has_a_document_already_gets_only_its_tag() {
        let document = json!({ "versions": [] });
        let first = respond(&document, &HeaderMap::new());
        let tag = first.headers()[header::ETAG].clone();
        let asked = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);

        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(
            respond(&document, &asked).status(),
            StatusCode::NOT_MODIFIED
        );
        let changed = respond(&json!({ "versions": [1] }), &asked);
        assert_eq!(changed.status(), StatusCode::OK);
    }

    #[test]
    fn each_failure_of_a_registry_has_its_status_and_only_a_missing_token_a_challenge() {
        let why: Arc<str> = Arc::from("why");
        let pulled = [
            (PullError::Missing, 404),
            (PullError::Failed(why.clone()), 502),
            (PullError::Untrusted(why.clone()), 502),
            (PullError::NoRoom(why.clone()), 507),
            (PullError::Full(why), 507),
        ];
        for (error, expected) in pulled {
            let response = Refused::from(error).into_response();
            assert_eq!(response.status().as_u16(), expected);
            assert!(!response.headers().contains_key(header::WWW_AUTHENTICATE));
        }
        let unknown = Refused::Unknown.into_response();
        assert_eq!(unknown.status().as_u16(), 401);
        assert!(unknown.headers().contains_key(header::WWW_AUTHENTICATE));

        let (nothing, refused) = or_nothing::<Vec<u8>>(Err(PullError::Missing));
        assert!(nothing.is_empty() && refused.is_none(), "an ordinary miss");
    }
}
