//! A relay: takes clients in, and hands each packet to the client whose key it names.
//!
//! What a client does not take is dropped, oldest first, so that one that is slow costs others nothing but its share
//! of `QUEUE_PACKETS`. Those who send to it take turns, and whoever has most waiting loses first: anybody who knows a key
//! may send to it, and must not be able to drown the others. Control comes before disco, disco before data.
//!
//! # Source
//! coder/tailscale `derp/derp_server.go`: duplicates, limits, who is told that whom has gone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{
    connection::{Reader, invalid, write},
    frame::{self, Frame, Gone},
};
use crate::{
    stop::Stop,
    tailnet::{
        disco,
        key::{Key, Private},
    },
};

/// How long a client may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// How long a client may take nothing.
const WRITE: Duration = Duration::from_secs(2);
/// After so much silence a client hears that we are there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Packets that wait for a client, of data and of disco each.
const QUEUE_PACKETS: usize = 512;
/// Bytes of them.
const QUEUE_BYTES: usize = 2 << 20;
/// Other frames that wait for a client.
const QUEUE_CONTROL: usize = 256;
/// Written at a time.
const BATCH_BYTES: usize = 64 << 10;
/// How many a client has sent something to are remembered, to be told when it goes.
const MAX_CORRESPONDENTS: usize = 4096;
/// Clients with one key.
const MAX_DUPLICATES: usize = 8;
/// How often a client is told that another is not here: at once, and for each second.
const NOT_HERE: (u32, Duration) = (3, Duration::from_secs(1));

/// A relay with its clients. A clone is the same relay.
#[derive(Clone)]
pub struct Relay(Arc<Shared>);

struct Shared {
    private: Private,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    /// The last one of a key gets its packets.
    by_key: HashMap<Key, Vec<Client>>,
    next_id: u64,
}

struct Client {
    id: u64,
    queue: Arc<Queue>,
    sent_to: HashSet<Key>,
}

/// What waits for a client.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    control: VecDeque<Frame>,
    disco: Packets,
    data: Packets,
}

/// Packets by their senders, who take turns.
#[derive(Default)]
struct Packets {
    of: HashMap<Key, Share>,
    /// Who has something waiting, in the order of their turns.
    turns: VecDeque<Key>,
    count: usize,
    bytes: usize,
}

/// What waits of one sender, in its order.
#[derive(Default)]
struct Share {
    packets: VecDeque<Bytes>,
    bytes: usize,
}

impl Packets {
    fn push(&mut self, from: Key, packet: Bytes) {
        let of = self.of.entry(from).or_insert_with(|| {
            self.turns.push_back(from);
            Share::default()
        });
        of.bytes += packet.len();
        self.bytes += packet.len();
        self.count += 1;
        of.packets.push_back(packet);
        while self.count > QUEUE_PACKETS || self.bytes > QUEUE_BYTES {
            let is_count = self.count > QUEUE_PACKETS;
            let most = |(_, of): &(&Key, &Share)| match is_count {
                true => of.packets.len(),
                false => of.bytes,
            };
            let Some(who) = self.of.iter().max_by_key(most).map(|(key, _)| *key) else {
                return;
            };
            self.take(who);
        }
    }

    fn pop(&mut self) -> Option<(Key, Bytes)> {
        let from = *self.turns.front()?;
        let packet = self.take(from)?;
        if self.of.contains_key(&from) {
            self.turns.rotate_left(1);
        }
        Some((from, packet))
    }

    /// The oldest packet of a sender, who has no turn any more if it was the last one.
    fn take(&mut self, from: Key) -> Option<Bytes> {
        let of = self.of.get_mut(&from)?;
        let packet = of.packets.pop_front()?;
        of.bytes -= packet.len();
        self.bytes -= packet.len();
        self.count -= 1;
        if of.packets.is_empty() {
            self.of.remove(&from);
            self.turns.retain(|it| *it != from);
        }
        Some(packet)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Frame> {
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        let (from, packet) = self.disco.pop().or_else(|| self.data.pop())?;
        Some(Frame::Receive { from, packet })
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut waiting = self.lock();
        match disco::sender(&packet) {
            Some(_) => waiting.disco.push(from, packet),
            None => waiting.data.push(from, packet),
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// As many frames as go at once.
    fn batch(&self, out: &mut BytesMut) {
        let mut waiting = self.lock();
        while out.len() < BATCH_BYTES
            && let Some(frame) = waiting.pop()
        {
            frame.encode(out);
        }
    }
}

impl Clients {
    fn enter(&mut self, key: Key) -> Option<(u64, Arc<Queue>)> {
        let all = self.by_key.entry(key).or_default();
        if all.len() >= MAX_DUPLICATES {
            return None;
        }
        self.next_id += 1;
        let (id, queue) = (self.next_id, Arc::new(Queue::default()));
        all.push(Client {
            id,
            queue: queue.clone(),
            sent_to: HashSet::new(),
        });
        Some((id, queue))
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

    /// Whether there is anybody to send it to.
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

/// A client while it is here.
struct Present {
    relay: Relay,
    key: Key,
    id: u64,
    queue: Arc<Queue>,
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
    /// A relay with this key.
    pub fn new(private: Private) -> Self {
        let clients = Mutex::default();
        Self(Arc::new(Shared { private, clients }))
    }

    /// What clients see of it before they connect.
    pub fn key(&self) -> Key {
        self.0.private.public()
    }

    /// How many clients there are, by their keys.
    pub fn clients_now(&self) -> usize {
        self.clients().by_key.len()
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one client until it or we end.
    ///
    /// # Errors
    /// What the client did wrong, or why it cannot be reached.
    pub async fn serve<S>(self, io: S, stop: Stop) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let (reader, mut writer) = tokio::io::split(io);
        let mut reader = Reader::new(reader);
        let hello = self.hello(&mut reader, &mut writer);
        let present = timeout(HELLO, hello).await??;
        tokio::select! {
            ended = present.receive(&mut reader) => ended,
            ended = present.send(&mut writer) => ended,
            () = stop.draining() => Ok(()),
        }
    }

    async fn hello<R, W>(&self, reader: &mut Reader<R>, writer: &mut W) -> io::Result<Present>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        write(writer, &Frame::ServerKey(self.key())).await?;
        let Some(Frame::ClientInfo { key, sealed }) = reader.next().await? else {
            return Err(invalid("a client that does not say who it is"));
        };
        let info = frame::open_client_info(&self.0.private, key, &sealed);
        if info.ok_or_else(|| invalid("a client that is not who it says"))? {
            return Err(invalid(
                "a relay that wants to share clients, which we do not",
            ));
        }
        let entered = self.clients().enter(key);
        let (id, queue) = entered.ok_or_else(|| invalid("too many clients with one key"))?;
        let present = Present {
            relay: self.clone(),
            key,
            id,
            queue,
        };
        write(writer, &frame::server_info(&self.0.private, key)).await?;
        Ok(present)
    }
}

impl Present {
    async fn receive<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>) -> io::Result<()> {
        let (mut left, mut since) = (NOT_HERE.0, Instant::now());
        while let Some(frame) = reader.next().await? {
            match frame {
                Frame::Send { to, packet } => {
                    let is_disco = disco::sender(&packet).is_some();
                    let mut clients = self.relay.clients();
                    if clients.send(self.key, self.id, to, packet) || !is_disco {
                        continue;
                    }
                    drop(clients);
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
                // To watch, to forward or to close others is for relays among each other.
                Frame::Other(0x0a | 0x10 | 0x11) => {
                    return Err(invalid("a client that takes itself for a relay"));
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
        // Not all of a fleet at once.
        let mut silent_until = Instant::now() + KEEP_ALIVE.mul_f64(rand::random_range(1.0..1.08));
        loop {
            self.queue.batch(&mut bytes);
            if bytes.is_empty() {
                tokio::select! {
                    () = self.queue.more.notified() => continue,
                    () = sleep_until(silent_until) => Frame::KeepAlive.encode(&mut bytes),
                }
            }
            timeout(WRITE, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            })
            .await??;
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

    fn next(queue: &Queue) -> Option<Frame> {
        queue.lock().pop()
    }

    #[test]
    fn the_newest_of_a_key_gets_its_packets_and_then_whoever_sent_last() {
        let mut clients = Clients::default();
        let (a, _) = clients.enter(key(1)).unwrap();
        let (first, one) = clients.enter(key(2)).unwrap();
        let (second, two) = clients.enter(key(2)).unwrap();

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
        let (a, _) = clients.enter(key(1)).unwrap();
        let (_, heard) = clients.enter(key(2)).unwrap();
        let (_, other) = clients.enter(key(3)).unwrap();
        clients.send(key(1), a, key(2), packet("x"));
        next(&heard);

        clients.leave(key(1), a);

        let gone = Frame::PeerGone(key(1), Gone::Disconnected);
        assert_eq!(next(&heard), Some(gone));
        assert_eq!(next(&other), None);
    }

    #[test]
    fn one_that_sends_without_end_costs_the_others_nothing() {
        let queue = Queue::default();
        for n in 0..5 {
            queue.packet(key(1), Bytes::from(n.to_string()));
        }
        let large = Bytes::from(vec![0; frame::MAX_PACKET]);
        for _ in 0..QUEUE_PACKETS * 3 {
            queue.packet(key(2), packet("flood"));
            queue.packet(key(3), large.clone());
        }
        assert!(queue.lock().data.bytes <= QUEUE_BYTES);
        assert!(queue.lock().data.count <= QUEUE_PACKETS);

        let mut taken = Vec::new();
        for _ in 0..15 {
            let Some(Frame::Receive { from, packet }) = next(&queue) else {
                panic!("there is more")
            };
            if from == key(1) {
                taken.push(packet);
            }
        }
        assert_eq!(taken, ["0", "1", "2", "3", "4"]);
        while next(&queue).is_some() {}
        let waiting = queue.lock();
        let Packets {
            of,
            turns,
            count,
            bytes,
        } = &waiting.data;
        assert_eq!((of.len(), turns.len(), *count, *bytes), (0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_say_who_it_is_is_not_waited_for() {
        let relay = Relay::default();
        let (_client, io) = tokio::io::duplex(1 << 10);

        let ended = relay.clone().serve(io, Stop::new()).await;

        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(relay.clients_now(), 0);
    }

    #[test]
    fn what_is_not_taken_is_dropped_oldest_first_and_disco_comes_before_data() {
        let queue = Queue::default();
        for n in 0..QUEUE_PACKETS + 3 {
            queue.packet(key(1), Bytes::from(n.to_string()));
        }
        let (a, b) = (Private::generate(), Private::generate());
        let ping = disco::Message::CallMeMaybe(vec![]);
        queue.packet(key(1), disco::seal(&ping, &a, &a.shared(b.public())).into());
        queue.control(Frame::KeepAlive);

        assert_eq!(next(&queue), Some(Frame::KeepAlive));
        assert!(matches!(next(&queue), Some(Frame::Receive { packet, .. }) if packet.len() > 10));
        assert!(matches!(next(&queue), Some(Frame::Receive { packet, .. }) if packet == "3"));
        let large = Bytes::from(vec![0; frame::MAX_PACKET]);
        for _ in 0..QUEUE_PACKETS {
            queue.packet(key(1), large.clone());
        }
        assert!(queue.lock().data.bytes <= QUEUE_BYTES);
    }
}
