//! `outpost dev`: a server, a daemon and a person in one process.
//!
//! The first signal ends what is running in an orderly way and leads to the end of the workspace ([`ending`]), a
//! second Ctrl-C ends everything at once. So the daemon has a [`Stop`] of its own: it must still be able to delete
//! the workspace after the first.

mod check;
mod ending;
mod local;
pub(super) mod stack;
mod template;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use serde::Serialize;
use tokio::time::sleep;
use url::Url;

use self::{
    check::Step,
    ending::{OnExit, TerminalUser},
    local::Machine,
    stack::Stack,
};
use super::{
    engine::{CoderProvider, EngineArgs},
    exit::{Hint as _, UsageError},
    follow,
    output::{self, Output},
    remote::{EngineTrust, Pair},
    rows, ssh,
    template::{details, push, variables},
    workspace::{answers, build, create},
};
use crate::{
    client::Api,
    connect,
    job::Transition,
    net::proxy::is_loopback,
    process::isolation::network,
    proto::outpost::v1::{
        CreateBuildRequest, CreateVersionRequest, CreateWorkspaceRequest, ShowWorkspaceRequest,
        VersionDetails, Workspace,
    },
    stop::Stop,
};

/// Longest time for an agent on this machine to connect.
const AGENT_LIMIT: Duration = Duration::from_secs(60);
/// Interval at which an agent is looked for that nothing on this machine starts.
const RETRY: Duration = Duration::from_secs(5);

/// Import a template and build a workspace on this machine, all in one process
#[derive(Debug, clap::Args)]
pub(super) struct Dev {
    /// Directory with the template's `main.tf`; if missing, an example whose workspace is a local process
    #[arg(value_name = "TEMPLATE_DIR")]
    template: Option<PathBuf>,
    /// Create, stop, start and delete a workspace, verify the state after each step, and print the results
    ///
    /// Also runs a command over SSH on each agent if the workspace is on this machine.
    #[arg(long)]
    check: bool,
    /// Keep the server's data and the workspace in this directory
    ///
    /// At the end the workspace is stopped and kept for the next run. Without a directory it is deleted.
    #[arg(long, value_name = "DIR", env = "OUTPOST_DEV_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Name of the workspace
    #[arg(long, value_name = "NAME", default_value = "dev")]
    workspace: String,
    /// Value of a template parameter
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Pair>,
    /// Template preset, which sets some of the parameters
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    preset: String,
    /// Value of a Terraform variable
    #[arg(long = "variable", value_name = "NAME=VALUE")]
    variables: Vec<Pair>,
    /// Leave the workspace running at the end
    #[arg(long)]
    keep: bool,
    /// Delete the workspace at the end without asking, even if an earlier run created it
    #[arg(long, conflicts_with = "keep")]
    delete: bool,
    /// Address that the server listens on; with a data directory it keeps the port of the first run
    #[arg(long, value_name = "ADDRESS", env = "OUTPOST_DEV_LISTEN")]
    listen: Option<SocketAddr>,
    /// Show the jobs' logs
    #[arg(long, short)]
    verbose: bool,
    /// Source of the `coder` provider
    #[arg(
        long,
        value_name = "SOURCE",
        env = "OUTPOST_DEV_CODER_PROVIDER",
        default_value = "builtin"
    )]
    coder_provider: CoderProvider,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
}

/// Result of `--check`, for programs.
#[derive(Serialize)]
struct Report {
    resources: Vec<rows::Resource>,
    parameters: Vec<rows::AnsweredParameter>,
    steps: Vec<Step>,
}

/// One run: a template to import, and a workspace to build.
struct Run {
    api: Api,
    server: connect::Server,
    machine: Machine,
    show: follow::Show,
    template: String,
    workspace: String,
    imported: VersionDetails,
    /// Set if this run created the workspace.
    is_new: bool,
    /// Command that continues with the workspace.
    again: String,
}

impl Dev {
    /// Cuts this process off from every network if `--sealed` is set. The process must still have a single thread.
    pub(super) fn seal(&self) {
        if !self.engine.is_sealed() {
            return;
        }
        match network::leave() {
            Ok(()) => output::note("Sealed: this run has no network access."),
            Err(error) => output::note(&format!(
                "warning: templates can still reach the network because this kernel allows no network namespace: {error}"
            )),
        }
    }

    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let mut stack = Stack::start(
            self.data_dir.clone(),
            self.listen,
            (&self.engine, &self.trust.trust()),
            self.coder_provider,
            &stop,
        )
        .await?;
        let result = self.run(&mut stack, output, &stop).await;
        let ended = stack.end().await;
        result.and(ended)
    }

    async fn run(self, stack: &mut Stack, output: Output, stop: &Stop) -> anyhow::Result<()> {
        let user = TerminalUser::new(stop)?;
        let mut run = self.import(stack, stop).await?;
        let on_exit = self.on_exit();
        let request = CreateWorkspaceRequest {
            template: run.template.clone(),
            name: run.workspace.clone(),
            parameters: answers(self.parameters),
            preset: self.preset,
            ..CreateWorkspaceRequest::default()
        };
        let shown = if self.check {
            run.check(request, output, stop).await
        } else {
            let shown = run.show_workspace(request, output, stop).await;
            match shown {
                Ok(agents) => {
                    let way_in = (!self.engine.is_sealed()).then(|| stack.way_in(&run.workspace));
                    run.stay(&agents, way_in, stop).await
                }
                Err(error) => Err(error),
            }
        };
        let ended = run.end(on_exit, stack, &user, stop).await;
        shown.and(ended)
    }

    fn on_exit(&self) -> OnExit {
        match &self.data_dir {
            _ if self.keep => OnExit::Leave,
            _ if self.delete => OnExit::Delete,
            _ if self.check => OnExit::DeleteIfNew,
            Some(_) => OnExit::Stop,
            None => OnExit::PromptOrDelete,
        }
    }

    /// Command that continues with the workspace, without the directory that it is kept in.
    fn again(&self) -> String {
        let template = self
            .template
            .as_deref()
            .map(|path| output::shell_word(&path.display().to_string()));
        let name = (self.workspace != "dev").then(|| format!("--workspace {}", self.workspace));
        let parts = ["outpost dev".to_owned()]
            .into_iter()
            .chain(template)
            .chain(name);
        parts.collect::<Vec<_>>().join(" ")
    }

    /// Packs the template, and waits until the daemon has imported it.
    async fn import(&self, stack: &Stack, stop: &Stop) -> anyhow::Result<Run> {
        let show = match self.verbose {
            false => follow::Show::Stages,
            true => follow::Show::Log,
        };
        let template = template::Template::find(self.template.as_deref())?;
        let mut api = stack.api.clone();
        // A version of this template says nothing about a workspace of another one.
        if let Some(workspace) = known(&mut api, &self.workspace).await?
            && workspace.template != template.name
        {
            let error = UsageError(format!(
                "workspace `{}` in `{}` was created from the template `{}`, not from `{}`",
                workspace.name,
                stack.directory.display(),
                workspace.template,
                template.name
            ));
            return Err(error).hint(
                "name another workspace with `--workspace`, or another directory with `--data-dir`",
            );
        }
        let mut given = variables(self.variables.clone());
        let is_told = given.iter().any(|value| value.name == local::VARIABLE);
        let is_used = !is_told && template.declares(local::VARIABLE)?;
        let machine = Machine::new(stack.directory.join(stack::WORKSPACES), is_used);
        given.extend(is_used.then(|| machine.variable()));
        let request = CreateVersionRequest {
            template: template.name.clone(),
            archive: template.pack()?,
            variables: given,
            activate: true,
            ..CreateVersionRequest::default()
        };
        let version = push(&mut api, request, show, stop).await?;
        let imported = details(&mut api, "", &template.name, Some(version.name)).await?;
        Ok(Run {
            api,
            server: stack.external_server()?,
            machine,
            show,
            template: template.name,
            workspace: self.workspace.clone(),
            imported,
            is_new: false,
            again: self.again(),
        })
    }
}

impl Run {
    /// Creates the workspace, or starts the one that an earlier run kept.
    async fn create_or_start(
        &mut self,
        request: CreateWorkspaceRequest,
        stop: &Stop,
    ) -> anyhow::Result<Workspace> {
        let Some(mut workspace) = self.known().await? else {
            self.is_new = true;
            return create(&mut self.api, request, self.show, stop).await;
        };
        let version = self
            .imported
            .version
            .as_ref()
            .map(|version| version.name.clone());
        let request = CreateBuildRequest {
            version: version.unwrap_or_default(),
            parameters: request.parameters,
            ..self.build_request(Transition::Start)
        };
        workspace.latest_build = build(&mut self.api, request, self.show, stop).await?.build;
        Ok(workspace)
    }

    fn build_request(&self, transition: Transition) -> CreateBuildRequest {
        CreateBuildRequest {
            workspace: self.workspace.clone(),
            transition: transition.as_str().to_owned(),
            ..CreateBuildRequest::default()
        }
    }

    /// Starts the workspace and prints its resources. Returns the names of its agents.
    async fn show_workspace(
        &mut self,
        request: CreateWorkspaceRequest,
        output: Output,
        stop: &Stop,
    ) -> anyhow::Result<Vec<String>> {
        let workspace = self.create_or_start(request, stop).await?;
        let build = workspace
            .latest_build
            .as_ref()
            .context("the server's answer has no `latest_build`")?;
        let built = super::workspace::details(&mut self.api, build.id.clone()).await?;
        let report = Report {
            resources: self.with_persistence(built.resources),
            parameters: self.answered(&built.parameters),
            steps: Vec::new(),
        };
        output.item(&report, human)?;
        Ok(agents(&report.resources))
    }

    /// Waits for the agents, prints how to connect once one is ready, and stays until a signal.
    ///
    /// Agents on this machine must connect, or the run ends; others may be started by somebody else, or never.
    async fn stay(
        &self,
        agents: &[String],
        way_in: Option<String>,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        output::note("The workspace is running. Press Ctrl-C to end it.");
        for agent in agents {
            tokio::select! {
                came = self.wait_for(agent) => came?,
                () = stop.draining() => return Ok(()),
            }
        }
        match (agents, way_in) {
            ([], _) => {}
            (_, Some(command)) => {
                output::note(&format!("Connect from another terminal: {command}"))
            }
            (_, None) => output::note("A sealed run cannot be reached from outside; see --check."),
        }
        stop.draining().await;
        Ok(())
    }

    async fn wait_for(&self, agent: &str) -> anyhow::Result<()> {
        let mut is_told = false;
        while let Err(error) = self.reach(agent).await {
            if self.machine.is_used() {
                return Err(error);
            }
            if !is_told {
                output::note(&still_waiting(agent, self.server.url()));
                is_told = true;
            }
            sleep(RETRY).await; // The server may have refused at once.
        }
        output::note(&format!("The agent {agent} is connected."));
        Ok(())
    }

    async fn reach(&self, agent: &str) -> anyhow::Result<()> {
        let named = format!("{}.{agent}", self.workspace);
        let (agent, mut conn) = ssh::dial_agent(&self.server, &named, AGENT_LIMIT).await?;
        let arrived = ssh::wait_for_agent(&mut conn, &agent, AGENT_LIMIT).await;
        conn.leave().await;
        arrived
    }

    /// Resources of a build, with the persistence that the import found.
    fn with_persistence(
        &self,
        built: Vec<crate::proto::outpost::v1::Resource>,
    ) -> Vec<rows::Resource> {
        let mut resources: Vec<rows::Resource> =
            built.into_iter().map(rows::Resource::from).collect();
        for resource in resources
            .iter_mut()
            .filter(|resource| resource.persistence.is_empty())
        {
            let mut planned = self.imported.resources.iter();
            if let Some(planned) = planned.find(|planned| planned.address == resource.address) {
                resource.persistence.clone_from(&planned.persistence);
            }
        }
        resources
    }

    fn answered(
        &self,
        answers: &[crate::proto::outpost::v1::ParameterValue],
    ) -> Vec<rows::AnsweredParameter> {
        let parameters = self.imported.parameters.iter().cloned();
        parameters
            .map(|parameter| rows::AnsweredParameter::new(parameter, answers))
            .collect()
    }

    async fn known(&mut self) -> anyhow::Result<Option<Workspace>> {
        known(&mut self.api, &self.workspace).await
    }

    /// Status of the workspace, as people read it.
    async fn status(&mut self) -> anyhow::Result<Option<String>> {
        let workspace = self.known().await?;
        Ok(workspace.map(|workspace| rows::Workspace::from(workspace).status))
    }
}

/// Returns the workspace of this name, unless it is deleted.
async fn known(api: &mut Api, workspace: &str) -> anyhow::Result<Option<Workspace>> {
    let request = ShowWorkspaceRequest {
        organization: String::new(),
        workspace: workspace.to_owned(),
    };
    match api.show_workspace(request).await {
        Ok(workspace) => {
            let workspace = workspace.into_inner();
            let status = rows::Workspace::from(workspace.clone()).status;
            Ok((status != "deleted").then_some(workspace))
        }
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Note about an agent that does not connect. One in a container or on another machine cannot reach loopback.
fn still_waiting(agent: &str, server: &Url) -> String {
    let limit = AGENT_LIMIT.as_secs();
    let waiting =
        format!("The agent {agent} has not connected within {limit} s; still waiting for it.");
    if !is_loopback(server) {
        return waiting;
    }
    format!(
        "{waiting} The server listens on this machine only: for an agent in a container or elsewhere, start again with \
         `--listen ADDRESS:PORT`, an address that the agent can reach."
    )
}

/// Names of all agents.
fn agents(resources: &[rows::Resource]) -> Vec<String> {
    let agents = resources.iter().flat_map(|resource| &resource.agents);
    agents.map(|agent| agent.name.clone()).collect()
}

fn human(report: &Report) -> String {
    let mut parts = vec![output::table(&report.resources)];
    if !report.parameters.is_empty() {
        parts.push(output::table(&report.parameters));
    }
    if !report.steps.is_empty() {
        parts.push(output::table(&report.steps));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_cannot_reach_loopback_is_waited_for_with_the_remedy() {
        for (server, is_out_of_reach) in [
            ("http://127.0.0.1:7080/", true),
            ("http://[::1]:7080/", true),
            ("http://172.17.0.1:7080/", false),
        ] {
            let note = still_waiting("main", &server.parse().unwrap());
            assert!(
                note.starts_with("The agent main has not connected"),
                "{note}"
            );
            assert_eq!(
                note.contains("--listen"),
                is_out_of_reach,
                "{server}: {note}"
            );
        }
    }
}
