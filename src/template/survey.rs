//! Plans a template the way an import does, without a server, to see what it makes.

use std::{path::Path, sync::Arc};

use uuid::Uuid;

use super::Picture;
use crate::{
    files::archive::{self, ArchiveError},
    job::{JobId, Metadata, Transition, VariableValue},
    provision::{
        GraphComplete, GraphSource, InitRequest, LogSink, Memory, PlanRequest, Provisioner,
        Session, SessionConfig, StepFailure,
    },
    stop::Stop,
};

/// Why a template could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// Its files cannot be read.
    #[error("failed to read the template")]
    Template(#[from] ArchiveError),
    /// The engine refused it.
    #[error(transparent)]
    Engine(#[from] StepFailure),
    /// The engine refused it for one of both transitions.
    #[error("{}", told(.transition))]
    Plan {
        /// Whose plan it is.
        transition: Transition,
        /// What the engine says.
        source: StepFailure,
    },
}

fn told(transition: &Transition) -> &'static str {
    match transition {
        Transition::Start => "the plan for a started workspace failed",
        Transition::Stop | Transition::Destroy => {
            "the plan for a started workspace succeeded, only the one for a stopped workspace failed"
        }
    }
}

/// Plans the template in `dir` for a start and for a stop, and makes a picture of both.
///
/// # Errors
/// [`SurveyError`]; there is no picture of one plan alone.
pub async fn survey(
    engine: &dyn Provisioner,
    dir: &Path,
    variables: &[VariableValue],
    log: Arc<dyn LogSink>,
    stop: &Stop,
) -> Result<Picture, SurveyError> {
    let template_archive = archive::pack_template(dir)?;
    let mut session = engine.open(session_config()).await?;
    let request = InitRequest {
        template_archive,
        omit_module_files: true,
        ..InitRequest::default()
    };
    let plans = plan_both(session.as_mut(), request, variables, &log, stop).await;
    session.close().await;
    let (started, stopped) = plans?;
    Ok(Picture::of_plans(&started, &stopped))
}

fn session_config() -> SessionConfig {
    SessionConfig {
        job_id: JobId(Uuid::new_v4()),
        log_level: None,
        template_id: String::new(),
        template_version_id: String::new(),
        memory: Memory::default(),
    }
}

async fn plan_both(
    session: &mut dyn Session,
    request: InitRequest,
    variables: &[VariableValue],
    log: &Arc<dyn LogSink>,
    stop: &Stop,
) -> Result<(GraphComplete, GraphComplete), SurveyError> {
    session.init(request, Arc::clone(log), stop).await?;
    session.parse(Arc::clone(log)).await?;
    let started = plan(session, Transition::Start, variables, log, stop).await?;
    let stopped = plan(session, Transition::Stop, variables, log, stop).await?;
    Ok((started, stopped))
}

async fn plan(
    session: &mut dyn Session,
    transition: Transition,
    variables: &[VariableValue],
    log: &Arc<dyn LogSink>,
    stop: &Stop,
) -> Result<GraphComplete, SurveyError> {
    let failed = |source| SurveyError::Plan { transition, source };
    let request = PlanRequest {
        metadata: Metadata {
            transition,
            ..Metadata::default()
        },
        variables: variables.to_vec(),
        ..PlanRequest::default()
    };
    let planned = session.plan(request, Arc::clone(log), stop).await;
    planned.map_err(failed)?;
    let graph = session.graph(GraphSource::Plan, Arc::clone(log), stop);
    graph.await.map_err(failed)
}
