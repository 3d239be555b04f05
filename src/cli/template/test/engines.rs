//! The engines that scenarios are played with.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::{
    cli::{
        engine::{CoderProvider, EngineArgs},
        isolation::Guarded,
    },
    language::{ModuleCall, backend, load, module_calls, required_providers_of_tree},
    net::tls::Trust,
    provision::Provisioner,
    registry::{DEFAULT_HOST, OPENTOFU_HOST, ProviderAddr},
    stop::Stop,
    template::scenario::{Engines, Problem, Refusal, Scenario},
};

/// One engine for all scenarios of a command, made when the first one needs it.
pub(super) struct TestEngines<'a> {
    args: &'a EngineArgs,
    trust: &'a Trust,
    work: &'a Path,
    jobs: usize,
    stop: &'a Stop,
    engine: OnceCell<Arc<dyn Provisioner>>,
}

impl<'a> TestEngines<'a> {
    pub(super) fn new(
        args: &'a EngineArgs,
        trust: &'a Trust,
        work: &'a Path,
        jobs: usize,
        stop: &'a Stop,
    ) -> Self {
        Self {
            args,
            trust,
            work,
            jobs,
            stop,
            engine: OnceCell::new(),
        }
    }

    /// The engines for the template in a directory.
    pub(super) fn of(&'a self, template: &Path) -> TemplateEngines<'a> {
        TemplateEngines {
            all: self,
            template: template.to_owned(),
        }
    }

    async fn engine(&self) -> Result<Arc<dyn Provisioner>, Refusal> {
        let made = self.engine.get_or_try_init(|| async {
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
            engine
                .await
                .map_err(|error| Refusal::Unable(format!("{error:#}")))
        });
        made.await.cloned()
    }
}

/// The engines for one template.
pub(super) struct TemplateEngines<'a> {
    all: &'a TestEngines<'a>,
    template: PathBuf,
}

#[async_trait]
impl Engines for TemplateEngines<'_> {
    async fn real(&self) -> Result<Arc<dyn Provisioner>, Refusal> {
        self.all.engine().await
    }

    /// A template whose providers all come with this program or with the engine needs no mock.
    async fn mocked(&self, scenario: &Scenario) -> Result<Arc<dyn Provisioner>, Refusal> {
        if let Some(reason) = needs_mocks(&self.template) {
            return Err(Refusal::Unable(reason));
        }
        let problems = scenario.mocks.iter().map(|mock| Problem {
            place: mock.place.clone(),
            message: format!("`{}` is of no mocked provider of this template", mock.kind),
        });
        match problems.collect::<Vec<_>>() {
            problems if problems.is_empty() => self.all.engine().await,
            problems => Err(Refusal::Scenario(problems)),
        }
    }
}

/// Returns why a template cannot be built without mocks. The engine complains of one that cannot be read.
fn needs_mocks(template: &Path) -> Option<String> {
    if backend(&load(template).ok()?).is_some() {
        return Some("the template names a backend, which would have to be asked".to_owned());
    }
    if let Some(call) = fetched(template) {
        return Some(format!(
            "module `{}` would have to be fetched from `{}`",
            call.name, call.source
        ));
    }
    let providers = required_providers_of_tree(template, DEFAULT_HOST).ok()?;
    let foreign = providers.keys().find(|addr| !is_ours(addr))?;
    Some(format!(
        "provider `{foreign}` would have to be replaced by a mock; a run with `apply = true` uses the real one"
    ))
}

/// Tells whether a provider comes with this program or with the engine.
fn is_ours(addr: &ProviderAddr) -> bool {
    let hosts = [DEFAULT_HOST, OPENTOFU_HOST];
    addr.is_builtin()
        || hosts
            .iter()
            .any(|host| addr.to_string() == format!("{host}/coder/coder"))
}

/// The first module that the template or a local module of it would have to fetch.
fn fetched(template: &Path) -> Option<ModuleCall> {
    let (mut open, mut seen) = (vec![template.to_owned()], BTreeSet::new());
    while let Some(dir) = open.pop() {
        let Ok(dir) = dir.canonicalize() else {
            continue;
        };
        if !seen.insert(dir.clone()) {
            continue;
        }
        let Ok(module) = load(dir.as_path()) else {
            continue;
        };
        for call in module_calls(&module) {
            match call.is_local() {
                true => open.push(dir.join(&call.source)),
                false => return Some(call),
            }
        }
    }
    None
}
