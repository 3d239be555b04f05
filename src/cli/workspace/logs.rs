//! `outpost workspace logs`.

use anyhow::Context as _;
use serde::Serialize;

use super::super::{
    exit::Interrupted,
    output::{self, Format, Output},
    remote::Remote,
    ssh,
};
use crate::{
    proto::outpost::v1::{AgentLogLine, StreamAgentLogsRequest},
    stop::Stop,
};

/// What it takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Logs {
    /// The workspace, as NAME or OWNER/NAME, with .AGENT if it has several
    #[arg(value_name = "WORKSPACE")]
    workspace: String,
    /// Go on with what the agent will say
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Serialize)]
struct Line<'a> {
    id: i64,
    created_at: Option<jiff::Timestamp>,
    agent: &'a str,
    source: &'a str,
    level: &'static str,
    output: &'a str,
}

impl Logs {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        tokio::select! {
            printed = self.print(output) => printed,
            () = stop.draining() => Err(Interrupted.into()),
        }
    }

    async fn print(self, output: Output) -> anyhow::Result<()> {
        let (workspace, agent) = ssh::parts(&self.workspace);
        let request = StreamAgentLogsRequest {
            organization: self.remote.organization.clone(),
            workspace: workspace.to_owned(),
            agent: agent.to_owned(),
            after: 0,
            follow: self.follow,
        };
        let batches = self.remote.connect()?.stream_agent_logs(request).await?;
        let mut batches = batches.into_inner();
        while let Some(batch) = batches.message().await.context("failed to read the log")? {
            for line in &batch.lines {
                match output.format {
                    Format::Json => output::line(&serde_json::to_string(&json(line))?)?,
                    Format::Table => output::line(&human(line))?,
                }
            }
        }
        Ok(())
    }
}

/// One JSON object a line, as the end is not known yet.
fn json(line: &AgentLogLine) -> Line<'_> {
    Line {
        id: line.id,
        created_at: jiff::Timestamp::from_millisecond(line.created_at).ok(),
        agent: &line.agent,
        source: &line.source,
        level: line.level().as_str_name(),
        output: &line.output,
    }
}

fn human(line: &AgentLogLine) -> String {
    match line.source.as_str() {
        "" => line.output.clone(),
        source => format!("{source}: {}", line.output),
    }
}
