//! Connection to a server's API for agents and their clients: yamux over a WebSocket.
//!
//! # Source
//! coder `codersdk/agentsdk/agentsdk.go`, `codersdk/workspacesdk/dialer.go`.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use outpost_base::secret::Secret;
use outpost_net::{
    headers::HeaderError,
    http::{self, Client},
    websocket::{self, ConnectError},
};
use outpost_transport::{
    coder::{ApiVersion, ErrorAnswer},
    yamux,
};
use tokio::time::timeout;
use url::Url;

/// Header that carries a token, of an agent or a person.
pub const SESSION_TOKEN: HeaderName = HeaderName::from_static("coder-session-token");

/// Bytes of an error's body that are read.
const MAX_ERROR_BYTES: usize = 8 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reasons why a connection fails.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A server that cannot be reached, or an address without one.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Headers of the operator that cannot be produced.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// A refusal of the server.
    #[error("{url} answered {status}: {answer}")]
    Refused {
        /// URL of the request.
        url: Url,
        /// Status of the response.
        status: StatusCode,
        /// Error that the server returned.
        answer: Box<ErrorAnswer>,
        /// Time after which the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A token that cannot be sent in a header.
    #[error("token has characters that a header cannot carry")]
    Token,
    /// A server that did not answer in time.
    #[error("{url} did not answer within {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout {
        /// URL of the request.
        url: Url,
    },
}

impl DialError {
    /// Returns whether the server does not know the requested version.
    pub fn is_version(&self) -> bool {
        self.is_about(StatusCode::BAD_REQUEST, "version")
    }

    /// Returns whether the server will give the same answer next time; its other answers may change.
    ///
    /// # Source
    /// coder `codersdk/workspacesdk/dialer.go`.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                matches!(status.as_u16(), 400 | 401 | 403 | 404 | 409 | 500)
            }
            Self::Connect(_) | Self::Headers(_) | Self::Token | Self::Timeout { .. } => false,
        }
    }

    /// Returns when the server wants to be asked again, if it is only busy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Connect(_) | Self::Headers(_) | Self::Token | Self::Timeout { .. } => None,
        }
    }

    /// Returns whether the requested object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Returns whether the server does not accept the resume token.
    pub fn is_resume_token(&self) -> bool {
        self.is_about(StatusCode::UNAUTHORIZED, "resume_token")
    }

    fn is_about(&self, wanted: StatusCode, field: &str) -> bool {
        match self {
            Self::Refused { status, answer, .. } => {
                let mut fields = answer.validations.iter();
                *status == wanted && fields.any(|it| it.field == field)
            }
            Self::Connect(_) | Self::Headers(_) | Self::Token | Self::Timeout { .. } => false,
        }
    }
}

/// Opens `path` for the owner of `token`, at this version.
///
/// # Errors
/// [`DialError`]; nothing is retried here.
pub async fn dial(
    client: &Client,
    path: &str,
    query: &[(&str, &str)],
    token: &Secret,
    version: ApiVersion,
) -> Result<yamux::Connection, DialError> {
    let mut url = client.endpoint(path);
    url.query_pairs_mut()
        .append_pair("version", &version.to_string())
        .extend_pairs(query);
    let mut headers = client.headers().await?;
    let mut value = HeaderValue::from_str(token.expose()).map_err(|_| DialError::Token)?;
    value.set_sensitive(true);
    headers.insert(SESSION_TOKEN, value);
    let connected = timeout(
        HANDSHAKE_TIMEOUT,
        websocket::connect(client, &url, headers, None),
    );
    let late = |_| DialError::Timeout {
        url: http::bare(&url),
    };
    match connected.await.map_err(late)? {
        Ok(socket) => {
            let config = yamux::Config::default();
            // The server never opens streams to us.
            let (connection, _) = yamux::Connection::start(socket, yamux::Role::Client, config);
            Ok(connection)
        }
        Err(ConnectError::Refused(response)) => {
            let (status, retry_after) = (response.status(), retry_after(response.headers()));
            let read = http::read_limited(*response, MAX_ERROR_BYTES);
            // A body that does not arrive in time only makes the message shorter.
            let body = timeout(HANDSHAKE_TIMEOUT, read).await.unwrap_or_default();
            Err(DialError::Refused {
                url: http::bare(&url),
                status,
                answer: Box::new(ErrorAnswer::read(&body)),
                retry_after,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Parses when a busy server wants to be asked again; dates are ignored.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let after = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    after.trim().parse().ok().map(Duration::from_secs)
}
