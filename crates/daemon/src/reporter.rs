//! What the server hears of a job while it runs: lines, signs of life, what was learned. And what it says: cancel.
//!
//! One task sends everything: what there is to say in order, one call after the other, and beside it signs of life, so
//! that neither they nor a cancel wait for lines. Who logs never waits for any of it.

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

/// Time the server has to answer an update, as in the reference.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The task that reports on one job. Dropping it ends the reports.
pub(super) struct Reporter {
    requests: mpsc::Sender<Request>,
    why_stopped: Arc<OnceLock<WhyStopped>>,
    contact: Contact,
    outage_limit: Duration,
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
    /// With how long the server may take no lines.
    Flush(Duration, oneshot::Sender<()>),
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

    /// Why the reporter stopped the job, if it did.
    pub(super) fn why_stopped(&self) -> Option<WhyStopped> {
        self.why_stopped.get().copied()
    }

    /// When the server answered for the job.
    pub(super) fn contact(&self) -> &Contact {
        &self.contact
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

    /// Waits until all lines so far were sent, or the server is given up. In the middle of a job, one that is alive
    /// and takes no lines is not waited for; at its end it is, for as long as an outage may last.
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

    /// Signs of life, each of which may bring a cancel, whatever becomes of lines.
    async fn give_signs(&self) -> Infallible {
        while !self.is_gone() {
            let next = self.heartbeat().next();
            if Instant::now() < next.into() {
                // Meanwhile an answer to something else may have put it off.
                tokio::select! {
                    () = sleep_until(next.into()) => continue,
                    () = reconnected(self.source.as_ref()) => {}
                }
            }
            // What it brings, the call notes.
            let _ = self.send(JobUpdate::heartbeat(self.job)).await;
        }
        pending().await
    }

    /// Sends what there is to say, in order.
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

    /// When to send the next batch.
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

    /// Sends the next batch; an empty one is a sign of life. Returns whether the server dealt with it.
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

    /// Sends all lines so far. A server that gives signs of life for as long as `patience` and takes no lines does
    /// not hold the job up any longer; one that is away is waited for until it is lost.
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
