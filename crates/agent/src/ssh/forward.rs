//! Forwarded connections of a client: to addresses that it names, and from addresses at which it lets us listen.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use russh::{
    Channel, ChannelMsg, ChannelOpenFailure,
    server::{ChannelOpenHandle, Handle, Msg},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};
use tracing::{Instrument as _, debug, debug_span};

use super::inbox::inbox;

/// Longest time for a connection that a client requests, and for its answer to one that we received.
const DIAL: Duration = Duration::from_secs(10);
/// Longest time to resolve a name to listen at.
const BIND: Duration = Duration::from_secs(5);
/// Number of places at which one client may listen.
const LISTENERS: usize = 64;
/// Pause of a listener when the system has no room for another connection.
const REST: Duration = Duration::from_millis(100);

/// Place at which we listen for a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// An address, as the client wrote it, and a port.
    Port(String, u32),
    /// A socket in the file system.
    Socket(PathBuf),
}

/// A task that ends when this is dropped.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A socket in the file system that is removed with its listener.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A failure does not matter: the socket may have been removed already.
        let _ = fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Listens, for our own user only. A leftover socket is replaced.
    fn bind(path: &Path) -> io::Result<Self> {
        let is_old = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_old {
            fs::remove_file(path)?;
        }
        let socket = Self {
            listener: UnixListener::bind(path)?,
            path: path.to_owned(),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }
}

/// Listeners of one client. All of them end when this is dropped; connections end with the client.
pub(super) struct Forwards {
    places: Arc<Semaphore>,
    listening: HashMap<Place, Listening>,
}

impl Forwards {
    /// Creates the listeners of a client. Each connection takes one of `places`.
    pub(super) fn new(places: Arc<Semaphore>) -> Self {
        Self {
            places,
            listening: HashMap::new(),
        }
    }

    fn add(&mut self, place: Place, task: impl Future<Output = ()> + Send + 'static) {
        let span = debug_span!("forward", ?place);
        let task = Listening(tokio::spawn(task.instrument(span)));
        self.listening.insert(place, task);
    }

    fn has_room(&self) -> bool {
        self.listening.len() < LISTENERS
    }

    /// Listens at a port, a free one if it is 0; returns the port, or `None` if that is impossible.
    pub(super) async fn listen(&mut self, address: &str, port: u32, handle: Handle) -> Option<u32> {
        let wanted = u16::try_from(port).ok().filter(|_| self.has_room())?;
        let listener = timeout(BIND, bind(address, wanted)).await;
        let listener = listener.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                debug!(address, port, %error, "cannot listen for a client");
                return None;
            }
        };
        let port = u32::from(listener.local_addr().ok()?.port());
        let (places, told) = (self.places.clone(), address.to_owned());
        let accepting = async move {
            loop {
                let (stream, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        debug!(port, %error, "dropped a forwarded connection for a client");
                        tokio::time::sleep(REST).await;
                        continue;
                    }
                };
                let Ok(place) = places.clone().try_acquire_owned() else {
                    continue;
                };
                let (handle, told) = (handle.clone(), told.clone());
                let joined = async move {
                    let (ip, of) = (from.ip().to_string(), u32::from(from.port()));
                    let opening = handle.channel_open_forwarded_tcpip(told, port, ip, of);
                    hand_over(opening, stream, place).await;
                };
                // Detached: outlives the listener, and ends with the client's channel.
                tokio::spawn(joined.in_current_span());
            }
        };
        self.add(Place::Port(address.to_owned(), port), accepting);
        Some(port)
    }

    /// Listens at a socket in the file system; returns whether it does.
    pub(super) fn listen_at(&mut self, path: &str, handle: Handle) -> bool {
        let place = Place::Socket(path.into());
        if !self.has_room() || self.listening.contains_key(&place) {
            return false;
        }
        match Socket::bind(Path::new(path)) {
            Ok(socket) => {
                let told = path.to_owned();
                let accepting = serve(socket, self.places.clone(), move |stream, place| {
                    let (handle, told) = (handle.clone(), told.clone());
                    async move {
                        let opening = handle.channel_open_forwarded_streamlocal(told);
                        hand_over(opening, stream, place).await;
                    }
                });
                self.add(place, accepting);
                true
            }
            Err(error) => {
                debug!(path, %error, "cannot listen for a client");
                false
            }
        }
    }

    /// Stops listening at a place; returns whether there was a listener. Connections go on.
    pub(super) fn end(&mut self, place: &Place) -> bool {
        self.listening.remove(place).is_some()
    }
}

/// Binds a port. An empty address means all of them, and so does a star.
async fn bind(address: &str, port: u16) -> io::Result<TcpListener> {
    match address {
        "" | "*" => match TcpListener::bind(("::", port)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
        },
        "localhost" => TcpListener::bind(("127.0.0.1", port)).await,
        address => TcpListener::bind((address, port)).await,
    }
}

async fn serve<F>(
    socket: Socket,
    places: Arc<Semaphore>,
    take: impl Fn(UnixStream, OwnedSemaphorePermit) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(place) = places.clone().try_acquire_owned() {
                    // Detached: outlives the listener, and ends with the client's channel.
                    tokio::spawn(take(stream, place).in_current_span());
                }
            }
            Err(error) => {
                debug!(path = %socket.path.display(), %error, "dropped a forwarded connection for a client");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Connects an accepted connection to the channel that the client opens for it.
async fn hand_over(
    opening: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: OwnedSemaphorePermit,
) {
    match timeout(DIAL, opening).await {
        Ok(Ok(channel)) => join(channel, stream).await,
        Ok(Err(error)) => debug!(%error, "a client refused a forwarded connection"),
        Err(_) => debug!("a client did not answer a forwarded connection in time"),
    }
    drop(place);
}

async fn join(channel: Channel<Msg>, stream: impl AsyncRead + AsyncWrite) {
    let (mut reader, writer) = channel.split();
    let (mut read_stream, mut write_stream) = tokio::io::split(stream);
    let (pieces, mut waiting) = inbox();
    let hearing = async {
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => pieces.send(data).await,
                ChannelMsg::Eof | ChannelMsg::Close => break,
                _ => {}
            }
        }
        drop(pieces);
        io::Result::Ok(())
    };
    let passing = async {
        while let Some(piece) = waiting.recv().await {
            write_stream.write_all(&piece).await?;
        }
        write_stream.shutdown().await
    };
    let answering = async {
        let mut to_client = writer.make_writer();
        copy(&mut read_stream, &mut to_client).await?;
        to_client.shutdown().await
    };
    if let Err(error) = tokio::try_join!(hearing, passing, answering) {
        debug!(%error, "forwarded connection failed");
    }
    let _ = writer.close().await;
}

/// Connects a client's channel to a port.
pub(super) async fn connect(
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    host: String,
    port: u16,
) {
    let dialling = TcpStream::connect((host.as_str(), port));
    accept(channel, reply, dialling).await;
}

/// Connects a client's channel to a socket in the file system.
pub(super) async fn connect_to(channel: Channel<Msg>, reply: ChannelOpenHandle, path: String) {
    accept(channel, reply, UnixStream::connect(path)).await;
}

async fn accept<S>(
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    dialling: impl Future<Output = io::Result<S>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(DIAL, dialling).await {
        Ok(Ok(stream)) => {
            reply.accept().await;
            join(channel, stream).await;
        }
        Ok(Err(_)) | Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
    }
}

/// Socket that gives access to the client's SSH agent, as long as this is kept.
pub(super) struct Keys {
    directory: TempDir,
    _listening: Listening,
}

impl Keys {
    /// Listens in a directory that only we can enter.
    ///
    /// # Errors
    /// If there is no room for it.
    pub(super) fn offer(handle: Handle, places: Arc<Semaphore>) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("auth-agent")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let socket = Socket::bind(&directory.path().join("listener.sock"))?;
        let accepting = serve(socket, places, move |stream, place| {
            let handle = handle.clone();
            async move { hand_over(handle.channel_open_agent(), stream, place).await }
        });
        Ok(Self {
            directory,
            _listening: Listening(tokio::spawn(accepting.in_current_span())),
        })
    }

    /// Path of the socket.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("listener.sock")
    }
}
