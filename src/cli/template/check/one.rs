//! The check of one template: its source, its modules, what a site has for it, and a plan.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use bytes::Bytes;
use tempfile::TempDir;

use super::{Check, Required, engine_report, shown, site, unchecked, usage};
use crate::{
    cli::{
        engine::EngineArgs,
        exit::{Interrupted, UsageError},
    },
    files::removal::Scratch,
    language,
    net::tls::Trust,
    registry::{DEFAULT_HOST, OPENTOFU_HOST},
    stop::Stop,
    template::{
        Picture,
        check::{self, Examined, Options, Sources, report::TemplateReport, settings::Settings},
        policy::Policies,
    },
    terraform::binary::{Binary, Kind},
};

/// Findings after which no engine can do anything.
const HOPELESS: [&str; 2] = ["syntax", "required-version"];

/// The check of one template.
pub(super) struct One<'a> {
    pub(super) args: &'a Check,
    pub(super) directory: &'a Path,
    /// Options about the engine, with the mirror of the settings.
    pub(super) engine: EngineArgs,
    pub(super) trust: Trust,
    pub(super) options: Options,
    pub(super) sources: Sources,
    pub(super) examined: Examined,
    /// Modules that were fetched, as an archive; empty for none.
    pub(super) modules: Bytes,
    pub(super) report: TemplateReport,
    pub(super) stop: &'a Stop,
    /// Directories of sessions and of fetched modules.
    pub(super) work: Scratch,
    /// Result of a plan, for policies.
    pub(super) picture: Option<Picture>,
    settings: Settings,
    binary: Option<&'a Binary>,
    began: Instant,
}

impl<'a> One<'a> {
    /// Reads the template's own files.
    pub(super) fn new(
        args: &'a Check,
        directory: &'a Path,
        settings: Settings,
        binary: Option<&'a Binary>,
        stop: &'a Stop,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mirror = settings.mirror.as_deref().map(|dir| settings.beside(dir));
        let engine = args.engine.or_mirror(mirror);
        let options = args.options(&settings, &engine, binary)?;
        let sources = Sources::read(directory, BTreeMap::new()).map_err(unchecked)?;
        if sources.is_empty() {
            let text = format!(
                "`{}` is not a template: it has no `.tf` files",
                directory.display()
            );
            return Err(UsageError(text).into());
        }
        crate::cli::template::check_variables(directory, &args.variables)?;
        let work = TempDir::with_prefix("outpost-check-").map_err(unchecked)?;
        Ok(Self {
            args,
            directory,
            engine,
            trust: args.trust.trust(),
            options,
            sources,
            examined: Examined::default(),
            modules: Bytes::new(),
            report: TemplateReport {
                directory: shown(directory),
                engine: binary.map(engine_report).unwrap_or_default(),
                ..TemplateReport::default()
            },
            stop,
            work: Scratch::waited_for(work),
            picture: None,
            settings,
            binary,
            began,
        })
    }

    /// Applies all rules, and returns the report with the files that it is about.
    pub(super) async fn check(mut self) -> anyhow::Result<(TemplateReport, Sources)> {
        let schemas = self.args.schemas.files(&self.settings)?;
        self.examine()?;
        if !self.examined.missing.is_empty() && !self.is_hopeless() {
            self.fetch().await?;
        }
        self.ask_the_site().await?;
        let missing = self.examined.missing.iter().map(|missing| {
            format!(
                "the module `{}` of `{}` is not at hand, and what is in it was not checked; `--mirror`, `--installed-modules` \
                 and `--online` say where modules come from",
                missing.source, missing.address
            )
        });
        let is_explained = !self.report.incomplete.is_empty();
        if !is_explained {
            self.report.incomplete.extend(missing);
        }
        if !self.args.source_only {
            let mocks = self.mocks(&schemas).await?;
            if !self.is_hopeless() && self.examined.missing.is_empty() {
                self.plan(mocks).await?;
            }
        }
        if self.stop.is_cancelled() {
            return Err(Interrupted.into());
        }
        self.judge()?;
        let checked = check::finish(&self.sources, self.examined.findings, &self.settings.rules);
        self.report.findings = checked.findings;
        self.report.suppressed = checked.suppressed;
        self.report.seconds = self.began.elapsed().as_secs_f64();
        Ok((self.report, self.sources))
    }

    /// Applies the rules that need no plan to the files that are at hand.
    pub(super) fn examine(&mut self) -> anyhow::Result<()> {
        self.examined = check::examine(&mut self.sources, &self.options).map_err(unchecked)?;
        self.report.resources = self.examined.resources;
        self.report.agents = self.examined.agents;
        Ok(())
    }

    fn is_hopeless(&self) -> bool {
        let mut findings = self.examined.findings.iter();
        self.examined.has_wrong_calls || findings.any(|it| HOPELESS.contains(&&*it.rule))
    }

    /// Asks the policies: about the plan, or about the source if there is none.
    fn judge(&mut self) -> anyhow::Result<()> {
        let dirs = self.args.policies_of(&self.settings);
        if dirs.is_empty() || self.is_hopeless() {
            return Ok(());
        }
        let picture = match self.picture.take() {
            Some(picture) => picture,
            None => Picture::of_source(&language::outline(self.directory).map_err(unchecked)?),
        };
        for dir in dirs {
            let mut policies = Policies::read(&dir).map_err(usage)?;
            let modules = &self.examined.modules;
            let found = check::verdicts(&mut policies, &self.sources, &picture, modules);
            self.examined.findings.extend(found.map_err(usage)?);
        }
        Ok(())
    }

    /// Asks the mirror and the server that were named, and applies the rules again to their answers.
    async fn ask_the_site(&mut self) -> anyhow::Result<()> {
        let is_sound = !self.examined.findings.iter().any(|it| it.rule == "syntax");
        if is_sound && let Some(mirror) = self.engine.named_mirror(&self.trust)? {
            let asked = site::lacks(
                &mirror,
                self.directory,
                &self.options,
                self.binary,
                &self.trust,
            );
            match asked.await {
                Ok(lacks) => self.options.lacks = lacks,
                Err(error) => {
                    let reason = format!("the mirror cannot be asked: {error:#}");
                    self.report.incomplete.push(reason);
                }
            }
        }
        if let Some(server) = &self.args.server {
            self.options.daemons = Some(site::daemons(self.args, server).await?);
        }
        match self.options.lacks.is_empty() && self.options.daemons.is_none() {
            true => Ok(()),
            false => self.examine(),
        }
    }

    /// The directory below which sessions have theirs.
    pub(super) fn sessions(&self) -> PathBuf {
        self.work.path().join("sessions")
    }
}

impl Check {
    /// Directories of policies, those of the settings first.
    pub(super) fn policies_of(&self, settings: &Settings) -> Vec<PathBuf> {
        let beside = settings.policies.iter().map(|dir| settings.beside(dir));
        beside.chain(self.policies.iter().cloned()).collect()
    }

    fn options(
        &self,
        settings: &Settings,
        engine: &EngineArgs,
        binary: Option<&Binary>,
    ) -> anyhow::Result<Options> {
        let given = self
            .variables
            .iter()
            .map(|pair| (pair.name.clone(), pair.value.clone()));
        let mut platforms = self.platforms.clone();
        for name in &settings.platforms {
            let platform = name.parse().map_err(|error| {
                usage(anyhow::Error::msg(format!(
                    "`{}`: {error}",
                    settings.path.display()
                )))
            })?;
            platforms.push(platform);
        }
        let is_tofu = binary.is_some_and(|binary| binary.kind == Kind::OpenTofu);
        Ok(Options {
            engine: binary.map(|binary| binary.version.clone()),
            default_host: if is_tofu { OPENTOFU_HOST } else { DEFAULT_HOST }.to_owned(),
            variables: settings
                .variables
                .clone()
                .into_iter()
                .chain(given)
                .collect(),
            platforms,
            requires_cost: self.require.contains(&Required::Cost)
                || settings.require.contains("cost"),
            is_sealed: engine.is_sealed() || engine.mirror_place().is_some(),
            force_new: settings.force_new.clone(),
            ..Options::default()
        })
    }
}
