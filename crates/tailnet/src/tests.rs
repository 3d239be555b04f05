//! Tests of nodes with a relay between them, on this machine.

mod hostile;

use std::{sync::Arc, time::Duration};

use outpost_base::stop::Stop;
use outpost_net::http::{self, Client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};
use uuid::Uuid;

use super::{
    Config, DerpMap, Event, PeerUpdate, Tailnet, Via, address,
    derp::{client::Dial, server::Relay},
    start,
};

/// Starts a relay at an address of its own.
async fn relay(stop: &Stop) -> url::Url {
    serve(Relay::default(), stop).await
}

/// Serves this relay on a port.
async fn serve(relay: Relay, stop: &Stop) -> url::Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            if stop.is_draining() {
                continue;
            }
            let (relay, stop) = (relay.clone(), stop.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await?);
                }
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";
                socket.write_all(answer.as_bytes()).await?;
                relay.serve(socket, stop).await
            });
        }
    });
    url.parse().unwrap()
}

struct Peer {
    id: Uuid,
    net: Tailnet,
    events: mpsc::Receiver<Event>,
}

impl Peer {
    async fn new(relay: &url::Url, stop: &Stop) -> Self {
        Self::with(relay, DerpMap::embedded(relay), stop).await
    }

    /// A node whose packets may go to its peers directly.
    async fn direct(relay: &url::Url, stop: &Stop) -> Self {
        let peer = Self::new(relay, stop).await;
        peer.net.set_direct(true).await;
        peer
    }

    async fn with(relay: &url::Url, map: DerpMap, stop: &Stop) -> Self {
        let id = Uuid::new_v4();
        let dial = Dial {
            http: Client::new(http::Config::new(relay.clone())).unwrap(),
            by_websocket: Arc::default(),
            token: Arc::default(),
        };
        let config = Config {
            id: address::node_id(id),
            addresses: address::of_agent(id).to_vec(),
            dial,
            max_silence: None,
            may_be_direct: false,
        };
        let (net, driver, events) = start(config);
        tokio::spawn(driver.run(stop.clone()));
        net.set_derp_map(map).await;
        Self { id, net, events }
    }

    async fn knows(&self, other: &Self) {
        let node = loop {
            // Others hear of it once its relay has it.
            match other.net.node().await {
                Some(node) => break node,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        self.net.update(other.id, PeerUpdate::Node(node)).await;
    }
}

#[tokio::test]
async fn a_client_reaches_an_agent_through_a_relay() {
    let stop = Stop::new();
    let relay = relay(&stop).await;
    let (agent, mut client) = (
        Peer::new(&relay, &stop).await,
        Peer::new(&relay, &stop).await,
    );
    let mut listener = agent.net.listen(22);
    agent.knows(&client).await;
    client.net.seek(agent.id).await;
    client.knows(&agent).await;
    client.net.update(agent.id, PeerUpdate::Ready).await;
    loop {
        if matches!(client.events.recv().await.unwrap(), Event::PeerReady(id) if id == agent.id) {
            break;
        }
    }

    client.net.reach(agent.id).await;
    let ping = client
        .net
        .ping(agent.id, Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(ping.unwrap().1, Via::Relay(999));
    let target = std::net::SocketAddrV6::new(address::primary(agent.id), 22, 0, 0);
    let (mut here, there) = tokio::join!(client.net.connect(target), listener.accept());
    let (mut there, from) = there.unwrap();
    assert_eq!(*from.ip(), address::primary(client.id));
    let here = here.as_mut().unwrap();
    let sent = vec![7; 3_000_000];
    let mut come = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(here.write_all(&sent), there.read_exact(&mut come));
    wrote.unwrap();
    read.unwrap();
    assert!(sent == come);
    stop.cancel();
}

/// Waits until packets to the peer go directly.
async fn until_direct(from: &Peer, to: &Peer) {
    loop {
        let pong = from.net.ping(to.id, Duration::from_secs(5)).await;
        if let Some((_, Via::Direct(_))) = pong.unwrap() {
            break;
        }
        from.net.reach(to.id).await;
    }
}

#[tokio::test]
async fn nodes_that_reach_each_other_by_udp_need_no_relay_any_more() {
    let (stop, relays) = (Stop::new(), Stop::new());
    let relay = relay(&relays).await;
    let (agent, client) = (
        Peer::direct(&relay, &stop).await,
        Peer::direct(&relay, &stop).await,
    );
    let mut listener = agent.net.listen(22);
    agent.knows(&client).await;
    client.net.seek(agent.id).await;
    client.knows(&agent).await;
    client.net.update(agent.id, PeerUpdate::Ready).await;
    client.net.reach(agent.id).await;
    until_direct(&client, &agent).await;
    until_direct(&agent, &client).await;

    relays.cancel();
    let target = std::net::SocketAddrV6::new(address::primary(agent.id), 22, 0, 0);
    let (here, there) = tokio::join!(client.net.connect(target), listener.accept());
    let (mut there, mut here) = (there.unwrap().0, here.unwrap());
    let sent: Vec<u8> = (0..10_000_000_u32).map(|it| it.to_le_bytes()[0]).collect();
    let mut come = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(here.write_all(&sent), there.read_exact(&mut come));
    wrote.unwrap();
    read.unwrap();
    assert!(sent == come);

    // Now forbidden: the node tells others no endpoint any more.
    agent.net.set_direct(false).await;
    assert!(agent.net.node().await.unwrap().endpoints.is_empty());
    assert!(!client.net.node().await.unwrap().endpoints.is_empty());
    stop.cancel();
}

#[tokio::test]
async fn a_node_says_how_far_its_relay_is() {
    let stop = Stop::new();
    let relay = relay(&stop).await;
    let mut agent = Peer::new(&relay, &stop).await;

    let told = loop {
        if let Event::NodeChanged(node) = agent.events.recv().await.unwrap()
            && !node.latency.is_empty()
        {
            break node;
        }
    };

    let latency: Vec<_> = told.latency.into_iter().collect();
    assert_eq!(latency.len(), 1, "{latency:?}");
    assert_eq!(latency[0].0, "999-v4");
    assert!(latency[0].1 > 0.0 && latency[0].1 < 10.0, "{latency:?}");
    stop.cancel();
}

/// Returns a map of these relays, each in a region of its own, from 1 on.
fn map_of(relays: &[&url::Url]) -> DerpMap {
    let regions = (1..).zip(relays).map(|(id, relay)| {
        let mut region = DerpMap::embedded(relay).regions.remove(&999).unwrap();
        (region.id, region.embedded_relay) = (id, false);
        (id, region)
    });
    DerpMap {
        regions: regions.collect(),
        ..DerpMap::default()
    }
}

/// Waits until a node announces this home.
async fn waits_at(peer: &mut Peer, home: i32) -> PeerUpdate {
    loop {
        if let Event::NodeChanged(node) = peer.events.recv().await.unwrap()
            && node.home == home
        {
            return PeerUpdate::Node(node);
        }
    }
}

#[tokio::test]
async fn nodes_whose_home_is_down_meet_at_another_relay_once_others_can_be_told() {
    let (first_stop, stop) = (Stop::new(), Stop::new());
    let (first, second) = (relay(&first_stop).await, relay(&stop).await);
    let map = map_of(&[&first, &second]);
    let mut agent = Peer::with(&first, map.clone(), &stop).await;
    let mut client = Peer::with(&first, map, &stop).await;
    let mut listener = agent.net.listen(22);
    agent.knows(&client).await;
    client.knows(&agent).await;
    let target = std::net::SocketAddrV6::new(address::primary(agent.id), 22, 0, 0);
    let (here, there) = tokio::join!(client.net.connect(target), listener.accept());
    let (mut here, (mut there, _)) = (here.unwrap(), there.unwrap());

    first_stop.cancel();
    here.write_all(b"meanwhile").await.unwrap();
    let moved = async {
        agent.net.coordinated().await;
        client.net.coordinated().await;
        let (of_agent, of_client) = tokio::join!(waits_at(&mut agent, 2), waits_at(&mut client, 2));
        agent.net.update(client.id, of_client).await;
        client.net.update(agent.id, of_agent).await;
        let mut come = [0; 9];
        there.read_exact(&mut come).await.unwrap();
        come
    };

    let come = tokio::time::timeout(Duration::from_secs(60), moved).await;
    assert_eq!(&come.unwrap(), b"meanwhile");
    stop.cancel();
}

#[tokio::test]
async fn a_stranger_is_not_answered() {
    let stop = Stop::new();
    let relay = relay(&stop).await;
    let (agent, stranger) = (
        Peer::new(&relay, &stop).await,
        Peer::new(&relay, &stop).await,
    );
    stranger.knows(&agent).await;

    let ping = stranger
        .net
        .ping(agent.id, Duration::from_millis(300))
        .await;

    assert_eq!(ping.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    stop.cancel();
}
