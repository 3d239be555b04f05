//! `outpost template check`.

mod all;
mod changed;
mod modules;
mod one;
pub(super) mod planning;
mod reports;
pub(super) mod site;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Parser as _;
use url::Url;

use self::reports::ReportTo;
use super::result_cache::CacheArgs;
use crate::{
    cli::{
        engine::EngineArgs,
        exit::{FindingsReported, Hint as _, Unchecked, UsageError},
        output::Wanted,
        remote::{EngineTrust, Pair},
        template::schemas::SchemaArgs,
    },
    registry::Platform,
    stop::Stop,
    template::check::{
        Finding, Severity,
        baseline::{Baseline, Entry},
        report::{EngineReport, Format, Report},
    },
    terraform::binary::{Binary, Kind},
};

/// Check templates without a server
///
/// Finds what a push, an import or a build would refuse, and problems that users would hit later. Each finding names its
/// location in the template's own files, and a fix. Nothing of a template runs. `outpost template rules` lists the rules, and a comment
/// accepts a finding: `# outpost:ignore RULE reason`. Settings are in `outpost-template.toml`, beside the template or above.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Check {
    /// Directories of templates
    #[arg(value_name = "DIR", default_value = ".")]
    directories: Vec<PathBuf>,
    /// Also write a report to a file: table, json, sarif, junit, gitlab or github
    #[arg(long = "report", value_name = "FORMAT=FILE")]
    reports: Vec<ReportTo>,
    /// Lowest severity that makes the command fail
    #[arg(long, value_name = "SEVERITY", default_value = "error")]
    fail_on: FailOn,
    /// Accept the findings in this file
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write all findings to a baseline, and succeed
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    write_baseline: Option<PathBuf>,
    /// Check only templates whose files changed in git since this commit
    #[arg(long, value_name = "REF")]
    changed_since: Option<String>,
    /// Value of a Terraform variable
    #[arg(long = "variable", alias = "var", value_name = "NAME=VALUE")]
    variables: Vec<Pair>,
    /// Platform that the lock file must cover, such as linux_arm64
    #[arg(long = "platform", value_name = "OS_ARCH")]
    platforms: Vec<Platform>,
    /// Additional requirement: `cost`, a `daily_cost` for each resource with an agent
    #[arg(long, value_name = "REQUIREMENT")]
    require: Vec<Required>,
    #[command(flatten)]
    schemas: SchemaArgs,
    /// Directory with policies in Rego: rules `deny` and `warn` of `package outpost.template`
    #[arg(long = "policy", value_name = "DIR")]
    policies: Vec<PathBuf>,
    /// Fetch modules from their sources, unless a mirror has them
    #[arg(long)]
    online: bool,
    /// Use the modules that `terraform init` or `terraform get` left in the template's directory
    #[arg(long, conflicts_with = "online")]
    installed_modules: bool,
    /// Compare workspace tags with the daemons of this server; needs a token
    #[arg(long, value_name = "URL")]
    server: Option<Url>,
    /// File with the token for `--server` [default: $CODER_SESSION_TOKEN]
    #[arg(long, value_name = "FILE", requires = "server")]
    server_token_file: Option<PathBuf>,
    /// Apply only rules that need no plan
    #[arg(long)]
    source_only: bool,
    /// Number of templates checked at a time [default: one for each core, at most 4; fewer if memory is short]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
}

/// A check without options of its own.
#[derive(Debug, clap::Parser)]
struct Alone {
    #[command(flatten)]
    check: Check,
}

/// Checks a template before something else is done with it, and says on stderr what was found.
///
/// # Errors
/// If there is an error in it, or it could not be checked to the end.
pub(super) async fn pass(dir: &Path, variables: &[Pair], stop: &Stop) -> anyhow::Result<()> {
    let given = variables
        .iter()
        .map(|pair| format!("--variable={}={}", pair.name, pair.value).into());
    let arguments = [OsString::from("check")].into_iter().chain(given);
    let arguments = arguments.chain(["--".into(), dir.as_os_str().to_owned()]);
    let check = Alone::try_parse_from(arguments)?.check;
    let report = check.run(stop).await?;
    let least = check.fail_on.least();
    let text = report.render(Format::Table, least, false);
    crate::cli::output::note(text.trim_end());
    verdict(&report, least)
}

/// Lowest severity that makes the command fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Note,
    Never,
}

/// Additional requirements of every template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Required {
    Cost,
}

impl FailOn {
    fn least(self) -> Option<Severity> {
        match self {
            Self::Error => Some(Severity::Error),
            Self::Warning => Some(Severity::Warning),
            Self::Note => Some(Severity::Note),
            Self::Never => None,
        }
    }
}

/// A baseline, with its own text for places.
struct Accepted {
    baseline: Baseline,
    file: String,
    text: String,
}

impl Check {
    pub(in crate::cli) async fn exec(self, wanted: Wanted, stop: Stop) -> anyhow::Result<()> {
        let report = self.run(&stop).await?;
        if let Some(path) = &self.write_baseline {
            return write_baseline(path, &report);
        }
        let least = self.fail_on.least();
        reports::write(&report, &self.reports, wanted, least)?;
        verdict(&report, least)
    }

    async fn run(&self, stop: &Stop) -> anyhow::Result<Report> {
        let accepted = self.baseline.as_deref().map(Accepted::read).transpose()?;
        let mut templates = all::check(self, &self.chosen()?, stop).await?;
        let mut used = BTreeSet::new();
        for report in &mut templates {
            if let Some(accepted) = &accepted {
                let findings = std::mem::take(&mut report.findings);
                let (remaining, suppressed) = accepted.baseline.apply(findings, &mut used);
                report.findings = remaining;
                report.suppressed.extend(suppressed);
            }
        }
        if let (Some(accepted), Some(first)) = (&accepted, templates.first_mut()) {
            first.findings.extend(accepted.unused(&used));
        }
        Ok(Report::new(templates))
    }

    /// The templates to check: those that were named, without those that did not change.
    fn chosen(&self) -> anyhow::Result<Vec<PathBuf>> {
        for directory in &self.directories {
            if !directory.is_dir() {
                let text = format!("`{}` is no directory", directory.display());
                return Err(UsageError(text)).hint("name directories that have `.tf` files");
            }
        }
        let Some(since) = &self.changed_since else {
            return Ok(self.directories.clone());
        };
        let mut chosen = Vec::new();
        for directory in &self.directories {
            if changed::is_changed(directory, since)? {
                chosen.push(directory.clone());
            }
        }
        Ok(chosen)
    }
}

impl Accepted {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("`--baseline {}`", path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|error| usage(anyhow::Error::msg(format!("{}: {error}", failed()))))
            .hint("write one with `--write-baseline FILE`")?;
        let baseline = Baseline::parse(&text)
            .map_err(|error| usage(anyhow::Error::from(error).context(failed())))?;
        Ok(Self {
            baseline,
            file: shown(path),
            text,
        })
    }

    fn unused(&self, used: &BTreeSet<Entry>) -> Vec<Finding> {
        self.baseline.unused(used, &self.file, &self.text)
    }
}

fn engine_report(binary: &Binary) -> EngineReport {
    let name = match binary.kind {
        Kind::Terraform => "terraform",
        Kind::OpenTofu => "tofu",
    };
    EngineReport {
        name: name.to_owned(),
        version: binary.version.to_string(),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

/// A setting that cannot be used, with all of its reasons.
pub(in crate::cli::template) fn usage(error: impl Into<anyhow::Error> + Send) -> anyhow::Error {
    let error: anyhow::Error = error.into();
    UsageError(format!("{error:#}")).into()
}

fn unchecked(error: impl Into<anyhow::Error>) -> anyhow::Error {
    Unchecked(format!(": {:#}", error.into())).into()
}

fn write_baseline(path: &Path, report: &Report) -> anyhow::Result<()> {
    let findings = report
        .templates
        .iter()
        .flat_map(|template| &template.findings);
    std::fs::write(path, Baseline::of(findings).to_json())
        .with_context(|| format!("failed to write the baseline `{}`", path.display()))?;
    crate::cli::output::note(&format!("Wrote the baseline {}.", path.display()));
    Ok(())
}

/// Decides how the command ends.
fn verdict(report: &Report, least: Option<Severity>) -> anyhow::Result<()> {
    if report
        .templates
        .iter()
        .any(|template| !template.incomplete.is_empty())
    {
        return Err(Unchecked(String::new()).into());
    }
    match least {
        Some(least) if report.summary.reaches(least) => {
            Err(FindingsReported(least.as_str()).into())
        }
        _ => Ok(()),
    }
}
