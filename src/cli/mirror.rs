//! `outpost mirror …`: providers, modules and engines for places without a network.

mod sync;

use std::path::PathBuf;

use super::{engine::own_dir, output::Output};
use crate::stop::Stop;

/// Providers, modules and engines for places without a network
#[derive(Debug, clap::Subcommand)]
pub(super) enum Mirror {
    #[command(after_help = sync::EXIT_CODES)]
    Sync(Box<sync::Sync>),
}

/// Which mirror.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Directory of the mirror [default: $STATE_DIRECTORY/mirror or ~/.local/state/outpost/mirror]
    #[arg(long, value_name = "DIR", env = "OUTPOST_MIRROR_DIR")]
    mirror_dir: Option<PathBuf>,
}

impl Place {
    /// The directory, whether there is a mirror or not.
    ///
    /// # Errors
    /// If none is named and there is no home directory.
    pub(super) fn dir(&self) -> anyhow::Result<PathBuf> {
        match &self.mirror_dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => {
                Ok(own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")?.join("mirror"))
            }
        }
    }
}

impl Mirror {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Sync(command) => command.exec(output, stop).await,
        }
    }
}
