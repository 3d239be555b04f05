//! Memory for unfinished messages: bytes are reserved before they are read, and released with the message.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages up to this size, in bytes, do not wait behind larger ones.
const SMALL: usize = 64 << 10;
/// Number of messages that wait for a budget at the same time. The arrived part of each is in the buffers of its
/// connection.
const WAITING: usize = 32;

/// Reasons why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overdrawn {
    /// A message that would not fit even alone.
    #[error("message of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Number of bytes requested.
        bytes: usize,
        /// Number of bytes in the budget.
        limit: usize,
    },
    /// Too many waiting messages: another one would wait too long.
    #[error("too many messages from this sender are waiting to be received; try again later")]
    Busy,
}

/// Number of times that a budget was used up. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<AtomicU64>);

impl Refusals {
    /// Number of refusals so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Budget of bytes that messages share, first come, first served. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: usize,
    bytes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    refusals: Refusals,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    _bytes: OwnedSemaphorePermit,
    _place: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    fn of(bytes: OwnedSemaphorePermit) -> Self {
        Self {
            _bytes: bytes,
            _place: None,
        }
    }
}

impl Budget {
    /// Creates a budget of this many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            places: Arc::new(Semaphore::new(WAITING)),
            refusals: Refusals::default(),
        }
    }

    /// Counts refusals with others.
    #[must_use]
    pub fn counted_by(mut self, refusals: &Refusals) -> Self {
        self.refusals = refusals.clone();
        self
    }

    /// Waits until `bytes` are available, and reserves them.
    ///
    /// # Errors
    /// [`Overdrawn`] if waiting could not succeed, or too many messages wait.
    pub async fn reserve(&self, bytes: usize) -> Result<Reserved, Overdrawn> {
        let reserved = self.try_reserve(bytes).await;
        reserved.inspect_err(|_| self.refusals.note())
    }

    async fn try_reserve(&self, bytes: usize) -> Result<Reserved, Overdrawn> {
        let limit = self.limit;
        let too_large = Overdrawn::TooLarge { bytes, limit };
        let count = u32::try_from(bytes).map_err(|_| too_large)?;
        if bytes > limit {
            return Err(too_large);
        }
        if let Ok(bytes) = self.bytes.clone().try_acquire_many_owned(count) {
            return Ok(Reserved::of(bytes));
        }
        let _place = self.places.try_acquire().map_err(|_| Overdrawn::Busy)?;
        let bytes = self.bytes.clone().acquire_many_owned(count);
        // The semaphore is never closed.
        let bytes = bytes.await.map_err(|_| Overdrawn::Busy)?;
        Ok(Reserved::of(bytes))
    }

    /// Number of bytes that are not reserved.
    pub fn left(&self) -> usize {
        self.bytes.available_permits()
    }
}

/// Budgets of one sender, separated so that its large messages do not delay its small ones.
#[derive(Clone, Debug)]
pub struct Account {
    small: Budget,
    large: Budget,
    /// Permits for large messages that are received or wait for that; `None` for any number.
    places: Option<Arc<Semaphore>>,
}

impl Account {
    /// Creates an account in which small messages, of up to 64 KiB, may take `small` bytes, and others `large` bytes.
    pub fn new(small: usize, large: usize) -> Self {
        Self {
            small: Budget::new(small),
            large: Budget::new(large),
            places: None,
        }
    }

    /// Counts refusals with others.
    #[must_use]
    pub fn counted_by(mut self, refusals: &Refusals) -> Self {
        self.small = self.small.counted_by(refusals);
        self.large = self.large.counted_by(refusals);
        self
    }

    /// Refuses large messages while `most` of them are being received, or waiting.
    #[must_use]
    pub(crate) fn with_places(mut self, most: usize) -> Self {
        self.places = Some(Arc::new(Semaphore::new(most)));
        self
    }

    /// Waits until `bytes` are available, and reserves them.
    ///
    /// # Errors
    /// As [`Budget::reserve`].
    pub async fn reserve(&self, bytes: usize) -> Result<Reserved, Overdrawn> {
        if bytes <= SMALL {
            return self.small.reserve(bytes).await;
        }
        let place = self
            .places
            .clone()
            .map(Semaphore::try_acquire_owned)
            .transpose()
            .map_err(|_| Overdrawn::Busy)
            .inspect_err(|_| self.large.refusals.note())?;
        let mut reserved = self.large.reserve(bytes).await?;
        reserved._place = place;
        Ok(reserved)
    }
}

/// Allowance for bytes that arrived on connections of one sender, and that nobody has read yet. There is no waiting:
/// a peer that sends more than we read is disconnected. Clones are the same allowance.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<Allowed>);

#[derive(Debug)]
struct Allowed {
    limit: usize,
    taken: AtomicUsize,
    refusals: Refusals,
}

impl Allowance {
    /// Creates an allowance of this many bytes.
    pub fn new(limit: usize) -> Self {
        Self::counted_by(limit, &Refusals::default())
    }

    /// Creates an allowance of this many bytes, whose refusals are counted with others.
    pub fn counted_by(limit: usize, refusals: &Refusals) -> Self {
        Self(Arc::new(Allowed {
            limit,
            taken: AtomicUsize::new(0),
            refusals: refusals.clone(),
        }))
    }

    /// Takes `bytes` if they are available, and returns whether they were.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let Allowed {
            limit,
            taken,
            refusals,
        } = &*self.0;
        let add = |now: usize| now.checked_add(bytes).filter(|sum| sum <= limit);
        let taken = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.inspect_err(|_| refusals.note()).is_ok()
    }

    /// Returns bytes to the allowance.
    pub fn give(&self, bytes: usize) {
        self.0.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Number of bytes that are taken now.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

/// Values by key that several holders share, each for as long as anybody holds it.
#[derive(Debug)]
pub struct Shared<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V> Shared<K, V> {
    /// Returns the value of `key`, created by `make` if nobody holds it now.
    pub fn of(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        // Entries are consistent even after a panic, so a poisoned lock can be used.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        if all.len() == all.capacity() {
            all.retain(|_, held| held.strong_count() > 0);
        }
        let made = Arc::new(make());
        all.insert(key, Arc::downgrade(&made));
        made
    }

    /// Removes the value of `key`, so that later callers get a new one; current holders keep it.
    pub fn remove(&self, key: &K) -> Option<Arc<V>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key).and_then(|held| held.upgrade())
    }

    /// Removes all values that `which` selects.
    pub fn remove_if(&self, which: impl Fn(&V) -> bool) -> Vec<Arc<V>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = Vec::new();
        all.retain(|_, held| match held.upgrade() {
            Some(held) if which(&held) => {
                removed.push(held);
                false
            }
            Some(_) => true,
            None => false,
        });
        removed
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test]
    async fn messages_wait_for_bytes_in_the_order_in_which_they_came() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).await.unwrap();

        let mut large = Box::pin(budget.reserve(80));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(budget.reserve(10));
        assert!(small.as_mut().now_or_never().is_none(), "it came later");
        drop(first);

        let large = large.await.unwrap();
        small.await.unwrap();
        drop(large);
        assert_eq!(budget.left(), 100);
    }

    #[tokio::test]
    async fn waiting_in_vain_and_in_a_crowd_is_refused() {
        let budget = Budget::new(100);
        let (bytes, limit) = (101, 100);
        assert_eq!(
            budget.reserve(bytes).await.unwrap_err(),
            Overdrawn::TooLarge { bytes, limit }
        );

        let all = budget.reserve(100).await.unwrap();
        let mut waiting = join_all((0..WAITING).map(|_| budget.reserve(1)));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(budget.reserve(1).await.unwrap_err(), Overdrawn::Busy);
        drop(all);
        assert!(waiting.await.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn small_messages_do_not_wait_behind_large_ones() {
        let account = Account::new(SMALL, 1 << 20);
        let _large = account.reserve(1 << 20).await.unwrap();

        assert!(account.reserve(1 << 20).now_or_never().is_none());
        assert!(account.reserve(SMALL).now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn one_more_than_the_places_is_refused_although_there_are_bytes() {
        let account = Account::new(SMALL, 1 << 20).with_places(1);
        let large = account.reserve(SMALL + 1).await.unwrap();

        let refusals = Refusals::default();
        let account = account.counted_by(&refusals);
        let second = account.reserve(SMALL + 1).await;
        assert_eq!(second.unwrap_err(), Overdrawn::Busy);
        assert!(account.reserve(1).await.is_ok());
        assert_eq!(refusals.count(), 1);
        drop(large);
        assert!(account.reserve(SMALL + 1).await.is_ok());
    }

    #[test]
    fn an_allowance_is_what_was_not_given_back() {
        let refusals = Refusals::default();
        let allowance = Allowance::counted_by(10, &refusals);
        assert!(allowance.take(7) && !allowance.take(4) && allowance.take(3));

        allowance.give(4);
        assert_eq!(allowance.taken(), 6);
        assert!(!allowance.take(usize::MAX) && allowance.take(4));
        assert_eq!(refusals.count(), 2);
    }

    #[test]
    fn what_is_shared_is_the_same_until_nobody_holds_it() {
        let shared = Shared::default();
        let one = shared.of(1, || "first");

        assert_eq!(*shared.of(1, || "second"), "first");
        drop(one);
        assert_eq!(*shared.of(1, || "third"), "third");
        for key in 0..10_000 {
            shared.of(key, || "gone at once");
        }
        assert!(shared.0.lock().unwrap().len() < 100);
    }
}
