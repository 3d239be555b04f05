//! The engines that scenarios are played with.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::{
    cli::{
        engine::{CoderProvider, EngineArgs},
        isolation::Guarded,
        template::check::planning,
    },
    net::tls::Trust,
    provision::Provisioner,
    registry::{DEFAULT_HOST, OPENTOFU_HOST},
    stop::Stop,
    template::{
        check::settings::Settings,
        mock::{Doubles, Schemas, StateServer},
        scenario::{Engines, PreparedEngine, Refusal, Scenario, give_values},
    },
    terraform::binary::Kind,
};

/// The engines for all scenarios of a command. The real one is made when the first run needs it.
pub(super) struct TestEngines<'a> {
    args: &'a EngineArgs,
    trust: &'a Trust,
    work: &'a Path,
    jobs: usize,
    stop: &'a Stop,
    /// The state that runs with mocks begin with; null for none.
    state: &'a serde_json::Value,
    real: OnceCell<Arc<dyn Provisioner>>,
    /// Host that providers without one come from.
    default_host: OnceCell<&'static str>,
    /// Number of engines with mocks, for the names of their directories.
    mocked: AtomicUsize,
}

impl<'a> TestEngines<'a> {
    pub(super) fn new(
        args: &'a EngineArgs,
        trust: &'a Trust,
        work: &'a Path,
        jobs: usize,
        stop: &'a Stop,
        state: &'a serde_json::Value,
    ) -> Self {
        Self {
            state,
            args,
            trust,
            work,
            jobs,
            stop,
            real: OnceCell::new(),
            default_host: OnceCell::new(),
            mocked: AtomicUsize::new(0),
        }
    }

    /// The engines for the template in a directory.
    pub(super) fn of(&'a self, template: &'a Template) -> TemplateEngines<'a> {
        TemplateEngines {
            all: self,
            template,
        }
    }

    async fn real(&self) -> Result<Arc<dyn Provisioner>, Refusal> {
        let made = self.real.get_or_try_init(|| async {
            let guarded = Guarded {
                jobs: self.jobs,
                are_foreign: false,
                hidden: Vec::new(),
            };
            let sessions = self.work.join("sessions");
            let engine = self.args.provisioner(
                CoderProvider::Builtin,
                sessions,
                guarded,
                self.trust,
                self.stop,
            );
            engine.await.map_err(unable)
        });
        made.await.cloned()
    }

    async fn default_host(&self) -> Result<&'static str, Refusal> {
        let host = self.default_host.get_or_try_init(|| async {
            let binary = self.args.installed(self.stop).await.map_err(unable)?;
            let is_tofu = binary.is_some_and(|binary| binary.kind == Kind::OpenTofu);
            Ok(if is_tofu { OPENTOFU_HOST } else { DEFAULT_HOST })
        });
        host.await.copied()
    }
}

fn unable(error: impl Into<anyhow::Error>) -> Refusal {
    Refusal::Unable(format!("{:#}", error.into()))
}

/// A template's directory, and what is known about its providers.
pub(super) struct Template {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    schemas: Schemas,
}

impl Template {
    /// Reads the settings of a template, and schemas from files.
    ///
    /// # Errors
    /// A usage error if a file of them cannot be used.
    pub(super) fn read(dir: &Path, schemas: &[PathBuf]) -> anyhow::Result<Self> {
        let settings = Settings::find(dir).map_err(planning::usage)?;
        Ok(Self {
            dir: dir.to_owned(),
            schemas: planning::schemas(schemas, &settings)?,
            settings,
        })
    }
}

/// The engines for one template.
pub(super) struct TemplateEngines<'a> {
    all: &'a TestEngines<'a>,
    template: &'a Template,
}

impl TemplateEngines<'_> {
    async fn doubles(&self, scenario: &Scenario) -> Result<Doubles, Refusal> {
        let template = self.template;
        let variables: Vec<_> = scenario
            .variables
            .iter()
            .map(|given| (given.name.clone(), given.text()))
            .collect();
        let host = self.all.default_host().await?;
        let force_new = &template.settings.force_new;
        let mut doubles =
            Doubles::of_template(&template.dir, &variables, host, force_new).map_err(unable)?;
        if let Some(module) = doubles.missing.first() {
            return Err(Refusal::Unable(format!(
                "`{}` would have to be fetched from `{}`",
                module.address, module.source
            )));
        }
        if let Some(call) = doubles.wrong.first() {
            return Err(Refusal::Unable(format!(
                "{call}; correct the module's `source`"
            )));
        }
        doubles.use_schemas(&template.schemas);
        doubles.adopt_state(self.all.state);
        give_values(scenario, &mut doubles).map_err(Refusal::Scenario)?;
        Ok(doubles)
    }
}

#[async_trait]
impl Engines for TemplateEngines<'_> {
    async fn real(&self) -> Result<Arc<dyn Provisioner>, Refusal> {
        self.all.real().await
    }

    async fn mocked(
        &self,
        scenario: &Scenario,
        template: Bytes,
    ) -> Result<PreparedEngine, Refusal> {
        let doubles = self.doubles(scenario).await?;
        let states = match doubles.is_large {
            true => Some(StateServer::start().await.map_err(unable)?),
            false => None,
        };
        let template = doubles
            .prepare(&template, states.as_ref())
            .map_err(unable)?;
        let all = self.all;
        let number = all.mocked.fetch_add(1, Ordering::Relaxed);
        let sessions = all.work.join(format!("mocked-{number}"));
        let found = all
            .args
            .mocked(sessions, all.trust, doubles.mocks, false, all.stop);
        Ok(PreparedEngine {
            engine: found.await.map_err(unable)?.provisioner,
            template,
            states,
        })
    }
}
