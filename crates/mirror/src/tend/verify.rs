//! Verification of everything in a store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::SystemTime,
};

use outpost_base::stop::Stop;
use outpost_files as files;
use serde::Serialize;

use super::index::{self, IndexState};
use crate::{
    Digest, Generation, Store, StoreError,
    bundle::Trust,
    generation::{Package, Signed},
    publisher,
    pulled::Ledger,
};

/// Maximum size of a list of checksums, a signature or a key in bytes; the largest lists have some hundred thousand.
const MAX_TEXT_BYTES: u64 = 8 << 20;

/// Result of a verification.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// Number of generations that were read.
    pub generations: usize,
    /// Authentication of the index of each generation.
    pub indexes: Vec<IndexState>,
    /// Number of files that were read.
    pub files: usize,
    /// Number of bytes that were read.
    pub bytes: u64,
    /// Number of unpacked packages that were compared.
    pub trees: usize,
    /// All problems that were found.
    pub problems: Vec<Problem>,
}

/// A problem with something in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Name of the item.
    pub what: String,
    /// Description of the problem.
    pub why: String,
    /// Path of what is damaged. Once it is moved aside it is provided anew: a file or a generation by the next sync
    /// or import, unpacked files by the next job.
    pub damaged: Option<PathBuf>,
}

impl Problem {
    pub(super) fn new(what: impl ToString, why: impl ToString) -> Self {
        Self {
            what: what.to_string(),
            why: why.to_string(),
            damaged: None,
        }
    }
}

impl Verified {
    /// Moves damaged items aside, so that they are provided anew; returns their number. The holder of `lock` is the
    /// only one to change the store.
    ///
    /// # Errors
    /// The system's error.
    pub fn repair(
        &self,
        store: &Store,
        now: SystemTime,
        lock: &files::Lock,
    ) -> Result<usize, StoreError> {
        let damaged = self.problems.iter();
        // Several entries of one index may be damaged.
        let damaged: BTreeSet<_> = damaged.filter_map(|it| it.damaged.as_deref()).collect();
        for path in &damaged {
            let generations = self.indexes.iter().map(|index| index.generation);
            match { generations }.find(|number| store.index_path(*number) == **path) {
                Some(number) => drop(store.put_generation_aside(number, now, lock)?),
                None => store.put_aside(path, now)?,
            }
        }
        Ok(damaged.len())
    }
}

/// Options of a verification.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `true` to examine every package as well, and to verify its publisher's signature again.
    pub deep: bool,
    /// Keys whose signatures over indexes are trusted.
    pub trust: Trust,
    /// `true` if one of them must have signed the index of the current generation.
    pub must_be_signed: bool,
}

/// Verifies all generations, their files, and the packages that are unpacked.
///
/// # Errors
/// The system's error, and [`StoreError::Stopped`].
pub fn verify(store: &Store, wanted: &Wanted, stop: &Stop) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let mut names: BTreeMap<Digest, String> = BTreeMap::new();
    let mut packages: BTreeMap<Digest, Package> = BTreeMap::new();
    let mut signed: BTreeMap<Digest, (Signed, BTreeSet<String>)> = BTreeMap::new();
    let (mut tools, mut older) = (BTreeMap::new(), None);
    let current = store.current()?;
    for number in store.generations()? {
        verified.generations += 1;
        let (generation, state) =
            index::check(store, number, older, &wanted.trust, &mut verified.problems)?;
        if store.inventory_path(number).exists() {
            older = Some(number);
        }
        if wanted.must_be_signed && current == Some(number) && state.signed_by.is_empty() {
            let why = "no trusted key has signed its index; `outpost mirror sync --key`, `bundle --key` and `import` do";
            let name = format!("generation {number}");
            verified.problems.push(Problem::new(name, why));
        }
        verified.indexes.push(state);
        let Some(generation) = generation else {
            continue;
        };
        let of_one = generation.tools.iter();
        tools.extend(of_one.map(|tool| (tool.archive, tool.filename.clone())));
        names.extend(generation.named(generation.digests()));
        let of_one = generation
            .providers
            .iter()
            .flat_map(|provider| &provider.packages);
        packages.extend(of_one.map(|package| (package.archive, package.clone())));
        sums(&generation, &mut signed);
    }
    verified.files = names.len();
    let (bytes, found) = blobs(store, &names, stop)?;
    verified.bytes = bytes;
    packages.retain(|archive, _| !found.contains_key(archive));
    let mut problems = of_files(store, current, found)?;
    for package in packages.values() {
        if stop.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        if let Some(tree) = store.unpacked(package.archive) {
            verified.trees += 1;
            let found = store.verify_tree(package.archive, Some(&package.h1_tree));
            problems.extend(found.err().map(|why| Problem {
                damaged: Some(tree),
                ..Problem::new(&package.filename, why)
            }));
        }
        if wanted.deep
            && let Err(error) = store.check_package(package)
        {
            problems.push(Problem::new(&package.filename, error));
        }
    }
    for (archive, filename) in tools {
        if stop.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        if let Some(tree) = store.unpacked(archive) {
            verified.trees += 1;
            let found = store.verify_tree(archive, None);
            problems.extend(found.err().map(|why| Problem {
                damaged: Some(tree),
                ..Problem::new(filename, why)
            }));
        }
    }
    if wanted.deep {
        for (signed, lines) in signed.values() {
            let name = names.get(&signed.shasums).cloned().unwrap_or_default();
            if let Err(why) = signature(store, signed, lines) {
                problems.push(Problem::new(name, why));
            }
        }
    }
    verified.problems.extend(problems);
    verified.problems.sort();
    Ok(verified)
}

/// Reads all files with all processors; returns the number of bytes, and the problems by file.
fn blobs(
    store: &Store,
    names: &BTreeMap<Digest, String>,
    stop: &Stop,
) -> Result<(u64, BTreeMap<Digest, Problem>), StoreError> {
    let work: Vec<_> = names.iter().collect();
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let problems = Mutex::new(BTreeMap::new());
    let run = || {
        while let Some((digest, name)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.is_cancelled() {
                return;
            }
            match store.verify(**digest) {
                Ok(size) => drop(bytes.fetch_add(size, Ordering::Relaxed)),
                Err(error) => {
                    let path = store.path(**digest);
                    let problem = match path.exists() {
                        true => Problem {
                            damaged: Some(path),
                            ..Problem::new(*name, error)
                        },
                        false => Problem::new(*name, "its file is missing"),
                    };
                    let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
                    problems.insert(**digest, problem);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(work.len()));
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    match stop.is_cancelled() {
        true => Err(StoreError::Stopped),
        false => Ok((
            bytes.into_inner(),
            problems
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        )),
    }
}

/// Returns problems of files, except pulled packages that were evicted and are named only by earlier generations.
fn of_files(
    store: &Store,
    current: Option<u64>,
    mut found: BTreeMap<Digest, Problem>,
) -> Result<Vec<Problem>, StoreError> {
    if !found.is_empty() {
        let mut gone = Ledger::of(store).gone()?;
        if let Some(Ok((_, current))) = current.map(|number| store.unchecked(number)) {
            let needed = current.digests();
            gone.retain(|digest| !needed.contains(digest));
        }
        found.retain(|digest, problem| problem.damaged.is_some() || !gone.contains(digest));
    }
    Ok(found.into_values().collect())
}

/// Collects the lines that the signed lists of checksums must contain.
fn sums(generation: &Generation, all: &mut BTreeMap<Digest, (Signed, BTreeSet<String>)>) {
    let mut add = |signed: &Option<Signed>, archive: Digest, name: &str| {
        if let Some(signed) = signed {
            let entry = all.entry(signed.shasums);
            let (_, lines) = entry.or_insert_with(|| (signed.clone(), BTreeSet::new()));
            lines.insert(format!("{archive}  {name}"));
        }
    };
    for provider in &generation.providers {
        for package in &provider.packages {
            add(&provider.signed, package.archive, &package.filename);
        }
    }
    for tool in &generation.tools {
        add(&tool.signed, tool.archive, &tool.filename);
    }
}

fn signature(store: &Store, signed: &Signed, lines: &BTreeSet<String>) -> Result<(), String> {
    let sums = text(store, signed.shasums)?;
    let signature = text(store, signed.signature)?;
    let mut keys = Vec::new();
    for key in &signed.keys {
        let armored = String::from_utf8(text(store, key.armored)?);
        keys.push(armored.map_err(|_| format!("the key {} is not UTF-8", key.id))?);
    }
    // Whether an expired key is accepted was decided when the files entered the mirror.
    let known: Vec<_> = keys
        .iter()
        .filter_map(|key| publisher::fingerprint_of(key))
        .collect();
    publisher::verify(&sums, &signature, &keys, &known).map_err(|error| error.to_string())?;
    let sums = String::from_utf8_lossy(&sums);
    let there: BTreeSet<_> = sums.lines().map(str::trim_end).collect();
    match lines.iter().find(|line| !there.contains(line.as_str())) {
        Some(line) => Err(format!("the publisher did not sign `{line}`")),
        None => Ok(()),
    }
}

fn text(store: &Store, digest: Digest) -> Result<Vec<u8>, String> {
    let file: fs::File = store.open_blob(digest).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    let read = file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut content);
    read.map_err(|error| error.to_string())?;
    match content.len() as u64 > MAX_TEXT_BYTES {
        true => Err(format!("it has more than {MAX_TEXT_BYTES} bytes")),
        false => Ok(content),
    }
}
