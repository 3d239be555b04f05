use bytes::BytesMut;
use proptest::prelude::*;

use super::{
    wire::{Kind, Packet, Reader, WireError, Writer},
    *,
};
use crate::{
    proto::provisionerd::{UpdateJobRequest, UpdateJobResponse},
    transport::yamux,
};

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
