//! `outpost job`.

use anyhow::Context;
use serde::Serialize;

use super::{
    exit::Interrupted,
    output::{self, Format, Output},
    remote::Remote,
    rows,
};
use crate::{
    proto::outpost::v1::{
        CancelJobRequest, JobDetails, ListJobsRequest, LogLine, ShowJobRequest, StreamLogsRequest,
    },
    stop::Stop,
};

/// Jobs: imports, dry runs and builds
#[derive(Debug, clap::Subcommand)]
pub(super) enum Job {
    /// List jobs, newest first
    List {
        /// Only jobs with this status: queued, running, cancelling, succeeded, failed or cancelled
        #[arg(long = "status", value_name = "STATUS")]
        statuses: Vec<String>,
        /// How many at most
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: i32,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a job; of one that waits, which daemons exist and why each does not take it
    Show {
        /// The job's id
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print the log of a job
    Logs {
        /// The job's id
        id: String,
        /// Go on until the job ends
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Ask a job to end early
    Cancel {
        /// The job's id
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Serialize)]
struct Shown {
    job: rows::Job,
    queue_position: i32,
    queue_length: i32,
    daemons: Vec<rows::Verdict>,
}

#[derive(Serialize)]
struct Line<'a> {
    id: i64,
    created_at: Option<jiff::Timestamp>,
    source: &'a str,
    level: &'static str,
    stage: &'a str,
    output: &'a str,
}

impl Job {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::List {
                statuses,
                limit,
                remote,
            } => {
                let organization = remote.organization.clone();
                let request = ListJobsRequest {
                    organization,
                    statuses,
                    limit,
                };
                let listed = remote.connect()?.list_jobs(request).await?.into_inner();
                output.list(
                    &listed
                        .jobs
                        .into_iter()
                        .map(rows::Job::from)
                        .collect::<Vec<_>>(),
                )?;
                Ok(())
            }
            Self::Show { id, remote } => show(
                remote
                    .connect()?
                    .show_job(ShowJobRequest { id })
                    .await?
                    .into_inner(),
                output,
            ),
            Self::Logs { id, follow, remote } => {
                let printed = logs(
                    &remote,
                    StreamLogsRequest {
                        job_id: id,
                        after: 0,
                        follow,
                    },
                    output,
                );
                tokio::select! {
                    printed = printed => printed,
                    () = stop.draining() => Err(Interrupted.into()),
                }
            }
            Self::Cancel { id, remote } => {
                let job = remote
                    .connect()?
                    .cancel_job(CancelJobRequest { id })
                    .await?
                    .into_inner();
                output.list(&[rows::Job::from(job)])?;
                Ok(())
            }
        }
    }
}

fn show(details: JobDetails, output: Output) -> anyhow::Result<()> {
    let shown = Shown {
        job: details
            .job
            .context("the server's answer has no `job`")?
            .into(),
        queue_position: details.queue_position,
        queue_length: details.queue_length,
        daemons: details
            .daemons
            .into_iter()
            .map(rows::Verdict::from)
            .collect(),
    };
    output.item(&shown, human)?;
    Ok(())
}

fn human(shown: &Shown) -> String {
    let job = &shown.job;
    let mut text = output::facts(&[
        ("Job", job.id.clone()),
        ("Kind", job.kind.clone()),
        ("Subject", job.subject.clone()),
        ("Status", job.status.clone()),
        ("Tags", rows::pairs(&job.tags)),
        ("Daemon", job.worker.clone()),
        ("Error", job.error.clone()),
    ]);
    if shown.queue_position > 0 {
        let (position, length) = (shown.queue_position, shown.queue_length);
        text.push_str(&format!("\nIt waits at place {position} of {length}. "));
        text.push_str(&match shown.daemons.as_slice() {
            [] => "There is no daemon: start one with `outpost provisioner start`.".to_owned(),
            daemons => format!("What each daemon says to it:\n{}", output::table(daemons)),
        });
    }
    text
}

async fn logs(remote: &Remote, request: StreamLogsRequest, output: Output) -> anyhow::Result<()> {
    let mut stage = String::new();
    let mut batches = remote.connect()?.stream_logs(request).await?.into_inner();
    while let Some(batch) = batches.message().await? {
        for line in &batch.lines {
            match output.format {
                Format::Json => output::line(&serde_json::to_string(&json(line))?)?,
                Format::Table => human_line(line, &mut stage)?,
            }
        }
    }
    Ok(())
}

/// One JSON object a line, as the end is not known yet.
fn json(line: &LogLine) -> Line<'_> {
    Line {
        id: line.id,
        created_at: jiff::Timestamp::from_millisecond(line.created_at).ok(),
        source: &line.source,
        level: line.level().as_str_name(),
        stage: &line.stage,
        output: &line.output,
    }
}

fn human_line(line: &LogLine, stage: &mut String) -> std::io::Result<()> {
    if *stage != line.stage {
        stage.clone_from(&line.stage);
        output::line(&format!("==> {stage}"))?;
    }
    for text in line.output.lines() {
        output::line(&format!("    {text}"))?;
    }
    Ok(())
}
