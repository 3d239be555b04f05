//! Health and status of a daemon, and whether it can take jobs: over HTTP, beside the metrics.

mod disk;
mod pages;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::watch;

pub(in crate::cli) use self::disk::free_bytes;
pub(super) use self::pages::HealthPages;
use crate::{
    cli::isolation::Report,
    daemon::metrics::{Metrics, Snapshot},
    files::removal,
    observe::{BUILD, BuildInfo, metrics::Scrapes},
    stop::Stop,
    terraform::binary::Binary,
};

/// Longest silence of the server before a daemon counts as unhealthy; jobs report each second.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Disk space that a job needs at least for a template, its modules and a state, in bytes.
pub(super) const MIN_FREE_BYTES: u64 = 100 << 20;

/// Name of the directory for sessions in a state directory.
pub(super) const SESSIONS: &str = "sessions";

/// State that the endpoints report, collected anew for each request.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) metrics: Arc<Metrics>,
    pub(super) scrapes: Scrapes,
    /// Names of the daemons, and whether each is connected.
    pub(super) slots: Vec<(String, watch::Receiver<bool>)>,
    /// Engine and the isolation of its jobs, once the engine has reported its version.
    pub(super) engine: Arc<OnceLock<(Binary, Option<Report>)>>,
    pub(super) state_dir: PathBuf,
    pub(super) started: Instant,
    pub(super) stop: Stop,
}

/// Response of `/status`, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) ready: bool,
    /// Reasons why the daemon is not ready.
    pub(super) reasons: Vec<String>,
    build: BuildInfo,
    uptime_seconds: u64,
    slots: Vec<Slot>,
    jobs: Vec<Job>,
    ended: Ended,
    /// Number of states in the state directory that no server has.
    kept_states: usize,
    /// Directories of jobs that could not be removed and need an operator.
    directories_put_aside: Vec<PathBuf>,
    engine: Option<Engine>,
    /// Isolation of jobs; `null` for none.
    isolation: Option<Report>,
    disk: Disk,
    /// Message of the server when it refused to hand out jobs.
    refusal: Option<String>,
}

#[derive(Debug, Serialize)]
struct Slot {
    name: String,
    connected: bool,
}

#[derive(Debug, Serialize)]
struct Job {
    id: String,
    kind: &'static str,
    seconds: u64,
    /// Seconds since the server last acknowledged a heartbeat of the job.
    heartbeat_age_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Ended {
    success: u64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct Engine {
    path: PathBuf,
    version: String,
    is_there: bool,
}

#[derive(Debug, Serialize)]
struct Disk {
    path: PathBuf,
    /// Free space in bytes; `None` if it is unknown.
    free_bytes: Option<u64>,
}

impl Health {
    /// Collects the status at this moment.
    pub(super) fn status(&self) -> Status {
        let (snapshot, now) = (self.metrics.snapshot(), Instant::now());
        let slots = self.slots.iter().map(|(name, connected)| Slot {
            name: name.clone(),
            connected: *connected.borrow(),
        });
        let slots: Vec<Slot> = slots.collect();
        let jobs = snapshot.running.iter().map(|(id, running)| Job {
            id: id.to_string(),
            kind: running.kind,
            seconds: now.duration_since(running.since).as_secs(),
            heartbeat_age_seconds: now.duration_since(running.answered).as_secs(),
        });
        let jobs: Vec<Job> = jobs.collect();
        let (binary, isolation) = self.engine.get().cloned().unzip();
        let engine = binary.map(|binary| Engine {
            version: binary.version.to_string(),
            is_there: binary.path.is_file(),
            path: binary.path,
        });
        let disk = Disk {
            path: self.state_dir.clone(),
            free_bytes: free_bytes(&self.state_dir),
        };
        let mut reasons = Vec::new();
        if self.stop.is_draining() {
            reasons.push("stopping".to_owned());
        }
        let away = slots.iter().filter(|slot| !slot.connected);
        reasons.extend(away.map(|slot| format!("{} is not connected", slot.name)));
        reasons.extend(
            snapshot
                .refusal
                .iter()
                .map(|text| format!("refused: {text}")),
        );
        reasons.extend(jobs.iter().filter_map(silence));
        reasons.extend(engine_problem(engine.as_ref()));
        reasons.extend(disk_problem(&disk.path, disk.free_bytes));
        Status {
            ready: reasons.is_empty(),
            reasons,
            build: BUILD,
            uptime_seconds: now.duration_since(self.started).as_secs(),
            slots,
            jobs,
            ended: ended(&snapshot),
            kept_states: snapshot.kept,
            directories_put_aside: put_aside(&self.state_dir),
            engine,
            isolation: isolation.flatten(),
            disk,
            refusal: snapshot.refusal,
        }
    }
}

/// Returns the directories of sessions that could not be removed; empty if they cannot be listed, which shows
/// elsewhere.
fn put_aside(state_dir: &Path) -> Vec<PathBuf> {
    removal::put_aside(&state_dir.join(SESSIONS)).unwrap_or_default()
}

fn silence(job: &Job) -> Option<String> {
    let age = job.heartbeat_age_seconds;
    let is_long = age >= MAX_SILENCE.as_secs();
    is_long.then(|| {
        format!(
            "the server has not answered about job {} for {age} s",
            job.id
        )
    })
}

fn engine_problem(engine: Option<&Engine>) -> Option<String> {
    match engine {
        None => Some("the engine's version is not known yet".to_owned()),
        Some(engine) if !engine.is_there => {
            Some(format!("engine {} is gone", engine.path.display()))
        }
        Some(_) => None,
    }
}

/// Returns the problem with the disk below `path`, if there is one.
pub(super) fn disk_problem(path: &Path, free_bytes: Option<u64>) -> Option<String> {
    let free = free_bytes.filter(|free| *free < MIN_FREE_BYTES)?;
    let free = free >> 20;
    Some(format!("only {free} MiB are free below {}", path.display()))
}

fn ended(snapshot: &Snapshot) -> Ended {
    let count = |succeeded| {
        let jobs = &snapshot.totals.jobs;
        jobs.get(&succeeded).map_or(0, |histogram| histogram.count)
    };
    Ended {
        success: count(true),
        failed: count(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_the_server_is_silent_about_and_a_full_disk_are_named() {
        let job = |age| Job {
            id: "j".to_owned(),
            kind: "workspace_build",
            seconds: 100,
            heartbeat_age_seconds: age,
        };

        assert_eq!(silence(&job(59)), None);
        assert!(silence(&job(60)).unwrap().contains("job j for 60 s"));
        let path = Path::new("/state");
        assert_eq!(disk_problem(path, Some(MIN_FREE_BYTES)), None);
        assert_eq!(disk_problem(path, None), None);
        let problem = disk_problem(path, Some(5 << 20)).unwrap();
        assert_eq!(problem, "only 5 MiB are free below /state");
    }
}
