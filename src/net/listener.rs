//! One listener for everything: gRPC, HTTP/1.1 and HTTP/2, plain or TLS.

mod file;
mod first_bytes;
mod upgraded;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::Router;
use hyper::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::{debug, warn};
use url::Url;

pub use self::file::FilePart;
pub use self::upgraded::{Becomes, Peer, Upgraded};
use self::{
    file::{Parts, Socket},
    first_bytes::Protocol,
};
use crate::{net::budget::Account, stop::Stop};

/// Calls on one HTTP/2 connection at a time.
const STREAMS: u32 = 256;
/// Bytes of one body, and of all on one connection, that a client may send before we read them. Bodies that wait for memory
/// must not fill the connection's window, or the one that they wait for could not end.
const WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = WINDOW * LARGE_MESSAGES as u32;
/// Large messages on one connection that are received, or wait to be.
const LARGE_MESSAGES: usize = 4;
/// Bytes of header that a client may send.
const HEADER_BYTES: u32 = 32 << 10;
/// How often a silent HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);

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
    /// Connections at a time from one address.
    pub connections_per_peer: usize,
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
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("another program listens there; stop it, or choose another address".to_owned())
            }
            Self::Pem { .. } => {
                Some("the file must hold PEM and be readable for this user".to_owned())
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
        let socket = TcpListener::bind(listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self {
            socket,
            address,
            tls,
            limits,
        })
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
        let doors = Doors::new(&self.limits);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.draining() => break,
                Some(_) = connections.join_next() => continue,
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
            let Some(door) = doors.enter(peer.ip()) else {
                debug!(%peer, "too many connections");
                continue;
            };
            let connection = Connection {
                tls: self.tls.clone(),
                limits: self.limits.clone(),
                routes: routes.clone(),
                stop: stop.clone(),
                peer: Peer(peer.ip()),
            };
            connections.spawn(async move {
                let _door = door;
                if let Err(error) = connection.run(stream).await {
                    debug!(%peer, %error, "connection ended");
                }
            });
        }
        drop(self.socket);
        let closed = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.shutdown, closed).await.is_err() {
            warn!("calls still open after the time for a stop, closing them");
        }
        connections.shutdown().await;
    }
}

/// A certificate that may be renewed while it is used.
struct Certified {
    files: Tls,
    current: Mutex<(Stamp, TlsAcceptor)>,
}

/// When the files changed; `None` for one that is not there now.
type Stamp = [Option<SystemTime>; 2];

impl Certified {
    fn read(files: &Tls) -> Result<Self, ListenError> {
        let stamp = Self::stamp(files);
        Ok(Self {
            current: Mutex::new((stamp, acceptor(files)?)),
            files: files.clone(),
        })
    }

    fn stamp(files: &Tls) -> Stamp {
        let changed = |path: &PathBuf| path.metadata().and_then(|it| it.modified()).ok();
        [changed(&files.certificate), changed(&files.key)]
    }

    /// The newest that is usable: while somebody writes new files, the old ones are still good.
    fn acceptor(&self) -> TlsAcceptor {
        let stamp = Self::stamp(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamp {
            current.0 = stamp;
            match acceptor(&self.files) {
                Ok(renewed) => current.1 = renewed,
                Err(error) => warn!(%error, "keeping the TLS certificate from before"),
            }
        }
        current.1.clone()
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, ListenError> {
    let pem = |what, path: &PathBuf| {
        let path = path.clone();
        move |source| ListenError::Pem { what, path, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(pem("certificate", &tls.certificate))?;
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
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// Counts connections, all together and by peer.
struct Doors {
    all: Arc<Semaphore>,
    by_peer: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limit_by_peer: usize,
}

/// A connection that counts until this is dropped.
struct Door {
    _all: OwnedSemaphorePermit,
    by_peer: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Doors {
    fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            by_peer: Arc::default(),
            limit_by_peer: limits.connections_per_peer,
        }
    }

    fn enter(&self, peer: IpAddr) -> Option<Door> {
        let all = self.all.clone().try_acquire_owned().ok()?;
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_peer.entry(peer).or_default();
        if *count >= self.limit_by_peer {
            return None;
        }
        *count += 1;
        Some(Door {
            _all: all,
            by_peer: self.by_peer.clone(),
            peer,
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

/// What a connection needs.
struct Connection {
    tls: Option<Arc<Certified>>,
    limits: Limits,
    routes: Router,
    stop: Stop,
    peer: Peer,
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    async fn run(self, stream: TcpStream) -> Result<(), ConnectionError> {
        stream.set_nodelay(true)?;
        let parts = Parts::default();
        let mut stream = TimeoutStream::new(Socket::new(stream, parts.clone()));
        stream.set_write_timeout(Some(self.limits.write_timeout));
        let stream = Box::pin(stream);
        match self.tls.clone() {
            None => self.speak(stream, Some(parts)).await,
            Some(tls) => {
                let accepting = tls.acceptor().accept(stream);
                let stream = timeout(self.limits.header_timeout, accepting).await??;
                self.speak(stream, None).await
            }
        }
    }

    /// Files go from the system to `parts`' socket by themselves, if there is one.
    async fn speak<S>(self, stream: S, parts: Option<Parts>) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limit = self.limits.header_timeout;
        let (protocol, stream) = timeout(limit, first_bytes::read(stream)).await??;
        let (upgraded, mut becomes) = Upgraded::channel();
        let peer = self.peer;
        let [small, large] = self.limits.message_bytes;
        let budgets = Budgets(Arc::new(
            Account::new(small, large).with_places(LARGE_MESSAGES),
        ));
        let routes = self.routes.map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(upgraded.clone());
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(budgets.clone());
            request
        });
        let parts = parts.filter(|_| protocol == Protocol::Http1);
        let routes = routes.map_response(move |response| match &parts {
            Some(parts) => parts.take_over(response),
            None => response,
        });
        let (io, service) = (TokioIo::new(stream), TowerToHyperService::new(routes));
        let stop = self.stop;
        match protocol {
            Protocol::Http1 => {
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limit)
                    .serve_connection(io, service)
                    .with_upgrades();
                tokio::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => ended?,
                    () = stop.draining() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await?;
                    }
                }
                becomes.run().await;
                Ok(())
            }
            Protocol::Http2 => {
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS)
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(HEADER_BYTES)
                    .keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE_ANSWER)
                    .serve_connection(io, service);
                tokio::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return Ok(ended?),
                    () = stop.draining() => connection.as_mut().graceful_shutdown(),
                }
                Ok(connection.await?)
            }
        }
    }
}
