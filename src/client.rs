//! Client of our gRPC API for the commands: how to reach a server, and explanations of its refusals.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use outpost::{client, proto::outpost::v1::ListTemplatesRequest, secret::Secret};
//!
//! let target = client::Target {
//!     url: "http://127.0.0.1:7080".parse()?,
//!     token: Secret::new("…"),
//!     trust: Default::default(),
//! };
//! let mut api = client::connect(&target)?;
//! let templates = api.list_templates(ListTemplatesRequest::default()).await;
//! let templates = templates.map_err(|status| client::CallError::new(&target.url, status))?;
//! # Ok(())
//! # }
//! ```

pub mod coder;

use std::{error::Error as _, time::Duration};

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use crate::{
    error_chain::{error_chain, join_causes},
    net::tls::{self, TlsError, Trust},
    proto::outpost::v1::control_service_client::ControlServiceClient,
    secret::Secret,
};

/// Longest message in either direction, in bytes; the server has the same limit.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of pings on a connection, and the time to answer one: a log that is followed may be silent for long.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Client of the server's API, for one user.
pub type Api = ControlServiceClient<InterceptedService<Channel, Bearer>>;

/// Server to call, with the caller's credential.
#[derive(Clone, Debug)]
pub struct Target {
    /// URL of the server.
    pub url: Url,
    /// Session token of the user.
    pub token: Secret,
    /// Authorities whose certificates are trusted.
    pub trust: Trust,
}

/// Interceptor that adds a token to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Reasons why a server cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A token with invalid characters.
    #[error("token contains characters that a token cannot contain")]
    Token,
    /// A URL that cannot be that of a server.
    #[error("`{url}` is not a server URL")]
    Url {
        /// URL as it was given.
        url: Url,
        /// Error of the gRPC library.
        source: tonic::transport::Error,
    },
    /// A TLS configuration with which no server could be trusted.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Prepares calls to a server. Nothing is sent before the first one, which then also connects.
///
/// # Errors
/// [`TargetError`]
pub fn connect(target: &Target) -> Result<Api, TargetError> {
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", target.token.expose())
        .parse()
        .map_err(|_| TargetError::Token)?;
    bearer.set_sensitive(true);
    let channel = endpoint(target)?.connect_lazy();
    let api = ControlServiceClient::with_interceptor(channel, Bearer(bearer));
    Ok(api
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

fn endpoint(target: &Target) -> Result<Endpoint, TargetError> {
    let failed = |source| TargetError::Url {
        url: target.url.clone(),
        source,
    };
    let endpoint = Endpoint::from_shared(target.url.to_string())
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    if target.url.scheme() != "https" {
        return Ok(endpoint);
    }
    let verifier = tls::verifier(&target.trust)?;
    let endpoint = endpoint.tls_config_with_verifier(ClientTlsConfig::new(), verifier);
    endpoint.map_err(failed)
}

/// Reasons why a call failed, as a person should read them.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No server at that URL, or a broken connection.
    #[error("cannot reach the server at {url}: {reason}")]
    Unreachable {
        /// URL of the server.
        url: Url,
        /// Chain of errors, innermost last.
        reason: String,
    },
    /// A server that answered that it can do nothing now.
    #[error("server at {url} cannot do this now: {reason}")]
    Unable {
        /// URL of the server.
        url: Url,
        /// Message of the server, or of a proxy in front of it.
        reason: String,
    },
    /// A token that the server does not know.
    #[error("server at {url} does not accept the token: {reason}")]
    Unauthenticated {
        /// URL of the server.
        url: Url,
        /// Message of the server.
        reason: String,
    },
    /// A call that the server understood and refused.
    #[error("{reason}")]
    Refused {
        /// Message of the server.
        reason: String,
        /// Kind of the refusal.
        code: Code,
    },
}

impl CallError {
    /// Interprets `status`, which came from the server at `url`.
    pub fn new(url: &Url, status: Status) -> Self {
        let url = url.clone();
        match status.code() {
            Code::Unauthenticated => Self::Unauthenticated {
                url,
                reason: status.message().to_owned(),
            },
            // A status that a peer sent has no source.
            Code::Unavailable if status.source().is_none() => Self::Unable {
                url,
                reason: status.message().to_owned(),
            },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Self::Unreachable {
                    url,
                    reason: chain(&status),
                }
            }
            code @ (Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss) => Self::Refused {
                reason: status.message().to_owned(),
                code,
            },
        }
    }

    /// Returns what the person can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { url, .. } if url.scheme() == "https" => Some(
                "check that the server is running, and that this machine trusts its certificate".to_owned(),
            ),
            Self::Unreachable { .. } => {
                Some("check that the server is running, and whether its URL must begin with https://".to_owned())
            }
            Self::Unable { .. } => Some("try again, or see the server's log".to_owned()),
            Self::Unauthenticated { .. } => Some(
                "log in again with `outpost login`; the first token of a server is in the file `admin.token` of its data directory"
                    .to_owned(),
            ),
            Self::Refused {
                code: Code::Unimplemented,
                ..
            } => Some("the server is older than this command; update it".to_owned()),
            Self::Refused { .. } => None,
        }
    }
}

/// Formats a status and its sources; a message that only repeats its source is left out.
fn chain(status: &Status) -> String {
    let message = status.message();
    let causes = std::error::Error::source(status).map(error_chain);
    match causes.unwrap_or_default() {
        // The outermost cause is often the message.
        causes if causes.starts_with(message) => causes,
        causes => join_causes([message.to_owned(), causes]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_a_hint() {
        // Nobody listens at port 9, the discard service.
        let target = Target {
            url: "http://127.0.0.1:9".parse().unwrap(),
            token: Secret::new("token"),
            trust: Trust::default(),
        };
        let mut api = connect(&target).unwrap();

        let status = api
            .who_am_i(crate::proto::outpost::v1::WhoAmIRequest {})
            .await;
        let error = CallError::new(&target.url, status.unwrap_err());

        let text = error.to_string();
        assert!(
            text.starts_with("cannot reach the server at http://127.0.0.1:9/: "),
            "{text}"
        );
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_server_that_says_why_it_can_do_nothing_was_reached() {
        let url = "http://127.0.0.1:9/".parse().unwrap();
        let error = CallError::new(&url, Status::unavailable("disk with the database is full"));

        assert_eq!(
            error.to_string(),
            "server at http://127.0.0.1:9/ cannot do this now: disk with the database is full"
        );
    }

    #[test]
    fn a_token_with_a_line_break_is_refused() {
        let target = Target {
            url: "http://127.0.0.1:9".parse().unwrap(),
            token: Secret::new("a\nb"),
            trust: Trust::default(),
        };

        assert!(matches!(connect(&target), Err(TargetError::Token)));
    }
}
