//! Organization of a daemon that authenticates as a user.

use std::time::Duration;

use anyhow::{Context, bail};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;
use tracing::warn;
use url::Url;

use super::credential::MISSING;
use crate::{
    cli::exit::UsageError,
    net::{
        back_off::Pauses,
        http::{Client, RequestError},
    },
    secret::Secret,
    stop::Stop,
};

/// Longest time for the response.
const TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Bytes of the response that are read.
const MAX_ANSWER_BYTES: usize = 4 << 20;

#[derive(Debug, Deserialize)]
struct Organization {
    id: String,
    name: String,
}

/// Returns the id of the organization that the user of `token` means. The request is repeated until the server can be
/// reached; `None` if `stop` came before.
///
/// # Errors
/// If the server does not know the user, or the user is in several organizations and names none of them.
pub(super) async fn organization(
    client: &Client,
    token: &Secret,
    named: Option<&str>,
    stop: &Stop,
) -> anyhow::Result<Option<String>> {
    let url = client.endpoint("api/v2/users/me/organizations");
    let mut value = HeaderValue::from_str(token.expose())
        .map_err(|_| UsageError("the token has characters that a header cannot carry".into()))?;
    value.set_sensitive(true);
    let mut pauses = Pauses::new(PAUSE);
    loop {
        let mut headers = client.headers().await?;
        headers.insert("coder-session-token", value.clone());
        let asked = timeout(TIMEOUT, client.get(&url, &headers));
        let asked = tokio::select! {
            asked = asked => asked,
            () = stop.draining() => return Ok(None),
        };
        match asked {
            Ok(Ok(response)) => {
                let all = timeout(TIMEOUT, read(response, &url)).await;
                let all = all.with_context(|| format!("{url} did not answer in time"))??;
                return Ok(Some(choose(all, named)?));
            }
            Ok(Err(error @ RequestError::Unreachable { .. })) => {
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    "waiting for the server to list the user's organizations"
                );
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => warn!(%url, "waiting for the server, which did not answer in time"),
        }
        tokio::select! {
            () = tokio::time::sleep(pauses.next_pause()) => {}
            () = stop.draining() => return Ok(None),
        }
    }
}

async fn read(mut response: reqwest::Response, url: &Url) -> anyhow::Result<Vec<Organization>> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(UsageError(MISSING.to_owned()).into()),
        status => bail!("current organization: {url} answered {status}"),
    }
    let mut body = Vec::new();
    let broken = || format!("current organization: the answer of {url} ended early");
    while let Some(chunk) = response.chunk().await.with_context(broken)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            bail!("current organization: the answer of {url} is over {MAX_ANSWER_BYTES} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("current organization: {url} does not answer like a Coder server"))
}

fn choose(mut all: Vec<Organization>, named: Option<&str>) -> Result<String, UsageError> {
    let names: Vec<String> = all.iter().map(|it| it.name.clone()).collect();
    let names = names.join(", ");
    match named {
        Some(named) => {
            let found = all
                .into_iter()
                .find(|it| it.id == named || it.name == named);
            found.map(|it| it.id).ok_or_else(|| {
                UsageError(format!(
                    "this user has no organization `{named}`, only: {names}"
                ))
            })
        }
        None if all.len() == 1 => Ok(all.swap_remove(0).id),
        None if all.is_empty() => Err(UsageError(
            "the user does not belong to an organization".to_owned(),
        )),
        None => Err(UsageError(format!(
            "the user belongs to several organizations, choose one with --org: {names}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Organization> {
        let organization = |id: &str, name: &str| Organization {
            id: id.to_owned(),
            name: name.to_owned(),
        };
        vec![organization("1", "first"), organization("2", "second")]
    }

    #[test]
    fn an_organization_is_chosen_by_name_or_id_or_because_it_is_the_only_one() {
        assert_eq!(choose(two(), Some("second")).unwrap(), "2");
        assert_eq!(choose(two(), Some("1")).unwrap(), "1");
        assert_eq!(choose(two().split_off(1), None).unwrap(), "2");
        let error = choose(two(), None).unwrap_err().to_string();
        assert!(error.ends_with("--org: first, second"), "{error}");
        assert!(choose(two(), Some("third")).is_err());
    }
}
