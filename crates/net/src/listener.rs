//! One listener for everything: gRPC, HTTP/1.1 and HTTP/2, plain or TLS.

mod connection;
mod file;
mod file_body;
mod first_bytes;
mod places;
mod upgraded;
mod visit;

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
    time::{Duration, Instant, SystemTime},
};

use axum::Router;
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use outpost_base::stop::Stop;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use url::Url;

pub use self::file::{FilePart, FileStamp};
pub use self::upgraded::{Becomes, Peer, Upgraded};
pub use self::visit::{Held, vouch};
use self::{
    connection::Connection,
    places::{Conduct, Entry, Id, Places},
};
use crate::{
    back_off::Complaints,
    budget::Account,
    certificate,
    network::{self, Network},
};

/// Files for TLS, both PEM. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and what it needs up to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Memory for unfinished messages of one connection. Stands in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Budgets(pub Arc<Account>);

/// What a client may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time from one address, or from one /64 of IPv6.
    pub connections_per_peer: usize,
    /// Connections at a time of those who have not proved who they are.
    pub strangers: usize,
    /// Bytes of unfinished messages on one connection: of small ones, of up to 64 KiB, and of others.
    pub message_bytes: [usize; 2],
    /// How long a client may take to say what it wants.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what it is sent.
    pub write_timeout: Duration,
    /// How long open calls may go on after a stop.
    pub shutdown: Duration,
}

impl Limits {
    /// For some hundred clients.
    pub fn standard() -> Self {
        Self {
            connections: 1024,
            connections_per_peer: 256,
            strangers: 1024,
            message_bytes: [1 << 20, 64 << 20],
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file for TLS cannot be read.
    #[error("cannot read the TLS {what} `{}`", .path.display())]
    Pem {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key cannot be used.
    #[error("TLS certificate `{}` and its key cannot be used", .path.display())]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

impl ListenError {
    /// What the operator can try next.
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

/// The address that this machine has towards others, if there is a way to them. Nothing is sent: the addresses are
/// those of documentation, RFC 5737 and RFC 3849.
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

/// An address on which nobody is answered yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Certified>>,
    limits: Limits,
    proxies: Arc<[Network]>,
    door: Arc<Door>,
}

/// What came of those who connected to a listener.
#[derive(Debug, Default)]
pub struct Door {
    /// Connections that are open.
    pub open: AtomicUsize,
    /// Connections that found no place and were closed.
    pub refused: AtomicU64,
    /// Connections that had to end for another one.
    pub displaced: AtomicU64,
}

/// When the certificate of a listener ends.
#[derive(Clone)]
pub struct CertificateEnd(Option<Arc<Certified>>);

impl CertificateEnd {
    /// The time, if there is a certificate and it says so.
    pub fn at(&self) -> Option<Timestamp> {
        self.0.as_ref()?.newest().ends
    }
}

impl Listener {
    /// Takes the address; port 0 takes any.
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
            door: Arc::default(),
        })
    }

    /// What comes of those who connect, also while it serves.
    pub fn door(&self) -> Arc<Door> {
        self.door.clone()
    }

    /// When its certificate ends, also one that takes its place while it serves.
    pub fn certificate_end(&self) -> CertificateEnd {
        CertificateEnd(self.tls.clone())
    }

    /// Believes what proxies at these addresses say of whom they ask for, in `X-Forwarded-For`.
    #[must_use]
    pub fn behind(mut self, proxies: &[Network]) -> Self {
        self.proxies = proxies.into();
        self
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL at which this machine reaches it.
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

    /// A URL at which others should reach it: with the address that this machine has towards them if it listens at
    /// every one.
    pub fn url_elsewhere(&self) -> Url {
        let mut url = self.url();
        if self.address.ip().is_unspecified()
            && let Some(ip) = own_address(self.address.ip())
        {
            // An address is a host for these schemes.
            let _ = url.set_ip_host(ip);
        }
        url
    }

    /// Answers until `stop` drains, then lets open calls end for a while.
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
                        self.door.open.store(places.count_all(), Ordering::Relaxed);
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
            // Whom it stands for is told with each request, and it looks after its own.
            let conduct = Conduct::new(is_proxy, Instant::now());
            let sender = network::sender(peer.ip());
            let (id, ended) = match places.enter(sender, conduct.clone(), is_proxy) {
                Entry::In { id, ended } => (id, ended),
                Entry::Full(limit) => {
                    self.door.refused.fetch_add(1, Ordering::Relaxed);
                    if let Some(times) = complaints.should_say(limit.text()) {
                        let (address, connections) = (sender, places.limit(limit));
                        warn!(%address, connections, times, "refusing connections: {}", limit.text());
                    }
                    continue;
                }
            };
            self.door.open.store(places.count_all(), Ordering::Relaxed);
            for id in ended {
                self.door.displaced.fetch_add(1, Ordering::Relaxed);
                // It leaves by itself; until then its place is taken twice, for a moment.
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
                conduct,
            };
            connections.spawn(async move {
                let running = AssertUnwindSafe(connection.run(stream, end));
                match running.catch_unwind().await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%peer, %error, "connection ended"),
                    Err(_) => error!(%peer, "panic in a connection"),
                }
                id
            });
        }
        drop(self.socket);
        let closed = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.shutdown, closed).await.is_err() {
            warn!("closing calls that are still open after the shutdown timeout");
        }
        connections.shutdown().await;
    }
}

/// A certificate that may be renewed while it is used.
struct Certified {
    files: Tls,
    current: Mutex<(Stamp, Loaded)>,
}

/// A certificate that is used.
#[derive(Clone)]
struct Loaded {
    acceptor: TlsAcceptor,
    /// When it ends, if it says so.
    ends: Option<Timestamp>,
}

/// Two weeks: those of `outpost ca` are good for ninety days, and whoever renews by hand needs some time.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// When the files changed; `None` for one that is not there now.
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

    /// The newest that is usable: while somebody writes new files, the old ones are still good.
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
