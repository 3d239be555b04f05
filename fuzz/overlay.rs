//! The parsers of the overlay, and what decides in it, on whatever peers send.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr},
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use outpost::{
    agent::{command, environment, schedule::Schedule},
    proto::coder::{agent::v2 as agent_api, tailnet::v2 as wire},
    tailnet::{
        Coordinator, DerpMap, Node, PeerUpdate, address,
        coordination::change,
        coordinator::Auth,
        derp::frame::{self, Frame, MAX_PACKET},
        disco,
        engine::{Engine, Output},
        key::{Key, Private},
        peer_connections::PeerConnection,
        tsmp,
        wireguard::{Out, Session, Sessions},
    },
};
use prost::Message;
use tokio::sync::mpsc::{Receiver, error::TryRecvError};
use uuid::Uuid;

/// Keys that stay the same, so that an input means the same again.
fn private(number: u8) -> Private {
    Private::from_bytes([number | 0x40; 32])
}

static KEYS: LazyLock<Vec<(Private, Key)>> = LazyLock::new(|| {
    let all = (0..8).map(private);
    all.map(|private| (private.clone(), private.public()))
        .collect()
});

/// A relay's frames: in pieces of any size the same as at once, and what is read is written alike. What is sealed to
/// us may hold anything.
pub fn derp(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut waiting, mut frames) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            waiting.extend_from_slice(piece);
            loop {
                match Frame::decode(&mut waiting) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let (frames, error) = read(&mut std::iter::once(bytes));
    let in_pieces = read(&mut bytes.chunks(usize::from(step) + 1));
    assert_eq!((&frames, &error), (&in_pieces.0, &in_pieces.1));
    let mut written = BytesMut::new();
    for frame in &frames {
        if let Frame::Send { packet, .. } = frame {
            assert!(packet.len() <= MAX_PACKET);
        }
        frame.encode(&mut written);
    }
    assert_eq!(read(&mut std::iter::once(&written[..])), (frames, None));

    let [(relay, relay_key), (client, client_key), ..] = &KEYS[..] else {
        unreachable!()
    };
    let sealed = client.shared(*relay_key).seal(bytes);
    let _ = frame::open_client_info(relay, *client_key, &sealed);
    assert_eq!(frame::open_client_info(relay, *client_key, bytes), None);
}

/// Disco: around the seal, and inside it. What is understood is the same after it was said again.
pub fn disco(data: &[u8]) {
    let [(ours, our_key), (theirs, their_key), ..] = &KEYS[..] else {
        unreachable!()
    };
    let shared = ours.shared(*their_key);
    if disco::sender(data).is_some() {
        assert_eq!(disco::open(data, &shared), None, "nobody sealed it");
    }
    if let Some(message) = disco::Message::decode(data) {
        let packet = disco::seal(&message, theirs, &theirs.shared(*our_key));
        assert_eq!(disco::sender(&packet), Some(*their_key));
        assert_eq!(disco::open(&packet, &shared), Some(message));
    }
}

/// Packets of the overlay: what has ends is as long as it says, and what is a message comes back.
pub fn tsmp(data: &[u8]) {
    let ends = tsmp::ends(data);
    let message = tsmp::parse(data);
    if let Some((source, target)) = ends {
        let length = usize::from(u16::from_be_bytes([data[4], data[5]]));
        assert_eq!(data.len(), 40 + length);
        if let Some(message) = message {
            let packet = tsmp::packet(source, target, message);
            assert_eq!(tsmp::parse(&packet), Some(message));
            assert_eq!(tsmp::ends(&packet), ends);
        }
    }
    assert!(message.is_none() || ends.is_some());
}

/// Nodes, what coordinators say of them, and maps of relays in both forms. The first byte says which.
pub fn tailnet(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            let Ok(Some(node)) = wire::Node::decode(bytes).map(Node::from_wire) else {
                return;
            };
            let lists = [
                node.addresses.len(),
                node.allowed.len(),
                node.endpoints.len(),
            ];
            let maps = [node.latency.len(), node.forced_websocket.len()];
            assert!(lists.into_iter().chain(maps).all(|length| length <= 64));
            let again = Node::from_wire(node.to_wire()).expect("we told it");
            // Numbers that are none are never the same.
            assert_eq!(format!("{again:?}"), format!("{node:?}"));
        }
        1 => {
            let Ok(answer) = wire::CoordinateResponse::decode(bytes) else {
                return;
            };
            for update in answer.peer_updates {
                let id = update.id.clone();
                if let Some((found, _)) = change(update) {
                    assert_eq!(found.as_bytes()[..], id[..]);
                }
            }
        }
        2 => {
            if let Ok(map) = wire::DerpMap::decode(bytes) {
                of_map(DerpMap::from_wire(map));
            }
        }
        _ => {
            if let Ok(map) = serde_json::from_slice::<DerpMap>(bytes) {
                of_map(map);
            }
        }
    }
}

fn of_map(mut map: DerpMap) {
    let again = DerpMap::from_wire(map.to_wire());
    assert_eq!(format!("{:?}", again.regions), format!("{:?}", map.regions));
    let json = serde_json::to_vec(&map).expect("it is JSON");
    let again: DerpMap = serde_json::from_slice(&json).expect("we wrote it");
    assert_eq!(format!("{:?}", again.regions), format!("{:?}", map.regions));
    let server = "https://[::1]:3000/".parse().expect("an address");
    map.rewrite_embedded(&server);
    let homes = map.homes();
    for region in map.regions.keys() {
        for relay in map.relays(*region) {
            if let Some(url) = relay.url() {
                assert!(matches!(url.scheme(), "http" | "https"), "{url}");
                assert_eq!(url.path(), "/derp", "{url}");
            }
        }
    }
    let is_there = |home: &i32| map.regions.values().any(|it| it.id == *home);
    assert!(homes.iter().all(is_there));
}

/// What agents say to their server: the first byte chooses the call.
pub fn agent_calls(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 9 {
        0 => comes_back::<agent_api::UpdateStartupRequest>(bytes),
        1 => comes_back::<agent_api::UpdateLifecycleRequest>(bytes),
        2 => comes_back::<agent_api::UpdateStatsRequest>(bytes),
        3 => comes_back::<agent_api::BatchUpdateMetadataRequest>(bytes),
        4 => comes_back::<agent_api::BatchCreateLogsRequest>(bytes),
        5 => comes_back::<agent_api::WorkspaceAgentScriptCompletedRequest>(bytes),
        6 => comes_back::<agent_api::ReportConnectionRequest>(bytes),
        7 => comes_back::<agent_api::BatchUpdateAppHealthRequest>(bytes),
        _ => comes_back::<agent_api::Manifest>(bytes),
    }
}

fn comes_back<M: Message + Default>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(&message.encode_to_vec()[..]).expect("we wrote it");
        assert_eq!(again.encoded_len(), message.encoded_len());
    }
}

/// What a template writes for an agent: texts with variables, scripts, and times.
pub fn agent_texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lookup = |name: &str| (name.len() < 4).then(|| name.to_owned());
    let expanded = environment::expand(text, lookup);
    match text.contains('$') {
        true => assert!(expanded.len() <= text.len(), "{expanded:?}"),
        false => assert_eq!(expanded, text),
    }

    let shell = std::path::Path::new("/bin/sh");
    let found = command::invocation(shell, text.as_ref());
    assert!(!found.program.as_os_str().is_empty());
    let script = found.args.last().and_then(|script| script.to_str());
    let script = script.expect("a part of the text, or a login");
    assert!(script == "-l" || text.contains(script));

    // A schedule ends or goes on, but asking for its next time must.
    if let Ok(schedule) = Schedule::parse(text) {
        let start = chrono::DateTime::UNIX_EPOCH;
        assert!(schedule.after(&start).is_none_or(|next| next > start));
    }
}

/// Sessions without ciphers: what is sealed has a four in front.
struct Plain;

impl Sessions for Plain {
    fn session(&mut self, _: Key, _: bool) -> Box<dyn Session> {
        Box::new(Self)
    }
}

impl Session for Plain {
    fn seal(&mut self, packet: &[u8], out: &mut Vec<Out>) {
        out.push(Out::Network([&[4], packet].concat()));
    }

    fn open(&mut self, datagram: &[u8], out: &mut Vec<Out>) {
        if let Some(packet) = datagram.strip_prefix(&[4]) {
            out.push(Out::Inner(packet.to_vec()));
        }
    }

    fn tick(&mut self, out: &mut Vec<Out>) {
        out.push(Out::Network(vec![4]));
    }

    fn ask(&mut self, out: &mut Vec<Out>) {
        out.push(Out::Network(vec![4]));
    }

    fn last_handshake(&self) -> Option<Duration> {
        None
    }
}

/// Peers that may be told of, with as many keys and addresses.
const PEERS: u8 = 4;

/// Where a peer may send from, by its number.
fn inner_address(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, number.into())
}

/// A node with the last of [`KEYS`] that hears whatever it likes from a coordinator, relays and its stack. Each deed is
/// four bytes: what, of whom, and two more.
///
/// Nothing piles up, it speaks only to those that it was told of, and takes packets only from their own addresses.
pub fn engine(data: &[u8]) {
    let own = inner_address(200);
    let (ours, disco) = (&KEYS[7].0, &KEYS[6].0);
    let sessions = Box::new(Plain);
    let mut engine = Engine::new(ours.clone(), disco.clone(), vec![own], sessions);
    let mut now = Instant::now();
    // All addresses that a node with this key was ever allowed.
    let mut allowed: BTreeMap<Key, BTreeSet<Ipv6Addr>> = BTreeMap::new();
    let mut may_be_direct = false;
    let endpoint = |number: u8| SocketAddr::from(([192, 0, 2, number % 4], 7));
    let (deeds, _) = data.as_chunks::<4>();
    for &[deed, who, one, two] in deeds.iter().take(512) {
        let id = Uuid::from_u128((who % PEERS).into());
        let (peer, key) = &KEYS[usize::from(one % PEERS)];
        let region = i32::from(two % 3) + 1;
        let mut sender = None;
        match deed % 18 {
            0..=2 => {
                let node = Node {
                    id: 1,
                    as_of: Default::default(),
                    key: if deed > 250 { KEYS[7].1 } else { *key },
                    disco: KEYS[usize::from(two / 3 % PEERS)].1,
                    home: region,
                    latency: BTreeMap::new(),
                    forced_websocket: BTreeMap::new(),
                    addresses: vec![inner_address(two % PEERS)],
                    allowed: vec![inner_address(two % PEERS), inner_address(deed)],
                    endpoints: vec![endpoint(two)],
                };
                allowed.entry(node.key).or_default().extend(&node.allowed);
                engine.update(id, PeerUpdate::Node(Box::new(node)), now);
                assert!(engine.next_tick().is_some() || engine.peers() == 0);
            }
            3 => engine.update(id, PeerUpdate::Disconnected, now),
            4 => engine.update(id, PeerUpdate::Lost, now),
            5 => engine.update(id, PeerUpdate::Ready, now),
            6 => engine.all_lost(now),
            7 => engine.seek(id),
            8 => {
                let target = if two & 1 == 0 {
                    own
                } else {
                    inner_address(two)
                };
                let message = tsmp::Message::Ping([two; 8]);
                let mut packet = tsmp::packet(inner_address(who % 8), target, message);
                packet[6] = [99, 6, 17][usize::from(two % 3)];
                packet.insert(0, 4);
                packet.truncate(packet.len() - usize::from(two == 0xff));
                sender = Some(*key);
                engine.from_relay(region, *key, &packet, now);
            }
            9 => {
                let message = disco::Message::Ping {
                    transaction: [two; 12],
                    node: None,
                };
                let packet = disco::seal(&message, peer, &peer.shared(disco.public()));
                sender = Some(KEYS[usize::from(who) % KEYS.len()].1);
                let from = KEYS[usize::from(who) % KEYS.len()].1;
                engine.from_relay(region, from, &packet, now);
            }
            10 => match two & 1 {
                0 => engine.peer_gone(region, *key),
                _ => engine.relay_lost(region),
            },
            11 => {
                let message = tsmp::Message::Pong([two; 8]);
                engine.from_stack(&tsmp::packet(own, inner_address(who % 8), message), now);
            }
            12 => match two & 1 {
                0 => drop(engine.ping(id, [two; 12], now)),
                _ => engine.reach(id, [two; 8], now),
            },
            13 => {
                may_be_direct = two & 3 != 0;
                engine.set_endpoints(may_be_direct.then(|| vec![endpoint(two)]));
            }
            14 => {
                let message = match two & 1 {
                    0 => disco::Message::Ping {
                        transaction: [two; 12],
                        node: None,
                    },
                    _ => disco::Message::Pong {
                        transaction: [two; 12],
                        source: endpoint(who),
                    },
                };
                let packet = disco::seal(&message, peer, &peer.shared(disco.public()));
                engine.from_udp(endpoint(who), &packet, now);
            }
            15 => {
                let message = disco::Message::CallMeMaybe(vec![endpoint(who), endpoint(two)]);
                let packet = disco::seal(&message, peer, &peer.shared(disco.public()));
                engine.from_relay(region, *key, &packet, now);
            }
            16 => engine.from_udp(endpoint(who), &[two; 40], now),
            _ => {
                now += Duration::from_millis(u64::from(who) * 4_000);
                engine.tick(now);
            }
        }
        let mut said = 0;
        while let Some(output) = engine.poll_output() {
            said += 1;
            match output {
                Output::Relay { to, .. } => assert!(allowed.contains_key(&to), "to a stranger"),
                Output::Udp { .. } => assert!(may_be_direct, "forbidden"),
                Output::Deliver(packet) => {
                    let (source, target) = tsmp::ends(&packet).expect("a packet");
                    let sender = sender.expect("nobody sent it");
                    assert!(allowed[&sender].contains(&source), "not its address");
                    assert_eq!(target, own);
                }
                Output::Pong(..) | Output::Reached(_) | Output::Ready(_) | Output::Ended(_) => {}
            }
        }
        // To each peer what is due by two paths, pings of its endpoints, a call, and that it is ready.
        assert!(said <= 10 * usize::from(PEERS), "{said} at once");
        assert!(engine.peers() <= usize::from(PEERS));
    }
}

/// Agents that there are, and as many clients that may each go to the agent of its number.
const AGENTS: u8 = 3;
/// Answers that wait for a peer at most.
const QUEUE: usize = 512;

struct Member {
    peer: PeerConnection,
    answers: Receiver<wire::CoordinateResponse>,
}

fn member_id(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

fn is_agent(number: u8) -> bool {
    number < AGENTS
}

/// A coordinator with agents and clients that ask for whatever they like. Each deed is three bytes: what, who, and of
/// whom or how many bytes of a request follow. The last client takes nothing of what it is told.
///
/// Nobody hears of anybody without a tunnel that was allowed, and nothing piles up.
pub fn coordinator(data: &[u8]) {
    let all = Coordinator::default();
    let mut members: BTreeMap<u8, Member> = BTreeMap::new();
    // From whom to whom there may be a tunnel; one that ended a moment ago counts until the next deed.
    let mut tunnels: BTreeSet<(u8, u8)> = BTreeSet::new();
    let (mut rest, count) = (data, 2 * AGENTS);
    while let [deed, who, other, after @ ..] = rest {
        rest = after;
        let (who, other) = (who % count, other % count);
        let ended_before: Vec<_> = tunnels
            .iter()
            .filter(|(from, _)| !all.is_connected(member_id(*from)))
            .copied()
            .collect();
        let mut request = wire::CoordinateRequest::default();
        let target = member_id(other).as_bytes().to_vec();
        match deed % 9 {
            0 => {
                let id = member_id(who);
                let auth = match is_agent(who) {
                    true => Auth::Agent(id),
                    false => Auth::Client(Some(member_id(who - AGENTS))),
                };
                let (peer, answers) = all.connect(id, auth);
                members.insert(who, Member { peer, answers });
                continue;
            }
            1 => drop(members.remove(&who)),
            2 => {
                if let Some(member) = members.remove(&who) {
                    member.peer.leave();
                }
            }
            3 | 4 => {
                let addresses = vec![address::cidr(address::primary(member_id(who)))];
                let node = wire::Node {
                    preferred_derp: i32::from(*deed),
                    addresses,
                    ..Default::default()
                };
                let node = Some(node);
                request.update_self = Some(wire::coordinate_request::UpdateSelf { node });
            }
            5 => {
                let id = target.into();
                request.add_tunnel = Some(wire::coordinate_request::Tunnel { id });
            }
            6 => {
                let id = target.into();
                request.remove_tunnel = Some(wire::coordinate_request::Tunnel { id });
            }
            7 => {
                let id = target.into();
                request.ready_for_handshake =
                    vec![wire::coordinate_request::ReadyForHandshake { id }];
            }
            _ => {
                let (bytes, after) = rest.split_at(rest.len().min(usize::from(other) * 16));
                rest = after;
                request = wire::CoordinateRequest::decode(bytes).unwrap_or_default();
            }
        }
        let added = request.add_tunnel.as_ref().map(|it| it.id.to_vec());
        if let Some(member) = members.get(&who) {
            let done = member.peer.request(request);
            if let (Ok(()), Some(id)) = (&done, &added) {
                let to = (0..count).find(|it| member_id(*it).as_bytes()[..] == id[..]);
                let to = to.expect("only an agent may be gone to");
                assert!(!is_agent(who) && to == who - AGENTS, "not allowed");
                tunnels.insert((who, to));
            }
            if done.is_err() {
                members.remove(&who);
            }
        }
        for (number, member) in &mut members {
            assert!(member.answers.len() <= QUEUE);
            if *number + 1 < count {
                hears(*number, member, &tunnels);
            }
        }
        for tunnel in ended_before {
            tunnels.remove(&tunnel);
        }
    }
}

fn hears(who: u8, member: &mut Member, tunnels: &BTreeSet<(u8, u8)>) {
    loop {
        match member.answers.try_recv() {
            Ok(answer) => {
                for update in answer.peer_updates {
                    let (other, _) = (0..2 * AGENTS)
                        .map(|it| (it, member_id(it)))
                        .find(|(_, id)| id.as_bytes()[..] == update.id[..])
                        .expect("somebody who is there");
                    let both = [(who, other), (other, who)];
                    assert!(
                        both.iter().any(|it| tunnels.contains(it)),
                        "{who} heard of {other}"
                    );
                }
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
        }
    }
}
