//! Entry of a running job: it follows an apply, and a task of its own writes the progress to the disk.
//!
//! Callers never wait. News that arrives during a write goes to the disk together with the next one.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use jiff::Timestamp;
use outpost_base::job::BuildResult;
use outpost_files::sealed::Vault;
use outpost_provision::{ApplyObserver, GraphComplete};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    task::spawn_blocking,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, Span, error, warn};

use super::{Begun, Entry, JournalError, erase, erase_superseded, write};
use crate::contact::Contact;

/// Entry that follows its job. Dropping it leaves the file as it is.
pub(crate) struct Record {
    pub(super) live: Arc<Live>,
    writer: AbortOnDropHandle<()>,
}

pub(super) struct Live {
    path: PathBuf,
    vault: Arc<Vault>,
    entry: Mutex<Entry>,
    contact: Option<Contact>,
    changed: Notify,
    /// Lock held by whoever changes the file, even after the requester is gone.
    file: Arc<AsyncMutex<()>>,
}

impl Live {
    fn entry(&self) -> MutexGuard<'_, Entry> {
        let entry = self.entry.lock();
        entry.expect("no code panics while it holds the entry")
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        {
            let mut entry = self.entry();
            change(&mut entry);
            entry.updated_at = Timestamp::now();
            if let Some(contact) = &self.contact {
                entry.answered_at = Some(contact.time());
            }
        }
        self.changed.notify_one();
    }

    /// Writes the current entry to the disk once the file is free.
    pub(super) async fn write(self: &Arc<Self>) -> Result<(), JournalError> {
        let (live, file) = (Arc::clone(self), Arc::clone(&self.file).lock_owned().await);
        let written = spawn_blocking(move || {
            let _file = file;
            let entry = live.entry().clone();
            write(&live.vault, &live.path, &entry)
        });
        written.await.expect("writing an entry does not panic")
    }
}

impl ApplyObserver for Live {
    fn began(&self, address: &str) {
        self.change(|entry| {
            entry.begun.insert(address.to_owned(), Begun::Running);
        });
    }

    fn created(&self, address: &str) {
        self.change(|entry| {
            entry.begun.insert(address.to_owned(), Begun::Created);
        });
    }

    fn failed(&self, address: &str) {
        self.change(|entry| {
            entry.begun.remove(address);
        });
    }

    fn state(&self, state: Bytes) {
        self.change(|entry| entry.state = state);
    }
}

impl Record {
    pub(super) async fn begin(
        path: PathBuf,
        vault: Arc<Vault>,
        mut entry: Entry,
        contact: Option<Contact>,
    ) -> Result<Self, JournalError> {
        if let Some(contact) = &contact {
            entry.answered_at = Some(contact.time());
        }
        let live = Arc::new(Live {
            path,
            vault,
            entry: Mutex::new(entry),
            contact,
            changed: Notify::new(),
            file: Arc::default(),
        });
        live.write().await?;
        let follower = Arc::clone(&live);
        let follow = async move {
            loop {
                follower.changed.notified().await;
                if let Err(error) = follower.write().await {
                    let error = &error as &dyn std::error::Error;
                    warn!(
                        error,
                        "the journal is not up to date; retrying with the next change"
                    );
                }
            }
        };
        let writer = tokio::spawn(follow.instrument(Span::current()));
        Ok(Self {
            live,
            writer: AbortOnDropHandle::new(writer),
        })
    }

    /// Returns the observer of the apply.
    pub(crate) fn observer(&self) -> Arc<dyn ApplyObserver> {
        self.live.clone()
    }

    /// Returns the newest recorded state; `None` if there never was one.
    pub(crate) fn state(&self) -> Option<Bytes> {
        let state = self.live.entry().state.clone();
        (!state.is_empty()).then_some(state)
    }

    /// Returns a warning about resources that may exist although the state does not contain them.
    pub(crate) fn warning(&self) -> Option<String> {
        self.live.entry().warning()
    }

    /// Returns whether the entry may still be needed by a person.
    pub(crate) fn is_worth_keeping(&self) -> bool {
        let entry = self.live.entry();
        !entry.state.is_empty() || !entry.begun.is_empty()
    }

    /// Records the result of the job, so that a daemon that comes after a crash reports a success.
    pub(crate) fn succeeded(&self, result: &BuildResult) {
        self.live
            .change(|entry| entry.result = Some(result.clone()));
    }

    /// Records that the apply of a job succeeded after its daemon died.
    pub(crate) fn salvaged(&self, made: GraphComplete) {
        self.live.change(|entry| {
            let mut result = entry.planned.clone();
            result.timings.extend(made.timings);
            result.resources = made.resources;
            result.ai_tasks = made.ai_tasks;
            entry.result = Some(result);
        });
    }

    /// Returns the result of the job, if it has succeeded.
    pub(crate) fn result(&self) -> Option<BuildResult> {
        let entry = self.live.entry();
        let result = entry.result.clone()?;
        Some(BuildResult {
            state: entry.state.clone(),
            ..result
        })
    }

    /// Writes everything to the disk. Returns `false` if that failed, and only the engine's own file is left.
    pub(crate) async fn settle(&self) -> bool {
        let written = self.live.write().await;
        if let Err(error) = &written {
            let error = error as &dyn std::error::Error;
            error!(error, "the journal does not have the newest state");
        }
        written.is_ok()
    }

    /// Ends the record and erases its entry: the server has the state, and with it the kept states that this one
    /// includes.
    pub(crate) async fn erase(self) {
        let live = Arc::clone(&self.live);
        self.discard().await;
        let supersedes = live.entry().supersedes.clone();
        let erased = spawn_blocking(move || erase_superseded(&live.path, &supersedes));
        erased.await.ok();
    }

    /// Ends the record and erases its entry, which nobody could need.
    pub(crate) async fn discard(self) {
        self.writer.abort();
        let (live, file) = (self.live.clone(), self.live.file.clone().lock_owned().await);
        let erased = spawn_blocking(move || {
            let _file = file;
            erase(&live.path)
        });
        match erased.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot remove a delivered journal entry"
            ),
            Err(panic) => warn!(%panic, "cannot remove a delivered journal entry"),
        }
    }

    /// Ends the record: the server has the state, but may have given the job up before. A newer build of the
    /// workspace that began in between does not know the state; so the entry is kept for the next job.
    pub(crate) async fn taken_late(self) {
        self.writer.abort();
        self.live.change(|entry| {
            entry.refused = Some("taken after the server may have given the job up".to_owned());
            entry.taken_late_at = Some(entry.updated_at);
        });
        if self.settle().await {
            let live = Arc::clone(&self.live);
            let supersedes = live.entry().supersedes.clone();
            let erased = spawn_blocking(move || erase_superseded(&live.path, &supersedes));
            erased.await.ok();
        }
        warn!(
            "the server may have given up on the job before it accepted the result; if a newer build of the \
             workspace has begun, it uses this job's state only at this daemon or a sibling"
        );
    }

    /// Ends the record and keeps its entry: the server does not have the state. With `refused` no daemon tries again
    /// by itself.
    pub(crate) async fn keep(self, refused: Option<String>) {
        self.writer.abort();
        self.live.change(|entry| entry.refused = refused.clone());
        let (job, path) = (self.live.entry().job, self.live.path.display());
        self.settle().await;
        match refused {
            Some(reason) => error!(
                reason,
                %path,
                "the server did not accept the state; it is kept: see `outpost recover show {job}`"
            ),
            None => {
                warn!(%path, "the state is kept and will be delivered when a daemon of this name starts again")
            }
        }
    }
}
