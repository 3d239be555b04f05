//! Daemons and the control plane over gRPC: real sockets, real storage, and an engine that only pretends.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use outpost::{
    control::{
        self, Limits, Running, Storage,
        model::{JobRecord, JobStatus, Workspace},
        plane::{BuildRequest, Caller, VersionRequest, WorkspaceRequest},
    },
    daemon::{self, DaemonError, Summary},
    job::{JobId, LogLevel, Transition},
    net::{listener::Tls, tls::Trust},
    provision::{
        ApplyComplete, ApplyRequest, GraphComplete, GraphSource, InitComplete, InitRequest,
        JobSource, LogSink, ParseComplete, PlanComplete, PlanRequest, Provisioner, Session,
        SessionConfig, StepFailure,
    },
    secret::Secret,
    stop::Stop,
    transport::{
        auth::{Credential, CredentialSource},
        grpc::{GrpcSource, Target},
    },
};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle, time::timeout};
use url::Url;

pub const PSK: &str = "a pre-shared key for tests";

/// Longer than anything here takes, so that a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);

/// A control plane with a runtime of its own, so that it can be torn away in the middle of anything.
pub struct Server {
    runtime: Runtime,
    pub running: Running,
}

impl Server {
    pub fn start(dir: &Path, listen: SocketAddr, tls: Option<Tls>) -> Self {
        Self::with_lease(Duration::from_secs(4), dir, listen, tls)
    }

    /// A server that gives a job up after `lease` without a sign of life.
    pub fn with_lease(lease: Duration, dir: &Path, listen: SocketAddr, tls: Option<Tls>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let storage = Storage::Directory(dir.to_owned());
        let config = control::Config {
            listen,
            tls,
            limits: Limits {
                lease,
                reap_every: Duration::from_millis(500),
                poll: Duration::from_secs(1),
                ..Limits::standard()
            },
            ..crate::control::config(storage, &Secret::new(PSK))
        };
        let running = runtime
            .block_on(control::start(config, Stop::new()))
            .unwrap();
        Self { runtime, running }
    }

    /// Ends every task where it stands, as SIGKILL would.
    pub fn kill(self) -> SocketAddr {
        let address = self.running.address();
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        drop(self.running);
        address
    }

    pub fn on<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { timeout(PATIENCE, what).await })
            .expect("the server answers in time")
    }

    pub fn caller(&self) -> Caller {
        let token = self.running.admin_token();
        self.on(self.running.plane().authenticate(token)).unwrap()
    }

    /// Waits until a job has ended.
    pub fn ended(&self, id: JobId) -> JobRecord {
        let (plane, caller) = (self.running.plane(), self.caller());
        self.on(async {
            let log = plane.logs(&caller, id, 0, true).await.unwrap();
            log.for_each(|batch| {
                batch.unwrap();
                std::future::ready(())
            })
            .await;
            plane.job(&caller, id).await.unwrap()
        })
    }

    /// The text of a job's whole log.
    fn log(&self, id: JobId) -> Vec<(String, String)> {
        let (plane, caller) = (self.running.plane(), self.caller());
        self.on(async {
            let log = plane.logs(&caller, id, 0, false).await.unwrap();
            let batches: Vec<_> = log.map(Result::unwrap).collect().await;
            batches
                .into_iter()
                .flatten()
                .map(|stored| (stored.line.stage, stored.line.output))
                .collect()
        })
    }

    /// Queues the import of a template; it becomes active at its end.
    pub fn import(&self) -> JobId {
        let (plane, caller) = (self.running.plane(), self.caller());
        let request = VersionRequest {
            template: "demo".to_owned(),
            archive: Bytes::from_static(b"tar"),
            name: String::new(),
            message: String::new(),
            variables: Vec::new(),
            tags: BTreeMap::new(),
            activate: true,
        };
        self.on(async {
            let organization = plane.organization("").await.unwrap().id;
            let version = plane.create_version(&caller, organization, request).await;
            version.unwrap().job_id
        })
    }

    /// Makes a workspace of the imported template, and queues its first build.
    pub fn workspace(&self, name: String) -> (Workspace, JobId) {
        let (plane, caller) = (self.running.plane(), self.caller());
        let request = WorkspaceRequest {
            name,
            owner: String::new(),
            parameters: Vec::new(),
            preset: String::new(),
            log_level: String::new(),
        };
        self.on(async {
            let organization = plane.organization("").await.unwrap().id;
            let template = plane.template(organization, "demo").await.unwrap();
            let version = plane.version(&template, "").await.unwrap();
            let workspace = plane
                .create_workspace(&caller, &template, &version, request)
                .await
                .unwrap();
            let builds = plane.store().builds(workspace.id).await.unwrap();
            let job = builds[0].job_id;
            (workspace, job)
        })
    }

    pub fn state(&self, workspace: &Workspace) -> Vec<u8> {
        let (plane, caller) = (self.running.plane(), self.caller());
        self.on(plane.pull_state(&caller, workspace, 0)).unwrap()
    }
}

/// The certificate of an authority, and files of a server that it vouches for.
pub fn authority(dir: &Path) -> (Vec<u8>, Tls) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let mut server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    // Who has the authority's own name is taken for it.
    let name = &mut server.distinguished_name;
    name.push(rcgen::DnType::CommonName, "server");
    let server = server.signed_by(&server_key, &issuer).unwrap();
    let tls = Tls {
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
    };
    std::fs::write(&tls.certificate, server.pem()).unwrap();
    std::fs::write(&tls.key, server_key.serialize_pem()).unwrap();
    (ca.pem().into_bytes(), tls)
}

struct Psk(&'static str);

impl CredentialSource for Psk {
    fn credential(&self) -> Result<Credential, String> {
        Ok(Credential::Psk(Secret::new(self.0)))
    }
}

fn source(url: &Url, name: &str, psk: &'static str, ca: Option<PathBuf>) -> Arc<dyn JobSource> {
    let target = Target {
        url: url.clone(),
        name: name.to_owned(),
        tags: BTreeMap::new(),
        trust: Trust {
            extra: ca.into_iter().collect(),
            ..Trust::default()
        },
    };
    Arc::new(GrpcSource::new(target, Arc::new(Psk(psk))))
}

/// Daemons with a runtime of their own.
pub struct Daemons {
    runtime: Runtime,
    stop: Stop,
    task: JoinHandle<Result<Summary, DaemonError>>,
}

impl Daemons {
    pub fn start(sources: Vec<Arc<dyn JobSource>>, engine: &Engine, state_dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let config = daemon::Config {
            heartbeat: Duration::from_millis(100),
            outage_limit: Duration::from_secs(60),
            force_cancel: Duration::from_secs(60),
            grace_period: None,
            max_jobs: None,
            capacity: None,
            state_dir: state_dir.to_owned(),
            logs: daemon::LogRetention::standard(),
            secrets: Vec::new(),
            journal_key: None,
            metrics: Arc::default(),
        };
        let stop = Stop::new();
        let task = runtime.spawn(daemon::run(
            config,
            sources,
            Arc::new(engine.clone()),
            stop.clone(),
        ));
        Self {
            runtime,
            stop,
            task,
        }
    }

    pub fn end(self) -> Result<Summary, DaemonError> {
        self.stop.drain();
        self.runtime
            .block_on(async { timeout(PATIENCE, self.task).await })
            .expect("the daemons end in time")
            .unwrap()
    }
}

/// An engine that pretends: it makes a state that names the workspace, and counts how often.
#[derive(Clone)]
pub struct Engine {
    pub applied: Arc<Mutex<BTreeMap<String, usize>>>,
    count: watch::Sender<usize>,
    apply_takes: Duration,
    /// Bytes of the modules that an import finds.
    modules: usize,
    /// Bytes of a state, at least.
    state: usize,
}

impl Engine {
    pub fn new(apply_takes: Duration) -> Self {
        Self {
            applied: Arc::default(),
            count: watch::Sender::new(0),
            apply_takes,
            modules: 1,
            state: 0,
        }
    }

    /// Lets an import find this many bytes of modules.
    pub fn with_modules(self, modules: usize) -> Self {
        Self { modules, ..self }
    }

    /// Lets states grow to this many bytes.
    pub fn with_state(self, state: usize) -> Self {
        Self { state, ..self }
    }

    /// Waits until so many applies have begun.
    pub fn wait_for(&self, server: &Server, applies: usize) {
        let mut count = self.count.subscribe();
        server
            .on(count.wait_for(|count| *count >= applies))
            .unwrap();
    }
}

pub fn state_of(workspace: &str) -> Vec<u8> {
    format!("{{\"version\":4,\"workspace\":\"{workspace}\"}}").into_bytes()
}

struct Pretended {
    engine: Engine,
    workspace: String,
}

#[async_trait]
impl Provisioner for Engine {
    async fn open(&self, _: SessionConfig) -> Result<Box<dyn Session>, StepFailure> {
        Ok(Box::new(Pretended {
            engine: self.clone(),
            workspace: String::new(),
        }))
    }
}

#[async_trait]
impl Session for Pretended {
    async fn init(
        &mut self,
        request: InitRequest,
        log: Arc<dyn LogSink>,
        _: &Stop,
    ) -> Result<InitComplete, StepFailure> {
        log.log(LogLevel::Info, "Initializing".to_owned());
        // A build gets the very files that the import found.
        let modules = Bytes::from(vec![7; self.engine.modules]);
        let module_files = match request.omit_module_files {
            true => Bytes::new(),
            false => modules.clone(),
        };
        if request.omit_module_files && request.module_archive != modules {
            return Err(StepFailure::new("the modules of the import are missing"));
        }
        Ok(InitComplete {
            module_files,
            ..InitComplete::default()
        })
    }

    async fn parse(&mut self, _: Arc<dyn LogSink>) -> Result<ParseComplete, StepFailure> {
        Ok(ParseComplete::default())
    }

    async fn plan(
        &mut self,
        request: PlanRequest,
        _: Arc<dyn LogSink>,
        _: &Stop,
    ) -> Result<PlanComplete, StepFailure> {
        self.workspace = request.metadata.workspace_name;
        Ok(PlanComplete {
            plan: Bytes::from_static(b"{}"),
            daily_cost: 1,
            ..PlanComplete::default()
        })
    }

    async fn apply(
        &mut self,
        _: ApplyRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> ApplyComplete {
        log.log(LogLevel::Info, "Creating".to_owned());
        *self
            .engine
            .applied
            .lock()
            .unwrap()
            .entry(self.workspace.clone())
            .or_default() += 1;
        self.engine.count.send_modify(|count| *count += 1);
        let was_stopped = timeout(self.engine.apply_takes, stop.cancelled())
            .await
            .is_ok();
        let mut state = state_of(&self.workspace);
        let length = state.len().max(self.engine.state);
        state.resize(length, b' ');
        ApplyComplete {
            state: Some(state.into()),
            failure: was_stopped.then(|| StepFailure::new("interrupted")),
            timings: Vec::new(),
        }
    }

    async fn graph(
        &mut self,
        _: GraphSource,
        _: Arc<dyn LogSink>,
        _: &Stop,
    ) -> Result<GraphComplete, StepFailure> {
        Ok(GraphComplete::default())
    }

    async fn newest_state(&mut self) -> Option<Bytes> {
        None
    }

    fn engine_time(&self) -> Duration {
        Duration::ZERO
    }

    async fn close(self: Box<Self>) {}
}

pub fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

#[test]
fn every_job_ends_once_and_keeps_its_state_while_the_server_is_killed_three_times() {
    const JOBS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("server");
    let mut server = Server::start(&data, anywhere(), None);
    let engine = Engine::new(Duration::from_millis(10));
    let url = server.running.url().clone();
    let sources = ["first", "second"].map(|name| source(&url, name, PSK, None));
    let daemons = Daemons::start(sources.into(), &engine, dir.path());
    assert_eq!(server.ended(server.import()).error, "");

    let queued: Vec<_> = (0..JOBS)
        .map(|number| server.workspace(format!("workspace-{number}")))
        .collect();
    for kill in 1..=3 {
        engine.wait_for(&server, kill * JOBS / 5);
        let address = server.kill();
        server = Server::start(&data, address, None);
    }
    let ended: Vec<_> = queued
        .iter()
        .map(|(workspace, job)| (workspace, server.ended(*job)))
        .collect();
    let summary = daemons.end().unwrap();

    assert_eq!(summary.undelivered, 0, "{summary:?}");
    let applied = engine.applied.lock().unwrap().clone();
    let mut broken = Vec::new();
    for (workspace, job) in ended {
        let times = applied.get(&workspace.name).copied().unwrap_or_default();
        let state = server.state(workspace);
        match job.status() {
            JobStatus::Succeeded => {
                assert_eq!((times, state), (1, state_of(&workspace.name)), "{job:?}");
            }
            // Handed out by a server that died before anybody heard of it. Nobody else may take it.
            JobStatus::Failed => {
                assert_eq!((times, state), (0, Vec::new()), "{job:?}");
                broken.push(job.error);
            }
            status => panic!("{} is {status}", workspace.name),
        }
    }
    assert!(broken.len() <= 6, "{broken:#?}");
    server.kill();
}

#[test]
fn a_cancelled_build_stops_its_engine_and_leaves_its_state_and_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("server"), anywhere(), None);
    let engine = Engine {
        modules: 5 << 20, // More than one piece.
        ..Engine::new(Duration::from_secs(3600))
    };
    let only = source(server.running.url(), "only", PSK, None);
    let daemons = Daemons::start(vec![only], &engine, dir.path());
    server.ended(server.import());
    let (workspace, job) = server.workspace("box".to_owned());
    engine.wait_for(&server, 1);

    let caller = server.caller();
    server
        .on(server.running.plane().cancel_job(&caller, job))
        .unwrap();

    let ended = server.ended(job);
    assert_eq!(ended.error, "job was cancelled: interrupted");
    assert_eq!(server.state(&workspace), state_of("box"));
    let mut stages: Vec<_> = server
        .log(job)
        .into_iter()
        .map(|(stage, _)| stage)
        .collect();
    stages.dedup();
    assert_eq!(
        stages,
        [
            "Setting up",
            "Initializing Terraform Directory",
            "Commit quota",
            "Starting workspace",
            "Cleaning Up"
        ]
    );
    assert_eq!(daemons.end().unwrap().failed, 1);
    server.kill();
}

#[test]
fn an_interrupted_daemon_ends_its_build_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("server"), anywhere(), None);
    let engine = Engine::new(Duration::from_secs(3600));
    let only = || vec![source(server.running.url(), "only", PSK, None)];
    let daemons = Daemons::start(only(), &engine, dir.path());
    server.ended(server.import());
    let (workspace, job) = server.workspace("box".to_owned());
    engine.wait_for(&server, 1);

    daemons.stop.cancel();
    assert_eq!(daemons.end().unwrap().failed, 1);
    assert_eq!(
        server.ended(job).error,
        "the provisioner daemon was stopped: interrupted"
    );

    let engine = Engine::new(Duration::ZERO);
    let daemons = Daemons::start(only(), &engine, dir.path());
    let caller = server.caller();
    let request = BuildRequest {
        transition: Transition::Stop,
        version: String::new(),
        parameters: Vec::new(),
        log_level: String::new(),
    };
    let build = server
        .on(server
            .running
            .plane()
            .create_build(&caller, &workspace, request))
        .unwrap();
    assert_eq!(server.ended(build.job_id).error, "");
    assert_eq!(daemons.end().unwrap().completed, 1);
    server.kill();
}

#[test]
fn a_wrong_key_ends_the_daemon_with_the_servers_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("server"), anywhere(), None);
    let wrong = source(server.running.url(), "only", "not the one", None);
    let daemons = Daemons::start(vec![wrong], &Engine::new(Duration::ZERO), dir.path());

    let ended = server.runtime.block_on(daemons.task).unwrap();

    let DaemonError::Unauthorized(error) = ended.unwrap_err() else {
        panic!("another error")
    };
    let text = error.to_string();
    assert!(
        text.starts_with("server does not accept the credentials: "),
        "{text}"
    );
    assert!(!text.contains("not the one"), "{text}");
    server.kill();
}

#[test]
fn a_server_with_a_certificate_of_our_own_is_trusted_only_if_we_say_so() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let (ca, tls) = authority(dir.path());
    let server = Server::start(&dir.path().join("server"), anywhere(), Some(tls));
    let url = Url::parse(&format!("https://{}", server.running.address())).unwrap();
    let stranger = source(&url, "stranger", PSK, None);
    let refused = server
        .on(stranger.acquire(&Stop::new()))
        .expect_err("nobody vouches for the server");
    let mut text = refused.to_string();
    let mut cause = std::error::Error::source(&refused);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains("UnknownIssuer"), "{text}");

    let file = dir.path().join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    let friend = source(&url, "friend", PSK, Some(file));
    let daemons = Daemons::start(vec![friend], &Engine::new(Duration::ZERO), dir.path());
    assert_eq!(server.ended(server.import()).error, "");
    assert_eq!(daemons.end().unwrap().completed, 1);
    server.kill();
}
