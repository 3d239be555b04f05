//! Malicious clients of a relay, on real sockets: two others exchange data all the while.

use bytes::{Bytes, BytesMut};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    derp::frame::{self, Frame},
    key::{Key, Private},
};

/// Time that is longer than any of it takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes that know each other, and their relay.
struct Pair {
    relay: Relay,
    url: url::Url,
    agent: Peer,
    client: Peer,
    listener: crate::Listener,
    stop: Stop,
}

impl Pair {
    async fn new() -> Self {
        let (relay, stop) = (Relay::default(), Stop::new());
        let url = serve(relay.clone(), &stop).await;
        let (agent, client) = (Peer::new(&url, &stop).await, Peer::new(&url, &stop).await);
        let listener = agent.net.listen(22);
        agent.knows(&client).await;
        client.knows(&agent).await;
        let pair = Self {
            relay,
            url,
            agent,
            client,
            listener,
            stop,
        };
        timeout(PATIENCE, pair.client.net.reach(pair.agent.id))
            .await
            .unwrap();
        assert_eq!(pair.relay.counts().clients, 2);
        pair
    }

    /// Opens a new connection, and sends more than fits into any queue.
    async fn exchanges(&mut self) {
        let target = std::net::SocketAddrV6::new(address::primary(self.agent.id), 22, 0, 0);
        let exchange = async {
            let (here, there) =
                tokio::join!(self.client.net.connect(target), self.listener.accept());
            let (mut here, (mut there, _)) = (here.unwrap(), there.unwrap());
            let sent = vec![7; 1_000_000];
            let mut come = vec![0; sent.len()];
            let (wrote, read) = tokio::join!(here.write_all(&sent), there.read_exact(&mut come));
            wrote.unwrap();
            read.unwrap();
            assert!(sent == come);
        };
        timeout(PATIENCE, exchange).await.unwrap();
    }

    async fn agent_s_key(&self) -> Key {
        self.agent.net.node().await.unwrap().key
    }

    /// Waits until only the two are connected to the relay.
    async fn are_alone(&self) {
        let alone = async {
            while self.relay.counts().clients > 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, alone).await.unwrap();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Connects a client of our own making, which has not introduced itself yet.
async fn knock(url: &url::Url) -> (TcpStream, Key) {
    let address = url.socket_addrs(|| None).unwrap()[0];
    let mut socket = TcpStream::connect(address).await.unwrap();
    let question =
        "GET /derp HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";
    socket.write_all(question.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let Frame::ServerKey(relay) = next(&mut socket).await.unwrap() else {
        panic!("relay sent no key")
    };
    (socket, relay)
}

/// Connects a client and introduces it.
async fn enter(url: &url::Url, private: &Private) -> TcpStream {
    let (mut socket, relay) = knock(url).await;
    say(&mut socket, &frame::client_info(private, relay)).await;
    let welcome = next(&mut socket).await;
    assert!(matches!(welcome, Some(Frame::ServerInfo(_))), "{welcome:?}");
    socket
}

async fn say(socket: &mut TcpStream, frame: &Frame) {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    socket.write_all(&bytes).await.unwrap();
}

/// Returns the next frame; `None` once the relay has hung up.
async fn next(socket: &mut TcpStream) -> Option<Frame> {
    let mut bytes = BytesMut::new();
    loop {
        if let Some(frame) = Frame::decode(&mut bytes).unwrap() {
            return Some(frame);
        }
        let read = timeout(PATIENCE, socket.read_u8()).await.unwrap();
        bytes.extend_from_slice(&[read.ok()?]);
    }
}

/// Waits until the relay has hung up.
async fn is_cut_off(mut socket: TcpStream) {
    while next(&mut socket).await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_cuts_off_who_does_not_keep_to_its_protocol_and_nobody_else() {
    let mut pair = Pair::new().await;
    let (url, own) = (pair.url.clone(), Private::generate());
    // These clients never introduce themselves.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(knock(&url).await.0);
    }
    assert_eq!(pair.relay.counts().clients, 2);

    for giant in [[4, 0xff, 0xff, 0xff, 0xff], [2, 0, 0x20, 0, 0]] {
        let (mut socket, _) = knock(&url).await;
        socket.write_all(&giant).await.unwrap();
        is_cut_off(socket).await;
        let mut socket = enter(&url, &own).await;
        socket.write_all(&giant).await.unwrap();
        is_cut_off(socket).await;
    }
    // A packet over the limit, in a frame within the limit.
    let mut socket = enter(&url, &own).await;
    let to = pair.agent_s_key().await;
    let packet = Bytes::from(vec![0; frame::MAX_PACKET + 1]);
    say(&mut socket, &Frame::Send { to, packet }).await;
    is_cut_off(socket).await;

    // The agent's key with another's seal, and a client that claims to be a relay.
    let (mut socket, relay) = knock(&url).await;
    let Frame::ClientInfo { sealed, .. } = frame::client_info(&own, relay) else {
        unreachable!()
    };
    say(&mut socket, &Frame::ClientInfo { key: to, sealed }).await;
    is_cut_off(socket).await;
    let (mut socket, relay) = knock(&url).await;
    let sealed = own.shared(relay).seal(br#"{"version":2,"meshKey":"k"}"#);
    let (key, sealed) = (own.public(), sealed.into());
    say(&mut socket, &Frame::ClientInfo { key, sealed }).await;
    is_cut_off(socket).await;
    for kind in [0x0a, 0x10, 0x11] {
        let mut socket = enter(&url, &own).await;
        say(&mut socket, &Frame::Other(kind)).await;
        is_cut_off(socket).await;
    }

    pair.are_alone().await;
    pair.exchanges().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_may_have_one_key_and_then_the_newest_takes_the_place_of_the_oldest() {
    let mut pair = Pair::new().await;
    let own = Private::generate();
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(enter(&pair.url, &own).await);
    }

    let newest = enter(&pair.url, &own).await;
    is_cut_off(all.remove(0)).await;
    assert_eq!(pair.relay.counts().clients, 3);
    pair.exchanges().await;
    drop((all, newest));
    pair.are_alone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_reads_nothing_is_cut_off_and_costs_others_nothing() {
    let mut pair = Pair::new().await;
    let (slow, fast) = (Private::generate(), Private::generate());
    let slow_socket = enter(&pair.url, &slow).await;
    let mut sender = enter(&pair.url, &fast).await;
    let mut flood = JoinSet::new();
    let to = slow.public();
    flood.spawn(async move {
        let packet = Bytes::from(vec![0; 32 << 10]);
        loop {
            let packet = packet.clone();
            say(&mut sender, &Frame::Send { to, packet }).await;
        }
    });

    pair.exchanges().await;
    let gone = async {
        // The one that sends to it is still there.
        while pair.relay.counts().clients > 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    pair.exchanges().await;
    flood.shutdown().await;
    drop(slow_socket);
    pair.are_alone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_flood_a_node_do_not_keep_its_peers_from_it() {
    let mut pair = Pair::new().await;
    let to = pair.agent_s_key().await;
    let mut floods = JoinSet::new();
    for length in [64, 1 << 10, frame::MAX_PACKET] {
        let mut socket = enter(&pair.url, &Private::generate()).await;
        floods.spawn(async move {
            let packet = Bytes::from(vec![4; length]);
            loop {
                let packet = packet.clone();
                say(&mut socket, &Frame::Send { to, packet }).await;
            }
        });
    }

    pair.exchanges().await;
    pair.exchanges().await;
    assert_eq!(pair.relay.counts().clients, 5);
    floods.shutdown().await;
    pair.are_alone().await;
}
