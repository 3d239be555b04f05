//! Runs a provider as Terraform's plugin: from the handshake to the end of Terraform's command.

mod system;

use std::{io, sync::Arc, time::Duration};

use nix::unistd::getppid;
use outpost_wire::proto::{
    plugin::{
        grpc_broker_server::GrpcBrokerServer, grpc_controller_server::GrpcControllerServer,
        grpc_stdio_server::GrpcStdioServer,
    },
    tfplugin5::provider_server::{self, ProviderServer},
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

/// Maximum size of a message in bytes. Terraform accepts 256 MiB; a template's state is far smaller.
const MAX_MESSAGE: usize = 64 << 20;
/// Interval of the check that Terraform is still running.
const PARENT_CHECK: Duration = Duration::from_secs(1);
/// Time limit for the last answers after Terraform ended the plugin, which Terraform kills after two seconds.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Service name of the plugin system's health checks.
const HEALTH_NAME: &str = "plugin";

/// Reason why a provider could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The plugin cannot listen, or stdout is closed.
    #[error("failed to {what}")]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// Error from the operating system.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The gRPC server failed.
    #[error("failed to serve the plugin")]
    Server(#[from] tonic::transport::Error),
}

/// Serves `provider` until Terraform ends it, or no longer runs.
///
/// Writes the handshake line to stdout and nothing else, and starts its own single-threaded runtime: Terraform
/// launches a provider several times in a build, so everything unnecessary is left out.
///
/// # Errors
/// [`ServeError`] if it cannot listen or communicate.
pub fn serve<C: Send + Sync + 'static>(
    provider: Provider<C>,
    launch: &Launch,
) -> Result<(), ServeError> {
    serve_service(Service::new(provider), launch)
}

/// Serves an implementation of the protocol's calls in the same way.
///
/// # Errors
/// [`ServeError`] if it cannot listen or talk.
pub fn serve_service(
    service: impl provider_server::Provider,
    launch: &Launch,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| failed("start a runtime", source))?;
    runtime.block_on(run(service, launch, &mut io::stdout()))
}

async fn run(
    service: impl provider_server::Provider,
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
    // Before the handshake: Terraform may signal the plugin as soon as it has read that line.
    let mut ends = Ends::new().map_err(|source| failed("listen for signals", source))?;
    let line = launch.line(&listener.address, certificate.as_ref());
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|source| failed("write the handshake", source))?;

    let connections = listener.connections(tls.map(|config| TlsAcceptor::from(Arc::new(config))));
    let serving = router(service, &done)
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

async fn router(
    service: impl provider_server::Provider,
    done: &CancellationToken,
) -> tonic::transport::server::Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(HEALTH_NAME, tonic_health::ServingStatus::Serving)
        .await;
    let provider = ProviderServer::new(service)
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

/// Events that end a plugin from outside.
struct Ends {
    terminate: tokio::signal::unix::Signal,
    /// Interrupts, which are ignored: Ctrl-C reaches the whole process group, but Terraform decides what to do.
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

    /// Waits until a signal arrives or the parent process is gone.
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
