//! The inventory of a generation: digests of all entries of its index, written when the generation is made.
//!
//! A comparison with the inventory reveals entries of an index that were changed, added or removed. Each inventory
//! names its predecessor, so that none can be replaced alone. The inventory is signed if there is a key; an imported
//! generation has the signatures of its bundle.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Generation, generation::Provider};

/// Comment of signatures over inventories. It contains no time, so that the same inventory always gives the same
/// signature.
pub(crate) const COMMENT: &str = "inventory of a mirror's generation";

/// Format of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "outpost-inventory/1")]
    One,
}

/// Digests of a generation's index and of its entries when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    format: Format,
    /// Number of the generation.
    pub generation: u64,
    /// Digest of the index as it was written.
    pub index: Digest,
    /// The previously current generation; `None` if there was none, or if it has no inventory.
    pub before: Option<Before>,
    /// All entries of the index, such as `module HOST/NAMESPACE/NAME/SYSTEM 1.2.0`, with digests of their content.
    pub entries: BTreeMap<String, Digest>,
}

/// The generation that was current before another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// Number of the generation.
    pub generation: u64,
    /// Digest of its inventory.
    pub inventory: Digest,
}

/// Difference between an entry of an index and the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the index has the entry.
    Added,
    /// Only the inventory has the entry.
    Removed,
    /// Both have the entry, with different content.
    Changed,
}

impl Change {
    /// Returns the past participle, for messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl Inventory {
    /// Returns the inventory of a generation whose index has this text.
    pub fn new(number: u64, index: &[u8], generation: &Generation, before: Option<Before>) -> Self {
        Self {
            format: Format::One,
            generation: number,
            index: Digest::of(index),
            before,
            entries: entries(generation),
        }
    }

    /// Returns the entries of a generation that differ from this inventory, by name.
    pub fn differences(&self, generation: &Generation) -> Vec<(String, Change)> {
        compare(&self.entries, entries(generation))
    }
}

/// Returns the entries that differ between two generations, by name.
pub fn differences(before: &Generation, after: &Generation) -> Vec<(String, Change)> {
    compare(&entries(before), entries(after))
}

fn compare(
    recorded: &BTreeMap<String, Digest>,
    mut found: BTreeMap<String, Digest>,
) -> Vec<(String, Change)> {
    let mut changes = BTreeMap::new();
    for (name, digest) in recorded {
        match found.remove(name) {
            None => drop(changes.insert(name.clone(), Change::Removed)),
            Some(now) if now != *digest => drop(changes.insert(name.clone(), Change::Changed)),
            Some(_) => {}
        }
    }
    changes.extend(found.into_keys().map(|name| (name, Change::Added)));
    changes.into_iter().collect()
}

fn entries(generation: &Generation) -> BTreeMap<String, Digest> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, said: Digest| {
        all.insert(name, said);
    };
    for provider in &generation.providers {
        let name = format!("provider {} {}", provider.addr, provider.version);
        for package in &provider.packages {
            add(format!("{name} {}", package.platform), said(package));
        }
        let without_packages = Provider {
            packages: Vec::new(),
            ..provider.clone()
        };
        add(name, said(&without_packages));
    }
    for module in &generation.modules {
        add(
            format!("module {} {}", module.addr, module.version),
            said(module),
        );
    }
    for git in &generation.git {
        for (name, commit) in &git.refs {
            add(
                format!("reference {name} of {}", git.url),
                Digest::of(commit.as_bytes()),
            );
        }
        add(
            format!("repository {}", git.url),
            said(&(&git.head, git.pack, git.index)),
        );
    }
    for tool in &generation.tools {
        add(
            format!("tool {} {} {}", tool.name, tool.version, tool.platform),
            said(tool),
        );
    }
    for file in &generation.files {
        add(format!("file {}", file.url), said(file));
    }
    for image in &generation.images {
        add(format!("image {}", image.reference), said(image));
    }
    all
}

/// Returns the digest of an entry of the index.
fn said(thing: &impl Serialize) -> Digest {
    let text = serde_json::to_vec(thing);
    Digest::of(&text.expect("entries of an index have names for keys, and nothing else fails"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{GitRepository, Module};

    fn module(version: &str) -> Module {
        Module {
            addr: "registry.example/acme/demo/coder".to_owned(),
            version: version.parse().unwrap(),
            archive: Digest::of(version.as_bytes()),
            size: 1,
            origin: String::new(),
            dir: String::new(),
        }
    }

    #[test]
    fn every_change_of_an_entry_has_its_name() {
        let url = "https://git.example/acme/demo.git";
        let commit = "0".repeat(40);
        let git = |refs: &[&str]| GitRepository {
            url: url.to_owned(),
            refs: refs
                .iter()
                .map(|name| ((*name).to_owned(), commit.clone()))
                .collect(),
            head: None,
            pack: Digest::of(b"pack"),
            index: Digest::of(b"index"),
        };
        let before = Generation {
            modules: vec![module("1.0.0"), module("1.1.0")],
            git: vec![git(&["refs/tags/v1", "refs/tags/v2"])],
            ..Generation::default()
        };
        let inventory = Inventory::new(1, b"{}", &before, None);
        assert!(inventory.differences(&before).is_empty());
        let mut after = before.clone();
        after.modules[0].archive = Digest::of(b"another");
        after.modules[1] = module("1.2.0");
        after.git = vec![git(&["refs/tags/v2", "refs/tags/v3"])];

        let found = inventory.differences(&after);

        let found: Vec<_> = found
            .iter()
            .map(|(name, change)| format!("{name}: {}", change.word()))
            .collect();
        assert_eq!(
            found,
            [
                "module registry.example/acme/demo/coder 1.0.0: changed",
                "module registry.example/acme/demo/coder 1.1.0: removed",
                "module registry.example/acme/demo/coder 1.2.0: added",
                &format!("reference refs/tags/v1 of {url}: removed"),
                &format!("reference refs/tags/v3 of {url}: added"),
            ]
        );
    }
}
