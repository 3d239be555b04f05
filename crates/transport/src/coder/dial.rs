//! Opening of a WebSocket to coderd, and agreement on a version.
//!
//! # Source
//! coder `codersdk/provisionerdaemons.go`, `enterprise/coderd/provisionerdaemons.go`.

use std::{collections::BTreeMap, time::Duration};

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use outpost_base::rules;
use outpost_net::{
    headers::HeaderError,
    http::{self, Client, RequestError},
    websocket::{self, ConnectError, Socket},
};
use reqwest::Response;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::{
    refusal::{self, ErrorAnswer},
    version::ApiVersion,
};
use crate::auth::Credential;

/// Bytes of an error's body that are read.
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// Longest time for each of the requests.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Identity of the daemon at the server.
#[derive(Clone, Debug)]
pub struct Target {
    /// Organization by id or name; `None` for the default one. A provisioner key has its own, whatever is configured
    /// here.
    pub organization: Option<String>,
    /// Name of the daemon: 2 to 63 letters, digits and hyphens.
    pub name: String,
    /// Tags of the daemon; none with a provisioner key.
    pub tags: BTreeMap<String, String>,
}

/// Reasons why a connection fails.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A server that cannot be reached, or a redirect elsewhere.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Headers of the operator that cannot be produced.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// A refusal of the server.
    #[error("{url} answered {status}: {answer}; {}", refusal::remedy(*.status, .answer))]
    Refused {
        /// URL of the request.
        url: Url,
        /// Status of the response.
        status: StatusCode,
        /// Error that the server returned.
        answer: Box<ErrorAnswer>,
        /// Pause that the server asks for; `None` if it names none.
        retry_after: Option<Duration>,
    },
    /// A response of the server, or of something in front of it, that is not a WebSocket.
    #[error("{url} does not answer like a Coder server: {what}")]
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
    /// A server that speaks no version that we do.
    #[error("the server speaks daemon API {server}, this daemon speaks {oldest} to {newest}; upgrade the older of the two", oldest = ApiVersion::OLDEST, newest = ApiVersion::NEWEST)]
    Version {
        /// Version of the server.
        server: ApiVersion,
    },
    /// A credential that cannot be sent.
    #[error("credential has characters that a header cannot carry")]
    Credential,
    /// A server that did not answer in time.
    #[error("{url} did not answer within {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout {
        /// URL of the request.
        url: Url,
    },
}

/// Dials: asks for the server's version, announces the newest that both know, and upgrades. A server that does not
/// return its version names it in its refusal, and is dialled once more.
///
/// # Errors
/// [`DialError`]; nothing is retried here.
pub(super) async fn dial(
    client: &Client,
    target: &Target,
    credential: &Credential,
) -> Result<(Socket, ApiVersion), DialError> {
    let extra = client.headers().await?;
    let announced = match server_version(client, &extra).await? {
        Some(server) => agree(server)?,
        None => ApiVersion::NEWEST,
    };
    let attempt = |version| upgrade(client, target, credential, &extra, version);
    let first = attempt(announced).await;
    let told = match &first {
        Err(DialError::Refused { status, answer, .. }) if *status == StatusCode::BAD_REQUEST => {
            ApiVersion::in_refusal(answer).filter(|server| *server < announced)
        }
        _ => None,
    };
    match told {
        None => Ok((first?, announced)),
        Some(server) => {
            let announced = agree(server)?;
            Ok((attempt(announced).await?, announced))
        }
    }
}

fn agree(server: ApiVersion) -> Result<ApiVersion, DialError> {
    server.agree().ok_or(DialError::Version { server })
}

/// Returns the server's version; `None` if the server is reachable and does not tell.
async fn server_version(
    client: &Client,
    headers: &HeaderMap,
) -> Result<Option<ApiVersion>, DialError> {
    #[derive(Deserialize)]
    struct BuildInfo {
        provisioner_api_version: String,
    }
    let url = client.endpoint("api/v2/buildinfo");
    let asked = async {
        let response = client.get(&url, headers).await?;
        let body = http::read_limited(response, MAX_ERROR_BYTES).await;
        let info: Option<BuildInfo> = serde_json::from_slice(&body).ok();
        Ok(info.and_then(|info| ApiVersion::parse(&info.provisioner_api_version)))
    };
    in_time(&url, asked).await
}

async fn upgrade(
    client: &Client,
    target: &Target,
    credential: &Credential,
    extra: &HeaderMap,
    version: ApiVersion,
) -> Result<Socket, DialError> {
    let url = serve_url(client, target, version);
    let mut headers = extra.clone();
    let (name, value) = credential.header().ok_or(DialError::Credential)?;
    headers.insert(name, value);
    headers.insert(
        "x-coder-build-version",
        HeaderValue::from_static(rules::VERSION),
    );
    let handshake = async {
        match websocket::connect(client, &url, headers, None).await {
            Ok(socket) => Ok(socket),
            Err(ConnectError::Refused(response)) => Err(refused(*response, &url).await),
            Err(ConnectError::Request(error)) => Err(error.into()),
            Err(ConnectError::Foreign { url, what }) => Err(DialError::Foreign { url, what }),
            Err(ConnectError::Upgrade { url, source }) => Err(DialError::Upgrade { url, source }),
        }
    };
    in_time(&url, handshake).await
}

async fn in_time<T>(
    url: &Url,
    request: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let late = |_| {
        Err(DialError::Timeout {
            url: http::bare(url),
        })
    };
    timeout(HANDSHAKE_TIMEOUT, request)
        .await
        .unwrap_or_else(late)
}

async fn refused(response: Response, url: &Url) -> DialError {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body = http::read_limited(response, MAX_ERROR_BYTES).await;
    DialError::Refused {
        url: http::bare(url),
        status,
        answer: Box::new(ErrorAnswer::read(&body)),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

fn serve_url(client: &Client, target: &Target, version: ApiVersion) -> Url {
    let mut url = client.endpoint("api/v2/organizations");
    url.path_segments_mut()
        .expect("an address with a host has segments")
        .push(target.organization.as_deref().unwrap_or("default"))
        .extend(["provisionerdaemons", "serve"]);
    let mut query = url.query_pairs_mut();
    query
        .append_pair("name", &target.name)
        .append_pair("provisioner", "terraform");
    for (key, value) in &target.tags {
        query.append_pair("tag", &format!("{key}={value}"));
    }
    query.append_pair("version", &version.to_string());
    drop(query);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_has_name_tags_and_version_and_keeps_the_path() {
        let target = Target {
            organization: None,
            name: "a-1".to_owned(),
            tags: [("zone".to_owned(), "a b".to_owned())].into(),
        };
        let base = "https://coder.example.com/sub/".parse().unwrap();
        let client = Client::new(http::Config::new(base)).unwrap();

        let url = serve_url(&client, &target, ApiVersion::NEWEST);

        let expected = "https://coder.example.com/sub/api/v2/organizations/default/provisionerdaemons/serve\
                        ?name=a-1&provisioner=terraform&tag=zone%3Da+b&version=1.20";
        assert_eq!(url.as_str(), expected);
    }
}
