//! The part of a check that an engine does: a plan with mocked providers.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use super::{Check, usage};
use crate::{
    cli::exit::Hint as _,
    files::{archive, removal::Scratch},
    job::VariableValue,
    secret::Secret,
    stop::Stop,
    template::{
        check::{
            self, Examined, Options, Sources,
            report::{Mocked, SchemaSource, TemplateReport},
            settings::Settings,
        },
        mock::{self, Mock, Schemas},
    },
};

/// An engine's complaint about a value that was made up for a variable without one.
const OF_VARIABLES: &str = "Invalid value for variable";

/// Schemas of all files that are named.
pub(super) fn schemas(files: &[PathBuf], settings: &Settings) -> anyhow::Result<Schemas> {
    let mut all = Schemas::default();
    let beside = settings.schemas.iter().map(|path| settings.beside(path));
    for path in beside.chain(files.iter().cloned()) {
        let failed = || format!("the file of schemas `{}` cannot be used", path.display());
        let json = std::fs::read(&path).with_context(failed).map_err(usage)?;
        let parsed = Schemas::parse(&json).with_context(failed).map_err(usage);
        let parsed = parsed.hint("write one with `terraform providers schema -json > FILE` in a template that uses the provider")?;
        all.provider_schemas.extend(parsed.provider_schemas);
    }
    Ok(all)
}

/// Gives mocks the schemas that are known, and notes where each comes from.
pub(super) fn with_schemas(
    mocks: Vec<Mock>,
    schemas: &Schemas,
    report: &mut TemplateReport,
) -> Vec<Mock> {
    let mut known = Vec::new();
    for mut mock in mocks {
        let source = mock.addr.to_string();
        let schema = match schemas.provider_schemas.get(&source) {
            Some(schema) => {
                mock.schema = schema.clone();
                SchemaSource::File
            }
            None => SchemaSource::Inferred,
        };
        report.mocked_providers.push(Mocked { source, schema });
        known.push(mock);
    }
    known
}

impl Check {
    /// Plans a template, and adds what the engine complains of. What the source alone makes impossible is not planned.
    #[expect(clippy::too_many_arguments, reason = "each is a part of one check")]
    pub(super) async fn plan(
        &self,
        directory: &Path,
        sources: &Sources,
        options: &Options,
        examined: &mut Examined,
        mocks: Vec<Mock>,
        report: &mut TemplateReport,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let hopeless = ["syntax", "required-version"];
        let is_hopeless = examined
            .findings
            .iter()
            .any(|it| hopeless.contains(&it.rule));
        if is_hopeless || !examined.missing.is_empty() && !self.online {
            return Ok(());
        }
        // Nothing is downloaded.
        if report.engine.name.is_empty() && self.engine.mirror_place().is_none() {
            let text = "there is no engine: install Terraform or OpenTofu, name one with `--engine`, or check with `--source-only`";
            report.incomplete.push(text.to_owned());
            return Ok(());
        }
        let archive = match archive::pack_template(directory) {
            Ok(archive) => mock::prepare(&archive, examined.has_backend)
                .context("failed to pack the template")?,
            Err(error) => {
                report
                    .incomplete
                    .push(format!("the template cannot be packed: {error}"));
                return Ok(());
            }
        };
        let work = TempDir::with_prefix("outpost-check-")
            .context("failed to make a directory for the engine")?;
        let work = Scratch::waited_for(work);
        let sessions = work.path().join("sessions");
        let trust = self.trust.trust();
        let engine = match self
            .engine
            .mocked(sessions, &trust, mocks, self.online, stop)
            .await
        {
            Ok(engine) => engine,
            Err(error) => {
                report
                    .incomplete
                    .push(format!("there is no plan: {error:#}"));
                return Ok(());
            }
        };
        let variables: Vec<VariableValue> = options
            .variables
            .iter()
            .chain(&examined.made_up)
            .map(variable)
            .collect();
        match check::plan(engine.provisioner.as_ref(), archive, &variables, stop).await {
            Ok(planned) => {
                let is_ours = |problem: &&check::Problem| {
                    examined.made_up.is_empty() || !problem.summary.contains(OF_VARIABLES)
                };
                let problems: Vec<_> = planned.problems.iter().filter(is_ours).cloned().collect();
                let found = check::complaints(sources, &examined.findings, &problems);
                examined.findings.extend(found);
                report.resources = planned.resources.unwrap_or(report.resources);
                report.agents = planned.agents.unwrap_or(report.agents);
            }
            Err(_) if stop.is_cancelled() => return Err(crate::cli::exit::Interrupted.into()),
            Err(failure) => report
                .incomplete
                .push(format!("the engine failed: {failure}")),
        }
        Ok(())
    }
}

fn variable((name, value): &(String, String)) -> VariableValue {
    VariableValue {
        name: name.clone(),
        value: Secret::new(value.clone()),
        sensitive: false,
    }
}
