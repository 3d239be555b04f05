//! Commands that build a workspace, and wait for the end of the build.

use anyhow::Context;
use tonic::{Code, Status};

use super::{
    super::{
        complete,
        exit::Hint as _,
        follow,
        outage::{self, Outage},
        output::{self, Output},
        remote::{Pair, Remote},
    },
    find, show,
    wait::Wait,
};
use crate::{
    client::Api,
    job::Transition,
    proto::outpost::v1::{
        Build, BuildDetails, CreateBuildRequest, CreateWorkspaceRequest, ParameterValue,
        ShowBuildRequest, Workspace as Remembered,
    },
    stop::Stop,
};

/// Name of the version that new workspaces of a template get.
const ACTIVE: &str = "active";

/// Options of every build.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Value of a template parameter
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Pair>,
    /// Include lines of level DEBUG
    #[arg(long)]
    verbose: bool,
    /// Return as soon as the build is queued; follow it with `outpost job logs --follow`
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Run {
    fn show_log(&self) -> follow::Show {
        follow::Show::log(self.verbose)
    }
}

/// Create a workspace and start it
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Create {
    /// Name of the workspace
    name: String,
    /// Name of the template
    #[arg(long, short, value_name = "NAME", add = complete::templates())]
    template: String,
    /// Template version, if not the active one
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    version: String,
    /// Template preset, which sets some of the parameters
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    preset: String,
    /// Owner of the workspace, if not yourself
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true,
        add = complete::users()
    )]
    owner: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    run: Run,
}

/// A build of a workspace that exists.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct BuildArgs {
    /// The workspace: `name` or `owner/name`
    #[arg(add = complete::workspaces())]
    pub(super) name: String,
    /// Template version, if not that of the previous build
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

/// A start of a workspace that exists.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Start {
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    build: BuildArgs,
}

/// A start with the active version.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Update {
    /// The workspace: `name` or `owner/name`
    #[arg(add = complete::workspaces())]
    name: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    run: Run,
}

impl Create {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let show_log = self.run.show_log();
        let request = CreateWorkspaceRequest {
            organization: self.run.remote.organization.clone(),
            template: self.template,
            version: self.version,
            name: self.name,
            owner: self.owner,
            parameters: answers(self.run.parameters),
            preset: self.preset,
            log_level: String::new(),
        };
        let mut api = self.run.remote.connect()?;
        let workspace = match self.run.no_wait {
            true => accepted(api.create_workspace(request).await)?.into_inner(),
            false => create(&mut api, request, show_log, &stop).await?,
        };
        self.wait.for_agents(&mut api, &workspace, &stop).await?;
        show(&mut api, workspace, output).await
    }
}

impl Start {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let (mut api, workspace) = self.build.run(Transition::Start, &stop).await?;
        self.wait.for_agents(&mut api, &workspace, &stop).await?;
        show(&mut api, workspace, output).await
    }

    /// Restarts a workspace: stops it first if it is running.
    pub(super) async fn restart(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let mut api = self.build.run.remote.connect()?;
        let organization = &self.build.run.remote.organization;
        let workspace = find(&mut api, organization, self.build.name.clone()).await?;
        let show_log = self.build.run.show_log();
        stop_if_started(&mut api, &workspace, organization, show_log, &stop).await?;
        self.exec(output, stop).await
    }
}

impl Update {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let mut api = self.run.remote.connect()?;
        let organization = &self.run.remote.organization;
        let workspace = find(&mut api, organization, self.name.clone()).await?;
        if !workspace.outdated {
            output::note("The workspace already uses the active version of its template.");
            return show(&mut api, workspace, output).await;
        }
        let show_log = self.run.show_log();
        stop_if_started(&mut api, &workspace, organization, show_log, &stop).await?;
        let build = BuildArgs {
            name: self.name,
            version: ACTIVE.to_owned(),
            run: self.run,
        };
        let wait = self.wait;
        Start { build, wait }.exec(output, stop).await
    }
}

/// Stops a workspace whose latest build started it.
async fn stop_if_started(
    api: &mut Api,
    workspace: &Remembered,
    organization: &str,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<()> {
    let latest = workspace.latest_build.as_ref();
    if latest.is_none_or(|build| build.transition != Transition::Start.as_str()) {
        return Ok(());
    }
    let request = CreateBuildRequest {
        organization: organization.to_owned(),
        workspace: workspace.id.clone(),
        transition: Transition::Stop.as_str().to_owned(),
        ..CreateBuildRequest::default()
    };
    build(api, request, show, stop).await.map(drop)
}

impl BuildArgs {
    pub(super) async fn exec(
        self,
        transition: Transition,
        output: Output,
        stop: Stop,
    ) -> anyhow::Result<()> {
        let (mut api, workspace) = self.run(transition, &stop).await?;
        show(&mut api, workspace, output).await
    }

    /// Builds, and waits for the end unless told otherwise.
    async fn run(&self, transition: Transition, stop: &Stop) -> anyhow::Result<(Api, Remembered)> {
        let organization = self.run.remote.organization.clone();
        let mut api = self.run.remote.connect()?;
        let workspace = find(&mut api, &organization, self.name.clone()).await?;
        let request = CreateBuildRequest {
            organization: organization.clone(),
            workspace: self.name.clone(),
            transition: transition.as_str().to_owned(),
            version: self.version.clone(),
            parameters: answers(self.run.parameters.clone()),
            log_level: String::new(),
        };
        match self.run.no_wait {
            true => drop(accepted(api.create_build(request).await)?),
            false => drop(build(&mut api, request, self.run.show_log(), stop).await?),
        }
        // By id, as a workspace that was deleted has no name any more.
        let workspace = find(&mut api, &organization, workspace.id).await?;
        Ok((api, workspace))
    }
}

/// Converts parameter values to the server's form.
pub(in crate::cli) fn answers(pairs: Vec<Pair>) -> Vec<ParameterValue> {
    let value = |pair: Pair| ParameterValue {
        name: pair.name,
        value: pair.value,
    };
    pairs.into_iter().map(value).collect()
}

/// Creates a workspace and waits for its first build.
pub(in crate::cli) async fn create(
    api: &mut Api,
    request: CreateWorkspaceRequest,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<Remembered> {
    let created = accepted(api.create_workspace(request).await)?;
    let mut workspace = created.into_inner();
    let build = workspace
        .latest_build
        .take()
        .context("the server's answer has no `latest_build`")?;
    let name = format!("{}/{}", workspace.owner, workspace.name);
    let built = finished(api, build, show, stop).await;
    let built = follow::failed(built, || format!("failed to create the workspace {name}"))?;
    workspace.latest_build = built.build;
    Ok(workspace)
}

/// Builds an existing workspace, and waits for the end.
pub(in crate::cli) async fn build(
    api: &mut Api,
    request: CreateBuildRequest,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<BuildDetails> {
    let verb = match request.transition.as_str() {
        "destroy" => "delete",
        transition => transition,
    };
    let what = format!("failed to {verb} the workspace {}", request.workspace);
    let build = accepted(api.create_build(request).await)?.into_inner();
    follow::failed(finished(api, build, show, stop).await, || what)
}

/// Adds how parameters are answered if the server refused their values.
fn accepted<T>(answer: Result<T, Status>) -> anyhow::Result<T> {
    match answer {
        Err(status)
            if status.code() == Code::InvalidArgument
                && status.message().starts_with("parameter `") =>
        {
            // As its message alone: the code of a status helps nobody.
            Err(anyhow::Error::msg(status.message().to_owned())).hint(
                "answer it with `--parameter NAME=VALUE`; `outpost template show` lists what a template asks",
            )
        }
        answer => Ok(answer?),
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
    outage::through(Outage::after_an_answer(), async |_| {
        let build = build.id.clone();
        let shown = api.show_build(ShowBuildRequest { build }).await?;
        Ok(shown.into_inner())
    })
    .await
}

/// Returns the output of a build.
pub(in crate::cli) async fn details(api: &mut Api, build: String) -> anyhow::Result<BuildDetails> {
    let request = ShowBuildRequest { build };
    Ok(api.show_build(request).await?.into_inner())
}
