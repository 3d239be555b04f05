//! Listener for `/livez`, `/readyz`, `/status` and metrics.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::debug;

use super::Health;
use crate::{
    cli::values::ListenAddress,
    observe::metrics::{self, CONTENT_TYPE},
};

/// Number of connections at the same time; probes and one or two scrapers need few.
const MAX_CONNECTIONS: usize = 16;
/// Longest time for a request's head, and for the whole of a connection.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));
/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Pause after the system refused a connection, so that a lack of file descriptors causes no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port that is open.
#[derive(Debug)]
pub(in crate::cli::provisioner) struct Listener {
    socket: TcpListener,
    /// Set if every other path serves the metrics, as with Coder's daemon, and not only `/metrics`.
    is_for_prometheus: bool,
}

impl Listener {
    /// Opens the port for connections.
    ///
    /// # Errors
    /// An I/O error.
    pub(in crate::cli::provisioner) async fn bind(
        address: &ListenAddress,
        is_for_prometheus: bool,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind((address.host.as_str(), address.port)).await?;
        Ok(Self {
            socket,
            is_for_prometheus,
        })
    }

    /// Address of the listener, with the port that the system chose if none was configured.
    pub(in crate::cli::provisioner) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Answers requests until the runtime ends.
pub(in crate::cli::provisioner) async fn serve(listener: Listener, health: Arc<Health>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let is_for_prometheus = listener.is_for_prometheus;
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        match listener.socket.accept().await {
            Ok((stream, _)) => {
                let health = Arc::clone(&health);
                // Detached: ends with the process; `connection` has a deadline.
                tokio::spawn(async move {
                    let _permit = permit;
                    connection(stream, &health, is_for_prometheus).await;
                });
            }
            Err(error) => {
                debug!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, health: &Health, is_for_prometheus: bool) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(
            request.method(),
            request.uri().path(),
            health,
            is_for_prometheus,
        );
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUTS.0)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(TIMEOUTS.1, served).await {
        debug!(%error, "connection to the health endpoints failed");
    }
}

fn answer(
    method: &Method,
    path: &str,
    health: &Health,
    is_for_prometheus: bool,
) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET it\n".to_owned());
    }
    match path {
        "/livez" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let status = health.status();
            match status.ready {
                true => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
                false => {
                    let text = status.reasons.join("\n") + "\n";
                    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
                }
            }
        }
        "/status" => {
            let text = serde_json::to_string_pretty(&health.status());
            let text = text.expect("a status has nothing that JSON has not");
            response(StatusCode::OK, "application/json", text + "\n")
        }
        "/metrics" => all_metrics(health),
        _ if is_for_prometheus => all_metrics(health),
        _ => {
            let text = "not found; available: /livez, /readyz, /status and /metrics\n".to_owned();
            response(StatusCode::NOT_FOUND, TEXT, text)
        }
    }
}

fn all_metrics(health: &Health) -> Response<Full<Bytes>> {
    let text = metrics::text(&health.metrics.snapshot(), &health.scrapes);
    response(StatusCode::OK, CONTENT_TYPE, text)
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
