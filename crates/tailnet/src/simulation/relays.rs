//! Network between nodes: relays, and each node's connections to them.

use super::*;

/// Longest time until a relay has a node that dials it, in milliseconds.
const DIAL: u64 = 2_000;
/// Milliseconds after which a node leaves a silent relay: its pings are unanswered.
const SILENT: u64 = 40_000;
/// Longest outage of a relay, in milliseconds.
const DOWN: u64 = 30_000;
/// Number of packets that wait until a relay has their sender.
const QUEUE: usize = 1_024;

/// Connections of a node to relays.
pub(super) struct Relays {
    pub(super) home: Home,
    /// Relays that have the node.
    at: BTreeSet<i32>,
    /// Relays that are being dialled, and until when.
    dialled: BTreeMap<i32, u64>,
    /// Connections that carry nothing, and the time until which that is not noticed.
    silent: BTreeMap<i32, u64>,
    waiting: Vec<Packet>,
}

impl Relays {
    pub(super) fn new(regions: Vec<i32>, now: Instant) -> Self {
        let mut home = Home::default();
        home.set_regions(regions, now);
        Self {
            home,
            at: BTreeSet::new(),
            dialled: BTreeMap::new(),
            silent: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn carries(&self, region: i32) -> bool {
        self.at.contains(&region) && !self.silent.contains_key(&region)
    }
}

impl World {
    /// All regions, in a random order.
    pub(super) fn regions(&mut self) -> Vec<i32> {
        let first = self.random.random_range(0..REGIONS);
        (0..REGIONS).map(|it| 1 + (first + it) % REGIONS).collect()
    }

    fn dial(&mut self, at: usize, region: i32) {
        let due = self.fakes.clock.now() + self.random.random_range(1..=DIAL);
        let relays = &mut self.members[at].relays;
        if !relays.at.contains(&region) {
            relays.dialled.entry(region).or_insert(due);
        }
    }

    /// Updates connections that are established now, or noticed to be gone; then the node waits at the right relay,
    /// and announces it.
    pub(super) fn look_after_relays(&mut self, at: usize) {
        let (now, clock) = (self.now(), self.fakes.clock.now());
        self.down.retain(|_, until| *until > clock);
        let relays = &mut self.members[at].relays;
        let noticed = relays.silent.extract_if(.., |_, until| *until <= clock);
        for region in noticed.map(|(region, _)| region).collect::<Vec<_>>() {
            self.members[at].loses(region, now);
        }
        let relays = &mut self.members[at].relays;
        let due = relays.dialled.extract_if(.., |_, until| *until <= clock);
        for region in due.map(|(region, _)| region).collect::<Vec<_>>() {
            match self.down.contains_key(&region) {
                true => self.members[at].relays.home.lost(region, now),
                false => self.stands(at, region),
            }
        }
        let relays = &mut self.members[at].relays;
        let wanted = [relays.home.region(), relays.home.next_to_try(now)];
        for region in wanted.into_iter().flatten() {
            self.dial(at, region);
        }
        self.members[at].looks_after_home(now);
    }

    fn stands(&mut self, at: usize, region: i32) {
        let now = self.now();
        let member = &mut self.members[at];
        member.relays.at.insert(region);
        member.relays.home.connected(region, now);
        let waiting = std::mem::take(&mut member.relays.waiting);
        let (sent, waiting) = waiting.into_iter().partition(|it| it.region == region);
        member.relays.waiting = waiting;
        self.wire.extend::<Vec<_>>(sent);
        self.members[at].asks_again(now);
    }

    /// Gives a packet to a relay, now or once the relay has the node.
    pub(super) fn send(&mut self, at: usize, packet: Packet) {
        let relays = &mut self.members[at].relays;
        if relays.at.contains(&packet.region) {
            if relays.carries(packet.region) {
                self.wire.push(packet);
            }
            return;
        }
        let region = packet.region;
        if relays.waiting.len() < QUEUE {
            relays.waiting.push(packet);
        }
        self.dial(at, region);
    }

    /// Delivers one packet in flight, or loses it, or delivers it twice.
    pub(super) fn deliver(&mut self, is_peace: bool) {
        if self.wire.is_empty() {
            return;
        }
        let which = match self.is_orderly {
            true => 0,
            false => self.random.random_range(0..self.wire.len()),
        };
        let (packet, now) = (self.wire.remove(which), self.now());
        if !is_peace && self.chance(100) {
            return;
        }
        let is_there = |member: &&mut Member| {
            member.node.key == packet.to && member.relays.at.contains(&packet.region)
        };
        let Some(receiver) = self.members.iter_mut().find(is_there) else {
            self.missed += 1;
            let sender = |member: &&mut Member| member.node.key == packet.from;
            // A relay reports this only for disco packets, which it can recognize.
            if crate::disco::sender(&packet.bytes).is_some()
                && let Some(sender) = self.members.iter_mut().find(sender)
            {
                sender.engine.peer_gone(packet.region, packet.to);
            }
            return;
        };
        if !receiver.relays.carries(packet.region) {
            return;
        }
        receiver
            .engine
            .from_relay(packet.region, packet.from, &packet.bytes, now);
        if !is_peace && self.chance(30) {
            self.wire.push(packet);
        }
    }

    pub(super) fn relay_ends(&mut self, region: i32) {
        let now = self.now();
        self.wire.retain(|packet| packet.region != region);
        for member in &mut self.members {
            if member.relays.at.contains(&region) {
                member.loses(region, now);
            }
        }
    }

    pub(super) fn goes_down(&mut self, region: i32) {
        let until = self.fakes.clock.now() + self.random.random_range(1..=DOWN);
        self.down.insert(region, until);
        self.relay_ends(region);
    }

    /// Lets a connection carry nothing any more, which is noticed only by a ping.
    pub(super) fn falls_silent(&mut self, at: usize, region: i32) {
        let until = self.fakes.clock.now() + SILENT;
        let relays = &mut self.members[at].relays;
        if relays.at.contains(&region) {
            relays.silent.entry(region).or_insert(until);
        }
    }
}

impl Member {
    fn loses(&mut self, region: i32, now: Instant) {
        self.relays.at.remove(&region);
        self.relays.silent.remove(&region);
        self.relays.home.lost(region, now);
        self.engine.relay_lost(region);
    }

    /// Leaves all relays but its home.
    pub(super) fn leaves_relays(&mut self) {
        let home = self.relays.home.region();
        let others: Vec<i32> = self.relays.at.iter().copied().collect();
        for region in others.into_iter().filter(|it| Some(*it) != home) {
            self.relays.at.remove(&region);
            self.relays.silent.remove(&region);
            self.engine.relay_lost(region);
        }
    }

    fn looks_after_home(&mut self, now: Instant) {
        let told = match self.engine.is_seeking() {
            true => self.relays.home.region(),
            false => self.relays.home.told(now),
        };
        if let Some(told) = told.filter(|told| *told != self.node.home) {
            self.node.home = told;
            self.says_what_it_is();
        }
    }

    pub(super) fn asks_again(&mut self, now: Instant) {
        for address in self.stack.iter().flat_map(|it| it.ask_again(now)) {
            self.engine.agree_again(address, now);
        }
    }
}

/// Tests an agent whose relay is slow, and a client that waits for it as commands do.
#[test]
fn an_agent_that_has_just_come_up_is_reached_at_once() {
    for seed in 0..200 {
        let mut world = World::empty(seed);
        world.populate(1, 1);
        let (mut asked, mut told_at) = (0, None);

        while world.members[1].reached.is_empty() {
            let now = world.fakes.clock.now();
            if world.members[0].node.home != 0 {
                told_at.get_or_insert(now);
            }
            if now >= asked {
                asked = now + 250;
                world.ask(1, 0);
            }
            world.fakes.clock.advance(10);
            world.pump();
            while !world.wire.is_empty() {
                world.deliver(true);
                world.pump();
            }
            assert!(now < 60_000, "seed {seed}");
        }

        assert_eq!(world.missed, 0, "seed {seed}: nothing is sent to nowhere");
        // Both have a relay by then, the client maybe a moment later.
        let took = world.fakes.clock.now() - told_at.unwrap();
        assert!(took <= DIAL + 300, "seed {seed}: {took} ms");
    }
}

/// Tests the same situation with a lost first handshake.
#[test]
fn a_handshake_that_is_lost_is_asked_for_again_within_moments() {
    for seed in 0..50 {
        let mut world = World::empty(seed);
        world.populate(1, 1);
        let (mut asked, mut lost_at) = (0, None);

        while world.members[1].reached.is_empty() {
            let now = world.fakes.clock.now();
            if now >= asked {
                asked = now + 250;
                world.ask(1, 0);
            }
            world.fakes.clock.advance(10);
            world.pump();
            // Each first packet of data is a handshake.
            let is_first = |packet: &Packet| crate::disco::sender(&packet.bytes).is_none();
            if lost_at.is_none()
                && let Some(which) = world.wire.iter().position(is_first)
            {
                world.wire.swap_remove(which);
                lost_at = Some(now);
            }
            while !world.wire.is_empty() {
                world.deliver(true);
                world.pump();
            }
            assert!(now < 60_000, "seed {seed}");
        }

        let took = world.fakes.clock.now() - lost_at.unwrap();
        assert!(took <= 600, "seed {seed}: {took} ms");
    }
}
