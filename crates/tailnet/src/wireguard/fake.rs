//! Sessions without ciphers, on a clock that a test sets: they agree, forget, ask again and lose as WireGuard's do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Out, Session, Sessions};
use crate::key::Key;

const INIT: u8 = 1;
const ANSWER: u8 = 2;
const DATA: u8 = 4;
/// Time after which a session asks again, in milliseconds.
const ASK: u64 = 5_000;
/// Time after which it gives up, in milliseconds.
const GIVE_UP: u64 = 90_000;
/// Silence after which a session that has sent something asks anew, in milliseconds.
const SILENCE: u64 = 15_000;
/// Validity of an agreement, in milliseconds.
const EXPIRY: u64 = 180_000;
/// Number of agreements that are kept.
const AGREEMENTS: usize = 8;

/// Milliseconds since the beginning of the test. Clones are the same clock.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn advance(&self, milliseconds: u64) {
        self.0.fetch_add(milliseconds, Relaxed);
    }
}

/// Factory of such sessions, which counts them.
#[derive(Clone, Default)]
pub(crate) struct Fakes {
    pub(crate) clock: Clock,
    pub(crate) made: Arc<AtomicU64>,
}

impl Sessions for Fakes {
    fn session(&mut self, _: Key, _: bool) -> Box<dyn Session> {
        let made = self.made.fetch_add(1, Relaxed);
        Box::new(Fake {
            clock: self.clock.clone(),
            // Different numbers for each session of a test.
            next: made << 32,
            agreed: Vec::new(),
            heard: 0,
            asked: None,
            waits: None,
            sent_at: None,
        })
    }
}

struct Fake {
    clock: Clock,
    next: u64,
    /// Agreements and their times, the newest last. Earlier ones still open packets that were sealed with them: two
    /// peers who ask each other at once agree twice, and each considers a different one to be the newest.
    agreed: Vec<(u64, u64)>,
    /// Newest question of the peer: older ones that come late are ignored, as their time stamps tell.
    heard: u64,
    /// Open question, with the times when it was last and first asked.
    asked: Option<(u64, u64, u64)>,
    /// Packet that waits for an agreement.
    waits: Option<Vec<u8>>,
    /// Time when the oldest packet was sent that nothing came after.
    sent_at: Option<u64>,
}

impl Fake {
    fn agree(&mut self, agreement: u64) {
        let now = self.clock.now();
        self.agreed.retain(|(_, at)| now - at < EXPIRY);
        if self.agreed.len() == AGREEMENTS {
            self.agreed.remove(0);
        }
        self.agreed.push((agreement, now));
    }

    fn opens(&self, agreement: u64) -> bool {
        let now = self.clock.now();
        let mut all = self.agreed.iter();
        all.any(|(agreed, at)| *agreed == agreement && now - at < EXPIRY)
    }

    fn message(kind: u8, agreement: u64, payload: &[u8]) -> Out {
        Out::Network([&[kind][..], &agreement.to_be_bytes(), payload].concat())
    }

    fn initiate(&mut self, out: &mut Vec<Out>) {
        let now = self.clock.now();
        self.next += 1;
        let since = self.asked.map_or(now, |(_, _, since)| since);
        self.asked = Some((self.next, now, since));
        out.push(Self::message(INIT, self.next, &[]));
    }
}

impl Session for Fake {
    fn seal(&mut self, packet: &[u8], out: &mut Vec<Out>) {
        let now = self.clock.now();
        match self.agreed.last().copied() {
            Some((agreement, at)) if now - at < EXPIRY => {
                self.sent_at.get_or_insert(now);
                out.push(Self::message(DATA, agreement, packet));
            }
            _ => {
                self.waits = Some(packet.to_vec());
                if self.asked.is_none() {
                    self.initiate(out);
                }
            }
        }
    }

    fn open(&mut self, datagram: &[u8], out: &mut Vec<Out>) {
        let Some((&kind, rest)) = datagram.split_first() else {
            return;
        };
        let Some((agreement, payload)) = rest.split_first_chunk() else {
            return;
        };
        let agreement = u64::from_be_bytes(*agreement);
        match kind {
            INIT if agreement > self.heard => {
                self.heard = agreement;
                self.agree(agreement);
                out.push(Self::message(ANSWER, agreement, &[]));
            }
            ANSWER if self.asked.is_some_and(|(asked, ..)| asked == agreement) => {
                self.agree(agreement);
                (self.asked, self.sent_at) = (None, None);
                if let Some(packet) = self.waits.take() {
                    self.seal(&packet, out);
                }
            }
            DATA if self.opens(agreement) => {
                self.sent_at = None;
                out.push(Out::Inner(payload.to_vec()));
            }
            _ => {}
        }
    }

    fn tick(&mut self, out: &mut Vec<Out>) {
        let now = self.clock.now();
        match self.asked {
            Some((_, _, since)) if now - since >= GIVE_UP => {
                (self.asked, self.waits) = (None, None)
            }
            Some((_, last, _)) if now - last >= ASK => self.initiate(out),
            Some(_) => {}
            None if self.sent_at.is_some_and(|at| now - at >= SILENCE) => {
                self.sent_at = None;
                self.initiate(out);
            }
            None => {}
        }
    }

    fn ask(&mut self, out: &mut Vec<Out>) {
        self.initiate(out);
    }

    fn last_handshake(&self) -> Option<Duration> {
        let (_, at) = self.agreed.last()?;
        Some(Duration::from_millis(self.clock.now() - at))
    }
}
