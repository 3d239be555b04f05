//! Template imports: the parameters of a version, and the resources of started and stopped workspaces.

use bytes::Bytes;
use outpost_base::{
    job::{
        CompletedWork, ImportResult, LogLevel, Metadata, Resource, TemplateImport,
        TemplateVariable, Transition, VariableValue,
    },
    rules::resources::check_resources,
};
use outpost_provision::{
    GraphComplete, GraphSource, InitRequest, JobUpdate, PlanComplete, PlanRequest, Session,
    SourceError,
};
use tracing::warn;

use super::{Context, Failure, Progress, stage};
use crate::secrets;

/// Explanation for authors of a template whose second plan fails.
const STOP_ALONE: &str =
    "; the plan for a started workspace succeeded, only the one for a stopped workspace failed";

/// Resources that a template creates in one transition.
struct Pass {
    plan: PlanComplete,
    graph: GraphComplete,
}

impl Context<'_> {
    pub(super) async fn import(
        &self,
        template_archive: Bytes,
        import: TemplateImport,
        progress: &mut Progress,
    ) -> Result<CompletedWork, Failure> {
        let session = self
            .open(&import.metadata, None, &mut progress.session)
            .await?;
        let init = InitRequest {
            template_archive,
            ..InitRequest::default()
        };
        let init = session
            .init(init, self.log.sink(stage::INIT), self.stop)
            .await
            .map_err(|failure| {
                Failure::from(failure)
                    .prefixed("template import init error: ")
                    .coded()
            })?;
        let variables = self.learn(session, import.user_variables).await?;
        // Only now is it known which variables are sensitive.
        self.log.hide(secrets::of_variables(&variables).collect());
        let metadata = &import.metadata;
        let start = self
            .pass(session, Transition::Start, metadata, &variables)
            .await?;
        let stop = self
            .pass(session, Transition::Stop, metadata, &variables)
            .await
            .map_err(|failure| match self.stop.is_cancelled() {
                true => failure,
                false => failure.explained(STOP_ALONE),
            })?;
        self.warn_of_script_order(&start.graph.resources, &stop.graph.resources);
        Ok(CompletedWork::TemplateImport(Box::new(ImportResult {
            start_resources: start.graph.resources,
            stop_resources: stop.graph.resources,
            parameters: start.graph.parameters,
            external_auth: start.graph.external_auth,
            modules: init.modules,
            presets: start.graph.presets,
            plan: start.plan.plan,
            module_files: init.module_files,
            has_ai_tasks: start.graph.has_ai_tasks && self.source.has_ai_tasks(),
            has_external_agents: start.graph.has_external_agents,
        })))
    }

    /// Reads the template's source, sends what it declares, and returns the values of its variables.
    async fn learn(
        &self,
        session: &mut dyn Session,
        user_variables: Vec<VariableValue>,
    ) -> Result<Vec<VariableValue>, Failure> {
        self.check_stop()?;
        self.log.mark(stage::PARSE);
        let parsed = session.parse(self.log.sink(stage::PARSE_LOGS)).await;
        let parsed = parsed.map_err(|failure| {
            Failure::from(failure)
                .prefixed("run parse: parse error: ")
                .coded()
        })?;
        let local = values_of(&parsed.template_variables, &user_variables);
        let update = JobUpdate {
            template_variables: parsed.template_variables,
            user_variables,
            readme: readable(parsed.readme),
            workspace_tags: parsed.workspace_tags,
            ..JobUpdate::heartbeat(self.job)
        };
        match self.reporter.update(update.clone()).await {
            Ok(answer) => Ok(answer.variables),
            Err(error) if is_known(&error) => {
                for piece in pieces(update) {
                    match self.reporter.update(piece).await {
                        Err(error) if !is_known(&error) => return Err(refused(&error)),
                        Ok(_) | Err(_) => {}
                    }
                }
                Ok(local)
            }
            Err(error) => Err(refused(&error)),
        }
    }

    /// Warns authors that a server of this age drops the script order that the template declares.
    fn warn_of_script_order(&self, start: &[Resource], stop: &[Resource]) {
        let Some(version) = self.source.without_script_order() else {
            return;
        };
        if has_script_order(start) || has_script_order(stop) {
            let text = format!(
                "this server ignores `coder_script_order`: its daemon API is {version}, and the order requires 1.20 \
                 (Coder 2.39) or later, so agents run all scripts of a phase at the same time"
            );
            warn!("{text}");
            self.log.line(LogLevel::Warn, stage::GRAPH, text);
        }
    }

    /// Plans the template without a workspace.
    async fn pass(
        &self,
        session: &mut dyn Session,
        transition: Transition,
        metadata: &Metadata,
        variables: &[VariableValue],
    ) -> Result<Pass, Failure> {
        self.check_stop()?;
        let stage = detecting(transition);
        self.log.mark(stage);
        let wrong = |what: &str, failure: Failure| {
            failure
                .prefixed(&format!(
                    "template import provision for {transition}: {what}"
                ))
                .coded()
        };
        let request = PlanRequest {
            metadata: Metadata {
                transition,
                ..metadata.clone()
            },
            variables: variables.to_vec(),
            ..PlanRequest::default()
        };
        let plan = session
            .plan(request, self.log.sink(stage), self.stop)
            .await
            .map_err(|failure| {
                wrong(
                    "plan during template import provision error: ",
                    failure.into(),
                )
            })?;
        let graph = session
            .graph(GraphSource::Plan, self.log.sink(stage::GRAPH), self.stop)
            .await
            .map_err(|failure| wrong("", failure.into()))?;
        check_resources(&graph.resources).map_err(|refused| wrong("", refused.into()))?;
        Ok(Pass { plan, graph })
    }
}

/// Returns whether the server has the update already, because the answer to a first attempt was lost.
fn is_known(error: &SourceError) -> bool {
    matches!(error, SourceError::Refused(text) if text.contains("duplicate key"))
}

fn refused(error: &SourceError) -> Failure {
    match error {
        SourceError::Refused(text) => Failure::new(format!("update job: {text}")).coded(),
        error => Failure::new(format!("update job: {error}")),
    }
}

/// Splits an update into pieces of which the server has either all or nothing: where a connection breaks, coderd
/// stops between one tag or variable and the next.
fn pieces(update: JobUpdate) -> impl Iterator<Item = JobUpdate> {
    let JobUpdate {
        job,
        template_variables,
        user_variables,
        readme,
        workspace_tags,
        ..
    } = update;
    let tags = workspace_tags.into_iter().map(move |tag| JobUpdate {
        workspace_tags: [tag].into(),
        ..JobUpdate::heartbeat(job)
    });
    let readme = JobUpdate {
        readme,
        ..JobUpdate::heartbeat(job)
    };
    let variables = template_variables
        .into_iter()
        .map(move |variable| JobUpdate {
            template_variables: vec![variable],
            user_variables: user_variables.clone(),
            ..JobUpdate::heartbeat(job)
        });
    tags.chain([readme]).chain(variables)
}

fn has_script_order(resources: &[Resource]) -> bool {
    let agents = resources.iter().flat_map(|resource| &resource.agents);
    let mut scripts = agents.flat_map(|agent| {
        let inside = agent.devcontainers.iter();
        let inside = inside.flat_map(|container| &container.scripts);
        agent.scripts.iter().chain(inside)
    });
    scripts.any(|script| !script.dependencies.is_empty())
}

fn detecting(transition: Transition) -> &'static str {
    match transition {
        Transition::Start => stage::PERSISTENT,
        Transition::Stop | Transition::Destroy => stage::EPHEMERAL,
    }
}

/// Returns the README in a form that a text column of a database accepts.
fn readable(readme: Bytes) -> Bytes {
    match std::str::from_utf8(&readme) {
        Ok(text) if !text.contains('\0') => readme,
        _ => String::from_utf8_lossy(&readme)
            .replace('\0', "\u{fffd}")
            .into(),
    }
}

/// Returns the values that the server computes: the author's, else the default.
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
