//! Keys that a relay serves.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outpost_net::access::Access;
use tokio::{sync::Notify, time::Instant};

use super::server::Relay;
use crate::key::Key;

/// Time for which a key is served after its node's connection to the coordinator broke.
const RECENT: Duration = Duration::from_secs(60 * 60);
/// Largest number of such keys.
const MAX_RECENT: usize = 1 << 14;

/// Keys that are served.
#[derive(Default)]
pub(super) struct Guests {
    keys: Mutex<Keys>,
    added: Notify,
}

#[derive(Default)]
struct Keys {
    /// Number of connections that expect each key.
    expected: HashMap<Key, usize>,
    /// Keys that are no longer expected, in the order in which they went.
    recent: VecDeque<Recent>,
}

struct Recent {
    key: Key,
    since: Instant,
    access: Option<Arc<Access>>,
}

impl Recent {
    fn is_revoked(&self) -> bool {
        self.access.as_ref().is_some_and(|it| it.is_revoked())
    }
}

impl Guests {
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, key: Key) {
        let mut keys = self.lock();
        keys.recent.retain(|recent| recent.key != key);
        *keys.expected.entry(key).or_default() += 1;
        drop(keys);
        self.added.notify_waiters();
    }

    /// Waits until this key is served.
    pub(super) async fn wait_for(&self, key: Key) {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if self.lock().knows(key) {
                return;
            }
            added.await;
        }
    }

    /// Removes and returns the keys whose access has ended since they went.
    pub(super) fn take_revoked(&self) -> Vec<Key> {
        let mut keys = self.lock();
        let all = std::mem::take(&mut keys.recent);
        let (gone, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(Recent::is_revoked);
        keys.recent = rest.into();
        gone.into_iter().map(|recent| recent.key).collect()
    }

    /// Records that a key is expected by one connection fewer, and returns whether it is no longer served at all.
    fn remove(&self, key: Key, access: Option<Arc<Access>>, is_replaced: bool) -> bool {
        let mut keys = self.lock();
        let Some(count) = keys.expected.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        keys.expected.remove(&key);
        let since = Instant::now();
        let recent = Recent { key, since, access };
        if recent.is_revoked() || is_replaced {
            return true;
        }
        keys.recent.push_back(recent);
        let is_late = |recent: &Recent| recent.since.elapsed() >= RECENT;
        while keys.recent.len() > MAX_RECENT || keys.recent.front().is_some_and(is_late) {
            keys.recent.pop_front();
        }
        false
    }
}

impl Keys {
    fn knows(&self, key: Key) -> bool {
        let is_recent = |recent: &Recent| {
            recent.key == key && recent.since.elapsed() < RECENT && !recent.is_revoked()
        };
        self.expected.contains_key(&key) || self.recent.iter().any(is_recent)
    }
}

/// Registration of a key that a relay serves while this is held.
pub struct Expected {
    pub(super) relay: Relay,
    pub(super) key: Key,
    pub(super) access: Option<Arc<Access>>,
    /// Set if its node has another key now, so that nobody will return with this one.
    pub(super) is_replaced: bool,
}

impl Expected {
    /// Marks the key as replaced by another one of its node.
    pub fn replace(mut self) {
        self.is_replaced = true;
    }

    /// Key that is served.
    pub fn key(&self) -> Key {
        self.key
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(guests) = self.relay.guests() {
            let access = self.access.take();
            if guests.remove(self.key, access, self.is_replaced) {
                self.relay.send_away(self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn key() -> Key {
        Key::new([7; 32])
    }

    fn is_served(guests: &Guests) -> bool {
        guests.wait_for(key()).now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_served_while_it_is_expected_and_an_hour_longer() {
        let guests = Guests::default();
        assert!(!is_served(&guests));

        guests.add(key());
        guests.add(key());
        assert!(is_served(&guests));
        assert!(!guests.remove(key(), None, false) && !guests.remove(key(), None, false));
        tokio::time::advance(RECENT / 2).await;
        assert!(is_served(&guests));
        tokio::time::advance(RECENT / 2).await;
        assert!(!is_served(&guests));
    }

    #[tokio::test]
    async fn a_key_is_not_served_any_more_once_its_access_has_ended() {
        let (guests, access) = (Guests::default(), Arc::new(Access::default()));
        guests.add(key());
        assert!(!guests.remove(key(), Some(access.clone()), false));
        assert!(is_served(&guests));

        access.revoke();
        assert!(!is_served(&guests));
        assert_eq!(guests.take_revoked(), [key()]);
        guests.add(key());
        assert!(guests.remove(key(), Some(access), false));
    }

    #[tokio::test]
    async fn who_comes_before_they_are_expected_is_served_as_soon_as_they_are() {
        let guests = Guests::default();
        let mut waiting = Box::pin(guests.wait_for(key()));
        assert!((&mut waiting).now_or_never().is_none());

        guests.add(key());
        waiting.await;
    }
}
