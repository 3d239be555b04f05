//! Connection slots of a listener, and the order in which connections are evicted. Pure: the time is an argument.
//!
//! A connection begins unauthenticated, and remains so until a request on it has authenticated. Unauthenticated
//! connections have a pool of their own: when it is full, a new one replaces the one that was idle longest at the
//! address that has most of them. So an address that floods the listener only ends its own connections, and others have
//! the time to log in. When all slots are taken, unauthenticated connections are evicted first, then those without a
//! request in progress.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{ConnectionCounters, Limits};
use crate::budget::Refusals;

/// Longest wait for an unauthenticated connection without a request.
pub(super) const UNAUTHENTICATED: Duration = Duration::from_secs(30);

/// Tracks the authentication and the requests of one connection.
#[derive(Debug)]
pub(super) struct ConnectionActivity {
    counters: Arc<ConnectionCounters>,
    is_authenticated: AtomicBool,
    requests: AtomicUsize,
    /// Time since which there is no request.
    quiet_since: Mutex<Instant>,
}

impl ConnectionActivity {
    pub(super) fn new(
        counters: Arc<ConnectionCounters>,
        is_authenticated: bool,
        now: Instant,
    ) -> Arc<Self> {
        let activity = Arc::new(Self {
            counters,
            is_authenticated: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            quiet_since: Mutex::new(now),
        });
        if is_authenticated {
            activity.mark_authenticated();
        }
        activity
    }

    /// Records that a request on the connection has authenticated.
    pub(super) fn mark_authenticated(&self) {
        if !self.is_authenticated.swap(true, Ordering::Relaxed) {
            self.counters.authenticated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counter of refusals by budgets of the connection.
    pub(super) fn refusals(&self) -> Refusals {
        self.counters.overdrawn.clone()
    }

    /// Records that a response, or what the connection became, is cut off because its credential ended.
    pub(super) fn note_revocation(&self) {
        self.counters.revoked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, now: Instant) {
        *self.quiet_since() = now;
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    fn quiet_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.quiet_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_unauthenticated(&self) -> bool {
        !self.is_authenticated.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Returns when a connection that stays as it is has to end; `None` if it need not.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let is_waited_for = self.is_unauthenticated() && self.is_idle();
        is_waited_for.then(|| *self.quiet_since() + UNAUTHENTICATED)
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        if !self.is_unauthenticated() {
            self.counters.authenticated.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The number of a connection.
pub(super) type Id = u64;

struct Held {
    sender: IpAddr,
    activity: Arc<ConnectionActivity>,
}

/// The places of one listener.
pub(super) struct Places {
    all: usize,
    of_sender: usize,
    unauthenticated: usize,
    held: HashMap<Id, Held>,
    next: Id,
}

/// Result of an attempt to take a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Taken: the connection has this id, and `ended` have to give up theirs.
    In { id: Id, ended: Vec<Id> },
    /// Refused: all places are taken, and no connection gives way.
    Full(Limit),
}

/// Limit that keeps a connection out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Limit of all connections together.
    All,
    /// Limit of connections from one address.
    Sender,
}

impl Limit {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::All => "the limit of connections is reached",
            Self::Sender => "the limit of connections from one address is reached",
        }
    }
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            all: limits.connections,
            of_sender: limits.connections_per_peer,
            unauthenticated: limits.unauthenticated,
            held: HashMap::new(),
            next: 0,
        }
    }

    /// Takes a place for a connection of `sender`. Connections of a proxy have many senders, and no limit of their
    /// own.
    pub(super) fn enter(
        &mut self,
        sender: IpAddr,
        activity: Arc<ConnectionActivity>,
        is_proxy: bool,
    ) -> Entry {
        let mut ended = Vec::new();
        let is_own = |held: &Held| held.sender == sender;
        if !is_proxy && self.count(is_own) >= self.of_sender {
            let unauthenticated =
                self.oldest(|held| is_own(held) && held.activity.is_unauthenticated());
            let idle = || self.oldest(|held| is_own(held) && held.activity.is_idle());
            match unauthenticated.or_else(idle) {
                Some(id) => self.give_up(id, &mut ended),
                None => return Entry::Full(Limit::Sender),
            }
        }
        let is_unauthenticated = |held: &Held| held.activity.is_unauthenticated();
        if activity.is_unauthenticated()
            && self.count(is_unauthenticated) >= self.unauthenticated
            && let Some(id) = self.of_most(is_unauthenticated)
        {
            self.give_up(id, &mut ended);
        }
        if self.held.len() >= self.all {
            let idle = || self.of_most(|held| held.activity.is_idle());
            match self.of_most(is_unauthenticated).or_else(idle) {
                Some(id) => self.give_up(id, &mut ended),
                None => return Entry::Full(Limit::All),
            }
        }
        self.next += 1;
        self.held.insert(self.next, Held { sender, activity });
        let id = self.next;
        Entry::In { id, ended }
    }

    /// Number of connections that have a place.
    pub(super) fn count_all(&self) -> usize {
        self.held.len()
    }

    /// Number of places under a limit.
    pub(super) fn limit(&self, limit: Limit) -> usize {
        match limit {
            Limit::All => self.all,
            Limit::Sender => self.of_sender,
        }
    }

    pub(super) fn leave(&mut self, id: Id) {
        self.held.remove(&id);
    }

    fn give_up(&mut self, id: Id, ended: &mut Vec<Id>) {
        self.held.remove(&id);
        ended.push(id);
    }

    fn count(&self, which: impl Fn(&Held) -> bool) -> usize {
        self.held.values().filter(|held| which(held)).count()
    }

    /// Returns the connection among those selected that has been quiet longest.
    fn oldest(&self, which: impl Fn(&Held) -> bool) -> Option<Id> {
        let those = self.held.iter().filter(|(_, held)| which(held));
        let quiet_since = |(id, held): &(&Id, &Held)| (*held.activity.quiet_since(), **id);
        those.min_by_key(quiet_since).map(|(id, _)| *id)
    }

    /// Returns the connection that has been quiet longest at the sender with most of those selected.
    fn of_most(&self, which: impl Fn(&Held) -> bool) -> Option<Id> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for held in self.held.values().filter(|held| which(held)) {
            *counts.entry(held.sender).or_default() += 1;
        }
        let (most, _) = counts
            .into_iter()
            .max_by_key(|(sender, count)| (*count, *sender))?;
        self.oldest(|held| held.sender == most && which(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Arrivals {
        places: Places,
        now: Instant,
    }

    impl Arrivals {
        fn new(connections: usize, connections_per_peer: usize, unauthenticated: usize) -> Self {
            let limits = Limits {
                connections,
                connections_per_peer,
                unauthenticated,
                ..Limits::standard()
            };
            Self {
                places: Places::new(&limits),
                now: Instant::now(),
            }
        }

        /// Lets a connection come from the address with this last byte, a second after the previous one.
        fn comes(&mut self, from: u8) -> (Arc<ConnectionActivity>, Entry) {
            self.now += Duration::from_secs(1);
            let activity = ConnectionActivity::new(Arc::default(), false, self.now);
            let sender = IpAddr::from([10, 0, 0, from]);
            let entry = self.places.enter(sender, activity.clone(), false);
            (activity, entry)
        }
    }

    fn entered(entry: &Entry) -> Id {
        match entry {
            Entry::In { id, .. } => *id,
            Entry::Full(_) => panic!("no place"),
        }
    }

    fn ended(entry: Entry) -> Vec<Id> {
        match entry {
            Entry::In { ended, .. } => ended,
            Entry::Full(_) => panic!("no place"),
        }
    }

    #[test]
    fn a_flood_of_unauthenticated_connections_ends_its_own_first_and_authenticated_ones_never() {
        let mut arrivals = Arrivals::new(100, 100, 4);
        let (known, first) = arrivals.comes(1);
        known.mark_authenticated();
        let (_, guest) = arrivals.comes(2);
        let flood: Vec<_> = (0..3).map(|_| entered(&arrivals.comes(3).1)).collect();

        assert_eq!(ended(arrivals.comes(3).1), [flood[0]]);
        assert_eq!(ended(arrivals.comes(4).1), [flood[1]]);
        assert!(arrivals.places.held.contains_key(&entered(&first)));
        assert!(arrivals.places.held.contains_key(&entered(&guest)));
    }

    #[test]
    fn when_all_slots_are_taken_unauthenticated_connections_are_evicted_first_then_idle_ones() {
        let mut arrivals = Arrivals::new(3, 100, 3);
        let (busy, _) = arrivals.comes(1);
        busy.mark_authenticated();
        busy.begin();
        let (idle, idle_entry) = arrivals.comes(1);
        idle.mark_authenticated();
        let (_, unauthenticated) = arrivals.comes(2);

        let (newcomer, entry) = arrivals.comes(4);
        assert_eq!(ended(entry), [entered(&unauthenticated)]);
        newcomer.mark_authenticated();
        newcomer.begin();
        let (last, entry) = arrivals.comes(5);
        assert_eq!(ended(entry), [entered(&idle_entry)]);
        last.mark_authenticated();
        last.begin();
        assert_eq!(arrivals.comes(6).1, Entry::Full(Limit::All));
        busy.end(arrivals.now);
        assert!(matches!(arrivals.comes(6).1, Entry::In { .. }));
    }

    #[test]
    fn one_address_has_so_many_places_and_a_proxy_as_many_as_there_are() {
        let mut arrivals = Arrivals::new(100, 2, 100);
        let (first, entry) = arrivals.comes(1);
        let (second, _) = arrivals.comes(1);
        assert_eq!(ended(arrivals.comes(1).1), [entered(&entry)]);
        for activity in [first, second] {
            activity.mark_authenticated();
            activity.begin();
        }
        let (third, _) = arrivals.comes(1);
        third.mark_authenticated();
        third.begin();
        assert_eq!(arrivals.comes(1).1, Entry::Full(Limit::Sender));
        assert!(matches!(arrivals.comes(2).1, Entry::In { .. }));

        let proxy = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..10 {
            let activity = ConnectionActivity::new(Arc::default(), true, arrivals.now);
            let entry = arrivals.places.enter(proxy, activity, true);
            assert!(matches!(entry, Entry::In { .. }));
        }
    }

    #[test]
    fn an_idle_unauthenticated_connection_ends_in_time_and_others_do_not() {
        let now = Instant::now();
        let activity = ConnectionActivity::new(Arc::default(), false, now);
        assert_eq!(activity.ends_at(), Some(now + UNAUTHENTICATED));

        activity.begin();
        assert_eq!(activity.ends_at(), None);
        activity.end(now + UNAUTHENTICATED);
        assert_eq!(activity.ends_at(), Some(now + UNAUTHENTICATED * 2));
        activity.mark_authenticated();
        assert_eq!(activity.ends_at(), None);
    }

    #[test]
    fn a_connection_counts_as_authenticated_once_and_until_it_ends() {
        let counters = Arc::new(ConnectionCounters::default());
        let count = || counters.authenticated.load(Ordering::Relaxed);
        let now = Instant::now();
        let guest = ConnectionActivity::new(counters.clone(), false, now);
        let proxy = ConnectionActivity::new(counters.clone(), true, now);
        assert_eq!(count(), 1);

        guest.mark_authenticated();
        guest.mark_authenticated();
        assert_eq!(count(), 2);
        drop((guest, proxy));
        assert_eq!(count(), 0);
    }
}
