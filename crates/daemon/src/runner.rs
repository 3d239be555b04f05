//! Life of one job, from the moment it was acquired until its end was delivered.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use outpost_base::{
    job::{CompletedWork, Job, Outcome},
    stop::Stop,
};
use outpost_provision::{Identity, JobSource, Provisioner, Session};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::{
    Config, Ended,
    delivery::{self, Delivery},
    gate::Turn,
    job_log::JobLog,
    journal::{Journal, Journals, Record},
    procedure::{self, Apply, Context, Failure, Patience, Progress, stage},
    reporter::Reporter,
    secrets,
};

/// Time that a killed engine has to exit, and that the cleanup of its session may take.
const AFTER_KILL: Duration = Duration::from_secs(30);

/// Time that an apply has to end after a second signal to the daemon: most providers finish within it, and a
/// supervisor kills later.
const AFTER_SECOND_SIGNAL: Duration = Duration::from_secs(60);

/// Context that the successive jobs of a slot share.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    pub(super) config: &'a Config,
    pub(super) source: &'a Arc<dyn JobSource>,
    pub(super) provisioner: &'a dyn Provisioner,
    pub(super) journal: &'a Journal,
    pub(super) journals: &'a Journals,
    pub(super) identity: &'a Identity,
    pub(super) stop: &'a Stop,
}

/// Result of a job, and its duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobSummary {
    pub(super) ended: Ended,
    /// Time from the moment it was acquired until its end was delivered.
    pub(super) total: Duration,
    /// Part of it that the engine's processes took.
    pub(super) engine: Duration,
}

/// Runs `job` and delivers its outcome. A panic ends this job and no other.
pub(super) async fn run(slot: &Slot<'_>, job: Job, turn: Turn) -> JobSummary {
    let Slot {
        config,
        source,
        provisioner,
        journal,
        journals,
        identity,
        stop: daemon_stop,
    } = *slot;
    let (id, kind, started) = (job.id, procedure::kind(&job.work), Instant::now());
    info!("acquired job");
    config.metrics.began(&job, started.into_std());
    let secrets = [config.secrets.clone(), secrets::of_job(&job)].concat();
    let (log, stop) = (JobLog::open(config, id, secrets).await, daemon_stop.child());
    let reporter = Reporter::start(config, id, Arc::clone(source), log.clone(), stop.clone());
    log.mark(stage::SETTING_UP);
    let context = Context {
        job: id,
        source,
        provisioner,
        log: &log,
        reporter: &reporter,
        stop: &stop,
        patience: Patience {
            daemon: daemon_stop,
            limit: patience(config),
        },
        journal,
        journals,
        identity,
        turn: &turn,
    };
    let mut progress = Progress::default();
    let result = tokio::select! {
        result = AssertUnwindSafe(procedure::run(&context, job, &mut progress)).catch_unwind() => {
            result.unwrap_or_else(|_| {
                error!("panic while running a job");
                Err(Failure::internal())
            })
        }
        never = turn.watch() => match never {},
        () = overdue(config, &stop, daemon_stop) => Err(Failure::new("the engine did not exit after it was killed")),
    };
    // The engine has ended, so the next job may have the memory while this one is delivered.
    turn.ended(result.is_ok()).await;
    if progress.apply == Apply::Left {
        config.metrics.ended(id, false, Instant::now().into_std());
        return leave_to_next(progress, started).await;
    }
    if result.is_err() {
        find_state(&mut progress).await;
    }
    log.mark(stage::CLEANING_UP);
    log.finish();
    let engine = progress
        .session
        .as_ref()
        .map_or(Duration::ZERO, |it| it.engine_time());
    let outcome = procedure::outcome(&context, kind, result, &mut progress);
    let has_succeeded = matches!(outcome, Outcome::Completed(_));
    if let (Outcome::Completed(completed), Some(record)) = (&outcome, &progress.record)
        && let CompletedWork::WorkspaceBuild(result) = &completed.result
    {
        record.succeeded(result); // Before anything waits for the server.
    }
    reporter.flush(true).await;
    let contact = reporter.contact().clone();
    let is_on_disk = match &progress.record {
        Some(record) => record.settle().await,
        None => true,
    };
    let known = progress.record.as_ref().and_then(Record::state);
    let is_lost = progress.apply == Apply::Running && progress.state.is_none() && known.is_none();
    let mut session = progress.session;
    // The journal has the state, so the directory need not be kept while the server is away.
    if is_on_disk && !is_lost {
        close(session.take()).await;
    }
    drop(reporter); // Nothing may be sent for a job after its end.
    let delivery = Delivery::new(source.as_ref(), daemon_stop, contact.owned_until());
    let ended = delivery::deliver(delivery, outcome, progress.record, &contact).await;
    if ended == Ended::Undelivered || is_lost {
        leave(session);
    } else {
        close(session).await;
    }
    let total = started.elapsed();
    let has_completed = match ended {
        Ended::Completed => true,
        Ended::Failed => false,
        Ended::Undelivered => has_succeeded,
    };
    config
        .metrics
        .ended(id, has_completed, (started + total).into_std());
    let own = total.saturating_sub(engine);
    info!(
        completed = ended == Ended::Completed,
        ?total,
        ?engine,
        ?own,
        "job ended"
    );
    JobSummary {
        ended,
        total,
        engine,
    }
}

/// Returns the time that an apply has to end once the daemon must end at once.
fn patience(config: &Config) -> Duration {
    config.force_cancel.min(AFTER_SECOND_SIGNAL)
}

/// Kills a cancelled job that does not end by itself. Returns if even that does not end it. While the daemon itself
/// is stopping, the job is not killed here: the daemon bounds its own end.
async fn overdue(config: &Config, stop: &Stop, daemon: &Stop) {
    stop.cancelled().await;
    let is_late = timeout(config.force_cancel, stop.killed()).await.is_err();
    if is_late && !daemon.is_cancelled() {
        warn!(after = ?config.force_cancel, "the cancelled job did not end; killing it");
        stop.kill();
    }
    stop.killed().await;
    if daemon.is_killed() {
        sleep(patience(config)).await;
    }
    sleep(AFTER_KILL).await;
}

/// Keeps everything of an apply that goes on for the daemon that takes it over.
async fn leave_to_next(progress: Progress, started: Instant) -> JobSummary {
    let engine = progress
        .session
        .as_ref()
        .map_or(Duration::ZERO, |it| it.engine_time());
    if let Some(record) = progress.record {
        record.keep(None).await;
    }
    // Dropping it would remove the directory in which the engine is working.
    std::mem::forget(progress.session);
    JobSummary {
        ended: Ended::Undelivered,
        total: started.elapsed(),
        engine,
    }
}

/// Asks the session for the state if the code that should have returned it is gone.
async fn find_state(progress: &mut Progress) {
    if progress.apply == Apply::Running
        && let Some(session) = &mut progress.session
    {
        let found = AssertUnwindSafe(timeout(AFTER_KILL, session.newest_state())).catch_unwind();
        progress.state = found.await.ok().and_then(Result::ok).flatten();
        if let (Some(state), Some(record)) = (&progress.state, &progress.record) {
            record.observer().state(state.clone());
        }
    }
}

/// Closes the session, if there is one.
async fn close(session: Option<Box<dyn Session>>) {
    let Some(session) = session else { return };
    if timeout(AFTER_KILL, session.close()).await.is_err() {
        warn!("leaving the session directory in place: it is still in use");
    }
}

/// Leaves the directory of a session as it is: it may contain the only copy of the state.
fn leave(session: Option<Box<dyn Session>>) {
    if let Some(session) = session {
        error!(dirs = ?session.dirs(), "leaving the session directory in place: it may have the only copy of the state");
        std::mem::forget(session); // Its end would remove the directory.
    }
}
