//! Direct paths of a node, with a network between the two that lets UDP through or does not.

use super::*;

const ONE: &str = "192.0.2.1:1000";
const TWO: &str = "192.0.2.2:2000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Counts of what went by each way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Went {
    relayed: usize,
    direct: usize,
    pongs: Vec<Via>,
    /// Answers inside the tunnel.
    reached: usize,
}

/// Two nodes that announce their endpoints to each other.
struct Both {
    one: Side,
    two: Side,
    now: Instant,
    /// Set if UDP arrives.
    is_open: bool,
}

impl Both {
    fn new() -> Self {
        let now = Instant::now();
        let (mut one, mut two) = (Side::new(1), Side::new(2));
        for (side, endpoint) in [(&mut one, ONE), (&mut two, TWO)] {
            side.node.endpoints = vec![at(endpoint)];
            let endpoints = Some(side.node.endpoints.clone());
            side.engine.set_endpoints(endpoints);
        }
        one.learns(two.id, &two.node, now);
        two.learns(one.id, &one.node, now);
        Self {
            one,
            two,
            now,
            is_open: true,
        }
    }

    /// Delivers all packets of both until there are none.
    fn settle(&mut self) -> Went {
        let mut went = Went::default();
        loop {
            let outputs = [self.one.outputs(), self.two.outputs()];
            if outputs.iter().all(Vec::is_empty) {
                return went;
            }
            let [of_one, of_two] = outputs;
            for output in of_one {
                self.deliver(output, true, &mut went);
            }
            for output in of_two {
                self.deliver(output, false, &mut went);
            }
        }
    }

    fn deliver(&mut self, output: Output, is_from_one: bool, went: &mut Went) {
        let (from, to, source) = match is_from_one {
            true => (&self.one, &mut self.two, ONE),
            false => (&self.two, &mut self.one, TWO),
        };
        match output {
            Output::Relay { region, packet, .. } => {
                went.relayed += 1;
                to.engine.from_relay(region, from.key, &packet, self.now);
            }
            Output::Udp { packet, .. } if self.is_open => {
                went.direct += 1;
                to.engine.from_udp(at(source), &packet, self.now);
            }
            Output::Pong(_, via) => went.pongs.push(via),
            Output::Reached(_) => went.reached += 1,
            _ => {}
        }
    }

    fn talk(&mut self) -> Went {
        let token = Side::token();
        self.one.engine.reach(self.two.id, token, self.now);
        self.settle()
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        let milliseconds = u64::try_from(by.as_millis()).unwrap();
        for side in [&mut self.one, &mut self.two] {
            side.fakes.clock.advance(milliseconds);
            side.engine.tick(self.now);
        }
        self.settle();
    }

    fn pings(&mut self) -> Vec<Via> {
        assert!(self.one.engine.ping(self.two.id, [7; 12], self.now));
        self.settle().pongs
    }
}

#[test]
fn a_path_that_answers_takes_the_relay_s_place() {
    let mut both = Both::new();
    let first = both.talk();
    assert!(first.relayed > 0 && first.direct > 0, "{first:?}");

    let then = both.talk();

    assert_eq!(then.relayed, 0, "{then:?}");
    assert!(then.direct > 0);
    assert!(both.pings().contains(&Via::Direct(at(TWO))));
}

#[test]
fn where_udp_does_not_get_through_everything_goes_by_the_relay() {
    let mut both = Both::new();
    both.is_open = false;
    both.talk();

    let then = both.talk();

    assert!(then.relayed > 0);
    assert_eq!(both.pings(), [Via::Relay(HOME)]);
}

#[test]
fn a_path_that_breaks_loses_nothing_but_what_was_sent_while_it_was_trusted() {
    let mut both = Both::new();
    both.talk();
    both.is_open = false;
    both.later(Duration::from_secs(7));

    let went = both.talk();
    assert!(went.relayed > 0, "{went:?}");
    assert_eq!(both.pings(), [Via::Relay(HOME)]);

    both.is_open = true;
    both.later(Duration::from_secs(6));
    both.talk();
    assert_eq!(both.talk().relayed, 0, "it is back");
}

#[test]
fn a_path_is_kept_while_packets_go_over_it() {
    let mut both = Both::new();
    both.talk();

    for _ in 0..20 {
        both.later(Duration::from_secs(3));
        assert_eq!(both.talk().relayed, 0);
    }
}

#[test]
fn whoever_may_not_go_directly_neither_pings_nor_answers() {
    let mut both = Both::new();
    both.two.engine.set_endpoints(None);

    both.talk();
    let went = both.talk();

    assert!(went.relayed > 0);
    assert_eq!(both.pings(), [Via::Relay(HOME)]);
    assert!(both.two.engine.by_endpoint.is_empty());
    both.one.engine.set_endpoints(None);
    both.later(Duration::from_secs(6));
    assert_eq!(both.talk().direct, 0);
}

#[test]
fn in_another_network_paths_are_found_anew() {
    let mut both = Both::new();
    both.talk();
    assert_eq!(both.talk().relayed, 0);

    both.one.engine.network_changed();

    assert!(both.talk().relayed > 0);
    assert_eq!(both.talk().relayed, 0);
}

#[test]
fn packets_from_endpoints_of_nobody_are_dropped() {
    let mut both = Both::new();
    both.talk();
    let stranger = at("203.0.113.1:1");

    both.two.engine.from_udp(stranger, &[4; 60], both.now);
    assert!(both.two.outputs().is_empty());
    // A sealed message that somebody repeats from elsewhere opens no path: at most it is answered.
    let ping = disco::Message::Ping {
        transaction: [1; 12],
        node: Some(Side::new(3).key),
    };
    let shared = Private::from_bytes([101; 32]).shared(both.two.node.disco);
    let packet = disco::seal(&ping, &Private::from_bytes([101; 32]), &shared);
    both.two.engine.from_udp(stranger, &packet, both.now);
    assert!(both.two.outputs().is_empty(), "another node's key");
}

#[test]
fn a_peer_that_forges_the_address_of_another_does_not_take_its_packets() {
    let mut both = Both::new();
    both.talk();
    let thief = Side::new(3);
    both.two.learns(thief.id, &thief.node, both.now);
    let disco = Private::from_bytes([103; 32]);
    let shared = disco.shared(both.two.node.disco);
    let ping = disco::Message::Ping {
        transaction: [1; 12],
        node: None,
    };
    let packet = disco::seal(&ping, &disco, &shared);

    both.two.engine.from_udp(at(ONE), &packet, both.now);

    assert_eq!(both.two.engine.by_endpoint[&at(ONE)].len(), 2);
    both.settle();
    assert!(both.one.engine.ping(both.two.id, [7; 12], both.now));
    let token = Side::token();
    both.one.engine.reach(both.two.id, token, both.now);
    let went = both.settle();
    assert_eq!(went.relayed, 0);
    assert!(went.reached > 0, "{went:?}");
}

#[test]
fn endpoints_that_a_peer_pings_from_are_bounded_and_forgotten() {
    let mut both = Both::new();
    let disco = Private::from_bytes([101; 32]);
    let shared = disco.shared(both.two.node.disco);
    for port in 1..=1_000_u16 {
        let ping = disco::Message::Ping {
            transaction: [1; 12],
            node: None,
        };
        let packet = disco::seal(&ping, &disco, &shared);
        let from = SocketAddr::from(([203, 0, 113, 1], port));
        both.two.engine.from_udp(from, &packet, both.now);
    }
    assert!(both.two.engine.by_endpoint.len() <= 100);

    both.later(Duration::from_secs(46));
    both.later(Duration::from_secs(1));

    assert!(both.two.engine.by_endpoint.len() <= 1);
    both.two
        .engine
        .update(both.one.id, PeerUpdate::Disconnected, both.now);
    assert!(both.two.engine.by_endpoint.is_empty());
}
