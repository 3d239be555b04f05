use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt as _;
use outpost_wire::proto::provisionerd::{UpdateJobRequest, UpdateJobResponse};
use proptest::prelude::*;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::{JoinSet, yield_now},
    time::{Instant, timeout},
};

use super::{
    wire::{Kind, Packet, Reader, WireError, Writer},
    *,
};
use crate::yamux;

const UPDATE_JOB: &str = "/provisionerd.ProvisionerDaemon/UpdateJob";

fn packets(bytes: &[u8], piece: usize) -> Result<Vec<Packet>, WireError> {
    let (mut reader, mut out) = (Reader::new(1 << 20), Vec::new());
    for chunk in bytes.chunks(piece) {
        reader.push(chunk);
        while let Some(packet) = reader.next_packet()? {
            out.push(packet);
        }
    }
    Ok(out)
}

#[test]
fn a_heartbeat_is_encoded_as_the_reference_does() {
    let (mut writer, mut out) = (Writer::default(), BytesMut::new());

    writer.write(Kind::Invoke, UPDATE_JOB.as_bytes(), &mut out);
    writer.write(Kind::Message, b"\x0a\x24", &mut out);
    writer.write(Kind::CloseSend, b"", &mut out);

    let expected = [
        "03010129",
        &hex::encode(UPDATE_JOB),
        "050102020a24",
        "0d010300",
    ]
    .concat();
    assert_eq!(hex::encode(out), expected);
}

#[test]
fn a_cancel_carries_the_control_bit() {
    let (mut writer, mut out) = (Writer::default(), BytesMut::new());

    writer.write(Kind::Cancel, b"", &mut out);

    assert_eq!(hex::encode(out), "89010100");
}

#[test]
fn a_packet_over_the_limit_is_refused_before_it_is_read() {
    let mut reader = Reader::new(10);
    reader.push(&[0x05, 1, 1, 11]);

    assert_eq!(reader.next_packet(), Err(WireError::TooLarge { limit: 10 }));
}

#[test]
fn a_frame_of_a_finished_packet_is_refused() {
    let frame = [0x05, 1, 1, 0];

    assert_eq!(
        packets(&[frame, frame].concat(), 100),
        Err(WireError::OutOfOrder)
    );
}

#[test]
fn an_unknown_packet_is_skipped_only_if_it_says_so() {
    assert_eq!(packets(&[0x80 | 9 << 1 | 1, 1, 1, 0], 100), Ok(vec![]));
    assert_eq!(
        packets(&[9 << 1 | 1, 1, 1, 0], 100),
        Err(WireError::UnknownKind(9))
    );
}

#[tokio::test]
async fn a_call_over_yamux_is_answered() {
    let (near, far) = tokio::io::duplex(1000);
    let (client, _) = yamux::Connection::start(near, yamux::Role::Client, yamux::Config::default());
    let (_server, mut incoming) =
        yamux::Connection::start(far, yamux::Role::Server, yamux::Config::default());
    let serving = tokio::spawn(async move {
        let mut answer = Answer::accept(incoming.accept().await.unwrap(), Limits::CODER)
            .await
            .unwrap()
            .unwrap();
        let request: UpdateJobRequest = answer.receive().await.unwrap().unwrap();
        let method = answer.method().to_owned();
        answer
            .reply(&UpdateJobResponse {
                canceled: true,
                ..UpdateJobResponse::default()
            })
            .await
            .unwrap();
        (method, request)
    });

    let request = UpdateJobRequest {
        readme: vec![7; 1_000_000].into(),
        ..UpdateJobRequest::default()
    };
    let answer: UpdateJobResponse =
        Call::unary(client.open().unwrap(), UPDATE_JOB, &request, Limits::CODER)
            .await
            .unwrap();

    assert!(answer.canceled);
    assert_eq!(serving.await.unwrap(), (UPDATE_JOB.to_owned(), request));
}

#[tokio::test]
async fn an_error_arrives_with_its_words() {
    let (near, far) = tokio::io::duplex(1000);
    let serving = tokio::spawn(async move {
        let answer = Answer::accept(far, Limits::CODER).await.unwrap().unwrap();
        answer.fail("you don't own this job").await.unwrap();
    });

    let result: Result<UpdateJobResponse, _> = Call::unary(
        near,
        UPDATE_JOB,
        &UpdateJobRequest::default(),
        Limits::CODER,
    )
    .await;

    assert_eq!(result.unwrap_err().to_string(), "you don't own this job");
    serving.await.unwrap();
}

#[tokio::test]
async fn a_message_over_the_limit_is_not_sent() {
    let (near, _far) = tokio::io::duplex(1000);
    let request = UpdateJobRequest {
        readme: vec![0; 5 << 20].into(),
        ..UpdateJobRequest::default()
    };

    let result: Result<UpdateJobResponse, _> =
        Call::unary(near, UPDATE_JOB, &request, Limits::CODER).await;

    assert!(matches!(
        result,
        Err(CallError::TooLarge {
            limit: 4_194_304,
            ..
        })
    ));
}

#[tokio::test]
async fn a_stream_that_ends_early_is_lost_and_not_an_answer() {
    let (near, far) = tokio::io::duplex(1000);
    let mut call = Call::begin(near, UPDATE_JOB, Limits::CODER).await.unwrap();
    drop(far);

    let result = call.receive::<UpdateJobResponse>().await;

    assert!(matches!(result, Err(CallError::Lost(_))));
}

/// A peer in Go: its transport is read all the time, and the end of it before the call is over cancels the call.
struct GoPeer<S> {
    stream: S,
    reader: Reader,
    writer: Writer,
    has_met_the_end: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> GoPeer<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            reader: Reader::new(1 << 20),
            writer: Writer::default(),
            has_met_the_end: false,
        }
    }

    async fn send(&mut self, packets: &[(Kind, &[u8])]) {
        let mut out = BytesMut::new();
        for (kind, data) in packets {
            self.writer.write(*kind, data, &mut out);
        }
        self.stream.write_all(&out).await.unwrap();
    }

    /// Returns the kinds of the packets up to one of `last`.
    async fn receive(&mut self, last: &[Kind]) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            while let Some(packet) = self.reader.next_packet().unwrap() {
                packets.push(packet);
            }
            if packets.last().is_some_and(|it| last.contains(&it.kind)) {
                return packets;
            }
            let mut bytes = BytesMut::new();
            if self.stream.read_buf(&mut bytes).await.unwrap() == 0 {
                self.has_met_the_end = true;
                return packets;
            }
            self.reader.push(&bytes);
        }
    }

    /// Returns whether the call was cut off. The goroutine that made the call is slow, and the one that reads the
    /// transport is not.
    async fn is_cut_off(&mut self) -> bool {
        for _ in 0..20 {
            yield_now().await;
            if self.stream.read_u8().now_or_never().is_some() {
                self.has_met_the_end = true;
            }
        }
        self.has_met_the_end
    }
}

/// Answers all calls, each in one of the ways in which a call can end.
async fn serve(stream: yamux::Stream) {
    let accepted = Answer::accept(stream, Limits::CODER).await.unwrap();
    let mut answer = accepted.unwrap();
    let request: UpdateJobRequest = answer.receive().await.unwrap().unwrap();
    let response = UpdateJobResponse::default();
    let ended = match request.job_id.as_str() {
        "reply" => answer.reply(&response).await,
        "fail" => answer.fail("no").await,
        "unimplemented" => answer.unimplemented().await,
        _ => {
            answer.send(&response).await.unwrap();
            answer.end().await
        }
    };
    ended.unwrap();
}

async fn call_as_go_does(stream: yamux::Stream, kind: &str) -> bool {
    let mut peer = GoPeer::new(stream);
    let request = UpdateJobRequest {
        job_id: kind.to_owned(),
        ..UpdateJobRequest::default()
    };
    let request = prost::Message::encode_to_vec(&request);
    let method = UPDATE_JOB.as_bytes();
    peer.send(&[
        (Kind::Invoke, method),
        (Kind::Message, &request[..]),
        (Kind::CloseSend, &[]),
    ])
    .await;
    let last = [Kind::CloseSend, Kind::Close, Kind::Error];
    assert!(!peer.receive(&last).await.is_empty());
    peer.is_cut_off().await;
    peer.send(&[(Kind::Close, &[])]).await;
    // The caller has not returned from the call yet, although everything was sent.
    let is_cut_off = peer.is_cut_off().await;
    peer.stream.shutdown().await.unwrap();
    let rest = timeout(Duration::from_secs(60), peer.receive(&[])).await;
    assert!(rest.unwrap().is_empty(), "the stream ends after the call");
    is_cut_off
}

#[tokio::test]
async fn none_of_5000_calls_of_a_go_client_is_cut_off_before_it_has_ended_the_call() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, _) = yamux::Connection::start(near, yamux::Role::Client, yamux::Config::default());
    let (_server, mut incoming) =
        yamux::Connection::start(far, yamux::Role::Server, yamux::Config::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Some(stream) = incoming.accept().await {
            serving.spawn(serve(stream));
        }
        serving.join_all().await;
    });

    let mut cut_off = 0;
    for _ in 0..5000 / 20 {
        let kinds = ["reply", "fail", "unimplemented", "end"]
            .into_iter()
            .cycle();
        let calls = kinds
            .take(20)
            .map(|kind| call_as_go_does(client.open().unwrap(), kind));
        let calls = futures::future::join_all(calls).await;
        cut_off += calls.into_iter().filter(|it| *it).count();
    }

    assert_eq!(cut_off, 0);
    drop(client);
    tasks.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_never_ends_its_call_is_not_waited_for_for_ever() {
    let (near, far) = tokio::io::duplex(1000);
    let serving = tokio::spawn(async move {
        let answer = Answer::accept(far, Limits::CODER).await.unwrap().unwrap();
        answer.reply(&UpdateJobResponse::default()).await.unwrap();
    });
    let mut peer = GoPeer::new(near);
    let begun = Instant::now();
    peer.send(&[(Kind::Invoke, UPDATE_JOB.as_bytes())]).await;

    peer.receive(&[]).await;

    assert!(peer.has_met_the_end);
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    serving.await.unwrap();
}

#[tokio::test]
async fn a_call_ends_after_the_handler_of_a_go_server_has_returned() {
    let (near, far) = tokio::io::duplex(1000);
    let serving = tokio::spawn(async move {
        let mut peer = GoPeer::new(far);
        peer.receive(&[Kind::CloseSend]).await;
        peer.send(&[(Kind::Message, &[])]).await;
        let is_cut_off = peer.is_cut_off().await;
        peer.send(&[(Kind::CloseSend, &[])]).await;
        (is_cut_off, peer.receive(&[Kind::Close]).await.len())
    });

    let request = UpdateJobRequest::default();
    let answer: Result<UpdateJobResponse, _> =
        Call::unary(near, UPDATE_JOB, &request, Limits::CODER).await;

    assert_eq!(answer.unwrap(), UpdateJobResponse::default());
    assert_eq!(serving.await.unwrap(), (false, 1));
}

#[tokio::test]
async fn a_method_that_is_not_there_is_told_with_the_code_that_go_looks_for() {
    let (near, far) = tokio::io::duplex(1000);
    let serving = tokio::spawn(async move {
        let answer = Answer::accept(far, Limits::CODER).await.unwrap().unwrap();
        answer.unimplemented().await.unwrap();
    });
    let mut peer = GoPeer::new(near);
    peer.send(&[(Kind::Invoke, b"/a.B/C")]).await;

    let packets = peer.receive(&[Kind::Error]).await;

    let expected = [
        &[0, 0, 0, 0, 0, 0, 0, 12][..],
        &b"protocol error: unknown rpc: \"/a.B/C\""[..],
    ];
    assert_eq!(packets[0].data, expected.concat());
    drop(peer);
    serving.await.unwrap();
}

proptest! {
    #[test]
    fn packets_survive_any_fragmentation(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200_000), 1..4),
        piece in 1_usize..100_000,
    ) {
        let (mut writer, mut out) = (Writer::default(), BytesMut::new());
        for data in &sent {
            writer.write(Kind::Message, data, &mut out);
        }

        let received: Vec<_> = packets(&out, piece).unwrap().into_iter().map(|packet| packet.data.to_vec()).collect();

        prop_assert_eq!(received, sent);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = packets(&bytes, 7);
    }
}

#[test]
fn fields_are_counted_before_they_are_read() {
    // A number, eight bytes, a text, a group of one number, four bytes.
    let message = [
        0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1a, 2, b'o', b'k', 0x23, 0x08, 1, 0x24,
        0x2d, 1, 2, 3, 4,
    ];
    assert_eq!(wire::fields(&message), 7);
    assert_eq!(wire::fields(&message[..15]), 3, "the text is not whole");
    assert_eq!(wire::fields(&[0x0a, 0].repeat(100_000)), 100_000);
    assert_eq!(wire::fields(&[]), 0);
}
