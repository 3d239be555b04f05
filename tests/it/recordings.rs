//! Recordings of real peers, read by our own wire code: nothing is left over, and what we would write is the same.
//!
//! They lie beside the repository in `../shared/wire` (or in `$OUTPOST_SHARED/wire`); without them the tests say so.

mod replay;

use std::{collections::BTreeMap, fmt::Debug, fs, path::PathBuf, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use outpost::{
    proto::{provisioner, provisionerd},
    transport::{
        drpc::wire::{Kind, Packet, Reader, Writer},
        yamux,
    },
};
use prost::Message;

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

    /// Every message of the call survives decoding and encoding.
    fn check(&self) {
        use provisionerd::{
            AcquiredJob, CancelAcquire, CommitQuotaRequest, CommitQuotaResponse, CompletedJob,
            Empty, FailedJob, UpdateJobRequest, UpdateJobResponse,
        };
        let method = self.method();
        let messages = |packets: &[Packet]| -> Vec<Bytes> {
            packets
                .iter()
                .filter(|packet| packet.kind == Kind::Message)
                .map(|packet| packet.data.clone())
                .collect()
        };
        let (asked, answered) = (messages(&self.asked), messages(&self.answered));
        match method {
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

/// One connection: what either side sent, without the HTTP heads, and the head of the question.
struct Recording {
    head: String,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Recording {
    fn open(name: &str) -> Option<Self> {
        let shared = std::env::var_os("OUTPOST_SHARED").map(PathBuf::from);
        let shared =
            shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
        let Ok(text) = fs::read_to_string(shared.join("wire").join(name)) else {
            println!("skipped: no recording {name} beside the repository");
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
        let (head, _) = client.split_at(head_length(&client));
        Some(Self {
            head: String::from_utf8(head.to_vec()).unwrap(),
            client: body(&client),
            server: body(&server),
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

fn body(raw: &[u8]) -> Vec<u8> {
    websocket_payload(&raw[head_length(raw)..])
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

#[test]
fn our_session_accepts_what_a_real_daemon_sent() {
    let Some(recording) = Recording::open("provisionerd.jsonl") else {
        return;
    };
    let now = Instant::now();
    let mut session = yamux::Session::new(yamux::Role::Server, yamux::Config::default(), now);
    let mut received = 0;

    for piece in recording.client.chunks(1500) {
        session
            .handle_bytes(Bytes::copy_from_slice(piece), now)
            .unwrap();
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

    let expected: usize = yamux::stream_payloads(&recording.client)
        .unwrap()
        .values()
        .map(Vec::len)
        .sum();
    assert_eq!(received, expected);
}
