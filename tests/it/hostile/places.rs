//! Connections that say nothing, from many addresses: who ends first, and whether those who behave get in.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use outpost::{
    control::{Limits, Storage, tokens},
    proto::outpost::v1::{self as api},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::control::{Lab, PATIENCE, config, connect};

const PLACES: usize = 128;
const ADDRESSES: u8 = 8;
/// What an HTTP/2 client says first: the preface, and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connect_from(last: u8, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = IpAddr::from(Ipv4Addr::new(127, 0, 1, last));
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(server).await.unwrap()
}

async fn lab() -> Lab {
    let mut few = config(Storage::Memory, &tokens::generate());
    few.limits = Limits {
        connections: PLACES,
        connections_per_peer: PLACES / 4,
        ..few.limits
    };
    Lab::with(few).await
}

/// Whether the server has hung up, or does so now.
async fn has_ended(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 256];
    loop {
        match timeout(Duration::from_millis(1), stream.read(&mut byte)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_many_addresses_end_before_those_who_have_a_token() {
    let mut lab = lab().await;
    let address = lab.server.address();
    // Whoever has proved who they are has one already, and is idle meanwhile.
    lab.api.who_am_i(api::WhoAmIRequest {}).await.unwrap();
    let mut idle = Vec::new();
    for round in 0..PLACES * 2 {
        let from = 1 + (round % usize::from(ADDRESSES)) as u8;
        let mut stream = connect_from(from, address).await;
        // A reset is an answer, too.
        stream.write_all(HELLO).await.ok();
        idle.push(stream);
    }

    // New ones get in at once, each time.
    for _ in 0..20 {
        let mut newcomer = connect(lab.server.url(), lab.server.admin_token());
        let called = newcomer.who_am_i(api::WhoAmIRequest {});
        timeout(PATIENCE, called).await.unwrap().unwrap();
    }
    // The one from before goes on, on the connection that it had.
    lab.api.who_am_i(api::WhoAmIRequest {}).await.unwrap();
    let mut open = 0;
    for stream in &mut idle {
        open += usize::from(!has_ended(stream).await);
    }
    println!("{open} of {} idle connections are left", idle.len());
    assert!(open <= PLACES / 2, "{open} strangers hold places");
}
