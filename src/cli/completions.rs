//! `outpost completions`.

use clap_complete::Shell;

use super::complete;

/// Print a script that completes commands, options and names in a shell
///
/// Names of workspaces, templates and the like are asked for at the server that you are logged in to. For bash, put
/// `source <(outpost completions bash)` into ~/.bashrc; other shells read the script from where they look for such.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn exec(self) -> anyhow::Result<()> {
        complete::register(&self.shell.to_string())
    }
}
