//! What the server hears of a job while it runs: lines, signs of life, what was learned. And what it says: cancel.
//!
//! One task sends everything, one call after the other; who logs never waits for it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, info, warn};

use super::{Config, log_batch::LogBatch, pulse::Pulse, repeat::may_pass};
use crate::{
    job::{JobId, LogLevel, LogLine, LogSource},
    provision::{JobSource, JobUpdate, JobUpdated, LogSink, SourceError},
    stop::Stop,
};

/// Where a job's lines go. Taking one never waits.
#[derive(Clone, Default)]
pub(super) struct JobLog(Arc<Lines>);

#[derive(Default)]
struct Lines {
    batch: Mutex<LogBatch>,
    arrived: Notify,
}

/// The task that reports on one job. Dropping it ends the reports.
pub(super) struct Reporter {
    requests: mpsc::Sender<Request>,
    why_stopped: Arc<OnceLock<WhyStopped>>,
    _task: AbortOnDropHandle<()>,
}

/// Why the reporter stopped a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhyStopped {
    /// Somebody cancelled it at the server.
    Cancelled,
    /// The server was away for so long that it gives the job up.
    ServerAway,
    /// The server says that the job is not ours any more.
    Gone,
}

impl fmt::Display for WhyStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "job was cancelled",
            Self::ServerAway => "job was stopped because the server was away for too long",
            Self::Gone => "job was stopped because the server had given it up",
        })
    }
}

enum Request {
    Update(
        Box<JobUpdate>,
        oneshot::Sender<Result<JobUpdated, SourceError>>,
    ),
    Flush(oneshot::Sender<()>),
}

/// Lines of an engine, under one stage.
struct StageSink {
    log: JobLog,
    stage: &'static str,
}

impl LogSink for StageSink {
    fn log(&self, level: LogLevel, output: String) {
        self.log
            .push(LogSource::Provisioner, level, self.stage, output);
    }
}

impl JobLog {
    /// Marks the beginning of a stage.
    pub(super) fn mark(&self, stage: &'static str) {
        self.push(
            LogSource::ProvisionerDaemon,
            LogLevel::Info,
            stage,
            String::new(),
        );
    }

    /// Logs a line as the engine would.
    pub(super) fn line(&self, level: LogLevel, stage: &'static str, output: impl Into<String>) {
        self.push(LogSource::Provisioner, level, stage, output.into());
    }

    /// Where an engine logs under `stage`.
    pub(super) fn sink(&self, stage: &'static str) -> Arc<dyn LogSink> {
        Arc::new(StageSink {
            log: self.clone(),
            stage,
        })
    }

    /// Releases what was kept back.
    pub(super) fn finish(&self) {
        self.batch().finish(Timestamp::now());
        self.0.arrived.notify_one();
    }

    fn push(&self, source: LogSource, level: LogLevel, stage: &str, output: String) {
        let line = LogLine {
            source,
            level,
            created_at: Timestamp::now(),
            stage: stage.to_owned(),
            output,
        };
        self.batch().push(line);
        self.0.arrived.notify_one();
    }

    fn batch(&self) -> MutexGuard<'_, LogBatch> {
        self.0
            .batch
            .lock()
            .expect("no code panics while it holds the lines")
    }
}

impl Reporter {
    /// Starts to report on a job. A cancel that the server tells cancels `stop`, and so does a server that is away
    /// for too long, or does not know the job any more.
    pub(super) fn start(
        config: &Config,
        job: JobId,
        source: Arc<dyn JobSource>,
        log: JobLog,
        stop: Stop,
    ) -> Self {
        let (requests, received) = mpsc::channel(1);
        let pulse = Pulse::new(
            config.heartbeat,
            config.outage_limit,
            Instant::now().into_std(),
        );
        let why_stopped = Arc::default();
        let task = Task {
            job,
            source,
            log,
            stop,
            pulse,
            why_stopped: Arc::clone(&why_stopped),
        };
        let task = tokio::spawn(task.run(received).instrument(Span::current()));
        Self {
            requests,
            why_stopped,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Why the reporter stopped the job, if it did.
    pub(super) fn why_stopped(&self) -> Option<WhyStopped> {
        self.why_stopped.get().copied()
    }

    /// Sends what was learned, behind all lines so far, and waits for the answer.
    pub(super) async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let (answer, answered) = oneshot::channel();
        let ended = || SourceError::Gone("the reports on this job ended".to_owned());
        self.requests
            .send(Request::Update(Box::new(update), answer))
            .await
            .map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Waits until all lines so far were sent, or the server is given up.
    pub(super) async fn flush(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Flush(answer)).await.is_ok() {
            answered.await.ok();
        }
    }
}

struct Task {
    job: JobId,
    source: Arc<dyn JobSource>,
    log: JobLog,
    stop: Stop,
    pulse: Pulse,
    why_stopped: Arc<OnceLock<WhyStopped>>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let log = self.log.clone();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(Request::Update(update, answer)) => {
                        self.flush().await;
                        answer.send(self.send_until_answered(*update).await).ok();
                    }
                    Some(Request::Flush(answer)) => {
                        self.flush().await;
                        answer.send(()).ok();
                    }
                    None => return,
                },
                () = sleep_until(due), if !self.is_gone() => self.beat().await,
                () = log.0.arrived.notified() => {}
            }
        }
    }

    /// When to send next: a batch that is due, or the next beat.
    fn due(&self) -> Instant {
        let now = Instant::now().into_std();
        let beat = self.pulse.next();
        let batch = if self.pulse.is_waiting(now) {
            None
        } else {
            self.log.batch().due(now)
        };
        batch.map_or(beat, |batch| batch.min(beat)).into()
    }

    /// Sends the next batch; an empty one is a sign of life.
    async fn beat(&mut self) {
        let logs = self.log.batch().take(Instant::now().into_std());
        let update = JobUpdate {
            logs: logs.clone(),
            ..JobUpdate::heartbeat(self.job)
        };
        match self.send(update).await {
            Ok(_) => {}
            Err(error) if may_pass(&error) => self.log.batch().put_back(logs),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                lines = logs.len(),
                "lines were refused"
            ),
        }
    }

    async fn flush(&mut self) {
        while !self.log.batch().is_empty() && !self.is_gone() && !self.stop.is_killed() {
            self.wait_for_pulse().await;
            self.beat().await;
            if self.pulse.is_lost(Instant::now().into_std()) {
                return;
            }
        }
    }

    /// Repeats an update while the server is away.
    async fn send_until_answered(&mut self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        loop {
            match self.send(update.clone()).await {
                Err(error) if may_pass(&error) && !self.stop.is_cancelled() => {
                    self.wait_for_pulse().await;
                }
                result => return result,
            }
        }
    }

    async fn wait_for_pulse(&self) {
        if self.pulse.is_waiting(Instant::now().into_std()) {
            tokio::select! {
                () = sleep_until(self.pulse.next().into()) => {}
                () = self.stop.killed() => {}
            }
        }
    }

    async fn send(&mut self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let result = self.source.update(update).await;
        let now = Instant::now().into_std();
        match &result {
            Ok(answer) => {
                self.pulse.answered(now);
                if answer.cancelled {
                    self.stop(WhyStopped::Cancelled);
                }
            }
            Err(error @ (SourceError::Lost(_) | SourceError::Unauthorized(_))) => {
                debug!(
                    error = error as &dyn std::error::Error,
                    "server did not take an update"
                );
                self.pulse.missed(now);
                if self.pulse.is_lost(now) {
                    self.stop(WhyStopped::ServerAway);
                }
            }
            Err(SourceError::Gone(_)) => self.stop(WhyStopped::Gone),
            Err(
                SourceError::Refused(_) | SourceError::TooLarge { .. } | SourceError::Invalid(_),
            ) => self.pulse.answered(now),
        }
        result
    }

    fn is_gone(&self) -> bool {
        self.why_stopped.get() == Some(&WhyStopped::Gone)
    }

    /// Stops the job. The first reason counts, and none if the daemon had stopped it before.
    fn stop(&self, why: WhyStopped) {
        if self.stop.is_cancelled() {
            return;
        }
        self.why_stopped.get_or_init(|| why);
        match why {
            WhyStopped::Cancelled => info!("job was cancelled"),
            WhyStopped::ServerAway | WhyStopped::Gone => warn!("{why}"),
        }
        self.stop.cancel();
    }
}
