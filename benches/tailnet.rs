//! What the overlay costs: a stream's throughput, the way to a first byte, a relay's work for a fleet, an idle agent.
//!
//! Run it: cargo bench --bench tailnet
//!
//! A control plane runs in a process of its own, so that its memory and processor time can be read; agents and clients
//! of the fleet run in this one. Throughput is that of one stream from a node through the relay to a node, each in its
//! own process, against two ends of boringtun that seal packets of the same size and do nothing else. `outpost ssh` and
//! `outpost agent` are the built binary. `OUTPOST_BENCH_MB` sets the megabytes of a stream (500), `OUTPOST_BENCH_ROUNDS`
//! the rounds (20), `OUTPOST_BENCH_NODES` the agents of the fleet (200), `OUTPOST_BENCH_IDLE` the seconds for which it is
//! watched (60), `OUTPOST_BENCH_TOGETHER` the sessions that begin at once (500), `OUTPOST_BENCH_FAST` those that come one after the
//! other, 20 at once (2000), `OUTPOST_BENCH_WAITING` the sessions that
//! wait side by side (100), `OUTPOST_BENCH_BULK_MB` the megabytes that one session carries (2000). To be compared with the
//! Go program, `OUTPOST_BENCH_GO_MBIT` and `OUTPOST_BENCH_GO_SSH_MS` name what was measured of it on this machine; with
//! `OUTPOST_BENCH_CODER` that `coder` connects to our server and is measured instead.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, SocketAddrV6, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use bytes::Bytes;
use nix::unistd::{SysconfVar, sysconf};
use outpost::{
    client::{self, Target},
    connect,
    control::{self, Limits, StateKey, Storage, tokens},
    job::{
        Agent, AgentAuth, BuildResult, CompletedJob, CompletedWork, ImportResult, JobId, Resource,
        Work,
    },
    net::http,
    proto::{
        coder::tailnet::v2 as wire,
        outpost::v1::{CreateVersionRequest, CreateWorkspaceRequest},
    },
    provision::JobSource as _,
    secret::Secret,
    stop::Stop,
    tailnet::{
        self, DerpMap, Node, PeerUpdate, Tailnet, address,
        coordination::{Side, coordinate},
        derp::client::Dial,
        dial::dial,
    },
    transport::{
        auth::{Credential, CredentialSource},
        coder::ApiVersion,
        grpc::{self, GrpcSource},
    },
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{sleep, timeout},
};
use url::Url;
use uuid::Uuid;

/// Bytes of a packet inside the overlay.
const PACKET: usize = 1280;
/// The port at which our nodes listen.
const PORT: u16 = 7;
/// How long anything here may take before the bench counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the bare tunnel is measured.
const BARE: Duration = Duration::from_secs(4);
/// Packets that it has under way at most: a socket keeps as many, so that no work is for what is lost.
const UNDER_WAY: usize = 64;
/// Short sessions that begin at once, of many.
const FAST_AT_ONCE: usize = 20;
/// After this an agent has given back what its sessions took.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Bytes that the clients of the fleet send in all.
const FLEET_BYTES: usize = 1_000_000_000;
const WORKSPACE: &str = "bench";
/// The agent that is a process of its own.
const OWN_AGENT: &str = "own";

fn main() -> anyhow::Result<()> {
    outpost::net::install_crypto_provider();
    let runtime = tokio::runtime::Runtime::new()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve"] => runtime.block_on(serve()),
        ["receive", url] => runtime.block_on(receive(url.parse()?)),
        ["send", url, megabytes] => runtime.block_on(send(url.parse()?, megabytes.parse()?)),
        _ => runtime.block_on(bench()),
    }
}

async fn bench() -> anyhow::Result<()> {
    let rounds = setting("OUTPOST_BENCH_ROUNDS", 20)?;
    let nodes = setting("OUTPOST_BENCH_NODES", 200)?;
    let lab = Lab::start(nodes).await?;
    throughput(&lab, setting("OUTPOST_BENCH_MB", 500)?)?;
    handshakes(&lab, rounds).await?;
    let agent = idle_agent(&lab).await?;
    first_bytes(&lab, rounds)?;
    waiting_sessions(&lab, &agent, setting("OUTPOST_BENCH_WAITING", 100)?)?;
    let at_once = setting("OUTPOST_BENCH_TOGETHER", 500)?;
    together(&lab, at_once, at_once)?;
    together(&lab, setting("OUTPOST_BENCH_FAST", 2000)?, FAST_AT_ONCE)?;
    bulk(&lab, setting("OUTPOST_BENCH_BULK_MB", 2000)?)?;
    let server = lab.server_usage()?;
    row(
        "the server after all that",
        &format!("{:.1} MB", server.resident),
        &format!("{:.1} at most", server.most),
    );
    used_agent(&agent).await?;
    drop(agent);
    first_after_build(&lab, rounds).await?;
    fleet(&lab, nodes).await
}

fn setting(name: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(default),
    }
}

/// A figure of the Go program's, if somebody measured it.
fn given(name: &str) -> anyhow::Result<Option<f64>> {
    let text = std::env::var(name).ok();
    let number = text.map(|text| text.parse());
    number
        .transpose()
        .with_context(|| format!("{name} is no number"))
}

fn row(what: &str, figure: &str, beside: &str) {
    println!("{what:<34} {figure:>16}  {beside}");
}

fn median(mut all: Vec<Duration>) -> (f64, f64) {
    all.sort();
    let milliseconds = |at: usize| all[at].as_secs_f64() * 1e3;
    (milliseconds(all.len() / 2), milliseconds(0))
}

/// A process that ends with this, and the lines that it prints.
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// This program in another role.
    fn of_ours(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = child.stdout.take().context("no stdout")?;
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        })
    }

    fn says(&mut self) -> anyhow::Result<String> {
        Ok(self.lines.next().context("a process ended")??)
    }

    fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.stdin, "{line}")?;
        Ok(self.stdin.flush()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of our standard input.
async fn told() -> anyhow::Result<String> {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    Ok(line.await?.context("nobody says anything")??)
}

/// The control plane, until it is killed. Its daemon's key comes by the standard input.
async fn serve() -> anyhow::Result<()> {
    let psk = Secret::new(told().await?);
    let config = control::Config {
        storage: Storage::Memory,
        state_key: StateKey::Own,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        access_url: None,
        agent_binaries: None,
        trusted_proxies: Vec::new(),
        psks: vec![psk],
        psk_file: None,
        // What is measured is the relay.
        direct_paths: control::DirectPaths {
            are_blocked: true,
            ..Default::default()
        },
        limits: Limits {
            // The whole fleet has one address.
            connections: 8192,
            connections_per_peer: 8192,
            ..Limits::standard()
        },
        version: "v0.1.0".to_owned(),
    };
    let server = control::start(config, Stop::new()).await?;
    println!("{} {}", server.url(), server.admin_token().expose());
    server.wait().await;
    Ok(())
}

/// The control plane as others see it, with one workspace that has all agents.
struct Lab {
    server: Process,
    url: Url,
    token: Secret,
    dir: tempfile::TempDir,
    people: connect::Server,
    agents: BTreeMap<String, (Uuid, Secret)>,
}

struct Fixed(Credential);

impl CredentialSource for Fixed {
    fn credential(&self) -> Result<Credential, String> {
        Ok(self.0.clone())
    }
}

impl Lab {
    async fn start(nodes: usize) -> anyhow::Result<Self> {
        let psk = tokens::generate();
        let mut server = Process::of_ours(&["serve"])?;
        server.tell(psk.expose())?;
        let line = server.says()?;
        let (url, token) = line.split_once(' ').context("no token")?;
        let (url, token): (Url, Secret) = (url.parse()?, Secret::new(token.to_owned()));
        let names = (0..nodes)
            .map(|n| format!("a{n}"))
            .chain([OWN_AGENT.to_owned()]);
        let secrets: BTreeMap<String, Secret> = names
            .map(|name| (name, Secret::new(Uuid::new_v4().to_string())))
            .collect();
        build(&url, &token, psk, &secrets).await?;
        let people = connect::Server::new(client_of(&url)?, token.clone());
        let workspace = people.workspace(WORKSPACE).await?;
        let mut agents = BTreeMap::new();
        for (name, secret) in secrets {
            agents.insert(name.clone(), (workspace.agent(&name)?.id, secret));
        }
        let dir = tempfile::tempdir()?;
        outpost::files::write_private(&dir.path().join("token"), token.expose().as_bytes())?;
        Ok(Self {
            server,
            url,
            token,
            dir,
            people,
            agents,
        })
    }

    fn server_usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.server.child.id())
    }
}

fn client_of(url: &Url) -> anyhow::Result<http::Client> {
    Ok(http::Client::new(http::Config::new(url.clone()))?)
}

/// A workspace with these agents, as a daemon without an engine builds it.
async fn build(
    url: &Url,
    token: &Secret,
    psk: Secret,
    agents: &BTreeMap<String, Secret>,
) -> anyhow::Result<()> {
    let target = grpc::Target {
        url: url.clone(),
        name: WORKSPACE.to_owned(),
        tags: BTreeMap::new(),
        trust: outpost::net::tls::Trust::default(),
    };
    let daemon = GrpcSource::new(target, Arc::new(Fixed(Credential::Psk(psk))));
    let mut api = client::connect(&Target {
        url: url.clone(),
        token: token.clone(),
        trust: outpost::net::tls::Trust::default(),
    })?;
    let machine = |agents| Resource {
        address: "machine.main".to_owned(),
        kind: "machine".to_owned(),
        name: "main".to_owned(),
        agents,
        ..Resource::default()
    };
    let version = CreateVersionRequest {
        template: WORKSPACE.to_owned(),
        archive: Bytes::from_static(b"archive"),
        activate: true,
        ..CreateVersionRequest::default()
    };
    api.create_version(version).await?;
    let id = acquired(&daemon).await?.0;
    let result = CompletedWork::TemplateImport(Box::new(ImportResult {
        start_resources: vec![machine(Vec::new())],
        ..ImportResult::default()
    }));
    daemon.complete(CompletedJob { id, result }).await?;
    let workspace = CreateWorkspaceRequest {
        template: WORKSPACE.to_owned(),
        name: WORKSPACE.to_owned(),
        ..CreateWorkspaceRequest::default()
    };
    api.create_workspace(workspace).await?;
    let (id, work) = acquired(&daemon).await?;
    ensure!(matches!(work, Work::WorkspaceBuild(_)), "that is no build");
    let agents = agents.iter().map(|(name, token)| Agent {
        name: name.clone(),
        auth: AgentAuth::Token(token.expose().to_owned()),
        operating_system: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        ..Agent::default()
    });
    let result = CompletedWork::WorkspaceBuild(BuildResult {
        state: Bytes::from_static(b"{}"),
        resources: vec![machine(agents.collect())],
        ..BuildResult::default()
    });
    Ok(daemon.complete(CompletedJob { id, result }).await?)
}

async fn acquired(daemon: &GrpcSource) -> anyhow::Result<(JobId, Work)> {
    let job = timeout(PATIENCE, daemon.acquire(&Stop::new())).await??;
    let job = job.context("no job")?;
    Ok((job.id, job.work))
}

/// A node of ours that waits at the relay of the server.
struct Peer {
    id: Uuid,
    net: Tailnet,
    /// What makes it live.
    _tasks: JoinSet<()>,
}

impl Peer {
    async fn new(url: &Url, token: Secret) -> anyhow::Result<Self> {
        let id = Uuid::new_v4();
        let dial = Dial {
            http: client_of(url)?,
            by_websocket: Arc::default(),
            token: Arc::new(Mutex::new(token)),
        };
        let (net, driver, _) = tailnet::start(tailnet::Config {
            id: address::node_id(id),
            addresses: address::of_agent(id).to_vec(),
            dial,
            max_silence: None,
            may_be_direct: false,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(Stop::new()));
        net.set_derp_map(DerpMap::embedded(url)).await;
        Ok(Self {
            id,
            net,
            _tasks: tasks,
        })
    }

    /// What another process has to know of it.
    async fn card(&self) -> anyhow::Result<String> {
        let node = loop {
            // Others hear of it once its relay has it.
            match self.net.node().await {
                Some(node) => break node,
                None => sleep(Duration::from_millis(5)).await,
            }
        };
        Ok(format!(
            "{} {}",
            self.id,
            hex::encode(node.to_wire().encode_to_vec())
        ))
    }

    async fn knows(&self, card: &str) -> anyhow::Result<Uuid> {
        let (id, node) = card.split_once(' ').context("half a card")?;
        let (id, node): (Uuid, _) = (id.parse()?, wire::Node::decode(&*hex::decode(node)?)?);
        let node = Node::from_wire(node).context("no node")?;
        self.net.update(id, PeerUpdate::Node(Box::new(node))).await;
        Ok(id)
    }

    /// From being told of a peer until it answers inside WireGuard.
    async fn reach(&self, card: &str) -> anyhow::Result<(Uuid, Duration)> {
        let (id, _) = card.split_once(' ').context("half a card")?;
        let begun = Instant::now();
        self.net.seek(id.parse()?).await;
        let id = self.knows(card).await?;
        self.net.update(id, PeerUpdate::Ready).await;
        timeout(PATIENCE, self.net.reach(id)).await?;
        Ok((id, begun.elapsed()))
    }
}

/// Where a node listens.
fn door(id: Uuid) -> SocketAddrV6 {
    SocketAddrV6::new(address::primary(id), PORT, 0, 0)
}

/// Takes all that comes on each connection, and says at its end that it came.
async fn swallow(mut stream: tailnet::Stream) -> std::io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    while stream.read(&mut piece).await? > 0 {}
    stream.write_all(b".").await?;
    stream.shutdown().await
}

/// Sends so many bytes and waits until all have come.
async fn fill(net: &Tailnet, to: Uuid, bytes: usize) -> anyhow::Result<Duration> {
    let mut stream = net.connect(door(to)).await?;
    let (piece, mut left) = (vec![7; 64 << 10], bytes);
    let begun = Instant::now();
    while left > 0 {
        let length = left.min(piece.len());
        stream.write_all(&piece[..length]).await?;
        left -= length;
    }
    stream.shutdown().await?;
    ensure!(stream.read_u8().await? == b'.', "not all has come");
    Ok(begun.elapsed())
}

async fn receive(url: Url) -> anyhow::Result<()> {
    let peer = Peer::new(&url, Secret::new(told().await?)).await?;
    let mut listener = peer.net.listen(PORT);
    println!("{}", peer.card().await?);
    peer.knows(&told().await?).await?;
    println!("ready");
    while let Some((stream, _)) = listener.accept().await {
        swallow(stream).await?;
    }
    Ok(())
}

async fn send(url: Url, megabytes: usize) -> anyhow::Result<()> {
    let peer = Peer::new(&url, Secret::new(told().await?)).await?;
    println!("{}", peer.card().await?);
    let (other, _) = peer.reach(&told().await?).await?;
    loop {
        let took = fill(&peer.net, other, megabytes * 1_000_000).await?;
        println!("{}", took.as_secs_f64());
        told().await?;
    }
}

/// One stream, and the bare tunnel before and after it: other work of the machine falls on both.
fn throughput(lab: &Lab, megabytes: usize) -> anyhow::Result<()> {
    let mut receiver = Process::of_ours(&["receive", lab.url.as_str()])?;
    let mut sender = Process::of_ours(&["send", lab.url.as_str(), &megabytes.to_string()])?;
    // The relay serves only those whom the server knows.
    receiver.tell(lab.token.expose())?;
    sender.tell(lab.token.expose())?;
    let (there, here) = (receiver.says()?, sender.says()?);
    receiver.tell(&here)?;
    ensure!(receiver.says()? == "ready", "no receiver");
    sender.tell(&there)?;
    let (mut ratios, mut speeds) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let seconds: f64 = sender.says()?.parse()?;
        let speed = megabytes as f64 * 8.0 / seconds;
        let bare = bare_tunnel()?;
        ratios.push(speed / bare);
        speeds.push((speed, bare));
        sender.tell("again")?;
    }
    ratios.sort_by(f64::total_cmp);
    speeds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (speed, bare) = speeds[1];
    row(
        "stream through the relay",
        &format!("{speed:.0} Mbit/s"),
        &format!(
            "{:.2} of the bare tunnel's {bare:.0} (best {:.0})",
            ratios[1], speeds[2].0
        ),
    );
    if let Some(go) = given("OUTPOST_BENCH_GO_MBIT")? {
        row("", "", &format!("{:.1} times Go's {go:.0}", speed / go));
    }
    Ok(())
}

/// Mbit/s that come out of a tunnel over the loopback device, with nothing around it.
fn bare_tunnel() -> anyhow::Result<f64> {
    let (here, there) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    here.connect(there.local_addr()?)?;
    there.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (a, b) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
    let (of_a, of_b) = (PublicKey::from(&a), PublicKey::from(&b));
    let mut sender = Tunn::new(a, of_b, None, None, 1, None);
    let mut receiver = Tunn::new(b, of_a, None, None, 2, None);
    let mut buffer = [0; 2 * PACKET];
    let mut message = written(sender.format_handshake_initiation(&mut buffer, false))?;
    message = written(receiver.decapsulate(None, &message, &mut buffer))?;
    message = written(sender.decapsulate(None, &message, &mut buffer))?;
    receiver.decapsulate(None, &message, &mut buffer);
    let come = Arc::new(AtomicUsize::new(0));
    let counted = come.clone();
    let taking = std::thread::spawn(move || {
        let (mut datagram, mut packet) = ([0; 2 * PACKET], [0; 2 * PACKET]);
        let (mut bytes, begun, mut last) = (0, Instant::now(), Instant::now());
        while let Ok(length) = there.recv(&mut datagram) {
            let opened = receiver.decapsulate(None, &datagram[..length], &mut packet);
            if let TunnResult::WriteToTunnelV6(packet, _) = opened {
                bytes += packet.len();
                last = Instant::now();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
        bytes as f64 * 8e-6 / (last - begun).as_secs_f64()
    });
    let mut packet = [0; PACKET];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(PACKET as u16 - 40).to_be_bytes());
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < BARE {
        if sent - come.load(Ordering::Relaxed) < UNDER_WAY {
            here.send(written_in(sender.encapsulate(&packet, &mut buffer))?)?;
            sent += 1;
        } else {
            std::thread::yield_now();
        }
    }
    taking
        .join()
        .map_err(|_| anyhow::anyhow!("the receiver died"))
}

fn written_in(result: TunnResult<'_>) -> anyhow::Result<&[u8]> {
    match result {
        TunnResult::WriteToNetwork(message) => Ok(message),
        _ => bail!("the bare tunnel does not come up"),
    }
}

fn written(result: TunnResult<'_>) -> anyhow::Result<Vec<u8>> {
    Ok(written_in(result)?.to_vec())
}

async fn handshakes(lab: &Lab, rounds: usize) -> anyhow::Result<()> {
    let agent = Peer::new(&lab.url, lab.token.clone()).await?;
    let mut waits = Vec::new();
    for _ in 0..rounds {
        let client = Peer::new(&lab.url, lab.token.clone()).await?;
        // The relay has both before the clock runs.
        client.net.set_derp_map(DerpMap::embedded(&lab.url)).await;
        sleep(Duration::from_millis(50)).await;
        agent.knows(&client.card().await?).await?;
        waits.push(client.reach(&agent.card().await?).await?.1);
    }
    let (median, best) = median(waits);
    let beside = format!("from the peer's node to its first answer (best {best:.1})");
    row(
        "handshake through the relay",
        &format!("{median:.1} ms"),
        &beside,
    );
    Ok(())
}

/// An agent has let go of what its start needed by then.
const SETTLED: Duration = Duration::from_secs(15);

/// An agent in a process of its own, once the server says that it is so far; how long that took.
async fn own_agent(
    lab: &Lab,
    is_so_far: impl Fn(&connect::Agent) -> bool,
) -> anyhow::Result<(Process, Duration)> {
    let (id, token) = &lab.agents[OWN_AGENT];
    let mut child = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args(["agent", "--no-reap"])
        .env("CODER_AGENT_URL", lab.url.as_str())
        .env("CODER_AGENT_TOKEN", token.expose())
        .env("CODER_AGENT_SCRIPT_DATA_DIR", lab.dir.path())
        .env("CODER_AGENT_LOG_DIR", lab.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let agent = Process {
        stdin: stdin.context("no stdin")?,
        lines: BufReader::new(stdout.context("no stdout")?).lines(),
        child,
    };
    let begun = Instant::now();
    while !is_so_far(&lab.people.agent(*id).await?) {
        ensure!(begun.elapsed() < PATIENCE, "the agent does not come");
        sleep(Duration::from_millis(5)).await;
    }
    Ok((agent, begun.elapsed()))
}

/// An agent that has long been ready.
async fn idle_agent(lab: &Lab) -> anyhow::Result<Process> {
    let is_ready = |agent: &connect::Agent| agent.lifecycle_state == "ready";
    let (agent, until_ready) = own_agent(lab, is_ready).await?;
    sleep(SETTLED).await;
    let usage = Usage::of(agent.child.id())?;
    let beside = format!(
        "{:.1} of it anonymous; ready after {:.0} ms",
        usage.anonymous,
        until_ready.as_secs_f64() * 1e3
    );
    row(
        "idle agent, resident",
        &format!("{:.1} MB", usage.resident),
        &beside,
    );
    Ok(agent)
}

/// A command in a workspace.
fn our_ssh(lab: &Lab, target: &str, remote: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command.args(["ssh", target, "--url", lab.url.as_str(), "--token-file"]);
    command
        .arg(lab.dir.path().join("token"))
        .arg("--")
        .args(remote);
    command
}

/// Sessions of which so many begin at once, each of them a process.
fn together(lab: &Lab, many: usize, at_once: usize) -> anyhow::Result<()> {
    let target = format!("{WORKSPACE}.{OWN_AGENT}");
    let begun = Instant::now();
    let mut failed = 0;
    for first in (0..many).step_by(at_once) {
        let sessions = (first..many.min(first + at_once)).map(|_| {
            our_ssh(lab, &target, &["true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        for mut session in sessions.collect::<Result<Vec<_>, _>>()? {
            failed += usize::from(!session.wait()?.success());
        }
    }
    row(
        &format!("{many} sessions, {at_once} at once"),
        &format!("{failed} fail"),
        &format!("all done after {:.1} s", begun.elapsed().as_secs_f64()),
    );
    Ok(())
}

/// Sessions that are open side by side, and what each costs the agent while it waits.
fn waiting_sessions(lab: &Lab, agent: &Process, many: usize) -> anyhow::Result<()> {
    let target = format!("{WORKSPACE}.{OWN_AGENT}");
    let before = Usage::of(agent.child.id())?;
    let open = |_| -> anyhow::Result<Child> {
        let mut session = our_ssh(lab, &target, &["cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        session
            .stdin
            .as_mut()
            .context("no stdin")?
            .write_all(b"x")?;
        let mut echo = [0];
        session
            .stdout
            .as_mut()
            .context("no stdout")?
            .read_exact(&mut echo)?;
        Ok(session)
    };
    let sessions = (0..many).map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let during = Usage::of(agent.child.id())?;
    for mut session in sessions {
        drop(session.stdin.take());
        let status = session.wait()?;
        ensure!(status.success(), "a session ended with {status}");
    }
    let each = (during.anonymous - before.anonymous) * 1e3 / many as f64;
    row(
        "a waiting session, at the agent",
        &format!("{each:.0} kB"),
        &format!("{many} side by side; anonymous memory"),
    );
    Ok(())
}

/// Much data through one session, from the client to the agent.
fn bulk(lab: &Lab, megabytes: usize) -> anyhow::Result<()> {
    let target = format!("{WORKSPACE}.{OWN_AGENT}");
    let begun = Instant::now();
    let mut session = our_ssh(lab, &target, &["wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = session.stdin.take().context("no stdin")?;
    let megabyte = vec![b'x'; 1_000_000];
    for _ in 0..megabytes {
        stdin.write_all(&megabyte)?;
    }
    drop(stdin);
    let output = session.wait_with_output()?;
    let arrived: usize = String::from_utf8(output.stdout)?.trim().parse()?;
    ensure!(
        arrived == megabytes * megabyte.len(),
        "{arrived} bytes arrived"
    );
    let rate = arrived as f64 * 8.0 / 1e6 / begun.elapsed().as_secs_f64();
    row(
        &format!("{megabytes} MB into one `outpost ssh`"),
        &format!("{rate:.0} Mbit/s"),
        "",
    );
    Ok(())
}

/// The memory of an agent that has done all of that.
async fn used_agent(agent: &Process) -> anyhow::Result<()> {
    sleep(FORGOTTEN).await;
    let usage = Usage::of(agent.child.id())?;
    row(
        "the same agent a minute after that",
        &format!("{:.1} MB", usage.resident),
        &format!(
            "{:.1} of it anonymous; {:.1} resident at most",
            usage.anonymous, usage.most
        ),
    );
    Ok(())
}

/// The first session of an agent that has just come up.
async fn first_after_build(lab: &Lab, rounds: usize) -> anyhow::Result<()> {
    let target = format!("{WORKSPACE}.{OWN_AGENT}");
    let mut waits = Vec::new();
    for _ in 0..rounds {
        let (agent, _) = own_agent(lab, |agent| agent.status == "connected").await?;
        let begun = Instant::now();
        let status = our_ssh(lab, &target, &["true"])
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "a session ended with {status}");
        waits.push(begun.elapsed());
        drop(agent);
    }
    let slowest = waits.iter().max().copied().unwrap_or_default();
    let (median, best) = median(waits);
    row(
        "first session of a new agent",
        &format!("{median:.0} ms"),
        &format!("best {best:.0}, worst {:.0}", slowest.as_secs_f64() * 1e3),
    );
    Ok(())
}

/// Whole processes that run a command that does nothing in a workspace.
fn first_bytes(lab: &Lab, rounds: usize) -> anyhow::Result<()> {
    let target = format!("{WORKSPACE}.{OWN_AGENT}");
    let (milliseconds, best) = whole(|| our_ssh(lab, &target, &["true"]), rounds)?;
    let figure = format!("{milliseconds:.0} ms");
    row(
        "`outpost ssh … -- true`",
        &figure,
        &format!("best {best:.0}"),
    );
    let theirs = match std::env::var_os("OUTPOST_BENCH_CODER").map(PathBuf::from) {
        Some(coder) => Some(whole(|| go_ssh(lab, &coder, &target), rounds)?.0),
        None => given("OUTPOST_BENCH_GO_SSH_MS")?,
    };
    if let Some(theirs) = theirs {
        let ratio = milliseconds / theirs;
        row("", "", &format!("{ratio:.2} of Go's {theirs:.0}"));
    }
    Ok(())
}

fn go_ssh(lab: &Lab, coder: &Path, target: &str) -> Command {
    let mut command = Command::new(coder);
    command.args(["ssh", "--wait=no", target, "true"]);
    command.env("CODER_URL", lab.url.as_str());
    command.env("CODER_SESSION_TOKEN", lab.token.expose());
    command.env("CODER_CONFIG_DIR", lab.dir.path().join("coder"));
    command
}

fn whole(command: impl Fn() -> Command, rounds: usize) -> anyhow::Result<(f64, f64)> {
    let mut waits = Vec::new();
    for _ in 0..=rounds {
        let begun = Instant::now();
        let status = command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        waits.push(begun.elapsed());
        ensure!(status.success(), "a session ended with {status}");
    }
    // The first one brings the program into memory.
    waits.remove(0);
    Ok(median(waits))
}

/// An agent of the fleet: coordinated as agents are, and it takes what comes.
async fn fleet_agent(lab: &Lab, name: &str) -> anyhow::Result<JoinSet<()>> {
    let (id, token) = &lab.agents[name];
    let http = client_of(&lab.url)?;
    let version = ApiVersion { major: 2, minor: 0 };
    let path = "api/v2/workspaceagents/me/rpc";
    let connection = dial(&http, path, &[("role", "agent")], token, version).await?;
    let (net, driver, mut events) = tailnet::start(tailnet::Config {
        id: address::node_id(*id),
        addresses: address::of_agent(*id).to_vec(),
        dial: Dial {
            http,
            by_websocket: Arc::default(),
            token: Arc::new(Mutex::new(token.clone())),
        },
        max_silence: None,
        may_be_direct: false,
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run(Stop::new()));
    net.set_derp_map(DerpMap::embedded(&lab.url)).await;
    let mut listener = net.listen(PORT);
    tasks.spawn(async move {
        let _ = coordinate(&connection, &net, &mut events, &Side::Agent, &Stop::new()).await;
    });
    tasks.spawn(async move {
        while let Some((stream, _)) = listener.accept().await {
            // Who sends sees that it broke.
            let _ = swallow(stream).await;
        }
    });
    Ok(tasks)
}

/// As many clients as agents through one relay: what each byte costs it, and what silence does.
async fn fleet(lab: &Lab, nodes: usize) -> anyhow::Result<()> {
    let before = lab.server_usage()?;
    let (mut agents, mut clients) = (Vec::new(), Vec::new());
    for n in 0..nodes {
        agents.push(fleet_agent(lab, &format!("a{n}")).await?);
    }
    for n in 0..nodes {
        let id = lab.agents[&format!("a{n}")].0;
        let mut conn = lab.people.dial_agent(id).await?;
        timeout(PATIENCE, conn.wait_until_reachable()).await??;
        clients.push(conn);
    }
    let connected = lab.server_usage()?;
    let (begun, each) = (Instant::now(), FLEET_BYTES / nodes.max(1));
    let filling = clients.iter().map(|conn| async move {
        let mut stream = conn.connect(PORT).await?;
        let piece = vec![7; 64 << 10];
        let mut left = each;
        while left > 0 {
            let length = left.min(piece.len());
            stream.write_all(&piece[..length]).await?;
            left -= length;
        }
        stream.shutdown().await?;
        ensure!(stream.read_u8().await? == b'.', "not all has come");
        Ok(())
    });
    futures::future::try_join_all(filling).await?;
    let (took, after) = (begun.elapsed(), lab.server_usage()?);
    let gigabytes = (each * nodes) as f64 / 1e9;
    row(
        &format!("{nodes} agents and clients, relaying"),
        &format!("{:.2} s/GB", (after.busy - connected.busy) / gigabytes),
        &format!(
            "of the server's processor time, at {:.0} Mbit/s in all",
            gigabytes * 8e3 / took.as_secs_f64()
        ),
    );
    sleep(Duration::from_secs(2)).await;
    let resting = lab.server_usage()?;
    row(
        "their server, resident",
        &format!("{:.1} MB", resting.resident),
        &format!(
            "{:.1} before them, {:.1} once connected, {:.1} at most",
            before.resident, connected.resident, resting.most
        ),
    );
    let seconds = setting("OUTPOST_BENCH_IDLE", 60)?;
    sleep(Duration::from_secs(seconds as u64)).await;
    let busy = lab.server_usage()?.busy - resting.busy;
    row(
        "their server, idle",
        &format!("{:.2} s/min", busy * 60.0 / seconds as f64),
        "of processor time",
    );
    Ok(())
}

/// What a process has and used: megabytes, and seconds of processor time.
struct Usage {
    resident: f64,
    anonymous: f64,
    most: f64,
    busy: f64,
}

impl Usage {
    fn of(id: u32) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|value| value.trim().strip_suffix(" kB"));
            let kilobytes: f64 = kilobytes.context("no such field")?.trim().parse()?;
            Ok(kilobytes * 1024.0 / 1e6)
        };
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in parentheses may have anything in it.
        let (_, fields) = stat.rsplit_once(") ").context("no process")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<_, _>>()?;
        let a_second = sysconf(SysconfVar::CLK_TCK)?.context("no ticks")?;
        Ok(Self {
            resident: field("VmRSS:")?,
            anonymous: field("RssAnon:")?,
            most: field("VmHWM:")?,
            busy: ticks as f64 / a_second as f64,
        })
    }
}
