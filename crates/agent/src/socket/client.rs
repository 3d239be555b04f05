//! Client of the agent's socket. Each call has a connection of its own, which Coder's agent accepts as well.

use std::{io, path::PathBuf, time::Duration};

use nix::unistd::Uid;
use outpost_transport::drpc::{Call, CallError};
use outpost_wire::proto::coder::agentsocket::v1 as wire;
use prost::Message;
use serde::Serialize;
use tokio::{net::UnixStream, time::timeout};

use super::{LIMITS, SERVICE};

/// Timeout of one call; no call of the service waits for others.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A failed call to the agent's socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No agent listens there, or another user's.
    #[error("connect to agent socket {}", path.display())]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// Reason of the kernel.
        source: io::Error,
    },
    /// Another user's program listens there, which this one must not believe.
    #[error(
        "the agent socket {} belongs to a program of user {uid}: run this as the agent's user, or name the agent's socket \
         in CODER_AGENT_SOCKET_PATH",
        path.display()
    )]
    Foreign {
        /// Path of the socket.
        path: PathBuf,
        /// User id of the program.
        uid: u32,
    },
    /// No answer within the timeout.
    #[error("the agent does not answer at {}", .0.display())]
    Late(PathBuf),
    /// The agent refused, or the connection broke.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A unit in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitInfo {
    /// Name of the unit.
    pub unit_name: String,
    /// `pending`, `started` or `completed`.
    pub status: String,
    /// Set if all dependencies are satisfied.
    pub is_ready: bool,
}

/// A unit with its dependencies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitStatus {
    /// Name of the unit.
    pub unit_name: String,
    /// As in [`UnitInfo`]; empty for an unregistered unit.
    pub status: String,
    /// Set if all dependencies are satisfied.
    pub is_ready: bool,
    /// Sorted by name; `None` in place of an empty list, which is `null` in the reference's JSON.
    pub dependencies: Option<Vec<Dependency>>,
}

/// A dependency of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Name of the dependency.
    pub depends_on: String,
    /// Status that satisfies the dependency.
    pub required_status: String,
    /// Current status; empty for an unregistered unit.
    pub current_status: String,
    /// Set if the current status is the required one.
    pub is_satisfied: bool,
}

/// Client of an agent on this machine.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Returns a client for the socket at `path`; connects with the first call.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Checks that the agent answers.
    ///
    /// # Errors
    /// [`SocketError`], as for all calls.
    pub async fn ping(&self) -> Result<(), SocketError> {
        let _: wire::PingResponse = self.call("Ping", &wire::PingRequest {}).await?;
        Ok(())
    }

    /// Marks a unit that is ready as started.
    ///
    /// # Errors
    /// [`SocketError::Call`] if the unit is not ready or has been started.
    pub async fn start(&self, unit: &str) -> Result<(), SocketError> {
        let unit = unit.to_owned();
        let request = wire::SyncStartRequest { unit };
        let _: wire::SyncStartResponse = self.call("SyncStart", &request).await?;
        Ok(())
    }

    /// Adds a dependency to a unit.
    ///
    /// # Errors
    /// [`SocketError::Call`] if that would be a cycle.
    pub async fn want(&self, unit: &str, depends_on: &str) -> Result<(), SocketError> {
        let request = wire::SyncWantRequest {
            unit: unit.to_owned(),
            depends_on: depends_on.to_owned(),
        };
        let _: wire::SyncWantResponse = self.call("SyncWant", &request).await?;
        Ok(())
    }

    /// Marks a unit as completed.
    ///
    /// # Errors
    /// [`SocketError::Call`] if the unit is not registered or has been completed.
    pub async fn complete(&self, unit: &str) -> Result<(), SocketError> {
        let unit = unit.to_owned();
        let request = wire::SyncCompleteRequest { unit };
        let _: wire::SyncCompleteResponse = self.call("SyncComplete", &request).await?;
        Ok(())
    }

    /// Returns whether all dependencies of a unit are satisfied.
    ///
    /// # Errors
    /// [`SocketError`].
    pub async fn is_ready(&self, unit: &str) -> Result<bool, SocketError> {
        let unit = unit.to_owned();
        let request = wire::SyncReadyRequest { unit };
        let answer: wire::SyncReadyResponse = self.call("SyncReady", &request).await?;
        Ok(answer.ready)
    }

    /// Returns a unit with its dependencies.
    ///
    /// # Errors
    /// [`SocketError`].
    pub async fn status(&self, unit: &str) -> Result<UnitStatus, SocketError> {
        let request = wire::SyncStatusRequest {
            unit: unit.to_owned(),
        };
        let answer: wire::SyncStatusResponse = self.call("SyncStatus", &request).await?;
        let mut dependencies: Vec<_> = answer.dependencies.into_iter().map(from_wire).collect();
        dependencies.sort_by(|a, b| a.depends_on.cmp(&b.depends_on));
        Ok(UnitStatus {
            unit_name: request.unit,
            status: answer.status,
            is_ready: answer.is_ready,
            dependencies: Some(dependencies).filter(|all| !all.is_empty()),
        })
    }

    /// Returns all registered units, sorted by name.
    ///
    /// # Errors
    /// [`SocketError`].
    pub async fn list(&self) -> Result<Vec<UnitInfo>, SocketError> {
        let answer: wire::SyncListResponse =
            self.call("SyncList", &wire::SyncListRequest {}).await?;
        let one = |unit: wire::UnitInfo| UnitInfo {
            unit_name: unit.unit,
            status: unit.status,
            is_ready: unit.is_ready,
        };
        let mut all: Vec<_> = answer.units.into_iter().map(one).collect();
        all.sort_by(|a, b| a.unit_name.cmp(&b.unit_name));
        Ok(all)
    }

    fn check_user(&self, stream: &UnixStream) -> Result<(), SocketError> {
        let peer = stream.peer_cred().map_err(|source| SocketError::Connect {
            path: self.path.clone(),
            source,
        })?;
        match is_trusted(Uid::effective().as_raw(), peer.uid()) {
            true => Ok(()),
            false => Err(SocketError::Foreign {
                path: self.path.clone(),
                uid: peer.uid(),
            }),
        }
    }

    async fn call<Q, A>(&self, method: &str, request: &Q) -> Result<A, SocketError>
    where
        Q: Message,
        A: Message + Default,
    {
        let called = async {
            let connected = UnixStream::connect(&self.path).await;
            let stream = connected.map_err(|source| SocketError::Connect {
                path: self.path.clone(),
                source,
            })?;
            self.check_user(&stream)?;
            let method = format!("{SERVICE}{method}");
            Ok(Call::unary(stream, &method, request, LIMITS).await?)
        };
        let late = |_| Err(SocketError::Late(self.path.clone()));
        timeout(TIMEOUT, called).await.unwrap_or_else(late)
    }
}

/// Returns whether a program of user `own` may trust an agent of user `agent`: one of the same user, or root's. Root
/// may call every agent.
fn is_trusted(own: u32, agent: u32) -> bool {
    own == agent || own == 0 || agent == 0
}

fn from_wire(dependency: wire::DependencyInfo) -> Dependency {
    Dependency {
        depends_on: dependency.depends_on,
        required_status: dependency.required_status,
        current_status: dependency.current_status,
        is_satisfied: dependency.is_satisfied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_s_agent_is_not_believed() {
        let cases = [
            (1000, 1000, true),
            (1000, 0, true),
            (0, 1000, true),
            (1000, 1001, false),
        ];
        for (own, agent, trusted) in cases {
            assert_eq!(is_trusted(own, agent), trusted, "{own} asks {agent}");
        }
    }
}
