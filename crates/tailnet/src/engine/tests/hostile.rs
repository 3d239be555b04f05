//! Malicious peers and strangers, with real sessions: nothing of theirs reaches the stack, and others go on.

use super::*;
use crate::wireguard::WireGuard;

impl Side {
    /// Creates a node that encrypts with WireGuard.
    fn sealed(number: u8) -> Self {
        Self::with(number, |private, _| {
            Box::new(WireGuard::new(private.clone()))
        })
    }

    /// Packets that it has to send.
    fn mail(&mut self) -> Vec<Bytes> {
        let outputs = self.outputs().into_iter();
        outputs
            .filter_map(|output| match output {
                Output::Relay { packet, .. } => Some(packet),
                _ => None,
            })
            .collect()
    }

    /// Number of packets that reach its stack.
    fn delivers(&mut self) -> usize {
        let outputs = self.outputs();
        let is_delivery = |it: &&Output| matches!(it, Output::Deliver(_));
        outputs.iter().filter(is_delivery).count()
    }

    fn address(&self) -> Ipv6Addr {
        self.node.addresses[0]
    }
}

fn sealed_pair(now: Instant) -> (Side, Side) {
    let (mut one, mut two) = (Side::sealed(1), Side::sealed(2));
    one.learns(two.id, &two.node, now);
    two.learns(one.id, &one.node, now);
    (one, two)
}

/// Packet for the stack, of a protocol that nobody answers.
fn packet(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut packet = tsmp::packet(source, target, tsmp::Message::Ping([7; 8]));
    packet[6] = 17;
    packet
}

#[test]
fn what_comes_twice_counts_once() {
    let now = Instant::now();
    let (mut one, mut two) = sealed_pair(now);
    one.engine.reach(two.id, Side::token(), now);
    let asked = one.mail();
    for packet in &asked {
        two.engine.from_relay(HOME, one.key, packet, Instant::now());
    }
    assert!(two.sends_to(&mut one).is_empty());
    one.sends_to(&mut two);
    two.sends_to(&mut one);

    // A replayed handshake: it gets no answer, and the session stays.
    for packet in &asked {
        two.engine.from_relay(HOME, one.key, packet, Instant::now());
    }
    assert!(two.mail().is_empty());
    one.engine
        .from_stack(&packet(one.address(), two.address()), Instant::now());
    let sent = one.mail();
    for _ in 0..100 {
        two.engine
            .from_relay(HOME, one.key, &sent[0], Instant::now());
    }
    assert_eq!((sent.len(), two.delivers()), (1, 1));
    // A packet that was modified on the way is dropped.
    let mut changed = sent[0].to_vec();
    *changed.last_mut().unwrap() ^= 1;
    two.engine
        .from_relay(HOME, one.key, &changed, Instant::now());
    assert_eq!(two.delivers(), 0);
    assert!(one.reaches(&mut two));
}

#[test]
fn a_valid_tunnel_carries_no_other_addresses_than_its_peer_s() {
    let now = Instant::now();
    let (mut one, mut two) = sealed_pair(now);
    let mut thief = Side::sealed(3);
    thief.learns(two.id, &two.node, now);
    two.learns(thief.id, &thief.node, now);
    assert!(thief.reaches(&mut two) && one.reaches(&mut two));
    two.outputs();

    for (source, target, expected) in [
        (one.address(), two.address(), 0),
        (two.address(), two.address(), 0),
        (thief.address(), one.address(), 0),
        (thief.address(), two.address(), 1),
    ] {
        // Its own stack does not check what it sends.
        thief.engine.by_address.insert(target, two.id);
        thief
            .engine
            .from_stack(&packet(source, target), Instant::now());
        thief.sends_to(&mut two);
        assert_eq!(two.delivers(), expected, "{source} to {target}");
    }
    assert!(one.reaches(&mut two));
}

#[test]
fn a_flood_of_handshakes_delays_nobody_else() {
    let now = Instant::now();
    let (mut one, mut two) = sealed_pair(now);
    two.learns(Uuid::from_u128(3), &Side::sealed(3).node, now);
    let mut answered = 0;
    for _ in 0..200 {
        // A new process with the same keys each time, so that each handshake is a new one.
        let mut flood = Side::sealed(3);
        flood.learns(two.id, &two.node, now);
        flood.engine.reach(two.id, Side::token(), now);
        for packet in flood.mail() {
            two.engine
                .from_relay(HOME, flood.key, &packet, Instant::now());
        }
        answered += two.mail().len();
    }

    assert!((1..=10).contains(&answered), "{answered} answers");
    // All within the second after which each peer may send handshakes again.
    assert!(now.elapsed() < Duration::from_secs(60));
    assert!(one.reaches(&mut two) && two.reaches(&mut one));
}

#[test]
fn strangers_cost_a_look_into_a_table() {
    let now = Instant::now();
    let (mut one, mut two) = sealed_pair(now);
    assert!(one.reaches(&mut two));
    two.outputs();
    let mut stranger = Side::sealed(9);
    stranger.learns(two.id, &two.node, now);
    stranger.engine.ping(two.id, [1; 12], Instant::now());
    stranger.engine.reach(two.id, Side::token(), now);
    let mail = stranger.mail();
    assert_eq!(mail.len(), 2);

    for packet in &mail {
        // Under its own key, and under that of a known peer, which did not seal it.
        two.engine
            .from_relay(HOME, stranger.key, packet, Instant::now());
        two.engine.from_relay(HOME, one.key, packet, Instant::now());
    }
    for length in 0..200 {
        two.engine
            .from_relay(HOME, one.key, &vec![4; length], Instant::now());
        two.engine
            .from_relay(HOME, one.key, &vec![1; length], Instant::now());
    }

    assert!(two.outputs().is_empty());
    assert_eq!(two.engine.peers(), 1);
    assert!(one.reaches(&mut two));
}

#[test]
fn a_coordinator_that_tells_of_peers_without_end_is_not_believed() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    let mut node = Side::new(3).node;
    for number in 0..MAX_PEERS as u128 + 500 {
        let mut bytes = [3; 32];
        bytes[..16].copy_from_slice(&number.to_be_bytes());
        (node.key, node.disco) = (Key::new(bytes), Key::new(bytes));
        node.allowed = vec![Ipv6Addr::from_bits(number)];
        two.learns(Uuid::from_u128(1 << 64 | number), &node, now);
        // And of peers that claim the keys of another one.
        two.learns(Uuid::from_u128(2 << 64 | number), &one.node, now);
    }

    let names = [
        two.engine.by_key.len(),
        two.engine.by_disco.len(),
        two.engine.by_address.len(),
    ];
    assert_eq!((two.engine.peers(), names), (MAX_PEERS, [MAX_PEERS; 3]));
    assert!(two.engine.waiting.len() <= MAX_PEERS);
    assert!(one.reaches(&mut two));
}
