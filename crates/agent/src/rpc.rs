//! Calls of an agent to its server.

use std::time::Duration;

use outpost_base::secret::Secret;
use outpost_net::http::Client;
use outpost_tailnet::{coordination::LIMITS, dial::dial};
use outpost_transport::{
    coder::{ApiVersion, DialError},
    drpc::{Call, CallError},
    yamux,
};
use prost::Message;
use tokio::time::timeout;

/// Longest time for one call.
const CALL: Duration = Duration::from_secs(30);

/// Versions of the API after which something changed that this agent uses, the newest first. With a server of 2.10 it
/// speaks 2.8, because 2.9 and 2.10 added nothing that it would use.
const VERSIONS: [u16; 5] = [11, 8, 4, 3, 0];

/// A connection to the server.
pub(super) struct Rpc {
    /// Connection on which streams are opened.
    pub(super) connection: yamux::Connection,
    /// Version of the API that the connection speaks, which may be older than the server's newest.
    pub(super) version: ApiVersion,
}

impl Rpc {
    /// Connects at the newest version that the server knows, beginning with `version` if that is given.
    pub(super) async fn dial(
        client: &Client,
        token: &Secret,
        known: Option<ApiVersion>,
    ) -> Result<Self, DialError> {
        let versions = VERSIONS.map(|minor| ApiVersion { major: 2, minor });
        let mut versions = known.into_iter().chain(versions);
        let mut version = versions.next().unwrap_or(outpost_tailnet::API_VERSION);
        loop {
            let path = "api/v2/workspaceagents/me/rpc";
            match dial(client, path, &[("role", "agent")], token, version).await {
                Ok(connection) => {
                    return Ok(Self {
                        connection,
                        version,
                    });
                }
                Err(error) if error.is_version() => match versions.next() {
                    Some(older) => version = older,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns whether the server knows everything that this minor version introduced.
    pub(super) fn knows(&self, minor: u16) -> bool {
        self.version.minor >= minor
    }

    /// Makes a call of the agent's service.
    pub(super) async fn call<Q, A>(&self, method: &str, request: &Q) -> Result<A, CallError>
    where
        Q: Message,
        A: Message + Default,
    {
        let stream = self.connection.open().map_err(CallError::Lost)?;
        let method = format!("/coder.agent.v2.Agent/{method}");
        let call = Call::unary(stream, &method, request, LIMITS);
        let late = |_| Err(CallError::Lost(std::io::ErrorKind::TimedOut.into()));
        timeout(CALL, call).await.unwrap_or_else(late)
    }
}
