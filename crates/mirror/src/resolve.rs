//! Selection of versions. Pure: versions in, versions out.

use std::{fmt, str::FromStr};

use outpost_language::{Constraint, ConstraintError};
use semver::Version;
use serde::Deserialize;

/// Selection among the versions that satisfy a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Versions in lock files, and no others.
    Locked,
    /// The newest version, whatever lock files contain.
    Newest,
    /// The newest version, and those in lock files.
    #[serde(rename = "locked+newest")]
    LockedNewest,
    /// All versions, and those in lock files.
    AllMatching,
    /// The newest few versions, and those in lock files.
    LastN,
}

impl Policy {
    /// Returns the number of newest versions that are wanted; `keep` is used where the policy leaves it open.
    pub fn count(self, keep: usize) -> usize {
        match self {
            Self::Locked => 0,
            Self::Newest => 1,
            Self::LockedNewest => keep.max(1),
            Self::LastN => keep,
            Self::AllMatching => usize::MAX,
        }
    }

    /// Returns whether versions in lock files are wanted.
    pub(crate) fn wants_locked(self) -> bool {
        !matches!(self, Self::Newest)
    }
}

/// An element of `versions`: a constraint, `newest`, or for example `newest-3`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Pick {
    /// The newest few releases.
    Newest(usize),
    /// Versions that satisfy this constraint.
    Matching(Constraint),
}

impl Default for Pick {
    fn default() -> Self {
        Self::Newest(1)
    }
}

impl FromStr for Pick {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = match text.trim().strip_prefix("newest") {
            Some("") => Some(1),
            Some(rest) => rest.strip_prefix('-').and_then(|count| count.parse().ok()),
            None => None,
        };
        match count {
            Some(count) => Ok(Self::Newest(count)),
            None => Constraint::parse(text).map(Self::Matching),
        }
    }
}

impl TryFrom<String> for Pick {
    type Error = ConstraintError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest(1) => f.write_str("newest"),
            Self::Newest(count) => write!(f, "newest-{count}"),
            Self::Matching(constraint) => write!(f, "{constraint}"),
        }
    }
}

impl Pick {
    /// Returns the version if the constraint permits only one.
    pub fn exact(&self) -> Option<Version> {
        match self {
            Self::Newest(_) => None,
            Self::Matching(constraint) => constraint.exact().cloned(),
        }
    }

    /// Returns the selected versions, newest first; `count` is the maximum number of those that match.
    pub fn choose<'a>(
        &self,
        versions: impl IntoIterator<Item = &'a Version>,
        count: usize,
    ) -> Vec<&'a Version> {
        let any = Constraint::default();
        let (constraint, count) = match self {
            Self::Newest(own) => (&any, (*own).max(count)),
            Self::Matching(constraint) => (constraint, count),
        };
        let fits = |version: &&Version| constraint.matches(version);
        let mut chosen: Vec<_> = versions.into_iter().filter(fits).collect();
        chosen.sort_by(|a, b| b.cmp(a));
        chosen.dedup();
        chosen.truncate(count);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: [&str; 7] = [
        "1.0.0",
        "1.1.0",
        "1.1.1",
        "2.0.0-rc1",
        "2.0.0",
        "2.1.0",
        "3.0.0-beta",
    ];

    fn chosen(pick: &str, count: usize) -> Vec<String> {
        let versions: Vec<Version> = PUBLISHED.iter().map(|v| v.parse().unwrap()).collect();
        let pick: Pick = pick.parse().unwrap();
        let chosen = pick.choose(&versions, count);
        chosen.into_iter().map(Version::to_string).collect()
    }

    #[test]
    fn policies_take_the_newest_some_or_all_that_match() {
        assert_eq!(chosen("~> 1.0", Policy::Newest.count(0)), ["1.1.1"]);
        assert_eq!(chosen("< 2.1", Policy::LastN.count(2)), ["2.0.0", "1.1.1"]);
        assert_eq!(
            chosen("~> 1.1", Policy::AllMatching.count(0)),
            ["1.1.1", "1.1.0"]
        );
        assert!(chosen("~> 1.1", Policy::Locked.count(3)).is_empty());
        assert_eq!(chosen("newest-3", 1), ["2.1.0", "2.0.0", "1.1.1"]);
    }

    #[test]
    fn a_prerelease_is_taken_only_by_its_own_name() {
        assert_eq!(chosen("", 1), ["2.1.0"]);
        assert_eq!(chosen("3.0.0-beta", 1), ["3.0.0-beta"]);
        assert!(chosen(">= 3.0.0-beta", 9).is_empty());
    }

    #[test]
    fn a_wish_reads_back_as_it_was_written() {
        for text in ["newest", "newest-2", "~> 1.0", ">= 1.0.0, < 2.0.0"] {
            assert_eq!(text.parse::<Pick>().unwrap().to_string(), text);
        }
        assert!("newest-many".parse::<Pick>().is_err());
    }
}
