//! `outpost mirror …`: everything that templates need, for sites without a network.

mod bundle;
mod config;
mod doctor;
mod import;
mod inspect;
mod key;
mod lock;
pub(super) mod pull;
mod push_images;
mod serve;
mod signing;
mod source;
mod sync;
mod tend;
mod vulnerabilities;
mod work;

use std::path::PathBuf;

use url::Url;

use super::{engine::own_dir, exit::UsageError, output::Output};
use crate::{mirror::Store, stop::Stop};

/// Mirror providers, modules and engines for air-gapped sites
#[derive(Debug, clap::Subcommand)]
pub(super) enum Mirror {
    #[command(after_help = sync::EXIT_CODES)]
    Sync(Box<sync::Sync>),
    Serve(Box<serve::Serve>),
    Bundle(Box<bundle::Bundle>),
    Sign(bundle::Sign),
    Import(Box<import::Import>),
    Inspect(inspect::Inspect),
    Diff(inspect::Diff),
    Vulnerabilities(vulnerabilities::Vulnerabilities),
    Verify(tend::Verify),
    Gc(tend::Gc),
    Prune(tend::Prune),
    Rollback(tend::Rollback),
    #[command(subcommand)]
    Key(key::Key),
    PushImages(push_images::PushImages),
    Config(Box<config::Config>),
    Doctor(doctor::Doctor),
    Lock(lock::Lock),
}

/// Directory or URL of the mirror.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Place {
    /// Directory of the mirror [default: $STATE_DIRECTORY/mirror or ~/.local/state/outpost/mirror]
    #[arg(
        long = "mirror",
        alias = "mirror-dir",
        value_name = "DIR",
        env = "OUTPOST_MIRROR_DIR"
    )]
    mirror_dir: Option<PathBuf>,
}

impl Place {
    /// URL of a served mirror, if one is given in place of the directory.
    ///
    /// # Errors
    /// If it is not a valid URL.
    pub(super) fn url(&self) -> Result<Option<Url>, UsageError> {
        let text = self.mirror_dir.as_deref().and_then(|dir| dir.to_str());
        let text = text.filter(|text| {
            ["http://", "https://"]
                .iter()
                .any(|it| text.starts_with(it))
        });
        let Some(text) = text else {
            return Ok(None);
        };
        let wrong = |error| UsageError(format!("`--mirror {text}` is not a valid URL: {error}"));
        text.parse().map(Some).map_err(wrong)
    }

    /// Directory of the mirror, which need not exist.
    ///
    /// # Errors
    /// If none is named and there is no home directory.
    pub(super) fn dir(&self) -> anyhow::Result<PathBuf> {
        match &self.mirror_dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => {
                let state = own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")?;
                Ok(state.join("mirror"))
            }
        }
    }

    /// Opens the mirror, which may be empty, and creates its directory if it is missing.
    ///
    /// # Errors
    /// If its directory cannot be created.
    pub(super) fn open(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.dir()?)?)
    }
}

impl Mirror {
    /// Returns whether the command runs until it is stopped.
    pub(super) fn is_service(&self) -> bool {
        matches!(self, Self::Serve(_))
    }

    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Sync(command) => command.exec(output, stop).await,
            Self::Serve(command) => command.exec(stop).await,
            Self::Bundle(command) => command.exec(output, stop).await,
            Self::Sign(command) => command.exec(output, stop).await,
            Self::Import(command) => command.exec(output, stop).await,
            Self::Inspect(command) => command.exec(output),
            Self::Diff(command) => command.exec(output),
            Self::Vulnerabilities(command) => command.exec(output, stop).await,
            Self::Verify(command) => command.exec(output, stop).await,
            Self::Gc(command) => command.exec(output, stop).await,
            Self::Prune(command) => command.exec(output, stop).await,
            Self::Rollback(command) => command.exec(output, stop).await,
            Self::Key(command) => command.exec(output, stop).await,
            Self::PushImages(command) => command.exec(output, stop).await,
            Self::Config(command) => command.exec(output).await,
            Self::Doctor(command) => command.exec(output, stop).await,
            Self::Lock(command) => command.exec(output).await,
        }
    }
}
