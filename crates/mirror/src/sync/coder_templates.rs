//! The templates that a Coder server uses now: the active version of each.
//!
//! # Source
//! coder `codersdk/templates.go`, `codersdk/templateversions.go`, `codersdk/files.go`

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use outpost_base::secret::Secret;
use outpost_net::http::shown;
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;
use uuid::Uuid;

use super::Cause;
use crate::{
    fetch::{FetchError, Fetcher},
    scan::Tree,
};

const SESSION_TOKEN: HeaderName = HeaderName::from_static("coder-session-token");

/// A Coder server, and a token for it.
pub(super) struct Server<'a> {
    url: Url,
    headers: HeaderMap,
    fetcher: &'a Fetcher,
}

/// A template that is not deleted.
#[derive(Debug, Deserialize)]
pub(super) struct Template {
    name: String,
    #[serde(default)]
    organization_name: String,
    active_version_id: Uuid,
}

#[derive(Deserialize)]
struct Version {
    job: Job,
}

#[derive(Deserialize)]
struct Job {
    file_id: Uuid,
}

impl<'a> Server<'a> {
    pub(super) fn new(url: &Url, token: &Secret, fetcher: &'a Fetcher) -> Result<Self, Cause> {
        let mut value = HeaderValue::from_str(token.expose().trim()).map_err(|_| {
            Cause::Unsatisfied(
                "the token contains characters that a token cannot contain".to_owned(),
            )
        })?;
        value.set_sensitive(true);
        let mut url = url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, HeaderValue::from_static("*/*")),
            (SESSION_TOKEN, value),
        ]);
        Ok(Self {
            url,
            headers,
            fetcher,
        })
    }

    /// Returns all templates that the token's user may see.
    pub(super) async fn templates(&self) -> Result<Vec<Template>, Cause> {
        self.json("templates").await
    }

    /// Returns the files of a template's active version.
    pub(super) async fn tree(&self, template: &Template) -> Result<Tree, Cause> {
        let version = template.active_version_id;
        let version: Version = self.json(&format!("templateversions/{version}")).await?;
        let archive = self.get(&format!("files/{}", version.job.file_id)).await?;
        Ok(Tree::of_tar(&archive.body[..])?)
    }

    /// Returns a template's name, with the server and the organization.
    pub(super) fn name(&self, template: &Template) -> String {
        let organization = match template.organization_name.as_str() {
            "" => "",
            organization => &format!("{organization}/"),
        };
        format!("{}{organization}{}", shown(&self.url), template.name)
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Cause> {
        Ok(self.get(path).await?.json()?)
    }

    async fn get(&self, path: &str) -> Result<crate::fetch::Answer, Cause> {
        let url = self.url.join(&format!("api/v2/{path}"));
        let url = url.map_err(|error| Cause::Unsatisfied(error.to_string()))?;
        match self.fetcher.get(&url, &self.headers, None).await {
            Err(FetchError::Status {
                status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                ..
            }) => {
                let why = format!(
                    "`{}` does not accept this token: it must belong to a user who may read all templates and their files",
                    shown(&url)
                );
                Err(Cause::Unsatisfied(why))
            }
            answer => Ok(answer?),
        }
    }
}
