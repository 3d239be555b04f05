//! Differences between two generations, for the people who decide what may enter a site.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Digest, Generation};

/// Kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The entry is new.
    Added,
    /// The entry has the same name and other content, which publishers do not do.
    Changed,
    /// The entry was removed.
    Removed,
}

/// An entry that differs between two generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Kind of the difference.
    pub change: Change,
    /// Kind of the entry: `provider`, `module`, `git`, `tool` or `file`.
    pub kind: &'static str,
    /// Address or name of the entry.
    pub name: String,
    /// Version of the entry; empty if it has none.
    pub version: String,
    /// Platform of the entry; empty for all platforms.
    pub platform: String,
    /// Length in bytes; that of the newer one, if there are two.
    pub size: u64,
}

/// Returns all differences, sorted by kind and name.
pub fn compare(old: &Generation, new: &Generation) -> Vec<Difference> {
    let (old, new) = (things(old), things(new));
    let mut differences = Vec::new();
    for (key, (content, size)) in &new {
        match old.get(key) {
            Some((other, _)) if other == content => {}
            Some(_) => differences.push(difference(Change::Changed, key, *size)),
            None => differences.push(difference(Change::Added, key, *size)),
        }
    }
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    differences.extend(gone.map(|(key, (_, size))| difference(Change::Removed, key, *size)));
    differences.sort_by(|a, b| {
        let key = |d: &Difference| (d.kind, d.name.clone(), d.change, d.platform.clone());
        key(a).cmp(&key(b))
    });
    differences
}

/// Kind, name, version and platform of an entry.
type Key = (&'static str, String, String, String);

fn difference(change: Change, (kind, name, version, platform): &Key, size: u64) -> Difference {
    Difference {
        change,
        kind,
        name: name.clone(),
        version: version.clone(),
        platform: platform.clone(),
        size,
    }
}

/// Returns all entries with their digests and their total size.
fn things(generation: &Generation) -> BTreeMap<Key, (Vec<Digest>, u64)> {
    let mut things = BTreeMap::new();
    for provider in &generation.providers {
        for package in &provider.packages {
            let key = (
                "provider",
                provider.addr.to_string(),
                provider.version.to_string(),
                package.platform.to_string(),
            );
            things.insert(key, (vec![package.archive], package.size));
        }
    }
    for module in &generation.modules {
        let key = (
            "module",
            module.addr.clone(),
            module.version.to_string(),
            String::new(),
        );
        things.insert(key, (vec![module.archive], module.size));
    }
    for git in &generation.git {
        let key = ("git", git.url.clone(), String::new(), String::new());
        things.insert(key, (vec![git.pack, git.index], 0));
    }
    for tool in &generation.tools {
        let (version, platform) = (tool.version.to_string(), tool.platform.to_string());
        let key = ("tool", tool.name.clone(), version, platform);
        things.insert(key, (vec![tool.archive], tool.size));
    }
    for file in &generation.files {
        let key = ("file", file.url.clone(), String::new(), String::new());
        things.insert(key, (vec![file.content], file.size));
    }
    things
}
