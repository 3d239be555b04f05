use outpost_wire::proto::coder::tailnet::v2::coordinate_request::{
    Disconnect, ReadyForHandshake, Tunnel, UpdateSelf,
};

use super::*;
use crate::{
    address,
    coordinator::{BATCH, MAX_NODE, MAX_TUNNELS},
};

struct Peer {
    id: Uuid,
    peer: PeerConnection,
    answers: mpsc::Receiver<CoordinateResponse>,
}

fn node(id: Uuid, home: i32) -> Node {
    let addresses: Vec<String> = address::of_agent(id)
        .into_iter()
        .map(address::cidr)
        .collect();
    Node {
        preferred_derp: home,
        allowed_ips: addresses.clone(),
        addresses,
        ..Node::default()
    }
}

fn tunnel(id: Uuid) -> Option<Tunnel> {
    let id = id.as_bytes().to_vec().into();
    Some(Tunnel { id })
}

impl Peer {
    fn agent(coordinator: &Coordinator) -> Self {
        Self::again(coordinator, Uuid::new_v4())
    }

    fn again(coordinator: &Coordinator, id: Uuid) -> Self {
        let (peer, answers) = coordinator.connect(id, Auth::Agent(id));
        Self { id, peer, answers }
    }

    fn client(coordinator: &Coordinator, may: Uuid) -> Self {
        let id = Uuid::new_v4();
        let (peer, answers) = coordinator.connect(id, Auth::Client(Some(may)));
        Self { id, peer, answers }
    }

    fn is(&self, home: i32) -> Result<(), Refusal> {
        self.is_node(node(self.id, home))
    }

    fn is_node(&self, node: Node) -> Result<(), Refusal> {
        let node = Some(node);
        self.peer.request(CoordinateRequest {
            update_self: Some(UpdateSelf { node }),
            ..CoordinateRequest::default()
        })
    }

    fn opens(&self, to: Uuid) -> Result<(), Refusal> {
        self.peer.request(CoordinateRequest {
            add_tunnel: tunnel(to),
            ..CoordinateRequest::default()
        })
    }

    fn is_ready_for(&self, other: Uuid) -> Result<(), Refusal> {
        let id = other.as_bytes().to_vec().into();
        self.peer.request(CoordinateRequest {
            ready_for_handshake: vec![ReadyForHandshake { id }],
            ..CoordinateRequest::default()
        })
    }

    /// Updates that it has received since: their kind, their subject, and its home; errors as they are.
    fn heard(&mut self) -> Vec<(String, Uuid, i32)> {
        let mut heard = Vec::new();
        while let Ok(answer) = self.answers.try_recv() {
            if !answer.error.is_empty() {
                heard.push((answer.error, Uuid::nil(), 0));
            }
            heard.extend(answer.peer_updates.into_iter().map(|update| {
                let kind = format!("{:?}", update.kind());
                let home = update.node.map_or(0, |node| node.preferred_derp);
                (kind, Uuid::from_slice(&update.id).unwrap(), home)
            }));
        }
        heard
    }
}

fn told(kind: &str, of: &Peer, home: i32) -> (String, Uuid, i32) {
    (kind.to_owned(), of.id, home)
}

#[test]
fn who_shares_a_tunnel_hears_of_the_other_and_of_its_changes() {
    let all = Coordinator::default();
    let mut agent = Peer::agent(&all);
    let mut client = Peer::client(&all, agent.id);
    agent.is(1).unwrap();
    client.is(2).unwrap();
    assert_eq!((agent.heard(), client.heard()), (vec![], vec![]));

    client.opens(agent.id).unwrap();
    assert_eq!(client.heard(), [told("Node", &agent, 1)]);
    assert_eq!(agent.heard(), [told("Node", &client, 2)]);
    agent.is_ready_for(client.id).unwrap();
    assert_eq!(client.heard(), [told("ReadyForHandshake", &agent, 0)]);
    agent.is(3).unwrap();
    agent.is(3).unwrap();
    assert_eq!(client.heard(), [told("Node", &agent, 3)]);

    let removed = CoordinateRequest {
        remove_tunnel: tunnel(agent.id),
        ..CoordinateRequest::default()
    };
    client.peer.request(removed).unwrap();
    assert_eq!(client.heard(), [told("Disconnected", &agent, 0)]);
    assert_eq!(agent.heard(), [told("Disconnected", &client, 0)]);
    agent.is(4).unwrap();
    assert_eq!(client.heard(), []);
}

#[test]
fn an_agent_that_comes_back_is_told_of_at_once_and_hears_who_waits() {
    let all = Coordinator::default();
    let agent = Peer::agent(&all);
    let mut client = Peer::client(&all, agent.id);
    client.is(2).unwrap();
    client.opens(agent.id).unwrap();
    agent.is(1).unwrap();
    assert_eq!(client.heard().len(), 1);

    let id = agent.id;
    drop(agent);
    let gone = client.heard();
    assert_eq!((gone.len(), &*gone[0].0), (1, "Lost"));
    let mut agent = Peer::again(&all, id);
    assert_eq!(agent.heard(), [told("Node", &client, 2)]);
    agent.is(1).unwrap();
    assert_eq!(client.heard(), [told("Node", &agent, 1)]);
}

#[test]
fn a_second_connection_takes_the_place_of_the_first() {
    let all = Coordinator::default();
    let mut first = Peer::agent(&all);
    let mut client = Peer::client(&all, first.id);
    client.is(2).unwrap();
    client.opens(first.id).unwrap();
    first.is(1).unwrap();
    client.heard();

    let mut second = Peer::again(&all, first.id);
    second.is(5).unwrap();

    let heard = first.heard();
    assert_eq!(
        heard.last().unwrap().0,
        "peer ID overwritten by new connection"
    );
    assert!(first.answers.is_closed());
    assert_eq!(first.is(9), Err(Refusal::Closed));
    drop(first);
    assert_eq!(client.heard(), [told("Node", &second, 5)]);
    assert_eq!(second.heard(), [told("Node", &client, 2)]);
}

#[test]
fn nobody_takes_an_address_or_a_tunnel_that_is_not_theirs() {
    let all = Coordinator::default();
    let agent = Peer::agent(&all);
    let client = Peer::client(&all, agent.id);
    let other = Uuid::new_v4();
    let with = |change: &dyn Fn(&mut Node)| {
        let mut node = node(agent.id, 1);
        change(&mut node);
        node
    };
    let foreign = address::cidr(address::primary(other));

    let wide = with(&|node| node.addresses = vec!["fd7a:115c:a1e0::/48".to_owned()]);
    for bad in [
        with(&|node| node.addresses.push(foreign.clone())),
        with(&|node| node.allowed_ips.push(foreign.clone())),
        wide.clone(),
    ] {
        assert!(matches!(agent.is_node(bad), Err(Refusal::Authorization(_))));
    }
    assert!(matches!(
        client.is_node(wide),
        Err(Refusal::Authorization(_))
    ));
    assert!(matches!(
        agent.opens(client.id),
        Err(Refusal::Authorization(_))
    ));
    assert!(matches!(
        client.opens(other),
        Err(Refusal::Authorization(_))
    ));
    assert!(matches!(
        client.is_ready_for(agent.id),
        Err(Refusal::Authorization(_))
    ));
    assert_eq!(all.node(agent.id), None);
}

#[test]
fn ready_without_a_tunnel_is_an_error_and_no_end() {
    let all = Coordinator::default();
    let mut agent = Peer::agent(&all);

    agent.is_ready_for(Uuid::new_v4()).unwrap();

    assert!(agent.heard()[0].0.starts_with("ready for handshake error"));
    agent.is(1).unwrap();
}

#[test]
fn who_leaves_is_disconnected_and_who_takes_nothing_is_lost() {
    let all = Coordinator::default();
    let mut agent = Peer::agent(&all);
    let client = Peer::client(&all, agent.id);
    agent.is(1).unwrap();
    client.is(2).unwrap();
    client.opens(agent.id).unwrap();
    agent.heard();

    for home in 3..1000 {
        agent.is(home).unwrap();
    }
    let gone = agent.heard();
    assert_eq!((gone.len(), &*gone[0].0), (1, "Lost"));
    assert_eq!(client.is(1), Err(Refusal::Closed));

    let second = Peer::client(&all, agent.id);
    second.is(2).unwrap();
    second.opens(agent.id).unwrap();
    agent.heard();
    let leave = CoordinateRequest {
        disconnect: Some(Disconnect {}),
        ..CoordinateRequest::default()
    };
    second.peer.request(leave).unwrap();
    assert_eq!(agent.heard(), [told("Disconnected", &second, 0)]);
    assert!(!all.is_connected(second.id));
}

#[test]
fn what_makes_no_sense_ends_its_peer_and_nobody_else() {
    let all = Coordinator::default();
    let mut agent = Peer::agent(&all);
    let mut client = Peer::client(&all, agent.id);
    agent.is(1).unwrap();
    client.is(2).unwrap();
    client.opens(agent.id).unwrap();
    client.heard();
    agent.heard();
    let short = || {
        Some(Tunnel {
            id: b"short"[..].into(),
        })
    };
    let with = |change: &dyn Fn(&mut Node)| {
        let mut node = node(agent.id, 1);
        change(&mut node);
        CoordinateRequest {
            update_self: Some(UpdateSelf { node: Some(node) }),
            ..CoordinateRequest::default()
        }
    };
    let many = 100_000_u32;
    let ready = ReadyForHandshake {
        id: b"short"[..].into(),
    };
    for (at, bad) in [
        CoordinateRequest {
            add_tunnel: short(),
            ..CoordinateRequest::default()
        },
        CoordinateRequest {
            remove_tunnel: short(),
            ..CoordinateRequest::default()
        },
        CoordinateRequest {
            ready_for_handshake: vec![ready.clone()],
            ..CoordinateRequest::default()
        },
        CoordinateRequest {
            ready_for_handshake: vec![ready; BATCH + 1],
            ..CoordinateRequest::default()
        },
        with(&|node| node.derp_latency = (0..many).map(|it| (it.to_string(), 1.0)).collect()),
        with(&|node| node.endpoints = (0..many).map(|it| format!("[::1]:{it}")).collect()),
        with(&|node| node.addresses = vec![node.addresses[0].clone(); many as usize]),
        with(&|node| node.allowed_ips = vec!["::/0".to_owned()]),
        with(&|node| node.disco = "x".repeat(MAX_NODE)),
    ]
    .into_iter()
    .enumerate()
    {
        let hostile = Peer::again(&all, agent.id);
        hostile.is(3).unwrap();
        let refused = hostile.peer.request(bad);
        assert!(matches!(refused, Err(Refusal::Authorization(_))), "{at}");
        drop(hostile);
        let kinds: Vec<_> = client.heard().into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, ["Node", "Lost"], "{at}");
    }

    let mut agent = Peer::again(&all, agent.id);
    agent.is(4).unwrap();
    assert_eq!(client.heard(), [told("Node", &agent, 4)]);
    assert_eq!(agent.heard(), [told("Node", &client, 2)]);
}

#[test]
fn one_that_opens_tunnels_without_end_is_refused_and_leaves_nothing_behind() {
    let all = Coordinator::default();
    let (id, auth) = (Uuid::new_v4(), Auth::Client(None));
    let (peer, answers) = all.connect(id, auth);
    let mut hostile = Peer { id, peer, answers };
    let agent = Peer::agent(&all);
    let mut client = Peer::client(&all, agent.id);

    let opened = (0..).find(|_| hostile.opens(Uuid::new_v4()).is_err());
    assert_eq!(opened, Some(MAX_TUNNELS));
    assert_eq!(hostile.heard(), []);
    client.opens(agent.id).unwrap();
    agent.is(1).unwrap();
    assert_eq!(client.heard(), [told("Node", &agent, 1)]);

    drop(hostile);
    let state = all.lock();
    assert_eq!((state.core.sizes(), state.queues.len()), ((2, 1, 1), 2));
}

impl Peer {
    /// Connects a client with the access that it was granted.
    fn granted(coordinator: &Coordinator, may: Uuid, access: &Arc<Access>) -> Self {
        let Self { id, peer, answers } = Self::client(coordinator, may);
        let peer = peer.until(access.clone());
        Self { id, peer, answers }
    }
}

#[test]
fn a_client_whose_access_ends_is_gone_for_good_and_one_whose_connection_breaks_is_waited_for() {
    let all = Coordinator::default();
    let mut agent = Peer::agent(&all);
    for is_revoked in [false, true] {
        let access = Arc::new(Access::default());
        let client = Peer::granted(&all, agent.id, &access);
        agent.is(1).unwrap();
        client.is(2).unwrap();
        client.opens(agent.id).unwrap();
        assert_eq!(agent.heard(), [told("Node", &client, 2)]);
        if is_revoked {
            access.revoke();
        }
        let id = client.id;
        drop(client);
        let kind = if is_revoked { "Disconnected" } else { "Lost" };
        assert!(agent.heard().contains(&(kind.to_owned(), id, 0)));
    }
}

#[test]
fn a_client_whose_access_ends_after_its_connection_broke_is_gone_also_for_an_agent_that_was_away() {
    let all = Coordinator::default();
    let (mut here, away) = (Peer::agent(&all), Peer::agent(&all));
    let access = Arc::new(Access::default());
    let id = Uuid::from_u128(7);
    let (peer, answers) = all.connect(id, Auth::Client(None));
    let peer = peer.until(access.clone());
    let both = Peer { id, peer, answers };
    both.is(2).unwrap();
    here.is(1).unwrap();
    away.is(1).unwrap();
    both.opens(here.id).unwrap();
    both.opens(away.id).unwrap();
    let away_id = away.id;
    drop((both, away));
    here.heard();

    all.forget_revoked();
    assert_eq!(here.heard(), [], "it may come back");
    access.revoke();
    all.forget_revoked();

    let gone = ("Disconnected".to_owned(), id, 0);
    assert_eq!(here.heard(), std::slice::from_ref(&gone));
    let mut back = Peer::again(&all, away_id);
    assert_eq!(back.heard(), [gone]);
    drop(back);
    assert_eq!(Peer::again(&all, away_id).heard(), [], "it is told once");
}
