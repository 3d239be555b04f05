//! A conversation with an engine about one template: opened when it is needed, and again after a step that failed.

use std::sync::Arc;

use bytes::Bytes;
use outpost_base::{
    job::{Metadata, Resource, Transition},
    stop::Stop,
};
use outpost_files::beneath::{DEADLINE, within};
use outpost_provision::{
    ApplyRequest, GraphComplete, GraphSource, InitRequest, LogSink, PlanRequest, Session,
    SessionConfig, StepFailure,
};

use super::{
    super::{PreparedEngine, inert},
    BuildError,
};
use crate::complaints::Complaints;

/// A session that builds of one template share, as init takes most of the time of a small one.
pub(super) struct Conversation {
    stage: PreparedEngine,
    /// True if provisioners are left out.
    is_inert: bool,
    /// True if a failed init is the template's own fault.
    is_broken: bool,
    session: Option<Box<dyn Session>>,
    complaints: Arc<Complaints>,
}

/// Result of a plan.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) plan: Bytes,
    pub(super) daily_cost: i32,
    /// Empty for a plan that destroys everything.
    pub(super) graph: GraphComplete,
}

impl Conversation {
    pub(super) fn new(stage: PreparedEngine, is_inert: bool, is_broken: bool) -> Self {
        Self {
            stage,
            is_inert,
            is_broken,
            session: None,
            complaints: Arc::default(),
        }
    }

    pub(super) async fn plan(
        &mut self,
        request: PlanRequest,
        stop: &Stop,
    ) -> Result<Planned, BuildError> {
        let log = self.log();
        let is_drawn = request.metadata.transition != Transition::Destroy;
        let session = self.session(stop).await?;
        let planned = async {
            let planned = session.plan(request, Arc::clone(&log), stop).await?;
            let graph = match is_drawn {
                true => session.graph(GraphSource::Plan, log, stop).await?,
                false => GraphComplete::default(),
            };
            Ok(Planned {
                plan: planned.plan,
                daily_cost: planned.daily_cost,
                graph,
            })
        };
        let planned = planned.await;
        self.unless_failed(planned).await
    }

    /// Carries out the last plan. Returns the newest state, also after a failure.
    pub(super) async fn apply(
        &mut self,
        metadata: Metadata,
        stop: &Stop,
    ) -> (Option<Bytes>, Result<(), BuildError>) {
        let log = self.log();
        let session = match self.session(stop).await {
            Ok(session) => session,
            Err(error) => return (None, Err(error)),
        };
        let applied = session.apply(ApplyRequest { metadata }, log, stop).await;
        let ended = applied.failure.map_or(Ok(()), Err);
        (applied.state, self.unless_failed(ended).await)
    }

    /// Returns the resources of the state after an apply.
    pub(super) async fn resources(&mut self, stop: &Stop) -> Result<Vec<Resource>, BuildError> {
        let log = self.log();
        let session = self.session(stop).await?;
        let graph = session.graph(GraphSource::State, log, stop).await;
        Ok(self.unless_failed(graph).await?.resources)
    }

    /// A step that failed ends the session.
    async fn unless_failed<T>(&mut self, step: Result<T, StepFailure>) -> Result<T, BuildError> {
        if step.is_err() {
            self.leave().await;
        }
        Ok(step?)
    }

    async fn session(&mut self, stop: &Stop) -> Result<&mut Box<dyn Session>, BuildError> {
        if self.session.is_none() {
            self.session = Some(self.open(stop).await?);
        }
        let session = self.session.as_mut();
        session.ok_or_else(|| StepFailure::new("there is no session").into())
    }

    async fn open(&self, stop: &Stop) -> Result<Box<dyn Session>, BuildError> {
        let unable = |failure: StepFailure| BuildError::Unable(failure.to_string());
        let opened = self.stage.engine.open(SessionConfig::without_job()).await;
        let mut session = opened.map_err(unable)?;
        if let (Some(states), Some(dir)) = (&self.stage.states, session.dirs().first()) {
            states.serve(dir);
        }
        let request = InitRequest {
            template_archive: self.stage.template.clone(),
            omit_module_files: true,
            ..InitRequest::default()
        };
        let opened = match session.init(request, self.log(), stop).await {
            Ok(_) if self.is_inert => blank(session.as_ref()).await,
            Ok(_) => Ok(()),
            Err(failure) if self.is_broken => Err(failure.into()),
            Err(failure) => Err(self.unable(&failure)),
        };
        match opened {
            Ok(()) => Ok(session),
            Err(error) => {
                session.close().await;
                Err(error)
            }
        }
    }

    /// Returns a failure that is not the fault of the template, with the words of the engine.
    fn unable(&self, failure: &StepFailure) -> BuildError {
        let said = self.said();
        BuildError::Unable(format!("{failure}\n{said}").trim_end().to_owned())
    }

    /// Returns and forgets the errors that the engine printed.
    pub(super) fn said(&self) -> String {
        self.complaints.take()
    }

    fn log(&self) -> Arc<dyn LogSink> {
        Arc::clone(&self.complaints) as Arc<dyn LogSink>
    }

    /// Ends the session, if there is one.
    pub(super) async fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }
}

async fn blank(session: &dyn Session) -> Result<(), BuildError> {
    let dirs = session.dirs();
    let blanked = within(DEADLINE, move || match dirs.first() {
        Some(dir) => inert::blank_provisioners(dir),
        None => Ok(()),
    });
    let blanked = blanked.await.flatten();
    let unable = |error| format!("provisioners of the template cannot be left out: {error}");
    blanked.map_err(|error| BuildError::Unable(unable(error)))
}
