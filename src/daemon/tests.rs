use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::*;
use crate::{
    job::{
        CompletedJob, CompletedWork, FailedJob, FailedWork, FailureCode, Job, JobId, LogLevel,
        Metadata, TemplateDryRun, TemplateImport, TemplateVariable, Transition, Work,
        WorkspaceBuild,
    },
    provision::{
        ApplyComplete, ApplyRequest, GraphComplete, GraphSource, InitComplete, InitRequest,
        JobUpdate, JobUpdated, LogSink, ParseComplete, PlanComplete, PlanRequest, Quota, Session,
        SessionConfig, StepFailure,
    },
};

/// A server that hands out some jobs and remembers everything, and can be away or unkind.
#[derive(Default)]
struct Server {
    jobs: Mutex<VecDeque<Job>>,
    calls: Mutex<Vec<String>>,
    lines: Mutex<Vec<(String, String)>>,
    failed: Mutex<Option<FailedJob>>,
    completed: Mutex<Option<CompletedJob>>,
    cancelled: AtomicBool,
    away_until: Mutex<Option<Instant>>,
    refuse_complete: AtomicBool,
    quota: Mutex<Option<Quota>>,
}

impl Server {
    fn with(job: Job) -> Arc<Self> {
        let server = Self::default();
        server.jobs.lock().unwrap().push_back(job);
        Arc::new(server)
    }

    fn call(&self, name: &str) -> Result<(), SourceError> {
        if self
            .away_until
            .lock()
            .unwrap()
            .is_some_and(|until| Instant::now() < until)
        {
            return Err(SourceError::Lost("away".into()));
        }
        self.calls.lock().unwrap().push(name.to_owned());
        Ok(())
    }

    fn calls_named(&self, name: &str) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| *call == name)
            .count()
    }

    fn stages(&self) -> Vec<String> {
        let mut stages: Vec<_> = self
            .lines
            .lock()
            .unwrap()
            .iter()
            .map(|(stage, _)| stage.clone())
            .collect();
        stages.dedup();
        stages
    }

    fn failure(&self) -> FailedJob {
        self.failed.lock().unwrap().clone().expect("the job failed")
    }
}

#[async_trait]
impl JobSource for Server {
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError> {
        let job = self.jobs.lock().unwrap().pop_front();
        if job.is_none() {
            stop.draining().await;
        }
        Ok(job)
    }

    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        self.call("update")?;
        let lines = update
            .logs
            .into_iter()
            .map(|line| (line.stage, line.output));
        self.lines.lock().unwrap().extend(lines);
        let cancelled = self.cancelled.load(Ordering::SeqCst);
        Ok(JobUpdated {
            cancelled,
            variables: update.user_variables,
        })
    }

    async fn commit_quota(&self, _: JobId, _: i32) -> Result<Quota, SourceError> {
        self.call("quota")?;
        Ok(self.quota.lock().unwrap().unwrap_or(Quota {
            ok: true,
            consumed: 0,
            budget: -1,
        }))
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        self.call("fail")?;
        *self.failed.lock().unwrap() = Some(job);
        Ok(())
    }

    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError> {
        self.call("complete")?;
        if self.refuse_complete.load(Ordering::SeqCst) {
            return Err(SourceError::Refused("duplicate app slug".to_owned()));
        }
        *self.completed.lock().unwrap() = Some(job);
        Ok(())
    }

    async fn download_modules(&self, _: Uuid) -> Result<Bytes, SourceError> {
        self.call("download")?;
        Ok(Bytes::from_static(b"modules"))
    }
}

/// An engine that does what it is told.
#[derive(Clone, Default)]
struct Engine {
    steps: Arc<Mutex<Vec<String>>>,
    apply_takes: Duration,
    ignores_cancel: bool,
    logs_always: bool,
    daily_cost: i32,
    panics: bool,
    failing: Option<&'static str>,
}

#[async_trait]
impl Provisioner for Engine {
    async fn open(&self, _: SessionConfig) -> Result<Box<dyn Session>, StepFailure> {
        self.step("open".to_owned())?;
        Ok(Box::new(self.clone()))
    }
}

impl Engine {
    fn step(&self, name: String) -> Result<(), StepFailure> {
        let fails = self.failing == Some(&name);
        self.steps.lock().unwrap().push(name);
        if fails {
            Err(StepFailure::new("engine says no"))
        } else {
            Ok(())
        }
    }

    fn steps(&self) -> Vec<String> {
        self.steps.lock().unwrap().clone()
    }
}

#[async_trait]
impl Session for Engine {
    async fn init(
        &mut self,
        _: InitRequest,
        log: Arc<dyn LogSink>,
        _: &Stop,
    ) -> Result<InitComplete, StepFailure> {
        log.log(LogLevel::Info, "initializing".to_owned());
        self.step("init".to_owned())?;
        Ok(InitComplete::default())
    }

    async fn parse(&mut self, _: Arc<dyn LogSink>) -> Result<ParseComplete, StepFailure> {
        self.step("parse".to_owned())?;
        let variable = TemplateVariable {
            name: "region".to_owned(),
            ..TemplateVariable::default()
        };
        Ok(ParseComplete {
            template_variables: vec![variable],
            ..ParseComplete::default()
        })
    }

    async fn plan(
        &mut self,
        request: PlanRequest,
        log: Arc<dyn LogSink>,
        _: &Stop,
    ) -> Result<PlanComplete, StepFailure> {
        log.log(LogLevel::Info, "planning".to_owned());
        let Metadata {
            transition,
            workspace_name,
            ..
        } = request.metadata;
        self.step(
            format!("plan {transition} {workspace_name}")
                .trim()
                .to_owned(),
        )?;
        assert!(!self.panics, "the engine's code has a bug");
        Ok(PlanComplete {
            daily_cost: self.daily_cost,
            ..PlanComplete::default()
        })
    }

    async fn apply(
        &mut self,
        _: ApplyRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> ApplyComplete {
        self.step("apply".to_owned()).ok();
        let state = Some(Bytes::from_static(b"{\"serial\":2}"));
        let end = Instant::now() + self.apply_takes;
        while Instant::now() < end {
            let cancelled = async {
                if self.ignores_cancel {
                    stop.killed().await
                } else {
                    stop.cancelled().await
                }
            };
            tokio::select! {
                () = sleep(Duration::from_millis(100)) => {}
                () = cancelled => {
                    return ApplyComplete { state, failure: Some(StepFailure::new("interrupted")), timings: vec![] };
                }
            }
            if self.logs_always {
                log.log(LogLevel::Info, "still creating".to_owned());
            }
        }
        ApplyComplete {
            state,
            failure: None,
            timings: vec![],
        }
    }

    async fn graph(
        &mut self,
        source: GraphSource,
        _: Arc<dyn LogSink>,
        _: &Stop,
    ) -> Result<GraphComplete, StepFailure> {
        self.step(format!("graph {source:?}").to_lowercase())?;
        Ok(GraphComplete::default())
    }

    fn engine_time(&self) -> Duration {
        Duration::ZERO
    }

    async fn close(self: Box<Self>) {
        self.step("close".to_owned()).ok();
    }
}

const ID: JobId = JobId(Uuid::from_u128(1));

fn job(work: Work) -> Job {
    Job {
        id: ID,
        created_at: Timestamp::UNIX_EPOCH,
        provisioner: "terraform".to_owned(),
        user_name: "ada".to_owned(),
        template_archive: Bytes::from_static(b"tar"),
        work,
        trace: [].into(),
    }
}

fn build(transition: Transition) -> Job {
    let metadata = Metadata {
        transition,
        ..Metadata::default()
    };
    job(Work::WorkspaceBuild(WorkspaceBuild {
        metadata,
        ..WorkspaceBuild::default()
    }))
}

fn config(dir: &tempfile::TempDir) -> Config {
    Config {
        heartbeat: Duration::from_secs(1),
        outage_limit: Duration::from_secs(270),
        force_cancel: Duration::from_secs(600),
        max_jobs: Some(1),
        state_dir: dir.path().to_owned(),
    }
}

/// Runs one job and returns what the daemon did, and how long it took on the paused clock.
async fn run_one(
    server: &Arc<Server>,
    engine: &Engine,
    stop: &Stop,
) -> (Summary, Duration, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let source: Arc<dyn JobSource> = Arc::clone(server) as Arc<dyn JobSource>;
    let summary = run(
        config(&dir),
        vec![source],
        Arc::new(engine.clone()),
        stop.clone(),
    )
    .await
    .unwrap();
    (summary, start.elapsed(), dir)
}

const COMPLETED: Summary = Summary {
    completed: 1,
    failed: 0,
    undelivered: 0,
};
const FAILED: Summary = Summary {
    completed: 0,
    failed: 1,
    undelivered: 0,
};

#[tokio::test(start_paused = true)]
async fn an_import_plans_a_start_and_a_stop_and_never_applies() {
    let server = Server::with(job(Work::TemplateImport(TemplateImport::default())));
    let engine = Engine::default();

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary, COMPLETED);
    let steps = [
        "open",
        "init",
        "parse",
        "plan start",
        "graph plan",
        "plan stop",
        "graph plan",
        "close",
    ]
    .map(str::to_owned);
    assert_eq!(engine.steps(), steps);
    let stages = [
        "Setting up",
        "Initializing Terraform Directory",
        "Parsing template parameters",
        "Detecting persistent resources",
        "Detecting ephemeral resources",
        "Cleaning Up",
    ];
    assert_eq!(server.stages(), stages);
    assert_eq!(server.calls.lock().unwrap().last().unwrap(), "complete");
}

#[tokio::test(start_paused = true)]
async fn a_build_walks_through_its_stages_and_ends_with_the_state() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine::default();

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary, COMPLETED);
    assert_eq!(
        engine.steps(),
        [
            "open",
            "init",
            "plan start",
            "apply",
            "graph state",
            "close"
        ]
        .map(str::to_owned)
    );
    assert_eq!(server.calls_named("quota"), 0);
    let CompletedWork::WorkspaceBuild(result) =
        server.completed.lock().unwrap().clone().unwrap().result
    else {
        panic!("another kind of job")
    };
    assert_eq!(result.state, "{\"serial\":2}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_fills_what_is_missing() {
    let server = Server::with(job(Work::TemplateDryRun(TemplateDryRun::default())));
    let engine = Engine::default();

    run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(
        engine.steps(),
        ["open", "init", "plan start dryrun", "graph plan", "close"].map(str::to_owned)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_quota_fails_the_build_before_it_applies() {
    let server = Server::with(build(Transition::Start));
    *server.quota.lock().unwrap() = Some(Quota {
        ok: false,
        consumed: 7,
        budget: 10,
    });
    let engine = Engine {
        daily_cost: 25,
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary, FAILED);
    assert_eq!(server.failure().code, Some(FailureCode::InsufficientQuota));
    assert!(!engine.steps().contains(&"apply".to_owned()));
    assert!(
        server
            .lines
            .lock()
            .unwrap()
            .iter()
            .any(|(_, text)| text == "Build cost       —   25")
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_speaks_of_quota_gets_no_code() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        failing: Some("plan start"),
        ..Engine::default()
    };

    run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(
        (server.failure().code, server.failure().error.as_str()),
        (None, "engine says no")
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_noticed_within_a_second_while_lines_pour_in() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(3600),
        logs_always: true,
        ..Engine::default()
    };
    server.cancelled.store(true, Ordering::SeqCst);

    let (summary, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary, FAILED);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let failure = server.failure();
    assert_eq!(failure.error, "job was cancelled: interrupted");
    assert!(matches!(
        failure.work,
        FailedWork::WorkspaceBuild { state: Some(_), .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ignores_its_cancel_is_killed_in_time_and_beats_until_then() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ignores_cancel: true,
        ..Engine::default()
    };
    server.cancelled.store(true, Ordering::SeqCst);

    let (_, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert!((600..605).contains(&took.as_secs()), "{took:?}");
    assert!(server.calls_named("update") > 590);
}

#[tokio::test(start_paused = true)]
async fn an_outage_below_the_limit_changes_nothing() {
    let server = Server::with(build(Transition::Start));
    *server.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(240));
    let engine = Engine {
        apply_takes: Duration::from_secs(60),
        logs_always: true,
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary, COMPLETED);
    assert_eq!(
        server
            .lines
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, text)| text == "still creating")
            .count(),
        600
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_over_the_limit_stops_the_engine_and_the_state_arrives_later() {
    let server = Server::with(build(Transition::Start));
    *server.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(1000));
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ..Engine::default()
    };

    let (summary, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary, FAILED);
    assert!((1000..1010).contains(&took.as_secs()), "{took:?}");
    assert!(matches!(
        server.failure().work,
        FailedWork::WorkspaceBuild { state: Some(_), .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_refused_result_is_failed_with_its_state() {
    let server = Server::with(build(Transition::Start));
    server.refuse_complete.store(true, Ordering::SeqCst);

    let (summary, ..) = run_one(&server, &Engine::default(), &Stop::new()).await;

    assert_eq!(summary, FAILED);
    let failure = server.failure();
    assert_eq!(
        failure.error,
        "internal provisionerserver error: duplicate app slug"
    );
    assert!(matches!(
        failure.work,
        FailedWork::WorkspaceBuild { state: Some(_), .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_step_fails_only_that_job() {
    let server = Server::with(build(Transition::Start));
    server
        .jobs
        .lock()
        .unwrap()
        .push_back(build(Transition::Stop));
    let engine = Engine {
        panics: true,
        ..Engine::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        max_jobs: Some(2),
        ..config(&dir)
    };

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let summary = run(config, vec![source], Arc::new(engine), Stop::new())
        .await
        .unwrap();

    assert_eq!(
        summary,
        Summary {
            failed: 2,
            ..Summary::default()
        }
    );
    assert!(server.failure().error.contains("internal error"));
}

#[tokio::test(start_paused = true)]
async fn a_killed_daemon_keeps_a_state_that_nobody_took() {
    let server = Server::with(build(Transition::Start));
    *server.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(100_000));
    let engine = Engine {
        apply_takes: Duration::from_secs(10),
        ..Engine::default()
    };
    let stop = Stop::new();
    let killer = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(60)).await;
        killer.kill();
    });

    let (summary, _, dir) = run_one(&server, &engine, &stop).await;

    assert_eq!(summary.undelivered, 1);
    let kept = dir.path().join("lost").join(format!("{ID}.tfstate"));
    assert_eq!(std::fs::read(kept).unwrap(), b"{\"serial\":2}");
}

#[tokio::test(start_paused = true)]
async fn a_draining_daemon_finishes_its_job_and_takes_no_other() {
    let server = Server::with(build(Transition::Start));
    server
        .jobs
        .lock()
        .unwrap()
        .push_back(build(Transition::Stop));
    let engine = Engine {
        apply_takes: Duration::from_secs(5),
        ..Engine::default()
    };
    let stop = Stop::new();
    let drainer = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        drainer.drain();
    });
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        max_jobs: None,
        ..config(&dir)
    };

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let summary = run(config, vec![source], Arc::new(engine), stop)
        .await
        .unwrap();

    assert_eq!(summary, COMPLETED);
    assert_eq!(server.jobs.lock().unwrap().len(), 1);
}
