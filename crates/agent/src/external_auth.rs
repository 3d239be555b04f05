//! External auth: tokens of other services that the server keeps for a workspace's owner.
//!
//! # Source
//! coder `codersdk/agentsdk/agentsdk.go` `ExternalAuth`, `cli/externalauth.go`; tidwall/gjson for paths.

use outpost_base::secret::Secret;
use outpost_net::http::Client;
use serde::Deserialize;
use serde_json::Value;

use super::{identity::Credential, rest};

/// Answer of the server about the owner's login at a provider.
#[derive(Debug)]
pub enum ExternalAuth {
    /// A token that the server has validated.
    Token {
        /// Token for the provider's API.
        access_token: Secret,
        /// Extra properties of the OAuth token, if there are any.
        extra: Option<Value>,
    },
    /// URL where the owner has to log in first.
    LogIn(String),
}

/// Fetches the owner's token for `provider`, an id; `None` if the server has no such provider.
///
/// # Errors
/// If the server cannot be reached, or refuses.
pub async fn fetch(
    server: &Client,
    credential: &Credential,
    provider: &str,
) -> anyhow::Result<Option<ExternalAuth>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        access_token: String,
        #[serde(default)]
        token_extra: Option<Value>,
        #[serde(default)]
        url: String,
    }
    let query = [("id", provider)];
    let answer: Option<Answer> = rest::fetch(server, credential, "external-auth", &query).await?;
    Ok(answer.map(|answer| match answer.url.as_str() {
        "" => ExternalAuth::Token {
            access_token: Secret::new(answer.access_token),
            extra: answer.token_extra,
        },
        _ => ExternalAuth::LogIn(answer.url),
    }))
}

/// Returns the value at a path such as `authed_user.id`: keys and indexes, `\.` for a dot in a key, `#` for the length
/// of a list. Missing values and null are empty; lists and objects are JSON.
pub fn at_path(value: &Value, path: &str) -> String {
    let mut at = Some(value.clone());
    for key in keys(path) {
        at = at.and_then(|value| match value {
            Value::Object(mut all) => all.remove(&key),
            Value::Array(all) if key == "#" => Some(all.len().into()),
            Value::Array(mut all) => {
                let place = key.parse().ok().filter(|place| *place < all.len())?;
                Some(all.swap_remove(place))
            }
            _ => None,
        });
    }
    match at {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    }
}

fn keys(path: &str) -> Vec<String> {
    let (mut keys, mut key, mut letters) = (Vec::new(), String::new(), path.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '.' => keys.push(std::mem::take(&mut key)),
            '\\' => key.extend(letters.next()),
            _ => key.push(letter),
        }
    }
    keys.push(key);
    keys
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_through_objects_and_lists() {
        let value = json!({
            "authed_user": { "id": "U1", "scopes": ["read", "write"], "age": 7 },
            "a.b": true,
            "nothing": null,
        });
        for (path, expected) in [
            ("authed_user.id", "U1"),
            ("authed_user.scopes.1", "write"),
            ("authed_user.scopes.2", ""),
            ("authed_user.scopes.#", "2"),
            ("authed_user.scopes", r#"["read","write"]"#),
            ("authed_user.age", "7"),
            (r"a\.b", "true"),
            ("a.b", ""),
            ("nothing", ""),
            ("authed_user.id.x", ""),
        ] {
            assert_eq!(at_path(&value, path), expected, "{path}");
        }
    }
}
