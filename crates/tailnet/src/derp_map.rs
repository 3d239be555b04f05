//! DERP map: the relays by region, with Go's JSON names and as a message.
//!
//! # Source
//! coder/tailscale `tailcfg/derpmap.go`; coder `tailnet/derp.go`.

use std::collections::BTreeMap;

use outpost_wire::proto::coder::tailnet::v2 as wire;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::stun;

/// Region of a server's own relay, unless configured otherwise.
pub(crate) const EMBEDDED_REGION: i32 = 999;
/// Port that means no STUN; 0 would mean the default port.
const NO_STUN: i32 = -1;

/// Map of all relays by region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DerpMap {
    /// Preferences among the regions.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) home_params: HomeParams,
    /// Regions by their ids.
    pub regions: BTreeMap<i32, Region>,
    /// Set if the default regions are left out.
    #[serde(rename = "omitDefaultRegions", skip_serializing_if = "is_default")]
    pub(crate) omit_default_regions: bool,
}

/// Preferences among the regions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HomeParams {
    /// Factors by which latencies are multiplied.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) region_score: BTreeMap<i32, f64>,
}

/// A region: relays that know each other's clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Region {
    /// Set for the server's own relay, which is wherever the dialling node reaches the server.
    pub(crate) embedded_relay: bool,
    /// Id of the region, not 0.
    #[serde(rename = "RegionID")]
    pub id: i32,
    /// Short name of the region.
    #[serde(rename = "RegionCode")]
    pub code: String,
    /// Long name of the region.
    #[serde(rename = "RegionName")]
    pub name: String,
    /// Set if the region is used only when there is no other.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) avoid: bool,
    /// Relays of the region, in order of preference.
    pub nodes: Vec<RelayNode>,
}

/// A relay of a region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RelayNode {
    /// Name, unique among all relays.
    pub name: String,
    /// Id of its region.
    #[serde(rename = "RegionID")]
    pub(crate) region_id: i32,
    /// Host name of the relay.
    pub host_name: String,
    /// Name in its certificate, if it differs from the host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cert_name: String,
    /// IPv4 address, which saves looking up the name; may be empty.
    #[serde(rename = "IPv4", skip_serializing_if = "String::is_empty")]
    pub(crate) ipv4: String,
    /// IPv6 address, which saves looking up the name; may be empty.
    #[serde(rename = "IPv6", skip_serializing_if = "String::is_empty")]
    pub(crate) ipv6: String,
    /// Port for STUN: 0 for the default one, -1 for none.
    #[serde(rename = "STUNPort", skip_serializing_if = "is_default")]
    pub(crate) stun_port: i32,
    /// Set if the node only answers STUN and relays nothing.
    #[serde(rename = "STUNOnly", skip_serializing_if = "is_default")]
    pub(crate) stun_only: bool,
    /// Port for DERP; 0 means 443.
    #[serde(rename = "DERPPort", skip_serializing_if = "is_default")]
    pub(crate) derp_port: i32,
    /// Set if certificates are not to be checked, which we ignore.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) insecure_for_tests: bool,
    /// Set for plain HTTP in place of HTTPS.
    #[serde(rename = "ForceHTTP", skip_serializing_if = "is_default")]
    pub(crate) force_http: bool,
    /// Address for STUN in tests.
    #[serde(rename = "STUNTestIP", skip_serializing_if = "String::is_empty")]
    pub(crate) stun_test_ip: String,
    /// Set if port 80 answers.
    #[serde(rename = "CanPort80", skip_serializing_if = "is_default")]
    pub(crate) can_port_80: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RelayNode {
    /// URL of the relay: `http://HOST:PORT/derp`. `None` if the host is not a host name or an address.
    pub fn url(&self) -> Option<Url> {
        let scheme = if self.force_http { "http" } else { "https" };
        let host: Host = Host::parse(&bracketed(&self.host_name)).ok()?;
        let mut url = Url::parse(&format!("{scheme}://{host}/derp")).ok()?;
        if self.derp_port != 0 {
            url.set_port(Some(u16::try_from(self.derp_port).ok()?))
                .ok()?;
        }
        Some(url)
    }
}

/// Formats a host for a URL: maps have IPv6 addresses without brackets.
fn bracketed(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host.to_owned(),
    }
}

impl DerpMap {
    /// Returns the map of a server whose own relay is the only one.
    pub fn embedded(url: &Url) -> Self {
        let region_id = EMBEDDED_REGION;
        let node = RelayNode {
            name: format!("{region_id}b"),
            region_id,
            stun_port: NO_STUN,
            ..RelayNode::default()
        };
        let region = Region {
            embedded_relay: true,
            id: region_id,
            code: "outpost".to_owned(),
            name: "Embedded relay".to_owned(),
            avoid: false,
            nodes: vec![node],
        };
        let mut map = Self {
            regions: [(region_id, region)].into(),
            ..Self::default()
        };
        map.rewrite_embedded(url);
        map
    }

    /// Moves the server's own relay to the address at which the dialling node reaches the server.
    pub fn rewrite_embedded(&mut self, url: &Url) {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().map_or(0, i32::from);
        for region in self.regions.values_mut().filter(|it| it.embedded_relay) {
            for node in region.nodes.iter_mut().filter(|node| !node.stun_only) {
                host.clone_into(&mut node.host_name);
                node.derp_port = port;
                node.force_http = url.scheme() == "http";
            }
        }
    }

    /// Adds regions that only answer STUN, with the next free ids, as Coder's server does.
    pub fn add_stun_servers(&mut self, servers: &[(String, u16)]) {
        let first = self
            .regions
            .keys()
            .next_back()
            .map_or(EMBEDDED_REGION, |id| id + 1);
        for (region_id, (host, port)) in (first..).zip(servers) {
            let number = region_id - first;
            let node = RelayNode {
                name: format!("{region_id}stun0"),
                region_id,
                host_name: host.clone(),
                stun_port: (*port).into(),
                stun_only: true,
                ..RelayNode::default()
            };
            let region = Region {
                id: region_id,
                code: format!("coder_stun_{number}"),
                name: format!("Coder STUN {number}"),
                nodes: vec![node],
                ..Region::default()
            };
            self.regions.insert(region_id, region);
        }
    }

    /// Removes all STUN servers, from which nodes would learn their public addresses, so that two nodes reach each
    /// other only by relays.
    pub fn without_stun(&mut self) {
        for region in self.regions.values_mut() {
            region.nodes.retain(|node| !node.stun_only);
            for node in &mut region.nodes {
                node.stun_port = NO_STUN;
            }
        }
        self.regions.retain(|_, region| !region.nodes.is_empty());
    }

    /// Hosts and ports of all STUN servers.
    pub fn stun_servers(&self) -> Vec<(String, u16)> {
        let nodes = self.regions.values().flat_map(|region| &region.nodes);
        let servers = nodes.filter_map(|node| {
            let port = match node.stun_port {
                0 => stun::PORT,
                port => u16::try_from(port).ok()?,
            };
            let names = [&node.stun_test_ip, &node.ipv4, &node.ipv6, &node.host_name];
            let host = names
                .into_iter()
                .find(|it| !it.is_empty() && *it != "none")?;
            Some((host.clone(), port))
        });
        servers.collect()
    }

    /// Relays of a region in the order in which they are tried.
    pub fn relays(&self, region: i32) -> impl Iterator<Item = &RelayNode> {
        let nodes = self.regions.get(&region).into_iter();
        nodes
            .flat_map(|region| &region.nodes)
            .filter(|node| !node.stun_only)
    }

    /// Regions that can be home, those to be avoided last.
    pub fn homes(&self) -> Vec<i32> {
        let relays = |region: &&Region| region.nodes.iter().any(|node| !node.stun_only);
        let mut all: Vec<&Region> = self.regions.values().filter(relays).collect();
        all.sort_by_key(|region| region.avoid);
        all.iter().map(|region| region.id).collect()
    }

    /// Converts the map from a message.
    pub fn from_wire(map: wire::DerpMap) -> Self {
        let small = |number: i64| i32::try_from(number).unwrap_or_default();
        let node = |node: wire::derp_map::region::Node| RelayNode {
            name: node.name,
            region_id: small(node.region_id),
            host_name: node.host_name,
            cert_name: node.cert_name,
            ipv4: node.ipv4,
            ipv6: node.ipv6,
            stun_port: node.stun_port,
            stun_only: node.stun_only,
            derp_port: node.derp_port,
            insecure_for_tests: node.insecure_for_tests,
            force_http: node.force_http,
            stun_test_ip: node.stun_test_ip,
            can_port_80: node.can_port_80,
        };
        let region = |region: wire::derp_map::Region| Region {
            embedded_relay: region.embedded_relay,
            id: small(region.region_id),
            code: region.region_code,
            name: region.region_name,
            avoid: region.avoid,
            nodes: region.nodes.into_iter().map(node).collect(),
        };
        // JSON cannot encode infinity or NaN, and neither makes sense as a factor.
        let scores = map.home_params.unwrap_or_default().region_score;
        let scores = scores.into_iter().filter(|(_, score)| score.is_finite());
        Self {
            home_params: HomeParams {
                region_score: scores.map(|(id, it)| (small(id), it)).collect(),
            },
            regions: map
                .regions
                .into_iter()
                .map(|(id, it)| (small(id), region(it)))
                .collect(),
            omit_default_regions: false,
        }
    }

    /// Converts the map to a message. `home_params` is always present: clients in Go rely on it.
    pub fn to_wire(&self) -> wire::DerpMap {
        let node = |node: &RelayNode| wire::derp_map::region::Node {
            name: node.name.clone(),
            region_id: node.region_id.into(),
            host_name: node.host_name.clone(),
            cert_name: node.cert_name.clone(),
            ipv4: node.ipv4.clone(),
            ipv6: node.ipv6.clone(),
            stun_port: node.stun_port,
            stun_only: node.stun_only,
            derp_port: node.derp_port,
            insecure_for_tests: node.insecure_for_tests,
            force_http: node.force_http,
            stun_test_ip: node.stun_test_ip.clone(),
            can_port_80: node.can_port_80,
        };
        let region = |region: &Region| wire::derp_map::Region {
            region_id: region.id.into(),
            embedded_relay: region.embedded_relay,
            region_code: region.code.clone(),
            region_name: region.name.clone(),
            avoid: region.avoid,
            nodes: region.nodes.iter().map(node).collect(),
        };
        let scores = &self.home_params.region_score;
        wire::DerpMap {
            home_params: Some(wire::derp_map::HomeParams {
                region_score: scores.iter().map(|(id, it)| ((*id).into(), *it)).collect(),
            }),
            regions: self
                .regions
                .iter()
                .map(|(id, it)| ((*id).into(), region(it)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_without_stun_keeps_its_relays() {
        let mut map = DerpMap::embedded(&"https://outpost.example".parse().unwrap());
        let relay = map.regions[&EMBEDDED_REGION].nodes[0].clone();
        let stun = RelayNode {
            stun_only: true,
            stun_port: 3478,
            ..relay.clone()
        };
        let mut only_stun = map.regions[&EMBEDDED_REGION].clone();
        only_stun.nodes = vec![stun.clone()];
        map.regions.insert(1, only_stun);
        let own = map.regions.get_mut(&EMBEDDED_REGION).unwrap();
        own.nodes[0].stun_port = 3478;
        own.nodes.push(stun);

        map.without_stun();

        let nodes: Vec<_> = map.regions.values().flat_map(|it| &it.nodes).collect();
        assert_eq!(nodes, [&relay]);
    }

    #[test]
    fn stun_servers_have_regions_of_their_own_that_are_no_homes() {
        let mut map = DerpMap::embedded(&"https://outpost.example".parse().unwrap());
        let servers = [("stun.example".to_owned(), 3478), ("::1".to_owned(), 7)];

        map.add_stun_servers(&servers);

        assert_eq!(map.homes(), [EMBEDDED_REGION]);
        assert_eq!(map.stun_servers(), servers);
        map.regions.get_mut(&1000).unwrap().nodes[0].stun_port = 0;
        assert_eq!(map.stun_servers()[0].1, stun::PORT);
        map.without_stun();
        assert!(map.stun_servers().is_empty());
    }

    #[test]
    fn a_map_has_go_s_names_and_comes_back() {
        let map = DerpMap::embedded(&"http://[::1]:3000/".parse().unwrap());

        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(
            json,
            r#"{"Regions":{"999":{"EmbeddedRelay":true,"RegionID":999,"RegionCode":"outpost","RegionName":"Embedded relay","Nodes":[{"Name":"999b","RegionID":999,"HostName":"::1","STUNPort":-1,"DERPPort":3000,"ForceHTTP":true}]}}}"#
        );
        assert_eq!(serde_json::from_str::<DerpMap>(&json).unwrap(), map);
        assert_eq!(DerpMap::from_wire(map.to_wire()), map);
        let url = map.relays(999).next().unwrap().url().unwrap();
        assert_eq!(url.as_str(), "http://[::1]:3000/derp");
        assert_eq!(map.homes(), [999]);
    }

    #[test]
    fn scores_that_are_no_factors_are_left_out() {
        let mut map = DerpMap::embedded(&"http://127.0.0.1:3000".parse().unwrap());
        map.home_params.region_score = [(1, f64::NAN), (2, f64::INFINITY), (3, 0.5)].into();

        let scores = DerpMap::from_wire(map.to_wire()).home_params.region_score;

        assert_eq!(scores, [(3, 0.5)].into());
    }

    #[test]
    fn the_server_s_own_relay_is_where_the_server_is_found() {
        let mut map = DerpMap::embedded(&"http://127.0.0.1:3000".parse().unwrap());

        map.rewrite_embedded(&"https://coder.example.com/sub".parse().unwrap());

        let url = map.relays(999).next().unwrap().url().unwrap();
        assert_eq!(url.as_str(), "https://coder.example.com/derp");
    }

    #[test]
    fn a_relay_whose_host_is_none_is_nowhere() {
        let at = |host: &str| RelayNode {
            host_name: host.to_owned(),
            ..RelayNode::default()
        };

        for host in ["", "/", "somebody@host", "host/path", "host#", "[::1"] {
            assert_eq!(at(host).url(), None, "{host}");
        }
        let url = at("relay.example.com").url().unwrap();
        assert_eq!(url.as_str(), "https://relay.example.com/derp");
    }

    #[test]
    fn a_region_that_only_measures_is_no_home() {
        let mut map = DerpMap::embedded(&"http://127.0.0.1:1".parse().unwrap());
        map.regions.get_mut(&999).unwrap().nodes[0].stun_only = true;

        assert!(map.homes().is_empty());
        assert_eq!(map.relays(999).count(), 0);
    }
}
