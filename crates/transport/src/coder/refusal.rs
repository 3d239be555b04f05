//! Refusals of a server, and the reactions to them. Pure.

use std::{fmt, time::Duration};

use http::StatusCode;
use serde::Deserialize;

/// Bytes of a foreign response that are shown.
const MAX_SHOWN_BYTES: usize = 200;

/// Body of an error, as Coder writes it.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorAnswer {
    /// Message about the error.
    #[serde(default)]
    pub message: String,
    /// Details about the error; may be empty.
    #[serde(default)]
    pub detail: String,
    /// Errors about single fields.
    #[serde(default)]
    pub validations: Vec<FieldError>,
    /// Set if coderd wrote it, and not something in between.
    #[serde(skip)]
    pub is_coders: bool,
}

/// Error about one field.
#[derive(Debug, Default, Deserialize)]
pub struct FieldError {
    /// Name of the field.
    #[serde(default)]
    pub field: String,
    /// Description of the error.
    #[serde(default)]
    pub detail: String,
}

impl ErrorAnswer {
    /// Parses a body; one that is not Coder's becomes a message as it is.
    pub fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Self>(body) {
            Ok(mut answer) => {
                answer.is_coders = !answer.message.is_empty();
                answer
            }
            Err(_) => {
                let shown = &body[..body.len().min(MAX_SHOWN_BYTES)];
                let message = String::from_utf8_lossy(shown).replace(char::is_control, " ");
                Self {
                    message: message.trim().to_owned(),
                    ..Self::default()
                }
            }
        }
    }
}

impl fmt::Display for ErrorAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.message.is_empty() {
            "no explanation"
        } else {
            &self.message
        })?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        self.validations
            .iter()
            .try_for_each(|field| write!(f, "; {}: {}", field.field, field.detail))
    }
}

/// Reaction that a refusal requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Try again soon: the server is reachable and has problems of its own.
    Retry,
    /// Stay away for the time that the server asks for.
    StayAway(Duration),
    /// Report that the credential is not accepted.
    Unauthorized,
    /// Report that the daemon is not accepted as it is configured.
    Unsuitable,
}

/// Pause after a status 429 without a time, because Coder's limit is per minute.
const A_MINUTE: Duration = Duration::from_secs(60);

impl Reaction {
    /// Chooses the reaction. A status is trusted where coderd can have sent it: a gateway without a server behind it
    /// returns 404, too.
    pub(super) fn to(
        status: StatusCode,
        answer: &ErrorAnswer,
        retry_after: Option<Duration>,
    ) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            // The licence, the organization or the tags: the credential itself is accepted.
            StatusCode::FORBIDDEN => Self::Unsuitable,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND if answer.is_coders => Self::Unsuitable,
            StatusCode::TOO_MANY_REQUESTS => Self::StayAway(retry_after.unwrap_or(A_MINUTE)),
            _ => retry_after.map_or(Self::Retry, Self::StayAway),
        }
    }
}

/// Returns what the operator can do about a status.
pub(super) fn remedy(status: StatusCode, answer: &ErrorAnswer) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "check that the key or token belongs to this server and is still valid, and that the server accepts this kind"
        }
        StatusCode::FORBIDDEN if answer.message.contains("Enterprise feature") => {
            "the server needs a licence for external provisioner daemons"
        }
        StatusCode::FORBIDDEN => "check the organization, the tags and what this user may do",
        StatusCode::BAD_REQUEST => {
            "check the tags, and that no second credential is sent, for example in a header"
        }
        StatusCode::NOT_FOUND if answer.is_coders => "check the organization",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            "check the URL and any proxy in front of the server"
        }
        StatusCode::UPGRADE_REQUIRED => "let the proxy in front of the server pass WebSockets",
        StatusCode::TOO_MANY_REQUESTS => "retrying when the server allows it",
        _ => "retrying",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODERS: &[u8] =
        br#"{"message":"no","detail":"because","validations":[{"field":"tags","detail":"bad"}]}"#;

    #[test]
    fn each_status_has_its_reaction() {
        let soon = Some(Duration::from_secs(7));
        let cases = [
            (400, CODERS, None, Reaction::Unsuitable),
            (400, b"<html>".as_slice(), None, Reaction::Retry),
            (401, CODERS, None, Reaction::Unauthorized),
            (403, CODERS, None, Reaction::Unsuitable),
            (404, CODERS, None, Reaction::Unsuitable),
            (404, b"default backend", None, Reaction::Retry),
            (405, b"", None, Reaction::Retry),
            (426, CODERS, None, Reaction::Retry),
            (
                429,
                CODERS,
                soon,
                Reaction::StayAway(Duration::from_secs(7)),
            ),
            (429, CODERS, None, Reaction::StayAway(A_MINUTE)),
            (500, CODERS, None, Reaction::Retry),
            (502, b"", None, Reaction::Retry),
            (503, b"", soon, Reaction::StayAway(Duration::from_secs(7))),
        ];
        for (status, body, retry_after, expected) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            let reaction = Reaction::to(status, &ErrorAnswer::read(body), retry_after);

            assert_eq!(reaction, expected, "{status}");
        }
    }

    #[test]
    fn an_answer_shows_all_that_it_says() {
        let answer = ErrorAnswer::read(CODERS);

        assert_eq!(answer.to_string(), "no (because); tags: bad");
    }

    #[test]
    fn a_foreign_answer_is_shown_in_one_short_line() {
        let answer = ErrorAnswer::read("<h1>\nx\u{1b}[31m".repeat(100).as_bytes());

        assert!(answer.message.len() <= MAX_SHOWN_BYTES);
        assert!(!answer.message.contains(char::is_control));
    }
}
