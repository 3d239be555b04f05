//! Following a job until its end and showing its log, even while the server is away.

mod waits;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;

use self::waits::Waits;
pub(super) use self::waits::why;
use super::{
    exit::{Hint, Interrupted},
    outage::{Outage, is_outage},
    progress::Progress,
};
use crate::{
    client::Api,
    proto::outpost::v1::{CancelJobRequest, Job, ShowJobRequest, StreamLogsRequest},
    stop::Stop,
};

/// Interval at which a waiting job is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Answer to a Ctrl-C while the server is away.
const CANCEL_LATER: &str =
    "The job will be cancelled once the server answers. A second Ctrl-C stops waiting for that.";

/// Part of a job's log that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Stages, warnings and errors; for a failed job also the other lines of its last stage.
    Stages,
    /// Lines of level INFO and above.
    Log,
    /// Lines of all levels, including DEBUG and TRACE.
    Everything,
}

impl Show {
    /// Selects the log, with all levels if `verbose`.
    pub(super) fn log(verbose: bool) -> Self {
        if verbose { Self::Everything } else { Self::Log }
    }
}

/// Error for a job that is still running, with unknown result.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub(super) struct ResultUnknown {
    job: String,
    /// Set if somebody asked to cancel the job and the server does not know.
    cancel: bool,
    source: Option<Status>,
}

impl ResultUnknown {
    fn text(&self) -> String {
        let job = &self.job;
        match (self.cancel, &self.source) {
            (true, _) => format!(
                "the server could not be told to cancel the job {job}, which is still running"
            ),
            (false, None) => format!("the job {job} goes on at the server"),
            (false, Some(_)) => {
                format!("the job {job} is still running, but the server does not answer")
            }
        }
    }

    /// Returns whether somebody here stopped waiting.
    pub(super) fn is_interruption(&self) -> bool {
        self.source.is_none()
    }

    /// Commands that show the result, and that do what was asked for.
    pub(super) fn hint(&self) -> String {
        let job = &self.job;
        match self.cancel {
            true => format!(
                "`outpost job cancel {job}` cancels it, `outpost job show {job}` shows its result"
            ),
            false => format!(
                "`outpost job logs --follow {job}` follows it again, `outpost job show {job}` shows its result"
            ),
        }
    }
}

/// Adds context to a failure, unless the job may not have failed at all.
pub(super) fn failed<T>(
    result: anyhow::Result<T>,
    what: impl FnOnce() -> String,
) -> anyhow::Result<T> {
    match result {
        Err(error) if !error.is::<ResultUnknown>() => Err(error.context(what())),
        result => result,
    }
}

/// Shows the log of `job` and waits until it ends, through restarts of the server. Once `stop` is cancelled the
/// server is asked to cancel the job, whose end is still waited for; once it is drained or killed nothing is.
///
/// # Errors
/// What the job failed with, [`Interrupted`], or [`ResultUnknown`].
pub(super) async fn job(api: &mut Api, id: &str, show: Show, stop: &Stop) -> anyhow::Result<()> {
    let mut follower = Follower {
        api,
        id,
        progress: Progress::new(show),
        last: 0,
        cancel: stop.is_cancelled().then_some(Cancel::Heard),
        waits: Waits::default(),
        outage: Outage::after_an_answer(),
    };
    loop {
        let ended = tokio::select! {
            biased;
            () = stop.killed() => return Err(follower.killed()),
            () = stop.cancelled(), if follower.cancel.is_none() => {
                follower.cancel = Some(Cancel::Asked);
                if follower.outage.is_on() {
                    follower.progress.say(CANCEL_LATER);
                }
                continue;
            }
            // SIGTERM and SIGHUP, which say nothing about the job.
            () = stop.draining(), if !stop.is_cancelled() => return Err(follower.killed()),
            ended = follower.until_end() => ended,
        };
        match ended {
            Ok(job) => {
                let asked = follower.cancel.is_some();
                if job.status == "failed" && !asked {
                    follower.progress.show_hidden();
                }
                drop(follower);
                return verdict(job, asked, show);
            }
            Err(status) if is_outage(&status) => return Err(follower.lost(Some(status)).into()),
            Err(status) => {
                return Err(anyhow::Error::new(status).context("failed to follow the job"));
            }
        }
    }
}

/// Progress of a cancellation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cancel {
    /// Requested here, but not yet at the server.
    Asked,
    /// Accepted by the server.
    Heard,
}

/// A follower of a job. It remembers everything that was shown, so that any call may break off.
struct Follower<'a> {
    api: &'a mut Api,
    id: &'a str,
    progress: Progress,
    last: i64,
    cancel: Option<Cancel>,
    waits: Waits,
    outage: Outage,
}

impl Follower<'_> {
    async fn until_end(&mut self) -> Result<Job, Status> {
        loop {
            let status = match self.attend().await {
                Ok(job) => return Ok(job),
                Err(status) => status,
            };
            let progress = &self.progress;
            self.outage.wait(status, |text| progress.say(text)).await?;
        }
    }

    /// Follows the log for as long as one connection lasts.
    async fn attend(&mut self) -> Result<Job, Status> {
        if self.cancel == Some(Cancel::Asked) {
            let id = self.id.to_owned();
            match self.api.cancel_job(CancelJobRequest { id }).await {
                Err(status) if is_outage(&status) => return Err(status),
                // A refusal means that the job has ended, or that somebody else has cancelled it.
                Ok(_) | Err(_) => self.cancel = Some(Cancel::Heard),
            }
        }
        let mut is_queued = self.look().await?.status == "queued";
        let request = StreamLogsRequest {
            job_id: self.id.to_owned(),
            after: self.last,
            follow: true,
        };
        let mut logs = self.api.stream_logs(request).await?.into_inner();
        let progress = &self.progress;
        self.outage.over(|text| progress.say(text));
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        loop {
            tokio::select! {
                batch = logs.message() => {
                    let Some(batch) = batch? else { break };
                    is_queued = false;
                    for line in batch.lines {
                        self.progress.show(&line);
                        self.last = self.last.max(line.id);
                    }
                }
                _ = looks.tick(), if is_queued => is_queued = self.look().await?.status == "queued",
            }
        }
        let job = self.look().await?;
        match job.completed_at {
            // A stopping server may end the stream in an orderly way before the job's end.
            0 => Err(Status::unavailable("the log ended before its job")),
            _ => Ok(job),
        }
    }

    /// Looks at the job, and prints why it waits if that is new.
    async fn look(&mut self) -> Result<Job, Status> {
        let id = self.id.to_owned();
        let details = self.api.show_job(ShowJobRequest { id }).await?.into_inner();
        if let Some(text) = self.waits.news(&details) {
            self.progress.say(&text);
        }
        let job = details.job;
        job.ok_or_else(|| Status::internal("the server's answer has no `job`"))
    }

    fn lost(&self, source: Option<Status>) -> ResultUnknown {
        ResultUnknown {
            job: self.id.to_owned(),
            cancel: self.cancel == Some(Cancel::Asked),
            source,
        }
    }

    fn killed(&self) -> anyhow::Error {
        match self.cancel {
            Some(Cancel::Heard) => Interrupted.into(),
            Some(Cancel::Asked) | None => anyhow::Error::new(self.lost(None)),
        }
    }
}

fn verdict(job: Job, asked: bool, show: Show) -> anyhow::Result<()> {
    match job.status.as_str() {
        "succeeded" if !asked => Ok(()),
        "succeeded" | "cancelled" if asked => Err(Interrupted.into()),
        "cancelled" => anyhow::bail!("the job was cancelled"),
        _ if asked => Err(anyhow::Error::new(Interrupted).context(job.error)),
        _ => Err(anyhow::Error::msg(job.error.clone())).hint(hint(&job, show)),
    }
}

fn hint(job: &Job, show: Show) -> String {
    match job.error_code.as_str() {
        "MISSING_TEMPLATE_PARAMETER" => "answer it with `--parameter name=value`".to_owned(),
        "REQUIRED_TEMPLATE_VARIABLES" => "set them with `--variable name=value`".to_owned(),
        "INSUFFICIENT_QUOTA" => {
            "stop or delete another workspace, or ask for a larger budget".to_owned()
        }
        // The server of `outpost dev` ends with it, and the job's log with both.
        _ if show == Show::Stages => "`--verbose` shows the whole log".to_owned(),
        _ => format!("the whole log: outpost job logs {}", job.id),
    }
}
