//! Recordings of real peers, read by our own wire code: nothing is left over, and what we would write is the same.
//!
//! They lie beside the repository in `../shared/wire` (or in `$OUTPOST_SHARED/wire`); without them the tests say so.

mod messages;
mod relay;
mod replay;
mod rest;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use outpost::{
    net::websocket::{self, ByteStream},
    proto::{provisioner, provisionerd},
    transport::{
        drpc::wire::{Kind, Packet, Reader, Writer},
        yamux,
    },
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::support::skip::skipped;

/// Longer than any of it takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every recording of yamux over a WebSocket.
const WEBSOCKETS: [&str; 5] = [
    "provisionerd.jsonl",
    "provisionerd-failures.jsonl",
    "agent-rpc.jsonl",
    "client-coordinate-direct.jsonl",
    "client-coordinate-relay.jsonl",
];

#[test]
fn every_daemon_recording_is_decoded_and_encoded_alike() {
    for name in ["provisionerd.jsonl", "provisionerd-failures.jsonl"] {
        let Some(recording) = Recording::open(name) else {
            return;
        };
        let calls = recording.calls();
        assert!(calls.len() > 50, "{name} has only {} calls", calls.len());
        for call in &calls {
            call.check();
        }
    }
}

/// One call: the packets of both directions.
struct Call {
    name: String,
    asked: Vec<Packet>,
    answered: Vec<Packet>,
}

impl Call {
    /// The name without its service.
    fn method(&self) -> &str {
        self.name.rsplit('/').next().unwrap()
    }

    /// The messages of both directions; what ends a call has no payload.
    fn messages(&self) -> (Vec<Bytes>, Vec<Bytes>) {
        let [asked, answered] = [&self.asked, &self.answered].map(|packets| {
            let (messages, ends): (Vec<_>, Vec<_>) = packets
                .iter()
                .partition(|packet| packet.kind == Kind::Message);
            let is_end =
                |it: &&Packet| matches!(it.kind, Kind::Close | Kind::CloseSend | Kind::Cancel);
            assert!(ends.iter().all(is_end), "{}: {ends:?}", self.name);
            messages.into_iter().map(|it| it.data.clone()).collect()
        });
        (asked, answered)
    }

    /// Every message of the call survives decoding and encoding.
    fn check(&self) {
        use provisionerd::{
            AcquiredJob, CancelAcquire, CommitQuotaRequest, CommitQuotaResponse, CompletedJob,
            Empty, FailedJob, UpdateJobRequest, UpdateJobResponse,
        };
        let (asked, answered) = self.messages();
        match self.method() {
            "AcquireJobWithCancel" => same::<CancelAcquire, AcquiredJob>(&asked, &answered),
            "CommitQuota" => same::<CommitQuotaRequest, CommitQuotaResponse>(&asked, &answered),
            "UpdateJob" => same::<UpdateJobRequest, UpdateJobResponse>(&asked, &answered),
            "CompleteJob" => same::<CompletedJob, Empty>(&asked, &answered),
            "FailJob" => same::<FailedJob, Empty>(&asked, &answered),
            "UploadFile" => same::<provisioner::FileUpload, Empty>(&asked, &answered),
            other => panic!("unexpected method {other}"),
        }
    }
}

fn same<Q, A>(asked: &[Bytes], answered: &[Bytes])
where
    Q: Message + Default + PartialEq + Debug,
    A: Message + Default + PartialEq + Debug,
{
    asked.iter().for_each(same_message::<Q>);
    answered.iter().for_each(same_message::<A>);
}

/// The order of map entries is free, so that equal lengths and equal meaning are what can be asked of a message.
/// A field that we do not know would be missing from what we encode.
fn same_message<M: Message + Default + PartialEq + Debug>(bytes: &Bytes) {
    let message = M::decode(bytes.clone()).unwrap();
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), bytes.len(), "{message:?}");
    assert_eq!(M::decode(&encoded[..]).unwrap(), message);
    let sorted = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(&encoded), sorted(bytes), "{message:?}");
}

/// One connection: what either side sent, byte by byte.
struct Raw {
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Raw {
    fn open(name: &str) -> Option<Self> {
        let shared = std::env::var_os("OUTPOST_SHARED").map(PathBuf::from);
        let shared =
            shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
        let Ok(text) = fs::read_to_string(shared.join("wire").join(name)) else {
            skipped("a recording", format!("no {name} beside the repository"));
            return None;
        };
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let data = BASE64_STANDARD
                .decode(row["data"].as_str().unwrap_or_default())
                .unwrap();
            if row["dir"] == "c" {
                &mut client
            } else {
                &mut server
            }
            .extend(data);
        }
        Some(Self { client, server })
    }

    /// The heads of question and answer, and what follows them.
    fn upgraded(&self) -> [(String, &[u8]); 2] {
        [&self.client, &self.server].map(|raw| {
            let (head, rest) = raw.split_at(head_length(raw));
            (String::from_utf8(head.to_vec()).unwrap(), rest)
        })
    }
}

/// The same without the HTTP heads and the WebSocket, and the head of the question.
struct Recording {
    head: String,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Recording {
    fn open(name: &str) -> Option<Self> {
        let raw = Raw::open(name)?;
        let [(head, client), (_, server)] = raw.upgraded();
        Some(Self {
            head,
            client: websocket_payload(client),
            server: websocket_payload(server),
        })
    }

    /// Replays both directions through our yamux and dRPC, as the side that would have received them.
    fn calls(&self) -> Vec<Call> {
        let (asked, answered) = (packets(&self.client), packets(&self.server));
        let call = |(stream, mut asked): (u32, Vec<Packet>)| {
            assert_eq!(asked[0].kind, Kind::Invoke);
            let name = String::from_utf8(asked.remove(0).data.to_vec()).unwrap();
            Call {
                name,
                asked,
                answered: answered.get(&stream).cloned().unwrap_or_default(),
            }
        };
        asked
            .into_iter()
            .filter(|(_, packets)| !packets.is_empty())
            .map(call)
            .collect()
    }
}

fn head_length(raw: &[u8]) -> usize {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n");
    end.unwrap() + 4
}

/// The payloads of all binary messages.
fn websocket_payload(mut raw: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    while let [opcode, length, rest @ ..] = raw {
        let (is_masked, length, rest) = match length & 0x7f {
            126 => (
                length >> 7,
                u64::from(u16::from_be_bytes(*rest.first_chunk().unwrap())),
                &rest[2..],
            ),
            127 => (
                length >> 7,
                u64::from_be_bytes(*rest.first_chunk().unwrap()),
                &rest[8..],
            ),
            short => (length >> 7, u64::from(short), rest),
        };
        let (mask, rest) = if is_masked == 1 {
            rest.split_at(4)
        } else {
            (&[0_u8; 4][..], rest)
        };
        let (data, rest) = rest.split_at(usize::try_from(length).unwrap());
        match opcode & 0x0f {
            0 | 2 => payload.extend(
                data.iter()
                    .zip(mask.iter().cycle())
                    .map(|(byte, key)| byte ^ key),
            ),
            8..=10 => {}
            other => panic!("unexpected WebSocket opcode {other}"),
        }
        raw = rest;
    }
    assert!(raw.is_empty(), "half a WebSocket header is left over");
    payload
}

/// The packets of each yamux stream of one direction.
fn packets(bytes: &[u8]) -> BTreeMap<u32, Vec<Packet>> {
    yamux::stream_payloads(bytes)
        .unwrap()
        .into_iter()
        .map(|(stream, payload)| {
            let (mut reader, mut packets) = (Reader::new(64 << 20), Vec::new());
            reader.push(&payload);
            while let Some(packet) = reader.next_packet().unwrap() {
                packets.push(packet);
            }
            assert!(
                !reader.is_partial(),
                "bytes are left over on stream {stream}"
            );
            let (mut writer, mut written) = (Writer::default(), BytesMut::new());
            for packet in &packets {
                writer.write(packet.kind, &packet.data, &mut written);
            }
            assert_eq!(written, payload[..], "stream {stream}");
            (stream, packets)
        })
        .collect()
}

#[tokio::test]
async fn our_websocket_gives_the_bytes_that_real_peers_put_in() {
    for name in WEBSOCKETS {
        let Some(raw) = Raw::open(name) else { return };
        let [(question, client), (answer, server)] = raw.upgraded();

        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        for head in [question, answer] {
            assert!(head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
        }
        for (role, sent) in [(Role::Server, client), (Role::Client, server)] {
            let read = timeout(PATIENCE, through_our_websocket(role, sent));
            assert!(read.await.unwrap() == websocket_payload(sent), "{name}");
        }
    }
}

/// What our WebSocket gives whoever reads it; a recording may end without a close.
async fn through_our_websocket(role: Role, sent: &[u8]) -> Vec<u8> {
    let (mut peer, ours) = tokio::io::duplex(sent.len() + (1 << 20));
    peer.write_all(sent).await.unwrap();
    peer.shutdown().await.unwrap();
    let socket = WebSocketStream::from_raw_socket(ours, role, Some(websocket::config())).await;
    let mut read = Vec::new();
    let _ = ByteStream::new(socket).read_to_end(&mut read).await;
    read
}

#[test]
fn our_sessions_accept_what_real_peers_sent_in_either_role() {
    for name in WEBSOCKETS {
        let Some(recording) = Recording::open(name) else {
            return;
        };
        let sides = [
            (yamux::Role::Server, &recording.client),
            (yamux::Role::Client, &recording.server),
        ];
        for (role, sent) in sides {
            let expected = yamux::stream_payloads(sent).unwrap();
            let streams = yamux::stream_payloads(&recording.client).unwrap().len();
            let expected: usize = expected.values().map(Vec::len).sum();
            assert_eq!(received(role, streams, sent), expected, "{name}");
        }
    }
}

/// How many bytes come out of a session of ours whose peer sends this; a client has opened so many streams before.
fn received(role: yamux::Role, streams: usize, sent: &[u8]) -> usize {
    let now = Instant::now();
    let config = yamux::Config {
        max_streams: 4096,
        ..yamux::Config::default()
    };
    let mut session = yamux::Session::new(role, config, now);
    if let yamux::Role::Client = role {
        for _ in 0..streams {
            session.open(now).unwrap();
        }
    }
    let mut received = 0;
    for piece in sent.chunks(1500) {
        session
            .handle_bytes(Bytes::copy_from_slice(piece), now)
            .unwrap();
        while session.poll_transmit().is_some() {}
        while let Some(event) = session.poll_event() {
            if let yamux::Event::StreamReadable(id) = event {
                while let Ok(Some(data)) = session.read(id, usize::MAX) {
                    if data.is_empty() {
                        session.abandon(id, now);
                        break;
                    }
                    received += data.len();
                }
            }
        }
    }
    received
}
