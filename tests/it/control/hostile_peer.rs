//! Agents and clients with a valid token and bad intentions: an agent and its client go on all the while.

mod by_hand;
mod relay;
mod revoked;

use std::{
    net::SocketAddrV6,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use outpost::{
    connect::{SSH_PORT, Server},
    control::Storage,
    job::{Agent, AgentAuth, CompletedWork},
    net::http::{Client, Config},
    proto::coder::{
        agent::v2 as agent_api,
        tailnet::v2::{
            CoordinateRequest, CoordinateResponse, Node,
            coordinate_request::{ReadyForHandshake, Tunnel, UpdateSelf},
        },
    },
    provision::JobSource as _,
    secret::Secret,
    stop::Stop,
    tailnet::{
        self, API_VERSION, DerpMap, Listener, address,
        coordination::{LIMITS, Side, coordinate},
        derp::client::Dial,
        dial::dial,
    },
    transport::{
        coder::ApiVersion,
        drpc::{Call, CallError},
        yamux::{self, Connection},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};
use uuid::Uuid;

use super::{Lab, PATIENCE, built, workspace_request};

const COORDINATE: &str = "/coder.tailnet.v2.Tailnet/Coordinate";
/// Streams of a peer at a time.
const STREAMS: usize = 64;

/// A server with the workspaces of a good agent and of a bad one, and the good one's node.
struct Scene {
    lab: Lab,
    client: Client,
    good: Uuid,
    listener: Listener,
    bad_token: Secret,
    stop: Stop,
    tasks: JoinSet<()>,
}

impl Scene {
    async fn new() -> Self {
        let mut lab = Lab::start(Storage::Memory).await;
        let daemon = lab.daemon("daemon");
        lab.import(&daemon).await;
        let mut tokens = Vec::new();
        for name in ["good", "bad"] {
            lab.api
                .create_workspace(workspace_request(name))
                .await
                .unwrap();
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
            tokens.push(Secret::new(token));
        }
        let client = Client::new(Config::new(lab.server.url().clone())).unwrap();
        let server = Server::new(client.clone(), lab.server.admin_token().clone());
        let good = server.workspace("good").await.unwrap().agent("").unwrap();
        let bad_token = tokens.pop().unwrap();
        let (stop, mut tasks) = (Stop::new(), JoinSet::new());

        let (node, driver, mut events) = tailnet::start(tailnet::Config {
            id: address::node_id(good.id),
            addresses: address::of_agent(good.id).to_vec(),
            dial: Dial {
                http: client.clone(),
                by_websocket: Arc::default(),
                token: Arc::new(Mutex::new(tokens[0].clone())),
            },
            max_silence: None,
            may_be_direct: false,
        });
        tasks.spawn(driver.run(stop.clone()));
        node.set_derp_map(DerpMap::embedded(lab.server.url())).await;
        let listener = node.listen(SSH_PORT);
        let connection = enter(&client, &tokens[0]).await;
        let leaving = stop.clone();
        tasks.spawn(async move {
            // It must not end before the test does.
            let ended = coordinate(&connection, &node, &mut events, &Side::Agent, &leaving).await;
            assert!(leaving.is_draining(), "the agent was cut off: {ended:?}");
        });
        let mut scene = Self {
            lab,
            client,
            good: good.id,
            listener,
            bad_token,
            stop,
            tasks,
        };
        scene.others_go_on().await;
        scene
    }

    /// A new client finds the good agent and exchanges data with it; and the agent was never cut off.
    async fn others_go_on(&mut self) {
        let token = self.lab.server.admin_token().clone();
        let server = Server::new(self.client.clone(), token);
        let visit = async {
            let mut conn = server.dial_agent(self.good).await.unwrap();
            conn.wait_until_reachable().await.unwrap();
            let (here, there) = tokio::join!(conn.connect(SSH_PORT), self.listener.accept());
            let (mut here, (mut there, from)): (_, (_, SocketAddrV6)) =
                (here.unwrap(), there.unwrap());
            assert!(!from.ip().is_loopback());
            let sent = vec![7; 200_000];
            let mut come = vec![0; sent.len()];
            let (wrote, read) = tokio::join!(here.write_all(&sent), there.read_exact(&mut come));
            wrote.unwrap();
            read.unwrap();
            assert!(sent == come);
            conn.leave().await;
        };
        timeout(PATIENCE, visit).await.unwrap();
        if let Some(ended) = self.tasks.try_join_next() {
            panic!("the agent's node has ended: {ended:?}");
        }
    }

    async fn bad_agent(&self) -> Connection {
        enter(&self.client, &self.bad_token).await
    }

    /// A client of the good agent's that was let in.
    async fn bad_client(&self) -> Connection {
        let path = format!("api/v2/workspaceagents/{}/coordinate", self.good);
        let token = self.lab.server.admin_token();
        let version = ApiVersion { major: 2, minor: 0 };
        dial(&self.client, &path, &[], token, version)
            .await
            .unwrap()
    }

    async fn end(mut self) {
        self.stop.drain();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

async fn enter(client: &Client, token: &Secret) -> Connection {
    let path = "api/v2/workspaceagents/me/rpc";
    dial(client, path, &[("role", "agent")], token, API_VERSION)
        .await
        .unwrap()
}

/// One call of an agent's.
async fn call<Q, A>(connection: &Connection, name: &str, request: &Q) -> Result<A, CallError>
where
    Q: prost::Message,
    A: prost::Message + Default,
{
    let method = format!("/coder.agent.v2.Agent/{name}");
    let stream = connection.open().map_err(CallError::Lost)?;
    Call::unary(stream, &method, request, LIMITS).await
}

async fn begin(connection: &Connection) -> Call<yamux::Stream> {
    let stream = connection.open().unwrap();
    Call::begin(stream, COORDINATE, LIMITS).await.unwrap()
}

fn this_is(node: Node) -> CoordinateRequest {
    CoordinateRequest {
        update_self: Some(UpdateSelf { node: Some(node) }),
        ..CoordinateRequest::default()
    }
}

fn opens(id: &[u8]) -> CoordinateRequest {
    let id = id.to_vec().into();
    CoordinateRequest {
        add_tunnel: Some(Tunnel { id }),
        ..CoordinateRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_begun_and_left_alone_cost_only_who_began_them() {
    let mut scene = Scene::new().await;
    let connection = scene.bad_agent().await;
    let mut left_alone = Vec::new();
    for _ in 0..STREAMS * 2 {
        // Half of a name, and nothing more.
        let mut stream = connection.open().unwrap();
        let _ = stream.write_all(&[3, 1, 1, 40, b'/']).await;
        left_alone.push(stream);
    }

    scene.others_go_on().await;
    // While they are kept there is no room for a call, which is refused at once.
    let manifest = agent_api::GetManifestRequest {};
    let refused = call::<_, agent_api::Manifest>(&connection, "GetManifest", &manifest);
    assert!(timeout(PATIENCE, refused).await.unwrap().is_err());
    drop(left_alone);
    let asked = async {
        loop {
            let answer = call(&connection, "GetManifest", &manifest).await;
            if let Ok(agent_api::Manifest { agent_name, .. }) = answer {
                break agent_name;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, asked).await.unwrap(), "main");
    assert!(!connection.is_closed());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_reports_without_end_is_slowed_down() {
    use agent_api::{
        BatchCreateLogsRequest, BatchCreateLogsResponse, BatchUpdateMetadataRequest,
        BatchUpdateMetadataResponse, Lifecycle, Log, Metadata, UpdateLifecycleRequest,
        lifecycle::State,
    };
    let mut scene = Scene::new().await;
    let connection = Arc::new(scene.bad_agent().await);
    let began = Instant::now();
    let mut floods = JoinSet::new();
    for which in 0..12 {
        let connection = connection.clone();
        floods.spawn(async move {
            let mut answered = 0_u32;
            while began.elapsed() < Duration::from_secs(3) {
                let lifecycle = UpdateLifecycleRequest {
                    lifecycle: Some(Lifecycle {
                        state: State::Ready.into(),
                        changed_at: None,
                    }),
                };
                let log = Log {
                    output: "x".repeat(64),
                    ..Log::default()
                };
                let logs = BatchCreateLogsRequest {
                    log_source_id: vec![7; 16].into(),
                    logs: vec![log; 1000],
                };
                let metadata = BatchUpdateMetadataRequest {
                    metadata: vec![Metadata::default(); 1000],
                };
                let done = match which % 3 {
                    0 => call(&connection, "UpdateLifecycle", &lifecycle)
                        .await
                        .map(|_: Lifecycle| ()),
                    1 => call(&connection, "BatchCreateLogs", &logs)
                        .await
                        .map(|_: BatchCreateLogsResponse| ()),
                    _ => call(&connection, "BatchUpdateMetadata", &metadata)
                        .await
                        .map(|_: BatchUpdateMetadataResponse| ()),
                };
                answered += u32::from(done.is_ok());
            }
            answered
        });
    }
    scene.others_go_on().await;
    let answered: u32 = floods.join_all().await.into_iter().sum();

    // So many at once, then one each 20 ms; what was begun within the time ends after it.
    let allowed = 64 + began.elapsed().as_millis() / 20 + 12;
    println!("{answered} reports in {:?}", began.elapsed());
    assert!(
        answered > 20,
        "only {answered}: it is slowed down, not stopped"
    );
    assert!(u128::from(answered) <= allowed, "{answered} of {allowed}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_tells_of_itself_without_end_does_not_cut_its_agent_off() {
    let mut scene = Scene::new().await;
    let connection = scene.bad_client().await;
    let mut flood = begin(&connection).await;
    let good = scene.good;
    flood.send(&opens(good.as_bytes())).await.unwrap();
    let flooding = tokio::spawn(async move {
        for home in 2.. {
            let node = Node {
                preferred_derp: home,
                endpoints: vec!["[fd7a::1]:7".to_owned(); 100],
                ..Node::default()
            };
            // What the server does not take yet makes us wait here.
            flood.send(&this_is(node)).await.unwrap();
        }
    });

    for _ in 0..3 {
        scene.others_go_on().await;
    }
    assert!(!flooding.is_finished());
    flooding.abort();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_coordinator_cannot_accept_ends_the_call_with_a_reason() {
    let mut scene = Scene::new().await;
    let foreign = address::cidr(address::primary(scene.good));
    let ready = ReadyForHandshake {
        id: scene.good.as_bytes().to_vec().into(),
    };
    let node = |change: &dyn Fn(&mut Node)| {
        let mut node = Node::default();
        change(&mut node);
        this_is(node)
    };
    let of_client = [
        opens(b"garbage"),
        opens(Uuid::new_v4().as_bytes()),
        node(&|node| node.addresses = vec!["fd7a:115c:a1e0::/48".to_owned()]),
        node(&|node| node.endpoints = vec!["[::1]:7".to_owned(); 100_000]),
        node(&|node| node.derp_latency = (0..100_000).map(|it| (it.to_string(), 1.0)).collect()),
        CoordinateRequest {
            ready_for_handshake: vec![ready],
            ..CoordinateRequest::default()
        },
    ];
    let of_agent = [
        opens(scene.good.as_bytes()),
        node(&|node| node.addresses = vec![foreign.clone()]),
        node(&|node| node.allowed_ips = vec![foreign.clone()]),
    ];
    let of_client = of_client.map(|it| (true, it));
    for (is_client, request) in of_client.into_iter().chain(of_agent.map(|it| (false, it))) {
        let connection = match is_client {
            true => scene.bad_client().await,
            false => scene.bad_agent().await,
        };
        let mut call = begin(&connection).await;
        call.send(&request).await.unwrap();

        let answer = timeout(PATIENCE, call.receive::<CoordinateResponse>());
        let answer = answer.await.unwrap().unwrap().unwrap();
        assert!(answer.error.starts_with("authorization: "), "{answer:?}");
        let last = timeout(PATIENCE, call.receive::<CoordinateResponse>());
        assert!(matches!(last.await.unwrap(), Ok(None)));
    }
    scene.others_go_on().await;
    scene.end().await;
}
