//! `outpost dev`: a server, a daemon and a person in one process.
//!
//! The first Ctrl-C ends what runs in an orderly way and leads to the end of the workspace, the second one ends
//! everything at once. So the daemon has a [`Stop`] of its own: it must still delete after the first.

mod check;
mod local;
mod stack;
mod template;

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use anyhow::Context;
use serde::Serialize;

use self::{check::Step, local::Machine, stack::Stack};
use super::{
    engine::{CoderProvider, EngineArgs},
    exit::{Hint, Interrupted},
    follow,
    output::{self, Output},
    remote::Pair,
    rows, ssh,
    template::{details, push, variables},
    workspace::{answers, build, create},
};
use crate::{
    client::Api,
    connect,
    job::Transition,
    process::isolation::network,
    proto::outpost::v1::{
        CreateBuildRequest, CreateVersionRequest, CreateWorkspaceRequest, ShowWorkspaceRequest,
        VersionDetails, Workspace,
    },
    stop::Stop,
};

/// Time for an agent on this machine to come up.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// Import a template and build a workspace on this machine, all in one process
#[derive(Debug, clap::Args)]
pub(super) struct Dev {
    /// The directory that has the template's `main.tf`; without one, an example whose workspace is a local process
    #[arg(value_name = "TEMPLATE_DIR")]
    template: Option<PathBuf>,
    /// Create, stop, start and delete, verify the state after each, and print what was found
    ///
    /// Runs a command over SSH at each agent of a workspace that is kept on this machine, too.
    #[arg(long)]
    check: bool,
    /// Keep the server's data, and workspaces that are not deleted, in this directory
    #[arg(long, value_name = "DIR", env = "OUTPOST_DEV_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The workspace's name
    #[arg(long, value_name = "NAME", default_value = "dev")]
    workspace: String,
    /// Answer to a parameter of the template
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Pair>,
    /// A preset of the template, which answers some of its parameters
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
    /// Leave the workspace as it is at the end
    #[arg(long)]
    keep: bool,
    /// Show DEBUG lines of the jobs, too
    #[arg(long)]
    verbose: bool,
    /// Where the `coder` provider comes from
    #[arg(
        long,
        value_name = "SOURCE",
        env = "OUTPOST_DEV_CODER_PROVIDER",
        default_value = "builtin"
    )]
    coder_provider: CoderProvider,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What `--check` found.
#[derive(Serialize)]
struct Report {
    resources: Vec<rows::Resource>,
    parameters: Vec<rows::Parameter>,
    steps: Vec<Step>,
}

/// One run: a template that is imported, and a workspace that is to be.
struct Run {
    api: Api,
    server: connect::Server,
    machine: Machine,
    show: follow::Show,
    template: String,
    workspace: String,
    imported: VersionDetails,
}

impl Dev {
    /// Cuts this process off from every network if nothing may be asked of the outside. It must have one thread yet.
    pub(super) fn seal(&self) {
        if !self.engine.is_sealed() {
            return;
        }
        match network::leave() {
            Ok(()) => output::note("Sealed: nothing of this run has a network."),
            Err(error) => output::note(&format!(
                "warning: a template can still reach the network, as this kernel gives no namespace: {error}"
            )),
        }
    }

    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let mut stack = Stack::start(
            self.data_dir.clone(),
            &self.engine,
            self.coder_provider,
            &stop,
        )
        .await?;
        let result = self.run(&mut stack, output, &stop).await;
        let ended = stack.end().await;
        result.and(ended)
    }

    async fn run(self, stack: &mut Stack, output: Output, stop: &Stop) -> anyhow::Result<()> {
        let mut run = self.import(stack, stop).await?;
        let request = CreateWorkspaceRequest {
            template: run.template.clone(),
            name: run.workspace.clone(),
            parameters: answers(self.parameters),
            preset: self.preset,
            ..CreateWorkspaceRequest::default()
        };
        if self.check {
            let checked = run.check(request, output, stop).await;
            let ended = if checked.is_err() {
                run.end(self.keep, stack, stop).await
            } else {
                Ok(())
            };
            return checked.and(ended);
        }
        let shown = run.show_workspace(request, output, stop).await;
        let shown = match shown {
            Ok(agents) => {
                let way_in = (!self.engine.is_sealed()).then(|| stack.way_in(&run.workspace));
                run.stay(&agents, way_in, stop).await
            }
            Err(error) => Err(error),
        };
        let ended = run.end(self.keep, stack, stop).await;
        shown.and(ended)
    }

    /// Packs the template, and waits until the daemon has imported it.
    async fn import(&self, stack: &Stack, stop: &Stop) -> anyhow::Result<Run> {
        let show = follow::Show {
            verbose: self.verbose,
        };
        let template = template::Template::find(self.template.as_deref())?;
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
        let mut api = stack.api.clone();
        let version = push(&mut api, request, show, stop).await?;
        let imported = details(&mut api, "", &template.name, Some(version.name)).await?;
        Ok(Run {
            api,
            server: stack.as_seen_from_outside()?,
            machine,
            show,
            template: template.name,
            workspace: self.workspace.clone(),
            imported,
        })
    }
}

impl Run {
    /// Makes the workspace, or starts the one that an earlier run kept.
    async fn create_or_start(
        &mut self,
        request: CreateWorkspaceRequest,
        stop: &Stop,
    ) -> anyhow::Result<Workspace> {
        let known = ShowWorkspaceRequest {
            organization: String::new(),
            workspace: self.workspace.clone(),
        };
        let Ok(known) = self.api.show_workspace(known).await else {
            return create(&mut self.api, request, self.show, stop).await;
        };
        let mut workspace = known.into_inner();
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

    /// Starts the workspace and prints what it is made of. Returns the names of its agents.
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

    /// Waits for the agents that run on this machine, says how to get in, and stays until a Ctrl-C.
    async fn stay(
        &self,
        agents: &[String],
        way_in: Option<String>,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        if self.machine.is_used() {
            for agent in agents {
                let came = async {
                    let named = format!("{}.{agent}", self.workspace);
                    let (agent, mut way) = ssh::set_out(&self.server, &named).await?;
                    let arrived = ssh::arrive(&mut way, &agent, AGENT_LIMIT).await;
                    way.leave().await;
                    arrived
                };
                tokio::select! {
                    came = came => came?,
                    () = stop.draining() => return Ok(()),
                }
                output::note(&format!("The agent {agent} is connected."));
            }
        }
        output::note("The workspace runs. Press Ctrl-C to end it.");
        match (agents, way_in) {
            ([], _) => {}
            (_, Some(command)) => output::note(&format!("Try in another terminal: {command}")),
            (_, None) => output::note("Nothing outside of a sealed run can get in; see --check."),
        }
        stop.draining().await;
        Ok(())
    }

    /// The resources of a build; whether they outlive a stop is known since the import.
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
    ) -> Vec<rows::Parameter> {
        let parameters = self
            .imported
            .parameters
            .iter()
            .cloned()
            .map(rows::Parameter::from);
        parameters
            .map(|mut parameter| {
                let answer = answers.iter().find(|answer| answer.name == parameter.name);
                parameter.value =
                    answer.map_or_else(|| parameter.default.clone(), |answer| answer.value.clone());
                parameter
            })
            .collect()
    }

    /// Stops the workspace if it runs, and deletes it unless the person wants to keep it. The Ctrl-C that led here
    /// asked for just this, so only another one cuts it short.
    async fn end(&mut self, keep: bool, stack: &mut Stack, stop: &Stop) -> anyhow::Result<()> {
        let Some(status) = self.status().await? else {
            return Ok(()); // It was never made, or is deleted.
        };
        if keep {
            stack.keep();
            return Ok(());
        }
        let ended = self.stop_and_delete(&status, stop).await;
        if !matches!(ended, Ok(End::Deleted)) {
            stack.keep(); // Only what the server knows can still find what is left.
        }
        ended.map(|_| ())
    }

    async fn stop_and_delete(&mut self, status: &str, stop: &Stop) -> anyhow::Result<End> {
        let cleanup = stop.cleanup();
        if status == "running" {
            let request = self.build_request(Transition::Stop);
            build(&mut self.api, request, self.show, &cleanup).await?;
            if !wants_to_delete(&self.workspace, stop).await? {
                return Ok(End::Kept);
            }
        }
        let request = self.build_request(Transition::Destroy);
        build(&mut self.api, request, self.show, &cleanup)
            .await
            .hint("what the template made may still be there: look at the log above")?;
        output::note(&format!("Deleted the workspace {}.", self.workspace));
        Ok(End::Deleted)
    }

    /// What the workspace is in; `None` if it does not exist, or not any more.
    async fn status(&mut self) -> anyhow::Result<Option<String>> {
        let request = ShowWorkspaceRequest {
            organization: String::new(),
            workspace: self.workspace.clone(),
        };
        match self.api.show_workspace(request).await {
            Ok(workspace) => {
                let status = rows::Workspace::from(workspace.into_inner()).status;
                Ok((status != "deleted").then_some(status))
            }
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }
}

/// What became of the workspace.
enum End {
    Deleted,
    Kept,
}

/// Asks, if somebody is there to answer. Another Ctrl-C means no.
async fn wants_to_delete(workspace: &str, stop: &Stop) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    output::note(&format!("Delete the workspace {workspace}, too? [Y/n]"));
    // A thread of its own: nothing can interrupt a read of a terminal, and the process must be able to end.
    let (sender, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).map(|_| line);
        let _ = sender.send(read);
    });
    tokio::select! {
        () = stop.killed() => Err(Interrupted.into()),
        answer = answer => Ok(!answer??.trim().to_ascii_lowercase().starts_with('n')),
    }
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
