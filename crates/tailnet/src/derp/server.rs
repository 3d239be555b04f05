//! DERP relay: accepts clients, and forwards each packet to the client whose key it names.
//!
//! Packets that a client does not read are dropped, oldest first, so that a slow client costs others nothing but its
//! share of `QUEUE_PACKETS`. Senders to it take turns, and the one with most packets waiting loses first: anybody who
//! knows a key may send to it, and must not be able to drown out the others. Control comes before disco, disco before
//! data. A client that sends more than its key or its address may is read more slowly.
//!
//! # Source
//! coder/tailscale `derp/derp_server.go`: duplicates, limits, and notices of peers that are gone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use outpost_base::stop::Stop;
use outpost_net::{access::Access, budget::Allowance, listener::mark_authenticated};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    connection::{Reader, invalid, write},
    counts::{Counters, Counts, add},
    frame::{self, Frame, Gone},
    guests::{Expected, Guests},
    rates::{Limits, Pace, Rates},
    strangers::Strangers,
};
use crate::{
    disco,
    key::{Key, Private},
};

/// Longest time that a client may take to introduce itself.
const HELLO: Duration = Duration::from_secs(10);
/// Longest time until a client's key is announced: its node tells the coordinator at the same time.
const INTRODUCTION: Duration = Duration::from_secs(8);
/// Longest time that a client may read nothing.
const WRITE: Duration = Duration::from_secs(2);
/// Interval of keep-alives to a silent client.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Number of packets that wait for a client, for data and for disco each: more than a connection has in flight.
const QUEUE_PACKETS: usize = 2048;
/// Bytes of such packets for one client, for data and for disco each.
const QUEUE_BYTES: usize = 2 << 20;
/// Bytes of such packets for all clients together.
const QUEUES_BYTES: usize = 64 << 20;
/// Number of other frames that wait for a client.
const QUEUE_CONTROL: usize = 256;
/// Bytes that are written together.
const BATCH_BYTES: usize = 64 << 10;
/// Number of recipients that are remembered for each client, to be told when it disconnects.
const MAX_CORRESPONDENTS: usize = 4096;
/// Number of clients with the same key.
const MAX_DUPLICATES: usize = 8;
/// Rate of notices to a client that a peer is not here: this many at once, and again for each such time.
const NOT_HERE: (u32, Duration) = (3, Duration::from_secs(1));

/// A relay with its clients. Clones are the same relay.
#[derive(Clone)]
pub struct Relay(Arc<Shared>);

struct Shared {
    private: Private,
    clients: Mutex<Clients>,
    /// Keys that the relay serves; `None` for any key.
    guests: Option<Guests>,
    strangers: Strangers,
    rates: Rates,
    counters: Arc<Counters>,
}

struct Clients {
    /// Budget of the queues of all clients.
    waiting: Allowance,
    /// Clients by key. The last one of a key receives its packets.
    by_key: HashMap<Key, Vec<Client>>,
    next_id: u64,
    counters: Arc<Counters>,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            waiting: Allowance::new(QUEUES_BYTES),
            by_key: HashMap::new(),
            next_id: 0,
            counters: Arc::default(),
        }
    }
}

struct Client {
    id: u64,
    queue: Arc<Queue>,
    sent_to: HashSet<Key>,
}

/// Queue of a client.
struct Queue {
    /// Budget that it shares with the queues of all clients.
    all: Allowance,
    counters: Arc<Counters>,
    waiting: Mutex<Waiting>,
    more: Notify,
    /// Set if its client must be disconnected.
    is_over: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    control: VecDeque<Frame>,
    disco: Packets,
    data: Packets,
}

/// Waiting packets by their senders, who take turns.
#[derive(Default)]
struct Packets {
    of: HashMap<Key, Share>,
    /// Senders with waiting packets, in the order of their turns.
    turns: VecDeque<Key>,
    frames: usize,
    bytes: usize,
    /// Empty buffer for the next sender.
    spare: BytesMut,
}

/// Waiting frames of one sender, already encoded, so that they keep no other memory alive.
struct Share {
    bytes: BytesMut,
    frames: usize,
}

impl Packets {
    /// Adds a packet, and returns how many were dropped for it.
    fn push(&mut self, from: Key, packet: Bytes) -> usize {
        let mut dropped = 0;
        let of = self.of.entry(from).or_insert_with(|| {
            self.turns.push_back(from);
            let bytes = std::mem::take(&mut self.spare);
            Share { bytes, frames: 0 }
        });
        let before = of.bytes.len();
        Frame::Receive { from, packet }.encode(&mut of.bytes);
        of.frames += 1;
        self.bytes += of.bytes.len() - before;
        self.frames += 1;
        while self.frames > QUEUE_PACKETS || self.bytes > QUEUE_BYTES {
            let is_count = self.frames > QUEUE_PACKETS;
            let most = |(_, of): &(&Key, &Share)| match is_count {
                true => of.frames,
                false => of.bytes.len(),
            };
            let Some(who) = self.of.iter().max_by_key(most).map(|(key, _)| *key) else {
                break;
            };
            self.shift(who, None);
            dropped += 1;
        }
        dropped
    }

    /// Moves one batch of frames to the end of `out`.
    fn take(&mut self, out: &mut BytesMut) {
        if self.turns.len() == 1
            && out.is_empty()
            && self.bytes <= BATCH_BYTES
            && let Some(only) = self.turns.pop_front().and_then(|who| self.of.remove(&who))
        {
            self.spare = std::mem::replace(out, only.bytes);
            (self.frames, self.bytes) = (0, 0);
        }
        while out.len() < BATCH_BYTES
            && let Some(who) = self.turns.front().copied()
        {
            self.shift(who, Some(out));
            if self.turns.front() == Some(&who) {
                self.turns.rotate_left(1);
            }
        }
    }

    /// Removes the oldest packet of a sender, whose turn ends if it was the last one.
    fn shift(&mut self, who: Key, out: Option<&mut BytesMut>) {
        let Some(of) = self.of.get_mut(&who) else {
            return;
        };
        let length = frame::length(&of.bytes);
        if let Some(out) = out {
            out.extend_from_slice(&of.bytes[..length]);
        }
        of.bytes.advance(length);
        of.frames -= 1;
        self.bytes -= length;
        self.frames -= 1;
        if of.frames == 0 {
            self.of.remove(&who);
            self.turns.retain(|it| *it != who);
        }
    }
}

impl Queue {
    fn new(all: Allowance, counters: Arc<Counters>) -> Self {
        Self {
            all,
            counters,
            waiting: Mutex::default(),
            more: Notify::new(),
            is_over: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.more.notify_one();
    }

    fn control(&self, frame: Frame) {
        let mut waiting = self.lock();
        if waiting.control.len() < QUEUE_CONTROL {
            waiting.control.push_back(frame);
        }
        drop(waiting);
        self.more.notify_one();
    }

    fn packet(&self, from: Key, packet: Bytes) {
        let longest = packet.len() + frame::RECEIVE_OVERHEAD;
        if !self.all.take(longest) {
            return add(&self.counters.dropped_packets, 1);
        }
        let mut waiting = self.lock();
        let before = waiting.bytes();
        let dropped = match disco::sender(&packet) {
            Some(_) => waiting.disco.push(from, packet),
            None => waiting.data.push(from, packet),
        };
        add(&self.counters.dropped_packets, dropped);
        // Other packets may have been dropped for this one.
        self.all
            .give((before + longest).saturating_sub(waiting.bytes()));
        drop(waiting);
        self.more.notify_one();
    }

    /// Appends one batch of frames to `out`.
    fn batch(&self, out: &mut BytesMut) {
        let mut waiting = self.lock();
        while let Some(frame) = waiting.control.pop_front() {
            frame.encode(out);
        }
        let before = waiting.bytes();
        waiting.disco.take(out);
        waiting.data.take(out);
        self.all.give(before.saturating_sub(waiting.bytes()));
        if out.is_empty() {
            // A silent client holds no memory.
            *out = BytesMut::new();
            *waiting = Waiting::default();
        }
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.disco.bytes + self.data.bytes
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut();
        self.all
            .give(waiting.unwrap_or_else(PoisonError::into_inner).bytes());
    }
}

impl Clients {
    /// Adds a client. If there are too many with one key, the one that sent least recently is removed: most likely
    /// its connection broke without our knowledge.
    fn enter(&mut self, key: Key) -> (u64, Arc<Queue>) {
        let all = self.by_key.entry(key).or_default();
        if all.len() >= MAX_DUPLICATES {
            all.remove(0).queue.end();
        }
        self.next_id += 1;
        let queue = Arc::new(Queue::new(self.waiting.clone(), self.counters.clone()));
        let id = self.next_id;
        all.push(Client {
            id,
            queue: queue.clone(),
            sent_to: HashSet::new(),
        });
        (id, queue)
    }

    fn leave(&mut self, key: Key, id: u64) {
        let Some(all) = self.by_key.get_mut(&key) else {
            return;
        };
        let gone = all.iter().position(|client| client.id == id);
        let gone = gone.map(|at| all.remove(at));
        if !all.is_empty() {
            return;
        }
        self.by_key.remove(&key);
        for other in gone.into_iter().flat_map(|client| client.sent_to) {
            if let Some(queue) = self.queue(other) {
                queue.control(Frame::PeerGone(key, Gone::Disconnected));
            }
        }
    }

    fn queue(&self, key: Key) -> Option<&Arc<Queue>> {
        Some(&self.by_key.get(&key)?.last()?.queue)
    }

    /// Queues a packet, and returns whether its recipient is connected.
    fn send(&mut self, from: Key, id: u64, to: Key, packet: Bytes) -> bool {
        let Some(queue) = self.queue(to) else {
            return false;
        };
        queue.packet(from, packet);
        if let Some(all) = self.by_key.get_mut(&from)
            && let Some(at) = all.iter().position(|client| client.id == id)
        {
            if at + 1 != all.len() {
                let active = all.remove(at);
                all.push(active);
            }
            if let Some(client) = all.last_mut()
                && client.sent_to.len() < MAX_CORRESPONDENTS
            {
                client.sent_to.insert(to);
            }
        }
        true
    }
}

/// Facts about a client that are known before it says anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guest {
    /// Set if the client came with a credential, so that it need not be expected.
    pub is_known: bool,
    /// Address that its limits are counted by, if it has one.
    pub address: Option<IpAddr>,
}

/// A connected client, removed when this is dropped.
struct Present {
    relay: Relay,
    key: Key,
    id: u64,
    queue: Arc<Queue>,
    pace: Pace,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.relay.clients().leave(self.key, self.id);
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self::new(Private::generate())
    }
}

impl Relay {
    /// Creates a relay with this key, for any client.
    pub fn new(private: Private) -> Self {
        Self::serving(private, None, Limits::default())
    }

    /// Creates a relay that serves only expected keys, and clients with a credential.
    pub fn guarded() -> Self {
        let guests = Some(Guests::default());
        Self::serving(Private::generate(), guests, Limits::default())
    }

    /// Creates a relay for any client, with other limits.
    pub fn limited(limits: Limits) -> Self {
        Self::serving(Private::generate(), None, limits)
    }

    fn serving(private: Private, guests: Option<Guests>, limits: Limits) -> Self {
        let clients = Clients::default();
        Self(Arc::new(Shared {
            private,
            counters: clients.counters.clone(),
            clients: Mutex::new(clients),
            guests,
            strangers: Strangers::default(),
            rates: Rates::new(limits),
        }))
    }

    /// Serves the owner of this key while the returned value is held, and for a while after that unless `access` has
    /// ended.
    pub fn expect(&self, key: Key, access: Option<Arc<Access>>) -> Expected {
        if let Some(guests) = &self.0.guests {
            guests.add(key);
        }
        Expected {
            relay: self.clone(),
            key,
            access,
            is_replaced: false,
        }
    }

    /// Disconnects clients that are no longer expected and whose access has ended.
    pub fn forget_revoked(&self) {
        let gone = self.0.guests.as_ref().map(Guests::take_revoked);
        for key in gone.into_iter().flatten() {
            self.send_away(key);
        }
    }

    pub(super) fn guests(&self) -> Option<&Guests> {
        self.0.guests.as_ref()
    }

    pub(super) fn send_away(&self, key: Key) {
        let clients = self.clients();
        let all = clients.by_key.get(&key).into_iter().flatten();
        all.for_each(|client| client.queue.end());
    }

    /// Public key of the relay, which clients see before they connect.
    pub fn key(&self) -> Key {
        self.0.private.public()
    }

    /// Numbers of the relay at this moment.
    pub fn counts(&self) -> Counts {
        let clients = self.clients().by_key.len();
        self.0.counters.now(clients)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one client until it or we hang up.
    ///
    /// # Errors
    /// What the client did wrong, or why it cannot be reached.
    pub async fn serve<S>(self, io: S, stop: Stop) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        self.serve_guest(io, Guest::default(), stop).await
    }

    /// Serves one client as [`Self::serve`] does, with facts that are already known about it.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub async fn serve_guest<S>(self, io: S, guest: Guest, stop: Stop) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let (reader, mut writer) = tokio::io::split(io);
        let mut reader = Reader::new(reader);
        let hello = self.hello(&mut reader, &mut writer, guest);
        let present = timeout(HELLO, hello).await.map_err(io::Error::from);
        let present = present.flatten();
        let present = present.inspect_err(|_| add(&self.0.counters.refused, 1))?;
        tokio::select! {
            ended = present.receive(&mut reader) => ended,
            ended = present.send(&mut writer) => ended,
            () = stop.draining() => Ok(()),
        }
    }

    async fn hello<R, W>(
        &self,
        reader: &mut Reader<R>,
        writer: &mut W,
        guest: Guest,
    ) -> io::Result<Present>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        write(writer, &Frame::ServerKey(self.key())).await?;
        let Some(Frame::ClientInfo { key, sealed }) = reader.next().await? else {
            return Err(invalid("client sent no valid identity"));
        };
        let info = frame::open_client_info(&self.0.private, key, &sealed);
        if info.ok_or_else(|| invalid("client could not prove its key"))? {
            return Err(invalid("mesh connections between relays are not supported"));
        }
        if let Some(guests) = self.0.guests.as_ref().filter(|_| !guest.is_known) {
            let known = guests.wait_for(key);
            let waiting = async {
                match guest.address {
                    Some(address) => {
                        let strangers = &self.0.strangers;
                        strangers.meet(key, address, (reader, writer), known).await
                    }
                    None => {
                        known.await;
                        Ok(())
                    }
                }
            };
            let waited = timeout(INTRODUCTION, waiting).await;
            waited.map_err(|_| invalid("client's key is unknown to the coordinator"))??;
        }
        mark_authenticated(None);
        let (id, queue) = self.clients().enter(key);
        let present = Present {
            relay: self.clone(),
            key,
            id,
            queue,
            pace: self.0.rates.of(key, guest.address),
        };
        write(writer, &frame::server_info(&self.0.private, key)).await?;
        Ok(present)
    }
}

impl Present {
    /// Counts the bytes that were read, and waits if they were too many.
    async fn slow_down(&self, bytes: usize) {
        let pause = self.pace.charge(bytes);
        if !pause.is_zero() {
            let milliseconds = usize::try_from(pause.as_millis()).unwrap_or(usize::MAX);
            add(&self.relay.0.counters.slowed_ms, milliseconds);
            sleep(pause).await;
        }
    }

    async fn receive<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>) -> io::Result<()> {
        let (mut left, mut since) = (NOT_HERE.0, Instant::now());
        while let Some(frame) = reader.next().await? {
            let bytes = reader.take_count();
            add(&self.relay.0.counters.received_bytes, bytes);
            self.slow_down(bytes).await;
            match frame {
                Frame::Send { to, packet } => {
                    let is_disco = disco::sender(&packet).is_some();
                    let mut clients = self.relay.clients();
                    let is_there = clients.send(self.key, self.id, to, packet);
                    drop(clients);
                    if !is_there {
                        add(&self.relay.0.counters.dropped_packets, 1);
                    }
                    if is_there || !is_disco {
                        continue;
                    }
                    if since.elapsed() >= NOT_HERE.1 {
                        (left, since) = ((left + 1).min(NOT_HERE.0), Instant::now());
                    }
                    if left > 0 {
                        left -= 1;
                        self.queue.control(Frame::PeerGone(to, Gone::NotHere));
                    }
                }
                Frame::Ping(data) => self.queue.control(Frame::Pong(data)),
                Frame::Preferred(_) | Frame::Pong(_) => {}
                // Frames to watch, to forward and to close clients are only for relays of one mesh.
                Frame::Other(0x0a | 0x10 | 0x11) => {
                    return Err(invalid("client sent a frame that only relays send"));
                }
                Frame::ServerKey(_)
                | Frame::ClientInfo { .. }
                | Frame::ServerInfo(_)
                | Frame::Receive { .. }
                | Frame::KeepAlive
                | Frame::PeerGone(..)
                | Frame::Health(_)
                | Frame::Restarting(..)
                | Frame::Other(_) => {}
            }
        }
        Ok(())
    }

    async fn send<W: AsyncWrite + Unpin>(&self, writer: &mut W) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        // With jitter, so that a fleet's clients do not all send at once.
        let mut silent_until = Instant::now() + KEEP_ALIVE.mul_f64(rand::random_range(1.0..1.08));
        loop {
            if self.queue.is_over.load(Ordering::Relaxed) {
                return Err(invalid(
                    "another client with the same key replaced it, or its access ended",
                ));
            }
            self.queue.batch(&mut bytes);
            if bytes.is_empty() {
                tokio::select! {
                    () = self.queue.more.notified() => continue,
                    () = sleep_until(silent_until) => Frame::KeepAlive.encode(&mut bytes),
                }
            }
            let written = timeout(WRITE, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            });
            let counters = &self.relay.0.counters;
            written.await.inspect_err(|_| add(&counters.stalled, 1))??;
            add(&counters.sent_bytes, bytes.len());
            bytes.clear();
            silent_until = Instant::now() + KEEP_ALIVE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    fn packet(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// Returns the only waiting frame, and asserts that no others wait.
    fn next(queue: &Queue) -> Option<Frame> {
        let mut bytes = BytesMut::new();
        queue.batch(&mut bytes);
        let frame = Frame::decode(&mut bytes).unwrap();
        assert!(bytes.is_empty());
        frame
    }

    #[test]
    fn the_newest_of_a_key_gets_its_packets_and_then_whoever_sent_last() {
        let mut clients = Clients::default();
        let (a, _) = clients.enter(key(1));
        let (first, one) = clients.enter(key(2));
        let (second, two) = clients.enter(key(2));

        assert!(clients.send(key(1), a, key(2), packet("x")));
        assert!(next(&one).is_none() && next(&two).is_some());
        clients.send(key(2), first, key(1), packet("y"));
        clients.send(key(1), a, key(2), packet("x"));
        assert!(next(&one).is_some() && next(&two).is_none());
        clients.leave(key(2), first);
        clients.send(key(1), a, key(2), packet("x"));
        assert!(next(&two).is_some());
        clients.leave(key(2), second);
        assert!(!clients.send(key(1), a, key(2), packet("x")));
    }

    #[test]
    fn those_who_heard_of_a_client_are_told_when_it_goes() {
        let mut clients = Clients::default();
        let (a, _) = clients.enter(key(1));
        let (_, heard) = clients.enter(key(2));
        let (_, other) = clients.enter(key(3));
        clients.send(key(1), a, key(2), packet("x"));
        next(&heard);

        clients.leave(key(1), a);

        let gone = Frame::PeerGone(key(1), Gone::Disconnected);
        assert_eq!(next(&heard), Some(gone));
        assert_eq!(next(&other), None);
    }

    #[test]
    fn one_that_sends_without_end_costs_the_others_nothing() {
        let queue = Queue::new(Allowance::new(QUEUES_BYTES), Arc::default());
        for n in 0..5 {
            queue.packet(key(1), Bytes::from(n.to_string()));
        }
        let large = Bytes::from(vec![0; 4096]);
        for _ in 0..QUEUE_PACKETS * 3 {
            queue.packet(key(2), packet("flood"));
            queue.packet(key(3), large.clone());
        }
        assert!(queue.lock().data.bytes <= QUEUE_BYTES);
        assert!(queue.lock().data.frames <= QUEUE_PACKETS);

        let (mut bytes, mut senders, mut taken) = (BytesMut::new(), Vec::new(), Vec::new());
        queue.batch(&mut bytes);
        while let Some(frame) = Frame::decode(&mut bytes).unwrap() {
            let Frame::Receive { from, packet } = frame else {
                panic!("only packets wait");
            };
            senders.push(from);
            if from == key(1) {
                taken.push(packet);
            }
        }
        assert_eq!(taken, ["0", "1", "2", "3", "4"]);
        let turn = [key(1), key(2), key(3)];
        assert_eq!(senders[..15], turn.repeat(5));
        loop {
            bytes.clear();
            queue.batch(&mut bytes);
            if bytes.is_empty() {
                break;
            }
        }
        let waiting = queue.lock();
        let left = (waiting.data.frames, waiting.data.bytes);
        assert_eq!(left, (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_say_who_it_is_is_not_waited_for() {
        let relay = Relay::default();
        let (_client, io) = tokio::io::duplex(1 << 10);

        let ended = relay.clone().serve(io, Stop::new()).await;

        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(relay.counts().clients, 0);
    }

    #[test]
    fn what_is_not_taken_is_dropped_oldest_first_and_disco_comes_before_data() {
        let queue = Queue::new(Allowance::new(QUEUES_BYTES), Arc::default());
        for n in 0..QUEUE_PACKETS + 3 {
            queue.packet(key(1), Bytes::from(n.to_string()));
        }
        let (a, b) = (Private::generate(), Private::generate());
        let ping = disco::Message::CallMeMaybe(vec![]);
        queue.packet(key(1), disco::seal(&ping, &a, &a.shared(b.public())).into());
        queue.control(Frame::KeepAlive);

        let mut bytes = BytesMut::new();
        queue.batch(&mut bytes);
        let mut next = || Frame::decode(&mut bytes).unwrap();
        assert_eq!(next(), Some(Frame::KeepAlive));
        assert!(matches!(next(), Some(Frame::Receive { packet, .. }) if packet.len() > 10));
        assert!(matches!(next(), Some(Frame::Receive { packet, .. }) if packet == "3"));
        let large = Bytes::from(vec![0; frame::MAX_PACKET]);
        for _ in 0..QUEUE_PACKETS {
            queue.packet(key(1), large.clone());
        }
        assert!(queue.lock().data.bytes <= QUEUE_BYTES);
        bytes.clear();
        queue.batch(&mut bytes);
        assert!(
            bytes.len() < BATCH_BYTES + 2 * frame::MAX_PACKET,
            "{}",
            bytes.len()
        );
    }

    #[test]
    fn a_client_for_which_nothing_waits_holds_no_memory() {
        let (queue, mut bytes) = (
            Queue::new(Allowance::new(QUEUES_BYTES), Arc::default()),
            BytesMut::new(),
        );
        for _ in 0..QUEUE_PACKETS {
            queue.packet(key(1), packet("something"));
        }

        loop {
            bytes.clear();
            queue.batch(&mut bytes);
            if bytes.is_empty() {
                break;
            }
        }

        let waiting = queue.lock();
        let held = [
            bytes.capacity(),
            waiting.data.spare.capacity(),
            waiting.data.of.capacity(),
            waiting.data.turns.capacity(),
        ];
        assert_eq!(held, [0; 4]);
    }

    #[test]
    fn what_waits_for_all_clients_together_is_bounded_and_given_back() {
        let all = Allowance::new(100 << 10);
        let [one, two] = [(); 2].map(|()| Queue::new(all.clone(), Arc::default()));
        let from = Private::generate().public();
        let packet = Bytes::from(vec![1; 60 << 10]);

        one.packet(from, packet.clone());
        two.packet(from, packet.clone());
        assert_eq!(all.taken(), (60 << 10) + frame::RECEIVE_OVERHEAD);

        let mut out = BytesMut::new();
        one.batch(&mut out);
        assert_eq!(all.taken(), 0);
        two.packet(from, packet);
        drop(two);
        assert_eq!((out.is_empty(), all.taken()), (false, 0));
    }

    /// Connects a client to the relay.
    async fn come_in(relay: &Relay, private: &Private) -> tokio::io::DuplexStream {
        let (mut client, io) = tokio::io::duplex(64 << 10);
        tokio::spawn(relay.clone().serve(io, Stop::new()));
        let mut reader = Reader::new(&mut client);
        assert!(matches!(reader.next().await, Ok(Some(Frame::ServerKey(_)))));
        write(&mut client, &frame::client_info(private, relay.key()))
            .await
            .unwrap();
        let mut reader = Reader::new(&mut client);
        assert!(matches!(
            reader.next().await,
            Ok(Some(Frame::ServerInfo(_)))
        ));
        client
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_too_much_is_read_more_slowly_and_loses_nothing() {
        const PACKETS: usize = 300;
        let relay = Relay::limited(Limits {
            of_key: 1_000_000,
            of_address: 1_000_000,
        });
        let [from, to] = [(); 2].map(|()| Private::generate());
        let mut sender = come_in(&relay, &from).await;
        let mut receiver = come_in(&relay, &to).await;
        let began = Instant::now();

        let sending = tokio::spawn(async move {
            for _ in 0..PACKETS {
                let (to, packet) = (to.public(), Bytes::from(vec![7; 10_000]));
                write(&mut sender, &Frame::Send { to, packet })
                    .await
                    .unwrap();
            }
            sender
        });
        let mut reader = Reader::new(&mut receiver);
        for _ in 0..PACKETS {
            let packet = reader.next().await;
            assert!(
                matches!(packet, Ok(Some(Frame::Receive { .. }))),
                "{packet:?}"
            );
        }

        let took = began.elapsed();
        assert!((2..4).contains(&took.as_secs()), "{took:?}");
        assert!(relay.counts().slowed > Duration::from_secs(2));
        drop(sending.await.unwrap());
    }
}
