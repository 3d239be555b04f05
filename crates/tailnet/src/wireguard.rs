//! A session with one peer: what is sealed for it, and what it sealed for us.
//!
//! The engine knows only the trait; boringtun reads the clock by itself, so a simulation puts another one in its place.

#[cfg(test)]
pub(super) mod fake;

use std::{sync::Arc, time::Duration};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};

use super::key::{Key, Private};

/// What sealing adds at most, and what a handshake needs.
const OVERHEAD: usize = 256;
/// Handshakes of one peer that are looked at in each second; it needs one in two minutes. Each peer is counted for itself:
/// they all come by relays, so that one that asks too often could not be told from the others by where it is.
const HANDSHAKES: u64 = 10;
/// What keeps a path open, in seconds, to peers that we wait for.
const KEEP_ALIVE: u16 = 25;

/// What comes out of a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// To be sent to the peer.
    Network(Vec<u8>),
    /// From the peer, for us.
    Inner(Vec<u8>),
}

/// A session with one peer.
pub trait Session: Send {
    /// Seals a packet, or keeps it until there is an agreement, for which it asks.
    fn seal(&mut self, packet: &[u8], out: &mut Vec<Out>);
    /// Opens what came.
    fn open(&mut self, datagram: &[u8], out: &mut Vec<Out>);
    /// Does what is due; called each [`TICK`].
    fn tick(&mut self, out: &mut Vec<Out>);
    /// Asks for an agreement now, whatever was asked for before.
    fn ask(&mut self, out: &mut Vec<Out>);
    /// How long ago both agreed; `None` if they did not.
    fn last_handshake(&self) -> Option<Duration>;
}

/// How often sessions look at the clock.
pub const TICK: Duration = Duration::from_millis(250);

/// Makes sessions for a node.
pub trait Sessions: Send {
    /// A session with the peer of this key; `is_sought` if we began it.
    fn session(&mut self, peer: Key, is_sought: bool) -> Box<dyn Session>;
}

/// Sessions by boringtun.
pub struct WireGuard {
    private: Private,
    public: PublicKey,
    next: u32,
}

impl WireGuard {
    /// For the node with this key.
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
    /// Whether there is more to come out.
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
        // After an answer of its own comes what waited for the agreement.
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
