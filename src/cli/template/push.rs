//! `outpost template push`: to our control plane, or to a coderd.

mod coderd;

use std::path::PathBuf;

use anyhow::Context;

use super::{check, check_variables, details, show, variables};
use crate::{
    cli::{
        complete, follow,
        output::Output,
        remote::{Pair, Remote},
    },
    files::archive,
    proto::outpost::v1::CreateVersionRequest,
    stop::Stop,
};

/// Upload a directory as a new version, import it and activate it
///
/// The server is an outpost server, or a coderd, which is told by its answer to `/api/v2/buildinfo`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Push {
    /// The template's name
    #[arg(add = complete::templates())]
    name: String,
    /// Directory with the template's `main.tf`
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// The version's name; if missing, the server picks the next number
    #[arg(long, value_name = "NAME")]
    version: Option<String>,
    /// Message that describes the version
    #[arg(
        long,
        short,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    message: String,
    /// Value of a Terraform variable
    #[arg(long = "variable", value_name = "NAME=VALUE")]
    variables: Vec<Pair>,
    /// Tag that a daemon must have to run the template's jobs
    #[arg(long = "tag", short, value_name = "NAME=VALUE")]
    tags: Vec<Pair>,
    /// Check the template first, as `outpost template check` does, and push nothing if there is an error
    #[arg(long)]
    check: bool,
    /// Activate the version once it is imported; this is the default
    #[arg(long, conflicts_with = "inactive")]
    activate: bool,
    /// Import the version without activating it
    #[arg(long)]
    inactive: bool,
    /// Include DEBUG lines of the import
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Push {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        check_variables(&self.directory, &self.variables)?;
        if self.check {
            check::pass(&self.directory, &self.variables, &stop).await?;
        }
        let packed = archive::pack_template(&self.directory)
            .with_context(|| format!("failed to pack `{}`", self.directory.display()))?;
        if let Some(coder) = self.remote.coderd().await? {
            return self.push_to_coderd(&coder, packed, output, &stop).await;
        }
        let request = CreateVersionRequest {
            organization: self.remote.organization.clone(),
            template: self.name.clone(),
            archive: packed,
            name: self.version.unwrap_or_default(),
            message: self.message,
            variables: variables(self.variables),
            tags: self
                .tags
                .into_iter()
                .map(|tag| (tag.name, tag.value))
                .collect(),
            activate: !self.inactive,
        };
        let mut api = self.remote.connect()?;
        let show_log = follow::Show::log(self.verbose);
        let version = super::push(&mut api, request, show_log, &stop).await?;
        let details = details(
            &mut api,
            &self.remote.organization,
            &self.name,
            Some(version.name),
        )
        .await?;
        show(details, output)
    }
}
