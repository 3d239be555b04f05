//! What real nodes sent through a real relay: every frame and every packet in one is of a kind that we know.

use std::collections::BTreeMap;

use boringtun::noise::{Packet, Tunn};
use bytes::BytesMut;
use outpost::tailnet::{
    derp::frame::Frame,
    disco,
    key::{Key, NONCE_BYTES, TAG_BYTES},
};

use super::{Raw, messages::known_nodes};

const RECORDINGS: [&str; 3] = [
    "agent-derp.jsonl",
    "client-derp-ping.jsonl",
    "client-derp-ssh.jsonl",
];

/// What a packet of disco has around its message: six bytes that tell it apart, the sender's key, and the seal.
const DISCO_OVERHEAD: usize = 6 + 32 + NONCE_BYTES + TAG_BYTES;
/// A ping or a pong, padded.
const PADDED: usize = 2 + 1230;

#[test]
fn every_frame_of_a_relay_is_decoded_and_encoded_alike() {
    let Some(known) = known_nodes() else { return };
    for name in RECORDINGS {
        let Some(raw) = Raw::open(name) else { return };
        let [(question, client), (answer, server)] = raw.upgraded();
        assert!(question.starts_with("GET /derp HTTP/1.1\r\n"), "{question}");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        for head in [&question, &answer] {
            assert!(head.contains("\r\nUpgrade: DERP\r\n"), "{head}");
        }
        let (asked, told) = (frames(client), frames(server));

        let [Frame::ServerKey(relay), Frame::ServerInfo(_), ..] = &told[..] else {
            panic!("{name}: a relay that begins otherwise: {:?}", &told[..2]);
        };
        assert!(answer.contains(&relay.hex()), "{answer}");
        let [
            Frame::ClientInfo { key: own, .. },
            Frame::Preferred(true),
            ..,
        ] = &asked[..]
        else {
            panic!("{name}: a client that begins otherwise: {:?}", &asked[..2]);
        };
        assert!(known.contains_key(own), "{name}: {own:?} is no node's");
        check_packets(*own, &asked, &told, &known);
    }
}

/// All frames of one direction; what we would write for them is what was there.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut rest, mut frames) = (BytesMut::from(bytes), Vec::new());
    while let Some(frame) = Frame::decode(&mut rest).unwrap() {
        frames.push(frame);
    }
    assert!(rest.is_empty(), "{} bytes are left over", rest.len());
    let mut written = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut written));
    assert!(written == bytes, "we would write it otherwise");
    frames
}

/// Who may have sent what: packets go to and come from nodes that a coordinator told of, and disco is signed by the
/// disco key that belongs to the node.
fn check_packets(own: Key, asked: &[Frame], told: &[Frame], known: &BTreeMap<Key, Key>) {
    let mut sessions = Sessions::default();
    let mut packets = 0;
    for frame in asked.iter().skip(2).chain(told.iter().skip(2)) {
        let (from, other, packet) = match frame {
            Frame::Send { to, packet } => (own, *to, packet),
            Frame::Receive { from, packet } => (*from, *from, packet),
            Frame::PeerGone(key, _) => {
                assert!(known.contains_key(key), "{key:?} has gone and never was");
                continue;
            }
            other => panic!("unexpected {other:?}"),
        };
        packets += 1;
        assert!(known.contains_key(&other), "{other:?} is no node's");
        match disco::sender(packet) {
            Some(sender) => {
                assert_eq!(known[&from], sender);
                let length = packet.len() - DISCO_OVERHEAD;
                // The rest are lists of addresses, each of 18 bytes.
                assert!(
                    length == PADDED || (length - 2).is_multiple_of(18),
                    "{length}"
                );
            }
            None => sessions.check(packet),
        }
    }
    assert!(packets > 30, "only {packets} packets");
    assert!(sessions.agreed > 0 && sessions.data > 15);
}

/// WireGuard's packets, as far as they are legible.
#[derive(Default)]
struct Sessions {
    agreed: usize,
    data: usize,
}

impl Sessions {
    fn check(&mut self, packet: &[u8]) {
        match Tunn::parse_incoming_packet(packet).unwrap() {
            Packet::HandshakeInit(_) => {}
            Packet::HandshakeResponse(_) => self.agreed += 1,
            Packet::PacketData(_) => {
                // What is inside is padded to 16 bytes.
                assert!((packet.len() - 32).is_multiple_of(16));
                self.data += 1;
            }
            Packet::PacketCookieReply(_) => panic!("nobody was under load"),
        }
    }
}
