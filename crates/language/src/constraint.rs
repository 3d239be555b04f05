//! Version constraints in Terraform's syntax: `>= 1.0, < 2.0`, `~> 2.1`, `!= 2.3.0`.

use std::{cmp::Ordering, fmt, str::FromStr};

use semver::{BuildMetadata, Prerelease, Version};

/// A version constraint: acceptable versions satisfy every term. Without terms, all releases do.
///
/// A prerelease is acceptable only if a term names exactly it, and all other terms permit it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Constraint {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Term {
    operator: Operator,
    /// Version of the term; missing parts are zero.
    version: Version,
    /// Number of parts that were given: 1 to 3.
    parts: usize,
}

/// Operators, in the order in which lock files list the terms of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Operator {
    Greater,
    GreaterOrEqual,
    Equal,
    /// Only the last given part may increase.
    Pessimistic,
    LessOrEqual,
    Less,
    NotEqual,
}

/// Longer operators first, so that `>=` is not parsed as `>`.
const OPERATORS: [(&str, Operator); 7] = [
    ("!=", Operator::NotEqual),
    (">=", Operator::GreaterOrEqual),
    ("<=", Operator::LessOrEqual),
    ("~>", Operator::Pessimistic),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("=", Operator::Equal),
];

impl Constraint {
    /// Parses a constraint. An empty text has no terms.
    ///
    /// # Errors
    /// [`ConstraintError`] names the term that is not valid.
    pub fn parse(text: &str) -> Result<Self, ConstraintError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let terms = text.split(',').map(|term| {
            Term::parse(term.trim()).map_err(|reason| ConstraintError {
                text: text.to_owned(),
                term: term.trim().to_owned(),
                reason,
            })
        });
        Ok(Self {
            terms: terms.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the constraint that only this version satisfies.
    pub fn exactly(version: &Version) -> Self {
        Self {
            terms: vec![Term {
                operator: Operator::Equal,
                version: version.clone(),
                parts: 3,
            }],
        }
    }

    /// Returns the version, if only one is acceptable because a term names it.
    pub fn exact(&self) -> Option<&Version> {
        match self.terms.as_slice() {
            [term] if term.operator == Operator::Equal => Some(&term.version),
            _ => None,
        }
    }

    /// Returns whether there is no term, so that every release is acceptable.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Returns whether a version is acceptable.
    pub fn matches(&self, version: &Version) -> bool {
        let names_it =
            |term: &Term| term.operator == Operator::Equal && same(&term.version, version);
        let is_candidate = version.pre.is_empty() || self.terms.iter().any(names_it);
        is_candidate && self.terms.iter().all(|term| term.matches(version))
    }

    /// Returns the newest acceptable version.
    pub fn newest<'a>(
        &self,
        versions: impl IntoIterator<Item = &'a Version>,
    ) -> Option<&'a Version> {
        let acceptable = versions.into_iter().filter(|version| self.matches(version));
        acceptable.max_by(|a, b| a.cmp_precedence(b))
    }

    /// Returns the constraint with the terms of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let terms = self.terms.iter().chain(&other.terms);
        Self {
            terms: terms.cloned().collect(),
        }
    }
}

/// Compares two versions with their build metadata, which is ignored everywhere else.
fn same(left: &Version, right: &Version) -> bool {
    left.cmp_precedence(right) == Ordering::Equal && left.build == right.build
}

impl Term {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let found = OPERATORS.iter().find_map(|(sign, operator)| {
            text.strip_prefix(sign)
                .map(|rest| (*operator, rest.trim_start()))
        });
        let (operator, version) = found.unwrap_or((Operator::Equal, text));
        let (version, parts) = parse_version(version)?;
        if parts < 3 && !(version.pre.is_empty() && version.build.is_empty()) {
            return Err("a prerelease needs all three numbers");
        }
        Ok(Self {
            operator,
            version,
            parts,
        })
    }

    fn matches(&self, version: &Version) -> bool {
        let order = version.cmp_precedence(&self.version);
        match self.operator {
            Operator::Equal => same(&self.version, version),
            Operator::NotEqual => order.is_ne(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Pessimistic => order.is_ge() && version < &self.next(),
        }
    }

    /// Returns the first version above the range of a pessimistic term: `~> 2.1` ends at 3.0.0, `~> 2.1.4` at 2.2.0.
    fn next(&self) -> Version {
        match self.parts {
            3 => Version::new(self.version.major, self.version.minor.saturating_add(1), 0),
            _ => Version::new(self.version.major.saturating_add(1), 0, 0),
        }
    }
}

/// Parses a version with one to three numbers, a prerelease and build metadata.
fn parse_version(text: &str) -> Result<(Version, usize), &'static str> {
    const WRONG: &str = "expected a version such as 1.2.3";
    let (text, build) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
    let numbers: Vec<u64> = numbers
        .split('.')
        .map(|number| number.parse().map_err(|_| WRONG))
        .collect::<Result<_, _>>()?;
    if numbers.is_empty() || numbers.len() > 3 {
        return Err(WRONG);
    }
    let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let version = Version {
        major: number(0),
        minor: number(1),
        patch: number(2),
        pre: Prerelease::new(pre).map_err(|_| WRONG)?,
        build: BuildMetadata::new(build).map_err(|_| WRONG)?,
    };
    Ok((version, numbers.len()))
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS.iter().find(|(_, operator)| operator == self);
        match sign {
            Some(("=", _)) | None => Ok(()),
            Some((sign, _)) => write!(f, "{sign} "),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { major, minor, .. } = self.version;
        match (self.operator, self.parts) {
            (Operator::Pessimistic, 1 | 2) => write!(f, "{}{major}.{minor}", self.operator),
            _ => write!(f, "{}{}", self.operator, self.version),
        }
    }
}

impl fmt::Display for Constraint {
    /// Writes the terms in the form and order of Terraform's lock file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms: Vec<&Term> = self.terms.iter().collect();
        terms.sort_by(|a, b| {
            let versions = a.version.cmp(&b.version);
            versions
                .then(a.operator.cmp(&b.operator))
                .then(b.parts.cmp(&a.parts))
        });
        let mut texts: Vec<String> = terms.iter().map(ToString::to_string).collect();
        texts.dedup();
        f.write_str(&texts.join(", "))
    }
}

/// Returned if a text is not a version constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid version constraint {text:?}: {reason} instead of {term:?}")]
pub struct ConstraintError {
    text: String,
    term: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn matches(constraint: &str, text: &str) -> bool {
        Constraint::parse(constraint)
            .unwrap()
            .matches(&version(text))
    }

    #[test]
    fn terms_accept_what_terraform_accepts() {
        let cases = [
            ("", "1.2.3", true),
            ("1.2.3", "1.2.3", true),
            ("= 1.2", "1.2.0", true),
            ("= 1.2", "1.2.1", false),
            ("!= 1.2.3", "1.2.3", false),
            (">= 1.0, < 2.0", "1.9.9", true),
            (">=1.0,<2.0", "2.0.0", false),
            ("> 1.0.0", "1.0.0", false),
            ("<= 1.0", "1.0.0", true),
            ("~> 2.1", "2.9.0", true),
            ("~> 2.1", "3.0.0", false),
            ("~> 2.1", "2.0.9", false),
            ("~> 2.1.4", "2.1.9", true),
            ("~> 2.1.4", "2.2.0", false),
            ("~> 2", "2.9.9", true),
            ("~> 2", "3.0.0", false),
            ("1.2.3+build", "1.2.3", false),
        ];
        for (constraint, text, expected) in cases {
            assert_eq!(matches(constraint, text), expected, "{constraint} {text}");
        }
    }

    #[test]
    fn a_prerelease_must_be_named() {
        assert!(!matches("", "2.0.0-rc.1"));
        assert!(!matches(">= 1.0", "2.0.0-rc.1"));
        assert!(!matches(">= 2.0.0-rc.1", "2.0.0-rc.1"));
        assert!(!matches("~> 2.0.0-rc.1", "2.0.0-rc.2"));
        assert!(matches("2.0.0-rc.1", "2.0.0-rc.1"));
        assert!(matches("= 2.0.0-rc.1", "2.0.0-rc.1"));
        assert!(!matches("2.0.0-rc.1, < 2.0.0-beta.1", "2.0.0-rc.1"));
    }

    #[test]
    fn the_newest_is_chosen_by_number_and_not_by_text() {
        let versions = ["2.9.0", "2.10.0", "3.0.0", "2.11.0-rc.1"].map(version);

        let newest = Constraint::parse("~> 2.1").unwrap();

        assert_eq!(newest.newest(&versions), Some(&versions[1]));
        assert_eq!(Constraint::parse("> 3.0").unwrap().newest(&versions), None);
    }

    #[test]
    fn two_constraints_together_accept_what_both_accept() {
        let both = Constraint::parse(">= 1.0")
            .unwrap()
            .and(&Constraint::parse("< 2").unwrap());

        assert!(both.matches(&version("1.5.0")) && !both.matches(&version("2.0.0")));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for text in [
            "1.2.3.4",
            "v1.2.3",
            "abc",
            "> ",
            ">= 1.0,",
            "=> 1.0",
            "~> 1.0-beta",
            "1..2",
            "1.2.3 4",
        ] {
            let error = Constraint::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("invalid version constraint {text:?}")),
                "{error}"
            );
        }
    }

    #[test]
    fn constraints_are_written_as_lock_files_write_them() {
        let cases = [
            (">= 1.0", ">= 1.0.0"),
            ("~> 2.1", "~> 2.1"),
            ("~>2.1.0", "~> 2.1.0"),
            ("= 1.2", "1.2.0"),
            ("< 2.0, >= 1.0, >= 1.0.0", ">= 1.0.0, < 2.0.0"),
            // Written by Terraform 1.11.4.
            (
                "2.1.0, >= 2.1.0, <= 2.1.0, ~> 2.1, ~> 2.1.0, < 2.1.1, > 2.0.9, != 2.1.1",
                "> 2.0.9, >= 2.1.0, 2.1.0, ~> 2.1.0, ~> 2.1, <= 2.1.0, < 2.1.1, != 2.1.1",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Constraint::parse(text).unwrap().to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_means_the_same_after_writing(text in "[ =!<>~0-9.,v+a-z-]{0,20}", major in 0u64..4, minor in 0u64..4) {
            if let Ok(constraint) = Constraint::parse(&text) {
                let again = Constraint::parse(&constraint.to_string()).unwrap();
                let version = Version::new(major, minor, 0);
                prop_assert_eq!(constraint.matches(&version), again.matches(&version));
            }
        }
    }
}
