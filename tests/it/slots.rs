//! One daemon with much to do: floods of lines, cancels in the middle of them, jobs that need memory, many slots.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::{sys::stat::Mode, unistd::mkfifo};
use outpost::{
    daemon::{self, Capacity, LogRetention, Summary},
    job::{CompletedJob, FailedJob, Job, JobId, TemplateDryRun, Work},
    provision::{JobSource, JobUpdate, JobUpdated, Quota, SourceError},
    stop::Stop,
    terraform::{Engine, EngineConfig},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream, unix::pipe},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    cli::outpost,
    engine::tar,
    remote::{Server, Service},
    support::engine::{engine_config, host_environment},
};

const MIB: u64 = 1 << 20;

fn fake_engine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bin/fake-engine")
}

/// A server that hands out some jobs, counts what it is told, and is asked to cancel after some of it.
#[derive(Default)]
struct Source {
    jobs: Mutex<VecDeque<Job>>,
    busy_updates: AtomicUsize,
    /// After so many updates with lines of an engine at work the job is cancelled.
    cancel_after: Option<usize>,
    is_cancelled: AtomicBool,
    failures: Mutex<Vec<String>>,
}

#[async_trait]
impl JobSource for Source {
    async fn acquire(&self, stop: &Stop) -> Result<Option<Job>, SourceError> {
        let job = self.jobs.lock().unwrap().pop_front();
        if job.is_none() {
            stop.draining().await;
        }
        Ok(job)
    }

    async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let cancelled = self.is_cancelled.load(Ordering::SeqCst);
        let has_much = update
            .logs
            .iter()
            .any(|line| line.output == "Still creating...");
        if has_much {
            let count = self.busy_updates.fetch_add(1, Ordering::SeqCst) + 1;
            if self.cancel_after == Some(count) {
                // Right after an answer that does not say it.
                self.is_cancelled.store(true, Ordering::SeqCst);
            }
        }
        Ok(JobUpdated {
            cancelled,
            variables: Vec::new(),
        })
    }

    async fn commit_quota(&self, _: JobId, _: i32) -> Result<Quota, SourceError> {
        Err(SourceError::Refused("no budget here".to_owned()))
    }

    async fn fail(&self, job: FailedJob) -> Result<(), SourceError> {
        self.failures.lock().unwrap().push(job.error);
        Ok(())
    }

    async fn complete(&self, _: CompletedJob) -> Result<(), SourceError> {
        Ok(())
    }

    async fn download_modules(&self, _: Uuid) -> Result<Bytes, SourceError> {
        Err(SourceError::Refused("no modules here".to_owned()))
    }
}

fn dry_run(number: u128, main: &str) -> Job {
    Job {
        id: JobId(Uuid::from_u128(number)),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        provisioner: "terraform".to_owned(),
        user_name: "ada".to_owned(),
        template_archive: tar(&[("main.tf", main)]),
        work: Work::TemplateDryRun(TemplateDryRun::default()),
        trace: BTreeMap::new(),
    }
}

/// Runs all jobs of `source` in a daemon with a fake engine that misbehaves when it plans.
async fn run(
    dir: &Path,
    source: &Arc<Source>,
    slots: usize,
    capacity: Option<Capacity>,
    fake: &[(&str, &Path)],
) -> Summary {
    let pace = Pace {
        heartbeat: Duration::from_secs(1),
        exit_timeout: Duration::from_secs(10),
    };
    run_at(dir, source, slots, capacity, fake, pace).await
}

/// Intervals of a daemon and its engine.
struct Pace {
    heartbeat: Duration,
    exit_timeout: Duration,
}

async fn run_at(
    dir: &Path,
    source: &Arc<Source>,
    slots: usize,
    capacity: Option<Capacity>,
    fake: &[(&str, &Path)],
    pace: Pace,
) -> Summary {
    let mut environment = host_environment();
    environment.set("FAKE_AT", "plan");
    for (name, value) in fake {
        environment.set(name, value);
    }
    let engine = engine_config(fake_engine(), dir.join("work"), environment);
    let engine = Engine::new(EngineConfig {
        exit_timeout: pace.exit_timeout,
        ..engine
    });
    let config = daemon::Config {
        heartbeat: pace.heartbeat,
        outage_limit: pace.heartbeat + Duration::from_secs(60),
        force_cancel: pace.exit_timeout + Duration::from_secs(10),
        grace_period: None,
        max_jobs: Some(source.jobs.lock().unwrap().len()),
        capacity,
        state_dir: dir.join("state"),
        logs: LogRetention::standard(),
        secrets: Vec::new(),
        journal_key: None,
        metrics: Arc::default(),
    };
    let source: Arc<dyn JobSource> = Arc::clone(source) as Arc<dyn JobSource>;
    let sources = vec![source; slots];
    daemon::run(config, sources, Arc::new(engine), Stop::new())
        .await
        .unwrap()
}

/// Deadline for everything that a test waits for; nothing takes that long on a machine with other work.
const SOON: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_an_engine_that_logs_all_the_time_before_the_next_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("interrupted");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut told = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
    let source = Arc::new(Source {
        jobs: Mutex::new([dry_run(1, "")].into()),
        cancel_after: Some(6),
        ..Source::default()
    });
    let fake = [("FAKE", Path::new("chatty")), ("FAKE_PID_FILE", &fifo)];
    // No heartbeat is due and no engine is killed while this waits, so only the answer to lines can carry the cancel.
    let pace = Pace {
        heartbeat: 10 * SOON,
        exit_timeout: 10 * SOON,
    };
    let running = run_at(dir.path(), &source, 1, None, &fake, pace);

    let interrupted = async {
        let mut byte = [0];
        told.read_exact(&mut byte).await.unwrap();
    };
    let both = timeout(SOON, async { tokio::join!(running, interrupted) });
    let (summary, ()) = both
        .await
        .expect("the engine is interrupted and the job ends");

    assert_eq!(summary.failed, 1);
    let error = source.failures.lock().unwrap().remove(0);
    assert!(error.starts_with("job was cancelled: "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_jobs_that_hold_600_mb_never_overlap_in_1_gb_and_small_jobs_pass() {
    const LARGE: &str = "resource \"hog_memory\" \"x\" {}";
    const SMALL: &str = "resource \"null_resource\" \"x\" {}";
    let dir = tempfile::tempdir().unwrap();
    let mains = [LARGE, SMALL, SMALL, LARGE, SMALL, SMALL, LARGE, SMALL];
    let jobs = mains.iter().zip(1..);
    let source = Arc::new(Source {
        jobs: Mutex::new(jobs.map(|(main, number)| dry_run(number, main)).collect()),
        ..Source::default()
    });

    let capacity = Capacity::new(1_000_000_000);
    let fake = [("FAKE", Path::new("hog")), ("FAKE_DIR", dir.path())];
    let summary = run(dir.path(), &source, 4, Some(capacity), &fake).await;

    let failures = source.failures.lock().unwrap().join("\n");
    assert_eq!(summary.completed, mains.len(), "{failures}");
    let notes = fs::read_to_string(dir.path().join("notes")).unwrap_or_default();
    assert!(!notes.contains("overlap"), "{notes}");
    assert!(
        notes.contains("beside"),
        "a small job ran beside a large one"
    );
    let learned = fs::read_to_string(dir.path().join("state/memory.json")).unwrap();
    let learned: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&learned).unwrap();
    let large = learned
        .iter()
        .filter(|(class, _)| class.starts_with("registry.terraform.io/hashicorp/hog#"))
        .filter_map(|(_, peak)| peak["bytes"].as_u64())
        .max();
    assert!(large.unwrap() > 600_000_000, "{learned:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_its_limit_ends_alone_and_says_why() {
    const LARGE: &str = "resource \"hog_memory\" \"x\" {}";
    let dir = tempfile::tempdir().unwrap();
    let source = Arc::new(Source {
        jobs: Mutex::new([dry_run(1, LARGE), dry_run(2, "")].into()),
        ..Source::default()
    });

    let capacity = Capacity {
        job_limit: Some(300 * MIB),
        ..Capacity::new(8 << 30)
    };
    let fake = [("FAKE", Path::new("hog")), ("FAKE_DIR", dir.path())];
    let summary = run(dir.path(), &source, 2, Some(capacity), &fake).await;

    assert_eq!((summary.completed, summary.failed), (1, 1));
    let error = source.failures.lock().unwrap().remove(0);
    assert!(error.contains("the limit for a job is 300 MiB"), "{error}");
}

/// A figure of a process in `/proc/<id>/status`, in bytes.
fn figure(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.unwrap().trim_start_matches(':').trim();
    kib.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn no_flood_of_lines_takes_more_than_8_mib_of_a_daemon() {
    let server = Server::start();
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), "").unwrap();
    let mode = server.path("mode");
    let engine = fake_engine();
    let mut command = server.daemon("one", &server.path("psk"), &[]);
    command.env("OUTPOST_ENGINE", engine);
    command.env("FAKE_AT", "plan").env("FAKE_FILE", &mode);
    fs::write(&mode, "well").unwrap();
    let mut daemon = Service::start(&mut command);
    daemon.wait_for("registered at the control plane");
    let push = |name: &str| {
        server.json(&["template", "push", name, template.to_str().unwrap()]);
    };
    push("well"); // The first job reads in code and tables that stay.
    let idle = figure(daemon.id(), "RssAnon");

    for flood in ["long", "endless", "unended", "flood"] {
        fs::write(&mode, flood).unwrap();
        // The start read more of the program's file than there is now: the peak counts from here on (proc(5), clear_refs).
        fs::write(format!("/proc/{}/clear_refs", daemon.id()), "5").unwrap();
        push(flood);
        // The peak has all pages; those of the program's file were not given back since.
        let most = figure(daemon.id(), "VmHWM") - figure(daemon.id(), "RssFile");
        let more = most.saturating_sub(idle);
        assert!(
            more <= 8 * MIB,
            "{flood}: {} KiB over {} KiB",
            more / 1024,
            idle / 1024
        );
    }
    daemon.stop();
    server.process.stop();
}

/// A daemon with 30 slots, and what it says.
struct Many {
    child: Child,
    lines: mpsc::Receiver<(Instant, String)>,
}

impl Many {
    fn start(server: &Server, url: &str) -> Self {
        let mut command = outpost();
        command.args(["provisioner", "start", "--coder-provider", "builtin"]);
        command.args([
            "--server",
            "outpost",
            "--name",
            "many",
            "--concurrency",
            "30",
            "--url",
            url,
        ]);
        command.arg("--psk-file").arg(server.path("psk"));
        command.arg("--state-dir").arg(server.path("state-many"));
        command.arg("--cache-dir").arg(server.path("cache"));
        command.env("OUTPOST_ENGINE", fake_engine());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                said.send((Instant::now(), line)).ok();
            }
        });
        Self { child, lines }
    }

    /// Waits until all slots are registered, and returns when each was.
    fn registered(&self) -> Vec<Instant> {
        let mut found = Vec::new();
        while found.len() < 30 {
            let said = self.lines.recv_timeout(Duration::from_secs(60));
            let (at, line) = said.expect("all slots register in time");
            if line.contains("registered at the control plane") {
                found.push(at);
            }
        }
        found
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn thirty_idle_slots_take_little_memory_and_each_has_a_name() {
    let server = Server::start();
    let many = Many::start(&server, &server.url);
    many.registered();

    // A build for tests has several times the code, so that only what it allocates says something.
    let (name, limit) = match cfg!(debug_assertions) {
        true => ("RssAnon", 12 * MIB),
        false => ("VmRSS", 25 * MIB),
    };
    let found = figure(many.child.id(), name);
    assert!(found <= limit, "{name} is {} KiB", found / 1024);
    let daemons = server.json(&["provisioner", "list"]);
    let daemons = daemons.as_array().unwrap().iter();
    let names: BTreeSet<_> = daemons.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 30);
    assert!(names.contains("many") && names.contains("many-30"));
    server.process.stop();
}

/// Passes connections on to `target` until the returned task is aborted, which cuts all of them.
async fn pass_on(listen: SocketAddr, target: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far)
                    .await
                    .ok();
            });
        }
    });
    (address, task)
}

/// After so many tries pauses are as long as they get: 50 ms, doubled to one and a half seconds.
const TRIES: usize = 6;

/// Takes `count` connections and ends each at once, as a proxy does whose server is away.
async fn turn_away(listen: SocketAddr, count: usize) {
    let listener = TcpListener::bind(listen).await.unwrap();
    let turning_away = async {
        for _ in 0..count {
            drop(listener.accept().await.unwrap());
        }
    };
    let tried = timeout(Duration::from_secs(120), turning_away).await;
    tried.expect("daemons try again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_slots_come_back_soon_and_not_all_at_once() {
    let server = Server::start();
    let target = server
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let target: SocketAddr = target.parse().unwrap();
    let (address, task) = pass_on(([127, 0, 0, 1], 0).into(), target).await;
    let many = Many::start(&server, &format!("http://{address}"));
    many.registered();

    let mut cut = task;
    let mut slowest = Duration::MAX;
    // A machine with other work may be late once.
    for _ in 0..3 {
        cut.abort();
        // Its port is free once it has ended.
        assert!((&mut cut).await.unwrap_err().is_cancelled());
        turn_away(address, 30 * TRIES).await;
        let returned = Instant::now();
        (_, cut) = pass_on(address, target).await;
        let registered = tokio::task::block_in_place(|| many.registered());

        let took = registered.iter().map(|at| *at - returned);
        slowest = slowest.min(took.max().unwrap());
        let spread = *registered.last().unwrap() - registered[0];
        assert!(spread > Duration::from_millis(200), "{spread:?}");
        if slowest < Duration::from_secs(2) {
            break;
        }
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
