//! Ends of jobs, and their results.

use std::collections::{BTreeSet, HashSet};

use outpost_base::{
    job::{
        Agent, AgentAuth, BuildResult, CompletedJob, CompletedWork, FailedJob, FailedWork,
        ImportResult, LogLevel, LogLine, LogSource, Resource, TemplateVariable, Transition,
        VariableValue, classify,
    },
    rules::resources::{check_parameters, check_resources},
    secret::Secret,
};
use outpost_provision::JobUpdate;
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::{
    Plane, RequestError,
    workspaces::{made_place, state_place},
};
use crate::{
    binaries::Binaries,
    model::{
        AgentId, BuildId, BuildOutput, Daemon, EndedBy, FileKind, ImportOutput, JobRecord,
        JobStatus, Task, VersionId,
    },
    store::{Effect, End, Ended, LateState, NewAgent, NewState, StateChange},
    tokens::Hashed,
};

/// Returns the value of every variable of `declared`: the first one given, else the default.
pub(super) fn variable_values(
    declared: &[TemplateVariable],
    given: &[VariableValue],
) -> Vec<VariableValue> {
    declared
        .iter()
        .map(|variable| VariableValue {
            name: variable.name.clone(),
            value: given
                .iter()
                .find(|given| given.name == variable.name)
                .map_or_else(
                    || Secret::new(variable.default_value.clone()),
                    |given| given.value.clone(),
                ),
            sensitive: variable.sensitive,
        })
        .collect()
}

/// Names of variables that need a value and have none.
pub(super) fn missing_variables(
    declared: &[TemplateVariable],
    values: &[VariableValue],
) -> Vec<String> {
    let pairs = declared.iter().zip(values);
    pairs
        .filter(|(variable, value)| variable.required && value.value.is_empty())
        .map(|(variable, _)| variable.name.clone())
        .collect()
}

/// Refuses values of variables that the template does not have: a misspelt name would silently leave the default in
/// place.
pub(super) fn unknown_variables(update: &JobUpdate) -> Option<String> {
    let declared = &update.template_variables;
    let is_known = |name: &str| declared.iter().any(|variable| variable.name == name);
    let mut unknown = update.user_variables.iter().map(|given| &*given.name);
    let unknown = unknown.find(|name| !is_known(name))?;
    let names: Vec<&str> = declared.iter().map(|variable| &*variable.name).collect();
    Some(match names.as_slice() {
        [] => format!("the template has no variable `{unknown}`; it has no variables"),
        names => format!(
            "the template has no variable `{unknown}`, only: {}",
            names.join(", ")
        ),
    })
}

/// Returns the records of the agents in these resources; an agent in two of them is one agent.
fn new_agents(resources: &[Resource]) -> Vec<NewAgent> {
    let agents = resources.iter().flat_map(|resource| &resource.agents);
    let mut names = HashSet::new();
    let agents = agents.filter(|agent| names.insert(agent.name.to_lowercase()));
    let new = |agent: &Agent| NewAgent {
        id: AgentId::random(),
        name: agent.name.clone(),
        token: match &agent.auth {
            AgentAuth::Token(token) if !token.is_empty() => {
                Some(Hashed::of(&Secret::new(token.clone())))
            }
            AgentAuth::Token(_) | AgentAuth::InstanceId(_) => None,
        },
    };
    agents.map(new).collect()
}

impl Plane {
    /// Ends a job that succeeded. Its output, its state and its end are stored together or not at all.
    ///
    /// A repeated message changes nothing and succeeds. A build that the reaper ended succeeds after all if no newer one
    /// has begun. After any other end only the state of a late message is kept, and counts if no newer build has begun.
    ///
    /// # Errors
    /// [`RequestError::Gone`] if the job is not the daemon's; [`RequestError::Invalid`] if it is of another kind.
    pub(crate) async fn complete_job(
        &self,
        daemon: &Daemon,
        completed: CompletedJob,
    ) -> Result<(), RequestError> {
        let job = self.owned(daemon, completed.id).await?;
        let lines = match &completed.result {
            CompletedWork::TemplateImport(import) => self.missing_binaries(&import.start_resources),
            CompletedWork::WorkspaceBuild(_) => self.if_late(&job),
            CompletedWork::TemplateDryRun(_) => Vec::new(),
        };
        let (effect, state) = match (&job.task, completed.result) {
            (Task::WorkspaceBuild { build_id }, CompletedWork::WorkspaceBuild(result)) => {
                self.build_effect(*build_id, result).await?
            }
            (Task::TemplateImport { version_id }, CompletedWork::TemplateImport(result)) => {
                (self.import_effect(*version_id, *result).await?, None)
            }
            (Task::TemplateDryRun { .. }, CompletedWork::TemplateDryRun(result)) => {
                check_resources(&result.resources)?;
                (Effect::DryRun(self.seal_dry_run(job.id, result)), None)
            }
            (task, _) => {
                return Err(RequestError::Invalid(format!(
                    "the type of the result does not match the job, which is a {}",
                    task.name()
                )));
            }
        };
        let end = End {
            job: job.id,
            by: EndedBy::Daemon,
            error: String::new(),
            error_code: None,
            lines,
            effect,
            silent_since: None,
            now: self.now(),
        };
        self.finish(daemon, &job, end, state).await
    }

    /// Ends a job that failed. Repeated and late messages are treated as in [`Self::complete_job`].
    ///
    /// # Errors
    /// [`RequestError::Gone`] if the job is not the daemon's.
    pub(crate) async fn fail_job(
        &self,
        daemon: &Daemon,
        failed: FailedJob,
    ) -> Result<(), RequestError> {
        let job = self.owned(daemon, failed.id).await?;
        let state = match (&job.task, failed.work) {
            (
                Task::WorkspaceBuild { build_id },
                FailedWork::WorkspaceBuild {
                    state: Some(state), ..
                },
            ) if !state.is_empty() => Some((*build_id, self.new_state(*build_id, &state))),
            (_, _) => None,
        };
        let effect = match (&job.task, &state) {
            (Task::WorkspaceBuild { build_id }, state) => Effect::Build {
                build: *build_id,
                state: state.as_ref().map_or(StateChange::Keep, |(_, state)| {
                    StateChange::Set(state.clone())
                }),
                made: None,
                agents: Vec::new(),
                deleted: false,
            },
            (Task::TemplateImport { .. } | Task::TemplateDryRun { .. }, _) => Effect::None,
        };
        // Coder treats an empty error as success, so a failure needs a text.
        let error = match failed.error.as_str() {
            "" => "job failed without saying why".to_owned(),
            error => error.replace('\0', ""),
        };
        let end = End {
            job: job.id,
            by: EndedBy::Daemon,
            error,
            error_code: failed.code,
            lines: Vec::new(),
            effect,
            silent_since: None,
            now: self.now(),
        };
        self.finish(daemon, &job, end, state).await
    }

    /// Returns which agents of a template have no binary here.
    fn missing_binaries(&self, resources: &[Resource]) -> Vec<LogLine> {
        let agents = resources.iter().flat_map(|resource| &resource.agents);
        let platforms: BTreeSet<(&str, &str)> = agents
            .filter(|agent| !agent.operating_system.is_empty())
            .map(|agent| (&*agent.operating_system, &*agent.architecture))
            .collect();
        let missing = platforms
            .into_iter()
            .filter(|(os, arch)| !self.binaries.has(os, arch));
        let line = |(os, arch)| LogLine {
            source: LogSource::ProvisionerDaemon,
            level: LogLevel::Warn,
            created_at: self.now(),
            stage: "Checking agents".to_owned(),
            output: format!(
                "This server has no agent binary for {os}/{arch}, so agents on that platform cannot start: {}",
                Binaries::remedy(os, arch)
            ),
        };
        missing.map(line).collect()
    }

    /// The line at the end of a log in which the reaper has had the last word, if it has.
    fn if_late(&self, job: &JobRecord) -> Vec<LogLine> {
        let line = LogLine {
            source: LogSource::ProvisionerDaemon,
            level: LogLevel::Info,
            created_at: self.now(),
            stage: "Cleaning Up".to_owned(),
            output: format!(
                "Provisioner daemon {} delivered the result of the build, which has succeeded.",
                job.worker_name
            ),
        };
        let is_late = job.ended_by == Some(EndedBy::Reaper);
        is_late.then_some(line).into_iter().collect()
    }

    async fn finish(
        &self,
        daemon: &Daemon,
        job: &JobRecord,
        end: End,
        state: Option<(BuildId, NewState)>,
    ) -> Result<(), RequestError> {
        let error = end.error.clone();
        let result = match (job.canceled_at, error.is_empty()) {
            (Some(_), _) => JobStatus::Cancelled,
            (None, true) => JobStatus::Succeeded,
            (None, false) => JobStatus::Failed,
        };
        match self.store.end_job(end).await? {
            Ended::Now | Ended::Alive => {
                info!(job_id = %job.id, daemon = daemon.name, error, "job ended");
                self.ended_jobs.count(result);
                self.job_moved();
                Ok(())
            }
            Ended::Late => {
                const WHAT: &str = "the server had given it up; its success counts";
                warn!(job_id = %job.id, daemon = daemon.name, "a build succeeded that had been given up");
                self.job_moved();
                let actor = format!("daemon {}", daemon.name);
                self.audit(&actor, "job.late", &job.subject, WHAT).await
            }
            Ended::Before(by) => {
                info!(job_id = %job.id, daemon = daemon.name, by = by.as_str(), "job had already ended");
                match state {
                    Some((build, state)) => self.keep_late(daemon, job, build, state).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn keep_late(
        &self,
        daemon: &Daemon,
        job: &JobRecord,
        build: BuildId,
        state: NewState,
    ) -> Result<(), RequestError> {
        let kept = self
            .store
            .insert_late_state(build, state, self.now())
            .await?;
        let what = match kept {
            LateState::Known => return Ok(()),
            LateState::Adopted => "it is the workspace's state now",
            LateState::Kept => "a newer state is in use, so this one is kept only in the history",
        };
        warn!(job_id = %job.id, daemon = daemon.name, what, "received a state after its job had ended");
        let actor = format!("daemon {}", daemon.name);
        self.audit(&actor, "state.late", &job.subject, what).await
    }

    pub(super) fn new_state(&self, build: BuildId, state: &[u8]) -> NewState {
        let digest = Sha256::new()
            .chain_update(build.0.as_bytes())
            .chain_update(state)
            .finalize();
        NewState {
            sealed: self.vault.seal(&state_place(build), state),
            digest: digest.into(),
        }
    }

    async fn build_effect(
        &self,
        id: BuildId,
        result: BuildResult,
    ) -> Result<(Effect, Option<(BuildId, NewState)>), RequestError> {
        check_resources(&result.resources)?;
        let build = self.store.build(id).await?;
        let build = build.ok_or_else(|| RequestError::Gone(format!("there is no build {id}")))?;
        let import_output = self.store.import_output(build.version_id).await?;
        let made = BuildOutput {
            persistence: classify(
                &import_output.start_resources,
                &import_output.stop_resources,
            ),
            resources: result.resources,
            modules: result.modules,
            timings: result.timings,
        };
        let agents = match build.transition {
            Transition::Start => new_agents(&made.resources),
            Transition::Stop | Transition::Destroy => Vec::new(),
        };
        let json = serde_json::to_vec(&made).expect("resources have a JSON form");
        let state = (!result.state.is_empty()).then(|| self.new_state(id, &result.state));
        let effect = Effect::Build {
            build: id,
            state: state
                .as_ref()
                .map_or(StateChange::Clear, |state| StateChange::Set(state.clone())),
            made: Some(self.vault.seal(&made_place(id), &json)),
            agents,
            deleted: build.transition == Transition::Destroy,
        };
        Ok((effect, state.map(|state| (id, state))))
    }

    async fn import_effect(
        &self,
        id: VersionId,
        result: ImportResult,
    ) -> Result<Effect, RequestError> {
        check_resources(&result.start_resources)?;
        check_resources(&result.stop_resources)?;
        check_parameters(&result.parameters, &result.presets)?;
        let early = self.store.import_output(id).await?;
        let modules_file = if result.module_files.is_empty() {
            None
        } else {
            let content = result.module_files;
            Some(self.store.insert_file(FileKind::Modules, content).await?)
        };
        let plan = (!result.plan.is_empty()).then(|| {
            self.vault
                .seal(&format!("plan of template version {id}"), &result.plan)
        });
        let import_output = ImportOutput {
            parameters: result.parameters,
            presets: result.presets,
            external_auth: result.external_auth,
            modules: result.modules,
            start_resources: result.start_resources,
            stop_resources: result.stop_resources,
            modules_file,
            has_ai_tasks: result.has_ai_tasks,
            has_external_agents: result.has_external_agents,
            ..early
        };
        Ok(Effect::Import {
            version: id,
            import_output: Box::new(import_output),
            plan,
        })
    }
}
