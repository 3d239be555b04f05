//! Scripts of a template: at the start, at the stop, and at set times.
//!
//! # Source
//! coder `agent/agentscripts/agentscripts.go`, `codersdk/agentsdk/logs.go`.

mod run;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::stop::Stop;
use outpost_wire::proto::coder::agent::v2::{
    Log, Manifest, Timing, WorkspaceAgentScript as Script,
    log::Level,
    timing::{Stage, Status},
};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tracing::{Instrument as _, debug_span, info, warn};

use self::run::run;
use super::{
    Shared,
    order::{Ended, Event, Order},
    schedule::Schedule,
    stamp,
};

/// Name of the directory with the files of scripts, which templates know from Coder.
pub(super) const DIRECTORY: &str = "coder-script-data";

/// Result of the scripts of a stage; the worst one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Success of all scripts.
    Done,
    /// Failure of a script.
    Failed,
    /// Time limit of a script exceeded.
    TimedOut,
}

/// A line of a script's output, with its log source.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Id of the log source.
    pub(super) source: Bytes,
    /// Text, level and time of the line.
    pub(super) log: Log,
}

/// Runs all scripts of a stage: at the same time, except those that wait for others. Once `stop` drains nothing more
/// starts; running scripts are waited for, and hung up once it cancels.
pub(super) async fn run_all(shared: &Arc<Shared>, stage: Stage, stop: &Stop) -> Outcome {
    let Some(manifest) = shared.manifest.borrow().clone() else {
        return Outcome::Done;
    };
    let is_due = |script: &&Script| match stage {
        Stage::Start => script.run_on_start,
        Stage::Stop => script.run_on_stop,
        Stage::Cron => false,
    };
    let due: Vec<_> = manifest.scripts.iter().filter(is_due).cloned().collect();
    match Order::new(&due, tokio::time::Instant::now().into_std()) {
        Ok(order) => Running::new(shared, &due, stage, stop).finish(order).await,
        Err(error) => {
            warn!(?stage, %error, "the order of scripts cannot be resolved; no script runs");
            for script in &due {
                say(
                    shared,
                    script,
                    Level::Error,
                    format!("no script runs: {error}"),
                );
            }
            Outcome::Failed
        }
    }
}

/// Scripts of a stage that are running.
struct Running<'a> {
    shared: &'a Arc<Shared>,
    scripts: &'a [Script],
    stage: Stage,
    stop: &'a Stop,
    tasks: JoinSet<Status>,
    by_task: HashMap<tokio::task::Id, usize>,
    worst: Outcome,
}

impl<'a> Running<'a> {
    fn new(shared: &'a Arc<Shared>, scripts: &'a [Script], stage: Stage, stop: &'a Stop) -> Self {
        Self {
            shared,
            scripts,
            stage,
            stop,
            tasks: JoinSet::new(),
            by_task: HashMap::new(),
            worst: Outcome::Done,
        }
    }

    async fn finish(mut self, mut order: Order) -> Outcome {
        let mut is_cancelled = false;
        loop {
            while let Some(event) = order.poll_event() {
                self.handle_event(event);
            }
            let line = async {
                match order.poll_timeout() {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.draining(), if !is_cancelled => {
                    is_cancelled = true;
                    order.cancel();
                }
                ended = self.tasks.join_next_with_id() => match ended {
                    None => return self.worst,
                    Some(ended) => self.handle_end(ended, &mut order),
                },
                () = line => order.handle_timeout(tokio::time::Instant::now().into_std()),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Run(at) => {
                let (shared, script) = (self.shared.clone(), self.scripts[at].clone());
                let (stage, stop) = (self.stage, self.stop.clone());
                let run = async move { run(&shared, &script, stage, &stop).await };
                let span = debug_span!("script", script = self.scripts[at].display_name);
                self.by_task
                    .insert(self.tasks.spawn(run.instrument(span)).id(), at);
            }
            Event::Wait(at, line) => say(self.shared, &self.scripts[at], Level::Info, line),
            Event::Skip(at, line) => {
                let script = &self.scripts[at];
                info!(
                    script = script.display_name,
                    why = line,
                    "skipping a script"
                );
                say(self.shared, script, Level::Info, line);
                let now = Timestamp::now();
                report(
                    self.shared,
                    script,
                    self.stage,
                    (now, now),
                    (Status::Skipped, 0),
                );
            }
        }
    }

    /// Handles the end of a script's task. One that panicked has failed.
    fn handle_end(
        &mut self,
        ended: Result<(tokio::task::Id, Status), tokio::task::JoinError>,
        order: &mut Order,
    ) {
        let (task, status) = match ended {
            Ok(ended) => ended,
            Err(panic) => (panic.id(), Status::ExitFailure),
        };
        let (ended, outcome) = match status {
            Status::Ok => (Ended::Succeeded, Outcome::Done),
            Status::Skipped => (Ended::Skipped, Outcome::Done),
            Status::ExitFailure | Status::PipesLeftOpen => (Ended::Failed, Outcome::Failed),
            Status::TimedOut => (Ended::TimedOut, Outcome::TimedOut),
        };
        self.worst = self.worst.max(outcome);
        if let Some(at) = self.by_task.remove(&task) {
            order.handle_end(at, ended);
        }
    }
}

/// Runs scripts at their times, until `stop` drains. One that is running then is hung up once `stop` cancels.
pub(super) async fn run_at_times(shared: Arc<Shared>, manifest: Arc<Manifest>, stop: Stop) {
    let mut running = JoinSet::new();
    for script in manifest
        .scripts
        .iter()
        .filter(|script| !script.cron.is_empty())
    {
        let schedule = match Schedule::parse(&script.cron) {
            Ok(schedule) => schedule,
            Err(error) => {
                warn!(script = script.display_name, %error, "a script has an invalid schedule");
                continue;
            }
        };
        let (shared, script, stop) = (shared.clone(), script.clone(), stop.clone());
        let span = debug_span!("script", script = script.display_name);
        let at_times = async move {
            while let Some(next) = schedule.after(&chrono::Local::now()) {
                let pause = (next - chrono::Local::now()).to_std().unwrap_or_default();
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.draining() => return,
                }
                run(&shared, &script, Stage::Cron, &stop).await;
            }
        };
        running.spawn(at_times.instrument(span));
    }
    running.join_all().await;
}

/// Reports the end of a script to the server.
fn report(
    shared: &Shared,
    script: &Script,
    stage: Stage,
    (began, ended): (Timestamp, Timestamp),
    (status, exit_code): (Status, i32),
) {
    shared.timings.push(Timing {
        script_id: script.id.clone(),
        start: Some(stamp(began)),
        end: Some(stamp(ended)),
        exit_code,
        stage: stage.into(),
        status: status.into(),
    });
}

fn say(shared: &Shared, script: &Script, level: Level, text: String) {
    let output = text.trim_end_matches('\r').replace('\0', "");
    let log = Log {
        created_at: Some(stamp(Timestamp::now())),
        output,
        level: level.into(),
    };
    // Lines that do not fit into the queue are still in the script's log file.
    shared.logs.push(Line {
        source: script.log_source_id.clone(),
        log,
    });
}
