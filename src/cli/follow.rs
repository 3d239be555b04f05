//! Waiting for a job's end while its log is shown.

use anyhow::Context;

use super::{
    exit::{Hint, Interrupted},
    progress::Progress,
};
use crate::{
    client::Api,
    proto::outpost::v1::{CancelJobRequest, Job, ShowJobRequest, StreamLogsRequest},
    stop::Stop,
};

/// How much of a job's log is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Stages, warnings and errors; of a job that fails also the other lines of its last stage.
    Stages,
    /// Lines from INFO on.
    Log,
    /// DEBUG and TRACE, too.
    Everything,
}

impl Show {
    /// The log, with all levels if `verbose`.
    pub(super) fn log(verbose: bool) -> Self {
        if verbose { Self::Everything } else { Self::Log }
    }
}

/// Shows the log of `job` and waits until it ended. Once `stop` is cancelled the server is asked to cancel the job,
/// whose end is still waited for; once it is killed nothing is.
///
/// # Errors
/// What the job failed with, [`Interrupted`], or a lost connection.
pub(super) async fn job(api: &mut Api, id: &str, show: Show, stop: &Stop) -> anyhow::Result<()> {
    let mut progress = Progress::new(show);
    let mut asked = stop.is_cancelled();
    let mut logs = stream(api, id, 0).await?;
    let mut last = 0;
    loop {
        let batch = tokio::select! {
            () = stop.killed() => return Err(Interrupted.into()),
            () = stop.cancelled(), if !asked => {
                asked = true;
                let request = CancelJobRequest { id: id.to_owned() };
                // It may have ended just now; its status tells.
                let _ = api.cancel_job(request).await;
                continue;
            }
            batch = logs.message() => batch,
        };
        match batch.context("lost the connection to the server")? {
            Some(batch) => {
                for line in batch.lines {
                    progress.show(&line);
                    last = last.max(line.id);
                }
            }
            None => {
                let job = state(api, id).await?;
                if job.completed_at != 0 {
                    if job.status == "failed" && !asked {
                        progress.show_hidden();
                    }
                    drop(progress);
                    return verdict(job, asked);
                }
                // A server that restarts ends the stream early.
                logs = stream(api, id, last).await?;
            }
        }
    }
}

async fn stream(
    api: &mut Api,
    id: &str,
    after: i64,
) -> anyhow::Result<tonic::Streaming<crate::proto::outpost::v1::LogBatch>> {
    let request = StreamLogsRequest {
        job_id: id.to_owned(),
        after,
        follow: true,
    };
    Ok(api
        .stream_logs(request)
        .await
        .context("failed to follow the log")?
        .into_inner())
}

async fn state(api: &mut Api, id: &str) -> anyhow::Result<Job> {
    let request = ShowJobRequest { id: id.to_owned() };
    let details = api
        .show_job(request)
        .await
        .context("failed to look at the job")?
        .into_inner();
    details.job.context("the server's answer has no `job`")
}

fn verdict(job: Job, asked: bool) -> anyhow::Result<()> {
    match job.status.as_str() {
        "succeeded" if !asked => Ok(()),
        "succeeded" | "cancelled" if asked => Err(Interrupted.into()),
        "cancelled" => anyhow::bail!("somebody cancelled the job"),
        _ if asked => Err(anyhow::Error::new(Interrupted).context(job.error)),
        _ => Err(anyhow::Error::msg(job.error.clone())).hint(hint(&job)),
    }
}

fn hint(job: &Job) -> String {
    match job.error_code.as_str() {
        "MISSING_TEMPLATE_PARAMETER" => "answer it with `--parameter name=value`".to_owned(),
        "REQUIRED_TEMPLATE_VARIABLES" => "set them with `--variable name=value`".to_owned(),
        "INSUFFICIENT_QUOTA" => {
            "stop or delete another workspace, or ask for a larger budget".to_owned()
        }
        _ => format!("the whole log: outpost job logs {}", job.id),
    }
}
