//! The address at which Terraform connects: a socket in a directory that only this user may enter, else a port of the
//! loopback device.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::handshake::{Address, Launch};

/// Time limit for a client's TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Maximum number of connections that wait to be served. Terraform makes one.
const BACKLOG: usize = 8;

/// A listening socket, whose file is removed on drop.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: Address,
    socket: Socket,
    /// Directory with the socket's file.
    _directory: Option<TempDir>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens as `launch` requires; at a port if the path is too long for a socket.
    pub(super) async fn bind(launch: &Launch) -> io::Result<Self> {
        match bind_unix(launch) {
            Ok(listener) => Ok(listener),
            // A socket is what Terraform expects on Unix, so its error is the one to report.
            Err(why) => bind_tcp(launch).await.map_err(|_| why),
        }
    }

    /// Returns connections as they arrive. Those whose TLS handshake fails are dropped, and Terraform reports the
    /// reason.
    pub(super) fn connections(
        self,
        tls: Option<TlsAcceptor>,
    ) -> impl Stream<Item = io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let accepting = tokio::spawn(accept(self, tls.map(Arc::new), sender));
        Connections {
            inner: ReceiverStream::new(receiver),
            _accepting: tokio_util::task::AbortOnDropHandle::new(accepting),
        }
    }
}

fn bind_unix(launch: &Launch) -> io::Result<Listener> {
    let directory = tempfile::Builder::new()
        .prefix("plugin-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(&launch.socket_dir)?;
    let path = directory.path().join("socket");
    Ok(Listener {
        socket: Socket::Unix(UnixListener::bind(&path)?),
        address: Address::Unix(path),
        _directory: Some(directory),
    })
}

async fn bind_tcp(launch: &Launch) -> io::Result<Listener> {
    let addresses: Vec<_> = launch
        .ports
        .clone()
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .collect();
    let listener = TcpListener::bind(&*addresses).await?;
    Ok(Listener {
        address: Address::Tcp(listener.local_addr()?),
        socket: Socket::Tcp(listener),
        _directory: None,
    })
}

async fn accept(
    listener: Listener,
    tls: Option<Arc<TlsAcceptor>>,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = handshakes.join_next() => {}
            stream = listener.socket.accept() => match stream {
                Ok(stream) => {
                    handshakes.spawn(shake_hands(stream, tls.clone(), sender.clone()));
                }
                Err(error) => {
                    sender.send(Err(error)).await.ok();
                    return;
                }
            }
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener) => Ok(Connection(Box::pin(listener.accept().await?.0))),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection(Box::pin(stream)))
            }
        }
    }
}

async fn shake_hands(
    stream: Connection,
    tls: Option<Arc<TlsAcceptor>>,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let connection = match tls {
        None => stream,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => Connection(Box::pin(stream)),
            Ok(Err(_)) | Err(_) => return,
        },
    };
    sender.send(Ok(connection)).await.ok();
}

/// A task that accepts connections until it is dropped.
struct Connections {
    inner: ReceiverStream<io::Result<Connection>>,
    _accepting: tokio_util::task::AbortOnDropHandle<()>,
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.inner).poll_next(context)
    }
}

trait Io: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A connection of any kind.
pub(super) struct Connection(Pin<Box<dyn Io>>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn launch(socket_dir: &Path) -> Launch {
        Launch {
            client: None,
            socket_dir: socket_dir.to_owned(),
            ports: 0..=0,
            multiplexing_asked: false,
        }
    }

    #[tokio::test]
    async fn only_our_user_can_reach_the_socket_and_it_goes_away() {
        let directory = tempfile::tempdir().unwrap();

        let listener = Listener::bind(&launch(directory.path())).await.unwrap();

        let Address::Unix(path) = listener.address.clone() else {
            panic!("no socket: {listener:?}");
        };
        let mode = path
            .parent()
            .unwrap()
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(listener);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn where_no_socket_fits_it_is_a_port_of_the_loopback() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(100));
        std::fs::create_dir(&deep).unwrap();

        let listener = Listener::bind(&launch(&deep)).await.unwrap();

        assert!(
            matches!(listener.address, Address::Tcp(address) if address.ip().is_loopback() && address.port() > 0),
            "{listener:?}"
        );
        assert_eq!(deep.read_dir().unwrap().count(), 0);
    }
}
