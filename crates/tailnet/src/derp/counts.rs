//! Numbers of a relay, for its operator.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Numbers since the relay began, and that of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients that are connected, by their keys.
    pub clients: usize,
    /// Bytes that were read from clients.
    pub received_bytes: u64,
    /// Bytes that were written to clients.
    pub sent_bytes: u64,
    /// Packets that were dropped because their recipient did not read, or was not there.
    pub dropped_packets: u64,
    /// Connections whose client did not introduce itself, or has a key that nobody expects.
    pub refused: u64,
    /// Clients that were disconnected because they read nothing.
    pub stalled: u64,
    /// Time for which clients were not read because they had sent too much, summed over all of them.
    pub slowed: Duration,
}

/// Counters behind [`Counts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) dropped_packets: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) stalled: AtomicU64,
    pub(super) slowed_ms: AtomicU64,
}

impl Counters {
    pub(super) fn now(&self, clients: usize) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            clients,
            received_bytes: read(&self.received_bytes),
            sent_bytes: read(&self.sent_bytes),
            dropped_packets: read(&self.dropped_packets),
            refused: read(&self.refused),
            stalled: read(&self.stalled),
            slowed: Duration::from_millis(read(&self.slowed_ms)),
        }
    }
}

/// Adds to a counter; sizes in memory fit into 64 bits.
pub(super) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}
