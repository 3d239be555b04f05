//! Tests of a node and its peers, on a clock of its own; malicious peers are in [`hostile`],
//! paths by UDP in [`direct`].

mod direct;
mod hostile;

use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;

use super::*;
use crate::wireguard::fake::Fakes;

const HOME: i32 = 1;

/// A node, with its packets for the relay.
struct Side {
    id: Uuid,
    key: Key,
    node: Node,
    engine: Engine,
    fakes: Fakes,
}

impl Side {
    fn new(number: u8) -> Self {
        Self::with(number, |_, fakes| Box::new(fakes.clone()))
    }

    /// Creates a node whose sessions come from `sessions`.
    fn with(number: u8, sessions: impl FnOnce(&Private, &Fakes) -> Box<dyn Sessions>) -> Self {
        let (private, disco) = (
            Private::from_bytes([number; 32]),
            Private::from_bytes([number + 100; 32]),
        );
        let address = Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, number.into());
        let node = Node {
            id: number.into(),
            as_of: Timestamp::UNIX_EPOCH,
            key: private.public(),
            disco: disco.public(),
            home: HOME,
            latency: [].into(),
            forced_websocket: [].into(),
            addresses: vec![address],
            allowed: vec![address],
            endpoints: Vec::new(),
        };
        let fakes = Fakes::default();
        let sessions = sessions(&private, &fakes);
        Self {
            id: Uuid::from_u128(number.into()),
            key: node.key,
            engine: Engine::new(private, disco, vec![address], sessions),
            node,
            fakes,
        }
    }

    fn learns(&mut self, id: Uuid, node: &Node, now: Instant) {
        let update = PeerUpdate::Node(Box::new(node.clone()));
        self.engine.update(id, update, now);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    /// Delivers its packets to `other`; everything else is returned.
    fn sends_to(&mut self, other: &mut Self) -> Vec<Output> {
        let (mail, rest): (Vec<_>, Vec<_>) = self
            .outputs()
            .into_iter()
            .partition(|output| matches!(output, Output::Relay { .. }));
        for output in mail {
            if let Output::Relay { region, to, packet } = output {
                assert_eq!(to, other.key);
                other
                    .engine
                    .from_relay(region, self.key, &packet, Instant::now());
            }
        }
        rest
    }

    fn token() -> tsmp::Token {
        Default::default()
    }

    /// Returns whether a ping inside the tunnel is answered.
    fn reaches(&mut self, other: &mut Self) -> bool {
        self.engine.reach(other.id, Self::token(), Instant::now());
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.extend(self.sends_to(other));
            seen.extend(other.sends_to(self));
        }
        seen.extend(self.outputs());
        seen.iter().any(|it| matches!(it, Output::Reached(_)))
    }
}

/// Creates two nodes that know each other.
fn pair(now: Instant) -> (Side, Side) {
    let (mut one, mut two) = (Side::new(1), Side::new(2));
    one.learns(two.id, &two.node, now);
    two.learns(one.id, &one.node, now);
    (one, two)
}

#[test]
fn peers_reach_each_other_and_nobody_else() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);

    assert!(one.reaches(&mut two) && two.reaches(&mut one));
    let stranger = Side::new(3);
    let message = [4_u8; 60];
    two.engine
        .from_relay(HOME, stranger.key, &message, Instant::now());
    assert!(two.outputs().is_empty());
}

#[test]
fn a_client_that_comes_back_under_another_id_keeps_its_session() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    assert!(one.reaches(&mut two));
    let made = two.fakes.made.load(Relaxed);

    // The coordinator went away, and came back.
    two.engine.all_lost(now);
    let again = Uuid::from_u128(77);
    two.learns(again, &one.node, now);

    assert_eq!(
        (two.engine.peers(), two.fakes.made.load(Relaxed)),
        (1, made)
    );
    two.engine.update(one.id, PeerUpdate::Disconnected, now);
    assert!(
        one.reaches(&mut two),
        "the end of the old id is not its end"
    );
}

#[test]
fn a_client_that_comes_back_before_it_was_missed_waits_for_its_own_keys() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    let again = Uuid::from_u128(77);

    two.learns(again, &one.node, now);
    assert_eq!(two.engine.peers(), 1);
    assert!(one.reaches(&mut two));
    two.engine.update(one.id, PeerUpdate::Lost, now);
    two.engine.update(one.id, PeerUpdate::Disconnected, now);

    assert!(one.reaches(&mut two));
}

#[test]
fn nobody_gets_the_address_or_the_key_of_another() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    let mut thief = Side::new(3);
    thief.node.allowed.clone_from(&one.node.addresses);
    two.learns(thief.id, &thief.node, now);
    thief.learns(two.id, &two.node, now);

    assert!(
        !thief.reaches(&mut two),
        "a source address that is not its own"
    );
    assert!(one.reaches(&mut two));

    thief.node.key = one.node.key;
    two.learns(Uuid::from_u128(4), &thief.node, now);
    assert!(one.reaches(&mut two));
}

#[test]
fn who_is_lost_is_kept_for_a_while_and_who_leaves_is_not() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    assert!(one.reaches(&mut two));
    two.engine.update(one.id, PeerUpdate::Lost, now);

    let later = now + LOST / 2;
    two.fakes.clock.advance(450_000);
    two.engine.tick(later);
    assert_eq!(two.engine.peers(), 1);
    two.fakes.clock.advance(450_000);
    two.engine.tick(now + LOST);
    assert_eq!(two.engine.peers(), 0);
    assert_eq!(two.engine.next_tick(), None);

    one.engine.update(two.id, PeerUpdate::Disconnected, now);
    assert_eq!(one.engine.peers(), 0);
}

#[test]
fn one_that_a_new_coordinator_does_not_announce_is_forgotten_until_it_comes_back() {
    let now = Instant::now();
    let (mut client, mut agent) = pair(now);
    assert!(client.reaches(&mut agent));

    // Its connection broke, and then the coordinator was restarted.
    agent.engine.update(client.id, PeerUpdate::Lost, now);
    agent.engine.all_lost(now);
    agent.engine.coordinated(now);
    agent.engine.tick(now + UNANNOUNCED - TICK);
    assert!(client.reaches(&mut agent), "it has some time");
    agent.engine.tick(now + UNANNOUNCED);
    let ended = agent.outputs();
    assert!(!client.reaches(&mut agent));

    assert_eq!(agent.engine.peers(), 0);
    let is_end = |output: &Output| matches!(output, Output::Ended(_));
    assert!(!ended.iter().any(is_end), "its connections wait for it");
    agent.learns(Uuid::from_u128(77), &client.node, now + UNANNOUNCED);
    assert_eq!(agent.engine.peers(), 1);
}

#[test]
fn whoever_is_announced_sought_or_lost_later_is_kept_by_a_new_session() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    let (third, sought) = (Side::new(3), Side::new(4));
    two.engine.seek(sought.id);
    for side in [&third, &sought] {
        two.learns(side.id, &side.node, now);
    }

    two.engine.all_lost(now);
    let later = now + TICK;
    two.engine.coordinated(later);
    let back = Uuid::from_u128(77);
    two.learns(back, &one.node, later);
    two.learns(third.id, &third.node, later);
    two.engine.update(third.id, PeerUpdate::Lost, later + TICK);
    two.engine.tick(later + UNANNOUNCED);

    assert_eq!(two.engine.peers(), 3);
    assert!(one.reaches(&mut two));
}

#[test]
fn one_that_we_seek_is_spoken_to_once_it_knows_us_or_time_is_up() {
    let now = Instant::now();
    let (mut client, agent) = (Side::new(1), Side::new(2));
    let is_ready = |side: &mut Side| {
        let outputs = side.outputs();
        outputs.iter().any(|it| matches!(it, Output::Ready(_)))
    };
    client.engine.seek(agent.id);
    client.learns(agent.id, &agent.node, now);
    client.engine.reach(agent.id, Side::token(), now);
    assert!(client.outputs().is_empty());

    client.engine.update(agent.id, PeerUpdate::Ready, now);
    assert!(is_ready(&mut client));
    client.engine.reach(agent.id, Side::token(), now);
    assert!(matches!(
        client.outputs()[..],
        [Output::Relay { region: HOME, .. }]
    ));

    // It returned with new keys, and has sent nothing yet.
    let reborn = Node {
        key: Private::from_bytes([9; 32]).public(),
        ..agent.node.clone()
    };
    client
        .engine
        .update(agent.id, PeerUpdate::Disconnected, now);
    client.learns(agent.id, &reborn, now);
    assert!(!is_ready(&mut client));
    client.engine.tick(now + READY);
    assert!(is_ready(&mut client));
}

#[test]
fn a_ping_is_answered_by_the_way_it_came_and_only_to_its_peer() {
    let now = Instant::now();
    let (mut one, mut two) = pair(now);
    assert!(one.engine.ping(two.id, [7; 12], Instant::now()));
    let ping = match one.outputs().pop() {
        Some(Output::Relay { packet, .. }) => packet,
        other => panic!("{other:?}"),
    };

    // Another peer replays it, by a relay that authenticates that peer.
    two.engine
        .from_relay(HOME, Side::new(3).key, &ping, Instant::now());
    assert!(two.outputs().is_empty());

    two.engine.from_relay(5, one.key, &ping, Instant::now());
    let pong = match two.outputs().pop() {
        Some(Output::Relay {
            region: 5, packet, ..
        }) => packet,
        other => panic!("{other:?}"),
    };
    one.engine.from_relay(5, two.key, &pong, Instant::now());
    assert!(
        matches!(one.outputs()[..], [Output::Pong(transaction, Via::Relay(5))] if transaction == [7; 12])
    );

    // From now on it is reached that way, until the relay says otherwise.
    let region = |side: &mut Side| {
        side.engine.reach(one.id, Side::token(), now);
        match side.outputs().pop() {
            Some(Output::Relay { region, .. }) => region,
            other => panic!("{other:?}"),
        }
    };
    let goes_home = |side: &mut Side, ticks: u32| {
        side.fakes.clock.advance(6_000);
        side.engine.tick(now + TICK * ticks);
        matches!(side.outputs()[..], [Output::Relay { region: HOME, .. }])
    };
    assert_eq!(region(&mut two), 5);
    two.engine.peer_gone(5, one.key);
    assert!(goes_home(&mut two, 1));

    // Nor by a relay to which we are not connected any more.
    two.engine.from_relay(5, one.key, &ping, Instant::now());
    two.outputs();
    two.engine.relay_lost(5);
    assert!(goes_home(&mut two, 2));
}
