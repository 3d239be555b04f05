//! `outpost completions`.

use clap_complete::Shell;

use super::output;

/// Print a script that completes commands in a shell
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn exec(self, mut root: clap::Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut root, "outpost", &mut script);
        output::line(String::from_utf8(script)?.trim_end())?;
        Ok(())
    }
}
