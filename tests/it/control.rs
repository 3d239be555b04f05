//! The control plane from outside: over gRPC and HTTP, through kills, full disks and damaged files.

mod agent_api;
mod agents;
mod backup;
mod bad_days;
mod builds;
mod coder_cli;
mod coder_wire;
mod daemon_api;
pub mod hostile_daemon;
mod hostile_peer;
pub mod kill;
mod listener;
mod people;
mod tailnet;

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use outpost::{
    client::{self, Api, Target},
    control::{self, Config, Limits, Running, StateKey, Storage, tokens},
    job::{
        BuildResult, CompletedJob, CompletedWork, ImportResult, Job, JobId, Parameter, Resource,
        Work,
    },
    net::tls::Trust,
    proto::outpost::v1::{self as api},
    provision::{JobSource, SourceError},
    secret::Secret,
    stop::Stop,
    transport::{
        auth::Credential,
        grpc::{self, GrpcSource},
    },
};

use crate::support::{Fixed, skip::skipped};

/// How long anything here may take before the test counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A configuration for tests: any port, and a key for daemons.
pub fn config(storage: Storage, psk: &Secret) -> Config {
    Config {
        storage,
        state_key: StateKey::Own,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        access_url: None,
        agent_binaries: None,
        trusted_proxies: Vec::new(),
        psks: vec![psk.clone()],
        psk_file: None,
        // Most tests are about the relay, or about what happens without it.
        direct_paths: control::DirectPaths {
            are_blocked: true,
            ..Default::default()
        },
        limits: Limits::standard(),
        version: "v0.1.0".to_owned(),
    }
}

/// A server in this process, somebody who calls it, and the key of its daemons.
pub struct Lab {
    pub server: Running,
    pub api: Api,
    pub psk: Secret,
}

impl Lab {
    pub async fn start(storage: Storage) -> Self {
        let psk = tokens::generate();
        Self::with(config(storage, &psk)).await
    }

    pub async fn with(config: Config) -> Self {
        let psk = config.psks[0].clone();
        let server = control::start(config, Stop::new()).await.unwrap();
        let api = connect(server.url(), server.admin_token());
        Self { server, api, psk }
    }

    pub fn daemon(&self, name: &str) -> GrpcSource {
        daemon(self.server.url(), name, Credential::Psk(self.psk.clone()))
    }

    /// Imports a template that everything can be built from.
    pub async fn import(&mut self, daemon: &dyn JobSource) {
        import(&mut self.api, daemon).await;
    }
}

pub fn connect(url: &url::Url, token: &Secret) -> Api {
    client::connect(&Target {
        url: url.clone(),
        token: token.clone(),
        trust: Trust::default(),
    })
    .unwrap()
}

pub fn daemon(url: &url::Url, name: &str, credential: Credential) -> GrpcSource {
    let target = grpc::Target {
        url: url.clone(),
        name: name.to_owned(),
        tags: BTreeMap::new(),
        trust: Trust::default(),
    };
    GrpcSource::new(target, Arc::new(Fixed(credential)))
}

pub fn version_request(template: &str) -> api::CreateVersionRequest {
    api::CreateVersionRequest {
        template: template.to_owned(),
        archive: Bytes::from_static(b"archive"),
        activate: true,
        ..Default::default()
    }
}

/// Queues an import and does what a daemon would do.
pub async fn import(api: &mut Api, daemon: &dyn JobSource) {
    api.create_version(version_request("demo")).await.unwrap();
    let job = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    daemon.complete(imported(job.id)).await.unwrap();
}

pub fn resource(address: &str) -> Resource {
    Resource {
        address: address.to_owned(),
        kind: "null_resource".to_owned(),
        name: address.to_owned(),
        ..Resource::default()
    }
}

pub fn imported(id: JobId) -> CompletedJob {
    let result = ImportResult {
        start_resources: vec![resource("a.disk"), resource("a.vm")],
        stop_resources: vec![resource("a.disk")],
        parameters: vec![Parameter {
            name: "size".to_owned(),
            kind: "number".to_owned(),
            default_value: "1".to_owned(),
            mutable: true,
            ..Parameter::default()
        }],
        ..ImportResult::default()
    };
    CompletedJob {
        id,
        result: CompletedWork::TemplateImport(Box::new(result)),
    }
}

/// The state that the tests' daemons give to a build.
pub fn state_of(build: &str) -> String {
    format!("state of {build}")
}

pub fn build_id(job: &Job) -> String {
    match &job.work {
        Work::WorkspaceBuild(build) => build.build_id.clone(),
        Work::TemplateImport(_) | Work::TemplateDryRun(_) | Work::Unknown => String::new(),
    }
}

pub fn built(job: &Job) -> CompletedJob {
    let result = BuildResult {
        state: state_of(&build_id(job)).into(),
        resources: vec![resource("a.disk"), resource("a.vm")],
        ..BuildResult::default()
    };
    CompletedJob {
        id: job.id,
        result: CompletedWork::WorkspaceBuild(result),
    }
}

pub fn workspace_request(name: &str) -> api::CreateWorkspaceRequest {
    api::CreateWorkspaceRequest {
        template: "demo".to_owned(),
        name: name.to_owned(),
        ..Default::default()
    }
}

pub async fn pull_state(api: &mut Api, workspace: &str) -> String {
    let request = api::PullStateRequest {
        workspace: workspace.to_owned(),
        ..Default::default()
    };
    let answer = api.pull_state(request).await.unwrap().into_inner();
    String::from_utf8(answer.state.to_vec()).unwrap()
}

/// Repeats a call until the server can be reached.
pub async fn insist<T, F>(mut call: impl FnMut() -> F) -> Result<T, SourceError>
where
    F: Future<Output = Result<T, SourceError>>,
{
    loop {
        match call().await {
            Err(SourceError::Lost(_)) => tokio::task::yield_now().await, // The source waits by itself.
            answer => return answer,
        }
    }
}

/// Runs `script` in namespaces of its own, or says why the test is skipped.
pub fn namespace(script: &str, directory: &Path) -> Option<tokio::process::Command> {
    let allowed = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        skipped("namespaces", "no small disk can be mounted in one");
        return None;
    }
    let mut command = tokio::process::Command::new("unshare");
    command
        .args(["-Urm", "sh", "-c", script])
        .env("OUTPOST", env!("CARGO_BIN_EXE_outpost"))
        .env("DIRECTORY", directory)
        .env_remove("CREDENTIALS_DIRECTORY")
        .kill_on_drop(true);
    Some(command)
}
