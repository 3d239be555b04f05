//! Messages that never end: what they take of the server's memory, and who notices.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http::{HeaderName, Request};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outpost::{
    client::Api,
    control::tokens,
    job::{Agent, AgentAuth, CompletedWork},
    net::websocket::ByteStream,
    proto::outpost::v1::{self as api},
    provision::JobSource as _,
    secret::Secret,
    stop::Stop,
    transport::{auth::Credential, yamux},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use uuid::Uuid;

use crate::control::{
    PATIENCE, built, connect, daemon,
    hostile_daemon::come_in,
    import,
    kill::{Server, free_address, spawn},
    workspace_request,
};

/// What a server may take on top of what it has when nobody asks anything of it, which is up to 65 MiB.
const GROWTH: u64 = 85 << 20;
/// Messages that are begun and never ended, and their size.
const MESSAGES: usize = 40;
const MESSAGE: usize = 60_000_000;
/// Connections of one agent, the streams of each, and the size of a packet on each stream.
const CONNECTIONS: usize = 16;
const STREAMS: usize = 64;
const PACKET: usize = 4_000_000;
/// WebSockets of one person.
const CLIENTS: usize = 800;
/// Calls of somebody who behaves.
const CALLS: usize = 300;
/// How long those who never end are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// A server in a process of its own, and whoever administers it.
struct Scene {
    server: Server,
    url: Url,
    token: Secret,
    psk: Secret,
    api: Api,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let psk = tokens::generate();
        fs::write(directory.path().join("psk"), psk.expose()).unwrap();
        let server = spawn(directory.path(), free_address()).await;
        let url: Url = format!("http://{}", server.address).parse().unwrap();
        let token = fs::read_to_string(directory.path().join("data/admin.token")).unwrap();
        let token = Secret::new(token.trim());
        let api = connect(&url, &token);
        Self {
            server,
            url,
            token,
            psk,
            api,
            _directory: directory,
        }
    }

    /// Watches the server's memory: what it has now, and the most that it has had since.
    fn watch(&self) -> Memory {
        let status = format!("/proc/{}/status", self.server.child.id().unwrap());
        let before = resident(Path::new(&status));
        let most = Arc::new(AtomicU64::new(before));
        let seen = most.clone();
        let watching = tokio::spawn(async move {
            loop {
                seen.fetch_max(resident(Path::new(&status)), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Memory {
            before,
            most,
            _watching: AbortOnDropHandle::new(watching),
        }
    }

    /// Calls that anybody may make meanwhile, one after another; prints how long they took.
    async fn others_go_on(&self, beside: &str) {
        let mut api: Api = self.api.clone();
        let mut took = Vec::new();
        for _ in 0..CALLS {
            let began = Instant::now();
            let called = api.who_am_i(api::WhoAmIRequest {});
            timeout(PATIENCE, called).await.unwrap().unwrap();
            took.push(began.elapsed());
        }
        took.sort();
        let [median, p99] = [50, 99].map(|percent| took[CALLS * percent / 100]);
        println!("beside {beside}: p50 {median:?}, p99 {p99:?}");
    }
}

/// Anonymous memory, in bytes; that of the program's file is not counted.
fn resident(status: &Path) -> u64 {
    let status = fs::read_to_string(status).unwrap_or_default();
    let anonymous = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = anonymous.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.unwrap_or(0_u64) << 10
}

struct Memory {
    before: u64,
    most: Arc<AtomicU64>,
    _watching: AbortOnDropHandle<()>,
}

impl Memory {
    fn end(self, beside: &str) {
        let most = self.most.load(Ordering::Relaxed);
        let [before, most_mib] = [self.before, most].map(|bytes| bytes >> 20);
        println!("memory beside {beside}: {before} MiB before, {most_mib} MiB at most");
        let growth = most - self.before;
        assert!(growth < GROWTH, "{} MiB more", growth >> 20);
    }
}

/// Sends messages that are never whole on one HTTP/2 connection, and says how many were answered.
async fn unfinished_messages(
    server: &Server,
    path: &str,
    headers: &[(&str, String)],
) -> JoinSet<()> {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let mut tasks = JoinSet::new();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tasks.spawn(async move { drop(connection.await) });
    for _ in 0..MESSAGES {
        let mut head = BytesMut::new();
        head.put_u8(0);
        head.put_u32(MESSAGE as u32);
        let part = Bytes::from(vec![7; 64 << 10]);
        // All but the last part.
        let parts = stream::iter(vec![part; MESSAGE / (64 << 10)]);
        let body = stream::iter([head.freeze()])
            .chain(parts)
            .chain(stream::pending())
            .map(|data| Ok::<_, Infallible>(Frame::data(data)));
        let mut request = Request::post(format!("http://{}{path}", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(StreamBody::new(body)).unwrap();
        let mut sender = sender.clone();
        tasks.spawn(async move { drop(sender.send_request(request).await) });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_take_kilobytes_without_a_token_and_one_budget_with_one() {
    let scene = Scene::new().await;
    scene.others_go_on("nobody").await;
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let psk = vec![(
        "coder-provisioner-daemon-psk",
        scene.psk.expose().to_owned(),
    )];
    let guessed = tokens::generate();
    let cases = [
        ("nobody's token", "ControlService/CreateVersion", vec![]),
        (
            "a guessed token",
            "ControlService/PushState",
            bearer(guessed.expose()),
        ),
        ("no key", "DaemonService/CompleteJob", vec![]),
        ("a pre-shared key", "DaemonService/Register", psk),
        (
            "an administrator's token",
            "ControlService/CreateVersion",
            bearer(scene.token.expose()),
        ),
    ];
    for (who, method, headers) in cases {
        let memory = scene.watch();
        let path = format!("/outpost.v1.{method}");
        let senders = unfinished_messages(&scene.server, &path, &headers).await;

        scene.others_go_on(who).await;
        tokio::time::sleep(WATCHED / 10).await;
        memory.end(who);
        drop(senders);
    }
}

/// A workspace's agent: its token.
async fn agent(scene: &mut Scene) -> Secret {
    let daemon = daemon(&scene.url, "daemon", Credential::Psk(scene.psk.clone()));
    import(&mut scene.api, &daemon).await;
    let request = workspace_request("bad");
    scene.api.create_workspace(request).await.unwrap();
    let job = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    let token = Uuid::new_v4().to_string();
    let mut built = built(&job);
    let CompletedWork::WorkspaceBuild(build) = &mut built.result else {
        unreachable!()
    };
    build.resources[1].agents = vec![Agent {
        name: "main".to_owned(),
        auth: AgentAuth::Token(token.clone()),
        ..Agent::default()
    }];
    daemon.complete(built).await.unwrap();
    Secret::new(token)
}

/// A dRPC frame that has not all of the packet that it announces.
fn unfinished_packet() -> Bytes {
    let invoke = b"/coder.agent.v2.Agent/BatchCreateLogs";
    let mut frame = BytesMut::new();
    // An Invoke of stream 1, message 1, and a Message of message 2, of which the last byte is missing.
    frame.put_slice(&[1 << 1 | 1, 1, 1, invoke.len() as u8]);
    frame.put_slice(invoke);
    frame.put_slice(&[2 << 1 | 1, 1, 2]);
    let mut length = PACKET;
    while length >= 0x80 {
        frame.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    frame.put_u8(length as u8);
    frame.put_bytes(7, PACKET - 1);
    frame.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_packets_of_an_agent_take_one_budget_however_many_streams_it_opens() {
    let mut scene = Scene::new().await;
    let token = agent(&mut scene).await;
    scene.others_go_on("nobody").await;
    let memory = scene.watch();
    let packet = unfinished_packet();
    let (mut tasks, mut connections) = (JoinSet::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let path = "api/v2/workspaceagents/me/rpc?version=2.0&role=agent";
        let header = HeaderName::from_static("coder-session-token");
        let socket = come_in(scene.server.address, path, (header, &token)).await;
        let config = yamux::Config::default();
        let (connection, _) =
            yamux::Connection::start(ByteStream::new(socket), yamux::Role::Client, config);
        for _ in 0..STREAMS {
            let Ok(mut stream) = connection.open() else {
                break;
            };
            let packet = packet.clone();
            tasks.spawn(async move {
                let _ = stream.write_all(&packet).await;
                std::future::pending::<()>().await;
            });
        }
        connections.push(connection);
    }

    scene.others_go_on("an agent's unfinished packets").await;
    tokio::time::sleep(WATCHED).await;
    memory.end("an agent's unfinished packets");
}

/// A WebSocket message of 256 KiB whose last byte is missing; its mask is zero.
fn unfinished_message() -> Bytes {
    const LENGTH: usize = 256 << 10;
    let mut frame = BytesMut::new();
    frame.put_slice(&[0x82, 0x80 | 127]);
    frame.put_u64(LENGTH as u64);
    frame.put_u32(0);
    frame.put_bytes(7, LENGTH - 1);
    frame.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_websocket_messages_of_a_person_take_a_few_places_however_many_connections_there_are()
 {
    let scene = Scene::new().await;
    scene.others_go_on("nobody").await;
    let memory = scene.watch();
    let (mut tasks, message) = (JoinSet::new(), unfinished_message());
    for _ in 0..CLIENTS {
        let header = HeaderName::from_static("coder-session-token");
        let path = "api/v2/tailnet?version=2.0";
        let mut socket = come_in(scene.server.address, path, (header, &scene.token)).await;
        let message = message.clone();
        tasks.spawn(async move {
            let _ = socket.get_mut().write_all(&message).await;
            std::future::pending::<()>().await;
        });
    }

    scene.others_go_on("unfinished WebSocket messages").await;
    tokio::time::sleep(WATCHED / 2).await;
    memory.end("unfinished WebSocket messages");
}
