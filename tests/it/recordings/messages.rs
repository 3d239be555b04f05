//! What a real agent, real clients and their server told each other: every message, node and map comes back as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use outpost::{
    proto::{
        coder::{
            agent::v2::{self as agent, UpdateLifecycleRequest},
            tailnet::v2::{self as tailnet, CoordinateRequest, CoordinateResponse},
        },
        provisionerd::Empty,
    },
    tailnet::{API_VERSION, DerpMap, Node, address, key::Key},
    transport::coder::ApiVersion,
};
use prost::Message as _;
use uuid::Uuid;

use super::{Call, Recording, same};

const RECORDINGS: [&str; 3] = [
    "agent-rpc.jsonl",
    "client-coordinate-direct.jsonl",
    "client-coordinate-relay.jsonl",
];

#[test]
fn every_message_of_agents_and_clients_is_decoded_and_encoded_alike() {
    for name in RECORDINGS {
        let Some(recording) = Recording::open(name) else {
            return;
        };
        let version = recording.head.split_once("version=").unwrap().1;
        let version = ApiVersion::parse(version.split(' ').next().unwrap()).unwrap();
        assert!(version.major == API_VERSION.major && version.minor <= API_VERSION.minor);
        let calls = recording.calls();
        assert!(calls.len() >= 4, "{name} has only {} calls", calls.len());
        for call in &calls {
            match call.name.rsplit_once('/').unwrap() {
                ("/coder.agent.v2.Agent", method) => of_agent(method, call),
                ("/coder.tailnet.v2.Tailnet", method) => of_tailnet(method, call),
                other => panic!("unexpected service {other:?}"),
            }
        }
    }
}

fn of_agent(method: &str, call: &Call) {
    use agent::{
        BatchCreateLogsRequest, BatchCreateLogsResponse, BatchUpdateMetadataRequest,
        BatchUpdateMetadataResponse, GetAnnouncementBannersRequest, GetAnnouncementBannersResponse,
        GetManifestRequest, GetResourcesMonitoringConfigurationRequest,
        GetResourcesMonitoringConfigurationResponse, Lifecycle, Manifest, ReportConnectionRequest,
        Startup, UpdateStartupRequest, UpdateStatsRequest, UpdateStatsResponse,
        WorkspaceAgentScriptCompletedRequest, WorkspaceAgentScriptCompletedResponse,
    };
    let (asked, answered) = call.messages();
    match method {
        "GetManifest" => {
            same::<GetManifestRequest, Manifest>(&asked, &answered);
            let manifest = Manifest::decode(answered[0].clone()).unwrap();
            check_map(manifest.derp_map.unwrap());
        }
        "UpdateStartup" => same::<UpdateStartupRequest, Startup>(&asked, &answered),
        "UpdateLifecycle" => same::<UpdateLifecycleRequest, Lifecycle>(&asked, &answered),
        "UpdateStats" => same::<UpdateStatsRequest, UpdateStatsResponse>(&asked, &answered),
        "BatchUpdateMetadata" => {
            same::<BatchUpdateMetadataRequest, BatchUpdateMetadataResponse>(&asked, &answered);
        }
        "BatchCreateLogs" => {
            same::<BatchCreateLogsRequest, BatchCreateLogsResponse>(&asked, &answered);
        }
        "ScriptCompleted" => same::<
            WorkspaceAgentScriptCompletedRequest,
            WorkspaceAgentScriptCompletedResponse,
        >(&asked, &answered),
        "GetAnnouncementBanners" => {
            same::<GetAnnouncementBannersRequest, GetAnnouncementBannersResponse>(
                &asked, &answered,
            );
        }
        "GetResourcesMonitoringConfiguration" => same::<
            GetResourcesMonitoringConfigurationRequest,
            GetResourcesMonitoringConfigurationResponse,
        >(&asked, &answered),
        "ReportConnection" => same::<ReportConnectionRequest, Empty>(&asked, &answered),
        // We have no agents below others: who asks hears that there is no such call. Nothing is said in either
        // direction here, so that nothing is left over.
        "ListSubAgents" => same::<Empty, Empty>(&asked, &answered),
        other => panic!("unexpected method {other}"),
    }
}

fn of_tailnet(method: &str, call: &Call) {
    use tailnet::{RefreshResumeTokenRequest, RefreshResumeTokenResponse, StreamDerpMapsRequest};
    let (asked, answered) = call.messages();
    match method {
        "Coordinate" => {
            same::<CoordinateRequest, CoordinateResponse>(&asked, &answered);
            for (_, node) in nodes(call) {
                check_node(node);
            }
        }
        "StreamDERPMaps" => {
            same::<StreamDerpMapsRequest, tailnet::DerpMap>(&asked, &answered);
            for map in &answered {
                check_map(tailnet::DerpMap::decode(map.clone()).unwrap());
            }
        }
        "RefreshResumeToken" => {
            same::<RefreshResumeTokenRequest, RefreshResumeTokenResponse>(&asked, &answered);
        }
        // What is told to the vendor is taken and forgotten: for us it has no fields.
        "PostTelemetry" => {
            assert!(asked.iter().all(|it| Empty::decode(it.clone()).is_ok()));
            same::<Empty, Empty>(&[], &answered);
        }
        other => panic!("unexpected method {other}"),
    }
}

/// The nodes that a coordination tells of, and whose they are where that is said.
fn nodes(call: &Call) -> Vec<(Option<Uuid>, tailnet::Node)> {
    let (asked, answered) = call.messages();
    let decoded = |it: Bytes| CoordinateRequest::decode(it).unwrap();
    let own = asked.into_iter().map(decoded);
    let own = own.filter_map(|request| request.update_self?.node);
    let decoded = |it: Bytes| CoordinateResponse::decode(it).unwrap().peer_updates;
    let others = answered.into_iter().flat_map(decoded);
    let others = others.filter_map(|update| {
        let id = Uuid::from_slice(&update.id).unwrap();
        Some((Some(id), update.node?))
    });
    own.map(|node| (None, node)).chain(others).collect()
}

/// A node is what it was, once we made it ours and told it on; but one that has no relay yet is not told.
fn check_node(node: tailnet::Node) {
    match node.preferred_derp {
        0 => assert_eq!(Node::from_wire(node), None),
        _ => assert_eq!(Node::from_wire(node.clone()).unwrap().to_wire(), node),
    }
}

fn check_map(map: tailnet::DerpMap) {
    assert!(!map.regions.is_empty());
    assert_eq!(DerpMap::from_wire(map.clone()).to_wire(), map);
}

/// The disco key of every node that was recorded, by its own key.
pub(super) fn known_nodes() -> Option<BTreeMap<Key, Key>> {
    let mut known = BTreeMap::new();
    for name in RECORDINGS {
        for call in Recording::open(name)?.calls() {
            if call.method() == "Coordinate" {
                let nodes = nodes(&call).into_iter().map(|(_, node)| node);
                known.extend(nodes.map(|node| {
                    let key = Key::from_node_bytes(&node.key).unwrap();
                    (key, Key::from_disco_text(&node.disco).unwrap())
                }));
            }
        }
    }
    Some(known)
}

#[test]
fn agents_have_the_numbers_and_addresses_that_we_give_to_their_ids() {
    let mut seen = 0;
    for name in [
        "client-coordinate-direct.jsonl",
        "client-coordinate-relay.jsonl",
    ] {
        let Some(recording) = Recording::open(name) else {
            return;
        };
        for call in recording.calls() {
            if call.method() != "Coordinate" {
                continue;
            }
            for (id, node) in nodes(&call) {
                let Some(id) = id else { continue };
                seen += 1;
                let addresses: Vec<String> = address::of_agent(id).map(address::cidr).into();
                assert_eq!(node.addresses, addresses);
                assert_eq!(node.id, address::node_id(id));
            }
        }
    }
    assert!(seen >= 3);
}
