//! An import and a workspace build with the built-in `coder` provider, against the processes that the reference's
//! daemon starts for the same job, one after the other, on the same machine in the same minute.
//!
//! Run it: cargo bench --bench build
//!
//! Figures are medians over rounds; each round runs ours and the replayed processes, alternating which one is first.
//! `own` is everything of a job that is not a process of the engine. `OUTPOST_BENCH_ROUNDS` sets the rounds (9).

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use outpost::{
    daemon,
    files::{archive, beneath::Dir},
    job::{
        CompletedJob, CompletedWork, FailedJob, Job, JobId, LogLevel, Metadata, TemplateImport,
        Transition, Work, WorkspaceBuild,
    },
    language::cli_config,
    mirror::builtin::BuiltinPackages,
    provision::{JobSource, JobUpdate, JobUpdated, LogSink, Quota, SourceError},
    stop::Stop,
    terraform::{
        Attempt, Engine, EngineConfig, Environment, ProviderPresenter as _, binary,
        providers::{Mode, Presenter},
    },
};
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

/// What the reference runs for a workspace build, by `spec` of its processes: six version probes among them.
const BUILD: &[&[&str]] = &[
    VERSION, VERSION, INIT, VERSION, PLAN, SHOW_PLAN, VERSION, APPLY, VERSION, SHOW_STATE, VERSION,
    GRAPH,
];
/// The same for a template import, which plans for start and for stop.
const IMPORT: &[&[&str]] = &[
    VERSION, VERSION, INIT, //
    VERSION, PLAN, SHOW_PLAN, VERSION, SHOW_PLAN, VERSION, GRAPH, //
    VERSION, PLAN, SHOW_PLAN, VERSION, SHOW_PLAN, VERSION, GRAPH,
];
const VERSION: &[&str] = &["version", "-json"];
const INIT: &[&str] = &["init", "-no-color", "-input=false"];
const PLAN: &[&str] = &[
    "plan",
    "-no-color",
    "-input=false",
    "-json",
    "-refresh=true",
    "-out=plan",
];
const SHOW_PLAN: &[&str] = &["show", "-json", "-no-color", "plan"];
const APPLY: &[&str] = &[
    "apply",
    "-no-color",
    "-auto-approve",
    "-input=false",
    "-json",
    "plan",
];
const SHOW_STATE: &[&str] = &["show", "-json", "-no-color", "terraform.tfstate"];
const GRAPH: &[&str] = &["graph"];

/// What the provider reads of a workspace.
const WORKSPACE: [(&str, &str); 7] = [
    ("CODER_AGENT_URL", "http://127.0.0.1"),
    ("CODER_WORKSPACE_TRANSITION", "start"),
    ("CODER_WORKSPACE_NAME", "bench"),
    ("CODER_WORKSPACE_OWNER", "bench"),
    (
        "CODER_WORKSPACE_TEMPLATE_ID",
        "a7a0f0a2-3ae6-4cd6-8ff6-3b8e2f8d6d0e",
    ),
    ("CODER_WORKSPACE_TEMPLATE_NAME", "bench"),
    ("CODER_WORKSPACE_TEMPLATE_VERSION", "v1"),
];

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let rounds = match std::env::var("OUTPOST_BENCH_ROUNDS") {
            Ok(rounds) => rounds
                .parse()
                .context("OUTPOST_BENCH_ROUNDS is no number")?,
            Err(_) => 9,
        };
        let lab = Lab::new()?;
        println!(
            "{:<8} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "job", "outpost", "own", "replayed", "ratio", "best"
        );
        lab.measure("import", IMPORT, rounds).await?;
        lab.measure("build", BUILD, rounds).await
    })
}

/// One engine with the built-in provider, and one template.
struct Lab {
    dir: TempDir,
    binary: PathBuf,
    environment: Environment,
    providers: Presenter,
    engine: Arc<Engine>,
    archive: Bytes,
}

/// One job as we ran it.
struct Ran {
    total: Duration,
    own: Duration,
}

impl Lab {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let binary = binary::find(&std::env::var_os("PATH").unwrap_or_default())?;
        let missing =
            std::env::var_os("TF_CLI_CONFIG_FILE").is_some_and(|path| !Path::new(&path).exists());
        let host =
            std::env::vars_os().filter(|(name, _)| !(missing && name == "TF_CLI_CONFIG_FILE"));
        let environment = Environment::of_host(host, &[]);
        let packages = BuiltinPackages {
            dir: dir.path().join("builtin-provider"),
            executable: PathBuf::from(env!("CARGO_BIN_EXE_outpost")),
        };
        let variables: BTreeMap<String, OsString> = environment
            .to_vec()
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        let providers = Presenter::new(
            Mode::Builtin,
            cli_config::Engine::Terraform,
            Arc::new(packages),
            move |name: &str| variables.get(name).cloned(),
        );
        let engine = Engine::new(EngineConfig {
            binary: binary.clone(),
            work_dir: dir.path().join("work"),
            environment: environment.clone(),
            exit_timeout: Duration::from_secs(60),
            plugin_cache_dir: None,
            operators_plugin_caches: Vec::new(),
            agent_scripts: BTreeMap::new(),
            providers: Arc::new(providers.clone()),
            isolation: None,
            shim: None,
        });
        let archive = archive::pack_template(&template())?;
        Ok(Self {
            dir,
            binary,
            environment,
            providers,
            engine: Arc::new(engine),
            archive,
        })
    }

    /// Runs both ways `rounds` times and prints a line of figures. The first round only warms caches.
    async fn measure(
        &self,
        name: &str,
        processes: &[&[&str]],
        rounds: usize,
    ) -> anyhow::Result<()> {
        let (mut totals, mut owns, mut replays, mut ratios) = (vec![], vec![], vec![], vec![]);
        for round in 0..=rounds {
            let (ours, replayed) = if round % 2 == 0 {
                let ours = self.ours(name).await?;
                (ours, self.replay(processes).await?)
            } else {
                let replayed = self.replay(processes).await?;
                (self.ours(name).await?, replayed)
            };
            if round == 0 {
                continue;
            }
            totals.push(ours.total.as_secs_f64());
            owns.push(ours.own.as_secs_f64());
            replays.push(replayed.as_secs_f64());
            ratios.push(replayed.as_secs_f64() / ours.total.as_secs_f64());
        }
        let best = owns.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{name:<8} {:>6.0} ms {:>6.1} ms {:>6.0} ms {:>8.2}x {:>6.1} ms",
            1e3 * median(&mut totals),
            1e3 * median(&mut owns),
            1e3 * median(&mut replays),
            median(&mut ratios),
            1e3 * best,
        );
        Ok(())
    }

    /// One job through the daemon, from a source that costs nothing.
    async fn ours(&self, name: &str) -> anyhow::Result<Ran> {
        let work = if name == "import" {
            Work::TemplateImport(TemplateImport {
                metadata: metadata(),
                ..TemplateImport::default()
            })
        } else {
            let build = WorkspaceBuild {
                metadata: metadata(),
                ..WorkspaceBuild::default()
            };
            Work::WorkspaceBuild(build)
        };
        let source = Arc::new(OneJob::new(Job {
            id: JobId::from(Uuid::new_v4()),
            created_at: jiff::Timestamp::now(),
            provisioner: "terraform".to_owned(),
            user_name: "bench".to_owned(),
            template_archive: self.archive.clone(),
            work,
            trace: BTreeMap::new(),
        }));
        let config = daemon::Config {
            heartbeat: Duration::from_secs(1),
            outage_limit: Duration::from_secs(270),
            force_cancel: Duration::from_secs(600),
            grace_period: None,
            max_jobs: Some(1),
            capacity: None,
            state_dir: self.dir.path().join("state"),
            logs: daemon::LogRetention::standard(),
            secrets: Vec::new(),
            journal_key: None,
            metrics: Arc::default(),
        };
        let sources = vec![Arc::clone(&source) as Arc<dyn JobSource>];
        let engine = Arc::clone(&self.engine) as _;
        let summary = daemon::run(config, sources, engine, Stop::new()).await?;
        source.check()?;
        Ok(Ran {
            total: summary.total,
            own: summary.total.saturating_sub(summary.engine),
        })
    }

    /// The bare processes, in a directory that is ready, with the same provider and the same environment.
    async fn replay(&self, processes: &[&[&str]]) -> anyhow::Result<Duration> {
        let dir = tempfile::tempdir_in(self.dir.path())?;
        let (work, private) = (dir.path().join("work"), dir.path().join("private"));
        std::fs::create_dir(&work)?;
        std::fs::create_dir(&private)?;
        archive::extract_template(&self.archive, &Dir::open(&work)?, &Stop::new())?;
        let presented = self
            .providers
            .prepare(
                &Dir::open(&work)?,
                &Dir::open(&private)?,
                Attempt::First,
                &std::collections::BTreeSet::new(),
                &Nowhere,
            )
            .await
            .map_err(|failure| anyhow::anyhow!(failure.error))?;
        let started = Instant::now();
        for arguments in processes {
            let output = Command::new(&self.binary)
                .args(*arguments)
                .env_clear()
                .envs(self.environment.to_vec())
                .envs(presented.env.clone())
                .envs(WORKSPACE)
                .stdin(Stdio::null())
                .current_dir(&work)
                .output()
                .await?;
            ensure!(
                output.status.success(),
                "{} {arguments:?}: {}",
                self.binary.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(started.elapsed())
    }
}

fn template() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/templates/multi-agent")
}

fn metadata() -> Metadata {
    Metadata {
        coder_url: "http://127.0.0.1".to_owned(),
        transition: Transition::Start,
        workspace_name: "bench".to_owned(),
        workspace_owner: "bench".to_owned(),
        workspace_id: Uuid::new_v4().to_string(),
        workspace_owner_id: Uuid::new_v4().to_string(),
        build_id: Uuid::new_v4().to_string(),
        template_id: Uuid::new_v4().to_string(),
        template_name: "bench".to_owned(),
        template_version: "v1".to_owned(),
        ..Metadata::default()
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Loses what it is told.
struct Nowhere;

impl LogSink for Nowhere {
    fn log(&self, _: LogLevel, _: String) {}
}

/// Hands out one job and remembers how it ended.
struct OneJob {
    job: Mutex<Option<Job>>,
    ended: Mutex<Option<Result<CompletedJob, String>>>,
}

impl OneJob {
    fn new(job: Job) -> Self {
        Self {
            job: Mutex::new(Some(job)),
            ended: Mutex::default(),
        }
    }

    /// A job that failed early would be fast, too.
    fn check(&self) -> anyhow::Result<()> {
        let resources = match self.ended.lock().expect("nobody panics").take() {
            Some(Ok(CompletedJob {
                result: CompletedWork::WorkspaceBuild(build),
                ..
            })) => build.resources.len(),
            Some(Ok(CompletedJob {
                result: CompletedWork::TemplateImport(import),
                ..
            })) => import.start_resources.len(),
            Some(Err(error)) => bail!("the job failed: {error}"),
            other => bail!("the job ended as {other:?}"),
        };
        ensure!(resources > 0, "the job made no resources");
        Ok(())
    }
}

#[async_trait]
impl JobSource for OneJob {
    async fn acquire(&self, _: &Stop) -> Result<Option<Job>, SourceError> {
        Ok(self.job.lock().expect("nobody panics").take())
    }

    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        Ok(JobUpdated {
            cancelled: false,
            variables: update.user_variables,
        })
    }

    async fn commit_quota(&self, _: JobId, _: i32) -> Result<Quota, SourceError> {
        Ok(Quota {
            ok: true,
            consumed: 0,
            budget: -1,
        })
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        *self.ended.lock().expect("nobody panics") = Some(Err(job.error));
        Ok(())
    }

    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError> {
        *self.ended.lock().expect("nobody panics") = Some(Ok(job));
        Ok(())
    }

    async fn download_modules(&self, _: Uuid) -> Result<Bytes, SourceError> {
        Ok(Bytes::new())
    }
}
