//! Delivery of a job's outcome to the server, and of its state, which is kept until the server has it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use outpost_base::{
    job::{CompletedJob, CompletedWork, FailedJob, FailedWork, Outcome},
    stop::Stop,
};
use outpost_provision::{JobSource, SourceError};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Ended, contact::Contact, journal::Record, repeat::until_answered};

/// Longest time for the delivery after a kill.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);

/// Reasons why an outcome could not be delivered.
pub(super) enum DeliveryError {
    /// No time to wait for the answer: the delivery must be repeated.
    Stopped,
    /// Refused by the server: repeating the delivery does not help.
    Refused(String),
}

/// Delivers an outcome, and repeats it until the server has answered or `stop` kills. Then the job's record is erased
/// if the server has the state, else kept.
pub(super) async fn deliver(
    delivery: Delivery<'_>,
    outcome: Outcome,
    record: Option<Record>,
    contact: &Contact,
) -> Ended {
    match (delivery.tell(outcome).await, record) {
        (Ok(ended), None) => return ended,
        (Ok(ended), Some(record)) => {
            match contact.may_be_lost() && record.is_worth_keeping() {
                true => record.taken_late().await,
                false => record.erase().await,
            }
            return ended;
        }
        (Err(DeliveryError::Stopped), Some(record)) => record.keep(None).await,
        (Err(DeliveryError::Refused(reason)), Some(record)) if record.is_worth_keeping() => {
            record.keep(Some(reason)).await;
        }
        (Err(DeliveryError::Refused(reason)), record) => {
            warn!(
                reason,
                "the end of the job was not delivered; the job has no state to keep"
            );
            if let Some(record) = record {
                record.discard().await;
            }
        }
        (Err(DeliveryError::Stopped), None) => {
            warn!("stopped before the end of the job was delivered; the job has no state to keep");
        }
    }
    Ended::Undelivered
}

/// Delivery of one outcome, until the server has answered.
pub(super) struct Delivery<'a> {
    source: &'a dyn JobSource,
    stop: &'a Stop,
    /// Time until which nobody else ends the job. `None` if it may have ended already.
    owned_until: Option<Instant>,
    /// Set if a success may have been accepted although its answer was lost. The server accepts it as a whole or not
    /// at all.
    may_have_completed: AtomicBool,
    /// Set if a failure may have been accepted. Coderd accepts it in two pieces: first the end of the job, then its
    /// state.
    may_have_failed: AtomicBool,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(
        source: &'a dyn JobSource,
        stop: &'a Stop,
        owned_until: Option<Instant>,
    ) -> Self {
        Self {
            source,
            stop,
            owned_until,
            may_have_completed: AtomicBool::new(false),
            may_have_failed: AtomicBool::new(false),
        }
    }

    /// Delivers the outcome, reduced until the server accepts it.
    ///
    /// # Errors
    /// Why the server does not have the state.
    pub(super) async fn tell(&self, outcome: Outcome) -> Result<Ended, DeliveryError> {
        match outcome {
            Outcome::Failed(job) => self.fail(job).await,
            Outcome::Completed(job) => match self.complete(job).await? {
                None => Ok(Ended::Completed),
                Some(failed) => self.fail(failed).await,
            },
        }
    }

    /// Delivers a success. If the server refuses it, returns a failure with the same state.
    async fn complete(&self, mut job: CompletedJob) -> Result<Option<FailedJob>, DeliveryError> {
        loop {
            let call = || self.noted(&self.may_have_completed, self.source.complete(job.clone()));
            let error =
                match until_answered("complete job", self.source, over(self.stop), call).await {
                    Some(Ok(())) => return Ok(None),
                    Some(Err(error)) => error,
                    None => return Err(DeliveryError::Stopped),
                };
            let is_too_large = matches!(error, SourceError::TooLarge { .. });
            if !(is_too_large && drop_timings(&mut job)) {
                let failed = failed_instead(job, &error).ok_or_else(|| refused(&error));
                return failed.map(Some);
            }
            warn!(%error, "sending the job's result without its timings");
        }
    }

    /// Delivers a failure. A state that is too large even alone is kept back, so that the job ends nevertheless.
    async fn fail(&self, mut job: FailedJob) -> Result<Ended, DeliveryError> {
        info!(reason = job.error, "job failed");
        let mut kept_back = None;
        loop {
            let call = || self.noted(&self.may_have_failed, self.source.fail(job.clone()));
            let error = match until_answered("fail job", self.source, over(self.stop), call).await {
                Some(Ok(())) => return kept_back.map_or(Ok(Ended::Failed), Err),
                Some(Err(SourceError::Ended(_))) if self.was_told(&job.work) => {
                    return Ok(Ended::Failed);
                }
                Some(Err(error)) => error,
                None => return Err(DeliveryError::Stopped),
            };
            let is_too_large = matches!(error, SourceError::TooLarge { .. });
            let (FailedWork::WorkspaceBuild { state, timings }, true) =
                (&mut job.work, is_too_large)
            else {
                return Err(kept_back.unwrap_or_else(|| refused(&error)));
            };
            // Give up the timings before the state.
            if !std::mem::take(timings).is_empty() {
                continue;
            }
            let Some(state) = state.take() else {
                return Err(refused(&error));
            };
            let size = state.len();
            job.error.push_str(&format!(
                "; the state has {size} bytes, more than the server takes, and the daemon keeps it: \
                 see `outpost recover` on its host"
            ));
            kept_back = Some(refused(&error));
        }
    }

    /// Makes a call, and records whether its result is unknown.
    async fn noted<T>(
        &self,
        doubt: &AtomicBool,
        call: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let answer = call.await;
        if matches!(answer, Err(SourceError::Lost(_))) {
            doubt.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Returns whether one of our earlier calls ended the job, with everything that the failure of `work` would
    /// contain. Nobody else ends the job while it is known to be alive.
    fn was_told(&self, work: &FailedWork) -> bool {
        let is_ours = self.owned_until.is_some_and(|end| Instant::now() < end);
        let has_state = matches!(work, FailedWork::WorkspaceBuild { state: Some(_), .. });
        let (completed, failed) = (&self.may_have_completed, &self.may_have_failed);
        is_ours
            && match failed.load(Ordering::Relaxed) {
                true => !has_state,
                false => completed.load(Ordering::Relaxed),
            }
    }
}

async fn over(stop: &Stop) {
    stop.killed().await;
    sleep(LAST_WORDS).await;
}

/// Removes the least important part from a result. Returns `false` if nothing is left to remove.
fn drop_timings(job: &mut CompletedJob) -> bool {
    match &mut job.result {
        CompletedWork::WorkspaceBuild(build) => !std::mem::take(&mut build.timings).is_empty(),
        CompletedWork::TemplateImport(_) | CompletedWork::TemplateDryRun(_) => false,
    }
}

/// Returns the failure to deliver if the server refuses the result. `None` if the job is no longer ours.
fn failed_instead(job: CompletedJob, error: &SourceError) -> Option<FailedJob> {
    let text = match error {
        SourceError::Refused(text) | SourceError::Invalid(text) => {
            warn!(%text, "server refused the result of the job");
            format!("internal provisionerserver error: {text}")
        }
        SourceError::TooLarge { .. } => {
            warn!(%error, "the job's result is too large for the server");
            format!("the result of the job is too large: {error}")
        }
        SourceError::Gone(_)
        | SourceError::Ended(_)
        | SourceError::Lost(_)
        | SourceError::Unauthorized(_)
        | SourceError::Unsuitable(_) => return None,
    };
    let work = match job.result {
        CompletedWork::WorkspaceBuild(build) => FailedWork::WorkspaceBuild {
            state: Some(build.state),
            timings: build.timings,
        },
        CompletedWork::TemplateImport(_) => FailedWork::TemplateImport,
        CompletedWork::TemplateDryRun(_) => FailedWork::TemplateDryRun,
    };
    Some(FailedJob {
        id: job.id,
        error: text,
        code: None,
        work,
    })
}

fn refused(error: &SourceError) -> DeliveryError {
    DeliveryError::Refused(match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
