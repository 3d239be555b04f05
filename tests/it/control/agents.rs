//! What agents report, and who reads it: their logs, what they measure, how their apps are.

use futures::StreamExt as _;
use outpost::{
    control::Storage,
    job::{
        Agent, AgentAuth, AgentMetadata, App, BuildResult, CompletedJob, CompletedWork,
        Healthcheck, Job, Script,
    },
    net::http,
    proto::{
        coder::agent::v2::{self as agent, Manifest},
        outpost::v1::{self as api},
    },
    provision::JobSource,
    secret::Secret,
    stop::Stop,
    tailnet::{coordination::LIMITS, dial::dial},
    transport::{
        coder::{ApiVersion, DialError},
        drpc::{Call, CallError},
        grpc::GrpcSource,
        yamux,
    },
};
use prost::Message;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as Frame, client::IntoClientRequest as _, http::HeaderValue},
};
use uuid::Uuid;

use super::{Lab, PATIENCE, coder_wire::knock, resource, workspace_request};

/// A workspace with one agent, which holds this token.
pub struct Placed {
    pub build: String,
    pub token: Secret,
}

/// Opens the API of agents, or of their clients.
pub async fn open(
    lab: &Lab,
    path: &str,
    query: &[(&str, &str)],
    token: &Secret,
) -> Result<yamux::Connection, DialError> {
    let client = http::Client::new(http::Config::new(lab.server.url().clone())).unwrap();
    let version = ApiVersion {
        major: 2,
        minor: 10,
    };
    let opened = dial(&client, path, query, token, version);
    timeout(PATIENCE, opened).await.expect("an answer in time")
}

pub async fn open_agent(lab: &Lab, token: &Secret) -> yamux::Connection {
    open(lab, "api/v2/workspaceagents/me/rpc", &[], token)
        .await
        .unwrap()
}

/// Makes a call and waits for its answer.
pub async fn ask<A: Message + Default>(
    connection: &yamux::Connection,
    method: &str,
    request: &impl Message,
) -> Result<A, CallError> {
    let stream = connection.open().unwrap();
    let asked = Call::unary(stream, method, request, LIMITS);
    timeout(PATIENCE, asked).await.expect("an answer in time")
}

async fn report<A: Message + Default>(
    connection: &yamux::Connection,
    method: &str,
    request: &impl Message,
) -> Result<A, CallError> {
    ask(
        connection,
        &format!("/coder.agent.v2.Agent/{method}"),
        request,
    )
    .await
}

/// What a daemon says that built a workspace with one agent.
pub fn built_with_agent(job: &Job, token: &Secret) -> CompletedJob {
    let main = Agent {
        name: "main".to_owned(),
        operating_system: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        auth: AgentAuth::Token(token.expose().to_owned()),
        apps: vec![
            App {
                slug: "editor".to_owned(),
                url: "http://127.0.0.1:1".to_owned(),
                healthcheck: Some(Healthcheck {
                    url: "http://127.0.0.1:1/healthz".to_owned(),
                    interval: 5,
                    threshold: 3,
                }),
                ..App::default()
            },
            App {
                slug: "plain".to_owned(),
                ..App::default()
            },
        ],
        metadata: vec![AgentMetadata {
            key: "load".to_owned(),
            display_name: "Load".to_owned(),
            interval: 10,
            timeout: 1,
            ..AgentMetadata::default()
        }],
        scripts: vec![Script {
            display_name: "Install".to_owned(),
            run_on_start: true,
            ..Script::default()
        }],
        ..Agent::default()
    };
    let mut place = resource("a.vm");
    place.agents = vec![main];
    let result = BuildResult {
        state: "state".into(),
        resources: vec![place],
        ..BuildResult::default()
    };
    CompletedJob {
        id: job.id,
        result: CompletedWork::WorkspaceBuild(result),
    }
}

/// The daemon's next job.
pub async fn take(daemon: &GrpcSource) -> Job {
    daemon.acquire(&Stop::new()).await.unwrap().unwrap()
}

/// Does a build that makes an agent.
pub async fn place(daemon: &GrpcSource, build: api::Build) -> Placed {
    let token = Secret::new(Uuid::new_v4().to_string());
    let job = take(daemon).await;
    daemon
        .complete(built_with_agent(&job, &token))
        .await
        .unwrap();
    Placed {
        build: build.id,
        token,
    }
}

pub async fn build(lab: &mut Lab, workspace: &str, transition: &str) -> api::Build {
    let request = api::CreateBuildRequest {
        workspace: workspace.to_owned(),
        transition: transition.to_owned(),
        ..Default::default()
    };
    lab.api.create_build(request).await.unwrap().into_inner()
}

/// A server with a daemon, and a workspace `dev` that has an agent.
pub async fn lab_with_agent() -> (Lab, GrpcSource, Placed) {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.daemon("daemon");
    lab.import(&daemon).await;
    let request = workspace_request("dev");
    let made = lab.api.create_workspace(request).await.unwrap();
    let placed = place(&daemon, made.into_inner().latest_build.unwrap()).await;
    (lab, daemon, placed)
}

async fn manifest(connection: &yamux::Connection) -> Manifest {
    let request = agent::GetManifestRequest {};
    report(connection, "GetManifest", &request).await.unwrap()
}

async fn say(
    connection: &yamux::Connection,
    source: &bytes::Bytes,
    lines: &[&str],
) -> Result<bool, CallError> {
    let log = |line: &&str| agent::Log {
        output: (*line).to_owned(),
        level: agent::log::Level::Warn.into(),
        ..agent::Log::default()
    };
    let request = agent::BatchCreateLogsRequest {
        log_source_id: source.clone(),
        logs: lines.iter().map(log).collect(),
    };
    let answer: agent::BatchCreateLogsResponse =
        report(connection, "BatchCreateLogs", &request).await?;
    Ok(answer.log_limit_exceeded)
}

/// A log over a WebSocket. Go's clients send the token of whoever follows in a cookie.
pub async fn follow(lab: &Lab, path: &str) -> WebSocketStream<TcpStream> {
    let url = format!("ws://{}{path}?follow", lab.server.address());
    let mut request = url.into_client_request().unwrap();
    let token = lab.server.admin_token().expose();
    let cookie = HeaderValue::from_str(&format!("a=b; coder_session_token={token}")).unwrap();
    request.headers_mut().insert("cookie", cookie);
    let stream = TcpStream::connect(lab.server.address()).await.unwrap();
    let opened = tokio_tungstenite::client_async(request, stream).await;
    opened.unwrap().0
}

/// The next of it; `None` at its end, which must be a good one.
pub async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Option<Value> {
    loop {
        let frame = timeout(PATIENCE, socket.next()).await.unwrap();
        match frame.unwrap().unwrap() {
            Frame::Text(text) => return Some(serde_json::from_str::<Value>(&text).unwrap()),
            Frame::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                return None;
            }
            _ => {}
        }
    }
}

/// What a GET is answered with a person's token.
pub async fn get(lab: &Lab, path: &str) -> Value {
    let token = lab.server.admin_token().expose();
    let headers = [("Coder-Session-Token", token), ("Connection", "close")];
    let answer = knock(lab.server.address(), path, &headers).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn outputs(lines: &Value) -> Vec<&str> {
    let lines = lines.as_array().unwrap().iter();
    lines.map(|line| line["output"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_an_agent_says_is_kept_and_read_by_whoever_waits_for_it() {
    let (mut lab, daemon, placed) = lab_with_agent().await;
    let connection = open_agent(&lab, &placed.token).await;
    let manifest = manifest(&connection).await;
    let source = &manifest.scripts[0].log_source_id;
    let id = Uuid::from_slice(&manifest.agent_id).unwrap();
    let path = format!("/api/v2/workspaceagents/{id}/logs");
    assert_eq!(get(&lab, &path).await, serde_json::json!([]));

    let mut socket = follow(&lab, &path).await;
    let mut heard = async || hear(&mut socket).await;
    assert_eq!(heard().await, Some(serde_json::json!([])));

    assert!(!say(&connection, source, &["one", "t\0wo"]).await.unwrap());
    let lines = heard().await.unwrap();
    assert_eq!(outputs(&lines), ["one", "two"]);
    let source_id = Uuid::from_slice(source).unwrap().to_string();
    assert_eq!(lines[0]["source_id"], source_id.as_str());
    assert_eq!(lines[0]["level"], "warn");
    let (first, second) = (&lines[0]["id"], &lines[1]["id"]);
    let after = get(&lab, &format!("{path}?after={first}")).await;
    assert_eq!(outputs(&after), ["two"]);
    let before = get(&lab, &format!("{path}?before={second}")).await;
    assert_eq!(outputs(&before), ["one"]);

    let request = |follow| api::StreamAgentLogsRequest {
        workspace: "dev".to_owned(),
        follow,
        ..Default::default()
    };
    let mut followed = lab
        .api
        .stream_agent_logs(request(true))
        .await
        .unwrap()
        .into_inner();
    let batch = followed.message().await.unwrap().unwrap();
    assert_eq!(batch.lines[1].output, "two");
    assert_eq!(
        (&*batch.lines[1].source, &*batch.lines[1].agent),
        ("Install", "main")
    );

    // What is said while the workspace stops is read, too; then there is an end.
    build(&mut lab, "dev", "stop").await;
    let job = take(&daemon).await;
    assert!(!say(&connection, source, &["bye"]).await.unwrap());
    daemon.complete(super::built(&job)).await.unwrap();
    assert_eq!(outputs(&heard().await.unwrap()), ["bye"]);
    assert_eq!(heard().await, None);
    let batch = followed.message().await.unwrap().unwrap();
    assert_eq!(batch.lines[0].output, "bye");
    assert!(followed.message().await.unwrap().is_none());

    // The log of the last start stays until there is a newer one.
    let read = lab.api.stream_agent_logs(request(false)).await.unwrap();
    let batch = read.into_inner().message().await.unwrap().unwrap();
    assert_eq!(batch.lines.len(), 3);
    let started = build(&mut lab, "dev", "start").await;
    place(&daemon, started).await;
    let read = lab.api.stream_agent_logs(request(false)).await.unwrap();
    assert!(read.into_inner().message().await.unwrap().is_none());
    assert_eq!(get(&lab, &path).await, serde_json::json!([]));
    assert!(say(&connection, source, &["late"]).await.is_err());
}

#[tokio::test]
async fn an_agent_that_says_too_much_is_told_to_stop() {
    let (lab, _daemon, placed) = lab_with_agent().await;
    let connection = open_agent(&lab, &placed.token).await;
    let manifest = manifest(&connection).await;
    let source = &manifest.scripts[0].log_source_id;
    let half = "x".repeat(500 << 10);

    assert!(!say(&connection, source, &[&half, &half]).await.unwrap());
    assert!(say(&connection, source, &["fits", &half]).await.unwrap());

    // Whatever would fit, nothing is kept after what did not.
    assert!(say(&connection, source, &["more"]).await.unwrap());
    let id = Uuid::from_slice(&manifest.agent_id).unwrap();
    let lines = get(&lab, &format!("/api/v2/workspaceagents/{id}/logs")).await;
    assert_eq!(outputs(&lines), [&half, &half, "fits"]);
}

#[tokio::test]
async fn what_an_agent_measures_and_how_its_apps_and_scripts_are_is_shown() {
    let (mut lab, _daemon, placed) = lab_with_agent().await;
    let connection = open_agent(&lab, &placed.token).await;
    let manifest = manifest(&connection).await;
    let id = Uuid::from_slice(&manifest.agent_id).unwrap();
    let path = format!("/api/v2/workspaceagents/{id}");
    let app = get(&lab, &path).await["apps"][0].clone();
    assert_eq!(
        (&app["slug"], &app["health"]),
        (&"editor".into(), &"initializing".into())
    );

    let measured = |value: &str| agent::BatchUpdateMetadataRequest {
        metadata: vec![agent::Metadata {
            key: "load".to_owned(),
            result: Some(agent::workspace_agent_metadata::Result {
                value: value.to_owned(),
                ..Default::default()
            }),
        }],
    };
    for value in ["0.5", "0.7"] {
        let _: agent::BatchUpdateMetadataResponse =
            report(&connection, "BatchUpdateMetadata", &measured(value))
                .await
                .unwrap();
    }
    let health = |id: &bytes::Bytes| agent::BatchUpdateAppHealthRequest {
        updates: vec![agent::batch_update_app_health_request::HealthUpdate {
            id: id.clone(),
            health: agent::AppHealth::Unhealthy.into(),
        }],
    };
    let _: agent::BatchUpdateAppHealthResponse = report(
        &connection,
        "BatchUpdateAppHealths",
        &health(&manifest.apps[0].id),
    )
    .await
    .unwrap();
    let unknown: Result<agent::BatchUpdateAppHealthResponse, _> = report(
        &connection,
        "BatchUpdateAppHealths",
        &health(&manifest.agent_id),
    )
    .await;
    assert!(unknown.unwrap_err().to_string().contains("there is no app"));
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let ended = |start, end| agent::WorkspaceAgentScriptCompletedRequest {
        timing: Some(agent::Timing {
            script_id: manifest.scripts[0].id.clone(),
            start: time(start),
            end: time(end),
            exit_code: 3,
            status: agent::timing::Status::ExitFailure.into(),
            ..agent::Timing::default()
        }),
    };
    let _: agent::WorkspaceAgentScriptCompletedResponse =
        report(&connection, "ScriptCompleted", &ended(1, 3))
            .await
            .unwrap();
    let backwards: Result<agent::WorkspaceAgentScriptCompletedResponse, _> =
        report(&connection, "ScriptCompleted", &ended(3, 1)).await;
    assert!(backwards.is_err());
    let stats = agent::UpdateStatsRequest {
        stats: Some(agent::Stats {
            rx_bytes: 7,
            ..agent::Stats::default()
        }),
    };
    let _: agent::UpdateStatsResponse = report(&connection, "UpdateStats", &stats).await.unwrap();

    let request = api::ShowBuildRequest {
        build: placed.build.clone(),
    };
    let details = lab.api.show_build(request).await.unwrap().into_inner();
    let shown = &details.resources[0].agents[0];
    assert_eq!(
        (&*shown.id, &*shown.lifecycle),
        (&*id.to_string(), "created")
    );
    assert_eq!(shown.measurements[0].value, "0.7");
    assert_eq!(shown.apps[0].health, "unhealthy");
    assert_eq!(shown.script_ends[0].status, "exit_failure");
    assert_eq!(shown.traffic.as_ref().unwrap().received_bytes, 7);
    let json = get(&lab, &path).await;
    assert_eq!(json["apps"][0]["health"], "unhealthy");
    assert_eq!(json["metadata"][0]["result"]["value"], "0.7");
    assert_eq!(json["scripts"][0]["display_name"], "Install");
    assert_eq!(
        json["log_sources"][0]["id"],
        json["scripts"][0]["log_source_id"]
    );
    assert_eq!(json["display_apps"][0], "vscode");
}
