//! Checks that modules and tags are the same as when the mirror first saw them. Branches may move.

use std::collections::BTreeMap;

use outpost_base::{
    error_chain::error_chain,
    registry::{Hash, h1_of_names},
};
use semver::Version;

use super::{Known, Module, Origins, tree_of, was_cut};
use crate::{
    Digest, Store, StoreError,
    generation::GitRepository,
    git::{Repository, full_names, place, tags},
    scan::{Source, Tree},
    sync::{
        Cause,
        pins::{Checksums, MODULE, Tags},
    },
};

impl Origins<'_> {
    /// Pins the files of a module before it is used.
    ///
    /// # Errors
    /// If they differ from those that the mirror first saw; `known` records that as well.
    pub(super) async fn pin(
        &self,
        addr: &str,
        version: &Version,
        tree: &Tree,
        known: &mut Known,
    ) -> Result<(), String> {
        let (trust, now) = (&self.sync.trust, checksums(tree)?);
        let pinned = match trust.accepts(addr, version) {
            true => {
                let replaced = trust.replace_release(addr, version, now).await;
                replaced.map_err(Cause::from)
            }
            false => trust.same_release(self.before, addr, version, now).await,
        };
        pinned.map_err(|why| {
            let said = error_chain(&why);
            known.changed.push((format!("{addr} {version}"), why));
            said
        })
    }

    /// Checks whether a module in the mirror is still the same at its origin. A failed request proves no change.
    pub(super) async fn check_unchanged(&self, module: &Module, known: &mut Known) {
        let Module { addr, version, .. } = module;
        if let Err(why) = self.compare(module, known).await {
            self.sync.watch.note(&format!(
                "{addr} {version}: cannot check with its origin whether it is unchanged: {why}"
            ));
        }
    }

    async fn compare(&self, module: &Module, known: &mut Known) -> Result<(), String> {
        let (host, path) = module.addr.split_once('/').unwrap_or_default();
        let source = self.location(host, path, &module.version).await?;
        let is_elsewhere = !module.origin.starts_with(&source.to_string());
        let is_accepted = |url: &str, tag: &Option<String>| {
            let tag = tag.as_deref().unwrap_or_default();
            self.sync.trust.accepts_tag(place(url), tag)
        };
        match &source {
            // The operator who accepts a moved tag has to know which modules use it.
            Source::Git { url, reference, .. } if !is_elsewhere && !is_accepted(url, reference) => {
                let reference = reference.as_deref().unwrap_or_default();
                self.compare_tag(url, reference, known).await
            }
            source => {
                // This is only a check: the mirror keeps its modules, and its repositories in their present state.
                let (kept, downloads) = (known.kept.clone(), known.downloads);
                let repositories = known.repositories.clone();
                let located = self.located(source, known).await;
                (known.kept, known.downloads) = (kept, downloads);
                known.repositories = repositories;
                // `pin` has recorded the problem.
                let _ = self
                    .pin(&module.addr, &module.version, &located?.tree, known)
                    .await;
                Ok(())
            }
        }
    }

    /// Compares a tag with its pin. A commit cannot change, and a branch may.
    async fn compare_tag(&self, url: &str, name: &str, known: &mut Known) -> Result<(), String> {
        let place = place(url);
        if !known.listed.contains_key(place) {
            let (refs, _) = Repository::remote(url, &self.sync.authorities)
                .await
                .map_err(|error| error_chain(&error))?;
            known.listed.insert(place.to_owned(), refs);
        }
        let listed = &known.listed[place];
        let names = full_names(name);
        let named = names.iter().find_map(|name| listed.get_key_value(name));
        let one = named.map(|(name, object)| (name.clone(), object.clone()));
        let mut all = self.before.git.iter();
        let before = all.find(|git| git.place() == place);
        let one = BTreeMap::from_iter(one);
        let moved = self.moved(place, &one, before, known).await;
        moved.map(drop).map_err(|error| error_chain(&error))
    }

    /// Returns whether a tag of a repository differs from its pin; `known` records that. New tags are pinned.
    pub(super) async fn moved(
        &self,
        place: &str,
        refs: &BTreeMap<String, String>,
        before: Option<&GitRepository>,
        known: &mut Known,
    ) -> Result<bool, StoreError> {
        let of = |refs: &BTreeMap<String, String>| -> Tags {
            let tags = tags(refs).map(|(tag, object)| (tag.to_owned(), object.to_owned()));
            tags.collect()
        };
        let has = before.map(|before| of(&before.refs)).unwrap_or_default();
        let moved = self.sync.trust.moved_tags(place, has, of(refs)).await?;
        let is_moved = !moved.is_empty();
        let of_place = moved.into_iter().map(|why| (place.to_owned(), why.into()));
        for (what, why) in of_place {
            let is_known = |(known, cause): &(String, Cause)| {
                *known == what && cause.to_string() == Cause::to_string(&why)
            };
            if !known.changed.iter().any(is_known) {
                known.changed.push((what, why));
            }
        }
        Ok(is_moved)
    }
}

fn checksums(tree: &Tree) -> Result<Checksums, String> {
    let contents = contents(tree).ok_or("a file name has a line feed")?;
    Ok([(MODULE.to_owned(), contents)].into())
}

/// Returns the digest of a module's files, regardless of their archive: forges make archives anew with other bytes
/// and the same content. `None` if a file name has a line feed.
fn contents(tree: &Tree) -> Option<Digest> {
    let files = tree.files.iter();
    let files = files.map(|(name, file)| (name.clone(), Digest::of(&file.content).0));
    match h1_of_names(files.collect()).ok()? {
        Hash::H1(digest) => Some(Digest(digest)),
        Hash::Zh(_) | Hash::Other { .. } => None,
    }
}

/// Returns the same digest for a module in the mirror; `None` if it cannot be read, or lacks files. Blocks.
pub(in crate::sync) fn contents_of(store: &Store, module: &Module) -> Option<Digest> {
    let tree = tree_of(store, module.archive).ok()?;
    contents(&tree).filter(|_| !was_cut(module, &tree))
}
