//! Places of connections at a listener, and the order in which they are given up. Pure: the time is an argument.
//!
//! A connection begins as a stranger, and remains one until somebody on it has authenticated. Strangers have a pool of
//! their own: when it is full, another one takes the place of the one that was silent longest at the address with most
//! strangers. So an address that floods us only ends its own connections, and others have the time to log in. When all
//! places are taken, strangers give way first, then connections without a request in progress.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::Limits;

/// Longest wait for an unauthenticated connection without a request.
pub(super) const STRANGER: Duration = Duration::from_secs(30);

/// Conduct of one connection, as recorded by its requests.
#[derive(Debug)]
pub(super) struct Conduct {
    is_known: AtomicBool,
    requests: AtomicUsize,
    /// Time since which there is no request.
    quiet_since: Mutex<Instant>,
}

impl Conduct {
    pub(super) fn new(is_known: bool, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            is_known: AtomicBool::new(is_known),
            requests: AtomicUsize::new(0),
            quiet_since: Mutex::new(now),
        })
    }

    /// Records that somebody on the connection has authenticated.
    pub(super) fn know(&self) {
        self.is_known.store(true, Ordering::Relaxed);
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

    pub(super) fn is_stranger(&self) -> bool {
        !self.is_known.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Returns when a connection that stays as it is has to end; `None` if it need not.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let is_waited_for = self.is_stranger() && self.is_idle();
        is_waited_for.then(|| *self.quiet_since() + STRANGER)
    }
}

/// The number of a connection.
pub(super) type Id = u64;

struct Held {
    sender: IpAddr,
    conduct: Arc<Conduct>,
}

/// The places of one listener.
pub(super) struct Places {
    all: usize,
    of_sender: usize,
    strangers: usize,
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
            strangers: limits.strangers,
            held: HashMap::new(),
            next: 0,
        }
    }

    /// Takes a place for a connection of `sender`. Connections of a proxy have many senders, and no limit of their
    /// own.
    pub(super) fn enter(&mut self, sender: IpAddr, conduct: Arc<Conduct>, is_proxy: bool) -> Entry {
        let mut ended = Vec::new();
        let is_own = |held: &Held| held.sender == sender;
        if !is_proxy && self.count(is_own) >= self.of_sender {
            let stranger = self.oldest(|held| is_own(held) && held.conduct.is_stranger());
            let idle = || self.oldest(|held| is_own(held) && held.conduct.is_idle());
            match stranger.or_else(idle) {
                Some(id) => self.give_up(id, &mut ended),
                None => return Entry::Full(Limit::Sender),
            }
        }
        let is_stranger = |held: &Held| held.conduct.is_stranger();
        if conduct.is_stranger()
            && self.count(is_stranger) >= self.strangers
            && let Some(id) = self.of_most(is_stranger)
        {
            self.give_up(id, &mut ended);
        }
        if self.held.len() >= self.all {
            let idle = || self.of_most(|held| held.conduct.is_idle());
            match self.of_most(is_stranger).or_else(idle) {
                Some(id) => self.give_up(id, &mut ended),
                None => return Entry::Full(Limit::All),
            }
        }
        self.next += 1;
        self.held.insert(self.next, Held { sender, conduct });
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
        let quiet_since = |(id, held): &(&Id, &Held)| (*held.conduct.quiet_since(), **id);
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

    struct Door {
        places: Places,
        now: Instant,
    }

    impl Door {
        fn new(connections: usize, connections_per_peer: usize, strangers: usize) -> Self {
            let limits = Limits {
                connections,
                connections_per_peer,
                strangers,
                ..Limits::standard()
            };
            Self {
                places: Places::new(&limits),
                now: Instant::now(),
            }
        }

        /// Lets a connection come from the address with this last byte, a second after the previous one.
        fn comes(&mut self, from: u8) -> (Arc<Conduct>, Entry) {
            self.now += Duration::from_secs(1);
            let conduct = Conduct::new(false, self.now);
            let sender = IpAddr::from([10, 0, 0, from]);
            let entry = self.places.enter(sender, conduct.clone(), false);
            (conduct, entry)
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
    fn a_flood_of_strangers_ends_its_own_first_and_those_who_proved_themselves_never() {
        let mut door = Door::new(100, 100, 4);
        let (known, first) = door.comes(1);
        known.know();
        let (_, guest) = door.comes(2);
        let flood: Vec<_> = (0..3).map(|_| entered(&door.comes(3).1)).collect();

        assert_eq!(ended(door.comes(3).1), [flood[0]]);
        assert_eq!(ended(door.comes(4).1), [flood[1]]);
        assert!(door.places.held.contains_key(&entered(&first)));
        assert!(door.places.held.contains_key(&entered(&guest)));
    }

    #[test]
    fn where_all_places_are_taken_strangers_give_way_first_and_then_who_asks_nothing() {
        let mut door = Door::new(3, 100, 3);
        let (busy, _) = door.comes(1);
        busy.know();
        busy.begin();
        let (idle, idle_entry) = door.comes(1);
        idle.know();
        let (_, stranger) = door.comes(2);

        let (newcomer, entry) = door.comes(4);
        assert_eq!(ended(entry), [entered(&stranger)]);
        newcomer.know();
        newcomer.begin();
        let (last, entry) = door.comes(5);
        assert_eq!(ended(entry), [entered(&idle_entry)]);
        last.know();
        last.begin();
        assert_eq!(door.comes(6).1, Entry::Full(Limit::All));
        busy.end(door.now);
        assert!(matches!(door.comes(6).1, Entry::In { .. }));
    }

    #[test]
    fn one_address_has_so_many_places_and_a_proxy_as_many_as_there_are() {
        let mut door = Door::new(100, 2, 100);
        let (first, entry) = door.comes(1);
        let (second, _) = door.comes(1);
        assert_eq!(ended(door.comes(1).1), [entered(&entry)]);
        for conduct in [first, second] {
            conduct.know();
            conduct.begin();
        }
        let (third, _) = door.comes(1);
        third.know();
        third.begin();
        assert_eq!(door.comes(1).1, Entry::Full(Limit::Sender));
        assert!(matches!(door.comes(2).1, Entry::In { .. }));

        let proxy = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..10 {
            let conduct = Conduct::new(true, door.now);
            let entry = door.places.enter(proxy, conduct, true);
            assert!(matches!(entry, Entry::In { .. }));
        }
    }

    #[test]
    fn a_stranger_who_asks_nothing_is_waited_for_and_others_are_not_ended() {
        let now = Instant::now();
        let conduct = Conduct::new(false, now);
        assert_eq!(conduct.ends_at(), Some(now + STRANGER));

        conduct.begin();
        assert_eq!(conduct.ends_at(), None);
        conduct.end(now + STRANGER);
        assert_eq!(conduct.ends_at(), Some(now + STRANGER * 2));
        conduct.know();
        assert_eq!(conduct.ends_at(), None);
    }
}
