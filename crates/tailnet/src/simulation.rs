//! Simulation of many nodes, a coordinator and relays in one thread, on a clock of their own: a seed decides what is
//! lost, late or duplicated, and what ends. A relay has a node only some time after it was dialled, may be down, and
//! may lose a connection without a word. Whatever happened, everybody reaches everybody again once it is over, and
//! nothing piles up.

mod relays;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use outpost_wire::proto::coder::tailnet::v2::{
    CoordinateRequest, CoordinateResponse,
    coordinate_request::{Disconnect, ReadyForHandshake, Tunnel, UpdateSelf},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    Coordinator, Node, PeerUpdate, address,
    coordination::change,
    coordinator::Auth,
    engine::{Engine, Output},
    home::Home,
    key::{Key, Private},
    netstack::Stack,
    peer_connections::PeerConnection,
    wireguard::fake::Fakes,
};

const STEPS: u32 = 10_000;
const REGIONS: i32 = 3;
/// Longest step, in milliseconds.
const STEP: u64 = 50;
/// Milliseconds of peace after which everything must be well: a silent relay is left after 40 s, a session notices
/// its loss after 15 s, asks each 5 s, and a peer that was sought counts as ready after 5 s.
const PEACE: u64 = 80_000;
/// Milliseconds after which a node forgets a peer that the coordinator lost.
const IDLE: u64 = 16 * 60 * 1_000;
/// Number of outputs that one node may have at a time: an answer to each peer, and everything that waits for it.
const MAX_OUTPUTS: usize = 1_000;

#[derive(Clone)]
struct Packet {
    region: i32,
    from: Key,
    to: Key,
    bytes: Vec<u8>,
}

struct Connection {
    peer: PeerConnection,
    answers: mpsc::Receiver<CoordinateResponse>,
}

struct Member {
    /// Id: permanent for an agent; for a client, the one that its relays and addresses know.
    id: Uuid,
    node: Node,
    engine: Engine,
    /// Stack of the node, where connections matter.
    stack: Option<Stack>,
    relays: relays::Relays,
    connection: Option<Connection>,
    /// Connections that died without the coordinator's knowledge.
    dead: Vec<Connection>,
    /// Set if it keeps away from the coordinator.
    stays_away: bool,
    /// Nodes that it seeks; none for an agent.
    seeks: Vec<usize>,
    /// Nodes that it reached since this was last checked.
    reached: BTreeSet<Uuid>,
    asked: BTreeMap<[u8; 8], Uuid>,
}

struct World {
    random: StdRng,
    fakes: Fakes,
    began: Instant,
    coordinator: Coordinator,
    members: Vec<Member>,
    wire: Vec<Packet>,
    /// Relays that are down, and until when.
    down: BTreeMap<i32, u64>,
    /// Number of packets to nodes that the relay does not have.
    missed: u32,
    /// Set if packets arrive in the order in which they were sent.
    is_orderly: bool,
    token: u64,
}

fn bytes(id: Uuid) -> bytes::Bytes {
    id.as_bytes().to_vec().into()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self::empty(seed);
        let many = world.random.random_range(2..=50);
        let agents = world.random.random_range(1..many);
        world.populate(agents, many - agents);
        world
    }

    fn empty(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            fakes: Fakes::default(),
            began: Instant::now(),
            coordinator: Coordinator::default(),
            members: Vec::new(),
            wire: Vec::new(),
            down: BTreeMap::new(),
            missed: 0,
            is_orderly: false,
            token: 0,
        }
    }

    fn populate(&mut self, agents: usize, clients: usize) {
        for number in 0..agents + clients {
            let mut seeks = Vec::new();
            if number >= agents {
                seeks = (0..agents).filter(|_| self.chance(300)).collect();
                seeks.push(self.random.random_range(0..agents));
                seeks.sort_unstable();
                seeks.dedup();
            }
            let id = self.id();
            let member = self.member(id, seeks);
            self.members.push(member);
        }
    }

    /// Returns `true` with a probability of so many in a thousand.
    fn chance(&mut self, in_a_thousand: u32) -> bool {
        self.random.random_range(0..1000) < in_a_thousand
    }

    fn id(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    fn private(&mut self) -> Private {
        let mut bytes = [0; 32];
        self.random.fill_bytes(&mut bytes);
        Private::from_bytes(bytes)
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_millis(self.fakes.clock.now())
    }

    /// Starts a new process of a node.
    fn member(&mut self, id: Uuid, seeks: Vec<usize>) -> Member {
        let (private, disco) = (self.private(), self.private());
        let addresses = vec![address::primary(id)];
        let node = Node {
            id: 1,
            as_of: Timestamp::UNIX_EPOCH,
            key: private.public(),
            disco: disco.public(),
            home: 0,
            latency: [].into(),
            forced_websocket: [].into(),
            addresses: addresses.clone(),
            allowed: addresses.clone(),
            endpoints: Vec::new(),
        };
        let sessions = Box::new(self.fakes.clone());
        let (regions, now) = (self.regions(), self.now());
        Member {
            id,
            node,
            engine: Engine::new(private, disco, addresses, sessions),
            stack: None,
            relays: relays::Relays::new(regions, now),
            connection: None,
            dead: Vec::new(),
            stays_away: false,
            seeks,
            reached: BTreeSet::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Connects to the coordinator, as a client under an id that is new there.
    fn connect(&mut self, at: usize) {
        let (fresh, now) = (self.id(), self.now());
        let sought: Vec<Uuid> = self.members[at]
            .seeks
            .iter()
            .map(|it| self.members[*it].id)
            .collect();
        let member = &mut self.members[at];
        let (id, auth) = match sought.is_empty() {
            true => (member.id, Auth::Agent(member.id)),
            false => (fresh, Auth::Client(None)),
        };
        let (peer, answers) = self.coordinator.connect(id, auth);
        member.connection = Some(Connection { peer, answers });
        member.relays.home.set_coordinated(true);
        member.engine.coordinated(now);
        for id in &sought {
            member.engine.seek(*id);
        }
        member.says_what_it_is();
        for id in sought {
            member.requests(CoordinateRequest {
                add_tunnel: Some(Tunnel { id: bytes(id) }),
                ..CoordinateRequest::default()
            });
        }
    }

    /// Lets every node do its pending work.
    fn pump(&mut self) {
        let (now, mut packets) = (self.now(), Vec::new());
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if member.connection.is_none() && !member.stays_away {
                self.connect(at);
            }
            self.look_after_relays(at);
            let member = &mut self.members[at];
            member.hears(now);
            member.engine.tick(now);
            self.take_outputs(at);
            let member = &mut self.members[at];
            let Some(stack) = &member.stack else { continue };
            stack.poll(now, MAX_OUTPUTS / 4, &mut packets);
            for packet in packets.drain(..) {
                member.engine.from_stack(&packet, now);
            }
            self.take_outputs(at);
        }
    }

    fn take_outputs(&mut self, at: usize) {
        let mut said = 0;
        while let Some(output) = self.members[at].engine.poll_output() {
            said += 1;
            let member = &mut self.members[at];
            match output {
                Output::Relay { region, to, packet } => {
                    let (from, bytes) = (member.node.key, packet.to_vec());
                    self.send(
                        at,
                        Packet {
                            region,
                            from,
                            to,
                            bytes,
                        },
                    );
                }
                Output::Reached(token) => {
                    member.reached.extend(member.asked.remove(&token));
                }
                Output::Deliver(packet) => {
                    member
                        .stack
                        .iter()
                        .for_each(|it| it.receive(packet.clone()));
                }
                Output::Ended(address) => member.stack.iter().for_each(|it| it.abort(address)),
                // Direct paths are not simulated.
                Output::Udp { .. } | Output::Pong(..) | Output::Ready(_) => {}
            }
        }
        assert!(said <= MAX_OUTPUTS, "{said} at once");
    }

    /// Makes a client ping a node that it seeks, inside the tunnel or by its relay.
    fn ask(&mut self, at: usize, target: usize) {
        self.token += 1;
        let token = self.token.to_be_bytes();
        let (target, now) = (self.members[target].id, self.now());
        let member = &mut self.members[at];
        member
            .asked
            .retain(|asked, _| u64::from_be_bytes(token) - u64::from_be_bytes(*asked) < 10_000);
        member.asked.insert(token, target);
        member.engine.reach(target, token, now);
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&token);
        member.engine.ping(target, transaction, now);
    }

    fn ask_somebody(&mut self) {
        let at = self.random.random_range(0..self.members.len());
        let seeks = &self.members[at].seeks;
        if !seeks.is_empty() {
            let target = seeks[self.random.random_range(0..seeks.len())];
            self.ask(at, target);
        }
    }

    /// Causes a random failure.
    fn mishap(&mut self) {
        match self.random.random_range(0..9) {
            // A process ends, and another one begins: an agent with the same id, a client as a new one.
            0 | 1 => {
                let at = self.random.random_range(0..self.members.len());
                let mut old = self.members.remove(at);
                if self.chance(500) {
                    old.requests(CoordinateRequest {
                        disconnect: Some(Disconnect {}),
                        ..CoordinateRequest::default()
                    });
                }
                let id = match old.seeks.is_empty() {
                    true => old.id,
                    false => self.id(),
                };
                let new = self.member(id, std::mem::take(&mut old.seeks));
                self.members.insert(at, new);
            }
            which => self.outage(which),
        }
    }

    /// Causes a failure that every connection survives.
    fn outage(&mut self, which: u32) {
        let at = self.random.random_range(0..self.members.len());
        let region = self.random.random_range(1..=REGIONS);
        let now = self.now();
        match which {
            // A relay restarts, and all that it had is lost.
            2 => self.relay_ends(region),
            // The coordinator restarts, and knows nobody.
            3 => {
                self.coordinator = Coordinator::default();
                for member in &mut self.members {
                    member.dead = Vec::new();
                    member.is_alone(now);
                }
            }
            // A connection to it ends, and both know.
            4 => drop(self.members[at].is_alone(now)),
            // Only the node knows.
            5 => {
                let member = &mut self.members[at];
                let dead = member.is_alone(now);
                member.dead.extend(dead);
            }
            // The coordinator learns of such a one.
            6 => self.members[at].dead.clear(),
            // The node sends nothing for a while to relays other than its home, and is disconnected.
            7 => self.members[at].leaves_relays(),
            // Its connection to a relay silently carries nothing; or the relay is down.
            _ => match self.chance(700) {
                true => self.falls_silent(at, region),
                false => self.goes_down(region),
            },
        }
    }

    fn run(&mut self) {
        let mut most = 0;
        for _ in 0..STEPS {
            let step = self.random.random_range(1..=STEP);
            self.fakes.clock.advance(step);
            self.pump();
            if self.chance(200) {
                self.ask_somebody();
            }
            if self.chance(10) {
                self.mishap();
            }
            for _ in 0..self.random.random_range(0..8) {
                self.deliver(false);
            }
            most = most.max(self.wire.len());
        }
        // A node answers pings, and pings each peer once in 5 s: traffic must not multiply.
        let bound = 40 * self.members.len() * self.members.len();
        assert!(most <= bound, "{most} packets under way");
        let made = usize::try_from(self.fakes.made.load(std::sync::atomic::Ordering::Relaxed));
        for member in &self.members {
            assert!(member.engine.peers() <= *made.as_ref().unwrap());
        }
    }

    fn make_peace(&mut self) {
        for member in &mut self.members {
            member.leaves_relays();
            member.dead.clear();
            member.reached.clear();
            member.asked.clear();
        }
        for step in 0..PEACE / STEP {
            self.fakes.clock.advance(STEP);
            if step.is_multiple_of(20) {
                for at in 0..self.members.len() {
                    for target in self.members[at].seeks.clone() {
                        self.ask(at, target);
                    }
                }
            }
            self.pump();
            while !self.wire.is_empty() {
                self.deliver(true);
                self.pump();
            }
        }
    }

    fn lost(&self) -> Vec<(usize, usize)> {
        let mut lost = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            let not_reached = |it: &&usize| !member.reached.contains(&self.members[**it].id);
            lost.extend(member.seeks.iter().filter(not_reached).map(|it| (at, *it)));
        }
        lost
    }
}

impl Member {
    fn requests(&mut self, request: CoordinateRequest) {
        if let Some(connection) = &self.connection
            && connection.peer.request(request).is_err()
        {
            self.connection = None;
        }
    }

    /// Takes its coordinator away; returns the connection that it had.
    fn is_alone(&mut self, now: Instant) -> Option<Connection> {
        self.relays.home.set_coordinated(false);
        self.engine.all_lost(now);
        self.connection.take()
    }

    /// Announces it, once there is a home that others may know.
    fn says_what_it_is(&mut self) {
        if self.node.home == 0 {
            return;
        }
        let node = Some(self.node.to_wire());
        self.requests(CoordinateRequest {
            update_self: Some(UpdateSelf { node }),
            ..CoordinateRequest::default()
        });
    }

    fn hears(&mut self, now: Instant) {
        let mut ready = Vec::new();
        while let Some(connection) = &mut self.connection {
            match connection.answers.try_recv() {
                Ok(answer) => {
                    for (id, change) in answer.peer_updates.into_iter().filter_map(change) {
                        if matches!(change, PeerUpdate::Node(_)) {
                            ready.push(ReadyForHandshake { id: bytes(id) });
                        }
                        self.engine.update(id, change, now);
                        self.asks_again(now);
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => drop(self.is_alone(now)),
            }
        }
        if self.seeks.is_empty() && !ready.is_empty() {
            self.requests(CoordinateRequest {
                ready_for_handshake: ready,
                ..CoordinateRequest::default()
            });
        }
    }
}

#[test]
fn whatever_goes_wrong_everybody_reaches_everybody_once_it_is_over() {
    let seeds = match std::env::var("OUTPOST_SIMULATION_SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=6,
    };
    for seed in seeds {
        let mut world = World::new(seed);
        world.run();
        world.make_peace();
        assert_eq!(world.lost(), [], "OUTPOST_SIMULATION_SEED={seed} shows it");
        // Lost peers are forgotten by now.
        world.fakes.clock.advance(IDLE);
        world.pump();
        for member in &world.members {
            let peers = member.engine.peers();
            assert!(peers < world.members.len(), "{peers} peers");
        }
        world.make_peace();
        assert_eq!(world.lost(), [], "OUTPOST_SIMULATION_SEED={seed} shows it");
    }
}
