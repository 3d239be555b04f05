//! Facts in the packages themselves: the texts of their licences, and the Go modules that programs were built from.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
};

use semver::Version;
use serde_json::{Value, json};
use zip::ZipArchive;

use super::licence;
use crate::{
    Digest, Generation, Store, StoreError,
    bundle::{BundleError, Watch},
    generation::Module,
    sync::tree_of,
    vulnerabilities,
};

/// Maximum size of a licence in bytes; the longest on SPDX's list has 110 thousand.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum number of licences of one package.
const MOST: usize = 64;

/// Licences and Go modules that were found in the packages of a generation.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// Licences by the digests of their packages.
    licences: BTreeMap<Digest, BTreeSet<License>>,
    /// Paths and versions of Go modules, by the program's reference in the document.
    modules: BTreeMap<String, Vec<(String, Version)>>,
}

/// A file with a licence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct License {
    /// Path of the file in the package.
    path: String,
    digest: Digest,
    /// SPDX's identifier, if the text is exactly that of a licence in our list.
    name: Option<&'static str>,
}

/// Reads the packages of a generation. Packages that are not in the store, because a bundle may omit them, are
/// skipped.
///
/// # Errors
/// [`BundleError`] if a package cannot be read, or if the user stops the work.
pub fn look(
    store: &Store,
    generation: &Generation,
    watch: Watch<'_>,
) -> Result<Inside, BundleError> {
    let mut there = generation.clone();
    for provider in &mut there.providers {
        provider
            .packages
            .retain(|package| store.has(package.archive));
    }
    there.tools.retain(|tool| store.has(tool.archive));
    let mut inside = Inside::default();
    for program in vulnerabilities::programs(store, &there, watch)? {
        if let Some(modules) = program.modules {
            inside.modules.insert(program.reference, modules);
        }
    }
    let packages = there.providers.iter().flat_map(|it| &it.packages);
    let packages = packages.map(|it| (it.archive, &it.filename));
    let tools = there.tools.iter().map(|it| (it.archive, &it.filename));
    for (archive, name) in packages.chain(tools) {
        watch.advance(0)?;
        let found = of_zip(store, archive, name)?;
        inside.licences.insert(archive, found);
    }
    for module in generation.modules.iter().filter(|it| store.has(it.archive)) {
        watch.advance(0)?;
        inside
            .licences
            .insert(module.archive, of_module(store, module)?);
    }
    Ok(inside)
}

impl Inside {
    pub(super) fn licences(&self, package: Digest) -> impl Iterator<Item = &License> {
        self.licences.get(&package).into_iter().flatten()
    }

    pub(super) fn modules(&self, reference: &str) -> &[(String, Version)] {
        self.modules.get(reference).map_or(&[], Vec::as_slice)
    }
}

impl License {
    fn new(path: &str, content: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            digest: Digest::of(content),
            name: str::from_utf8(content).ok().and_then(licence::name),
        }
    }

    /// Returns an element of `licenses`, with SPDX's identifier, or else the name of the file.
    pub(super) fn to_json(&self) -> Value {
        let properties = json!([
            { "name": "outpost:file", "value": self.path },
            { "name": "outpost:sha256", "value": self.digest.to_string() },
        ]);
        match self.name {
            Some(name) => json!({ "license": { "id": name, "properties": properties } }),
            None => json!({ "license": { "name": self.path, "properties": properties } }),
        }
    }
}

/// Returns licences at the top of a zip file, where packages of providers and engines have them.
fn of_zip(store: &Store, archive: Digest, name: &str) -> Result<BTreeSet<License>, BundleError> {
    let failed = |source: io::Error| BundleError::Read {
        entry: name.to_owned(),
        source,
    };
    let file = store.open_blob(archive)?;
    let mut zip = ZipArchive::new(file).map_err(|it| failed(it.into()))?;
    let mut found = BTreeSet::new();
    for index in 0..zip.len() {
        let entry = zip.by_index(index).map_err(|it| failed(it.into()))?;
        let path = entry.name().map_err(|it| failed(it.into()))?.into_owned();
        let is_one = entry.is_file() && !path.contains('/') && licence::is_licence(&path);
        if !is_one || entry.size() > MAX_BYTES || found.len() >= MOST {
            continue;
        }
        let mut content = Vec::new();
        entry
            .take(MAX_BYTES)
            .read_to_end(&mut content)
            .map_err(failed)?;
        found.insert(License::new(&path, &content));
    }
    Ok(found)
}

/// Returns licences in the directory of a module, and in those above it.
fn of_module(store: &Store, module: &Module) -> Result<BTreeSet<License>, StoreError> {
    let tree = tree_of(store, module.archive)?;
    let is_above = |dir: &str| {
        let rest = module.dir.strip_prefix(dir);
        dir.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let licences = tree.files.iter().filter(|(path, file)| {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        licence::is_licence(name) && is_above(dir) && file.content.len() as u64 <= MAX_BYTES
    });
    let licences = licences.map(|(path, file)| License::new(path, &file.content));
    Ok(licences.take(MOST).collect())
}
