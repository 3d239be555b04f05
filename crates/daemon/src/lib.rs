//! Provisioner daemon: acquires a job, runs it, and reports how it ended.
//!
//! A *slot* takes one job at a time from one [`JobSource`]. For each job a *runner* walks through the steps of an
//! engine's session, while a *reporter* sends log lines and heartbeats, and listens for a cancellation. An outage of
//! the server never stops an engine before the server has certainly given the job up.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

mod admission;
mod contact;
mod delivery;
mod gate;
mod heartbeat;
mod inventory;
mod job_log;
pub mod journal;
mod kept;
mod log_batch;
mod log_file;
pub mod metrics;
mod peaks;
mod permit;
mod procedure;
mod provider_set;
mod recovery;
mod redact;
mod repeat;
mod reporter;
mod runner;
mod secrets;
mod slots;

use std::{panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt as _;
use outpost_base::{
    job::{Job, Work},
    secret::Secret,
    stop::Stop,
};
use outpost_net::back_off::{Complaints, Pauses};
use outpost_provision::{Identity, JobSource, Provisioner, SourceError};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, error, field, info, info_span, warn};

use self::{
    inventory::Inventory,
    journal::{Journal, JournalError, Journals},
    metrics::Metrics,
    permit::SlotPermit,
    recovery::Recovery,
};

use self::gate::{Gate, Turn};
pub use self::{
    admission::Capacity,
    log_file::LogRetention,
    slots::{Concurrency, slot_name},
};

/// Complete configuration of a daemon. Nothing below asks "is it set?".
#[derive(Clone, Debug)]
pub struct Config {
    /// Interval of heartbeats of a job, if nothing is logged.
    pub heartbeat: Duration,
    /// Silence of the server after which a job is stopped: less than the five minutes after which the server gives it
    /// up.
    pub outage_limit: Duration,
    /// Time that a cancelled job has to end by itself; Coder gives 10 minutes.
    pub force_cancel: Duration,
    /// Time that running jobs have once the daemon drains, before they are cancelled; `None` for as long as they
    /// take.
    pub grace_period: Option<Duration>,
    /// Jobs to run, in all slots together, before the daemon ends by itself; `None` for no limit.
    pub max_jobs: Option<usize>,
    /// Memory limits of the jobs; `None` to take jobs whatever they need.
    pub capacity: Option<Capacity>,
    /// Directory with the [`journal`], and with states that could not be delivered.
    pub state_dir: PathBuf,
    /// Limits of the jobs' logs in that directory.
    pub logs: LogRetention,
    /// Secrets that no log may show, besides those of each job.
    pub secrets: Vec<Secret>,
    /// File with a key for the journal that somebody else manages, such as a credential of systemd; `None` for one of
    /// its own.
    pub journal_key: Option<PathBuf>,
    /// Counters of the daemon's work.
    pub metrics: Arc<Metrics>,
}

/// Reasons why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A limit of zero, with which nothing would work.
    #[error("`{0}` is zero")]
    Zero(&'static str),
    /// An outage limit so short that a single late heartbeat would end a job.
    #[error("`outage_limit` ({outage_limit:?}) is not longer than `heartbeat` ({heartbeat:?})")]
    ShortOutageLimit {
        /// Outage limit as configured.
        outage_limit: Duration,
        /// Interval of heartbeats as configured.
        heartbeat: Duration,
    },
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError`] names the value.
    pub fn check(&self) -> Result<(), ConfigError> {
        let durations = [
            ("heartbeat", self.heartbeat),
            ("outage_limit", self.outage_limit),
            ("force_cancel", self.force_cancel),
        ];
        if let Some((name, _)) = durations.iter().find(|(_, value)| value.is_zero()) {
            return Err(ConfigError::Zero(name));
        }
        if self.max_jobs == Some(0) {
            return Err(ConfigError::Zero("max_jobs"));
        }
        if self.capacity.is_some_and(|capacity| capacity.budget == 0) {
            return Err(ConfigError::Zero("capacity.budget"));
        }
        if self.outage_limit <= self.heartbeat {
            return Err(ConfigError::ShortOutageLimit {
                outage_limit: self.outage_limit,
                heartbeat: self.heartbeat,
            });
        }
        Ok(())
    }
}

/// Summary of a daemon's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of jobs that succeeded.
    pub completed: usize,
    /// Number of jobs that failed or were cancelled.
    pub failed: usize,
    /// Number of jobs whose end could not be delivered.
    pub undelivered: usize,
    /// Time from the moment a job was acquired until its end was delivered, added up over all jobs.
    pub total: Duration,
    /// Part of it that the engines' processes took; the rest is our own.
    pub engine: Duration,
}

/// Reasons why a daemon ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A configuration that cannot be used.
    #[error("daemon's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A credential that the server does not accept.
    #[error("cannot take jobs")]
    Unauthorized(#[source] SourceError),
    /// A journal that cannot be used, without which states could be lost.
    #[error("cannot use the journal")]
    Journal(#[from] JournalError),
}

/// First and longest pause after the server handed out nothing but an error.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(30));
/// Longest pause after the connection was lost: whoever reconnects has pauses of its own.
const LOST_PAUSE: Duration = Duration::from_millis(200);

/// Takes jobs from `sources`, one at a time from each, until `stop` drains or a limit is reached.
///
/// # Errors
/// [`DaemonError::Unauthorized`] if the server never accepted the credentials; a later refusal may pass.
/// [`DaemonError::Config`] names the value.
pub async fn run(
    config: Config,
    sources: Vec<Arc<dyn JobSource>>,
    provisioner: Arc<dyn Provisioner>,
    stop: Stop,
) -> Result<Summary, DaemonError> {
    config.check()?;
    let journals = Journals::open(&config.state_dir, config.journal_key.as_deref())?;
    let (gate, stop) = (Gate::open(&config).await, stop.child());
    let end = bound_the_end(config.clone(), stop.clone());
    let _end = AbortOnDropHandle::new(tokio::spawn(end.instrument(Span::current())));
    let siblings = sources.first().map(|source| {
        let (journals, source, provisioner) = (
            journals.clone(),
            Arc::clone(source),
            Arc::clone(&provisioner),
        );
        let looking = recovery::look_after_siblings(
            config.clone(),
            journals,
            source,
            provisioner,
            stop.clone(),
        );
        AbortOnDropHandle::new(tokio::spawn(looking.instrument(Span::current())))
    });
    let inventory = Inventory::open(journals.clone(), Arc::clone(&config.metrics)).await;
    let _inventory =
        AbortOnDropHandle::new(tokio::spawn(inventory.follow().instrument(Span::current())));
    config.metrics.set_slots(sources.len());
    let mut slots = JoinSet::new();
    for (number, source) in sources.into_iter().enumerate() {
        let identity = source.identity().unwrap_or_else(|| Identity {
            server: String::new(),
            name: format!("slot-{number}"),
        });
        let journal = journals.take(&identity, &stop).await?;
        if let Err(error) = source.come_back(journals.id(), journal.jobs()?).await {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                "cannot report which jobs this daemon still has; jobs that it lost end when their lease expires"
            );
        }
        let slot = Slot {
            number,
            config: config.clone(),
            gate: Arc::clone(&gate),
            journal,
            journals: journals.clone(),
            identity,
            source,
            provisioner: Arc::clone(&provisioner),
            stop: stop.clone(),
            permit: SlotPermit::new(),
        };
        slots.spawn(
            Arc::new(slot)
                .run()
                .instrument(info_span!("slot", slot = number)),
        );
    }
    let mut total = Summary::default();
    let mut first_error = None;
    while let Some(ended) = slots.join_next().await {
        match ended.expect(JOB_PANICS_ARE_CAUGHT) {
            Ok(summary) => total.add(&summary),
            Err(error) => {
                stop.drain();
                first_error.get_or_insert(error);
            }
        }
    }
    drop(siblings);
    first_error.map_or(Ok(total), Err)
}

/// Bounds the end of a daemon: jobs that exceed the grace period are cancelled, and those that do not end then are
/// killed.
async fn bound_the_end(config: Config, stop: Stop) {
    stop.draining().await;
    if let Some(grace) = config.grace_period
        && timeout(grace, stop.cancelled()).await.is_err()
    {
        warn!(?grace, "the grace period is over, cancelling jobs");
        stop.cancel();
    }
    stop.cancelled().await;
    sleep(config.force_cancel).await;
    stop.kill();
}

/// Reason why no job ends with a panic of its task.
const JOB_PANICS_ARE_CAUGHT: &str = "a slot catches the panics of its jobs";

/// A slot: takes jobs from one source and works on one at a time.
struct Slot {
    number: usize,
    config: Config,
    gate: Arc<Gate>,
    journal: Journal,
    journals: Journals,
    identity: Identity,
    source: Arc<dyn JobSource>,
    provisioner: Arc<dyn Provisioner>,
    stop: Stop,
    permit: Arc<SlotPermit>,
}

impl Slot {
    async fn run(self: Arc<Self>) -> Result<Summary, DaemonError> {
        let recovery = Recovery {
            config: &self.config,
            provisioner: self.provisioner.as_ref(),
            stop: &self.stop,
        };
        recovery.run(&self.journal, self.source.as_ref()).await;
        // At most one of them has the slot; the others wait beside it.
        let mut jobs = JoinSet::new();
        let mut summary = Summary::default();
        let (mut pauses, mut complaints) = (Pauses::new(BACK_OFF), Complaints::default());
        while let Some(turn) = self.turn().await {
            let job = match self.acquire(&turn).await {
                Ok(Some(job)) => job,
                Ok(None) if self.stop.is_draining() => break,
                Err(error @ (SourceError::Unauthorized(_) | SourceError::Unsuitable(_)))
                    if !self.source.was_accepted() =>
                {
                    return Err(DaemonError::Unauthorized(error));
                }
                nothing => {
                    drop(turn);
                    let longest = match nothing {
                        Ok(_) | Err(SourceError::Lost(_)) => LOST_PAUSE,
                        Err(_) => BACK_OFF.1,
                    };
                    if let Err(error) = nothing {
                        match complaints.should_say(&error.to_string()) {
                            Some(tries) => warn!(
                                error = &error as &dyn std::error::Error,
                                tries, "failed to acquire a job"
                            ),
                            None => {
                                debug!(
                                    error = &error as &dyn std::error::Error,
                                    "failed to acquire a job"
                                )
                            }
                        }
                        if let SourceError::Unauthorized(text) | SourceError::Unsuitable(text) =
                            error
                        {
                            self.config.metrics.refused(text);
                        }
                    }
                    tokio::select! {
                        () = sleep(pauses.next_up_to(longest)) => {}
                        () = self.stop.draining() => {}
                    }
                    continue;
                }
            };
            pauses.reset();
            complaints = Complaints::default();
            turn.acquired(&job).await;
            let running = Arc::clone(&self).run_job(job, turn);
            jobs.spawn(running.instrument(Span::current()));
            while let Some(ended) = jobs.try_join_next() {
                summary.add(&ended.expect(JOB_PANICS_ARE_CAUGHT));
            }
        }
        while let Some(ended) = jobs.join_next().await {
            summary.add(&ended.expect(JOB_PANICS_ARE_CAUGHT));
        }
        info!(
            completed = summary.completed,
            failed = summary.failed,
            "acquiring no more jobs"
        );
        if let Some(slot) = Arc::into_inner(self) {
            slot.journal.remove_if_empty();
        }
        Ok(summary)
    }

    /// Waits until the slot may ask for a job; `None` if it should not any more.
    async fn turn(&self) -> Option<Turn> {
        tokio::select! {
            biased;
            () = self.stop.draining() => None,
            turn = self.gate.turn(self.number, &self.permit) => turn,
        }
    }

    /// Asks for a job, and withdraws the request if the job might no longer fit.
    async fn acquire(&self, turn: &Turn) -> Result<Option<Job>, SourceError> {
        let asking = self.stop.child();
        let acquire = self.source.acquire(&asking);
        tokio::pin!(acquire);
        tokio::select! {
            biased;
            answer = &mut acquire => answer,
            () = turn.retracted() => {
                asking.drain();
                acquire.await
            }
        }
    }

    async fn run_job(self: Arc<Self>, job: Job, turn: Turn) -> Summary {
        let mut summary = Summary::default();
        let span = job_span(&job);
        let slot = runner::Slot {
            config: &self.config,
            source: &self.source,
            provisioner: self.provisioner.as_ref(),
            journal: &self.journal,
            journals: &self.journals,
            identity: &self.identity,
            stop: &self.stop,
        };
        let ran = runner::run(&slot, job, turn);
        // A panic in here is a bug of ours, and must not end other jobs.
        match AssertUnwindSafe(ran.instrument(span.clone()))
            .catch_unwind()
            .await
        {
            Ok(ran) => summary.count(&ran),
            Err(_) => {
                span.in_scope(|| error!("panic while ending a job"));
                summary.undelivered += 1;
            }
        }
        summary
    }
}

fn job_span(job: &Job) -> Span {
    let span = info_span!(
        "job",
        job_id = %job.id,
        kind = job.work.name(),
        transition = field::Empty,
        workspace = field::Empty,
    );
    if let Work::WorkspaceBuild(build) = &job.work {
        span.record("transition", build.metadata.transition.as_str());
        span.record("workspace", &build.workspace_name);
    }
    span
}

/// End of a job, as far as the daemon cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Completed,
    Failed,
    Undelivered,
}

impl Summary {
    fn count(&mut self, ran: &runner::JobSummary) {
        self.total += ran.total;
        self.engine += ran.engine;
        match ran.ended {
            Ended::Completed => self.completed += 1,
            Ended::Failed => self.failed += 1,
            Ended::Undelivered => self.undelivered += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.undelivered += other.undelivered;
        self.total += other.total;
        self.engine += other.engine;
    }
}

#[cfg(test)]
mod tests;
