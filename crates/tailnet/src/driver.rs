//! Driver of a node: relays, the stack and the clock, in one task.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use outpost_base::stop::Stop;
use tokio::{
    net::lookup_host,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tracing::{Instrument as _, debug, debug_span};
use uuid::Uuid;

use super::{
    derp::{
        client::{self, Client, Dial, Heard, News},
        frame::Frame,
    },
    derp_map::{DerpMap, Region},
    disco::Transaction,
    endpoints::Endpoints,
    engine::{Engine, Output, PeerUpdate, Via},
    home::Home,
    key::{Key, Private},
    netstack::{Listener, MAX_CONNECTIONS, Stack, Stream},
    node::Node,
    stun, tsmp,
    udp::Sockets,
    wireguard::WireGuard,
};

const COMMANDS: usize = 256;
/// Number of reads from relays that wait for us.
const HEARD: usize = 16;
/// Number of events that wait to be received; a slower reader receives the newest node later.
const EVENTS: usize = 256;
/// Time after which a ping inside WireGuard is repeated if it has no answer.
const REACH_AGAIN: Duration = Duration::from_millis(250);
/// Interval at which the addresses of the machine are looked at: it may have moved to another network.
const LOOK_AT_NETWORK: Duration = Duration::from_secs(10);
/// Time for which the address of a STUN server is looked up.
const LOOKUP: Duration = Duration::from_secs(10);
/// Room that a relay needs before the stack sends: a packet of each of its connections, so that all have their turn.
const ROOM: usize = MAX_CONNECTIONS;

/// Settings of a node.
pub struct Config {
    /// Numeric id of the node.
    pub id: i64,
    /// Addresses of the node, beginning with the one that it sends from.
    pub addresses: Vec<Ipv6Addr>,
    /// Settings for dialling relays.
    pub dial: Dial,
    /// Silence of a peer after which a connection ends; `None` for never.
    pub max_silence: Option<Duration>,
    /// Set if packets may go to peers directly, by UDP, and not only by relays.
    pub may_be_direct: bool,
}

/// Event of a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A change of our own node, which others should be told.
    NodeChanged(Box<Node>),
    /// A peer that we seek is ready.
    PeerReady(Uuid),
}

enum Command {
    SetMap(DerpMap),
    SetAddresses(i64, Vec<Ipv6Addr>),
    Update(Uuid, PeerUpdate, oneshot::Sender<()>),
    Seek(Uuid),
    Coordinated,
    AllLost,
    SetDirect(bool),
    Ping(Uuid, oneshot::Sender<Option<Via>>),
    Reach(Uuid, tsmp::Token, oneshot::Sender<()>),
    Tell(oneshot::Sender<Option<Box<Node>>>),
}

/// A node in the overlay. Clones are the same node.
#[derive(Clone)]
pub struct Tailnet {
    commands: mpsc::Sender<Command>,
    stack: Stack,
    source: Arc<std::sync::Mutex<Ipv6Addr>>,
}

/// Creates a node with new keys; nothing happens until the driver runs.
pub fn start(config: Config) -> (Tailnet, Driver, mpsc::Receiver<Event>) {
    let (private, disco) = (Private::generate(), Private::generate());
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (events, told) = mpsc::channel(EVENTS);
    let (seed, now) = (rand::random(), now());
    let stack = Stack::new(&config.addresses, config.max_silence, seed, now);
    let source = config.addresses.first().copied();
    let tailnet = Tailnet {
        commands,
        stack: stack.clone(),
        source: Arc::new(std::sync::Mutex::new(
            source.unwrap_or(Ipv6Addr::UNSPECIFIED),
        )),
    };
    let sessions = Box::new(WireGuard::new(private.clone()));
    let (heard_sender, heard) = mpsc::channel(HEARD);
    let driver = Driver {
        sockets: None,
        endpoints: Endpoints::default(),
        network_due: None,
        lookups: JoinSet::new(),
        engine: Engine::new(
            private.clone(),
            disco.clone(),
            config.addresses.clone(),
            sessions,
        ),
        private,
        disco: disco.public(),
        config,
        stack,
        commands: receiver,
        events,
        map: DerpMap::default(),
        home: Home::default(),
        told: None,
        latencies: BTreeMap::new(),
        relays: HashMap::new(),
        clients: 0,
        tasks: JoinSet::new(),
        heard_sender,
        heard,
        pings: HashMap::new(),
        reached: HashMap::new(),
        node_to_tell: None,
    };
    (tailnet, driver, told)
}

/// The runtime's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Tailnet {
    async fn command(&self, command: Command) {
        // An error means that the driver has ended.
        let _ = self.commands.send(command).await;
    }

    /// Replaces the map of relays.
    pub async fn set_derp_map(&self, map: DerpMap) {
        self.command(Command::SetMap(map)).await;
    }

    /// Allows or forbids direct paths to peers.
    pub async fn set_direct(&self, may_be_direct: bool) {
        self.command(Command::SetDirect(may_be_direct)).await;
    }

    /// Replaces our own id and addresses.
    pub async fn set_addresses(&self, id: i64, addresses: Vec<Ipv6Addr>) {
        if let (Some(first), Ok(mut source)) = (addresses.first(), self.source.lock()) {
            *source = *first;
        }
        self.stack.set_addresses(&addresses);
        self.command(Command::SetAddresses(id, addresses)).await;
    }

    /// Applies an update of a peer from a coordinator; it has taken effect when this returns.
    pub async fn update(&self, id: Uuid, update: PeerUpdate) {
        let (done, wait) = oneshot::channel();
        self.command(Command::Update(id, update, done)).await;
        let _ = wait.await;
    }

    /// Seeks a peer: packets are sent to it once it knows us.
    pub async fn seek(&self, id: Uuid) {
        self.command(Command::Seek(id)).await;
    }

    /// Records that a coordinator is connected, and tells others of us.
    pub async fn coordinated(&self) {
        self.command(Command::Coordinated).await;
    }

    /// Records that the coordinator is away.
    pub async fn all_lost(&self) {
        self.command(Command::AllLost).await;
    }

    /// Returns the node as others should see it; `None` while it has no home at which they could reach it.
    pub async fn node(&self) -> Option<Box<Node>> {
        let (answer, wait) = oneshot::channel();
        self.command(Command::Tell(answer)).await;
        wait.await.ok().flatten()
    }

    /// Accepts connections to a port; only nodes of the overlay can reach it.
    pub fn listen(&self, port: u16) -> Listener {
        self.stack.listen(port)
    }

    /// Connects to a port of a peer.
    ///
    /// # Errors
    /// If the peer refuses, or does not answer.
    pub async fn connect(&self, target: SocketAddrV6) -> io::Result<Stream> {
        let source = self.source.lock().map_or(Ipv6Addr::UNSPECIFIED, |it| *it);
        self.stack.connect(source, target).await
    }

    /// Returns for how long a peer has left something unanswered; zero if it answers.
    pub fn silent_for(&self, address: Ipv6Addr) -> Duration {
        self.stack.silent_for(address, now())
    }

    /// Pings a peer by disco; returns the latency and the path, or `None` if the peer is not known.
    ///
    /// # Errors
    /// If there is no answer in time.
    pub async fn ping(&self, id: Uuid, within: Duration) -> io::Result<Option<(Duration, Via)>> {
        let begun = now();
        let (answer, wait) = oneshot::channel();
        self.command(Command::Ping(id, answer)).await;
        let answer = timeout(within, wait).await?;
        Ok(answer.ok().flatten().map(|via| (begun.elapsed(), via)))
    }

    /// Waits until a peer answers inside WireGuard, after which it can be connected to.
    pub async fn reach(&self, id: Uuid) -> Duration {
        loop {
            let begun = now();
            let (answer, wait) = oneshot::channel();
            self.command(Command::Reach(id, rand::random(), answer))
                .await;
            if let Ok(Ok(())) = timeout(REACH_AGAIN, wait).await {
                return begun.elapsed();
            }
            // Without a driver the answer fails at once: this keeps the loop from spinning.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Relay {
    /// Number of the relay's client.
    number: u64,
    frames: mpsc::Sender<Frame>,
    region: Region,
    is_home: bool,
    /// Set if the client is connected to its relay; otherwise frames for it are lost sooner or later.
    is_connected: bool,
}

/// Task of a node: its owner spawns [`Driver::run`].
pub struct Driver {
    engine: Engine,
    /// Sockets for direct paths, while those are allowed.
    sockets: Option<Sockets>,
    endpoints: Endpoints,
    /// Time when the addresses of the machine are looked at again.
    network_due: Option<Instant>,
    /// Lookups of the STUN servers.
    lookups: JoinSet<Vec<SocketAddr>>,
    private: Private,
    disco: Key,
    config: Config,
    stack: Stack,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    map: DerpMap,
    home: Home,
    /// Home region that others know.
    told: Option<i32>,
    /// Latencies to the relays, by region.
    latencies: BTreeMap<i32, Duration>,
    relays: HashMap<i32, Relay>,
    /// Number of relay clients that were ever started.
    clients: u64,
    tasks: JoinSet<()>,
    heard_sender: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    pings: HashMap<Transaction, oneshot::Sender<Option<Via>>>,
    reached: HashMap<tsmp::Token, oneshot::Sender<()>>,
    node_to_tell: Option<Box<Node>>,
}

impl Driver {
    /// Runs until `stop` drains or the last clone of the node is dropped.
    pub async fn run(mut self, stop: Stop) {
        let mut packets = Vec::new();
        let (mut stack_due, mut is_held) = (None, false);
        self.set_direct(self.config.may_be_direct, now());
        loop {
            self.tell();
            let home_due = self.home.next_tick(now());
            let own_due = self.endpoints_due(now());
            let due = [self.engine.next_tick(), stack_due, home_due, own_due];
            let due = due.into_iter().flatten().min();
            let due = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Where the sockets take no more, they say so themselves.
            let is_udp_full = self.sockets.as_ref().is_some_and(Sockets::is_full);
            is_held &= !is_udp_full;
            let roomiest = self.roomiest().filter(|_| is_held).cloned();
            let room = async {
                if let Some(frames) = roomiest {
                    // A relay that is given up makes room as well.
                    drop(frames.reserve_many(ROOM).await);
                }
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Some(heard) = self.heard.recv() => self.hear(heard),
                () = self.stack.work() => {}
                () = room, if is_held => {}
                () = ready(self.sockets.as_ref()) => self.hear_directly(),
                Some(_) = self.tasks.join_next() => {}
                Some(found) = self.lookups.join_next() => {
                    self.endpoints.set_servers(found.unwrap_or_default());
                }
                () = due => {}
                () = stop.draining() => break,
            }
            let now = now();
            self.engine.tick(now);
            self.look_after_home(now);
            self.look_after_endpoints(now);
            self.put_out();
            let room = self.room();
            (stack_due, is_held) = self.stack.poll(now, room, &mut packets);
            for packet in packets.drain(..) {
                self.engine.from_stack(&packet, now);
            }
            self.put_out();
            self.sockets.iter_mut().for_each(Sockets::flush);
        }
        self.relays.clear();
        self.lookups.shutdown().await;
        self.tasks.shutdown().await;
    }

    fn set_direct(&mut self, may_be_direct: bool, now: Instant) {
        if may_be_direct == self.sockets.is_some() {
            return;
        }
        self.sockets = may_be_direct.then(Sockets::bind);
        self.endpoints = Endpoints::default();
        self.network_due = may_be_direct.then_some(now);
        self.engine.set_endpoints(may_be_direct.then(Vec::new));
        self.find_stun_servers();
        if self.told.is_some() {
            self.node_to_tell = self.node();
        }
    }

    /// Looks up the addresses of the STUN servers in the map.
    fn find_stun_servers(&mut self) {
        self.lookups.abort_all();
        self.endpoints.set_servers(Vec::new());
        let servers = self.map.stun_servers();
        if self.sockets.is_none() || servers.is_empty() {
            return;
        }
        let finding = async move {
            let mut found = Vec::new();
            for (host, port) in servers {
                match timeout(LOOKUP, lookup_host((host.as_str(), port))).await {
                    Ok(Ok(addresses)) => found.extend(addresses.take(2)),
                    Ok(Err(error)) => debug!(%host, %error, "cannot look up a STUN server"),
                    Err(_) => debug!(%host, "cannot look up a STUN server in time"),
                }
            }
            found
        };
        self.lookups.spawn(finding.instrument(debug_span!("stun")));
    }

    fn endpoints_due(&self, now: Instant) -> Option<Instant> {
        self.sockets.as_ref()?;
        let is_in_use = self.engine.has_paths_in_use(now);
        let network_due = self
            .network_due
            .filter(|_| is_in_use || self.told.is_none());
        let due = [self.endpoints.next_due(is_in_use, now), network_due];
        due.into_iter().flatten().min()
    }

    /// Keeps our own endpoints up to date, and announces new ones.
    fn look_after_endpoints(&mut self, now: Instant) {
        let Some(sockets) = &mut self.sockets else {
            return;
        };
        let is_in_use = self.engine.has_paths_in_use(now);
        let mut is_new = false;
        if self.network_due.is_some_and(|due| now >= due) {
            self.network_due = Some(now + LOOK_AT_NETWORK);
            if self.endpoints.set_local(sockets.local_endpoints()) {
                is_new = true;
                self.engine.network_changed();
            }
        }
        for (server, request) in self.endpoints.due(is_in_use, now) {
            sockets.send(server, &request);
        }
        if is_new {
            self.announce_endpoints();
        }
    }

    fn announce_endpoints(&mut self) {
        self.engine.set_endpoints(Some(self.endpoints.all()));
        if self.told.is_some() {
            self.node_to_tell = self.node();
        }
    }

    /// Handles what has arrived by UDP.
    fn hear_directly(&mut self) {
        let Some(mut sockets) = self.sockets.take() else {
            return;
        };
        let (now, mut is_new) = (now(), false);
        sockets.receive(|from, packet| match stun::is_stun(packet) {
            true => is_new |= self.endpoints.response(packet, now),
            false => self.engine.from_udp(from, packet, now),
        });
        self.sockets = Some(sockets);
        if is_new {
            self.announce_endpoints();
        }
    }

    fn command(&mut self, command: Command) {
        let now = now();
        match command {
            Command::SetMap(map) => self.set_map(map),
            Command::SetAddresses(id, addresses) => {
                if self.config.addresses != addresses {
                    (self.config.id, self.config.addresses) = (id, addresses.clone());
                    self.engine.set_addresses(addresses);
                    self.node_to_tell = self.node();
                }
            }
            Command::Update(id, update, done) => {
                self.engine.update(id, update, now);
                self.ask_again(now);
                // The caller may no longer wait.
                let _ = done.send(());
            }
            Command::Seek(id) => self.engine.seek(id),
            Command::Coordinated => {
                self.home.set_coordinated(true);
                self.engine.coordinated(now);
            }
            Command::AllLost => {
                self.home.set_coordinated(false);
                self.engine.all_lost(now);
            }
            Command::SetDirect(may_be_direct) => self.set_direct(may_be_direct, now),
            Command::Ping(id, answer) => {
                let transaction = rand::random();
                self.pings.retain(|_, waiting| !waiting.is_closed());
                match self.engine.ping(id, transaction, now) {
                    true => drop(self.pings.insert(transaction, answer)),
                    false => drop(answer.send(None)),
                }
            }
            Command::Reach(id, token, answer) => {
                self.reached.retain(|_, waiting| !waiting.is_closed());
                self.reached.insert(token, answer);
                self.engine.reach(id, token, now);
            }
            Command::Tell(answer) => drop(answer.send(self.node())),
        }
    }

    fn set_map(&mut self, map: DerpMap) {
        if map == self.map {
            return;
        }
        // A region whose relays have changed is dialled again.
        let same = |id: &i32, relay: &Relay| map.regions.get(id) == Some(&relay.region);
        for (id, _) in self.relays.extract_if(|id, relay| !same(id, relay)) {
            self.engine.relay_lost(id);
        }
        self.map = map;
        let regions = &self.map.regions;
        self.latencies.retain(|id, _| regions.contains_key(id));
        self.home.set_regions(self.map.homes(), now());
        if let Some(home) = self.home.region() {
            self.relay(home);
        }
        self.find_stun_servers();
    }

    /// Connects to the home relay, and announces it once others can reach us there; tries another one while it is
    /// away.
    fn look_after_home(&mut self, now: Instant) {
        if let Some(region) = self.home.next_to_try(now) {
            self.relay(region);
        }
        let home = self.home.region();
        for (id, relay) in &mut self.relays {
            let is_home = Some(*id) == home;
            if is_home != relay.is_home {
                relay.is_home = is_home;
                let _ = relay.frames.try_send(Frame::Preferred(is_home));
            }
        }
        // A node that seeks others sends first, and by then the relay has accepted it.
        let told = match self.engine.is_seeking() {
            true => home,
            false => self.home.told(now),
        };
        if told.is_some() && told != self.told {
            self.told = told;
            self.node_to_tell = self.node();
        }
    }

    /// Sends unanswered packets again at once, because there may be a path again.
    fn ask_again(&mut self, now: Instant) {
        for address in self.stack.ask_again(now) {
            self.engine.agree_again(address, now);
        }
    }

    /// Returns the relay of a region, dialling it if needed.
    fn relay(&mut self, region: i32) -> Option<&mpsc::Sender<Frame>> {
        let is_there = |relay: &Relay| !relay.frames.is_closed();
        if !self.relays.get(&region).is_some_and(is_there) {
            let (frames, outgoing) = mpsc::channel(client::QUEUE);
            let is_home = self.home.region() == Some(region);
            self.clients += 1;
            let client = Client {
                region,
                number: self.clients,
                relays: self.map.relays(region).cloned().collect(),
                is_home: is_home.into(),
                private: self.private.clone(),
                dial: self.config.dial.clone(),
            };
            if client.relays.is_empty() {
                return None;
            }
            let running = client.run(outgoing, self.heard_sender.clone());
            let span = debug_span!("relay", %region);
            self.tasks.spawn(running.instrument(span));
            let region_now = self.map.regions.get(&region)?.clone();
            let relay = Relay {
                number: self.clients,
                frames,
                region: region_now,
                is_home,
                is_connected: false,
            };
            self.relays.insert(region, relay);
        }
        self.relays.get(&region).map(|relay| &relay.frames)
    }

    fn hear(&mut self, heard: Heard) {
        let (region, number, now) = (heard.region, heard.number, now());
        match heard.what {
            News::Connected => {
                if self.is_connected(region, number, true) {
                    self.home.connected(region, now);
                    self.look_after_home(now);
                    self.ask_again(now);
                }
            }
            News::Lost => {
                if self.is_connected(region, number, false) {
                    self.home.lost(region, now);
                    self.engine.relay_lost(region);
                }
            }
            News::Failed => {
                if self.is_connected(region, number, false) {
                    self.home.lost(region, now);
                }
            }
            News::Answered(took) => {
                if self.has(region, number) {
                    self.latencies.insert(region, took);
                    // The server shows agents with their latency; clients need no second announcement for that.
                    if self.told.is_some() && !self.engine.is_seeking() {
                        self.node_to_tell = self.node();
                    }
                }
            }
            News::Frames(frames) => {
                for frame in frames {
                    match frame {
                        Frame::Receive { from, packet } => {
                            self.engine.from_relay(region, from, &packet, now);
                            self.put_out();
                        }
                        Frame::PeerGone(key, _) => self.engine.peer_gone(region, key),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Returns whether this client of a relay was not replaced.
    fn has(&self, region: i32, number: u64) -> bool {
        let relay = self.relays.get(&region);
        relay.is_some_and(|relay| relay.number == number)
    }

    /// Records whether a relay's client is connected, unless it was replaced.
    fn is_connected(&mut self, region: i32, number: u64, is: bool) -> bool {
        let relay = self.relays.get_mut(&region);
        let relay = relay.filter(|relay| relay.number == number);
        relay.map(|relay| relay.is_connected = is).is_some()
    }

    /// Returns the connected relay with the most room, so that a slow one does not hold up the others.
    fn roomiest(&self) -> Option<&mpsc::Sender<Frame>> {
        let connected = self.relays.values().filter(|relay| relay.is_connected);
        let frames = connected.map(|relay| &relay.frames);
        frames.max_by_key(|frames| frames.capacity())
    }

    /// Returns the number of packets that the stack may send now. Without a relay it goes on as if there were one, because its
    /// timers must run.
    fn room(&self) -> usize {
        if self.sockets.as_ref().is_some_and(Sockets::is_full) {
            return 0;
        }
        let room = self.roomiest().map_or(client::QUEUE, |it| it.capacity());
        if room < ROOM { 0 } else { room }
    }

    fn put_out(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Relay { region, to, packet } => {
                    if let Some(relay) = self.relay(region) {
                        // A packet that does not fit into the queue is lost, as on any network.
                        let _ = relay.try_send(Frame::Send { to, packet });
                    }
                }
                Output::Udp { to, packet } => {
                    if let Some(sockets) = &mut self.sockets {
                        sockets.send(to, &packet);
                    }
                }
                Output::Deliver(packet) => self.stack.receive(packet),
                Output::Pong(transaction, via) => {
                    if let Some(answer) = self.pings.remove(&transaction) {
                        let _ = answer.send(Some(via));
                    }
                }
                Output::Reached(token) => {
                    if let Some(answer) = self.reached.remove(&token) {
                        let _ = answer.send(());
                    }
                }
                Output::Ended(address) => self.stack.abort(address),
                Output::Ready(id) => {
                    let _ = self.events.try_send(Event::PeerReady(id));
                }
            }
        }
    }

    /// Sends the event about our own node, as soon as there is room.
    fn tell(&mut self) {
        if let Some(node) = self.node_to_tell.take()
            && let Err(error) = self.events.try_send(Event::NodeChanged(node))
            && let mpsc::error::TrySendError::Full(Event::NodeChanged(node)) = error
        {
            self.node_to_tell = Some(node);
        }
    }

    fn node(&self) -> Option<Box<Node>> {
        let latencies = self.latencies.iter();
        // The address family of the relay's connection is not known; Coder's agents report v4 as well.
        let latency = latencies.map(|(id, it)| (format!("{id}-v4"), it.as_secs_f64()));
        Some(Box::new(Node {
            id: self.config.id,
            as_of: Timestamp::now(),
            key: self.private.public(),
            disco: self.disco,
            home: self.told?,
            latency: latency.collect(),
            forced_websocket: Default::default(),
            addresses: self.config.addresses.clone(),
            allowed: self.config.addresses.clone(),
            endpoints: match self.sockets {
                Some(_) => self.endpoints.all(),
                None => Vec::new(),
            },
        }))
    }
}

/// Waits until the sockets have something to do; for ever if there are none.
async fn ready(sockets: Option<&Sockets>) {
    match sockets {
        Some(sockets) => sockets.ready().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use outpost_net::http;

    use super::*;

    #[tokio::test]
    async fn a_relay_that_was_replaced_says_nothing_of_the_one_in_its_place() {
        let url = |port| format!("http://127.0.0.1:{port}").parse().unwrap();
        let dial = Dial {
            http: http::Client::new(http::Config::new(url(1))).unwrap(),
            by_websocket: Arc::default(),
            token: Arc::default(),
        };
        let (_tailnet, mut driver, _events) = start(Config {
            id: 1,
            addresses: vec![Ipv6Addr::LOCALHOST],
            dial,
            max_silence: None,
            may_be_direct: false,
        });
        driver.set_map(DerpMap::embedded(&url(1)));
        let region = driver.home.region().unwrap();
        let (before, what) = (driver.relays[&region].number, News::Connected);
        driver.set_map(DerpMap::embedded(&url(2)));
        let number = driver.relays[&region].number;
        driver.hear(Heard {
            region,
            number,
            what,
        });

        for (number, known) in [(before, 0), (number, 1)] {
            driver.hear(Heard {
                region,
                number,
                what: News::Answered(Duration::from_millis(250)),
            });

            assert_eq!(driver.latencies.len(), known);
        }

        for (number, is_connected) in [(before, true), (number, false)] {
            driver.hear(Heard {
                region,
                number,
                what: News::Lost,
            });

            assert_eq!(driver.relays[&region].is_connected, is_connected);
        }
    }
}
