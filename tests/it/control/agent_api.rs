//! The API of agents, level by level: what we announce is answered, and others with an agent's token are not the agent.

use std::collections::BTreeMap;

use bytes::Bytes;
use outpost::net::http;
use outpost::{
    proto::coder::{
        agent::v2 as agent,
        tailnet::v2::{
            CoordinateRequest, CoordinateResponse, Node, coordinate_request::UpdateSelf,
        },
    },
    secret::Secret,
    tailnet::{API_VERSION, coordination::LIMITS, dial::dial},
    transport::{
        coder::ApiVersion,
        drpc::{Call, CallError, UNIMPLEMENTED},
        yamux,
    },
};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Lab, PATIENCE,
    agents::{ask, get, lab_with_agent, open},
    coder_wire::{knock, request_with_body},
};

const RPC: &str = "api/v2/workspaceagents/me/rpc";
const COORDINATE: &str = "/coder.tailnet.v2.Tailnet/Coordinate";

/// How a call that a level has is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answered {
    /// With what was asked for, or with what is wrong in an empty request.
    Yes,
    /// As not implemented, which those who call it can live with.
    No,
    /// It is a stream, which other tests read.
    Stream,
}
use Answered::{No, Stream, Yes};

/// Minor versions of the API, and the calls that came with them. Levels without calls added fields only.
const LEVELS: [(u16, &[(&str, Answered)]); 12] = [
    (
        0,
        &[
            ("coder.agent.v2.Agent/GetManifest", Yes),
            ("coder.agent.v2.Agent/GetServiceBanner", Yes),
            ("coder.agent.v2.Agent/UpdateStats", Yes),
            ("coder.agent.v2.Agent/UpdateLifecycle", Yes),
            ("coder.agent.v2.Agent/BatchUpdateAppHealths", Yes),
            ("coder.agent.v2.Agent/UpdateStartup", Yes),
            ("coder.agent.v2.Agent/BatchUpdateMetadata", Yes),
            ("coder.agent.v2.Agent/BatchCreateLogs", Yes),
            ("coder.tailnet.v2.Tailnet/StreamDERPMaps", Stream),
            ("coder.tailnet.v2.Tailnet/Coordinate", Stream),
        ],
    ),
    (1, &[("coder.agent.v2.Agent/GetAnnouncementBanners", Yes)]),
    (2, &[("coder.tailnet.v2.Tailnet/PostTelemetry", Yes)]),
    (
        3,
        &[
            ("coder.agent.v2.Agent/ScriptCompleted", Yes),
            ("coder.tailnet.v2.Tailnet/RefreshResumeToken", Yes),
            ("coder.tailnet.v2.Tailnet/WorkspaceUpdates", Stream),
        ],
    ),
    (
        4,
        &[
            (
                "coder.agent.v2.Agent/GetResourcesMonitoringConfiguration",
                Yes,
            ),
            ("coder.agent.v2.Agent/PushResourcesMonitoringUsage", Yes),
            ("coder.agent.v2.Agent/ReportConnection", Yes),
        ],
    ),
    (5, &[]), // Manifest.parent_id: no agent of ours has a parent.
    (
        6,
        &[
            ("coder.agent.v2.Agent/ListSubAgents", Yes),
            ("coder.agent.v2.Agent/CreateSubAgent", No),
            ("coder.agent.v2.Agent/DeleteSubAgent", No),
        ],
    ),
    (7, &[("coder.agent.v2.Agent/ReportBoundaryLogs", Yes)]),
    (8, &[("coder.agent.v2.Agent/UpdateAppStatus", Yes)]),
    (9, &[]), // Fields of boundary logs.
    // The reference answered it so, too, when it announced this level.
    (10, &[("coder.agent.v2.Agent/PushContextState", No)]),
    (11, &[]), // Stats.session_counts and Connection.app_name.
];

/// Opens the API at a version, as an agent or, with a path of theirs, a person.
async fn open_at(lab: &Lab, path: &str, minor: u16, token: &Secret) -> yamux::Connection {
    let client = http::Client::new(http::Config::new(lab.server.url().clone())).unwrap();
    let version = ApiVersion { major: 2, minor };
    let opened = dial(&client, path, &[], token, version);
    timeout(PATIENCE, opened).await.unwrap().unwrap()
}

/// The code of the error that a call without anything in it is answered with, 0 if there is none.
async fn code(connection: &yamux::Connection, method: &str) -> u64 {
    let empty = agent::GetManifestRequest {};
    let asked: Result<agent::GetManifestRequest, _> =
        ask(connection, &format!("/{method}"), &empty).await;
    match asked {
        Ok(_) | Err(CallError::Decode(_)) => 0,
        Err(CallError::Remote { code, .. }) => code,
        Err(error) => panic!("{method}: {error:?}"),
    }
}

#[tokio::test]
async fn each_level_of_the_api_that_we_announce_is_answered_call_by_call() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let person = lab.server.admin_token().clone();
    assert_eq!(
        LEVELS.last().unwrap().0,
        API_VERSION.minor,
        "a level without a row"
    );

    for (minor, calls) in LEVELS {
        let of_agent = open_at(&lab, RPC, minor, &placed.token).await;
        let of_client = open_at(&lab, "api/v2/tailnet", minor, &person).await;
        for (method, answered) in calls {
            let connection = match method.contains("RefreshResumeToken") {
                true => &of_client,
                false => &of_agent,
            };
            let expected = match answered {
                Yes => 0,
                No => UNIMPLEMENTED,
                Stream => continue,
            };
            assert_eq!(
                code(connection, method).await,
                expected,
                "2.{minor} {method}"
            );
        }
    }
}

#[tokio::test]
async fn what_no_service_has_is_not_implemented_for_agents_and_clients() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let of_agent = open_at(&lab, RPC, 0, &placed.token).await;
    let of_client = open_at(&lab, "api/v2/tailnet", 0, lab.server.admin_token()).await;

    for method in [
        "coder.agent.v2.Agent/Invent",
        "coder.tailnet.v2.Tailnet/Invent",
        "coder.other.v1.Other/Invent",
        "",
    ] {
        for connection in [&of_agent, &of_client] {
            assert_eq!(code(connection, method).await, UNIMPLEMENTED, "{method}");
        }
    }
    // A client is no agent.
    let method = "coder.agent.v2.Agent/GetManifest";
    assert_eq!(code(&of_client, method).await, UNIMPLEMENTED);
}

#[tokio::test]
async fn agents_of_later_levels_are_let_in_and_the_version_that_they_speak_is_shown() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let address = lab.server.address();
    let unknown = [(
        "Coder-Session-Token",
        "33333333-3333-3333-3333-333333333333",
    )];
    for (version, status) in [
        ("2.0", 401),
        ("2.10", 401),
        ("2.11", 401),
        ("2.12", 401),
        ("3.0", 400),
    ] {
        let path = format!("/{RPC}?version={version}&role=agent");
        let answer = knock(address, &path, &unknown).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{version}: {answer}"
        );
    }

    let connection = open_at(&lab, RPC, 12, &placed.token).await;

    let id = agent_id(&connection).await;
    assert_eq!(get(&lab, &path_of(id)).await["api_version"], "2.12");
}

#[tokio::test]
async fn sessions_are_counted_by_app_with_the_old_counters_as_a_fallback() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let connection = open_at(&lab, RPC, 11, &placed.token).await;
    let id = agent_id(&connection).await;
    let report = async |stats: agent::Stats| {
        let request = agent::UpdateStatsRequest { stats: Some(stats) };
        let method = "/coder.agent.v2.Agent/UpdateStats";
        let _: agent::UpdateStatsResponse = ask(&connection, method, &request).await.unwrap();
        let agent = get(&lab, &path_of(id)).await;
        agent["session_counts"].clone()
    };

    let counts = |all: &[(&str, i64)]| -> BTreeMap<String, i64> {
        all.iter().map(|(app, n)| ((*app).to_owned(), *n)).collect()
    };
    let new = agent::Stats {
        session_counts: counts(&[("Cursor", 2), ("ssh", 1)]),
        session_count_vscode: 7,
        ..agent::Stats::default()
    };
    assert_eq!(report(new).await, json!({ "cursor": 2, "ssh": 1 }));
    let old = agent::Stats {
        session_count_vscode: 7,
        session_count_reconnecting_pty: 1,
        ..agent::Stats::default()
    };
    assert_eq!(
        report(old).await,
        json!({ "reconnecting_pty": 1, "vscode": 7 })
    );
}

#[tokio::test]
async fn an_app_without_a_health_check_has_an_empty_one_as_go_agents_expect() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let connection = open_at(&lab, RPC, 10, &placed.token).await;
    let method = "/coder.agent.v2.Agent/GetManifest";
    let manifest: agent::Manifest = ask(&connection, method, &agent::GetManifestRequest {})
        .await
        .unwrap();

    let plain = manifest
        .apps
        .iter()
        .find(|app| app.slug == "plain")
        .unwrap();

    assert_eq!(plain.health(), agent::workspace_app::Health::Disabled);
    let check = plain.healthcheck.as_ref().expect("a message, be it empty");
    assert_eq!((check.url.as_str(), check.threshold), ("", 0));
}

#[tokio::test]
async fn a_workspace_is_used_by_any_app() {
    let (lab, _daemon, _placed) = lab_with_agent().await;
    let workspace = get(&lab, "/api/v2/users/me/workspace/dev").await["id"].clone();
    let path = format!("/api/v2/workspaces/{}/usage", workspace.as_str().unwrap());
    let token = lab.server.admin_token().expose().to_owned();
    let headers = [("Coder-Session-Token", token.as_str())];

    for app in ["vscode", "zed", "an editor of tomorrow"] {
        let body = json!({ "agent_id": Uuid::new_v4(), "app_name": app }).to_string();
        let answer = request_with_body(lab.server.address(), "POST", &path, &headers, &body).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{app}: {answer}");
    }
}

async fn agent_id(connection: &yamux::Connection) -> Uuid {
    let method = "/coder.agent.v2.Agent/GetManifest";
    let manifest: agent::Manifest = ask(connection, method, &agent::GetManifestRequest {})
        .await
        .unwrap();
    Uuid::from_slice(&manifest.agent_id).unwrap()
}

fn path_of(agent: Uuid) -> String {
    format!("/api/v2/workspaceagents/{agent}")
}

/// The agent's connection to the coordinator, which makes it reachable.
async fn coordinated(connection: &yamux::Connection, agent: Uuid) -> Call<yamux::Stream> {
    let stream = connection.open().unwrap();
    let mut call = Call::begin(stream, COORDINATE, LIMITS).await.unwrap();
    let node = Node {
        preferred_derp: 999,
        derp_latency: [
            ("999-v4".to_owned(), 0.25),
            ("999-v6".to_owned(), 0.5),
            ("7-v4".to_owned(), 1.0),
        ]
        .into(),
        addresses: vec![outpost::tailnet::address::cidr(
            outpost::tailnet::address::of_agent(agent)[0],
        )],
        ..Node::default()
    };
    let update = CoordinateRequest {
        update_self: Some(UpdateSelf { node: Some(node) }),
        ..CoordinateRequest::default()
    };
    call.send(&update).await.unwrap();
    call
}

async fn until(lab: &Lab, agent: Uuid, status: &str) -> Value {
    let seen = async {
        loop {
            let shown = get(lab, &path_of(agent)).await;
            if shown["status"] == status {
                return shown;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, seen).await.expect(status)
}

async fn helper(lab: &Lab, token: &Secret) -> yamux::Connection {
    let role = [("role", "logstream-kube")];
    open(lab, RPC, &role, token).await.unwrap()
}

#[tokio::test]
async fn a_program_with_the_agents_token_brings_logs_and_does_not_touch_the_agent() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let connection = open_at(&lab, RPC, 10, &placed.token).await;
    let id = agent_id(&connection).await;
    let mut call = coordinated(&connection, id).await;
    until(&lab, id, "connected").await;

    for _ in 0..20 {
        let other = helper(&lab, &placed.token).await;
        assert_eq!(code(&other, &COORDINATE[1..]).await, UNIMPLEMENTED);
        for method in ["UpdateLifecycle", "UpdateStartup", "UpdateStats"] {
            let method = format!("coder.agent.v2.Agent/{method}");
            assert_eq!(code(&other, &method).await, UNIMPLEMENTED);
        }
    }
    let other = helper(&lab, &placed.token).await;
    let source = Uuid::new_v4();
    let body =
        json!({ "id": source, "display_name": "Kubernetes", "icon": "/k8s.png" }).to_string();
    let headers = [("Coder-Session-Token", placed.token.expose())];
    let path = "/api/v2/workspaceagents/me/log-source";
    let made = request_with_body(lab.server.address(), "POST", path, &headers, &body).await;
    assert!(
        made.starts_with("HTTP/1.1 201 ") && made.contains("Kubernetes"),
        "{made}"
    );
    let line = agent::Log {
        output: "pod created".to_owned(),
        ..agent::Log::default()
    };
    let request = agent::BatchCreateLogsRequest {
        log_source_id: Bytes::copy_from_slice(source.as_bytes()),
        logs: vec![line],
    };
    let method = "/coder.agent.v2.Agent/BatchCreateLogs";
    let _: agent::BatchCreateLogsResponse = ask(&other, method, &request).await.unwrap();

    let lines = get(&lab, &format!("{}/logs", path_of(id))).await;
    assert_eq!(lines[0]["output"], "pod created");
    let shown = get(&lab, &path_of(id)).await;
    assert_eq!(shown["status"], "connected");
    assert_eq!(shown["lifecycle_state"], "created");
    assert_eq!(shown["api_version"], "2.10");
    let sources = shown["log_sources"].as_array().unwrap();
    assert_eq!(sources.last().unwrap()["id"], json!(source));
    // The agent's own stream goes on.
    let said = tokio::time::timeout(
        std::time::Duration::ZERO,
        call.receive::<CoordinateResponse>(),
    );
    assert!(said.await.is_err(), "the agent was cut off");
}

#[tokio::test]
async fn an_agent_that_is_gone_stays_so_whoever_comes_with_its_token() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let early = helper(&lab, &placed.token).await;
    let id = agent_id(&early).await;
    let shown = get(&lab, &path_of(id)).await;
    assert_eq!(
        (&shown["status"], &shown["first_connected_at"]),
        (&json!("connecting"), &Value::Null)
    );

    let connection = open_at(&lab, RPC, 10, &placed.token).await;
    let call = coordinated(&connection, id).await;
    until(&lab, id, "connected").await;
    drop((call, connection));
    let gone = until(&lab, id, "disconnected").await;

    let late = helper(&lab, &placed.token).await;
    assert_eq!(agent_id(&late).await, id);
    let shown = get(&lab, &path_of(id)).await;
    assert_eq!(shown["status"], "disconnected");
    assert_eq!(shown["last_connected_at"], gone["last_connected_at"]);
    assert_eq!(shown["disconnected_at"], gone["last_connected_at"]);
    assert_eq!(shown["health"]["reason"], "agent has lost connection");
}

#[tokio::test]
async fn how_far_an_agent_is_from_relays_is_shown_by_their_names() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let connection = open_at(&lab, RPC, 10, &placed.token).await;
    let id = agent_id(&connection).await;
    assert_eq!(get(&lab, &path_of(id)).await["latency"], json!({}));

    let _call = coordinated(&connection, id).await;
    let told = async {
        loop {
            let shown = get(&lab, &path_of(id)).await["latency"].clone();
            if shown != json!({}) {
                return shown;
            }
            tokio::task::yield_now().await;
        }
    };

    let expected = json!({
        "Embedded relay": { "preferred": true, "latency_ms": 250.0 },
        "Unnamed 7": { "preferred": false, "latency_ms": 1000.0 },
    });
    assert_eq!(timeout(PATIENCE, told).await.unwrap(), expected);
}
