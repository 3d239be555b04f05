//! Sessions of a real engine that share a plugin cache: what one installs, the others run.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use outpost::{
    job::JobId,
    language::cli_config,
    mirror::builtin::BuiltinPackages,
    provision::{
        ApplyRequest, InitRequest, Memory, PlanRequest, Provisioner as _, SessionConfig,
        StepFailure,
    },
    stop::Stop,
    terraform::{
        Engine, EngineConfig, Environment, binary,
        providers::{Mode, Presenter},
    },
};

use crate::engine::{Log, tar};

/// As many jobs as a small daemon has slots, a few times each.
const SESSIONS: usize = 6;
const ROUNDS: usize = 3;

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "coder/coder" }
  }
}
data "coder_workspace" "me" {}
output "name" { value = data.coder_workspace.me.name }
"#;

fn engine(dir: &Path) -> Engine {
    engine_with(dir, presenter(dir, Mode::Builtin), |_| {})
}

/// Presents the built-in provider in `mode`, whatever the operator of this machine has arranged.
pub fn presenter(dir: &Path, mode: Mode) -> Presenter {
    presenter_for(dir, mode, |_| None)
}

/// The same for a machine with these variables.
pub fn presenter_for(
    dir: &Path,
    mode: Mode,
    environment: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
) -> Presenter {
    let packages = BuiltinPackages {
        dir: dir.join("builtin"),
        executable: env!("CARGO_BIN_EXE_outpost").into(),
    };
    Presenter::new(
        mode,
        cli_config::Engine::Terraform,
        Arc::new(packages),
        environment,
    )
}

/// A real engine that finds its providers by `providers`.
pub fn engine_with(
    dir: &Path,
    providers: Presenter,
    change: impl FnOnce(&mut Environment),
) -> Engine {
    let mut environment = Environment::of_host(std::env::vars_os(), &[]);
    change(&mut environment);
    Engine::new(EngineConfig {
        binary: binary::find(&std::env::var_os("PATH").unwrap()).unwrap(),
        work_dir: dir.join("work"),
        environment,
        exit_timeout: Duration::from_secs(60),
        plugin_cache_dir: Some(dir.join("plugins")),
        agent_scripts: BTreeMap::new(),
        isolation: None,
        shim: None,
        providers: Arc::new(providers),
    })
}

async fn plan(engine: &Engine, files: &[(&str, &str)]) -> Result<(), StepFailure> {
    planned(engine, files).await.0
}

/// How init and plan of a template end, and what the job's log says.
pub async fn planned(engine: &Engine, files: &[(&str, &str)]) -> (Result<(), StepFailure>, String) {
    session(engine, files, false).await
}

/// The same with apply behind it.
pub async fn built(engine: &Engine, files: &[(&str, &str)]) -> (Result<(), StepFailure>, String) {
    session(engine, files, true).await
}

async fn session(
    engine: &Engine,
    files: &[(&str, &str)],
    applies: bool,
) -> (Result<(), StepFailure>, String) {
    let config = SessionConfig {
        job_id: JobId(uuid::Uuid::new_v4()),
        log_level: None,
        template_id: String::new(),
        template_version_id: String::new(),
        memory: Memory::default(),
    };
    let mut session = engine.open(config).await.unwrap();
    let (log, stop) = (Log::new(), Stop::new());
    let request = InitRequest {
        template_archive: tar(files),
        ..InitRequest::default()
    };
    let mut ended = session.init(request, log.clone(), &stop).await.map(drop);
    if ended.is_ok() {
        let request = PlanRequest::default();
        ended = session.plan(request, log.clone(), &stop).await.map(drop);
    }
    if applies && ended.is_ok() {
        let request = ApplyRequest::default();
        let applied = session.apply(request, log.clone(), &stop).await;
        ended = applied.failure.map_or(Ok(()), Err);
    }
    session.close().await;
    (ended, log.all())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_installs_disturbs_none_that_plans() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());

    let sessions = (0..SESSIONS).map(async |_| {
        for _ in 0..ROUNDS {
            plan(&engine, &[("main.tf", TEMPLATE)]).await?;
        }
        Ok(())
    });
    let ended: Vec<Result<(), StepFailure>> = join_all(sessions).await;

    let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_with_a_lock_file_leaves_the_shared_cache_alone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let lock = "provider \"registry.terraform.io/coder/coder\" {\n  version = \"2.19.0\"\n}\n";
    let files = [("main.tf", TEMPLATE), (".terraform.lock.hcl", lock)];

    plan(&engine, &files).await.unwrap();

    assert!(fs::metadata(dir.path().join("plugins")).is_err());
}
