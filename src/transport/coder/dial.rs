//! Opens a WebSocket to coderd and agrees on a version.
//!
//! # Source
//! coder `codersdk/provisionerdaemons.go`, `enterprise/coderd/provisionerdaemons.go`, `apiversion/apiversion.go`.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Response;
use serde::Deserialize;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};
use url::Url;

use crate::{net::websocket, transport::auth::Credential};

/// Bytes of an error's body that are read.
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// Time for the whole handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A version of the daemon's API. The order is that of releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// 1 in all servers so far.
    pub major: u16,
    /// Grows with each addition.
    pub minor: u16,
}

impl ApiVersion {
    /// The newest that we speak.
    pub const NEWEST: Self = Self {
        major: 1,
        minor: 20,
    };
    /// The oldest that we work with: before it, templates lose their dynamic parameters.
    pub const OLDEST: Self = Self { major: 1, minor: 6 };

    /// Reads `major.minor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where to dial, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server's address. A path in it is kept.
    pub url: Url,
    /// An id or name; `None` is the default organisation.
    pub organization: Option<String>,
    /// The daemon's name, 2 to 63 letters, digits and hyphens.
    pub name: String,
    /// Tags; none with a provisioner key.
    pub tags: BTreeMap<String, String>,
    /// Further headers for every request.
    pub headers: HeaderMap,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The server cannot be reached, or the connection broke.
    #[error("failed to reach {url}")]
    Unreachable {
        /// Where.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// The server answered, and refused.
    #[error("{url} answered {status}: {answer}")]
    Refused {
        /// Where.
        url: Url,
        /// The status.
        status: StatusCode,
        /// What it says.
        answer: Box<ErrorAnswer>,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// The server, or something before it, answered with something else than a WebSocket.
    #[error("{url} does not answer as Coder does: {what}")]
    Foreign {
        /// Where.
        url: Url,
        /// What is odd.
        what: String,
    },
    /// The server speaks no version that we do.
    #[error("server speaks daemon API {server}, this daemon {oldest} to {newest}", oldest = ApiVersion::OLDEST, newest = ApiVersion::NEWEST)]
    Version {
        /// The server's version.
        server: ApiVersion,
    },
    /// The credential cannot be sent.
    #[error("credential has characters that a header cannot carry")]
    Credential,
    /// The server did not answer in time.
    #[error("{url} did not answer within {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout {
        /// Where.
        url: Url,
    },
}

/// The body of an error, as Coder writes it.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorAnswer {
    /// What is wrong.
    #[serde(default)]
    pub message: String,
    /// More about it.
    #[serde(default)]
    pub detail: String,
    /// What is wrong with single fields.
    #[serde(default)]
    pub validations: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Debug, Default, Deserialize)]
pub struct FieldError {
    /// Its name.
    #[serde(default)]
    pub field: String,
    /// What is wrong.
    #[serde(default)]
    pub detail: String,
}

impl fmt::Display for ErrorAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.message.is_empty() {
            "no explanation"
        } else {
            &self.message
        })?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        self.validations
            .iter()
            .try_for_each(|field| write!(f, "; {}: {}", field.field, field.detail))
    }
}

/// A connection after its handshake.
pub(super) type Socket = websocket::ByteStream<reqwest::Upgraded>;

/// Dials `target`: asks for the server's version, announces the newest that both know, and upgrades.
/// A server that does not tell its version tells it in its refusal, and is dialled once more.
///
/// # Errors
/// [`DialError`]; nothing is retried here.
pub(super) async fn dial(
    client: &reqwest::Client,
    target: &Target,
    credential: &Credential,
) -> Result<(Socket, ApiVersion), DialError> {
    let announced = match server_version(client, target).await {
        Some(server) => agree(server)?,
        None => ApiVersion::NEWEST,
    };
    match upgrade(client, target, credential, announced).await {
        Err(DialError::Refused {
            status: StatusCode::BAD_REQUEST,
            answer,
            url,
            retry_after,
        }) => {
            let Some(server) = version_in(&answer).filter(|server| *server < announced) else {
                return Err(DialError::Refused {
                    status: StatusCode::BAD_REQUEST,
                    answer,
                    url,
                    retry_after,
                });
            };
            let announced = agree(server)?;
            Ok((
                upgrade(client, target, credential, announced).await?,
                announced,
            ))
        }
        result => Ok((result?, announced)),
    }
}

fn agree(server: ApiVersion) -> Result<ApiVersion, DialError> {
    let common = server.min(ApiVersion::NEWEST);
    if server.major != ApiVersion::NEWEST.major || common < ApiVersion::OLDEST {
        return Err(DialError::Version { server });
    }
    Ok(common)
}

/// The version in a refusal such as `server is at version 1.18, behind requested minor version 1.20`.
fn version_in(answer: &ErrorAnswer) -> Option<ApiVersion> {
    let texts = answer
        .validations
        .iter()
        .filter(|field| field.field == "version")
        .map(|field| &field.detail);
    texts.chain([&answer.detail]).find_map(|text| {
        let (_, rest) = text.split_once("server is at version ")?;
        ApiVersion::parse(rest.split([',', ' ']).next()?)
    })
}

async fn server_version(client: &reqwest::Client, target: &Target) -> Option<ApiVersion> {
    #[derive(Deserialize)]
    struct BuildInfo {
        provisioner_api_version: String,
    }
    let url = endpoint(&target.url, "api/v2/buildinfo");
    let request = client
        .get(url)
        .headers(target.headers.clone())
        .timeout(HANDSHAKE_TIMEOUT);
    let body = read_limited(request.send().await.ok()?).await;
    let info: BuildInfo = serde_json::from_slice(&body).ok()?;
    ApiVersion::parse(&info.provisioner_api_version)
}

async fn upgrade(
    client: &reqwest::Client,
    target: &Target,
    credential: &Credential,
    version: ApiVersion,
) -> Result<Socket, DialError> {
    let url = serve_url(target, version);
    let key = generate_key();
    let mut headers = target.headers.clone();
    let (name, value) = credential.header().ok_or(DialError::Credential)?;
    headers.insert(name, value);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_VERSION,
        HeaderValue::from_static("13"),
    );
    headers.insert(
        header::SEC_WEBSOCKET_KEY,
        HeaderValue::from_str(&key).expect("a key is base64"),
    );
    headers.insert("x-coder-build-version", build_version());

    let handshake = async {
        let response = client.get(url.clone()).headers(headers).send().await;
        let response = response.map_err(|source| DialError::Unreachable {
            url: bare(&url),
            source,
        })?;
        accept(response, &key, &url).await
    };
    let timeout = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    timeout.map_err(|_| DialError::Timeout { url: bare(&url) })?
}

async fn accept(response: Response, key: &str, url: &Url) -> Result<Socket, DialError> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response, url).await);
    }
    let accepted = response
        .headers()
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .map(HeaderValue::as_bytes);
    if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(DialError::Foreign {
            url: bare(url),
            what: "wrong Sec-WebSocket-Accept".to_owned(),
        });
    }
    if response
        .headers()
        .contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
    {
        return Err(DialError::Foreign {
            url: bare(url),
            what: "extensions that nobody asked for".to_owned(),
        });
    }
    let upgraded = response.upgrade().await;
    let upgraded = upgraded.map_err(|source| DialError::Unreachable {
        url: bare(url),
        source,
    })?;
    let socket =
        WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(websocket::config())).await;
    Ok(websocket::ByteStream::new(socket))
}

async fn refusal(response: Response, url: &Url) -> DialError {
    let status = response.status();
    if status.is_redirection() {
        let place = response
            .headers()
            .get(header::LOCATION)
            .and_then(|place| place.to_str().ok())
            .unwrap_or("nowhere");
        let what = format!("redirect to {place}, where the credential is not sent");
        return DialError::Foreign {
            url: bare(url),
            what,
        };
    }
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let body = read_limited(response).await;
    let answer = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorAnswer {
        message: String::from_utf8_lossy(&body[..body.len().min(200)])
            .trim()
            .to_owned(),
        ..ErrorAnswer::default()
    });
    DialError::Refused {
        url: bare(url),
        status,
        answer: Box::new(answer),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

async fn read_limited(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BYTES - body.len())]);
        if body.len() == MAX_ERROR_BYTES {
            break;
        }
    }
    body
}

fn serve_url(target: &Target, version: ApiVersion) -> Url {
    let organization = target.organization.as_deref().unwrap_or("default");
    let mut url = endpoint(
        &target.url,
        &format!("api/v2/organizations/{organization}/provisionerdaemons/serve"),
    );
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

/// `path` below the server's address, with whatever path the address has.
fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let prefix = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{prefix}/{path}"));
    url.set_query(None);
    url
}

/// The address as error texts show it: without a password and without tags.
fn bare(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    // Neither call can fail for an address that has a host.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url
}

/// A version that every server's health check accepts, with ours behind it.
fn build_version() -> HeaderValue {
    HeaderValue::from_static(concat!("v0.0.0-outpost.", env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target {
            url: url.parse().unwrap(),
            organization: None,
            name: "a-1".to_owned(),
            tags: [("zone".to_owned(), "a b".to_owned())].into(),
            headers: HeaderMap::new(),
        }
    }

    #[test]
    fn the_address_has_name_tags_and_version_and_keeps_the_path() {
        let url = serve_url(
            &target("https://coder.example.com/sub/"),
            ApiVersion::NEWEST,
        );

        let expected = "https://coder.example.com/sub/api/v2/organizations/default/provisionerdaemons/serve\
                        ?name=a-1&provisioner=terraform&tag=zone%3Da+b&version=1.20";
        assert_eq!(url.as_str(), expected);
    }

    #[test]
    fn the_version_is_read_from_a_refusal() {
        let answer = ErrorAnswer {
            validations: vec![FieldError {
                field: "version".to_owned(),
                detail: "server is at version 1.18, behind requested minor version 1.20".to_owned(),
            }],
            ..ErrorAnswer::default()
        };

        assert_eq!(
            version_in(&answer),
            Some(ApiVersion {
                major: 1,
                minor: 18
            })
        );
    }

    #[test]
    fn the_older_of_both_versions_is_announced() {
        let version = |text| ApiVersion::parse(text).unwrap();

        assert_eq!(agree(version("1.15")).unwrap(), version("1.15"));
        assert_eq!(agree(version("1.99")).unwrap(), ApiVersion::NEWEST);
        assert!(matches!(
            agree(version("1.5")),
            Err(DialError::Version { .. })
        ));
        assert!(matches!(
            agree(version("2.0")),
            Err(DialError::Version { .. })
        ));
    }

    #[test]
    fn an_address_in_an_error_has_no_password() {
        let url = bare(
            &"https://user:hunter2@coder.example.com/x?tag=secret"
                .parse()
                .unwrap(),
        );

        assert_eq!(url.as_str(), "https://coder.example.com/x");
    }
}
