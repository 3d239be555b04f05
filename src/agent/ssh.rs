//! SSH inside the overlay: who comes this far was let in by the server, so nobody is asked for a key.
//!
//! # Source
//! coder `agent/agentssh/agentssh.go`: what a session may do, and how it ends.

mod session;

use std::{sync::Arc, time::Duration};

use russh::{
    Channel, ChannelId, ChannelOpenFailure, Pty, Sig,
    keys::PrivateKey,
    server::{self, Auth, ChannelOpenHandle, Msg},
};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};
use tracing::debug;

use super::Shared;
use crate::{stop::Stop, tailnet::Listener};

/// Connections at a time; the next one waits.
const CONNECTIONS: usize = 256;
/// Time for what a client asks us to connect to.
const DIAL: Duration = Duration::from_secs(10);
/// What waits for a session that does not read, in messages.
const BUFFER: usize = 64;
/// Keep-alives that a client may leave unanswered.
const KEEP_ALIVES: usize = 3;

/// The server. A clone is the same one.
#[derive(Clone)]
pub(super) struct Server {
    shared: Arc<Shared>,
    config: Arc<server::Config>,
    places: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, key: PrivateKey) -> Self {
        let keep_alive = shared.config.ssh_max_timeout.map(|all| all / 3);
        let config = server::Config {
            server_id: russh::SshId::Standard(
                concat!("SSH-2.0-outpost_", env!("CARGO_PKG_VERSION")).into(),
            ),
            methods: [russh::MethodKind::None].as_slice().into(),
            keys: vec![key],
            inactivity_timeout: None,
            keepalive_interval: keep_alive.filter(|pause| !pause.is_zero()),
            keepalive_max: KEEP_ALIVES,
            channel_buffer_size: BUFFER,
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..server::Config::default()
        };
        Self {
            shared,
            config: Arc::new(config),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// Takes connections until `stop` drains; then all of them end.
    pub(super) async fn serve(self, mut listener: Listener, stop: Stop) {
        let mut running = JoinSet::new();
        loop {
            let place = self.places.clone().acquire_owned();
            tokio::select! {
                Some((stream, peer)) = listener.accept() => {
                    let Ok(place) = place.await else { return };
                    let handler = Handler { shared: self.shared.clone(), peer: peer.ip().to_string() };
                    let config = self.config.clone();
                    running.spawn(async move {
                        match server::run_stream(config, stream, handler).await {
                            Ok(session) => {
                                if let Err(error) = session.await {
                                    debug!(%error, "an SSH connection broke");
                                }
                            }
                            Err(error) => debug!(%error, "no SSH connection"),
                        }
                        drop(place);
                    });
                }
                Some(_) = running.join_next() => {}
                () = stop.draining() => return,
            }
        }
    }
}

/// One connection.
struct Handler {
    shared: Arc<Shared>,
    peer: String,
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
        let (shared, peer, handle) = (self.shared.clone(), self.peer.clone(), session.handle());
        reply.accept().await;
        tokio::spawn(session::run(shared, peer, channel, handle));
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
        let port = u16::try_from(port).ok();
        let (Some(port), false) = (port, self.shared.config.blocks.local_forwarding) else {
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
            return Ok(());
        };
        let host = host.to_owned();
        tokio::spawn(async move {
            match timeout(DIAL, TcpStream::connect((host.as_str(), port))).await {
                Ok(Ok(mut socket)) => {
                    reply.accept().await;
                    let mut stream = channel.into_stream();
                    let copied = tokio::io::copy_bidirectional(&mut stream, &mut socket).await;
                    if let Err(error) = copied {
                        debug!(host, port, %error, "a forwarded connection broke");
                    }
                }
                Ok(Err(_)) | Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }

    // What follows is done by the session, which hears of it on its channel: here is only said that it was heard.

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

/// The system's number of a signal.
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
