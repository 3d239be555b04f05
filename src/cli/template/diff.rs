//! `outpost template diff`.

mod version;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use self::version::{Token, Version};
use super::{
    schemas::{Pins, ProviderSources, SchemaArgs},
    test::{Template, TestEngines},
};
use crate::{
    cli::{
        engine::EngineArgs,
        exit::{Interrupted, Loses, Unchecked},
        output::{self, Wanted},
        remote::{EngineTrust, Pair},
    },
    files::removal::Scratch,
    stop::Stop,
    template::scenario::{self, Difference, Facts, Given, Scenario},
};

/// Compare two versions of a template, and show what an update does to running workspaces
///
/// Builds a workspace of OLD on mocks, as `outpost template test` does, and plans NEW for it. A version is a directory, an
/// archive (.tar, .tar.gz, .zip), a commit of the repository with its directory (REF:PATH, or REF for the directory that
/// the other version is), or the active version of a server (active@SERVER/TEMPLATE).
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Diff {
    /// The version that workspaces have
    #[arg(value_name = "OLD")]
    old: String,
    /// The version that they are updated to
    #[arg(value_name = "NEW")]
    new: String,
    /// Value of a Terraform variable
    #[arg(long = "variable", alias = "var", value_name = "NAME=VALUE")]
    variables: Vec<Pair>,
    /// Value of a template parameter; the others have their defaults, or made-up values if they have none
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Pair>,
    /// File with the token for `active@SERVER/TEMPLATE` [default: $CODER_SESSION_TOKEN]
    #[arg(long, value_name = "FILE")]
    server_token_file: Option<PathBuf>,
    #[command(flatten)]
    schemas: SchemaArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
}

impl Diff {
    pub(in crate::cli) async fn exec(self, wanted: Wanted, stop: Stop) -> anyhow::Result<()> {
        let work = TempDir::with_prefix("outpost-diff-")
            .context("failed to make a directory for the engine")?;
        let work = Scratch::waited_for(work);
        let old = self
            .version(&self.old, &self.new, work.path().join("old"), &stop)
            .await?;
        let new = self
            .version(&self.new, &self.old, work.path().join("new"), &stop)
            .await?;
        let before = self.build(&old, work.path(), None, &stop).await?;
        let after = self.build(&new, work.path(), Some(&before), &stop).await?;
        let difference = Difference::of(&before, &after);
        output::line(&match wanted {
            Wanted::Json => serde_json::to_string_pretty(&difference)?,
            Wanted::Markdown => difference.markdown().trim_end().to_owned(),
            _ => difference.table().trim_end().to_owned(),
        })?;
        match difference.loses() {
            true => Err(Loses.into()),
            false => Ok(()),
        }
    }

    async fn version(
        &self,
        text: &str,
        other: &str,
        into: PathBuf,
        stop: &Stop,
    ) -> anyhow::Result<PathBuf> {
        let token = Token {
            file: self.server_token_file.as_deref(),
            trust: &self.trust.trust(),
        };
        Version::parse(text, other)?
            .lay_out(into, &token, stop)
            .await
    }

    /// A workspace of the version in a directory; with `before`, the one that another version has built.
    async fn build(
        &self,
        dir: &Path,
        work: &Path,
        before: Option<&Facts>,
        stop: &Stop,
    ) -> anyhow::Result<Facts> {
        let name = if before.is_some() { "NEW" } else { "OLD" };
        let state = before.map_or(&Value::Null, |facts| &facts.state);
        let trust = self.trust.trust();
        let work = work.join(format!("engine-{name}"));
        let (schemas, pins) = (&self.schemas, &Pins::new());
        let providers = ProviderSources { schemas, pins };
        let engines = TestEngines::new(&self.engine, providers, &trust, &work, 1, stop, state);
        let template = Template::read(dir, &self.schemas)?;
        let scenario = Scenario {
            workspace: "workspace".to_owned(),
            variables: self
                .variables
                .iter()
                .filter(|it| declares(dir, it))
                .map(given)
                .collect(),
            parameters: self.parameters.iter().map(given).collect(),
            ..Scenario::default()
        };
        let engines = engines.of(&template);
        let built = scenario::build_version(&engines, dir, &scenario, before, stop).await;
        match built {
            Ok(facts) => Ok(facts),
            Err(_) if stop.is_cancelled() => Err(Interrupted.into()),
            Err(error) => Err(Unchecked(format!(": {name} cannot be built: {error}")).into()),
        }
    }
}

/// Variables come and go between versions.
fn declares(dir: &Path, pair: &Pair) -> bool {
    let declared = super::declared_variables(dir);
    declared.is_none_or(|names| names.contains(&pair.name))
}

fn given(pair: &Pair) -> Given {
    Given::of_command_line(pair.name.clone(), pair.value.clone())
}
