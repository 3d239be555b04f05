//! One listener for everything: gRPC, HTTP/1.1 and HTTP/2, plain or TLS.

mod connection;
mod file;
mod file_body;
mod first_bytes;
mod places;
mod upgraded;
mod visit;
mod write_timeout;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::Router;
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use outpost_base::stop::Stop;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, debug_span, error, warn};
use url::Url;

pub use self::file::{FilePart, FileStamp};
pub use self::upgraded::{Peer, UpgradeReceiver, Upgraded};
pub use self::visit::{Held, mark_authenticated};
use self::{
    connection::Connection,
    places::{ConnectionActivity, Entry, Id, Places},
};
use crate::{
    back_off::Complaints,
    budget::{Account, Refusals},
    certificate,
    network::{self, Network},
};

/// Files for TLS, in PEM. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate, with the chain up to its authority.
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
}

/// Budget for unfinished messages of one connection. Stored in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Budgets(pub Arc<Account>);

/// Limits on the resources of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of connections at the same time.
    pub connections: usize,
    /// Number of connections at the same time from one address, or from one /64 of IPv6.
    pub connections_per_peer: usize,
    /// Number of unauthenticated connections at the same time.
    pub unauthenticated: usize,
    /// Bytes of unfinished messages on one connection: of small ones, of up to 64 KiB, and of others.
    pub message_bytes: [usize; 2],
    /// Longest time that a client may take to send the headers of a request.
    pub header_timeout: Duration,
    /// Longest time that a client may go without accepting any of the data sent to it.
    pub write_timeout: Duration,
    /// Grace period for open calls after a stop.
    pub shutdown: Duration,
}

impl Limits {
    /// Returns limits for some hundred clients.
    pub fn standard() -> Self {
        Self {
            connections: 1024,
            connections_per_peer: 256,
            unauthenticated: 1024,
            message_bytes: [1 << 20, 64 << 20],
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// Reasons why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address that cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// Address that was requested.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file for TLS that cannot be read.
    #[error("cannot read the TLS {what} `{}`", .path.display())]
    Pem {
        /// Either `certificate` or `key`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the PEM parser.
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate and a key that cannot be used.
    #[error("TLS certificate `{}` and its key cannot be used", .path.display())]
    Tls {
        /// Path of the certificate.
        path: PathBuf,
        /// Error of the TLS library.
        source: rustls::Error,
    },
}

impl ListenError {
    /// Returns what the operator can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "another program listens on this address; stop it, or choose another address"
                    .to_owned(),
            ),
            Self::Pem { .. } => {
                Some("the file must be in PEM format and readable by this user".to_owned())
            }
            Self::Tls { .. } => {
                Some("check that the key belongs to the first certificate".to_owned())
            }
            Self::Bind { .. } => None,
        }
    }
}

/// Returns the address that this machine has towards others, if there is a route to them. Nothing is sent: the
/// targets are addresses of documentation, RFC 5737 and RFC 3849.
fn own_address(listened: IpAddr) -> Option<IpAddr> {
    let towards = |bind: IpAddr, peer: IpAddr| {
        let socket = UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((peer, 9)).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_unspecified() && !own.is_loopback()).then_some(own)
    };
    let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let by_v4 = towards(v4.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let by_v6 = || {
        towards(
            v6.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    };
    by_v4.or_else(|| listened.is_ipv6().then(by_v6).flatten())
}

/// Bound address at which no request is answered yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Certified>>,
    limits: Limits,
    proxies: Arc<[Network]>,
    counters: Arc<ConnectionCounters>,
}

/// Counters of a listener's connections.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    /// Number of open connections.
    pub open: AtomicUsize,
    /// Number of open connections on which somebody has authenticated, or whose peer is a trusted proxy.
    pub authenticated: AtomicUsize,
    /// Number of responses and upgraded connections that ended because their credential did.
    pub revoked: AtomicU64,
    /// Number of times that a budget was used up.
    pub overdrawn: Refusals,
    /// Number of connections that found no place and were closed.
    pub refused: AtomicU64,
    /// Number of connections that had to end for another one.
    pub displaced: AtomicU64,
}

/// Expiry of a listener's certificate.
#[derive(Clone)]
pub struct CertificateEnd(Option<Arc<Certified>>);

impl CertificateEnd {
    /// Returns the time of expiry, if there is a certificate that has one.
    pub fn at(&self) -> Option<Timestamp> {
        self.0.as_ref()?.newest().ends
    }
}

impl Listener {
    /// Binds an address; port 0 picks a free port.
    ///
    /// # Errors
    /// [`ListenError`] names the address or the file.
    pub async fn bind(
        listen: SocketAddr,
        tls: Option<&Tls>,
        limits: Limits,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Bind {
            address: listen,
            source,
        };
        let tls = tls.map(Certified::read).transpose()?.map(Arc::new);
        if let Some(tls) = &tls {
            tls.warn_of_its_end(Timestamp::now());
        }
        let socket = TcpListener::bind(listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self {
            socket,
            address,
            tls,
            limits,
            proxies: Arc::default(),
            counters: Arc::default(),
        })
    }

    /// Returns the counters of connections, which are updated while it serves.
    pub fn counters(&self) -> Arc<ConnectionCounters> {
        self.counters.clone()
    }

    /// Returns the expiry of the certificate, including that of one which replaces it later.
    pub fn certificate_end(&self) -> CertificateEnd {
        CertificateEnd(self.tls.clone())
    }

    /// Trusts `X-Forwarded-For` from proxies at these addresses.
    #[must_use]
    pub fn behind(mut self, proxies: &[Network]) -> Self {
        self.proxies = proxies.into();
        self
    }

    /// Address that the listener is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL at which this machine reaches the listener.
    pub fn url(&self) -> Url {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let address = SocketAddr::new(ip, self.address.port());
        Url::parse(&format!("{scheme}://{address}")).expect("an address makes a URL")
    }

    /// URL at which others should reach the listener: with the address that this machine has towards them if it
    /// listens at every one.
    pub fn url_elsewhere(&self) -> Url {
        let mut url = self.url();
        if self.address.ip().is_unspecified()
            && let Some(ip) = own_address(self.address.ip())
        {
            // This cannot fail: an address is a valid host for these schemes.
            let _ = url.set_ip_host(ip);
        }
        url
    }

    /// Serves requests until `stop` drains, then lets open calls end for a while.
    pub async fn serve(self, routes: Router, stop: Stop) {
        let mut places = Places::new(&self.limits);
        let mut ends: HashMap<Id, CancellationToken> = HashMap::new();
        let mut connections = JoinSet::new();
        let mut complaints = Complaints::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.draining() => break,
                Some(ended) = connections.join_next() => {
                    if let Ok(id) = ended {
                        places.leave(id);
                        ends.remove(&id);
                        self.counters.open.store(places.count_all(), Ordering::Relaxed);
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly. Without a pause this loop would only burn time.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let is_proxy = self.proxies.iter().any(|proxy| proxy.contains(peer.ip()));
            // A proxy's requests name their clients, and the proxy limits its own connections.
            let now = tokio::time::Instant::now().into_std();
            let activity = ConnectionActivity::new(self.counters.clone(), is_proxy, now);
            let sender = network::sender(peer.ip());
            let (id, ended) = match places.enter(sender, activity.clone(), is_proxy) {
                Entry::In { id, ended } => (id, ended),
                Entry::Full(limit) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    if let Some(times) = complaints.should_say(limit.text()) {
                        let (address, connections) = (sender, places.limit(limit));
                        warn!(%address, connections, times, "refusing connections: {}", limit.text());
                    }
                    continue;
                }
            };
            self.counters
                .open
                .store(places.count_all(), Ordering::Relaxed);
            for id in ended {
                self.counters.displaced.fetch_add(1, Ordering::Relaxed);
                // The connection ends by itself; until then its place is taken twice for a moment.
                ends.remove(&id).into_iter().for_each(|end| end.cancel());
            }
            let end = CancellationToken::new();
            ends.insert(id, end.clone());
            let connection = Connection {
                tls: self.tls.clone(),
                limits: self.limits.clone(),
                routes: routes.clone(),
                stop: stop.clone(),
                peer: peer.ip(),
                proxies: self.proxies.clone(),
                activity,
            };
            let run = async move {
                let running = AssertUnwindSafe(connection.run(stream, end));
                match running.catch_unwind().await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%peer, %error, "connection ended"),
                    Err(_) => error!(%peer, "panic in a connection"),
                }
                id
            };
            connections.spawn(run.instrument(debug_span!("connection", %peer)));
        }
        drop(self.socket);
        let closed = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.shutdown, closed).await.is_err() {
            warn!("closing calls that are still open after the shutdown timeout");
        }
        connections.shutdown().await;
    }
}

/// Certificate that may be renewed while it is in use.
struct Certified {
    files: Tls,
    current: Mutex<(Stamp, Loaded)>,
}

/// Certificate that is in use.
#[derive(Clone)]
struct Loaded {
    acceptor: TlsAcceptor,
    /// Time when it expires, if it says so.
    ends: Option<Timestamp>,
}

/// Two weeks: certificates of `outpost ca` are valid for ninety days, and renewing by hand takes some time.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Modification times of the files; `None` for one that does not exist now.
type Stamp = [Option<SystemTime>; 2];

impl Certified {
    fn read(files: &Tls) -> Result<Self, ListenError> {
        let stamp = Self::stamp(files);
        Ok(Self {
            current: Mutex::new((stamp, load(files)?)),
            files: files.clone(),
        })
    }

    fn stamp(files: &Tls) -> Stamp {
        let changed = |path: &PathBuf| path.metadata().and_then(|it| it.modified()).ok();
        [changed(&files.certificate), changed(&files.key)]
    }

    /// Warns of a certificate that clients refuse already, or will soon.
    fn warn_of_its_end(&self, now: Timestamp) {
        let path = self.files.certificate.display();
        match self.newest().ends {
            Some(ends) if ends <= now => {
                error!(certificate = %path, %ends, "the TLS certificate has expired and clients refuse it: renew it");
            }
            Some(ends) if ends.duration_since(now) < SOON => {
                warn!(certificate = %path, %ends, "the TLS certificate expires soon: renew it");
            }
            _ => {}
        }
    }

    /// Returns the newest usable certificate: while somebody writes new files, the old ones remain valid.
    fn acceptor(&self) -> TlsAcceptor {
        self.newest().acceptor
    }

    fn newest(&self) -> Loaded {
        let stamp = Self::stamp(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamp {
            current.0 = stamp;
            match load(&self.files) {
                Ok(renewed) => current.1 = renewed,
                Err(error) => {
                    warn!(%error, "cannot use the new TLS certificate; keeping the old one")
                }
            }
        }
        current.1.clone()
    }
}

fn load(tls: &Tls) -> Result<Loaded, ListenError> {
    let pem = |what, path: &PathBuf| {
        let path = path.clone();
        move |source| ListenError::Pem { what, path, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(pem("certificate", &tls.certificate))?;
    let ends = chain.first().and_then(|own| certificate::ends(own));
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(pem("key", &tls.key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|source| ListenError::Tls {
            path: tls.certificate.clone(),
            source,
        })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded {
        acceptor: TlsAcceptor::from(Arc::new(server)),
        ends,
    })
}
