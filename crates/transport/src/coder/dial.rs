//! Opening of a WebSocket to coderd, and agreement on a version.
//!
//! # Source
//! coder `codersdk/provisionerdaemons.go`, `enterprise/coderd/provisionerdaemons.go`.

use std::collections::BTreeMap;

use ::http::{HeaderMap, HeaderValue, StatusCode};
use outpost_base::rules;
use outpost_net::{
    http::{self, Client},
    websocket::Socket,
};
use serde::Deserialize;
use url::Url;

use super::{
    refusal,
    request::{DialError, in_time, open_websocket},
    version::ApiVersion,
};
use crate::auth::Credential;

/// Bytes of `buildinfo` that are read.
const MAX_INFO_BYTES: usize = 8 * 1024;

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

/// Dials: asks for the server's version, announces the newest that both know, and upgrades.
/// A server that does not tell its version tells it in its refusal, and is dialled once more.
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
        let body = http::read_limited(response, MAX_INFO_BYTES).await;
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
    let opened = open_websocket(client, &url, headers).await;
    opened.map_err(|mut error| {
        if let DialError::Refused {
            status,
            answer,
            remedy,
            ..
        } = &mut error
        {
            *remedy = refusal::remedy(*status, answer);
        }
        error
    })
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
