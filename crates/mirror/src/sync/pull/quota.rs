//! The limit for pulled packages: the least recently used one is evicted when a new one needs its room.
//!
//! It is removed from the current generation first, and its file after that, so that no generation names a missing
//! file:
//!
//! 1. its entry of the ledger marks it as leaving;
//! 2. a generation without it becomes current;
//! 3. its file is removed, and its entry marks it as gone.
//!
//! A crash in between leaves an entry by which the next pull continues. Packages from a sync or an import, packages
//! that a client is downloading, and those that are unpacked for jobs of this machine stay, as do the pins of evicted
//! ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use outpost_files as files;
use semver::Version;

use crate::{
    Digest, Generation, Store, StoreError,
    pulled::{self, Entry, Known, Ledger, PulledArchive, State, leave_out},
    resolve::Pick,
    sync::MirrorConfig,
};

/// Counts of pulled packages in a server's metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes of pulled packages in the mirror.
    pub bytes: AtomicU64,
    /// Number of evicted packages.
    pub(crate) evicted: AtomicU64,
    /// Total size of evicted packages in bytes.
    pub(crate) evicted_bytes: AtomicU64,
}

/// Limit for pulled packages. Clones share the same counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Quota {
    pub(super) max_bytes: Option<u64>,
    pub(super) counts: Arc<Counts>,
    downloads: Arc<Mutex<HashMap<Digest, Vec<Weak<File>>>>>,
}

/// Reason why there is no room for a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QuotaError {
    /// The package alone exceeds the limit.
    #[error(
        "it has {bytes} bytes, more than `--pull-through-max-size` allows for everything that is pulled ({max_bytes}): its \
         operator can raise that, or bring it with `outpost mirror sync`"
    )]
    TooLarge {
        /// Length of the package in bytes.
        bytes: u64,
        /// Limit for all packages in bytes.
        max_bytes: u64,
    },
    /// Packages that are in use leave no room.
    #[error(
        "no room within `--pull-through-max-size` ({max_bytes} bytes): {used} bytes of what was pulled are being downloaded, \
         or unpacked for jobs on the mirror's machine; try again, or its operator can raise the limit"
    )]
    InUse {
        /// Bytes of packages that cannot be evicted.
        used: u64,
        /// Limit for all packages in bytes.
        max_bytes: u64,
    },
}

impl Quota {
    /// Returns a limit of `max_bytes`, or none.
    pub(super) fn new(max_bytes: Option<u64>) -> Self {
        Self {
            max_bytes,
            ..Self::default()
        }
    }

    /// Records that a client is about to download an archive: it stays until `file` is dropped.
    pub(super) fn serve(&self, digest: Digest, file: &Arc<File>) {
        let mut all = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, files| {
            files.retain(|file| file.strong_count() > 0);
            !files.is_empty()
        });
        all.entry(digest).or_default().push(Arc::downgrade(file));
    }

    fn is_downloaded(&self, digest: Digest) -> bool {
        let all = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let files = all.get(&digest).into_iter().flatten();
        files.into_iter().any(|file| file.strong_count() > 0)
    }

    /// Determines what has to be evicted from `old`, the current generation, for new pulled packages. The caller adds
    /// those, calls [`Room::leave_out`], commits, and then calls [`Room::finish`]. Blocks.
    ///
    /// `is_pinned` returns whether a package must stay in any case.
    pub(super) fn make_room(
        &self,
        store: &Store,
        [old, pulled]: [&Generation; 2],
        is_pinned: impl Fn(&PulledArchive) -> bool,
        _lock: &files::Lock,
    ) -> Result<Result<Room, QuotaError>, StoreError> {
        let ledger = Ledger::of(store);
        let before = old.digests();
        let mut fresh = pulled::archives(pulled);
        fresh.retain(|digest, _| !before.contains(digest));
        let mut all = ledger.all()?;
        all.retain(|digest, _| !fresh.contains_key(digest));
        settle(store, &ledger, &mut all, &before)?;
        all.retain(|digest, known| known.entry.state == State::Here && store.has(*digest));
        let needed: u64 = fresh.values().map(|entry| entry.bytes).sum();
        let is_free = |digest: Digest, thing: &PulledArchive| {
            !self.is_downloaded(digest) && store.unpacked(digest).is_none() && !is_pinned(thing)
        };
        let leaving = match self.victims(&all, needed, is_free) {
            Ok(leaving) => leaving,
            Err(error) => {
                discard(store, fresh.into_keys().collect())?;
                return Ok(Err(error));
            }
        };
        // Entries precede the generation: an archive without one would never be evicted.
        for (digest, entry) in &fresh {
            ledger.write(*digest, entry)?;
        }
        for (digest, known) in &leaving {
            ledger.set(*digest, known, State::Leaving)?;
        }
        let there: u64 = all.values().map(|known| known.entry.bytes).sum();
        Ok(Ok(Room {
            leaving,
            bytes: there + needed,
        }))
    }

    /// Returns the least recently used archives that must be evicted so that `needed` bytes have room.
    fn victims(
        &self,
        all: &BTreeMap<Digest, Known>,
        needed: u64,
        is_free: impl Fn(Digest, &PulledArchive) -> bool,
    ) -> Result<BTreeMap<Digest, Known>, QuotaError> {
        let Some(max_bytes) = self.max_bytes else {
            return Ok(BTreeMap::new());
        };
        if needed > max_bytes {
            let bytes = needed;
            return Err(QuotaError::TooLarge { bytes, max_bytes });
        }
        let mut used: u64 = all.values().map(|known| known.entry.bytes).sum();
        let mut oldest: Vec<_> = all
            .iter()
            .filter(|(digest, known)| is_free(**digest, &known.entry.thing))
            .collect();
        oldest.sort_by_key(|(digest, known)| (known.used, **digest));
        let mut victims = BTreeMap::new();
        for (digest, known) in oldest {
            if used + needed <= max_bytes {
                break;
            }
            used -= known.entry.bytes;
            victims.insert(*digest, known.clone());
        }
        match used + needed <= max_bytes {
            true => Ok(victims),
            false => Err(QuotaError::InUse { used, max_bytes }),
        }
    }

    /// Updates the counts without a change. Blocks.
    pub(super) fn count(&self, store: &Store) -> Result<(), StoreError> {
        let all = Ledger::of(store).all()?.into_iter();
        let here =
            all.filter(|(digest, known)| known.entry.state != State::Gone && store.has(*digest));
        let bytes = here.map(|(_, known)| known.entry.bytes).sum();
        self.counts.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Archives that have to be evicted.
pub(super) struct Room {
    leaving: BTreeMap<Digest, Known>,
    /// Total size of all pulled packages, including those to be evicted.
    bytes: u64,
}

impl Room {
    /// Removes the archives to be evicted from a generation.
    pub(super) fn leave_out(&self, new: &mut Generation) {
        leave_out(new, &self.leaving.keys().copied().collect());
    }

    /// Removes the files that the current generation no longer names. Blocks.
    pub(super) fn finish(
        self,
        store: &Store,
        counts: &Counts,
    ) -> Result<Vec<(Digest, Entry)>, StoreError> {
        let ledger = Ledger::of(store);
        let mut bytes = self.bytes;
        for (digest, known) in &self.leaving {
            remove(store, &ledger, *digest, known)?;
            let of_one = known.entry.bytes;
            bytes -= of_one;
            counts.evicted.fetch_add(1, Ordering::Relaxed);
            counts.evicted_bytes.fetch_add(of_one, Ordering::Relaxed);
            let unused = SystemTime::now()
                .duration_since(known.used)
                .unwrap_or_default();
            tracing::info!(
                what = %known.entry.thing,
                bytes = of_one,
                unused = ?unused,
                "evicted, as something new needed its room; it comes again when somebody asks for it"
            );
        }
        counts.bytes.store(bytes, Ordering::Relaxed);
        Ok(self
            .leaving
            .into_iter()
            .map(|(digest, known)| (digest, known.entry))
            .collect())
    }
}

/// Completes the evictions of processes that were killed before or after the generation changed.
fn settle(
    store: &Store,
    ledger: &Ledger,
    all: &mut BTreeMap<Digest, Known>,
    current: &BTreeSet<Digest>,
) -> Result<(), StoreError> {
    for (digest, known) in all {
        let state = match (known.entry.state, current.contains(digest)) {
            (State::Leaving | State::Gone, true) => State::Here,
            (State::Leaving, false) => State::Gone,
            _ => continue,
        };
        match state {
            State::Gone => remove(store, ledger, *digest, known)?,
            state => ledger.set(*digest, known, state)?,
        }
        known.entry.state = state;
    }
    Ok(())
}

/// Removes archives that found no room, unless an earlier generation has them.
fn discard(store: &Store, mut archives: BTreeSet<Digest>) -> Result<(), StoreError> {
    for number in store.generations()? {
        let named = store.generation(number)?.digests();
        archives.retain(|digest| !named.contains(digest));
    }
    for digest in &archives {
        pulled::remove(&store.path(*digest))?;
    }
    Ok(())
}

/// Removes an archive. Its entry marks it as leaving until the file is removed, so that the work is continued after a
/// crash.
fn remove(store: &Store, ledger: &Ledger, digest: Digest, known: &Known) -> Result<(), StoreError> {
    pulled::remove(&store.path(digest))?;
    ledger.set(digest, known, State::Gone)
}

/// Returns whether the operator's `mirror.toml` names a package with its version, so that it must stay.
pub(super) fn is_pinned(config: &MirrorConfig, thing: &PulledArchive) -> bool {
    let is_exact = |picks: &[Pick], version: &Version| {
        picks
            .iter()
            .any(|pick| pick.exact().as_ref() == Some(version))
    };
    match thing {
        PulledArchive::Provider { addr, version, .. } => config.providers.iter().any(|entry| {
            let is_it = entry.source.addrs(&config.engines).contains(addr);
            is_it && is_exact(&entry.versions, version)
        }),
        PulledArchive::Module { addr, version } => config.modules.iter().any(|entry| {
            let source = &entry.source;
            let is_it = match &source.host {
                Some(_) => source.to_string() == *addr,
                None => addr.ends_with(&format!("/{}", source.path)),
            };
            is_it && is_exact(&entry.versions, version)
        }),
    }
}
