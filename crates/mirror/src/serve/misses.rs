//! Misses: the list from which the next bundle is made.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Maximum number of misses, so that clients that request nonsense cannot fill our memory.
const LIMIT: usize = 4096;

/// Maximum length of a name in bytes.
const NAME_BYTES: usize = 256;

/// Kinds of items that can be missing.
const KINDS: [&str; 5] = ["file", "git", "module", "provider", "tool"];

/// Maximum number of items that a client may report at once.
const MAX_REPORTED: usize = 256;

/// An item that a mirror may contain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// Kind of the item: `provider`, `module`, `git`, `tool` or `file`.
    pub kind: &'static str,
    /// Address of the item.
    pub name: String,
    /// Version of the item, if one was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Platform of the item, if one was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl Item {
    /// Returns an item without version and platform.
    pub(crate) fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            version: None,
            platform: None,
        }
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    pub(crate) fn platform(mut self, platform: impl ToString) -> Self {
        self.platform = Some(platform.to_string());
        self
    }

    fn length(&self) -> usize {
        let optional = [&self.version, &self.platform];
        let optional = optional.into_iter().flatten().map(String::len);
        self.name.len() + optional.sum::<usize>()
    }
}

/// Parses a client's report: `{"missing": [{"kind": …, "name": …}]}`, the form of the list itself; `None` if it is
/// not valid.
pub(super) fn reported(text: &[u8]) -> Option<Vec<Item>> {
    #[derive(Deserialize)]
    struct Report {
        missing: Vec<Reported>,
    }
    #[derive(Deserialize)]
    struct Reported {
        kind: String,
        name: String,
        #[serde(default)]
        version: Option<String>,
        #[serde(default)]
        platform: Option<String>,
    }
    let report: Report = serde_json::from_slice(text).ok()?;
    let item = |it: Reported| {
        let is_plain = {
            let parts = [Some(&it.name), it.version.as_ref(), it.platform.as_ref()];
            let mut parts = parts.into_iter().flatten();
            parts.all(|text| !text.is_empty() && !text.contains(char::is_control))
        };
        Some(Item {
            kind: KINDS.into_iter().find(|kind| *kind == it.kind)?,
            name: it.name,
            version: it.version,
            platform: it.platform,
        })
        .filter(|_| is_plain)
    };
    let is_short = report.missing.len() <= MAX_REPORTED;
    let items: Option<Vec<_>> = report.missing.into_iter().map(item).collect();
    items.filter(|_| is_short)
}

/// An item that was requested and is missing.
#[derive(Clone, Debug, Serialize)]
pub struct Miss {
    /// The item that is missing.
    #[serde(flatten)]
    pub item: Item,
    /// Number of requests since the server began.
    pub count: u64,
    /// Time of the last request.
    pub last: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Misses {
    all: Mutex<BTreeMap<Item, (u64, Timestamp)>>,
    pub(super) changed: Notify,
}

impl Misses {
    pub(super) fn add(&self, item: Item) {
        if item.length() > NAME_BYTES {
            return;
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let is_full = all.len() >= LIMIT;
        match all.get_mut(&item) {
            Some((count, last)) => (*count, *last) = (*count + 1, now),
            None if !is_full => {
                tracing::warn!(
                    kind = item.kind,
                    name = item.name,
                    version = item.version,
                    platform = item.platform,
                    "the mirror does not have this"
                );
                all.insert(item, (1, now));
            }
            None => return,
        }
        self.changed.notify_one();
    }

    pub(super) fn list(&self) -> Vec<Miss> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let miss = |(item, (count, last)): (&Item, &(u64, Timestamp))| Miss {
            item: item.clone(),
            count: *count,
            last: *last,
        };
        all.iter().map(miss).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_if_it_is_one() {
        let good =
            br#"{"missing": [{"kind": "git", "name": "git.example/acme/mods", "version": "v7"}]}"#;
        let item = Item::new("git", "git.example/acme/mods").version("v7");
        assert_eq!(reported(good), Some(vec![item.clone()]));
        let written = serde_json::json!({ "missing": [item] }).to_string();
        assert_eq!(reported(written.as_bytes()).unwrap().len(), 1);
        let many = serde_json::json!({ "missing": vec![Item::new("git", "a"); MAX_REPORTED + 1] });
        for bad in [
            "[]",
            r#"{"missing": [{"kind": "gadget", "name": "a"}]}"#,
            r#"{"missing": [{"kind": "git", "name": ""}]}"#,
            r#"{"missing": [{"kind": "git", "name": "a\u001b[2J"}]}"#,
            &many.to_string(),
        ] {
            assert_eq!(reported(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_list_counts_and_does_not_grow_for_ever() {
        let misses = Misses::default();
        for _ in 0..3 {
            misses.add(Item::new("provider", "registry.terraform.io/a/b").version("1.0.0"));
        }
        misses.add(Item::new("file", "x".repeat(1000)));
        for number in 0..2 * LIMIT {
            misses.add(Item::new("module", number.to_string()));
        }

        let list = misses.list();

        assert_eq!((list.len(), misses.count()), (LIMIT, LIMIT));
        let provider = list.iter().find(|miss| miss.item.kind == "provider");
        assert_eq!(provider.unwrap().count, 3);
        let shown = serde_json::to_value(provider).unwrap();
        assert_eq!(shown["version"], "1.0.0");
        assert!(shown.get("platform").is_none(), "{shown}");
    }
}
