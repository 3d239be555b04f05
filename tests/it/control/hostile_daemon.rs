//! Daemons with a valid key and bad intentions: the server bounds what they cost, and others notice nothing.

use std::{net::SocketAddr, time::Duration};

use bytes::{BufMut as _, BytesMut};
use futures::StreamExt as _;
use outpost::{
    control::Storage, net::websocket::ByteStream, secret::Secret, transport::auth::Credential,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, client::IntoClientRequest as _, http::HeaderName,
        protocol::frame::coding::CloseCode,
    },
};

use super::{Lab, PATIENCE};
use crate::support::coder_source;

pub(super) const DATA: u8 = 0;
pub(super) const WINDOW: u8 = 1;
pub(super) const PING: u8 = 2;
pub(super) const GO_AWAY: u8 = 3;
pub(super) const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// A yamux frame's head: kind, flags, stream, length.
pub(super) type Head = (u8, u16, u32, u32);

pub(super) fn put_head(out: &mut BytesMut, (kind, flags, stream, length): Head) {
    out.put_u8(0);
    out.put_u8(kind);
    out.put_u16(flags);
    out.put_u32(stream);
    out.put_u32(length);
}

/// Somebody who was let in, and speaks yamux by hand.
pub(super) struct Hostile(pub(super) ByteStream<TcpStream>);

impl Hostile {
    async fn enter(lab: &Lab) -> Self {
        Self(ByteStream::new(shake_hands(lab).await))
    }

    pub(super) async fn send(&mut self, heads: impl IntoIterator<Item = Head>) {
        let mut out = BytesMut::new();
        heads.into_iter().for_each(|head| put_head(&mut out, head));
        self.0.write_all(&out).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next frame's head; its body is thrown away. `None` once the server hung up.
    pub(super) async fn receive(&mut self) -> Option<Head> {
        let mut head = [0; 12];
        let read = timeout(PATIENCE, self.0.read_exact(&mut head)).await;
        read.expect("the server answers or hangs up in time").ok()?;
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let flags = u16::from_be_bytes([head[2], head[3]]);
        let (stream, length) = (number(4), number(8));
        if head[1] == DATA {
            let mut body = vec![0; length as usize];
            self.0.read_exact(&mut body).await.ok()?;
        }
        Some((head[1], flags, stream, length))
    }

    /// Frames up to the answer to a ping.
    async fn answers(&mut self) -> Vec<Head> {
        self.send([(PING, SYN, 0, 7)]).await;
        let mut heads = Vec::new();
        loop {
            let head = self.receive().await.expect("the session lives");
            if head == (PING, ACK, 0, 7) {
                return heads;
            }
            heads.push(head);
        }
    }
}

async fn shake_hands(lab: &Lab) -> WebSocketStream<TcpStream> {
    let path = "api/v2/organizations/default/provisionerdaemons/serve";
    let path = format!("{path}?name=hostile&provisioner=terraform&version=1.20");
    let header = HeaderName::from_static("coder-provisioner-daemon-psk");
    come_in(lab.server.address(), &path, (header, &lab.psk)).await
}

/// A WebSocket for the holder of what is in this header.
pub async fn come_in(
    address: SocketAddr,
    path: &str,
    (header, secret): (HeaderName, &Secret),
) -> WebSocketStream<TcpStream> {
    let mut request = format!("ws://{address}/{path}")
        .into_client_request()
        .unwrap();
    let secret = secret.expose().parse().unwrap();
    request.headers_mut().insert(header, secret);
    // A small buffer, so that somebody who never reads is felt soon.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    socket
}

/// A daemon that behaves is served, whatever the hostile one does.
async fn others_are_served(lab: &mut Lab) {
    let credential = Credential::Psk(lab.psk.clone());
    let daemon = coder_source(lab.server.url(), "honest", credential, &[]);
    timeout(PATIENCE, lab.import(&daemon)).await.unwrap();
}

#[tokio::test]
async fn of_ten_thousand_streams_a_few_are_accepted_and_the_rest_reset() {
    let mut lab = Lab::start(Storage::Memory).await;
    let mut hostile = Hostile::enter(&lab).await;

    // In parts, because what they are answered is read between them.
    let (mut accepted, mut reset) = (0, 0);
    let ids: Vec<u32> = (0..10_000).map(|n| 2 * n + 1).collect();
    for some in ids.chunks(1000) {
        hostile
            .send(some.iter().map(|id| (WINDOW, SYN, *id, 0)))
            .await;
        let heads = hostile.answers().await;
        accepted += heads.iter().filter(|head| head.1 == ACK).count();
        reset += heads.iter().filter(|head| head.1 == RST).count();
    }

    assert_eq!((accepted, reset), (64, 10_000 - 64));
    others_are_served(&mut lab).await;
}

#[tokio::test]
async fn a_yamux_frame_of_four_gigabytes_ends_the_session() {
    let mut lab = Lab::start(Storage::Memory).await;
    let mut hostile = Hostile::enter(&lab).await;

    hostile
        .send([(WINDOW, SYN, 1, 0), (DATA, 0, 1, u32::MAX)])
        .await;

    let mut last = None;
    while let Some(head) = hostile.receive().await {
        last = Some(head);
    }
    assert_eq!(last, Some((GO_AWAY, 0, 0, 1)), "a protocol error");
    others_are_served(&mut lab).await;
}

#[tokio::test]
async fn a_call_whose_packet_is_too_large_is_cut_off_alone() {
    let mut lab = Lab::start(Storage::Memory).await;
    let mut hostile = Hostile::enter(&lab).await;
    // A dRPC frame that announces a terabyte.
    let invoke = [0x03, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, b'/'];

    let mut out = BytesMut::new();
    put_head(&mut out, (WINDOW, SYN, 1, 0));
    put_head(&mut out, (DATA, 0, 1, invoke.len() as u32));
    out.put_slice(&invoke);
    hostile.0.write_all(&out).await.unwrap();
    hostile.0.flush().await.unwrap();

    loop {
        let (_, flags, stream, _) = hostile.receive().await.expect("the session lives");
        if stream == 1 && flags & (FIN | RST) != 0 {
            break;
        }
    }
    assert_eq!(hostile.answers().await, []);
    others_are_served(&mut lab).await;
}

#[tokio::test]
async fn a_websocket_message_over_the_limit_ends_the_connection() {
    let mut lab = Lab::start(Storage::Memory).await;
    let mut stream = shake_hands(&lab).await;

    // A masked binary frame of 2^62 bytes.
    let mut frame = vec![0x82, 0x80 | 127];
    frame.extend((1_u64 << 62).to_be_bytes());
    frame.extend([0; 4]);
    let raw = stream.get_mut();
    raw.write_all(&frame).await.unwrap();

    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, raw.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the server hangs up");
    others_are_served(&mut lab).await;
}

#[tokio::test]
async fn a_daemon_that_asks_and_never_reads_is_hung_up_on() {
    let mut lab = Lab::start(Storage::Memory).await;
    let mut hostile = Hostile::enter(&lab).await;
    let mut pings = BytesMut::new();
    (0..5000).for_each(|number| put_head(&mut pings, (PING, SYN, 0, number)));

    let mut taken = 0;
    let pushing = async {
        while hostile.0.write_all(&pings).await.is_ok() {
            taken += pings.len();
        }
    };
    timeout(PATIENCE, pushing)
        .await
        .expect("the server hangs up");

    // What was taken lies in the buffers of both kernels, and little of it with us.
    assert!(
        taken < 64 << 20,
        "{taken} bytes were taken without an answer read"
    );
    others_are_served(&mut lab).await;
}

#[tokio::test]
async fn a_stream_that_asks_nothing_is_closed() {
    let lab = Lab::start(Storage::Memory).await;
    let mut hostile = Hostile::enter(&lab).await;

    hostile.send([(WINDOW, SYN, 1, 0)]).await;

    let waited = tokio::time::Instant::now();
    loop {
        let (_, flags, stream, _) = hostile.receive().await.expect("the session lives");
        if stream == 1 && flags & FIN != 0 {
            break;
        }
    }
    assert!(waited.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_server_that_stops_says_that_it_goes_away() {
    let lab = Lab::start(Storage::Memory).await;
    let mut socket = shake_hands(&lab).await;

    let stopping = tokio::spawn(lab.server.shutdown());

    let close = loop {
        let message = timeout(PATIENCE, socket.next()).await.unwrap();
        if let Message::Close(frame) = message.unwrap().unwrap() {
            break frame.unwrap();
        }
    };
    assert_eq!(close.code, CloseCode::Away);
    stopping.await.unwrap();
}
