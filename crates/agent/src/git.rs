//! Credentials for git from a workspace's server: the owner's key, and passwords for hosts.
//!
//! # Source
//! coder `cli/gitssh.go`, `cli/gitaskpass.go`, `cli/gitauth/askpass.go`.

use std::time::Duration;

use outpost_base::secret::Secret;
use outpost_net::{back_off::BackOff, http::Client};
use serde::Deserialize;
use url::Url;

use super::{identity::Credential, rest};

/// Longest time that the owner may take to log in on a web page.
const LOGIN: Duration = Duration::from_secs(15 * 60);

/// SSH key of the owner, as the server keeps it.
pub struct Key {
    /// Public half, for hosts that accept the owner's key.
    pub public: String,
    /// Private half, for `ssh` alone.
    pub private: Secret,
}

/// Fetches the owner's key; `None` if the server keeps none.
///
/// # Errors
/// If the server cannot be reached, or refuses.
pub async fn key(server: &Client, credential: &Credential) -> anyhow::Result<Option<Key>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        public_key: String,
        #[serde(default)]
        private_key: String,
    }
    let answer: Option<Answer> = rest::fetch(server, credential, "gitsshkey", &[]).await?;
    let answer = answer.filter(|answer| !answer.private_key.is_empty());
    Ok(answer.map(|answer| Key {
        public: answer.public_key.trim().to_owned(),
        private: Secret::new(answer.private_key),
    }))
}

/// Question that git asks by running `GIT_ASKPASS` with a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// Set if git asks for the user name and not for the password.
    is_name: bool,
    /// URL of the host, without a user.
    host: Url,
}

impl Question {
    /// Parses a text such as `Password for 'https://amy@git.example.com': `.
    pub fn read(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        if !matches!(words.next()?, "Username" | "Password") {
            return None;
        }
        let place = words.nth(1)?;
        let place = place.trim_start_matches(['"', '\'']);
        let place = place.trim_end_matches(['"', '\'', ':']);
        let mut host: Url = place.parse().ok()?;
        if !matches!(host.scheme(), "http" | "https") || !host.has_host() {
            return None;
        }
        // Git names the user once it knows one, and then wants the password.
        let is_name = host.username().is_empty();
        // Neither can fail for an address that has a host.
        let _ = host.set_username("");
        let _ = host.set_password(None);
        Some(Self { is_name, host })
    }
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// URL at which the owner has to log in first; empty if they have.
    #[serde(default)]
    url: String,
}

/// Answers git; `None` if the server does not know that host. `tell` is called with the page at which the owner has
/// to log in first, and the login is waited for.
///
/// # Errors
/// If the server cannot be reached, or refuses, or nobody logs in.
pub async fn answer(
    server: &Client,
    credential: &Credential,
    question: &Question,
    tell: impl FnOnce(&str),
) -> anyhow::Result<Option<Secret>> {
    // The server compares with a pattern that its operator wrote for hosts without a slash.
    let host = question.host.as_str().trim_end_matches('/');
    let query = [("match", host)];
    let login: Option<Login> = rest::fetch(server, credential, "external-auth", &query).await?;
    let Some(mut login) = login else {
        return Ok(None);
    };
    if !login.url.is_empty() {
        tell(&login.url);
        let logging_in = log_in(server, credential, host);
        let late = |_| anyhow::anyhow!("timed out waiting for a login at {}", login.url);
        login = tokio::time::timeout(LOGIN, logging_in)
            .await
            .map_err(late)?;
    }
    let has_password = !login.password.is_empty();
    Ok(Some(Secret::new(match has_password && !question.is_name {
        true => login.password,
        false => login.username,
    })))
}

/// Waits for the login. The server answers once it is known, or not at all; then it is asked again.
async fn log_in(server: &Client, credential: &Credential, host: &str) -> Login {
    let mut back_off = BackOff::default();
    loop {
        back_off.wait().await;
        let query = [("match", host), ("listen", "true")];
        let asked = rest::fetch::<Login>(server, credential, "external-auth", &query).await;
        if let Ok(Some(login)) = asked
            && login.url.is_empty()
        {
            return login;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_s_questions_are_read_and_others_are_not() {
        let question = |text: &str| {
            let read = Question::read(text)?;
            Some((read.is_name, read.host.to_string()))
        };
        for (text, is_name, host) in [
            (
                "Username for 'https://git.example.com': ",
                true,
                "https://git.example.com/",
            ),
            (
                "Password for 'https://amy@git.example.com:8443': ",
                false,
                "https://git.example.com:8443/",
            ),
            ("Username for \"http://h\"", true, "http://h/"),
        ] {
            assert_eq!(question(text), Some((is_name, host.to_owned())), "{text}");
        }
        for text in [
            "",
            "Username",
            "Passphrase for 'https://h': ",
            "Password for 'ssh://h': ",
            "Password for key: ",
        ] {
            assert_eq!(question(text), None, "{text}");
        }
    }
}
