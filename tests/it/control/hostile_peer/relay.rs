//! Strangers at the relay: they prove that they have a key, and no coordinator has named it.

use std::time::Duration;

use bytes::BytesMut;
use outpost::tailnet::{
    derp::frame::{self, Frame},
    key::{Key, Private},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, Scene, begin, this_is};
use outpost::proto::coder::tailnet::v2::Node;

/// Those who come at once.
const STRANGERS: usize = 100;

/// Somebody who has said who it is, as the relay wants it.
async fn introduce(scene: &Scene, private: &Private) -> TcpStream {
    let (mut socket, relay) = scene.at_the_relay_of().await;
    let mut hello = BytesMut::new();
    frame::client_info(private, relay).encode(&mut hello);
    socket.write_all(&hello).await.unwrap();
    socket
}

/// The first frame that the relay says then; `None` once it hung up.
async fn answer(socket: &mut TcpStream) -> Option<Frame> {
    let mut bytes = BytesMut::new();
    let read = async {
        loop {
            if let Some(frame) = Frame::decode(&mut bytes).unwrap() {
                return Some(frame);
            }
            match socket.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_at_the_handshake_and_send_nothing_to_anybody() {
    let mut scene = Scene::new().await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(introduce(&scene, &Private::generate()).await);
    }
    let to = Key::new([7; 32]);
    for socket in &mut strangers {
        let mut bytes = BytesMut::new();
        let packet = vec![7; 1000].into();
        Frame::Send { to, packet }.encode(&mut bytes);
        // It may have been cut off already.
        socket.write_all(&bytes).await.ok();
    }

    scene.others_go_on().await;
    for mut socket in strangers {
        assert!(answer(&mut socket).await.is_none());
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_a_coordinator_is_told_of_a_moment_later_is_let_in() {
    let scene = Scene::new().await;
    let private = Private::generate();
    // As with programs of Coder's, which tell both at the same time.
    let mut socket = introduce(&scene, &private).await;
    let early = timeout(Duration::from_millis(200), answer(&mut socket)).await;
    assert!(early.is_err(), "nobody has named its key yet");

    let connection = scene.bad_client().await;
    let mut call = begin(&connection).await;
    let node = Node {
        key: private.public().to_node_bytes().into(),
        preferred_derp: 1,
        ..Node::default()
    };
    call.send(&this_is(node)).await.unwrap();

    assert!(matches!(
        answer(&mut socket).await,
        Some(Frame::ServerInfo(_))
    ));
    scene.end().await;
}
