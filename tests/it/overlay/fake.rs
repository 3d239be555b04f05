//! A server that agents report to: it says what a test wants, and remembers what it is told.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use outpost::{
    net::websocket::{self, ByteStream},
    proto::coder::agent::v2::{self as wire, Manifest, lifecycle::State as Stage},
    transport::{
        drpc::{Answer, CallError, Limits},
        yamux::{self, Connection, Role, Stream},
    },
};
use prost::Message;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol},
};
use uuid::Uuid;

use crate::control::PATIENCE;

const LIMITS: Limits = Limits {
    outbound_bytes: 4 << 20,
    inbound_bytes: 4 << 20,
};

/// All that was told, in order.
#[derive(Clone, Default)]
pub struct Told {
    pub stages: Vec<Stage>,
    pub lines: Vec<(Bytes, wire::Log)>,
    pub timings: Vec<wire::Timing>,
    pub stats: Vec<wire::Stats>,
    pub values: Vec<wire::Metadata>,
    pub healths: Vec<wire::AppHealth>,
    pub startups: Vec<wire::Startup>,
    /// How often each method was called.
    pub calls: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Front {
    manifest: Arc<Mutex<Manifest>>,
    told: watch::Sender<Told>,
    /// Ends all connections of agents.
    cut: broadcast::Sender<()>,
    /// Whether the next lines are one too many.
    is_full: Arc<Mutex<bool>>,
    /// Whose the workspace is; nil as long as it is nobody's.
    owner: watch::Sender<Uuid>,
    answers: Arc<Mutex<BTreeMap<String, (StatusCode, Value)>>>,
}

pub struct Fake {
    pub url: String,
    front: Front,
}

impl Fake {
    pub async fn start(manifest: Manifest) -> Self {
        let front = Front {
            manifest: Arc::new(Mutex::new(manifest)),
            told: watch::Sender::default(),
            cut: broadcast::Sender::new(4),
            is_full: Arc::default(),
            owner: watch::Sender::default(),
            answers: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/api/v2/workspaceagents/me/rpc", get(rpc))
            .route("/api/v2/workspaceagents/me/reinit", get(reinit))
            .fallback(other)
            .with_state(front.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, front }
    }

    /// What is answered to `GET` at `workspaceagents/me/PATH`.
    pub fn answer(&self, path: &str, status: u16, body: Value) {
        let status = StatusCode::from_u16(status).unwrap();
        let mut answers = self.front.answers.lock().unwrap();
        answers.insert(path.to_owned(), (status, body));
    }

    pub fn set_manifest(&self, manifest: Manifest) {
        *self.front.manifest.lock().unwrap() = manifest;
    }

    /// From now on there is no room for lines.
    pub fn is_full(&self) {
        *self.front.is_full.lock().unwrap() = true;
    }

    /// Ends all connections; agents may come again.
    pub fn cut(&self) {
        let _ = self.front.cut.send(());
    }

    /// Gives the workspace to an owner, and tells every agent so that asks, as often as it does.
    pub fn claim(&self, owner: Uuid) {
        self.front.owner.send_replace(owner);
    }

    /// Waits until this is so of what was told.
    pub async fn until(&self, is_so: impl Fn(&Told) -> bool) -> Told {
        let mut told = self.front.told.subscribe();
        let waited = timeout(PATIENCE, told.wait_for(|told| is_so(told))).await;
        match waited {
            Ok(told) => told.unwrap().clone(),
            Err(_) => panic!("never so: {:?}", self.front.told.borrow().stages),
        }
    }
}

async fn other(State(front): State<Front>, request: Request) -> Response {
    let path = request.uri().path().rsplit('/').next().unwrap_or_default();
    let has_token = request.headers().contains_key("coder-session-token");
    match front.answers.lock().unwrap().get(path) {
        Some((status, body)) if has_token => (*status, Json(body.clone())).into_response(),
        _ => (StatusCode::NOT_FOUND, Json(Value::Null)).into_response(),
    }
}

async fn reinit(State(front): State<Front>) -> Response {
    if front.answers.lock().unwrap().contains_key("reinit") {
        return StatusCode::CONFLICT.into_response();
    }
    front.told.send_modify(|told| {
        *told.calls.entry("reinit".to_owned()).or_default() += 1;
    });
    let mut owner = front.owner.subscribe();
    let ping = futures::stream::iter([Ok::<_, Infallible>("event: ping\n\n".to_owned())]);
    let event = futures::stream::once(async move {
        let owner = owner.wait_for(|owner| !owner.is_nil()).await.unwrap();
        Ok(format!(
            "event: data\ndata: {{\"workspace_id\":\"{}\",\"reason\":\"prebuild_claimed\",\"owner_id\":\"{}\"}}\n\n",
            Uuid::from_u128(1),
            *owner
        ))
    });
    // The stream stays open.
    let rest = futures::stream::pending();
    Response::new(Body::from_stream(ping.chain(event).chain(rest)))
}

async fn rpc(State(front): State<Front>, mut request: Request) -> Response {
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].clone();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgrade.await.unwrap());
        let config = Some(websocket::config());
        let socket = WebSocketStream::from_raw_socket(io, protocol::Role::Server, config).await;
        let stream = ByteStream::new(socket);
        let config = yamux::Config::default();
        let (_connection, mut incoming) = Connection::start(stream, Role::Server, config);
        let mut cut = front.cut.subscribe();
        loop {
            tokio::select! {
                _ = cut.recv() => return,
                stream = incoming.accept() => match stream {
                    Some(stream) => drop(tokio::spawn(hear(front.clone(), stream))),
                    None => return,
                },
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(
            header::SEC_WEBSOCKET_ACCEPT,
            derive_accept_key(key.as_bytes()),
        )
        .body(Body::empty())
        .unwrap()
}

/// Takes a request, lets it be remembered, and answers.
async fn take<Q: Message + Default, A: Message>(
    front: &Front,
    mut answer: Answer<Stream>,
    remember: impl FnOnce(&mut Told, Q) -> A,
) -> Result<(), CallError> {
    let Some(request) = answer.receive::<Q>().await? else {
        return Ok(());
    };
    let mut reply = None;
    front
        .told
        .send_modify(|told| reply = Some(remember(told, request)));
    answer.reply(&reply.unwrap()).await
}

async fn hear(front: Front, stream: Stream) {
    let Ok(Some(mut answer)) = Answer::accept(stream, LIMITS).await else {
        return;
    };
    let method = answer.method().rsplit('/').next().unwrap_or_default();
    let method = method.to_owned();
    front.told.send_modify(|told| {
        *told.calls.entry(method.clone()).or_default() += 1;
    });
    let (front, it) = (&front, &front);
    let heard = match method.as_str() {
        "GetManifest" => {
            let manifest = it.manifest.lock().unwrap().clone();
            take(front, answer, |_, _: wire::GetManifestRequest| manifest).await
        }
        "UpdateStartup" => {
            take(
                front,
                answer,
                |told, request: wire::UpdateStartupRequest| {
                    let startup = request.startup.unwrap_or_default();
                    told.startups.push(startup.clone());
                    startup
                },
            )
            .await
        }
        "UpdateLifecycle" => {
            take(
                front,
                answer,
                |told, request: wire::UpdateLifecycleRequest| {
                    let lifecycle = request.lifecycle.unwrap_or_default();
                    told.stages.push(lifecycle.state());
                    lifecycle
                },
            )
            .await
        }
        "UpdateStats" => {
            take(front, answer, |told, request: wire::UpdateStatsRequest| {
                told.stats.extend(request.stats);
                let report_interval = Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 0,
                });
                wire::UpdateStatsResponse { report_interval }
            })
            .await
        }
        "BatchCreateLogs" => {
            let log_limit_exceeded = *it.is_full.lock().unwrap();
            take(
                front,
                answer,
                |told, request: wire::BatchCreateLogsRequest| {
                    let source = request.log_source_id;
                    let lines = request.logs.into_iter().map(|log| (source.clone(), log));
                    told.lines.extend(lines);
                    wire::BatchCreateLogsResponse { log_limit_exceeded }
                },
            )
            .await
        }
        "BatchUpdateMetadata" => {
            take(
                front,
                answer,
                |told, request: wire::BatchUpdateMetadataRequest| {
                    told.values.extend(request.metadata);
                    wire::BatchUpdateMetadataResponse {}
                },
            )
            .await
        }
        "BatchUpdateAppHealths" => {
            take(
                front,
                answer,
                |told, request: wire::BatchUpdateAppHealthRequest| {
                    told.healths
                        .extend(request.updates.iter().map(|it| it.health()));
                    wire::BatchUpdateAppHealthResponse {}
                },
            )
            .await
        }
        "ScriptCompleted" => {
            take(
                front,
                answer,
                |told, request: wire::WorkspaceAgentScriptCompletedRequest| {
                    told.timings.extend(request.timing);
                    wire::WorkspaceAgentScriptCompletedResponse {}
                },
            )
            .await
        }
        "GetAnnouncementBanners" => {
            take(
                front,
                answer,
                |_, _: wire::GetAnnouncementBannersRequest| {
                    wire::GetAnnouncementBannersResponse::default()
                },
            )
            .await
        }
        "GetResourcesMonitoringConfiguration" => {
            take(
                front,
                answer,
                |_, _: wire::GetResourcesMonitoringConfigurationRequest| {
                    wire::GetResourcesMonitoringConfigurationResponse::default()
                },
            )
            .await
        }
        "Coordinate" => {
            // Until somebody says that they go.
            use outpost::proto::coder::tailnet::v2::CoordinateRequest;
            while let Ok(Some(request)) = answer.receive::<CoordinateRequest>().await {
                if request.disconnect.is_some() {
                    break;
                }
            }
            answer.end().await
        }
        "StreamDERPMaps" => std::future::pending().await,
        _ => answer.fail("unimplemented").await,
    };
    // Who cuts connections off cuts calls off.
    drop(heard);
}
