use futures::{FutureExt as _, future::join_all};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use super::*;

/// Silence that connections survive in these tests.
const SILENCE: Duration = Duration::from_secs(72 * 60 * 60);

const A: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 1);
const B: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn connections_begin_at_a_dynamic_port_that_depends_on_the_seed() {
    let (one, other) = (first_port(1), first_port(2));

    assert_ne!(one, other);
    assert!(one >= DYNAMIC_PORTS && first_port(u64::MAX) >= DYNAMIC_PORTS);
    assert_eq!(port_after(one), one + 1);
    assert_eq!(port_after(u16::MAX), DYNAMIC_PORTS);
}

fn stack(address: Ipv6Addr, seed: u64, now: Instant) -> Stack {
    Stack::new(&[address], Some(SILENCE), seed, now)
}

/// Creates two stacks with a wire between them.
fn pair() -> (Stack, Stack) {
    let now = Instant::now();
    let (a, b) = (stack(A, 1, now), stack(B, 2, now));
    for (from, to) in [(a.clone(), b.clone()), (b.clone(), a.clone())] {
        tokio::spawn(async move {
            loop {
                let mut packets = Vec::new();
                let (next, _) = from.poll(Instant::now(), QUEUE_PACKETS, &mut packets);
                if !packets.is_empty() {
                    packets.into_iter().for_each(|packet| to.receive(packet));
                    to.0.work.notify_one();
                }
                let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
                tokio::select! {
                    () = from.work() => {}
                    () = tokio::time::sleep_until(next.into()) => {}
                }
            }
        });
    }
    (a, b)
}

#[tokio::test]
async fn streams_carry_everything_both_ways_and_end() {
    let (a, b) = pair();
    let mut listener = b.listen(7);
    let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i >> 3) as u8).collect();

    let echo = tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
        (peer, reader.unsplit(writer))
    });
    let stream = a.connect(A, SocketAddrV6::new(B, 7, 0, 0)).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (data, mut come) = (sent.clone(), Vec::new());
    let writing = async {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(writing, reader.read_to_end(&mut come));

    read.unwrap();
    assert!(come == sent);
    assert_eq!(*echo.await.unwrap().0.ip(), A);
}

/// Delivers everything that waits from one stack to the other, at once.
fn carry(from: &Stack, to: &Stack) {
    carry_at(from, to, Instant::now());
}

/// Delivers the packets at another time, and returns their number.
fn carry_at(from: &Stack, to: &Stack, now: Instant) -> usize {
    let mut packets = Vec::new();
    from.poll(now, QUEUE_PACKETS, &mut packets);
    let count = packets.len();
    // As a node does; smoltcp accepts packets for other addresses that end in the same two bytes.
    let is_its = |packet: &Vec<u8>| {
        let ends = tsmp::ends(packet);
        ends.is_some_and(|(_, target)| to.lock().interface.has_ip_addr(target))
    };
    let its = packets.into_iter().filter(is_its).collect::<Vec<_>>();
    its.into_iter().for_each(|packet| to.receive(packet));
    count
}

/// Lets one stack work while nothing reaches the other.
fn lose(from: &Stack, now: Instant) {
    from.poll(now, QUEUE_PACKETS, &mut Vec::new());
}

/// Opens a connection between two stacks, and returns both ends.
async fn connected(a: &Stack, b: &Stack, listener: &mut Listener, now: Instant) -> [Stream; 2] {
    let mut connecting = Box::pin(a.connect(A, SocketAddrV6::new(B, 7, 0, 0)));
    let here = loop {
        if let Some(connected) = (&mut connecting).now_or_never() {
            break connected.unwrap();
        }
        carry_at(a, b, now);
        carry_at(b, a, now);
    };
    carry_at(a, b, now);
    carry_at(b, a, now);
    [here, listener.accept().await.unwrap().0]
}

#[tokio::test]
async fn a_sender_becomes_fast_within_few_round_trips() {
    let now = Instant::now();
    let (a, b) = (stack(A, 1, now), stack(B, 2, now));
    let mut listener = b.listen(7);
    let [mut here, mut there] = connected(&a, &b, &mut listener, now).await;

    let (mut piece, mut come, mut trips) = (vec![0; 64 << 10], 0, 0);
    while come < 8_000_000 {
        while let Some(written) = here.write(&piece).now_or_never() {
            written.unwrap();
        }
        carry(&a, &b);
        carry(&b, &a);
        while let Some(read) = there.read(&mut piece).now_or_never() {
            come += read.unwrap();
        }
        carry(&b, &a);
        trips += 1;
        // Else it would look as if there were never anything to read again.
        tokio::task::yield_now().await;
    }

    assert!(trips < 60, "{trips}");
}

#[tokio::test]
async fn nothing_is_sent_without_room_and_it_is_told_that_something_waits() {
    let now = Instant::now();
    let a = stack(A, 1, now);
    let mut connecting = Box::pin(a.connect(A, SocketAddrV6::new(B, 7, 0, 0)));
    assert!((&mut connecting).now_or_never().is_none());
    let mut packets = Vec::new();

    assert_eq!(a.poll(now, 0, &mut packets), (None, true));
    assert!(packets.is_empty());
    let (due, is_held) = a.poll(now, 1, &mut packets);
    assert!(due.is_some() && !is_held);
    assert_eq!(packets.len(), 1);
}

#[tokio::test]
async fn where_nobody_listens_a_connection_is_refused() {
    let (a, _b) = pair();

    let refused = a.connect(A, SocketAddrV6::new(B, 8, 0, 0)).await;

    let refused = refused.err().unwrap().kind();
    assert_eq!(refused, io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn what_has_ended_is_forgotten() {
    let (a, b) = pair();
    let mut listener = b.listen(7);
    for _ in 0..MAX_CONNECTIONS / 64 {
        let connecting = a.connect(A, SocketAddrV6::new(B, 7, 0, 0));
        let (mut here, there) = tokio::join!(connecting, listener.accept());
        drop(there);
        let here = here.as_mut().unwrap();
        assert_eq!(here.read(&mut [0; 8]).await.unwrap(), 0);
    }
    while !b.lock().peers.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Creates a stack without a driver, and its listener.
fn server(now: Instant) -> (Stack, Listener) {
    let b = stack(B, 2, now);
    let listener = b.listen(7);
    (b, listener)
}

/// Begins this many connections at once.
async fn begin(a: &Stack, source: Ipv6Addr, many: usize) -> Vec<JoinHandle<io::Result<Stream>>> {
    let target = SocketAddrV6::new(B, 7, 0, 0);
    let mut all = Vec::new();
    for _ in 0..many {
        let a = a.clone();
        all.push(tokio::spawn(async move { a.connect(source, target).await }));
        tokio::task::yield_now().await;
    }
    all
}

#[tokio::test]
async fn all_that_come_before_we_look_get_in() {
    let now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let connecting = begin(&a, A, MAX_OF_PEER).await;

    assert_eq!(carry_at(&a, &b, now), MAX_OF_PEER);
    carry_at(&b, &a, now);
    carry_at(&a, &b, now);
    carry_at(&b, &a, now);

    for here in join_all(connecting).await {
        here.unwrap().unwrap();
        listener.accept().await.unwrap();
    }
}

#[tokio::test]
async fn a_beginning_that_comes_twice_is_one_connection() {
    let now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let connecting = begin(&a, A, 2).await;
    let mut packets = Vec::new();
    a.poll(now, QUEUE_PACKETS, &mut packets);
    for packet in packets.iter().chain(&packets) {
        b.receive(packet.clone());
    }

    for (from, to) in [(&b, &a), (&a, &b), (&b, &a)] {
        carry_at(from, to, now);
    }

    for here in join_all(connecting).await {
        here.unwrap().unwrap();
        assert!(listener.accept().now_or_never().is_some());
    }
    assert_eq!(b.lock().peers[&A].open(), 2);
}

#[tokio::test]
async fn whoever_finds_no_room_waits_for_it_and_one_peer_leaves_room_for_others() {
    const C: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 3);
    let (a, b) = pair();
    a.set_addresses(&[A, C]);
    let (mut listener, target) = (b.listen(7), SocketAddrV6::new(B, 7, 0, 0));
    let mut held = Vec::new();
    for _ in 0..MAX_OF_PEER {
        let (here, there) = tokio::join!(a.connect(A, target), listener.accept());
        held.push((here.unwrap(), there.unwrap()));
    }

    let mut waiting = begin(&a, A, 1).await;
    let (here, there) = tokio::join!(a.connect(C, target), listener.accept());
    assert!(here.is_ok());
    assert_eq!(*there.unwrap().1.ip(), C);
    assert!(!waiting[0].is_finished());
    held.pop();

    waiting.pop().unwrap().await.unwrap().unwrap();
    assert_eq!(*listener.accept().await.unwrap().1.ip(), A);
}

#[tokio::test]
async fn a_connection_outlasts_two_days_of_silence_and_goes_on_with_the_first_packet() {
    let mut now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let [mut here, mut there] = connected(&a, &b, &mut listener, now).await;
    // Both have data in flight, so that no keep-alive is sent.
    here.write_all(b"from here").await.unwrap();
    there.write_all(b"from there").await.unwrap();
    for _ in 0..2 * 24 * 60 {
        now += Duration::from_secs(60);
        lose(&a, now);
        lose(&b, now);
    }
    assert!(b.silent_for(A, now) > Duration::from_secs(24 * 60 * 60));

    // The path works again: one of them learns that, and is heard by the other.
    now += Duration::from_secs(3);
    assert_eq!(a.ask_again(now), [B]);
    for _ in 0..3 {
        carry_at(&a, &b, now);
        carry_at(&b, &a, now);
    }

    let mut read = [0; 10];
    assert_eq!(there.read(&mut read).now_or_never().unwrap().unwrap(), 9);
    assert_eq!(here.read(&mut read).now_or_never().unwrap().unwrap(), 10);
    assert_eq!(b.silent_for(A, now), Duration::ZERO);
}

/// Exchanges the packets of two stacks, both before either receives anything.
fn cross(a: &Stack, b: &Stack, now: Instant) {
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    a.poll(now, QUEUE_PACKETS, &mut of_a);
    b.poll(now, QUEUE_PACKETS, &mut of_b);
    of_a.into_iter().for_each(|packet| b.receive(packet));
    of_b.into_iter().for_each(|packet| a.receive(packet));
}

#[tokio::test]
async fn two_that_have_everything_and_lost_every_acknowledgement_go_on() {
    const BYTES: usize = 6_000;
    let mut now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let mut ends = connected(&a, &b, &mut listener, now).await;
    for end in &mut ends {
        end.write_all(&[1; BYTES]).await.unwrap();
    }
    // Their data cross, and what they answer is lost.
    cross(&a, &b, now);
    lose(&a, now);
    lose(&b, now);

    for _ in 0..10 {
        now += Duration::from_secs(61);
        cross(&a, &b, now);
    }

    for end in &mut ends {
        let mut read = [0; BYTES];
        end.read_exact(&mut read).now_or_never().unwrap().unwrap();
    }
    assert_eq!(a.lock().peers[&B].bytes(), 0);
    assert_eq!(b.lock().peers[&A].bytes(), 0);
}

#[tokio::test]
async fn a_connection_ends_after_the_longest_silence() {
    let mut now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let [_here, mut there] = connected(&a, &b, &mut listener, now).await;

    now += SILENCE + Duration::from_secs(60);
    lose(&b, now);

    let ended = there.read(&mut [0; 8]).now_or_never().unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    drop(there);
    lose(&b, now);
    assert!(b.lock().peers.is_empty());
}

#[tokio::test]
async fn whoever_begins_and_is_heard_no_more_is_soon_forgotten() {
    let mut now = Instant::now();
    let (a, (b, _listener)) = (stack(A, 1, now), server(now));
    let _connecting = begin(&a, A, MAX_OF_PEER + 8).await;
    carry_at(&a, &b, now);
    lose(&b, now);
    assert_eq!(b.lock().peers[&A].open(), MAX_OF_PEER);

    now += HALF_OPEN;
    lose(&b, now);
    lose(&b, now);

    assert!(b.lock().peers.is_empty());
}

#[tokio::test]
async fn the_silent_give_way_to_whoever_is_there() {
    let mut now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let mut held = Vec::new();
    for peer in 0..MAX_CONNECTIONS / MAX_OF_PEER {
        let address = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 1, peer as u16);
        a.set_addresses(&[address]);
        let connecting = begin(&a, address, MAX_OF_PEER).await;
        for _ in 0..2 {
            carry_at(&a, &b, now);
            carry_at(&b, &a, now);
        }
        held.push(join_all(connecting).await);
        now += Duration::from_secs(1);
    }
    let mut there = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        there.push(listener.accept().await.unwrap());
    }
    // All of them went to sleep, the first one first.
    for _ in 0..KEEP_ALIVE.as_secs() {
        lose(&b, now);
        now += Duration::from_secs(1);
    }
    now += SILENT / 2;
    let one_more = stack(A, 9, now);
    let mut connecting = Box::pin(one_more.connect(A, SocketAddrV6::new(B, 7, 0, 0)));
    assert!((&mut connecting).now_or_never().is_none());
    carry_at(&one_more, &b, now);
    lose(&b, now);
    assert!(
        !b.lock().peers.contains_key(&A),
        "nobody is silent for long"
    );

    now += SILENT;
    carry_at(&one_more, &b, now);
    for _ in 0..2 {
        carry_at(&b, &one_more, now);
        carry_at(&one_more, &b, now);
    }

    connecting.now_or_never().unwrap().unwrap();
    assert!(listener.accept().now_or_never().is_some());
    // Only the peer that was silent longest has lost its connections.
    let open: Vec<usize> = b.lock().peers.values().map(Peer::open).collect();
    assert_eq!(open, [1, 0, MAX_OF_PEER, MAX_OF_PEER, MAX_OF_PEER]);
}

#[tokio::test]
async fn what_waits_for_the_silent_is_bounded() {
    let mut now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let mut held = Vec::new();
    for _ in 0..SILENT_BYTES / BUFFER_BYTES + 8 {
        held.push(connected(&a, &b, &mut listener, now).await);
    }
    for [_here, there] in &mut held {
        let piece = vec![0; 64 << 10];
        while let Some(written) = there.write(&piece).now_or_never() {
            written.unwrap();
            tokio::task::yield_now().await;
        }
    }
    lose(&b, now);
    assert!(b.lock().peers[&A].bytes() > SILENT_BYTES);

    now += SILENT;
    lose(&b, now);

    assert_eq!(b.lock().peers[&A].open(), 0);
}

#[tokio::test]
async fn a_peer_that_says_goodbye_has_no_connections_any_more() {
    let now = Instant::now();
    let (a, (b, mut listener)) = (stack(A, 1, now), server(now));
    let [mut here, mut there] = connected(&a, &b, &mut listener, now).await;
    here.write_all(b"last words").await.unwrap();
    carry_at(&a, &b, now);
    lose(&b, now);

    b.abort(A);

    let mut read = Vec::new();
    let ended = there.read_to_end(&mut read).now_or_never().unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(read, b"last words");
    drop(there);
    lose(&b, now);
    assert!(b.lock().peers.is_empty());
}
