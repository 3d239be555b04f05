//! Connections between nodes through outages: they wait, and go on.

use std::{io, net::SocketAddrV6};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::netstack::{Listener, Stream};

const PORT: u16 = 7;
const AGENTS: usize = 2;
const CLIENTS: usize = 6;
/// Number of connections of each client, all begun at once.
const EACH: usize = 20;
/// Seconds for which no node reaches any other.
const OUTAGE: u64 = 3_600;
/// Seconds after which all data has arrived, once everything works.
const SOON: u64 = 130;

type Connecting = BoxFuture<'static, io::Result<Stream>>;

/// One end of a connection.
struct End {
    stream: Stream,
    sent: u64,
    read: u64,
}

impl End {
    fn new(stream: Stream) -> Self {
        let (sent, read) = (0, 0);
        Self { stream, sent, read }
    }

    fn writes(&mut self, bytes: &[u8]) {
        if let Some(written) = self.stream.write(bytes).now_or_never() {
            self.sent += written.expect("a connection outlasts everything") as u64;
        }
    }

    /// Reads everything that has arrived; returns the first byte.
    fn reads(&mut self) -> Option<u8> {
        let (mut buffer, mut first) = ([0; 4096], None);
        while let Some(read) = self.stream.read(&mut buffer).now_or_never() {
            let length = read.expect("a connection outlasts everything");
            assert!(length > 0, "a connection that ended");
            first = first.or(Some(buffer[0]));
            self.read += length as u64;
        }
        first
    }
}

struct Connections {
    listeners: Vec<Listener>,
    connecting: Vec<Option<Connecting>>,
    /// End of each client, and where it leads.
    here: Vec<Option<End>>,
    there: Vec<Option<End>>,
    /// Ends whose client is not known yet.
    nameless: Vec<End>,
}

impl Connections {
    /// Begins all connections of each client.
    fn begin(world: &World) -> Self {
        let listeners = world.members[..AGENTS].iter();
        let listeners = listeners.map(|it| it.stack().listen(PORT)).collect();
        let mut connecting = Vec::new();
        for member in &world.members[AGENTS..] {
            let agent = &world.members[member.seeks[0]];
            let target = SocketAddrV6::new(address::primary(agent.id), PORT, 0, 0);
            let (stack, source) = (member.stack().clone(), address::primary(member.id));
            for _ in 0..EACH {
                let stack = stack.clone();
                let connect = async move { stack.connect(source, target).await };
                connecting.push(Some(connect.boxed()));
            }
        }
        let none = || (0..connecting.len()).map(|_| None).collect();
        Self {
            listeners,
            here: none(),
            there: none(),
            connecting,
            nameless: Vec::new(),
        }
    }

    /// Takes established connections, and reads data. The first byte of a connection identifies it.
    fn look(&mut self) {
        for (number, connecting) in self.connecting.iter_mut().enumerate() {
            if let Some(connected) = connecting.as_mut().and_then(|it| it.now_or_never()) {
                *connecting = None;
                let mut end = End::new(connected.expect("whoever comes is taken"));
                end.writes(&[u8::try_from(number).unwrap()]);
                self.here[number] = Some(end);
            }
        }
        for listener in &mut self.listeners {
            while let Some(Some((stream, _))) = listener.accept().now_or_never() {
                self.nameless.push(End::new(stream));
            }
        }
        for mut end in std::mem::take(&mut self.nameless) {
            match end.reads() {
                Some(number) => self.there[usize::from(number)] = Some(end),
                None => self.nameless.push(end),
            }
        }
        for end in self.here.iter_mut().chain(&mut self.there).flatten() {
            end.reads();
        }
    }

    /// Number of connections that are established, with all data received.
    fn complete(&self) -> usize {
        let both = self.here.iter().zip(&self.there);
        let is_complete = |(here, there): &(&Option<End>, &Option<End>)| match (here, there) {
            (Some(here), Some(there)) => here.sent == there.read && there.sent == here.read,
            (_, _) => false,
        };
        both.filter(is_complete).count()
    }

    /// Sends data on a random connection.
    fn say(&mut self, random: &mut StdRng) {
        let ends = [&mut self.here, &mut self.there];
        let at = random.random_range(0..CLIENTS * EACH);
        if let Some(end) = &mut ends[random.random_range(0..2_usize)][at] {
            end.writes(&vec![1; random.random_range(1..20_000)]);
        }
    }
}

impl Member {
    fn stack(&self) -> &Stack {
        self.stack.as_ref().expect("all of them have one here")
    }
}

impl World {
    /// Lets so much time pass, in steps of a tenth of a second or, where nothing gets through, of a second.
    fn pass(&mut self, all: &mut Connections, seconds: u64, step: u64, is_peace: bool) {
        // Reordered packets count as lost for TCP, which would hide everything else.
        self.is_orderly = is_peace;
        for _ in 0..seconds * 1_000 / step {
            self.fakes.clock.advance(step);
            self.pump();
            while !self.wire.is_empty() {
                self.deliver(is_peace);
                self.pump();
            }
            all.look();
        }
    }

    /// Takes everything away: relays and the coordinator.
    fn all_is_away(&mut self) {
        let (now, until) = (self.now(), self.fakes.clock.now() + OUTAGE * 1_000);
        self.coordinator = Coordinator::default();
        for region in 1..=REGIONS {
            self.down.insert(region, until);
            self.relay_ends(region);
        }
        for member in &mut self.members {
            drop(member.is_alone(now));
        }
    }
}

/// Creates a world whose clients have begun all of their connections, all of which are established.
fn begun(seed: u64) -> (World, Connections) {
    let mut world = World::empty(seed);
    world.populate(AGENTS, CLIENTS);
    let (began, clients) = (world.began, world.members.len());
    for (number, member) in world.members.iter_mut().enumerate() {
        let seed = seed * clients as u64 + number as u64;
        let stack = Stack::new(&[address::primary(member.id)], None, seed, began);
        member.stack = Some(stack);
    }
    // A lost first packet is repeated within seconds, and then more and more rarely.
    let mut none = Connections {
        listeners: Vec::new(),
        connecting: Vec::new(),
        here: Vec::new(),
        there: Vec::new(),
        nameless: Vec::new(),
    };
    world.pass(&mut none, 10, 100, true);
    let mut all = Connections::begin(&world);
    world.pass(&mut all, 10, 100, true);
    assert_eq!(all.complete(), CLIENTS * EACH, "seed {seed}");
    (world, all)
}

#[test]
fn connections_that_begin_together_all_stand() {
    for seed in 1..=3 {
        begun(seed);
    }
}

#[test]
fn connections_outlast_every_outage() {
    for seed in 1..=3 {
        let (mut world, mut all) = begun(seed);

        for _ in 0..40 {
            let which = world.random.random_range(2..9);
            world.outage(which);
            for _ in 0..20 {
                all.say(&mut world.random);
            }
            let seconds = world.random.random_range(1..60);
            world.pass(&mut all, seconds, 500, false);
        }
        world.pass(&mut all, SOON, 100, true);
        assert_eq!(all.complete(), CLIENTS * EACH, "seed {seed}, after outages");

        world.all_is_away();
        for _ in 0..OUTAGE / 60 {
            all.say(&mut world.random);
            world.pass(&mut all, 60, 1_000, true);
        }
        world.pass(&mut all, SOON, 100, true);
        assert_eq!(all.complete(), CLIENTS * EACH, "seed {seed}, after an hour");
    }
}

/// Tests a client whose connection to the coordinator breaks permanently, as after a revocation, before the
/// coordinator is restarted: whatever else goes wrong, its agents forget it, and no other connection ends.
#[test]
fn a_client_that_a_new_coordinator_never_hears_of_is_forgotten_and_no_other_connection_ends() {
    for seed in 1..=3 {
        let (mut world, mut all) = begun(seed);
        let gone = AGENTS + world.random.random_range(0..CLIENTS);
        let now = world.now();
        world.members[gone].stays_away = true;
        drop(world.members[gone].is_alone(now));
        world.pass(&mut all, 10, 500, true);

        world.outage(3);
        for _ in 0..4 {
            let which = world.random.random_range(4..9);
            world.outage(which);
            let seconds = world.random.random_range(1..30);
            world.pass(&mut all, seconds, 500, false);
        }
        world.outage(3);
        world.pass(&mut all, SOON, 100, true);

        let target = world.members[gone].seeks[0];
        world.members[gone].reached.clear();
        for _ in 0..10 {
            world.ask(gone, target);
            world.pass(&mut all, 1, 100, true);
        }
        let hint = format!("seed {seed}");
        assert!(world.members[gone].reached.is_empty(), "{hint}");
        let others = (CLIENTS - 1) * EACH;
        assert!(all.complete() >= others, "{hint}: {}", all.complete());

        // It was allowed to return: its connections go on.
        world.members[gone].stays_away = false;
        world.pass(&mut all, SOON, 100, true);
        for _ in 0..20 {
            all.say(&mut world.random);
        }
        world.pass(&mut all, SOON, 100, true);
        assert_eq!(all.complete(), CLIENTS * EACH, "{hint}");
    }
}
