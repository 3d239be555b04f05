//! Version of the daemon's API to announce: the newest that both sides know. Pure.
//!
//! # Source
//! coder `apiversion/apiversion.go`: a server accepts its own minor version and all before it.

use std::fmt;

use super::refusal::ErrorAnswer;

/// Version of the daemon's API, ordered by release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Major number: 1 in all servers so far.
    pub major: u16,
    /// Minor number, which grows with each addition.
    pub minor: u16,
}

impl ApiVersion {
    /// Newest version that we speak.
    pub const NEWEST: Self = Self {
        major: 1,
        minor: 20,
    };
    /// Oldest version that we work with: before it, templates lose their dynamic parameters.
    pub const OLDEST: Self = Self { major: 1, minor: 6 };

    /// First version without AI tasks: their fields are reserved, and templates with any number of them are accepted.
    const WITHOUT_AI_TASKS: Self = Self {
        major: 1,
        minor: 19,
    };

    /// First version whose servers pass the order of scripts on to agents: Coder 2.39.
    const WITH_SCRIPT_ORDER: Self = Self {
        major: 1,
        minor: 20,
    };

    /// Parses a version of the form `major.minor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// Returns the version to announce to a server of version `self`; `None` if there is none that both can work
    /// with.
    pub fn agree(self) -> Option<Self> {
        let common = self.min(Self::NEWEST);
        (self.major == Self::NEWEST.major && common >= Self::OLDEST).then_some(common)
    }

    /// Returns whether a server of this version has AI tasks.
    pub(super) fn has_ai_tasks(self) -> bool {
        self < Self::WITHOUT_AI_TASKS
    }

    /// Returns whether a server of this version passes the order of scripts on to agents.
    pub(super) fn has_script_order(self) -> bool {
        self >= Self::WITH_SCRIPT_ORDER
    }

    /// Parses the version in a refusal such as `server is at version 1.18, behind requested minor version 1.20`.
    pub(super) fn in_refusal(answer: &ErrorAnswer) -> Option<Self> {
        let fields = answer.validations.iter();
        let texts = fields
            .filter(|field| field.field == "version")
            .map(|field| &field.detail);
        texts.chain([&answer.detail]).find_map(|text| {
            let (_, rest) = text.split_once("server is at version ")?;
            Self::parse(rest.split([',', ' ']).next()?)
        })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::refusal::FieldError, *};

    #[test]
    fn the_version_is_read_from_a_refusal() {
        for (field, detail) in [
            (
                "version",
                "server is at version 1.18, behind requested minor version 1.20",
            ),
            (
                "version",
                "server is at version 1.18, behind requested major version 2.0",
            ),
        ] {
            let answer = ErrorAnswer {
                validations: vec![FieldError {
                    field: field.to_owned(),
                    detail: detail.to_owned(),
                }],
                ..ErrorAnswer::default()
            };

            let expected = ApiVersion::parse("1.18");
            assert_eq!(ApiVersion::in_refusal(&answer), expected);
        }
    }

    #[test]
    fn the_older_of_both_versions_is_announced_unless_it_is_too_old() {
        let agreed = |text| ApiVersion::parse(text)?.agree();

        for minor in 6..=20 {
            let version = ApiVersion { major: 1, minor };
            assert_eq!(version.agree(), Some(version));
        }
        let ordered = |text| ApiVersion::parse(text).unwrap().has_script_order();
        assert_eq!((ordered("1.19"), ordered("1.20")), (false, true));
        assert_eq!(agreed("1.99"), Some(ApiVersion::NEWEST));
        assert_eq!(agreed("1.5"), None);
        assert_eq!(agreed("2.0"), None);
        assert_eq!(agreed("0.99"), None);
    }
}
