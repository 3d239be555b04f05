//! SSH server inside the overlay: the control plane has authorized every client, so nobody is asked for a key.
//!
//! # Source
//! coder `agent/agentssh/agentssh.go`: what a session may do, and how it ends.

mod forward;
mod inbox;
mod jetbrains;
mod session;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use outpost_base::stop::Stop;
use outpost_tailnet::{Listener, Stream};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig,
    keys::PrivateKey,
    server::{self, Auth, ChannelOpenHandle, Msg},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tracing::{Instrument as _, debug, debug_span};

use self::{
    forward::{Forwards, Place},
    session::Report,
};
use super::{
    Shared,
    stats::{App, Counted, Silence},
};

/// Number of sessions and forwarded connections of one client at the same time; further ones are refused.
const CHANNELS: usize = 1024;
/// Longest time for a client to begin, as OpenSSH's `LoginGraceTime`: five hundred at once take their turns.
const GREETING: Duration = Duration::from_secs(120);
/// Longest time for a client to accept our goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes that wait to be sent. russh does not read while it writes, and neither does a client that is built on it; both
/// would wait for ever if each had more to send than the connection holds. A client accepts 2 MiB for each channel.
const SEND_BUFFER: usize = 4 << 20;
/// Bytes that a client may send on a channel before they are taken. What lets us send more arrives behind them: with russh's
/// 2 MiB, input that is taken slowly would hold up the output more than itself, and ever more of it would wait.
const WINDOW: u32 = 512 << 10;
/// Number of messages that wait for a session that does not read.
const BUFFER: usize = 64;
/// Number of keep-alives that a client may leave unanswered.
const KEEP_ALIVES: usize = 3;

/// SSH server. Clones are the same server.
#[derive(Clone)]
pub(super) struct Server {
    shared: Arc<Shared>,
    /// Configuration, replaced when the host key changes; existing connections keep the one that they began with.
    config: Arc<RwLock<Arc<server::Config>>>,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, key: PrivateKey) -> Self {
        let config = config(key, shared.config.ssh_max_timeout);
        Self {
            shared,
            config: Arc::new(RwLock::new(Arc::new(config))),
        }
    }

    /// Replaces the host key for later connections.
    pub(super) fn set_key(&self, key: PrivateKey) {
        let config = Arc::new(config(key, self.shared.config.ssh_max_timeout));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Accepts connections until `stop` drains; then all of them end. The overlay limits their number, and makes room
    /// by ending those of silent peers.
    pub(super) async fn serve(self, mut listener: Listener, stop: Stop) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some((stream, peer)) = listener.accept() => {
                    let (server, stop) = (self.clone(), stop.clone());
                    let serving = server.serve_one(stream, peer.ip().to_string(), stop);
                    running.spawn(serving.instrument(debug_span!("ssh", %peer)));
                }
                Some(_) = running.join_next() => {}
                () = stop.draining() => break,
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn serve_one(self, stream: Stream, peer: String, stop: Stop) {
        let silence: Silence = Arc::new(stream.silence());
        let stream = Counted::new(stream, self.shared.usage.clone(), silence.clone());
        let channels = Arc::new(Semaphore::new(CHANNELS));
        let handler = Handler {
            shared: self.shared,
            peer,
            silence,
            stop: stop.clone(),
            forwards: Forwards::new(channels.clone()),
            channels,
        };
        let config = self.config.read();
        let config = config.unwrap_or_else(PoisonError::into_inner).clone();
        let (near, far) = tokio::io::duplex(SEND_BUFFER);
        let mut carrying = JoinSet::new();
        carrying.spawn(carry(far, stream).in_current_span());
        serve_client(config, near, handler, stop).await;
        let _ = timeout(GOODBYE, carrying.join_next()).await;
    }
}

/// Carries bytes between russh and a client until russh has ended and all it wrote is sent.
async fn carry(near: DuplexStream, client: impl AsyncRead + AsyncWrite) {
    let (mut read_near, mut write_near) = tokio::io::split(near);
    let (mut read_client, mut write_client) = tokio::io::split(client);
    let receiving = async {
        let _ = tokio::io::copy(&mut read_client, &mut write_near).await;
        let _ = write_near.shutdown().await;
        std::future::pending().await
    };
    let sending = async {
        let _ = tokio::io::copy(&mut read_near, &mut write_client).await;
        let _ = write_client.shutdown().await;
    };
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
}

async fn serve_client(
    config: Arc<server::Config>,
    stream: DuplexStream,
    handler: Handler,
    stop: Stop,
) {
    let begun = server::run_stream(config, stream, handler);
    let begun = timeout(GREETING, begun).await;
    let mut session = match begun {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return debug!(%error, "SSH handshake failed"),
        Err(_) => return debug!("an SSH client sent no identification"),
    };
    let handle = session.handle();
    let ended = tokio::select! {
        ended = &mut session => ended,
        () = stop.draining() => {
            // A client that receives this stops waiting.
            let why = "the agent shuts down".to_owned();
            let goodbye = async {
                handle.disconnect(Disconnect::ByApplication, why, String::new()).await?;
                session.await
            };
            timeout(GOODBYE, goodbye).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "SSH connection failed");
    }
}

fn config(key: PrivateKey, max_timeout: Option<Duration>) -> server::Config {
    let keep_alive = max_timeout.map(|all| all / 3);
    server::Config {
        server_id: russh::SshId::Standard(
            concat!("SSH-2.0-outpost_", env!("CARGO_PKG_VERSION")).into(),
        ),
        methods: [russh::MethodKind::None].as_slice().into(),
        keys: vec![key],
        inactivity_timeout: None,
        keepalive_interval: keep_alive.filter(|pause| !pause.is_zero()),
        keepalive_max: KEEP_ALIVES,
        window_size: WINDOW,
        channel_buffer_size: BUFFER,
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        ..server::Config::default()
    }
}

/// Handler of one connection.
struct Handler {
    shared: Arc<Shared>,
    peer: String,
    silence: Silence,
    stop: Stop,
    channels: Arc<Semaphore>,
    forwards: Forwards,
}

impl Handler {
    /// Returns a permit for another channel, or the reason why there is none.
    fn place(&self, is_blocked: bool) -> Result<OwnedSemaphorePermit, ChannelOpenFailure> {
        if is_blocked {
            return Err(ChannelOpenFailure::AdministrativelyProhibited);
        }
        let place = self.channels.clone().try_acquire_owned();
        place.map_err(|_| ChannelOpenFailure::ResourceShortage)
    }
}

impl server::Handler for Handler {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        let place = match self.place(false) {
            Ok(place) => place,
            Err(why) => {
                reply.reject(why).await;
                return Ok(());
            }
        };
        let client = session::Client {
            shared: self.shared.clone(),
            peer: self.peer.clone(),
            silence: self.silence.clone(),
            handle: session.handle(),
            channels: self.channels.clone(),
            stop: self.stop.clone(),
        };
        reply.accept().await;
        let running = async move {
            session::run(client, channel).await;
            drop(place);
        };
        // Detached: ends with its channel, and has a place among the connection's.
        tokio::spawn(running.in_current_span());
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), russh::Error> {
        let Ok(port) = u16::try_from(port) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        match self.place(self.shared.config.blocks.local_forwarding) {
            Ok(place) => {
                let is_here = ["localhost", "127.0.0.1", "::1"].contains(&host);
                let connected = forward::connect(channel, reply, host.to_owned(), port);
                let (shared, peer) = (self.shared.clone(), self.peer.clone());
                let silence = self.silence.clone();
                let joined = async move {
                    let report = (is_here && jetbrains::listens(port).await)
                        .then(|| Report::begin(&shared, peer, App::jetbrains(), silence));
                    connected.await;
                    drop((report, place));
                };
                // Detached: ends with its channel, and has a place among the connection's.
                tokio::spawn(joined.in_current_span());
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), russh::Error> {
        match self.place(self.shared.config.blocks.local_forwarding) {
            Ok(place) => {
                let connected = forward::connect_to(channel, reply, path.to_owned());
                let joined = async move {
                    connected.await;
                    drop(place);
                };
                // Detached: ends with its channel, and has a place among the connection's.
                tokio::spawn(joined.in_current_span());
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        if self.shared.config.blocks.reverse_forwarding {
            return Ok(false);
        }
        let bound = self.forwards.listen(address, *port, session.handle()).await;
        *port = bound.unwrap_or(*port);
        Ok(bound.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        Ok(self.forwards.end(&Place::Port(address.to_owned(), port)))
    }

    async fn streamlocal_forward(
        &mut self,
        path: &str,
        session: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        let is_blocked = self.shared.config.blocks.reverse_forwarding;
        Ok(!is_blocked && self.forwards.listen_at(path, session.handle()))
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        Ok(self.forwards.end(&Place::Socket(path.into())))
    }

    async fn agent_request(
        &mut self,
        _: ChannelId,
        _: &mut server::Session,
    ) -> Result<bool, russh::Error> {
        Ok(true)
    }

    // The session handles these requests, which it receives on its channel: here they are only acknowledged.

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _: &[u8],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        match name {
            "sftp" => session.channel_success(channel),
            _ => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }
}

/// Returns the system's number of a signal.
fn signal(signal: &Sig) -> Option<nix::sys::signal::Signal> {
    use nix::sys::signal::Signal;
    match signal {
        Sig::ABRT => Some(Signal::SIGABRT),
        Sig::ALRM => Some(Signal::SIGALRM),
        Sig::FPE => Some(Signal::SIGFPE),
        Sig::HUP => Some(Signal::SIGHUP),
        Sig::ILL => Some(Signal::SIGILL),
        Sig::INT => Some(Signal::SIGINT),
        Sig::KILL => Some(Signal::SIGKILL),
        Sig::PIPE => Some(Signal::SIGPIPE),
        Sig::QUIT => Some(Signal::SIGQUIT),
        Sig::SEGV => Some(Signal::SIGSEGV),
        Sig::TERM => Some(Signal::SIGTERM),
        Sig::USR1 => Some(Signal::SIGUSR1),
        Sig::Custom(name) if name == "USR2" => Some(Signal::SIGUSR2),
        Sig::Custom(_) => None,
    }
}
