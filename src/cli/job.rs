//! `outpost job`: jobs, their logs and their cancellation.

use anyhow::Context;
use serde::Serialize;
use tonic::Status;

use super::{
    complete,
    exit::Interrupted,
    follow,
    outage::{self, Outage},
    output::{self, Format, Output},
    remote::Remote,
    rows,
    watch::Watch,
};
use crate::{
    client::Api,
    proto::outpost::v1::{
        CancelJobRequest, JobDetails, ListJobsRequest, LogLine, ShowJobRequest, StreamLogsRequest,
    },
    stop::Stop,
};

/// Jobs: imports, dry runs and builds
#[derive(Debug, clap::Subcommand)]
pub(super) enum Job {
    /// List jobs, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only jobs with this status: queued, running, cancelling, succeeded, failed or cancelled
        #[arg(long = "status", value_name = "STATUS")]
        statuses: Vec<String>,
        /// Show at most this many jobs
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: i32,
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a job and, if it is queued, why each daemon does not take it
    Show {
        /// The job's ID or the beginning of it
        #[arg(add = complete::jobs())]
        id: String,
        /// Wait until the job has ended and print its log on stderr; fail if it fails
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print the log of a job
    Logs {
        /// The job's ID or the beginning of it
        #[arg(add = complete::jobs())]
        id: String,
        /// Keep printing new lines until the job ends
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Cancel a job that has not ended
    Cancel {
        /// The job's ID or the beginning of it
        #[arg(add = complete::jobs())]
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
    #[serde(skip)]
    why: Option<String>,
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
                watch,
                remote,
            } => {
                let request = ListJobsRequest {
                    organization: remote.organization.clone(),
                    statuses,
                    limit,
                };
                let mut api = remote.connect()?;
                let list = async || {
                    let listed = api.list_jobs(request.clone()).await?.into_inner();
                    let rows = listed.jobs.into_iter().map(rows::Job::from);
                    Ok::<Vec<_>, Status>(rows.collect())
                };
                watch.print(list, output, &stop).await
            }
            Self::Show { id, wait, remote } => show(id, wait, &remote, output, &stop).await,
            Self::Logs { id, follow, remote } => {
                let request = StreamLogsRequest {
                    job_id: id,
                    after: 0,
                    follow,
                };
                tokio::select! {
                    printed = logs(&remote, request, output) => printed,
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

async fn show(
    id: String,
    wait: bool,
    remote: &Remote,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<()> {
    let mut api = remote.connect()?;
    let request = ShowJobRequest { id };
    let mut details = api.show_job(request).await?.into_inner();
    let mut ended = Ok(());
    if let (true, Some(job)) = (wait, &details.job) {
        let request = ShowJobRequest { id: job.id.clone() };
        // A Ctrl-C ends the wait, not the job.
        let (show, nobody) = (follow::Show::Log, Stop::new());
        ended = tokio::select! {
            ended = follow::job(&mut api, &job.id, show, &nobody) => ended,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        details = api.show_job(request).await?.into_inner();
    }
    print(details, output)?;
    ended
}

fn print(details: JobDetails, output: Output) -> anyhow::Result<()> {
    let why = follow::why(&details);
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
        why,
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
        ("Tags", rows::tags(&job.tags)),
        ("Daemon", job.worker.clone()),
        ("Created", rows::ago(job.created_at)),
        ("Ended", rows::ago(job.completed_at)),
        ("Error", job.error.clone()),
    ]);
    if let Some(why) = &shown.why {
        text.push_str(&format!("\n{why}"));
    }
    text
}

async fn logs(
    remote: &Remote,
    mut request: StreamLogsRequest,
    output: Output,
) -> anyhow::Result<()> {
    let mut api = remote.connect()?;
    let mut stage = String::new();
    if !request.follow {
        let mut outage = Outage::default();
        read(&mut api, &mut request, &mut stage, &mut outage, output).await?;
        return Ok(());
    }
    outage::through(Outage::default(), async |outage| {
        read(&mut api, &mut request, &mut stage, outage, output).await
    })
    .await
}

/// Prints lines until the stream ends; the request then asks for those behind them.
async fn read(
    api: &mut Api,
    request: &mut StreamLogsRequest,
    stage: &mut String,
    outage: &mut Outage,
    output: Output,
) -> Result<(), Status> {
    let mut batches = api.stream_logs(request.clone()).await?.into_inner();
    outage.over(output::note);
    while let Some(batch) = batches.message().await? {
        for line in &batch.lines {
            let printed = match output.format {
                Format::Json => {
                    output::line_to_reader(&serde_json::to_string(&json(line)).unwrap_or_default())
                }
                Format::Table => human_line(line, stage),
            };
            if !output::is_read(printed).map_err(|error| Status::aborted(error.to_string()))? {
                return Ok(());
            }
            request.after = line.id;
        }
    }
    Ok(())
}

/// Formats a line as one JSON object, because the end of the list is not known yet.
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
        output::line_to_reader(&format!("==> {stage}"))?;
    }
    for text in line.output.lines() {
        output::line_to_reader(&format!("    {text}"))?;
    }
    Ok(())
}
