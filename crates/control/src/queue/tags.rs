//! Tags of jobs and daemons. Pure.

use std::{collections::BTreeMap, fmt};

use outpost_base::rules::text::is_control;
use serde::{Deserialize, Serialize};

use crate::model::UserId;

const SCOPE: &str = "scope";
const OWNER: &str = "owner";

/// Tags that follow the server's rules: `scope` and `owner` are always present, and only the value of `owner` may be
/// empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<String, String>);

/// A tag that the server does not accept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("tag {0:?} contains a control character")]
pub struct BadTag(pub String);

impl Default for Tags {
    /// Returns the tags that apply if none are given.
    fn default() -> Self {
        Self::from_given(None, BTreeMap::new()).unwrap_or_else(|_| Self(BTreeMap::new()))
    }
}

impl Tags {
    /// Applies the server's rules to `given`.
    ///
    /// Entries without a value are dropped. A `scope` that is not `user` becomes `organization`, which has no owner;
    /// with `user` the owner is `user`, whatever was given. A daemon with a key does not belong to a user: its owner
    /// is the nil UUID, which no job has.
    ///
    /// # Errors
    /// [`BadTag`] for a name or value with a control character.
    ///
    /// # Source
    /// coder `provisionersdk/provisionertags.go`, `MutateTags`.
    pub fn from_given(
        user: Option<UserId>,
        given: BTreeMap<String, String>,
    ) -> Result<Self, BadTag> {
        if let Some((name, _)) = given
            .iter()
            .find(|(name, value)| name.contains(is_control) || value.contains(is_control))
        {
            return Err(BadTag(name.clone()));
        }
        let mut tags = given;
        tags.retain(|_, value| !value.is_empty());
        if tags.get(SCOPE).is_some_and(|scope| scope == "user") {
            let owner = user.map_or_else(uuid::Uuid::nil, |user| user.0);
            tags.insert(OWNER.to_owned(), owner.to_string());
        } else {
            tags.insert(SCOPE.to_owned(), "organization".to_owned());
            tags.insert(OWNER.to_owned(), String::new());
        }
        Ok(Self(tags))
    }

    /// Adds `more`, which win, and applies the rules again.
    ///
    /// # Errors
    /// As [`Self::from_given`].
    pub fn merged(
        &self,
        user: Option<UserId>,
        more: BTreeMap<String, String>,
    ) -> Result<Self, BadTag> {
        let mut tags = self.0.clone();
        tags.extend(more);
        Self::from_given(user, tags)
    }

    /// All tags, sorted by name.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Returns whether these are the tags that apply if none are given.
    pub fn are_plain(&self) -> bool {
        self.0.len() == 2 && self.0.get(OWNER).is_some_and(String::is_empty)
    }

    /// Value of `owner` in lower case: part of a daemon's identity.
    pub fn owner(&self) -> String {
        self.0
            .get(OWNER)
            .map(|owner| owner.to_lowercase())
            .unwrap_or_default()
    }

    /// Returns whether a daemon with these tags may take a job with the tags `wanted`.
    ///
    /// # Source
    /// coder `coderd/database/dump.sql`, `provisioner_tagset_contains`.
    pub fn satisfy(&self, wanted: &Self) -> bool {
        if wanted.are_plain() {
            return self == wanted;
        }
        wanted
            .0
            .iter()
            .all(|(name, value)| self.0.get(name) == Some(value))
    }
}

impl fmt::Display for Tags {
    /// Formats the tags as `name=value`, separated by spaces; `untagged` if there are only the implied ones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_plain() {
            return f.write_str("untagged");
        }
        let shown = self.0.iter().filter(|(name, value)| {
            let implied =
                *name == OWNER && value.is_empty() || *name == SCOPE && *value == "organization";
            !implied
        });
        for (index, (name, value)) in shown.enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}
