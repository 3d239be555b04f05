//! `outpost state`: the Terraform states of workspaces.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::{
    complete,
    confirm::Confirm,
    exit::{Hint as _, UsageError},
    output,
    remote::Remote,
};
use crate::{
    files,
    proto::outpost::v1::{PullStateRequest, PushStateRequest, ShowWorkspaceRequest},
    stop::Stop,
};

/// Longest state that is read, in bytes; the server accepts no larger message.
const MAX_BYTES: u64 = 64 << 20;

/// Export and import Terraform states of workspaces; for administrators, recorded in the audit log
#[derive(Debug, clap::Subcommand)]
pub(super) enum State {
    /// Export the Terraform state of a workspace
    Pull {
        /// The workspace: `name` or `owner/name`
        #[arg(add = complete::workspaces())]
        workspace: String,
        /// New file, readable only by you; if missing, standard output
        file: Option<PathBuf>,
        /// Number of the build that made the state, if not the latest one
        #[arg(
            long,
            short,
            value_name = "NUMBER",
            default_value_t = 0,
            hide_default_value = true
        )]
        build: i32,
        #[command(flatten)]
        remote: Remote,
    },
    /// Replace the Terraform state of a workspace
    ///
    /// The server accepts a state of the same lineage with a higher serial, or any state if it has none: a state is never
    /// replaced by an older one. It keeps all earlier states.
    Push {
        /// The workspace: `name` or `owner/name`
        #[arg(add = complete::workspaces())]
        workspace: String,
        /// The file; `-` for standard input
        file: PathBuf,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
}

impl State {
    pub(super) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Pull {
                workspace,
                file,
                build,
                remote,
            } => {
                let request = PullStateRequest {
                    organization: remote.organization.clone(),
                    workspace: workspace.clone(),
                    number: build,
                };
                let state = remote.connect()?.pull_state(request).await?;
                let state = state.into_inner().state;
                if state.is_empty() {
                    bail!("the workspace {workspace} has no state at that build");
                }
                write(file.as_deref(), &state)
            }
            Self::Push {
                workspace,
                file,
                confirm,
                remote,
            } => {
                let state = read(&file)?;
                let question = format!("Replace the state of the workspace {workspace}?");
                confirm.ask(&question, &stop).await?;
                push(&workspace, state, &remote).await
            }
        }
    }
}

fn write(file: Option<&Path>, state: &[u8]) -> anyhow::Result<()> {
    let Some(path) = file else {
        let mut stdout = io::stdout().lock();
        stdout.write_all(state)?;
        return Ok(stdout.flush()?);
    };
    let written = files::write_private_new(path, state);
    match written.with_context(|| format!("failed to write `{}`", path.display()))? {
        true => {
            output::note(&format!("Wrote `{}`. It may hold secrets.", path.display()));
            Ok(())
        }
        false => Err(UsageError(format!("`{}` exists already", path.display())))
            .hint("name a new file: an existing one is not overwritten"),
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("failed to read `{}`", file.display());
    let mut state = Vec::new();
    if file == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(UsageError("standard input is a terminal, not a state".to_owned()).into());
        }
        io::stdin()
            .lock()
            .take(MAX_BYTES)
            .read_to_end(&mut state)
            .with_context(failed)?;
    } else {
        let opened = std::fs::File::open(file).with_context(failed)?;
        opened
            .take(MAX_BYTES)
            .read_to_end(&mut state)
            .with_context(failed)?;
    }
    if state.len() as u64 == MAX_BYTES {
        bail!("`{}` is larger than {MAX_BYTES} bytes", file.display());
    }
    Ok(state)
}

async fn push(workspace: &str, state: Vec<u8>, remote: &Remote) -> anyhow::Result<()> {
    let mut api = remote.connect()?;
    let request = ShowWorkspaceRequest {
        organization: remote.organization.clone(),
        workspace: workspace.to_owned(),
    };
    let shown = api.show_workspace(request).await?.into_inner();
    let build = shown
        .latest_build
        .context("the server's answer has no `latest_build`")?;
    let request = PushStateRequest {
        build: build.id,
        state: state.into(),
    };
    let number = api.push_state(request).await?.into_inner().number;
    output::note(&format!(
        "This is now the state after build {number} of {workspace}."
    ));
    Ok(())
}
