//! The life of one job, from the moment it was acquired until its end was delivered.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{
    Config, Ended, delivery,
    procedure::{self, Context, Done, stage},
    reporter::{JobLog, Reporter},
};
use crate::{
    job::{Job, Outcome},
    provision::{JobSource, Provisioner},
    stop::Stop,
};

/// Runs `job` and delivers how it ended. A panic ends this job and no other.
pub(super) async fn run(
    config: &Config,
    job: Job,
    source: &Arc<dyn JobSource>,
    provisioner: &dyn Provisioner,
    daemon_stop: &Stop,
) -> Ended {
    let (id, kind, started) = (job.id, procedure::kind(&job), Instant::now());
    info!("acquired job");
    let (log, stop) = (JobLog::default(), daemon_stop.child());
    let reporter = Reporter::start(config, id, Arc::clone(source), log.clone(), stop.clone());
    log.mark(stage::SETTING_UP);
    let context = Context {
        job: id,
        source,
        provisioner,
        log: &log,
        reporter: &reporter,
        stop: &stop,
    };
    let done = tokio::select! {
        done = AssertUnwindSafe(procedure::run(&context, job)).catch_unwind() => done,
        never = force_cancel(config, &stop) => match never {},
    };
    let Done { outcome, session } = done.unwrap_or_else(|_| {
        error!("the code that runs jobs panicked");
        Done {
            outcome: procedure::panicked(id, kind),
            session: None,
        }
    });
    log.mark(stage::CLEANING_UP);
    log.finish();
    reporter.flush().await;
    let mut engine = std::time::Duration::ZERO;
    if let Some(session) = session {
        engine = session.engine_time();
        session.close().await;
    }
    drop(reporter); // Nothing may be sent for a job after its end.
    let has_completed = matches!(outcome, Outcome::Completed(_));
    let ended = delivery::deliver(config, source.as_ref(), outcome, daemon_stop).await;
    let total = started.elapsed();
    let (total_ms, engine_ms) = (total.as_millis() as u64, engine.as_millis() as u64);
    let own_ms = total.saturating_sub(engine).as_millis() as u64;
    info!(
        completed = has_completed,
        total_ms, engine_ms, own_ms, "job ended"
    );
    ended
}

/// Kills a cancelled job that does not end by itself.
async fn force_cancel(config: &Config, stop: &Stop) -> std::convert::Infallible {
    stop.cancelled().await;
    sleep(config.force_cancel).await;
    warn!(after = ?config.force_cancel, "cancelled job does not end, killing it");
    stop.kill();
    std::future::pending().await
}
