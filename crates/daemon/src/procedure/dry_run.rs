//! Dry runs: the resources that a template would create with given parameters.

use bytes::Bytes;
use outpost_base::{
    job::{CompletedWork, DryRunResult, Metadata, TemplateDryRun, Transition},
    rules::resources::check_resources,
};
use outpost_provision::{GraphSource, InitRequest, PlanRequest, Session};
use uuid::Uuid;

use super::{Context, Failure, stage};

impl Context<'_> {
    pub(super) async fn dry_run(
        &self,
        template_archive: Bytes,
        dry_run: TemplateDryRun,
        user: &str,
        session: &mut Option<Box<dyn Session>>,
    ) -> Result<CompletedWork, Failure> {
        let metadata = filled(dry_run.metadata, user);
        let session = self.open(&metadata, None, session).await?;
        let wrong = |failure: Failure| failure.prefixed("run dry-run provision job: ").coded();
        let init = InitRequest {
            template_archive,
            omit_module_files: true,
            ..InitRequest::default()
        };
        let init = session
            .init(init, self.log.sink(stage::INIT), self.stop)
            .await
            .map_err(|failure| wrong(failure.into()))?;
        self.check_stop()?;
        let request = PlanRequest {
            metadata,
            parameters: dry_run.parameters,
            variables: dry_run.variables,
            ..PlanRequest::default()
        };
        session
            .plan(request, self.log.sink(stage::PERSISTENT), self.stop)
            .await
            .map_err(|failure| wrong(failure.into()))?;
        let graph = session
            .graph(GraphSource::Plan, self.log.sink(stage::GRAPH), self.stop)
            .await
            .map_err(|failure| wrong(failure.into()))?;
        check_resources(&graph.resources).map_err(|refused| wrong(refused.into()))?;
        Ok(CompletedWork::TemplateDryRun(DryRunResult {
            resources: graph.resources,
            modules: init.modules,
        }))
    }
}

/// Fills missing metadata with placeholders; a template may insist on names and ids.
fn filled(mut metadata: Metadata, user: &str) -> Metadata {
    let fill = |text: &mut String, placeholder: String| {
        if text.is_empty() {
            *text = placeholder;
        }
    };
    let owner = if user.is_empty() { "dryrunner" } else { user };
    metadata.transition = Transition::Start;
    fill(&mut metadata.coder_url, "http://localhost:3000".to_owned());
    fill(&mut metadata.workspace_name, "dryrun".to_owned());
    fill(&mut metadata.workspace_owner, owner.to_owned());
    fill(&mut metadata.workspace_id, Uuid::new_v4().to_string());
    fill(&mut metadata.workspace_owner_id, Uuid::new_v4().to_string());
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_gets_a_placeholder_and_what_is_there_stays() {
        let given = Metadata {
            transition: Transition::Stop,
            workspace_name: "mine".to_owned(),
            ..Metadata::default()
        };

        let metadata = filled(given, "ada");
        assert_eq!(metadata.transition, Transition::Start);
        assert_eq!(metadata.coder_url, "http://localhost:3000");
        assert_eq!(
            (metadata.workspace_name, metadata.workspace_owner),
            ("mine".to_owned(), "ada".to_owned())
        );
        assert!(metadata.workspace_id.parse::<Uuid>().is_ok());
        assert_ne!(metadata.workspace_id, metadata.workspace_owner_id);

        assert_eq!(filled(Metadata::default(), "").workspace_owner, "dryrunner");
    }
}
