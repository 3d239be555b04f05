//! What the server hears of a job while it runs: lines, signs of life, what was learned. And what it says: cancel.
//!
//! One task sends everything, one call after the other; who logs never waits for it.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, info, warn};

use super::{Config, job_log::JobLog, metrics::Metrics, pulse::Pulse, repeat::may_pass};
use crate::{
    job::JobId,
    provision::{JobSource, JobUpdate, JobUpdated, SourceError},
    stop::Stop,
};

/// Time the server has to answer an update, as in the reference.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The task that reports on one job. Dropping it ends the reports.
pub(super) struct Reporter {
    requests: mpsc::Sender<Request>,
    why_stopped: Arc<OnceLock<WhyStopped>>,
    answered: Arc<Mutex<Instant>>,
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
        let (why_stopped, answered) = (Arc::default(), Arc::new(Mutex::new(Instant::now())));
        let task = Task {
            job,
            source,
            log,
            stop,
            pulse,
            why_stopped: Arc::clone(&why_stopped),
            answered: Arc::clone(&answered),
            metrics: Arc::clone(&config.metrics),
        };
        let task = tokio::spawn(task.run(received).instrument(Span::current()));
        Self {
            requests,
            why_stopped,
            answered,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Why the reporter stopped the job, if it did.
    pub(super) fn why_stopped(&self) -> Option<WhyStopped> {
        self.why_stopped.get().copied()
    }

    /// When the server took something last. Until long after, nobody else ends the job.
    pub(super) fn answered_at(&self) -> Instant {
        let answered = self.answered.lock();
        *answered.expect("no code panics while it holds a moment")
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
    answered: Arc<Mutex<Instant>>,
    metrics: Arc<Metrics>,
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
                () = log.arrived() => {}
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
            self.log.due(now)
        };
        batch.map_or(beat, |batch| batch.min(beat)).into()
    }

    /// Sends the next batch; an empty one is a sign of life.
    async fn beat(&mut self) {
        let logs = self.log.take(Instant::now().into_std());
        let update = JobUpdate {
            logs: logs.clone(),
            ..JobUpdate::heartbeat(self.job)
        };
        match self.send(update).await {
            Ok(_) => {}
            Err(error) if may_pass(&error) => self.log.put_back(logs),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                lines = logs.len(),
                "lines were refused"
            ),
        }
    }

    async fn flush(&mut self) {
        while !self.log.is_empty() && !self.is_gone() && !self.stop.is_killed() {
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
        let call = timeout(ANSWER_TIMEOUT, self.source.update(update)).await;
        let result = call.unwrap_or_else(|late| Err(SourceError::Lost(late.into())));
        let now = Instant::now().into_std();
        match &result {
            Ok(answer) => {
                self.pulse.answered(now);
                let answered = self.answered.lock();
                *answered.expect("no code panics while it holds a moment") = Instant::now();
                self.metrics.answered(self.job, now);
                if answer.cancelled {
                    self.stop(WhyStopped::Cancelled);
                }
            }
            Err(
                error @ (SourceError::Lost(_)
                | SourceError::Unauthorized(_)
                | SourceError::Unsuitable(_)),
            ) => {
                debug!(
                    error = error as &dyn std::error::Error,
                    "server did not take an update"
                );
                self.pulse.missed(now);
                if self.pulse.is_lost(now) {
                    self.stop(WhyStopped::ServerAway);
                }
            }
            Err(SourceError::Gone(_) | SourceError::Ended(_)) => self.stop(WhyStopped::Gone),
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
