//! Authentication of agents and people by their tokens, and admission of daemons: credentials, organization, tags, types,
//! rights and version, checked in the reference's order.

use std::{cmp::Ordering, collections::BTreeMap};

use axum::http::{HeaderMap, StatusCode, header};
use outpost_base::secret::Secret;
use outpost_transport::coder::ApiVersion;
use tracing::warn;
use url::form_urlencoded;
use uuid::Uuid;

use super::{BUILD_VERSION, answer::Refusal};
use crate::{
    model::{AgentRecord, Daemon, Organization, ProvisionerKey},
    plane::{Caller, Credential, Plane, Registration, RequestError},
    tokens,
};

const PSK: &str = "coder-provisioner-daemon-psk";
const KEY: &str = "coder-provisioner-daemon-key";
const SESSION_TOKEN: &str = "coder-session-token";
/// Cookie in which Coder's own programs send the session token when they open a WebSocket.
const SESSION_COOKIE: &str = "coder_session_token";

/// Types of provisioner that Coder knows.
const PROVISIONERS: [&str; 2] = ["terraform", "echo"];

/// Registers the daemon or refuses it. It is registered before its WebSocket is opened.
pub(super) async fn admit(
    plane: &Plane,
    organization: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Daemon, Refusal> {
    let credential = credential(plane, headers).await?;
    let organization = find_organization(plane, organization).await?;
    let asked = Query::read(query);
    let registration = Registration {
        tags: asked.tags()?,
        provisioners: asked.provisioners()?,
        name: asked.name(),
        version: text(headers, BUILD_VERSION.as_str()).unwrap_or_default(),
        api_version: asked.version.clone(),
        organization: Some(organization),
        // Coder's protocol has no field for it.
        came_back: None,
    };
    plane
        .admit(&credential, &registration)
        .await
        .map_err(|error| not_admitted(error, &registration.tags))?;
    // After the permissions, as in the reference, so that `outpost doctor` can test a credential with an impossible
    // version.
    check_version(&asked.version, ApiVersion::NEWEST).map_err(|why| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "Incompatible or unparsable version",
        )
        .at("version", why)
    })?;
    let registered = plane.register(&credential, registration).await;
    registered.map_err(|error| match error {
        // Coder's daemon tries again after a while, when the name may be free.
        RequestError::Conflict(why) => Refusal::new(
            StatusCode::CONFLICT,
            "Name of a provisioner daemon is taken.",
        )
        .because(why),
        error => Refusal::internal(error),
    })
}

/// Returns the person whose session token this is, if it is valid.
pub(super) async fn person(plane: &Plane, headers: &HeaderMap) -> Result<Option<Caller>, Refusal> {
    let Some(token) = session_token(headers) else {
        return Ok(None);
    };
    match plane.authenticate(&token).await {
        Ok(caller) => Ok(Some(caller)),
        Err(RequestError::Unauthenticated(_) | RequestError::Suspended) => Ok(None),
        Err(error) => Err(Refusal::internal(error)),
    }
}

/// Returns whether the session token, if there is one, is that of an agent or a person. Coder's programs send none to
/// a relay.
pub(super) async fn is_known(plane: &Plane, headers: &HeaderMap) -> bool {
    let Some(token) = session_token(headers) else {
        return false;
    };
    plane.agent_by_token(&token).await.is_ok() || plane.authenticate(&token).await.is_ok()
}

/// Returns the provisioner key from the headers.
pub(super) async fn key(plane: &Plane, headers: &HeaderMap) -> Result<ProvisionerKey, Refusal> {
    let key = secret(headers, KEY).ok_or_else(Refusal::unauthenticated)?;
    if key.expose().len() != tokens::LENGTH {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "provisioner daemon key invalid",
        ));
    }
    match plane.daemon_credential(None, Some(&key)).await {
        Ok(Credential::Key(key)) => Ok(key),
        Ok(_) | Err(RequestError::Unauthenticated(_)) => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "provisioner daemon key invalid",
        )),
        Err(error) => Err(Refusal::internal(error)),
    }
}

async fn credential(plane: &Plane, headers: &HeaderMap) -> Result<Credential, Refusal> {
    let person = person(plane, headers).await?;
    let (psk, key) = (secret(headers, PSK), secret(headers, KEY));
    let daemon = match plane.daemon_credential(psk.as_ref(), key.as_ref()).await {
        Ok(credential) => Some(credential),
        Err(RequestError::Unauthenticated(_)) => None,
        Err(error) => return Err(Refusal::internal(error)),
    };
    match (person, daemon) {
        (Some(_), Some(_)) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "API key and external provisioner authentication provided, but only one is allowed",
        )),
        (Some(person), None) => Ok(Credential::Person(person.user)),
        (None, Some(credential)) => Ok(credential),
        (None, None) => Err(Refusal::unauthenticated()),
    }
}

/// Finds an organization by id or name; `default` and the nil UUID mean the default one, whatever its name.
async fn find_organization(plane: &Plane, named: &str) -> Result<Organization, Refusal> {
    let is_default = named == "default" || named.parse() == Ok(Uuid::nil());
    let found = plane
        .organization(if is_default { "" } else { named })
        .await;
    match found {
        // The plane would read an empty name as the default organization.
        Ok(organization) if !named.is_empty() => Ok(organization),
        Ok(_) | Err(RequestError::NotFound { .. }) => Err(Refusal::not_found()),
        Err(error) => Err(Refusal::internal(error)),
    }
}

fn not_admitted(error: RequestError, tags: &BTreeMap<String, String>) -> Refusal {
    match error {
        RequestError::Forbidden(why) => {
            let is_own = tags.get("scope").is_some_and(|scope| scope == "user");
            let scope = if is_own { "user" } else { "organization" };
            let message =
                format!("You aren't allowed to create provisioner daemons with scope {scope:?}");
            Refusal::new(StatusCode::FORBIDDEN, message).because(why)
        }
        RequestError::Invalid(why) => Refusal::new(
            StatusCode::BAD_REQUEST,
            "Given tags are not acceptable to the service",
        )
        .at("tags", why),
        error => Refusal::internal(error),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

fn secret(headers: &HeaderMap, name: &str) -> Option<Secret> {
    text(headers, name).map(Secret::new)
}

/// Session token, from a header of its own or from a cookie.
pub(super) fn session_token(headers: &HeaderMap) -> Option<Secret> {
    let in_cookie = || {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let mut pairs = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='));
        let (_, token) =
            pairs.find(|(name, token)| *name == SESSION_COOKIE && !token.is_empty())?;
        Some(Secret::new(token.trim_matches('"')))
    };
    secret(headers, SESSION_TOKEN).or_else(in_cookie)
}

/// Description of a daemon in its URL's query.
struct Query {
    name: Option<String>,
    version: String,
    provisioners: Vec<String>,
    tags: Vec<String>,
}

impl Query {
    /// Parses the query. If a parameter that is expected once is repeated, its first value counts.
    fn read(query: &str) -> Self {
        let all: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let every = |name: &str| -> Vec<String> {
            let named = all.iter().filter(|(key, _)| key == name);
            named.map(|(_, value)| value.to_string()).collect()
        };
        let first = |name| every(name).into_iter().find(|value| !value.is_empty());
        Self {
            name: first("name"),
            version: first("version").unwrap_or_else(|| "1.0".to_owned()),
            provisioners: every("provisioner"),
            tags: every("tag"),
        }
    }

    fn tags(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let split = self.tags.iter().map(|tag| {
            let (key, value) = tag.split_once('=').ok_or_else(|| {
                let message = format!("Invalid format for tag {tag:?}. It must be KEY=VALUE.");
                Refusal::new(StatusCode::BAD_REQUEST, message)
            })?;
            Ok((key.to_owned(), value.to_owned()))
        });
        split.collect()
    }

    fn provisioners(&self) -> Result<Vec<String>, Refusal> {
        let refused = |message: String| Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        if self.provisioners.is_empty() {
            return refused("The provisioner query parameter must be specified.".to_owned());
        }
        let known = |name: &String| PROVISIONERS.contains(&name.as_str());
        match self.provisioners.iter().find(|name| !known(name)) {
            Some(unknown) => refused(format!("Unknown provisioner type {unknown:?}")),
            None => Ok(self.provisioners.clone()),
        }
    }

    /// Name of the daemon. One without a name gets a random one, which it will not have again, and loses its jobs
    /// with its connection.
    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let name = format!("unnamed-{}", Uuid::new_v4().simple());
            warn!(name, "a daemon gave no name; assigning one");
            name
        })
    }
}

/// Returns the caller whose session token this is.
pub(super) async fn caller(plane: &Plane, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let missing = || {
        let message =
            "You are signed out or your session has expired. Please sign in again to continue.";
        Refusal::new(StatusCode::UNAUTHORIZED, message)
    };
    let token = session_token(headers).ok_or_else(missing)?;
    match plane.authenticate(&token).await {
        Ok(caller) => Ok(caller),
        Err(RequestError::Unauthenticated(_)) => Err(missing()),
        Err(suspended @ RequestError::Suspended) => Err(missing().because(suspended.to_string())),
        // Unlike a daemon, a client gives up at any other error of the server.
        Err(error) => Err(Refusal::unavailable(error)),
    }
}

/// Returns the agent whose session token this is.
pub(super) async fn agent(plane: &Plane, headers: &HeaderMap) -> Result<AgentRecord, Refusal> {
    let unknown = |why: &str| {
        Refusal::new(StatusCode::UNAUTHORIZED, "Workspace agent not authorized.").because(why)
    };
    let token = session_token(headers);
    let token = token.ok_or_else(|| unknown("Coder-Session-Token is missing"))?;
    match plane.agent_by_token(&token).await {
        Ok(agent) => Ok(agent),
        Err(RequestError::Unauthenticated(why)) => Err(unknown(why)),
        Err(error) => Err(Refusal::unavailable(error)),
    }
}

/// Value of a parameter of the query; the first one if it is repeated.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut all = form_urlencoded::parse(query.as_bytes());
    let found = all.find(|(key, value)| key == name && !value.is_empty())?;
    Some(found.1.into_owned())
}

/// Returns whether there is such a parameter, with or without a value.
pub(super) fn has_parameter(query: &str, name: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == name)
}

/// Accepts every minor version up to ours.
///
/// # Source
/// coder `apiversion/apiversion.go`; numbers may have a sign, as Go reads them.
pub(super) fn check_version(asked: &str, ours: ApiVersion) -> Result<(), String> {
    if check_major(asked, ours)? > i64::from(ours.minor) {
        return Err(behind(ours, "minor", asked));
    }
    Ok(())
}

fn behind(ours: ApiVersion, part: &str, asked: &str) -> String {
    format!("server is at version {ours}, behind requested {part} version {asked}")
}

/// Accepts every version with our major number, and returns the minor number.
pub(super) fn check_major(asked: &str, ours: ApiVersion) -> Result<i64, String> {
    let invalid = |what: &str| format!("invalid {what}: {asked}");
    let (major, minor) = asked
        .split_once('.')
        .filter(|(_, minor)| !minor.contains('.'))
        .ok_or_else(|| invalid("version string"))?;
    let major: i64 = major.parse().map_err(|_| invalid("major version"))?;
    let minor: i64 = minor.parse().map_err(|_| invalid("minor version"))?;
    match major.cmp(&i64::from(ours.major)) {
        Ordering::Greater => Err(behind(ours, "major", asked)),
        Ordering::Less => Err(format!("version {asked} is no longer supported")),
        Ordering::Equal => Ok(minor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_up_to_ours_is_accepted_and_others_say_why_not() {
        for accepted in ["1.0", "1.1", "1.18", "1.20", "1.-1"] {
            assert_eq!(
                check_version(accepted, ApiVersion::NEWEST),
                Ok(()),
                "{accepted}"
            );
        }
        let refused = [
            (
                "1.21",
                "server is at version 1.20, behind requested minor version 1.21",
            ),
            (
                "2.0",
                "server is at version 1.20, behind requested major version 2.0",
            ),
            ("0.9", "version 0.9 is no longer supported"),
            ("1", "invalid version string: 1"),
            ("1.2.3", "invalid version string: 1.2.3"),
            ("x.1", "invalid major version: x.1"),
            ("1.x", "invalid minor version: 1.x"),
        ];
        for (asked, why) in refused {
            assert_eq!(
                check_version(asked, ApiVersion::NEWEST),
                Err(why.to_owned()),
                "{asked}"
            );
        }
    }

    #[test]
    fn a_session_token_comes_in_its_header_or_in_a_cookie() {
        let token = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let found = session_token(&HeaderMap::from_iter(headers));
            found.map(|token| token.expose().to_owned())
        };
        let cookie = ("cookie", "a=b; coder_session_token=two; c=d");

        assert_eq!(token(&[cookie]).as_deref(), Some("two"));
        let both = token(&[(SESSION_TOKEN, "one"), cookie]);
        assert_eq!(both.as_deref(), Some("one"));
        assert_eq!(token(&[("cookie", "coder_session_token=; x")]), None);
        assert_eq!(token(&[]), None);
    }

    #[test]
    fn of_what_may_come_once_the_first_counts() {
        let query = Query::read(
            "name=a&name=b&version=1.18&version=1.2&tag=x%3D1&tag=y%3D&provisioner=echo",
        );

        assert_eq!(query.name(), "a");
        assert_eq!(query.version, "1.18");
        let tags = query.tags().unwrap();
        assert_eq!((&tags["x"][..], &tags["y"][..]), ("1", ""));
        assert_eq!(Query::read("").version, "1.0");
        assert_ne!(Query::read("").name(), Query::read("name=").name());
    }
}
