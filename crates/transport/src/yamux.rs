//! yamux: many streams over one connection, compatible with `hashicorp/yamux`.
//!
//! [`Session`] is sans-IO, the protocol without a socket, a clock or a task; [`Connection`] drives it over any byte
//! stream.
//! It is ours because the crates at hand either send no keep-alive on an idle connection, or stop reading the
//! connection while one stream is not read.
//!
//! # Source
//! hashicorp/yamux v0.1.2: `spec.md`, `session.go`, `stream.go`; limits are those of its `DefaultConfig`.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

mod driver;
mod frame;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use outpost_net::budget::Allowance;

pub use self::driver::{Connection, Incoming, Stream};
use self::frame::{Flags, Header, Kind};

/// Limits of one session.
#[derive(Clone, Debug)]
pub struct Config {
    /// Interval of pings on a healthy connection.
    pub keep_alive: Duration,
    /// Time that the peer has to answer a ping, and to accept what we write.
    pub answer_timeout: Duration,
    /// Time that the peer has to acknowledge a stream that we opened.
    pub open_timeout: Duration,
    /// Time that the peer has to close its half of a stream after we closed ours.
    pub close_timeout: Duration,
    /// Number of streams at the same time, whoever opened them. Further ones are reset.
    pub max_streams: usize,
    /// Allowance for unread bytes, over all sessions of the peer. A stream that exceeds it is reset.
    pub unread: Option<Allowance>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(75),
            close_timeout: Duration::from_secs(300),
            max_streams: 256,
            unread: None,
        }
    }
}

/// Bytes that either side may send on a stream before the other grants more.
pub const WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes that may wait for the connection before writers have to wait.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// Payload of one data frame that we send, in bytes; the peer may send more in one.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Role on the connection. The client's streams have odd ids, the server's even ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that dialled.
    Client,
    /// The side that was dialled.
    Server,
}

/// Id of a stream in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

/// Event of a session for its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream that the peer opened.
    StreamOpened(StreamId),
    /// A stream that has something to read, its end included, or was reset.
    StreamReadable(StreamId),
    /// A stream that may be written again, or was reset.
    StreamWritable(StreamId),
}

/// Reasons why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A violation of the protocol by the peer.
    #[error("yamux peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// A missing answer of the peer.
    #[error("yamux peer did not answer: {0}")]
    Silent(&'static str),
    /// An end that the peer announced; the number is its reason, 0 for an orderly end.
    #[error("yamux peer ended the session with code {0}")]
    GoneAway(u32),
}

/// Reasons why a stream cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A stream that the peer reset, or that no longer exists.
    #[error("stream was reset")]
    Reset,
    /// A stream whose half we have closed.
    #[error("stream is closed for writing")]
    Closed,
}

/// State of one stream.
#[derive(Debug)]
struct StreamState {
    acknowledged: bool,
    opened_at: Instant,
    sent_end: bool,
    received_end: bool,
    reset: bool,
    /// Set if nobody reads any more.
    abandoned: bool,
    close_deadline: Option<Instant>,
    send_credit: u32,
    receive_credit: u32,
    consumed: u32,
    /// Bytes that arrived, copied out of the connection's buffers: a piece of one byte would keep a whole buffer.
    received: BytesMut,
    writer_waits: bool,
}

impl StreamState {
    fn new(now: Instant, acknowledged: bool) -> Self {
        Self {
            acknowledged,
            opened_at: now,
            sent_end: false,
            received_end: false,
            reset: false,
            abandoned: false,
            close_deadline: None,
            send_credit: WINDOW_BYTES,
            receive_credit: WINDOW_BYTES,
            consumed: 0,
            received: BytesMut::new(),
            writer_waits: false,
        }
    }

    fn is_over(&self) -> bool {
        self.abandoned && (self.reset || (self.sent_end && self.received_end))
    }
}

/// State of one yamux session. Pure: bytes and time go in, bytes and events come out.
#[derive(Debug)]
pub struct Session {
    role: Role,
    config: Config,
    next_id: u32,
    streams: BTreeMap<StreamId, StreamState>,
    /// Part of a header that has not arrived in full.
    partial: BytesMut,
    /// Body that is arriving: its stream, and how many bytes are missing.
    body: Option<(StreamId, u32)>,
    transmits: VecDeque<Bytes>,
    queued_bytes: usize,
    events: VecDeque<Event>,
    ping: Option<(u32, Instant)>,
    next_ping: Instant,
    ping_id: u32,
    peer_is_leaving: bool,
}

impl Session {
    /// Begins a session at `now`.
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            role,
            next_id: if role == Role::Client { 1 } else { 2 },
            streams: BTreeMap::new(),
            partial: BytesMut::new(),
            body: None,
            transmits: VecDeque::new(),
            queued_bytes: 0,
            events: VecDeque::new(),
            ping: None,
            next_ping: now + config.keep_alive,
            ping_id: 0,
            peer_is_leaving: false,
            config,
        }
    }

    /// Opens a stream; `None` if there are too many or the peer accepts no more.
    pub fn open(&mut self, now: Instant) -> Option<StreamId> {
        if self.peer_is_leaving || self.streams.len() >= self.config.max_streams {
            return None;
        }
        // Ids are never reused: when they run out, no stream can be opened any more.
        let id = StreamId(self.next_id);
        self.next_id = self.next_id.checked_add(2)?;
        self.streams.insert(id, StreamState::new(now, false));
        self.send_header(Kind::WindowUpdate, Flags::SYN, id.0, 0);
        Some(id)
    }

    /// Queues as much of `data` as the peer and our own queue accept, and returns how many bytes that is. After 0
    /// bytes an [`Event::StreamWritable`] follows.
    ///
    /// # Errors
    /// [`StreamError`] if the stream was reset or we closed it.
    pub fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        let queue_room = MAX_QUEUED_BYTES.saturating_sub(self.queued_bytes);
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Reset)?;
        if stream.reset {
            return Err(StreamError::Reset);
        }
        if stream.sent_end {
            return Err(StreamError::Closed);
        }
        let length = data
            .len()
            .min(stream.send_credit as usize)
            .min(queue_room)
            .min(MAX_FRAME_BYTES);
        if length == 0 && !data.is_empty() {
            stream.writer_waits = true;
            return Ok(0);
        }
        let wire_length = u32::try_from(length).expect("a frame is at most 64 KiB");
        stream.send_credit -= wire_length;
        let mut frame = BytesMut::with_capacity(frame::HEADER_BYTES + length);
        Header {
            kind: Kind::Data,
            flags: Flags::NONE,
            stream: id.0,
            length: wire_length,
        }
        .encode(&mut frame);
        frame.extend_from_slice(&data[..length]);
        self.queue(frame.freeze());
        Ok(length)
    }

    /// Reads what arrived on a stream: `Some` of at least one byte, `None` if nothing is there yet, and an empty
    /// `Some` at the end.
    ///
    /// # Errors
    /// [`StreamError::Reset`] if the stream was reset.
    pub fn read(&mut self, id: StreamId, limit: usize) -> Result<Option<Bytes>, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Reset)?;
        if stream.received.is_empty() {
            return match (stream.reset, stream.received_end) {
                (true, _) => Err(StreamError::Reset),
                (false, true) => Ok(Some(Bytes::new())),
                (false, false) => Ok(None),
            };
        }
        let length = stream.received.len().min(limit);
        let taken = stream.received.split_to(length).freeze();
        if stream.received.is_empty() {
            stream.received = BytesMut::new();
        }
        if let Some(unread) = &self.config.unread {
            unread.give(length);
        }
        stream.consumed += u32::try_from(taken.len()).expect("what is received fits the window");
        // Grant in steps of half a window, as hashicorp/yamux does: a grant for each read would flood the connection.
        if stream.consumed >= WINDOW_BYTES / 2 && !stream.received_end && !stream.reset {
            let grant = std::mem::take(&mut stream.consumed);
            stream.receive_credit += grant;
            self.send_header(Kind::WindowUpdate, Flags::NONE, id.0, grant);
        }
        Ok(Some(taken))
    }

    /// Ends our half of a stream. Once is enough: a second end would be a protocol error at the peer.
    pub fn close_write(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.sent_end || stream.reset {
            return;
        }
        stream.sent_end = true;
        stream.close_deadline = Some(now + self.config.close_timeout);
        self.send_header(Kind::WindowUpdate, Flags::FIN, id.0, 0);
    }

    /// Ends our half, and drops whatever still arrives.
    pub fn abandon(&mut self, id: StreamId, now: Instant) {
        self.close_write(id, now);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.abandoned = true;
        let unread = std::mem::take(&mut stream.received);
        self.forget(unread.len());
        self.remove_if_over(id);
    }

    /// Handles bytes from the connection, in pieces of any size.
    ///
    /// # Errors
    /// [`SessionError`] if the session is over; [`Self::poll_transmit`] may have a last word for the peer.
    pub fn handle_bytes(&mut self, mut bytes: Bytes, now: Instant) -> Result<(), SessionError> {
        while !bytes.is_empty() {
            if let Some((id, missing)) = self.body {
                let piece = bytes.split_to(bytes.len().min(missing as usize));
                let left =
                    missing - u32::try_from(piece.len()).expect("a piece is part of a frame");
                self.body = (left > 0).then_some((id, left));
                self.handle_body(id, piece);
                continue;
            }
            let wanted = frame::HEADER_BYTES - self.partial.len();
            self.partial
                .extend_from_slice(&bytes.split_to(bytes.len().min(wanted)));
            if self.partial.len() == frame::HEADER_BYTES {
                let header =
                    Header::decode(&self.partial).ok_or_else(|| self.refuse("bad header"))?;
                self.partial.clear();
                self.handle_header(&header, now)?;
            }
        }
        Ok(())
    }

    /// Advances to `now`. Calling it early or twice does nothing.
    ///
    /// # Errors
    /// [`SessionError::Silent`] if the peer did not answer in time.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        if let Some((_, deadline)) = self.ping {
            if now >= deadline {
                return Err(SessionError::Silent("no answer to a ping"));
            }
        } else if now >= self.next_ping {
            self.ping_id = self.ping_id.wrapping_add(1);
            self.ping = Some((self.ping_id, now + self.config.answer_timeout));
            self.send_header(Kind::Ping, Flags::SYN, 0, self.ping_id);
        }
        let open_timeout = self.config.open_timeout;
        if self
            .streams
            .values()
            .any(|stream| !stream.acknowledged && now >= stream.opened_at + open_timeout)
        {
            // As in hashicorp/yamux, a peer that does not acknowledge a stream in time counts as dead.
            return Err(SessionError::Silent("no acknowledgement of a stream"));
        }
        let is_late = |stream: &StreamState| {
            stream
                .close_deadline
                .is_some_and(|deadline| now >= deadline)
        };
        let late: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| is_late(stream))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.send_header(Kind::WindowUpdate, Flags::RST, id.0, 0);
            self.mark_reset(id);
        }
        Ok(())
    }

    /// Returns when to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Instant {
        let ping = self.ping.map_or(self.next_ping, |(_, deadline)| deadline);
        let open_timeout = self.config.open_timeout;
        let opening = self
            .streams
            .values()
            .filter(|s| !s.acknowledged)
            .map(|s| s.opened_at + open_timeout);
        let closing = self.streams.values().filter_map(|s| s.close_deadline);
        opening.chain(closing).fold(ping, Instant::min)
    }

    /// Returns the next bytes to write to the connection.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        let frame = self.transmits.pop_front()?;
        let was_full = self.queued_bytes >= MAX_QUEUED_BYTES;
        self.queued_bytes -= frame.len();
        if was_full && self.queued_bytes < MAX_QUEUED_BYTES {
            for (id, stream) in &mut self.streams {
                if std::mem::take(&mut stream.writer_waits) {
                    self.events.push_back(Event::StreamWritable(*id));
                }
            }
        }
        Some(frame)
    }

    /// Returns the next event, if there is one.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns whether so much waits to be written that nothing more should be read: a peer that only sends requests
    /// and never reads must not grow our queue.
    pub fn is_congested(&self) -> bool {
        self.queued_bytes >= 2 * MAX_QUEUED_BYTES
    }

    fn handle_header(&mut self, header: &Header, now: Instant) -> Result<(), SessionError> {
        match header.kind {
            Kind::Ping if header.flags.has(Flags::SYN) => {
                self.send_header(Kind::Ping, Flags::ACK, 0, header.length);
                Ok(())
            }
            Kind::Ping => {
                if self.ping.is_some_and(|(id, _)| id == header.length) {
                    (self.ping, self.next_ping) = (None, now + self.config.keep_alive);
                }
                Ok(())
            }
            Kind::GoAway if header.length == 0 => {
                // An orderly go-away ends no existing stream, it only forbids new ones.
                self.peer_is_leaving = true;
                Ok(())
            }
            Kind::GoAway => Err(SessionError::GoneAway(header.length)),
            Kind::Data | Kind::WindowUpdate => self.handle_stream_header(header, now),
        }
    }

    fn handle_stream_header(&mut self, header: &Header, now: Instant) -> Result<(), SessionError> {
        let id = StreamId(header.stream);
        if header.flags.has(Flags::SYN) {
            self.accept(id, now)?;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            // Data for a stream that is already closed here is read and dropped.
            self.body =
                (header.kind == Kind::Data && header.length > 0).then_some((id, header.length));
            return Ok(());
        };
        if header.flags.has(Flags::ACK) {
            stream.acknowledged = true;
        }
        if header.kind == Kind::WindowUpdate {
            let Some(credit) = stream.send_credit.checked_add(header.length) else {
                return Err(self.refuse("window overflow"));
            };
            stream.send_credit = credit;
            if header.length > 0 && std::mem::take(&mut stream.writer_waits) {
                self.events.push_back(Event::StreamWritable(id));
            }
        } else if header.length > 0 {
            let Some(credit) = stream.receive_credit.checked_sub(header.length) else {
                return Err(self.refuse("more data than the window allows"));
            };
            if stream.received_end {
                return Err(self.refuse("data after the end of a stream"));
            }
            stream.receive_credit = credit;
            self.body = Some((id, header.length));
        }
        self.handle_end_flags(id, header.flags)
    }

    fn handle_end_flags(&mut self, id: StreamId, flags: Flags) -> Result<(), SessionError> {
        if flags.has(Flags::RST) {
            self.mark_reset(id);
        } else if flags.has(Flags::FIN) {
            let Some(stream) = self.streams.get_mut(&id) else {
                return Ok(());
            };
            if stream.received_end {
                return Err(self.refuse("second end of a stream"));
            }
            stream.received_end = true;
            stream.acknowledged = true;
            stream.close_deadline = None;
            self.events.push_back(Event::StreamReadable(id));
            self.remove_if_over(id);
        }
        Ok(())
    }

    fn accept(&mut self, id: StreamId, now: Instant) -> Result<(), SessionError> {
        let peer_parity = if self.role == Role::Client { 0 } else { 1 };
        if id.0 == 0 || id.0 % 2 != peer_parity {
            return Err(self.refuse("stream id of the wrong side"));
        }
        if self.streams.contains_key(&id) {
            return Err(self.refuse("stream opened twice"));
        }
        if self.streams.len() >= self.config.max_streams {
            self.send_header(Kind::WindowUpdate, Flags::RST, id.0, 0);
            return Ok(());
        }
        self.streams.insert(id, StreamState::new(now, true));
        self.send_header(Kind::WindowUpdate, Flags::ACK, id.0, 0);
        self.events.push_back(Event::StreamOpened(id));
        Ok(())
    }

    fn handle_body(&mut self, id: StreamId, piece: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.abandoned || stream.reset {
            return;
        }
        if self
            .config
            .unread
            .as_ref()
            .is_some_and(|it| !it.take(piece.len()))
        {
            let unread = std::mem::take(&mut stream.received);
            self.forget(unread.len());
            self.send_header(Kind::WindowUpdate, Flags::RST, id.0, 0);
            return self.mark_reset(id);
        }
        stream.received.extend_from_slice(&piece);
        self.events.push_back(Event::StreamReadable(id));
    }

    /// Returns the allowance of bytes that nobody will read.
    fn forget(&self, bytes: usize) {
        if let Some(unread) = &self.config.unread {
            unread.give(bytes);
        }
    }

    fn mark_reset(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reset = true;
        stream.acknowledged = true;
        stream.close_deadline = None;
        self.events
            .extend([Event::StreamReadable(id), Event::StreamWritable(id)]);
        self.remove_if_over(id);
    }

    fn remove_if_over(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(StreamState::is_over) {
            self.streams.remove(&id);
        }
    }

    /// Tells the peer that it violated the protocol.
    fn refuse(&mut self, why: &'static str) -> SessionError {
        self.send_header(Kind::GoAway, Flags::NONE, 0, frame::GO_AWAY_PROTOCOL_ERROR);
        SessionError::Protocol(why)
    }

    fn send_header(&mut self, kind: Kind, flags: Flags, stream: u32, length: u32) {
        let mut frame = BytesMut::with_capacity(frame::HEADER_BYTES);
        Header {
            kind,
            flags,
            stream,
            length,
        }
        .encode(&mut frame);
        self.queue(frame.freeze());
    }

    fn queue(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.transmits.push_back(frame);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let unread = self.streams.values().map(|stream| stream.received.len());
        self.forget(unread.sum());
    }
}

/// Returns the payload of every stream in one recorded direction of a session, by stream id.
///
/// # Errors
/// [`SessionError::Protocol`] if the bytes are not whole frames.
pub fn stream_payloads(mut recorded: &[u8]) -> Result<BTreeMap<u32, Vec<u8>>, SessionError> {
    let mut payloads = BTreeMap::<u32, Vec<u8>>::new();
    while let Some((bytes, rest)) = recorded.split_first_chunk::<{ frame::HEADER_BYTES }>() {
        let header = Header::decode(bytes).ok_or(SessionError::Protocol("bad header"))?;
        let mut ours = BytesMut::new();
        header.encode(&mut ours);
        if ours != bytes[..] {
            return Err(SessionError::Protocol(
                "frame header is not in canonical form",
            ));
        }
        recorded = rest;
        if header.kind == Kind::Data {
            let body = recorded.split_at_checked(header.length as usize);
            let (body, rest) = body.ok_or(SessionError::Protocol("half a frame"))?;
            payloads
                .entry(header.stream)
                .or_default()
                .extend_from_slice(body);
            recorded = rest;
        }
    }
    if recorded.is_empty() {
        Ok(payloads)
    } else {
        Err(SessionError::Protocol("half a header"))
    }
}

#[cfg(test)]
mod tests;
