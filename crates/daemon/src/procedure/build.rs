//! Workspace builds: create, start, stop, delete. The transition is in the metadata; the steps are the same.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::{
    job::{BuildResult, CompletedWork, FailureCode, LogLevel, Timing, Transition, WorkspaceBuild},
    rules::resources::check_resources,
};
use outpost_provision::{
    ApplyRequest, GraphSource, InitRequest, PlanComplete, PlanRequest, Session, StepFailure,
};
use tokio::time::sleep;
use uuid::Uuid;

use super::{Apply, Context, Failure, Progress, stage};
use crate::{
    journal::{Entry, Record},
    repeat::until_answered,
};

/// Longest time to fetch the archive of a template's modules, as in the reference.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Size of a state in bytes above which it comes close to the server's limit of a message.
const LARGE_STATE_BYTES: usize = 3 << 20;

impl Context<'_> {
    pub(super) async fn build(
        &self,
        template_archive: Bytes,
        mut build: WorkspaceBuild,
        progress: &mut Progress,
    ) -> Result<CompletedWork, Failure> {
        let Progress {
            session,
            apply,
            state,
            timings,
            record: record_slot,
        } = progress;
        let supersedes = self.use_kept_state(&mut build).await?;
        let entry = Entry {
            supersedes,
            ..Entry::new(self.job, self.identity, &build, Timestamp::now())
        };
        let level = log_level(&build.log_level);
        let session = self.open(&build.metadata, level, session).await?;
        let file = &build.metadata.template_version_modules_file;
        let init = InitRequest {
            template_archive,
            module_archive: self.modules(file).await?,
            // The server keeps the modules since the import.
            omit_module_files: true,
            only_modules: false,
        };
        let init = session
            .init(init, self.log.sink(stage::INIT), self.stop)
            .await
            .map_err(|failure| measured(failure, timings))?;
        timings.extend(init.timings);

        let request = PlanRequest {
            metadata: build.metadata.clone(),
            parameters: build.parameters,
            previous_parameters: build.previous_parameters,
            variables: build.variables,
            external_auth: build.external_auth,
            state: build.state,
        };
        let mut plan = session
            .plan(request, self.log.sink(stage::PLAN), self.stop)
            .await
            .map_err(|failure| measured(failure, timings))?;
        timings.append(&mut plan.timings);
        if self.source.has_ai_tasks() {
            check_ai_tasks(&plan)?;
        }
        let transition = build.metadata.transition;
        self.check_resources(session, transition, timings).await?;
        self.reporter.flush(false).await;
        self.commit_quota(transition, plan.daily_cost).await?;
        self.check_stop()?;
        // The last check: from here on the infrastructure may change.
        self.check_contact()?;

        let stage = apply_stage(transition);
        self.log.mark(stage);
        let workspace = &build.metadata.workspace_id;
        let planned = BuildResult {
            timings: timings.clone(),
            modules: init.modules.clone(),
            replacements: plan.replacements.clone(),
            ..BuildResult::default()
        };
        let record = self
            .begin_record(entry, planned, workspace, session)
            .await?;
        let record = record_slot.insert(record);
        let request = ApplyRequest {
            metadata: build.metadata,
        };
        *apply = Apply::Running;
        let patient = self.stop.patient();
        let applied = tokio::select! {
            applied = session.apply(request, self.log.sink(stage), &patient) => applied,
            never = self.patience.bound(self.stop, &patient) => match never {},
        };
        if let Some(failure) = applied.failure.as_ref().filter(|failure| failure.is_left) {
            *apply = Apply::Left;
            return Err(measured(failure.clone(), timings));
        }
        // The infrastructure has changed. Whatever happens from here on, the result includes the state.
        (*state, *apply) = (applied.state, Apply::Ended);
        if let Some(state) = state {
            // The journal needs the state even if the job fails from here on.
            record.observer().state(state.clone());
        }
        self.warn_of_size(stage, state.as_ref());
        timings.extend(applied.timings);
        if let Some(failure) = applied.failure {
            return Err(measured(failure, timings));
        }
        // The workspace is built: a cancellation must not interrupt reading its graph.
        let graph_stop = patient.cleanup();
        let graph = tokio::select! {
            graph = session.graph(GraphSource::State, self.log.sink(stage::GRAPH), &graph_stop) => graph,
            never = self.patience.bound(self.stop, &patient) => match never {},
        };
        let graph = graph.map_err(|failure| measured(failure, timings))?;
        timings.extend(graph.timings);
        Ok(CompletedWork::WorkspaceBuild(BuildResult {
            state: state.clone().unwrap_or_default(),
            resources: graph.resources,
            timings: std::mem::take(timings),
            modules: init.modules,
            replacements: plan.replacements,
            ai_tasks: match self.source.has_ai_tasks() {
                true => graph.ai_tasks,
                false => Vec::new(),
            },
        }))
    }

    /// Refuses, before anything is built, resources that the server would refuse afterwards.
    async fn check_resources(
        &self,
        session: &mut dyn Session,
        transition: Transition,
        timings: &mut Vec<Timing>,
    ) -> Result<(), Failure> {
        if transition == Transition::Destroy {
            return Ok(()); // A template that became invalid can still be destroyed.
        }
        let log = self.log.sink(stage::PLAN);
        let planned = session.graph(GraphSource::Plan, log, self.stop).await;
        let planned = planned.map_err(|failure| measured(failure, timings))?;
        Ok(check_resources(&planned.resources)?)
    }

    /// Returns the modules of the template version, as its import found them. Empty if it kept none.
    async fn modules(&self, file: &str) -> Result<Bytes, Failure> {
        if file.is_empty() {
            return Ok(Bytes::new());
        }
        let wrong = |why: String| Failure::new(format!("download template modules {file}: {why}"));
        let id: Uuid = file
            .parse()
            .map_err(|_| wrong("not the id of a file".to_owned()))?;
        let given_up = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(DOWNLOAD_TIMEOUT) => {}
            }
        };
        let call = || self.source.download_modules(id);
        match until_answered("download modules", self.source.as_ref(), given_up, call).await {
            Some(file) => file.map_err(|error| wrong(error.to_string())),
            None => Err(wrong("the server did not answer in time".to_owned())),
        }
    }

    /// Begins the record in the journal. Without it nothing is changed that only the state would show.
    async fn begin_record(
        &self,
        entry: Entry,
        planned: BuildResult,
        workspace_id: &str,
        session: &mut dyn Session,
    ) -> Result<Record, Failure> {
        let entry = Entry {
            dirs: session.dirs(),
            planned,
            ..entry
        };
        let contact = self.reporter.contact().clone();
        let record = self.journal.begin(entry, Some(contact)).await;
        let record = record.map_err(|error| {
            let why = std::error::Error::source(&error)
                .map_or_else(String::new, |why| format!(": {why}"));
            Failure::new(format!(
                "nothing was applied: {error}{why} ({})",
                error.hint()
            ))
        })?;
        // Of two jobs that check at the same time, each finds the other: then neither applies.
        if let Err(failure) = self.check_alone(workspace_id).await {
            record.discard().await;
            return Err(failure);
        }
        session.set_observer(record.observer());
        Ok(record)
    }

    /// Warns of a large state. The server accepts 4 MiB in one message, and a job is sent with its state *and* its
    /// template.
    fn warn_of_size(&self, stage: &'static str, state: Option<&Bytes>) {
        let size = state.map_or(0, Bytes::len);
        if size > LARGE_STATE_BYTES {
            let text = format!(
                "the state has {size} bytes: beyond 4 MiB, including the template, the server can neither store it \
                 nor build this workspace again; keep large values out of the state"
            );
            self.log.line(LogLevel::Warn, stage, text);
        }
    }

    /// Refuses to apply for a job that the server may have given up: a newer one may be running by now.
    fn check_contact(&self) -> Result<(), Failure> {
        match self.reporter.contact().may_be_lost() {
            true => Err(Failure::new(
                "nothing was applied: the server was unreachable for so long that it may have given up on the job; start the build again",
            )),
            false => Ok(()),
        }
    }

    /// Commits the quota if something is built that costs.
    async fn commit_quota(&self, transition: Transition, daily_cost: i32) -> Result<(), Failure> {
        if transition == Transition::Destroy || daily_cost == 0 {
            return Ok(());
        }
        let line = |level, text: String| self.log.line(level, stage::QUOTA, text);
        let call = || self.source.commit_quota(self.job, daily_cost);
        let quota = match until_answered(
            "commit quota",
            self.source.as_ref(),
            self.stop.cancelled(),
            call,
        )
        .await
        {
            Some(Ok(quota)) => quota,
            Some(Err(error)) => {
                line(LogLevel::Error, format!("Failed to commit quota: {error}"));
                return Err(Failure::new(format!("commit quota: {error}")));
            }
            None => return Err(Failure::new("commit quota: no answer from the server")),
        };
        let (budget, consumed) = (quota.budget, quota.consumed);
        line(LogLevel::Info, format!("Build cost       —   {daily_cost}"));
        line(LogLevel::Info, format!("Budget           —   {budget}"));
        line(LogLevel::Info, format!("Credits consumed —   {consumed}"));
        if quota.ok {
            self.reporter.flush(false).await;
            return Ok(());
        }
        let refusal = "This build would exceed your quota. Failing.";
        line(LogLevel::Warn, refusal.to_owned());
        Err(Failure {
            error: "insufficient quota".to_owned(),
            code: Some(FailureCode::InsufficientQuota),
        })
    }
}

/// Keeps the timings of a step that failed.
fn measured(mut failure: StepFailure, timings: &mut Vec<Timing>) -> Failure {
    timings.append(&mut failure.timings);
    failure.into()
}

fn check_ai_tasks(plan: &PlanComplete) -> Result<(), Failure> {
    match plan.ai_task_count {
        ..=1 => Ok(()),
        count => Err(Failure::new(format!(
            "only one 'coder_ai_task' resource can be provisioned per template, found {count}"
        ))),
    }
}

fn apply_stage(transition: Transition) -> &'static str {
    match transition {
        Transition::Start => "Starting workspace",
        Transition::Stop => "Stopping workspace",
        Transition::Destroy => "Destroying workspace",
    }
}

/// Parses a level by its name, ignoring case. An unknown name keeps all lines, as in the reference.
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
