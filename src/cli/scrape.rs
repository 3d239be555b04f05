//! Listener for Prometheus and for probes, apart from what a service's clients use.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, error, info};

use super::values::{self, ListenAddress};

/// Number of connections at the same time; probes and one or two scrapers need few.
const MAX_CONNECTIONS: usize = 16;
/// Longest time for a request's head, and for the whole of a connection.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));
/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Pause after the system refused a connection, so that a lack of file descriptors causes no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Type of plain texts.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// Metrics of a service, on a listener of their own.
#[derive(Debug, clap::Args)]
pub(super) struct PrometheusArgs {
    /// Serve metrics for Prometheus
    #[arg(long, env = "CODER_PROMETHEUS_ENABLE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = values::boolean)]
    pub(super) prometheus_enable: bool,
    /// Address for metrics, under any path; a daemon has /livez, /readyz and /status there as well
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CODER_PROMETHEUS_ADDRESS",
        default_value = "127.0.0.1:2112"
    )]
    pub(super) prometheus_address: ListenAddress,
}

impl PrometheusArgs {
    /// Serves `pages` if metrics are enabled, and returns where. As with Coder's programs, a port that cannot be opened
    /// is no reason to end.
    pub(super) async fn listen(&self, pages: impl Pages) -> Option<SocketAddr> {
        if !self.prometheus_enable {
            return None;
        }
        let address = &self.prometheus_address;
        let bound = TcpListener::bind((address.host.as_str(), address.port)).await;
        match bound.and_then(|socket| Ok((socket.local_addr()?, socket))) {
            Ok((address, socket)) => {
                info!(%address, "starting Prometheus endpoint");
                // Detached: answers until the process ends.
                tokio::spawn(serve(socket, Arc::new(pages)));
                Some(address)
            }
            Err(error) => {
                error!(%error, %address, "failed to listen for Prometheus");
                None
            }
        }
    }
}

/// Answer to a request.
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) text: String,
}

impl Page {
    pub(super) fn new(content_type: &'static str, text: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            text,
        }
    }

    /// Returns the page with another status.
    pub(super) fn with(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

/// Pages by their paths.
pub(super) trait Pages: Send + Sync + 'static {
    /// Returns the page at this path.
    fn page(&self, path: &str) -> impl Future<Output = Page> + Send;
}

/// Answers requests until the runtime ends.
pub(super) async fn serve(socket: TcpListener, pages: Arc<impl Pages>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        match socket.accept().await {
            Ok((stream, _)) => {
                let pages = Arc::clone(&pages);
                // Detached: ends with the process; `connection` has a deadline.
                tokio::spawn(async move {
                    let _permit = permit;
                    connection(stream, &*pages).await;
                });
            }
            Err(error) => {
                debug!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, pages: &impl Pages) {
    let service = service_fn(async |request: Request<Incoming>| {
        let page = match *request.method() {
            Method::GET | Method::HEAD => pages.page(request.uri().path()).await,
            _ => Page::new(TEXT, "GET it\n".to_owned()).with(StatusCode::METHOD_NOT_ALLOWED),
        };
        Ok::<_, Infallible>(response(page))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUTS.0)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(TIMEOUTS.1, served).await {
        debug!(%error, "connection of a probe failed");
    }
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() = page.status;
    let kind = http::HeaderValue::from_static(page.content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
