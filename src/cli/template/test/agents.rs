//! A server in this process for the agents of one scenario, so that commands can be run at them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    cli::{dev::stack, ssh},
    client::{self, Api},
    connect,
    control::{self, LocalSource, Storage},
    job::{BuildResult, CompletedJob, CompletedWork, ImportResult, Resource, Transition},
    net::{http, tls::Trust},
    proto::outpost::v1::{CreateBuildRequest, CreateVersionRequest, CreateWorkspaceRequest},
    provision::JobSource as _,
    stop::Stop,
    template::scenario::{Agents, CommandOutput},
};

/// Name of the template and of the daemon in the server, which has nothing else.
const NAME: &str = "scenario";
/// Longest time until an agent is connected: it downloads its program and may wait for its machine.
const AGENT_LIMIT: Duration = Duration::from_secs(300);
/// Longest time of one command.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// Longest time until the server hands out a job that was just created.
const JOB_LIMIT: Duration = Duration::from_secs(30);

/// The server, its daemon, which builds nothing itself, and a client that connects to agents.
pub(super) struct ScenarioServer {
    url: String,
    /// Name of the workspace.
    workspace: String,
    api: Api,
    source: LocalSource,
    server: connect::Server,
    running: Mutex<Option<control::Running>>,
    /// True once the workspace exists.
    has_workspace: Mutex<bool>,
}

impl ScenarioServer {
    pub(super) async fn start(workspace: &str, stop: &Stop) -> anyhow::Result<Self> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = stack::server_config(Storage::Memory, listen);
        let running = control::start(config, stop.cleanup()).await?;
        let target = client::Target {
            url: running.url().clone(),
            token: running.admin_token().clone(),
            trust: Trust::default(),
        };
        let http = http::Client::new(http::Config::new(running.url().clone()))?;
        Ok(Self {
            url: running.url().to_string(),
            workspace: workspace.to_owned(),
            api: client::connect(&target)?,
            source: running.local_source(stack::registration(NAME)).await?,
            server: connect::Server::new(http, target.token),
            running: Mutex::new(Some(running)),
            has_workspace: Mutex::new(false),
        })
    }

    /// Reports a build of the workspace to the server, in the name of its daemon.
    async fn built(&self, resources: &[Resource]) -> anyhow::Result<()> {
        let mut api = self.api.clone();
        let mut has_workspace = self.has_workspace.lock().await;
        if *has_workspace {
            let request = CreateBuildRequest {
                workspace: self.workspace.clone(),
                transition: Transition::Start.as_str().to_owned(),
                ..CreateBuildRequest::default()
            };
            api.create_build(request).await?;
        } else {
            let request = CreateVersionRequest {
                template: NAME.to_owned(),
                archive: Bytes::from_static(b"none"),
                activate: true,
                ..CreateVersionRequest::default()
            };
            api.create_version(request).await?;
            let imported = ImportResult::default();
            self.complete(CompletedWork::TemplateImport(Box::new(imported)))
                .await?;
            let request = CreateWorkspaceRequest {
                template: NAME.to_owned(),
                name: self.workspace.clone(),
                ..CreateWorkspaceRequest::default()
            };
            api.create_workspace(request).await?;
            *has_workspace = true;
        }
        let result = BuildResult {
            // The state itself stays with the scenario.
            state: Bytes::from_static(b"{}"),
            resources: resources.to_vec(),
            ..BuildResult::default()
        };
        self.complete(CompletedWork::WorkspaceBuild(result)).await
    }

    async fn complete(&self, result: CompletedWork) -> anyhow::Result<()> {
        let stop = Stop::new();
        let job = timeout(JOB_LIMIT, self.source.acquire(&stop)).await??;
        let id = job.context("the server handed out no job")?.id;
        Ok(self.source.complete(CompletedJob { id, result }).await?)
    }
}

#[async_trait]
impl Agents for ScenarioServer {
    fn url(&self) -> String {
        self.url.clone()
    }

    async fn announce(&self, resources: &[Resource]) -> Result<(), String> {
        self.built(resources)
            .await
            .map_err(|error| format!("{error:#}"))
    }

    async fn run(&self, agent: &str, command: &str) -> Result<CommandOutput, String> {
        let named = format!("{}.{agent}", self.workspace);
        let limits = (AGENT_LIMIT, COMMAND_LIMIT);
        let ran = ssh::run_command(&self.server, &named, command, limits).await;
        let (stdout, status) = ran.map_err(|error| format!("{error:#}"))?;
        Ok(CommandOutput { stdout, status })
    }

    async fn end(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.shutdown().await;
        }
    }
}
