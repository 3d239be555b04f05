//! Checks of the server: whether it can be reached, and whether it would accept this daemon.
//!
//! # Source
//! The order of checks in coder `enterprise/coderd/provisionerdaemons.go`: a version that no server has is refused
//! after licence, credential, organization and tags, and before a daemon is recorded.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use reqwest::Response;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::Finding;
use crate::{
    cli::{
        provisioner::{
            args::ServerArgs,
            connect,
            credential::{Given, Kind},
            start::{config_directory, credentials_directory, server_url, tags},
        },
        values::Csv,
    },
    error_chain::error_chain,
    net::{
        http::{Client, bare},
        proxy::{Proxies, is_loopback},
    },
    transport::{
        auth::{Credential, CredentialSource as _},
        coder::{ApiVersion, ErrorAnswer},
    },
};

/// Longest time for each response.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a response that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Difference of clocks that makes logs hard to read, and one with which certificates and tokens fail.
const SKEWS: (i64, i64) = (10, 300);
/// A version that no server has.
const NO_VERSION: &str = "999.0";

pub(super) async fn examine(args: &ServerArgs, lists: &[Csv]) -> Vec<Finding> {
    let directory = config_directory(args);
    let url = match server_url(args, directory.as_deref()) {
        Ok(url) => url,
        Err(error) => {
            let found = Finding::failed("url", format!("{error:#}"));
            return vec![found.remedy("name the server with --url or CODER_URL")];
        }
    };
    let mut findings = vec![url_found(&url), proxy(&url, &Proxies::from_env())];
    let prepared = async {
        let client = connect::client(args, &url)?;
        let headers = client.headers().await?;
        anyhow::Ok(Asking { client, headers })
    };
    let asking = match prepared.await {
        Ok(asking) => asking,
        Err(error) => {
            findings.push(Finding::failed("tls", format!("{error:#}")));
            return findings;
        }
    };
    if !asking.basics(&mut findings).await {
        return findings;
    }
    let given = Given::choose(
        args,
        credentials_directory().as_deref(),
        directory.as_deref(),
    );
    let credential = given.map_err(|error| error.to_string()).and_then(|given| {
        let credential = given.credential()?;
        Ok((given.kind, credential))
    });
    match (credential, tags(lists)) {
        (Ok((kind, credential)), Ok(tags)) => {
            let organization = match kind {
                Kind::Token => args.org.as_deref().unwrap_or("default"),
                Kind::Psk | Kind::Key => "default",
            };
            let tags = tags.iter().map(|(name, value)| format!("{name}={value}"));
            let tags: Vec<String> = tags.collect();
            findings.extend(
                asking
                    .admission(organization, kind, &credential, &tags)
                    .await,
            );
        }
        (Err(error), _) => findings.push(
            Finding::failed("credential", error)
                .remedy("give --psk-file, --key-file or --token-file"),
        ),
        (_, Err(error)) => findings.push(Finding::failed("tags", error.to_string())),
    }
    findings.push(asking.websocket().await);
    findings
}

fn url_found(url: &Url) -> Finding {
    let shown = bare(url);
    let problem = match url.scheme() {
        "https" => return Finding::ok("url", shown.as_str()),
        "http" if is_loopback(url) => return Finding::ok("url", shown.as_str()),
        "http" => Finding::warning("url", format!("{shown}: the credential is sent in clear")),
        scheme => Finding::failed("url", format!("{shown}: {scheme} is not http or https")),
    };
    problem.remedy("give an address that begins with https://")
}

fn proxy(url: &Url, proxies: &Proxies) -> Finding {
    const CHECK: &str = "proxy";
    let (name, address) = match url.scheme() {
        "https" => ("HTTPS_PROXY", &proxies.https),
        _ => ("HTTP_PROXY", &proxies.http),
    };
    let Some(address) = address else {
        return Finding::ok(CHECK, "none");
    };
    if proxies.bypasses(url) {
        return Finding::ok(
            CHECK,
            format!("no proxy for this address, as set by {name} and NO_PROXY"),
        );
    }
    // The URL may contain a password; the host follows it.
    let host = address.rsplit(['@', '/']).find(|part| !part.is_empty());
    Finding::ok(CHECK, format!("{name} is {}", host.unwrap_or_default()))
}

struct Asking {
    client: Client,
    headers: HeaderMap,
}

#[derive(Debug, Deserialize)]
struct BuildInfo {
    #[serde(default)]
    version: String,
    #[serde(default)]
    provisioner_api_version: String,
}

impl Asking {
    /// Returns the status, the headers and the beginning of the body of a response.
    async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), String> {
        let asked = async {
            let response = self
                .client
                .get(url, headers)
                .await
                .map_err(|error| error_chain(&error))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
            let body = if is_upgrade {
                Vec::new()
            } else {
                body(response).await
            };
            Ok((status, headers, body))
        };
        let late = |_| {
            format!(
                "{} did not answer within {} s",
                bare(url),
                TIMEOUT.as_secs()
            )
        };
        timeout(TIMEOUT, asked).await.map_err(late)?
    }

    /// Checks whether the server answers at all, its clock and its version. Returns whether it answered.
    async fn basics(&self, findings: &mut Vec<Finding>) -> bool {
        let url = self.client.endpoint("api/v2/buildinfo");
        let (status, headers, body) = match self.get(&url, &self.headers).await {
            Ok(answer) => answer,
            Err(error) => {
                findings.push(unreachable(error));
                return false;
            }
        };
        let is_secure = self.client.url().scheme() == "https";
        let how = if is_secure {
            "the certificate is trusted"
        } else {
            "none"
        };
        findings.push(Finding::ok("tls", how));
        findings.push(clock(&headers, Timestamp::now()));
        let info = serde_json::from_slice::<BuildInfo>(&body).ok();
        findings.push(match info {
            Some(info) if status.is_success() => version(&info),
            _ => Finding::failed(
                "api version",
                format!("the server answers {status}, which Coder's server does not"),
            )
            .remedy("check the URL and any proxy in front of the server"),
        });
        true
    }

    async fn admission(
        &self,
        organization: &str,
        kind: Kind,
        credential: &Credential,
        tags: &[String],
    ) -> Vec<Finding> {
        let path = format!("api/v2/organizations/{organization}/provisionerdaemons/serve");
        let mut url = self.client.endpoint(&path);
        let mut query = url.query_pairs_mut();
        query.append_pair("version", NO_VERSION);
        query.append_pair("provisioner", "terraform");
        query.append_pair("name", "outpost-doctor");
        for tag in tags.iter().filter(|_| kind != Kind::Key) {
            query.append_pair("tag", tag);
        }
        if kind == Kind::Psk {
            query.append_pair("tag", "scope=organization");
        }
        drop(query);
        let Some((name, value)) = credential.header() else {
            let text = "it has characters that a header cannot carry";
            return vec![Finding::failed("credential", text)];
        };
        let mut headers = self.headers.clone();
        headers.insert(name, value);
        match self.get(&url, &headers).await {
            Ok((status, _, body)) => {
                let answer = serde_json::from_slice(&body).unwrap_or_default();
                judge(status, &answer, kind, tags)
            }
            Err(error) => vec![unreachable(error)],
        }
    }

    /// Checks an upgrade at the relay, where no credential is needed and nothing is recorded.
    async fn websocket(&self) -> Finding {
        const CHECK: &str = "websocket";
        let mut headers = self.headers.clone();
        for (name, value) in [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_PROTOCOL, "derp"),
            (header::SEC_WEBSOCKET_KEY, "b3V0cG9zdCBkb2N0b3IgIQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        const REMEDY: &str = "let proxies on the way pass `Upgrade: websocket`";
        match self.get(&self.client.endpoint("derp"), &headers).await {
            Err(error) => Finding::failed(CHECK, error).remedy(REMEDY),
            Ok((StatusCode::SWITCHING_PROTOCOLS, ..)) => {
                Finding::ok(CHECK, "no proxy on the way to the server blocks it")
            }
            Ok((status, ..)) => {
                let text = format!("unknown: the relay answers {status}");
                Finding::warning(CHECK, text).remedy(format!("if no daemon can connect, {REMEDY}"))
            }
        }
    }
}

async fn body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_ANSWER_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    body
}

fn unreachable(text: String) -> Finding {
    if text.contains("ertificate") {
        return Finding::failed("tls", text).remedy(
            "name the authority with --ca-file, or with --client-tls-ca-file to trust it alone",
        );
    }
    Finding::failed("reach", text).remedy("check address, name resolution, firewall and proxy")
}

fn clock(headers: &HeaderMap, now: Timestamp) -> Finding {
    const CHECK: &str = "clock";
    let date = headers
        .get(header::DATE)
        .and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(date) = date else {
        return Finding::skipped(CHECK, "the server sends no date");
    };
    let skew = now.as_second() - date.timestamp().as_second();
    let found = match skew {
        0.. => format!("ahead of the server's by {skew} s"),
        _ => format!("behind the server's by {} s", -skew),
    };
    let remedy = "synchronize the clock of this machine or of the server";
    match skew.abs() {
        skew if skew <= SKEWS.0 => Finding::ok(CHECK, found),
        skew if skew <= SKEWS.1 => Finding::warning(CHECK, found).remedy(remedy),
        _ => Finding::failed(CHECK, found).remedy(remedy),
    }
}

fn version(info: &BuildInfo) -> Finding {
    const CHECK: &str = "api version";
    let server = &info.version;
    let Some(theirs) = ApiVersion::parse(&info.provisioner_api_version) else {
        return Finding::warning(CHECK, format!("server {server} does not send its version"));
    };
    let (oldest, newest) = (ApiVersion::OLDEST, ApiVersion::NEWEST);
    let found = format!("server {server} has {theirs}, this daemon {oldest} to {newest}");
    if theirs.major == newest.major && theirs >= oldest {
        Finding::ok(CHECK, found)
    } else {
        Finding::failed(CHECK, found)
            .remedy("use releases of server and daemon that are closer together")
    }
}

/// Interprets the refusal of an impossible version, or one that came before it.
fn judge(status: StatusCode, answer: &ErrorAnswer, kind: Kind, tags: &[String]) -> Vec<Finding> {
    let name = match kind {
        Kind::Psk => "pre-shared key",
        Kind::Key => "provisioner key",
        Kind::Token => "user's token",
    };
    let is_past_all = answer
        .validations
        .iter()
        .any(|field| field.field == "version");
    let said = answer.to_string();
    let licensed = || Finding::ok("licence", "external daemons are allowed");
    let known = || Finding::ok("credential", format!("{name} is accepted"));
    match status {
        StatusCode::BAD_REQUEST if is_past_all => {
            vec![licensed(), known(), tags_found(kind, tags)]
        }
        StatusCode::FORBIDDEN if said.contains("Enterprise feature") => {
            let failed = Finding::failed("licence", said);
            vec![failed.remedy("give the server a licence that has external provisioner daemons")]
        }
        StatusCode::UNAUTHORIZED => {
            let remedy = match kind {
                Kind::Psk => "compare it with CODER_PROVISIONER_DAEMON_PSK of the server",
                Kind::Key => "make a new one: coder provisioner keys create NAME",
                Kind::Token => "log in again: coder login URL",
            };
            let failed = Finding::failed("credential", format!("{name} is refused: {said}"));
            vec![licensed(), failed.remedy(remedy)]
        }
        StatusCode::FORBIDDEN => {
            let failed = Finding::failed("tags", said);
            let remedy = "use a provisioner key of the organization, or tags that the user is allowed to serve";
            vec![licensed(), known(), failed.remedy(remedy)]
        }
        StatusCode::NOT_FOUND => {
            let failed = Finding::failed(
                "credential",
                format!("the server has no such organization or path: {said}"),
            );
            vec![
                failed
                    .remedy("check --org, and whether the server has external provisioner daemons"),
            ]
        }
        status => {
            let failed =
                Finding::failed("credential", format!("the server answers {status}: {said}"));
            vec![failed.remedy("see the server's log")]
        }
    }
}

fn tags_found(kind: Kind, tags: &[String]) -> Finding {
    const CHECK: &str = "tags";
    match (kind, tags) {
        (Kind::Key, []) => Finding::ok(CHECK, "those of the key"),
        (Kind::Key, _) => Finding::failed(CHECK, "a provisioner key has tags of its own")
            .remedy("leave out --tag and CODER_PROVISIONERD_TAGS"),
        (_, []) => Finding::ok(CHECK, "none: jobs of untagged templates only"),
        (_, tags) => Finding::ok(
            CHECK,
            format!("{}: no jobs of untagged templates", tags.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    fn results(findings: &[Finding]) -> Vec<(&'static str, Verdict)> {
        findings.iter().map(|it| (it.check, it.result)).collect()
    }

    #[test]
    fn the_first_reason_of_a_refusal_tells_what_was_accepted_before_it() {
        let answer = |text: &str| serde_json::from_str::<ErrorAnswer>(text).unwrap();
        let judged = |status, text: &str| results(&judge(status, &answer(text), Kind::Psk, &[]));
        let (ok, failed) = (Verdict::Ok, Verdict::Failed);

        let version =
            r#"{"message":"Incompatible","validations":[{"field":"version","detail":"no"}]}"#;
        assert_eq!(
            judged(StatusCode::BAD_REQUEST, version),
            [("licence", ok), ("credential", ok), ("tags", ok)]
        );
        let licence = r#"{"message":"External provisioner daemons is an Enterprise feature. Contact sales!"}"#;
        assert_eq!(
            judged(StatusCode::FORBIDDEN, licence),
            [("licence", failed)]
        );
        assert_eq!(
            judged(StatusCode::UNAUTHORIZED, r#"{"message":"none provided"}"#),
            [("licence", ok), ("credential", failed)]
        );
        assert_eq!(
            judged(StatusCode::FORBIDDEN, r#"{"message":"You aren't allowed"}"#),
            [("licence", ok), ("credential", ok), ("tags", failed)]
        );
    }

    #[test]
    fn clocks_are_compared_with_the_servers_date() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::DATE,
            "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap(),
        );
        let at = |seconds: i64| {
            let date = Timestamp::from_second(784_111_777 + seconds).unwrap();
            let finding = clock(&headers, date);
            (finding.result, finding.found)
        };

        assert_eq!(at(2).0, Verdict::Ok);
        let late = "behind the server's by 60 s".to_owned();
        assert_eq!(at(-60), (Verdict::Warning, late));
        assert_eq!(at(3600).0, Verdict::Failed);
    }
}
