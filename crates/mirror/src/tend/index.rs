//! Authentication of a generation's index: a comparison with its inventory, and its signatures.

use std::collections::BTreeSet;

use serde::Serialize;

use super::verify::Problem;
use crate::{
    Digest, Generation, Store, StoreError,
    bundle::{BundleError, Reader, Trust},
    inventory::{self, Change},
    keys::KeyId,
};

/// Authentication of a generation's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IndexState {
    /// Number of the generation.
    pub generation: u64,
    /// `true` if the index matches an inventory. Generations of older releases have none.
    pub has_inventory: bool,
    /// Trusted keys that signed the inventory.
    pub signed_by: BTreeSet<KeyId>,
    /// Keys that signed it, or claim so, and are not trusted here.
    pub untrusted: BTreeSet<KeyId>,
}

/// Returns the authentication of a generation's index, with all problems. Reads no file of the generation.
///
/// # Errors
/// The system's error.
pub fn index_state(
    store: &Store,
    number: u64,
    trust: &Trust,
) -> Result<(IndexState, Vec<Problem>), StoreError> {
    let mut older = store.generations()?.into_iter().rev();
    let older = older.find(|older| *older < number && store.inventory_path(*older).exists());
    let mut problems = Vec::new();
    let (_, state) = check(store, number, older, trust, &mut problems)?;
    Ok((state, problems))
}

/// Compares the index of a generation with its inventory and its signatures. Returns the generation, if it can be
/// read.
pub(super) fn check(
    store: &Store,
    number: u64,
    older: Option<u64>,
    trust: &Trust,
    problems: &mut Vec<Problem>,
) -> Result<(Option<Generation>, IndexState), StoreError> {
    let mut check = Check {
        store,
        number,
        trust,
        problems,
        state: IndexState {
            generation: number,
            has_inventory: false,
            signed_by: BTreeSet::new(),
            untrusted: BTreeSet::new(),
        },
    };
    let generation = check.run(older)?;
    Ok((generation, check.state))
}

struct Check<'a> {
    store: &'a Store,
    number: u64,
    trust: &'a Trust,
    problems: &'a mut Vec<Problem>,
    state: IndexState,
}

impl Check<'_> {
    fn run(&mut self, older: Option<u64>) -> Result<Option<Generation>, StoreError> {
        let (text, generation) = match self.store.unchecked(self.number) {
            Ok(read) => read,
            Err(error @ StoreError::Index { .. }) => {
                self.damaged(None, error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let inventory = match self.store.inventory(self.number) {
            Ok(inventory) => inventory,
            Err(error @ (StoreError::Index { .. } | StoreError::TooLong { .. })) => {
                self.damaged(None, error);
                return Ok(Some(generation));
            }
            Err(error) => return Err(error),
        };
        match (inventory, older) {
            (Some((inventory, signed)), _) => {
                let before = self.problems.len();
                let is_its = inventory.generation == self.number;
                let changes = inventory.differences(&generation);
                if !is_its || changes.is_empty() && inventory.index != Digest::of(&text) {
                    self.damaged(None, "its index or its inventory was modified");
                }
                self.differ(changes);
                if let Some(link) = inventory.before
                    && let Some((_, text)) = self.store.inventory(link.generation)?
                    && Digest::of(&text) != link.inventory
                {
                    let why = format!(
                        "the inventory of generation {}, its predecessor, has changed",
                        link.generation
                    );
                    self.problems.push(Problem::new(self.name(None), why));
                }
                self.signatures(&signed)?;
                self.state.has_inventory = self.problems.len() == before;
            }
            (None, Some(older)) => {
                let why = format!(
                    "it has no inventory, although generation {older} has one: the inventory was removed, or an older release of outpost made the generation"
                );
                self.problems.push(Problem::new(self.name(None), why));
            }
            (None, None) => {}
        }
        self.bundle(&generation)?;
        Ok(Some(generation))
    }

    fn name(&self, entry: Option<&str>) -> String {
        match entry {
            Some(entry) => format!("{entry} in generation {}", self.number),
            None => format!("generation {}", self.number),
        }
    }

    fn damaged(&mut self, entry: Option<&str>, why: impl ToString) {
        self.problems.push(Problem {
            damaged: Some(self.store.index_path(self.number)),
            ..Problem::new(self.name(entry), why)
        });
    }

    fn differ(&mut self, changes: Vec<(String, Change)>) {
        for (entry, change) in changes {
            let why = format!("{} after the generation was made", change.word());
            self.damaged(Some(&entry), why);
        }
    }

    fn signatures(&mut self, signed: &[u8]) -> Result<(), StoreError> {
        for (id, signature) in self.store.signatures(self.number)? {
            let keys = self.trust.keys.iter();
            let mut keys = keys.filter(|key| !self.trust.revoked.contains(&key.id));
            let Some(key) = keys.find(|key| key.id == id) else {
                self.state.untrusted.insert(id);
                continue;
            };
            match signature.and_then(|signature| signature.verify(key, signed)) {
                Ok(()) => drop(self.state.signed_by.insert(id)),
                Err(error) => self.damaged(None, format!("its inventory is refused: {error}")),
            }
        }
        Ok(())
    }

    /// Compares the generation with the manifest of the bundle that it came from.
    fn bundle(&mut self, generation: &Generation) -> Result<(), StoreError> {
        let Some(head) = self.store.bundle_head(self.number)? else {
            return Ok(());
        };
        let verified = Reader::new(head.as_slice())
            .head()
            .and_then(|head| Ok((head.signers()?, head.verify(self.trust))));
        match verified {
            Ok((_, Ok(verified))) => {
                let said = &verified.manifest.generation;
                self.differ(inventory::differences(said, generation));
                self.state
                    .signed_by
                    .extend(verified.rotated.values().map(|key| key.id));
            }
            Ok((signers, Err(BundleError::Untrusted { .. }))) => {
                self.state.untrusted.extend(signers);
            }
            Ok((_, Err(error))) | Err(error) => {
                self.damaged(None, format!("its bundle's manifest is refused: {error}"));
            }
        }
        Ok(())
    }
}
