//! Reports on a running job to the server: log lines, heartbeats, early results; and the server's cancellation.
//!
//! One task sends everything: lines and updates in order, one call after the other, and beside them heartbeats, so that
//! neither these nor a cancellation wait for lines. Logging never waits for any of it.

use std::{
    convert::Infallible,
    fmt,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use futures::future::OptionFuture;
use outpost_base::{job::JobId, stop::Stop};
use outpost_provision::{JobSource, JobUpdate, JobUpdated, SourceError};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, info, warn};

use super::{
    Config,
    contact::Contact,
    heartbeat::Heartbeat,
    job_log::JobLog,
    metrics::Metrics,
    repeat::{may_pass, reconnected},
};

/// Longest time for the server to answer an update, as in the reference.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The task that reports on one job. Dropping it ends the reports.
pub(super) struct Reporter {
    requests: mpsc::Sender<Request>,
    why_stopped: Arc<OnceLock<WhyStopped>>,
    contact: Contact,
    outage_limit: Duration,
    _task: AbortOnDropHandle<()>,
}

/// Reasons why the reporter stopped a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhyStopped {
    /// Cancelled by somebody at the server.
    Cancelled,
    /// Given up by the server, which was unreachable for too long.
    ServerAway,
    /// No longer ours, according to the server.
    Gone,
}

impl fmt::Display for WhyStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "job was cancelled",
            Self::ServerAway => "job was stopped because the server was unreachable for too long",
            Self::Gone => "job was stopped because the server had given up on it",
        })
    }
}

enum Request {
    Update(
        Box<JobUpdate>,
        oneshot::Sender<Result<JobUpdated, SourceError>>,
    ),
    /// Wait until all lines were sent. The duration is how long the server may accept no lines.
    Flush(Duration, oneshot::Sender<()>),
}

impl Reporter {
    /// Starts to report on a job. A cancellation by the server cancels `stop`, and so does a server that is away for
    /// too long, or no longer knows the job.
    pub(super) fn start(
        config: &Config,
        job: JobId,
        source: Arc<dyn JobSource>,
        log: JobLog,
        stop: Stop,
    ) -> Self {
        let (requests, received) = mpsc::channel(1);
        let heartbeat = Heartbeat::new(
            config.heartbeat,
            config.outage_limit,
            Instant::now().into_std(),
        );
        let (why_stopped, contact) = (Arc::default(), Contact::new(config.outage_limit));
        let task = Task {
            job,
            source,
            log,
            stop,
            heartbeat: Mutex::new(heartbeat),
            why_stopped: Arc::clone(&why_stopped),
            contact: contact.clone(),
            metrics: Arc::clone(&config.metrics),
        };
        let task = tokio::spawn(task.run(received).instrument(Span::current()));
        Self {
            requests,
            why_stopped,
            contact,
            outage_limit: config.outage_limit,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Returns why the reporter stopped the job, if it did.
    pub(super) fn why_stopped(&self) -> Option<WhyStopped> {
        self.why_stopped.get().copied()
    }

    /// Returns when the server last answered about the job.
    pub(super) fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Sends early results, after all lines so far, and waits for the answer.
    pub(super) async fn update(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let (answer, answered) = oneshot::channel();
        let ended = || SourceError::Gone("the reports on this job ended".to_owned());
        self.requests
            .send(Request::Update(Box::new(update), answer))
            .await
            .map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Waits until all lines so far were sent, or the server is given up. In the middle of a job, a server that is
    /// alive and accepts no lines is not waited for; at its end it is, for as long as an outage may last.
    pub(super) async fn flush(&self, is_last: bool) {
        let patience = if is_last {
            self.outage_limit
        } else {
            ANSWER_TIMEOUT
        };
        let (answer, answered) = oneshot::channel();
        let request = Request::Flush(patience, answer);
        if self.requests.send(request).await.is_ok() {
            answered.await.ok();
        }
    }
}

struct Task {
    job: JobId,
    source: Arc<dyn JobSource>,
    log: JobLog,
    stop: Stop,
    heartbeat: Mutex<Heartbeat>,
    why_stopped: Arc<OnceLock<WhyStopped>>,
    contact: Contact,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(self, requests: mpsc::Receiver<Request>) {
        tokio::select! {
            () = self.report(requests) => {}
            never = self.give_signs() => match never {},
        }
    }

    /// Sends heartbeats, each of which may return a cancellation, independently of the lines.
    async fn give_signs(&self) -> Infallible {
        while !self.is_gone() {
            let next = self.heartbeat().next();
            if Instant::now() < next.into() {
                // An answer to another call may have postponed the heartbeat meanwhile.
                tokio::select! {
                    () = sleep_until(next.into()) => continue,
                    () = reconnected(self.source.as_ref()) => {}
                }
            }
            // The call itself records the answer.
            let _ = self.send(JobUpdate::heartbeat(self.job)).await;
        }
        pending().await
    }

    /// Sends lines and updates, in order.
    async fn report(&self, mut requests: mpsc::Receiver<Request>) {
        let log = self.log.clone();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(Request::Update(update, answer)) => {
                        self.flush(ANSWER_TIMEOUT).await;
                        answer.send(self.send_until_answered(*update).await).ok();
                    }
                    Some(Request::Flush(patience, answer)) => {
                        self.flush(patience).await;
                        answer.send(()).ok();
                    }
                    None => return,
                },
                Some(()) = OptionFuture::from(due.map(sleep_until)), if !self.is_gone() => {
                    self.send_lines().await;
                }
                () = log.arrived() => {}
            }
        }
    }

    /// Returns when to send the next batch.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now().into_std();
        let batch = self.log.due(now)?;
        let heartbeat = self.heartbeat();
        let due = if heartbeat.is_waiting(now) {
            batch.max(heartbeat.next())
        } else {
            batch
        };
        Some(due.into())
    }

    /// Sends the next batch; an empty one is a heartbeat. Returns whether the server handled it.
    async fn send_lines(&self) -> bool {
        let logs = self.log.take(Instant::now().into_std());
        let update = JobUpdate {
            logs: logs.clone(),
            ..JobUpdate::heartbeat(self.job)
        };
        match self.send(update).await {
            Ok(_) => {}
            Err(error) if may_pass(&error) => {
                self.log.put_back(logs);
                return false;
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                lines = logs.len(),
                "the server refused log lines"
            ),
        }
        true
    }

    /// Sends all lines so far. A server that answers heartbeats for as long as `patience` and accepts no lines does
    /// not delay the job any longer; one that is away is waited for until it is lost.
    async fn flush(&self, patience: Duration) {
        let mut taken_at = Instant::now();
        while !self.log.is_empty() && !self.is_gone() && !self.stop.is_killed() {
            self.wait_for_pulse().await;
            if self.send_lines().await {
                taken_at = Instant::now();
            }
            let is_lost = self.heartbeat().is_lost(Instant::now().into_std());
            if is_lost || self.contact.at() >= taken_at + patience {
                return;
            }
        }
    }

    /// Repeats an update while the server is away.
    async fn send_until_answered(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
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
        let (next, is_waiting) = {
            let heartbeat = self.heartbeat();
            (
                heartbeat.next(),
                heartbeat.is_waiting(Instant::now().into_std()),
            )
        };
        if is_waiting {
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = reconnected(self.source.as_ref()) => {}
                () = self.stop.killed() => {}
            }
        }
    }

    async fn send(&self, update: JobUpdate) -> Result<JobUpdated, SourceError> {
        let call = timeout(ANSWER_TIMEOUT, self.source.update(update)).await;
        let result = call.unwrap_or_else(|late| Err(SourceError::Lost(late.into())));
        let now = Instant::now().into_std();
        match &result {
            Ok(answer) => {
                self.heartbeat().answered(now);
                self.contact.answered();
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
                    "the server did not accept an update"
                );
                let is_lost = {
                    let mut heartbeat = self.heartbeat();
                    heartbeat.missed(now);
                    heartbeat.is_lost(now)
                };
                if is_lost {
                    self.stop(WhyStopped::ServerAway);
                }
            }
            Err(SourceError::Gone(_) | SourceError::Ended(_)) => {
                self.heartbeat().answered(now);
                self.contact.lost();
                self.stop(WhyStopped::Gone);
            }
            Err(
                SourceError::Refused(_) | SourceError::TooLarge { .. } | SourceError::Invalid(_),
            ) => self.heartbeat().answered(now),
        }
        result
    }

    fn heartbeat(&self) -> MutexGuard<'_, Heartbeat> {
        let heartbeat = self.heartbeat.lock();
        heartbeat.expect("no code panics while it holds the pulse")
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
