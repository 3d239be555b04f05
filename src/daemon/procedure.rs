//! The steps of each kind of job, with the stages and texts that people know from Coder.
//!
//! # Source
//! coder `provisionerd/runner/runner.go`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::reporter::{JobLog, Reporter};
use crate::{
    job::{
        BuildResult, CompletedJob, CompletedWork, DryRunResult, FailedJob, FailedWork, FailureCode,
        ImportResult, Job, JobId, LogLevel, Metadata, Outcome, TemplateDryRun, TemplateImport,
        TemplateVariable, Timing, Transition, VariableValue, Work, WorkspaceBuild,
    },
    provision::{
        ApplyRequest, GraphComplete, GraphSource, InitRequest, JobSource, JobUpdate, PlanComplete,
        PlanRequest, Provisioner, Session, SessionConfig, SourceError, StepFailure,
    },
    stop::Stop,
};

/// Stages of a log, in the reference's words.
pub(super) mod stage {
    pub(crate) const SETTING_UP: &str = "Setting up";
    pub(crate) const INIT: &str = "Initializing Terraform Directory";
    pub(crate) const PARSE: &str = "Parsing template parameters";
    pub(crate) const PARSE_LOGS: &str = "Parse parameters";
    pub(crate) const PERSISTENT: &str = "Detecting persistent resources";
    pub(crate) const EPHEMERAL: &str = "Detecting ephemeral resources";
    pub(crate) const PLAN: &str = "Planning Infrastructure";
    pub(crate) const QUOTA: &str = "Commit quota";
    pub(crate) const GRAPH: &str = "Graphing Infrastructure";
    pub(crate) const CLEANING_UP: &str = "Cleaning Up";
}

/// How long a session may take to open or close, engines' answers apart.
const MAX_ARCHIVE_DOWNLOAD: Duration = Duration::from_secs(300);

/// What a job ended with, and the session to close.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) session: Option<Box<dyn Session>>,
}

/// Everything that the steps need.
pub(super) struct Context<'a> {
    pub(super) job: JobId,
    pub(super) source: &'a Arc<dyn JobSource>,
    pub(super) provisioner: &'a dyn Provisioner,
    pub(super) log: &'a JobLog,
    pub(super) reporter: &'a Reporter,
    pub(super) stop: &'a Stop,
}

/// A failure with all that the server should know.
struct Failure {
    error: String,
    code: Option<FailureCode>,
    state: Option<Bytes>,
    timings: Vec<Timing>,
}

impl Failure {
    fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            code: None,
            state: None,
            timings: Vec::new(),
        }
    }

    /// What failed in a step, with the engine's own first words on it.
    fn step(failure: StepFailure) -> Self {
        Self {
            error: failure.to_string(),
            code: None,
            state: None,
            timings: failure.timings,
        }
    }

    fn prefixed(mut self, prefix: &str) -> Self {
        self.error.insert_str(0, prefix);
        self
    }

    /// The code that the text asks for. Engines' own texts never get one.
    fn coded(mut self) -> Self {
        self.code = if self.error.contains("missing parameter") {
            Some(FailureCode::MissingTemplateParameter)
        } else if self.error.contains("required template variables") {
            Some(FailureCode::RequiredTemplateVariables)
        } else {
            None
        };
        self
    }

    fn after(mut self, mut timings: Vec<Timing>) -> Self {
        timings.append(&mut self.timings);
        self.timings = timings;
        self
    }

    fn with_state(mut self, state: Option<Bytes>) -> Self {
        self.state = state;
        self
    }
}

/// Runs a job to its end. The session comes back to be closed after the last line of the log.
pub(super) async fn run(context: &Context<'_>, job: Job) -> Done {
    let kind = failed_work(&job.work);
    let mut session = None;
    let result = match job.work {
        _ if job.provisioner != "terraform" => Err(Failure::new(format!(
            "failed to connect to provisioner: missing provisioner type {:?}; this daemon has \"terraform\"",
            job.provisioner
        ))),
        Work::WorkspaceBuild(build) => {
            context
                .build(job.template_archive, build, &mut session)
                .await
        }
        Work::TemplateImport(import) => {
            context
                .import(job.template_archive, import, &mut session)
                .await
        }
        Work::TemplateDryRun(dry_run) => {
            context
                .dry_run(job.template_archive, dry_run, &job.user_name, &mut session)
                .await
        }
        Work::Unknown => Err(Failure::new(
            "unknown job type; ensure your provisioner daemon is up-to-date",
        )),
    };
    let outcome = match result {
        Ok(result) => Outcome::Completed(CompletedJob {
            id: context.job,
            result,
        }),
        Err(failure) => Outcome::Failed(failed(context, kind, failure)),
    };
    Done { outcome, session }
}

fn failed_work(work: &Work) -> FailedWork {
    match work {
        Work::WorkspaceBuild(_) => FailedWork::WorkspaceBuild {
            state: None,
            timings: Vec::new(),
        },
        Work::TemplateImport(_) => FailedWork::TemplateImport,
        Work::TemplateDryRun(_) => FailedWork::TemplateDryRun,
        Work::Unknown => FailedWork::Unknown,
    }
}

fn failed(context: &Context<'_>, kind: FailedWork, failure: Failure) -> FailedJob {
    let work = match kind {
        FailedWork::WorkspaceBuild { .. } => FailedWork::WorkspaceBuild {
            state: failure.state,
            timings: failure.timings,
        },
        other @ (FailedWork::TemplateImport | FailedWork::TemplateDryRun | FailedWork::Unknown) => {
            other
        }
    };
    let was_cancelled = context.stop.is_cancelled();
    let error = if was_cancelled {
        format!("job was cancelled: {}", failure.error)
    } else {
        failure.error
    };
    FailedJob {
        id: context.job,
        error,
        code: failure.code,
        work,
    }
}

type Opened = Option<Box<dyn Session>>;

impl Context<'_> {
    async fn open<'s>(
        &self,
        config: SessionConfig,
        session: &'s mut Opened,
    ) -> Result<&'s mut dyn Session, Failure> {
        let opened = self.provisioner.open(config).await.map_err(Failure::step)?;
        Ok(session.insert(opened).as_mut())
    }

    fn session_config(&self, metadata: &Metadata, log_level: Option<LogLevel>) -> SessionConfig {
        SessionConfig {
            job_id: self.job,
            log_level,
            template_id: metadata.template_id.clone(),
            template_version_id: metadata.template_version_id.clone(),
        }
    }

    async fn build(
        &self,
        template_archive: Bytes,
        build: WorkspaceBuild,
        session: &mut Opened,
    ) -> Result<CompletedWork, Failure> {
        let transition = build.metadata.transition;
        let session = self
            .open(
                self.session_config(&build.metadata, log_level(&build.log_level)),
                session,
            )
            .await?;
        let module_archive = self
            .modules(&build.metadata.template_version_modules_file)
            .await?;
        let init = InitRequest {
            template_archive,
            module_archive,
            omit_module_files: true,
        };
        let init = session
            .init(init, self.log.sink(stage::INIT), self.stop)
            .await
            .map_err(Failure::step)?;
        let mut timings = init.timings;

        let request = PlanRequest {
            metadata: build.metadata.clone(),
            parameters: build.parameters,
            previous_parameters: build.previous_parameters,
            variables: build.variables,
            external_auth: build.external_auth,
            state: build.state,
        };
        let plan = session
            .plan(request, self.log.sink(stage::PLAN), self.stop)
            .await;
        let plan = plan.map_err(|failure| Failure::step(failure).after(timings.clone()))?;
        timings.extend(plan.timings.iter().cloned());
        if plan.ai_task_count > 1 {
            let count = plan.ai_task_count;
            let error = format!(
                "only one 'coder_ai_task' resource can be provisioned per template, found {count}"
            );
            return Err(Failure::new(error).after(timings));
        }
        self.reporter.flush().await;
        self.commit_quota(transition, &plan)
            .await
            .map_err(|failure| failure.after(timings.clone()))?;

        let stage = apply_stage(transition);
        self.log.mark(stage);
        let request = ApplyRequest {
            metadata: build.metadata,
        };
        let applied = session
            .apply(request, self.log.sink(stage), self.stop)
            .await;
        timings.extend(applied.timings);
        if let Some(failure) = applied.failure {
            return Err(Failure::step(failure)
                .after(timings)
                .with_state(applied.state));
        }
        // The infrastructure stands now. Whatever happens from here on, the state goes with it.
        let graph = session
            .graph(GraphSource::State, self.log.sink(stage::GRAPH), self.stop)
            .await;
        let graph = graph.map_err(|failure| {
            Failure::step(failure)
                .after(timings.clone())
                .with_state(applied.state.clone())
        })?;
        timings.extend(graph.timings);
        self.reporter.flush().await;
        Ok(CompletedWork::WorkspaceBuild(BuildResult {
            state: applied.state.unwrap_or_default(),
            resources: graph.resources,
            timings,
            modules: init.modules,
            replacements: plan.replacements,
            ai_tasks: graph.ai_tasks,
        }))
    }

    async fn import(
        &self,
        template_archive: Bytes,
        import: TemplateImport,
        session: &mut Opened,
    ) -> Result<CompletedWork, Failure> {
        let session = self
            .open(self.session_config(&import.metadata, None), session)
            .await?;
        let init = InitRequest {
            template_archive,
            ..InitRequest::default()
        };
        let init = session
            .init(init, self.log.sink(stage::INIT), self.stop)
            .await;
        let init = init
            .map_err(|failure| Failure::step(failure).prefixed("template import init error: "))?;

        self.log.mark(stage::PARSE);
        let parsed = session.parse(self.log.sink(stage::PARSE_LOGS)).await;
        let parsed = parsed.map_err(|failure| {
            Failure::step(failure)
                .prefixed("run parse: parse error: ")
                .coded()
        })?;
        let update = JobUpdate {
            template_variables: parsed.template_variables,
            user_variables: import.user_variables,
            readme: readable(parsed.readme),
            workspace_tags: parsed.workspace_tags,
            ..JobUpdate::heartbeat(self.job)
        };
        let variables = self.learn(update).await?;

        self.log.mark(stage::PERSISTENT);
        let (plan, start) = self
            .pass(
                session,
                Transition::Start,
                stage::PERSISTENT,
                &import.metadata,
                &variables,
            )
            .await?;
        self.log.mark(stage::EPHEMERAL);
        let (_, stop) = self
            .pass(
                session,
                Transition::Stop,
                stage::EPHEMERAL,
                &import.metadata,
                &variables,
            )
            .await?;
        Ok(CompletedWork::TemplateImport(Box::new(ImportResult {
            start_resources: start.resources,
            stop_resources: stop.resources,
            parameters: start.parameters,
            external_auth: start.external_auth,
            modules: init.modules,
            presets: start.presets,
            plan: plan.plan,
            module_files: init.module_files,
            has_ai_tasks: start.has_ai_tasks,
            has_external_agents: start.has_external_agents,
        })))
    }

    /// Plans a template without a workspace, for one transition.
    async fn pass(
        &self,
        session: &mut dyn Session,
        transition: Transition,
        stage: &'static str,
        metadata: &Metadata,
        variables: &[VariableValue],
    ) -> Result<(PlanComplete, GraphComplete), Failure> {
        let prefix = format!("template import provision for {transition}: ");
        let metadata = Metadata {
            transition,
            ..metadata.clone()
        };
        let request = PlanRequest {
            metadata,
            variables: variables.to_vec(),
            ..PlanRequest::default()
        };
        let plan = session
            .plan(request, self.log.sink(stage), self.stop)
            .await
            .map_err(|failure| {
                Failure::step(failure)
                    .prefixed("plan during template import provision error: ")
                    .prefixed(&prefix)
                    .coded()
            })?;
        let graph = session
            .graph(GraphSource::Plan, self.log.sink(stage::GRAPH), self.stop)
            .await;
        let graph = graph.map_err(|failure| Failure::step(failure).prefixed(&prefix).coded())?;
        Ok((plan, graph))
    }

    async fn dry_run(
        &self,
        template_archive: Bytes,
        dry_run: TemplateDryRun,
        user: &str,
        session: &mut Opened,
    ) -> Result<CompletedWork, Failure> {
        let metadata = dry_run_metadata(dry_run.metadata, user);
        let session = self
            .open(self.session_config(&metadata, None), session)
            .await?;
        let prefix = "run dry-run provision job: ";
        let wrong = |failure| Failure::step(failure).prefixed(prefix).coded();
        let init = InitRequest {
            template_archive,
            omit_module_files: true,
            ..InitRequest::default()
        };
        let init = session
            .init(init, self.log.sink(stage::INIT), self.stop)
            .await
            .map_err(wrong)?;
        let request = PlanRequest {
            metadata,
            parameters: dry_run.parameters,
            variables: dry_run.variables,
            ..PlanRequest::default()
        };
        session
            .plan(request, self.log.sink(stage::PERSISTENT), self.stop)
            .await
            .map_err(wrong)?;
        let graph = session
            .graph(GraphSource::Plan, self.log.sink(stage::GRAPH), self.stop)
            .await
            .map_err(wrong)?;
        Ok(CompletedWork::TemplateDryRun(DryRunResult {
            resources: graph.resources,
            modules: init.modules,
        }))
    }

    /// Sends what a template says, and returns the values of its variables.
    async fn learn(&self, update: JobUpdate) -> Result<Vec<VariableValue>, Failure> {
        let local = values_of(&update.template_variables, &update.user_variables);
        match self.reporter.update(update).await {
            Ok(answer) => Ok(answer.variables),
            // The answer to a first try was lost, and the server has all of it.
            Err(SourceError::Refused(text)) if text.contains("duplicate key") => Ok(local),
            Err(SourceError::Refused(text)) => {
                Err(Failure::new(format!("update job: {text}")).coded())
            }
            Err(error) => Err(Failure::new(format!("update job: {error}"))),
        }
    }

    async fn modules(&self, file: &str) -> Result<Bytes, Failure> {
        if file.is_empty() {
            return Ok(Bytes::new());
        }
        let wrong = |why: String| Failure::new(format!("download template modules {file}: {why}"));
        let id: Uuid = file
            .parse()
            .map_err(|_| wrong("not the id of a file".to_owned()))?;
        tokio::select! {
            file = tokio::time::timeout(MAX_ARCHIVE_DOWNLOAD, self.source.download_modules(id)) => {
                file.map_err(|_| wrong("no answer in time".to_owned()))?.map_err(|error| wrong(error.to_string()))
            }
            () = self.stop.cancelled() => Err(wrong("cancelled".to_owned())),
        }
    }

    /// Asks for the budget where something is built that costs.
    async fn commit_quota(
        &self,
        transition: Transition,
        plan: &PlanComplete,
    ) -> Result<(), Failure> {
        if transition == Transition::Destroy || plan.daily_cost == 0 {
            return Ok(());
        }
        let line = |level, text: String| self.log.line(level, stage::QUOTA, text);
        let quota = match self.source.commit_quota(self.job, plan.daily_cost).await {
            Ok(quota) => quota,
            Err(error) => {
                line(LogLevel::Error, format!("Failed to commit quota: {error}"));
                return Err(Failure::new(format!("commit quota: {error}")));
            }
        };
        line(
            LogLevel::Info,
            format!("Build cost       —   {}", plan.daily_cost),
        );
        line(
            LogLevel::Info,
            format!("Budget           —   {}", quota.budget),
        );
        line(
            LogLevel::Info,
            format!("Credits consumed —   {}", quota.consumed),
        );
        self.reporter.flush().await;
        if quota.ok {
            return Ok(());
        }
        line(
            LogLevel::Warn,
            "This build would exceed your quota. Failing.".to_owned(),
        );
        let code = Some(FailureCode::InsufficientQuota);
        Err(Failure {
            code,
            ..Failure::new("insufficient quota")
        })
    }
}

fn apply_stage(transition: Transition) -> &'static str {
    match transition {
        Transition::Start => "Starting workspace",
        Transition::Stop => "Stopping workspace",
        Transition::Destroy => "Destroying workspace",
    }
}

/// A level by its name, in any case. A name that nobody knows keeps everything, as in the reference.
fn log_level(name: &str) -> Option<LogLevel> {
    [
        LogLevel::Trace,
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
    ]
    .into_iter()
    .find(|level| level.as_str().eq_ignore_ascii_case(name))
}

/// A README that a database of text takes.
fn readable(readme: Bytes) -> Bytes {
    match std::str::from_utf8(&readme) {
        Ok(text) if !text.contains('\0') => readme,
        _ => String::from_utf8_lossy(&readme)
            .replace('\0', "\u{fffd}")
            .into(),
    }
}

/// The values that the server computes: the author's, else the default.
fn values_of(declared: &[TemplateVariable], given: &[VariableValue]) -> Vec<VariableValue> {
    let value = |variable: &TemplateVariable| {
        let given = given.iter().find(|given| given.name == variable.name);
        VariableValue {
            name: variable.name.clone(),
            value: given.map_or_else(
                || variable.default_value.clone().into(),
                |given| given.value.clone(),
            ),
            sensitive: variable.sensitive,
        }
    };
    declared.iter().map(value).collect()
}

fn dry_run_metadata(mut metadata: Metadata, user: &str) -> Metadata {
    let or = |text: &mut String, otherwise: &str| {
        if text.is_empty() {
            otherwise.clone_into(text);
        }
    };
    metadata.transition = Transition::Start;
    or(&mut metadata.coder_url, "http://localhost:3000");
    or(&mut metadata.workspace_name, "dryrun");
    or(
        &mut metadata.workspace_owner,
        if user.is_empty() { "dryrunner" } else { user },
    );
    or(&mut metadata.workspace_id, &Uuid::new_v4().to_string());
    or(
        &mut metadata.workspace_owner_id,
        &Uuid::new_v4().to_string(),
    );
    metadata
}

/// The end of a job whose code panicked.
pub(super) fn panicked(job: JobId, work: FailedWork) -> Outcome {
    let error = format!(
        "internal error of the provisioner daemon at {}; its log has more",
        Timestamp::now()
    );
    Outcome::Failed(FailedJob {
        id: job,
        error,
        code: None,
        work,
    })
}

/// The kind of a job, for an end that nobody foresaw.
pub(super) fn kind(job: &Job) -> FailedWork {
    failed_work(&job.work)
}
