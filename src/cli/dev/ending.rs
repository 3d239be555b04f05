//! End of a run of `dev`: whether the workspace is kept or deleted.
//!
//! A run deletes the workspace of an earlier one only with `--delete`. Without a data directory no later run could
//! continue, so everything is deleted, but a person at the terminal is asked first.

use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Run, stack::Stack};
use crate::{
    cli::{
        confirm,
        exit::{Hint, in_words},
        output,
        workspace::build,
    },
    job::Transition,
    stop::Stop,
};

/// Choice of the options for the workspace's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnExit {
    /// Leaves it running, for `--keep`.
    Leave,
    /// Given with a data directory.
    Stop,
    /// Default without a data directory.
    PromptOrDelete,
    /// `--check`: deletes what this run created, and touches nothing else.
    DeleteIfNew,
    /// Deletes it, for `--delete`.
    Delete,
}

/// Action on a workspace that exists when a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExitAction {
    Stays,
    IsStopped,
    StopThenPrompt,
    IsDeleted,
}

impl ExitAction {
    /// Decides the action. `is_new`: this run created the workspace. `is_attended`: somebody can answer.
    fn new(on_exit: OnExit, is_new: bool, is_attended: bool) -> Self {
        match (on_exit, is_new, is_attended) {
            (OnExit::Leave, _, _) | (OnExit::DeleteIfNew, false, _) => Self::Stays,
            (OnExit::Delete, _, _) | (OnExit::DeleteIfNew, true, _) => Self::IsDeleted,
            (_, false, _) | (OnExit::Stop, true, false) => Self::IsStopped,
            (_, true, true) => Self::StopThenPrompt,
            (OnExit::PromptOrDelete, true, false) => Self::IsDeleted,
        }
    }
}

/// Attendance of the terminal by a user, which ends with SIGTERM or SIGHUP.
pub(super) struct TerminalUser {
    left: CancellationToken,
}

impl TerminalUser {
    /// Listens for those signals until `stop`'s end.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub(super) fn new(stop: &Stop) -> std::io::Result<Self> {
        let left = CancellationToken::new();
        for kind in [SignalKind::terminate(), SignalKind::hangup()] {
            // Detached: ends with `stop`, or with the process.
            tokio::spawn(watch(signal(kind)?, left.clone(), stop.clone()));
        }
        Ok(Self { left })
    }

    fn is_attended(&self) -> bool {
        !self.left.is_cancelled() && std::io::stdin().is_terminal()
    }

    /// Asks until there is an answer. Nothing, the end of input and another Ctrl-C mean no.
    ///
    /// Returns `None` if the person has gone away meanwhile.
    async fn wants_to_delete(&self, workspace: &str, stop: &Stop) -> Option<bool> {
        let question = format!("Delete the workspace {workspace} and its files?");
        tokio::select! {
            () = self.left.cancelled() => None,
            () = stop.killed() => Some(false),
            answer = confirm::answer_to(&question) => match answer.unwrap_or(None) {
                None if !self.is_attended() => None,
                answer => Some(answer.unwrap_or(false)),
            },
        }
    }
}

async fn watch(mut signal: Signal, left: CancellationToken, stop: Stop) {
    tokio::select! {
        Some(()) = signal.recv() => left.cancel(),
        () = stop.killed() => {}
    }
}

impl Run {
    /// Decides what happens to the workspace, and does it. The signal that led here asked for just this, so only a
    /// second Ctrl-C interrupts it: then everything stays as it is, and is named.
    pub(super) async fn end(
        &mut self,
        on_exit: OnExit,
        stack: &mut Stack,
        user: &TerminalUser,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let status = self.status().await;
        let Ok(Some(status)) = status else {
            if status.is_err() {
                stack.keep(&self.again); // The server's data is needed to find what is left.
            }
            return status.map(|_| ());
        };
        let action = ExitAction::new(on_exit, self.is_new, user.is_attended());
        let ended = match action {
            ExitAction::Stays => Ok(End::Kept),
            ExitAction::IsStopped => self.stop_workspace(&status, stop).await,
            ExitAction::IsDeleted => self.delete_workspace(&status, stop).await,
            ExitAction::StopThenPrompt => self.stop_and_ask(on_exit, &status, user, stop).await,
        };
        if !matches!(ended, Ok(End::Deleted)) {
            stack.keep(&self.again);
        }
        ended.map(|_| ())
    }

    async fn stop_and_ask(
        &mut self,
        on_exit: OnExit,
        status: &str,
        user: &TerminalUser,
        stop: &Stop,
    ) -> anyhow::Result<End> {
        let stopped = self.stop_workspace(status, stop).await;
        if stop.is_killed() {
            return stopped;
        }
        if let Err(error) = &stopped {
            let why = in_words(error);
            output::note(&format!("warning: failed to stop the workspace: {why}"));
        }
        let answer = user.wants_to_delete(&self.workspace, stop).await;
        match answer.unwrap_or(on_exit == OnExit::PromptOrDelete) {
            true => self.destroy(stop).await,
            false => stopped,
        }
    }

    async fn delete_workspace(&mut self, status: &str, stop: &Stop) -> anyhow::Result<End> {
        if status == "running"
            && let Err(error) = self.stop_workspace(status, stop).await
        {
            let why = in_words(&error);
            output::note(&format!("warning: failed to stop the workspace: {why}"));
        }
        self.destroy(stop).await
    }

    async fn stop_workspace(&mut self, status: &str, stop: &Stop) -> anyhow::Result<End> {
        if status != "stopped" {
            let request = self.build_request(Transition::Stop);
            build(&mut self.api, request, self.show, &stop.cleanup())
                .await
                .hint("parts of the workspace may still be running: see the log above")?;
        }
        Ok(End::Kept)
    }

    async fn destroy(&mut self, stop: &Stop) -> anyhow::Result<End> {
        let request = self.build_request(Transition::Destroy);
        build(&mut self.api, request, self.show, &stop.cleanup())
            .await
            .hint("resources of the workspace may still exist: see the log above")?;
        output::note(&format!("Deleted the workspace {}.", self.workspace));
        Ok(End::Deleted)
    }
}

/// Result of the end of a run.
enum End {
    Deleted,
    Kept,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_earlier_run_is_deleted_unless_the_command_says_so() {
        for on_exit in [
            OnExit::Leave,
            OnExit::Stop,
            OnExit::PromptOrDelete,
            OnExit::DeleteIfNew,
        ] {
            for is_attended in [true, false] {
                let action = ExitAction::new(on_exit, false, is_attended);

                assert!(
                    matches!(action, ExitAction::Stays | ExitAction::IsStopped),
                    "{on_exit:?} {is_attended}: {action:?}"
                );
            }
        }
        assert_eq!(
            ExitAction::new(OnExit::Delete, false, false),
            ExitAction::IsDeleted
        );
    }

    #[test]
    fn without_a_person_a_data_directory_keeps_and_a_temporary_one_is_cleaned_up() {
        assert_eq!(
            ExitAction::new(OnExit::Stop, true, false),
            ExitAction::IsStopped
        );
        assert_eq!(
            ExitAction::new(OnExit::PromptOrDelete, true, false),
            ExitAction::IsDeleted
        );
        assert_eq!(
            ExitAction::new(OnExit::Stop, true, true),
            ExitAction::StopThenPrompt
        );
    }
}
