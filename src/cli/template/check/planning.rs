//! The part of a check that an engine does: a plan with mocked providers.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context;
use bytes::Bytes;

pub(in crate::cli::template) use super::usage;
use super::{engine_report, one::One};
use crate::{
    cli::{
        engine::Found,
        exit::{Hint as _, Interrupted, UsageError},
        template::schemas::{Asking, needs},
    },
    files::archive,
    job::VariableValue,
    secret::Secret,
    template::{
        check::{
            self, Archives, Planned, Problem,
            report::{Mocked, SchemaSource, TemplateReport},
            settings::Settings,
        },
        mock::{self, Mock, Schemas},
    },
};

/// An engine's complaint about a value that was made up for a variable without one.
const OF_VARIABLES: &str = "Invalid value for variable";

/// Schemas of all files that are named.
pub(in crate::cli::template) fn schemas(
    files: &[PathBuf],
    settings: &Settings,
) -> anyhow::Result<Schemas> {
    let mut all = Schemas::default();
    let beside = settings.schemas.iter().map(|path| settings.beside(path));
    for path in beside.chain(files.iter().cloned()) {
        let failed = || format!("the file of schemas `{}` cannot be used", path.display());
        let json = std::fs::read(&path).with_context(failed).map_err(usage)?;
        let parsed = Schemas::parse(&json).with_context(failed).map_err(usage);
        let parsed = parsed.hint("write one with `outpost template schema export`")?;
        all.provider_schemas.extend(parsed.provider_schemas);
    }
    Ok(all)
}

/// Gives mocks the schemas that are known, those of the providers themselves first, and notes where each comes from.
pub(super) fn give_schemas(
    mocks: &mut [Mock],
    asked: &Schemas,
    files: &Schemas,
    report: &mut TemplateReport,
) {
    for mock in mocks {
        let schema = match (mock.adopt(asked), mock.is_inferred) {
            (true, _) => SchemaSource::Store,
            (false, true) if mock.adopt(files) => SchemaSource::File,
            (false, _) => SchemaSource::Inferred,
        };
        let source = mock.addr.to_string();
        report.mocked_providers.push(Mocked { source, schema });
    }
}

impl One<'_> {
    /// Mocks with the schemas of the providers that are at hand, of files, or of the template's use of them.
    pub(super) async fn mocks(&mut self, files: &Schemas) -> anyhow::Result<Vec<Mock>> {
        let mut mocks = std::mem::take(&mut self.examined.mocks);
        let asking = Asking {
            engine: &self.engine,
            trust: &self.trust,
            work: self.sessions(),
            template: self.directory,
            default_host: &self.options.default_host,
            stop: self.stop,
        };
        let needs = needs(&mocks, self.directory);
        let asked = match self.args.schemas.asked(&needs, &asking).await {
            Ok(asked) => asked,
            Err(error) if UsageError::is_in(&error) => return Err(error),
            Err(_) if self.stop.is_cancelled() => return Err(Interrupted.into()),
            Err(error) => {
                self.report.incomplete.push(format!("{error:#}"));
                Schemas::default()
            }
        };
        give_schemas(&mut mocks, &asked, files, &mut self.report);
        Ok(mocks)
    }

    /// The template as mocks need it.
    pub(super) fn packed(&self) -> anyhow::Result<Result<Bytes, String>> {
        match archive::pack_template(self.directory) {
            Ok(archive) => {
                let prepared = mock::prepare(&archive, self.examined.has_backend);
                Ok(Ok(prepared.context("failed to pack the template")?))
            }
            Err(error) => {
                let hint = error
                    .hint()
                    .map_or_else(String::new, |hint| format!("; {hint}"));
                Ok(Err(format!("the template cannot be packed: {error}{hint}")))
            }
        }
    }

    /// An engine with mocks.
    pub(super) async fn mocked(&self, mocks: Vec<Mock>) -> anyhow::Result<Found> {
        let sessions = self.sessions();
        let engine = self
            .engine
            .mocked(sessions, &self.trust, mocks, self.args.online, self.stop);
        engine.await
    }

    /// Plans the template, and adds what the engine complains of.
    pub(super) async fn plan(&mut self, mocks: Vec<Mock>) -> anyhow::Result<()> {
        // Nothing is downloaded.
        if self.report.engine.name.is_empty() && self.engine.mirror_place().is_none() {
            let text = "there is no engine: install Terraform or OpenTofu, name one with `--engine`, or check with `--source-only`";
            self.report.incomplete.push(text.to_owned());
            return Ok(());
        }
        let template = match self.packed()? {
            Ok(template) => template,
            Err(reason) => {
                self.report.incomplete.push(reason);
                return Ok(());
            }
        };
        let mocked = check::mocked_types(&mocks);
        let engine = match self.mocked(mocks).await {
            Ok(engine) => engine,
            Err(error) => {
                let reason = format!("there is no plan: {error:#}");
                self.report.incomplete.push(reason);
                return Ok(());
            }
        };
        self.report.engine = engine_report(&engine.binary);
        let given = self.options.variables.iter();
        let variables: Vec<_> = given.chain(&self.examined.made_up).map(variable).collect();
        let archives = Archives {
            template,
            modules: self.modules.clone(),
        };
        let planned =
            check::plan(engine.provisioner.as_ref(), archives, &variables, self.stop).await;
        match planned {
            Ok(planned) => self.take(planned, &mocked),
            Err(_) if self.stop.is_cancelled() => return Err(Interrupted.into()),
            Err(failure) => {
                let reason = format!("the engine failed: {failure}");
                self.report.incomplete.push(reason);
            }
        }
        Ok(())
    }

    /// Adds what a plan has found.
    fn take(&mut self, planned: Planned, mocked: &BTreeSet<String>) {
        let is_ours = |problem: &Problem| {
            self.examined.made_up.is_empty() || !problem.summary.contains(OF_VARIABLES)
        };
        let problems: Vec<_> = planned.problems.into_iter().filter(is_ours).collect();
        let mut unfounded = Vec::new();
        let found = check::complaints(
            &self.sources,
            &self.examined.findings,
            &problems,
            mocked,
            &mut unfounded,
        );
        self.report.incomplete.extend(unfounded.iter().map(|place| {
            format!(
                "at {}:{} a function refuses a value that a mock made up, so what follows from it was not planned",
                place.file, place.line
            )
        }));
        self.examined.findings.extend(found);
        let state = planned.large_state.as_ref();
        let large =
            state.and_then(|it| check::too_large(&self.sources, &self.examined.findings, it));
        self.examined.findings.extend(large);
        self.picture = planned.picture;
        self.report.resources = planned.resources.unwrap_or(self.report.resources);
        self.report.agents = planned.agents.unwrap_or(self.report.agents);
    }
}

fn variable((name, value): &(String, String)) -> VariableValue {
    VariableValue {
        name: name.clone(),
        value: Secret::new(value.clone()),
        sensitive: false,
    }
}
