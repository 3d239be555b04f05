//! One job on the paused clock, between a server and an engine that the test controls.

mod kept;
mod logs;
mod outages;
mod procedures;
mod slots;
mod stopping;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::job::{
    AiTask, CompletedJob, CompletedWork, FailedJob, FailedWork, FailureCode, Job, JobId, LogLevel,
    Metadata, Resource, TemplateDryRun, TemplateImport, TemplateVariable, Timing, TimingState,
    Transition, Work, WorkspaceBuild,
};
use outpost_provision::{
    ApplyComplete, ApplyRequest, GraphComplete, GraphSource, InitComplete, InitRequest, JobUpdate,
    JobUpdated, LogEntry, LogSink, Memory, ParseComplete, PlanComplete, PlanRequest, Quota,
    Session, SessionConfig, StepFailure,
};
use tokio::{
    sync::Barrier,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{journal::Entry, *};

/// A server that hands out some jobs and remembers everything, and can be away or misbehave.
#[derive(Default)]
struct Server {
    jobs: Mutex<VecDeque<Job>>,
    calls: Mutex<Vec<String>>,
    lines: Mutex<Vec<(String, String)>>,
    failed: Mutex<Option<FailedJob>>,
    credentials_change: AtomicBool,
    completed: Mutex<Option<CompletedJob>>,
    /// Jobs that were reported as successes, in order.
    ended: Mutex<Vec<JobId>>,
    cancelled: AtomicBool,
    away_until: Mutex<Option<Instant>>,
    refuse_complete: AtomicBool,
    quota: Mutex<Option<Quota>>,
    quota_fails: AtomicUsize,
    is_gone: AtomicBool,
    is_silent: AtomicBool,
    /// Set if it never answers an update with lines, but every other one.
    chokes_on_lines: AtomicBool,
    /// Set if somebody ends jobs before we do: a reaper, or ourselves in a call whose answer was lost.
    ends_behind_our_back: AtomicBool,
    /// Set if heartbeats are told that the job was given up, although its end is accepted.
    has_given_up: AtomicBool,
    /// Name of the call whose next answer is lost.
    loses_answer: Mutex<Option<&'static str>>,
    /// Tags and variables of templates, which may not be sent twice.
    learned: Mutex<Vec<String>>,
    /// Number of these after which the connection breaks.
    breaks_at: Mutex<Option<usize>>,
    /// Approximate limit of a message in bytes.
    limit: Mutex<Option<usize>>,
    has_ai_tasks: bool,
    without_script_order: Option<String>,
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
            return Err(match self.credentials_change.load(Ordering::SeqCst) {
                true => SourceError::Unauthorized("key is not known".to_owned()),
                false => SourceError::Lost("away".into()),
            });
        }
        if self.is_gone.load(Ordering::SeqCst) {
            return Err(SourceError::Gone("you don't own this job".to_owned()));
        }
        self.calls.lock().unwrap().push(name.to_owned());
        Ok(())
    }

    fn check_size(&self, size: usize) -> Result<(), SourceError> {
        match *self.limit.lock().unwrap() {
            Some(limit) if size > limit => Err(SourceError::TooLarge { size, limit }),
            _ => Ok(()),
        }
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

    fn away_for(&self, time: Duration) {
        *self.away_until.lock().unwrap() = Some(Instant::now() + time);
    }

    /// Loses the answer to one call of this name.
    fn lose_answer(&self, name: &str) -> Result<(), SourceError> {
        let mut loses = self.loses_answer.lock().unwrap();
        match loses.take_if(|loses| *loses == name) {
            Some(_) => Err(SourceError::Lost("answer lost".into())),
            None => Ok(()),
        }
    }

    /// Stores an update as coderd does: one item after the other, even if the next one fails.
    fn learn(&self, update: &JobUpdate) -> Result<(), SourceError> {
        let tags = update.workspace_tags.keys();
        let variables = update.template_variables.iter().map(|it| &it.name);
        for name in tags.chain(variables) {
            let mut learned = self.learned.lock().unwrap();
            if learned.contains(name) {
                let text = format!("duplicate key value violates unique constraint: {name}");
                return Err(SourceError::Refused(text));
            }
            learned.push(name.clone());
            let mut breaks_at = self.breaks_at.lock().unwrap();
            if breaks_at.take_if(|count| *count == learned.len()).is_some() {
                return Err(SourceError::Lost("broken".into()));
            }
        }
        Ok(())
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
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if !update.logs.is_empty() && self.chokes_on_lines.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.call("update")?;
        if self.has_given_up.load(Ordering::SeqCst) {
            return Err(SourceError::Gone("job already completed".to_owned()));
        }
        self.learn(&update)?;
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
        let fail_once = |left: usize| left.checked_sub(1);
        if self
            .quota_fails
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fail_once)
            .is_ok()
        {
            return Err(SourceError::Lost("away".into()));
        }
        self.call("quota")?;
        Ok(self.quota.lock().unwrap().unwrap_or(Quota {
            ok: true,
            consumed: 0,
            budget: -1,
        }))
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        let (state, timings) = match &job.work {
            FailedWork::WorkspaceBuild { state, timings } => {
                (state.as_ref().map_or(0, Bytes::len), timings.len())
            }
            FailedWork::TemplateImport | FailedWork::TemplateDryRun | FailedWork::Unknown => (0, 0),
        };
        self.check_size(state + timings)?;
        self.call("fail")?;
        self.lose_answer("fail")?;
        if self.ends_behind_our_back.load(Ordering::SeqCst) {
            return Err(SourceError::Ended("job already completed".to_owned()));
        }
        *self.failed.lock().unwrap() = Some(job);
        Ok(())
    }

    async fn complete(&self, job: CompletedJob) -> Result<(), SourceError> {
        if let CompletedWork::WorkspaceBuild(build) = &job.result {
            let names = build.resources.iter().map(|resource| resource.name.len());
            let size = build.state.len() + build.timings.len() + names.sum::<usize>();
            self.check_size(size)?;
        }
        self.call("complete")?;
        self.lose_answer("complete")?;
        if self.refuse_complete.load(Ordering::SeqCst) {
            return Err(SourceError::Refused("duplicate app slug".to_owned()));
        }
        self.ended.lock().unwrap().push(job.id);
        *self.completed.lock().unwrap() = Some(job);
        Ok(())
    }

    async fn download_modules(&self, _: Uuid) -> Result<Bytes, SourceError> {
        self.call("download")?;
        Ok(Bytes::from_static(b"modules"))
    }

    fn has_ai_tasks(&self) -> bool {
        self.has_ai_tasks
    }

    fn without_script_order(&self) -> Option<String> {
        self.without_script_order.clone()
    }
}

/// An engine that the test controls.
#[derive(Clone, Default)]
struct Engine {
    steps: Arc<Mutex<Vec<String>>>,
    /// States that plans began with.
    planned_on: Arc<Mutex<Vec<Bytes>>>,
    plan_takes: Duration,
    apply_takes: Duration,
    ignores_cancel: bool,
    logs_always: bool,
    daily_cost: i32,
    panics_in: Option<&'static str>,
    hangs_in: Option<&'static str>,
    failing: Option<&'static str>,
    resources: Vec<Resource>,
    ai_tasks: Vec<AiTask>,
    says: Vec<LogEntry>,
    /// Number of timings of an apply.
    measures: usize,
    /// Size of the state in bytes; 0 for a small one.
    state_bytes: usize,
    /// Barrier at which an apply waits for others.
    meets: Option<Arc<Barrier>>,
    /// Memory that it uses while it applies, in bytes.
    memory: u64,
    measure: Memory,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
}

#[async_trait]
impl Provisioner for Engine {
    async fn open(&self, config: SessionConfig) -> Result<Box<dyn Session>, StepFailure> {
        self.step("open".to_owned())?;
        Ok(Box::new(Self {
            measure: config.memory,
            ..self.clone()
        }))
    }
}

impl Engine {
    fn step(&self, name: String) -> Result<(), StepFailure> {
        let fails = self.failing == Some(&name);
        assert!(self.panics_in != Some(&name), "the engine's code has a bug");
        self.steps.lock().unwrap().push(name);
        if fails {
            Err(StepFailure::new("engine says no"))
        } else {
            Ok(())
        }
    }

    async fn hang_in(&self, step: &str) {
        if self.hangs_in == Some(step) {
            std::future::pending::<()>().await;
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
        let says = self.says.iter().cloned();
        says.for_each(|entry| log.log_entry(entry));
        self.step("init".to_owned())?;
        self.hang_in("init").await;
        Ok(InitComplete::default())
    }

    async fn parse(&mut self, _: Arc<dyn LogSink>) -> Result<ParseComplete, StepFailure> {
        self.step("parse".to_owned())?;
        let variables = ["region", "size"].map(|name| TemplateVariable {
            name: name.to_owned(),
            ..TemplateVariable::default()
        });
        let tags = ["zone", "team"].map(|key| (key.to_owned(), "a".to_owned()));
        Ok(ParseComplete {
            template_variables: variables.to_vec(),
            workspace_tags: tags.into(),
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
        self.planned_on.lock().unwrap().push(request.state);
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
        // It succeeds although it was asked to stop, as an engine may.
        sleep(self.plan_takes).await;
        Ok(PlanComplete {
            daily_cost: self.daily_cost,
            ai_task_count: i32::try_from(self.ai_tasks.len()).unwrap(),
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
        self.hang_in("apply").await;
        let state = match self.state_bytes {
            0 => Bytes::from_static(WHOLE),
            size => format!("{{{}}}", " ".repeat(size - 2)).into(),
        };
        let (state, timings) = (Some(state), vec![timing(); self.measures]);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let _counted = counted(&self.running);
        if let Some(others) = &self.meets {
            others.wait().await;
        }
        if self.memory > 0 {
            self.measure.note(self.memory);
        }
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
                    let failure = StepFailure {
                        is_left: stop.is_leaving(),
                        ..StepFailure::new("interrupted")
                    };
                    return ApplyComplete { state, failure: Some(failure), timings };
                }
            }
            if self.logs_always {
                log.log(LogLevel::Info, "still creating".to_owned());
            }
        }
        ApplyComplete {
            state,
            failure: None,
            timings,
        }
    }

    async fn graph(
        &mut self,
        source: GraphSource,
        _: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<GraphComplete, StepFailure> {
        self.step(format!("graph {source:?}").to_lowercase())?;
        if source == GraphSource::State && stop.is_cancelled() {
            return Err(StepFailure::new("cancelled before it began"));
        }
        Ok(GraphComplete {
            resources: self.resources.clone(),
            ai_tasks: self.ai_tasks.clone(),
            has_ai_tasks: !self.ai_tasks.is_empty(),
            ..GraphComplete::default()
        })
    }

    async fn newest_state(&mut self) -> Option<Bytes> {
        Some(Bytes::from_static(b"{\"serial\":1}"))
    }

    fn engine_time(&self) -> Duration {
        self.apply_takes
    }

    async fn close(self: Box<Self>) {
        self.step("close".to_owned()).ok();
    }
}

/// Counts up, and down again once it is dropped.
fn counted(count: &AtomicUsize) -> impl Drop {
    struct Counted<'a>(&'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Counted(count)
}

/// Does something to a server after a second, by when a build has begun to apply, which takes no time here.
fn later(server: &Arc<Server>, what: impl FnOnce(&Server) + Send + 'static) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        what(&server);
    });
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
        grace_period: None,
        max_jobs: Some(1),
        capacity: None,
        state_dir: dir.path().to_owned(),
        logs: LogRetention::standard(),
        secrets: vec![Secret::new("a key of the daemon")],
        journal_key: None,
        metrics: Arc::default(),
    }
}

/// Runs one job and returns the daemon's summary, and how long it took on the paused clock.
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

/// Numbers of jobs that completed, failed, and were not delivered.
fn counts(summary: &Summary) -> (usize, usize, usize) {
    (summary.completed, summary.failed, summary.undelivered)
}

const COMPLETED: (usize, usize, usize) = (1, 0, 0);
const FAILED: (usize, usize, usize) = (0, 1, 0);

/// Returns the state that a failed build delivered.
fn state_of(failure: &FailedJob) -> Option<&[u8]> {
    match &failure.work {
        FailedWork::WorkspaceBuild { state, .. } => state.as_deref(),
        FailedWork::TemplateImport | FailedWork::TemplateDryRun | FailedWork::Unknown => None,
    }
}

fn timing() -> Timing {
    Timing {
        start: Timestamp::UNIX_EPOCH,
        end: Timestamp::UNIX_EPOCH,
        action: "create".to_owned(),
        source: "test".to_owned(),
        resource: "a.b".to_owned(),
        stage: "apply".to_owned(),
        state: TimingState::Completed,
    }
}

/// Returns the entries of the journal.
fn entries(dir: &Path) -> Vec<Entry> {
    let journals = Journals::open(dir, None).unwrap();
    let entries = journals.entries().unwrap().into_iter();
    entries.map(|found| found.entry.unwrap()).collect()
}

/// Returns the state of the one job that was kept, if it was.
fn kept(dir: &tempfile::TempDir) -> Option<Vec<u8>> {
    let mut entries = entries(dir.path());
    entries.pop().map(|entry| entry.state.to_vec())
}

const PARTIAL: &[u8] = b"{\"serial\":1}";
const WHOLE: &[u8] = b"{\"serial\":2}";
