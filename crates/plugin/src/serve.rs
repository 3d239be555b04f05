//! Runs a provider as Terraform's plugin: from the handshake to the end of Terraform's command.

mod system;

use std::{io, sync::Arc, time::Duration};

use nix::unistd::getppid;
use outpost_wire::proto::{
    plugin::{
        grpc_broker_server::GrpcBrokerServer, grpc_controller_server::GrpcControllerServer,
        grpc_stdio_server::GrpcStdioServer,
    },
    tfplugin5::provider_server::ProviderServer,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::system::{Broker, Controller, Stdio};
use crate::{
    Provider,
    handshake::Launch,
    listen::Listener,
    mutual_tls::{self, TlsError},
    service::Service,
};

/// The largest message that we take. Terraform takes 256 MiB; a template's state is far smaller.
const MAX_MESSAGE: usize = 64 << 20;
/// How often we look whether Terraform is still there.
const PARENT_CHECK: Duration = Duration::from_secs(1);
/// Time for the last answers once Terraform said that it is done; it gives us two seconds.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The name under which the plugin system asks whether we are well.
const HEALTH_NAME: &str = "plugin";

/// Why a provider could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is nowhere to listen, or stdout is closed.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it did not work.
        source: io::Error,
    },
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A connection broke the server.
    #[error("failed to serve the plugin")]
    Server(#[from] tonic::transport::Error),
}

/// Serves `provider` until Terraform says that it is done, or is gone.
///
/// Writes the handshake line to stdout and nothing else, and starts its own single-threaded runtime: Terraform
/// launches a provider several times a build, so there is nothing here that is not needed.
///
/// # Errors
/// [`ServeError`] if it cannot listen or talk.
pub fn serve<C: Send + Sync + 'static>(
    provider: Provider<C>,
    launch: &Launch,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| failed("start a runtime", source))?;
    runtime.block_on(run(provider, launch, &mut io::stdout()))
}

async fn run<C: Send + Sync + 'static>(
    provider: Provider<C>,
    launch: &Launch,
    stdout: &mut impl io::Write,
) -> Result<(), ServeError> {
    let done = CancellationToken::new();
    let listener = Listener::bind(launch)
        .await
        .map_err(|source| failed("listen for Terraform", source))?;
    let tls = launch
        .client
        .clone()
        .map(mutual_tls::server_for)
        .transpose()?;
    let (tls, certificate) = tls.unzip();
    let mut ends = Ends::new().map_err(|source| failed("listen for signals", source))?;
    let line = launch.line(&listener.address, certificate.as_ref());
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|source| failed("write the handshake", source))?;

    let connections = listener.connections(tls.map(|config| TlsAcceptor::from(Arc::new(config))));
    let serving = router(provider, &done)
        .await
        .serve_with_incoming_shutdown(connections, done.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return Ok(served?),
        () = done.cancelled() => {}
        () = ends.wait() => done.cancel(),
    }
    match timeout(LAST_WORDS, serving).await {
        Ok(served) => Ok(served?),
        Err(_) => Ok(()),
    }
}

async fn router<C: Send + Sync + 'static>(
    provider: Provider<C>,
    done: &CancellationToken,
) -> tonic::transport::server::Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(HEALTH_NAME, tonic_health::ServingStatus::Serving)
        .await;
    let provider = ProviderServer::new(Service::new(provider))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Server::builder()
        .add_service(provider)
        .add_service(GrpcControllerServer::new(Controller(done.clone())))
        .add_service(GrpcBrokerServer::new(Broker(done.clone())))
        .add_service(GrpcStdioServer::new(Stdio(done.clone())))
        .add_service(health)
}

fn failed(what: &'static str, source: io::Error) -> ServeError {
    ServeError::Io { what, source }
}

/// What ends a plugin from outside.
struct Ends {
    terminate: tokio::signal::unix::Signal,
    /// Taken and ignored: Ctrl-C reaches the whole group, but Terraform decides what to do about it.
    _interrupt: tokio::signal::unix::Signal,
    parent: nix::unistd::Pid,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            _interrupt: signal(SignalKind::interrupt())?,
            parent: getppid(),
        })
    }

    /// Until we are told to end, or our parent is gone.
    async fn wait(&mut self) {
        let mut check = interval(PARENT_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = check.tick() => {
                    if getppid() != self.parent {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
