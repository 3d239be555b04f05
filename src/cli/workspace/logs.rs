//! `outpost workspace logs`: the logs of a workspace's agents.

use serde::Serialize;
use tonic::Status;

use super::super::{
    complete,
    exit::Interrupted,
    outage::{self, Outage},
    output::{self, Format, Output},
    remote::Remote,
    ssh,
};
use crate::{
    client::Api,
    proto::outpost::v1::{AgentLogLine, StreamAgentLogsRequest},
    stop::Stop,
};

/// Agent and lines to print.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Logs {
    /// The workspace, as NAME or OWNER/NAME; append .AGENT if it has several agents
    #[arg(value_name = "WORKSPACE", add = complete::workspaces())]
    workspace: String,
    /// Keep printing new lines
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
        let mut request = StreamAgentLogsRequest {
            organization: self.remote.organization.clone(),
            workspace: workspace.to_owned(),
            agent: agent.to_owned(),
            after: 0,
            follow: self.follow,
        };
        let mut api = self.remote.connect()?;
        if !self.follow {
            print(&mut api, &mut request, &mut Outage::default(), output).await?;
            return Ok(());
        }
        outage::through(Outage::default(), async |outage| {
            print(&mut api, &mut request, outage, output).await
        })
        .await
    }
}

/// Prints lines until the stream ends; the request then asks for those behind them.
async fn print(
    api: &mut Api,
    request: &mut StreamAgentLogsRequest,
    outage: &mut Outage,
    output: Output,
) -> Result<(), Status> {
    let batches = api.stream_agent_logs(request.clone()).await?;
    outage.over(output::note);
    let mut batches = batches.into_inner();
    while let Some(batch) = batches.message().await? {
        for line in &batch.lines {
            let text = match output.format {
                Format::Json => serde_json::to_string(&json(line)).unwrap_or_default(),
                Format::Table => human(line),
            };
            let printed = output::is_read(output::line_to_reader(&text));
            if !printed.map_err(|error| Status::aborted(error.to_string()))? {
                return Ok(());
            }
            request.after = line.id;
        }
    }
    Ok(())
}

/// Formats a line as one JSON object, because the end of the list is not known yet.
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
