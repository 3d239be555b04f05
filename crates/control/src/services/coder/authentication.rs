//! Authentication of requests in Coder's wire protocols: an agent or a person by its session token, a daemon by its
//! pre-shared key, its provisioner key or a person's token.

use axum::http::{HeaderMap, StatusCode, header};
use outpost_base::secret::Secret;

use super::answer::Refusal;
use crate::{
    model::{AgentRecord, ProvisionerKey},
    plane::{Caller, Credential, Plane, RequestError},
    tokens,
};

const PSK: &str = "coder-provisioner-daemon-psk";
const KEY: &str = "coder-provisioner-daemon-key";
const SESSION_TOKEN: &str = "coder-session-token";
/// Cookie in which Coder's own programs send the session token when they open a WebSocket.
const SESSION_COOKIE: &str = "coder_session_token";

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

/// Returns the only credential of a daemon in the headers.
pub(super) async fn credential(plane: &Plane, headers: &HeaderMap) -> Result<Credential, Refusal> {
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

pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
