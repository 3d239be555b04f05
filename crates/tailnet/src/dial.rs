//! Opens a server's API for agents and their clients: yamux over a WebSocket.
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

/// The header that carries a token, of an agent or a person.
pub const SESSION_TOKEN: HeaderName = HeaderName::from_static("coder-session-token");

/// Bytes of an error's body that are read.
const MAX_ERROR_BYTES: usize = 8 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The server cannot be reached, or is none.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The operator's headers are not to be had.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// The server answered, and refused.
    #[error("{url} answered {status}: {answer}")]
    Refused {
        /// Where.
        url: Url,
        /// The status.
        status: StatusCode,
        /// What it says.
        answer: Box<ErrorAnswer>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The token cannot be sent.
    #[error("token has characters that a header cannot carry")]
    Token,
    /// The server did not answer in time.
    #[error("{url} did not answer within {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout {
        /// Where.
        url: Url,
    },
}

impl DialError {
    /// Whether the server does not know the version that we asked for.
    pub fn is_version(&self) -> bool {
        self.is_about(StatusCode::BAD_REQUEST, "version")
    }

    /// Whether the server will say the same the next time; what else it says may change.
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

    /// When the server wants to be asked again, if it is only busy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Connect(_) | Self::Headers(_) | Self::Token | Self::Timeout { .. } => None,
        }
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Whether the server does not accept the token with which we wanted to come back.
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

/// Opens `path` for the holder of `token`, at this version.
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
            // Nobody opens a stream to us.
            let (connection, _) = yamux::Connection::start(socket, yamux::Role::Client, config);
            Ok(connection)
        }
        Err(ConnectError::Refused(response)) => {
            let (status, retry_after) = (response.status(), retry_after(response.headers()));
            let read = http::read_limited(*response, MAX_ERROR_BYTES);
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

/// When a server that is busy wants to be asked again; dates are not read.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let after = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    after.trim().parse().ok().map(Duration::from_secs)
}
