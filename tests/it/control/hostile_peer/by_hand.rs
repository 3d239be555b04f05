//! What no client of ours would say: first words without an end, frames that are too large, and nobody who reads.

use std::net::SocketAddr;

use bytes::BytesMut;
use outpost::{
    net::websocket::ByteStream,
    tailnet::{dial::SESSION_TOKEN, key::Key},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, Scene};
use crate::control::hostile_daemon::{
    DATA, GO_AWAY, Hostile, PING, SYN, WINDOW, come_in, put_head,
};

/// Those who come at once and never finish.
const VISITORS: usize = 100;

/// A question for the relay.
const RELAY: &[u8] =
    b"GET /derp HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";

/// More than anybody may make a server keep for somebody who never reads, and than sockets hold.
const MUCH: usize = 64 << 20;

impl Scene {
    fn address(&self) -> SocketAddr {
        self.lab.server.address()
    }

    /// The bad agent, as it is without our own code.
    async fn agent_by_hand(&self) -> Hostile {
        let path = "api/v2/workspaceagents/me/rpc?version=2.0&role=agent";
        let key = (SESSION_TOKEN, &self.bad_token);
        Hostile(ByteStream::new(come_in(self.address(), path, key).await))
    }

    /// Somebody whom the relay has told its key.
    async fn at_the_relay(&self) -> TcpStream {
        self.at_the_relay_of().await.0
    }

    /// The same, and the key.
    pub(super) async fn at_the_relay_of(&self) -> (TcpStream, Key) {
        let mut socket = TcpStream::connect(self.address()).await.unwrap();
        socket.write_all(RELAY).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        let mut frame = [0; 5 + 40];
        socket.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[..5], [1, 0, 0, 0, 40], "the relay's key");
        // The magic of the frame comes before it.
        let key = frame[5 + 8..].try_into().unwrap();
        (socket, Key::new(key))
    }
}

/// Nothing but an end is left to be read.
async fn hung_up(mut socket: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest))
        .await
        .expect("the server hangs up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_never_finish_their_first_words_keep_nobody_out() {
    let mut scene = Scene::new().await;
    let mut waiting = Vec::new();
    for _ in 0..VISITORS {
        let mut socket = TcpStream::connect(scene.address()).await.unwrap();
        socket.write_all(&RELAY[..RELAY.len() / 2]).await.unwrap();
        waiting.push(socket);
        let mut socket = scene.at_the_relay().await;
        // Half of who it is.
        socket.write_all(&[2, 0, 0, 0, 100, 7]).await.unwrap();
        waiting.push(socket);
    }

    scene.others_go_on().await;
    // None of them is kept for ever.
    for socket in waiting {
        hung_up(socket).await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_measure_end_who_sent_them_alone() {
    let mut scene = Scene::new().await;

    for kind in [2, 4] {
        let mut socket = scene.at_the_relay().await;
        let frame = [kind, 0xff, 0xff, 0xff, 0xff, 7];
        socket.write_all(&frame).await.unwrap();
        hung_up(socket).await;
    }
    let mut agent = scene.agent_by_hand().await;
    agent
        .send([(WINDOW, SYN, 1, 0), (DATA, 0, 1, u32::MAX)])
        .await;
    let mut last = None;
    while let Some(head) = agent.receive().await {
        last = Some(head);
    }
    assert_eq!(last, Some((GO_AWAY, 0, 0, 1)), "a protocol error");

    scene.others_go_on().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_never_reads_is_not_listened_to_for_ever() {
    let mut scene = Scene::new().await;
    let mut agent = scene.agent_by_hand().await;
    let mut pings = BytesMut::new();
    for number in 0..1000 {
        put_head(&mut pings, (PING, SYN, 0, number));
    }

    let flood = async {
        let mut sent = 0;
        while agent.0.write_all(&pings).await.is_ok() && agent.0.flush().await.is_ok() {
            sent += pings.len();
            assert!(sent < MUCH, "what it is answered is kept without end");
        }
        sent
    };
    let (sent, ()) = tokio::join!(timeout(PATIENCE, flood), scene.others_go_on());
    println!(
        "{} bytes of pings were taken",
        sent.expect("the server hangs up")
    );
    scene.others_go_on().await;
    scene.end().await;
}
