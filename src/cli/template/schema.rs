//! `outpost template schema`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::schemas::{Asking, PluginDirs, Printed, needs};
use crate::{
    cli::{
        engine::EngineArgs,
        exit::{Hint as _, Unchecked, UsageError},
        output,
        remote::EngineTrust,
    },
    files::{self, removal::Scratch},
    registry::{DEFAULT_HOST, OPENTOFU_HOST},
    stop::Stop,
    template::mock::Doubles,
    terraform::binary::Kind,
};

/// Exit codes of `schema export`.
const EXPORT_HELP: &str = "Exit codes: 0 written, 2 wrong usage or configuration, 3 a provider could not be asked, 130 interrupted.";

/// Export schemas of providers, from which `template test` mocks them
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Schema {
    /// Write the schemas of a template's providers to a file for `--schema`
    #[command(after_help = EXPORT_HELP)]
    Export(Export),
}

/// Write the schemas of a template's providers to a file for `--schema`
///
/// Asks the providers in `--plugin-dir`, `--mirror` and, with `--online`, in their registries, which are started for that.
/// The template is only read. The form is that of `terraform providers schema -json`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Export {
    /// Directory of the template
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Download providers that are in neither --plugin-dir nor --mirror, as `terraform init` does
    #[arg(long, conflicts_with = "sealed")]
    online: bool,
    #[command(flatten)]
    dirs: PluginDirs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
}

/// The form of `terraform providers schema -json`.
#[derive(Serialize)]
struct Document {
    format_version: &'static str,
    provider_schemas: BTreeMap<String, Box<RawValue>>,
}

impl Schema {
    pub(in crate::cli) async fn exec(self, stop: &Stop) -> anyhow::Result<()> {
        match self {
            Self::Export(export) => export.exec(stop).await,
        }
    }
}

impl Export {
    async fn exec(self, stop: &Stop) -> anyhow::Result<()> {
        let directory = &self.directory;
        if !directory.is_dir() {
            let text = format!("`{}` is no directory", directory.display());
            return Err(UsageError(text)).hint("name the directory of a template");
        }
        let printed = self.printed(directory, stop).await?;
        let document = Document {
            format_version: "1.0",
            provider_schemas: printed,
        };
        let json = serde_json::to_string(&document)?;
        match &self.file {
            None => output::line(&json)?,
            Some(path) => files::write_public(path, json.as_bytes())
                .with_context(|| format!("failed to write `{}`", path.display()))?,
        }
        Ok(())
    }

    async fn printed(&self, directory: &Path, stop: &Stop) -> anyhow::Result<Printed> {
        let binary = self.engine.installed(stop).await?;
        let is_tofu = binary.is_some_and(|binary| binary.kind == Kind::OpenTofu);
        let host = if is_tofu { OPENTOFU_HOST } else { DEFAULT_HOST };
        let doubles = Doubles::of_template(directory, &[], host, &Default::default())
            .with_context(|| format!("failed to read `{}`", directory.display()))?;
        for module in &doubles.missing {
            output::note(&format!(
                "The providers of `{}` are left out: its source `{}` is not at hand.",
                module.address, module.source
            ));
        }
        let work = TempDir::with_prefix("outpost-schema-")
            .context("failed to make a directory for the engine")?;
        let work = Scratch::waited_for(work);
        let trust = self.trust.trust();
        let asking = Asking {
            engine: &self.engine,
            trust: &trust,
            work: work.path().join("sessions"),
            template: directory,
            default_host: host,
            stop,
        };
        let needs = needs(&doubles.mocks, directory);
        let asked = self.dirs.ask(&needs, &asking, self.online).await;
        let printed = asked.map_err(|error| match UsageError::is_in(&error) {
            true => error,
            false => Unchecked(format!(": {error:#}")).into(),
        })?;
        let lacking: Vec<_> = needs
            .keys()
            .map(ToString::to_string)
            .filter(|addr| !printed.contains_key(addr))
            .collect();
        match lacking.is_empty() {
            true => Ok(printed),
            false => Err(Unchecked(format!(": no place has {}", lacking.join(", ")))).hint(
                "name a place with `--plugin-dir` or `--mirror`, or download them with `--online`",
            ),
        }
    }
}
