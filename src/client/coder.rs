//! Routes of a real coderd: those that the recovery of a state needs, for a user who may update the template, templates, and
//! the list of daemons.
//!
//! # Source
//! coder `coderd/workspacebuilds.go`, `workspaceBuildState` and `workspaceBuildUpdateState`; `codersdk/provisionerdaemons.go`.

pub mod templates;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;
use url::Url;

use crate::{
    rules::state::{Outline, Relation},
    secret::Secret,
    transport::coder::ErrorAnswer,
};

/// Longest time for one call; a state is sent in one piece.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest response, in bytes.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Longest time to ask what kind of server there is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Part of the versions of our servers: `v0.0.0-outpost.VERSION`.
const OUR_VERSION: &str = "-outpost.";

/// Characters of a refusal that are shown.
const MAX_SHOWN_CHARS: usize = 500;

/// Longest job that coderd hands out, in bytes: a build's state and its template, with the surrounding fields.
pub const MAX_JOB_BYTES: usize = 4 << 20;

/// Client of a coderd, with the caller's credential.
pub struct Coder {
    client: reqwest::Client,
    url: Url,
    token: Secret,
}

/// Reasons why a call failed, or a state was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// A server that cannot be reached, or a broken connection.
    #[error("cannot {what} at {url}")]
    Call {
        /// Step that failed, such as `read the build`.
        what: &'static str,
        /// URL of the request.
        url: Url,
        /// Error of the HTTP client.
        source: reqwest::Error,
    },
    /// A refusal of the server.
    #[error("cannot {what}: the server answers {status}: {text}")]
    Refused {
        /// Step that failed, such as `read the build`.
        what: &'static str,
        /// Status of the response.
        status: StatusCode,
        /// Message of the server.
        text: String,
    },
    /// A response that makes no sense.
    #[error("cannot {what}: {reason}")]
    Invalid {
        /// Step that failed, such as `read the build`.
        what: &'static str,
        /// Reason why it makes no sense.
        reason: String,
    },
    /// Bytes that are not a Terraform state.
    #[error("not a Terraform state")]
    NoState,
    /// A state that the server has already, or that is older than the server's.
    #[error("the server has this state already, or a newer one")]
    NotNewer,
    /// A state of other infrastructure: the lineage differs.
    #[error("the state's lineage differs from that of the server's state")]
    Unrelated,
    /// A template that the server does not have, by its name.
    #[error("the server has no template `{0}`, or not for this user")]
    NoTemplate(String),
    /// A build in progress, by its number, whose end would overwrite the pushed state.
    #[error("build {0} of the workspace is in progress; push the state when it has ended")]
    UnderWay(i64),
}

impl PushError {
    /// Returns what the person can try next, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { status, .. } if *status == StatusCode::GONE => Some(
                "the workspace is deleted, so no build can use the state: destroy the resources that `outpost recover show` \
                 lists by hand, for example with `terraform destroy` on the output of `--state`, then run `outpost recover forget`",
            ),
            Self::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED => {
                Some("make a token with `coder tokens create`")
            }
            Self::Refused { status, .. }
                if *status == StatusCode::NOT_FOUND || *status == StatusCode::FORBIDDEN =>
            {
                Some("use the token of a user who may update the template")
            }
            Self::NotNewer => Some("`outpost recover forget` removes the entry"),
            Self::Unrelated => {
                Some("look at both states; `outpost recover show --state` prints the daemon's")
            }
            Self::Call { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::NoState
            | Self::NoTemplate(_)
            | Self::UnderWay(_) => None,
        }
    }
}

/// Tells whether a server is a coderd, by its version, and not one of ours. A server that cannot be asked is none.
pub async fn is_coderd(client: &reqwest::Client, url: &Url) -> bool {
    #[derive(Deserialize)]
    struct BuildInfo {
        version: String,
    }
    let coder = Coder::new(client.clone(), url.clone(), Secret::new(""));
    let info = coder.json::<BuildInfo>("read the version", &["buildinfo"]);
    match timeout(PROBE_TIMEOUT, info).await {
        Ok(info) => info.is_ok_and(|info| !info.version.contains(OUR_VERSION)),
        Err(_) => false,
    }
}

/// A provisioner daemon, as a server lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct ListedDaemon {
    /// Name of the daemon.
    pub name: String,
    /// Tags that decide which jobs it takes.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `idle`, `busy` or `offline`; empty in answers of old servers.
    #[serde(default)]
    pub status: Option<String>,
}

#[derive(Deserialize)]
struct Workspace {
    latest_build: Build,
}

#[derive(Deserialize)]
struct Build {
    id: String,
    workspace_id: String,
    #[serde(default)]
    build_number: i64,
    job: Job,
}

#[derive(Deserialize)]
struct Job {
    #[serde(default)]
    completed_at: Option<String>,
}

impl Coder {
    /// Creates a client; nothing is sent yet. `client` must follow no redirect, so that the token stays with the
    /// server it is for.
    pub fn new(client: reqwest::Client, url: Url, token: Secret) -> Self {
        Self { client, url, token }
    }

    /// Makes `state` the one of the latest build of the workspace that `build` belongs to. Returns that build's
    /// number.
    ///
    /// # Errors
    /// [`PushError`]; nothing was changed then, unless the connection broke in the last call.
    pub async fn push_state(&self, build: &str, state: &[u8]) -> Result<i64, PushError> {
        let outline = Outline::read(state).ok_or(PushError::NoState)?;
        let known: Build = self
            .json("read the build", &["workspacebuilds", build])
            .await?;
        let path = ["workspaces", known.workspace_id.as_str()];
        let workspace: Workspace = self.json("read the workspace", &path).await?;
        let latest = workspace.latest_build;
        if latest.job.completed_at.is_none() {
            return Err(PushError::UnderWay(latest.build_number));
        }
        let path = ["workspacebuilds", latest.id.as_str(), "state"];
        let theirs = self
            .call("read the state", Method::GET, &path, &[], None)
            .await?;
        match outline.relation(&theirs) {
            Relation::Newer => {}
            Relation::NotNewer => return Err(PushError::NotNewer),
            Relation::Unrelated => return Err(PushError::Unrelated),
        }
        let body = Body::Json(json!({ "state": BASE64_STANDARD.encode(state) }).to_string());
        self.call("write the state", Method::PUT, &path, &[], Some(body))
            .await?;
        Ok(latest.build_number)
    }

    /// Returns the daemons of an organization that are connected.
    ///
    /// # Errors
    /// [`PushError::Call`], [`PushError::Refused`] or [`PushError::Invalid`].
    pub async fn daemons(&self, organization: &str) -> Result<Vec<ListedDaemon>, PushError> {
        let path = ["organizations", organization, "provisionerdaemons"];
        let mut daemons: Vec<ListedDaemon> = self.json("list the daemons", &path).await?;
        daemons.retain(|daemon| daemon.status.as_deref() != Some("offline"));
        Ok(daemons)
    }

    async fn json<T: for<'de> Deserialize<'de>>(
        &self,
        what: &'static str,
        path: &[&str],
    ) -> Result<T, PushError> {
        let answer = self.call(what, Method::GET, path, &[], None).await?;
        parsed(what, &answer)
    }

    async fn send<T: for<'de> Deserialize<'de>>(
        &self,
        what: &'static str,
        method: Method,
        path: &[&str],
        body: &Value,
    ) -> Result<T, PushError> {
        let body = Body::Json(body.to_string());
        parsed(what, &self.call(what, method, path, &[], Some(body)).await?)
    }

    async fn call(
        &self,
        what: &'static str,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Body>,
    ) -> Result<Vec<u8>, PushError> {
        let mut url = self.url.clone();
        let invalid = |reason: &str| PushError::Invalid {
            what,
            reason: reason.to_owned(),
        };
        url.path_segments_mut()
            .map_err(|()| invalid("the address cannot have a path"))?
            .pop_if_empty()
            .extend(["api", "v2"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let lost = |source| PushError::Call {
            what,
            url: self.url.clone(),
            source,
        };
        let mut request = self
            .client
            .request(method, url)
            .timeout(CALL_TIMEOUT)
            .header("Coder-Session-Token", self.token.expose());
        request = match body {
            None => request,
            Some(Body::Json(text)) => request.header(CONTENT_TYPE, "application/json").body(text),
            Some(Body::Tar(bytes)) => request
                .header(CONTENT_TYPE, "application/x-tar")
                .body(bytes),
        };
        let mut answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(lost)? {
            if bytes.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(invalid("the answer is too large"));
            }
            bytes.extend_from_slice(&piece);
        }
        if !status.is_success() {
            let text = ErrorAnswer::read(&bytes).to_string();
            let text = text.chars().take(MAX_SHOWN_CHARS).collect();
            return Err(PushError::Refused { what, status, text });
        }
        Ok(bytes)
    }
}

/// Content of a request.
enum Body {
    Json(String),
    Tar(Bytes),
}

fn parsed<T: for<'de> Deserialize<'de>>(what: &'static str, answer: &[u8]) -> Result<T, PushError> {
    serde_json::from_slice(answer).map_err(|error| PushError::Invalid {
        what,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
