//! A server and agents, each a process of its own, and the clients that lead to them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::{
    client::Api,
    connect,
    job::{Agent, AgentAuth, BuildResult, CompletedJob, CompletedWork, Resource},
    net::http,
    proto::outpost::v1 as api,
    provision::JobSource as _,
    secret::Secret,
    stop::Stop,
    transport::{auth::Credential, grpc::GrpcSource},
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use url::Url;

use crate::{
    cli,
    control::{self, PATIENCE, kill as server},
    support::skip::skipped,
};

/// How long nothing has to change before it is looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// A server with workspaces, and somebody's desk.
pub struct Lab {
    directory: TempDir,
    pub server: server::Server,
    url: Url,
    pub token: Secret,
    api: Api,
    daemon: GrpcSource,
}

/// An agent in a process of its own.
pub struct Running {
    child: Child,
    /// Where it lives.
    pub home: PathBuf,
    log: PathBuf,
}

/// The program in an environment that has nothing of ours.
pub fn outpost() -> Command {
    cli::outpost().into()
}

/// An agent as templates describe them.
pub fn agent(name: &str) -> Agent {
    Agent {
        name: name.to_owned(),
        auth: AgentAuth::Token(uuid::Uuid::new_v4().to_string()),
        ..Agent::default()
    }
}

/// What an agent proves with who it is.
pub fn token(agent: &Agent) -> &str {
    match &agent.auth {
        AgentAuth::Token(token) => token,
        AgentAuth::InstanceId(_) => panic!("no token"),
    }
}

/// Whether there is a client of OpenSSH here.
pub fn has_ssh() -> bool {
    let is_here = ["ssh", "scp", "sftp"]
        .into_iter()
        .all(|tool| which::which(tool).is_ok());
    if !is_here {
        skipped("sessions of OpenSSH", "it is not here");
    }
    is_here
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Lab {
    /// A server whose agents are reached only through its relay.
    pub async fn start() -> Self {
        Self::with(&[("CODER_BLOCK_DIRECT", "true")]).await
    }

    /// A server as it is by itself.
    pub async fn with_direct_paths() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&'static str, &'static str)]) -> Self {
        outpost::net::install_crypto_provider();
        let directory = TempDir::new().unwrap();
        let psk = outpost::control::tokens::generate();
        fs::write(directory.path().join("psk"), psk.expose()).unwrap();
        let server = server::spawn_with(directory.path(), server::free_address(), settings).await;
        let url: Url = format!("http://{}", server.address).parse().unwrap();
        let token = fs::read_to_string(directory.path().join("data/admin.token")).unwrap();
        let token = Secret::new(token.trim());
        let mut api = control::connect(&url, &token);
        let daemon = control::daemon(&url, "d", Credential::Psk(psk));
        control::import(&mut api, &daemon).await;
        Self {
            directory,
            server,
            url,
            token,
            api,
            daemon,
        }
    }

    /// One workspace, `dev`, with one agent, which runs.
    pub async fn with_agent(agent: Agent, settings: &[(&str, &str)]) -> (Self, Running) {
        let mut lab = Self::start().await;
        lab.workspace("dev", vec![agent.clone()]).await;
        let running = lab.run(&agent, settings);
        (lab, running)
    }

    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Kills the server, and starts it on its data and its port.
    pub async fn kill_server(&mut self) {
        self.server.child.kill().await.unwrap();
        let settings = self.server.settings.clone();
        self.server =
            server::spawn_with(self.directory.path(), self.server.address, &settings).await;
    }

    /// Creates a workspace that has these agents once its build is done.
    pub async fn workspace(&mut self, name: &str, agents: Vec<Agent>) {
        let request = control::workspace_request(name);
        self.api.create_workspace(request).await.unwrap();
        self.build(agents).await;
    }

    /// Starts or stops a workspace.
    pub async fn change(&mut self, name: &str, transition: &str, agents: Vec<Agent>) {
        let request = api::CreateBuildRequest {
            workspace: name.to_owned(),
            transition: transition.to_owned(),
            ..Default::default()
        };
        self.api.create_build(request).await.unwrap();
        self.build(agents).await;
    }

    async fn build(&self, agents: Vec<Agent>) {
        let job = self.daemon.acquire(&Stop::new()).await.unwrap().unwrap();
        let machine = Resource {
            address: "a.vm".to_owned(),
            kind: "a".to_owned(),
            name: "vm".to_owned(),
            agents,
            ..Resource::default()
        };
        let result = BuildResult {
            state: "state".into(),
            resources: vec![machine],
            ..BuildResult::default()
        };
        let done = CompletedJob {
            id: job.id,
            result: CompletedWork::WorkspaceBuild(result),
        };
        self.daemon.complete(done).await.unwrap();
    }

    /// The command that starts an agent, which has a home and a log of its own.
    pub fn command(&self, agent: &Agent, settings: &[(&str, &str)]) -> (Command, PathBuf) {
        let home = self.path(&format!("home-{}", agent.name));
        fs::create_dir_all(home.join("tmp")).unwrap();
        let mut command = outpost();
        command
            .arg("agent")
            .env("CODER_AGENT_URL", self.url.as_str())
            .env("CODER_AGENT_TOKEN", token(agent))
            .env("HOME", &home)
            .env("TMPDIR", home.join("tmp"))
            .envs(settings.iter().copied())
            .current_dir(&home)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        (command, home)
    }

    pub fn run(&self, agent: &Agent, settings: &[(&str, &str)]) -> Running {
        let (command, home) = self.command(agent, settings);
        Running::start(command, home)
    }

    /// What the server says of an agent.
    pub async fn seen(&self, workspace: &str, agent: &str) -> connect::Agent {
        let http = http::Client::new(http::Config::new(self.url.clone())).unwrap();
        let server = connect::Server::new(http, self.token.clone());
        let found = server.workspace(workspace).await.unwrap();
        found.agent(agent).unwrap()
    }

    /// Waits until the server says so of the only agent of `dev`.
    pub async fn until(&self, is_so: impl Fn(&connect::Agent) -> bool) {
        let waiting = async {
            while !is_so(&self.seen("dev", "").await) {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
    }

    /// One of our own commands that lead to the server.
    pub fn ours(&self, arguments: &[&str]) -> Command {
        let (name, rest) = arguments.split_first().unwrap();
        let mut command = outpost();
        command
            .args([name, "--url", self.url.as_str(), "--token-file"])
            .arg(self.path("data/admin.token"))
            .args(rest)
            .kill_on_drop(true);
        command
    }

    /// A tool of OpenSSH, with the configuration that we write.
    pub async fn open(&self, tool: &str) -> Command {
        let config = self.path("ssh_config");
        if !config.exists() {
            let path = config.display().to_string();
            let written = self.ours(&["config-ssh", "--ssh-config-file", &path]);
            succeed(written).await;
        }
        let mut command = Command::new(tool);
        command.arg("-F").arg(config).kill_on_drop(true);
        command
    }

    /// `ssh` with these words, to its end.
    pub async fn ssh(&self, words: &[&str]) -> Output {
        let mut command = self.open("ssh").await;
        command.args(words);
        ended(command).await
    }

    /// Runs something in `dev`, which must succeed; returns what it prints.
    pub async fn there(&self, script: &str) -> String {
        let mut command = self.open("ssh").await;
        command.args(["dev.outpost", script]);
        succeed(command).await
    }
}

/// Runs a command without input to its end.
pub async fn ended(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    timeout(PATIENCE, output).await.unwrap().unwrap()
}

/// The same, which must end well; returns what it prints.
pub async fn succeed(command: Command) -> String {
    let what = format!("{command:?}");
    let output = ended(command).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{what}: {}\n{out}{err}",
        output.status
    );
    out
}

impl Running {
    pub fn start(mut command: Command, home: PathBuf) -> Self {
        let log = home.join("log");
        let file = fs::File::create(&log).unwrap();
        let child = command.stderr(file).spawn().unwrap();
        Self { child, home, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// Kills it, without a chance to end in order.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end; returns its status, or 128 and the signal.
    pub async fn end(mut self) -> i32 {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.unwrap().unwrap();
        let signalled = || status.signal().map(|signal| 128 + signal);
        status.code().or_else(signalled).unwrap()
    }
}

/// A test that fails, or does not wait for the end, leaves no script behind.
impl Drop for Running {
    fn drop(&mut self) {
        // Children of an agent that was killed are on their own, as a test may want.
        let agent = self.child.id();
        for id in agent.map(descendants).unwrap_or_default() {
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Ids of the processes that a process has started, and those that they have.
fn descendants(ancestor: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{ancestor}/task"));
    let lists = tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let ids: Vec<u32> = lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    let below = ids.iter().flat_map(|id| descendants(*id));
    let own = ids.iter().filter_map(|id| i32::try_from(*id).ok());
    own.chain(below).collect()
}

/// Waits until a file is there, and returns what is in it.
pub async fn appears(path: &Path) -> String {
    let waiting = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if !text.is_empty() => return text,
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("`{}` never came", path.display()))
}

/// Environment as templates give it.
pub fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}
