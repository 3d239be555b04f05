//! Requests of an agent that are not calls: plain HTTP, with its token.

use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderValue, StatusCode};
use outpost_net::http::{Client, bare, read_limited};
use outpost_tailnet::dial::SESSION_TOKEN;
use outpost_transport::coder::ErrorAnswer;
use reqwest::Response;
use tokio::time::timeout;

use super::identity::Credential;

/// Longest time for a response to begin, unless the server is asked to wait.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest response in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Requests `workspaceagents/me/PATH`. The caller bounds the time.
pub(super) async fn ask(
    server: &Client,
    credential: &Credential,
    path: &str,
    query: &[(&str, &str)],
) -> anyhow::Result<Response> {
    let mut url = server.endpoint(&format!("api/v2/workspaceagents/me/{path}"));
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let token = credential.token(server).await?;
    let mut value = HeaderValue::from_str(token.expose())
        .context("the token has characters that a header cannot carry")?;
    value.set_sensitive(true);
    let mut headers = server.headers().await?;
    headers.insert(SESSION_TOKEN, value);
    Ok(server.get(&url, &headers).await?)
}

/// Fetches a short response in JSON; `None` if the server has none for us.
pub(super) async fn fetch<T: serde::de::DeserializeOwned>(
    server: &Client,
    credential: &Credential,
    path: &str,
    query: &[(&str, &str)],
) -> anyhow::Result<Option<T>> {
    let asked = async {
        let answer = ask(server, credential, path, query).await?;
        let status = answer.status();
        anyhow::Ok((status, read_limited(answer, MAX_BYTES).await))
    };
    let late = || format!("{} did not answer in time", bare(server.url()));
    let (status, body) = timeout(TIMEOUT, asked).await.with_context(late)??;
    match status {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => {
            let answer = serde_json::from_slice(&body);
            Ok(Some(
                answer.context("the server's answer cannot be decoded")?,
            ))
        }
        status => {
            let answer = ErrorAnswer::read(&body);
            anyhow::bail!("{} answered {status}: {answer}", bare(server.url()))
        }
    }
}
