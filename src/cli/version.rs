//! `outpost version`: the version of this program.

use super::output::Output;
use crate::observe::BUILD;

/// Print what this program is
#[derive(Debug, clap::Args)]
pub(super) struct Version {}

impl Version {
    pub(super) fn exec(self, output: Output) -> anyhow::Result<()> {
        output.item(&BUILD, |build| {
            let debug = if build.debug { ", not optimised" } else { "" };
            format!("outpost {} ({}{debug})", build.version, build.platform)
        })?;
        Ok(())
    }
}
