//! Queues of reports that keep their order across connections: lifecycle, logs, timings, connections.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Queue of items to report. Items for which there is no room are dropped, the newest first.
pub(super) struct Outbox<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Notify,
    limit: usize,
    weigh: fn(&T) -> usize,
}

struct Waiting<T> {
    items: VecDeque<T>,
    weight: usize,
    is_closed: bool,
}

impl<T: Clone> Outbox<T> {
    /// Creates a queue for items of this total weight.
    pub(super) fn new(limit: usize, weigh: fn(&T) -> usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                items: VecDeque::new(),
                weight: 0,
                is_closed: false,
            }),
            changed: Notify::new(),
            limit,
            weigh,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item; returns whether there was room.
    pub(super) fn push(&self, item: T) -> bool {
        let mut waiting = self.lock();
        let weight = (self.weigh)(&item);
        if waiting.is_closed || waiting.weight + weight > self.limit {
            return false;
        }
        waiting.weight += weight;
        waiting.items.push_back(item);
        drop(waiting);
        self.changed.notify_one();
        true
    }

    /// Waits for the first items, as many as `takes` returns for those that are there; they stay until
    /// [`Self::sent`]. `takes` may reorder them.
    pub(super) async fn first(&self, takes: impl Fn(&mut [T]) -> usize) -> Vec<T> {
        loop {
            {
                let mut waiting = self.lock();
                let items = waiting.items.make_contiguous();
                if !items.is_empty() {
                    let count = takes(items).clamp(1, items.len());
                    return items[..count].to_vec();
                }
            }
            self.changed.notified().await;
        }
    }

    /// Number of items that wait.
    pub(super) fn count(&self) -> usize {
        self.lock().items.len()
    }

    /// Removes the first `count` items, which were reported.
    pub(super) fn sent(&self, count: usize) {
        let mut waiting = self.lock();
        for _ in 0..count {
            if let Some(item) = waiting.items.pop_front() {
                waiting.weight -= (self.weigh)(&item);
            }
        }
        drop(waiting);
        self.changed.notify_waiters();
    }

    /// Closes the queue: waiting items are dropped, and so are later ones.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.items.clear();
        waiting.weight = 0;
        waiting.is_closed = true;
        drop(waiting);
        self.changed.notify_waiters();
    }

    /// Waits until the queue is empty.
    pub(super) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().items.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_keeps_its_order_until_it_was_sent_and_has_a_bound() {
        let outbox = Outbox::new(3, |_: &char| 1);
        for (item, fits) in [('a', true), ('b', true), ('c', true), ('d', false)] {
            assert_eq!(outbox.push(item), fits);
        }

        assert_eq!(outbox.first(|_| 2).await, ['a', 'b']);
        assert_eq!(outbox.first(|_| 9).await, ['a', 'b', 'c']);
        outbox.sent(2);
        assert!(outbox.push('e'));
        assert_eq!(outbox.first(|all| all.len()).await, ['c', 'e']);
        outbox.sent(2);
        outbox.emptied().await;
        outbox.close();
        assert!(!outbox.push('f'));
    }
}
