//! Upgrade from HTTP to a WebSocket, with the reference's checks.
//!
//! # Source
//! coder/websocket `accept.go`.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, Version, header},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use outpost_net::websocket::{self, ByteStream, Metered, UnfinishedLimit};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, frame::coding::CloseCode},
    },
};

use super::answer::Refusal;

/// Longest message of a client that follows a log, in bytes.
const MESSAGE_BYTES: usize = 4 << 10;

/// A WebSocket as a byte stream, once the connection has been upgraded.
pub(super) struct Socket(OnUpgrade);

/// Byte stream that the socket becomes.
pub(super) type Bytes = ByteStream<Metered<TokioIo<hyper::upgrade::Upgraded>>>;
/// Stream of messages that it becomes where messages matter.
pub(super) type Messages = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

impl Socket {
    /// Waits for the connection. Its large messages need permits from `places`.
    pub(super) async fn open(self, places: [UnfinishedLimit; 2]) -> Result<Bytes, hyper::Error> {
        let io = TokioIo::new(self.0.await?);
        let socket = ByteStream::bounded(io, Role::Server, places).await;
        Ok(socket.ending_with(CloseCode::Away))
    }

    /// Waits for the connection, as a stream of messages. Only small messages are accepted from the peer.
    pub(super) async fn open_messages(self) -> Result<Messages, hyper::Error> {
        let io = TokioIo::new(self.0.await?);
        let config = websocket::config()
            .read_buffer_size(MESSAGE_BYTES)
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        Ok(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
    }
}

/// Returns the response that switches protocols, and the socket that follows. No extension or subprotocol is agreed
/// on.
pub(super) fn accept(request: Request) -> Result<(Response, Socket), Refusal> {
    accept_with(request, None)
}

/// As [`accept`], with this subprotocol, which the client must have offered.
pub(super) fn accept_with(
    mut request: Request,
    protocol: Option<&'static str>,
) -> Result<(Response, Socket), Refusal> {
    let key = check(request.method(), request.version(), request.headers())?;
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(&key));
    if let Some(protocol) = protocol {
        if !has(request.headers(), header::SEC_WEBSOCKET_PROTOCOL, protocol) {
            let why = format!("header Sec-WebSocket-Protocol does not offer {protocol}");
            return Err(refused(StatusCode::BAD_REQUEST, &why));
        }
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let response = response
        .body(Body::empty())
        .expect("these headers are valid");
    Ok((response, Socket(hyper::upgrade::on(&mut request))))
}

fn check(method: &Method, version: Version, headers: &HeaderMap) -> Result<Vec<u8>, Refusal> {
    let upgrade = |why: &str| {
        refused(StatusCode::UPGRADE_REQUIRED, why)
            .with(header::CONNECTION, "Upgrade")
            .with(header::UPGRADE, "websocket")
    };
    if version != Version::HTTP_11 {
        return Err(upgrade("a WebSocket needs HTTP/1.1"));
    }
    if !has(headers, header::CONNECTION, "upgrade") {
        return Err(upgrade("header Connection does not ask for an upgrade"));
    }
    if !has(headers, header::UPGRADE, "websocket") {
        return Err(upgrade("header Upgrade does not ask for a websocket"));
    }
    if method != Method::GET {
        let why = "the method is not GET";
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, why));
    }
    if !has(headers, header::SEC_WEBSOCKET_VERSION, "13") {
        let why = "the only WebSocket version here is 13";
        return Err(refused(StatusCode::BAD_REQUEST, why).with(header::SEC_WEBSOCKET_VERSION, "13"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        let why = "exactly one Sec-WebSocket-Key is needed";
        return Err(refused(StatusCode::BAD_REQUEST, why));
    };
    let key = key.as_bytes().trim_ascii();
    if !BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        let why = "Sec-WebSocket-Key is not 16 bytes in base64";
        return Err(refused(StatusCode::BAD_REQUEST, why));
    }
    check_origin(headers)?;
    Ok(key.to_vec())
}

/// Refuses requests from foreign web pages, so that a browser cannot be used to reach a control plane on its machine.
fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        (_, _) => {
            let why = "header Origin names another host";
            Err(refused(StatusCode::FORBIDDEN, why))
        }
    }
}

fn refused(status: StatusCode, why: &str) -> Refusal {
    Refusal::new(status, "Internal error accepting websocket connection.").because(why)
}

/// Returns whether a header that is a list contains `word`, ignoring case.
pub(super) fn has(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(word))
}
