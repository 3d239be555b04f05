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
use tokio::{runtime::Handle, sync::OnceCell, task::spawn_blocking};

use super::agents::ScenarioServer;
use crate::{
    cli::{
        engine::{CoderProvider, EngineArgs, Mocks},
        isolation::Guarded,
        template::{
            check::planning,
            schemas::{Asking, ProviderSources, SchemaArgs, needs},
        },
    },
    net::tls::Trust,
    provision::Provisioner,
    registry::{DEFAULT_HOST, OPENTOFU_HOST},
    stop::Stop,
    template::{
        check::settings::Settings,
        mock::{Doubles, Mock, Schemas, StateServer},
        scenario::{Agents, Engines, PreparedEngine, Refusal, Scenario, give_values},
    },
    terraform::binary::Kind,
};

/// The engines for all scenarios of a command. The real one is made when the first run needs it.
pub(in crate::cli::template) struct TestEngines<'a> {
    args: &'a EngineArgs,
    providers: ProviderSources<'a>,
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
    pub(in crate::cli::template) fn new(
        args: &'a EngineArgs,
        providers: ProviderSources<'a>,
        trust: &'a Trust,
        work: &'a Path,
        jobs: usize,
        stop: &'a Stop,
        state: &'a serde_json::Value,
    ) -> Self {
        Self {
            state,
            args,
            providers,
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
    pub(in crate::cli::template) fn of(&'a self, template: &'a Template) -> TemplateEngines<'a> {
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
pub(in crate::cli::template) struct Template {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    files: Schemas,
    /// Schemas of providers themselves, which are asked for the first scenario.
    asked: OnceCell<Schemas>,
}

impl Template {
    /// Reads the settings of a template, and schemas from files.
    ///
    /// # Errors
    /// A usage error if a file of them cannot be used.
    pub(in crate::cli::template) fn read(dir: &Path, schemas: &SchemaArgs) -> anyhow::Result<Self> {
        let settings = Settings::find(dir).map_err(planning::usage)?;
        Ok(Self {
            dir: dir.to_owned(),
            files: schemas.files(&settings)?,
            asked: OnceCell::new(),
            settings,
        })
    }
}

/// The engines for one template.
pub(in crate::cli::template) struct TemplateEngines<'a> {
    all: &'a TestEngines<'a>,
    template: &'a Template,
}

impl TemplateEngines<'_> {
    fn asking(&self, host: &'static str) -> Asking<'_> {
        let number = self.all.mocked.fetch_add(1, Ordering::Relaxed);
        Asking {
            engine: self.all.args,
            trust: self.all.trust,
            work: self.all.work.join(format!("schemas-{number}")),
            template: &self.template.dir,
            default_host: host,
            stop: self.all.stop,
        }
    }

    async fn asked(&self, mocks: &[Mock], host: &'static str) -> Result<&Schemas, Refusal> {
        let asked = self.template.asked.get_or_try_init(|| async {
            let needs = needs(mocks, &self.template.dir);
            let asking = self.asking(host);
            let asked = self.all.providers.asked(needs, &asking).await;
            asked.map_err(unable)
        });
        asked.await
    }

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
        doubles.use_schemas(&template.files);
        let asked = self.asked(&doubles.mocks, host).await?;
        doubles.use_schemas(asked);
        self.all.providers.pin(&mut doubles.mocks);
        doubles.adopt_state(self.all.state);
        give_values(scenario, &mut doubles).map_err(Refusal::Scenario)?;
        Ok(doubles)
    }
}

#[async_trait]
impl Engines for TemplateEngines<'_> {
    async fn real(&self) -> Result<Arc<dyn Provisioner>, Refusal> {
        match self.all.providers.pins.is_empty() {
            true => self.all.real().await,
            false => {
                let text = "runs with `apply` take the providers that the template's lock file names: leave out `--provider`";
                Err(Refusal::Unable(text.to_owned()))
            }
        }
    }

    async fn agents(&self, scenario: &Scenario) -> Result<Arc<dyn Agents>, Refusal> {
        let (workspace, stop) = (scenario.workspace.clone(), self.all.stop.clone());
        let runtime = Handle::current();
        // The compiler cannot tell that another thread may go on with the start of a server.
        let start = move || runtime.block_on(ScenarioServer::start(&workspace, &stop));
        let server = spawn_blocking(start).await.map_err(unable)?;
        Ok(Arc::new(server.map_err(unable)?))
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
        let host = all.default_host().await?;
        let real = all
            .providers
            .real(&self.asking(host))
            .await
            .map_err(unable)?;
        let found = all.args.mocked_with(
            sessions,
            all.trust,
            Mocks {
                mocks: doubles.mocks,
                real,
                is_online: false,
            },
            all.stop,
        );
        Ok(PreparedEngine {
            engine: found.await.map_err(unable)?.provisioner,
            template,
            states,
        })
    }
}
