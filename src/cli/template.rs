//! `outpost template`.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use super::{
    follow,
    output::{self, Output},
    remote::{Pair, Remote},
    rows,
};
use crate::{
    client::Api,
    files::archive,
    proto::{
        outpost::v1::{
            ActivateVersionRequest, CreateVersionRequest, DeleteTemplateRequest,
            ListTemplatesRequest, ListVersionsRequest, ShowVersionRequest, Version, VersionDetails,
        },
        provisioner::VariableValue,
    },
    stop::Stop,
};

/// Templates and their versions
#[derive(Debug, clap::Subcommand)]
pub(super) enum Template {
    /// Upload a directory as a new version, import it and make it the active one
    Push(Push),
    /// List templates
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show what a template makes and asks
    Show {
        /// The template's name
        name: String,
        /// A version other than the active one
        #[arg(long, value_name = "NAME")]
        version: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the versions of a template
    Versions {
        /// The template's name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make another version the active one
    Activate {
        /// The template's name
        name: String,
        /// The version's name
        version: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a template that no workspace uses
    Delete {
        /// The template's name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Upload a directory as a new version, import it and make it the active one
#[derive(Debug, clap::Args)]
pub(super) struct Push {
    /// The template's name
    name: String,
    /// The directory that has its `main.tf`
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// The version's name; the server counts if it is missing
    #[arg(long, value_name = "NAME")]
    version: Option<String>,
    /// What is new in it
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
    /// Tag that daemons must have to work with it
    #[arg(long = "tag", short, value_name = "NAME=VALUE")]
    tags: Vec<Pair>,
    /// Import it, but leave the active version as it is
    #[arg(long)]
    inactive: bool,
    /// Show DEBUG lines of the import, too
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What a version makes and asks.
#[derive(Serialize)]
struct Shown {
    version: rows::Version,
    resources: Vec<rows::Resource>,
    parameters: Vec<rows::Question>,
    presets: Vec<rows::Preset>,
    /// Services whose tokens it needs, and whether it does without.
    external_auth: std::collections::BTreeMap<String, bool>,
    workspace_tags: std::collections::BTreeMap<String, String>,
}

impl Template {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Push(push) => push.exec(output, stop).await,
            Self::List { remote } => list(&remote, output).await,
            Self::Show {
                name,
                version,
                remote,
            } => {
                let details =
                    details(&mut remote.connect()?, &remote.organization, &name, version).await?;
                show(details, output)
            }
            Self::Versions { name, remote } => versions(&remote, name, output).await,
            Self::Activate {
                name,
                version,
                remote,
            } => {
                let request = ActivateVersionRequest {
                    organization: remote.organization.clone(),
                    template: name,
                    version,
                };
                let template = remote
                    .connect()?
                    .activate_version(request)
                    .await?
                    .into_inner();
                output.list(&[rows::Template::from(template)])?;
                Ok(())
            }
            Self::Delete { name, remote } => {
                let organization = remote.organization.clone();
                let request = DeleteTemplateRequest {
                    organization,
                    template: name,
                };
                remote.connect()?.delete_template(request).await?;
                Ok(())
            }
        }
    }
}

impl Push {
    async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let packed = archive::pack_template(&self.directory)
            .with_context(|| format!("failed to pack `{}`", self.directory.display()))?;
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
        let version = push(&mut api, request, follow::Show::log(self.verbose), &stop).await?;
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

/// Values of variables as the server takes them.
pub(super) fn variables(pairs: Vec<Pair>) -> Vec<VariableValue> {
    let value = |pair: Pair| VariableValue {
        name: pair.name,
        value: pair.value,
        sensitive: false,
    };
    pairs.into_iter().map(value).collect()
}

/// Uploads a version and waits until it is imported.
pub(super) async fn push(
    api: &mut Api,
    request: CreateVersionRequest,
    show: follow::Show,
    stop: &Stop,
) -> anyhow::Result<Version> {
    let version = api.create_version(request).await?.into_inner();
    let job = version
        .job
        .as_ref()
        .context("the server's answer has no `job`")?;
    follow::job(api, &job.id, show, stop)
        .await
        .with_context(|| {
            format!(
                "failed to import version {} of the template {}",
                version.name, version.template
            )
        })?;
    Ok(version)
}

/// What a version makes and asks; the active one if none is named.
pub(super) async fn details(
    api: &mut Api,
    organization: &str,
    template: &str,
    version: Option<String>,
) -> anyhow::Result<VersionDetails> {
    let request = ShowVersionRequest {
        organization: organization.to_owned(),
        template: template.to_owned(),
        version: version.unwrap_or_default(),
    };
    Ok(api.show_version(request).await?.into_inner())
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let organization = remote.organization.clone();
    let listed = remote
        .connect()?
        .list_templates(ListTemplatesRequest { organization })
        .await?;
    let templates = listed
        .into_inner()
        .templates
        .into_iter()
        .map(rows::Template::from);
    output.list(&templates.collect::<Vec<_>>())?;
    Ok(())
}

async fn versions(remote: &Remote, template: String, output: Output) -> anyhow::Result<()> {
    let organization = remote.organization.clone();
    let listed = remote
        .connect()?
        .list_versions(ListVersionsRequest {
            organization,
            template,
        })
        .await?;
    let versions = listed
        .into_inner()
        .versions
        .into_iter()
        .map(rows::Version::from);
    output.list(&versions.collect::<Vec<_>>())?;
    Ok(())
}

fn show(details: VersionDetails, output: Output) -> anyhow::Result<()> {
    let shown = Shown {
        version: details.version.unwrap_or_default().into(),
        resources: details
            .resources
            .into_iter()
            .map(rows::Resource::from)
            .collect(),
        parameters: details
            .parameters
            .into_iter()
            .map(rows::Question::from)
            .collect(),
        presets: details
            .presets
            .into_iter()
            .map(rows::Preset::from)
            .collect(),
        external_auth: details
            .external_auth
            .into_iter()
            .map(|auth| (auth.id, auth.optional))
            .collect(),
        workspace_tags: details.workspace_tags.into_iter().collect(),
    };
    output.item(&shown, |shown| {
        let mut parts = vec![output::table(std::slice::from_ref(&shown.version))];
        if !shown.resources.is_empty() {
            parts.push(output::table(&shown.resources));
        }
        if !shown.parameters.is_empty() {
            parts.push(output::table(&shown.parameters));
        }
        if !shown.presets.is_empty() {
            parts.push(output::table(&shown.presets));
        }
        for (id, optional) in &shown.external_auth {
            let optional = if *optional { " (optional)" } else { "" };
            parts.push(format!("External service {id}{optional}"));
        }
        if !shown.workspace_tags.is_empty() {
            parts.push(format!("Tags: {}", rows::pairs(&shown.workspace_tags)));
        }
        parts.join("\n")
    })?;
    Ok(())
}
