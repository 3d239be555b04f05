//! Session with one peer: encrypts packets for it, and decrypts its packets for us.
//!
//! The engine knows only the trait; boringtun reads the clock itself, so a simulation replaces it.

#[cfg(test)]
pub(super) mod fake;

use std::{sync::Arc, time::Duration};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};

use super::key::{Key, Private};

/// Bytes that sealing adds at most, and that a handshake needs.
const OVERHEAD: usize = 256;
/// Number of one peer's handshakes that are considered in each second; it needs one in two minutes. Each peer is
/// counted for itself: they all come by relays, so that one that asks too often could not be told from the others by
/// its address.
const HANDSHAKES: u64 = 10;
/// Interval of keep-alives to peers that we wait for, in seconds, so that a path stays open.
const KEEP_ALIVE: u16 = 25;

/// Output of a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// Packet to send to the peer.
    Network(Vec<u8>),
    /// Packet from the peer, for us.
    Inner(Vec<u8>),
}

/// Session with one peer.
pub trait Session: Send {
    /// Seals a packet, or keeps it until the handshake, which it requests.
    fn seal(&mut self, packet: &[u8], out: &mut Vec<Out>);
    /// Decrypts a datagram of the peer.
    fn open(&mut self, datagram: &[u8], out: &mut Vec<Out>);
    /// Does everything that is due; called each [`TICK`].
    fn tick(&mut self, out: &mut Vec<Out>);
    /// Requests a handshake now, whatever was requested before.
    fn ask(&mut self, out: &mut Vec<Out>);
    /// Returns how long ago the last handshake was; `None` if there was none.
    fn last_handshake(&self) -> Option<Duration>;
}

/// Interval at which sessions look at the clock.
pub const TICK: Duration = Duration::from_millis(250);

/// Factory of a node's sessions.
pub trait Sessions: Send {
    /// Creates a session with the peer of this key; `is_sought` if we began it.
    fn session(&mut self, peer: Key, is_sought: bool) -> Box<dyn Session>;
}

/// Factory of sessions that use boringtun.
pub struct WireGuard {
    private: Private,
    public: PublicKey,
    next: u32,
}

impl WireGuard {
    /// Creates the factory of the node with this key.
    pub fn new(private: Private) -> Self {
        Self {
            public: PublicKey::from(*private.public().bytes()),
            private,
            next: 0,
        }
    }
}

impl Sessions for WireGuard {
    fn session(&mut self, peer: Key, is_sought: bool) -> Box<dyn Session> {
        self.next = self.next.wrapping_add(1) & 0x00ff_ffff;
        let limiter = Arc::new(RateLimiter::new(&self.public, HANDSHAKES));
        let tunnel = Tunn::new(
            StaticSecret::from(self.private.expose()),
            PublicKey::from(*peer.bytes()),
            None,
            is_sought.then_some(KEEP_ALIVE),
            self.next,
            Some(limiter.clone()),
        );
        Box::new(Boring {
            tunnel,
            limiter,
            buffer: Vec::new(),
        })
    }
}

struct Boring {
    tunnel: Tunn,
    limiter: Arc<RateLimiter>,
    buffer: Vec<u8>,
}

impl Boring {
    /// Adds a result to `out`, and returns whether there is more.
    fn take(result: TunnResult<'_>, out: &mut Vec<Out>) -> bool {
        match result {
            TunnResult::WriteToNetwork(packet) => {
                out.push(Out::Network(packet.to_vec()));
                true
            }
            TunnResult::WriteToTunnelV6(packet, _) => {
                out.push(Out::Inner(packet.to_vec()));
                false
            }
            // No IPv4 in the overlay; what cannot be opened changes nothing.
            TunnResult::WriteToTunnelV4(..) | TunnResult::Done | TunnResult::Err(_) => false,
        }
    }

    fn room(&mut self, length: usize) {
        let length = length + OVERHEAD;
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
    }
}

impl Session for Boring {
    fn seal(&mut self, packet: &[u8], out: &mut Vec<Out>) {
        self.room(packet.len());
        Self::take(self.tunnel.encapsulate(packet, &mut self.buffer), out);
    }

    fn open(&mut self, datagram: &[u8], out: &mut Vec<Out>) {
        self.room(datagram.len().max(super::engine::MTU));
        let opened = self.tunnel.decapsulate(None, datagram, &mut self.buffer);
        let mut is_more = Self::take(opened, out);
        // After its own answer come packets that waited for the handshake.
        while is_more {
            let waiting = self.tunnel.decapsulate(None, &[], &mut self.buffer);
            is_more = Self::take(waiting, out);
        }
    }

    fn tick(&mut self, out: &mut Vec<Out>) {
        self.limiter.reset_count();
        self.room(0);
        Self::take(self.tunnel.update_timers(&mut self.buffer), out);
    }

    fn ask(&mut self, out: &mut Vec<Out>) {
        self.room(0);
        let asked = self
            .tunnel
            .format_handshake_initiation(&mut self.buffer, true);
        Self::take(asked, out);
    }

    fn last_handshake(&self) -> Option<Duration> {
        self.tunnel.time_since_last_handshake()
    }
}
