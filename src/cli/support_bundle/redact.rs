//! Removal of secrets from texts.

use regex::Regex;

use crate::secret::Secret;

/// Length of the shortest secret that is removed: shorter ones would match in ordinary words.
const MIN_SECRET_BYTES: usize = 4;
/// Text in place of a secret.
const REDACTED: &str = "[redacted]";

/// Secrets to remove from texts.
pub(super) struct Redaction {
    secrets: Vec<Secret>,
    /// Patterns of a password in a URL and of a credential in a header.
    patterns: [Regex; 2],
}

impl Redaction {
    /// Prepares the removal of `secrets`, of passwords in URLs and of credentials in headers.
    pub(super) fn new(mut secrets: Vec<Secret>) -> Self {
        secrets.retain(|secret| secret.expose().len() >= MIN_SECRET_BYTES);
        // A secret that contains another one must go first.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        let pattern = |text| Regex::new(text).expect("the pattern is ours");
        Self {
            secrets,
            patterns: [
                pattern(r"(://[^/@\s:]*:)[^/@\s]+(@)"),
                pattern(
                    r"(?i)((?:authorization|[a-z-]*token|[a-z-]*-psk|[a-z-]*-key): *)\S[^\r\n]*()",
                ),
            ],
        }
    }

    /// Returns the text without secrets.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.expose(), REDACTED);
        }
        for pattern in &self.patterns {
            text = pattern
                .replace_all(&text, format!("${{1}}{REDACTED}${{2}}"))
                .into_owned();
        }
        text
    }
}

/// Returns whether a variable of this name is likely to contain a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "SECRET",
        "TOKEN",
        "PASSWORD",
        "PASSWD",
        "PSK",
        "KEY",
        "CREDENTIAL",
        "HEADER",
        "AUTH",
    ];
    let name = name.to_uppercase();
    WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_wherever_they_stand() {
        let redaction = Redaction::new(
            ["hunter2", "hunter2-and-more", "a"]
                .map(Secret::new)
                .to_vec(),
        );

        let text = "psk hunter2, hunter2-and-more; proxy http://bob:pw@proxy:3128/ a\nCoder-Session-Token: xyz abc\nend";

        let expected = "psk [redacted], [redacted]; proxy http://bob:[redacted]@proxy:3128/ a\nCoder-Session-Token: [redacted]\nend";
        assert_eq!(redaction.apply(text), expected);
    }

    #[test]
    fn names_tell_secrets() {
        assert!(is_secret_name("AWS_SECRET_ACCESS_KEY") && is_secret_name("github_token"));
        assert!(!is_secret_name("PATH") && !is_secret_name("CODER_URL"));
    }
}
