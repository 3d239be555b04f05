//! Updates of a person's workspaces, for a client that reaches all of them.
//!
//! # Source
//! coder `coderd/workspaceupdates.go`, `tailnet/service.go`.

use std::{pin::pin, sync::Arc};

use futures::StreamExt as _;
use outpost_base::job::Transition;
use outpost_transport::drpc::CallError;
use outpost_wire::proto::coder::tailnet::v2::{self as wire, workspace::Status};
use tracing::debug;
use uuid::Uuid;

use super::peer::{IncomingCall, bytes, send};
use crate::{
    model::{JobStatus, UserId},
    plane::{Caller, Plane, RequestError},
    snapshot::{Change, ChangedAgent, ChangedWorkspace},
};

/// Sends updates of the workspaces of the person whom the client names, until the client or the server stops.
pub(super) async fn tell(
    plane: &Arc<Plane>,
    caller: &Caller,
    mut answer: IncomingCall,
) -> Result<(), CallError> {
    let Some(request) = answer.receive::<wire::WorkspaceUpdatesRequest>().await? else {
        return Ok(());
    };
    let Ok(owner) = Uuid::from_slice(&request.workspace_owner_id) else {
        return answer.fail("workspace_owner_id is not a UUID").await;
    };
    let mut changes = pin!(plane.follow_workspaces(caller, UserId(owner)));
    let mut may_say_more = true;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(change)) => send(&mut answer, &update(change)).await?,
                Some(Err(RequestError::Stopping)) | None => return answer.end().await,
                Some(Err(error)) => {
                    debug!(%error, "cannot watch workspaces");
                    return answer.fail("the server cannot read workspaces at the moment").await;
                }
            },
            // After its one request, only the end of the stream is awaited.
            said = answer.receive::<wire::WorkspaceUpdatesRequest>(), if may_say_more => {
                may_say_more = said?.is_some();
            }
        }
    }
}

fn update(change: Change) -> wire::WorkspaceUpdate {
    fn all<A, B>(from: Vec<A>, into: impl Fn(A) -> B) -> Vec<B> {
        from.into_iter().map(into).collect()
    }
    wire::WorkspaceUpdate {
        upserted_workspaces: all(change.upserted_workspaces, workspace),
        upserted_agents: all(change.upserted_agents, agent),
        deleted_workspaces: all(change.deleted_workspaces, workspace),
        deleted_agents: all(change.deleted_agents, agent),
    }
}

fn workspace(changed: ChangedWorkspace) -> wire::Workspace {
    wire::Workspace {
        id: bytes(changed.id.0),
        name: changed.name,
        status: status(changed.transition, changed.status).into(),
    }
}

fn agent(changed: ChangedAgent) -> wire::Agent {
    wire::Agent {
        id: bytes(changed.id.0),
        name: changed.name,
        workspace_id: bytes(changed.workspace_id.0),
    }
}

fn status(transition: Transition, job: JobStatus) -> Status {
    match (job, transition) {
        (JobStatus::Queued, _) => Status::Pending,
        (JobStatus::Running, Transition::Start) => Status::Starting,
        (JobStatus::Running, Transition::Stop) => Status::Stopping,
        (JobStatus::Running, Transition::Destroy) => Status::Deleting,
        (JobStatus::Succeeded, Transition::Start) => Status::Running,
        (JobStatus::Succeeded, Transition::Stop) => Status::Stopped,
        (JobStatus::Succeeded, Transition::Destroy) => Status::Deleted,
        (JobStatus::Cancelling, _) => Status::Canceling,
        (JobStatus::Cancelled, _) => Status::Canceled,
        (JobStatus::Failed, _) => Status::Failed,
    }
}
