//! Connection of a client: TLS, its version of HTTP, and what it is upgraded to.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use hyper::{HeaderMap, Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outpost_base::stop::Stop;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    Budgets, Certified, Limits, Peer, Upgraded,
    file::{Parts, Socket},
    first_bytes::{self, Protocol},
    places::{ConnectionActivity, UNAUTHENTICATED},
    visit,
    write_timeout::WriteTimeout,
};
use crate::{budget::Account, network::Network};

/// Number of calls on one HTTP/2 connection at the same time.
const STREAMS: u32 = 256;
/// Bytes of one body, and of all on one connection, that a client may send before we read them. Bodies that wait for
/// memory must not fill the connection's window, or the one that they wait for could not end.
const WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = WINDOW * LARGE_MESSAGES as u32;
/// Number of large messages on one connection that are being received, or waiting.
const LARGE_MESSAGES: usize = 4;
/// Limit of a request's headers in bytes.
const HEADER_BYTES: u32 = 32 << 10;
/// Bytes of a response that are produced before the client has accepted the previous ones; also the limit of headers
/// in HTTP/1. Larger buffers are no faster, and take memory of every connection.
const UNSENT: usize = 32 << 10;
/// Bytes of it that are encrypted ahead: one TLS record.
const ENCRYPTED: usize = 16 << 10;
/// Interval of pings to a silent HTTP/2 client, and the longest time for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Time that a client without requests gets to hear that its connection ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// Headers with the address of the client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Settings and state of a connection.
pub(super) struct Connection {
    pub(super) tls: Option<Arc<Certified>>,
    pub(super) limits: Limits,
    pub(super) routes: Router,
    pub(super) stop: Stop,
    pub(super) peer: IpAddr,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub(super) proxies: Arc<[Network]>,
    pub(super) activity: Arc<ConnectionActivity>,
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    /// Serves the connection until it ends, gives up its place to another one when `end` says so, or is
    /// unauthenticated and idle for too long.
    pub(super) async fn run(
        self,
        stream: TcpStream,
        end: CancellationToken,
    ) -> Result<(), ConnectionError> {
        let activity = self.activity.clone();
        let serving = self.serve(stream, end.clone());
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = end.cancelled() => {}
            () = overstayed(&activity) => {}
        }
        // An unauthenticated client gets no time for a goodbye: its place is needed.
        if activity.is_unauthenticated() {
            return Ok(());
        }
        end.cancel();
        timeout(GOODBYE, serving).await.unwrap_or(Ok(()))
    }

    async fn serve(self, stream: TcpStream, end: CancellationToken) -> Result<(), ConnectionError> {
        stream.set_nodelay(true)?;
        let parts = Parts::default();
        let socket = Socket::new(stream, parts.clone());
        let stream = WriteTimeout::new(socket, self.limits.write_timeout);
        match self.tls.clone() {
            None => self.speak(stream, Some(parts), end).await,
            Some(tls) => {
                let acceptor = tls.acceptor();
                let accepting =
                    acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(ENCRYPTED)));
                let stream = timeout(self.limits.header_timeout, accepting).await??;
                self.speak(stream, None, end).await
            }
        }
    }

    /// Speaks HTTP. Files go from the system to `parts`' socket by themselves, if there is one.
    async fn speak<S>(
        self,
        stream: S,
        parts: Option<Parts>,
        end: CancellationToken,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limit = self.limits.header_timeout;
        let (protocol, stream) = timeout(limit, first_bytes::read(stream)).await??;
        let (upgraded, mut becomes) = Upgraded::channel();
        let stop = self.stop.clone();
        // HTTP/2 frames its bodies, so that the socket cannot replace them.
        let parts = parts.filter(|_| protocol == Protocol::Http1);
        let [small, large] = self.limits.message_bytes;
        let budgets = Budgets(Arc::new(
            Account::new(small, large)
                .with_places(LARGE_MESSAGES)
                .counted_by(&self.activity.refusals()),
        ));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let client = client_behind(self.peer, request.headers(), &self.proxies);
            let extensions = request.extensions_mut();
            extensions.insert(upgraded.clone());
            extensions.insert(Peer(client));
            extensions.insert(budgets.clone());
            let (routes, parts) = (self.routes.clone(), parts.clone());
            visit::answer(self.activity.clone(), async move {
                let response: Result<Response, Infallible> =
                    routes.oneshot(request.map(Body::new)).await;
                response.map(|response| match &parts {
                    Some(parts) => parts.take_over(response),
                    None => response,
                })
            })
        });
        let io = TokioIo::new(stream);
        let leaving = async {
            tokio::select! {
                () = stop.draining() => {}
                () = end.cancelled() => {}
            }
        };
        match protocol {
            Protocol::Http1 => {
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limit)
                    .max_buf_size(UNSENT)
                    .serve_connection(io, service)
                    .with_upgrades();
                tokio::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => ended?,
                    () = leaving => {
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
                    .max_send_buf_size(UNSENT / 2)
                    .keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE_ANSWER)
                    .serve_connection(io, service);
                tokio::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return Ok(ended?),
                    () = leaving => connection.as_mut().graceful_shutdown(),
                }
                Ok(connection.await?)
            }
        }
    }
}

/// Waits until an unauthenticated connection has been idle for too long.
async fn overstayed(activity: &ConnectionActivity) {
    loop {
        match activity.ends_at() {
            Some(at) if at <= tokio::time::Instant::now().into_std() => return,
            Some(at) => sleep_until(at.into()).await,
            None if activity.is_unauthenticated() => sleep(UNAUTHENTICATED).await,
            None => std::future::pending().await,
        }
    }
}

/// Returns the client: the peer, or the one named by proxies that we trust. Each proxy appends the address that it
/// saw.
fn client_behind(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let is_proxy = |address| proxies.iter().any(|proxy| proxy.contains(address));
    let mut client = peer.to_canonical();
    if !is_proxy(client) {
        return client;
    }
    let lines = headers.get_all(FORWARDED_FOR).into_iter();
    let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    for address in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Ok(address) = address.trim().parse::<IpAddr>() else {
            return client;
        };
        client = address.to_canonical();
        if !is_proxy(client) {
            return client;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn behind(peer: &str, lines: &[&str]) -> String {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        client_behind(peer.parse().unwrap(), &headers, &proxies).to_string()
    }

    #[test]
    fn only_proxies_that_are_trusted_say_for_whom_they_ask() {
        assert_eq!(behind("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(behind("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        // Addresses that the client itself sent precede the one that the proxy appends.
        assert_eq!(
            behind("10.0.0.1", &["203.0.113.9, 198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(
            behind("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.0.0.2"]),
            "198.51.100.7"
        );
        assert_eq!(behind("10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(behind("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(behind("10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(behind("10.0.0.1", &[]), "10.0.0.1");
    }
}
