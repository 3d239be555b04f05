//! Opening of a WebSocket at a server.

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::Response;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};
use url::Url;

use super::ByteStream;
use crate::http::{self, Client, RequestError};

/// WebSocket that a server agreed to.
pub type Socket = ByteStream<reqwest::Upgraded>;

/// Reasons why a WebSocket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server that cannot be reached, or a redirect elsewhere.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A response other than the upgrade; its body was not read.
    #[error("{} answered {}", http::bare(.0.url()), .0.status())]
    Refused(Box<Response>),
    /// A server, or something in front of it, that does not support WebSockets.
    #[error("{url} is not a WebSocket: {what}")]
    Foreign {
        /// URL of the request.
        url: Url,
        /// Part of the response that is wrong.
        what: &'static str,
    },
    /// A connection that broke during the upgrade.
    #[error("{url} broke the connection in its handshake")]
    Upgrade {
        /// URL of the request.
        url: Url,
        /// Error of the HTTP library.
        source: reqwest::Error,
    },
}

/// Requests a WebSocket at `url`, with these headers, and with a subprotocol if one is named.
///
/// # Errors
/// [`ConnectError`]; nothing is retried, and there is no deadline but that of the connection.
pub async fn connect(
    client: &Client,
    url: &Url,
    mut headers: HeaderMap,
    protocol: Option<&'static str>,
) -> Result<Socket, ConnectError> {
    let key = generate_key();
    let mut set = |name: HeaderName, value| headers.insert(name, value);
    set(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    set(header::UPGRADE, HeaderValue::from_static("websocket"));
    set(
        header::SEC_WEBSOCKET_VERSION,
        HeaderValue::from_static("13"),
    );
    let value = HeaderValue::from_str(&key).expect("a key is base64");
    set(header::SEC_WEBSOCKET_KEY, value);
    if let Some(protocol) = protocol {
        set(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
    }
    let response = client.get(url, &headers).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ConnectError::Refused(Box::new(response)));
    }
    let foreign = |what| ConnectError::Foreign {
        url: http::bare(url),
        what,
    };
    let answer = response.headers();
    let accepted = answer.get(header::SEC_WEBSOCKET_ACCEPT);
    let accepted = accepted.map(HeaderValue::as_bytes);
    if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(foreign("wrong Sec-WebSocket-Accept"));
    }
    if answer.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(foreign("extensions that were not requested"));
    }
    let agreed = answer.get(header::SEC_WEBSOCKET_PROTOCOL);
    if agreed.map(HeaderValue::as_bytes) != protocol.map(str::as_bytes) {
        return Err(foreign("a protocol other than the requested one"));
    }
    let upgraded = response.upgrade().await;
    let upgraded = upgraded.map_err(|source| ConnectError::Upgrade {
        url: http::bare(url),
        source: source.without_url(),
    })?;
    let config = Some(super::config());
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, config).await;
    Ok(ByteStream::new(socket))
}
