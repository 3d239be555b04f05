//! `outpost workspace`.

mod logs;

use anyhow::Context;
use serde::Serialize;

use super::{
    follow,
    output::{self, Output},
    remote::{Pair, Remote},
    rows,
};
use crate::{
    client::Api,
    job::Transition,
    proto::outpost::v1::{
        Build, BuildDetails, CreateBuildRequest, CreateWorkspaceRequest, ListWorkspacesRequest,
        ParameterValue, ShowBuildRequest, ShowWorkspaceRequest, Workspace as Remembered,
    },
    stop::Stop,
};

/// Workspaces
#[derive(Debug, clap::Subcommand)]
pub(super) enum Workspace {
    /// Make a workspace and start it
    Create {
        /// The workspace's name
        name: String,
        /// The template's name
        #[arg(long, short, value_name = "NAME")]
        template: String,
        /// A version other than the active one
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        version: String,
        /// A preset of the template, which answers some of its parameters
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        preset: String,
        /// Whose workspace it is, if not yours
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        owner: String,
        #[command(flatten)]
        run: Run,
    },
    /// Start a workspace that is stopped, or build it anew
    Start {
        #[command(flatten)]
        build: BuildArgs,
    },
    /// Stop a workspace: its ephemeral resources go, its persistent ones stay
    Stop {
        #[command(flatten)]
        build: BuildArgs,
    },
    /// Delete a workspace with everything that belongs to it
    Delete {
        #[command(flatten)]
        build: BuildArgs,
    },
    /// List workspaces
    List {
        /// Whose workspaces; all that you may see if missing
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        owner: String,
        /// List deleted ones, too
        #[arg(long)]
        deleted: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print what a workspace's agent says while it starts and stops
    Logs(logs::Logs),
    /// Show a workspace, its resources and its agents
    Show {
        /// The workspace: `name` or `owner/name`
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

/// What every build takes.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Answer to a parameter of the template
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Pair>,
    /// Show DEBUG lines, too
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    remote: Remote,
}

/// A build of a workspace that exists.
#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
    /// The workspace: `name` or `owner/name`
    name: String,
    /// The template version to build with, if not that of the build before
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    version: String,
    #[command(flatten)]
    run: Run,
}

#[derive(Serialize)]
struct Shown {
    workspace: rows::Workspace,
    resources: Vec<rows::Resource>,
    parameters: std::collections::BTreeMap<String, String>,
}

impl Workspace {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Create {
                name,
                template,
                version,
                preset,
                owner,
                run,
            } => {
                let request = CreateWorkspaceRequest {
                    organization: run.remote.organization.clone(),
                    template,
                    version,
                    name,
                    owner,
                    parameters: answers(run.parameters),
                    preset,
                    log_level: String::new(),
                };
                let mut api = run.remote.connect()?;
                let workspace =
                    create(&mut api, request, follow::Show::log(run.verbose), &stop).await?;
                show(&mut api, workspace, output).await
            }
            Self::Start { build } => build.exec(Transition::Start, output, stop).await,
            Self::Stop { build } => build.exec(Transition::Stop, output, stop).await,
            Self::Delete { build } => build.exec(Transition::Destroy, output, stop).await,
            Self::List {
                owner,
                deleted,
                remote,
            } => {
                let request = ListWorkspacesRequest {
                    organization: remote.organization.clone(),
                    owner,
                    include_deleted: deleted,
                };
                let listed = remote
                    .connect()?
                    .list_workspaces(request)
                    .await?
                    .into_inner();
                let rows = listed.workspaces.into_iter().map(rows::Workspace::from);
                output.list(&rows.collect::<Vec<_>>())?;
                Ok(())
            }
            Self::Logs(logs) => logs.exec(output, stop).await,
            Self::Show { name, remote } => {
                let mut api = remote.connect()?;
                let request = ShowWorkspaceRequest {
                    organization: remote.organization.clone(),
                    workspace: name,
                };
                let workspace = api.show_workspace(request).await?.into_inner();
                show(&mut api, workspace, output).await
            }
        }
    }
}

impl BuildArgs {
    async fn exec(self, transition: Transition, output: Output, stop: Stop) -> anyhow::Result<()> {
        let organization = self.run.remote.organization.clone();
        let request = CreateBuildRequest {
            organization: organization.clone(),
            workspace: self.name.clone(),
            transition: transition.as_str().to_owned(),
            version: self.version,
            parameters: answers(self.run.parameters),
            log_level: String::new(),
        };
        let mut api = self.run.remote.connect()?;
        let show_log = follow::Show::log(self.run.verbose);
        let before = ShowWorkspaceRequest {
            organization,
            workspace: self.name,
        };
        let mut workspace = api.show_workspace(before).await?.into_inner();
        let built = build(&mut api, request, show_log, &stop).await?;
        workspace.latest_build = built.build;
        show(&mut api, workspace, output).await
    }
}

/// Answers as the server takes them.
pub(super) fn answers(pairs: Vec<Pair>) -> Vec<ParameterValue> {
    let value = |pair: Pair| ParameterValue {
        name: pair.name,
        value: pair.value,
    };
    pairs.into_iter().map(value).collect()
}

/// Makes a workspace and waits for its first build.
pub(super) async fn create(
    api: &mut Api,
    request: CreateWorkspaceRequest,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<Remembered> {
    let mut workspace = api.create_workspace(request).await?.into_inner();
    let build = workspace
        .latest_build
        .take()
        .context("the server's answer has no `latest_build`")?;
    let name = format!("{}/{}", workspace.owner, workspace.name);
    workspace.latest_build = finished(api, build, show, stop)
        .await
        .with_context(|| format!("failed to create the workspace {name}"))?
        .build;
    Ok(workspace)
}

/// Builds a workspace that exists, and waits for the end.
pub(super) async fn build(
    api: &mut Api,
    request: CreateBuildRequest,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<BuildDetails> {
    let what = format!(
        "failed to {} the workspace {}",
        verb(&request.transition),
        request.workspace
    );
    let build = api.create_build(request).await?.into_inner();
    finished(api, build, show, stop).await.context(what)
}

fn verb(transition: &str) -> &str {
    if transition == "destroy" {
        "delete"
    } else {
        transition
    }
}

async fn finished(
    api: &mut Api,
    build: Build,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<BuildDetails> {
    let job = build.job.context("the server's answer has no `job`")?;
    follow::job(api, &job.id, show, stop).await?;
    details(api, build.id).await
}

/// What a build made.
pub(super) async fn details(api: &mut Api, build: String) -> anyhow::Result<BuildDetails> {
    Ok(api
        .show_build(ShowBuildRequest { build })
        .await?
        .into_inner())
}

async fn show(api: &mut Api, workspace: Remembered, output: Output) -> anyhow::Result<()> {
    let build = workspace
        .latest_build
        .as_ref()
        .map(|build| build.id.clone());
    let details = match build {
        Some(build) => details(api, build).await?,
        None => BuildDetails::default(),
    };
    let shown = Shown {
        workspace: workspace.into(),
        resources: details
            .resources
            .into_iter()
            .map(rows::Resource::from)
            .collect(),
        parameters: details
            .parameters
            .into_iter()
            .map(|answer| (answer.name, answer.value))
            .collect(),
    };
    output.item(&shown, |shown| {
        let mut parts = vec![output::table(std::slice::from_ref(&shown.workspace))];
        if !shown.resources.is_empty() {
            parts.push(output::table(&shown.resources));
        }
        let agents = shown.resources.iter().flat_map(|it| &it.agents);
        let running: Vec<rows::Running> = agents.filter_map(|it| it.running.clone()).collect();
        if !running.is_empty() {
            parts.push(output::table(&running));
        }
        if !shown.parameters.is_empty() {
            parts.push(format!("Parameters: {}", rows::pairs(&shown.parameters)));
        }
        parts.join("\n")
    })?;
    Ok(())
}
