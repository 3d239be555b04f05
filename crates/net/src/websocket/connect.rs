//! Asks a server for a WebSocket.

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

/// A WebSocket that a server agreed to.
pub type Socket = ByteStream<reqwest::Upgraded>;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached, or leads elsewhere.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server answered with something else; the answer was not read.
    #[error("{} answered {}", http::bare(.0.url()), .0.status())]
    Refused(Box<Response>),
    /// The server, or something before it, does not know what a WebSocket is.
    #[error("{url} is not a WebSocket: {what}")]
    Foreign {
        /// Where.
        url: Url,
        /// What is odd.
        what: &'static str,
    },
    /// The connection broke while it was taken over from HTTP.
    #[error("{url} broke the connection in its handshake")]
    Upgrade {
        /// Where.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
}

/// Asks `url` for a WebSocket, with these headers, and a protocol inside it if one is named.
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
