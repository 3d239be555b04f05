//! Failures of requests to a Coder server, and of WebSockets that it was asked for.

use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use outpost_base::secret::Secret;
use outpost_net::{
    headers::HeaderError,
    http::{self, Client, RequestError, read_limited},
    websocket::{self, ConnectError, Socket},
};
use reqwest::Response;
use tokio::time::timeout;
use url::Url;

use super::{refusal::ErrorAnswer, version::ApiVersion};

/// Bytes of an error's body that are read.
const MAX_ERROR_BYTES: usize = 8 * 1024;
/// Time for such a body; the status alone says enough.
const ERROR_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for each request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Failure of a request to a Coder server, or of a WebSocket that it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A server that cannot be reached, or that redirects elsewhere.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A server, or something before it, that does not open a WebSocket.
    #[error(transparent)]
    WebSocket(#[from] ConnectError),
    /// Headers of the operator that cannot be produced.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// A refusal of the server.
    #[error("{url} answered {status}: {answer}{}{remedy}", if remedy.is_empty() { "" } else { "; " })]
    Refused {
        /// URL of the request.
        url: String,
        /// Status of the response.
        status: StatusCode,
        /// Error that the server returned.
        answer: Box<ErrorAnswer>,
        /// Time after which the server wants to be asked again.
        retry_after: Option<Duration>,
        /// Advice for the operator; empty if there is none.
        remedy: &'static str,
    },
    /// A response that makes no sense.
    #[error("unexpected answer from {url}: {reason}")]
    Foreign {
        /// URL of the request.
        url: String,
        /// Reason why it makes no sense.
        reason: String,
    },
    /// A server that speaks none of our versions.
    #[error("the server speaks daemon API {server}, this daemon speaks {oldest} to {newest}; upgrade the older of the two", oldest = ApiVersion::OLDEST, newest = ApiVersion::NEWEST)]
    Version {
        /// Version that the server speaks.
        server: ApiVersion,
    },
    /// A token or key that cannot be sent in a header.
    #[error("credential has characters that a header cannot carry")]
    Credential,
    /// A server that did not answer in time.
    #[error("{url} did not answer within {} seconds", TIMEOUT.as_secs())]
    Timeout {
        /// URL of the request.
        url: String,
    },
}

impl DialError {
    /// Reads why a server refused, from a response of which little is read.
    pub async fn refused(response: Response) -> Self {
        let (url, status) = (http::shown(response.url()), response.status());
        let retry_after = retry_after(response.headers());
        let read = timeout(ERROR_TIMEOUT, read_limited(response, MAX_ERROR_BYTES));
        let body = read.await.unwrap_or_default();
        Self::Refused {
            url,
            status,
            answer: Box::new(ErrorAnswer::read(&body)),
            retry_after,
            remedy: "",
        }
    }

    /// Returns whether the server does not know the requested version.
    pub fn is_version(&self) -> bool {
        self.is_about(StatusCode::BAD_REQUEST, "version")
    }

    /// Returns whether the server does not accept the resume token.
    pub fn is_resume_token(&self) -> bool {
        self.is_about(StatusCode::UNAUTHORIZED, "resume_token")
    }

    /// Returns whether the server will give the same answer next time; its other answers may change.
    ///
    /// # Source
    /// coder `codersdk/workspacesdk/dialer.go`.
    pub fn is_final(&self) -> bool {
        let status = self.status().map(|status| status.as_u16());
        matches!(status, Some(400 | 401 | 403 | 404 | 409 | 500))
    }

    /// Returns whether the requested object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// Returns the status with which the server refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns the time after which the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn is_about(&self, wanted: StatusCode, field: &str) -> bool {
        match self {
            Self::Refused { status, answer, .. } => {
                let mut fields = answer.validations.iter();
                *status == wanted && fields.any(|it| it.field == field)
            }
            _ => false,
        }
    }
}

/// Asks `url` for a WebSocket, with these headers.
///
/// # Errors
/// [`DialError`]; nothing is retried here.
pub async fn open_websocket(
    client: &Client,
    url: &Url,
    headers: HeaderMap,
) -> Result<Socket, DialError> {
    let opened = async {
        match websocket::connect(client, url, headers, None).await {
            Ok(socket) => Ok(socket),
            Err(ConnectError::Refused(response)) => Err(DialError::refused(*response).await),
            Err(error) => Err(error.into()),
        }
    };
    in_time(url, opened).await
}

/// Waits for a request to `url`, for no longer than a server may take.
///
/// # Errors
/// [`DialError::Timeout`], and the request's own.
pub async fn in_time<T>(
    url: &Url,
    request: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let late = |_| {
        Err(DialError::Timeout {
            url: http::shown(url),
        })
    };
    timeout(TIMEOUT, request).await.unwrap_or_else(late)
}

/// Returns a token as a header's value that no log shows.
///
/// # Errors
/// [`DialError::Credential`].
pub fn token_header(token: &Secret) -> Result<HeaderValue, DialError> {
    let value = HeaderValue::from_str(token.expose());
    let mut value = value.map_err(|_| DialError::Credential)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the seconds of `Retry-After`; dates are not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let after = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    after.trim().parse().ok().map(Duration::from_secs)
}
