//! Credentials of an agent: a token, or its cloud's statement about the machine.
//!
//! # Source
//! coder `codersdk/agentsdk/{aws,azure,google}.go`.

use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use outpost_base::secret::Secret;
use outpost_net::http::{Client, bare, read_limited};
use outpost_transport::coder::DialError;
use outpost_transport::coder::ErrorAnswer;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest response in bytes.
const MAX_BYTES: usize = 64 << 10;

/// A cloud that can vouch for its machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon's cloud (AWS), by instance identity documents.
    Aws,
    /// Microsoft's cloud (Azure), by attested data.
    Azure,
    /// Google's cloud, by identity tokens.
    Google,
}

/// Credential of an agent.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A token that was given to the agent.
    Token(Secret),
    /// A statement of its cloud, which is requested before each connection.
    Instance {
        /// Cloud that runs the machine.
        cloud: Cloud,
        /// URL of its metadata service, by default [`Cloud::address`].
        address: Url,
        /// Name of the agent, for machines with several.
        agent_name: String,
    },
}

/// Error for a server that gives no token for the cloud's statement about this machine.
#[derive(Debug, thiserror::Error)]
#[error("{url} answered {status}: {answer}")]
struct NoToken {
    url: Url,
    status: StatusCode,
    answer: Box<ErrorAnswer>,
}

/// Returns whether a status means that the server refuses our credential, and not that it is busy.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    let is_passing = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !is_passing.contains(&status)
}

/// Returns whether an error means that the server refuses our credential.
pub(super) fn refuses(error: &anyhow::Error) -> bool {
    let by_dial = error.downcast_ref().and_then(DialError::status);
    let by_exchange = error.downcast_ref().map(|error: &NoToken| error.status);
    by_dial.or(by_exchange).is_some_and(is_refusal)
}

impl Cloud {
    /// Finds a cloud by Coder's name for it, such as `aws-instance-identity`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "aws-instance-identity" => Some(Self::Aws),
            "azure-instance-identity" => Some(Self::Azure),
            "google-instance-identity" => Some(Self::Google),
            _ => None,
        }
    }

    /// Default URL of the cloud's metadata service.
    pub fn address(self) -> Url {
        let address = match self {
            Self::Aws | Self::Azure => "http://169.254.169.254/",
            Self::Google => "http://metadata.google.internal/",
        };
        address.parse().expect("a constant")
    }

    fn route(self) -> &'static str {
        match self {
            Self::Aws => "aws-instance-identity",
            Self::Azure => "azure-instance-identity",
            Self::Google => "google-instance-identity",
        }
    }
}

impl Credential {
    /// Returns the token for the next connection.
    ///
    /// # Errors
    /// If the cloud or the server does not give one.
    pub async fn token(&self, server: &Client) -> anyhow::Result<Secret> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::Instance {
                cloud,
                address,
                agent_name,
            } => {
                let metadata = Metadata {
                    // The metadata service is local to the machine, so no proxy can reach it.
                    client: reqwest::Client::builder()
                        .no_proxy()
                        .timeout(TIMEOUT)
                        .build()?,
                    address,
                };
                let mut document = metadata.document(*cloud).await.with_context(|| {
                    format!("failed to get this machine's identity from the cloud's metadata service at {address}")
                })?;
                if !agent_name.is_empty() {
                    document["agent_name"] = agent_name.as_str().into();
                }
                exchange(server, *cloud, &document).await
            }
        }
    }
}

async fn exchange(server: &Client, cloud: Cloud, document: &Value) -> anyhow::Result<Secret> {
    #[derive(Deserialize)]
    struct Answer {
        session_token: String,
    }
    let url = server.endpoint(&format!("api/v2/workspaceagents/{}", cloud.route()));
    let headers = server.headers().await?;
    let answer = server.post(&url, &headers, document);
    let answer = tokio::time::timeout(TIMEOUT, answer).await;
    let answer = answer.with_context(|| format!("{url} did not answer in time"))??;
    let status = answer.status();
    let body = read_limited(answer, MAX_BYTES).await;
    if !status.is_success() {
        return Err(NoToken {
            url: bare(&url),
            status,
            answer: Box::new(ErrorAnswer::read(&body)),
        }
        .into());
    }
    let answer: Answer = serde_json::from_slice(&body).context("the server sent no token")?;
    Ok(Secret::new(answer.session_token))
}

struct Metadata<'a> {
    client: reqwest::Client,
    address: &'a Url,
}

impl Metadata<'_> {
    async fn text(&self, path: &str, headers: &[(&'static str, &str)]) -> anyhow::Result<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse()?);
        }
        let url = self.address.join(path)?;
        let answer = self
            .client
            .get(url)
            .headers(map)
            .send()
            .await?
            .error_for_status()?;
        Ok(String::from_utf8(read_limited(answer, MAX_BYTES).await)?)
    }

    async fn document(&self, cloud: Cloud) -> anyhow::Result<Value> {
        match cloud {
            Cloud::Aws => {
                let url = self.address.join("latest/api/token")?;
                let request = self.client.put(url);
                let request = request.header("X-aws-ec2-metadata-token-ttl-seconds", "21600");
                let answer = request.send().await?.error_for_status()?;
                let token = String::from_utf8(read_limited(answer, MAX_BYTES).await)?;
                let headers = [("x-aws-ec2-metadata-token", token.as_str())];
                let place = "latest/dynamic/instance-identity";
                let signature = self.text(&format!("{place}/signature"), &headers).await?;
                let document = self.text(&format!("{place}/document"), &headers).await?;
                Ok(json!({ "signature": signature, "document": document }))
            }
            Cloud::Azure => {
                #[derive(Deserialize)]
                struct Attested {
                    signature: String,
                    encoding: String,
                }
                let path = "metadata/attested/document?api-version=2020-09-01";
                let text = self.text(path, &[("metadata", "true")]).await?;
                let attested: Attested = serde_json::from_str(&text)?;
                Ok(json!({ "signature": attested.signature, "encoding": attested.encoding }))
            }
            Cloud::Google => {
                let path = "computeMetadata/v1/instance/service-accounts/default/identity\
                            ?audience=coder&format=full";
                let token = self.text(path, &[("metadata-flavor", "Google")]).await?;
                Ok(json!({ "json_web_token": token.trim() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router,
        response::{IntoResponse as _, Response},
        routing::{get, post, put},
    };

    use super::*;

    /// Starts a server that plays a cloud, and a control plane that knows two agents of the same machine.
    async fn stand_in() -> Url {
        async fn exchange(Json(asked): Json<Value>) -> Response {
            assert_eq!(asked["signature"], "sig");
            let answer = match asked["agent_name"].as_str() {
                Some(name @ ("one" | "two")) => json!({ "session_token": format!("of {name}") }),
                Some(_) => return StatusCode::NOT_FOUND.into_response(),
                None => {
                    let message = "Multiple agents found. Set CODER_AGENT_NAME to one of: one, two";
                    let answer = Json(json!({ "message": message }));
                    return (StatusCode::CONFLICT, answer).into_response();
                }
            };
            Json(answer).into_response()
        }
        let place = "/latest/dynamic/instance-identity";
        let routes = Router::new()
            .route("/latest/api/token", put(|| async { "t" }))
            .route(&format!("{place}/signature"), get(|| async { "sig" }))
            .route(&format!("{place}/document"), get(|| async { "doc" }))
            .route(
                "/api/v2/workspaceagents/aws-instance-identity",
                post(exchange),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url.parse().unwrap()
    }

    #[tokio::test]
    async fn each_agent_of_a_machine_gets_its_own_token_by_its_name() {
        let url = stand_in().await;
        let server = Client::new(outpost_net::http::Config::new(url.clone())).unwrap();
        let ask = async |name: &str| {
            let credential = Credential::Instance {
                cloud: Cloud::Aws,
                address: url.clone(),
                agent_name: name.to_owned(),
            };
            credential.token(&server).await
        };

        for name in ["one", "two"] {
            assert_eq!(
                ask(name).await.unwrap().expose(),
                format!("of {name}").as_str()
            );
        }
        // The server's message names the remedy, and an immediate retry would not help.
        let unnamed = ask("").await.unwrap_err();
        assert!(
            unnamed.to_string().contains("CODER_AGENT_NAME"),
            "{unnamed:#}"
        );
        assert!(refuses(&unnamed));
        assert!(refuses(&ask("three").await.unwrap_err()));
    }

    #[test]
    fn a_server_that_is_busy_or_broken_refuses_nobody() {
        for (status, is_one) in [
            (401, true),
            (403, true),
            (404, true),
            (409, true),
            (408, false),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_refusal(status), is_one, "{status}");
        }
    }
}
