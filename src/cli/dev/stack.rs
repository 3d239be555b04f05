//! The server and the daemon that `dev` runs in its own process.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    cli::{
        engine::{CoderProvider, EngineArgs},
        isolation::Guarded,
        output,
        server::daemon_config,
    },
    client::{self, Api},
    connect,
    control::{self, Registration, StateKey, Storage, data_dir::ADMIN_TOKEN},
    daemon::{self, DaemonError, Summary},
    files::{self, removal::Scratch},
    net::{http, tls::Trust},
    provision::JobSource,
    rules,
    stop::Stop,
};

/// Directory of local workspaces, below the run's directory.
pub(super) const WORKSPACES: &str = "workspaces";

/// Directory of the server's data, below the run's directory.
const SERVER: &str = "server";

/// File with the server's port.
const PORT: &str = "port";

/// A running server with its daemon.
pub(super) struct Stack {
    /// Client of the server's API, as its first user.
    pub(super) api: Api,
    /// Directory of this run's data.
    pub(super) directory: PathBuf,
    /// Directory that is removed at the end, unless something must be kept.
    temporary: Option<Scratch>,
    server: control::Running,
    daemon: JoinHandle<Result<Summary, DaemonError>>,
    daemon_stop: Stop,
}

impl Stack {
    /// Starts both. Of `stop` they follow only the kill, because they must still clean up after a cancel.
    pub(super) async fn start(
        data_dir: Option<PathBuf>,
        listen: Option<SocketAddr>,
        (engine, trust): (&EngineArgs, &Trust),
        coder_provider: CoderProvider,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let temporary = match &data_dir {
            Some(_) => None,
            None => {
                let made = TempDir::with_prefix("outpost-dev-");
                let made = made.context("failed to make a directory for the server")?;
                Some(Scratch::waited_for(made))
            }
        };
        let directory = match (&data_dir, &temporary) {
            (Some(path), _) => std::path::absolute(path)?,
            (None, temporary) => temporary
                .as_ref()
                .map(|it| it.path().to_owned())
                .unwrap_or_default(),
        };
        files::create_private_dir(&directory).with_context(|| {
            format!(
                "failed to make the data directory `{}`",
                directory.display()
            )
        })?;
        let (server, states) = (directory.join(SERVER), directory.join("states"));
        // A missing path cannot be hidden, and under Landlock a template can create nothing beside a hidden one.
        for path in [&directory.join(WORKSPACES), &server, &states] {
            files::create_private_dir(path)
                .with_context(|| format!("failed to make `{}`", path.display()))?;
        }
        let guarded = Guarded {
            jobs: 1,
            are_foreign: false,
            hidden: vec![server.clone(), states.clone()],
        };
        let provisioner = engine
            .provisioner(
                coder_provider,
                directory.join("sessions"),
                guarded,
                trust,
                stop,
            )
            .await?;
        let port = directory.join(PORT);
        let listen = listen.unwrap_or_else(|| remembered(&port));
        let server = control::start(
            server_config(Storage::Directory(server), listen),
            stop.cleanup(),
        )
        .await?;
        if let Some(taken) = server.url().port() {
            files::write_public(&port, taken.to_string().as_bytes())
                .with_context(|| format!("failed to write `{}`", port.display()))?;
        }
        let api = client::connect(&client::Target {
            url: server.url().clone(),
            token: server.admin_token().clone(),
            trust: Trust::default(),
        })?;
        let source: Arc<dyn JobSource> = Arc::new(server.local_source(registration("dev")).await?);
        let daemon_stop = stop.cleanup();
        let config = daemon_config(states);
        let daemon = tokio::spawn(daemon::run(
            config,
            vec![source],
            provisioner,
            daemon_stop.clone(),
        ));
        Ok(Self {
            api,
            directory,
            temporary,
            server,
            daemon,
            daemon_stop,
        })
    }

    /// Keeps everything as it is, and prints the command `again` with its directory, which continues.
    pub(super) fn keep(&mut self, again: &str) {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
        let directory = output::shell_word(&self.directory.display().to_string());
        output::note(&format!(
            "Kept. Continue with: {again} --data-dir {directory}"
        ));
    }

    /// Client of the server for connections to agents.
    pub(super) fn external_server(&self) -> anyhow::Result<connect::Server> {
        let http = http::Client::new(http::Config::new(self.server.url().clone()))?;
        Ok(connect::Server::new(
            http,
            self.server.admin_token().clone(),
        ))
    }

    /// Command with which a person connects to a workspace from another terminal.
    pub(super) fn way_in(&self, workspace: &str) -> String {
        let (url, server) = (self.server.url(), self.directory.join(SERVER));
        let token = server.join(ADMIN_TOKEN);
        format!(
            "outpost ssh {workspace} --url {url} --token-file {}",
            token.display()
        )
    }

    /// Ends the daemon, then the server.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.daemon_stop.drain();
        let ended = self.daemon.await.context("the daemon failed")?;
        self.server.shutdown().await;
        ended?;
        Ok(())
    }
}

/// Port of the previous run if it is free, so that agents that still run find their server; else any.
fn remembered(file: &Path) -> SocketAddr {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let port = std::fs::read_to_string(file).ok();
    let Some(port) = port.and_then(|text| text.trim().parse().ok()) else {
        return any;
    };
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(error) => {
            output::note(&format!(
                "warning: cannot listen on port {port}, which the last run used ({error}): agents of that run cannot \
                 connect; `--listen` selects another port"
            ));
            any
        }
    }
}

/// Configuration of a server for this process alone.
pub(in crate::cli) fn server_config(storage: Storage, listen: SocketAddr) -> control::Config {
    control::Config {
        storage,
        state_key: StateKey::Own,
        listen,
        tls: None,
        access_url: None,
        agent_binaries: None,
        trusted_proxies: Vec::new(),
        psks: Vec::new(),
        psk_file: None,
        direct_paths: control::DirectPaths::default(),
        limits: control::Limits::standard(),
        version: rules::VERSION.to_owned(),
    }
}

/// Registration of the daemon of such a server.
pub(in crate::cli) fn registration(name: &str) -> Registration {
    Registration {
        name: name.to_owned(),
        tags: std::collections::BTreeMap::new(),
        provisioners: vec!["terraform".to_owned()],
        version: rules::VERSION.to_owned(),
        ..Registration::default()
    }
}
