//! States that earlier jobs of a workspace left here: looked for before its next job plans, and again before it applies.

use std::time::Duration;

use outpost_base::job::{JobId, LogLevel, WorkspaceBuild};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::{error, warn};

use super::{Context, Failure, stage};
use crate::{
    journal::{Entry, Found, JournalError},
    kept::{self, Choice},
};

/// Longest wait for another job of the workspace that is still being worked on: a dead sibling is found within 15
/// seconds, and its engine has five minutes to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// Interval of checks: the file system notifies nobody.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Usual time for the end of another job, which is not worth a line.
const USUAL: Duration = Duration::from_secs(2);

impl Context<'_> {
    /// Replaces the server's state by a kept one of the workspace, if that is newer. Returns the jobs whose entries
    /// are useless once the server has the end of this one.
    pub(super) async fn use_kept_state(
        &self,
        build: &mut WorkspaceBuild,
    ) -> Result<Vec<JobId>, Failure> {
        let found = self.look_alone(&build.metadata.workspace_id).await?;
        let entries = found.iter().map(|it| it.entry.clone()).collect();
        let choice = kept::choose(&build.state, entries).map_err(|conflict| {
            error!("{conflict}");
            Failure::new(conflict.to_string())
        })?;
        for line in &choice.lines {
            warn!("{line}");
            self.log
                .line(LogLevel::Warn, stage::SETTING_UP, line.clone());
        }
        self.mark_overtaken(found, &choice).await;
        if let Some(state) = choice.state {
            build.state = state;
        }
        Ok(choice.supersedes)
    }

    /// Fails if another job has begun to apply for the workspace: then the server has given up one of the two.
    pub(super) async fn check_alone(&self, workspace_id: &str) -> Result<(), Failure> {
        self.look_alone(workspace_id).await.map(drop)
    }

    /// Waits until nobody is working on another job of the workspace. The slot takes other jobs meanwhile.
    pub(super) async fn wait_for_workspace(&self, workspace_id: &str) -> Result<(), Failure> {
        let (began, mut was_said, mut is_aside) = (Instant::now(), false, false);
        loop {
            let found = self.look(workspace_id).await?;
            let Some(other) = found.iter().find(|it| it.entry.is_pending()) else {
                break;
            };
            if began.elapsed() >= PATIENCE {
                return Err(Failure::new(busy(other)));
            }
            if !was_said && began.elapsed() >= USUAL {
                was_said = true;
                let text = format!(
                    "Waiting for job {} of this workspace, which daemon {} is still running",
                    other.entry.job, other.entry.daemon
                );
                warn!("{text}");
                self.log.line(LogLevel::Info, stage::SETTING_UP, text);
                is_aside = self.turn.step_aside();
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled() => return Err(Failure::new(format!(
                    "stopped while waiting for the end of job {}", other.entry.job
                ))),
            }
        }
        if is_aside {
            tokio::select! {
                () = self.turn.step_back() => {}
                () = self.stop.cancelled() => {
                    return Err(Failure::new("stopped while waiting for a slot"));
                }
            }
        }
        Ok(())
    }

    /// Returns the entries of other jobs of the workspace, on which nobody is working.
    async fn look_alone(&self, workspace_id: &str) -> Result<Vec<Found<Entry>>, Failure> {
        let found = self.look(workspace_id).await?;
        match found.iter().find(|it| it.entry.is_pending()) {
            Some(other) => Err(Failure::new(busy(other))),
            None => Ok(found),
        }
    }

    async fn look(&self, workspace_id: &str) -> Result<Vec<Found<Entry>>, Failure> {
        if workspace_id.is_empty() {
            return Ok(Vec::new());
        }
        let (journals, own) = (self.journals.clone(), self.job);
        let (server, workspace) = (self.identity.server.clone(), workspace_id.to_owned());
        let found = spawn_blocking(move || {
            let mut found = journals.of_workspace(&server, &workspace)?;
            found.retain(|it| it.entry.job != own);
            Ok::<_, JournalError>(found)
        });
        let found = found.await.expect("reading the journal does not panic");
        found.map_err(|error| {
            Failure::new(format!("nothing was applied: {error} ({})", error.hint()))
        })
    }

    /// Records in entries why a person must look at them.
    async fn mark_overtaken(&self, found: Vec<Found<Entry>>, choice: &Choice) {
        for mut found in found {
            let its = choice
                .overtaken
                .iter()
                .find(|(job, _)| *job == found.entry.job);
            let Some((_, reason)) = its else { continue };
            if found.entry.refused.as_ref() == Some(reason) {
                continue;
            }
            found.entry.refused = Some(reason.clone());
            let journals = self.journals.clone();
            let written = spawn_blocking(move || journals.rewrite(&found)).await;
            if let Ok(Err(error)) = written {
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    "cannot record in the journal that a kept state was superseded"
                );
            }
        }
    }
}

fn busy(other: &Found<Entry>) -> String {
    let Entry { job, daemon, .. } = &other.entry;
    let what = match other.is_alive {
        true => "is still running",
        false => "died while running",
    };
    format!(
        "nothing was applied: daemon {daemon} on this host {what} job {job} of the same workspace, which the server gave up \
         on; start the build again when that job has ended (see `outpost recover show {job}` on the host)"
    )
}
