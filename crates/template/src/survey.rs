//! Plans a template the way an import does, without a server, to see what it makes.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use outpost_base::{
    job::{LogLevel, Metadata, Transition, VariableValue},
    stop::Stop,
};
use outpost_files::archive::{self, ArchiveError};
use outpost_provision::{
    GraphComplete, GraphSource, InitRequest, LogSink, PlanRequest, Provisioner, Session,
    SessionConfig, StepFailure,
};

use super::Picture;

/// Reason why a template could not be planned.
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
        /// Transition whose plan failed.
        transition: Transition,
        /// Failure that the engine reports.
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

/// Plans the template in `dir` for a start and for a stop, and makes a picture of both, with the warnings of an import
/// as notes.
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
    let mut session = engine.open(SessionConfig::without_job()).await?;
    let request = InitRequest {
        template_archive,
        omit_module_files: true,
        ..InitRequest::default()
    };
    let warnings = Arc::new(Warnings {
        log,
        said: Mutex::default(),
    });
    let plans = plan_both(session.as_mut(), request, variables, &warnings, stop).await;
    session.close().await;
    let (started, stopped) = plans?;
    let mut picture = Picture::of_plans(&started, &stopped);
    picture.notes.extend(warnings.take());
    Ok(picture)
}

/// Warnings of a conversion.
struct Warnings {
    log: Arc<dyn LogSink>,
    said: Mutex<Vec<String>>,
}

impl LogSink for Warnings {
    fn log(&self, level: LogLevel, output: String) {
        if level == LogLevel::Warn {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push(output.clone());
        }
        self.log.log(level, output);
    }
}

impl Warnings {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn plan_both(
    session: &mut dyn Session,
    request: InitRequest,
    variables: &[VariableValue],
    warnings: &Arc<Warnings>,
    stop: &Stop,
) -> Result<(GraphComplete, GraphComplete), SurveyError> {
    let log = Arc::clone(&warnings.log);
    session.init(request, Arc::clone(&log), stop).await?;
    session.parse(log).await?;
    let started = plan(session, Transition::Start, variables, warnings, stop).await?;
    let stopped = plan(session, Transition::Stop, variables, warnings, stop).await?;
    Ok((started, stopped))
}

async fn plan(
    session: &mut dyn Session,
    transition: Transition,
    variables: &[VariableValue],
    warnings: &Arc<Warnings>,
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
    let log = Arc::clone(&warnings.log);
    let planned = session.plan(request, log, stop).await;
    planned.map_err(failed)?;
    let log: Arc<dyn LogSink> = Arc::clone(warnings) as _;
    let graph = session.graph(GraphSource::Plan, log, stop);
    graph.await.map_err(failed)
}
