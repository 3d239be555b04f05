//! Metrics of a daemon: counters of its work, and the jobs that are running.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use outpost_base::job::{Job, JobId, Transition, Work};

/// Upper bounds of the histograms' buckets in seconds, as in the reference.
pub const BUCKETS: [u32; 8] = [1, 10, 30, 60, 300, 600, 1800, 3600];

/// Number of workspaces that are counted by name. Later ones are counted together, so that memory is bounded.
const MAX_WORKSPACES: usize = 10_000;

/// Labels of the builds in the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Labels {
    /// One series for each workspace, as in the reference.
    #[default]
    PerWorkspace,
    /// Empty names of workspaces and owners, so that the number of series is bounded.
    Bounded,
}

/// Counters, and the running jobs. All daemons of a process share them.
#[derive(Debug, Default)]
pub struct Metrics {
    labels: Labels,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    slots: usize,
    running: BTreeMap<JobId, Running>,
    totals: Totals,
    kept: usize,
    refusal: Option<String>,
}

/// Totals of ended jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Durations of all jobs, by whether they succeeded.
    pub jobs: BTreeMap<bool, Histogram>,
    /// Number of workspace builds.
    pub builds: BTreeMap<BuildLabels, u64>,
    /// Durations of workspace builds; the names of workspaces and owners are empty.
    pub build_times: BTreeMap<BuildLabels, Histogram>,
}

/// Labels by which builds are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildLabels {
    /// Name of the workspace's owner.
    pub owner: String,
    /// Name of the workspace.
    pub workspace: String,
    /// Name of the template.
    pub template: String,
    /// Name of the template's version.
    pub template_version: String,
    /// `START`, `STOP` or `DESTROY`.
    pub transition: &'static str,
    /// Set if the build succeeded.
    pub succeeded: bool,
}

/// Durations, counted in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Counts within each of [`BUCKETS`], and not within the one before.
    pub buckets: [u64; BUCKETS.len()],
    /// Number of durations in all.
    pub count: u64,
    /// Sum of the durations.
    pub sum: Duration,
}

/// A job that is running.
#[derive(Clone, Debug)]
pub struct Running {
    /// Kind of the job, such as `workspace_build`.
    pub kind: &'static str,
    /// Time when it was acquired.
    pub since: Instant,
    /// Time when the server last acknowledged a heartbeat.
    pub answered: Instant,
    build: Option<BuildLabels>,
}

/// Metrics at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Number of jobs that can run at the same time.
    pub slots: usize,
    /// Running jobs by their ids.
    pub running: BTreeMap<JobId, Running>,
    /// Totals of the ended jobs.
    pub totals: Totals,
    /// Number of states in the state directory that no server has.
    pub kept: usize,
    /// Message of the server when it refused to hand out jobs; `None` once it has handed out one.
    pub refusal: Option<String>,
}

impl Metrics {
    /// Creates metrics in which nothing is counted yet.
    pub fn new(labels: Labels) -> Self {
        Self {
            labels,
            counts: Mutex::default(),
        }
    }

    /// Returns the metrics at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.counts();
        Snapshot {
            slots: counts.slots,
            running: counts.running.clone(),
            totals: counts.totals.clone(),
            kept: counts.kept,
            refusal: counts.refusal.clone(),
        }
    }

    /// Records how many jobs can run at the same time.
    pub fn set_slots(&self, slots: usize) {
        self.counts().slots = slots;
    }

    pub(super) fn set_kept(&self, kept: usize) {
        self.counts().kept = kept;
    }

    pub(super) fn refused(&self, text: String) {
        self.counts().refusal = Some(text);
    }

    pub(super) fn began(&self, job: &Job, now: Instant) {
        let running = Running {
            kind: job.work.name(),
            since: now,
            answered: now,
            build: build_labels(&job.work, self.labels),
        };
        let mut counts = self.counts();
        counts.refusal = None;
        counts.running.insert(job.id, running);
    }

    pub(super) fn answered(&self, job: JobId, now: Instant) {
        if let Some(running) = self.counts().running.get_mut(&job) {
            running.answered = now;
        }
    }

    pub(super) fn ended(&self, job: JobId, succeeded: bool, now: Instant) {
        let mut counts = self.counts();
        let Some(running) = counts.running.remove(&job) else {
            return;
        };
        let took = now.duration_since(running.since);
        counts.totals.add(running.build, succeeded, took);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts
            .lock()
            .expect("no code panics while it holds the counts")
    }
}

impl Totals {
    fn add(&mut self, build: Option<BuildLabels>, succeeded: bool, took: Duration) {
        self.jobs.entry(succeeded).or_default().add(took);
        let Some(mut build) = build else { return };
        build.succeeded = succeeded;
        let anonymous = BuildLabels {
            owner: String::new(),
            workspace: String::new(),
            ..build.clone()
        };
        let is_known = self.builds.contains_key(&build);
        if !is_known && self.builds.len() >= MAX_WORKSPACES {
            build = anonymous.clone();
        }
        *self.builds.entry(build).or_default() += 1;
        self.build_times.entry(anonymous).or_default().add(took);
    }
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.sum += took;
        let fitting = BUCKETS
            .iter()
            .position(|bound| took <= Duration::from_secs((*bound).into()));
        if let Some(bucket) = fitting {
            self.buckets[bucket] += 1;
        }
    }
}

fn build_labels(work: &Work, labels: Labels) -> Option<BuildLabels> {
    let Work::WorkspaceBuild(build) = work else {
        return None;
    };
    let metadata = &build.metadata;
    let (owner, workspace) = match labels {
        Labels::PerWorkspace => (
            metadata.workspace_owner.clone(),
            metadata.workspace_name.clone(),
        ),
        Labels::Bounded => (String::new(), String::new()),
    };
    Some(BuildLabels {
        owner,
        workspace,
        template: metadata.template_name.clone(),
        template_version: metadata.template_version.clone(),
        transition: match metadata.transition {
            Transition::Start => "START",
            Transition::Stop => "STOP",
            Transition::Destroy => "DESTROY",
        },
        succeeded: false,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;
    use outpost_base::job::{Metadata, WorkspaceBuild};
    use uuid::Uuid;

    use super::*;

    fn build(workspace: &str) -> Job {
        let metadata = Metadata {
            workspace_owner: "ann".to_owned(),
            workspace_name: workspace.to_owned(),
            template_name: "docker".to_owned(),
            ..Metadata::default()
        };
        Job {
            id: JobId(Uuid::new_v4()),
            created_at: Timestamp::UNIX_EPOCH,
            provisioner: "terraform".to_owned(),
            user_name: "ann".to_owned(),
            template_archive: Bytes::new(),
            work: Work::WorkspaceBuild(WorkspaceBuild {
                metadata,
                ..WorkspaceBuild::default()
            }),
            trace: BTreeMap::new(),
        }
    }

    fn run(metrics: &Metrics, job: &Job, took: Duration) {
        let now = Instant::now();
        metrics.began(job, now);
        metrics.ended(job.id, true, now + took);
    }

    #[test]
    fn a_job_that_ended_is_in_the_bucket_of_its_duration() {
        let metrics = Metrics::default();

        run(&metrics, &build("a"), Duration::from_secs(30));
        run(&metrics, &build("b"), Duration::from_secs(5000));

        let totals = metrics.snapshot().totals;
        let jobs = &totals.jobs[&true];
        assert_eq!(jobs.buckets, [0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!((jobs.count, jobs.sum), (2, Duration::from_secs(5030)));
        assert_eq!(totals.build_times.len(), 1);
        let workspaces: Vec<&str> = totals
            .builds
            .keys()
            .map(|it| it.workspace.as_str())
            .collect();
        assert_eq!(workspaces, ["a", "b"]);
    }

    #[test]
    fn bounded_labels_name_no_workspace() {
        let metrics = Metrics::new(Labels::Bounded);

        run(&metrics, &build("a"), Duration::from_secs(1));
        run(&metrics, &build("b"), Duration::from_secs(1));

        let builds = metrics.snapshot().totals.builds;
        let (labels, count) = builds.iter().next().unwrap();
        assert_eq!((builds.len(), *count), (1, 2));
        assert_eq!((labels.owner.as_str(), labels.workspace.as_str()), ("", ""));
    }

    #[test]
    fn a_job_runs_from_its_beginning_to_its_end_and_the_server_answers_meanwhile() {
        let (metrics, job, now) = (Metrics::default(), build("a"), Instant::now());
        metrics.refused("no licence".to_owned());

        metrics.began(&job, now);
        metrics.answered(job.id, now + Duration::from_secs(3));

        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.refusal, None);
        let running = &snapshot.running[&job.id];
        assert_eq!(running.answered - running.since, Duration::from_secs(3));
        metrics.ended(job.id, false, now);
        assert!(metrics.snapshot().running.is_empty());
    }
}
