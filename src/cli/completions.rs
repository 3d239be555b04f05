//! `outpost completions`: scripts for completion in a shell.

use clap_complete::Shell;

use super::complete;

/// Print a shell completion script for commands, options and names
///
/// Names of workspaces, templates and the like come from the server that you are logged in to. For bash, add
/// `source <(outpost completions bash)` to ~/.bashrc; for other shells, save the script to their completion directory.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Shell to generate the script for
    shell: Shell,
}

impl Completions {
    pub(super) fn exec(self) -> anyhow::Result<()> {
        complete::register(&self.shell.to_string())
    }
}
