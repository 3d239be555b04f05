use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// Two sessions that talk to each other without loss.
struct Pair {
    client: Session,
    server: Session,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let session = |role| Session::new(role, Config::default(), now);
        Self {
            client: session(Role::Client),
            server: session(Role::Server),
            now,
        }
    }

    /// Carries everything across, in pieces of `piece` bytes.
    fn settle(&mut self, piece: usize) {
        loop {
            let up = drain(&mut self.client);
            let down = drain(&mut self.server);
            if up.is_empty() && down.is_empty() {
                return;
            }
            for chunk in up.chunks(piece) {
                self.server
                    .handle_bytes(Bytes::copy_from_slice(chunk), self.now)
                    .unwrap();
            }
            for chunk in down.chunks(piece) {
                self.client
                    .handle_bytes(Bytes::copy_from_slice(chunk), self.now)
                    .unwrap();
            }
        }
    }

    fn open(&mut self) -> StreamId {
        let id = self.client.open(self.now).unwrap();
        self.settle(1000);
        assert!(events(&mut self.server).contains(&Event::StreamOpened(id)));
        id
    }
}

fn drain(session: &mut Session) -> Vec<u8> {
    std::iter::from_fn(|| session.poll_transmit())
        .flatten()
        .collect()
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

fn header(kind: u8, flags: u16, stream: u32, length: u32) -> Bytes {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.into()
}

#[test]
fn opening_a_stream_is_a_window_update_with_syn() {
    let mut session = Session::new(Role::Client, Config::default(), Instant::now());

    session.open(Instant::now()).unwrap();

    assert_eq!(hex::encode(drain(&mut session)), "000100010000000100000000");
}

#[test]
fn data_arrives_in_order_whatever_the_pieces() {
    let mut pair = Pair::new();
    let id = pair.open();
    let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();

    let (mut at, mut received) = (0, Vec::new());
    while received.len() < sent.len() {
        at += pair.client.write(id, &sent[at..]).unwrap();
        pair.settle(7);
        while let Some(piece) = pair.server.read(id, 4096).unwrap() {
            received.extend_from_slice(&piece);
        }
    }

    assert_eq!(received, sent);
}

#[test]
fn a_stream_that_is_not_read_stops_its_writer_but_no_other() {
    let mut pair = Pair::new();
    let (slow, quick) = (pair.open(), pair.open());
    let mut written = 0;
    loop {
        let length = pair.client.write(slow, &[7; 65536]).unwrap();
        pair.settle(65536);
        written += length;
        if length == 0 {
            break;
        }
    }
    assert_eq!(written, WINDOW_BYTES as usize);

    pair.client.write(quick, b"hello").unwrap();
    pair.settle(65536);
    assert_eq!(pair.server.read(quick, 100).unwrap().unwrap(), "hello");

    events(&mut pair.client);
    let mut taken = 0;
    while taken < WINDOW_BYTES as usize / 2 {
        taken += pair.server.read(slow, 65536).unwrap().unwrap().len();
    }
    pair.settle(65536);
    assert_eq!(events(&mut pair.client), [Event::StreamWritable(slow)]);
}

#[test]
fn more_data_than_was_granted_ends_the_session() {
    let mut pair = Pair::new();
    let id = pair.open();

    let result = pair
        .server
        .handle_bytes(header(0, 0, id.0, WINDOW_BYTES + 1), pair.now);

    assert_eq!(
        result,
        Err(SessionError::Protocol("more data than the window allows"))
    );
    assert_eq!(
        hex::encode(drain(&mut pair.server)),
        "000300000000000000000001"
    );
}

#[test]
fn a_second_end_of_a_stream_ends_the_session() {
    let mut pair = Pair::new();
    let id = pair.open();
    pair.server
        .handle_bytes(header(1, 4, id.0, 0), pair.now)
        .unwrap();

    let result = pair.server.handle_bytes(header(1, 4, id.0, 0), pair.now);

    assert_eq!(
        result,
        Err(SessionError::Protocol("second end of a stream"))
    );
}

#[test]
fn both_ends_of_a_stream_make_it_disappear() {
    let mut pair = Pair::new();
    let id = pair.open();

    pair.client.abandon(id, pair.now);
    pair.settle(12);
    assert_eq!(pair.server.read(id, 10), Ok(Some(Bytes::new())));
    pair.server.abandon(id, pair.now);
    pair.settle(12);

    assert!(pair.client.streams.is_empty() && pair.server.streams.is_empty());
}

#[test]
fn frames_of_a_stream_that_is_over_are_dropped() {
    let mut pair = Pair::new();
    let mut bytes = header(0, 0, 99, 5).to_vec();
    bytes.extend(b"stale");
    bytes.extend(header(2, 1, 0, 42));

    pair.server.handle_bytes(bytes.into(), pair.now).unwrap();

    assert_eq!(
        hex::encode(drain(&mut pair.server)),
        "00020002000000000000002a"
    );
}

#[test]
fn a_silent_peer_is_noticed_after_forty_seconds() {
    let mut pair = Pair::new();
    let start = pair.now;

    let (mut now, error) = (start, ());
    let outcome = loop {
        now = pair.client.poll_timeout().max(now);
        if let Err(error) = pair.client.handle_timeout(now) {
            break error;
        }
    };

    assert_eq!(error, ());
    assert_eq!(
        (outcome, now - start),
        (
            SessionError::Silent("no answer to a ping"),
            Duration::from_secs(40)
        )
    );
}

#[test]
fn an_answered_ping_keeps_the_session() {
    let mut pair = Pair::new();
    pair.now += Duration::from_secs(30);
    pair.client.handle_timeout(pair.now).unwrap();

    pair.settle(12);

    assert_eq!(
        pair.client.poll_timeout(),
        pair.now + Duration::from_secs(30)
    );
}

#[test]
fn too_many_streams_are_reset_one_by_one() {
    let now = Instant::now();
    let config = Config {
        max_streams: 1,
        ..Config::default()
    };
    let mut server = Session::new(Role::Server, config, now);

    server.handle_bytes(header(1, 1, 1, 0), now).unwrap();
    server.handle_bytes(header(1, 1, 3, 0), now).unwrap();

    assert_eq!(
        hex::encode(drain(&mut server)),
        "000100020000000100000000000100080000000300000000"
    );
}

#[test]
fn a_peer_that_asks_and_never_listens_is_not_read_for_ever() {
    let now = Instant::now();
    let mut server = Session::new(Role::Server, Config::default(), now);

    let mut pings = 0;
    while !server.is_congested() {
        server.handle_bytes(header(2, 1, 0, 1), now).unwrap();
        pings += 1;
    }

    assert!(pings < 50_000);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32)) {
        let now = Instant::now();
        let mut session = Session::new(Role::Server, Config::default(), now);
        for piece in pieces {
            if session.handle_bytes(piece.into(), now).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_stream_that_brings_more_than_may_lie_unread_is_reset_and_all_is_given_back() {
    let unread = Allowance::new(100_000);
    let now = Instant::now();
    let config = Config {
        unread: Some(unread.clone()),
        ..Config::default()
    };
    let mut pair = Pair {
        client: Session::new(Role::Client, Config::default(), now),
        server: Session::new(Role::Server, config, now),
        now,
    };
    let (one, two) = (pair.open(), pair.open());
    pair.client.write(one, &[7; 60_000]).unwrap();
    pair.settle(1000);
    assert_eq!(unread.taken(), 60_000);

    pair.client.write(two, &[7; 60_000]).unwrap();
    pair.settle(1000);

    assert_eq!(pair.client.write(two, b"x"), Err(StreamError::Reset));
    assert_eq!(unread.taken(), 60_000, "what the other has brought stays");
    let read = pair.server.read(one, 40_000).unwrap().unwrap();
    assert_eq!((read.len(), unread.taken()), (40_000, 20_000));
    drop(pair);
    assert_eq!(unread.taken(), 0);
}
