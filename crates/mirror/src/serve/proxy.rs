//! A proxy that replaces the hosts of files in the mirror, so that templates may name the files by their own
//! addresses.
//!
//! It makes certificates for those hosts on request, so its clients must trust its authority, and nobody else should.
//! It forwards nothing: what the mirror lacks is refused.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use jiff::Timestamp;
use outpost_net::{
    ca::{Authority, CaError},
    listener::{Peer, Upgraded},
};
use rustls::ServerConfig;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Item, Mirror, Server, audit::Asked, blob, documents, links::Client};
use crate::Generation;

/// Time limit for a client's handshake, and between its requests.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time for which a certificate is reused, which is shorter than its validity.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The proxy. It serves the server's files, with the same access control.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    mirror: Arc<Mirror>,
    authority: Authority,
    /// Certificates by host. There are no more than hosts in the generations that were served.
    certificates: Mutex<HashMap<String, (Instant, Arc<ServerConfig>)>>,
}

impl Proxy {
    /// Returns a proxy whose authority is in `dir`, where it is created if there is none.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn new(server: &Server, dir: &Path) -> Result<Self, CaError> {
        let now = Timestamp::now();
        let authority = match Authority::open(dir) {
            Err(CaError::Missing(_)) => Authority::create(dir, "outpost mirror proxy", &[], now)?,
            opened => opened?,
        };
        Ok(Self(Arc::new(Inner {
            mirror: server.0.clone(),
            authority,
            certificates: Mutex::default(),
        })))
    }

    /// Returns the router of the proxy.
    pub fn router(&self) -> Router {
        Router::new().fallback(connect).with_state(self.clone())
    }

    async fn has(&self, host: String) -> bool {
        let is_of = move |_: &Mirror, all: &Generation| {
            let is_it = |url: &str| documents::host(url) == Some(host.as_str());
            Ok(all.files.iter().any(|file| is_it(&file.url)))
        };
        self.0.mirror.look(is_of).await.unwrap_or(false)
    }

    fn certificate(&self, host: &str) -> Result<Arc<ServerConfig>, CaError> {
        let known = &self.0.certificates;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = known.get(host).filter(|(made, _)| made.elapsed() < FRESH) {
            return Ok(config.clone());
        }
        let config = Arc::new(self.0.authority.impersonate(host, Timestamp::now())?);
        known.insert(host.to_owned(), (Instant::now(), config.clone()));
        Ok(config)
    }

    /// Answers in the place of `host` on a connection that was meant for it.
    async fn speak(
        self,
        host: String,
        config: Arc<ServerConfig>,
        connection: hyper::upgrade::OnUpgrade,
        who: (Peer, Client),
    ) {
        let Ok(stream) = connection.await else {
            return;
        };
        let accepting = TlsAcceptor::from(config).accept(TokioIo::new(stream));
        let stream = match timeout(PATIENCE, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%host, %error, "a client does not trust the proxy's certificate");
                return;
            }
            Err(_) => return,
        };
        let routes = Router::new()
            .fallback(file)
            .with_state((self.0.mirror.clone(), host, who));
        let ended = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection through the proxy ended");
        }
    }
}

async fn connect(
    State(proxy): State<Proxy>,
    Extension(upgraded): Extension<Upgraded>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
) -> Result<Response, Infallible> {
    let say = |status: StatusCode, text: String| Ok((status, text + "\n").into_response());
    let given = request.headers().get(header::PROXY_AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    let Some(client) = proxy.0.mirror.access.admits(given) else {
        let challenge = [(header::PROXY_AUTHENTICATE, "Basic realm=\"outpost mirror\"")];
        let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        return Ok((
            status,
            challenge,
            "this proxy requires a token as its password\n",
        )
            .into_response());
    };
    let authority = request.uri().authority().cloned();
    let Some(authority) = authority.filter(|_| request.method() == Method::CONNECT) else {
        let text = "this is a proxy for https:// only: set HTTPS_PROXY to it, and not HTTP_PROXY";
        return say(StatusCode::METHOD_NOT_ALLOWED, text.to_owned());
    };
    let host = authority.host().to_ascii_lowercase();
    if authority.port_u16() != Some(443) || !proxy.has(host.clone()).await {
        proxy.0.mirror.misses.add(Item::new("file", host.clone()));
        let text = format!(
            "the mirror has nothing from `{authority}`, and this proxy forwards to no other host"
        );
        return say(StatusCode::FORBIDDEN, text);
    }
    let config = match proxy.certificate(&host) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%host, %error, "cannot create a certificate");
            let text = "cannot create a certificate; the mirror's log says why";
            return say(StatusCode::INTERNAL_SERVER_ERROR, text.to_owned());
        }
    };
    let connection = hyper::upgrade::on(&mut request);
    upgraded.set(proxy.speak(host, config, connection, (peer, client)));
    Ok(Response::new(Body::empty()))
}

/// Returns a file by its own address, with the query or without.
async fn file(
    State((mirror, host, (peer, client))): State<(Arc<Mirror>, String, (Peer, Client))>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let asked = Asked::elsewhere(&host, &uri, &method, &headers, peer);
    let with_query = uri.path_and_query().map_or("/", |all| all.as_str());
    let places = [with_query, uri.path()].map(|path| format!("{host}{path}"));
    let item = Item::new("file", places[1].clone());
    let find = move |_: &Mirror, all: &Generation| {
        places.iter().find_map(|place| documents::file(all, place))
    };
    let answer = async {
        let digest = mirror.document(item, find).await?;
        mirror.blob(digest, blob::OCTETS, &headers).await
    };
    let mut response = answer.await.into_response();
    response.extensions_mut().insert(client);
    if let Some(audit) = &mirror.audit {
        audit.add(asked, &response);
    }
    response
}
