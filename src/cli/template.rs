//! `outpost template`.

mod check;
mod diff;
mod git;
mod jobs;
mod policy;
mod push;
mod result_cache;
mod rules;
mod running;
mod schema;
mod schemas;
mod test;

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::{
    complete,
    confirm::Confirm,
    exit::UsageError,
    follow,
    output::{self, Output, Wanted},
    remote::{Pair, Remote},
    rows, workspace,
};
use crate::{
    client::Api,
    proto::{
        outpost::v1::{
            ActivateVersionRequest, CreateDryRunRequest, CreateVersionRequest,
            DeleteTemplateRequest, ListTemplatesRequest, ListVersionsRequest,
            RenameTemplateRequest, ShowDryRunRequest, ShowVersionRequest, Version, VersionDetails,
        },
        provisioner::VariableValue,
    },
    stop::Stop,
    terraform::template::parse_dir,
};

/// Formats and exit codes of `test` that other commands do not have.
const TEST_HELP: &str = "\
Here --output also takes junit.

Exit codes: 0 all runs passed, 1 one failed, 2 wrong usage or a mistake in a scenario, 3 something that a run needs is missing, \
130 interrupted.";

/// Formats and exit codes of `check` that other commands do not have.
const CHECK_HELP: &str = "\
Here --output also takes sarif, junit, gitlab and github.

Exit codes: 0 nothing at or above --fail-on, 1 something is, 2 wrong usage or configuration, 3 not checked to the end, \
130 interrupted.";

/// Formats and exit codes of `diff` that other commands do not have.
const DIFF_HELP: &str = "\
Here --output also takes markdown.

Exit codes: 0 nothing persistent is lost, 1 something is, 2 wrong usage or configuration, 3 a version could not be built, \
130 interrupted.";

/// Templates and their versions
#[derive(Debug, clap::Subcommand)]
pub(super) enum Template {
    /// Check templates without a server
    #[command(after_help = CHECK_HELP)]
    Check(Box<check::Check>),
    /// List the rules of `outpost template check`, or explain one
    Rules(rules::Rules),
    /// Test templates with scenarios, without a server
    #[command(after_help = TEST_HELP)]
    Test(Box<test::Test>),
    /// Compare two versions of a template, and show what an update does to running workspaces
    #[command(after_help = DIFF_HELP)]
    Diff(Box<diff::Diff>),
    /// Export schemas of providers, from which `template test` mocks them
    #[command(subcommand)]
    Schema(schema::Schema),
    /// Test policies for templates, which are written in Rego
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Upload a directory as a new version, import it and activate it
    Push(push::Push),
    /// List templates
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a template's resources, parameters and presets
    Show {
        /// The template's name
        #[arg(add = complete::templates())]
        name: String,
        /// Version, if not the active one
        #[arg(long, value_name = "NAME")]
        version: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the versions of a template
    Versions {
        /// The template's name
        #[arg(add = complete::templates())]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Activate a version: new workspaces use it
    Activate {
        /// The template's name
        #[arg(add = complete::templates())]
        name: String,
        /// The version's name
        version: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Plan a workspace of a template and show its resources, without creating anything
    DryRun(DryRun),
    /// Rename a template
    Rename {
        /// The template's name
        #[arg(add = complete::templates())]
        name: String,
        /// Its new name
        #[arg(value_name = "NEW_NAME")]
        new_name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a template that no workspace uses
    #[command(visible_alias = "rm")]
    Delete {
        /// The template's name
        #[arg(add = complete::templates())]
        name: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Plan a workspace of a template
#[derive(Debug, clap::Args)]
pub(super) struct DryRun {
    /// The template's name
    #[arg(add = complete::templates())]
    name: String,
    /// Version, if not the active one
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    version: String,
    /// Value of a template parameter
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Pair>,
    /// Name of the planned workspace
    #[arg(long, value_name = "NAME", default_value = "dry-run")]
    workspace: String,
    /// Include DEBUG lines
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Resources and parameters of a version.
#[derive(Serialize)]
struct Shown {
    version: rows::Version,
    resources: Vec<rows::Resource>,
    parameters: Vec<rows::ParameterRow>,
    presets: Vec<rows::Preset>,
    /// Services whose tokens it needs, and whether it does without.
    external_auth: std::collections::BTreeMap<String, bool>,
    workspace_tags: std::collections::BTreeMap<String, String>,
}

impl Template {
    /// Returns whether the command builds workspaces, which it must clean up.
    pub(super) fn is_test(&self) -> bool {
        matches!(self, Self::Test(_))
    }

    /// Returns whether the command has more formats than others.
    pub(super) fn is_check(&self) -> bool {
        matches!(self, Self::Check(_))
    }

    /// Returns whether the command compares versions, which has a format for comments on pull requests.
    pub(super) fn is_diff(&self) -> bool {
        matches!(self, Self::Diff(_))
    }

    pub(super) async fn exec(
        self,
        output: Output,
        wanted: Wanted,
        stop: Stop,
    ) -> anyhow::Result<()> {
        match self {
            Self::Check(check) => check.exec(wanted, stop).await,
            Self::Rules(rules) => rules.exec(output),
            Self::Test(test) => test.exec(wanted, stop).await,
            Self::Diff(diff) => diff.exec(wanted, stop).await,
            Self::Schema(schema) => schema.exec(&stop).await,
            Self::Policy(policy) => policy.exec(output),
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
            Self::DryRun(dry_run) => dry_run.exec(output, stop).await,
            Self::Rename {
                name,
                new_name,
                remote,
            } => {
                let request = RenameTemplateRequest {
                    organization: remote.organization.clone(),
                    template: name,
                    name: new_name,
                };
                let renamed = remote.connect()?.rename_template(request).await?;
                output.list(&[rows::Template::from(renamed.into_inner())])?;
                Ok(())
            }
            Self::Delete {
                name,
                confirm,
                remote,
            } => {
                let question = format!("Delete the template {name} and all its versions?");
                confirm.ask(&question, &stop).await?;
                let organization = remote.organization.clone();
                let request = DeleteTemplateRequest {
                    organization,
                    template: name.clone(),
                };
                remote.connect()?.delete_template(request).await?;
                output::note(&format!("Deleted the template {name}."));
                Ok(())
            }
        }
    }
}

impl DryRun {
    async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let request = CreateDryRunRequest {
            organization: self.remote.organization.clone(),
            template: self.name.clone(),
            version: self.version,
            parameters: workspace::answers(self.parameters),
            workspace_name: self.workspace,
        };
        let show = follow::Show::log(self.verbose);
        let mut api = self.remote.connect()?;
        let job = api.create_dry_run(request).await?.into_inner();
        let ended = follow::job(&mut api, &job.id, show, &stop).await;
        follow::failed(ended, || {
            format!("failed to plan a workspace of the template {}", self.name)
        })?;
        let request = ShowDryRunRequest { job_id: job.id };
        let made = api.show_dry_run(request).await?.into_inner();
        let resources = made.resources.into_iter().map(rows::Resource::from);
        output.list(&resources.collect::<Vec<_>>())?;
        Ok(())
    }
}

/// Refuses a value for a variable that the template in `directory` does not have, as long as its files can be read:
/// if not, the import says why.
///
/// # Errors
/// [`UsageError`] names the variable.
pub(super) fn check_variables(directory: &Path, given: &[Pair]) -> anyhow::Result<()> {
    if given.is_empty() {
        return Ok(());
    }
    let Some(declared) = declared_variables(directory) else {
        return Ok(());
    };
    let unknown = given.iter().find(|pair| !declared.contains(&pair.name));
    let Some(unknown) = unknown else {
        return Ok(());
    };
    let known = match declared.as_slice() {
        [] => "and none at all".to_owned(),
        names => format!("only: {}", names.join(", ")),
    };
    Err(UsageError(format!(
        "the template in `{}` has no variable `{}`, {known}",
        directory.display(),
        unknown.name
    ))
    .into())
}

/// Names of the template's variables, in order; `None` if they cannot be told.
fn declared_variables(directory: &Path) -> Option<Vec<String>> {
    let parsed = parse_dir(directory).ok()?;
    let variables = parsed.template_variables.into_iter();
    Some(variables.map(|variable| variable.name).collect())
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
    let imported = follow::job(api, &job.id, show, stop).await;
    follow::failed(imported, || {
        format!(
            "failed to import version {} of the template {}",
            version.name, version.template
        )
    })?;
    Ok(version)
}

/// Returns resources and parameters of a version; of the active one if none is named.
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
            .map(rows::ParameterRow::from)
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
