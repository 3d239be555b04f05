//! A session with the engine for one job: a directory, and a process for each step.
//!
//! # Source
//! coder `provisioner/terraform/{provision,executor}.go`.

mod files;
mod init;
mod remedy;
mod run;
mod watch;

use std::{
    collections::BTreeSet,
    io,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::{
    error_chain::error_chain,
    job::{self, LogLevel, PrebuiltStage, Timing, Transition},
    stop::Stop,
};
use outpost_files::{archive, beneath::within, module_archive, removal::Scratch};
use outpost_process::{
    self as process, Captured, Shim,
    control_group::ControlGroup,
    isolation::{Background, Confinement, Denied, Mechanism},
};
use outpost_provision::{
    self as provision, ApplyComplete, ApplyObserver, ApplyRequest, GraphComplete, GraphSource,
    InitComplete, InitRequest, LogEntry, LogSink, ParseComplete, PlanComplete, PlanRequest,
    SessionConfig, StepFailure,
};
use tracing::warn;

pub(super) use self::files::Files;
use self::run::{Runner, StepOutput};
use super::{
    EngineConfig, Environment, FailedInit, Isolation, Presented,
    binary::{self, Binary},
    configuration::Configuration,
    graph::Graph,
    home,
    leftovers::Variables,
    log_stream,
    plan::{Module, Plan},
    plugin_cache, replacements, resources,
    state::State,
    state_file::{self, Candidates},
    template,
    timings::Timings,
};

/// Prefix of the names of all session directories.
pub(super) const PREFIX: &str = "Session";

const PLAN: &str = "terraform.tfplan";

/// Environment variable with the path of git's global settings.
const GIT_CONFIG: &str = "GIT_CONFIG_GLOBAL";

/// Environment variable with the directory for temporary files.
const TEMPORARY: &str = "TMPDIR";

/// Time limit for unpacking a template and its modules, and for packing the modules that init fetched.
const ARCHIVE_DEADLINE: Duration = Duration::from_secs(300);

/// Maximum output of `show` in bytes.
const MAX_JSON_BYTES: usize = 256 << 20;

/// Message for the log if there is nothing to destroy; people know the words from Coder.
const NOTHING_TO_DO: &str = "The terraform state does not exist, there is nothing to do";

/// A session of Terraform or OpenTofu.
pub(super) struct Session {
    engine: Arc<EngineConfig>,
    binary: Binary,
    config: SessionConfig,
    files: Files,
    /// Directory for temporary files, if isolation leaves no other place.
    temporary: Option<Scratch>,
    /// Control group of all its processes, if isolation provides one.
    control_group: Option<Arc<ControlGroup>>,
    presented: Presented,
    /// Repositories that git fetches from their own hosts, although a mirror's rules match them.
    elsewhere: BTreeSet<String>,
    /// Plugin cache that only this session uses.
    own_cache: Option<PathBuf>,
    /// `true` if the template contains a lock file.
    has_own_lock: bool,
    /// `true` if init ends once the modules are there.
    only_modules: bool,
    planned: Option<Planned>,
    /// The graph, which depends only on the template, so that the one from before apply is also valid after it.
    drawn: Option<Drawn>,
    /// Warnings of conversions that are already in the log.
    warned: BTreeSet<String>,
    /// Observer of the following apply.
    observer: Option<Arc<dyn ApplyObserver>>,
    /// Newest state that was seen in the file during apply.
    seen: Option<Bytes>,
    /// `true` once the close has dealt with its directories.
    is_closed: bool,
    engine_time: Duration,
}

/// Result of drawing the graph.
struct Drawn {
    graph: Result<Graph, StepFailure>,
    /// Errors that the engine printed.
    said: String,
    timings: Vec<Timing>,
    took: Duration,
}

/// Results of the last plan that apply and graph need.
struct Planned {
    request: PlanRequest,
    modules: Vec<Module>,
    configuration: Configuration,
    /// `true` if everything should be destroyed and there is no state.
    is_nothing: bool,
}

/// Drops lines below the requested level.
struct Filter {
    log: Arc<dyn LogSink>,
    lowest: LogLevel,
}

impl LogSink for Filter {
    fn log(&self, level: LogLevel, output: String) {
        if level >= self.lowest {
            self.log.log(level, output);
        }
    }

    fn log_entry(&self, entry: LogEntry) {
        if entry.level >= self.lowest {
            self.log.log_entry(entry);
        }
    }
}

impl Session {
    pub(super) async fn create(
        engine: Arc<EngineConfig>,
        binary: Binary,
        config: SessionConfig,
        name: &str,
    ) -> io::Result<Self> {
        let memory = config.memory.limit();
        let files = Files::create(&engine.work_dir, name).await?;
        let mut session = Self::at(engine, binary, config, files)?;
        if let Some(path) = session.own_git_config() {
            let settings = session.engine.environment.get("XDG_CONFIG_HOME");
            let text = home::git_config(settings.map(Path::new));
            session.files.write_private(path, text).await?;
        }
        if let Some(isolation) = &session.engine.isolation {
            isolation.modes.restore();
            session.control_group = isolation.control_group(name, memory)?;
        }
        Ok(session)
    }

    /// Returns a session in existing directories.
    fn at(
        engine: Arc<EngineConfig>,
        binary: Binary,
        config: SessionConfig,
        files: Files,
    ) -> io::Result<Self> {
        let mut session = Self {
            engine,
            binary,
            config,
            files,
            temporary: None,
            control_group: None,
            presented: Presented::default(),
            elsewhere: BTreeSet::new(),
            own_cache: None,
            has_own_lock: false,
            only_modules: false,
            planned: None,
            drawn: None,
            warned: BTreeSet::new(),
            observer: None,
            seen: None,
            is_closed: false,
            engine_time: Duration::ZERO,
        };
        session.temporary = session.make_temporary().map_err(io::Error::other)?;
        Ok(session)
    }

    fn filtered(&self, log: Arc<dyn LogSink>) -> Arc<dyn LogSink> {
        match self.config.log_level {
            Some(lowest) => Arc::new(Filter { log, lowest }),
            None => log,
        }
    }

    /// Returns the environment of init, show and graph.
    fn environment(&self) -> Environment {
        let mut environment = self.engine.environment.clone();
        environment.remove_tokens(&self.presented.replaced_hosts);
        if self.presented.has_links {
            environment.remove(plugin_cache::DIR);
        }
        if let Some(cache) = &self.own_cache {
            environment.set(plugin_cache::DIR, cache);
        }
        if !self.has_own_lock {
            // The lock file that init creates ends with the session.
            environment.set(plugin_cache::MAY_BREAK_LOCK, "1");
        }
        for (name, value) in &self.presented.env {
            environment.set(name, value);
        }
        if let Some(temporary) = &self.temporary {
            environment.set(TEMPORARY, temporary.path());
        }
        if let Some(name) = self.own_git_config() {
            environment.set(GIT_CONFIG, self.files.private.path().join(name));
        }
        environment
    }

    /// Returns the name of the file with this job's own global git settings, if it cannot write those of the home
    /// directory.
    fn own_git_config(&self) -> Option<&'static str> {
        let isolation = self.engine.isolation.as_ref()?;
        let is_guarded = isolation.mechanism == Mechanism::Namespaces
            && isolation.background == Background::Ends
            && self.engine.environment.get(GIT_CONFIG).is_none();
        is_guarded.then_some("gitconfig")
    }

    fn confinement(&self) -> Option<Confinement> {
        let mut isolation = self.engine.isolation.clone()?;
        isolation
            .stores
            .extend(self.engine.plugin_cache_dir.clone());
        let operators = self.engine.operators_plugin_caches.iter();
        isolation.stores.extend(operators.cloned());
        let own = [self.dir(), self.files.private.path()];
        Some(Confinement {
            control_group: self.control_group.clone(),
            ..isolation.confine(&self.engine.work_dir, &own)
        })
    }

    /// Returns the engine's working directory.
    fn dir(&self) -> &Path {
        self.files.dir.path()
    }

    fn make_temporary(&self) -> Result<Option<Scratch>, Denied> {
        let Some(confinement) = self.confinement() else {
            return Ok(None);
        };
        let shared = self.engine.environment.get(TEMPORARY);
        let shared = shared.map_or(Path::new("/tmp"), Path::new);
        let made = Isolation::temporary_dir(&confinement, shared)?;
        Ok(made.map(Scratch::in_background))
    }

    /// Returns the environment of plan and apply, which has the job's variables in addition.
    fn job_environment(&self, request: &PlanRequest) -> Environment {
        let mut environment = self.environment();
        environment.add_job(request, &self.engine.agent_scripts);
        environment.add_log_level(self.config.log_level);
        environment
    }

    fn runner(&self, environment: Environment, log: Arc<dyn LogSink>) -> Runner {
        let limits = super::limits(self.engine.exit_timeout);
        Runner::new(
            self.binary.path.clone(),
            self.dir().to_owned(),
            environment,
            self.confinement(),
            limits,
            log,
            self.config.memory.clone(),
        )
    }

    fn warn_of_environment(&self, log: &dyn LogSink) {
        for line in self.engine.environment.terraform_lines() {
            log.log(LogLevel::Warn, line);
        }
    }

    async fn unpack(
        &self,
        request: &InitRequest,
        log: &dyn LogSink,
        stop: &Stop,
    ) -> Result<(), StepFailure> {
        // The modules come second, because they are laid over the template.
        for archive in [&request.template_archive, &request.module_archive] {
            let (archive, dir, stop) = (archive.clone(), self.files.dir.clone(), stop.clone());
            let unpacked = within(ARCHIVE_DEADLINE, move || {
                archive::extract_template(&archive, &dir, &stop)
            });
            let unpacked = unpacked
                .await
                .map_err(|error| StepFailure::new(format!("extract template archive: {error}")))?;
            let unpacked = unpacked.map_err(|error| {
                StepFailure::new(format!(
                    "extract template archive: extract template source archive: {}",
                    error_chain(&error)
                ))
            })?;
            unpacked
                .warnings
                .into_iter()
                .for_each(|warning| log.log(LogLevel::Warn, warning));
        }
        Ok(())
    }

    /// Returns a failure of init with a suggestion, if providers are out of reach.
    fn with_remedy(&self, failure: StepFailure, output: &str, log: &dyn LogSink) -> StepFailure {
        let Some(remedy) = self.engine.providers.remedy(output) else {
            return failure;
        };
        log.log(LogLevel::Error, remedy.clone());
        let diagnostic = match failure.diagnostic {
            Some(said) => format!("{said}; {remedy}"),
            None => remedy,
        };
        StepFailure {
            diagnostic: Some(diagnostic),
            ..failure
        }
    }

    /// Logs what was missing for a failed init, unless the job is cancelled.
    async fn explain(&self, archive: &Bytes, output: &str, log: &dyn LogSink, stop: &Stop) {
        let failed = FailedInit {
            archive,
            version: &self.binary.version,
            output,
            presented: &self.presented,
        };
        tokio::select! {
            () = self.engine.providers.explain(failed, log) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn show(&mut self, args: &[&str], stop: &Stop) -> Result<Vec<u8>, StepFailure> {
        let (shown, took) = self.capture(args, stop).await?;
        self.engine_time += took;
        printed(shown)
    }

    async fn capture(
        &self,
        args: &[&str],
        stop: &Stop,
    ) -> Result<(Captured, Duration), StepFailure> {
        let runner = self.runner(self.environment(), Arc::new(run::NoLog));
        runner.capture(args, stop, MAX_JSON_BYTES).await
    }

    /// Shows the plan and draws the graph at the same time: both only read the results of plan.
    async fn show_and_draw(&mut self, args: &[&str], stop: &Stop) -> Result<Vec<u8>, StepFailure> {
        let (shown, drawn) = tokio::join!(self.capture(args, stop), self.draw(stop));
        let (shown, took) = shown?;
        self.engine_time += took.max(drawn.took);
        self.drawn = Some(drawn);
        printed(shown)
    }

    async fn draw(&self, stop: &Stop) -> Drawn {
        let mut args = vec!["graph"];
        if self.binary.version >= binary::GRAPH_TYPE {
            args.push("-type=plan");
        }
        let timings = Timings::begin("graph", Timestamp::now());
        let captured = self.capture(&args, stop).await;
        let (mut said, mut took) = (String::new(), Duration::ZERO);
        let graph = captured.and_then(|(captured, its)| {
            took = its;
            if !captured.exit.is_success() {
                said = String::from_utf8_lossy(&captured.stderr).into_owned();
                let failure = StepFailure::new(format!("graph: {}", captured.exit));
                return Err(prefixed("generate graph", failure));
            }
            let dot = String::from_utf8(captured.stdout)
                .map_err(|_| StepFailure::new("generate graph: graph: the output is not UTF-8"))?;
            Graph::parse(&dot)
                .map_err(|error| StepFailure::new(format!("convert state for graph: {error}")))
        });
        Drawn {
            timings: timings.finish(graph.is_ok(), Timestamp::now()),
            graph,
            said,
            took,
        }
    }

    /// Runs plan, and reads the result.
    async fn make_plan(
        &mut self,
        request: &PlanRequest,
        log: &Arc<dyn LogSink>,
        stop: &Stop,
        timings: &mut Timings,
    ) -> Result<(PlanComplete, (Vec<Module>, Configuration)), StepFailure> {
        let out = format!("-out={}", self.dir().join(PLAN).display());
        let mut args = vec![
            "plan",
            "-no-color",
            "-input=false",
            "-json",
            "-refresh=true",
            &out,
        ];
        if request.metadata.transition == Transition::Destroy {
            args.push("-destroy");
        }
        let variables = request.variables.clone();
        let variables = self.files.write_variables(variables, false).await?;
        let file = variables.as_ref().map(Variables::option);
        args.extend(file.as_deref());
        let runner = self.runner(self.job_environment(request), Arc::clone(log));
        let ran = runner.stream(&args, stop, timings).await?;
        drop(variables);
        self.engine_time += ran.took;
        ran.check("terraform plan")?;
        let plan_path = self.dir().join(PLAN).display().to_string();
        let show = ["show", "-json", "-no-color", &plan_path];
        // The resources of a plan that destroys everything are never requested.
        let is_drawn_here =
            self.drawn.is_none() && request.metadata.transition != Transition::Destroy;
        let json = match is_drawn_here {
            true => self.show_and_draw(&show, stop).await,
            false => self.show(&show, stop).await,
        };
        let json = json.map_err(|failure| prefixed("show terraform plan file", failure))?;
        let wrong = |error: &dyn std::error::Error| {
            StepFailure::new(format!(
                "convert plan state: parse plan: {}",
                error_chain(error)
            ))
        };
        let plan = Plan::parse(&json).map_err(|error| wrong(&error))?;
        let totals = plan
            .totals()
            .map_err(|error| StepFailure::new(format!("convert plan state: {error}")))?;
        self.log_replacements(&plan, &plan_path, request, log.as_ref(), stop)
            .await?;
        let complete = PlanComplete {
            plan: json.into(),
            daily_cost: totals.daily_cost,
            ai_task_count: totals.ai_task_count,
            replacements: replacements::list(&plan),
            ..PlanComplete::default()
        };
        Ok((complete, plan.into_parts()))
    }

    /// Logs which resources are replaced. A claim of a prebuilt workspace must lose nothing, so there the whole plan
    /// is logged.
    async fn log_replacements(
        &mut self,
        plan: &Plan,
        plan_path: &str,
        request: &PlanRequest,
        log: &dyn LogSink,
        stop: &Stop,
    ) -> Result<(), StepFailure> {
        let metadata = &request.metadata;
        let is_claim = metadata.prebuilt_stage == PrebuiltStage::Claim
            && metadata.transition != Transition::Destroy;
        if !is_claim {
            let lines = replacements::log_lines(plan);
            lines
                .into_iter()
                .for_each(|line| log.log(LogLevel::Warn, line));
            return Ok(());
        }
        if !replacements::any(plan) {
            return Ok(());
        }
        let shown = self.show(&["show", "-no-color", plan_path], stop).await?;
        for line in String::from_utf8_lossy(&shown).lines() {
            let level = if line.contains("# forces replacement") {
                LogLevel::Warn
            } else {
                LogLevel::Info
            };
            log.log(level, line.to_owned());
        }
        Ok(())
    }

    async fn convert(
        &mut self,
        modules: &[Module],
        configuration: &Configuration,
        log: &Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<GraphComplete, StepFailure> {
        if self.drawn.is_none() {
            let drawn = self.draw(stop).await;
            self.engine_time += drawn.took;
            self.drawn = Some(drawn);
        }
        let drawn = self.drawn.as_ref().expect("it was drawn just now");
        let failed = |failure: StepFailure| StepFailure {
            timings: drawn.timings.clone(),
            ..failure
        };
        let graph = drawn.graph.as_ref().map_err(|failure| {
            let lines = drawn.said.lines();
            lines.for_each(|line| log.log(LogLevel::Error, line.to_owned()));
            failed(failure.clone())
        })?;
        let converted =
            resources::convert(modules, graph, Some(configuration)).map_err(|error| {
                failed(StepFailure::new(format!(
                    "convert state for graph: {error}"
                )))
            })?;
        // An import converts two plans, a build a plan and a state: log a warning about all of them only once.
        for warning in &converted.warnings {
            if self.warned.insert(warning.clone()) {
                log.log(LogLevel::Warn, warning.clone());
            }
        }
        Ok(GraphComplete {
            timings: drawn.timings.clone(),
            ..converted.into()
        })
    }

    /// Returns the modules that the template calls.
    async fn modules(&self) -> Vec<job::Module> {
        let dir = self.files.dir.clone();
        let read = within(ARCHIVE_DEADLINE, move || module_archive::read_modules(&dir));
        match read.await {
            Ok(Ok(modules)) => modules,
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "failed to read the module manifest");
                Vec::new()
            }
            Err(error) => {
                warn!(%error, "failed to read the module manifest");
                Vec::new()
            }
        }
    }

    /// Packs the modules that init fetched into an archive.
    async fn pack_modules(&self, log: &dyn LogSink) -> Bytes {
        let dir = self.files.dir.clone();
        let packed = within(ARCHIVE_DEADLINE, move || module_archive::pack_modules(&dir));
        match packed.await {
            Ok(Ok(packed)) => {
                for module in packed.skipped {
                    log.log(
                        LogLevel::Warn,
                        format!(
                            "module {module} is too large to be stored with the template version"
                        ),
                    );
                }
                packed.archive
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "failed to archive the template's modules");
                Bytes::new()
            }
            Err(error) => {
                warn!(%error, "failed to archive the template's modules");
                Bytes::new()
            }
        }
    }

    /// Returns the newest state, and the problem with the file if it is from another source.
    async fn pick_state(
        &self,
        printed: Option<Vec<u8>>,
        previous: &Bytes,
    ) -> (Option<Bytes>, Option<String>) {
        let candidates = Candidates {
            file: self.files.state().await,
            printed,
            saved: self.files.saved_state().await,
            seen: self.seen.clone(),
            previous: previous.clone(),
        };
        let newest = candidates.newest();
        (newest.state.map(|(state, _)| state), newest.problem)
    }
}

#[async_trait]
impl provision::Session for Session {
    async fn init(
        &mut self,
        request: InitRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<InitComplete, StepFailure> {
        let log = self.filtered(log);
        self.warn_of_environment(log.as_ref());
        self.unpack(&request, log.as_ref(), stop).await?;
        let lock_before = self.files.lock().await;
        self.has_own_lock = lock_before.is_some();
        self.only_modules = request.only_modules;
        let mut timings = Timings::begin("init", Timestamp::now());
        let ran = self.init_providers(&log, stop, &mut timings).await?;
        let timings = timings.finish(ran.exit.is_success(), Timestamp::now());
        if !ran.exit.is_success() {
            let archive = &request.template_archive;
            self.explain(archive, &ran.output, log.as_ref(), stop).await;
        }
        ran.check("initialize terraform")
            .map_err(|failure| StepFailure {
                timings: timings.clone(),
                ..self.with_remedy(failure, &ran.output, log.as_ref())
            })?;
        warn_of_changed_lock(lock_before, self.files.lock().await);
        let modules = self.modules().await;
        let module_files = if request.omit_module_files {
            Bytes::new()
        } else {
            self.pack_modules(log.as_ref()).await
        };
        Ok(InitComplete {
            timings,
            modules,
            module_files,
        })
    }

    async fn parse(&mut self, _: Arc<dyn LogSink>) -> Result<ParseComplete, StepFailure> {
        let dir = self.files.dir.clone();
        let parsed = within(ARCHIVE_DEADLINE, move || template::parse_dir(&dir)).await;
        let parsed = parsed.map_err(|error| StepFailure::new(error.to_string()))?;
        parsed.map_err(|error| StepFailure::new(error_chain(&error)))
    }

    async fn plan(
        &mut self,
        request: PlanRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<PlanComplete, StepFailure> {
        let log = self.filtered(log);
        self.planned = None;
        let is_nothing =
            request.metadata.transition == Transition::Destroy && request.state.is_empty();
        if is_nothing {
            log.log(LogLevel::Info, NOTHING_TO_DO.to_owned());
            self.planned = Some(Planned {
                request,
                modules: Vec::new(),
                configuration: Configuration::default(),
                is_nothing,
            });
            return Ok(PlanComplete::default());
        }
        self.warn_of_environment(log.as_ref());
        if !request.state.is_empty() {
            let written = self.files.write_state(request.state.clone()).await;
            written.map_err(|error| {
                StepFailure::new(format!("write statefile {:?}: {error}", state_file::NAME))
            })?;
        }
        let mut timings = Timings::begin("plan", Timestamp::now());
        let made = self.make_plan(&request, &log, stop, &mut timings).await;
        let timings = timings.finish(made.is_ok(), Timestamp::now());
        let (complete, (modules, configuration)) = match made {
            Ok(made) => made,
            Err(mut failure) => {
                failure.timings = timings;
                if request.metadata.transition == Transition::Stop {
                    let dir = self.files.dir.clone();
                    failure = remedy::explained(failure, dir, log.as_ref()).await;
                }
                return Err(failure);
            }
        };
        self.planned = Some(Planned {
            request,
            modules,
            configuration,
            is_nothing,
        });
        Ok(PlanComplete {
            timings,
            ..complete
        })
    }

    async fn apply(
        &mut self,
        request: ApplyRequest,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> ApplyComplete {
        let log = self.filtered(log);
        let Some(planned) = self.planned.take() else {
            let failure = StepFailure::new("apply without a plan");
            return ApplyComplete {
                failure: Some(failure),
                ..ApplyComplete::default()
            };
        };
        if planned.is_nothing {
            log.log(LogLevel::Info, NOTHING_TO_DO.to_owned());
            self.planned = Some(planned);
            return ApplyComplete::default();
        }
        self.warn_of_environment(log.as_ref());
        let plan_request = PlanRequest {
            metadata: request.metadata,
            ..planned.request
        };
        let mut timings = Timings::begin("apply", Timestamp::now());
        let (mut failure, printed) = match self
            .run_apply(&plan_request, &log, stop, &mut timings)
            .await
        {
            Ok(ran) => (ran.check("terraform apply").err(), ran.state),
            Err(failure) => (Some(failure), None),
        };
        let (state, problem) = self.pick_state(printed, &plan_request.state).await;
        if let Some(problem) = problem {
            // Otherwise the next build would begin with an outdated state.
            failure.get_or_insert_with(|| {
                StepFailure::new(format!("terraform apply succeeded, but {problem}"))
            });
            log.log(LogLevel::Error, problem);
        }
        let timings = timings.finish(failure.is_none(), Timestamp::now());
        self.planned = Some(Planned {
            request: plan_request,
            modules: Vec::new(),
            configuration: planned.configuration,
            is_nothing: false,
        });
        ApplyComplete {
            state,
            failure,
            timings,
        }
    }

    async fn graph(
        &mut self,
        source: GraphSource,
        log: Arc<dyn LogSink>,
        stop: &Stop,
    ) -> Result<GraphComplete, StepFailure> {
        let log = self.filtered(log);
        let Some(planned) = &mut self.planned else {
            return Err(StepFailure::new("graph without a plan"));
        };
        if planned.is_nothing {
            return Ok(GraphComplete::default());
        }
        let mut modules = std::mem::take(&mut planned.modules);
        // A second graph step, after apply, needs it again.
        let configuration = std::mem::take(&mut planned.configuration);
        if source == GraphSource::State {
            let json = self.show(&["show", "-json", "-no-color"], stop).await;
            let json = json.map_err(|failure| {
                prefixed("load tfstate for graph: terraform show state", failure)
            })?;
            let state = State::parse(&json).map_err(|error| {
                StepFailure::new(format!(
                    "load tfstate for graph: terraform show state: {}",
                    error_chain(&error)
                ))
            })?;
            modules = state.into_modules();
            let is_empty =
                |module: &Module| module.resources.is_empty() && module.child_modules.is_empty();
            if modules.iter().all(is_empty) {
                return Ok(GraphComplete::default()); // Everything was destroyed.
            }
        }
        let converted = self.convert(&modules, &configuration, &log, stop).await;
        if let Some(planned) = &mut self.planned {
            planned.configuration = configuration;
        }
        converted
    }

    fn set_observer(&mut self, observer: Arc<dyn ApplyObserver>) {
        self.observer = Some(observer);
    }

    async fn schemas(&mut self, stop: &Stop) -> Result<Bytes, StepFailure> {
        let shown = self.show(&["providers", "schema", "-json"], stop).await;
        let shown = shown.map_err(|failure| prefixed("terraform providers schema", failure))?;
        Ok(shown.into())
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let files = &self.files;
        vec![self.dir().to_owned(), files.private.path().to_owned()]
    }

    async fn newest_state(&mut self) -> Option<Bytes> {
        self.pick_state(None, &Bytes::new()).await.0
    }

    fn engine_time(&self) -> Duration {
        self.engine_time
    }

    async fn close(mut self: Box<Self>) {
        // First end all processes: they could write to the directories while these are removed.
        if let Some(group) = &self.control_group
            && let Err(error) = group.end().await
        {
            warn!(%error, "failed to end all processes of a job");
        }
        if let Some(isolation) = &self.engine.isolation {
            isolation.modes.restore();
        }
        for (dir, error) in self.files.remove().await {
            warn!(%error, dir = %dir.display(), "failed to remove a session directory");
        }
        self.is_closed = true;
    }
}

impl Session {
    async fn run_apply(
        &mut self,
        request: &PlanRequest,
        log: &Arc<dyn LogSink>,
        stop: &Stop,
        timings: &mut Timings,
    ) -> Result<StepOutput, StepFailure> {
        let mut args = vec![
            "apply",
            "-no-color",
            "-auto-approve",
            "-input=false",
            "-json",
        ];
        let variables = request.variables.clone();
        let variables = self.files.write_variables(variables, true).await?;
        let file = variables.as_ref().map(Variables::option);
        args.extend(file.as_deref());
        // The plan comes last, because the engine accepts no options after it.
        let plan = self.dir().join(PLAN).display().to_string();
        args.push(&plan);
        let runner = self.runner(self.job_environment(request), Arc::clone(log));
        let shim = self.engine.shim.clone().map(|launcher| Shim {
            launcher,
            report: self.files.report(),
        });
        let runner = runner.watched_by(self.observer.clone(), shim);
        // A template may contain one, which is not the state of this workspace.
        let cleared = self.files.remove_saved_state().await;
        cleared.map_err(|error| {
            let name = state_file::ERRORED;
            StepFailure::new(format!("remove the template's file {name}: {error}"))
        })?;
        let (known, seen) = (self.files.state_version().await, Mutex::default());
        let watch = watch::state_file(self.files.clone(), self.observer.clone(), known, &seen);
        let ran = tokio::select! {
            ran = runner.stream(&args, stop, timings) => ran,
            never = watch => match never {},
        };
        self.seen = seen.into_inner().unwrap_or_default();
        if let (Err(StepFailure { is_left: true, .. }), Some(variables)) = (&ran, variables) {
            variables.leave();
        }
        let ran = ran?;
        self.engine_time += ran.took;
        Ok(ran)
    }
}

/// Ends the apply of a session whose daemon died, and reports its state to `observer`. Returns the problem with the
/// engine's file, if the state is from another source.
pub(super) async fn salvage(
    engine: &EngineConfig,
    dir: &Path,
    files: &io::Result<Files>,
    observer: &dyn ApplyObserver,
    stop: &Stop,
) -> Option<String> {
    let limits = super::limits(engine.exit_timeout);
    let mut printed = None;
    let on_line = |pipe, line: process::Line| {
        let said = log_stream::read(pipe, line);
        if let Some(timed) = &said.timed {
            timed.tell(observer);
        }
        printed = said.state.or(printed.take());
    };
    match process::take_over(dir, &limits, stop, on_line).await {
        Ok(true) => warn!(dir = %dir.display(), "ended an engine process of a daemon that died"),
        Ok(false) => {}
        Err(error) => {
            warn!(%error, dir = %dir.display(), "cannot look for engine processes of a daemon that died")
        }
    }
    if let (Some(isolation), Some(name)) = (&engine.isolation, dir.file_name()) {
        isolation.end_control_group(&name.to_string_lossy());
    }
    let candidates = Candidates {
        file: match files {
            Ok(files) => files.state().await,
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        },
        printed,
        saved: match files {
            Ok(files) => files.saved_state().await,
            Err(_) => None,
        },
        // Earlier states are in the journal.
        seen: None,
        previous: Bytes::new(),
    };
    let newest = candidates.newest();
    if let Some(problem) = &newest.problem {
        warn!(dir = %dir.display(), "{problem}");
    }
    if let Some((state, _)) = newest.state {
        observer.state(state);
    }
    newest.problem
}

/// Returns the result of an apply whose daemon died. The directories stay.
pub(super) async fn made(
    engine: Arc<EngineConfig>,
    binary: Binary,
    files: Files,
    stop: &Stop,
) -> Result<GraphComplete, StepFailure> {
    let config = SessionConfig::without_job();
    let has_own_lock = files.lock().await.is_some();
    let session = Session::at(engine, binary, config, files);
    let session = session.map_err(|error| StepFailure::new(error.to_string()))?;
    // Dropping it would remove the directories, which have the only copy until the server has the state.
    let mut session = ManuallyDrop::new(session);
    session.has_own_lock = has_own_lock;
    session.planned = Some(Planned {
        request: PlanRequest::default(),
        modules: Vec::new(),
        configuration: Configuration::default(),
        is_nothing: false,
    });
    let log = Arc::new(run::NoLog);
    let made = provision::Session::graph(&mut *session, GraphSource::State, log, stop).await;
    drop(session.temporary.take());
    made
}

/// Removes values of variables if a session was not closed because its job was given up.
impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_closed {
            self.files.discard();
        }
    }
}

/// Returns the output of `show`, if it succeeded.
fn printed(captured: Captured) -> Result<Vec<u8>, StepFailure> {
    if captured.is_cut {
        return Err(StepFailure::new(format!(
            "it printed more than {MAX_JSON_BYTES} bytes"
        )));
    }
    if !captured.exit.is_success() {
        let said = String::from_utf8_lossy(&captured.stderr);
        return Err(StepFailure::new(format!(
            "{}: {}",
            said.trim(),
            captured.exit
        )));
    }
    Ok(captured.stdout)
}

fn prefixed(prefix: &str, failure: StepFailure) -> StepFailure {
    StepFailure {
        error: format!("{prefix}: {}", failure.error),
        ..failure
    }
}

/// Logs a warning if init changed the lock file: authors should lock the checksums of all platforms, or each build
/// resolves them anew.
fn warn_of_changed_lock(before: Option<Vec<u8>>, after: Option<Vec<u8>>) {
    if let (Some(before), Some(after)) = (before, after)
        && before != after
    {
        warn!(
            "init changed the template's lock file; run `terraform providers lock -platform=...` for all platforms and \
             push the template again"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn shown(script: &str, stdout_bytes: usize) -> Result<Vec<u8>, StepFailure> {
        let command = process::Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            dir: "/".into(),
            confinement: None,
            outlives_us: false,
            shim: None,
            memory: outpost_provision::Memory::default(),
        };
        let limits = super::super::limits(Duration::from_secs(60));
        let captured = process::capture(&command, &limits, &Stop::new(), stdout_bytes).await;
        printed(captured.unwrap())
    }

    #[tokio::test]
    async fn output_of_show_counts_only_if_it_is_complete_and_the_engine_succeeded() {
        let error = async |script, bytes| shown(script, bytes).await.unwrap_err().error;

        assert_eq!(shown("printf '{}'", 8).await.unwrap(), b"{}");
        let cut = error("printf 123456789", 8).await;
        assert!(cut.starts_with("it printed more than "), "{cut}");
        let failed = error("printf '{}'; echo ' no plan ' >&2; exit 3", 8).await;
        assert_eq!(failed, "no plan: exit status 3");
    }

    #[test]
    fn a_prefix_keeps_what_else_is_known_of_a_failure() {
        let left = StepFailure {
            is_left: true,
            ..StepFailure::new("why")
        };

        let prefixed = prefixed("show plan", left);

        assert_eq!(prefixed.error, "show plan: why");
        assert!(prefixed.is_left, "an apply that goes on is not forgotten");
    }

    #[tokio::test]
    async fn a_template_that_brings_a_saved_state_does_not_choose_the_workspaces() {
        let work = tempfile::tempdir().unwrap();
        let files = Files::create(work.path(), "Session1").await.unwrap();
        let saved = files.dir.path().join(state_file::ERRORED);
        std::fs::write(&saved, "{\"serial\":1}").unwrap();
        assert!(files.saved_state().await.is_some());

        files.remove_saved_state().await.unwrap();
        assert_eq!(files.saved_state().await, None);
        files.remove_saved_state().await.unwrap();

        let victim = work.path().join("victim");
        std::fs::write(&victim, "theirs").unwrap();
        std::os::unix::fs::symlink(&victim, &saved).unwrap();
        files.remove_saved_state().await.unwrap();
        assert!(std::fs::symlink_metadata(&saved).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "theirs");
    }
}
