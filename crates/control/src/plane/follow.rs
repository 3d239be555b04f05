//! Followers of logs and of the state of workspaces.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tracing::warn;

use super::{Caller, Plane, RequestError, not_found, unless_stopped};
use crate::{
    model::{AgentId, StoredAgentLine, UserId},
    snapshot::{Change, WorkspaceSnapshots},
};

/// Number of lines that are read at a time.
const LINES: usize = 1000;

impl Plane {
    /// Signals that a job began, was cancelled or has ended, so that workspaces may look different.
    pub(super) fn job_moved(&self) {
        self.changed.send_replace(());
        self.moved.send_replace(());
    }

    /// Waits for a change, or until it is time to look without one.
    ///
    /// # Errors
    /// [`RequestError::Stopping`]
    pub(super) async fn wait_for(
        &self,
        changes: &mut watch::Receiver<()>,
    ) -> Result<(), RequestError> {
        let changed = tokio::time::timeout(self.limits.poll, changes.changed());
        match unless_stopped(&self.stop, changed).await {
            Some(_) => Ok(()),
            None => Err(RequestError::Stopping),
        }
    }

    /// Stream of moments when workspaces may look different: now, whenever a job begins or ends, and at intervals. It
    /// ends with the server.
    pub(crate) fn moves(self: &Arc<Self>) -> impl Stream<Item = ()> + use<> {
        let changes = self.moved.subscribe();
        let now = stream::iter([()]);
        let later = stream::unfold((self.clone(), changes), |(plane, mut changes)| async move {
            plane.wait_for(&mut changes).await.ok()?;
            Some(((), (plane, changes)))
        });
        now.chain(later)
    }

    /// Stream of a person's workspaces and their agents: everything at first, even if that is nothing, then the
    /// changes. For a person for whom the caller may not act, there is never anything.
    ///
    /// The stream ends with an error if the first query fails or the server stops.
    pub(crate) fn follow_workspaces(
        self: &Arc<Self>,
        caller: &Caller,
        owner: UserId,
    ) -> impl Stream<Item = Result<Change, RequestError>> + use<> {
        let follower = Follower {
            changes: self.moved.subscribe(),
            plane: self.clone(),
            owner: caller.may_act_for(owner).then_some(owner),
            known: None,
        };
        stream::try_unfold(follower, |mut follower| async move {
            let change = follower.next().await?;
            Ok(Some((change, follower)))
        })
    }

    /// Lines of an agent's log between `after` and `before`, in batches, whatever its build. With `follow` it waits
    /// for more for as long as the agent is its workspace's.
    ///
    /// # Errors
    /// As [`Self::agent`]; the stream ends with an error if the store fails or the server stops.
    pub(crate) async fn agent_log(
        self: &Arc<Self>,
        caller: &Caller,
        agent: AgentId,
        (after, before): (i64, Option<i64>),
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Vec<StoredAgentLine>, RequestError>> + use<>, RequestError>
    {
        if !self.may_reach(caller, agent).await? {
            return Err(not_found("agent", agent.to_string()));
        }
        let reader = Reader {
            changed: self.overlay.changed.subscribe(),
            moved: self.moved.subscribe(),
            plane: self.clone(),
            agent,
            after,
            before,
            follow,
        };
        Ok(stream::try_unfold(reader, |mut reader| async move {
            let batch = reader.next().await?;
            Ok(batch.map(|batch| (batch, reader)))
        }))
    }
}

/// A follower of a person's workspaces.
struct Follower {
    plane: Arc<Plane>,
    changes: watch::Receiver<()>,
    owner: Option<UserId>,
    known: Option<WorkspaceSnapshots>,
}

impl Follower {
    async fn next(&mut self) -> Result<Change, RequestError> {
        let Some(known) = self.known.take() else {
            let latest = self.look().await?;
            let change = Change::between(&WorkspaceSnapshots::new(), &latest);
            self.known = Some(latest);
            return Ok(change);
        };
        loop {
            self.plane.wait_for(&mut self.changes).await?;
            match self.look().await {
                Ok(latest) => {
                    let change = Change::between(&known, &latest);
                    if !change.is_empty() {
                        self.known = Some(latest);
                        return Ok(change);
                    }
                }
                // The follower keeps its snapshot, and gets the rest with the next query.
                Err(error) => warn!(%error, "cannot read workspaces for clients that watch them"),
            }
        }
    }

    async fn look(&mut self) -> Result<WorkspaceSnapshots, RequestError> {
        self.changes.mark_unchanged();
        match self.owner {
            Some(owner) => Ok(self.plane.store.snapshots(owner).await?),
            None => Ok(WorkspaceSnapshots::new()),
        }
    }
}

/// A reader of an agent's log.
struct Reader {
    plane: Arc<Plane>,
    changed: watch::Receiver<()>,
    moved: watch::Receiver<()>,
    agent: AgentId,
    after: i64,
    before: Option<i64>,
    follow: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Vec<StoredAgentLine>>, RequestError> {
        loop {
            self.changed.mark_unchanged();
            self.moved.mark_unchanged();
            // Checked before reading the lines, so that the last ones are always read.
            let goes_on = self.follow && self.plane.is_current(self.agent).await?;
            let store = &self.plane.store;
            let lines = store.agent_log(self.agent, self.after, self.before, LINES);
            let lines = lines.await?;
            if let Some(last) = lines.last() {
                self.after = last.id;
                return Ok(Some(lines));
            }
            if !goes_on {
                return Ok(None);
            }
            tokio::select! {
                waited = self.plane.wait_for(&mut self.changed) => waited?,
                waited = self.plane.wait_for(&mut self.moved) => waited?,
            }
        }
    }
}
