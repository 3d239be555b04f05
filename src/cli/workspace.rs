//! `outpost workspace`: workspaces and their builds.

mod build;
mod logs;
mod wait;

use serde::Serialize;
use tonic::Status;

use self::build::BuildArgs;
pub(super) use self::build::{answers, build, create, details};
use super::{
    complete,
    confirm::Confirm,
    output::{self, Output},
    remote::Remote,
    rows,
    watch::Watch,
};
use crate::{
    client::Api,
    job::Transition,
    proto::outpost::v1::{
        BuildDetails, ListBuildsRequest, ListWorkspacesRequest, RenameWorkspaceRequest,
        ShowWorkspaceRequest, Workspace as Remembered,
    },
    stop::Stop,
};

/// Manage workspaces; `workspace` may be left out, as in `outpost list`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Workspace {
    /// List workspaces and their status
    #[command(visible_alias = "ls")]
    List {
        /// Owner of the workspaces; if missing, all that you can see
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true,
            add = complete::users()
        )]
        owner: String,
        /// Include workspaces that were deleted
        #[arg(long)]
        deleted: bool,
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a workspace, its resources and its agents
    Show {
        /// The workspace: `name` or `owner/name`
        #[arg(add = complete::workspaces())]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the builds of a workspace, newest first
    Builds {
        /// The workspace: `name` or `owner/name`
        #[arg(add = complete::workspaces())]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Create a workspace and start it
    Create(build::Create),
    /// Start a stopped workspace, or rebuild a running one
    Start(build::Start),
    /// Stop a workspace: ephemeral resources are destroyed, persistent ones stay
    Stop {
        #[command(flatten)]
        build: BuildArgs,
    },
    /// Stop a workspace and start it again
    Restart(build::Start),
    /// Rebuild an outdated workspace with the active version of its template; a running one is stopped first
    Update(build::Update),
    /// Rename a workspace
    ///
    /// The next build replaces resources whose names contain that of the workspace: everything in them is lost.
    Rename {
        /// The workspace: `name` or `owner/name`
        #[arg(add = complete::workspaces())]
        name: String,
        /// New name of the workspace
        #[arg(value_name = "NEW_NAME")]
        new_name: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a workspace and all its resources
    #[command(visible_alias = "rm")]
    Delete {
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        build: BuildArgs,
    },
    /// Print the log of a workspace's agent: the output of its startup and shutdown scripts
    Logs(logs::Logs),
}

/// A workspace, with the output of its latest build.
#[derive(Serialize)]
struct Shown {
    workspace: rows::Workspace,
    resources: Vec<rows::Resource>,
    parameters: std::collections::BTreeMap<String, String>,
}

impl Workspace {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::List {
                owner,
                deleted,
                watch,
                remote,
            } => {
                let request = ListWorkspacesRequest {
                    organization: remote.organization.clone(),
                    owner,
                    include_deleted: deleted,
                };
                let mut api = remote.connect()?;
                watch
                    .print(async || list(&mut api, &request).await, output, &stop)
                    .await
            }
            Self::Show { name, remote } => {
                let mut api = remote.connect()?;
                let workspace = find(&mut api, &remote.organization, name).await?;
                show(&mut api, workspace, output).await
            }
            Self::Builds { name, remote } => {
                let request = ListBuildsRequest {
                    organization: remote.organization.clone(),
                    workspace: name,
                };
                let listed = remote.connect()?.list_builds(request).await?.into_inner();
                let rows = listed.builds.into_iter().map(rows::Build::from);
                Ok(output.list(&rows.collect::<Vec<_>>())?)
            }
            Self::Create(create) => create.exec(output, stop).await,
            Self::Start(start) => start.exec(output, stop).await,
            Self::Stop { build } => build.exec(Transition::Stop, output, stop).await,
            Self::Restart(start) => start.restart(output, stop).await,
            Self::Update(update) => update.exec(output, stop).await,
            Self::Rename {
                name,
                new_name,
                confirm,
                remote,
            } => {
                let question = format!(
                    "Rename the workspace {name} to {new_name}, although its next build replaces resources whose names contain it?"
                );
                confirm.ask(&question, &stop).await?;
                let request = RenameWorkspaceRequest {
                    organization: remote.organization.clone(),
                    workspace: name,
                    name: new_name,
                };
                let renamed = remote.connect()?.rename_workspace(request).await?;
                output.list(&[rows::Workspace::from(renamed.into_inner())])?;
                Ok(())
            }
            Self::Delete { build, confirm } => {
                let question =
                    format!("Delete the workspace {} and all its resources?", build.name);
                confirm.ask(&question, &stop).await?;
                build.exec(Transition::Destroy, output, stop).await
            }
            Self::Logs(logs) => logs.exec(output, stop).await,
        }
    }
}

async fn list(
    api: &mut Api,
    request: &ListWorkspacesRequest,
) -> Result<Vec<rows::Workspace>, Status> {
    let listed = api.list_workspaces(request.clone()).await?.into_inner();
    let rows = listed.workspaces.into_iter().map(rows::Workspace::from);
    Ok(rows.collect())
}

/// Finds a workspace by its name.
async fn find(api: &mut Api, organization: &str, name: String) -> Result<Remembered, Status> {
    let request = ShowWorkspaceRequest {
        organization: organization.to_owned(),
        workspace: name,
    };
    Ok(api.show_workspace(request).await?.into_inner())
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
    output.item(&shown, human)?;
    Ok(())
}

fn human(shown: &Shown) -> String {
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
}
